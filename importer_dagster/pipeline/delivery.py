"""The story of one import, on one screen: :func:`import_delivery`.

source → reader → drift → validate → writer → ledger. Reader and validation run
in a thread each, the writer in the caller's, so that the server gets the next
rows while it still stores the last. A queue of one batch lies between them, so
that neither memory nor the distance between them can grow. A file that is one
batch needs no threads. Rows, rejects and ledger entry commit in one transaction.

What does not belong here: how any of the stages does its work, and whether there
is anything to do at all (``pipeline/already_loaded.py``).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa

from importer_dagster.errors import RefusedError, TransientError, WarehouseUnavailable
from importer_dagster.ledger import drift as ledger_drift
from importer_dagster.ledger import loads, queries
from importer_dagster.ledger import rejects as ledger_rejects
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.ledger.queries import ActiveLoad
from importer_dagster.model import (
    ColumnMapping,
    Delivery,
    DriftEvent,
    Failure,
    Finding,
    LoadResult,
    Rank,
    Status,
    TextBatch,
)
from importer_dagster.pipeline import already_loaded, gate, staging
from importer_dagster.pipeline.already_loaded import (
    FileContent,
    FingerprintNeeded,
    PriorLoads,
    PriorOutcome,
    result_of,
    with_remedy,
)
from importer_dagster.pipeline.columns import with_profiles
from importer_dagster.pipeline.rows import ahead
from importer_dagster.reader.reader import Reader, open_delivery
from importer_dagster.reject_schema import REJECT_SCHEMA
from importer_dagster.source.completeness import unchanged
from importer_dagster.source.manifest import read_claims
from importer_dagster.spec.table import TableSpec, declarations
from importer_dagster.validation.control_totals import Totals
from importer_dagster.validation.drift import TypeWatch, map_header
from importer_dagster.validation.extra_columns import Extras, Rescued
from importer_dagster.validation.rejects import (
    Rejected,
    Rejects,
    first_reasons,
    from_table,
    located,
    repeated,
)
from importer_dagster.validation.validator import Validator
from importer_dagster.warehouse import Warehouse, refusal_of
from importer_dagster.writer import held_rows, schema_evolution
from importer_dagster.writer.copy_rows import RowStream, Trace
from importer_dagster.writer.key_order import KeyOrder
from importer_dagster.writer.publish import Counts, Publisher
from importer_dagster.writer.tables import create_tables, ensure_tables
from importer_dagster.writer.target import target_of
from importer_dagster.writer.unchanged_filter import UnchangedFilter

log = logging.getLogger(__name__)

REJECTS_IN_MEMORY = 8_000_000  # bytes; then they are written, and the COPY of rows begins anew
ATTEMPTS = 3
ATTEMPTS_AT_A_RESTART = 6  # half a minute: what a server takes to restart, or a standby to take over
_FIRST_PAUSE_S = 0.5

Progress = Callable[[int, int], None]  # (rows so far, rejected so far)


def import_delivery(
    delivery: Delivery,
    spec: TableSpec,
    *,
    warehouse: Warehouse,
    run_id: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    is_new: bool = False,
    progress: Progress | None = None,
) -> LoadResult:
    """Import one delivery, in one transaction, and say what became of it.

    A delivery that is refused (status ``refused``) is a result, not an
    exception; nothing of it is loaded, the reason and the first rejects are on
    record. The same content under the same path again is ``unchanged`` unless
    ``force``. ``dry_run`` does everything and then rolls it back. ``is_new``: the
    caller has just seen that nothing stands of it (:func:`pipeline.unchanged_files.look_up`), so that
    one look at the ledger will do, when it is this file's turn.

    Raises TransientError when database or source stay out of reach after
    three attempts (six, for a database that this process has worked with
    before), WarehouseError when the warehouse will not do it.
    """
    attempt = 1
    while True:
        try:
            return _Import(delivery, spec, warehouse, run_id, force, dry_run, progress, is_new).run()
        except TransientError as error:
            attempts = _attempts(error, warehouse)
            if attempt >= attempts:
                if not dry_run:
                    _record_failure(delivery, spec, warehouse, run_id, error)
                raise
            log.warning("Attempt %d of %d failed: %s", attempt, attempts, error)
            time.sleep(_FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        attempt += 1


def _attempts(error: TransientError, warehouse: Warehouse) -> int:
    """How often to try: a database that answered before will be back, a wrong address will not."""
    comes_back = isinstance(error, WarehouseUnavailable) and "ledger" in warehouse.prepared
    return ATTEMPTS_AT_A_RESTART if comes_back else ATTEMPTS


def _record_failure(
    delivery: Delivery, spec: TableSpec, warehouse: Warehouse, run_id: str | None, error: TransientError
) -> None:
    """Put a failure on the ledger, if the database can be reached for that."""
    try:
        with warehouse.writing(delivery.type, delivery.tenant, size=0) as conn:
            load_id = loads.begin_load(conn, delivery, spec.hash, run_id)
            loads.finish_load(
                conn, load_id, status="failed", counts={}, size=delivery.size, sha256=None, reason=str(error)
            )
            conn.commit()
    except Exception:  # the error itself is what the caller must see
        log.warning("The failure could not be put on the ledger")


class _Import:
    """One attempt at one delivery."""

    def __init__(
        self,
        delivery: Delivery,
        spec: TableSpec,
        warehouse: Warehouse,
        run_id: str | None,
        force: bool,
        dry_run: bool,
        progress: Progress | None,
        is_new: bool,
    ) -> None:
        self.delivery, self.spec, self.warehouse = delivery, spec, warehouse
        self.run_id, self.force, self.dry_run, self.progress = run_id, force, dry_run, progress
        self.is_new = is_new and not force and not dry_run
        self.layout = spec.layout(delivery.business_date)
        self.started = time.monotonic()
        self.reserved = False  # whether the type's tables may be changed
        self.has_duplicates = False  # found where there was no stage
        self.rescued: dict[str, bool] = {}  # fields of another type: whether they are rescued
        self._begin()
        self.content = FileContent(delivery, spec)
        self.before = PriorLoads(self.content, force=force, dry_run=dry_run)
        self.has_ledger = True

    def _begin(self) -> None:
        """Nothing is read yet."""
        self.target = target_of(self.spec, self.delivery.has_tenant, self.warehouse.schema)
        self.rejects = Rejects()
        self.mapping = ColumnMapping({})
        self.events: tuple[DriftEvent, ...] = ()
        self.warnings: list[str] = []
        self.headers: dict[str, str] = {}  # column → its name in this header
        self.extras = Extras()
        self.types = TypeWatch()
        self.read = self.skipped = self.damaged = 0
        self.findings: tuple[Finding, ...] = ()

    def run(self) -> LoadResult:
        self.content.look()
        if not self.dry_run:
            ledger_schema.migrate(self.warehouse)
        while True:
            try:
                return self._rehearse() if self.dry_run else self._import()
            except FingerprintNeeded as unread:
                self.content.read(self.warehouse)
                if same := self.before.say(unread.active_loads):
                    return self._settled(same)
            except _NotNew:
                self.is_new = False

    def _import(self) -> LoadResult:
        with self.warehouse.connect() as conn:
            if not self.is_new:
                if same := self.before.ask(conn):
                    return self._settled(same)
                self.is_new = not self.before.active_loads and not self.force
            with self._writing(conn) as writer:
                if not self.is_new and (same := self.before.ask(writer, alone=True)):
                    return self._settled(same)  # someone else was quicker
                try:
                    ensure_tables(writer, self.warehouse, self.target)
                    return self._load_settled(writer)
                except RefusedError as error:
                    writer.rollback()
                    return self._refused(writer, error)

    def _rehearse(self) -> LoadResult:
        """Everything in one transaction, tables and ledger row included, and then a rollback."""
        with self.warehouse.connect() as conn:
            self.has_ledger = ledger_schema.is_usable(conn)
            conn.rollback()
            if self.has_ledger and (same := self.before.ask(conn)):
                return self._settled(same)
            with self._writing(conn, queue=self.has_ledger) as writer:
                if self.has_ledger:
                    self.before.look(writer)
                try:
                    return self._load_settled(writer)
                except RefusedError as error:
                    return self._refused(writer, error)

    def _writing(
        self, conn: psycopg.Connection, *, queue: bool = True
    ) -> AbstractContextManager[psycopg.Connection]:
        """``conn`` when its turn has come, or another: none is kept while it waits."""
        return self.warehouse.writing(
            self.delivery.type,
            self.delivery.tenant,
            size=self.content.size,
            on_wait=self._waiting,
            trace=not self.dry_run,
            queue=queue,
            conn=conn,
        )

    def _waiting(self, seconds: float) -> None:
        if seconds > 5:
            log.info("%s waits for its turn to write, %.0f s so far", self.delivery.path, seconds)

    # --- the load itself ---

    def _load_settled(self, conn: psycopg.Connection) -> LoadResult:
        """Load; once more from the start where that turns out to be needed (:class:`_Again`)."""
        while True:
            try:
                if self.dry_run:
                    create_tables(conn, self.target)
                return self._load(conn)
            except _Again:
                conn.rollback()
                self._begin()

    def _load(self, conn: psycopg.Connection) -> LoadResult:
        if self.reserved:
            schema_evolution.reserve(conn, self.target)
        prior = self.before.in_force
        load_id, newest = self._begin_load(conn, prior)
        if prior is not None:
            # before publishing: from here on the prior load's rows are not in force
            loads.supersede(conn, prior.load_id, load_id)
        with unchanged(self.delivery.url):
            self.claims = read_claims(self.delivery, self.spec.complete.manifest)
            also = self.claims.algorithm if self.claims else None
            with open_delivery(self.delivery, self.layout.spec, also=also) as reader:
                self.warnings = reader.warnings
                self._map(conn, reader.header, reader.header_line)
                publisher = self._publisher(conn, load_id, prior)
                with self._judging(reader) as batches:
                    staged = self._needs_stage(publisher, newest, batches)
                    if staged:
                        table = publisher.create_stage()
                    else:
                        table = self.target.live
                        publisher.make_way(newest)
                    if self.extras.grows:
                        schema_evolution.prepare_stage(
                            conn, list(self.extras.grows.values()), self.target.gained
                        )
                    sifting = publisher if staged and staging.may_filter(publisher, newest) else None
                    stream = self._copy_rows(conn, load_id, table, reader, batches, sifting)
            self._judge_types()
            self.findings = gate.repeats(conn, self.spec)
            if staged:
                self._reject_duplicates(publisher, load_id)
        self._check_limit()
        self._grow(conn, publisher)
        if self._is_to_be_held(conn, prior):
            assert not publisher.noted, "of a file that may be held, no row may stay out of the stage"
            return self._hold(conn, load_id, prior)
        if self.has_ledger:
            staging.check_place(
                conn, self.target, self.delivery, newest, prior=publisher.prior, force=self.force
            )
        counts = publisher.publish(newest, stream.rows) if staged else Counts(loaded=stream.rows)
        return self._commit(conn, load_id, counts)

    def _begin_load(self, conn: psycopg.Connection, prior: ActiveLoad | None) -> tuple[int, Rank | None]:
        """The load's number, its row written, and what it meets: in one round trip.

        The latter is the newest delivery as :meth:`Publisher.publish` wants it (nobody else loads the
        type and tenant meanwhile), and the columns that the tables have gained, which the target notes.
        """
        with conn.pipeline():
            begun = self._ask_begin_load(conn)
            newest = self._ask_newest(conn, prior)
            if self._meets_rows(prior):
                gained = schema_evolution.with_gained_deferred(conn, self.target)
        load_id = begun()
        if load_id is None:
            raise _NotNew
        if self._meets_rows(prior):
            self.target = gained()
        return load_id, newest()

    def _ask_begin_load(self, conn: psycopg.Connection) -> Callable[[], int | None]:
        if not self.has_ledger:
            return lambda: 0
        number = loads.number_of_rehearsal() if self.dry_run else None
        unless = queries.IS_ACTIVE if self.is_new else "FALSE"
        return loads.begin_load_deferred(
            conn, self.delivery, self.spec.hash, self.run_id, load_id=number, unless=unless
        )

    def _meets_rows(self, prior: ActiveLoad | None) -> bool:
        """Whether rows of other deliveries may be moved, which takes along what the tables have gained, or that may grow."""
        return self.spec.write_disposition != "append" or prior is not None or self._evolves()

    def _ask_newest(self, conn: psycopg.Connection, prior: ActiveLoad | None) -> Callable[[], Rank | None]:
        if not self.has_ledger or self.spec.write_disposition == "append":
            return lambda: None
        besides = prior.load_id if prior else None
        return queries.newest_rank_deferred(conn, self.delivery.type, self.delivery.tenant, besides=besides)

    def _map(self, conn: psycopg.Connection, header: Sequence[str], line: int) -> None:
        """Decide what becomes of each column of the header."""
        self.mapping = map_header(header, self.layout.spec, self.layout, line=line)
        self.events = self.mapping.events
        extras = self.mapping.extras
        grows = schema_evolution.growing(conn, self.target, header, extras) if self._evolves() else {}
        if any(column not in self.target.gained for column in grows.values()):
            self._reserve()
        self.extras = Extras(
            grows={str(i): column for i, column in grows.items()},
            kept={str(i): header[i] for i in extras if i not in grows},
            rescued=[
                Rescued(
                    self.spec.field(name), str(self.mapping.sources[name]), header[self.mapping.sources[name]]
                )
                for name, wanted in self.rescued.items()
                if wanted
            ],
        )
        fed = self.mapping.sources.items()
        self.headers = {self.spec.field(name).column: header[i] for name, i in fed}
        self.types = TypeWatch({self.spec.field(name).column: str(i) for name, i in fed})

    def _evolves(self) -> bool:
        return self.spec.schema_contract.added == "evolve"

    def _grow(self, conn: psycopg.Connection, publisher: Publisher) -> None:
        """Let the table gain the columns that this delivery brings; a rehearsal leaves the table alone."""
        if not self.extras.grows:
            return
        kinds = {column: evidence.kind for column, evidence in self.extras.evidence.items()}
        planned = schema_evolution.plan(conn, self.target, kinds)
        if self.dry_run:
            publisher.target = schema_evolution.without_changes(self.target, planned)
            schema_evolution.cast_stage(conn, [g for g in planned if g.type == g.before])
            return
        if any(g.type != g.before for g in planned):
            self._reserve()
        schema_evolution.grow(
            conn, self.target, planned, f"{self.delivery.path} ({self.delivery.business_date})"
        )
        schema_evolution.cast_stage(conn, planned)
        self.target = publisher.target = schema_evolution.with_gained(conn, self.target)
        self.events = (*self.events, *schema_evolution.events(planned))

    def _reserve(self) -> None:
        """Begin again as the only one that changes the type's tables, unless we are that already."""
        if not self.reserved and not self.dry_run:
            self.reserved = True
            raise _Again

    def _publisher(self, conn: psycopg.Connection, load_id: int, prior: ActiveLoad | None) -> Publisher:
        return Publisher(
            conn,
            self.target,
            load_id=load_id,
            tenant=self.delivery.tenant,
            business_date=self.delivery.business_date,
            path=self.delivery.path,
            prior=prior.load_id if prior else None,
        )

    def _needs_stage(self, publisher: Publisher, newest: Rank | None, batches: Iterable[_Judged]) -> bool:
        """Whether rows need a stage (:mod:`pipeline.staging`); they do, too, where they had none and needed one.

        A short file is known as a whole by now: ``batches`` is a list.
        """
        if self.dry_run or self.extras.grows or self.has_duplicates:
            return True
        known = [typed for _, typed, *_ in batches] if isinstance(batches, list) else None
        return staging.needs_stage(publisher, newest, known, rises=known is not None and self.rising.holds)

    def _note_duplicates(self, error: psycopg.Error) -> None:
        """Begin again with a stage where the table would not take a key twice."""
        is_key = isinstance(error, psycopg.errors.UniqueViolation) and self.target.is_keyed
        if is_key and not self.has_duplicates:
            self.has_duplicates = True
            raise _Again from error

    @contextmanager
    def _judging(self, reader: Reader) -> Iterator[Iterable[_Judged]]:
        """The batches of a file, judged: as they come, each stage in a thread of its own; of a short file, a list."""
        reader.select(sorted({*self.mapping.sources.values(), *self.mapping.extras}))
        sources = {name: str(position) for name, position in self.mapping.sources.items()}
        fed = {f.name: sources.get(f.name) for f in self.spec.fields}
        self.validator = Validator(self.layout.whole, fed, [r.field.name for r in self.extras.rescued])
        self.totals = Totals(self.layout.spec, sources)
        self.rising = KeyOrder(self.spec)
        if reader.is_short:  # a thread takes as long to start as to read it
            yield [self._judge(batch) for batch in reader.batches()]
            return
        with (
            ahead(reader.batches(), "reader") as texts,
            ahead(map(self._judge, texts), "validator") as batches,
        ):
            yield batches

    def _judge(self, batch: TextBatch) -> _Judged:
        typed, good, failures = self.validator(batch.columns)
        self.rising.add(typed)
        return batch, typed, good, failures, located(failures, batch)

    def _copy_rows(
        self,
        conn: psycopg.Connection,
        load_id: int,
        table: Any,
        reader: Reader,
        batches: Iterable[_Judged],
        sifting: Publisher | None,
    ) -> RowStream:
        trace = Trace(self.delivery, load_id, hashed=self.target.is_keyed)
        layout = trace.schema(self.spec, self.extras.names)
        rows = RowStream(conn, table, self.spec, layout, reader.is_short)
        stream = UnchangedFilter(sifting, rows) if sifting else rows
        try:
            for batch in batches:
                self._one_batch(conn, load_id, batch, trace, stream)
            self._write_rejects(conn, load_id, stream)
        except psycopg.Error as error:
            stream.abort(error)
            self._note_duplicates(error)
            raise refusal_of(error) or error from error
        except BaseException as error:
            stream.abort(error)
            raise
        self.content.sha256, self.content.size = reader.sha256, reader.size
        records = self.read - self.skipped
        if self.claims is not None:
            self.claims.check(size=reader.size, digest=reader.digest, records=records)
        self.totals.check(reader.trailer, records, self.damaged)
        return rows

    def _one_batch(
        self,
        conn: psycopg.Connection,
        load_id: int,
        judged: _Judged,
        trace: Trace,
        stream: RowStream | UnchangedFilter,
    ) -> None:
        batch, typed, good, failures, failing = judged
        self.totals.add(batch.columns)
        self.types.add(batch.columns, failures)
        damaged = from_table(batch.rejects)
        self.rejects.add(damaged)
        self.damaged += len(damaged.records)
        self.rejects.add(failing)
        self.read += len(batch.rows) + len(damaged.records) + batch.skipped
        self.skipped += batch.skipped
        if len(good):
            rows = batch.rows if len(good) == len(batch.rows) else batch.rows.take(pa.array(good))
            more = self.extras.arrays(batch.columns, typed, good, self._unread)
            stream.write(trace.add(typed, rows, more, stream.arrow_schema))
        self._check_count()
        if self.rejects.pending_bytes >= REJECTS_IN_MEMORY:
            self._write_rejects(conn, load_id, stream)
        if self.progress:
            self.progress(self.read, self.rejects.records)

    def _write_rejects(
        self, conn: psycopg.Connection, load_id: int, stream: RowStream | UnchangedFilter
    ) -> None:
        stream.pause()
        self._flush_rejects(conn, load_id)

    def _flush_rejects(self, conn: psycopg.Connection, load_id: int) -> None:
        records, reasons = self.rejects.take()
        if not self.dry_run:
            ledger_rejects.write(conn, load_id, records, reasons)

    def _reject_duplicates(self, publisher: Publisher, load_id: int) -> None:
        """Reject later rows of a key. Only where there are any is the file read once more, for their text."""
        for rule, columns in staging.unique_columns(self.spec):
            if rule == "primaryKey" and self.rising.holds:
                continue
            if not publisher.take_duplicates(columns):
                continue
            with open_delivery(self.delivery, self.layout.spec) as reader:
                reader.select([0])
                for batch in reader.batches():
                    self._reject_duplicates_in(batch, publisher, load_id, rule, ", ".join(columns))
            publisher.forget_duplicates()

    def _reject_duplicates_in(
        self, batch: TextBatch, publisher: Publisher, load_id: int, rule: str, names: str
    ) -> None:
        if not len(batch.rows):
            return
        numbers = batch.rows.to_numpy()
        found = publisher.duplicates_between(int(numbers[0]), int(numbers[-1]))
        if not found:
            return
        self.rejects.add(repeated(found, batch, rule, names))
        self._check_count()
        self._flush_rejects(publisher.conn, load_id)

    # --- a column of another type? ---

    def _unread(self, rescued: Rescued, cells: pa.Array, typed: pa.Array) -> pa.Array:
        """What could not be read of a rescued field, counted."""
        lost = self.validator.unread(rescued.field.name, cells, typed)
        self.types.add_rescued(rescued.field.column, lost)
        return lost

    def _judge_types(self) -> None:
        """At the end of the file: what the contract says of columns that have another type."""
        contract = self.spec.schema_contract.retyped
        changed = self.types.changed()
        mistaken = [r for r in self.extras.rescued if r.field.column not in changed]
        if mistaken:  # so few of its values are left in good records that it is not worth it
            self.rescued |= {r.field.name: False for r in mistaken}
            raise _Again
        self._rescue_types()
        done = {"reject": "its records are rejected", "freeze": "the file is refused"}.get(
            contract, "kept as text in _extra where the column is not required"
        )
        self.events = (*self.events, *self.types.events(done))
        if changed and contract == "freeze":
            raise RefusedError(
                f"Column {changed[0]!r} of type {self.spec.name} has another type: {self.types.words(changed[0])}. "
                "schema_contract.retyped is freeze. Ask the supplier, or declare the new type in the spec.",
                rule="drift.retyped",
                column=changed[0],
            )

    def _rescue_types(self) -> None:
        """Begin again where columns that are to be rescued were found."""
        if self.spec.schema_contract.retyped != "rescue":
            return
        by_column = {f.column: f for f in self.layout.whole.fields}
        found = [by_column[c] for c in self.types.changed()]
        new = {f.name: True for f in found if not f.required and f.name not in self.rescued}
        if new:
            self.rescued |= new
            raise _Again

    # --- too many rejects? ---

    def _check_count(self) -> None:
        """Stop early where no later record can make the file acceptable."""
        count = self.spec.reject_limit.count
        if self.spec.schema_contract.retyped == "rescue":
            return  # the end of the file may show that they are no rejects
        if count is not None and self.rejects.records > count:
            self._check_limit()

    def _check_limit(self) -> None:
        reason = self.spec.reject_limit.exceeded(self.rejects.records, self.read - self.skipped)
        if reason:
            retyped = [
                f" Column {c!r} has another type: {self.types.words(c)}." for c in self.types.changed()
            ]
            raise RefusedError(
                f"{reason}; first: {self._first_reason()}.{''.join(retyped)} `importer rejects` shows more.",
                rule="reject_limit",
            )

    def _first_reason(self) -> str:
        first = self.rejects.first[0].slice(0, 1).to_pylist()[0]
        column = f", column {first['column_name']}" if first["column_name"] else ""
        return f"record {first['row']} (line {first['line']}{column}): {first['message']}"

    # --- to be believed? ---

    def _is_to_be_held(self, conn: psycopg.Connection, prior: ActiveLoad | None) -> bool:
        """Ask the gate; raises RefusedError where it refuses."""
        if self.has_ledger and self.spec.is_gated:
            figures = gate.Figures(self.read - self.skipped, self.rejects.records)
            besides = prior.load_id if prior else None
            self.findings += gate.judge(conn, self.target, self.delivery, figures, prior=besides)
        return gate.decide(self.findings)

    def _hold(self, conn: psycopg.Connection, load_id: int, prior: ActiveLoad | None) -> LoadResult:
        """Put the rows aside; what was in force stays in force."""
        if prior is not None:
            loads.supersede(conn, prior.load_id, None)
        reason = f"held: {gate.words([f for f in self.findings if f.action == 'hold'])}"
        if self.dry_run:
            result = self._result("held", None, self._left_out(), reason)
            conn.rollback()
            return replace(result, rejects=self._kept_rejects())
        self._make_way(conn, load_id)
        held_rows.put_aside(conn, self.spec.name, load_id)
        self._record(conn, load_id, "held", self._left_out(), reason)
        conn.commit()
        return self._result("held", load_id, self._left_out(), with_remedy(reason, load_id))

    def _left_out(self) -> dict[str, int]:
        """The figures of a file of which nothing is in force: what was fine counts as skipped."""
        return {
            "rows_read": self.read,
            "rows_rejected": self.rejects.records,
            "rows_skipped": self.read - self.rejects.records,
        }

    def _make_way(self, conn: psycopg.Connection, load_id: int) -> None:
        if self.before.is_held:
            already_loaded.make_way(
                conn, self.delivery, load_id, f"sent again with other content, as load {load_id}"
            )

    # --- endings ---

    def _commit(self, conn: psycopg.Connection, load_id: int, counts: Counts) -> LoadResult:
        figures = {
            "rows_read": self.read,
            "rows_loaded": counts.loaded,
            "rows_rejected": self.rejects.records,
            "rows_skipped": counts.skipped + self.skipped,
            "rows_unchanged": counts.unchanged,
        }
        accounted = sum(v for k, v in figures.items() if k != "rows_read")
        if accounted != self.read:
            raise AssertionError(
                f"{self.delivery.path}: {self.read} rows read but {accounted} accounted for ({figures}); "
                "nothing was loaded. This is a bug of the importer."
            )
        result = self._result("loaded", load_id, figures)
        if self.dry_run:
            conn.rollback()
            return replace(result, load_id=None, rejects=self._kept_rejects())
        self._make_way(conn, load_id)
        with conn.pipeline():  # which ends with the first statement that fails, before the commit
            self._record(conn, load_id, "loaded", figures)
            if self.spec.versions:
                result = self._settle_versions(conn, load_id, result)
            conn.commit()
        return result

    def _settle_versions(self, conn: psycopg.Connection, load_id: int, result: LoadResult) -> LoadResult:
        ledger_drift.settle_versions(conn, self.spec.name, self.delivery.tenant, declarations(self.spec))
        return replace(result, drift=(*result.drift, *ledger_drift.version_events(conn, load_id)))

    def _profiled_events(self) -> tuple[DriftEvent, ...]:
        return with_profiles(self._all_events(), self.delivery, self.layout.spec, self.headers)

    def _kept_rejects(self) -> pa.Table:
        return pa.concat_tables(self.rejects.first) if self.rejects.first else REJECT_SCHEMA.empty_table()

    def _refused(self, conn: psycopg.Connection, error: RefusedError) -> LoadResult:
        """Put the refusal on record: the ledger row, the first rejects, the drift seen so far."""
        self.events = self.events or error.events
        if not any(e.kind == "retyped" for e in self.events):
            self.events = (*self.events, *self.types.events("the file is refused"))
        figures = self._left_out()
        if self.dry_run:
            refused = self._result("refused", None, figures, reason=str(error))
            return replace(refused, rejects=self._kept_rejects())
        load_id = loads.begin_load(conn, self.delivery, self.spec.hash, self.run_id)
        kept = Rejects()
        kept.add(from_table(first_reasons(self.rejects, error)))
        ledger_rejects.write(conn, load_id, *kept.take())
        self._record(conn, load_id, "refused", figures, str(error))
        conn.commit()
        return self._result("refused", load_id, figures, reason=str(error))

    def _record(
        self,
        conn: psycopg.Connection,
        load_id: int,
        status: Status,
        figures: dict[str, int],
        reason: str | None = None,
    ) -> None:
        ledger_drift.write(conn, load_id, self._profiled_events())
        loads.write_findings(conn, load_id, self.findings)
        loads.finish_load(
            conn,
            load_id,
            status=status,
            counts=figures,
            size=self.content.size,
            sha256=self.content.sha256,
            file_version=self.content.file_version,
            reason=reason,
        )

    def _all_events(self) -> tuple[DriftEvent, ...]:
        """How the header differs from the spec, and what else was odd."""
        return (*self.events, *(DriftEvent("warning", None, w) for w in self.warnings))

    def _settled(self, answer: PriorOutcome) -> LoadResult:
        """What became of the same content before."""
        return result_of(self.content, answer, time.monotonic() - self.started)

    def _result(
        self, status: Status, load_id: int | None, figures: dict[str, int], reason: str | None = None
    ) -> LoadResult:
        return LoadResult(
            delivery=self.delivery,
            status=status,
            load_id=load_id,
            reason=reason,
            drift=self._all_events(),
            gate=self.findings,
            bytes=self.content.size,
            sha256=self.content.sha256,
            seconds=time.monotonic() - self.started,
            **figures,
        )


class _Again(Exception):
    """The load must begin anew, with what is known by now."""


class _NotNew(Exception):
    """Something stands of the delivery by now, which the caller did not know."""


# What was read, its good rows as typed columns, their positions, the failing cells, the records of these.
_Judged = tuple[TextBatch, pa.RecordBatch, np.ndarray, list[Failure], Rejected]
