"""``python -m reliability.crash``: kill importing processes and servers at every step, and compare with an undisturbed import.

After each kill the tables hold the old state or the new one. A second import then ends in
exactly what an undisturbed import gives (rows, values, figures of the ledger). Nothing is left
behind, and the slot is free again soon.

What does not belong here: how a process is made to wait at a step (``steps.py``),
what runs below Dagster (``orchestrated.py``).
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import psycopg

from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Delivery
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.warehouse import Warehouse
from reliability.patience import wait_for
from reliability.server import OwnServer, kill, own_server
from reliability.state import State, differences, remains, slots_held, state
from reliability.steps import STEPS, arm, install, let_go, waiting
from reliability.work import BUG, Job, import_one, processes, variants

DAY = date(2024, 1, 3)
ROWS = 300
_PATIENCE_S = 120.0  # the machine may be busy with other work
FIRST_TIME = ("migrate", "ddl")  # steps that only the first import of a type has
SCENARIOS = ("new", "late", "resent")
TOGETHER = "together"  # several small files that are new, in one transaction
FILES = 4  # of them
VICTIMS = {
    "process": "SIGKILL of the importing process",
    "backend": "SIGKILL of its PostgreSQL process: the server ends all sessions and recovers",
    "server": "SIGKILL of PostgreSQL's first process, then a start",
    "immediate": "immediate shutdown of PostgreSQL, then a start",
}


# --- what is imported -----------------------------------------------------------------


def write_csv(file: Path, seed: int, rows: int = ROWS, *, bad_cells: bool = True) -> None:
    """Rows of ``things`` as CSV, with repeated keys and, if wanted, bad cells among them."""
    made = random.Random(seed)  # noqa: S311 - test data
    lines = ["id,v,n"]
    for number in range(1, rows + 1):
        bad = bad_cells and number % 50 == 7
        key = "x" if bad else str(number if number % 60 else number - 1)
        lines.append(f"{key},{made.choice('abc')}{made.randrange(3)},{made.randrange(900) / 100}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Inbox:
    """The files that were imported before, and those whose import is killed."""

    folder: Path

    def delivery(self, day: int, seed: int, name: str = "f", *, bad_cells: bool = True) -> Delivery:
        """A delivery of a day; the same seed gives the same content."""
        path = f"{day}/{name}.csv"
        file = self.folder / str(seed) / path
        if not file.exists():
            write_csv(file, seed, bad_cells=bad_cells)
        return Delivery("things", "acme", DAY + timedelta(days=day), path, str(file), file.stat().st_size)

    def before(self) -> list[Delivery]:
        """What was loaded before."""
        return [self.delivery(0, 10), self.delivery(1, 11)]

    def together(self, scenario: str) -> list[Delivery]:
        """What is imported together: files of a newer day, or of one before all others."""
        day = {"new": 2, "late": -1, "first": 0}[scenario]
        return [self.delivery(day, 20 + n, f"small{n}", bad_cells=False) for n in range(FILES)]

    def target(self, scenario: str) -> Delivery:
        """What is imported: a newer day, a day before all others, or the newest day's file with other content."""
        return {
            "new": lambda: self.delivery(2, 12),
            "late": lambda: self.delivery(-1, 13),
            "resent": lambda: self.delivery(1, 14),
            "first": lambda: self.delivery(0, 10),
        }[scenario]()


# --- one kill -------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One kill: the victim, the step, the disposition and the scenario."""

    victim: str
    step: str
    variant: str
    scenario: str


@dataclass
class Verdict:
    """The outcome of one kill."""

    case: Case
    reached: bool = False
    exit_code: int | None = None  # of the importing process; negative if it was killed
    recovered: bool = False
    faults: list[str] = field(default_factory=list)
    slot_s: float = 0.0  # from the kill until no lock of an import was held


