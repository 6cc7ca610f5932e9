"""Deletes what is older than the IMPORTER_KEEP_ settings say: :func:`prune`. Here: rows of the ledger.

They are deleted in small transactions. No import waits for them, except for the slot that
a transaction takes. What must stay, and why, is written at the statements
(``sql/retention.sql``).

What does not belong here: rows of the types' tables (``operations/row_retention.py``), Dagster's
own records (``operations/dagster_retention.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg import sql

from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.operations.retention_pass import Pruned, RetentionPass, execute, existing_table
from importer_dagster.operations.row_retention import prune_rows
from importer_dagster.settings import Keep
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer import held_rows
from importer_dagster.writer.target import REPEATS, SUPERSEDED, statements

_NAME = "retention (no type)"  # in the queue of writers
_ROWS_AT_ONCE = 5_000  # in one transaction
_LOADS_AT_ONCE = 200


def prune(
    warehouse: Warehouse,
    specs: Mapping[str, TableSpec],
    keep: Keep,
    *,
    has_tenant: Callable[[TableSpec], bool],
    now: datetime | None = None,
    dry_run: bool = False,
) -> list[Pruned]:
    """Delete what is older than ``keep`` says and no longer needed; with ``dry_run`` only count it.

    After a crash it may be called again and goes on. Types without a spec keep the rows of
    their tables, and lose those of the ledger.
    """
    ledger_schema.migrate(warehouse)
    run = RetentionPass(warehouse, specs, keep, has_tenant, now or datetime.now(UTC), dry_run)
    # In general one deletion makes the next one possible. Only finished deliveries come first, so
    # that a dry run and a real run see the same.
    results = [
        _prune_finished(run),
        *prune_rows(run),
        _prune_by_load(run, "rejects, by load", "rejects", "rejects"),
        _prune_by_row(run, "samples of values", "profiles", "profiles"),
        _prune_by_row(run, "drift events", "drift", "drift"),
        _prune_by_row(run, "findings of gates", "drift", "findings"),
        _prune_by_row(run, "reports of missing files", "loads", "missing"),
        _prune_by_load(run, "ledger rows", "loads", "loads"),
        _drop_held_leftovers(run),
    ]
    return [result for result in results if result.count]


@dataclass(frozen=True)
class _Finished:
    """All loads of one delivery that nothing needs any more."""

    tenant: str
    ids: tuple[int, ...]
    at: datetime


def _prune_finished(run: RetentionPass) -> Pruned:
    """Delete all ledger rows of finished deliveries, of one type and tenant after the other."""
    what, before, oldest = "ledger rows of days that are done", run.before("done"), None
    if before is None:
        return run.result(what, "done")
    for spec in run.specs.values():
        by_tenant: dict[str, list[_Finished]] = {}
        for delivery in _finished_without_rows(run, spec, before):
            by_tenant.setdefault(delivery.tenant, []).append(delivery)
        for tenant, found in sorted(by_tenant.items()):
            if not run.dry_run:
                with run.warehouse.writing(spec.name, tenant, size=0) as conn:
                    # asked again: a file may have been sent again during the wait for the slot
                    still = {delivery.ids for delivery in _finished(conn, spec, before)}
                    by_tenant[tenant] = [delivery for delivery in found if delivery.ids in still]
                    ids = [load_id for delivery in by_tenant[tenant] for load_id in delivery.ids]
                    _delete_by_load(conn, "loads", ids)
            for delivery in by_tenant[tenant]:
                run.deleted.update(delivery.ids)
                oldest = min(oldest or delivery.at, delivery.at)
    return run.result(what, "done", len(run.deleted), oldest)


def _finished_without_rows(run: RetentionPass, spec: TableSpec, before: datetime) -> list[_Finished]:
    """Finished deliveries without rows in the type's tables; no lock is needed, since they never get rows again."""
    with run.warehouse.connect() as conn:
        found = _finished(conn, spec, before)
        ids = [load_id for delivery in found for load_id in delivery.ids]
        with_rows: set[int] = set()
        for schema_name in (run.warehouse.schema, SUPERSEDED, REPEATS):
            if ids and (names := existing_table(conn, schema_name, spec.name)) is not None:
                with_rows.update(load_id for (load_id,) in execute(conn, "owners", ids=ids, names=names))
    return [delivery for delivery in found if with_rows.isdisjoint(delivery.ids)]


def _finished(conn: psycopg.Connection, spec: TableSpec, before: datetime) -> list[_Finished]:
    empties = spec.write_disposition == "append"
    rows = execute(conn, "old_done", type=spec.name, before=before, empties=empties)
    return [_Finished(tenant, tuple(ids), at) for tenant, ids, at in rows]


def _connection(run: RetentionPass) -> AbstractContextManager[psycopg.Connection]:
    """A connection for rows of the ledger; it holds a slot if it is to write."""
    return run.warehouse.connect() if run.dry_run else run.warehouse.writing(_NAME, "", size=0)


def _prune_by_load(run: RetentionPass, what: str, kind: str, name: str) -> Pruned:
    """Delete the rows of old loads, or their rejects."""
    before, count, oldest = run.before(kind), 0, None
    if before is None:
        return run.result(what, kind)
    gone, marked = {*run.deleted}, [*run.pruned]
    with _connection(run) as conn:
        # repeated, since a deleted load may have been the last that referred to another one
        while found := execute(conn, f"old_{name}", before=before, marked=marked, gone=[*gone]).fetchall():
            count += len(found)
            oldest = min([oldest or found[0][1], *(at for _, at in found)])
            gone.update(load_id for load_id, _ in found)
            if not run.dry_run:
                _delete_by_load(conn, name, [load_id for load_id, _ in found])
    return run.result(what, kind, count, oldest)


def _delete_by_load(conn: psycopg.Connection, name: str, ids: Sequence[int]) -> None:
    for start in range(0, len(ids), _LOADS_AT_ONCE):
        execute(conn, f"delete_{name}", ids=list(ids[start : start + _LOADS_AT_ONCE]))
        conn.commit()


def _prune_by_row(run: RetentionPass, what: str, kind: str, name: str) -> Pruned:
    """Delete old rows of one of the ledger's other tables."""
    before = run.before(kind)
    if before is None:
        return run.result(what, kind)
    old = sql.SQL(statements("retention")[f"old_{name}"])
    with _connection(run) as conn:
        values = {"before": before, "gone": [*run.deleted]}
        row = conn.execute(
            sql.SQL("SELECT count(*), min(at) FROM ({}) AS old").format(old), values
        ).fetchone()
        conn.commit()
        assert row
        left = 0 if run.dry_run else row[0]
        while left > 0:
            names = {f"old_{name}": old}
            deleted = execute(conn, f"delete_{name}", some=_ROWS_AT_ONCE, names=names, **values).rowcount
            conn.commit()
            left = left - deleted if deleted else 0
    return run.result(what, kind, *row)


def _drop_held_leftovers(run: RetentionPass) -> Pruned:
    """Drop tables of loads that are not held; there are none unless somebody has changed the ledger by hand."""
    with _connection(run) as conn:
        names = held_rows.leftovers(conn)
        if not run.dry_run:
            for name in names:
                conn.execute(
                    sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(held_rows.SCHEMA, name))
                )
                conn.commit()
    return Pruned("tables of loads that are not held any more", None, 0, len(names))
