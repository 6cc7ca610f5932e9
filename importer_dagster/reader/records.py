"""Where records begin and end in a stretch of bytes, and which of them are damaged.

Two ways lead to the same answer. ``regular`` checks a whole stretch against
the quoting rules of RFC 4180 with array operations; nearly all data takes this
way. ``scan`` matches record by record with a regular expression; it takes
over where quotes are damaged, or the dialect is beyond RFC 4180.

How a damaged quote is survived: a record that does not match the grammar, or
that spans several lines and has the wrong number of fields, costs its first
line only; the scan goes on at the next line. What is decided does not depend
on how the file is cut into stretches: nothing is called damaged as long as
more bytes could mend it.

What does not belong here: the grammar (``reader/grammar.py``), values (``reader/reader.py``
leaves them to Arrow).
"""

from __future__ import annotations

import re
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

MAX_RECORD = 16 << 20  # bytes of one record; an opening quote may not swallow more

LF, CR = 10, 13
_AT_ONCE = 512 << 10


@dataclass(frozen=True)
class Damage:
    """A record that cannot be read: its bytes' place in the stretch, and why.

    ``field`` (from 0) is the one at fault, ``at`` the place where it starts,
    ``lines`` below that of the record, ``value`` what stands there.
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
    """What was found: sound records (start, end without line end), damage, bytes used up.

    ``order`` tells, record by record, whether it is sound. ``cut_line`` is set
    where the stretch ends inside of a line that is too long to be a record.
    """

    sound: list[tuple[int, int]] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    order: list[bool] = field(default_factory=list)
    used: int = 0
    cut_line: bool = False


def line_ends(data: bytes) -> np.ndarray:
    """Positions of the last byte of every line end: LF, CRLF, or a CR alone."""
    raw = np.frombuffer(data, np.uint8)
    ends = raw == LF
    if b"\r" in data:  # asked first, since nearly no file has one alone
        alone = raw == CR
        alone[:-1] &= raw[1:] != LF
        ends |= alone
    return np.flatnonzero(ends)


def count_lines(data: bytes, start: int = 0, end: int | None = None) -> int:
    """How many line ends there are from ``start`` to ``end``; several times faster than finding them."""
    count = _count(data, LF, start, end)
    if data.find(b"\r", start, end) >= 0:
        count += _count(data, CR, start, end) - data.count(b"\r\n", start, end)
    return count


def _count(data: bytes, byte: int, start: int = 0, end: int | None = None) -> int:
    """As ``data.count``, which takes eight times as long where a hit comes every hundred bytes."""
    pieces = _pieces(np.frombuffer(data, np.uint8)[start:end])
    return sum(int(np.count_nonzero(piece == byte)) for _, piece in pieces)


def _pieces(raw: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces of many bytes, and where each begins: what is made of one stays in the processor's cache."""
    for at in range(0, len(raw), _AT_ONCE):
        yield at, raw[at : at + _AT_ONCE]


def _outside_quotes(ends: np.ndarray, data: np.ndarray, quote: int | None) -> np.ndarray:
    """Those line ends that are outside of quotes, taking the stretch to start outside."""
    quotes = np.flatnonzero(data == quote) if quote is not None else ()
    if not len(quotes):
        return ends
    outside: np.ndarray = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return outside