class Crash:
    """Rounds on one server; ``kill_one`` is one of them."""

    def __init__(self, server: OwnServer, seed: int) -> None:
        self.server, self.random = server, random.Random(seed)  # noqa: S311 - which case comes next
        self.inbox = Inbox(server.folder / "inbox")
        self.specs = {**variants(), TOGETHER: variants()["append"]}
        self.context = processes()
        self._expected: dict[tuple[str, str], tuple[State, State, float]] = {}
        self._templates: set[str] = set()
        self._numbers = iter(range(1_000_000))

    # --- databases ---

    def _template(self, variant: str, step: str) -> str:
        """A database as it was before: bare, with a ledger, or with two days loaded."""
        kind = step if step in FIRST_TIME else "loaded"
        name = f"template_{kind}_{list(self.specs).index(variant)}"
        if name not in self._templates:
            self.server.clone(name, "template1")
            with self.server.connect(name) as conn:
                install(conn)
            warehouse = Warehouse(self.server.url(name))
            if kind != "migrate":
                ledger_schema.migrate(warehouse)
            if kind == "loaded":
                for delivery in self.inbox.before():
                    import_delivery(delivery, self.specs[variant], warehouse=warehouse)
            self._templates.add(name)
        return name

    def expected(self, variant: str, scenario: str, step: str) -> tuple[State, State, float]:
        """(state before, state after an undisturbed import, its seconds)."""
        key = (variant, scenario)
        if key not in self._expected:
            name = f"undisturbed_{len(self._expected)}"
            self.server.clone(name, self._template(variant, step))
            with self.server.connect(name) as conn:
                before = state(conn)
                # the second import is timed: the first also starts the process that imports are forked from
                for _ in range(1 if self._expected else 2):
                    start = time.monotonic()
                    code, words = self._finish(self._start(name, variant, scenario))
                    seconds = time.monotonic() - start
                    if code:
                        raise RuntimeError(f"The undisturbed import ended with {code}: {words}")
                self._expected[key] = before, state(conn), seconds
            self.server.drop(name)
        return self._expected[key]

    # --- processes ---

    def _start(self, database: str, variant: str, scenario: str) -> tuple[Any, Job]:
        report = self.server.folder / f"report{next(self._numbers)}"
        together = variant == TOGETHER
        files = self.inbox.together(scenario) if together else [self.inbox.target(scenario)]
        job = Job(self.server.url(database), self.specs[variant], files[0], report, tuple(files[1:]))
        process = self.context.Process(target=import_one, args=(job,))
        process.start()
        return process, job

    def _finish(self, started: tuple[Any, Job]) -> tuple[int | None, str]:
        process, job = started
        process.join(_PATIENCE_S)
        if process.is_alive():
            process.kill()
            process.join()
            return BUG, "it did not end"
        return process.exitcode, job.report.read_text() if job.report.exists() else ""

    # --- the round ---

    def kill_one(self, case: Case) -> Verdict:
        """One kill, and the check of everything that must hold after it."""
        before, after, seconds = self.expected(case.variant, case.scenario, case.step)
        database = f"round_{next(self._numbers)}"
        self.server.clone(database, self._template(case.variant, case.step))
        verdict = Verdict(case)
        started = self._start_under(case, database, verdict, seconds)
        verdict.exit_code, words = self._finish(started)
        if case.victim == "process" and verdict.exit_code == 0:
            verdict.reached = False  # the import had ended before
        if verdict.exit_code not in (0, 4, -signal.SIGKILL):
            verdict.faults.append(f"ended with {verdict.exit_code}: {words[-500:]}")
        with self.server.connect(database) as conn:
            committed = case.step == "done" and verdict.reached
            if (now := state(conn)) not in ((after,) if committed else (before, after)):
                verdict.faults.append(f"half visible: {differences(before, now)} {differences(after, now)}")
            code, words = self._finish(self._start(database, case.variant, case.scenario))
            if code:
                verdict.faults.append(f"the import again ended with {code}: {words[-500:]}")
            verdict.faults += differences(after, state(conn))
            wait_for(lambda: not remains(conn), 10)  # a session ends a moment after its process
            verdict.faults += remains(conn)
        verdict.recovered = not verdict.faults
        self.server.drop(database)
        return verdict

    def _start_under(self, case: Case, database: str, verdict: Verdict, seconds: float) -> tuple[Any, Job]:
        """Start the import, kill the victim at the step, wait for the slot."""
        with self.server.connect(database) as hold:
            if case.step != "random":
                arm(hold, case.step, self._nth(case.step))
            started = self._start(database, case.variant, case.scenario)
            backend = self._reach(case, hold, started[0], seconds)
            verdict.reached = backend is not None
            killed = time.monotonic()
            if verdict.reached:
                self._harm(case.victim, started[0].pid, backend or 0)
            with suppress(psycopg.Error):
                let_go(hold)
            self._await_slot(case, database, started[0], verdict, killed)
        return started

    def _nth(self, step: str) -> int:
        return self.random.choice([20, 100, 299]) if step == "copy" else 1

    def _reach(self, case: Case, conn: psycopg.Connection, process: Any, seconds: float) -> int | None:
        """Wait for the step; the import's server process, 0 where there is none (yet), None: not reached."""
        if case.step == "random":
            process.join(self.random.uniform(0, seconds * 1.1))
            return (_backend(conn) or 0) if process.exitcode is None else None
        found: list[int | None] = [None]

        def reached() -> bool:
            found[0] = waiting(conn)
            return found[0] is not None or process.exitcode is not None

        wait_for(reached, _PATIENCE_S, pause=0.002)
        return found[0]

    def _harm(self, victim: str, process: int, backend: int) -> None:
        if victim == "process":
            kill([process])
        elif victim == "backend":
            kill([backend] if backend else [])
        else:
            self.server.signal(signal.SIGKILL if victim == "server" else signal.SIGQUIT)
            self.server.start()

    def _await_slot(self, case: Case, database: str, process: Any, verdict: Verdict, killed: float) -> None:
        if case.victim != "process":
            return  # the sessions ended with the server; the import itself goes on
        process.join(_PATIENCE_S)
        with self.server.connect(database) as conn:
            if not wait_for(lambda: not slots_held(conn), _PATIENCE_S, pause=0.005):
                verdict.faults.append("the slot is still held")
        verdict.slot_s = time.monotonic() - killed


