"""A delivery's bytes into batches of text columns, damaged records put aside.

The bytes are taken in blocks; each is cut at the end of a record and handed to
Arrow's CSV parser, so that a batch still has the bytes it was made of and a
reject can be traced to its line and raw text.

What is a record: blank lines and comment lines are not; damaged, short and long
records are, and count. Record numbers start at 1 behind the header. Neither they
nor what becomes of a record depend on the size of the blocks.

What does not belong here: opening and unpacking (``source/unpack.py``), decoding
(``reader/decoding.py``), the grammar (``reader/grammar.py``, ``reader/records.py``), Arrow's parser
(``reader/arrow_csv.py``), the header (``reader/header.py``), records that do not fit it
(``reader/ragged_rows.py``), what it means (``validation/drift.py``), what a value means (``validation/parse.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from importer_dagster.errors import RefusedError
from importer_dagster.model import Delivery, TextBatch
from importer_dagster.reader.arrow_csv import Wrong, parse
from importer_dagster.reader.blocks import DAMAGED_CHARACTER, Block
from importer_dagster.reader.decoding import TextSource, Window, is_utf8
from importer_dagster.reader.footer import without_ending
from importer_dagster.reader.grammar import Grammar
from importer_dagster.reader.header import read_header
from importer_dagster.reader.ragged_rows import RaggedRows
from importer_dagster.reader.records import (
    MAX_RECORD,
    blanks_to_skip,
    cut,
    quotes_in,
    regular,
    scan,
    without_escaped,
)
from importer_dagster.source.unpack import Unpacked, fingerprint_url
from importer_dagster.spec.table import TableSpec, once_per_spec

BLOCK = 7 << 20  # of 17 mixed columns the whole import then takes 450 MB at most
WIDE, LONG_VALUE = 50, 8  # columns, and bytes of a value on average, from which on a block is twice as long


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
    """Open a delivery and read its header; a context manager. ``also`` names a hash besides sha256.

    ``data`` is the file as it is stored, where that was read before.

    Raises RefusedError for a file that cannot be this type's CSV at all,
    SourceUnavailable where trying again may help.
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
    """One delivery being read. ``header`` and the ``header_line`` where it stands are known at once; ``batches`` runs once.

    ``sha256`` and ``size`` are of the file as stored, ``warnings`` tell what was
    odd; they are complete after the last batch, and ``trailer`` is known then.
    """

    def __init__(self, unpacked: Unpacked, spec: TableSpec, block_size: int) -> None:
        self._unpacked, self._spec = unpacked, spec
        self._source = TextSource(unpacked, spec.encoding)
        self._window = Window(self._source, block_size)
        self._grammar = _grammar(spec)
        self._quote = self._grammar.quote[0] if self._grammar.quote else None
        self._head = read_header(self._window, spec, self._grammar)
        self.header, self.header_line = self._head.names, self._head.line
        self.warnings: list[str] = [*self._source.warnings, *self._head.warnings]
        self._trailer: list[str] = []
        self._record = 1  # number of the next record
        self._misfits = RaggedRows(spec, self._grammar, self._head)
        self._cut_line = False  # the rest of a line that is too long is still to come
        self._damaged_text: tuple[int, int] | None = None  # (line, how many records so far)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._unpacked.close()

    @property
    def sha256(self) -> str:
        """Hash of the stored file."""
        return self._unpacked.sha256

    @property
    def digest(self) -> str | None:
        """The hash that was asked for besides."""
        return self._unpacked.digest

    @property
    def size(self) -> int:
        """Size of the stored file in bytes."""
        return self._unpacked.bytes

    @property
    def trailer(self) -> str | None:
        """The text of the last record, where the dialect says that it is no data."""
        return self._trailer[0] if self._trailer else None

    @property
    def is_short(self) -> bool:
        """Whether all of the text is in memory by now, so that there is one batch of it."""
        return self._window.ended

    def select(self, positions: Sequence[int]) -> None:
        """Deliver only these columns of the header, named by their position as text."""
        self._misfits.selected = tuple(positions)

    def batches(self) -> Iterator[TextBatch]:
        """The records, in order; each is in ``columns`` of just one batch, or among its rejects."""
        yield from without_ending(
            self._all_batches(), self._spec.dialect, self.header, self.warnings, self._trailer
        )
        self._warn_of_damaged_text()
        self._unpacked.finish()

    # --- blocks ---

    def _all_batches(self) -> Iterator[TextBatch]:
        window = self._window
        fresh = bool(window.data)  # what was read along with the header
        while True:
            if not window.ended and not fresh:
                window.fill()
            fresh = False
            if self._cut_line:
                self._skip_rest_of_line()
            batch = self._next_batch()
            if batch is not None:
                yield batch
            elif window.ended:
                return
            else:
                window.fill()

    def _next_batch(self) -> TextBatch | None:
        """Take whole records off the text; None if more bytes are needed or none are left."""
        window = self._window
        if not window.data:
            return None
        if not self._grammar.always_scan:
            structure = without_escaped(window.data, self._grammar.escape)
            quotes = quotes_in(structure, self._quote)
            length = cut(structure, quotes, window.ended)
            if length:
                batch = self._regular_batch(structure, quotes[: np.searchsorted(quotes, length)], length)
                if batch is not None:
                    return batch
            elif not window.ended and len(window.data) <= MAX_RECORD:
                return None
        return self._scanned_batch()

    def _regular_batch(self, structure: bytes, quotes: np.ndarray, length: int) -> TextBatch | None:
        """A batch of the first bytes; None where something is wrong, so that records must be looked at one by one."""
        window, grammar = self._window, self._grammar
        whole = length == len(window.data)
        data = window.data if whole else window.data[:length]
        structure = data if structure is window.data else structure[:length]
        if self._has_comments(data) or (grammar.escape and structure.endswith(grammar.escape)):
            return None  # an escape character at the very end has nothing to escape
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
        if not self._bytes_are_sound(block):
            return self._batch_with_bad_bytes(block)
        return self._unless_in_doubt(block)

    def _has_comments(self, data: bytes) -> bool:
        mark = self._grammar.comment
        if not mark or mark not in data:
            return False
        return data.startswith(mark) or b"\n" + mark in data or b"\r" + mark in data

    def _bytes_are_sound(self, block: Block) -> bool:
        """Whether there is no NUL and all is UTF-8: Arrow looks at some columns only, and loses records over it."""
        if b"\0" in block.data:
            return False
        block.is_ascii = block.data.isascii()
        return block.is_ascii or is_utf8(block.data)

    def _batch_with_bad_bytes(self, block: Block) -> TextBatch | None:
        block.scan = block.split()
        block.judge_bytes(self._source.encoding, self._source.refuse)
        if any(_has_line_end(block.data[d.start : d.end]) for d in block.scan.damaged):
            return None  # whether quotes or bytes are to blame is for the scan to say
        return self._unless_in_doubt(block)

    def _unless_in_doubt(self, block: Block) -> TextBatch | None:
        """The batch of a block; None where its quotes may be to blame for what does not fit."""
        try:
            columns, wrong = self._parse(block)
        except pa.ArrowInvalid:
            return None
        if any(self._is_multiline(block, w) for w in wrong):
            return None
        return self._finished(block, columns, wrong)

    def _is_multiline(self, block: Block, wrong: Wrong) -> bool:
        if wrong.fields in self._head.widths:
            return False
        return _has_line_end(block.record(wrong.position))

    def _scanned_batch(self) -> TextBatch | None:
        window = self._window
        found = scan(window.data, self._grammar, at_end=window.ended, expected=self._head.widths)
        if not found.used:
            return None
        data = window.data[: found.used]
        block = Block(data, window.line, window.offset, self._record, self._grammar, found)
        self._cut_line = found.cut_line
        block.judge_bytes(self._source.encoding, self._source.refuse)
        try:
            columns, wrong = self._parse(block)
        except pa.ArrowInvalid as error:
            raise RefusedError(
                f"The lines from {block.line} on cannot be read as CSV: {error}. Check the dialect.",
                rule="damaged",
                line=block.line,
            ) from None
        return self._finished(block, columns, wrong)

    def _skip_rest_of_line(self) -> None:
        window = self._window
        ends = [p for p in (window.data.find(b"\n"), window.data.find(b"\r")) if p >= 0]
        self._cut_line = not ends and not window.ended
        window.use(min(ends) + 1 if ends else len(window.data))

    def _finished(self, block: Block, columns: pa.RecordBatch, wrong: list[Wrong]) -> TextBatch:
        batch = self._misfits.assemble(block, columns, wrong)
        self._window.use(len(block.data))
        if self._record == 1 and self._is_wide(block):
            self._window.double()
        self._record += block.count
        if not block.is_ascii and DAMAGED_CHARACTER[:1] in block.data and DAMAGED_CHARACTER in block.data:
            self._note_damaged_text(block)  # one byte is looked for a hundred times as fast as three
        return batch

    # --- one block ---

    def _is_wide(self, block: Block) -> bool:
        """Whether a usual block is so few records that what a column costs for each block counts for more.

        Not where values are short: what is made of them takes more memory than the text.
        """
        width = self._head.width
        return width >= WIDE and len(block.data) >= LONG_VALUE * width * block.count

    def _parse(self, block: Block) -> tuple[pa.RecordBatch, list[Wrong]]:
        width, wanted = self._head.width, self._misfits.wanted()
        return parse(block, self._spec, self._grammar, width=width, wanted=wanted)

    # --- warnings ---

    def _note_damaged_text(self, block: Block) -> None:
        """Text that a program before us could not decode: kept as it is, but said."""
        starts, ends = block.spans()
        places = [
            int(a)
            for a, b in zip(starts, ends, strict=True)
            if DAMAGED_CHARACTER in block.data[int(a) : int(b)]
        ]
        if not places:
            return
        line, count = self._damaged_text or (int(block.lines_at(np.array(places[:1]))[0]), 0)
        self._damaged_text = line, count + len(places)

    def _warn_of_damaged_text(self) -> None:
        if self._damaged_text is not None:
            line, count = self._damaged_text
            self.warnings.append(
                f"{count:,} {'record holds' if count == 1 else 'records hold'} U+FFFD, the first in line {line}: text "
                "that was damaged before the file was written; it is kept as it is"
            )


def _has_line_end(record: bytes) -> bool:
    return b"\n" in record or b"\r" in record
