"""The entrance: :func:`import_delivery` imports one delivery, in one transaction, and tries again where that helps.

source → reader → drift → validation → writer → ledger; ``load.py`` tells the steps in their order.

What does not belong here: the steps of a load, and whether a content came before (``already_loaded.py``).
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import AbstractContextManager
from dataclasses import replace

import psycopg

from importer_dagster.errors import TransientError, WarehouseUnavailable
from importer_dagster.ledger import loads
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.pipeline.already_loaded import FileContent, PriorLoads, PriorOutcome, result_of
from importer_dagster.pipeline.load import load_or_refuse
from importer_dagster.pipeline.state import Facts, Job, Progress, RestartLoad
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse

log = logging.getLogger(__name__)

ATTEMPTS = 3
ATTEMPTS_AT_A_RESTART = 6  # half a minute: what a server takes to restart, or a standby to take over
_FIRST_PAUSE_S = 0.5


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
    """Import one delivery, in one transaction, and return what became of it.

    A delivery that is refused (status ``refused``) is a result, not an exception; nothing of it is loaded, the
    reason and the first rejects are on record. The same content under the same path again is ``unchanged``
    unless ``force``. ``dry_run`` does everything and then rolls it back. ``is_new``: the caller has just seen
    in the ledger that no load of the delivery is active (:func:`pipeline.unchanged_files.look_up`), so the
    ledger is asked once only, when this file has its slot. ``progress`` is called with the numbers of records
    read and rejected so far.

    Raises TransientError when database or source stay out of reach after three attempts (six, for a database
    that this process has worked with before), WarehouseError when the warehouse does not allow it.
    """
    attempt = 1
    while True:
        try:
            job = Job(FileContent(delivery, spec), warehouse, run_id, force, dry_run, progress)
            return _attempt(replace(job, facts=Facts(is_new=is_new and not force and not dry_run)))
        except TransientError as error:
            # a database that answered before will be back, a wrong address will not
            comes_back = isinstance(error, WarehouseUnavailable) and "ledger" in warehouse.prepared
            attempts = ATTEMPTS_AT_A_RESTART if comes_back else ATTEMPTS
            if attempt >= attempts:
                if not dry_run:
                    _record_failure(delivery, spec, warehouse, run_id, error)
                raise
            log.warning("Attempt %d of %d failed: %s", attempt, attempts, error)
            time.sleep(_FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        attempt += 1


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


def _attempt(job: Job) -> LoadResult:
    """One attempt, begun again as often as it finds out something that it should have known at its start."""
    content = job.content
    content.look()
    if not job.dry_run:
        ledger_schema.migrate(job.warehouse)
    prior = PriorLoads(content, force=job.force, dry_run=job.dry_run)
    while True:
        try:
            return _rehearse(job, prior) if job.dry_run else _import(job, prior)
        except RestartLoad as restart:
            job = replace(job, facts=restart.facts)
            if prior.needs_fingerprint:
                content.read(job.warehouse)  # may take long, so no slot is held
                if same := prior.outcome():
                    return result_of(content, same, time.monotonic() - job.started)


def _import(job: Job, prior: PriorLoads) -> LoadResult:
    with job.warehouse.connect() as conn:
        if not job.facts.is_new:
            if same := _earlier_outcome(conn, job, prior):
                return result_of(job.content, same, time.monotonic() - job.started)
            job = replace(job, facts=replace(job.facts, is_new=not prior.active_loads and not job.force))
        with _slot(conn, job) as writer:
            # asked again with the slot: somebody else may have been quicker
            if not job.facts.is_new and (same := _earlier_outcome(writer, job, prior, may_write=True)):
                return result_of(job.content, same, time.monotonic() - job.started)
            return load_or_refuse(writer, job, prior)


def _rehearse(job: Job, prior: PriorLoads) -> LoadResult:
    """Everything in one transaction, tables and ledger row included, and then a rollback."""
    with job.warehouse.connect() as conn:
        job = replace(job, has_ledger=ledger_schema.is_usable(conn))
        conn.rollback()
        if job.has_ledger and (same := _earlier_outcome(conn, job, prior)):
            return result_of(job.content, same, time.monotonic() - job.started)
        with _slot(conn, job) as writer:
            if job.has_ledger:
                prior.look(writer)
            return load_or_refuse(writer, job, prior)


def _earlier_outcome(
    conn: psycopg.Connection, job: Job, prior: PriorLoads, *, may_write: bool = False
) -> PriorOutcome | None:
    """What became of the same content before; raises RestartLoad where that takes the file's fingerprint."""
    prior.look(conn)
    if prior.needs_fingerprint:
        raise RestartLoad(job.facts, gives_slot_back=True)
    return prior.outcome(conn if may_write else None)


def _slot(conn: psycopg.Connection, job: Job) -> AbstractContextManager[psycopg.Connection]:
    """``conn`` once it holds a slot of the cap, or another connection: none is kept during a long wait."""

    def on_wait(seconds: float) -> None:
        if seconds > 5:
            log.info("%s waits for its turn to write, %.0f s so far", job.delivery.path, seconds)

    return job.warehouse.writing(
        job.delivery.type,
        job.delivery.tenant,
        size=job.content.size,
        on_wait=on_wait,
        trace=not job.dry_run,
        queue=job.has_ledger,
        conn=conn,
    )
