"""Reads the bytes of a delivery into batches of text columns; damaged records become rejects.

The text is taken in blocks, each cut at the end of a record and parsed by Arrow. A batch
keeps the bytes that it was made of, so that a reject can be traced to its line and raw text.

Blank lines and comment lines are no records. Damaged, short and long records are records, and are
counted. Record numbers start at 1 behind the header. Neither they nor what becomes of a record depend
on the size of the blocks.

What does not belong here: opening and unpacking (``source/unpack.py``), decoding
(``reader/decoding.py``), the grammar (``reader/grammar.py``, ``reader/records.py``), parsing by Arrow
(``reader/arrow_csv.py``), the header (``reader/header.py``), records that do not fit it
(``reader/ragged_rows.py``), what the header means (``validation/drift.py``), what a value means
(``validation/parse.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from importer_dagster.errors import RefusedError
from importer_dagster.model import Delivery, TextBatch
from importer_dagster.reader.arrow_csv import WrongWidths
from importer_dagster.reader.blocks import DAMAGED_CHARACTER, Block
from importer_dagster.reader.decoding import TextSource, Window, is_utf8
from importer_dagster.reader.footer import without_footer
from importer_dagster.reader.grammar import Grammar
from importer_dagster.reader.header import read_header
from importer_dagster.reader.ragged_rows import RaggedRows
from importer_dagster.reader.records import MAX_RECORD, scan, scan_records
from importer_dagster.reader.spans import (
    blanks_to_skip,
    cut,
    line_ends,
    quotes_in,
    regular,
    without_escaped,
)
from importer_dagster.source.unpack import Unpacked, fingerprint_url
from importer_dagster.spec.table import TableSpec, once_per_spec

BLOCK = 7 << 20  # bytes; with 17 columns of different types, an import then takes at most 450 MB of memory
WIDE, LONG_VALUE = (
    50,
    8,
)  # with so many columns and so many bytes in a value on average, a block is twice as long


def fingerprint(delivery: Delivery) -> tuple[str, int]:
    """(sha256 as hex, size in bytes) of a delivery as it is stored."""
    return fingerprint_url(delivery.url, delivery.inbox)


def open_delivery(
    delivery: Delivery,
    spec: TableSpec,
    *,
    block_size: int = BLOCK,
    also: str | None = None,
    data: bytes | None = None,
) -> Reader:
    """Open a delivery and read its header; the result is a context manager.

    ``also`` names a hash to make besides sha256. ``data`` are the bytes of the file as it
    is stored, if they were read before. Raises RefusedError for a file that cannot be this
    type's CSV at all, SourceUnavailable where trying again may help.
    """
    unpacked = Unpacked(delivery.url, delivery.inbox, also, data)
    try:
        return Reader(unpacked, spec, block_size)
    except BaseException:
        unpacked.close()
        raise


@once_per_spec
def _grammar(spec: TableSpec) -> Grammar:
    return Grammar(spec.dialect, (t for f in spec.fields for t in spec.missing_values(f)))


class Reader:
    """Reads one delivery. ``header`` and its line ``header_line`` are known at once; call ``batches`` once only.

    ``sha256`` and ``size`` are of the file as it is stored. They, ``warnings`` and
    ``trailer`` are complete after the last batch.
    """

    def __init__(self, unpacked: Unpacked, spec: TableSpec, block_size: int) -> None:
        self._unpacked, self._spec = unpacked, spec
        self._source = TextSource(unpacked, spec.encoding)
        self._window = Window(self._source, block_size)
        self._grammar = _grammar(spec)
        self._head = read_header(self._window, spec, self._grammar)
        self.warnings: list[str] = [*self._source.warnings, *self._head.warnings]
        self._trailer: list[str] = []
        self._record = 1  # number of the next record
        self._ragged_rows = RaggedRows(spec, self._grammar, self._head)
        self._cut_line = (
            False  # the block ended inside of a line that is too long; the rest of it is to be skipped
        )
        self._damaged_text: tuple[int, int] | None = (
            None  # records with U+FFFD: (line of the first, how many)
        )

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._unpacked.close()

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the header's columns."""
        return self._head.names

    @property
    def header_line(self) -> int:
        """The physical line of the header."""
        return self._head.line

    @property
    def _quote(self) -> int | None:
        return self._grammar.quote[0] if self._grammar.quote else None

    @property
    def sha256(self) -> str:
        """Hash of the stored file."""
        return self._unpacked.sha256

    @property
    def digest(self) -> str | None:
        """The hash that ``also`` named, as hex."""
        return self._unpacked.digest

    @property
    def size(self) -> int:
        """Size of the stored file in bytes."""
        return self._unpacked.bytes

    @property
    def trailer(self) -> str | None:
        """The text of the last footer; None if the dialect declares no footers."""
        return self._trailer[0] if self._trailer else None

    @property
    def is_short(self) -> bool:
        """Whether all of the text was read already, so that it makes one batch only."""
        return self._window.ended

    def select(self, positions: Sequence[int]) -> None:
        """Read only the columns at these positions of the header; batches name them by their position as text."""
        self._ragged_rows.selected = tuple(positions)

    @property
    def selected(self) -> Sequence[int]:
        """The positions of the columns that are read."""
        return self._ragged_rows.selected

    def batches(self) -> Iterator[TextBatch]:
        """The records in order; each is a row of one batch, or among its rejects."""
        yield from without_footer(
            self._all_batches(), self._spec.dialect, self.header, self.warnings, self._trailer
        )
        if self._damaged_text is not None:
            line, count = self._damaged_text
            self.warnings.append(
                f"{count:,} {'record holds' if count == 1 else 'records hold'} U+FFFD, the first in line {line}: text "
                "that was damaged before the file was written; it is kept as it is"
            )
        self._unpacked.finish()

    def _all_batches(self) -> Iterator[TextBatch]:
        window = self._window
        while True:
            if self._cut_line:
                ends = [p for p in (window.data.find(b"\n"), window.data.find(b"\r")) if p >= 0]
                self._cut_line = not ends and not window.ended
                window.consume(min(ends) + 1 if ends else len(window.data))
            batch = self._next_batch()
            if batch is not None:
                yield batch
            elif window.ended:
                return
            if not window.ended and (batch is None or len(window.data) < window.block_size // 2):
                window.fill()

    def _next_batch(self) -> TextBatch | None:
        """Make a batch of the whole records in the window; None if more bytes are needed or none are left."""
        window = self._window
        visible = window.visible()
        at_end = window.ended and len(visible) == len(window.data)
        if not visible:
            return None
        if not self._grammar.always_scan:
            structure = without_escaped(visible, self._grammar.escape)
            quotes = quotes_in(structure, self._quote)
            length = cut(structure, quotes, at_end)
            if length:
                quotes = quotes[: np.searchsorted(quotes, length)]
                batch = self._regular_batch(visible, structure, quotes, length)
                if batch is not None:
                    return batch
            elif (
                not at_end and len(window.data) <= MAX_RECORD and not window.ended and visible is window.data
            ):
                return None
        widths = self._head.widths
        found = scan(visible, self._grammar, at_end=at_end, expected=widths)
        if not found.used and len(visible) < len(window.data):  # the first record is longer
            found = scan_records(window.data, self._grammar, at_end=window.ended, expected=widths, most=1)
        if not found.used:
            return None
        data = window.data[: found.used]
        block = Block(data, window.line, window.offset, self._record, self._grammar, found)
        self._cut_line = found.cut_line
        block.check_bytes(self._source.encoding, self._source.wrong_encoding)
        try:
            columns, wrong = self._ragged_rows.parse(block)
        except pa.ArrowInvalid as error:
            raise RefusedError(
                f"The lines from {block.line} on cannot be read as CSV: {error}. Check the dialect.",
                rule="damaged",
                line=block.line,
            ) from None
        return self._finished(block, columns, wrong)

    def _regular_batch(
        self, visible: bytes, structure: bytes, quotes: np.ndarray, length: int
    ) -> TextBatch | None:
        """A batch of the first ``length`` bytes; None where a scan must find the records, as quotes may be damaged."""
        window, grammar = self._window, self._grammar
        data = visible if length == len(visible) else visible[:length]
        structure = data if structure is visible else structure[:length]
        mark = grammar.comment
        has_comments = mark and (data.startswith(mark) or b"\n" + mark in data or b"\r" + mark in data)
        if has_comments or (grammar.escape and structure.endswith(grammar.escape)):
            return None  # nothing follows the escape character that it could escape
        given, bare = data, structure
        if grammar.skip_space:
            skipped = blanks_to_skip(structure, grammar.delimiter[0], self._quote)
            given, bare = (
                np.delete(np.frombuffer(x, np.uint8), skipped).tobytes() for x in (data, structure)
            )
            quotes = quotes_in(bare, self._quote)
        if not regular(bare, quotes, grammar.delimiter[0], self._quote if grammar.double else None):
            return None
        block = Block(
            data, window.line, window.offset, self._record, grammar, None, structure=structure, given=given
        )
        block.is_ascii = data.isascii()
        # checked here, since Arrow checks some columns only, and fails as a whole
        if b"\0" in data or not (block.is_ascii or is_utf8(data)):
            block.scan = block.split()
            block.check_bytes(self._source.encoding, self._source.wrong_encoding)
            damaged = block.scan.damaged.records
            if _spans_lines(data, block.scan.starts[damaged], block.scan.ends[damaged]):
                return None  # a scan finds out whether quotes or bytes are damaged
        try:
            columns, wrong = self._ragged_rows.parse(block)
        except pa.ArrowInvalid:
            return None
        odd = wrong.positions[~np.isin(wrong.fields, list(self._head.widths))]
        # without quotes and escapes, no record spans lines
        if len(odd) and (len(quotes) or grammar.escape):
            starts, ends = block.spans()
            if _spans_lines(data, starts[odd], ends[odd]):
                return None
        return self._finished(block, columns, wrong)

    def _finished(self, block: Block, columns: pa.RecordBatch, wrong: WrongWidths) -> TextBatch:
        """The batch of a parsed block, whose bytes are then consumed."""
        batch = self._ragged_rows.assemble(block, columns, wrong, self._source.encoding)
        data, width = block.data, self._head.width
        self._window.consume(len(data))
        # Each block costs something for each column, too much if it has few records. Not where values are
        # short: their arrays take more memory than the text.
        if self._record == 1 and width >= WIDE and len(data) >= LONG_VALUE * width * block.count:
            self._window.double()
        self._record += block.count
        # its first byte is searched first, since one byte is found 100 times as fast as three
        if not block.is_ascii and DAMAGED_CHARACTER[:1] in data and DAMAGED_CHARACTER in data:
            raw = np.frombuffer(data, np.uint8)
            hits = np.flatnonzero((raw[:-2] == 0xEF) & (raw[1:-1] == 0xBF) & (raw[2:] == 0xBD))
            starts, ends = block.spans()
            has = np.searchsorted(hits, starts) < np.searchsorted(hits, ends)
            if has.any():
                line, count = self._damaged_text or (int(block.lines_at(starts[has][:1])[0]), 0)
                self._damaged_text = line, count + int(has.sum())
        return replace(batch, most_left=self._most_left())

    def _most_left(self) -> int | None:
        """How many records can still follow; None if the size of the text is not known."""
        unread = self._unpacked.unread
        # the shortest good record: delimiters and a line end; of one column, a character and a line end
        least = max((min(self._head.widths) - 1) * len(self._spec.dialect.delimiter) + 1, 2)
        return (
            None if unread is None else (unread + self._source.pending + len(self._window.data)) // least + 1
        )


def _spans_lines(data: bytes, starts: np.ndarray, ends: np.ndarray) -> bool:
    """Whether one of these records has a line end in it."""
    lines = line_ends(data) if len(starts) else np.zeros(0, np.int64)
    return bool((np.searchsorted(lines, starts) < np.searchsorted(lines, ends)).any())
