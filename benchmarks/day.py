"""A day through Dagster's daily job against the same files in a plain loop: what orchestration costs.

What does not belong here: other measurements (``cases.py``).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from benchmarks.cases import DAY, Bench
from benchmarks.data import write_file, write_specs
from benchmarks.measure import Line, say
from importer_dagster.settings import Settings
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.spec.loading import load_specs

TYPES = 57
TENANTS = 4
SECONDS_PER_ASSET = 0.25
_ROWS = 200  # of a file


def dagster(bench: Bench, *, types: int = TYPES, tenants: int = TENANTS) -> list[Line]:
    """The real daily job over ``types`` × ``tenants`` small files, and ``import_delivery`` in a loop."""
    from importer_dagster.launch.environment import prepare_environment

    settings = Settings(
        warehouse_url=bench.server.url,
        specs=bench.folder / "specs",
        inbox_url=str(bench.folder / "inbox"),
        home=bench.folder / "dagster",
    )
    names = [f"type{number + 1:02}" for number in range(types)]
    write_specs(settings.specs, names)
    prepare_environment(settings)
    say(f"dagster: {types} types × {tenants} files of {_ROWS} rows")
    days = [DAY + timedelta(days=n) for n in range(bench.pairs + 1)]
    # the first day makes the tables
    pairs = [_job_and_loop(bench, settings, names, tenants, day) for day in days][1:]
    per_asset = [(job - loop) / types for job, loop in pairs]
    cost = statistics.median(per_asset)
    ratios = [job / loop for job, loop in pairs]
    return [
        Line(
            f"Daily job, {types} types × {tenants} files: orchestration per asset "
            "((job − plain loop) / types, wall)",
            f"{cost:.3f} s",
            f"{min(per_asset):.3f}–{max(per_asset):.3f}",
            f"≤ {SECONDS_PER_ASSET} s",
            cost <= SECONDS_PER_ASSET,
        ),
        Line(
            "… daily job / plain loop, seconds",
            " / ".join(f"{statistics.median(side):.1f}" for side in zip(*pairs, strict=True)),
        ),
        Line(
            "… daily job against plain loop",
            f"{statistics.median(ratios):.2f} ×",
            f"{min(ratios):.2f}–{max(ratios):.2f}",
        ),
    ]


def _job_and_loop(
    bench: Bench, settings: Settings, names: Sequence[str], tenants: int, day: date
) -> tuple[float, float]:
    """Wall seconds of the daily job and of the plain loop, for files that differ in their date only."""
    from importer_dagster.launch.runs import launch_daily

    later = day + timedelta(days=1000)  # the loop has a date of its own: else its files would be unchanged
    for date_ in (day, later):
        for name in names:
            for tenant in range(tenants):
                file = Path(settings.inbox_url) / date_.isoformat() / f"tenant{tenant}" / f"{name}.csv"
                write_file(file, _ROWS, seed=date_.toordinal() + tenant)
    bench.server.checkpoint()
    start = time.perf_counter()
    result = launch_daily(settings, [day])
    job = time.perf_counter() - start
    if not result.success or len(result.runs[0].steps) != len(names):
        raise RuntimeError(f"The daily job failed: {[end.error for end in result.failed]}")
    bench.server.checkpoint()
    start = time.perf_counter()
    _loop(bench, settings, len(names) * tenants, later)
    loop = time.perf_counter() - start
    say(f"  {day}: daily job {job:.1f} s, plain loop {loop:.1f} s")
    return job, loop


def _loop(bench: Bench, settings: Settings, files: int, day: date) -> None:
    """Import the ``files`` files of a day one by one, as a step does, without Dagster."""
    from importer_dagster.pipeline.delivery import import_delivery
    from importer_dagster.pipeline.unchanged_files import look_up
    from importer_dagster.warehouse import Warehouse

    specs = load_specs(settings.specs)
    warehouse = Warehouse(bench.server.url)
    found = find_deliveries(settings.inbox_url, specs, default_path=settings.default_path, dates=[day])
    if len(found) != files:
        raise RuntimeError(f"{len(found)} deliveries found instead of {files}")
    with warehouse.series():
        known = look_up(found, specs, warehouse=warehouse)
        for delivery in found:
            is_new = delivery in known.new
            result = import_delivery(delivery, specs[delivery.type], warehouse=warehouse, is_new=is_new)
            if result.status != "loaded":
                raise RuntimeError(f"{delivery.path} is {result.status}: {result.reason}")
