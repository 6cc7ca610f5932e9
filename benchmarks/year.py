"""A year of daily partitions in the ledger and in Dagster's records: do status, sensor and UI stay quick?

What does not belong here: how the year is made (``reader/records.py``), what the pages of the
UI ask (``ui.py``).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import yaml

from benchmarks import ui
from benchmarks.cases import Bench
from benchmarks.data import spec_dict, write_file
from benchmarks.measure import Line, say
from benchmarks.records import fill_dagster, fill_ledger
from importer_dagster.settings import Settings, lookback
from importer_dagster.spec.loading import load_specs

TYPES = 57
TENANTS = 4
DAYS = 365
SECONDS = 1.0
_ROWS = 5
_LOCATION = "importer_dagster"  # its name in workspace.yaml


@dataclass(frozen=True)
class _Year:
    """What is looked at: ``last`` is the day that was really imported, ``run_id`` the run that did it."""

    settings: Settings
    types: list[str]
    days: int
    last: str
    run_id: str


def year(bench: Bench, *, types: int = TYPES, tenants: int = TENANTS, days: int = DAYS) -> list[Line]:
    """Status, sensor and the pages of the UI after ``days`` days of ``types`` × ``tenants`` files."""
    made, line = _make(bench, types, tenants, days)
    return [line, _status(bench), _sensor(bench, made.settings), *_pages(bench, made)]


def _make(bench: Bench, types: int, tenants: int, days: int) -> tuple[_Year, Line]:
    """Import one day through Dagster, and copy it to all days before."""
    from importer_dagster.launch.environment import prepare_environment
    from importer_dagster.launch.runs import launch_daily

    today = datetime.now(UTC).date()
    settings = Settings(
        warehouse_url=bench.server.url,
        specs=bench.folder / "year" / "specs",
        inbox_url=str(bench.folder / "year" / "inbox"),
        home=bench.folder / "year" / "home",
        start_date=today - timedelta(days=days - 1),
    )
    names = [f"year{n:02}" for n in range(types)]
    _write(settings, names, tenants)
    environment = prepare_environment(settings)
    say(f"year: a day of {types} types × {tenants} files through Dagster")
    result = launch_daily(settings, [today])
    if not result.success:
        raise RuntimeError(f"The daily job failed: {[end.error for end in result.failed]}")
    say(f"year: {days} days out of it")
    with psycopg.connect(bench.server.url) as conn:
        loads = fill_ledger(conn, settings, today, days)
    with psycopg.connect(environment.dagster_url) as conn:
        events = fill_dagster(conn, result.runs[0].run_id, today, days)
    bench.server.checkpoint()
    what = f"After {days} days of {types} types × {tenants} files: {loads:,} loads, {events:,} events, {days} runs"
    return _Year(settings, names, days, str(today), result.runs[0].run_id), Line(what, "")


def _write(settings: Settings, names: list[str], tenants: int) -> None:
    """Specs, and files for the days that the sensor looks at."""
    settings.specs.mkdir(parents=True)
    for number, name in enumerate(names):
        disposition = ("append", "replace", "merge")[number % 3]
        spec = spec_dict(name, key=["order_id"], write_disposition=disposition)
        spec |= {"expected_by": "08:30"} if number % 5 == 0 else {}
        (settings.specs / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        for day in lookback(settings, datetime.now(UTC).date()):
            for tenant in range(tenants):
                write_file(Path(settings.inbox_url) / str(day) / f"tenant{tenant}" / f"{name}.csv", _ROWS)


# --- what is measured ---------------------------------------------------------------------------


def _status(bench: Bench) -> Line:
    """The whole command, the start of Python and its imports included."""
    command = [sys.executable, "-m", "importer_dagster.cli", "status", "--json"]

    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent.parent)  # noqa: S603

    return _line("`importer status`, the whole command", _times(bench, run), _cpu_of_children(bench, run))


def _sensor(bench: Bench, settings: Settings) -> Line:
    """One evaluation of `arrivals`, everything being imported: what happens each minute."""
    import dagster as dg

    from importer_dagster.defs.catchup import look

    specs = load_specs(settings.specs)
    with dg.DagsterInstance.get() as instance:

        def evaluate() -> None:
            now = datetime.now(UTC)
            answers = list(look(instance, settings, specs, now=now, last=now, by=f"tick {time.time()}"))
            if any(isinstance(answer, dg.RunRequest) for answer in answers):
                raise RuntimeError(f"The sensor asks for runs, though all is imported: {answers[:3]}")

        evaluate()
        before = time.process_time()
        times = _times(bench, evaluate)
        cpu = (time.process_time() - before) / bench.pairs
    return _line("One evaluation of the sensor `arrivals`", times, cpu)


def _pages(bench: Bench, made: _Year) -> list[Line]:
    """Each page of the UI, all that it asks for; the first time, when Dagster fills its caches, is told apart."""
    name = made.types[len(made.types) // 2]
    pages: Mapping[str, Callable[[], list[ui.Ask]]] = {
        "start": lambda: ui.workspace(_LOCATION),
        "overview": lambda: ui.overview(time.time()),
        "catalog": lambda: ui.catalog(made.types),
        "asset": lambda: ui.asset_overview(name),
        "asset's partitions": lambda: ui.asset_partitions(name, made.last),
        "asset's checks": lambda: ui.asset_checks(name, "rejects"),
        "runs": ui.runs,
        "run": lambda: ui.run(made.run_id),
    }
    say("year: the UI")
    lines = []
    with ui.serving() as server:
        for page, asks in pages.items():
            first = server.page(asks())
            answers = [server.page(asks()) for _ in range(bench.pairs)]
            _check(page, answers[-1].answers, made)
            what = f"UI, {page}: {len(asks())} requests (first time {first.seconds:.2f} s; slowest {answers[-1].slowest})"
            cpu = statistics.median(a.cpu for a in answers)
            lines.append(_line(what, [a.seconds for a in answers], cpu))
            say(f"  {page}: {lines[-1].result}, first {first.seconds:.2f} s")
    return lines


def _check(page: str, answers: Mapping[str, Any], made: _Year) -> None:
    """Raise RuntimeError unless the UI was told about the whole year."""
    if page == "asset's partitions":
        ranges = answers["PARTITION_HEALTH_QUERY"]["assetNodeOrError"]["assetPartitionStatuses"]["ranges"]
        found = [(r["status"], r["startKey"], r["endKey"]) for r in ranges]
        if found != [("MATERIALIZED", str(made.settings.start_date), made.last)]:
            raise RuntimeError(f"The UI knows of other days: {found}")
    if page == "catalog":
        names = {a["key"]["path"][0] for a in answers["ASSET_RECORDS_QUERY"]["assetRecordsOrError"]["assets"]}
        if not set(made.types) <= names:
            raise RuntimeError(f"The UI knows of other assets: {sorted(names)}")


def _times(bench: Bench, work: Callable[[], None]) -> list[float]:
    times = []
    for _ in range(bench.pairs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def _cpu_of_children(bench: Bench, work: Callable[[], None]) -> float:
    before = os.times()
    work()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _line(what: str, times: list[float], cpu: float) -> Line:
    seconds = statistics.median(times)
    return Line(
        f"{what} ({cpu:.2f} s of CPU)",
        f"{seconds:.2f} s",
        f"{min(times):.2f}–{max(times):.2f}",
        f"≤ {SECONDS:g} s",
        seconds <= SECONDS,
    )
