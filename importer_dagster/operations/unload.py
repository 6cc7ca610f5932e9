"""Takes one load out of the warehouse again: :func:`unload`.

What does not belong here: the statements (``writer/publish.py``) and the import (``pipeline/delivery.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import psycopg
from psycopg import sql

from importer_dagster.errors import UsageError
from importer_dagster.ledger import drift as ledger_drift
from importer_dagster.ledger import loads, queries
from importer_dagster.ledger.queries import ONLY_ANEW
from importer_dagster.operations.load_change import HasTenant, LoadRow, changing_load
from importer_dagster.operations.row_diff import Changes, RowDiff
from importer_dagster.spec.table import TableSpec, declarations
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.publish import Publisher
from importer_dagster.writer.target import Target


@dataclass(frozen=True)
class Unloaded:
    """What unloading did: ``before`` and ``after`` count the type's rows of that tenant.

    ``restored`` is the earlier load of the same path that is in force again, if any.
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
    """Take load ``load_id`` out of the tables and restore what it replaced.

    That is the earlier content of the same path, if there was one. A replace table also goes
    back to the earlier business date; merge and scd2 compute the rows of the load's keys anew
    from the other deliveries. With ``dry_run`` everything is done and rolled back. ``by`` and
    ``why`` are recorded in the ledger. Raises UsageError for a load that is unknown or not in
    the tables.
    """
    change = changing_load(load_id, _check_loaded, specs, warehouse, has_tenant, dry_run=dry_run)
    with change as (conn, target, row):
        tenant, new = row["tenant"], row["superseded_by"]
        before = _count(conn, target, tenant)
        if target.is_keyed and new is None:
            refuse_before_horizon(conn, target.spec, row, "taken out exactly")
        earlier = queries.replaced_by(conn, load_id)
        is_pruned = earlier is not None and earlier["pruned_at"] is not None
        # if the load is itself replaced, another one stays in force
        restored = earlier["load_id"] if earlier and not is_pruned and new is None else None
        publisher = Publisher(
            conn, target, load_id=None, tenant=tenant, business_date=row["business_date"], prior=load_id
        )
        if target.is_keyed:
            publisher.create_stage()
            publisher.find_keys([load_id, restored])
        diff = RowDiff(conn, target, tenant, [load_id, restored])
        loads.unloaded(conn, load_id, by=by, why=why)
        if earlier and not is_pruned:
            loads.supersede(conn, earlier["load_id"], new)
        _update_tables(conn, target, row, publisher, restored)
        after, changes = _count(conn, target, tenant), diff.changes()
        if target.spec.versions:
            ledger_drift.record_versions(conn, row["type"], tenant, declarations(target.spec))
    note = ""
    if earlier and is_pruned and new is None:
        note = (
            f"The content that load {earlier['load_id']} had under the same path cannot be restored: its rows were "
            f"pruned on {earlier['pruned_at']:%Y-%m-%d}. Send that file again to have it back."
        )
    about = (load_id, row["type"], tenant, row["business_date"], row["path"])
    return Unloaded(*about, before, after, restored, note, changes)


def _check_loaded(row: LoadRow) -> None:
    if row["status"] != "loaded":
        held = " `importer refuse` drops a held one." if row["status"] == "held" else ""
        raise UsageError(
            f"Load {row['load_id']} is {row['status']}: none of its rows are in the warehouse, so there is "
            f"nothing to unload.{held}"
        )


def _update_tables(
    conn: psycopg.Connection, target: Target, row: LoadRow, publisher: Publisher, restored: int | None
) -> None:
    """Change the tables so that they agree with the ledger, which no longer has the load in force."""
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
    elif restored is not None:
        publisher.revive_load(restored)


def refuse_before_horizon(conn: psycopg.Connection, spec: TableSpec, row: LoadRow, what: str) -> None:
    """merge, scd2: raise UsageError for a load of a day of which only the last row of each key was kept."""
    pruned = queries.pruned_until(conn, row["type"], row["tenant"])
    if pruned and row["business_date"] <= pruned[0]:
        by_force = (
            "Send a corrected file with `importer load --force`, or build the table anew from its files."
        )
        raise UsageError(
            f"Load {row['load_id']} of {row['business_date']} cannot be {what}: what the deliveries until "
            f"{pruned[0]} said before others did was deleted on {pruned[1]:%Y-%m-%d} (IMPORTER_KEEP_HISTORY). "
            + (f"{ONLY_ANEW}." if spec.absence_closes else by_force)
        )


def _refuse_pruned_day(conn: psycopg.Connection, row: LoadRow, day: date) -> None:
    """replace: raise UsageError if the table would go back to a day whose rows are no longer there."""
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


def _count(conn: psycopg.Connection, target: Target, tenant: str) -> int:
    row = conn.execute(
        sql.SQL("SELECT count(*) FROM {live} t WHERE {mine}").format(**target.names), {"tenant": tenant}
    ).fetchone()
    assert row
    return int(row[0])
