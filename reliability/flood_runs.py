"""Ten Dagster runs at once, of the schedule, the UI and commands: how many write, and what waiting costs.

A daemon's schedule, a webserver that is asked by GraphQL as its UI asks it, ``dagster job
backfill`` and ``importer backfill`` start runs at the same time. The harness first takes all
slots of the cap, waits until all runs have started, and measures the CPU of those that wait.
Then it gives the slots back, adds people who load files of the same days by hand, and counts
the writing sessions until all have ended.

What does not belong here: imports without Dagster and the command (``flood.py``), the project
that runs (``project.py``), the samples (``sampling.py``), the database's own check (``guard.py``).
"""

from __future__ import annotations

import csv
import subprocess
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

TENANTS = ("acme", "bolt")
_TYPES = {"flood_append": "append", "flood_merge": "merge", "flood_scd2": "scd2"}


@dataclass(frozen=True)
class Size:
    """How many runs of each kind there are, and how large the files are."""

    scheduled: int = 3
    ui: int = 3
    job_backfills: int = 2
    commands: int = 2
    people: int = 2
    rows: int = 20_000
    same_days: bool = False  # all runs want the days of the schedule
    settle_s: float = 10.0  # seconds for Dagster to start all processes that it will start
    held_s: float = 15.0  # seconds for which the CPU of the waiting processes is measured

    @property
    def runs(self) -> int:
        """The least number of runs that there must be."""
        return self.scheduled + self.ui + self.job_backfills + self.commands


@dataclass
class Waiting:
    """What the waiting runs take while nobody can write."""

    queued: int = 0  # runs in Dagster's queue, without a process
    runs: int = 0  # processes of runs
    steps: int = 0  # processes of steps that wait for a slot
    pending: int = 0  # steps that are a row of Dagster's pool, without a process
    run_cpu: float = 0.0  # most CPU of a run's process, as a share of a core
    step_cpu: float = 0.0
    seen: Seen = field(default_factory=Seen)


@dataclass
class Verdict:
    """What the flood with one cap showed; ``faults`` is empty if all is well."""

    cap: int
    runs: dict[str, int] = field(default_factory=dict)  # origin → number of runs
    waiting: Waiting = field(default_factory=Waiting)
    seen: Seen = field(default_factory=Seen)
    statements: int = 0  # writing statements that the database has checked
    rows_in: int = 0
    rows_out: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


