"""A day of very many types through the daily job: that it goes well, and what it takes.

What does not belong here: loading the definitions alone (``definitions.py``), the cost
against a plain loop (``day.py``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from benchmarks.cases import DAY, Bench
from benchmarks.data import write_file, write_specs
from benchmarks.measure import Line, say
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.settings import Settings
from importer_dagster.warehouse import Warehouse
from reliability.sampling import Seen, sampling

TYPES = 500
_ROWS = 50
_PAUSE_S = 1.0  # at most; looking costs some ten milliseconds
_MB = 2**20


@dataclass
class Processes:
    """The most that a command and what it started had at one time; memory in bytes.

    ``memory`` is that of the process that the run lives in, ``together`` that of all, with
    what they share counted once.
    """

    memory: int = 0
    together: int = 0
    steps: int = 0
    all: int = 0

    def take(self, run: psutil.Process) -> None:
        """One more look; processes that end meanwhile are left out."""
        tree = [run, *run.children(recursive=True)]
        steps = together = 0
        for process in tree:
            with suppress(psutil.Error):
                # steps are forked from a process that the run has started
                steps += process.ppid() not in (run.pid, run.ppid())
                together += process.memory_full_info().pss
        self.memory = max(self.memory, run.memory_info().rss)
        self.together, self.steps = max(self.together, together), max(self.steps, steps)
        self.all = max(self.all, len(tree))


def many(bench: Bench, *, types: int = TYPES) -> list[Line]:
    """One day of ``types`` types, a small file each, by `importer backfill` with the job's own executor."""
    from importer_dagster.launch.environment import prepare_environment

    settings = Settings(
        warehouse_url=bench.server.url,
        specs=bench.folder / "many" / "specs",
        inbox_url=str(bench.folder / "many" / "inbox"),
        home=bench.folder / "many" / "home",
    )
    _write(settings, types)
    environment = prepare_environment(settings)
    ledger_schema.migrate(Warehouse(bench.server.url))  # the sampler asks for its tables at once
    say(f"many: {types} types × 1 file of {_ROWS} rows")
    start = time.perf_counter()
    with sampling(bench.server.url) as seen:
        taken = _run(min(_PAUSE_S, types / 100))  # a short day is looked at more often
    seconds = time.perf_counter() - start
    loaded = bench.server.value(
        "SELECT count(*) FROM importer.loads WHERE status = 'loaded' AND type LIKE 'many%'"
    )
    if loaded != types or seen.faults:
        raise RuntimeError(f"{loaded} files were loaded instead of {types}; {seen.faults}")
    say(f"  {seconds:.0f} s")
    return [*_lines(types, seconds, taken, seen, settings.db_writes), _records(environment.dagster_url)]


def _write(settings: Settings, types: int) -> None:
    names = [f"many{number:03}" for number in range(types)]
    write_specs(settings.specs, names)
    for number, name in enumerate(names):
        write_file(Path(settings.inbox_url) / str(DAY) / "tenant" / f"{name}.csv", _ROWS, seed=number + 1)


def _run(pause: float) -> Processes:
    """The day by the command, looked at every ``pause`` seconds; raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "importer_dagster.cli", "backfill", "--from", str(DAY), "--to", str(DAY)]
    process = subprocess.Popen(  # noqa: S603 - our own arguments
        command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with _looking_at(process.pid, pause) as taken:
        said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"The day ended with {process.returncode}: {said[-2000:]}")
    return taken


@contextmanager
def _looking_at(pid: int, pause: float) -> Iterator[Processes]:
    taken, stop = Processes(), threading.Event()

    def look() -> None:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            while not stop.wait(pause):
                taken.take(process)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()


def _lines(types: int, seconds: float, taken: Processes, seen: Seen, cap: int) -> list[Line]:
    steps = max(2, os.cpu_count() or 2)
    return [
        Line(
            f"A first day of {types} types, a file of {_ROWS} rows each, by the daily job",
            f"{seconds:.0f} s, {seconds / types:.2f} s an asset",
        ),
        Line("… most steps at once", str(taken.steps), "", f"≤ {steps}", taken.steps <= steps),
        Line("… most processes of the run at once", str(taken.all)),
        Line("… most writers at once", str(seen.writers), "", f"≤ {cap}", seen.writers <= cap),
        Line("… peak memory of the process that the run lives in", f"{taken.memory / _MB:.0f} MB"),
        Line("… peak memory of all its processes together", f"{taken.together / _MB:.0f} MB"),
    ]


def _records(url: str) -> Line:
    """What Dagster keeps of it."""
    with psycopg.connect(url) as conn:
        row = conn.execute(
            "SELECT (SELECT count(*) FROM event_logs), (SELECT sum(length(event)) FROM event_logs),"
            " (SELECT max(length(snapshot_body)) FROM snapshots), (SELECT max(length(run_body)) FROM runs)"
        ).fetchone()
    assert row
    events, size, snapshot, run = row
    return Line(
        "… Dagster's records of it",
        f"{events:,} events, {size / _MB:.1f} MB; largest snapshot {snapshot / _MB:.2f} MB; run {run / _MB:.2f} MB",
    )
