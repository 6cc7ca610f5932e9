"""Many importing processes at once, without Dagster: the second half of ``make flood``.

Real processes import deliveries of several tenants into one database that refuses
whoever writes without a slot; ``pg_stat_activity`` is looked at all the while. Then
what waiting takes, how long small tenants wait beside a big one, what a slow
database does to memory, and a table that somebody has locked for a minute.
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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import psutil
import psycopg

from importer_dagster import slots
from importer_dagster.launch.embedded import ensure_server
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Delivery
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from reliability import guard
from reliability.sampling import Seen, sampling

DAY = date(2024, 1, 1)


@dataclass
class Flood(Seen):
    """What the samples of one flood showed, and what became of the deliveries."""

    statuses: Counter[str] = field(default_factory=Counter)


def spec_of(disposition: str, name: str = "flood") -> TableSpec:
    fields = [{"name": "id", "type": "integer"}, {"name": "v"}]
    return TableSpec.model_validate(
        {
            "name": name,
            "schema": {"fields": fields, "primaryKey": ["id"]},
            "write_disposition": disposition,
        }
    )


def deliver(folder: Path, tenant: str, day: int, rows: int, name: str = "flood") -> Delivery:
    """A file; the same arguments make the same one."""
    path = f"{tenant}-{day}.csv"
    file = folder / path
    if not file.exists():
        partial = file.with_name(f"{path}.{uuid.uuid4().hex}")
        with partial.open("w") as out:
            out.write("id,v\n")
            out.writelines(f"{i},{tenant} {day} {i}\n" for i in range(rows))
        partial.replace(file)
    return Delivery(name, tenant, DAY + timedelta(days=day), path, str(file), file.stat().st_size)


def work(
    url: str, folder: Path, tenant: str, count: int, rows: int, disposition: str, name: str = "flood"
) -> None:
    """One process's part: import ``count`` days of a tenant; prints what became of each, and since when it waited."""
    warehouse, spec = Warehouse(url, db_writes=1), spec_of(disposition, name)
    done = []
    for delivery in [deliver(folder, tenant, day, rows, name) for day in range(count)]:
        asked = time.time()
        done.append((import_delivery(delivery, spec, warehouse=warehouse).status, asked))
    print(json.dumps(done))


def start(
    url: str,
    folder: Path,
    tenant: str,
    count: int,
    rows: int,
    disposition: str = "merge",
    name: str = "flood",
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "importer_dagster_tests.helpers.flood", "--work"]
    more = [url, str(folder), tenant, str(count), str(rows), disposition, name]
    return subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[tuple[str, float]]:
    """What a process says of its deliveries: (status, when it asked for its turn)."""
    out, _ = process.communicate()
    assert process.returncode == 0, f"a process ended with {process.returncode}"
    return [(status, asked) for status, asked in json.loads(out)]


def watch(url: str, processes: Sequence[subprocess.Popen[str]]) -> Flood:
    """Sample until all have ended."""
    with sampling(url) as seen:
        for process in processes:
            process.wait()
    assert seen.faults == []
    statuses = Counter(status for process in processes for status, _ in finish(process))
    return Flood(**vars(seen), statuses=statuses)


def flood(url: str, folder: Path, *, cap: int, processes: int, count: int, rows: int) -> Flood:
    """A tenant for each process, all at once."""
    set_cap(url, cap)
    with psycopg.connect(url, autocommit=True) as conn:
        guard.install(conn, cap)
    return watch(url, [start(url, folder, f"t{n}", count, rows) for n in range(processes)])


def set_cap(url: str, cap: int) -> None:
    warehouse = Warehouse(url)
    ledger_schema.migrate(warehouse)
    with warehouse.connect() as conn:
        slots.set_cap(conn, cap)
        conn.commit()


def cpu_while_waiting(url: str, folder: Path, seconds: float) -> tuple[float, float]:
    """Share of a core that the first and the last of three waiting processes take."""
    set_cap(url, 1)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s, 0)", (slots.SLOT_LOCKS,))
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


