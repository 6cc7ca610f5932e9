"""Finds where records begin and end in a part of the text, and which of them are damaged.

There are three ways, with the same result. ``regular`` checks all quotes at once with
array operations, by the rules of RFC 4180; nearly all data is read this way. ``scan`` is used where
quotes are damaged: for dialects of RFC 4180, array operations over its lines; for
dialects with rules beyond that, and for one record of many lines, a regular expression, record by record.

A damaged quote costs as little as possible: of a record that does not match the grammar, or
that spans several lines and has the wrong number of fields, only the first line is rejected;
the scan goes on at the next line. The result does not depend on how the file is cut into
blocks: no record is called damaged as long as more bytes could complete it.

What does not belong here: positions (``reader/spans.py``), the grammar (``reader/grammar.py``), values (Arrow parses them,
``reader/arrow_csv.py``).
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from importer_dagster.reader.grammar import Grammar
from importer_dagster.reader.spans import (
    CR,
    LF,
    Fields,
    blanks_to_skip,
    count_lines,
    cut,
    line_end,
    line_ends,
    quotes_in,
    record_spans,
    regular,
    without_escaped,
)

__all__ = [
    "Damages",
    "Fields",
    "Grammar",
    "Scan",
    "blanks_to_skip",
    "count_lines",
    "cut",
    "line_end",
    "line_ends",
    "quotes_in",
    "record_spans",
    "regular",
    "scan",
    "without_escaped",
]

MAX_RECORD = 16 << 20  # bytes of one record; limits what an unclosed quote can make one record of

_LONG = 4096  # bytes of a record whose fields are counted with array operations

# Kinds of damage.
UNCLOSED, BEHIND, MIDDLE, LONG, NUL, ENCODING, CUT = range(7)  # cut: the file ends inside of a character


@dataclass
class Damages:
    """Records that cannot be read, one element of each array for each.

    ``records`` are their numbers among the records of the block, from 0. ``kinds`` say why. ``fields`` (from 0) are
    the fields at fault, whose bytes in the block are ``starts`` to ``ends``. ``places`` are where bad bytes are.
    """

    records: np.ndarray
    kinds: np.ndarray
    fields: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.records)

    @staticmethod
    def of(rows: list[tuple[int, ...]]) -> Damages:
        """Damages of these rows: record, kind, field, start, end, place."""
        return Damages(*np.array(rows, np.int64).reshape(-1, 6).T)

    def and_others(self, more: Damages) -> Damages:
        """These and more, in the order of their records."""
        columns = [
            np.concatenate(pair) for pair in zip(vars(self).values(), vars(more).values(), strict=True)
        ]
        order = np.argsort(columns[0], kind="stable")
        return Damages(*(column[order] for column in columns))


@dataclass
class Scan:
    """The result of a scan: where all records start and end (without line end), and which of them are damaged.

    A damaged record is its first line. ``used`` is how many bytes were scanned. ``cut_line``: the bytes end inside
    of a line that is too long to be a record, or of a comment that is not read yet.
    """

    starts: np.ndarray
    ends: np.ndarray
    damaged: Damages
    used: int
    cut_line: bool = False

    @property
    def is_sound(self) -> np.ndarray:
        """A mask of the records that are not damaged."""
        mask = np.ones(len(self.starts), np.bool_)
        mask[self.damaged.records] = False
        return mask

    @property
    def sound(self) -> np.ndarray:
        """Start and end of each sound record, as rows."""
        mask = self.is_sound
        return np.stack([self.starts[mask], self.ends[mask]], axis=1)


def scan(
    data: bytes, grammar: Grammar, *, at_end: bool, expected: Set[int] | None, most: int | None = None
) -> Scan:
    """Find the records of ``data``, sound and damaged ones.

    ``expected`` are the numbers of fields that a sound record may have, None if not known.
    ``at_end``: no more bytes follow. Otherwise the scan stops before a record that more bytes
    could complete; ``used`` tells where. It also stops behind ``most`` records.
    """
    if most is None and grammar.is_plain and len(data) <= MAX_RECORD // 2:
        found = scan_lines(data, grammar, at_end=at_end, expected=expected)
        if found is not None:
            return found
    return scan_records(data, grammar, at_end=at_end, expected=expected, most=most)


def scan_records(
    data: bytes, grammar: Grammar, *, at_end: bool, expected: Set[int] | None, most: int | None = None
) -> Scan:
    """Scan record by record, in any dialect."""
    starts: list[int] = []
    ends: list[int] = []
    damaged: list[tuple[int, ...]] = []
    at, size, cut_line = 0, len(data), False
    while at < size and (most is None or len(starts) < most):
        may_wait = not at_end and size - at <= MAX_RECORD
        end = line_end(data, at)
        if grammar.comment and data.startswith(grammar.comment, at):
            if may_wait and _is_last_line(data, end):
                break
            cut_line = end == size and not at_end
            at = _after_line_end(data, end)
            continue
        found = grammar.record.match(data, at)
        if found is not None:
            start, stop = found.span("body")
            # a record up to the end of the bytes may go on, or its CR may be half of a CRLF
            if may_wait and found.end() == size and (stop == size or data[-1] == CR):
                break
            # a damaged quote can make one match of several records
            fits = stop <= end or expected is None or _count(data[start:stop], grammar) in expected
            if stop - start <= MAX_RECORD and fits:
                if not grammar.is_blank(found.group("body")):
                    starts.append(start)
                    ends.append(stop)
                at = max(found.end(), at + 1)
                continue
        if may_wait and (_is_last_line(data, end) or (found is None and grammar.undecided(data, at))):
            break
        if end - at > MAX_RECORD:
            kind, number, place, value_end = LONG, 0, at, at + 80
        else:
            kind, number, place, value_end = _fault(data, at, end, grammar, matched=found is not None)
        if may_wait and _is_last_line(data, line_end(data, place)):
            break
        cut_line = kind == LONG and end == size and not at_end
        damaged.append((len(starts), kind, number, place, value_end, 0))
        starts.append(at)
        ends.append(end)
        at = _after_line_end(data, end)
    spans = np.array([starts, ends], np.int64)
    return Scan(spans[0], spans[1], Damages.of(damaged), min(at, size), cut_line)


def _is_last_line(data: bytes, end: int) -> bool:
    """Whether the line that ends at ``end`` may go on behind the bytes, or its CR may be half of a CRLF."""
    return end >= len(data) or (end == len(data) - 1 and data[end] == CR)


def _after_line_end(data: bytes, end: int) -> int:
    return end + 2 if data[end : end + 2] == b"\r\n" else end + 1


def _count(record: bytes, grammar: Grammar) -> int:
    """How many fields a record has; a long one in the plain dialect is counted with array operations."""
    if len(record) < _LONG or not grammar.is_plain:
        return len(grammar.fields(record))
    quotes = quotes_in(record, grammar.quote[0] if grammar.quote else None)
    whole = np.array([0]), np.array([len(record)])
    return int(Fields(record, grammar.delimiter[0], quotes).count(*whole)[0])


def _fault(data: bytes, at: int, end: int, grammar: Grammar, *, matched: bool) -> tuple[int, int, int, int]:
    """What is wrong with the record whose first line is ``data[at:end]``: kind, field, its start and end."""
    index, place, stop, how = grammar.fault(data, at, end, matched=matched)
    stop_of_line = line_end(data, place)
    if how == "open":
        return UNCLOSED, index, place, stop_of_line
    next_field = data.find(grammar.delimiter, stop, stop_of_line)
    return (
        BEHIND if how == "behind" else MIDDLE,
        index,
        place,
        next_field if next_field >= 0 else stop_of_line,
    )


# --- many lines at once -------------------------------------------------------------------


def scan_lines(data: bytes, grammar: Grammar, *, at_end: bool, expected: Set[int] | None) -> Scan | None:
    """Scan all lines at once, in a plain dialect; None where quotes in comments make that impossible.

    A line with an even number of quotes is a record, or damaged. One with an odd number may only be completed by
    the next such line: the two and what is between them are a record, or the first one is damaged.
    """
    lines = _Lines(data, grammar, at_end)
    if (lines.counts[lines.is_comment] % 2).any():
        return None
    is_damaged, partner, stop = lines.judged(expected)
    starts, ends = lines.starts[:stop], lines.stops[:stop].copy()
    first = np.flatnonzero(partner[:stop] > 0)
    ends[first] = lines.stops[partner[first]]
    steps = np.zeros(len(starts) + 1, np.int64)  # lines inside of a record begin none
    steps[first + 1] += 1
    steps[np.minimum(partner[first] + 1, len(starts))] -= 1
    begins = (np.cumsum(steps[:-1]) == 0) & (ends > starts) & ~lines.is_comment[:stop]
    which = np.flatnonzero(begins)
    damaged = np.flatnonzero(is_damaged[which])
    used = lines.used if stop == len(lines.starts) else int(lines.starts[stop])
    damages = lines.faults(which[damaged], damaged) if len(damaged) else Damages.of([])
    return Scan(starts[which], ends[which], damages, used)


class _Lines:
    """The lines of a part of the text, without the last one where more bytes could complete it."""

    def __init__(self, data: bytes, grammar: Grammar, at_end: bool) -> None:
        self.at_end, self.delimiter = at_end, grammar.delimiter[0]
        self.raw = np.frombuffer(data, np.uint8)
        ends = line_ends(data)
        if not at_end and data.endswith(b"\r"):
            ends = ends[:-1]  # it may be half of a CRLF
        self.used = len(data) if at_end else int(ends[-1]) + 1 if len(ends) else 0
        self.starts = np.concatenate([np.zeros(1, np.int64), ends + 1])
        self.stops = ends - ((ends > 0) & (self.raw[ends] == LF) & (self.raw[ends - 1] == CR))
        if len(ends) and ends[-1] + 1 == self.used:
            self.starts = self.starts[:-1]
        elif self.used:
            self.stops = np.append(self.stops, len(data))
        else:
            self.starts = self.starts[:0]
        self.data = data[: self.used]
        self.quote = grammar.quote[0] if grammar.quote else -1
        self.quotes = quotes_in(self.data, grammar.quote[0] if grammar.quote else None)
        self.first = np.searchsorted(self.quotes, self.starts)  # the first quote of each line
        self.counts = np.diff(np.append(self.first, len(self.quotes)))
        self.is_comment = np.zeros(len(self.starts), np.bool_)
        if grammar.comment and grammar.comment in self.data:
            padded = np.append(self.raw, np.zeros(len(grammar.comment), np.uint8))
            marks = [padded[self.starts + i] == byte for i, byte in enumerate(grammar.comment)]
            self.is_comment = np.logical_and.reduce(marks)

    @cached_property
    def fields(self) -> Fields:
        """The fields of its records."""
        return Fields(self.data, self.delimiter, self.quotes)

    @cached_property
    def line_of(self) -> np.ndarray:
        """The line of each quote."""
        return np.repeat(np.arange(len(self.starts)), self.counts)

    @cached_property
    def bad(self) -> tuple[np.ndarray, np.ndarray]:
        """Which quotes stand where none may, if their lines begin outside of quotes, and if they begin inside."""
        before = self.raw[self.quotes - 1]
        if self.quotes[0] == 0:
            before[0] = LF
        after = self.raw.take(self.quotes + 1, mode="clip")
        if self.quotes[-1] == len(self.raw) - 1:
            after[-1] = LF
        allowed = np.zeros(256, np.bool_)
        allowed[[self.delimiter, LF, CR, self.quote]] = True  # beside a quote another one: a doubled quote
        opens = (np.arange(len(self.quotes)) - self.first[self.line_of]) % 2 == 0
        bad_opening, bad_closing = ~allowed[before], ~allowed[after]
        return np.where(opens, bad_opening, bad_closing), np.where(opens, bad_closing, bad_opening)

    def judged(self, expected: Set[int] | None) -> tuple[np.ndarray, np.ndarray, int]:
        """Of each line whether it is damaged, if a record begins there; the last line of its record, or 0; and how
        many lines can be judged, since more bytes might complete the record behind them."""
        n = len(self.starts)
        partner = np.zeros(n, np.int64)
        if not len(self.quotes):
            return np.zeros(n, np.bool_), partner, n
        is_damaged = np.bincount(self.line_of[self.bad[0]], minlength=n) > 0
        bad_before = np.append(0, np.cumsum(np.bincount(self.line_of[self.bad[1]], minlength=n)))
        odd = np.flatnonzero(self.counts % 2)
        begin, end = odd[:-1], odd[1:]
        fits = ~is_damaged[begin] & (bad_before[end + 1] == bad_before[begin + 1])
        if expected is not None and fits.any():
            which = np.flatnonzero(fits)
            widths = self.fields.count(self.starts[begin[which]], self.stops[end[which]])
            fits[which] = np.isin(widths, list(expected))
        fits = np.append(fits, False)[: len(odd)]
        # every other line of a run of lines that fit begins a record; the ones between end it
        at = np.arange(len(odd))
        run = np.maximum.accumulate(np.where(fits & ~np.append(False, fits[:-1])[: len(odd)], at, 0))
        chosen = fits & ((at - run) % 2 == 0)
        partner[odd[chosen]] = odd[np.flatnonzero(chosen) + 1]
        stop = n
        if len(odd) and not self.at_end and not (len(odd) > 1 and chosen[-2]):
            last = int(odd[-1])
            if not is_damaged[last] and bad_before[n] == bad_before[last + 1]:
                stop = last
        is_damaged[odd] = ~chosen
        return is_damaged, partner, stop

    def faults(self, lines: np.ndarray, records: np.ndarray) -> Damages:
        """What is wrong with the records whose first lines these are."""
        first, starts = self.first[lines], self.starts[lines]
        behind = first + self.counts[lines]  # the first quote behind the line
        odd = np.flatnonzero(self.counts % 2)
        at = np.searchsorted(odd, lines, side="right")
        has_next = at < len(odd)
        last = np.append(odd, len(self.starts) - 1)[at]  # line that could complete the record
        quote = np.where(has_next, behind - 1, len(self.quotes) - 1)
        is_bad = np.zeros(len(lines), np.bool_)
        for bad, lowest, highest in (
            (self.bad[1], behind, self.first[last] + self.counts[last]),
            (self.bad[0], first, behind),
        ):
            positions = np.append(np.flatnonzero(bad), len(self.quotes))
            found = positions[np.searchsorted(positions, lowest)]
            is_there = found < highest
            quote, is_bad = np.where(is_there, found, quote), is_bad | is_there
        places = self.quotes[quote]
        numbers, begins, _ = self.fields.around(starts, self.stops[last], places)
        closes = (quote - first) % 2 == 1
        spans_lines = begins < self.starts[self.line_of[quote]]
        kinds = np.where(is_bad & ~closes, MIDDLE, np.where(is_bad & ~spans_lines, BEHIND, UNCLOSED))
        line_stops = self.stops[np.searchsorted(self.starts, begins, side="right") - 1]
        ends = np.where(kinds == UNCLOSED, line_stops, self.fields.next(places + closes, line_stops))
        return Damages(records, kinds, numbers, begins, ends, np.zeros(len(lines), np.int64))
