"""``python -m reliability.overlap``: schedule, backfill, UI and a person import the same file at the same time.

A daemon's schedule, ``importer backfill`` or ``dagster job backfill``, and a webserver that is
asked as its UI asks it start real runs; a person calls ``importer load``. In half of the contests
the harness holds every slot until all four wait for one; in the others the first to come imports.
After each contest, one of them must have loaded the file and the others must have found it
unchanged, without a deadlock and with no row twice.

What does not belong here: the project that runs (``project.py``).
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import count, cycle

from importer_dagster.slots import SLOT_LOCKS
from reliability import guard
from reliability.patience import wait_for
from reliability.project import PATIENCE_S, Project
from reliability.server import OwnServer, own_server

WANT_IT = 4  # schedule, backfill, UI and a person
AT_ONCE = 3  # contests between two ticks of the schedule
TENANT = "acme"
ROWS = 50_000
_TYPES = {"overlap_append": "append", "overlap_merge": "merge", "overlap_scd2": "scd2"}
_IN_LINE_S = 150.0  # seconds for all to wait for a slot, while nobody can write
_STARTED_S = 120.0
_DAYS = 100  # that the schedule looks back to


@dataclass(frozen=True)
class Contest:
    """One file that four import at once; ``held``: none may begin before all wait for a slot."""

    number: int
    type: str
    day: date
    held: bool

    @property
    def path(self) -> str:
        """The file's path in the inbox."""
        return f"{self.day}/{TENANT}/{self.type}.csv"


@dataclass
class Verdict:
    """The outcome of one contest."""

    contest: Contest
    in_line: int = 0  # imports that waited for a slot when the first could begin
    winner: str = ""
    unchanged: int = 0
    settled: int = 0  # runs that found the file imported by a look at the ledger
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