# --- fairness -------------------------------------------------------------------------------


@dataclass
class Wait:
    """One small file's: the turns that passed while it waited, for large files and for small ones."""

    tenant: str
    large: int
    small: int


def waits_beside_a_big_tenant(
    url: str, folder: Path, *, types: int, files: int, rows: int, small: int, count: int
) -> list[Wait]:
    """A big tenant sends ``files`` large files of each of ``types``, all at once; ``small`` others ``count`` small ones."""
    set_cap(url, 1)
    for day in range(files):
        assert (deliver(folder, "big", day, rows).size or 0) >= slots.SMALL_BYTES
    big = [start(url, folder, "big", files, rows, "append", f"flood{n}") for n in range(types)]
    with psycopg.connect(url, autocommit=True) as conn:
        while slots.counts(conn)[1] < types - 1:
            time.sleep(0.05)
        little = [start(url, folder, f"small{n}", count, 100, "append") for n in range(small)]
        for process in (*big, *little):
            process.wait()
        turns_taken = conn.execute(
            "SELECT tenant = 'big', extract(epoch FROM started_at)::float8 FROM importer.loads WHERE status = 'loaded'"
        ).fetchall()
        waits = []
        for number, process in enumerate(little):
            begun = conn.execute(
                "SELECT extract(epoch FROM started_at)::float8 FROM importer.loads WHERE tenant = %s ORDER BY business_date",
                (f"small{number}",),
            ).fetchall()
            for (_, asked), (served,) in zip(finish(process), begun, strict=True):
                between = [is_big for is_big, when in turns_taken if asked < when < served]
                waits.append(Wait(f"small{number}", sum(between), len(between) - sum(between)))
    for process in big:
        assert {status for status, _ in finish(process)} == {"loaded"}
    return waits


# --- a slow database ------------------------------------------------------------------------

MB = 1 << 20


def write_wide(file: Path, rows: int) -> int:
    """Bytes of a file of that many rows of a hundred bytes and more."""
    with file.open("w") as out:
        out.write("id,v\n")
        for first in range(0, rows, 10_000):
            out.writelines(f"{i},{'x' * 100}{i}\n" for i in range(first, min(first + 10_000, rows)))
    return file.stat().st_size


def peak(process: subprocess.Popen[str]) -> int:
    """The most memory that a process takes until it ends."""
    most = 0
    while process.poll() is None:
        with suppress(psutil.Error):
            most = max(most, psutil.Process(process.pid).memory_info().rss)
        time.sleep(0.02)
    return most


