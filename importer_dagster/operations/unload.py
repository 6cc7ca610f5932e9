"""Taking one delivery out of the warehouse again: :func:`unload`.

What does not belong here: the statements (``writer/publish.py``) and the import (``pipeline/delivery.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from importer_dagster.errors import UsageError
from importer_dagster.ledger import drift as ledger_drift
from importer_dagster.ledger import loads, queries
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.ledger.queries import ONLY_ANEW
from importer_dagster.operations.row_diff import Changes, Watch
from importer_dagster.spec.table import TableSpec, declarations
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.publish import Publisher
from importer_dagster.writer.schema_evolution import with_gained
from importer_dagster.writer.tables import ensure_tables
from importer_dagster.writer.target import Target

HasTenant = Callable[[TableSpec], bool]


@dataclass(frozen=True)
class Unloaded:
    """What unloading did: ``before`` and ``after`` count the type's rows of that tenant.

    ``restored`` is the load that is in force again in its place, if any.
    """

    load_id: int
    type: str
    tenant: str
    business_date: date
    path: str
    before: int
    after: int
    restored: int | None
    note: str
    changes: Changes


def unload(
    load_id: int,
    specs: Mapping[str, TableSpec],
    *,
    warehouse: Warehouse,
    has_tenant: HasTenant,
    dry_run: bool = False,
    by: str | None = None,
    why: str | None = None,
) -> Unloaded:
    """Take load ``load_id`` out again and restore what it stood in place of.

    That is the earlier content of the same delivery, if there was one; replace
    also brings the earlier business date back, merge and scd2 work the keys
    concerned out anew from the other deliveries. ``has_tenant(spec)`` says
    whether the type's paths name tenants. With ``dry_run`` everything is done
    and rolled back. ``by`` and ``why`` go on the ledger.
    Raises UsageError for a load that is unknown or not in the tables.
    """
    ledger_schema.migrate(warehouse)
    with warehouse.connect() as conn:
        row = _loaded(conn, load_id)
        conn.rollback()
        spec = specs[row["type"]]
        target = Target(spec, has_tenant(spec), warehouse.schema)
    with warehouse.writing(row["type"], row["tenant"], size=row["bytes"]) as conn:
        ensure_tables(conn, warehouse, target)
        row = _loaded(conn, load_id)  # someone else may have been quicker
        result = _unload(conn, with_gained(conn, target), row, by, why)
        if spec.versions:
            ledger_drift.settle_versions(conn, row["type"], row["tenant"], declarations(spec))
        if dry_run:
            conn.rollback()
        else:
            conn.commit()
    return result


def _loaded(conn: psycopg.Connection, load_id: int) -> dict[str, Any]:
    row = queries.get_load(conn, load_id)
    if row["status"] != "loaded":
        held = " `importer refuse` drops a held one." if row["status"] == "held" else ""
        raise UsageError(
            f"Load {load_id} is {row['status']}: none of its rows are in the warehouse, so there is "
            f"nothing to unload.{held}"
        )
    return row


def _unload(
    conn: psycopg.Connection, target: Target, row: dict[str, Any], by: str | None, why: str | None
) -> Unloaded:
    load_id, tenant = row["load_id"], row["tenant"]
    before = _count(conn, target, tenant)
    if target.is_keyed and row["superseded_by"] is None:
        refuse_before_horizon(conn, target.spec, row, "taken out exactly")
    replaced = queries.replaced_by(conn, load_id)
    pruned = replaced is not None and replaced["pruned_at"] is not None
    # what is in force again afterwards: not if this load is itself superseded
    back = replaced["load_id"] if replaced and not pruned and row["superseded_by"] is None else None
    publisher = Publisher(
        conn, target, load_id=None, tenant=tenant, business_date=row["business_date"], prior=load_id
    )
    if target.is_keyed:
        publisher.create_stage()
        publisher.find_keys([load_id, back])
    watch = Watch(conn, target, tenant, [load_id, back])
    loads.unloaded(conn, load_id, by=by, why=why)
    if replaced and not pruned:
        loads.supersede(conn, replaced["load_id"], row["superseded_by"])
    _take_out(conn, target, row, publisher, back)
    return Unloaded(
        load_id=load_id,
        type=row["type"],
        tenant=tenant,
        business_date=row["business_date"],
        path=row["path"],
        before=before,
        after=_count(conn, target, tenant),
        restored=back,
        note=_pruned_note(replaced) if replaced and pruned and row["superseded_by"] is None else "",
        changes=watch.changes(),
    )


def _take_out(
    conn: psycopg.Connection, target: Target, row: dict[str, Any], publisher: Publisher, back: int | None
) -> None:
    """Bring the tables to what the ledger says by now."""
    if target.is_keyed:
        publisher.recompute_keys()
        return
    publisher.delete_load(row["load_id"])
    if target.spec.write_disposition == "replace":
        newest = queries.newest_rank(conn, row["type"], row["tenant"], besides=None)
        if newest is not None:
            _refuse_pruned_day(conn, row, newest[0])
            Publisher(
                conn, target, load_id=None, tenant=row["tenant"], business_date=newest[0]
            ).recompute_day()
    elif back is not None:
        publisher.revive_load(back)


def refuse_before_horizon(conn: psycopg.Connection, spec: TableSpec, row: dict[str, Any], what: str) -> None:
    """merge, scd2: raise UsageError for a load of days of which only the last word on each key was kept."""
    pruned = queries.pruned_until(conn, row["type"], row["tenant"])
    if pruned and row["business_date"] <= pruned[0]:
        by_force = (
            "Send a corrected file with `importer load --force`, or make the table anew from its files."
        )
        raise UsageError(
            f"Load {row['load_id']} of {row['business_date']} cannot be {what}: what the deliveries until "
            f"{pruned[0]} said before others did was deleted on {pruned[1]:%Y-%m-%d} (IMPORTER_KEEP_HISTORY). "
            + (f"{ONLY_ANEW}." if spec.absence_closes else by_force)
        )


def _refuse_pruned_day(conn: psycopg.Connection, row: dict[str, Any], day: date) -> None:
    """replace: the table may not go back to a day whose rows are no longer there."""
    found = conn.execute(
        """
        SELECT load_id, path, pruned_at FROM importer.loads
        WHERE (type, tenant, business_date) = (%s, %s, %s) AND pruned_at IS NOT NULL
          AND status = 'loaded' AND superseded_by IS NULL ORDER BY load_id LIMIT 1
        """,
        (row["type"], row["tenant"], day),
    ).fetchone()
    if found:
        raise UsageError(
            f"Load {row['load_id']} cannot be taken out: the table would go back to {day}, and the rows of load "
            f"{found[0]} ({found[1]}) were deleted on {found[2]:%Y-%m-%d} (IMPORTER_KEEP_COPIES). Send the files "
            "of that day once more with `importer load --force`, then unload."
        )


def _pruned_note(replaced: dict[str, Any]) -> str:
    return (
        f"The content that load {replaced['load_id']} had under the same path cannot be restored: its rows were "
        f"pruned on {replaced['pruned_at']:%Y-%m-%d}. Send that file again to have it back."
    )


def _count(conn: psycopg.Connection, target: Target, tenant: str) -> int:
    row = conn.execute(
        sql.SQL("SELECT count(*) FROM {live} t WHERE {mine}").format(**target.names), {"tenant": tenant}
    ).fetchone()
    assert row
    return int(row[0])
