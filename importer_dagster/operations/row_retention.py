"""Deletes old rows from the types' tables: rows that other rows have replaced, never rows that BI reads.

They are deleted as an import writes rows: with a slot and the lock of the type and tenant.

What does not belong here: rows of the ledger (``operations/retention.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from importer_dagster.operations.retention_pass import Pruned, RetentionPass, execute, existing_table
from importer_dagster.writer.target import REPEATS, SUPERSEDED, Target, column_list, run_statement

_DISPOSITIONS = {"copies": ("replace",), "history": ("merge", "scd2")}


def prune_rows(run: RetentionPass) -> Iterator[Pruned]:
    """Delete rows that ``run.keep`` does not keep."""
    yield _prune_kind(run, "rows of files that were sent again", "replaced")
    yield _prune_kind(run, "rows of earlier days (replace)", "copies")
    yield _prune_kind(run, "replaced rows of keys (merge, scd2)", "history")


@dataclass(frozen=True)
class _OldLoad:
    """A load some of whose rows are to be deleted."""

    load_id: int
    type: str
    tenant: str
    at: datetime


def _prune_kind(run: RetentionPass, what: str, kind: str) -> Pruned:
    """Delete rows of one kind, of one type and tenant after the other; counts rows."""
    before = run.before(kind)
    if before is None:
        return run.result(what, kind)
    with run.warehouse.connect() as conn:
        found = _old_loads(conn, run, kind, before)
    loads_of: dict[tuple[str, str], list[_OldLoad]] = {}
    for load in found:
        loads_of.setdefault((load.type, load.tenant), []).append(load)
    # history is deleted in few large steps, since each of them reads the whole table
    wait = timedelta(days=run.keep.history // 10 if kind == "history" else 0)
    count, oldest = 0, None
    for (type_name, tenant), loads in sorted(loads_of.items()):
        first = min(load.at for load in loads)
        if first > before - wait:
            continue
        oldest = min(oldest or first, first)
        with run.warehouse.writing(type_name, tenant, size=0, trace=not run.dry_run) as conn:
            # asked again: the ledger may have changed during the wait for the slot
            again = _old_loads(conn, run, kind, before)
            ids = [load.load_id for load in again if (load.type, load.tenant) == (type_name, tenant)]
            if not ids:
                continue
            count += _delete(conn, run, kind, type_name, tenant, ids)
            execute(conn, "mark_pruned", ids=ids)
            run.pruned.update(ids)
            if run.dry_run:
                conn.rollback()
            else:
                conn.commit()
    return run.result(what, kind, count, oldest)


def _old_loads(conn: psycopg.Connection, run: RetentionPass, kind: str, before: datetime) -> list[_OldLoad]:
    """The loads that have old rows of that kind."""
    if kind == "replaced":
        return [_OldLoad(*row) for row in execute(conn, "old_replaced", before=before)]
    found = []
    for spec in run.specs.values():
        if spec.write_disposition in _DISPOSITIONS[kind]:
            closes, marked = spec.absence_closes, [*run.pruned]
            rows = execute(conn, f"old_{kind}", before=before, type=spec.name, closes=closes, marked=marked)
            found += [_OldLoad(*row) for row in rows]
    return found


def _delete(
    conn: psycopg.Connection, run: RetentionPass, kind: str, type_name: str, tenant: str, ids: Sequence[int]
) -> int:
    """Delete the loads' replaced rows; of history keep each key's last row and the row that it repeats."""
    spec = run.specs.get(type_name)
    if kind != "history" or spec is None or spec.absence_closes:
        count = 0
        if (names := existing_table(conn, SUPERSEDED, type_name)) is not None:
            count += execute(conn, "delete_rows", ids=list(ids), names=names).rowcount
        if (names := existing_table(conn, REPEATS, type_name)) is not None:
            row = execute(conn, "delete_repeats", ids=list(ids), names=names).fetchone()
            assert row
            count += row[0]
        return count
    target = Target(spec, run.has_tenant(spec), run.warehouse.schema)
    row = conn.execute(
        "SELECT max(business_date) + 1 FROM importer.loads WHERE load_id = ANY(%s)", (list(ids),)
    ).fetchone()
    assert row
    pairs = (sql.SQL("{} = {}").format(column_list([c], "c"), column_list([c], "s")) for c in target.key)
    names = {
        **target.names,
        "c_key": column_list(target.key, "c"),
        "same_claim": sql.SQL(" AND ").join(pairs),
    }
    execute(conn, "history_claims", names=names, tenant=tenant, horizon=row[0])
    execute(conn, "history_keep", names=names)
    count = execute(conn, "history_gone", names=names, tenant=tenant).rowcount
    count += execute(conn, "history_repeats", names=names, tenant=tenant).rowcount
    run_statement(conn, "publish", "drop_repeats", {}, {**names, "gone": sql.Identifier("importer_gone")})
    return count