def import_slowly(url: str, slow_url: str, folder: Path, tenant: str, rows: int) -> tuple[int, int, float]:
    """Import a file through a throttle: its bytes, the most memory, the seconds."""
    size = write_wide(folder / f"{tenant}-0.csv", rows)
    begun = time.monotonic()
    process = start(slow_url, folder, tenant, 1, 0, "append")
    most = peak(process)
    seconds = time.monotonic() - begun
    assert [status for status, _ in finish(process)] == ["loaded"]
    with psycopg.connect(url) as conn:
        found = conn.execute("SELECT count(*), sum(id) FROM flood WHERE _tenant = %s", (tenant,)).fetchone()
    assert found == (rows, rows * (rows - 1) // 2), "something was dropped"
    return size, most, seconds


def behind_a_lock(url: str, folder: Path, seconds: float, *, rows: int = 1000) -> float:
    """Somebody locks the table for so long while a file comes in; the seconds that its import takes."""
    assert [s for s, _ in finish(start(url, folder, "first", 1, 10, "append"))] == ["loaded"]
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE flood")
        begun = time.monotonic()
        process = start(url, folder, "waits", 1, rows, "append")
        time.sleep(seconds)
        assert process.poll() is None, "it did not wait"
        other.rollback()
    assert [s for s, _ in finish(process)] == ["loaded"]
    with psycopg.connect(url) as conn:
        assert conn.execute("SELECT count(*) FROM flood WHERE _tenant = 'waits'").fetchone() == (rows,)
    return time.monotonic() - begun


# --- the command ----------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="Flood a database with processes and count who writes.")
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--deliveries", type=int, default=10, help="for each process")
    parser.add_argument("--rows", type=int, default=20_000, help="in each file")
    parser.add_argument("--work", nargs=7, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        url, folder, tenant, count, rows, disposition, name = given.work
        work(url, Path(folder), tenant, int(count), int(rows), disposition, name)
        return
    home = Path(tempfile.mkdtemp(prefix="importer-flood-"))
    server = ensure_server(home)
    try:
        _report_all(server.url("warehouse"), home, given)
    finally:
        server.release()
        shutil.rmtree(home, ignore_errors=True)


def _report_all(url: str, home: Path, given: argparse.Namespace) -> None:
    print("| N | processes | writers, most | slots, most | waiting, most | connections without a slot: at an "
          "instant, longer than a second | seconds | rows in = out |\n|---:|---:|---:|---:|---:|---:|---:|---:|")  # fmt: skip
    for cap in (1, 3, 8):
        _report(url, home, cap, given)
    _clean(url)
    low, high = cpu_while_waiting(url, home, 10)
    print(f"\nCPU of a waiting process: {low:.1%} to {high:.1%} of a core")
    _clean(url)
    _report_fairness(url, home)
    _report_slow(url, home)
    _clean(url)
    print(
        f"A table locked by another for 75 s: the import waited and took {behind_a_lock(url, home, 75):.0f} s"
    )


def _report(url: str, home: Path, cap: int, given: argparse.Namespace) -> None:
    folder = home / f"cap{cap}"
    folder.mkdir()
    _clean(url)
    begun = time.monotonic()
    seen = flood(url, folder, cap=cap, processes=given.processes, count=given.deliveries, rows=given.rows)
    seconds = time.monotonic() - begun
    rows = given.processes * given.deliveries * given.rows
    with psycopg.connect(url) as conn:
        read = conn.execute("SELECT sum(rows_read) FROM importer.loads WHERE status = 'loaded'").fetchone()
    print(
        f"| {cap} | {given.processes} | {seen.writers} | {seen.slots} | {seen.waiting} | {seen.without_slot}, "
        f"{seen.staying} | {seconds:.0f} | {rows:,} = {read[0] if read else 0:,} |",
        flush=True,
    )
    assert seen.statuses == {"loaded": given.processes * given.deliveries}
    assert read == (rows,), "rows are missing"
    assert max(seen.writers, seen.slots) <= cap, "the cap was exceeded"
    assert seen.staying <= cap, "more connections wait than are next in line"


def _report_fairness(url: str, home: Path) -> None:
    waits = waits_beside_a_big_tenant(url, home, types=6, files=3, rows=450_000, small=3, count=5)
    print(
        f"Beside a big tenant with 18 large files, {len(waits)} small files of 3 tenants waited for at most "
        f"{max(w.large for w in waits)} large and {max(w.small for w in waits)} small ones each"
    )


def _report_slow(url: str, home: Path) -> None:
    from importer_dagster_tests.helpers.throttle import throttled

    print("\n| file, MB | throttled to 8 MB/s: seconds | most memory, MB |\n|---:|---:|---:|")
    _clean(url)
    with throttled(url, 8 * MB) as slow:
        for rows in (250_000, 500_000, 1_000_000, 2_000_000):
            size, most, seconds = import_slowly(url, slow, home, f"slow{rows}", rows)
            print(f"| {size / MB:.0f} | {seconds:.0f} | {most / MB:.0f} |", flush=True)
    print()


def _clean(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DROP EVENT TRIGGER IF EXISTS guard_ddl")
        conn.execute("DROP EVENT TRIGGER IF EXISTS guard_drop")
        conn.execute(
            "DROP SCHEMA IF EXISTS guard, importer, importer_superseded, importer_repeats, importer_held CASCADE"
        )
        tables = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            conn.execute(f"DROP TABLE {table}")
    set_cap(url, 1)


if __name__ == "__main__":
    main()
