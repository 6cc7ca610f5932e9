"""A block of records through Arrow's CSV parser: all columns as text.

What does not belong here: where records begin and end (``reader/records.py``), and what
becomes of those that Arrow passes over (``reader/ragged_rows.py``).
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from importer_dagster.reader.blocks import Block
from importer_dagster.reader.grammar import Grammar
from importer_dagster.spec.table import TableSpec


@dataclass(frozen=True)
class Wrong:
    """A record of another width than the header's: its position, and how many fields it has."""

    position: int
    fields: int


def parse(
    block: Block, spec: TableSpec, grammar: Grammar, *, width: int, wanted: Sequence[int]
) -> tuple[pa.RecordBatch, list[Wrong]]:
    """The block's records of ``width`` fields, of these the ``wanted``, and the records of another width.

    Columns are named by their position as text. Raises pa.ArrowInvalid for what is no CSV.
    """
    wrong: list[Wrong] = []

    def on_invalid(row: Any) -> str:
        wrong.append(Wrong(row.number - 1, row.actual_columns))
        return "skip"

    names = [str(i) for i in wanted]
    data = _terminated(block.for_arrow())
    if data is None:
        return pa.record_batch([pa.array([], pa.string()) for _ in names], names=names), wrong
    # one that works as it is asked: read_csv hands a block over to a thread of Arrow's, which takes
    # as long as a hundred records
    every = [str(i) for i in range(width)]
    parser = pacsv.open_csv(
        pa.BufferReader(data),
        read_options=pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=every),
        parse_options=_dialect(block, spec, grammar, on_invalid),
        convert_options=_as_text(spec, every, names),
    )
    return _single_batch(parser.read_all(), names), wrong


def _terminated(data: bytes) -> bytes | None:
    """The bytes as Arrow reads them aright; None where there is no record."""
    if not data.lstrip(b"\r\n"):  # which makes no copy of data that begins otherwise
        return None
    if not data.endswith((b"\n", b"\r")):
        data += b"\n"  # at the very end, Arrow takes an empty value for a quoted one if the last one was
    if data.startswith(codecs.BOM_UTF8):
        return codecs.BOM_UTF8 + data  # Arrow takes one off; in the middle of a file it is part of a value
    return data


def _dialect(block: Block, spec: TableSpec, grammar: Grammar, on_invalid: Any) -> pacsv.ParseOptions:
    """How the bytes are written: as the file's dialect says, or plainly where a scan has rewritten them."""
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


def _as_text(spec: TableSpec, every: Sequence[str], names: Sequence[str]) -> pacsv.ConvertOptions:
    nulls = list(spec.common_missing)
    return pacsv.ConvertOptions(
        column_types={name: pa.string() for name in every},
        include_columns=names,
        check_utf8=False,  # the bytes of a block are judged before, a fifth of Arrow's time
        null_values=nulls,
        strings_can_be_null=bool(nulls),
        quoted_strings_can_be_null=False,
    )


def _single_batch(table: pa.Table, names: Sequence[str]) -> pa.RecordBatch:
    arrays = [
        c.chunk(0)
        if c.num_chunks == 1
        else pa.concat_arrays(c.chunks)
        if c.num_chunks
        else pa.array([], pa.string())
        for c in table.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, names=names)
