"""YAML text of specs: reading it as plain data, finding the line of a key, and writing it with comments.

What does not belong here: what the data means (``spec/table.py``), editing YAML files
(``operations/spec_edits.py``).
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from importer_dagster.errors import SpecError

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")  # text that needs no quotes, unless it is one of _WORDS
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
_WIDTH = 110  # characters of a line with a comment
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


# --- reading ----------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML with the scalars of YAML 1.2: NO is text, not false, and so is 12:30.

    A repeated key is an error.
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
    """The constructor of mappings: raises ConstructorError for a key that is not text, and for a repeated one."""
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
                None, None, f"the key {key!r} is here a second time", key_node.start_mark
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


# --- writing ----------------------------------------------------------------------


@dataclass(frozen=True)
class Document:
    """The data of a spec, with comments.

    ``head`` are comments above it. ``comments`` has them for keys of the spec and of its
    schema, ``field_comments`` for the fields in their order.
    """

    data: Mapping[str, Any]
    head: tuple[str, ...] = ()
    comments: Mapping[str, str] = field(default_factory=dict)
    field_comments: tuple[str, ...] = ()


def to_yaml(document: Document) -> str:
    """The document as YAML text; parses back to ``document.data``."""
    lines = [_comment(line) for line in document.head]
    for key, value in document.data.items():
        if key != "schema":
            lines += _with_comment(f"{key}: {scalar(value)}", document.comments.get(key), "")
            continue
        lines += ["schema:", "  fields:"]
        comments = document.field_comments or ("",) * len(value["fields"])
        for item, comment in zip(value["fields"], comments, strict=True):
            lines += _with_comment(f"    - {scalar(item)}", comment, "    ")
        for name, option in value.items():
            if name != "fields":
                lines += _with_comment(f"  {name}: {scalar(option)}", document.comments.get(name), "  ")
    return "\n".join(lines) + "\n"


def _with_comment(line: str, comment: str | None, indent: str) -> list[str]:
    """The line with the comment behind it if both fit into ``_WIDTH``; else above it."""
    if not comment:
        return [line]
    words = _comment(comment)
    if len(line) + 2 + len(words) <= _WIDTH:
        return [f"{line}  {words}"]
    start = f"{indent}# "
    wrapped = textwrap.wrap(
        words.removeprefix("# "),
        _WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [*wrapped, line]


def _comment(text: str) -> str:
    """The text as a comment of one line; characters that YAML does not allow are replaced by U+FFFD."""
    printable = "".join(c if _is_printable(c) or c in "\n\t" else "\ufffd" for c in text)
    words = " ".join(printable.split())
    return f"# {words}" if words else "#"


def _is_printable(char: str) -> bool:
    """Whether YAML allows the character without an escape."""
    code = ord(char)
    return 32 <= code < 127 or (0xA0 <= code < 0xD800 and code not in (0x2028, 0x2029)) or 0xE000 <= code < 0xFEFF \
        or 0xFEFF < code < 0xFFFE or code > 0xFFFF  # fmt: skip


def scalar(value: Any) -> str:
    """A value in YAML's flow style; text has quotes unless it is a plain word."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(k))}: {scalar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(scalar, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)  # null, true, numbers: the same in YAML
    if _BARE.fullmatch(value) and value.lower() not in _WORDS:
        return value
    escaped = ""
    for char in value:
        code = ord(char)
        if char in _ESCAPES:
            escaped += _ESCAPES[char]
        elif _is_printable(char):
            escaped += char
        else:
            escaped += (
                f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
            )
    return f'"{escaped}"'
