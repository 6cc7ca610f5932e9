"""Rejects of one delivery on their way to quarantine: counted, located, the first ones kept.

Quarantine has one row per rejected record with numbers of reasons, and every
reason once per load: with 17 bad cells a record, that is a quarter of the time
and space that a row per cell takes.

What does not belong here: deciding what is a reject (``reader/reader.py``, ``validation/validator.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from importer_dagster.errors import RefusedError
from importer_dagster.model import Duplicate, Failure, Reason, TextBatch
from importer_dagster.reject_schema import RECORD_SCHEMA, REJECT_SCHEMA
from importer_dagster.validation.faults import SHOWN

REASONS_KEPT = 1_000  # rejects on record for a refused file


@dataclass(frozen=True)
class Rejected:
    """Rejected records (reject_tables.RECORD_SCHEMA, ordered); their reasons are numbered as in ``reasons``, from 0."""

    records: pa.Table
    reasons: Sequence[Reason]


NONE = Rejected(RECORD_SCHEMA.empty_table(), ())


@dataclass
class Rejects:
    """Rejects met so far: how many records, the first cells of them, and those not yet written."""

    records: int = 0
    first: list[pa.Table] = field(default_factory=list)
    pending: list[pa.Table] = field(default_factory=list)
    pending_bytes: int = 0
    _first_rows: int = 0
    _numbers: dict[Reason, int] = field(default_factory=dict)
    _written_reasons: int = 0

    def add(self, rejected: Rejected) -> None:
        """Take more rejected records."""
        table = rejected.records
        if not len(table):
            return
        self.records += len(table)
        if self._first_rows < REASONS_KEPT:
            kept = spelled_out(rejected, REASONS_KEPT - self._first_rows)
            self.first.append(kept)
            self._first_rows += len(kept)
        table = self._renumbered(table, rejected.reasons)
        self.pending.append(table)
        self.pending_bytes += table.nbytes

    def _renumbered(self, table: pa.Table, reasons: Sequence[Reason]) -> pa.Table:
        numbers = np.array([self._numbers.setdefault(r, len(self._numbers)) for r in reasons], np.int32)
        lists = table["reasons"].combine_chunks()
        flat = pa.array(numbers[lists.values.to_numpy()])
        at = table.schema.get_field_index("reasons")
        return table.set_column(at, RECORD_SCHEMA.field(at), pa.ListArray.from_arrays(lists.offsets, flat))

    @property
    def kept(self) -> pa.Table:
        """The first cells of them, up to a thousand (reject_schema.REJECT_SCHEMA)."""
        return pa.concat_tables(self.first) if self.first else REJECT_SCHEMA.empty_table()

    def take(self) -> tuple[pa.Table, dict[int, Reason]]:
        """The records that are not written yet and the reasons that come up in them first; the caller's from here on."""
        table = pa.concat_tables(self.pending) if self.pending else NONE.records
        self.pending, self.pending_bytes = [], 0
        new = {n: r for r, n in self._numbers.items() if n >= self._written_reasons}
        self._written_reasons = len(self._numbers)
        return table, new


def first_reasons(rejects: Rejects, error: RefusedError) -> pa.Table:
    """The rejects (reject_tables.REJECT_SCHEMA) to keep with a refusal; without any, the refusal itself as one about the file."""
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


def located(failures: Sequence[Failure], batch: TextBatch) -> Rejected:
    """The records of a batch that have failures, each with all of them, its number, line and text."""
    counts = np.zeros(len(batch.rows), np.int64)
    for failure in failures:
        counts[failure.indexes] += 1
    at = np.flatnonzero(counts)
    if not len(at):
        return NONE
    reasons, order = _by_record(failures, counts)
    offsets = pa.array(np.append(0, np.cumsum(counts[at])), pa.int32())
    lines, raws = batch.locate(at)
    values = pa.concat_arrays([f.values for f in failures]).take(order)
    records = [
        batch.rows.take(pa.array(at)),
        lines,
        pa.ListArray.from_arrays(offsets, reasons),
        pa.ListArray.from_arrays(offsets, values),
        _details(failures, order, offsets),
        raws,
    ]
    return Rejected(
        pa.table(records, schema=RECORD_SCHEMA),
        [Reason(f.column, f.rule, f.words if isinstance(f.words, str) else "", True) for f in failures],
    )


