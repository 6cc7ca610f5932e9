"""Held loads: rows that wait aside for a person's word, :func:`release` or :func:`refuse`.

Each has a table of its own in ``importer_held``, so that what the type's tables
become in the meantime does not concern it.

What does not belong here: deciding what is held (``pipeline/gate.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from importer_dagster.errors import UsageError
from importer_dagster.ledger import drift as ledger_drift
from importer_dagster.ledger import loads, queries
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Delivery
from importer_dagster.operations.row_diff import Changes, Watch
from importer_dagster.operations.unload import HasTenant, refuse_before_horizon
from importer_dagster.spec.table import TableSpec, declarations
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.held_rows import drop, table_of
from importer_dagster.writer.publish import Counts, Publisher
from importer_dagster.writer.schema_evolution import with_gained
from importer_dagster.writer.tables import ensure_tables, table_columns
from importer_dagster.writer.target import Target


@dataclass(frozen=True)
class Settled:
    """What was done with a held load; ``rows`` waited aside."""

    load_id: int
    type: str
    tenant: str
    business_date: date
    path: str
    rows: int
    counts: Counts
    changes: Changes


# --- while importing -----------------------------------------------------------------------


# --- a person's word -----------------------------------------------------------------------


def release(
    load_id: int,
    specs: Mapping[str, TableSpec],
    *,
    warehouse: Warehouse,
    has_tenant: HasTenant,
    dry_run: bool = False,
    by: str | None = None,
    why: str | None = None,
) -> Settled:
    """Bring a held load into force, just as its import would have, among what was loaded meanwhile.

    With ``dry_run`` everything is done and rolled back. Raises UsageError for a
    load that is unknown or not held.
    """
    ledger_schema.migrate(warehouse)
    with warehouse.connect() as conn:
        row = _held(conn, load_id)
        conn.rollback()
        spec = specs[row["type"]]
        target = Target(spec, has_tenant(spec), warehouse.schema)
    with warehouse.writing(row["type"], row["tenant"], size=row["bytes"]) as conn:
        ensure_tables(conn, warehouse, target)
        row = _held(conn, load_id)  # someone else may have been quicker
        settled = _release(conn, with_gained(conn, target), row, by, why)
        if dry_run:
            conn.rollback()
        else:
            conn.commit()
    return settled


def refuse(
    load_id: int,
    *,
    warehouse: Warehouse,
    dry_run: bool = False,
    by: str | None = None,
    why: str | None = None,
) -> Settled:
    """Drop a held load's rows; the same content is refused from now on, unless forced. Raises as release."""
    ledger_schema.migrate(warehouse)
    with warehouse.connect() as conn:
        row = _held(conn, load_id)
        conn.rollback()
    with warehouse.writing(row["type"], row["tenant"], size=0) as conn:
        row = _held(conn, load_id)
        rows = _count(conn, row)
        loads.refuse_held(conn, load_id, by=by, why=why)
        drop(conn, row["type"], load_id)
        if dry_run:
            conn.rollback()
        else:
            conn.commit()
    return _settled(row, rows, Counts(), Changes())


def _held(conn: psycopg.Connection, load_id: int) -> dict[str, Any]:
    row = queries.get_load(conn, load_id)
    if row["status"] != "held":
        raise UsageError(
            f"Load {load_id} is {row['status']}, not held; `importer held` lists those that are."
        )
    return row


def _release(
    conn: psycopg.Connection, target: Target, row: dict[str, Any], by: str | None, why: str | None
) -> Settled:
    load_id = row["load_id"]
    delivery = Delivery(row["type"], row["tenant"], row["business_date"], row["path"], url="")
    prior = queries.in_force(conn, delivery)
    newest = queries.newest_rank(conn, delivery.type, delivery.tenant, besides=prior)
    if target.is_keyed:
        refuse_before_horizon(conn, target.spec, row, "released")
    publisher = Publisher(
        conn,
        target,
        load_id=load_id,
        tenant=delivery.tenant,
        business_date=delivery.business_date,
        path=delivery.path,
        prior=prior,
    )
    publisher.create_stage()
    rows = _restage(conn, row)
    if prior is not None:
        loads.supersede(conn, prior, load_id)
    if target.is_keyed:
        publisher.find_keys([prior])
    watch = Watch(conn, target, delivery.tenant, [load_id, prior])
    counts = publisher.publish(newest, rows)
    loads.release_held(conn, load_id, rows, counts_of(counts), by=by, why=why)
    drop(conn, delivery.type, load_id)
    if target.spec.versions:
        ledger_drift.settle_versions(conn, delivery.type, delivery.tenant, declarations(target.spec))
    return _settled(row, rows, counts, watch.changes())


def counts_of(counts: Counts) -> dict[str, int]:
    """As the ledger's columns."""
    return {
        "rows_loaded": counts.loaded,
        "rows_skipped": counts.skipped,
        "rows_unchanged": counts.unchanged,
    }


def _restage(conn: psycopg.Connection, row: dict[str, Any]) -> int:
    """Put the held rows on the stage, as the type's columns are by now; returns how many."""
    conn.execute("SET LOCAL DateStyle = 'ISO, YMD'")  # a column may have become text
    held = table_columns(conn, table_of(row["type"], row["load_id"]))
    stage = table_columns(conn, sql.Identifier("importer_stage"))
    # not _hash, which tells of the columns as they were when the file came
    have = [(name, stage[name]) for name in held if name in stage and name != "_hash"]
    statement = sql.SQL("INSERT INTO importer_stage ({}) SELECT {} FROM {}").format(
        sql.SQL(", ").join(sql.Identifier(name) for name, _ in have),
        sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Identifier(name), sql.SQL(type_)) for name, type_ in have
        ),
        table_of(row["type"], row["load_id"]),
    )
    return conn.execute(statement).rowcount


def _count(conn: psycopg.Connection, row: dict[str, Any]) -> int:
    counted = conn.execute(
        sql.SQL("SELECT count(*) FROM {}").format(table_of(row["type"], row["load_id"]))
    ).fetchone()
    assert counted
    return int(counted[0])


def _settled(row: dict[str, Any], rows: int, counts: Counts, changes: Changes) -> Settled:
    return Settled(
        row["load_id"], row["type"], row["tenant"], row["business_date"], row["path"], rows, counts, changes
    )
