"""A very large file against one of a tenth: the same speed, in the same memory.

What does not belong here: the import in a process of its own (``one_import.py``).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Bench
from benchmarks.data import TYPE, make_spec, write_file
from benchmarks.measure import Line, ratio_line, say

MEMORY_LIMIT = 500_000_000
MEMORY_GROWTH = 1.15
SLOWER = 1.1  # seconds for a row
_FILE_BYTES_PER_ROW = 169


@dataclass(frozen=True)
class Alone:
    """What an import in a process of its own took; memory in bytes, without (``before``) and with it (``peak``)."""

    rows: int
    before: int
    peak: int
    seconds: float
    cpu: float  # of client and, where it is known, server


def large(bench: Bench) -> list[Line]:
    """A file of ``large_mb`` and one of a tenth, turn by turn, each in a process of its own."""
    rows = max(bench.large_mb * 1_000_000 // _FILE_BYTES_PER_ROW, 10)
    bench.need_disk(rows)
    bench.warm_up(make_spec())
    sizes = {n: write_file(_file(bench, n), n) for n in (rows // 10, rows)}
    say("large: " + ", ".join(f"{n:,} rows, {size / 1e6:,.0f} MB" for n, size in sizes.items()))
    runs: dict[int, list[Alone]] = {n: [] for n in sizes}
    for _ in range(bench.pairs):
        for n in sizes:
            runs[n].append(import_alone(bench, TYPE, _file(bench, n), n))
    for n in sizes:
        _file(bench, n).unlink()
    return _lines(*runs.values(), "/".join(f"{size / 1e6:,.0f}" for size in sizes.values()))


def _file(bench: Bench, rows: int) -> Path:
    return bench.folder / f"large{rows}.csv"


def _lines(small: list[Alone], large: list[Alone], sizes: str) -> list[Line]:
    pairs = list(zip(large, small, strict=True))
    wall, cpu = (
        [(getattr(a, what) / a.rows) / (getattr(b, what) / b.rows) for a, b in pairs]
        for what in ("seconds", "cpu")
    )
    growth = max(a.peak for a in large) / max(a.peak for a in small)
    what = f"Import of {large[0].rows:,} rows against {small[0].rows:,} ({sizes} MB)"
    speeds = " / ".join(
        f"{statistics.median(a.rows / a.seconds for a in runs):,.0f}" for runs in (large, small)
    )
    return [
        ratio_line(f"{what}, wall for a row ({speeds} rows/s)", wall, at_most=SLOWER),
        ratio_line("… CPU for a row", cpu, at_most=SLOWER),
        memory_line("… peak memory of the larger", large),
        Line("… against the smaller", f"{growth:.2f} ×", "", f"≤ {MEMORY_GROWTH} ×", growth <= MEMORY_GROWTH),
    ]


def memory_line(what: str, runs: list[Alone]) -> Line:
    """The highest peak of some runs, and whether it is within MEMORY_LIMIT."""
    peak, before = max(a.peak for a in runs), max(a.before for a in runs)
    return Line(
        f"{what} ({before / 1e6:.0f} MB of it are there before the import)",
        f"{peak / 1e6:.0f} MB",
        "",
        f"≤ {MEMORY_LIMIT / 1e6:.0f} MB",
        peak <= MEMORY_LIMIT,
    )


def import_alone(bench: Bench, type_: str, file: Path, rows: int) -> Alone:
    """Import a file of a type that ``one_import`` knows into its emptied table; raises unless all rows are loaded."""
    bench.server.execute(f"TRUNCATE {type_}, importer.loads CASCADE")  # so that it is not unchanged
    bench.server.checkpoint()
    server = bench.server.cpu()
    done = subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "benchmarks.one_import", bench.server.url, type_, str(file)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    after = bench.server.cpu()
    bench.server.execute(f"TRUNCATE {type_}")
    found: dict[str, Any] = json.loads(done.stdout)
    if (found["status"], found["rows_loaded"]) != ("loaded", rows):
        raise RuntimeError(f"{rows} rows were to be loaded, but: {found}")
    spent = after - server if after is not None and server is not None else 0.0
    alone = Alone(rows, found["before"], found["peak"], found["seconds"], found["cpu"] + spent)
    say(
        f"  {rows:,} rows alone: {alone.seconds:.1f} s, CPU {alone.cpu:.1f} s, peak {alone.peak / 1e6:.0f} MB"
    )
    return alone
