"""Finds the header of a delivery and reads it as names; refuses what cannot be a header.

What does not belong here: what the names mean (``validation/drift.py``), records (``reader/reader.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from importer_dagster.errors import RefusedError
from importer_dagster.reader.decoding import Window, first_bad_byte, shown
from importer_dagster.reader.grammar import Grammar
from importer_dagster.reader.records import MAX_RECORD
from importer_dagster.reader.spans import line_end, line_ends
from importer_dagster.spec.fields import MAX_COLUMNS
from importer_dagster.spec.table import TableSpec, keep

MAX_HEADER = 4 << 20  # bytes
_RECORDS_TRIED, _BYTES_TRIED = 100, 1 << 20  # to see whether records end with a delimiter
_SHOWN = 80  # characters of a name that a message shows
_DELIMITERS = {";": "semicolon", "\t": "tab", "|": "vertical bar", ",": "comma"}


@dataclass(frozen=True)
class Header:
    """The names of the columns, and how many fields a record has.

    ``width`` is the number of names, or one more where records end with a delimiter.
    ``widths`` are the numbers of fields that a record may have: two, where header or records end with a
    delimiter. ``line`` is the physical line in which the header starts.
    """

    names: tuple[str, ...]
    width: int
    widths: frozenset[int]
    line: int
    warnings: tuple[str, ...] = ()


def read_header(window: Window, spec: TableSpec, grammar: Grammar) -> Header:
    """Read the header and consume it; raises RefusedError where there is none that could be meant."""
    reading = _HeaderReader(window, spec, grammar)
    names = reading.names()
    if names.count("") == 1 and any("" in f.names for f in spec.fields):
        return Header(names, len(names), frozenset((len(names),)), reading.line)
    # an empty last name comes from a delimiter at the end of the line
    nameless = names[-1] == ""
    names = names[:-1] if nameless else names
    n = len(names)
    first = next(_first_records(window, grammar, n), None)
    trailing = _end_with_delimiter(window, grammar, n, nameless)
    warnings = []
    if nameless and first is not None and not trailing:
        warnings.append(
            "the header ends with an empty name, which no record has a value for; it is taken as absent"
        )
    if trailing and not nameless:
        warnings.append(
            "records end with a delimiter, which the header does not; an empty last value is let go"
        )
    widths = (n, n + 1) if nameless or trailing else (n,)
    return Header(names, n + 1 if trailing else n, frozenset(widths), reading.line, tuple(warnings))


# Names of headers that passed all checks, so that the next file of the type with the same header need not be checked.
# Keys: hash of the spec, bytes of the header, whether a line end follows.
_checked: dict[tuple[str, bytes, bool], tuple[str, ...]] = {}
_MOST_KEPT = 64 << 10  # bytes of a header; a longer one is not kept


class _HeaderReader:
    """Reads the header from the beginning of the text. ``line`` is where the header starts."""

    def __init__(self, window: Window, spec: TableSpec, grammar: Grammar) -> None:
        self.window, self.spec, self.grammar = window, spec, grammar
        self.line = 1
        self.body, self.start = b"", 0  # the header's bytes, and their offset in the file

    def names(self) -> tuple[str, ...]:
        """The names of the columns: from the header, or from the spec where the file has none."""
        dialect = self.spec.dialect
        if not dialect.header:
            _skip_lines(self.window, max(dialect.headerRows or (0,)))
            names = tuple(f.names[0] for f in self.spec.fields)
            self._check_width(names)
            return names
        if dialect.headerRows:
            return self._names_on_lines(sorted(dialect.headerRows))
        while True:
            self._skip_blank_lines_and_comments()
            self.line = self.window.line
            body = self._next_record()
            if body is None:
                raise RefusedError("The file is empty: it holds no line but blank ones.", rule="empty")
            is_comment = bool(self.grammar.comment) and body.startswith(self.grammar.comment or b"")
            if body and not is_comment and (body.strip() or self.grammar.delimiter.isspace()):
                break
        key = self.spec.hash, body, self.line < self.window.line
        found = _checked.get(key)
        if found is None:
            found = self._check(self.grammar.fields(body))
            if len(body) <= _MOST_KEPT:
                keep(_checked, key, found)
        return found

    def _names_on_lines(self, rows: Sequence[int]) -> tuple[str, ...]:
        """A header on declared lines; several lines are joined with a blank, as the Table Dialect standard says."""
        parts: list[list[str]] = []
        for row in rows:
            _skip_lines(self.window, row - 1)
            self.line = self.window.line
            body = self._next_record() if self.line == row else None
            if body is None:
                raise RefusedError(
                    f"The file has no line {row}, where the header should be (dialect.headerRows).",
                    rule="empty",
                )
            parts.append([self._text(v) for v, _ in self.grammar.fields(body)])
        width = max(map(len, parts))
        joined = [" ".join(p[i].strip() for p in parts if i < len(p) and p[i].strip()) for i in range(width)]
        names = self._check([(name.encode(), False) for name in joined])
        self.line = rows[0]
        return names

    def _skip_blank_lines_and_comments(self) -> None:
        """Consume whole blank lines and comments, of all bytes that are read at once."""
        window, comment = self.window, self.grammar.comment
        blank = b"" if self.grammar.delimiter.isspace() else rb"[ \t\x0b\x0c]*+"
        kinds = [blank, *([re.escape(comment) + rb"[^\r\n]*+"] if comment else [])]
        skipped = re.compile(b"(?:(?:" + b"|".join(kinds) + b")(?:\r\n|\n|\r))*+")
        while True:
            found = skipped.match(window.data)
            length = found.end() if found else 0
            whole = length == len(window.data)
            if whole and not window.ended and window.data.endswith(b"\r"):
                length -= 1  # it may be half of a CRLF
            window.consume(length)
            if not whole or window.ended:
                return
            window.fill()

    def _next_record(self) -> bytes | None:
        """Consume the next record or comment line: its bytes, b"" for a blank line, None at the end of the file."""
        window = self.window
        while not window.ended and len(window.data) <= MAX_HEADER:
            if self._is_comment() and _first_line(window.data) is not None:
                break
            found = self.grammar.record.match(window.data)
            if found is not None and found.end() < len(window.data):
                break
            window.fill()
        if not window.data:
            return None
        if self._is_comment():
            line = _first_line(window.data) or window.data
            window.consume(len(line))
            return line
        found = self.grammar.record.match(window.data)
        if found is None:
            raise RefusedError(
                f"The header in line {window.line} has a quote where none may stand: "
                f"{shown(window.data[:_SHOWN])!r}. Check quoteChar and delimiter of the dialect.",
                rule="header.damaged",
                line=window.line,
            )
        body = found.group("body")
        if len(body) > MAX_HEADER:
            raise RefusedError(
                f"The header in line {window.line} is longer than {MAX_HEADER >> 20} MB: this is no CSV file, or its "
                "lines end in an unknown way.",
                rule="header.long",
                line=window.line,
            )
        self.body, self.start = body, window.offset
        window.consume(found.end())
        return bytes(body)

    def _is_comment(self) -> bool:
        return bool(self.grammar.comment) and self.window.data.startswith(self.grammar.comment or b"")

    # --- names ---

    def _text(self, value: bytes) -> str:
        """One name as text; raises RefusedError for NUL and for bytes that are not UTF-8."""
        if b"\0" in value:
            raise RefusedError(
                f"The header holds a NUL byte, in the name {shown(value)[:_SHOWN]!r}. Declare the right encoding, or "
                "ask the supplier for a sound file.",
                rule="nul",
                line=self.line,
            )
        try:
            return value.decode()
        except UnicodeDecodeError:
            more = [line for line in self.window.data[: 1 << 20].splitlines() if not line.isascii()]
            sample = b"\n".join([self.body, *more[:2_000]])
            words = "the header holds bytes that are none"
            place = self.start + first_bad_byte(self.body)
            raise self.window.source.wrong_encoding(sample, words, self.line, place) from None

    def _check(self, fields: Sequence[tuple[bytes, bool]]) -> tuple[str, ...]:
        """The names in these fields; raises RefusedError where they cannot be a header."""
        texts = [self._text(value) for value, _ in fields]
        # a byte order mark inside of the text comes from files that were joined
        names = [
            t.lstrip("\ufeff").strip() if not quoted else t
            for t, (_, quoted) in zip(texts, fields, strict=True)
        ]
        if not any(names):
            raise RefusedError(
                f"The header in line {self.line} holds no name at all. Declare its line as dialect.headerRows, or "
                "ask the supplier for a header.",
                rule="empty",
                line=self.line,
            )
        self._check_width(names)
        first, delimiter = names[0], self.spec.dialect.delimiter
        alone = len([n for n in names if n]) == 1
        if first.lower().startswith("sep=") and alone and self.line < self.window.line:
            raise RefusedError(
                f"Line {self.line} is {first!r}, which tells Excel the delimiter. Declare the delimiter and "
                f"headerRows: [{self.line + 1}] in the dialect.",
                rule="preamble",
                line=self.line,
            )
        if len(names) == 1 and len(self.spec.fields) > 1:
            for mark, word in _DELIMITERS.items():
                if mark in first and mark != delimiter:
                    raise RefusedError(
                        f"The header is one single name, {first[:_SHOWN]!r}: it looks like {word}-separated, but "
                        f"the spec's delimiter is {delimiter!r}. Declare the delimiter in the dialect.",
                        rule="delimiter",
                        line=self.line,
                    )
        self._check_each_name(names)
        return tuple(names)

    def _check_width(self, names: Sequence[str]) -> None:
        if len(names) > MAX_COLUMNS:
            raise RefusedError(
                f"The header has {len(names):,} columns; a PostgreSQL table can have 1,600, of which "
                f"{MAX_COLUMNS:,} are left for data. Split the file, or ask for fewer columns.",
                rule="header.wide",
                line=self.line,
            )

    def _check_each_name(self, names: Sequence[str]) -> None:
        """No name may stand there twice, and only the last one may be empty, unless the spec knows an empty name."""
        places: dict[str, int] = {}
        for i, name in enumerate(names):
            if name and name in places:
                raise RefusedError(
                    f"The header has the name {name[:_SHOWN]!r} twice, as columns {places[name] + 1} and {i + 1}. "
                    f"Ask the supplier for distinct names, or declare header: false with headerRows: [{self.line}] and "
                    "name the fields by position.",
                    rule="header.duplicate",
                    line=self.line,
                    column=name,
                )
            places.setdefault(name, i)
        known = {alias for f in self.spec.fields for alias in f.names}
        # an empty last name comes from a delimiter at the end of the line
        nameless = [i for i, name in enumerate(names[:-1]) if not name]
        if nameless and (len(nameless) > 1 or "" not in known):
            raise RefusedError(
                f"Column {nameless[0] + 1} of the header has no name. Ask the supplier for one, or declare "
                f"header: false with headerRows: [{self.line}] and name the fields by position.",
                rule="header.empty",
                line=self.line,
            )


def _first_line(data: bytes) -> bytes | None:
    """The first physical line with its line end; None if the line end was not read yet."""
    ends = [p for p in (data.find(b"\n"), data.find(b"\r")) if p >= 0]
    if not ends or (min(ends) == len(data) - 1 and data.endswith(b"\r")):
        return None
    end = min(ends)
    return data[: end + 2] if data[end : end + 2] == b"\r\n" else data[: end + 1]


def _skip_lines(window: Window, lines: int) -> None:
    """Consume the text up to the end of this physical line (from 1)."""
    while window.line <= lines:
        ends = line_ends(window.data)
        if not window.ended and window.data.endswith(b"\r"):
            ends = ends[:-1]  # it may be half of a CRLF
        missing = lines + 1 - window.line
        if len(ends):
            window.consume(int(ends[min(missing, len(ends)) - 1]) + 1)
        elif window.ended or len(window.data) > MAX_RECORD:
            window.consume(len(window.data))
        if len(ends) < missing:
            if window.ended:
                window.consume(len(window.data))
                return
            window.fill()


def _end_with_delimiter(window: Window, grammar: Grammar, names: int, header_does: bool) -> bool:
    """Whether records end with a delimiter: most of the first hundred do, and have no value behind it.

    One record says nothing about the file, unless the header ends with one, too. But if the first record has as many
    fields as the header has names, then records do not end with a delimiter, and no others need to be looked at.
    """
    do = others = 0
    for fields, is_empty_last in islice(_first_records(window, grammar, names), _RECORDS_TRIED):
        if fields == names and not do + others:
            return False
        do += is_empty_last
        others += fields == names if header_does else not is_empty_last
    return do >= others if do and header_does else do > others


def _first_records(window: Window, grammar: Grammar, names: int) -> Iterator[tuple[int, bool]]:
    """Of the first sound records: how many fields, and whether the one behind the last name is there and empty.

    Nothing is consumed. The records of the first megabyte are looked at, and no more than two fields behind the
    last name are counted.
    """
    at = 0
    while at <= _BYTES_TRIED:
        data = window.data
        if grammar.comment and data.startswith(grammar.comment, at):
            end = line_end(data, at)
            if end < len(data) or window.ended:
                at = end + 1
                continue
        found = grammar.record.match(data, at)
        if not window.ended and len(data) - at <= MAX_RECORD and (found is None or found.end() >= len(data)):
            window.fill()
            continue
        if at >= len(data):
            return
        if found is None:
            at = line_end(data, at) + 1
            continue
        if not grammar.is_blank(found.group("body")):
            fields = grammar.fields(found.group("body"), most=names + 2)
            yield len(fields), len(fields) == names + 1 and fields[-1][0] == b""
        at = max(found.end(), at + 1)