def _backend(conn: psycopg.Connection) -> int | None:
    row = conn.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'importer'"
    ).fetchone()
    return None if row is None else int(row[0])


# --- many of them ---------------------------------------------------------------------


def cases(
    rounds: int, seed: int, victims: Sequence[str], dispositions: Sequence[str], steps: Sequence[str]
) -> Iterator[Case]:
    """``rounds`` cases: every victim, step and disposition in random order, repeated as often as needed."""
    chosen = random.Random(seed)  # noqa: S311 - which case comes next
    every = [(v, s, d) for v, s, d in product(victims, steps, dispositions) if _is_reached(s, d)]
    done = 0
    while done < rounds:
        chosen.shuffle(every)
        for victim, step, variant in every[: rounds - done]:
            scenario = "first" if step in FIRST_TIME else chosen.choice(SCENARIOS)
            if (variant, scenario) == (TOGETHER, "resent"):
                scenario = "new"  # only such files are imported together
            yield Case(victim, step, variant, scenario)
            done += 1


def _is_reached(step: str, variant: str) -> bool:
    return not (step == "stage" and variant in ("append", TOGETHER))  # rows go straight into the table


def report(verdicts: Sequence[Verdict]) -> str:
    """Tables in Markdown: by victim and step, and by disposition."""
    lines = [
        "| victim | step | kills | recovered | differences | slowest slot |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for victim, step in dict.fromkeys((v.case.victim, v.case.step) for v in _in_order(verdicts)):
        some = [v for v in verdicts if (v.case.victim, v.case.step) == (victim, step)]
        lines.append(f"| {victim} | {step} | {_figures(some)} |")
    lines += [
        "",
        "| disposition | kills | recovered | differences | slowest slot |",
        "|---|---:|---:|---:|---:|",
    ]
    for variant in dict.fromkeys(sorted(v.case.variant for v in verdicts)):
        lines.append(f"| {variant} | {_figures([v for v in verdicts if v.case.variant == variant])} |")
    lines.append(f"| **all** | {_figures(verdicts)} |")
    return "\n".join(lines)


def _in_order(verdicts: Sequence[Verdict]) -> list[Verdict]:
    steps, victims = list(STEPS), list(VICTIMS)
    return sorted(verdicts, key=lambda v: (victims.index(v.case.victim), steps.index(v.case.step)))


def _figures(verdicts: Sequence[Verdict]) -> str:
    hit = [v for v in verdicts if v.reached]
    faults = sum(not v.recovered for v in verdicts)
    slowest = max((v.slot_s for v in hit if v.case.victim == "process"), default=None)
    shown = "" if slowest is None else f"{slowest:.2f} s"
    return f"{len(hit)} | {sum(v.recovered for v in hit)} | {faults} | {shown}"


def run(chosen: Sequence[Case], seed: int, *, say: Callable[[str], None]) -> list[Verdict]:
    """Run all cases on a server of their own."""
    verdicts: list[Verdict] = []
    with own_server() as server:
        crash = Crash(server, seed)
        for number, case in enumerate(chosen, 1):
            verdict = crash.kill_one(case)
            verdicts.append(verdict)
            outcome = "not reached" if not verdict.reached else f"exit {verdict.exit_code}"
            say(f"{number:4} {case.victim:9} {case.step:9} {case.variant:13} {case.scenario:7} {outcome}")
            for fault in verdict.faults:
                say(f"     ✗ {fault}")
    return verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.crash",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="victims:\n"
        + "\n".join(f"  {k:10} {v}" for k, v in VICTIMS.items())
        + "\n\nsteps:\n"
        + "\n".join(f"  {k:10} {v}" for k, v in STEPS.items())
        + "\n\nexamples:\n  python -m reliability.crash --rounds 30 --seed 7\n"
        "  python -m reliability.crash --victims process --steps ledger commit --dispositions merge",
    )
    parser.add_argument("--rounds", type=int, default=240, help="kills (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="which cases in which order (default: %(default)s)"
    )
    for name, values in (
        ("victims", list(VICTIMS)),
        ("steps", list(STEPS)),
        ("dispositions", [*variants(), TOGETHER]),
    ):
        parser.add_argument(f"--{name}", nargs="+", choices=values, default=values, metavar=name[:-1].upper())
    options = parser.parse_args(arguments)
    chosen = list(cases(options.rounds, options.seed, options.victims, options.dispositions, options.steps))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with this process
    start = time.monotonic()
    verdicts = run(chosen, options.seed, say=lambda line: print(line, flush=True))
    print(f"\n{report(verdicts)}\n\n{time.monotonic() - start:.0f} s, seed {options.seed}")
    return 1 if any(v.faults for v in verdicts) else 0


if __name__ == "__main__":
    from reliability.crash import main as _main  # under its own name, which child processes can import

    sys.exit(_main())
