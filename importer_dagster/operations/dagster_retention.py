"""What goes of Dagster's own records: :func:`prune_dagster`; and of the files in its home: :func:`prune_files`.

Runs, their events, results of checks, backfills. What the schedule and the UI go
by stays: the last materialization of each asset and day, for ``keep.done`` days, the
last result of each check. Ticks are not looked at: Dagster deletes them itself (``retention`` in
dagster.yaml).

Plain SQL: Dagster knows how to delete a run, but then the run's days count as
missing. What does not belong here: the importer's own ledger (``operations/retention.py``).
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

from importer_dagster.operations.retention import Gone
from importer_dagster.settings import Keep
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.target import run_statement, statements

_SOME = 5_000
_SOME_RUNS = 10  # each may have thousands of events
_PARENT = re.compile(rb'"parent_snapshot_id":\s*"(\w+)"')
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def prune_dagster(url: str, keep: Keep, *, now: datetime | None = None, dry_run: bool = False) -> list[Gone]:
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
            *_runs(conn, before, dry_run),
            *(_rows(conn, what, name, before, done, dry_run) for what, name in _KINDS.items()),
            ("descriptions of jobs", _snapshots(conn, dry_run), None),
        ]
    return [Gone(what, "runs", keep.runs, count, oldest) for what, count, oldest in found if count]


_KINDS = {
    "events of no run": "stray_events",
    "results of checks": "checks",
    "backfills": "backfills",
}
_Found = tuple[str, int, datetime | None]


def _run(
    conn: psycopg.Connection, name: str, *, names: dict[str, sql.Composable] | None = None, **values: Any
) -> psycopg.Cursor:
    return run_statement(conn, "dagster_retention", name, values, names)


def _runs(conn: psycopg.Connection, before: datetime, dry_run: bool) -> Iterator[_Found]:
    found = _run(conn, "old_runs", before=before).fetchall()
    oldest = min((at for _, at in found), default=None)
    events = 0
    replaceable: dict[str, sql.Composable] = {
        "replaceable": sql.SQL(statements("dagster_retention")["replaceable"])
    }
    for start in range(0, len(found), _SOME_RUNS):
        ids = [run_id for run_id, _ in found[start : start + _SOME_RUNS]]
        name = "count_events" if dry_run else "delete_events"
        events += _number(_run(conn, name, names=replaceable, ids=ids))
        if not dry_run:
            _run(conn, "delete_runs", ids=ids)
        conn.commit()
    yield "Dagster's runs", len(found), oldest
    yield "events of runs", events, oldest


def _rows(
    conn: psycopg.Connection, what: str, name: str, before: datetime, done_before: datetime, dry_run: bool
) -> _Found:
    old = sql.SQL(statements("dagster_retention")[name])
    values = {"before": before, "done": done_before}
    row = conn.execute(sql.SQL("SELECT count(*), min(at) FROM ({}) AS old").format(old), values).fetchone()
    conn.commit()
    assert row
    left = 0 if dry_run else row[0]
    while left > 0:
        done = _number(_run(conn, f"delete_{name}", names={name: old}, some=_SOME, **values))
        conn.commit()
        left = left - done if done else 0
    return what, row[0], row[1]


def _snapshots(conn: psycopg.Connection, dry_run: bool) -> int:
    """Descriptions older than all that runs refer to; one that is another's parent stays with it."""
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


def prune_files(home: Path, keep: Keep, *, now: datetime | None = None, dry_run: bool = False) -> list[Gone]:
    """Delete what runs left below ``storage`` in a Dagster home: captured output, where that is on.

    Only folders that bear a run's id are looked at; links are not followed.
    """
    if not keep.files:
        return []
    before = ((now or datetime.now(UTC)) - timedelta(days=keep.files)).timestamp()
    found = {folder: _newest(folder) for folder in _run_folders(home / "storage")}
    old = {folder: at for folder, at in found.items() if at < before}
    if not dry_run:
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
    oldest = datetime.fromtimestamp(min(old.values()), UTC) if old else None
    return [Gone("folders of captured output", "files", keep.files, len(old), oldest)] if old else []


def _run_folders(storage: Path) -> list[Path]:
    if not storage.is_dir():
        return []
    return [p for p in storage.iterdir() if _RUN_ID.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]


def _newest(folder: Path) -> float:
    return max((p.lstat().st_mtime for p in (folder, *folder.rglob("*"))), default=0.0)
