"""A spec written as YAML, with a reason behind each choice.

What does not belong here: reading YAML (``spec/yaml_text.py``), making choices (``inference/type_choice.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
