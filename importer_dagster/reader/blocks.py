"""A block: whole records as bytes, where each of them is, and rejects made from them.

A *position* counts the records that Arrow is given, from 0; a *number* is the
record's number in the file.

What does not belong here: taking blocks off a file and parsing them (``reader/reader.py``, ``reader/arrow_csv.py``),
where records end (``reader/records.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.errors import RefusedError
from importer_dagster.model import Locate
from importer_dagster.reader.decoding import first_bad_byte, shown
from importer_dagster.reader.grammar import Grammar
from importer_dagster.reader.records import Damage, Scan, line_ends, record_spans
from importer_dagster.reject_schema import NO_REJECTS, REJECT_SCHEMA

# Up to this share of a block's records, bad bytes are theirs; above it the file is in another encoding.
BAD_ENCODING_SHARE = 0.05
FEW_BAD, FEW_BAD_SHARE = 3, 0.25  # in a small file, a few are still few
RAW_SHOWN = 65_536  # characters of a raw record that a reject keeps
CUT_CHARACTER = ": the file ends in the middle of a character"
VALUE_SHOWN = 1_000  # the same of a value of a damaged record
DAMAGED_CHARACTER = "\ufffd".encode()  # what a program writes in place of what it could not decode

Refuse = Callable[[bytes, str, int, int], RefusedError]


class Block:
    """A stretch of whole records.

    ``scan`` is None where Arrow is given all of it: ``given``, which is ``data``
    but for blanks that belong to no value. ``structure`` is ``data`` but for
    escaped bytes, so that records can be told by quotes and line ends alone.
    """

    def __init__(
        self,
        data: bytes,
        line: int,
        offset: int,
        first_record: int,
        grammar: Grammar,
        scan: Scan | None,
        *,
        structure: bytes | None = None,
        given: bytes | None = None,
    ) -> None:
        self.data, self.line, self.offset, self.first_record = data, line, offset, first_record
        self.scan = scan
        self._grammar = grammar
        self._structure = data if structure is None else structure
        self._given = data if given is None else given
        self.is_ascii = False  # as far as is known
        self.numbers: np.ndarray = np.zeros(0, np.int64)
        self.count = 0
        self._spans: tuple[np.ndarray, np.ndarray] | None = None
        self._line_ends: np.ndarray | None = None

    def split(self) -> Scan:
        """The records of a regular block one by one, as a scan would find them."""
        starts, ends = self._regular_spans()
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        return Scan(spans, [], [True] * len(spans), len(self.data))

    def _regular_spans(self) -> tuple[np.ndarray, np.ndarray]:
        quote = self._grammar.quote
        lines = self._lines() if self._structure is self.data else line_ends(self._structure)
        if len(lines) + (not self.data.endswith((b"\n", b"\r"))) == self.count:
            quote = None  # as many as records: none of them is in quotes, which saves looking for these
        starts, ends = record_spans(self._structure, lines, quote[0] if quote else None)
        if self._grammar.skip_space:
            filled = np.array(
                [not self._grammar.is_blank(self.data[a:b]) for a, b in zip(starts, ends, strict=True)], bool
            )
            starts, ends = starts[filled], ends[filled]
        return starts, ends

    def judge_bytes(self, encoding: str, refuse: Refuse) -> None:
        """Move records with NUL or invalid bytes from the sound ones to the damaged."""
        assert self.scan
        if self.data.isascii() and b"\0" not in self.data:
            return
        damage = {d.start: d for d in self.scan.damaged}
        sound, bad = [], 0
        for start, end in self.scan.sound:
            fault = _byte_fault(self.data, start, end, self._grammar, encoding)
            if fault is None:
                sound.append((start, end))
            else:
                damage[start] = fault
                bad += fault.rule == "encoding" and CUT_CHARACTER not in fault.message
        starts = sorted([*(start for start, _ in sound), *damage])
        self.scan.order = [start not in damage for start in starts]
        if not _are_few(bad, len(starts)) and bad > _valid_non_ascii(self.data, sound):
            self._refuse_encoding(damage, refuse)
        self.scan.sound, self.scan.damaged = sound, [damage[k] for k in sorted(damage)]

    def _refuse_encoding(self, damage: dict[int, Damage], refuse: Refuse) -> None:
        bad = [d for _, d in sorted(damage.items()) if d.rule == "encoding"]
        first = bad[0]
        place = first.start + first_bad_byte(self.data[first.start : first.end])
        sample = b"\n".join(self.data[d.start : d.end] for d in bad[:2_000])
        line = int(self.lines_at(np.array([place]))[0])
        records = f"{len(bad)} of the first {len(self.scan.order) if self.scan else 0} records hold bytes that are none"
        raise refuse(sample, records, line, self.offset + place)

    def for_arrow(self) -> bytes:
        """The bytes that Arrow is to parse; what a scan found is written in the plain dialect."""
        if self.scan is None:
            return self._given
        records = (self.data[a:b] for a, b in self.scan.sound)
        if not self._grammar.is_plain:
            records = (self._grammar.write(self._grammar.fields(r)) for r in records)
        return b"\n".join([*records, b""])

    def settle(self, parsed: int) -> None:
        """Number the records, now that it is known how many Arrow found."""
        if self.scan is None:
            self.numbers = np.arange(self.first_record, self.first_record + parsed, dtype=np.int64)
            self.count = parsed
            return
        order = np.array(self.scan.order, dtype=bool)
        everything = np.arange(self.first_record, self.first_record + len(order), dtype=np.int64)
        self.numbers, self.count = everything[order], len(order)

    def spans(self) -> tuple[np.ndarray, np.ndarray]:
        """Start and end (without line end) of every record that Arrow was given."""
        if self._spans is None:
            if self.scan is None:
                self._spans = self._regular_spans()
            else:
                pairs = np.array(self.scan.sound, dtype=np.int64).reshape(-1, 2)
                self._spans = pairs[:, 0], pairs[:, 1]
        return self._spans

    def record(self, position: int) -> bytes:
        """The bytes of a record that Arrow was given."""
        starts, ends = self.spans()
        return self.data[int(starts[position]) : int(ends[position])]

    def lines_at(self, offsets: np.ndarray) -> np.ndarray:
        """Physical line numbers of places in the block."""
        return self.line + np.searchsorted(self._lines(), offsets)

    def _lines(self) -> np.ndarray:
        if self._line_ends is None:
            self._line_ends = line_ends(self.data)
        return self._line_ends

    def locator(self, positions: np.ndarray) -> Locate:
        """Finds lines and raw text of the rows of a batch, which are at these positions."""

        def locate(indexes: np.ndarray) -> tuple[pa.Array, pa.Array]:
            starts, ends = self.spans()
            at = positions[indexes]
            return pa.array(self.lines_at(starts[at]), pa.int64()), raw_texts(self.data, starts[at], ends[at])

        return locate

    # --- rejects ---

    def damage_rows(self, header: Sequence[str]) -> pa.Table:
        """The damaged records as rejects."""
        if self.scan is None or not self.scan.damaged:
            return NO_REJECTS
        damaged = self.scan.damaged
        everything = np.arange(self.first_record, self.first_record + len(self.scan.order))
        lines = self.lines_at(np.array([d.start for d in damaged]))
        return reject_table(
            everything[~np.array(self.scan.order, dtype=bool)],
            lines,
            [column_name(header, d.field) for d in damaged],
            [d.value for d in damaged],
            [d.rule for d in damaged],
            [
                d.message.replace("{line}", str(n + d.lines))
                for d, n in zip(damaged, lines.tolist(), strict=True)
            ],
            [self.data[d.start : d.end] for d in damaged],
        )

    def rejects_at(
        self,
        positions: Sequence[int],
        columns: Sequence[str],
        values: Sequence[bytes],
        rules: Sequence[str],
        messages: Sequence[str],
    ) -> pa.Table:
        """Rejects of records that Arrow was given."""
        at = np.array(positions, dtype=np.int64)
        if not len(at):
            return NO_REJECTS
        starts, ends = self.spans()
        raws = [self.data[a:b] for a, b in zip(starts[at].tolist(), ends[at].tolist(), strict=True)]
        return reject_table(
            self.numbers[at], self.lines_at(starts[at]), columns, values, rules, messages, raws
        )

    def rejects_alike(
        self, positions: np.ndarray, column: str, value: bytes, rule: str, message: str
    ) -> pa.Table:
        """Rejects of records that Arrow was given and that all are the same: a file may be full of them."""
        if not len(positions):
            return NO_REJECTS
        starts, ends = (places[positions] for places in self.spans())
        words = (column, _shown_value(value), rule, message)
        same = [pa.repeat(pa.scalar(word), len(positions)) for word in words]
        numbers = pa.array(self.numbers[positions], pa.int64()), pa.array(self.lines_at(starts), pa.int64())
        return pa.table([*numbers, *same, raw_texts(self.data, starts, ends)], schema=REJECT_SCHEMA)


def _shown_value(value: bytes) -> str:
    return _cut(shown(value[: 4 * VALUE_SHOWN]), VALUE_SHOWN)


def reject_table(
    numbers: np.ndarray,
    lines: np.ndarray,
    columns: Sequence[str],
    values: Sequence[bytes],
    rules: Sequence[str],
    messages: Sequence[str],
    raws: Sequence[bytes],
) -> pa.Table:
    """Rejects of whole records (reject_tables.REJECT_SCHEMA)."""
    return pa.table(
        [
            pa.array(numbers, pa.int64()),
            pa.array(lines, pa.int64()),
            pa.array(columns, pa.string()),
            pa.array([_shown_value(v) for v in values], pa.string()),
            pa.array(rules, pa.string()),
            pa.array(messages, pa.string()),
            pa.array([raw_text(r) for r in raws], pa.string()),
        ],
        schema=REJECT_SCHEMA,
    )


def raw_texts(data: bytes, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    """:func:`raw_text` of many records of a block, given by ascending places that do not overlap.

    Records of valid text are cut out of the bytes together, forty times as fast as one by one.
    """
    if len(starts) and data.find(b"\0") < 0 and int((ends - starts).max()) <= RAW_SHOWN:
        # every other element is a record, those between are what lies between them
        offsets = np.empty(2 * len(starts), np.int64)
        offsets[0::2], offsets[1::2] = starts, ends
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        pieces = pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
        records = pieces.take(pa.array(np.arange(0, len(offsets) - 1, 2)))
        with suppress(pa.ArrowInvalid):  # bytes that are no text
            return pc.cast(records, pa.string())
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    return pa.array([raw_text(data[a:b]) for a, b in pairs], pa.string())


def raw_text(record: bytes) -> str:
    """The text of a record as a reject keeps it."""
    return _cut(shown(record[: 4 * RAW_SHOWN]), RAW_SHOWN)


def column_name(header: Sequence[str], index: int) -> str:
    """A column's name, or its place where the header has no name for it."""
    return header[index] if index < len(header) and header[index] else f"column {index + 1}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