class Overlap:
    """A project in which all import the same files."""

    def __init__(self, server: OwnServer, at_once: int = AT_ONCE) -> None:
        self.server = server
        self.project = Project(
            server,
            WANT_IT * at_once,  # as many steps may be in line at once
            _TYPES,
            runs=WANT_IT * at_once,
            settings={"IMPORTER_LOOKBACK_DAYS": str(_DAYS)},
        )
        self.at_once = at_once
        self.types = cycle(_TYPES)
        self.numbers = count()

    def play(self, repeats: int, say: Callable[[str], None]) -> list[Verdict]:
        """``repeats`` contests, some at a time."""
        verdicts: list[Verdict] = []
        with self.project.services():
            while len(verdicts) < repeats:
                some = [self._contest() for _ in range(min(self.at_once, repeats - len(verdicts)))]
                for verdict in self._round(some):
                    verdicts.append(verdict)
                    say(_line(verdict))
        return verdicts

    def _contest(self) -> Contest:
        number = next(self.numbers)
        # every other day, so that the schedule asks for each by itself
        day = self.project.today - timedelta(days=2 * (number % (_DAYS // 2)))
        return Contest(number, next(self.types), day, held=number // self.at_once % 2 == 0)

    def _round(self, contests: Sequence[Contest]) -> list[Verdict]:
        verdicts = {c: Verdict(c) for c in contests}
        before = {run for (run,) in self.server.query("dagster", "SELECT run_id FROM runs")}
        with self._slots(held=contests[0].held):
            for c in contests:
                self.project.deliver(c.day, c.type, TENANT, ROWS)
            # the schedule leaves out what others are importing, so it has to be first
            wanted = len(contests)
            if not wait_for(lambda: self.project.under_way() >= wanted, PATIENCE_S):
                raise RuntimeError(f"The schedule asked for nothing: {self.project.run_statuses()}")
            start = time.monotonic()
            commands, people = self._join_in(contests)
            if contests[0].held:
                wait_for(lambda: min(self._in_line(c) for c in contests) == WANT_IT, _IN_LINE_S)
            for c, verdict in verdicts.items():
                verdict.in_line = self._in_line(c)
        everyone = [*commands, *people.values()]
        ended = wait_for(
            lambda: all(p.poll() is not None for p in everyone) and self.project.under_way() == 0, PATIENCE_S
        )
        for c, verdict in verdicts.items():
            verdict.seconds = time.monotonic() - start
            if not ended:
                verdict.faults.append(f"not all have ended: {self.project.run_statuses()}")
            self._judge(c, verdict, before, people[c])
        return list(verdicts.values())

    def _join_in(
        self, contests: Sequence[Contest]
    ) -> tuple[list[subprocess.Popen[bytes]], dict[Contest, subprocess.Popen[bytes]]]:
        """Start all others than the schedule; returns the commands of backfills, and the loads by people."""
        commands = [
            self.project.job_backfill(c.day) if c.number % 2 else self.project.backfill(c.day, c.type)
            for c in contests
        ]
        for c in contests:
            self.project.launch_as_the_ui(c.day, [c.type])
        # a run takes seconds to start and a command does not, so people begin when all runs have started
        wait_for(lambda: self._starting() == 0, _STARTED_S)
        people = {c: self.project.load(c.type, c.path, "--date", str(c.day), "--tenant", TENANT, "--json")
                  for c in contests}  # fmt: skip
        return commands, people

    def _starting(self) -> int:
        rows = self.server.query(
            "dagster", "SELECT count(*) FROM runs WHERE status IN ('QUEUED', 'NOT_STARTED', 'STARTING')"
        )
        return int(rows[0][0])

    @contextmanager
    def _slots(self, *, held: bool) -> Iterator[None]:
        with self.server.connect("warehouse") as conn:
            for slot in range(self.project.cap if held else 0):
                conn.execute("SELECT pg_advisory_lock(%s, %s)", (SLOT_LOCKS, slot))
            yield

    def _in_line(self, contest: Contest) -> int:
        rows = self.server.query(
            "warehouse",
            "SELECT count(*) FROM importer.waiting WHERE type = %s AND tenant = %s AND due > clock_timestamp()",
            contest.type,
            TENANT,
        )
        return int(rows[0][0])

    # --- the end ---

    def _judge(
        self, contest: Contest, verdict: Verdict, before: set[str], person: subprocess.Popen[bytes]
    ) -> None:
        said = Counter[str]()
        for run, origin in self._runs(contest, before).items():
            outcome = self._outcome(run, contest, verdict)
            said[outcome] += 1
            if outcome == "loaded":
                verdict.winner += origin
        outcome = self._of_person(person, verdict)
        said[outcome] += 1
        if outcome == "loaded":
            verdict.winner += "person"
        verdict.unchanged, verdict.settled = said["unchanged"], said["settled"]
        if said["loaded"] != 1 or said.total() != WANT_IT:
            verdict.faults.append(f"four wanted it, one should have loaded it: {dict(said)}")
        ledger = self.server.query(
            "warehouse",
            "SELECT status, rows_read, rows_loaded FROM importer.loads WHERE type = %s AND business_date = %s",
            contest.type,
            contest.day,
        )
        if ledger != [("loaded", ROWS, ROWS)]:
            verdict.faults.append(f"the ledger says {ledger}")
        table = self.server.query(
            "warehouse",
            f"SELECT count(*), count(DISTINCT id) FROM {contest.type} WHERE _business_date = %s",  # noqa: S608
            contest.day,
        )
        if table != [(ROWS, ROWS)]:
            verdict.faults.append(f"{ROWS} rows sent; in the table, rows and keys: {table}")

    def _runs(self, contest: Contest, before: set[str]) -> dict[str, str]:
        """Id → origin of each run of the contest."""
        found = self.server.query(
            "dagster",
            "SELECT r.run_id, r.status, array_agg(t.key), array_agg(t.value) FROM runs r JOIN run_tags t USING (run_id) "
            "GROUP BY 1, 2",
        )
        runs = {}
        for run, status, keys, values in found:
            if run in before or str(contest.day) not in values:
                continue
            runs[run] = next(
                (o for k, o in (("dagster/schedule_name", "schedule"), ("from", "UI")) if k in keys),
                "backfill",
            )
            if status != "SUCCESS":
                runs[run] += f" ({status})"
        return runs

    def _outcome(self, run: str, contest: Contest, verdict: Verdict) -> str:
        """What a run has done with the file, by its log."""
        status = self.server.query("dagster", "SELECT status FROM runs WHERE run_id = %s", run)[0][0]
        if status != "SUCCESS":
            verdict.faults.append(f"run {run} ended as {status}")
        logs = [
            e for (e,) in self.server.query("dagster", "SELECT event FROM event_logs WHERE run_id = %s", run)
        ]
        for outcome in ("loaded", "unchanged"):
            if any(f"{contest.path}: {outcome}, " in event for event in logs):
                return outcome
        return "settled" if status == "SUCCESS" else "failed"

    def _of_person(self, person: subprocess.Popen[bytes], verdict: Verdict) -> str:
        number = self.project.processes.index(person)
        said = self.project.said(number, "importer_dagster.cli").read_text()
        if person.returncode:
            verdict.faults.append(f"importer load ended with {person.returncode}: {said[-500:]}")
            return "failed"
        return str(json.loads(said[said.index("{") :])["status"])


def _line(verdict: Verdict) -> str:
    c = verdict.contest
    words = (
        f"{c.number + 1:4} {c.type:15} {c.day} {'held' if c.held else 'free'} in line {verdict.in_line} "
        f"loaded by {verdict.winner}, unchanged {verdict.unchanged}, settled {verdict.settled}, "
        f"{verdict.seconds:.0f} s"
    )
    return "\n".join([words, *(f"     ✗ {fault}" for fault in verdict.faults)])


def report(verdicts: Sequence[Verdict], deadlocks: int, statements: int) -> str:
    """A table in Markdown."""
    lines = [
        "| contests | in line when the first could begin, most | loaded by schedule, backfill, UI, person | unchanged "
        "| settled | faults | deadlocks | writing statements checked |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for held in (True, False):
        some = [v for v in verdicts if v.contest.held == held]
        if some:
            won = Counter(v.winner for v in some)
            winners = ", ".join(str(won[who]) for who in ("schedule", "backfill", "UI", "person"))
            lines.append(
                f"| {len(some)} {'from one line' if held else 'as they came'} | {max(v.in_line for v in some)} | {winners} "
                f"| {sum(v.unchanged for v in some)} | {sum(v.settled for v in some)} "
                f"| {sum(bool(v.faults) for v in some)} | {deadlocks} | {statements} |"
            )
    return "\n".join(lines)


def run(repeats: int, at_once: int, *, say: Callable[[str], None]) -> tuple[list[Verdict], str]:
    """Run the contests on a server of their own; returns the verdicts and the report."""
    with own_server() as server:
        overlap = Overlap(server, at_once)
        verdicts = overlap.play(repeats, say)
        deadlocks = overlap.project.deadlocks()
        if deadlocks:
            verdicts[-1].faults.append(f"{deadlocks} deadlocks")
        with server.connect("warehouse") as conn:
            return verdicts, report(verdicts, deadlocks, guard.checked(conn))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit code 1 if a file was loaded twice or not at all, or anything failed."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.overlap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=36, help="contests (default: %(default)s, 50 at most)")
    parser.add_argument(
        "--at-once", type=int, default=AT_ONCE, help="contests at a time (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.repeats <= _DAYS // 2:
        parser.error(f"--repeats: from 1 to {_DAYS // 2}, each has a day of its own")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with this process
    start = time.monotonic()
    verdicts, words = run(options.repeats, options.at_once, say=lambda line: print(line, flush=True))
    print(f"\n{words}\n\n{time.monotonic() - start:.0f} s")
    return 1 if any(v.faults for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
