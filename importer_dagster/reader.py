"""A delivery's bytes into batches of text columns, damaged records put aside.

The bytes are taken in blocks; each is cut at the end of a record and handed to
Arrow's CSV parser, so that a batch still has the bytes it was made of and a
reject can be traced to its line and raw text.

What is a record: blank lines and comment lines are not; damaged, short and long
records are, and count. Record numbers start at 1 behind the header. Neither they
nor what becomes of a record depend on the size of the blocks.

What does not belong here: opening and unpacking (``container.py``), decoding
(``textsource.py``), the grammar (``grammar.py``, ``records.py``), the header
(``header.py``), what it means (``drift.py``), what a value means (``parse.py``).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from importer_dagster.blocks import DAMAGED_CHARACTER, Block, column_name
from importer_dagster.cells import as_mask
from importer_dagster.container import Unpacked, fingerprint_url
from importer_dagster.ending import without_ending
from importer_dagster.errors import RefusedError
from importer_dagster.fields import MAX_COLUMNS
from importer_dagster.grammar import Grammar
from importer_dagster.header import read_header
from importer_dagster.model import Delivery, TextBatch
from importer_dagster.records import (
    MAX_RECORD,
    blanks_to_skip,
    cut,
    quotes_in,
    regular,
    scan,
    without_escaped,
)
from importer_dagster.reject_tables import NO_REJECTS
from importer_dagster.spec import TableSpec
from importer_dagster.textsource import TextSource, Window, is_utf8

__all__ = ["BLOCK", "MAX_COLUMNS", "Reader", "fingerprint", "open_delivery"]

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


@dataclass(frozen=True)
class _Wrong:
    """A record of another width than the header's: its position, and how many fields it has."""

    position: int
    fields: int


