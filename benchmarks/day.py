"""A whole day through Dagster against the same files in a plain loop: what orchestration costs.

What does not belong here: other measurements (``cases.py``).
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import yaml

from benchmarks.cases import DAY, Bench
from benchmarks.data import spec_dict, write_file
from benchmarks.measure import Line, say
from importer_dagster.settings import Settings
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.spec.loading import load_specs

TYPES = 57
TENANTS = 4
SECONDS_PER_ASSET = 0.25
_ROWS = 200  # of a small file


@dataclass(frozen=True)
class _Plan:
    """What a day consists of."""

    settings: Settings
    types: int
    tenants: int


def dagster(bench: Bench, *, types: int = TYPES, tenants: int = TENANTS) -> list[Line]:
    """The real daily job over ``types`` × ``tenants`` small files, and ``import_delivery`` in a loop."""
    from importer_dagster.launch.environment import prepare_environment

    settings = Settings(
        warehouse_url=bench.server.url,
        specs=bench.folder / "specs",
        inbox_url=str(bench.folder / "inbox"),
        home=bench.folder / "dagster",
    )
    plan = _Plan(settings, types, tenants)
    _write_specs(plan)
    prepare_environment(settings)
    say(f"dagster: {types} types × {tenants} files of {_ROWS} rows")
    days = [DAY + timedelta(days=n) for n in range(bench.pairs + 1)]
    pairs = [_pair(bench, plan, day) for day in days][1:]  # the first day makes the tables
    per_asset = [(job - loop) / types for job, loop in pairs]
    return _lines(plan, pairs, per_asset)


def _write_specs(plan: _Plan) -> None:
    plan.settings.specs.mkdir()
    for number in range(plan.types):
        disposition = ("append", "replace", "merge")[number % 3]
        spec = spec_dict(_name(number), key=["order_id"], write_disposition=disposition)
        (plan.settings.specs / f"{_name(number)}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


def _name(number: int) -> str:
    return f"type{number + 1:02}"


def _write_files(plan: _Plan, inbox: Path, day: date) -> None:
    for number in range(plan.types):
        for tenant in range(plan.tenants):
            seed = day.toordinal() + tenant
            write_file(inbox / day.isoformat() / f"tenant{tenant}" / f"{_name(number)}.csv", _ROWS, seed=seed)


def _pair(bench: Bench, plan: _Plan, day: date) -> tuple[float, float]:
    """Wall seconds of (the daily job, the plain loop) for the same files, one day apart in date only."""
    from importer_dagster.launch.runs import launch_daily

    inbox = Path(plan.settings.inbox_url)
    later = day + timedelta(days=1000)  # the loop's own date: the same files would be unchanged
    for date_ in (day, later):
        _write_files(plan, inbox, date_)
    bench.server.checkpoint()
    start = time.perf_counter()
    result = launch_daily(plan.settings, [day])
    job = time.perf_counter() - start
    if not result.success or len(result.runs[0].steps) != plan.types:
        raise RuntimeError(f"The daily job failed: {[end.error for end in result.failed]}")
    bench.server.checkpoint()
    start = time.perf_counter()
    _loop(bench, plan, later)
    loop = time.perf_counter() - start
    say(f"  {day}: daily job {job:.1f} s, plain loop {loop:.1f} s")
    return job, loop


def _loop(bench: Bench, plan: _Plan, day: date) -> None:
    from importer_dagster.pipeline.delivery import import_delivery
    from importer_dagster.pipeline.unchanged_files import look_up
    from importer_dagster.warehouse import Warehouse

    specs = load_specs(plan.settings.specs)
    warehouse = Warehouse(bench.server.url)
    found = find_deliveries(
        plan.settings.inbox_url, specs, default_path=plan.settings.default_path, dates=[day]
    )
    if len(found) != plan.types * plan.tenants:
        raise RuntimeError(f"{len(found)} deliveries found instead of {plan.types * plan.tenants}")
    with warehouse.series():  # as a step does
        known = look_up(found, specs, warehouse=warehouse)
        for delivery in found:
            is_new = delivery in known.new
            result = import_delivery(delivery, specs[delivery.type], warehouse=warehouse, is_new=is_new)
            if result.status != "loaded":
                raise RuntimeError(f"{delivery.path} is {result.status}: {result.reason}")


def _lines(plan: _Plan, pairs: list[tuple[float, float]], per_asset: list[float]) -> list[Line]:
    cost = statistics.median(per_asset)
    ratios = [job / loop for job, loop in pairs]
    return [
        Line(
            f"Daily job, {plan.types} types × {plan.tenants} files: orchestration per asset "
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
