"""``python -m reliability.flood``: ten runs at once, of the schedule, the UI and commands; who writes, what waiting costs.

Runs of a daemon's schedule, runs that a webserver is asked for by GraphQL as its UI
does, ``dagster job backfill`` and ``importer backfill``, all at once, for several
caps N. The harness holds every slot until all of them have started and measures
what those who wait take; then it lets go, adds people who load files of the same days
by hand, and counts writing sessions until all have ended.

What does not belong here: the project that runs (``project.py``), the looking
(``sampling.py``); a rule instead of samples (``guard.py``).
"""

from __future__ import annotations

import argparse
import csv
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import date, timedelta

import psutil

from importer_dagster.slots import SLOT_LOCKS
from reliability import guard
from reliability.patience import wait_for
from reliability.project import PATIENCE_S, Project, tree
from reliability.sampling import Seen, sampling
from reliability.server import OwnServer, own_server

CAPS = (1, 3, 8)
TENANTS = ("acme", "bolt")
_TYPES = {"flood_append": "append", "flood_merge": "merge", "flood_scd2": "scd2"}


@dataclass(frozen=True)
class Size:
    """How many runs of each kind, and how large the files are."""

    scheduled: int = 3
    ui: int = 3
    job_backfills: int = 2
    commands: int = 2
    people: int = 2
    rows: int = 20_000
    same_days: bool = False  # everyone wants the days of the schedule
    settle_s: float = 10.0  # until Dagster has started as many as it will, and they have come to rest
    held_s: float = 15.0  # of looking at those who wait

    @property
    def runs(self) -> int:
        """All runs that there must be at least."""
        return self.scheduled + self.ui + self.job_backfills + self.commands


@dataclass
class Waiting:
    """What those who wait take, while nobody can write."""

    queued: int = 0  # runs that are a row of Dagster's queue
    runs: int = 0  # processes of runs
    steps: int = 0  # processes that sleep before a slot
    pending: int = 0  # steps that are a row of Dagster's pool
    run_cpu: float = 0.0  # the most, share of a core
    step_cpu: float = 0.0
    seen: Seen = field(default_factory=Seen)


@dataclass
class Verdict:
    """What one cap showed."""

    cap: int
    runs: dict[str, int] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=Waiting)
    seen: Seen = field(default_factory=Seen)
    statements: int = 0
    rows_in: int = 0
    rows_out: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