class Reader:
    """One delivery being read. ``header`` and the ``header_line`` where it stands are known at once; ``batches`` runs once.

    ``sha256`` and ``size`` are of the file as stored, ``warnings`` tell what was
    odd; they are complete after the last batch, and ``trailer`` is known then.
    """

    def __init__(self, unpacked: Unpacked, spec: TableSpec, block_size: int) -> None:
        self._unpacked, self._spec = unpacked, spec
        self._source = TextSource(unpacked, spec.encoding)
        self._window = Window(self._source, block_size)
        self._grammar = Grammar(spec.dialect, (t for f in spec.fields for t in spec.missing_values(f)))
        self._quote = self._grammar.quote[0] if self._grammar.quote else None
        self._head = read_header(self._window, spec, self._grammar)
        self.header, self.header_line = self._head.names, self._head.line
        self.warnings: list[str] = [*self._source.warnings, *self._head.warnings]
        self._trailer: list[str] = []
        self._record = 1  # number of the next record
        self._selected: tuple[int, ...] = tuple(range(len(self.header)))
        self._first = True
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
        self._selected = tuple(positions)

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
        try:
            table, wrong = self._parse(block)
        except pa.ArrowInvalid:
            return None
        if any(self._is_multiline(block, w) for w in wrong):
            return None  # quotes are to blame
        return self._finished(block, table, wrong)

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
        try:
            table, wrong = self._parse(block)
        except pa.ArrowInvalid:
            return None
        if any(self._is_multiline(block, w) for w in wrong):
            return None
        return self._finished(block, table, wrong)

    def _is_multiline(self, block: Block, wrong: _Wrong) -> bool:
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
            table, wrong = self._parse(block)
        except pa.ArrowInvalid as error:
            raise RefusedError(
                f"The lines from {block.line} on cannot be read as CSV: {error}. Check the dialect.",
                rule="damaged",
                line=block.line,
            ) from None
        return self._finished(block, table, wrong)

    def _skip_rest_of_line(self) -> None:
        window = self._window
        ends = [p for p in (window.data.find(b"\n"), window.data.find(b"\r")) if p >= 0]
        self._cut_line = not ends and not window.ended
        window.use(min(ends) + 1 if ends else len(window.data))

    def _finished(self, block: Block, table: pa.Table, wrong: list[_Wrong]) -> TextBatch:
        batch = self._assemble(block, table, wrong)
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

    def _parse(self, block: Block) -> tuple[pa.Table, list[_Wrong]]:
        """Arrow's table of a block, and the records of another width."""
        wrong: list[_Wrong] = []

        def on_invalid(row: Any) -> str:
            wrong.append(_Wrong(row.number - 1, row.actual_columns))
            return "skip"

        rewritten = block.scan is not None and not self._grammar.is_plain
        names = [str(i) for i in range(self._head.width)]
        wanted = [str(i) for i in self._wanted()]
        data = block.for_arrow()
        if not data.lstrip(b"\r\n"):  # which makes no copy of data that begins otherwise
            return pa.table({name: pa.array([], pa.string()) for name in wanted}), wrong
        if not data.endswith((b"\n", b"\r")):
            data += b"\n"  # at the very end, Arrow takes an empty value for a quoted one if the last one was
        if data.startswith(codecs.BOM_UTF8):
            data = (
                codecs.BOM_UTF8 + data
            )  # Arrow takes one off; in the middle of a file it is part of a value
        quote = '"' if rewritten else (self._spec.dialect.quoteChar or False)
        nulls = list(self._spec.common_missing)
        # one that works as it is asked: read_csv hands a block over to a thread of Arrow's, which takes
        # as long as a hundred records
        parser = pacsv.open_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            parse_options=pacsv.ParseOptions(
                delimiter="," if rewritten else self._spec.dialect.delimiter,
                quote_char=quote,
                double_quote=bool(quote) and (rewritten or self._grammar.double),
                escape_char=False if rewritten or not self._grammar.escape else self._grammar.escape.decode(),
                newlines_in_values=bool(quote) or self._grammar.escape is not None,
                invalid_row_handler=on_invalid,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                include_columns=wanted,
                check_utf8=False,  # the bytes of a block are judged before, a fifth of Arrow's time
                null_values=nulls,
                strings_can_be_null=bool(nulls),
                quoted_strings_can_be_null=False,
            ),
        )
        return parser.read_all(), wrong

    def _wanted(self) -> tuple[int, ...]:
        """Columns to parse: also the one behind the header's last, where records end with a delimiter."""
        n = len(self.header)
        return self._selected if self._head.width == n else (*self._selected, n)

    def _assemble(self, block: Block, table: pa.Table, wrong: list[_Wrong]) -> TextBatch:
        parsed = len(table) + len(wrong)
        block.settle(parsed)
        self._refuse_systematic(len(table), wrong, block)
        keep = np.ones(parsed, dtype=bool)
        keep[[w.position for w in wrong]] = False
        columns = _single_batch(table, self._wanted())
        positions = np.flatnonzero(keep)
        rejects = [block.damage_rows(self.header)]
        columns, positions, wrong = self._without_last(block, columns, positions, wrong)
        rejects.append(self._width_rejects(block, wrong))
        columns, positions, repeated = self._without_header_repeats(block, columns, positions)
        rejects.append(self._header_rejects(block, repeated))
        rows = pa.array(block.numbers[positions] if len(positions) else np.zeros(0, np.int64), pa.int64())
        found = [table for table in rejects if len(table)]
        table_of_rejects = pa.concat_tables(found).sort_by("row") if found else NO_REJECTS
        return TextBatch(columns, rows, table_of_rejects, block.locator(positions))

    def _refuse_systematic(self, good: int, wrong: list[_Wrong], block: Block) -> None:
        """A file of which every record has the same wrong width is no heap of bad records."""
        if not self._first:
            return
        self._first = False
        widths = {w.fields for w in wrong}
        damaged = block.scan is not None and bool(block.scan.damaged)
        if good or len(wrong) < 2 or len(widths) > 1 or damaged or widths <= self._head.widths:
            return
        raise RefusedError(
            f"Every record has {widths.pop()} fields, but {len(self.header)} are expected. Check the "
            "delimiter, or ask the supplier whether the layout changed.",
            rule="fields.systematic",
            line=block.line,
        )

    # --- a delimiter too many ---

    def _without_last(
        self, block: Block, columns: pa.RecordBatch, positions: np.ndarray, wrong: list[_Wrong]
    ) -> tuple[pa.RecordBatch, np.ndarray, list[_Wrong]]:
        """Let go of an empty field behind the last named one, and judge who lacks it or has more there."""
        if len(self._head.widths) == 1:
            return columns, positions, wrong
        n = len(self.header)
        if self._head.width > n:
            full = columns.column(columns.num_columns - 1)
            columns = columns.select(range(columns.num_columns - 1))
            surplus = as_mask(pc.greater(pc.binary_length(full), 0))
            wrong = [*wrong, *(_Wrong(int(p), n + 1) for p in positions[surplus])]
            columns, positions = columns.filter(pa.array(~surplus)), positions[~surplus]
        fine, other = [], []
        for w in wrong:
            fields = self._grammar.fields(block.record(w.position)) if w.fields in self._head.widths else []
            if fields and (len(fields) == n or fields[-1][0] == b""):
                fine.append((w.position, fields))
            else:
                other.append(w)
        if fine:
            columns, positions = self._insert(columns, positions, fine)
        return columns, positions, sorted(other, key=lambda w: w.position)

    def _insert(
        self, columns: pa.RecordBatch, positions: np.ndarray, more: list[tuple[int, list[tuple[bytes, bool]]]]
    ) -> tuple[pa.RecordBatch, np.ndarray]:
        """Put records that Arrow passed over back at their places."""
        nulls = set(self._spec.common_missing)
        extra = []
        for i in self._selected:
            cells = [fields[i] for _, fields in more]
            texts = [None if not quoted and v.decode() in nulls else v.decode() for v, quoted in cells]
            extra.append(pa.array(texts, pa.string()))
        everything = np.concatenate([positions, [p for p, _ in more]]).astype(np.int64)
        order = np.argsort(everything, kind="stable")
        arrays = [
            pa.concat_arrays([column, add]).take(pa.array(order))
            for column, add in zip(columns.columns, extra, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, names=columns.schema.names), everything[order]

    # --- the header once more ---

    def _without_header_repeats(
        self, block: Block, columns: pa.RecordBatch, positions: np.ndarray
    ) -> tuple[pa.RecordBatch, np.ndarray, np.ndarray]:
        """Records that are the header once more, or although none is declared, taken out."""
        if not len(positions) or not self._selected:
            return columns, positions, positions[:0]
        # one column tells nearly always; the few candidates are looked at whole
        at = next((k for k, i in enumerate(self._selected) if self.header[i]), None)
        if at is None:
            return columns, positions, positions[:0]
        column, name = columns.column(at), self.header[self._selected[at]]
        same = as_mask(pc.or_(pc.equal(column, name), pc.equal(column, "\ufeff" + name)))
        if not same.any():
            return columns, positions, positions[:0]
        exact = self._are_headers(columns) & same
        for row in np.flatnonzero(same & ~exact):
            same[row] = self._is_header(block.record(int(positions[row])))
        if not same.any():
            return columns, positions, positions[:0]
        return columns.filter(pa.array(~same)), positions[~same], positions[same]

    def _are_headers(self, columns: pa.RecordBatch) -> np.ndarray:
        """Rows that are the header to the letter, as far as all of it is selected: a file may be full of them."""
        if len(self._selected) < len(self.header):
            return np.zeros(len(columns), np.bool_)
        pairs = zip(columns.columns, self._selected, strict=True)
        same: np.ndarray = np.logical_and.reduce([as_mask(pc.equal(c, self.header[i])) for c, i in pairs])
        return same

    def _is_header(self, record: bytes) -> bool:
        names = [v.decode().lstrip("\ufeff").strip() for v, _ in self._grammar.fields(record)]
        if len(names) > len(self.header) and not names[-1]:
            names.pop()
        return names == [n.strip() for n in self.header]

    # --- rejects ---

    def _width_rejects(self, block: Block, wrong: list[_Wrong]) -> pa.Table:
        n = len(self.header)
        if not wrong:
            return NO_REJECTS
        return block.rejects_at(
            [w.position for w in wrong],
            [column_name(self.header, min(w.fields, n)) for w in wrong],
            [self._surplus(block.record(w.position)) if w.fields > n else b"" for w in wrong],
            ["fields.short" if w.fields < n else "fields.long" for w in wrong],
            [f"expected {n} fields, got {w.fields}" for w in wrong],
        )

    def _surplus(self, record: bytes) -> bytes:
        """What stands behind the last named field."""
        values = [v for v, _ in self._grammar.fields(record)[len(self.header) :]]
        return self._grammar.delimiter.join(values)

    def _header_rejects(self, block: Block, positions: np.ndarray) -> pa.Table:
        declared = self._spec.dialect.header
        words = (
            "the header stands here again"
            if declared
            else "a header stands here, but the spec says header: false"
        )
        return block.rejects_alike(
            positions, column_name(self.header, 0), self.header[0].encode(), "header.repeated", words
        )

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


def _single_batch(table: pa.Table, names: Sequence[int]) -> pa.RecordBatch:
    arrays = [
        c.chunk(0)
        if c.num_chunks == 1
        else pa.concat_arrays(c.chunks)
        if c.num_chunks
        else pa.array([], pa.string())
        for c in table.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, names=[str(i) for i in names])
