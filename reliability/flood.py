"""``python -m reliability.flood``: many imports at once; how many write, what waiting costs, memory.

Without ``--processes`` the imports are runs of Dagster (``flood_runs.py``). With it, real
processes import deliveries of several tenants without Dagster. The database refuses a write
of a session without a slot, and ``pg_stat_activity`` is sampled all the while. Then files of
growing size are imported into a slow database, and the memory is measured. The tests call the
functions of this module with small sizes.

What does not belong here: runs of Dagster (``flood_runs.py``), counting the writers
(``sampling.py``), the slow connection (``throttle.py``).
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import psutil
import psycopg

from importer_dagster import slots
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Delivery
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from reliability import guard
from reliability.sampling import Seen, sampling
from reliability.server import OwnServer, own_server
from reliability.throttle import throttled

CAPS = (1, 3, 8)
DAY = date(2024, 1, 1)
MB = 1 << 20


@dataclass
class Flood(Seen):
    """What the samples of one flood showed, and how many deliveries ended with which status."""

    statuses: Counter[str] = field(default_factory=Counter)


def spec_of(disposition: str, name: str = "flood") -> TableSpec:
    """A CSV type with columns ``id`` (its key) and ``v``."""
    fields = [{"name": "id", "type": "integer"}, {"name": "v"}]
    return TableSpec.model_validate(
        {
            "name": name,
            "schema": {"fields": fields, "primaryKey": ["id"]},
            "write_disposition": disposition,
        }
    )


def deliver(folder: Path, tenant: str, day: int, rows: int, name: str = "flood") -> Delivery:
    """A delivery and its file. The same arguments give the same file, also when several processes write it."""
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
    """What one process does: import ``count`` days of a tenant.

    Prints a JSON list with (status, UNIX time at which the import was called) of each day.
    """
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
    """Start a process that does ``work``."""
    command = [sys.executable, "-m", "reliability.flood", "--work"]
    more = [url, str(folder), tenant, str(count), str(rows), disposition, name]
    return subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own arguments


def finish(process: subprocess.Popen[str]) -> list[tuple[str, float]]:
    """What ``work`` has printed, once the process has ended: (status, time at which it was called) of each day."""
    out, _ = process.communicate()
    assert process.returncode == 0, f"a process ended with {process.returncode}"
    return [(status, asked) for status, asked in json.loads(out)]


def watch(url: str, processes: Sequence[subprocess.Popen[str]]) -> Flood:
    """Sample the database until all processes have ended."""
    with sampling(url) as seen:
        for process in processes:
            process.wait()
    assert seen.faults == []
    statuses = Counter(status for process in processes for status, _ in finish(process))
    return Flood(**vars(seen), statuses=statuses)


def flood(url: str, folder: Path, *, cap: int, processes: int, count: int, rows: int) -> Flood:
    """All ``processes`` at once, each with a tenant of its own; a write without a slot fails."""
    set_cap(url, cap)
    with psycopg.connect(url, autocommit=True) as conn:
        guard.install(conn, cap)
    return watch(url, [start(url, folder, f"t{n}", count, rows) for n in range(processes)])


def set_cap(url: str, cap: int) -> None:
    """Make the ledger's tables if need be, and set the cap."""
    warehouse = Warehouse(url)
    ledger_schema.migrate(warehouse)
    with warehouse.connect() as conn:
        slots.set_cap(conn, cap)
        conn.commit()


def cpu_while_waiting(url: str, folder: Path, seconds: float) -> tuple[float, float]:
    """Three processes wait for a slot: the least and the most CPU of one, as a share of a core."""
    set_cap(url, 1)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s, 0)", (slots.SLOT_LOCKS,))
        processes = [start(url, folder, f"waits{n}", 1, 10) for n in range(3)]
        while conn.execute("SELECT count(*) FROM importer.waiting").fetchone() != (3,):
            time.sleep(0.1)
        before = [_cpu_seconds(p) for p in processes]
        time.sleep(seconds)
        shares = sorted((_cpu_seconds(p) - b) / seconds for p, b in zip(processes, before, strict=True))
    watch(url, processes)
    return shares[0], shares[-1]


