"""A group of small files that share one validation, one slot, one COPY and one transaction.

What does not belong here: which files these are, and reading them (``small_files.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
import pyarrow as pa

from importer_dagster.ledger import drift as ledger_drift
from importer_dagster.ledger import loads, queries
from importer_dagster.model import LoadResult
from importer_dagster.pipeline import record
from importer_dagster.pipeline.columns import ColumnPlan
from importer_dagster.pipeline.rows import validator_for
from importer_dagster.pipeline.state import Job, Tally
from importer_dagster.validation.control_totals import LAST_RECORDS, TotalLines
from importer_dagster.writer.copy_rows import RowStream, Trace, traced_together
from importer_dagster.writer.key_order import KeyOrder
from importer_dagster.writer.publish import Counts
from importer_dagster.writer.tables import ensure_tables


@dataclass(frozen=True)
class SmallFile:
    """One file as it was read: its columns as text (None: no record), and their record numbers."""

    job: Job
    plan: ColumnPlan
    columns: pa.RecordBatch | None
    numbers: pa.Array


@dataclass(frozen=True)
class FileGroup:
    """Files whose records are all good, and these as typed columns, file by file."""

    files: Sequence[SmallFile]
    typed: pa.RecordBatch

    def only(self, wanted: Sequence[bool]) -> FileGroup:
        """The group without some of its files."""
        if all(wanted):
            return self
        of_rows = np.repeat(wanted, [len(f.numbers) for f in self.files])
        files = [f for f, is_wanted in zip(self.files, wanted, strict=True) if is_wanted]
        return FileGroup(files, self.typed.filter(pa.array(of_rows)))


def import_group(files: Sequence[SmallFile]) -> list[LoadResult]:
    """Import files together, unless there is only one, which has nothing to share."""
    if len(files) < 2:
        return []
    group = _validate(files)
    if len(group.files) < 2:
        return []
    job = group.files[0].job
    size = sum(f.job.content.size or 0 for f in group.files)
    with (
        job.warehouse.connect() as conn,
        job.warehouse.writing(job.delivery.type, job.delivery.tenant, size=size, conn=conn) as writer,
    ):
        ensure_tables(writer, job.warehouse, job.target)
        return _load(writer, group)


def _validate(files: Sequence[SmallFile]) -> FileGroup:
    """Validate all records at once; files with a bad or doubtful one, or a key that may come twice, are left out."""
    spec = files[0].job.spec
    validator = validator_for(spec, files[0].plan.sources)
    batches = [f.columns for f in files if f.columns is not None]
    whole = pa.Table.from_batches(batches).combine_chunks().to_batches() if batches else []
    if not whole:
        return FileGroup(files, pa.RecordBatch.from_pylist([], schema=validator.schema))
    typed, good, failures = validator(whole[0])
    is_fine = np.ones(len(files), np.bool_)
    file_of = np.repeat(np.arange(len(files)), [len(f.numbers) for f in files])
    ends = np.cumsum([len(f.numbers) for f in files])
    at_the_end = np.flatnonzero(ends[file_of] - np.arange(len(file_of)) <= LAST_RECORDS)
    texts = [whole[0].column(source) for source in validator.sources_of(TotalLines(spec).labels)]
    totals = TotalLines.labelled(texts, at_the_end)
    for positions in (*(f.indexes for f in failures), *validator.doubtful, totals):
        is_fine[file_of[positions]] = False
    group = FileGroup(
        [f for f, fine in zip(files, is_fine, strict=True) if fine],
        typed.filter(pa.array(is_fine[file_of[good]])),
    )
    if not spec.primary_key:
        return group
    rises = []
    start = 0
    for file in group.files:
        order = KeyOrder(spec)
        order.add(group.typed.slice(start, len(file.numbers)))
        rises.append(order.holds)
        start += len(file.numbers)
    return group.only(rises)


def _load(conn: psycopg.Connection, group: FileGroup) -> list[LoadResult]:
    """Load the files that have no active load by now; nobody else loads the type and tenant meanwhile."""
    active = queries.active_loads_of(conn, [f.job.delivery for f in group.files])
    group = group.only([queries.key_of(f.job.delivery) not in active for f in group.files])
    if not group.files:
        return []
    job = group.files[0].job
    begun, numbers = loads.take_numbers(conn, len(group.files))
    _copy(conn, group, numbers)
    results = [_result(file, number) for file, number in zip(group.files, numbers, strict=True)]
    versions = [file.job.content.file_version for file in group.files]
    with conn.pipeline():  # which ends with the first statement that fails, before the commit
        loads.write_loaded(conn, results, versions, job.spec.hash, job.run_id, begun)
        for result in results:
            ledger_drift.write(conn, result.load_id or 0, result.drift)
        conn.commit()
    return results


def _copy(conn: psycopg.Connection, group: FileGroup, numbers: Sequence[int]) -> None:
    job = group.files[0].job
    layout = Trace(job.delivery, 0).schema(job.spec, ())
    parts = [
        (f.job.delivery.business_date, number, f.numbers)
        for f, number in zip(group.files, numbers, strict=True)
    ]
    stream = RowStream(conn, job.target.live, job.spec, layout, is_short=True)
    batch = traced_together(group.typed, job.delivery, parts, layout)
    try:
        if len(batch):
            stream.write(batch)
        stream.pause()
    except BaseException as error:
        stream.abort(error)
        raise


def _result(file: SmallFile, load_id: int) -> LoadResult:
    tally = Tally(read=len(file.numbers), drift=file.plan.mapping.events)
    figures = record.account_for(file.job, tally, Counts(loaded=tally.read))
    return record.result(file.job, tally, "loaded", load_id, figures)
