"""A block: whole records as bytes, the place of each of them, and rejects made from them.

A *position* counts the records that Arrow is given, from 0. A *number* is the
record's number in the file, from 1.

What does not belong here: taking blocks from a file (``reader/reader.py``), parsing them
(``reader/arrow_csv.py``), finding where records end (``reader/records.py``).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.errors import RefusedError
from importer_dagster.model import Locate
from importer_dagster.reader.decoding import invalid_bytes, shown
from importer_dagster.reader.grammar import Grammar
from importer_dagster.reader.records import (
    BEHIND,
    CUT,
    ENCODING,
    LONG,
    MAX_RECORD,
    MIDDLE,
    NUL,
    UNCLOSED,
    Damages,
    Scan,
)
from importer_dagster.reader.spans import Fields, elements, line_ends, quotes_in, record_spans, taken
from importer_dagster.reject_schema import NO_REJECTS, REJECT_SCHEMA

# Up to this share of bad records in a block, they are rejected; above it, the file is refused: its encoding is another.
BAD_ENCODING_SHARE = 0.05
# The limits for small files: at most so many bad records, and at most this share.
FEW_BAD, FEW_BAD_SHARE = 3, 0.25
RAW_SHOWN = 65_536  # characters of a raw record that a reject keeps
VALUE_SHOWN = 1_000  # characters of a value of a damaged record that a reject keeps
CUT_CHARACTER = ": the file ends in the middle of a character"
RULES = ["quote.unclosed", "quote.damaged", "quote.damaged", "record.long", "nul", "encoding", "encoding"]
_OR_DECLARE = "or declare quoteChar: null if quotes mean nothing"
WORDS = {
    BEHIND: f"text stands behind a closing quote; write a quote inside of a quoted value twice, {_OR_DECLARE}",
    MIDDLE: "a quote stands in the middle of a value without quotes; put the value in quotes and write it twice, "
    + _OR_DECLARE,
    LONG: f"the line is longer than {MAX_RECORD >> 20} MB, which no record may be",
}
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
        return len(self.numbers) if self.scan is None else len(self.scan.starts)

    def split(self) -> Scan:
        """The records of a regular block as a scan would list them."""
        starts, ends = self._regular_spans()
        return Scan(starts, ends, Damages.of([]), len(self.data))

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
        scan, bad = self.scan, self._damaged_bytes()
        scan.damaged = scan.damaged.and_others(bad)
        wrong = int(np.count_nonzero(bad.kinds == ENCODING))
        records = len(scan.starts)
        few = wrong <= BAD_ENCODING_SHARE * records or (wrong <= FEW_BAD and wrong <= FEW_BAD_SHARE * records)
        if few:
            return
        beyond_ascii = np.flatnonzero(np.frombuffer(self.data, np.uint8) >= 0x80)
        if wrong > len(self._owners(beyond_ascii)[0]):
            first = bad.kinds >= ENCODING
            samples = bad.records[first][:2_000]
            pairs = zip(scan.starts[samples].tolist(), scan.ends[samples].tolist(), strict=True)
            sample = b"\n".join(self.data[a:b] for a, b in pairs)
            words = f"{int(first.sum())} of the first {records} records hold bytes that are none"
            place = bad.places[first][:1]
            raise refuse(sample, words, int(self.lines_at(place)[0]), self.offset + int(place[0]))

    def _owners(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sound records that these places are in, and the first place in each."""
        assert self.scan
        records = np.searchsorted(self.scan.starts, places, side="right") - 1
        inside = (records >= 0) & (places < self.scan.ends[records])
        records, places = records[inside], places[inside]
        sound = self.scan.is_sound[records]
        owners, first = np.unique(records[sound], return_index=True)
        return owners, places[sound][first]

    def _damaged_bytes(self) -> Damages:
        """The NUL and invalid bytes in sound records, as damage of their fields."""
        assert self.scan
        scan, raw = self.scan, np.frombuffer(self.data, np.uint8)
        if not len(scan.starts):
            return Damages.of([])
        nul, nul_places = self._owners(np.flatnonzero(raw == 0))
        bad, bad_places = self._owners(invalid_bytes(self.data))
        alone = ~np.isin(bad, nul)
        records = np.concatenate([nul, bad[alone]])
        places = np.concatenate([nul_places, bad_places[alone]])
        kinds = np.where(np.arange(len(records)) < len(nul), NUL, ENCODING)
        starts, ends = scan.starts[records], scan.ends[records]
        # only the last record of a file can end inside of a character
        for last in np.flatnonzero((ends == len(raw)) & (kinds == ENCODING)):
            kinds[last] = CUT if _ends_in_character(self.data[int(starts[last]) :]) else ENCODING
        return Damages(records, kinds, *self._fields_at(starts, ends, places), places)

    def _fields_at(
        self, starts: np.ndarray, ends: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The fields that these places of records are in: numbers, starts and ends, without quotes around them."""
        grammar, raw = self._grammar, np.frombuffer(self.data, np.uint8)
        if not grammar.is_plain:
            triples = zip(starts.tolist(), ends.tolist(), places.tolist(), strict=True)
            found = [(a, *grammar.field_around(self.data[a:b], place - a)) for a, b, place in triples]
            offsets, numbers, begins, stops = np.array(found, np.int64).reshape(-1, 4).T
            return numbers, offsets + begins, offsets + stops
        quotes = quotes_in(self.data, grammar.quote[0] if grammar.quote else None)
        numbers, begins, stops = Fields(self.data, grammar.delimiter[0], quotes).around(starts, ends, places)
        if grammar.quote:
            edges = (raw[begins] == grammar.quote[0]) & (raw[stops - 1] == grammar.quote[0])
            is_quoted = edges & (stops - begins > 1)
            begins, stops = begins + is_quoted, stops - is_quoted
        return numbers, begins, stops

    def for_arrow(self) -> bytes:
        """The bytes that Arrow is to parse, b"" where there is no record.

        Sound records of a scan are written in the plain dialect. Beginning and end are changed
        where Arrow would misread them.
        """
        data = self._given
        if self.scan is not None and self._grammar.is_plain:
            data = self.bytes_of(np.flatnonzero(self.scan.is_sound))
        elif self.scan is not None:
            records = (self.data[a:b] for a, b in self.scan.sound.tolist())
            data = b"\n".join([*(self._grammar.write(self._grammar.fields(r)) for r in records), b""])
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

    def bytes_of(self, records: np.ndarray) -> bytes:
        """The bytes of some records of a scan, each with the first byte of its line end."""
        assert self.scan
        starts, ends = self.scan.starts[records], self.scan.ends[records]
        return taken(self.data, starts, np.minimum(ends + 1, len(self.data)))

    def number_records(self, parsed: int) -> None:
        """Give every record its number; ``parsed`` is how many records Arrow found."""
        if self.scan is None:
            self.numbers = np.arange(self.first_record, self.first_record + parsed, dtype=np.int64)
            return
        self.numbers = self.first_record + np.flatnonzero(self.scan.is_sound)

    def spans(self) -> tuple[np.ndarray, np.ndarray]:
        """Start and end (without line end) of every record that Arrow was given."""
        if self._spans is None:
            if self.scan is None:
                self._spans = self._regular_spans()
            else:
                sound = self.scan.sound
                self._spans = sound[:, 0], sound[:, 1]
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

    def damage_rejects(self, header: Sequence[str], encoding: str) -> pa.Table:
        """The damaged records as rejects."""
        if self.scan is None or not len(self.scan.damaged):
            return NO_REJECTS
        scan, damaged = self.scan, self.scan.damaged
        starts = scan.starts[damaged.records]
        lines_of_fault = self.lines_at(damaged.starts)
        bad = damaged.places, damaged.places - starts + 1
        messages = pa.nulls(len(damaged), pa.string())
        for kind in np.unique(damaged.kinds).tolist():
            mine = damaged.kinds == kind
            words = _messages(self.data, kind, lines_of_fault[mine], bad[0][mine], bad[1][mine], encoding)
            messages = pc.replace_with_mask(messages, pa.array(mine), words)
        rules = one_of(RULES, damaged.kinds)
        columns = column_names(header, damaged.fields)
        values = shown_texts(self.data, damaged.starts, damaged.ends)
        raws = raw_texts(self.data, starts, scan.ends[damaged.records])
        numbers, lines = self.first_record + damaged.records, self.lines_at(starts)
        return pa.table(
            [pa.array(numbers), pa.array(lines), columns, values, rules, messages, raws], schema=REJECT_SCHEMA
        )

    def rejects_at(
        self,
        positions: np.ndarray,
        columns: pa.Array,
        values: pa.Array,
        rules: pa.Array,
        messages: pa.Array,
    ) -> pa.Table:
        """Rejects of records that Arrow was given, with a column, value, rule and message for each."""
        if not len(positions):
            return NO_REJECTS
        starts, ends = (places[positions] for places in self.spans())
        numbers = pa.array(self.numbers[positions], pa.int64()), pa.array(self.lines_at(starts), pa.int64())
        raws = raw_texts(self.data, starts, ends)
        return pa.table([*numbers, columns, values, rules, messages, raws], schema=REJECT_SCHEMA)

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


def _messages(
    data: bytes, kind: int, lines: np.ndarray, places: np.ndarray, in_record: np.ndarray, encoding: str
) -> pa.Array:
    """What is wrong with damaged records of one kind."""
    if kind == UNCLOSED:
        numbers = pc.cast(pa.array(lines), pa.string())
        behind = " and is never closed where a value may end"
        return pc.binary_join_element_wise("a quote opens in line ", numbers, behind, "")
    if kind in WORDS:
        return pa.repeat(pa.scalar(WORDS[kind]), len(lines))
    numbers = pc.cast(pa.array(in_record), pa.string())
    if kind == NUL:
        behind = " of the record, which PostgreSQL cannot store"
        return pc.binary_join_element_wise("a NUL byte at position ", numbers, behind, "")
    raw = np.append(np.frombuffer(data, np.uint8), np.zeros(2, np.uint8)).astype(np.int64)
    byte = raw[places]
    if encoding not in ("utf-8", "ascii"):  # a lone surrogate in UTF-8 stands for the byte
        byte = (raw[places + 1] << 6 | raw[places + 2] & 0x3F) & 0xFF
    names = pa.array([f"byte 0x{b:02x} at position " for b in range(256)]).take(pa.array(byte))
    behind = f" of the record is not {encoding.upper()}{CUT_CHARACTER if kind == CUT else ''}"
    return pc.binary_join_element_wise(names, numbers, behind, "")


def _shown_value(value: bytes) -> str:
    return _cut(shown(value[: 4 * VALUE_SHOWN]), VALUE_SHOWN)


def raw_texts(data: bytes, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    """The texts of many records of a block as rejects keep them; the records ascend and do not overlap.

    Records of valid text are taken from the bytes all at once, 40 times as fast as one by one.
    """
    return _texts(data, starts, ends, RAW_SHOWN)


def shown_texts(data: bytes, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    """The texts of many values of a block as rejects keep them; fast where they ascend and do not overlap."""
    return _texts(data, starts, ends, VALUE_SHOWN)


def _texts(data: bytes, starts: np.ndarray, ends: np.ndarray, most: int) -> pa.Array:
    if not len(starts):
        return pa.array([], pa.string())
    is_easy = ((ends - starts) <= most) & (starts >= np.append(0, np.maximum.accumulate(ends)[:-1]))
    is_easy &= ~_has(data, starts, ends, np.frombuffer(data, np.uint8) == 0) if b"\0" in data else True
    is_easy &= ~_has(data, starts, ends, invalid_bytes(data)) if not data.isascii() else True
    easy, hard = np.flatnonzero(is_easy), np.flatnonzero(~is_easy)
    texts = pa.array([], pa.string())
    if len(easy):
        texts = pc.cast(elements(data, starts[easy], ends[easy]), pa.string())
    if not len(hard):
        return texts
    pairs = zip(starts[hard].tolist(), ends[hard].tolist(), strict=True)
    more = pa.array([_cut(shown(data[a : min(b, a + 4 * most)]), most) for a, b in pairs], pa.string())
    order = np.argsort(np.concatenate([easy, hard]), kind="stable")
    return pa.concat_arrays([texts, more]).take(pa.array(order))


def _has(data: bytes, starts: np.ndarray, ends: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Which of the pieces of the bytes have one of these places."""
    places = np.flatnonzero(where) if where.dtype == np.bool_ else where
    has: np.ndarray = np.searchsorted(places, starts) < np.searchsorted(places, ends)
    return has


def column_name(header: Sequence[str], index: int) -> str:
    """A column's name, or "column N" (from 1) where the header has no name for it."""
    return header[index] if index < len(header) and header[index] else f"column {index + 1}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


def column_names(header: Sequence[str], indexes: np.ndarray) -> pa.Array:
    """The names of many columns."""
    found, numbers = np.unique(indexes, return_inverse=True)
    return one_of([column_name(header, i) for i in found.tolist()], numbers)


def one_of(words: Sequence[str], numbers: np.ndarray) -> pa.Array:
    """For each number the word with this number; fast where all are the same."""
    if len(numbers) and (numbers == numbers[0]).all():
        return pa.repeat(pa.scalar(words[int(numbers[0])]), len(numbers))
    return pa.array(words, pa.string()).take(pa.array(numbers))


def _ends_in_character(record: bytes) -> bool:
    try:
        record.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False
