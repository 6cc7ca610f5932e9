"""``python -m reliability.flood``: ten runs at once, of the schedule, the UI and commands; who writes, what waiting costs.

Runs of a daemon's schedule, runs that a webserver is asked for by GraphQL as its UI
does, ``dagster job backfill`` and ``importer backfill``, all at once, for several
caps N. The harness holds every slot until all of them have started and measures
what those who wait take; then it lets go, adds people who load files of the same days
by hand, and counts writing sessions until all have ended.

What does not belong here: the looking (``sampling.py``); a rule instead of samples (``guard.py``).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psutil
import yaml

from importer_dagster import ledger
from importer_dagster.defs.runs import JOB, PARTITION
from importer_dagster.instance import PROJECT_ROOT
from importer_dagster.turns import SLOT_LOCKS
from importer_dagster.warehouse import Warehouse
from reliability import guard
from reliability.patience import wait_for
from reliability.sampling import Seen, sampling
from reliability.server import OwnServer, own_server

CAPS = (1, 3, 8)
TENANTS = ("acme", "bolt")
_TYPES = {"flood_append": "append", "flood_merge": "merge", "flood_scd2": "scd2"}
_WORKSPACE = str(PROJECT_ROOT / "workspace.yaml")
_PATIENCE_S = 400.0
_UNDER_WAY = "SELECT count(*) FROM runs WHERE status IN ('QUEUED', 'NOT_STARTED', 'STARTING', 'STARTED')"
_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""


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
    """A project with its own server, daemon and webserver, of which at most ``cap`` sessions may write."""

    def __init__(self, server: OwnServer, cap: int, size: Size) -> None:
        self.server, self.cap, self.size = server, cap, size
        self.url = server.url("warehouse")
        self.today = datetime.now(UTC).date()
        self.inbox = server.folder / "inbox"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.rows = 0
        self.port = _free_port()
        self._write_specs()
        self._write_instance()
        ledger.migrate(Warehouse(self.url))
        with server.connect("warehouse") as conn:
            guard.install(conn, cap)
        self.environment = self._environment()
        self._run("importer_dagster.instance")

    # --- the project ---

    def _write_specs(self) -> None:
        folder = self.server.folder / "specs"
        folder.mkdir()
        fields = [{"name": "id", "type": "integer"}, {"name": "v"}]
        for name, disposition in _TYPES.items():
            spec = {
                "name": name,
                "schema": {"fields": fields, "primaryKey": ["id"]},
                "write_disposition": disposition,
            }
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))

    def _write_instance(self) -> None:
        """The project's dagster.yaml, with room for all runs at once."""
        home = self.server.folder / "dagster"
        home.mkdir()
        text = (PROJECT_ROOT / "dagster.yaml").read_text()
        assert "max_concurrent_runs: 2" in text
        (home / "dagster.yaml").write_text(
            text.replace("max_concurrent_runs: 2", f"max_concurrent_runs: {2 * self.size.runs}")
        )

    def _environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("IMPORTER_", "DAGSTER_"))}
        return {
            **clean,
            "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]),
            "IMPORTER_WAREHOUSE_URL": self.url,
            "IMPORTER_DAGSTER_URL": self.server.url("dagster"),
            "IMPORTER_SPECS": str(self.server.folder / "specs"),
            "IMPORTER_INBOX_URL": str(self.inbox),
            "IMPORTER_HOME": str(self.server.folder / "home"),
            "IMPORTER_DB_WRITES": str(self.cap),
            "IMPORTER_START_DATE": str(self.today - timedelta(days=60)),
            "IMPORTER_SCHEDULE": "* * * * *",
            "IMPORTER_MIN_AGE": "0",
            "IMPORTER_ARRIVAL_INTERVAL": "0",  # the schedule alone
            "IMPORTER_MAX_RUNS": str(2 * self.size.runs),
            "DAGSTER_HOME": str(self.server.folder / "dagster"),
        }

    def days(self, kind: str) -> list[date]:
        """Days apart, so that each is a run of its own; usually only those of the schedule are in its view."""
        if self.size.same_days:
            return [self.today - timedelta(days=2 * n) for n in range(getattr(self.size, kind))]
        first = {"scheduled": 0, "ui": 20, "job_backfills": 30, "commands": 40}[kind]
        return [self.today - timedelta(days=first + 2 * n) for n in range(getattr(self.size, kind))]

    def deliver(self, day: date) -> None:
        """A day's files of all types and tenants, with keys that no other day has."""
        for name in _TYPES:
            for tenant in TENANTS:
                file = self.inbox / day.isoformat() / tenant / f"{name}.csv"
                file.parent.mkdir(parents=True, exist_ok=True)
                first = day.toordinal() * self.size.rows
                lines = "".join(f"{i},{tenant} {i}\n" for i in range(first, first + self.size.rows))
                file.write_text(f"id,v\n{lines}")

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
            stack.enter_context(self._services())
            if self.size.same_days:  # it leaves out what others are importing already
                wait_for(lambda: self._under_way() >= self.size.scheduled, _PATIENCE_S)
            self._start_runs()
            if not wait_for(lambda: self._under_way() >= self.size.runs and self._tickets() > 0, _PATIENCE_S):
                verdict.faults.append(f"only {self._under_way()} runs at once: {self._runs()}")
            time.sleep(self.size.settle_s)
            verdict.waiting = self._look_at_the_waiting()
            start = time.monotonic()
            with sampling(self.url) as verdict.seen:
                people = [self._person(n) for n in range(self.size.people)]
                hold.execute("SELECT pg_advisory_unlock_all()")
                if not wait_for(
                    lambda: self._ended() and all(p.poll() is not None for p in people), _PATIENCE_S
                ):
                    verdict.faults.append(f"not all have ended: {self._runs()}")
            verdict.seconds = time.monotonic() - start
            verdict.faults += [f"a person's load ended with {p.returncode}" for p in people if p.returncode]
        self._judge(verdict)
        return verdict

    @contextmanager
    def _services(self) -> Iterator[None]:
        """A daemon and a webserver."""
        self._start("dagster._daemon", "run", "-w", _WORKSPACE)
        self._start("dagster_webserver", "-w", _WORKSPACE, "-h", "127.0.0.1", "-p", str(self.port))
        try:
            if not wait_for(self._answers, _PATIENCE_S):
                raise RuntimeError("the webserver does not answer")
            yield
        finally:
            for process in self.processes:
                _end(process)

    def _start_runs(self) -> None:
        for day in self.days("commands"):
            self._start("importer_dagster.cli", "backfill", "--from", str(day), "--to", str(day))
        for day in self.days("job_backfills"):
            more = ["--partitions", str(day), "--noprompt"]
            self._start("dagster", "job", "backfill", "-w", _WORKSPACE, "-j", JOB, *more)
        for day in self.days("ui"):
            self._launch_as_the_ui(day)

    def _launch_as_the_ui(self, day: date) -> None:
        selector = {
            "repositoryLocationName": "importer_dagster",
            "repositoryName": "__repository__",
            "jobName": JOB,
        }
        params = {
            "selector": selector,
            "runConfigData": {},
            "mode": "default",
            "executionMetadata": {
                "tags": [{"key": PARTITION, "value": str(day)}, {"key": "from", "value": "ui"}]
            },
        }
        answer = self._graphql(_LAUNCH, {"params": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise RuntimeError(f"The webserver launched no run: {answer}")

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            answer = json.load(response)
        if "errors" in answer:
            raise RuntimeError(f"GraphQL: {answer['errors']}")
        data: dict[str, Any] = answer["data"]
        return data

    def _answers(self) -> bool:
        try:
            address = f"http://127.0.0.1:{self.port}/server_info"
            with urllib.request.urlopen(address, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _person(self, number: int) -> subprocess.Popen[bytes]:
        """Somebody who loads a file by hand that the schedule loads as well."""
        name = list(_TYPES)[number % len(_TYPES)]
        file = self.inbox / str(self.days("scheduled")[0]) / TENANTS[0] / f"{name}.csv"
        return self._start("importer_dagster.cli", "load", name, str(file))

    # --- what there is ---

    def _runs(self) -> list[tuple[str, int]]:
        return self.server.query("dagster", "SELECT status, count(*) FROM runs GROUP BY 1 ORDER BY 1")

    def _queued(self) -> int:
        return int(self.server.query("dagster", "SELECT count(*) FROM runs WHERE status = 'QUEUED'")[0][0])

    def _under_way(self) -> int:
        return int(self.server.query("dagster", _UNDER_WAY)[0][0])

    def _ended(self) -> bool:
        return self._under_way() == 0

    def _tickets(self) -> int:
        rows = self.server.query(
            "warehouse", "SELECT count(*) FROM importer.waiting WHERE due > clock_timestamp()"
        )
        return int(rows[0][0])

    def _pending(self) -> int:
        query = "SELECT count(*) FROM pending_steps WHERE assigned_timestamp IS NULL"
        return int(self.server.query("dagster", query)[0][0])

    def _look_at_the_waiting(self) -> Waiting:
        runs, steps = self._waiting_processes()
        found = Waiting(self._queued(), len(runs), len(steps), self._pending())
        before = {p: _cpu(p) for p in (*runs, *steps)}
        with sampling(self.url) as found.seen:
            time.sleep(self.size.held_s)
        share = {p: (_cpu(p) - cpu) / self.size.held_s for p, cpu in before.items()}
        found.run_cpu = max((share[p] for p in runs), default=0)
        found.step_cpu = max((share[p] for p in steps), default=0)
        return found

    def _waiting_processes(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """The processes of runs, and those of their steps."""
        below = [p for main in self.processes if main.poll() is None for p in _tree(main.pid)]
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
        verdict.runs = self._kinds()
        for kind, least in (("schedule", self.size.scheduled), ("UI", self.size.ui),
                            ("job backfill", self.size.job_backfills), ("command", self.size.commands)):  # fmt: skip
            if verdict.runs.get(kind, 0) < least:
                verdict.faults.append(f"{verdict.runs.get(kind, 0)} runs of kind {kind}, not {least}")
        bad = self.server.query("dagster", "SELECT run_id, status FROM runs WHERE status <> 'SUCCESS'")
        verdict.faults += [f"run {run} ended as {status}" for run, status in bad]
        verdict.faults += [*verdict.seen.faults, *verdict.waiting.seen.faults]
        for what, most in (("writers", verdict.seen.writers), ("slots", verdict.seen.slots),
                           ("connections that stay without a slot", verdict.seen.staying),
                           ("connections of the waiting that stay", verdict.waiting.seen.staying)):  # fmt: skip
            if most > self.cap:
                verdict.faults.append(f"{most} {what}, the cap is {self.cap}")
        deadlocks = self.server.query(
            "warehouse", "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )[0][0]
        if deadlocks:
            verdict.faults.append(f"{deadlocks} deadlocks")
        verdict.rows_in, verdict.rows_out = self._rows_in(), self._rows_out(verdict)
        if verdict.rows_in != verdict.rows_out:
            verdict.faults.append(f"{verdict.rows_in} rows in, {verdict.rows_out} rows out")

    def _kinds(self) -> dict[str, int]:
        tags: dict[str, set[str]] = {}
        for run, key in self.server.query("dagster", "SELECT run_id, key FROM run_tags"):
            tags.setdefault(run, set()).add(key)
        runs = [r for (r,) in self.server.query("dagster", "SELECT run_id FROM runs")]
        kinds = [_kind(tags.get(run, set())) for run in runs]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}

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

    # --- processes ---

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.server.folder / f"{len(self.processes)}-{module}.log").open("wb")
        with log:
            process = subprocess.Popen(  # noqa: S603 - our own arguments
                [sys.executable, "-m", module, *arguments],
                env=self.environment,
                cwd=self.server.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def _run(self, module: str) -> None:
        process = self._start(module)
        if process.wait(_PATIENCE_S):
            raise RuntimeError((self.server.folder / f"0-{module}.log").read_text()[-2000:])


def _kind(tags: set[str]) -> str:
    """Where a run comes from."""
    for tag, kind in (
        ("dagster/schedule_name", "schedule"),
        ("from", "UI"),
        ("dagster/backfill", "job backfill"),
    ):
        if tag in tags:
            return kind
    return "sensor" if "dagster/sensor_name" in tags else "command"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _words(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _cpu(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask, wait, insist; with all that it has started."""
    tree = _tree(process.pid)
    if process.poll() is None:
        process.terminate()
    psutil.wait_procs(tree, timeout=20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)


def flood(cap: int, size: Size) -> Verdict:
    """One flood, on a server of its own."""
    with own_server() as server:
        return Flood(server, cap, size).play()


def report(verdicts: Sequence[Verdict]) -> str:
    """A table in Markdown."""
    lines = [
        "| N | runs | writers, most | slots, most | without a slot: at an instant, longer than a second "
        "| while all wait: queued runs, run processes, step processes; steps as rows; connections "
        "| CPU of a waiting run, step | seconds | writing statements checked | rows in = out |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for v in verdicts:
        runs = ", ".join(f"{n} {kind}" for kind, n in v.runs.items())
        w = v.waiting
        lines.append(
            f"| {v.cap} | {runs} | {v.seen.writers} | {v.seen.slots} | {v.seen.without_slot}, {v.seen.staying} "
            f"| {w.queued}, {w.runs}, {w.steps}; {w.pending}; {w.seen.staying} | {w.run_cpu:.1%}, {w.step_cpu:.1%} "
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
