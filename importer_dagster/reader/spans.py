"""Positions of things in the bytes of a block: line ends, quotes, records, fields. Array operations only.

What does not belong here: damage (``reader/records.py``), whose positions these functions do not find.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

LF, CR = 10, 13
_SHORT = 16  # bytes of a piece on average
_PIECE = 512 << 10  # bytes that are searched at once; arrays made from them stay in the processor's cache


def line_end(data: bytes, at: int) -> int:
    """Position of the first byte of the next line end; the length of the bytes if there is none."""
    newline = data.find(b"\n", at)
    end = len(data) if newline < 0 else newline
    carriage = data.find(b"\r", at, end)
    return end if carriage < 0 else carriage


def line_ends(data: bytes) -> np.ndarray:
    """Positions of the last byte of every line end: LF, CRLF, or a single CR."""
    raw = np.frombuffer(data, np.uint8)
    ends = raw == LF
    if b"\r" in data:
        single = raw == CR
        single[:-1] &= raw[1:] != LF
        ends |= single
    return np.flatnonzero(ends)


def count_lines(data: bytes, start: int = 0, end: int | None = None) -> int:
    """How many line ends there are from ``start`` to ``end``; several times faster than finding them."""
    count = _count_byte(data, LF, start, end)
    if data.find(b"\r", start, end) >= 0:
        count += _count_byte(data, CR, start, end) - data.count(b"\r\n", start, end)
    return count


def _count_byte(data: bytes, byte: int, start: int = 0, end: int | None = None) -> int:
    """How often a byte occurs; eight times as fast as ``data.count`` where it occurs every 100 bytes."""
    pieces = _pieces(np.frombuffer(data, np.uint8)[start:end])
    return sum(int(np.count_nonzero(piece == byte)) for _, piece in pieces)


def _pieces(raw: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces of the bytes, and where each begins."""
    for at in range(0, len(raw), _PIECE):
        yield at, raw[at : at + _PIECE]


