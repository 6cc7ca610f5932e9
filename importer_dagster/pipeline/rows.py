"""The rows of one delivery: read, validated, and written into a table or its staging table.

Reader and validation run in a thread each, the writer in the caller's, so that the server gets the next rows
while it still stores the last ones. A queue of one batch lies between two of them, so memory does not grow with
the file. A file that is one batch needs no threads.

What does not belong here: which table the rows go to (``staging.py``), what becomes of them there
(``writer/publish.py``).
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import psycopg
import pyarrow as pa

from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Failure, TextBatch
from importer_dagster.pipeline.columns import ColumnPlan
from importer_dagster.pipeline.state import (
    Begun,
    Job,
    RestartLoad,
    StagingPlan,
    Tally,
    check_reject_count,
    write_rejects,
)
from importer_dagster.reader.reader import Reader
from importer_dagster.source.manifest import Claims
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.control_totals import TotalLines, Totals
from importer_dagster.validation.extra_columns import Rescued
from importer_dagster.validation.rejects import Rejected, failed_records, records_from_cells
from importer_dagster.validation.validator import Validator
from importer_dagster.warehouse import refusal_of
from importer_dagster.writer.copy_rows import RowStream, Trace
from importer_dagster.writer.key_order import KeyOrder
from importer_dagster.writer.unchanged_filter import UnchangedFilter

REJECTS_IN_MEMORY = 8_000_000  # bytes; then they are written, and the COPY of rows begins anew
QUEUE_BATCHES = 1  # batches between two threads; more only costs memory

T = TypeVar("T")


@dataclass(frozen=True)
class ValidatedBatch:
    """A batch as text, its good rows as typed columns, their positions, the failing cells and their records."""

    text: TextBatch
    typed: pa.RecordBatch
    good: np.ndarray
    failures: list[Failure]
    rejected: Rejected


@dataclass
class ValidatedRows:
    """The batches of one file, validated in order.

    ``known`` are all of them where the file is short; None where they still have to be read.
    ``key_order``, ``totals`` and ``total_lines`` sum up the batches that have been taken so far.
    """

    reader: Reader
    validator: Validator
    key_order: KeyOrder
    totals: Totals
    total_lines: TotalLines
    batches: Iterable[ValidatedBatch] = ()
    known: Sequence[ValidatedBatch] | None = None

    def validate(self, text: TextBatch) -> ValidatedBatch:
        """Validate the next batch."""
        typed, good, failures = self.validator(text.columns)
        self.key_order.add(typed)
        self.total_lines.add(typed, text.rows, good)
        return ValidatedBatch(text, typed, good, failures, failed_records(failures, text))

    @property
    def warnings(self) -> list[str]:
        """What the load should say about the records."""
        return [*self.validator.warnings, *self.total_lines.warnings()]


def validator_for(spec: TableSpec, sources: Mapping[str, str], rescued: Sequence[Rescued] = ()) -> Validator:
    """The validator of a type's fields, each fed by a text column of the batches or by none."""
    fed = {f.name: sources.get(f.name) for f in spec.fields}
    return Validator(spec, fed, [r.field.name for r in rescued])


@contextmanager
def read_and_validate(job: Job, plan: ColumnPlan, reader: Reader) -> Iterator[ValidatedRows]:
    """The file's batches; within the block its threads live, unless the file is short."""
    reader.select(sorted({*plan.mapping.sources.values(), *plan.mapping.extras}))
    rows = ValidatedRows(
        reader,
        validator_for(job.layout.whole, plan.sources, plan.extras.rescued),
        KeyOrder(job.spec),
        Totals(job.layout.spec, plan.sources),
        TotalLines(job.layout.whole),
    )
    if reader.is_short:  # a thread takes as long to start as to read it
        rows.batches = rows.known = [rows.validate(text) for text in reader.batches()]
        yield rows
        return
    with (
        prefetch(reader.batches(), "reader") as texts,
        prefetch(map(rows.validate, texts), "validator") as batches,
    ):
        rows.batches = batches
        yield rows


