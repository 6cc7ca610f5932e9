"""Parses a block of records with Arrow's CSV parser: all columns as text.

What does not belong here: where records begin and end (``reader/records.py``), and what is done with
records that do not have as many fields as the header (``reader/ragged_rows.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from importer_dagster.reader.blocks import Block
from importer_dagster.reader.grammar import Grammar
from importer_dagster.spec.table import TableSpec


@dataclass(frozen=True)
class WrongWidth:
    """A record with more or fewer fields than the header: its position in the block, its number of fields."""

    position: int
    fields: int


def parse(
    block: Block, spec: TableSpec, grammar: Grammar, *, width: int, wanted: Sequence[int]
) -> tuple[pa.RecordBatch, list[WrongWidth]]:
    """Parse the records of ``width`` fields, and list the records of another width.

    The batch has the columns at the positions ``wanted``; each is named by its position as text.
    Raises pa.ArrowInvalid where the block cannot be parsed.
    """
    wrong: list[WrongWidth] = []

    def skip_wrong_width(row: Any) -> str:
        wrong.append(WrongWidth(row.number - 1, row.actual_columns))
        return "skip"

    names = [str(i) for i in wanted]
    data = block.for_arrow()
    if not data:
        return pa.record_batch([pa.array([], pa.string()) for _ in names], names=names), wrong
    every = [str(i) for i in range(width)]
    nulls = list(spec.common_missing)
    # open_csv, since read_csv starts a thread for each block, which takes as long as to parse 100 records
    table = pacsv.open_csv(
        pa.BufferReader(data),
        read_options=pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=every),
        parse_options=_dialect(block, spec, grammar, skip_wrong_width),
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
    return pa.RecordBatch.from_arrays(arrays, names=names), wrong


def _dialect(block: Block, spec: TableSpec, grammar: Grammar, on_invalid: Any) -> pacsv.ParseOptions:
    """The dialect of the file, or the plain one (, and ") where ``Block.for_arrow`` has rewritten the records."""
    rewritten = block.scan is not None and not grammar.is_plain
    quote = '"' if rewritten else (spec.dialect.quoteChar or False)
    return pacsv.ParseOptions(
        delimiter="," if rewritten else spec.dialect.delimiter,
        quote_char=quote,
        double_quote=bool(quote) and (rewritten or grammar.double),
        escape_char=False if rewritten or not grammar.escape else grammar.escape.decode(),
        newlines_in_values=bool(quote) or grammar.escape is not None,
        invalid_row_handler=on_invalid,
    )
