"""Many importing processes at once, and how many of them write: ``make flood``.

Starts real processes that import deliveries of several tenants into one
database, and looks at ``pg_stat_activity`` all the while. Prints for each cap
N: processes, deliveries, samples, the most writers and waiting connections
seen, and the CPU that a waiting process takes.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import psutil
import psycopg

from importer_dagster import ledger, turns
from importer_dagster.embedded import ensure_server
from importer_dagster.model import Delivery
from importer_dagster.pipeline import import_delivery
from importer_dagster.spec import TableSpec
from importer_dagster.warehouse import Warehouse

DAY = date(2024, 1, 1)
# A writer has a lock to write on anything but the queue of those who wait.
_SAMPLE = """
SELECT count(*) FILTER (WHERE writes), count(*) FILTER (WHERE NOT holds AND state = 'idle'),
       count(*) FILTER (WHERE holds)
FROM (
    SELECT a.state, EXISTS (
        SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'relation' AND l.granted
          AND l.mode IN ('RowExclusiveLock', 'ShareLock', 'ExclusiveLock', 'AccessExclusiveLock')
          AND l.relation NOT IN (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = 'importer' AND starts_with(c.relname, 'waiting'))) AS writes, EXISTS (
        SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted
          AND l.classid::bigint = %s AND l.objsubid = 2) AS holds
    FROM pg_stat_activity a WHERE a.application_name = 'importer' AND a.datname = current_database()
) AS sessions
"""


@dataclass
class Seen:
    """What the samples of one flood showed."""

    samples: int = 0
    writers: int = 0
    waiting_connections: int = 0
    slots: int = 0
    statuses: Counter[str] = field(default_factory=Counter)


def spec_of(disposition: str) -> TableSpec:
    fields = [{"name": "id", "type": "integer"}, {"name": "v"}]
    return TableSpec.model_validate(
        {
            "name": "flood",
            "schema": {"fields": fields, "primaryKey": ["id"]},
            "write_disposition": disposition,
        }
    )


def deliver(folder: Path, tenant: str, day: int, rows: int) -> Delivery:
    """A file; the same arguments make the same one."""
    path = f"{tenant}-{day}.csv"
    file = folder / path
    if not file.exists():
        lines = "".join(f"{i},{tenant} {day} {i}\n" for i in range(rows))
        partial = file.with_name(f"{path}.{uuid.uuid4().hex}")
        partial.write_text(f"id,v\n{lines}")
        partial.replace(file)
    return Delivery("flood", tenant, DAY + timedelta(days=day), path, str(file), file.stat().st_size)


def work(url: str, folder: Path, tenant: str, count: int, rows: int, disposition: str) -> None:
    """One process's part: import ``count`` days of a tenant; prints what became of them."""
    warehouse, spec = Warehouse(url, db_writes=1), spec_of(disposition)
    deliveries = [deliver(folder, tenant, day, rows) for day in range(count)]
    results = [import_delivery(d, spec, warehouse=warehouse) for d in deliveries]
    print(json.dumps([r.status for r in results]))


def start(
    url: str, folder: Path, tenant: str, count: int, rows: int, disposition: str = "merge"
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __name__ if __name__ != "__main__" else "importer_dagster_tests.flood"]
    more = ["--work", url, str(folder), tenant, str(count), str(rows), disposition]
    return subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True)


def watch(url: str, processes: list[subprocess.Popen[str]]) -> Seen:
    """Sample until all have ended."""
    seen = Seen()
    with psycopg.connect(url, autocommit=True, application_name="sampler") as conn:
        while any(p.poll() is None for p in processes):
            writers, waiting, slots = conn.execute(_SAMPLE, (turns.SLOT_LOCKS,)).fetchone() or (0, 0, 0)
            seen.samples += 1
            seen.writers = max(seen.writers, writers)
            seen.waiting_connections = max(seen.waiting_connections, waiting)
            seen.slots = max(seen.slots, slots)
            time.sleep(0.02)
    for process in processes:
        assert process.returncode == 0 and process.stdout, f"a process ended with {process.returncode}"
        with process.stdout as out:
            seen.statuses.update(json.loads(out.read()))
    return seen


def flood(url: str, folder: Path, *, cap: int, processes: int, count: int, rows: int) -> Seen:
    """A tenant for each process, all at once."""
    set_cap(url, cap)
    return watch(url, [start(url, folder, f"t{n}", count, rows) for n in range(processes)])


def set_cap(url: str, cap: int) -> None:
    warehouse = Warehouse(url)
    ledger.migrate(warehouse)
    with warehouse.connect() as conn:
        turns.set_cap(conn, cap)
        conn.commit()


def cpu_while_waiting(url: str, folder: Path, seconds: float) -> tuple[float, float]:
    """Share of a core that the first and the last of three waiting processes take."""
    set_cap(url, 1)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s, 0)", (turns.SLOT_LOCKS,))
        processes = [start(url, folder, f"waits{n}", 1, 10) for n in range(3)]
        while conn.execute("SELECT count(*) FROM importer.waiting").fetchone() != (3,):
            time.sleep(0.1)
        before = [_cpu(p) for p in processes]
        time.sleep(seconds)
        shares = sorted((_cpu(p) - b) / seconds for p, b in zip(processes, before, strict=True))
    watch(url, processes)
    return shares[0], shares[-1]


def _cpu(process: subprocess.Popen[str]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description="Flood a database and count who writes.")
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--deliveries", type=int, default=10, help="for each process")
    parser.add_argument("--rows", type=int, default=20_000, help="in each file")
    parser.add_argument("--work", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        url, folder, tenant, count, rows, disposition = given.work
        work(url, Path(folder), tenant, int(count), int(rows), disposition)
        return
    home = Path(tempfile.mkdtemp(prefix="importer-flood-"))
    server = ensure_server(home)
    try:
        for cap in (1, 3, 8):
            _report(server.url("warehouse"), home, cap, given)
        low, high = cpu_while_waiting(server.url("warehouse"), home, 10)
        print(f"CPU of a waiting process: {low:.1%} to {high:.1%} of a core")
    finally:
        server.release()
        shutil.rmtree(home, ignore_errors=True)


def _report(url: str, home: Path, cap: int, given: argparse.Namespace) -> None:
    folder = home / f"cap{cap}"
    folder.mkdir()
    begun = time.monotonic()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "DROP SCHEMA IF EXISTS importer, importer_superseded, importer_repeats, importer_held CASCADE"
        )
        conn.execute("DROP TABLE IF EXISTS flood")
    seen = flood(url, folder, cap=cap, processes=given.processes, count=given.deliveries, rows=given.rows)
    print(
        f"N={cap}: {given.processes} processes, {sum(seen.statuses.values())} deliveries {dict(seen.statuses)}, "
        f"{seen.samples} samples in {time.monotonic() - begun:.0f} s; at most {seen.writers} writing, "
        f"{seen.slots} slots held, {seen.waiting_connections} idle connections of others",
        flush=True,
    )
    assert max(seen.writers, seen.slots) <= cap, "the cap was exceeded"


if __name__ == "__main__":
    main()
