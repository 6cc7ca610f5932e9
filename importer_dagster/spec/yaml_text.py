"""YAML as data: no code, no surprises, and the line of what is wrong.

What does not belong here: what the data means (``spec/table.py``), writing and editing
YAML (``spec/spec_yaml.py``, ``operations/spec_edits.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from importer_dagster.errors import SpecError


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML with the words of YAML 1.2: NO is a country, not false; 12:30 is text.

    A key written twice is an error instead of the last one winning.
    """


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _mapping_without_duplicates(loader: Any, node: yaml.MappingNode, deep: bool = True) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    result: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} must be text; put it in quotes", key_node.start_mark
            )
        if key in result:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} stands here a second time", key_node.start_mark
            )
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)


def parse_yaml(text: str, file: str) -> Any:
    """Parse YAML as data; raises SpecError with the line of what is wrong."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - derives from the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise SpecError(f"not valid YAML: {error.problem or error.context}", file=file, line=line) from None
    except yaml.YAMLError as error:
        raise SpecError(f"not valid YAML: {error}", file=file) from None


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """The 1-based line of the key or item at ``path``, or of its nearest parent."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        return None
    line = 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
_WIDTH = 110
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True)
class Document:
    """A spec's keys, and comments for them.

    ``data`` is what the YAML means. ``comments`` gives the reason for a
    top-level key or ``dialect``'s; ``field_comments`` goes with the fields in order.
    """

    data: Mapping[str, Any]
    head: tuple[str, ...] = ()
    comments: Mapping[str, str] = field(default_factory=dict)
    field_comments: tuple[str, ...] = ()


def to_yaml(document: Document) -> str:
    """The document as YAML text; parses back to ``document.data``."""
    lines = [_comment(line) for line in document.head]
    for key, value in document.data.items():
        if key == "schema":
            lines += _schema(value, document)
        else:
            lines += _with_comment(f"{key}: {scalar(value)}", document.comments.get(key), "")
    return "\n".join(lines) + "\n"


def _schema(schema: Mapping[str, Any], document: Document) -> Iterable[str]:
    yield "schema:"
    yield "  fields:"
    comments = document.field_comments or ("",) * len(schema["fields"])
    for item, comment in zip(schema["fields"], comments, strict=True):
        yield from _with_comment(f"    - {scalar(item)}", comment, "    ")
    for key, value in schema.items():
        if key != "fields":
            yield from _with_comment(f"  {key}: {scalar(value)}", document.comments.get(key), "  ")


def _with_comment(line: str, comment: str | None, indent: str) -> list[str]:
    """The comment behind the line where there is room, else above it."""
    if not comment:
        return [line]
    words = _comment(comment)
    if len(line) + 2 + len(words) <= _WIDTH:
        return [f"{line}  {words}"]
    return [*(f"{indent}{part}" for part in _wrapped(comment, _WIDTH - len(indent))), line]


def _wrapped(comment: str, width: int) -> list[str]:
    lines, line = [], "#"
    for word in _printable(comment).split():
        if len(line) + 1 + len(word) > width and line != "#":
            lines.append(line)
            line = "#"
        line += " " + word
    return [*lines, line]


def _comment(text: str) -> str:
    words = " ".join(_printable(text).split())
    return f"# {words}" if words else "#"


def _printable(text: str) -> str:
    return "".join(c if _is_printable(c) or c in "\n\t" else "\ufffd" for c in text)


def _is_printable(char: str) -> bool:
    """What YAML lets stand as it is."""
    code = ord(char)
    return 32 <= code < 127 or (0xA0 <= code < 0xD800 and code not in (0x2028, 0x2029)) or 0xE000 <= code < 0xFEFF \
        or 0xFEFF < code < 0xFFFE or code > 0xFFFF  # fmt: skip


def scalar(value: Any) -> str:
    """A value in YAML's flow style: text in quotes unless it is a plain word."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(k))}: {scalar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(scalar, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)  # null, true, numbers: the same in YAML
    if _BARE.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if _is_printable(char):
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
