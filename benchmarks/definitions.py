"""Loading the definitions of many types: every step process of Dagster pays for it.

What does not belong here: running them (``day.py``).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.cases import Bench
from benchmarks.data import spec_dict
from benchmarks.measure import Line, say

# (number of types, most seconds over importing Dagster)
COUNTS = ((57, 0.3), (500, 2.0))
_PROGRAM = """
import time
import dagster
start, cpu = time.perf_counter(), time.process_time()
from importer_dagster.definitions import defs
defs.get_repository_def()
assets = sum(1 for _ in defs.resolve_all_asset_specs())
print(time.perf_counter() - start, time.process_time() - cpu, assets)
"""


def types(bench: Bench, counts: Sequence[tuple[int, float]] = COUNTS) -> list[Line]:
    """Seconds that a fresh process takes for the definitions, Dagster itself being imported."""
    return [_line(bench, count, most) for count, most in counts]


def _line(bench: Bench, count: int, most: float) -> Line:
    folder = bench.folder / f"specs{count}"
    folder.mkdir()
    for number in range(count):
        spec = spec_dict(f"type{number:03}", key=["order_id"], write_disposition="merge")
        (folder / f"type{number:03}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    say(f"types: {count}")
    taken = [_once(folder, count) for _ in range(bench.pairs)]
    walls = [wall for wall, _ in taken]
    wall, cpu = statistics.median(walls), statistics.median(cpu for _, cpu in taken)
    return Line(
        f"Definitions of {count} types in a fresh process, beyond importing Dagster ({cpu:.2f} s of CPU)",
        f"{wall:.2f} s",
        f"{min(walls):.2f}–{max(walls):.2f}",
        f"≤ {most:g} s",
        wall <= most,
    )


def _once(folder: Path, count: int) -> tuple[float, float]:
    done = subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-W", "ignore", "-c", _PROGRAM],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "IMPORTER_SPECS": str(folder), "IMPORTER_HOME": str(folder.parent / "none")},
    )
    wall, cpu, assets = done.stdout.split()
    if int(assets) < count:
        raise RuntimeError(f"{assets} assets are defined instead of {count}")
    say(f"  {float(wall):.2f} s, CPU {float(cpu):.2f} s")
    return float(wall), float(cpu)
