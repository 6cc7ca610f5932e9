"""``python -m reliability.soak``: a long mixed load under faults; at the end all rows are counted.

Several tenants send files for every disposition: new days, late days, corrections, unchanged
files again, rows with bad cells. Several processes at once import them, and ``importer backfill``
does so through Dagster. Meanwhile processes, sessions and the server are killed. At the end
everything is imported that is still missing, and the tables are compared with the files, which
are read by Python's csv module.

What does not belong here: what the tables must hold (``count.py``).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import yaml
from psycopg import sql

from importer_dagster.model import Delivery
from importer_dagster.settings import Settings
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.spec.loading import load_specs
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from reliability import count
from reliability.server import OwnServer, kill, left_running, own_server
from reliability.state import remains
from reliability.work import Job, import_one, processes, variants

FIRST_DAY = date(2024, 1, 1)
TENANTS = ("acme", "bolt", "cord")
_AT_ONCE = 3
_TRIES = 12  # of one delivery at the end, when nothing is killed any more
_QUIET_S = 60.0


@dataclass
class Tally:
    """Figures of the whole load."""

    tried: int = 0
    dagster_runs: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)


class Soak:
    """The load on one server; ``cycle`` is one round of it."""

    def __init__(self, server: OwnServer, seed: int) -> None:
        self.server, self.random = server, random.Random(seed)  # noqa: S311 - test data
        self.tally = Tally()
        self.context = processes()
        self.inbox = server.folder / "inbox"
        self.specs = self._write_specs()
        self.settings = Settings(
            warehouse_url=server.url("warehouse"),
            specs=server.folder / "specs",
            inbox_url=str(self.inbox),
            home=server.folder / "home",
            db_writes=3,
        )
        self.days = self.cycles = 0
        self.pending: set[str] = set()  # paths that are not known to be imported
        self._numbers = iter(range(1_000_000))

    def _write_specs(self) -> dict[str, TableSpec]:
        folder = self.server.folder / "specs"
        folder.mkdir()
        for variant, spec in variants().items():
            name = "soak_" + variant.replace(", ", "_")
            text = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
            (folder / f"{name}.yaml").write_text(yaml.safe_dump({**text, "name": name}))
        return dict(load_specs(folder))

    # --- what is delivered ---

    def deliver(self) -> None:
        """Write some deliveries: a new day, late days, corrections, unchanged files again."""
        chosen = self.random
        for _ in range(chosen.randint(4, 10)):
            name, tenant = chosen.choice(sorted(self.specs)), chosen.choice(TENANTS)
            old = self.days and chosen.random() < 0.5
            day = FIRST_DAY + timedelta(days=chosen.randrange(self.days) if old else self.days)
            file = self.inbox / day.isoformat() / tenant / f"{name}.csv"
            if file.exists() and chosen.random() < 0.4:
                kind = "sent again unchanged"
            else:
                kind = "corrected" if file.exists() else ("late" if old else "new")
                self._write(file)
            self.tally.sent[kind] += 1
            self.pending.add(str(file.relative_to(self.inbox)))
        self.days += chosen.random() < 0.7

    def _write(self, file: Path) -> None:
        chosen = self.random
        lines = ["id,v,n"]
        for _ in range(chosen.choice([3, 40, 40, 400])):
            key = "no number" if chosen.random() < 0.03 else str(chosen.randrange(200))
            lines.append(f"{key},{chosen.choice('abcd')},{chosen.randrange(400) / 4}")
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".part")
        aside.write_text("\n".join(lines) + "\n")
        aside.replace(file)

    def deliveries(self, paths: set[str] | None = None) -> list[Delivery]:
        """The inbox's deliveries, as the importer finds them."""
        found = find_deliveries(self.settings.inbox_url, self.specs, default_path=self.settings.default_path)
        return [d for d in found if paths is None or d.path in paths]

    # --- importing ---

    def cycle(self) -> None:
        """Deliver, import under one fault, and import what that left out."""
        self.deliver()
        self.cycles += 1
        stop = threading.Event()
        chosen = random.Random(self.random.random())  # noqa: S311 - which fault comes next
        harm = threading.Thread(target=self._harm_now_and_then, args=(stop, chosen))
        harm.start()
        try:
            if self.cycles % 4 == 2:
                self._through_dagster()
            else:
                self._directly(self.deliveries(set(self.pending)))
        finally:
            stop.set()
            harm.join()
        self.server.start()

    def _directly(self, deliveries: Sequence[Delivery]) -> None:
        waiting = list(deliveries)
        self.random.shuffle(waiting)
        at_work: list[tuple[Any, Job]] = []
        while waiting or at_work:
            while waiting and len(at_work) < _AT_ONCE:
                at_work.append(self._start(waiting.pop()))
            for process, job in at_work:
                process.join(0.02)
                if process.exitcode is not None:
                    self._ended(process.exitcode, job)
            at_work = [(p, j) for p, j in at_work if p.exitcode is None]

    def _start(self, delivery: Delivery) -> tuple[Any, Job]:
        report = self.server.folder / f"report{next(self._numbers)}"
        job = Job(self.settings.warehouse_url or "", self.specs[delivery.type], delivery, report)
        process = self.context.Process(target=import_one, args=(job,))
        process.start()
        self.tally.tried += 1
        return process, job

    def _ended(self, code: int, job: Job) -> None:
        self.tally.exits[code] += 1
        if code == 0:
            self.pending.discard(job.delivery.path)
        elif code not in (4, -signal.SIGKILL):
            self.tally.bugs.append(f"{job.delivery.path} ended with {code}: {job.report.read_text()[-800:]}")

    def _through_dagster(self) -> None:
        """``importer backfill`` of the days that have something pending."""
        days = sorted(path.split("/")[0] for path in self.pending)
        self.tally.tried += len([d for d in self.deliveries() if days[0] <= str(d.business_date) <= days[-1]])
        self.tally.dagster_runs += 1
        self.backfill = subprocess.Popen(  # noqa: S603 - our own arguments
            [sys.executable, "-m", "importer_dagster.cli", "backfill", "--from", days[0], "--to", days[-1]],
            env=self._environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self.backfill.wait(600)
        except subprocess.TimeoutExpired:
            self.tally.bugs.append(f"the backfill of {days[0]} to {days[-1]} did not end")
            self.backfill.kill()

    def _environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("IMPORTER_", "DAGSTER_"))}
        return {
            **clean,
            "IMPORTER_WAREHOUSE_URL": self.settings.warehouse_url or "",
            "IMPORTER_DAGSTER_URL": self.server.url("dagster"),
            "IMPORTER_SPECS": str(self.settings.specs),
            "IMPORTER_INBOX_URL": self.settings.inbox_url,
            "IMPORTER_HOME": str(self.settings.home),
            "IMPORTER_DB_WRITES": str(self.settings.db_writes),
        }

    # --- faults ---

    def _harm_now_and_then(self, stop: threading.Event, chosen: random.Random) -> None:
        backfill = None
        while not stop.wait(chosen.uniform(0.2, 1.5) if backfill is None else chosen.uniform(2, 9)):
            backfill = self._backfill()
            kind = chosen.choice(
                ["process", "process", "cut", "cut", "backend", "server", "immediate", "restart"]
            )
            with suppress(psycopg.Error):
                if self._harm(kind, chosen):
                    self.tally.faults[kind] += 1

    def _backfill(self) -> psutil.Process | None:
        with suppress(psutil.Error, AttributeError):
            if self.backfill.poll() is None:
                return psutil.Process(self.backfill.pid)
        return None

    def _harm(self, kind: str, chosen: random.Random) -> int:
        if kind == "process":
            return kill(chosen.sample(pids, 1)) if (pids := self._importers()) else 0
        if kind in ("server", "immediate", "restart"):
            numbers = {"server": signal.SIGKILL, "immediate": signal.SIGQUIT, "restart": signal.SIGINT}
            self.server.signal(numbers[kind])
            time.sleep(chosen.uniform(0, 2))
            self.server.start()
            return 1
        ends = "SELECT pid, pg_terminate_backend(pid)" if kind == "cut" else "SELECT pid"
        with self.server.connect("warehouse") as conn:
            rows = conn.execute(
                f"{ends} FROM pg_stat_activity WHERE application_name = 'importer' LIMIT 1".encode()
            ).fetchall()
        return len(rows) if kind == "cut" else kill([row[0] for row in rows])

    def _importers(self) -> list[int]:
        """The processes that import: children of the process that they are forked from, or of Dagster."""
        return [p.pid for p in psutil.Process().children(recursive=True) if _imports(p)]

    # --- the end ---

    def settle(self) -> None:
        """Import what is missing, with nobody killed any more; wait for orphans to end."""
        for _ in range(_TRIES):
            self._directly(self.deliveries())
            if not self.pending:
                break
        if self.tally.dagster_runs:
            days = max(self.days, 1)
            self.pending.update(d.path for d in self.deliveries())
            self._through_dagster()
            if self.backfill.returncode:
                self.tally.bugs.append(
                    f"the last backfill, of {days} days, ended with {self.backfill.returncode}"
                )
            self.pending.clear()
        deadline = time.monotonic() + _QUIET_S
        with self.server.connect("warehouse") as conn:
            while remains(conn) and time.monotonic() < deadline:
                time.sleep(0.2)
            self.left = remains(conn)
        # processes that Dagster has started and nobody has ended, such as steps whose run was killed
        self.left += left_running(self.server.folder)

    def report(self) -> tuple[str, bool]:
        """The table of figures, and whether all is well."""
        files = self._contents()
        records = sum(c.records for contents in files.values() for c in contents.values())
        read, accounted = self._ledger()
        differing = {name: self._differing(name, contents) for name, contents in files.items()}
        stuck, slots = self._dagster_figures()
        tally = self.tally
        rows = {
            "deliveries tried": f"{tally.tried:,} ({len([*self.deliveries()]):,} files; sent: {_words(tally.sent)})",
            "Dagster runs": tally.dagster_runs,
            "faults survived": f"{sum(tally.faults.values()):,} ({_words(tally.faults)})",
            "exit codes of imports": _words(tally.exits),
            "rows in (csv module)": f"{records:,}",
            "rows out (ledger: loaded + rejected + skipped + unchanged)": f"{accounted:,}",
            "difference": records - accounted + (read - accounted),
            "rows in tables that differ from the files": f"{sum(differing.values())} {_wrong(differing)}",
            "left behind (sessions, locks, stages, processes)": "; ".join(self.left) or "nothing",
            "slots leaked (Dagster's pool)": slots,
            "stuck runs": stuck,
            "bugs": len(tally.bugs),
        }
        text = "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())
        good = records == accounted == read and not (
            sum(differing.values()) or self.left or slots or stuck or tally.bugs or self.pending
        )
        return "\n".join([text, *tally.bugs[:5]]), good

    def _contents(self) -> dict[str, dict[count.Place, count.FileContent]]:
        files: dict[str, dict[count.Place, count.FileContent]] = {name: {} for name in self.specs}
        for file in self.inbox.glob("*/*/*.csv"):
            day, tenant = file.parts[-3:-1]
            content = count.read(file, keyed=bool(self.specs[file.stem].primary_key))
            files[file.stem][tenant, day] = content
        return files

    def _ledger(self) -> tuple[int, int]:
        """(read, accounted for) of the loads in force."""
        [(read, accounted)] = self.server.query(
            "warehouse",
            "SELECT sum(rows_read)::bigint, sum(rows_loaded + rows_rejected + rows_skipped + rows_unchanged)::bigint"
            " FROM importer.loads WHERE status = 'loaded' AND superseded_by IS NULL",
        )
        return read, accounted

    def _differing(self, name: str, contents: dict[count.Place, count.FileContent]) -> int:
        spec = self.specs[name]
        current = sql.SQL("WHERE _current" if spec.write_disposition == "scd2" else "")
        with self.server.connect("warehouse") as conn:
            if conn.execute("SELECT to_regclass(%s)", (name,)).fetchone() == (None,):
                found = []
            else:
                query = sql.SQL("SELECT _tenant, id, v, n FROM {} {}").format(sql.Identifier(name), current)
                found = conn.execute(query).fetchall()
        return count.difference(count.table(spec.write_disposition, contents), found)

    def _dagster_figures(self) -> tuple[int, int]:
        """(runs that did not end, slots of the pool that are taken)."""
        if self.server.query("dagster", "SELECT to_regclass('runs')") == [(None,)]:
            return 0, 0
        [(stuck,)] = self.server.query(
            "dagster",
            "SELECT count(*) FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')",
        )
        [(slots,)] = self.server.query(
            "dagster", "SELECT count(*) FROM concurrency_slots WHERE run_id IS NOT NULL AND NOT deleted"
        )
        return stuck, slots


