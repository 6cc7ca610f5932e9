"""Other shapes than 17 mixed columns: narrow, wide, text, and a file that comes packed.

What does not belong here: what the files hold (``shape_data.py``), a very large one (``large.py``).
"""

from __future__ import annotations

import gzip
import shutil
from functools import partial
from pathlib import Path

from benchmarks.cases import Bench, against_copy
from benchmarks.data import TYPE, make_spec, write_file
from benchmarks.large import import_alone, memory_line
from benchmarks.measure import Line, ratio_line, say
from benchmarks.shape_data import SHAPES, Shape

GZIP_LIMIT = 1.2
_GZIP_LEVEL = 6  # what gzip itself takes


def shapes(bench: Bench) -> list[Line]:
    r"""Each shape against ``psql \copy`` of the same file, and gzip against the same file unpacked."""
    lines = [line for shape in SHAPES for line in _shape(bench, shape)]
    return [*lines, *_packed(bench)]


def _shape(bench: Bench, shape: Shape) -> list[Line]:
    rows = max(round(bench.rows * shape.share), 1)
    bench.need_disk(3 * rows, row_bytes=4 * shape.row_bytes)
    file, spec = bench.folder / f"{shape.name}.csv", shape.spec()
    size = shape.write(file, rows)
    say(f"{shape.name}: {rows:,} rows, {size / 1e6:.0f} MB")
    warm = bench.folder / "warm.csv"
    shape.write(warm, 100)
    bench.load(warm, spec)
    what = f"{rows:,} rows of {shape.words} ({size / 1e6:.0f} MB)"
    lines = against_copy(bench, spec, file, rows, what)
    alone = [import_alone(bench, spec.name, file, rows)]
    file.unlink()
    return [*lines, memory_line("… peak memory of the import", alone)]


def _packed(bench: Bench) -> list[Line]:
    bench.need_disk(2 * bench.rows)
    plain, spec = bench.folder / "plain.csv", make_spec()
    packed = plain.with_suffix(".csv.gz")
    write_file(plain, bench.rows)
    _pack(plain, packed)
    size = packed.stat().st_size
    say(f"gzip: {bench.rows:,} rows, {size / 1e6:.0f} MB of {plain.stat().st_size / 1e6:.0f} MB")
    bench.warm_up(spec)
    series = bench.turns(
        {"plain": partial(bench.load, plain, spec), "gzip": partial(bench.load, packed, spec)},
        before=lambda _: bench.empty(TYPE),
    )
    bench.empty(TYPE)
    plain.unlink()
    packed.unlink()
    what = f"{bench.rows:,} rows × 17 columns, packed by gzip -{_GZIP_LEVEL}, against the same file unpacked"
    return [
        ratio_line(f"{what}, wall", series.ratios("gzip", "plain"), at_most=GZIP_LIMIT),
        *series.cpu_lines("gzip", "plain"),
    ]


def _pack(plain: Path, packed: Path) -> None:
    with plain.open("rb") as read, gzip.open(packed, "wb", compresslevel=_GZIP_LEVEL) as write:
        shutil.copyfileobj(read, write, 1 << 20)