def record_spans(data: bytes, ends: np.ndarray, quote: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Start and end (without line end) of every record of a regular stretch with these line ends.

    Blank lines are no records.
    """
    raw = np.frombuffer(data, np.uint8)
    ends = _outside_quotes(ends, raw, quote)
    if not len(ends) or ends[-1] != len(raw) - 1:
        ends = np.append(ends, len(raw))
    starts = np.concatenate([[0], ends[:-1] + 1])
    crlf = (ends > starts) & (ends < len(raw)) & (raw[np.minimum(ends, len(raw)) - 1] == CR)
    lf = raw[np.minimum(ends, len(raw) - 1)] == LF
    stops = ends - (crlf & lf)
    filled = stops > starts
    return starts[filled], stops[filled]


def quotes_in(data: bytes, quote: int | None) -> np.ndarray:
    """Positions of all quotes; what :func:`cut` and :func:`regular` both need, and the dearest of it."""
    if quote is None or quote not in data:
        return np.zeros(0, np.int64)
    pieces = _pieces(np.frombuffer(data, np.uint8))
    return np.concatenate([at + np.flatnonzero(piece == quote) for at, piece in pieces])


def cut(data: bytes, quotes: np.ndarray, at_end: bool) -> int:
    """Length of the longest start of ``data`` that holds whole records only; 0 if there is none.

    Quotes are counted, which is right for sound data; ``regular`` judges it.
    """
    if at_end:
        return len(data) if len(quotes) % 2 == 0 else 0
    mark = b"\n" if b"\n" in data else b"\r"
    # a CR at the very end may be half of a CRLF
    stop = len(data) - 1 if mark == b"\r" and data.endswith(b"\r") else len(data)
    where = data.rfind(mark, 0, stop)
    while where >= 0 and (before := int(np.searchsorted(quotes, where))) % 2:
        where = data.rfind(mark, 0, int(quotes[before - 1]))  # the line ends in between are in quotes
    return where + 1


def regular(data: bytes, quotes: np.ndarray, delimiter: int, doubled: int | None) -> bool:
    """Whether every quote of a stretch of whole records stands where RFC 4180 allows one.

    ``quotes`` are their positions; ``doubled`` is the quote where it may be written twice.
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
    # a quote before an opening one is the closing one before it, and with it a doubled quote
    allowed = [delimiter, LF, CR, *([] if doubled is None else [doubled])]
    return all(np.logical_or.reduce([beside == byte for byte in allowed]).all() for beside in (before, after))


def without_escaped(data: bytes, escape: bytes | None) -> bytes:
    """``data`` with an x in place of every byte that an escape character takes the meaning from."""
    if escape is None or escape not in data:
        return data
    raw = np.frombuffer(data, np.uint8).copy()
    marks = np.flatnonzero(raw == escape[0])
    begins = np.append(True, np.diff(marks) != 1)  # of runs: every other mark in a run is escaped itself
    first = np.maximum.accumulate(np.where(begins, np.arange(len(marks)), 0))
    active = marks[(np.arange(len(marks)) - first) % 2 == 0]
    raw[active[active + 1 < len(raw)] + 1] = ord("x")
    return raw.tobytes()


def blanks_to_skip(structure: bytes, delimiter: int, quote: int | None) -> np.ndarray:
    """Positions of blanks that belong to no value: behind a delimiter or line end, or a closing quote."""
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
    """Find the records of ``data`` one by one, surviving damage.

    ``expected`` are the numbers of fields that a sound record may have, None if
    not known. Where ``at_end`` is false, what more bytes could complete is left
    over (``used`` tells where it starts).
    """
    result = Scan()
    at, size = 0, len(data)
    while at < size:
        patient = not at_end and size - at <= MAX_RECORD
        if grammar.comment and data.startswith(grammar.comment, at):
            end = _line_end(data, at)
            if patient and _is_last_line(data, end):
                break
            at = _after_line_end(data, end)
            continue
        found = grammar.record.match(data, at)
        if found is not None and patient and _is_open(found, data):
            break
        if found is not None and _plausible(found, grammar, expected):
            at = _keep(found, at, grammar, result)
            continue
        end = _line_end(data, at)
        if patient and (_is_last_line(data, end) or (found is None and grammar.undecided(data, at))):
            break
        damage = _damage(data, at, end, grammar, matched=found is not None)
        if patient and _is_last_line(data, _line_end(data, damage.at)):
            break
        result.cut_line = damage.rule == "record.long" and end == size and not at_end
        result.damaged.append(damage)
        result.order.append(False)
        at = _after_line_end(data, end)
    result.used = min(at, size)
    return result


def _is_open(found: re.Match[bytes], data: bytes) -> bool:
    """Whether a record reaches to the end of the bytes, so that it may go on, or its CR be half of a CRLF."""
    return found.end() == len(data) and (found.end("body") == len(data) or data[-1] == CR)


def _plausible(found: re.Match[bytes], grammar: Grammar, expected: Set[int] | None) -> bool:
    body = found.group("body")
    if len(body) > MAX_RECORD:
        return False
    lines = b"\n" in body or b"\r" in body
    return not lines or expected is None or grammar.count(body) in expected


def _keep(found: re.Match[bytes], at: int, grammar: Grammar, result: Scan) -> int:
    start, end = found.span("body")
    if not grammar.is_blank(found.group("body")):
        result.sound.append((start, end))
        result.order.append(True)
    return max(found.end(), at + 1)


def _line_end(data: bytes, at: int) -> int:
    newline = data.find(b"\n", at)
    end = len(data) if newline < 0 else newline
    carriage = data.find(b"\r", at, end)
    return end if carriage < 0 else carriage


def _is_last_line(data: bytes, end: int) -> bool:
    """Whether the line that ends there may go on, or its CR be half of a CRLF."""
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
