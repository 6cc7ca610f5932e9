"""Finds where records begin and end in a part of the text, and which of them are damaged.

There are two ways, with the same result. ``regular`` checks all quotes at once with
array operations, by the rules of RFC 4180; nearly all data is read this way. ``scan``
matches record by record with a regular expression; it is used where quotes are damaged,
or where the dialect has rules beyond RFC 4180.

A damaged quote costs as little as possible: of a record that does not match the grammar, or
that spans several lines and has the wrong number of fields, only the first line is rejected;
the scan goes on at the next line. The result does not depend on how the file is cut into
blocks: no record is called damaged as long as more bytes could complete it.

What does not belong here: the grammar (``reader/grammar.py``), values (Arrow parses them,
``reader/arrow_csv.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field

import numpy as np

from importer_dagster.reader.grammar import Grammar

__all__ = [
    "Damage",
    "Grammar",
    "Scan",
    "blanks_to_skip",
    "count_lines",
    "cut",
    "line_ends",
    "quotes_in",
    "record_spans",
    "regular",
    "scan",
    "without_escaped",
]

MAX_RECORD = 16 << 20  # bytes of one record; limits what an unclosed quote can make one record of

LF, CR = 10, 13
_PIECE = 512 << 10  # bytes that are searched at once; arrays made from them stay in the processor's cache


@dataclass(frozen=True)
class Damage:
    """A record that cannot be read: where its bytes are in the block, and why.

    ``field`` (from 0) is the field at fault. It starts at ``at``, ``lines`` lines
    below the first line of the record; ``value`` are its bytes.
    """

    start: int
    end: int
    rule: str
    message: str
    field: int = 0
    at: int = 0
    lines: int = 0
    value: bytes = b""


@dataclass
class Scan:
    """The result of a scan: sound records (start, end without line end) and damaged ones.

    ``order`` says of each record, in the order of the file, whether it is sound. ``used`` is how many
    bytes were scanned. ``cut_line``: the bytes end inside of a line that is too long to be a record.
    """

    sound: list[tuple[int, int]] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    order: list[bool] = field(default_factory=list)
    used: int = 0
    cut_line: bool = False


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
    count = _count(data, LF, start, end)
    if data.find(b"\r", start, end) >= 0:
        count += _count(data, CR, start, end) - data.count(b"\r\n", start, end)
    return count


def _count(data: bytes, byte: int, start: int = 0, end: int | None = None) -> int:
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


def scan(data: bytes, grammar: Grammar, *, at_end: bool, expected: Set[int] | None) -> Scan:
    """Find the records of ``data`` one by one, sound and damaged ones.

    ``expected`` are the numbers of fields that a sound record may have, None if not known.
    ``at_end``: no more bytes follow. Otherwise the scan stops before a record that more bytes
    could complete; ``used`` tells where.
    """
    result = Scan()
    at, size = 0, len(data)
    while at < size:
        may_wait = not at_end and size - at <= MAX_RECORD
        if grammar.comment and data.startswith(grammar.comment, at):
            end = _line_end(data, at)
            if may_wait and _is_last_line(data, end):
                break
            at = _after_line_end(data, end)
            continue
        found = grammar.record.match(data, at)
        if found is not None:
            body, (start, end) = found.group("body"), found.span("body")
            # a record up to the end of the bytes may go on, or its CR may be half of a CRLF
            if may_wait and found.end() == size and (end == size or data[-1] == CR):
                break
            # a damaged quote can make one match of several records
            lines = b"\n" in body or b"\r" in body
            fits = not lines or expected is None or grammar.count(body) in expected
            if len(body) <= MAX_RECORD and fits:
                if not grammar.is_blank(body):
                    result.sound.append((start, end))
                    result.order.append(True)
                at = max(found.end(), at + 1)
                continue
        end = _line_end(data, at)
        if may_wait and (_is_last_line(data, end) or (found is None and grammar.undecided(data, at))):
            break
        damage = _damage(data, at, end, grammar, matched=found is not None)
        if may_wait and _is_last_line(data, _line_end(data, damage.at)):
            break
        result.cut_line = damage.rule == "record.long" and end == size and not at_end
        result.damaged.append(damage)
        result.order.append(False)
        at = _after_line_end(data, end)
    result.used = min(at, size)
    return result


def _line_end(data: bytes, at: int) -> int:
    """Position of the first byte of the next line end; the length of the bytes if there is none."""
    newline = data.find(b"\n", at)
    end = len(data) if newline < 0 else newline
    carriage = data.find(b"\r", at, end)
    return end if carriage < 0 else carriage


def _is_last_line(data: bytes, end: int) -> bool:
    """Whether the line that ends at ``end`` may go on behind the bytes, or its CR may be half of a CRLF."""
    return end >= len(data) or (end == len(data) - 1 and data[end] == CR)


def _after_line_end(data: bytes, end: int) -> int:
    return end + 2 if data[end : end + 2] == b"\r\n" else end + 1


def _damage(data: bytes, at: int, end: int, grammar: Grammar, *, matched: bool) -> Damage:
    """What is wrong with the record whose first line is ``data[at:end]``."""
    if end - at > MAX_RECORD:
        words = f"the line is longer than {MAX_RECORD >> 20} MB, which no record may be"
        return Damage(at, end, "record.long", words, 0, at, value=data[at : at + 80])
    index, place, stop, how = grammar.fault(data, at, end, matched=matched)
    lines, line_end = count_lines(data, at, place), _line_end(data, place)
    if how == "open":
        words = "a quote opens in line {line} and is never closed where a value may end"
        return Damage(at, end, "quote.unclosed", words, index, place, lines, data[place:line_end])
    if how == "behind":
        words = "text stands behind a closing quote; write a quote inside of a quoted value twice, "
    else:
        words = "a quote stands in the middle of a value without quotes; put the value in quotes and write it twice, "
    next_field = data.find(grammar.delimiter, stop, line_end)
    value = data[place : next_field if next_field >= 0 else line_end]
    words += "or declare quoteChar: null if quotes mean nothing"
    return Damage(at, end, "quote.damaged", words, index, place, lines, value)