def copy_rows(
    job: Job, begun: Begun, plan: ColumnPlan, staging: StagingPlan, rows: ValidatedRows, tally: Tally
) -> int:
    """Write all good rows into the staging table or the type's table, all rejects into quarantine.

    Returns the number of rows written. Raises RestartLoad where the type's table refuses a key that comes
    twice in the file, RefusedError for too many rejects and for rows that the server cannot take.
    """
    publisher, conn = begun.publisher, begun.publisher.conn
    table = publisher.staging_table if staging.stage else publisher.target.live
    secret = _secret(conn, job) if publisher.target.is_keyed else None
    trace = Trace(job.delivery, begun.load_id, secret=secret)
    layout = trace.schema(job.spec, plan.extras.names)
    stream = RowStream(conn, table, job.spec, layout, rows.reader.is_short)
    into = UnchangedFilter(publisher, stream) if staging.filter_unchanged else stream

    def unread(rescued: Rescued, cells: pa.Array, typed: pa.Array) -> pa.Array:
        lost = rows.validator.unread(rescued.field.name, cells, typed)
        tally.types.add_rescued(rescued.field.column, lost)
        return lost

    try:
        for batch in rows.batches:
            _count(batch, rows.totals, tally)
            if len(batch.good):
                text = batch.text
                is_whole = len(batch.good) == len(text.rows)
                numbers = text.rows if is_whole else text.rows.take(pa.array(batch.good))
                more = plan.extras.arrays(text.columns, batch.typed, batch.good, unread)
                into.write(trace.add(batch.typed, numbers, more, layout))
            check_reject_count(job.spec, tally, batch.text.most_left)
            if tally.rejects.pending_bytes >= REJECTS_IN_MEMORY:
                into.pause()
                write_rejects(conn, job, begun.load_id, tally)
            if job.progress:
                job.progress(tally.read, tally.rejects.records)
        into.pause()
        write_rejects(conn, job, begun.load_id, tally)
    except psycopg.Error as error:
        into.abort(error)
        is_key = isinstance(error, psycopg.errors.UniqueViolation) and publisher.target.is_keyed
        if is_key and not job.facts.has_duplicates:
            raise RestartLoad(replace(job.facts, has_duplicates=True)) from error
        raise refusal_of(error) or error from error
    except BaseException as error:
        into.abort(error)
        raise
    job.content.sha256, job.content.size = rows.reader.sha256, rows.reader.size
    return stream.rows


def _secret(conn: psycopg.Connection, job: Job) -> bytes:
    """The key of the hashes of rows; a rehearsal without the ledger's tables has one of its own."""
    return ledger_schema.row_secret(conn, job.warehouse) if job.has_ledger else secrets.token_bytes()


def _count(batch: ValidatedBatch, totals: Totals, tally: Tally) -> None:
    text = batch.text
    totals.add(text.columns)
    tally.types.add(text.columns, batch.failures)
    damaged = records_from_cells(text.rejects)
    tally.rejects.add(damaged)
    tally.damaged += len(damaged.records)
    tally.rejects.add(batch.rejected)
    tally.read += len(text.rows) + len(damaged.records) + text.skipped
    tally.skipped += text.skipped


def check_totals(rows: ValidatedRows, claims: Claims | None, tally: Tally) -> None:
    """Compare the file with its manifest and its trailer; raises RefusedError where they differ."""
    reader = rows.reader
    if claims is not None:
        claims.check(size=reader.size, digest=reader.digest, records=tally.records)
    rows.totals.check(reader.trailer, tally.records, tally.damaged)


# --- threads ------------------------------------------------------------------------------


class _End:
    """What a thread sends last: nothing, or the error that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


@contextmanager
def prefetch(source: Iterator[T], name: str) -> Iterator[Iterator[T]]:
    """The items of ``source``, made by a thread up to QUEUE_BATCHES in advance; its errors are raised here.

    When the block is left, the thread has ended, whether ``source`` has or not.
    """
    items: queue.Queue[T | _End] = queue.Queue(QUEUE_BATCHES)
    stop = threading.Event()

    def put(item: T | _End) -> bool:
        """Put ``item`` when there is room; False if nobody wants it any more."""
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def fill() -> None:
        try:
            for item in source:
                if not put(item):
                    return
            put(_End(None))
        except BaseException as error:
            put(_End(error))

    def drain() -> Iterator[T]:
        while not isinstance(item := items.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    thread = threading.Thread(target=fill, name=name, daemon=True)
    thread.start()
    try:
        yield drain()
    finally:
        stop.set()
        thread.join()
