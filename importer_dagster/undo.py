"""Taking one delivery out of the warehouse again: :func:`unload`.

What does not belong here: the statements (``writer.py``) and the import (``pipeline.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from importer_dagster import ledger
from importer_dagster.errors import WarehouseError
from importer_dagster.evolve import with_gained
from importer_dagster.spec import TableSpec
from importer_dagster.tables import Target, ensure_tables
from importer_dagster.versions import declarations
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer import Publisher


@dataclass(frozen=True)
class Unloaded:
    """What unloading did: ``before`` and ``after`` count the type's rows of that tenant."""

    load_id: int
    type: str
    tenant: str
    business_date: date
    path: str
    before: int
    after: int
    restored: int | None
    note: str


def unload(
    load_id: int,
    specs: Mapping[str, TableSpec],
    *,
    warehouse: Warehouse,
    has_tenant: Any,
    dry_run: bool = False,
) -> Unloaded:
    """Take load ``load_id`` out again and restore what it stood in place of.

    append and replace restore the earlier content of the same delivery, and
    replace the earlier business date; merge works the affected keys out anew
    from the other deliveries. ``has_tenant(spec)`` says whether the type's
    paths name tenants. With ``dry_run`` everything is done and rolled back.
    Raises WarehouseError for a load that is unknown or not in the tables.
    """
    ledger.migrate(warehouse)
    with warehouse.connect() as conn:
        row = ledger.get_load(conn, load_id)
        conn.rollback()
        if row["status"] != "loaded":
            raise WarehouseError(
                f"Load {load_id} is {row['status']}: none of its rows are in the warehouse, so there is "
                "nothing to unload."
            )
        spec = specs[row["type"]]
        target = Target(spec, has_tenant(spec), warehouse.schema)
        ensure_tables(warehouse, target)
        with warehouse.writing(conn, row["type"], row["tenant"]):
            result = _unload(conn, target, row)
            if spec.versions:
                ledger.settle_versions(conn, row["type"], row["tenant"], declarations(spec))
            if dry_run:
                conn.rollback()
            else:
                conn.commit()
    return result


def _unload(conn: psycopg.Connection, target: Target, row: dict[str, Any]) -> Unloaded:
    load_id, tenant = row["load_id"], row["tenant"]
    target = with_gained(conn, target)
    before = _count(conn, target, tenant)
    replaced = _replaced_by(conn, load_id)
    in_force = row["superseded_by"] is None
    disposition = target.spec.write_disposition
    publisher = Publisher(
        conn, target, load_id=load_id, tenant=tenant, business_date=row["business_date"], prior=load_id
    )
    conn.execute(
        "UPDATE importer.loads SET status = 'unloaded', finished_at = clock_timestamp() WHERE load_id = %s",
        (load_id,),
    )
    restored: int | None = None
    note = ""
    if disposition == "merge":
        publisher.create_stage()
        publisher.derive()
        if replaced and in_force:
            note = (
                f"The content that load {replaced} had under the same path is not kept for merge types; "
                "send that file again to have it back."
            )
    else:
        publisher.delete_load()
        if replaced:
            # what this load stood in place of is in force again, or passes on to its successor
            conn.execute(
                "UPDATE importer.loads SET superseded_by = %s WHERE load_id = %s",
                (row["superseded_by"], replaced),
            )
        if in_force and disposition == "append" and replaced:
            restored = publisher.revive_load(replaced)
        if in_force and disposition == "replace":
            restored = _settle(conn, target, row)
    after = _count(conn, target, tenant)
    return Unloaded(
        load_id, row["type"], tenant, row["business_date"], row["path"], before, after, restored, note
    )


def _settle(conn: psycopg.Connection, target: Target, row: dict[str, Any]) -> int | None:
    """replace: bring the newest business date that is left into force; its rows, None if there is none."""
    newest = ledger.newest_rank(conn, row["type"], row["tenant"], besides=None)
    if newest is None:
        return None
    Publisher(conn, target, load_id=None, tenant=row["tenant"], business_date=newest[0]).settle()
    return _count(conn, target, row["tenant"])


def _replaced_by(conn: psycopg.Connection, load_id: int) -> int | None:
    found = conn.execute(
        "SELECT load_id FROM importer.loads WHERE superseded_by = %s AND status = 'loaded'", (load_id,)
    ).fetchone()
    return found[0] if found else None


def _count(conn: psycopg.Connection, target: Target, tenant: str) -> int:
    row = conn.execute(
        sql.SQL("SELECT count(*) FROM {live} t WHERE {mine}").format(**target.names), {"tenant": tenant}
    ).fetchone()
    assert row
    return int(row[0])
