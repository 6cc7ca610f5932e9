"""Where records begin and end in a stretch of bytes, and which of them are damaged.

Two ways lead to the same answer. ``regular`` checks a whole stretch against
the quoting rules of RFC 4180 with array operations; nearly all data takes this
way. ``scan`` matches record by record with a regular expression; it takes
over where quotes are damaged, bytes are invalid, or the dialect has escapes.

How a damaged quote is survived: a record that does not match the grammar, or
that spans several lines and has the wrong number of fields, costs its first
line only; the scan goes on at the next line.

What does not belong here: values (``reader.py`` leaves them to Arrow).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from importer_dagster.fields import Dialect

MAX_RECORD = 16 << 20  # bytes of one record; an opening quote may not swallow more
MAX_SCAN_RECORD = 1 << 20  # the same in a stretch that is known to be damaged

LF, CR = 10, 13


@dataclass(frozen=True)
class Damage:
    """A record that cannot be read: its bytes' place in the stretch, rule and message."""

    start: int
    end: int
    rule: str
    message: str


@dataclass
class Scan:
    """What ``scan`` found: sound records (start, end without line end), damage, bytes used up.

    ``order`` tells, record by record, whether it is sound.
    """

    sound: list[tuple[int, int]] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    order: list[bool] = field(default_factory=list)
    used: int = 0


class Grammar:
    """The grammar of one dialect, over UTF-8 bytes."""

    def __init__(self, dialect: Dialect) -> None:
        self.delimiter = dialect.delimiter.encode()
        self.quote = dialect.quoteChar.encode() if dialect.quoteChar else None
        self.escape = dialect.escapeChar.encode() if dialect.escapeChar else None
        self.double = dialect.doubleQuote
        self.skip_space = dialect.skipInitialSpace
        self.comment = dialect.commentChar.encode() if dialect.commentChar else None

    @property
    def always_scan(self) -> bool:
        """Whether the dialect is outside of what ``regular`` and Arrow can judge."""
        simple = len(self.delimiter) == 1 and (self.quote is None or len(self.quote) == 1)
        return (
            not simple
            or self.escape is not None
            or self.skip_space
            or (self.quote is not None and not self.double)
        )

    @cached_property
    def field(self) -> re.Pattern[bytes]:
        """One field; group 1 is the inside of a quoted one, group 2 an unquoted one."""
        d = re.escape(self.delimiter)
        space = b" *" if self.skip_space else b""
        escape = re.escape(self.escape) + b"(?s:.)" if self.escape else None
        if self.quote is None:
            plain = self._none_of(d, b"")
            return re.compile(space + b"()(" + self._many([plain, escape]) + b")")
        q = re.escape(self.quote)
        inside = self._many([b"(?:(?!" + q + (b"|" + re.escape(self.escape) if self.escape else b"") + b")(?s:.))"
                             if len(self.quote) > 1 or self.escape else b"[^" + q + b"]",
                             q + q if self.double else None, escape])  # fmt: skip
        plain = self._none_of(d, q)
        return re.compile(
            space + b"(?:" + q + b"(" + inside + b")" + q + b"|(" + self._many([plain, escape]) + b"))"
        )

    def _none_of(self, delimiter: bytes, quote: bytes) -> bytes:
        singles = [x for x in (self.delimiter, self.quote if quote else None, self.escape) if x]
        if all(len(x) == 1 for x in singles):
            return b"[^\r\n" + b"".join(re.escape(x) for x in singles) + b"]"
        stops = b"|".join(re.escape(x) for x in singles)
        return b"(?:(?!" + stops + b")[^\r\n])"

    @staticmethod
    def _many(choices: Sequence[bytes | None]) -> bytes:
        given = [c for c in choices if c]
        # possessive: no backing up, so no input can make it slow
        if len(given) == 1:
            return given[0] + b"*+"
        first = given[0] + b"++" if given[0].startswith(b"[") else given[0]
        return b"(?:" + b"|".join([first, *given[1:]]) + b")*+"

    @cached_property
    def record(self) -> re.Pattern[bytes]:
        """One record with its line end; group "body" is the record without it."""
        f = re.sub(rb"\((?!\?)", b"(?:", self.field.pattern)
        d = re.escape(self.delimiter)
        return re.compile(b"(?P<body>(?:" + f + b")(?:" + d + b"(?:" + f + b"))*+)(?:\r\n|\n|\r|\\Z)")

    def fields(self, record: bytes) -> list[tuple[bytes, bool]]:
        """The fields of one sound record, and whether each was quoted."""
        out: list[tuple[bytes, bool]] = []
        at = 0
        while True:
            found = self.field.match(record, at)
            assert found
            quoted = found.group(1) is not None and self.quote is not None
            value = found.group(1) if quoted else found.group(2)
            out.append((self._plain(value, quoted), quoted))
            at = found.end()
            if not record.startswith(self.delimiter, at):
                return out
            at += len(self.delimiter)

    def _plain(self, value: bytes, quoted: bool) -> bytes:
        if quoted and self.double and self.quote:
            value = value.replace(self.quote * 2, self.quote)
        if self.escape:
            value = re.sub(re.escape(self.escape) + b"((?s:.))", rb"\1", value)
        return value

    def count(self, record: bytes) -> int:
        """How many fields a sound record has."""
        return len(self.fields(record))

    def write(self, fields: Sequence[tuple[bytes, bool]]) -> bytes:
        """Fields as a record in the plain dialect that Arrow reads: , and " and doubled quotes."""
        return b",".join(
            b'"' + v.replace(b'"', b'""') + b'"' if quoted or re.search(b'[",\r\n]', v) else v
            for v, quoted in fields
        )