def _are_few(bad: int, records: int) -> bool:
    return bad <= BAD_ENCODING_SHARE * records or (bad <= FEW_BAD and bad <= FEW_BAD_SHARE * records)


def _byte_fault(data: bytes, start: int, end: int, grammar: Grammar, encoding: str) -> Damage | None:
    record = data[start:end]
    if b"\0" in record:
        place = record.find(b"\0")
        rule, message = (
            "nul",
            f"a NUL byte at position {place + 1} of the record, which PostgreSQL cannot store",
        )
    else:
        try:
            record.decode()
            return None
        except UnicodeDecodeError as error:
            place = error.start
            cut = error.reason == "unexpected end of data" and end == len(
                data
            )  # only the file can end like this
        byte = shown(record[place : place + 3])[:4] if encoding != "utf-8" else f"\\x{record[place]:02x}"
        words = f"byte 0x{byte.removeprefix(chr(92) + 'x')} at position {place + 1} of the record is not"
        rule, message = "encoding", f"{words} {encoding.upper()}{CUT_CHARACTER if cut else ''}"
    index, value = _field_at_fault(record, grammar)
    return Damage(start, end, rule, message, index, start, 0, value)


def _field_at_fault(record: bytes, grammar: Grammar) -> tuple[int, bytes]:
    """The first field with a NUL or a bad byte."""
    for index, (value, _) in enumerate(grammar.fields(record)):
        if b"\0" in value or first_bad_byte(value) < len(value):
            return index, value
    return 0, record  # in blanks that do not belong to a field


def _valid_non_ascii(data: bytes, spans: Sequence[tuple[int, int]]) -> int:
    return sum(not data[a:b].isascii() for a, b in spans)