def _cpu_seconds(process: subprocess.Popen[str]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


# --- fairness -------------------------------------------------------------------------------


@dataclass
class Wait:
    """How many large and how many small files were imported while one small file waited."""

    tenant: str
    large: int
    small: int


def waits_beside_a_big_tenant(
    url: str, folder: Path, *, types: int, files: int, rows: int, small: int, count: int
) -> list[Wait]:
    """How long small files wait, with a cap of 1.

    A big tenant sends ``files`` large files of each of ``types`` types, all at once. Then each of
    ``small`` other tenants sends ``count`` small files.
    """
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
        loads = conn.execute(
            "SELECT tenant = 'big', extract(epoch FROM started_at)::float8 FROM importer.loads WHERE status = 'loaded'"
        ).fetchall()
        waits = []
        for number, process in enumerate(little):
            begun = conn.execute(
                "SELECT extract(epoch FROM started_at)::float8 FROM importer.loads WHERE tenant = %s ORDER BY business_date",
                (f"small{number}",),
            ).fetchall()
            for (_, asked), (served,) in zip(finish(process), begun, strict=True):
                between = [is_big for is_big, when in loads if asked < when < served]
                waits.append(Wait(f"small{number}", sum(between), len(between) - sum(between)))
    for process in big:
        assert {status for status, _ in finish(process)} == {"loaded"}
    return waits


# --- a slow database ------------------------------------------------------------------------


def write_wide(file: Path, rows: int) -> int:
    """Write a file of that many rows of some 110 bytes; returns its bytes."""
    with file.open("w") as out:
        out.write("id,v\n")
        for first in range(0, rows, 10_000):
            out.writelines(f"{i},{'x' * 100}{i}\n" for i in range(first, min(first + 10_000, rows)))
    return file.stat().st_size


def peak(process: subprocess.Popen[str]) -> int:
    """The most resident memory of a process until it ends, in bytes."""
    most = 0
    while process.poll() is None:
        with suppress(psutil.Error):
            most = max(most, psutil.Process(process.pid).memory_info().rss)
        time.sleep(0.02)
    return most


def import_slowly(url: str, slow_url: str, folder: Path, tenant: str, rows: int) -> tuple[int, int, float]:
    """Import a file by way of a slow connection: its bytes, the most memory in bytes, the seconds."""
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
    """Another session locks the table for ``seconds`` during an import; returns the seconds that the import takes."""
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


def run(caps: Sequence[int], processes: int, rows: int, *, say: Callable[[str], None]) -> bool:
    """Flood with processes for each cap, then import files of growing size slowly; whether all was well."""
    good = True
    with own_server() as server:
        say(
            "| N | writers, most | slots, most | waiting, most | connections without a slot: at an instant, "
            "longer than a second | seconds | rows in | rows out |\n|---:|---:|---:|---:|---:|---:|---:|---:|"
        )
        for cap in caps:
            url, begun = _database(server, f"cap{cap}"), time.monotonic()
            seen = flood(url, server.folder, cap=cap, processes=processes, count=10, rows=rows)
            seconds = time.monotonic() - begun
            sent = processes * 10 * rows
            [(read,)] = server.query(f"cap{cap}", "SELECT sum(rows_read) FROM importer.loads")
            say(
                f"| {cap} | {seen.writers} | {seen.slots} | {seen.waiting} | {seen.without_slot}, {seen.staying} "
                f"| {seconds:.0f} | {sent:,} | {read:,} |"
            )
            within = max(seen.writers, seen.slots, seen.staying) <= cap
            good &= within and read == sent and seen.statuses == {"loaded": processes * 10}
        say("\n| file, MB | throttled to 8 MB/s: seconds | most memory, MB |\n|---:|---:|---:|")
        url = _database(server, "slow")
        set_cap(url, 1)
        with throttled(url, 8 * MB) as slow:
            for size in (250_000, 500_000, 1_000_000, 2_000_000):
                sent, most, seconds = import_slowly(url, slow, server.folder, f"slow{size}", size)
                say(f"| {sent / MB:.0f} | {seconds:.0f} | {most / MB:.0f} |")
    return good


def _database(server: OwnServer, name: str) -> str:
    server.clone(name, "template1")
    return server.url(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit code 1 if a cap was exceeded, a row is missing, or a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.flood",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--caps", type=int, nargs="+", default=list(CAPS), help="(default: 1 3 8)")
    parser.add_argument("--rows", type=int, default=20_000, help="in each file (default: %(default)s)")
    parser.add_argument(
        "--same-days",
        action="store_true",
        help="all runs want the same days: one imports them, the others find them imported",
    )
    parser.add_argument("--processes", type=int, help="instead of runs: so many processes, without Dagster")
    parser.add_argument("--work", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        url, folder, tenant, count, rows, disposition, name = options.work
        work(url, Path(folder), tenant, int(count), int(rows), disposition, name)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with this process

    def say(line: str) -> None:
        print(line, flush=True)

    if options.processes:
        return 0 if run(options.caps, options.processes, options.rows, say=say) else 1
    # imported here, since each importing process imports this module and needs nothing of Dagster
    from reliability import flood_runs

    size = flood_runs.Size(rows=options.rows, same_days=options.same_days)
    verdicts = flood_runs.run(options.caps, size, say=say)
    say(f"\n{flood_runs.report(verdicts)}")
    return 1 if any(v.faults for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
