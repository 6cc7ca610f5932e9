"""A block: whole records as bytes, the place of each of them, and rejects made from them.

A *position* counts the records that Arrow is given, from 0. A *number* is the
record's number in the file, from 1.

What does not belong here: taking blocks from a file (``reader/reader.py``), parsing them
(``reader/arrow_csv.py``), finding where records end (``reader/records.py``).
"""

from __future__ import annotations

import codecs
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

# Up to this share of bad records in a block, they are rejected; above it, the file is refused: its encoding is another.
BAD_ENCODING_SHARE = 0.05
# The limits for small files: at most so many bad records, and at most this share.
FEW_BAD, FEW_BAD_SHARE = 3, 0.25
RAW_SHOWN = 65_536  # characters of a raw record that a reject keeps
VALUE_SHOWN = 1_000  # characters of a value of a damaged record that a reject keeps
CUT_CHARACTER = ": the file ends in the middle of a character"
DAMAGED_CHARACTER = "\ufffd".encode()  # programs write it in place of bytes that they could not decode

Refuse = Callable[[bytes, str, int, int], RefusedError]


class Block:
    """A part of the text that holds whole records only.

    ``line`` and ``offset`` are where it starts in the file, ``first_record`` is the number of its first record.
    ``scan`` is None for a regular block: Arrow is given all of it. ``given`` are the bytes for Arrow: ``data``
    without blanks that belong to no value. ``structure`` is ``data`` with escaped bytes replaced by x, so that
    quotes and line ends alone tell where records end.
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
        self.is_ascii = False  # the reader sets it when it has checked the bytes
        self.numbers: np.ndarray = np.zeros(0, np.int64)
        self._spans: tuple[np.ndarray, np.ndarray] | None = None
        self._line_ends: np.ndarray | None = None

    @property
    def count(self) -> int:
        """How many records it has, damaged ones included; known once they are numbered."""
        return len(self.numbers) if self.scan is None else len(self.scan.order)

    def split(self) -> Scan:
        """The records of a regular block as a scan would list them."""
        starts, ends = self._regular_spans()
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        return Scan(spans, [], [True] * len(spans), len(self.data))

    def _regular_spans(self) -> tuple[np.ndarray, np.ndarray]:
        quote = self._grammar.quote
        lines = self._lines() if self._structure is self.data else line_ends(self._structure)
        if len(lines) + (not self.data.endswith((b"\n", b"\r"))) == self.count:
            quote = (
                None  # as many line ends as records: none is inside of quotes, so do not search for quotes
            )
        starts, ends = record_spans(self._structure, lines, quote[0] if quote else None)
        if self._grammar.skip_space:
            filled = np.array(
                [not self._grammar.is_blank(self.data[a:b]) for a, b in zip(starts, ends, strict=True)], bool
            )
            starts, ends = starts[filled], ends[filled]
        return starts, ends

    def check_bytes(self, encoding: str, refuse: Refuse) -> None:
        """Move records with NUL or invalid bytes from the sound records to the damaged ones.

        Raises RefusedError where so many are invalid that the file must be in another encoding.
        """
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
        self.scan.sound, self.scan.damaged = sound, [damage[k] for k in sorted(damage)]

        records = len(starts)
        few = bad <= BAD_ENCODING_SHARE * records or (bad <= FEW_BAD and bad <= FEW_BAD_SHARE * records)
        if not few and bad > sum(not self.data[a:b].isascii() for a, b in sound):
            wrong = [d for d in self.scan.damaged if d.rule == "encoding"]
            first = self.data[wrong[0].start : wrong[0].end]
            place = wrong[0].start + first_bad_byte(first)
            sample = b"\n".join(self.data[d.start : d.end] for d in wrong[:2_000])
            words = f"{len(wrong)} of the first {records} records hold bytes that are none"
            raise refuse(sample, words, int(self.lines_at(np.array([place]))[0]), self.offset + place)

    def for_arrow(self) -> bytes:
        """The bytes that Arrow is to parse, b"" where there is no record.

        Sound records of a scan are written in the plain dialect. Beginning and end are changed
        where Arrow would misread them.
        """
        data = self._given
        if self.scan is not None:
            records = (self.data[a:b] for a, b in self.scan.sound)
            if not self._grammar.is_plain:
                records = (self._grammar.write(self._grammar.fields(r)) for r in records)
            data = b"\n".join([*records, b""])
        if not data.lstrip(b"\r\n"):  # copies nothing unless there are line ends to strip
            return b""
        if not data.endswith((b"\n", b"\r")):
            # without a line end, Arrow takes an empty last value for a quoted one if the value before was quoted
            data += b"\n"
        if data.startswith(codecs.BOM_UTF8):
            data = (
                codecs.BOM_UTF8 + data
            )  # Arrow drops one byte order mark; inside of a file it is part of the value
        return data

    def number_records(self, parsed: int) -> None:
        """Give every record its number; ``parsed`` is how many records Arrow found."""
        if self.scan is None:
            self.numbers = np.arange(self.first_record, self.first_record + parsed, dtype=np.int64)
            return
        order = np.array(self.scan.order, dtype=bool)
        everything = np.arange(self.first_record, self.first_record + len(order), dtype=np.int64)
        self.numbers = everything[order]

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
        """A function that finds line and raw text of the rows of a batch; row i is the record at ``positions[i]``."""

        def locate(indexes: np.ndarray) -> tuple[pa.Array, pa.Array]:
            starts, ends = self.spans()
            at = positions[indexes]
            return pa.array(self.lines_at(starts[at]), pa.int64()), raw_texts(self.data, starts[at], ends[at])

        return locate

    # --- rejects ---

    def damage_rejects(self, header: Sequence[str]) -> pa.Table:
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
        """Rejects of records that Arrow was given, with a column, value, rule and message for each."""
        at = np.array(positions, dtype=np.int64)
        if not len(at):
            return NO_REJECTS
        starts, ends = self.spans()
        raws = [self.data[a:b] for a, b in zip(starts[at].tolist(), ends[at].tolist(), strict=True)]
        return reject_table(
            self.numbers[at], self.lines_at(starts[at]), columns, values, rules, messages, raws
        )

    def equal_rejects_at(
        self, positions: np.ndarray, column: str, value: bytes, rule: str, message: str
    ) -> pa.Table:
        """Rejects of records that Arrow was given, all for the same reason; fast, as there may be millions."""
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
    """Rejects of whole records, as a table of ``REJECT_SCHEMA``."""
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
    """The texts of many records of a block as rejects keep them; the records ascend and do not overlap.

    Records of valid text are taken from the bytes all at once, 40 times as fast as one by one.
    """
    if len(starts) and data.find(b"\0") < 0 and int((ends - starts).max()) <= RAW_SHOWN:
        # elements 0, 2, 4 … are the records, elements 1, 3, 5 … the bytes between them
        offsets = np.empty(2 * len(starts), np.int64)
        offsets[0::2], offsets[1::2] = starts, ends
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        pieces = pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
        records = pieces.take(pa.array(np.arange(0, len(offsets) - 1, 2)))
        with suppress(pa.ArrowInvalid):  # not UTF-8
            return pc.cast(records, pa.string())
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    return pa.array([raw_text(data[a:b]) for a, b in pairs], pa.string())


def raw_text(record: bytes) -> str:
    """The text of a record as a reject keeps it."""
    return _cut(shown(record[: 4 * RAW_SHOWN]), RAW_SHOWN)


def column_name(header: Sequence[str], index: int) -> str:
    """A column's name, or "column N" (from 1) where the header has no name for it."""
    return header[index] if index < len(header) and header[index] else f"column {index + 1}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


def _byte_fault(data: bytes, start: int, end: int, grammar: Grammar, encoding: str) -> Damage | None:
    """The NUL or invalid byte in the record ``data[start:end]``, as damage of its field; None if there is none."""
    record = data[start:end]
    place = record.find(b"\0")
    if place >= 0:
        rule = "nul"
        message = f"a NUL byte at position {place + 1} of the record, which PostgreSQL cannot store"
    else:
        try:
            record.decode()
            return None
        except UnicodeDecodeError as error:
            rule, place = "encoding", error.start
            # only the last record of a file can end inside of a character
            cut = error.reason == "unexpected end of data" and end == len(data)
        byte = shown(record[place : place + 3])[:4] if encoding != "utf-8" else f"\\x{record[place]:02x}"
        byte = byte.removeprefix("\\x")
        message = f"byte 0x{byte} at position {place + 1} of the record is not {encoding.upper()}"
        message += CUT_CHARACTER if cut else ""
    for index, (value, _) in enumerate(grammar.fields(record)):
        if b"\0" in value or first_bad_byte(value) < len(value):
            return Damage(start, end, rule, message, index, start, 0, value)
    return Damage(start, end, rule, message, 0, start, 0, record)  # it is in blanks that belong to no field
