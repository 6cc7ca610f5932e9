"""Rejects of one delivery on their way to the quarantine: counted, located in the file, the first ones kept.

The quarantine has one row per rejected record with the numbers of its reasons, and every
reason once per load. With 17 bad cells a record, that takes a quarter of the time
and space of a row per cell.

What does not belong here: deciding what is a reject (``reader/reader.py``, ``validation/validator.py``),
the schemas of the tables (``reject_schema.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.errors import RefusedError
from importer_dagster.model import Duplicate, Failure, Reason, TextBatch
from importer_dagster.reject_schema import RECORD_SCHEMA, REJECT_SCHEMA
from importer_dagster.validation.faults import SHOWN

REASONS_KEPT = 1_000  # rejected cells on record for a refused file


@dataclass(frozen=True)
class Rejected:
    """Rejected records (RECORD_SCHEMA, in the order of the file); their ``reasons`` are numbered from 0."""

    records: pa.Table
    reasons: Sequence[Reason]


_NONE = Rejected(RECORD_SCHEMA.empty_table(), ())


@dataclass
class Rejects:
    """The rejects of a delivery so far: how many records, their first cells, and the records not yet written."""

    records: int = 0
    first: list[pa.Table] = field(default_factory=list)
    pending: list[pa.Table] = field(default_factory=list)
    pending_bytes: int = 0
    _first_rows: int = 0
    _numbers: dict[Reason, int] = field(default_factory=dict)
    _written_reasons: int = 0

    def add(self, rejected: Rejected) -> None:
        """Add rejected records; their reasons get the numbers that they have in the whole delivery."""
        table = rejected.records
        if not len(table):
            return
        self.records += len(table)
        if self._first_rows < REASONS_KEPT:
            kept = as_cells(rejected, REASONS_KEPT - self._first_rows)
            self.first.append(kept)
            self._first_rows += len(kept)
        numbers = [self._numbers.setdefault(r, len(self._numbers)) for r in rejected.reasons]
        lists = table["reasons"].combine_chunks()
        renumbered = pa.array(np.array(numbers, np.int32)[lists.values.to_numpy()])
        at = table.schema.get_field_index("reasons")
        lists = pa.ListArray.from_arrays(lists.offsets, renumbered)
        table = table.set_column(at, RECORD_SCHEMA.field(at), lists)
        self.pending.append(table)
        self.pending_bytes += table.nbytes

    @property
    def kept(self) -> pa.Table:
        """The first rejected cells, up to REASONS_KEPT (REJECT_SCHEMA)."""
        return pa.concat_tables(self.first) if self.first else REJECT_SCHEMA.empty_table()

    def take(self) -> tuple[pa.Table, dict[int, Reason]]:
        """Hand over the records that are not written yet, and the reasons that come up in them first."""
        table = pa.concat_tables(self.pending) if self.pending else _NONE.records
        self.pending, self.pending_bytes = [], 0
        new = {n: r for r, n in self._numbers.items() if n >= self._written_reasons}
        self._written_reasons = len(self._numbers)
        return table, new


def first_reasons(rejects: Rejects, error: RefusedError) -> pa.Table:
    """The first rejects (REJECT_SCHEMA), to keep with a refusal; if there are none, the refusal itself as row 0."""
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


# --- rejects of three origins ---------------------------------------------------------


def failed_records(failures: Sequence[Failure], batch: TextBatch) -> Rejected:
    """The records of a batch that have failures: each with all of these, its number, line and text."""
    counts = np.zeros(len(batch.rows), np.int64)  # of failures, for each record
    for failure in failures:
        counts[failure.indexes] += 1
    at = np.flatnonzero(counts)
    if not len(at):
        return _NONE
    reasons, order = _by_record(failures, counts)
    offsets = pa.array(np.append(0, np.cumsum(counts[at])), pa.int32())
    values = pa.concat_arrays([f.values for f in failures]).take(order)
    details = pa.nulls(len(at), pa.list_(pa.string()))
    if not all(isinstance(f.words, str) for f in failures):
        own_words = [
            f.words if isinstance(f.words, pa.Array) else pa.nulls(len(f.indexes), pa.string())
            for f in failures
        ]
        details = pa.ListArray.from_arrays(offsets, pa.concat_arrays(own_words).take(order))
    lines, raws = batch.locate(at)
    columns = [
        batch.rows.take(pa.array(at)),
        lines,
        pa.ListArray.from_arrays(offsets, reasons),
        pa.ListArray.from_arrays(offsets, values),
        details,
        raws,
    ]
    return Rejected(
        pa.table(columns, schema=RECORD_SCHEMA),
        [Reason(f.column, f.rule, f.words if isinstance(f.words, str) else "", True) for f in failures],
    )


def _by_record(failures: Sequence[Failure], counts: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """Sorts failing cells from failure by failure to record by record.

    Returns for each cell in the new order the number of its failure, and its position in the old order.
    """
    slots = np.cumsum(counts) - counts  # where the next failure of each record goes
    reasons = np.empty(int(counts.sum()), np.int32)
    order = np.empty(len(reasons), np.int64)
    before = 0
    for number, failure in enumerate(failures):
        mine = slots[failure.indexes]
        reasons[mine] = number
        order[mine] = np.arange(before, before + len(mine))
        slots[failure.indexes] += 1
        before += len(mine)
    return pa.array(reasons), pa.array(order)


def duplicate_records(
    duplicates: Sequence[Duplicate], batch: TextBatch, rule: str, names: str, sources: Sequence[str]
) -> Rejected:
    """The records of a batch (in order) that have the key of an earlier record of the file.

    ``sources`` are the text columns of the key, which is shown as it stands in the file.
    """
    at = np.searchsorted(batch.rows.to_numpy(), [d.row for d in duplicates])
    lines, raws = batch.locate(at)
    n = len(duplicates)
    cells = [batch.columns.column(name).take(pa.array(at)) for name in sources]
    shown = pc.binary_join_element_wise(*cells, ", ", null_handling="replace")
    one_each = pa.array(range(n + 1), pa.int32())
    reasons, values, details = (
        pa.ListArray.from_arrays(one_each, flat)
        for flat in (
            pa.array([0] * n, pa.int32()),
            shown,
            pa.array([str(d.first_row) for d in duplicates], pa.string()),
        )
    )
    columns = [batch.rows.take(pa.array(at)), lines, reasons, values, details, raws]
    words = f"the same {names} stood already in record "
    return Rejected(pa.table(columns, schema=RECORD_SCHEMA), [Reason(names, rule, words, False)])


def records_from_cells(rejects: pa.Table) -> Rejected:
    """Rejected cells (REJECT_SCHEMA, ordered by record) as records. Their reasons are their columns and rules."""
    if not len(rejects):
        return _NONE
    rejects = rejects.combine_chunks()
    columns, rules = (
        rejects[name].combine_chunks().dictionary_encode(null_encoding="encode")
        for name in ("column_name", "rule")
    )
    names, words = columns.dictionary.to_pylist(), rules.dictionary.to_pylist()
    # a number for each pair of column and rule
    pairs = columns.indices.to_numpy().astype(np.int64) * len(words) + rules.indices.to_numpy()
    found, numbers = np.unique(pairs, return_inverse=True)
    reasons = [
        Reason(names[pair // len(words)], words[pair % len(words)], "", False) for pair in found.tolist()
    ]
    rows = rejects["row"].to_numpy()
    starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
    offsets = pa.array(np.append(starts, len(rejects)), pa.int32())
    first = rejects.take(pa.array(starts))
    cells = [pa.array(numbers.astype(np.int32)), *(rejects[n].combine_chunks() for n in ("value", "message"))]
    lists = [pa.ListArray.from_arrays(offsets, flat) for flat in cells]
    table = pa.table([first["row"], first["line"], *lists, first["raw"]], schema=RECORD_SCHEMA)
    return Rejected(table, reasons)


# --- rejects as people see them --------------------------------------------------------


def as_cells(rejected: Rejected, limit: int) -> pa.Table:
    """The first ``limit`` cells of rejected records, one row for each (REJECT_SCHEMA).

    Messages are the same as those of :func:`validation.faults.fault_messages` and of the view ``importer.rejects``.
    """
    rows = []
    for record in rejected.records.slice(0, limit).to_pylist():
        details = record["details"] or [None] * len(record["reasons"])
        for number, value, detail in zip(record["reasons"], record["values"], details, strict=True):
            reason = rejected.reasons[number]
            message = reason.words + (detail or "")
            if reason.quotes and value is not None:
                message = f"'{value[:SHOWN]}{'…' if len(value) > SHOWN else ''}' {message}"
            rows.append(
                {
                    "row": record["row"],
                    "line": record["line"],
                    "column_name": reason.column_name,
                    "value": value,
                    "rule": reason.rule,
                    "message": message,
                    "raw": record["raw"],
                }
            )
    return pa.Table.from_pylist(rows[:limit], schema=REJECT_SCHEMA)
