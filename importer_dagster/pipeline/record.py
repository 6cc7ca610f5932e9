"""The record of a load in the ledger, from its beginning to its end: committed, held or refused.

What does not belong here: deciding which end it is (``load.py``, ``gate.py``), the statements (``ledger``).
"""

from __future__ import annotations

import time
from dataclasses import replace

import psycopg

from importer_dagster.errors import RefusedError
from importer_dagster.ledger import drift as ledger_drift
from importer_dagster.ledger import loads, queries
from importer_dagster.ledger import rejects as ledger_rejects
from importer_dagster.model import LoadResult, Status
from importer_dagster.pipeline import gate
from importer_dagster.pipeline.already_loaded import PriorLoads, drop_held, with_remedy
from importer_dagster.pipeline.columns import with_profiles
from importer_dagster.pipeline.state import Begun, Job, RestartLoad, Tally
from importer_dagster.spec.table import declarations
from importer_dagster.validation.rejects import Rejects, first_reasons, records_from_cells
from importer_dagster.writer import held_rows, schema_evolution
from importer_dagster.writer.publish import Counts, Publisher


def begin_load(conn: psycopg.Connection, job: Job, prior: PriorLoads) -> Begun:
    """Write the load's row, and see what it meets, in one round trip.

    That is the newest other delivery (nobody else loads the type and tenant meanwhile), and the columns that
    the type's tables have gained, where rows of other deliveries may be moved or the tables may grow.
    From here on the prior load of the same delivery is not active. Raises RestartLoad where ``facts.is_new``
    proves wrong.
    """
    delivery, target, replaced = job.delivery, job.target, prior.in_force
    if job.facts.changes_tables:
        schema_evolution.reserve(conn, target)
    number = loads.number_of_rehearsal() if job.dry_run else None
    unless = queries.IS_ACTIVE if job.facts.is_new else "FALSE"
    is_append = job.spec.write_disposition == "append"
    meets_rows = not is_append or replaced is not None or job.evolves
    with conn.pipeline():
        load_id_of = (
            loads.begin_load_deferred(
                conn, delivery, job.spec.hash, job.run_id, load_id=number, unless=unless
            )
            if job.has_ledger
            else lambda: 0
        )
        newest = (
            queries.newest_rank_deferred(
                conn, delivery.type, delivery.tenant, besides=replaced.load_id if replaced else None
            )
            if job.has_ledger and not is_append
            else lambda: None
        )
        target_now = schema_evolution.with_gained_deferred(conn, target) if meets_rows else lambda: target
    load_id = load_id_of()
    if load_id is None:
        raise RestartLoad(replace(job.facts, is_new=False), gives_slot_back=True)
    publisher = Publisher(
        conn,
        target_now(),
        load_id=load_id,
        tenant=delivery.tenant,
        business_date=delivery.business_date,
        path=delivery.path,
        prior=replaced.load_id if replaced else None,
    )
    if replaced is not None:
        loads.supersede(conn, replaced.load_id, load_id)
    return Begun(load_id, newest(), publisher)


def account_for(job: Job, tally: Tally, counts: Counts) -> dict[str, int]:
    """The ledger's counts of a load in force, by column; the database checks their sum, too.

    Raises AssertionError where records read and accounted for differ.
    """
    figures = {
        "rows_read": tally.read,
        "rows_loaded": counts.loaded,
        "rows_rejected": tally.rejects.records,
        "rows_skipped": counts.skipped + tally.skipped,
        "rows_unchanged": counts.unchanged,
    }
    accounted = sum(v for k, v in figures.items() if k != "rows_read")
    if accounted != tally.read:
        raise AssertionError(
            f"{job.delivery.path}: {tally.read} rows read but {accounted} accounted for ({figures}); "
            "nothing was loaded. This is a bug of the importer."
        )
    return figures