def _imports(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # the process has just ended
        is_ours = "postgres" not in process.name() and process.status() != psutil.STATUS_ZOMBIE
        return is_ours and not _supports(process)
    return False


def _supports(process: psutil.Process) -> bool:
    """Whether it is the process that others are forked from, or multiprocessing's resource tracker."""
    line = " ".join(process.cmdline())
    forked = any("forkserver" in " ".join(p.cmdline()) for p in process.parents()[:1])
    return ("forkserver" in line or "resource_tracker" in line) and not forked


def _words(counts: Counter[Any]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counts.most_common())


def _wrong(differing: dict[str, int]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in differing.items() if n)


def run(minutes: float, seed: int, *, cycles: int | None = None, say: Callable[[str], None]) -> bool:
    """Run for ``minutes`` (or ``cycles``) and print the figures; returns whether all is well."""
    start = time.monotonic()
    with own_server() as server:
        soak = Soak(server, seed)
        # the ledger's tables are there from the start, as with any installation in use
        from importer_dagster.ledger import schema as ledger_schema

        ledger_schema.migrate(Warehouse(soak.settings.warehouse_url or ""))
        number = 0
        while number < cycles if cycles else time.monotonic() - start < minutes * 60:
            number += 1
            soak.cycle()
            say(
                f"{time.monotonic() - start:5.0f} s  cycle {number}: {soak.tally.tried} tried, "
                f"{sum(soak.tally.faults.values())} faults, {len(soak.pending)} pending"
            )
        soak.settle()
        text, good = soak.report()
    say(f"\n{text}\n\n{time.monotonic() - start:.0f} s, seed {seed}")
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit code 1 if anything differs, leaked or is stuck."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m reliability.soak --minutes 15 --seed 7",
    )
    parser.add_argument("--minutes", type=float, default=15, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of files and faults (default: %(default)s)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with this process
    return 0 if run(options.minutes, options.seed, say=lambda line: print(line, flush=True)) else 1


if __name__ == "__main__":
    from reliability.soak import main as _main  # under its own name, which child processes can import

    sys.exit(_main())
