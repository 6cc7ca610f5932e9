"""Deletes old records of Dagster (:func:`prune_dagster`) and old files in its home (:func:`prune_files`).

Records are runs, their events, results of checks, and backfills. What the schedule and the
UI need stays: the last materialization of each asset and day, for ``keep.done`` days, and
the last result of each check. Ticks are deleted by Dagster itself (``retention`` in
dagster.yaml). The records are deleted by SQL: if Dagster deletes a run, the run's days
count as missing.

What does not belong here: the importer's own ledger (``operations/retention.py``).
"""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from importer_dagster.operations.retention_pass import Pruned
from importer_dagster.settings import Keep
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.target import run_statement, statements

_ROWS_AT_ONCE = 5_000  # in one transaction
_RUNS_AT_ONCE = 10  # each may have thousands of events
_PARENT = re.compile(rb'"parent_snapshot_id":\s*"(\w+)"')
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def prune_dagster(
    url: str, keep: Keep, *, now: datetime | None = None, dry_run: bool = False
) -> list[Pruned]:
    """Delete what is older than ``keep.runs`` days from the storage at ``url``; with ``dry_run`` only count it.

    A storage that has no tables yet has nothing to delete.
    """
    if not keep.runs:
        return []
    now = now or datetime.now(UTC)
    before = now - timedelta(days=keep.runs)
    done = now - timedelta(days=keep.done) if keep.done else datetime.min.replace(tzinfo=UTC)
    with Warehouse(url).connect() as conn:
        if conn.execute("SELECT to_regclass('runs')").fetchone() == (None,):
            return []
        found = [
            *_prune_runs(conn, before, dry_run),
            *(_prune_rows(conn, what, name, before, done, dry_run) for what, name in _KINDS.items()),
            ("descriptions of jobs", _prune_snapshots(conn, dry_run), None),
        ]
    return [Pruned(what, "runs", keep.runs, count, oldest) for what, count, oldest in found if count]


_KINDS = {  # what it is called, and its statement in sql/dagster_retention.sql
    "events of no run": "stray_events",
    "results of checks": "checks",
    "backfills": "backfills",
}
_Found = tuple[str, int, datetime | None]  # what, how many, the oldest


def _run(
    conn: psycopg.Connection, name: str, *, names: dict[str, sql.Composable] | None = None, **values: Any
) -> psycopg.Cursor:
    return run_statement(conn, "dagster_retention", name, values, names)


def _prune_runs(conn: psycopg.Connection, before: datetime, dry_run: bool) -> Iterator[_Found]:
    found = _run(conn, "old_runs", before=before).fetchall()
    oldest = min((at for _, at in found), default=None)
    events = 0
    replaceable: dict[str, sql.Composable] = {
        "replaceable": sql.SQL(statements("dagster_retention")["replaceable"])
    }
    for start in range(0, len(found), _RUNS_AT_ONCE):
        ids = [run_id for run_id, _ in found[start : start + _RUNS_AT_ONCE]]
        name = "count_events" if dry_run else "delete_events"
        events += _number(_run(conn, name, names=replaceable, ids=ids))
        if not dry_run:
            _run(conn, "delete_runs", ids=ids)
        conn.commit()
    yield "Dagster's runs", len(found), oldest
    yield "events of runs", events, oldest


def _prune_rows(
    conn: psycopg.Connection, what: str, name: str, before: datetime, done_before: datetime, dry_run: bool
) -> _Found:
    old = sql.SQL(statements("dagster_retention")[name])
    values = {"before": before, "done": done_before}
    row = conn.execute(sql.SQL("SELECT count(*), min(at) FROM ({}) AS old").format(old), values).fetchone()
    conn.commit()
    assert row
    left = 0 if dry_run else row[0]
    while left > 0:
        done = _number(_run(conn, f"delete_{name}", names={name: old}, some=_ROWS_AT_ONCE, **values))
        conn.commit()
        left = left - done if done else 0
    return what, row[0], row[1]


def _prune_snapshots(conn: psycopg.Connection, dry_run: bool) -> int:
    """Delete descriptions of jobs older than all that runs use, except parents of used ones."""
    used = _run(conn, "snapshots_in_use").fetchall()
    if not used:
        return 0
    parents = {p.decode() for _, _, body in used for p in _PARENT.findall(zlib.decompress(body))}
    first = min(number for number, _, _ in used)
    ids = [row[0] for row in _run(conn, "old_snapshots", first=first, parents=sorted(parents)).fetchall()]
    if not dry_run:
        _run(conn, "delete_snapshots", ids=ids)
    conn.commit()
    return len(ids)


def _number(cursor: psycopg.Cursor) -> int:
    row = cursor.fetchone()
    assert row
    return int(row[0])


# --- files ----------------------------------------------------------------------------------


def prune_files(
    home: Path, keep: Keep, *, now: datetime | None = None, dry_run: bool = False
) -> list[Pruned]:
    """Delete old files of runs below ``storage`` in a Dagster home, such as captured output.

    Only folders named like a run's id are deleted; symbolic links are not followed.
    """
    if not keep.files:
        return []
    before = ((now or datetime.now(UTC)) - timedelta(days=keep.files)).timestamp()
    storage = home / "storage"
    old: dict[Path, float] = {}
    for folder in storage.iterdir() if storage.is_dir() else ():
        if _RUN_ID.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            newest = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
            if newest < before:
                old[folder] = newest
    if not dry_run:
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
    oldest = datetime.fromtimestamp(min(old.values()), UTC) if old else None
    return [Pruned("folders of captured output", "files", keep.files, len(old), oldest)] if old else []
