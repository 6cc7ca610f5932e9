"""Parses a block of records with Arrow's CSV parser: all columns as text.

What does not belong here: where records begin and end (``reader/records.py``), and what is done with
records that do not have as many fields as the header (``reader/ragged_rows.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from importer_dagster.reader.blocks import Block
from importer_dagster.reader.grammar import Grammar
from importer_dagster.reader.spans import Fields, line_ends, quotes_in, record_spans, taken
from importer_dagster.spec.table import TableSpec

_FEW_WRONG = 1_000  # records of a block that Arrow reports one by one; each takes a call of a Python function


@dataclass(frozen=True)
class WrongWidths:
    """Records with more or fewer fields than expected: their positions in the block, their numbers of fields."""

    positions: np.ndarray
    fields: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def only(self, mask: np.ndarray) -> WrongWidths:
        """Some of them."""
        return WrongWidths(self.positions[mask], self.fields[mask])

    def and_others(self, positions: np.ndarray, fields: np.ndarray) -> WrongWidths:
        """These and more, in the order of the block."""
        every = np.concatenate([self.positions, positions]).astype(np.int64)
        order = np.argsort(every, kind="stable")
        return WrongWidths(every[order], np.concatenate([self.fields, fields]).astype(np.int64)[order])


class Parser:
    """Parses records of one file."""

    def __init__(self, spec: TableSpec, grammar: Grammar) -> None:
        self.spec, self.grammar = spec, grammar

    def parse(self, block: Block, *, width: int, wanted: Sequence[int]) -> tuple[pa.RecordBatch, WrongWidths]:
        """Parse the records of ``width`` fields, and list the records of another width.

        The batch has the columns at the positions ``wanted``; each is named by its position as text.
        Raises pa.ArrowInvalid where the block cannot be parsed.
        """
        # of a block that was scanned, the records have been rewritten unless the dialect is plain
        rewritten = block.scan is not None and not self.grammar.is_plain
        data = block.for_arrow()
        wrong: list[tuple[int, int]] = []
        try:
            columns = self._columns(data, rewritten, width, wanted, wrong)
        except pa.ArrowInvalid:
            if len(wrong) <= _FEW_WRONG or not (rewritten or self.grammar.is_plain):
                raise
            return self._fitting(data, rewritten, width, wanted)
        places = np.array(wrong, np.int64).reshape(-1, 2)
        return columns, WrongWidths(places[:, 0], places[:, 1])

    def _fitting(
        self, data: bytes, rewritten: bool, width: int, wanted: Sequence[int]
    ) -> tuple[pa.RecordBatch, WrongWidths]:
        """The same, where many records are of another width: Arrow is given the others only."""
        delimiter, quote = (ord(","), ord('"')) if rewritten else (self.grammar.delimiter[0], None)
        if not rewritten and self.grammar.quote:
            quote = self.grammar.quote[0]
        starts, ends = record_spans(data, line_ends(data), quote)
        counts = Fields(data, delimiter, quotes_in(data, quote)).count(starts, ends)
        fits = counts == width
        others = np.flatnonzero(~fits)
        data = taken(data, starts[fits], np.minimum(ends[fits] + 1, len(data)))
        return self._columns(data, rewritten, width, wanted), WrongWidths(others, counts[others])

    def parse_some(
        self, block: Block, positions: np.ndarray, *, width: int, wanted: Sequence[int]
    ) -> pa.RecordBatch:
        """Parse some of the records of a block, which have ``width`` fields."""
        starts, ends = (places[positions] for places in block.spans())
        if self.grammar.is_plain:
            data = taken(block.data, starts, np.minimum(ends + 1, len(block.data)))
            return self._columns(data, False, width, wanted)
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        records = (self.grammar.write(self.grammar.fields(block.data[a:b])) for a, b in pairs)
        return self._columns(b"\n".join([*records, b""]), True, width, wanted)

    def _columns(
        self,
        data: bytes,
        rewritten: bool,
        width: int,
        wanted: Sequence[int],
        wrong: list[tuple[int, int]] | None = None,
    ) -> pa.RecordBatch:
        def on_invalid(row: Any) -> str:
            if wrong is None:
                return "error"
            wrong.append((row.number - 1, row.actual_columns))
            return "skip" if len(wrong) <= _FEW_WRONG else "error"

        names = [str(i) for i in wanted]
        if not data:
            return pa.record_batch([pa.array([], pa.string()) for _ in names], names=names)
        every = [str(i) for i in range(width)]
        nulls = list(self.spec.common_missing)
        if not data.endswith((b"\n", b"\r")):
            data += b"\n"
        # open_csv, since read_csv starts a thread for each block, which takes as long as to parse 100 records
        table = pacsv.open_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=every),
            parse_options=self._dialect(rewritten, on_invalid),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.string() for name in every},
                include_columns=names,
                check_utf8=False,  # the reader has checked the bytes of the block, in a fifth of Arrow's time
                null_values=nulls,
                strings_can_be_null=bool(nulls),
                quoted_strings_can_be_null=False,
            ),
        ).read_all()
        arrays = [
            c.chunk(0) if c.num_chunks == 1 else pa.concat_arrays(c.chunks or [pa.array([], pa.string())])
            for c in table.columns
        ]
        return pa.RecordBatch.from_arrays(arrays, names=names)

    def _dialect(self, rewritten: bool, on_invalid: Any) -> pacsv.ParseOptions:
        """The dialect of the file, or the plain one (, and ") where the records have been rewritten."""
        grammar = self.grammar
        quote = '"' if rewritten else (self.spec.dialect.quoteChar or False)
        return pacsv.ParseOptions(
            delimiter="," if rewritten else self.spec.dialect.delimiter,
            quote_char=quote,
            double_quote=bool(quote) and (rewritten or grammar.double),
            escape_char=False if rewritten or not grammar.escape else grammar.escape.decode(),
            newlines_in_values=bool(quote) or grammar.escape is not None,
            invalid_row_handler=on_invalid,
        )
