"""The steps of one load, in their order: :func:`load`.

What does not belong here: how a step does its work (the modules that it is imported from), waiting for a slot
and trying again (``delivery.py``).
"""

from __future__ import annotations

from dataclasses import replace

import psycopg

from importer_dagster.errors import RefusedError
from importer_dagster.model import LoadResult
from importer_dagster.pipeline import gate, record
from importer_dagster.pipeline.already_loaded import PriorLoads
from importer_dagster.pipeline.columns import check_types, grow_columns, plan_columns
from importer_dagster.pipeline.rows import check_totals, copy_rows, read_and_validate
from importer_dagster.pipeline.staging import check_place, plan_staging, prepare_tables, reject_duplicates
from importer_dagster.pipeline.state import Begun, Job, RestartLoad, Tally, check_reject_limit
from importer_dagster.reader.reader import open_delivery
from importer_dagster.source.completeness import unchanged
from importer_dagster.source.manifest import read_claims
from importer_dagster.writer.publish import Counts
from importer_dagster.writer.tables import create_tables, ensure_tables


def load_or_refuse(conn: psycopg.Connection, job: Job, prior: PriorLoads) -> LoadResult:
    """Load a delivery over a connection that holds a slot, or put on record why it is refused.

    Begins again in the same slot where a try finds out something that it should have known at its start.
    Raises RestartLoad where the slot must be given back for that.
    """
    while True:
        tally = Tally()
        try:
            if job.dry_run:
                create_tables(conn, job.target)
            else:
                ensure_tables(conn, job.warehouse, job.target)
            return load(conn, job, prior, tally)
        except RestartLoad as restart:
            if restart.gives_slot_back:
                raise
            conn.rollback()
            job = replace(job, facts=restart.facts)
        except RefusedError as error:
            if not job.dry_run:
                conn.rollback()
            return record.refuse(conn, job, tally, error)


def load(conn: psycopg.Connection, job: Job, prior: PriorLoads, tally: Tally) -> LoadResult:
    """Load a delivery in one transaction, and end that: committed, or rolled back for a rehearsal.

    Raises RefusedError where the file is to be refused, RestartLoad where it must begin again.
    """
    begun = record.begin_load(conn, job, prior)
    with unchanged(job.delivery.url):
        claims = read_claims(job.delivery, job.spec.complete.manifest)
        also = claims.algorithm if claims else None
        with open_delivery(job.delivery, job.layout.spec, also=also) as reader:
            plan = plan_columns(job, begun.publisher, reader, tally)
            with read_and_validate(job, plan, reader) as rows:
                staging = plan_staging(job, begun, plan, rows)
                prepare_tables(begun, plan, staging)
                written = copy_rows(job, begun, plan, staging, rows, tally)
            tally.warnings += rows.warnings
            check_totals(rows, claims, tally)
        check_types(job, plan, tally)
        if staging.stage:
            tally.findings = gate.repeats(conn, job.spec)
            reject_duplicates(job, begun, rows, tally)
    check_reject_limit(job.spec, tally)
    grow_columns(job, begun.publisher, plan, tally)
    if is_to_be_held(job, begun, tally):
        return record.hold(conn, job, begun, prior, tally)
    if job.has_ledger:
        check_place(job, begun)
    counts = begun.publisher.publish(begun.newest, written) if staging.stage else Counts(loaded=written)
    return record.commit(conn, job, begun, prior, tally, counts)


def is_to_be_held(job: Job, begun: Begun, tally: Tally) -> bool:
    """Ask the gate; raises RefusedError where it refuses."""
    if job.has_ledger and job.spec.is_gated:
        publisher = begun.publisher
        figures = gate.Figures(tally.records, tally.rejects.records)
        tally.findings += gate.judge(
            publisher.conn, publisher.target, job.delivery, figures, prior=publisher.prior
        )
    return gate.decide(tally.findings)