def commit(
    conn: psycopg.Connection, job: Job, begun: Begun, prior: PriorLoads, tally: Tally, counts: Counts
) -> LoadResult:
    """End a load whose rows are in force."""
    figures = account_for(job, tally, counts)
    loaded = result(job, tally, "loaded", begun.load_id, figures)
    if job.dry_run:
        conn.rollback()
        return replace(loaded, load_id=None, rejects=tally.rejects.kept)
    _replace_held(conn, job, begun, prior)
    with conn.pipeline():  # which ends with the first statement that fails, before the commit
        _record(conn, job, tally, begun.load_id, "loaded", figures)
        if job.spec.versions:
            ledger_drift.record_versions(conn, job.spec.name, job.delivery.tenant, declarations(job.spec))
            declared = ledger_drift.version_events(conn, begun.load_id)
            loaded = replace(loaded, drift=(*loaded.drift, *declared))
        conn.commit()
    return loaded


def hold(conn: psycopg.Connection, job: Job, begun: Begun, prior: PriorLoads, tally: Tally) -> LoadResult:
    """Keep the rows aside until a person decides; what was in force stays in force."""
    publisher = begun.publisher
    assert not publisher.noted, "of a file that may be held, no row may stay out of the staging table"
    if publisher.prior is not None:
        loads.supersede(conn, publisher.prior, None)
    figures = tally.not_in_force
    reason = f"held: {gate.words([f for f in tally.findings if f.action == 'hold'])}"
    if job.dry_run:
        rehearsed = result(job, tally, "held", None, figures, reason)
        conn.rollback()
        return replace(rehearsed, rejects=tally.rejects.kept)
    _replace_held(conn, job, begun, prior)
    held_rows.put_aside(conn, job.spec.name, begun.load_id)
    _record(conn, job, tally, begun.load_id, "held", figures, reason)
    conn.commit()
    return result(job, tally, "held", begun.load_id, figures, with_remedy(reason, begun.load_id))


def refuse(conn: psycopg.Connection, job: Job, tally: Tally, error: RefusedError) -> LoadResult:
    """Put a refusal on record: the ledger row, the first rejects, the drift seen so far."""
    tally.drift = tally.drift or error.events
    if not any(e.kind == "retyped" for e in tally.drift):
        tally.drift = (*tally.drift, *tally.types.events("the file is refused"))
    figures, reason = tally.not_in_force, str(error)
    if job.dry_run:
        return replace(result(job, tally, "refused", None, figures, reason), rejects=tally.rejects.kept)
    load_id = loads.begin_load(conn, job.delivery, job.spec.hash, job.run_id)
    kept = Rejects()
    kept.add(records_from_cells(first_reasons(tally.rejects, error)))
    ledger_rejects.write(conn, load_id, *kept.take())
    _record(conn, job, tally, load_id, "refused", figures, reason)
    conn.commit()
    return result(job, tally, "refused", load_id, figures, reason)


def _replace_held(conn: psycopg.Connection, job: Job, begun: Begun, prior: PriorLoads) -> None:
    """Drop an earlier content of the same delivery that is held."""
    if prior.is_held:
        words = f"sent again with other content, as load {begun.load_id}"
        drop_held(conn, job.delivery, begun.load_id, words)


def _record(
    conn: psycopg.Connection,
    job: Job,
    tally: Tally,
    load_id: int,
    status: Status,
    figures: dict[str, int],
    reason: str | None = None,
) -> None:
    """Complete the load in the ledger: drift with profiles, what the gate found, counts."""
    events = with_profiles(tally.events, job.delivery, job.layout.spec, tally.types.sources)
    ledger_drift.write(conn, load_id, events)
    loads.write_findings(conn, load_id, tally.findings)
    loads.finish_load(
        conn,
        load_id,
        status=status,
        counts=figures,
        size=job.content.size,
        sha256=job.content.sha256,
        file_version=job.content.file_version,
        reason=reason,
    )


def result(
    job: Job,
    tally: Tally,
    status: Status,
    load_id: int | None,
    figures: dict[str, int],
    reason: str | None = None,
) -> LoadResult:
    """What became of a delivery, as the caller of the import gets it."""
    return LoadResult(
        delivery=job.delivery,
        status=status,
        load_id=load_id,
        reason=reason,
        drift=tally.events,
        gate=tally.findings,
        bytes=job.content.size,
        sha256=job.content.sha256,
        seconds=time.monotonic() - job.started,
        **figures,
    )