def _by_record(failures: Sequence[Failure], counts: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """For each failing cell, record by record: the number of its failure, and its place in all failures in a row."""
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


def _details(failures: Sequence[Failure], order: pa.Array, offsets: pa.Array) -> pa.Array:
    if all(isinstance(f.words, str) for f in failures):
        return pa.nulls(len(offsets) - 1, pa.list_(pa.string()))
    own = [
        f.words if isinstance(f.words, pa.Array) else pa.nulls(len(f.indexes), pa.string()) for f in failures
    ]
    return pa.ListArray.from_arrays(offsets, pa.concat_arrays(own).take(order))


def repeated(duplicates: Sequence[Duplicate], batch: TextBatch, rule: str, names: str) -> Rejected:
    """Records of a batch (in order) that have the key of an earlier record of the file."""
    at = np.searchsorted(batch.rows.to_numpy(), [d.row for d in duplicates])
    lines, raws = batch.locate(at)
    n = len(duplicates)
    each = pa.array(range(n + 1), pa.int32())
    lists = (
        pa.array([0] * n, pa.int32()),
        pa.array([d.value for d in duplicates], pa.string()),
        pa.array([str(d.first_row) for d in duplicates], pa.string()),
    )
    nested = [pa.ListArray.from_arrays(each, flat) for flat in lists]
    table = pa.table([batch.rows.take(pa.array(at)), lines, *nested, raws], schema=RECORD_SCHEMA)
    return Rejected(table, [Reason(names, rule, f"the same {names} stood already in record ", False)])


def from_table(rejects: pa.Table) -> Rejected:
    """Rejects (reject_tables.REJECT_SCHEMA, ordered by record) as quarantine keeps them."""
    if not len(rejects):
        return NONE
    rejects = rejects.combine_chunks()
    numbers = rejects["row"].to_numpy()
    starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
    offsets = pa.array(np.append(starts, len(rejects)), pa.int32())
    codes, reasons = _reasons_of(rejects)
    first = rejects.take(pa.array(starts))
    lists = [codes, *(rejects[n].combine_chunks() for n in ("value", "message"))]
    nested = [pa.ListArray.from_arrays(offsets, flat) for flat in lists]
    table = pa.table([first["row"], first["line"], *nested, first["raw"]], schema=RECORD_SCHEMA)
    return Rejected(table, reasons)


def _reasons_of(rejects: pa.Table) -> tuple[pa.Array, list[Reason]]:
    """For each reject the number of its column and rule, and what the numbers stand for."""
    columns, rules = (
        rejects[name].combine_chunks().dictionary_encode(null_encoding="encode")
        for name in ("column_name", "rule")
    )
    pairs = columns.indices.to_numpy().astype(np.int64) * len(rules.dictionary) + rules.indices.to_numpy()
    found, codes = np.unique(pairs, return_inverse=True)
    names, words = columns.dictionary.to_pylist(), rules.dictionary.to_pylist()
    reasons = [
        Reason(names[pair // len(words)], words[pair % len(words)], "", False) for pair in found.tolist()
    ]
    return pa.array(codes.astype(np.int32)), reasons


def spelled_out(rejected: Rejected, limit: int) -> pa.Table:
    """The first ``limit`` cells of rejected records, one row for each (reject_tables.REJECT_SCHEMA)."""
    rows = [
        cell
        for record in rejected.records.slice(0, limit).to_pylist()
        for cell in _cells(record, rejected.reasons)
    ]
    return pa.Table.from_pylist(rows[:limit], schema=REJECT_SCHEMA)


def _cells(record: dict[str, object], reasons: Sequence[Reason]) -> list[dict[str, object]]:
    details = record["details"] or [None] * len(record["reasons"])  # type: ignore[arg-type]
    return [
        {
            "row": record["row"],
            "line": record["line"],
            "column_name": reasons[number].column_name,
            "value": value,
            "rule": reasons[number].rule,
            "message": _message(reasons[number], value, own),
            "raw": record["raw"],
        }
        for number, value, own in zip(record["reasons"], record["values"], details, strict=True)  # type: ignore[call-overload]
    ]


def _message(reason: Reason, value: str | None, own: str | None) -> str:
    """As :func:`arrays.said` and the view ``importer.rejects`` make it."""
    words = reason.words + (own or "")
    if not reason.quotes or value is None:
        return words
    return f"'{value[:SHOWN]}{'…' if len(value) > SHOWN else ''}' {words}"