class Flood:
    """A project of which at most ``cap`` sessions may write, and everybody who wants to at once."""

    def __init__(self, server: OwnServer, cap: int, size: Size) -> None:
        self.server, self.cap, self.size = server, cap, size
        self.project = Project(server, cap, _TYPES, runs=2 * size.runs)
        self.inbox = self.project.inbox

    def days(self, kind: str) -> list[date]:
        """Days apart, so that each is a run of its own; usually only those of the schedule are in its view."""
        if self.size.same_days:
            return [self.project.today - timedelta(days=2 * n) for n in range(getattr(self.size, kind))]
        first = {"scheduled": 0, "ui": 20, "job_backfills": 30, "commands": 40}[kind]
        return [self.project.today - timedelta(days=first + 2 * n) for n in range(getattr(self.size, kind))]

    def deliver(self, day: date) -> None:
        """A day's files of all types and tenants."""
        for name in _TYPES:
            for tenant in TENANTS:
                self.project.deliver(day, name, tenant, self.size.rows)

    # --- the runs ---

    def play(self) -> Verdict:
        """All at once; what was seen."""
        verdict = Verdict(self.cap)
        for kind in ("scheduled", "ui", "job_backfills", "commands"):
            for day in self.days(kind):
                self.deliver(day)
        with ExitStack() as stack:
            hold = stack.enter_context(self.server.connect("warehouse"))
            for slot in range(self.cap):
                hold.execute("SELECT pg_advisory_lock(%s, %s)", (SLOT_LOCKS, slot))
            stack.enter_context(self.project.services())
            if self.size.same_days:  # it leaves out what others are importing already
                wait_for(lambda: self.project.under_way() >= self.size.scheduled, PATIENCE_S)
            self._start_runs()
            if not wait_for(
                lambda: self.project.under_way() >= self.size.runs and self.project.tickets() > 0, PATIENCE_S
            ):
                verdict.faults.append(
                    f"only {self.project.under_way()} runs at once: {self.project.run_statuses()}"
                )
            time.sleep(self.size.settle_s)
            verdict.waiting = self._look_at_the_waiting()
            start = time.monotonic()
            with sampling(self.project.url) as verdict.seen:
                people = [self._person(n) for n in range(self.size.people)]
                hold.execute("SELECT pg_advisory_unlock_all()")
                if not wait_for(
                    lambda: self._ended() and all(p.poll() is not None for p in people), PATIENCE_S
                ):
                    verdict.faults.append(f"not all have ended: {self.project.run_statuses()}")
            verdict.seconds = time.monotonic() - start
            verdict.faults += [f"a person's load ended with {p.returncode}" for p in people if p.returncode]
        self._judge(verdict)
        return verdict

    def _start_runs(self) -> None:
        for day in self.days("commands"):
            self.project.backfill(day)
        for day in self.days("job_backfills"):
            self.project.job_backfill(day)
        for day in self.days("ui"):
            self.project.launch_as_the_ui(day)

    def _person(self, number: int) -> subprocess.Popen[bytes]:
        """Somebody who loads a file by hand that the schedule loads as well."""
        name = list(_TYPES)[number % len(_TYPES)]
        return self.project.load(name, f"{self.days('scheduled')[0]}/{TENANTS[0]}/{name}.csv")

    # --- what there is ---

    def _queued(self) -> int:
        return int(self.server.query("dagster", "SELECT count(*) FROM runs WHERE status = 'QUEUED'")[0][0])

    def _ended(self) -> bool:
        return self.project.under_way() == 0

    def _pending(self) -> int:
        query = "SELECT count(*) FROM pending_steps WHERE assigned_timestamp IS NULL"
        return int(self.server.query("dagster", query)[0][0])

    def _look_at_the_waiting(self) -> Waiting:
        runs, steps = self._waiting_processes()
        found = Waiting(self._queued(), len(runs), len(steps), self._pending())
        before = {p: _cpu(p) for p in (*runs, *steps)}
        with sampling(self.project.url) as found.seen:
            time.sleep(self.size.held_s)
        share = {p: (_cpu(p) - cpu) / self.size.held_s for p, cpu in before.items()}
        found.run_cpu = max((share[p] for p in runs), default=0)
        found.step_cpu = max((share[p] for p in steps), default=0)
        return found

    def _waiting_processes(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """The processes of runs, and those of their steps."""
        below = [p for main in self.project.processes if main.poll() is None for p in tree(main.pid)]
        words = {p: _words(p) for p in below}
        # the daemon's launcher has runs in children of the code server, of the same name
        code_servers = {p.pid for p in below if "api grpc" in words[p]}
        runs = [
            p
            for p in below
            if "importer_dagster.cli backfill" in words[p]
            or ("api grpc" in words[p] and p.ppid() in code_servers)
        ]
        servers = {p.pid for p in below if "forkserver" in words[p] and p.ppid() in {run.pid for run in runs}}
        return runs, [p for p in below if "forkserver" in words[p] and p.ppid() in servers]

    # --- the end ---

    def _judge(self, verdict: Verdict) -> None:
        with self.server.connect("warehouse") as conn:
            verdict.statements = guard.checked(conn)
        verdict.runs = self.project.origins()
        for kind, least in (("schedule", self.size.scheduled), ("UI", self.size.ui),
                            ("job backfill", self.size.job_backfills), ("command", self.size.commands)):  # fmt: skip
            if verdict.runs.get(kind, 0) < least:
                verdict.faults.append(f"{verdict.runs.get(kind, 0)} runs of kind {kind}, not {least}")
        bad = self.server.query("dagster", "SELECT run_id, status FROM runs WHERE status <> 'SUCCESS'")
        verdict.faults += [f"run {run} ended as {status}" for run, status in bad]
        verdict.faults += [*verdict.seen.faults, *verdict.waiting.seen.faults]
        for what, most in (("writers", verdict.seen.writers), ("slots", verdict.seen.slots),
                           ("connections at rest without a slot", verdict.seen.resting),
                           ("seats of those who wait", max(verdict.seen.seats, verdict.waiting.seen.seats)),
                           ("connections of the waiting at rest", verdict.waiting.seen.resting),
                           ("connections that stay without a slot", verdict.seen.staying),
                           ("connections of the waiting that stay", verdict.waiting.seen.staying)):  # fmt: skip
            if most > self.cap:
                verdict.faults.append(f"{most} {what}, the cap is {self.cap}")
        if deadlocks := self.project.deadlocks():
            verdict.faults.append(f"{deadlocks} deadlocks")
        verdict.rows_in, verdict.rows_out = self._rows_in(), self._rows_out(verdict)
        if verdict.rows_in != verdict.rows_out:
            verdict.faults.append(f"{verdict.rows_in} rows in, {verdict.rows_out} rows out")

    def _rows_in(self) -> int:
        """As Python's csv module reads the files."""
        count = 0
        for file in self.inbox.rglob("*.csv"):
            with file.open(newline="") as source:
                count += sum(1 for _ in csv.reader(source)) - 1
        return count

    def _rows_out(self, verdict: Verdict) -> int:
        """Rows in the tables; the ledger must say the same."""
        tables = sum(self.server.query("warehouse", f"SELECT count(*) FROM {name}")[0][0] for name in _TYPES)  # noqa: S608
        [(loads, read, loaded)] = self.server.query(
            "warehouse",
            "SELECT count(*), sum(rows_read), sum(rows_loaded) FROM importer.loads WHERE status = 'loaded'",
        )
        files = len(list(self.inbox.rglob("*.csv")))
        if (loads, read, loaded) != (files, tables, tables):
            verdict.faults.append(
                f"{files} files, {tables} rows; the ledger: {loads}, {read} read, {loaded} loaded"
            )
        other = self.server.query(
            "warehouse", "SELECT status, reason FROM importer.loads WHERE status <> 'loaded'"
        )
        verdict.faults += [f"{status}: {reason}" for status, reason in other]
        return int(tables)


def _words(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _cpu(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def flood(cap: int, size: Size) -> Verdict:
    """One flood, on a server of its own."""
    with own_server() as server:
        return Flood(server, cap, size).play()


def report(verdicts: Sequence[Verdict]) -> str:
    """A table in Markdown."""
    lines = [
        "| N | runs | writers, most | slots, most | without a slot: at an instant, at rest, longer than a second "
        "| while all wait: queued runs, run processes, step processes; steps as rows; connections at an instant, at rest "
        "| CPU of a waiting run, step | seconds | writing statements checked | rows in = out |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for v in verdicts:
        runs = ", ".join(f"{n} {kind}" for kind, n in v.runs.items())
        w = v.waiting
        lines.append(
            f"| {v.cap} | {runs} | {v.seen.writers} | {v.seen.slots} | {v.seen.without_slot}, {v.seen.resting}, {v.seen.staying} "
            f"| {w.queued}, {w.runs}, {w.steps}; {w.pending}; {w.seen.without_slot}, {w.seen.resting} | {w.run_cpu:.1%}, {w.step_cpu:.1%} "
            f"| {v.seconds:.0f} | {v.statements} | {v.rows_in:,} {'=' if v.rows_in == v.rows_out else '≠'} {v.rows_out:,} |"
        )
    return "\n".join(lines)


def run(caps: Sequence[int], size: Size, *, say: Callable[[str], None]) -> list[Verdict]:
    """A flood for each cap."""
    verdicts = []
    for cap in caps:
        verdict = flood(cap, size)
        verdicts.append(verdict)
        say(f"N={cap}: {verdict.seen.samples} samples in {verdict.seconds:.0f} s")
        for fault in verdict.faults:
            say(f"  ✗ {fault}")
    return verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit code 1 if a cap was exceeded, a row is missing, or a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.flood",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--caps", type=int, nargs="+", default=list(CAPS), help="(default: 1 3 8)")
    parser.add_argument("--rows", type=int, default=Size.rows, help="in each file (default: %(default)s)")
    parser.add_argument(
        "--same-days",
        action="store_true",
        help="all of them want the same days: one wins, the others find it done",
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with us
    verdicts = run(
        options.caps,
        Size(rows=options.rows, same_days=options.same_days),
        say=lambda line: print(line, flush=True),
    )
    print(f"\n{report(verdicts)}")
    return 1 if any(v.faults for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