class Flood:
    """One project in which at most ``cap`` sessions may write, while all runs start at once."""

    def __init__(self, server: OwnServer, cap: int, size: Size) -> None:
        self.server, self.cap, self.size = server, cap, size
        self.project = Project(server, cap, _TYPES, runs=2 * size.runs)
        self.inbox = self.project.inbox

    def days(self, kind: str) -> list[date]:
        """The days of one kind of run. There is a day between any two, so that each day is a run of its own.

        Only the days of the schedule are recent enough for the schedule, unless all want the same days.
        """
        first = {"scheduled": 0, "ui": 20, "job_backfills": 30, "commands": 40}[kind]
        if self.size.same_days:
            first = 0
        return [self.project.today - timedelta(days=first + 2 * n) for n in range(getattr(self.size, kind))]

    def play(self) -> Verdict:
        """Run the flood and return what was seen."""
        verdict = Verdict(self.cap)
        for day in {d for kind in ("scheduled", "ui", "job_backfills", "commands") for d in self.days(kind)}:
            for name in _TYPES:
                for tenant in TENANTS:
                    self.project.deliver(day, name, tenant, self.size.rows)
        with ExitStack() as stack:
            slots = stack.enter_context(self.server.connect("warehouse"))
            for slot in range(self.cap):
                slots.execute("SELECT pg_advisory_lock(%s, %s)", (SLOT_LOCKS, slot))
            stack.enter_context(self.project.services())
            if (
                self.size.same_days
            ):  # the schedule leaves out days that others are importing, so it has to be first
                wait_for(lambda: self.project.under_way() >= self.size.scheduled, PATIENCE_S)
            self._start_runs()
            if not wait_for(
                lambda: self.project.under_way() >= self.size.runs and self.project.tickets() > 0, PATIENCE_S
            ):
                verdict.faults.append(
                    f"only {self.project.under_way()} runs at once: {self.project.run_statuses()}"
                )
            time.sleep(self.size.settle_s)
            verdict.waiting = self._measure_the_waiting()
            start = time.monotonic()
            with sampling(self.project.url) as verdict.seen:
                people = [self._load_by_hand(n) for n in range(self.size.people)]
                slots.execute("SELECT pg_advisory_unlock_all()")
                if not wait_for(
                    lambda: self.project.under_way() == 0 and all(p.poll() is not None for p in people),
                    PATIENCE_S,
                ):
                    verdict.faults.append(f"not all have ended: {self.project.run_statuses()}")
            verdict.seconds = time.monotonic() - start
            verdict.faults += [f"a person's load ended with {p.returncode}" for p in people if p.returncode]
        self._judge_runs(verdict)
        self._judge_cap(verdict)
        self._judge_rows(verdict)
        return verdict

    def _start_runs(self) -> None:
        for day in self.days("commands"):
            self.project.backfill(day)
        for day in self.days("job_backfills"):
            self.project.job_backfill(day)
        for day in self.days("ui"):
            self.project.launch_as_the_ui(day)

    def _load_by_hand(self, number: int) -> subprocess.Popen[bytes]:
        """`importer load` of a file that the schedule imports as well."""
        name = list(_TYPES)[number % len(_TYPES)]
        return self.project.load(name, f"{self.days('scheduled')[0]}/{TENANTS[0]}/{name}.csv")

    def _measure_the_waiting(self) -> Waiting:
        runs, steps = self._waiting_processes()
        [(queued,)] = self.server.query("dagster", "SELECT count(*) FROM runs WHERE status = 'QUEUED'")
        [(pending,)] = self.server.query(
            "dagster", "SELECT count(*) FROM pending_steps WHERE assigned_timestamp IS NULL"
        )
        found = Waiting(queued, len(runs), len(steps), pending)
        before = {p: _cpu_seconds(p) for p in (*runs, *steps)}
        with sampling(self.project.url) as found.seen:
            time.sleep(self.size.held_s)
        share = {p: (_cpu_seconds(p) - cpu) / self.size.held_s for p, cpu in before.items()}
        found.run_cpu = max((share[p] for p in runs), default=0)
        found.step_cpu = max((share[p] for p in steps), default=0)
        return found

    def _waiting_processes(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """The processes of runs, and those of their steps."""
        below = [p for main in self.project.processes if main.poll() is None for p in tree(main.pid)]
        command = {p: _command_line(p) for p in below}
        # the daemon's launcher runs each run in a child of the code server, which has the same command line
        code_servers = {p.pid for p in below if "api grpc" in command[p]}
        runs = [
            p
            for p in below
            if "importer_dagster.cli backfill" in command[p]
            or ("api grpc" in command[p] and p.ppid() in code_servers)
        ]
        of_runs = {run.pid for run in runs}
        servers = {p.pid for p in below if "forkserver" in command[p] and p.ppid() in of_runs}
        return runs, [p for p in below if "forkserver" in command[p] and p.ppid() in servers]

    def _judge_runs(self, verdict: Verdict) -> None:
        verdict.runs = self.project.origins()
        for kind, least in (("schedule", self.size.scheduled), ("UI", self.size.ui),
                            ("job backfill", self.size.job_backfills), ("command", self.size.commands)):  # fmt: skip
            if verdict.runs.get(kind, 0) < least:
                verdict.faults.append(f"{verdict.runs.get(kind, 0)} runs of kind {kind}, not {least}")
        bad = self.server.query("dagster", "SELECT run_id, status FROM runs WHERE status <> 'SUCCESS'")
        verdict.faults += [f"run {run} ended as {status}" for run, status in bad]

    def _judge_cap(self, verdict: Verdict) -> None:
        with self.server.connect("warehouse") as conn:
            verdict.statements = guard.checked(conn)
        seen, waiting = verdict.seen, verdict.waiting.seen
        verdict.faults += [*seen.faults, *waiting.faults]
        for what, most in (("writers", seen.writers), ("slots", seen.slots),
                           ("connections at rest without a slot", seen.resting),
                           ("connected waiters", max(seen.connected_waiters, waiting.connected_waiters)),
                           ("connections of the waiting at rest", waiting.resting),
                           ("connections that stay without a slot", seen.staying),
                           ("connections of the waiting that stay", waiting.staying)):  # fmt: skip
            if most > self.cap:
                verdict.faults.append(f"{most} {what}, the cap is {self.cap}")
        if deadlocks := self.project.deadlocks():
            verdict.faults.append(f"{deadlocks} deadlocks")

    def _judge_rows(self, verdict: Verdict) -> None:
        """Rows in, as Python's csv module reads the files; rows out, in the tables and in the ledger."""
        files = list(self.inbox.rglob("*.csv"))
        for file in files:
            with file.open(newline="") as source:
                verdict.rows_in += sum(1 for _ in csv.reader(source)) - 1
        verdict.rows_out = sum(
            self.server.query("warehouse", f"SELECT count(*) FROM {name}")[0][0]  # noqa: S608
            for name in _TYPES
        )
        [(loads, read, loaded)] = self.server.query(
            "warehouse",
            "SELECT count(*), sum(rows_read), sum(rows_loaded) FROM importer.loads WHERE status = 'loaded'",
        )
        if (loads, read, loaded) != (len(files), verdict.rows_out, verdict.rows_out):
            verdict.faults.append(
                f"{len(files)} files, {verdict.rows_out} rows; the ledger: {loads}, {read} read, {loaded} loaded"
            )
        other = self.server.query(
            "warehouse", "SELECT status, reason FROM importer.loads WHERE status <> 'loaded'"
        )
        verdict.faults += [f"{status}: {reason}" for status, reason in other]
        if verdict.rows_in != verdict.rows_out:
            verdict.faults.append(f"{verdict.rows_in} rows in, {verdict.rows_out} rows out")


def _command_line(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _cpu_seconds(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


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
    """One flood for each cap, each on a server of its own."""
    verdicts = []
    for cap in caps:
        with own_server() as server:
            verdict = Flood(server, cap, size).play()
        verdicts.append(verdict)
        say(f"N={cap}: {verdict.seen.samples} samples in {verdict.seconds:.0f} s")
        for fault in verdict.faults:
            say(f"  ✗ {fault}")
    return verdicts