def record_spans(data: bytes, ends: np.ndarray, quote: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Start and end (without line end) of every record of a regular block; ``ends`` are its line ends.

    Line ends inside of quotes end no record; the block starts outside of quotes. Blank lines are no records.
    """
    raw = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(raw == quote) if quote is not None else ()
    if len(quotes):
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    if not len(ends) or ends[-1] != len(raw) - 1:
        ends = np.append(ends, len(raw))
    starts = np.concatenate([[0], ends[:-1] + 1])
    crlf = (ends > starts) & (ends < len(raw)) & (raw[np.minimum(ends, len(raw)) - 1] == CR)
    lf = raw[np.minimum(ends, len(raw) - 1)] == LF
    stops = ends - (crlf & lf)
    filled = stops > starts
    return starts[filled], stops[filled]


def quotes_in(data: bytes, quote: int | None) -> np.ndarray:
    """Positions of all quotes. :func:`cut` and :func:`regular` both need them, and finding them takes longest."""
    if quote is None or quote not in data:
        return np.zeros(0, np.int64)
    pieces = _pieces(np.frombuffer(data, np.uint8))
    return np.concatenate([at + np.flatnonzero(piece == quote) for at, piece in pieces])


def cut(data: bytes, quotes: np.ndarray, at_end: bool) -> int:
    """Length of the longest beginning of ``data`` that has whole records only; 0 if there is none.

    A line end behind an even number of quotes ends a record. This is right if all quotes are sound, which
    ``regular`` checks.
    """
    if at_end:
        return len(data) if len(quotes) % 2 == 0 else 0
    mark = b"\n" if b"\n" in data else b"\r"
    # a CR at the very end may be half of a CRLF
    stop = len(data) - 1 if mark == b"\r" and data.endswith(b"\r") else len(data)
    where = data.rfind(mark, 0, stop)
    while where >= 0 and (before := int(np.searchsorted(quotes, where))) % 2:
        where = data.rfind(mark, 0, int(quotes[before - 1]))  # skip the line ends inside of these quotes
    return where + 1


def regular(data: bytes, quotes: np.ndarray, delimiter: int, doubled: int | None) -> bool:
    """Whether every quote of whole records is where RFC 4180 allows one.

    ``quotes`` are their positions; ``doubled`` is the quote if it may be written twice inside of quotes.
    """
    if not len(quotes):
        return True
    if len(quotes) % 2:
        return False
    raw = np.frombuffer(data, np.uint8)
    before = raw[quotes[0::2] - 1]
    if quotes[0] == 0:
        before[0] = LF
    after = raw.take(quotes[1::2] + 1, mode="clip")
    if quotes[-1] == len(raw) - 1:
        after[-1] = LF
    # a closing quote right before an opening one: together they are a doubled quote
    allowed = [delimiter, LF, CR, *([] if doubled is None else [doubled])]
    return all(np.logical_or.reduce([beside == byte for byte in allowed]).all() for beside in (before, after))


def without_escaped(data: bytes, escape: bytes | None) -> bytes:
    """``data`` with every escaped byte, the one behind an escape character, replaced by x."""
    if escape is None or escape not in data:
        return data
    raw = np.frombuffer(data, np.uint8).copy()
    marks = np.flatnonzero(raw == escape[0])
    begins = np.append(
        True, np.diff(marks) != 1
    )  # of runs of escape characters, in which every other one is escaped itself
    first = np.maximum.accumulate(np.where(begins, np.arange(len(marks)), 0))
    active = marks[(np.arange(len(marks)) - first) % 2 == 0]
    raw[active[active + 1 < len(raw)] + 1] = ord("x")
    return raw.tobytes()


def blanks_to_skip(structure: bytes, delimiter: int, quote: int | None) -> np.ndarray:
    """Positions of blanks that belong to no value: those behind a delimiter, a line end or a closing quote."""
    raw = np.frombuffer(structure, np.uint8)
    blanks = np.flatnonzero(raw == ord(" "))
    if not len(blanks):
        return blanks
    run = np.cumsum(np.append(False, np.diff(blanks) != 1))
    starts = blanks[np.append(True, np.diff(blanks) != 1)]
    ends = np.append(blanks[:-1][np.diff(blanks) != 1], blanks[-1]) + 1
    limits = np.zeros(256, dtype=bool)
    limits[[delimiter, LF, CR]] = True
    before = np.where(starts > 0, raw[starts - 1], LF)
    behind = np.where(ends < len(raw), raw[np.minimum(ends, len(raw) - 1)], LF)
    skip = limits[before]
    if quote is not None:
        quotes = np.flatnonzero(raw == quote)
        outside = np.searchsorted(quotes, starts) % 2 == 0
        skip = outside & (skip | ((before == quote) & limits[behind]))
    skipped: np.ndarray = blanks[skip[run]]
    return skipped


def taken(data: bytes, starts: np.ndarray, ends: np.ndarray) -> bytes:
    """Pieces of the bytes, which ascend and do not overlap, one behind the other."""
    if not len(starts):
        return b""
    joined = np.flatnonzero(starts[1:] != ends[:-1])  # pieces side by side are one
    starts, ends = starts[np.append(0, joined + 1)], ends[np.append(joined, len(ends) - 1)]
    if len(starts) == 1 and starts[0] == 0 and ends[0] == len(data):
        return data
    values = elements(data, starts, ends).buffers()[2]
    return values.to_pybytes() if values else b""


def elements(data: bytes, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    """Pieces of the bytes, which ascend and do not overlap, as an array.

    Short ones are gathered byte by byte, which takes a tenth of Arrow's time.
    """
    lengths = ends - starts
    total = int(lengths.sum())
    if total <= _SHORT * len(starts):
        offsets = np.append(0, np.cumsum(lengths))
        places = np.repeat(starts - offsets[:-1], lengths) + np.arange(total)
        values = np.frombuffer(data, np.uint8)[places]
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values)]
        return pa.Array.from_buffers(pa.large_binary(), len(starts), buffers)
    # elements 0, 2, 4 … are the pieces, 1, 3, 5 … the bytes between them
    offsets = np.empty(2 * len(starts), np.int64)
    offsets[0::2], offsets[1::2] = starts, ends
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    pieces = pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
    return pieces.take(pa.array(np.arange(0, len(offsets) - 1, 2)))


class Fields:
    """Where delimiters separate fields in a block of the plain dialect: positions in two groups, by the number of
    quotes before them in the block, even or odd. Those outside of a record's quotes are of the group of its start.
    """

    def __init__(self, data: bytes, delimiter: int, quotes: np.ndarray) -> None:
        self.quotes = quotes
        groups: list[list[np.ndarray]] = [[], []]
        for at, piece in _pieces(np.frombuffer(data, np.uint8)):
            found = at + np.flatnonzero(piece == delimiter)
            is_odd = (np.searchsorted(quotes, found) & 1).astype(np.bool_)
            groups[0].append(found[~is_odd].astype(np.int32))
            groups[1].append(found[is_odd].astype(np.int32))
        self._groups = [np.concatenate([*g, np.zeros(0, np.int32)]) for g in groups]

    def _by_group(self, starts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        is_odd = np.searchsorted(self.quotes, starts) & 1
        for odd, group in enumerate(self._groups):
            yield np.flatnonzero(is_odd == odd), group

    def count(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """How many fields the records from ``starts`` to ``ends`` have."""
        counts = np.ones(len(starts), np.int64)
        for which, group in self._by_group(starts):
            counts[which] += np.searchsorted(group, ends[which]) - np.searchsorted(group, starts[which])
        return counts

    def around(
        self, starts: np.ndarray, ends: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the fields that ``places`` of records are in: number from 0, start and end."""
        numbers, begins, stops = np.zeros(len(starts), np.int64), starts.copy(), ends.copy()
        for which, group in self._by_group(starts):
            before, first = np.searchsorted(group, places[which]), np.searchsorted(group, starts[which])
            numbers[which] = before - first
            inner = before > first
            begins[which[inner]] = group[before[inner] - 1] + 1
            more = before < len(group)
            stops[which[more]] = np.minimum(stops[which[more]], group[before[more]])
        return numbers, begins, stops

    def behind(self, starts: np.ndarray, ends: np.ndarray, number: int) -> np.ndarray:
        """Where field ``number`` (from 1 on) starts; the end of a record that has fewer fields."""
        begins = ends.copy()
        for which, group in self._by_group(starts):
            at = np.searchsorted(group, starts[which]) + number - 1
            there = at < len(group)
            begins[which[there]] = np.minimum(begins[which[there]], group[at[there]] + 1)
        return begins

    def next(self, places: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """The next delimiter from each place on, in quotes or not, but not behind its limit."""
        found = limits
        for group in self._groups:
            if len(group):
                at = np.searchsorted(group, places)
                there = np.where(at < len(group), group[np.minimum(at, len(group) - 1)], limits)
                found = np.minimum(found, there)
        return found