def line_ends(data: np.ndarray) -> np.ndarray:
    """Positions of the last byte of every line end: LF, CRLF, or a CR alone."""
    ends = data == LF
    carriage = data == CR
    if carriage.any():
        alone = carriage.copy()
        alone[:-1] &= data[1:] != LF
        ends = ends | alone
    return np.flatnonzero(ends)


def count_lines(data: bytes) -> int:
    """How many line ends there are; several times faster than finding them."""
    count = data.count(b"\n")
    if b"\r" in data:
        count += data.count(b"\r") - data.count(b"\r\n")
    return count


def record_ends(data: np.ndarray, quote: int | None) -> np.ndarray:
    """Positions of line ends that are outside of quotes, taking the stretch to start outside."""
    ends = line_ends(data)
    if quote is None:
        return ends
    quotes = np.flatnonzero(data == quote)
    if not len(quotes):
        return ends
    outside: np.ndarray = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return outside


def cut(data: bytes, quote: int | None, at_end: bool) -> int:
    """Length of the longest start of ``data`` that holds whole records only; 0 if there is none.

    Quotes are counted, which is right for sound data; ``regular`` judges it.
    """
    if at_end:
        return len(data) if quote is None or data.count(quote) % 2 == 0 else 0
    mark = b"\n" if b"\n" in data else b"\r"
    # a CR at the very end may be half of a CRLF
    stop = len(data) - 1 if mark == b"\r" and data.endswith(b"\r") else len(data)
    where = data.rfind(mark, 0, stop)
    if quote is None:
        return where + 1
    parity = data.count(quote, 0, where + 1) % 2 if where >= 0 else 0
    while where >= 0 and parity:
        before = data.rfind(mark, 0, where)
        parity = (parity - data.count(quote, before + 1, where + 1)) % 2
        where = before
    return where + 1


def regular(data: np.ndarray, delimiter: int, quote: int | None) -> bool:
    """Whether every quote of a stretch of whole records stands where RFC 4180 allows one."""
    if quote is None:
        return True
    quotes = np.flatnonzero(data == quote)
    if not len(quotes):
        return True
    if len(quotes) % 2:
        return False
    opening, closing = quotes[0::2], quotes[1::2]
    before = np.where(opening > 0, data[opening - 1], LF)
    after = np.where(closing + 1 < len(data), data[np.minimum(closing + 1, len(data) - 1)], LF)
    allowed = np.zeros(256, dtype=bool)
    allowed[[delimiter, LF, CR]] = True
    doubled = np.zeros(len(opening), dtype=bool)
    doubled[1:] = closing[:-1] + 1 == opening[1:]  # a closing and an opening one: a doubled quote
    if not (allowed[before] | doubled).all():
        return False
    doubled_next = np.append(doubled[1:], False)
    return bool((allowed[after] | doubled_next).all())


def scan(data: bytes, grammar: Grammar, *, at_end: bool, expected: int | None) -> Scan:
    """Find the records of ``data`` one by one, surviving damage.

    ``expected`` is the number of fields of a sound record, None if not known.
    Where ``at_end`` is false, a last record that is not complete is left over
    (``used`` tells where it starts).
    """
    result = Scan()
    at, size = 0, len(data)
    while at < size:
        found = grammar.record.match(data, at)
        open_end = found is not None and found.end() == size and not data.endswith(b"\n")
        if open_end and not at_end and size - at < MAX_SCAN_RECORD:
            break  # perhaps not the whole record, or half of a CRLF
        if found is not None and _plausible(found, data, grammar, expected):
            at = _keep(found, at, result)
            continue
        end = _line_end(data, at)
        if end == size and not at_end and size - at < MAX_SCAN_RECORD:
            break
        if not at_end and _may_go_on(data, at, end, grammar) and size - at < MAX_SCAN_RECORD:
            break  # the quote may be closed in what is still to come
        result.damaged.append(_damage(data, at, end, grammar))
        result.order.append(False)
        at = _after_line_end(data, end)
    result.used = at
    return result


def _plausible(found: re.Match[bytes], data: bytes, grammar: Grammar, expected: int | None) -> bool:
    start, end = found.span("body")
    if end - start > MAX_RECORD:
        return False
    lines = data.find(b"\n", start, end) >= 0 or data.find(b"\r", start, end) >= 0
    return not lines or expected is None or grammar.count(found.group("body")) == expected


def _keep(found: re.Match[bytes], at: int, result: Scan) -> int:
    start, end = found.span("body")
    if end > start:  # a blank line is no record
        result.sound.append((start, end))
        result.order.append(True)
    return max(found.end(), at + 1)


def _line_end(data: bytes, at: int) -> int:
    ends = [p for p in (data.find(b"\n", at), data.find(b"\r", at)) if p >= 0]
    return min(ends, default=len(data))


def _after_line_end(data: bytes, end: int) -> int:
    return end + 2 if data[end : end + 2] == b"\r\n" else end + 1


def _may_go_on(data: bytes, at: int, end: int, grammar: Grammar) -> bool:
    """Whether the record's first line leaves a quote open that nothing in ``data`` closes."""
    if grammar.quote is None or data.count(grammar.quote, at, end) % 2 == 0:
        return False
    return data.find(grammar.quote, end) < 0


def _damage(data: bytes, at: int, end: int, grammar: Grammar) -> Damage:
    quote = grammar.quote or b""
    line = data[at:end]
    if quote and line.count(quote) % 2:
        return Damage(
            at, end, "quote.unclosed", "a quote opens in this line and is never closed where a value may end"
        )
    return Damage(
        at,
        end,
        "quote.damaged",
        "a quote stands in the middle of a value; write it twice inside a quoted value, "
        "or declare quoteChar: null if quotes mean nothing",
    )
