"""The grammar of one dialect as patterns over UTF-8 bytes: fields, records, and what is wrong with a record.

All repetitions in the patterns are possessive: they never backtrack, so no input makes matching slow.

What does not belong here: going through a file (``reader/records.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal

from importer_dagster.spec.fields import Dialect

Fault = Literal["open", "behind", "middle"]


class Grammar:
    """How records and fields are written in one dialect.

    ``literals`` are values whose escape character is part of the value, where they are a
    whole field without quotes, such as ``\\N``, the NULL of MySQL and PostgreSQL.
    """

    def __init__(self, dialect: Dialect, literals: Iterable[str] = ()) -> None:
        self.delimiter = dialect.delimiter.encode()
        self.quote = dialect.quoteChar.encode() if dialect.quoteChar else None
        by_doubling = dialect.escapeChar is not None and dialect.escapeChar == dialect.quoteChar
        self.escape = dialect.escapeChar.encode() if dialect.escapeChar and not by_doubling else None
        self.double = dialect.doubleQuote or by_doubling
        self.skip_space = dialect.skipInitialSpace
        self.comment = dialect.commentChar.encode() if dialect.commentChar else None
        tokens = (t.encode() for t in literals)
        self.literals = frozenset(t for t in tokens if self.escape and t.startswith(self.escape))

    @property
    def always_scan(self) -> bool:
        """Whether ``records.regular`` and Arrow cannot read the dialect, so that ``records.scan`` must."""
        one_byte = all(len(x) == 1 for x in (self.delimiter, self.quote, self.escape) if x)
        return not one_byte or bool(self.literals) or (self.skip_space and self.delimiter == b" ")

    @property
    def is_plain(self) -> bool:
        """Whether the dialect has no rules beyond RFC 4180, so that Arrow can parse a record as it is."""
        doubled = self.quote is None or self.double
        return not self.always_scan and self.escape is None and not self.skip_space and doubled

    # --- patterns ---

    @cached_property
    def field(self) -> re.Pattern[bytes]:
        """One field; group 1 is the content of a quoted field, group 2 that of an unquoted one."""
        escaped = re.escape(self.escape) + b"(?s:.)" if self.escape else None
        space = b" *+" if self.skip_space else b""
        unquoted = self._many([self._plain_byte, escaped])
        if self.quote is None:
            return re.compile(space + b"()(" + unquoted + b")")
        q = re.escape(self.quote)
        # blanks behind a closing quote belong to no value, unless a blank is the delimiter
        behind = b" *+" if self.skip_space and not self.delimiter.startswith(b" ") else b""
        quoted = q + b"(" + self._inside + b")" + q + behind
        return re.compile(space + b"(?:" + quoted + b"|(" + unquoted + b"))")

    @cached_property
    def _inside(self) -> bytes:
        """A pattern for what may stand between two quotes."""
        assert self.quote
        q = re.escape(self.quote)
        escape = re.escape(self.escape) if self.escape else None
        if escape or len(self.quote) > 1:
            stops = b"|".join(x for x in (q, escape) if x)
            one = b"(?:(?!" + stops + b")(?s:.))"
        else:
            one = b"[^" + q + b"]"
        escaped = escape + b"(?s:.)" if escape and escape != q else None
        return self._many([one, q + q if self.double else None, escaped])

    @cached_property
    def _plain_byte(self) -> bytes:
        """A pattern for one byte of an unquoted field."""
        singles = [x for x in (self.delimiter, self.quote, self.escape) if x]
        if all(len(x) == 1 for x in singles):
            return b"[^\r\n" + b"".join(re.escape(x) for x in singles) + b"]"
        stops = b"|".join(re.escape(x) for x in singles)
        return b"(?:(?!" + stops + b")[^\r\n])"

    @staticmethod
    def _many(choices: Sequence[bytes | None]) -> bytes:
        """A pattern for any number of these, in any order; None is left out."""
        given = [c for c in choices if c]
        if len(given) == 1:
            return given[0] + b"*+"
        first = given[0] + b"++" if given[0].startswith(b"[") else given[0]
        return b"(?:" + b"|".join([first, *given[1:]]) + b")*+"

    @cached_property
    def _fields(self) -> bytes:
        """A pattern for fields and the delimiters between them, without groups."""
        f = re.sub(rb"(?<!\\)\((?!\?)", b"(?:", self.field.pattern)
        return b"(?:" + f + b")(?:" + re.escape(self.delimiter) + b"(?:" + f + b"))*+"

    @cached_property
    def record(self) -> re.Pattern[bytes]:
        """One record with its line end; group "body" is the record without it."""
        return re.compile(b"(?P<body>" + self._fields + b")(?:\r\n|\n|\r|\\Z)")

    @cached_property
    def _start(self) -> re.Pattern[bytes]:
        """As many whole fields as possible."""
        return re.compile(self._fields)

    @cached_property
    def _open(self) -> re.Pattern[bytes]:
        """An opening quote and everything that may stand behind it."""
        assert self.quote
        return re.compile((b" *+" if self.skip_space else b"") + re.escape(self.quote) + self._inside)

    # --- reading ---

    def fields(self, record: bytes, most: int | None = None) -> list[tuple[bytes, bool]]:
        """The fields of one sound record, and whether each was quoted; only the first ones if ``most`` is given."""
        out: list[tuple[bytes, bool]] = []
        at = 0
        while True:
            found = self.field.match(record, at)
            assert found
            quoted = found.group(1) is not None and self.quote is not None
            value = found.group(1) if quoted else found.group(2)
            if quoted and self.double and self.quote and self.escape is None:
                value = value.replace(self.quote * 2, self.quote)
            elif self.escape and (quoted or value not in self.literals):
                # doubled quotes in the same pass: a quote that an escape made must not pair with the next one
                doubled = re.escape(self.quote * 2) if quoted and self.double and self.quote else None
                pattern = b"|".join(x for x in (re.escape(self.escape) + b"((?s:.))", doubled) if x)
                value = re.sub(pattern, lambda m: m[1] if m[1] is not None else self.quote or b"", value)
            out.append((value, quoted))
            at = found.end()
            if not record.startswith(self.delimiter, at) or len(out) == most:
                return out
            at += len(self.delimiter)

    def field_around(self, record: bytes, place: int) -> tuple[int, int, int]:
        """The field that a place of a sound record is in: its number from 0, where its content starts and ends.

        The record as a whole if the place is among blanks that belong to no field.
        """
        at = number = 0
        while True:
            found = self.field.match(record, at)
            assert found
            start, end = found.span(1) if found.group(1) is not None and self.quote else found.span(2)
            if start <= place < end:
                return number, start, end
            if place < found.end() or not record.startswith(self.delimiter, found.end()):
                return 0, 0, len(record)
            at, number = found.end() + len(self.delimiter), number + 1

    def is_blank(self, record: bytes) -> bool:
        """Whether a line is no record: it is empty, or has only blanks that belong to no value."""
        return not record or (self.skip_space and not record.strip(b" "))

    def count(self, record: bytes) -> int:
        """How many fields a sound record has."""
        return len(self.fields(record))

    def write(self, fields: Sequence[tuple[bytes, bool]]) -> bytes:
        """Fields as a record in the plain dialect for Arrow: comma, double quote, doubled quotes inside."""
        return b",".join(
            b'"' + v.replace(b'"', b'""') + b'"' if quoted or re.search(b'[",\r\n]', v) else v
            for v, quoted in fields
        )

    # --- damage ---

    def undecided(self, data: bytes, at: int) -> bool:
        """Whether the record at ``at``, which does not match, might match with more bytes behind ``data``."""
        found = self._start.match(data, at)
        assert found
        reach = max(len(x) for x in (self.delimiter, self.quote, self.escape, b"\r\n") if x)
        if len(data) - found.end() < reach:
            return True
        opened = self._open.match(data, found.end()) if self.quote else None
        return opened is not None and len(data) - opened.end() < reach

    def fault(self, data: bytes, at: int, end: int, *, matched: bool) -> tuple[int, int, int, Fault]:
        """The field at fault of a damaged record: its number (from 0), its start, where reading it stops, the fault.

        ``end`` is the end of the record's first line. ``matched``: the record matches the grammar, but has too
        many bytes or the wrong number of fields over several lines; at fault is the first field that spans lines.
        The faults: "open", a quote is never closed; "behind", text behind a closing quote; "middle", a quote
        inside of an unquoted field.
        """
        index = 0
        while True:
            found = self.field.match(data, at)
            assert found
            quoted = self.quote is not None and found.group(1) is not None
            several_lines = quoted and (b"\n" in found.group(1) or b"\r" in found.group(1))
            if several_lines and matched:
                return index, at, found.end(), "open"
            if data.startswith(self.delimiter, found.end()) and not (matched and found.end() >= end):
                at, index = found.end() + len(self.delimiter), index + 1
                continue
            if quoted:
                return index, at, found.end(), "open" if several_lines else "behind"
            opened = self._open.match(data, at) if self.quote else None
            return index, at, found.end(), "open" if opened is not None else "middle"
