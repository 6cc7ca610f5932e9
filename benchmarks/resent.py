"""A whole day sent again without a change: what it costs to see that there is nothing to do.

What does not belong here: Dagster's part in a day (``day.py``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from benchmarks.cases import DAY, Bench
from benchmarks.data import make_spec, write_file
from benchmarks.measure import Line, ratio_line, say
from importer_dagster.model import Delivery
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.pipeline.unchanged_files import look_up
from importer_dagster.settings import Settings
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse

TYPES = 57
TENANTS = 4
SHARE = 0.02


def resent(bench: Bench, *, types: int = TYPES, tenants: int = TENANTS) -> list[Line]:
    """Each round a new day of ``types`` × ``tenants`` files: loaded, then all files written again and imported."""
    rows = max(bench.rows // 500, 1)
    bench.need_disk(types * tenants * rows * (bench.pairs + 1))
    specs = {f"again{n:02}": _spec(n) for n in range(types)}
    inbox = bench.folder / "resent"
    say(f"resent: {types} types × {tenants} files of {rows:,} rows")
    pairs = []
    for number in range(bench.pairs + 1):  # the first day makes the tables
        files = _write(inbox / (DAY + timedelta(days=number)).isoformat(), specs, tenants, rows)
        loaded = _import(bench, specs, inbox, number, "loaded", len(files))
        for file in files:
            _send_again(file)
        again = _import(bench, specs, inbox, number, "unchanged", len(files))
        say(f"  day {number}: loaded in {loaded:.1f} s, again in {again:.2f} s")
        pairs.append((loaded, again))
    what = f"A day of {types} types × {tenants} files of {rows:,} rows sent again, none changed, against loading it"
    return [ratio_line(what, [again / loaded for loaded, again in pairs[1:]], at_most=SHARE, digits=4)]


def _spec(number: int) -> TableSpec:
    disposition = ("append", "replace", "merge")[number % 3]
    return make_spec(f"again{number:02}", key=["order_id"], write_disposition=disposition)


def _write(folder: Path, specs: dict[str, TableSpec], tenants: int, rows: int) -> list[Path]:
    files = [folder / f"tenant{t}" / f"{name}.csv" for name in specs for t in range(tenants)]
    for number, file in enumerate(files):
        write_file(file, rows, seed=number + 1)
    return files


def _send_again(file: Path) -> None:
    """The same bytes as a new file: its stamp tells nothing, so that the content must be looked at."""
    copy = file.with_suffix(".new")
    copy.write_bytes(file.read_bytes())
    os.utime(copy, (file.stat().st_mtime + 60,) * 2)
    copy.replace(file)


def _import(
    bench: Bench, specs: dict[str, TableSpec], inbox: Path, number: int, expect: str, files: int
) -> float:
    """Seconds of listing the day and importing every file of it; raises unless each ends as expected."""
    bench.server.checkpoint()
    start = time.perf_counter()
    found = find_deliveries(
        str(inbox), specs, default_path=Settings.default_path, dates=[DAY + timedelta(days=number)]
    )
    if len(found) != files:
        raise RuntimeError(f"{len(found)} deliveries found instead of {files}")
    _import_all(bench, specs, found, expect)
    return time.perf_counter() - start


def _import_all(bench: Bench, specs: dict[str, TableSpec], found: Sequence[Delivery], expect: str) -> None:
    warehouse = Warehouse(bench.server.url)
    with warehouse.series():  # as a step does
        known = look_up(found, specs, warehouse=warehouse)
        for delivery in found:
            result = known.same.get(delivery) or import_delivery(
                delivery, specs[delivery.type], warehouse=warehouse, is_new=delivery in known.new
            )
            if result.status != expect:
                raise RuntimeError(
                    f"{delivery.path} was to be {expect}, but is {result.status}: {result.reason}"
                )
