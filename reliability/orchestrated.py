"""``python -m reliability.orchestrated``: kill processes that Dagster has started, and check the outcome.

In ``crash.py`` processes are killed that import one delivery. Here it is the daily job that
runs, started by the command ``importer backfill``, or queued and launched by a daemon. After each
kill the delivery must be imported completely, every run must end, and no slot of Dagster's pool
may stay taken.

What does not belong here: how a process is made to wait at a step (``steps.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import cycle, islice, product

import psutil

from importer_dagster.defs.runs import JOB
from importer_dagster.launch.environment import PROJECT_ROOT
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.warehouse import Warehouse
from reliability.crash import write_csv
from reliability.patience import wait_for
from reliability.server import OwnServer, kill, left_running, own_server
from reliability.soak import FIRST_DAY, Soak
from reliability.state import remains
from reliability.steps import arm, install, let_go, waiting

VICTIMS = {
    "step": "SIGKILL of a step's process below a command: Dagster tries the step again",
    "command": "SIGKILL of `importer backfill`, its step orphaned; then the command again",
    "worker": "SIGKILL of a run's process below the daemon, its step orphaned: the daemon runs it again",
    "daemon": "SIGKILL of the daemon in mid-run, then a start",
    "all": "SIGKILL of the daemon and all below it, as with a container; then a start: the sensor ends the run",
    "orphan": "SIGKILL of `importer backfill` beside a daemon, whose sensor ends the run",
}
STEPS = ("copy", "ledger", "commit")
_PATIENCE_S = 180.0
_RECORD = 20  # of the file, at which copy stops


@dataclass
class Verdict:
    """The outcome of one kill; times are seconds from the kill."""

    victim: str
    step: str
    type: str
    faults: list[str] = field(default_factory=list)
    slot_s: float = 0.0  # until no slot of the pool was held by a run that had ended
    done_s: float = 0.0  # until the delivery was imported and every run had ended


class Orchestrated:
    """A project with a Dagster instance of its own, on one server."""

    def __init__(self, server: OwnServer) -> None:
        with server.connect("warehouse") as conn:
            install(conn)
        ledger_schema.migrate(Warehouse(server.url("warehouse")))
        self.server, self.project = server, Soak(server, seed=1)
        self.day = FIRST_DAY
        self.environment = {
            **self.project._environment(),
            "DAGSTER_HOME": str(self.project.settings.home / "dagster"),
            # no tick of the daily schedule interferes
            "IMPORTER_SCHEDULE": "0 0 29 2 *",
        }
        self._run([sys.executable, "-m", "importer_dagster.launch.environment"])

    def kill_one(self, victim: str, step: str, type_name: str) -> Verdict:
        """One kill, and the check of everything that must hold after it."""
        verdict = Verdict(victim, step, type_name)
        self._deliver(type_name)
        play = {
            "step": self._below_command,
            "command": self._below_command,
            "orphan": self._beside_daemon,
        }.get(victim, self._below_daemon)
        play(verdict)
        self._settle(verdict)
        self.day += timedelta(days=1)
        return verdict

    def _deliver(self, type_name: str) -> None:
        file = self.project.inbox / self.day.isoformat() / "acme" / f"{type_name}.csv"
        write_csv(file, self.day.toordinal())

    # --- below a command ---

    def _below_command(self, verdict: Verdict) -> None:
        with self.server.connect("warehouse") as hold:
            arm(hold, verdict.step, _RECORD if verdict.step == "copy" else 1)
            command = self._backfill(verdict)
            wait_for(lambda: waiting(hold) is not None or command.poll() is not None, _PATIENCE_S)
            [step] = _steps_below(command.pid) or [0]
            start = time.monotonic()
            kill([step if verdict.victim == "step" else command.pid])
            let_go(hold)
        code = command.wait(_PATIENCE_S)
        if verdict.victim == "command":
            code = self._backfill(verdict).wait(_PATIENCE_S)
        if code:
            verdict.faults.append(f"importer backfill ended with {code}")
        verdict.slot_s = verdict.done_s = time.monotonic() - start

    def _backfill(self, verdict: Verdict) -> subprocess.Popen[bytes]:
        days = ["--from", str(self.day), "--to", str(self.day)]
        return self._start(["-m", "importer_dagster.cli", "backfill", *days, verdict.type])

    # --- below the daemon ---

    def _below_daemon(self, verdict: Verdict) -> None:
        with self._daemon() as daemon, self.server.connect("warehouse") as hold:
            arm(hold, verdict.step, _RECORD if verdict.step == "copy" else 1)
            tags = json.dumps({"dagster/partition": str(self.day)})
            workspace = str(PROJECT_ROOT / "workspace.yaml")
            self._run(
                [sys.executable, "-m", "dagster", "job", "launch", "-w", workspace, "-j", JOB, "--tags", tags]
            )
            if not wait_for(lambda: waiting(hold) is not None, _PATIENCE_S):
                verdict.faults.append("the step was not reached")
            start = time.monotonic()
            if verdict.victim == "all":
                os.killpg(daemon.pid, signal.SIGKILL)
            else:
                kill([self._worker() if verdict.victim == "worker" else daemon.pid])
            let_go(hold)
            if verdict.victim == "worker":
                self._await_end(verdict, start)
        if verdict.victim in ("daemon", "all"):
            with self._daemon():
                (self._await_release if verdict.victim == "all" else self._await_end)(verdict, start)

    @contextmanager
    def _daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        workspace = str(PROJECT_ROOT / "workspace.yaml")
        daemon = self._start(["-m", "dagster._daemon", "run", "-w", workspace], start_new_session=True)
        try:
            yield daemon
        finally:
            below = [p for p in psutil.process_iter() if p.pid != daemon.pid and _group_of(p) == daemon.pid]
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(30)
            # runs in flight may finish; what is left of a killed daemon ends by itself
            psutil.wait_procs(below, timeout=30)
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()

    def _worker(self) -> int:
        [(event,)] = self.server.query(
            "dagster",
            "SELECT event FROM event_logs WHERE event LIKE %s ORDER BY id DESC LIMIT 1",
            "%Started process for run (pid:%",
        )
        found = re.search(r"Started process for run \(pid: (\d+)\)", event)
        assert found
        return int(found[1])

    def _beside_daemon(self, verdict: Verdict) -> None:
        """A command is killed and not started again: the daemon's sensor must end its run, and a later run import the day."""
        with self._daemon(), self.server.connect("warehouse") as hold:
            arm(hold, verdict.step, _RECORD if verdict.step == "copy" else 1)
            command = self._backfill(verdict)
            if not wait_for(lambda: waiting(hold) is not None or command.poll() is not None, _PATIENCE_S):
                verdict.faults.append("the step was not reached")
            start = time.monotonic()
            kill([command.pid])
            command.wait()
            let_go(hold)
            self._await_release(verdict, start)

    def _await_release(self, verdict: Verdict, start: float) -> None:
        """Wait until the sensor has ended the run; then the day is asked for again, as the schedule would."""
        if not wait_for(lambda: self.project._dagster_figures() == (0, 0), _PATIENCE_S):
            verdict.faults.append("nobody has ended the run")
        verdict.slot_s = time.monotonic() - start
        if self._backfill(verdict).wait(_PATIENCE_S):
            verdict.faults.append("importer backfill failed")
        verdict.done_s = time.monotonic() - start

    def _await_end(self, verdict: Verdict, start: float) -> None:
        """Wait until the slots of the killed run are free, no run is under way, and the day is materialized."""

        def good() -> bool:
            figures = self.project._dagster_figures()
            if figures[1] == 0 and not verdict.slot_s:
                verdict.slot_s = time.monotonic() - start
            return figures == (0, 0) and self._succeeded(verdict.type)

        if not wait_for(good, _PATIENCE_S):
            runs = self.server.query("dagster", "SELECT run_id, status FROM runs ORDER BY id DESC LIMIT 4")
            verdict.faults.append(f"the day is not materialized: {runs}, {self.project._dagster_figures()}")
        verdict.done_s = time.monotonic() - start

    def _succeeded(self, type_name: str) -> bool:
        """Whether the day is materialized. Not: whether a run of it succeeded.

        A step may have ended just before its run was killed; then Dagster's retry
        finds "no steps to be retried" and there is no other run, nor need be.
        """
        rows = self.server.query(
            "dagster",
            "SELECT 1 FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION' "
            "AND asset_key = %s AND partition = %s",
            json.dumps([type_name]),
            str(self.day),
        )
        return bool(rows)

    # --- afterwards ---

    def _settle(self, verdict: Verdict) -> None:
        """Wait for orphans; then tables, ledger, runs and slots must be as if nothing had happened."""
        with self.server.connect("warehouse") as conn:
            wait_for(lambda: not remains(conn), 60)
            verdict.faults += remains(conn)
        records, good = 0, 0
        for name, contents in self.project._contents().items():
            records += sum(c.records for c in contents.values())
            good += self.project._differing(name, contents)
        read, accounted = self.project._ledger()
        if not records == read == accounted:
            verdict.faults.append(f"{records} records, {read} read, {accounted} accounted for")
        if good:
            verdict.faults.append(f"{good} rows differ")
        verdict.faults += left_running(self.server.folder)
        wait_for(lambda: self.project._dagster_figures() == (0, 0), 30)
        stuck, slots = self.project._dagster_figures()
        if stuck or slots:
            verdict.faults.append(f"{stuck} runs are stuck, {slots} slots are taken")

    # --- processes ---

    def _start(self, arguments: Sequence[str], *, start_new_session: bool = False) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own arguments
            [sys.executable, *arguments],
            env=self.environment,
            cwd=self.server.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=start_new_session,
        )

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(  # noqa: S603 - our own arguments
            command, env=self.environment, cwd=self.server.folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")


def _group_of(process: psutil.Process) -> int | None:
    with suppress(ProcessLookupError):
        return os.getpgid(process.pid)
    return None


def _steps_below(pid: int) -> list[int]:
    """Step processes: children of the process that they are forked from."""
    below = psutil.Process(pid).children(recursive=True)
    servers = [p for p in below if "forkserver" in " ".join(p.cmdline()) and p.ppid() == pid]
    return [child.pid for server in servers for child in server.children()]


def report(verdicts: Sequence[Verdict]) -> str:
    """A table in Markdown."""
    lines = [
        "| victim | step | kills | recovered | differences | slowest slot | slowest recovery |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for victim, step in dict.fromkeys((v.victim, v.step) for v in verdicts):
        some = [v for v in verdicts if (v.victim, v.step) == (victim, step)]
        faults = sum(bool(v.faults) for v in some)
        slowest = f"{max(v.slot_s for v in some):.1f} s | {max(v.done_s for v in some):.1f} s"
        lines.append(f"| {victim} | {step} | {len(some)} | {len(some) - faults} | {faults} | {slowest} |")
    return "\n".join(lines)


def run(
    rounds: int, victims: Sequence[str], steps: Sequence[str], *, say: Callable[[str], None]
) -> list[Verdict]:
    """``rounds`` kills; victims, steps and dispositions take turns."""
    verdicts: list[Verdict] = []
    with own_server() as server:
        played = Orchestrated(server)
        types = cycle(sorted(played.project.specs))
        for victim, step in islice(cycle(product(victims, steps)), rounds):
            verdict = played.kill_one(victim, step, next(types))
            verdicts.append(verdict)
            say(f"{len(verdicts):4} {victim:8} {step:7} {verdict.type:18} {verdict.done_s:.1f} s")
            for fault in verdict.faults:
                say(f"     ✗ {fault}")
    return sorted(verdicts, key=lambda v: (list(VICTIMS).index(v.victim), STEPS.index(v.step)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.orchestrated",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="victims:\n" + "\n".join(f"  {k:8} {v}" for k, v in VICTIMS.items()),
    )
    parser.add_argument("--rounds", type=int, default=24, help="kills (default: %(default)s)")
    for name, values in (("victims", list(VICTIMS)), ("steps", list(STEPS))):
        parser.add_argument(f"--{name}", nargs="+", choices=values, default=values, metavar=name[:-1].upper())
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with this process
    start = time.monotonic()
    verdicts = run(options.rounds, options.victims, options.steps, say=lambda line: print(line, flush=True))
    print(f"\n{report(verdicts)}\n\n{time.monotonic() - start:.0f} s")
    return 1 if any(v.faults for v in verdicts) else 0


if __name__ == "__main__":
    from reliability.orchestrated import main as _main

    sys.exit(_main())
