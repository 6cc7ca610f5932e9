"""Rejects of one delivery on their way to quarantine: counted, located, the first ones kept.

What does not belong here: deciding what is a reject (``reader.py``, ``validate.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from importer_dagster.errors import RefusedError
from importer_dagster.model import REJECT_SCHEMA, TextBatch

REASONS_KEPT = 1_000  # rejects on record for a refused file


@dataclass
class Rejects:
    """Rejects met so far: how many records, the first of them, and those not yet written."""

    records: int = 0
    first: list[pa.Table] = field(default_factory=list)
    pending: list[pa.Table] = field(default_factory=list)
    _first_rows: int = 0
    pending_rows: int = 0

    def add(self, table: pa.Table, records: int) -> None:
        """Take rejects (model.REJECT_SCHEMA) of ``records`` more records."""
        if not len(table):
            return
        self.records += records
        if self._first_rows < REASONS_KEPT:
            kept = table.slice(0, REASONS_KEPT - self._first_rows)
            self.first.append(kept)
            self._first_rows += len(kept)
        self.pending.append(table)
        self.pending_rows += len(table)

    def take(self) -> pa.Table:
        """The rejects that are not written yet; they are the caller's from here on."""
        table = pa.concat_tables(self.pending) if self.pending else REJECT_SCHEMA.empty_table()
        self.pending, self.pending_rows = [], 0
        return table


def first_reasons(rejects: Rejects, error: RefusedError) -> pa.Table:
    """The rejects to keep with a refusal; without any, the refusal itself as one about the file."""
    if rejects.first:
        return pa.concat_tables(rejects.first)
    row = {
        "row": 0,
        "line": error.line,
        "column_name": error.column,
        "value": None,
        "rule": error.rule,
        "message": str(error),
        "raw": None,
    }
    return pa.Table.from_pylist([row], schema=REJECT_SCHEMA)


def distinct(column: pa.ChunkedArray) -> int:
    """How many different values a column has."""
    return len(column.unique()) if len(column) else 0


def located(failures: pa.Table, batch: TextBatch) -> pa.Table:
    """Failures (ordered by record) as rejects: with record number and physical line.

    The raw text stands in the first failure of each record.
    """
    indexes = failures["index"].to_numpy()
    first = np.ones(len(indexes), np.bool_)
    first[1:] = indexes[1:] != indexes[:-1]
    lines, raws = batch.locate(indexes[first])
    record = np.cumsum(first) - 1
    return pa.table(
        {
            "row": batch.rows.take(pa.array(indexes)),
            "line": lines.take(pa.array(record)),
            "column_name": failures["column_name"],
            "value": failures["value"],
            "rule": failures["rule"],
            "message": failures["message"],
            "raw": raws.take(pa.array(record, mask=~first)),
        },
        schema=REJECT_SCHEMA,
    )
