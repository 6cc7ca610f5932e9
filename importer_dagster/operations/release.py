"""Decides held loads, as a person asks: :func:`release` or :func:`refuse`.

The rows of a held load are in a table of its own in ``importer_held``. So they stay as
they are when the type's tables change.

What does not belong here: deciding what is held (``pipeline/gate.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date

import psycopg
from psycopg import sql

from importer_dagster.errors import UsageError
from importer_dagster.ledger import drift as ledger_drift
from importer_dagster.ledger import loads, queries
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Delivery
from importer_dagster.operations.load_change import HasTenant, LoadRow, changing_load
from importer_dagster.operations.row_diff import Changes, RowDiff
from importer_dagster.operations.unload import refuse_before_horizon
from importer_dagster.spec.table import TableSpec, declarations
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.held_rows import drop, table_of
from importer_dagster.writer.publish import Counts, Publisher
from importer_dagster.writer.tables import table_columns


@dataclass(frozen=True)
class Decided:
    """A held load that was released or refused; ``rows`` is how many rows were held."""

    load_id: int
    type: str
    tenant: str
    business_date: date
    path: str
    rows: int
    counts: Counts = field(default_factory=Counts)
    changes: Changes = field(default_factory=Changes)


def release(
    load_id: int,
    specs: Mapping[str, TableSpec],
    *,
    warehouse: Warehouse,
    has_tenant: HasTenant,
    dry_run: bool = False,
    by: str | None = None,
    why: str | None = None,
) -> Decided:
    """Write a held load's rows to the tables, with the same result as if its import had not held them.

    With ``dry_run`` everything is done and rolled back. Raises UsageError for a
    load that is unknown or not held.
    """
    change = changing_load(load_id, _check_held, specs, warehouse, has_tenant, dry_run=dry_run)
    with change as (conn, target, row):
        about = (row["type"], row["tenant"], row["business_date"], row["path"])
        delivery = Delivery(*about, url="")
        prior = queries.in_force(conn, delivery)
        newest = queries.newest_rank(conn, delivery.type, delivery.tenant, besides=prior)
        if target.is_keyed:
            refuse_before_horizon(conn, target.spec, row, "released")
        publisher = Publisher(
            conn, target, load_id=load_id, tenant=about[1], business_date=about[2], path=about[3], prior=prior
        )
        publisher.create_stage()
        rows = _copy_to_stage(conn, row)
        if prior is not None:
            loads.supersede(conn, prior, load_id)
        if target.is_keyed:
            publisher.find_keys([prior])
        diff = RowDiff(conn, target, delivery.tenant, [load_id, prior])
        counts = publisher.publish(newest, rows)
        columns = {f"rows_{name}": count for name, count in asdict(counts).items()}
        loads.release_held(conn, load_id, rows, columns, by=by, why=why)
        drop(conn, delivery.type, load_id)
        if target.spec.versions:
            ledger_drift.record_versions(conn, delivery.type, delivery.tenant, declarations(target.spec))
        return Decided(load_id, *about, rows, counts, diff.changes())


def refuse(
    load_id: int,
    *,
    warehouse: Warehouse,
    dry_run: bool = False,
    by: str | None = None,
    why: str | None = None,
) -> Decided:
    """Drop a held load's rows; the same content is refused from now on, unless forced.

    With ``dry_run`` everything is done and rolled back. Raises UsageError for a
    load that is unknown or not held.
    """
    ledger_schema.migrate(warehouse)
    with warehouse.connect() as conn:
        row = queries.get_load(conn, load_id)
        conn.rollback()
    _check_held(row)
    with warehouse.writing(row["type"], row["tenant"], size=0) as conn:
        row = queries.get_load(conn, load_id)
        _check_held(row)  # again: another session may have decided during the wait
        counted = conn.execute(
            sql.SQL("SELECT count(*) FROM {}").format(table_of(row["type"], load_id))
        ).fetchone()
        assert counted
        loads.refuse_held(conn, load_id, by=by, why=why)
        drop(conn, row["type"], load_id)
        if dry_run:
            conn.rollback()
        else:
            conn.commit()
    return Decided(load_id, row["type"], row["tenant"], row["business_date"], row["path"], int(counted[0]))


def _check_held(row: LoadRow) -> None:
    if row["status"] != "held":
        raise UsageError(
            f"Load {row['load_id']} is {row['status']}, not held; `importer held` lists those that are."
        )


def _copy_to_stage(conn: psycopg.Connection, row: LoadRow) -> int:
    """Copy the held rows into the staging table, with the column types of today; returns how many."""
    conn.execute("SET LOCAL DateStyle = 'ISO, YMD'")  # for columns that have become text
    held = table_columns(conn, table_of(row["type"], row["load_id"]))
    stage = table_columns(conn, sql.Identifier("importer_stage"))
    # _hash is left out: it was computed from the columns at the time of the import
    have = [(name, stage[name]) for name in held if name in stage and name != "_hash"]
    statement = sql.SQL("INSERT INTO importer_stage ({}) SELECT {} FROM {}").format(
        sql.SQL(", ").join(sql.Identifier(name) for name, _ in have),
        sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Identifier(name), sql.SQL(type_)) for name, type_ in have
        ),
        table_of(row["type"], row["load_id"]),
    )
    return conn.execute(statement).rowcount
