"""What is measured: one function per part of the table, each giving its lines.

What does not belong here: the file (``data.py``), clocks and ratios
(``measure.py``), Dagster (``day.py``).
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import postgresql

from benchmarks.data import TYPE, make_spec, write_file
from benchmarks.measure import Line, Series, ratio_line, say, take_turns
from benchmarks.server import Server
from importer_dagster.errors import UsageError
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.spec import sql_table
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse

DAY = date(2024, 1, 1)
COPY_WALL, COPY_CPU = 0.85, 1.15
_BYTES_PER_ROW = 600  # file, table and log of the database, roughly


@dataclass
class Bench:
    """What all parts share. ``rows`` is the size of the usual file; others derive from it, but for ``large_mb``.

    ``files`` is how many small files there are.
    """

    server: Server
    folder: Path
    rows: int = 1_000_000
    pairs: int = 5
    large_mb: int = 2_000
    files: int = 2_000
    _names: Any = field(default_factory=itertools.count)

    @property
    def some_rows(self) -> int:
        """The size of the files where a fifth of the rows says as much."""
        return max(self.rows // 5, 1)

    def load(self, file: Path, spec: TableSpec, day: date = DAY, *, expect: str = "loaded") -> LoadResult:
        """Import a file as a delivery that is new each time; raises if that does not end as expected."""
        path = f"{next(self._names)}/{file.name}"
        delivery = Delivery(spec.name, "acme", day, path, str(file), file.stat().st_size)
        result = import_delivery(delivery, spec, warehouse=Warehouse(self.server.url))
        if result.status != expect:
            raise RuntimeError(f"{file.name} was to be {expect}, but is {result.status}: {result.reason}")
        return result

    def warm_up(self, spec: TableSpec) -> None:
        """Have packages imported and tables made, which no run is to pay for."""
        file = self.folder / "warm.csv"
        write_file(file, 100)
        self.load(file, spec)

    def turns(
        self,
        candidates: dict[str, Callable[[], object]],
        before: Callable[[str], None],
        after: Callable[[str], None] = lambda _: None,
    ) -> Series:
        """Take turns, each after a checkpoint; ``before`` and ``after`` are not measured."""

        def prepare(name: str) -> None:
            before(name)
            self.server.checkpoint()

        return take_turns(self.pairs, candidates, before=prepare, after=after, server_cpu=self.server.cpu)

    def empty(self, *tables: str) -> None:
        """Empty tables of types."""
        for table in tables:
            self.server.execute(f"TRUNCATE {table}", f"TRUNCATE importer_superseded.{table}")

    def need_disk(self, rows: int, *, row_bytes: int = _BYTES_PER_ROW) -> None:
        """Raise UsageError unless files and tables of ``rows`` rows fit on the disk."""
        need, free = rows * row_bytes, shutil.disk_usage(self.folder).free
        if free < need:
            raise UsageError(
                f"{need / 1e9:.1f} GB of disk are needed in {self.folder}, but {free / 1e9:.1f} GB are free. "
                "Set TMPDIR to another disk, or give a smaller --rows or --large-mb."
            )


# --- against \copy -----------------------------------------------------------------


def copy(bench: Bench) -> list[Line]:
    r"""The large file: ``import_delivery`` with all checks against ``psql \copy``, which makes none."""
    spec, file = make_spec(), bench.folder / "large.csv"
    bench.need_disk(3 * bench.rows)
    size = write_file(file, bench.rows)
    say(f"copy: {bench.rows:,} rows, {size / 1e6:.0f} MB")
    bench.warm_up(spec)
    what = f"{bench.rows:,} rows × 17 columns ({size / 1e6:.0f} MB)"
    lines = against_copy(bench, spec, file, bench.rows, what)
    file.unlink()
    return lines


def against_copy(bench: Bench, spec: TableSpec, file: Path, rows: int, what: str) -> list[Line]:
    r"""Import a file whose type's table is there, and ``\copy`` it; takes the file away at the end."""
    bench.server.execute("DROP TABLE IF EXISTS plain", plain_table(spec))
    series = bench.turns(
        {
            "import": lambda: bench.load(file, spec),
            "copy": lambda: bench.server.psql(f"\\copy plain from '{file}' with (format csv, header true)"),
        },
        before=lambda name: bench.server.execute(f"TRUNCATE {'plain' if name == 'copy' else spec.name}"),
    )
    _same_rows(bench.server, spec, rows)
    bench.server.execute(f"TRUNCATE {spec.name}", "DROP TABLE plain")
    speeds = " / ".join(f"{rows / series.wall(n):,.0f}" for n in ("import", "copy"))
    return [
        ratio_line(
            f"Import of {what}, all checks on, wall against `psql \\copy`",
            series.ratios("import", "copy"),
            at_most=COPY_WALL,
        ),
        Line("… rows per second, import / \\copy", speeds),
        *series.cpu_lines("import", "copy", at_most=COPY_CPU),
    ]


def plain_table(spec: TableSpec, name: str = "plain") -> str:
    """The statement that makes a table of the type's columns alone."""
    columns = (f'"{column}" {of}' for column, of in sql_types(spec).items())
    return f"CREATE TABLE {name} ({', '.join(columns)})"


def sql_types(spec: TableSpec) -> dict[str, str]:
    """Each column's type in the words of PostgreSQL."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return {f.column: sql_table.sql_type(f).compile(dialect=dialect) for f in spec.fields}


def _same_rows(server: Server, spec: TableSpec, rows: int) -> None:
    """A figure for the wrong work would be none."""
    columns = ", ".join(f.column for f in spec.fields)
    query = f"SELECT count(*) FROM (SELECT {columns} FROM {spec.name} INTERSECT ALL SELECT {columns} FROM plain) s"  # noqa: S608
    same = server.value(query)
    if same != rows:
        raise RuntimeError(f"The two tables hold only {same} equal rows of {rows}")


# --- dirt --------------------------------------------------------------------------


def dirty(bench: Bench) -> list[Line]:
    """One bad cell in a hundred, and every cell bad, against the clean file."""
    spec, rows = make_spec(), bench.some_rows
    say(f"dirty: {rows:,} rows")
    files = {}
    for name, share in (("clean", 0.0), ("one", 0.01), ("every", 1.0)):
        files[name] = bench.folder / f"{name}.csv"
        write_file(files[name], rows, bad_share=share)
    bench.warm_up(spec)

    def empty(_: str) -> None:
        bench.empty(TYPE)
        bench.server.execute("TRUNCATE importer.reject_records, importer.reject_reasons")

    series = bench.turns({n: partial(bench.load, f, spec) for n, f in files.items()}, before=empty)
    empty("")
    for file in files.values():
        file.unlink()
    return [
        ratio_line(
            f"{rows:,} rows, 1 % of all cells bad, against clean", series.ratios("one", "clean"), at_most=1.25
        ),
        ratio_line("… every cell bad, against clean", series.ratios("every", "clean"), at_most=6),
    ]


# --- merge -------------------------------------------------------------------------


def merge(bench: Bench) -> list[Line]:
    """A keyed type: first load, the same again on another day, 1 % changed; against appending the file."""
    spec = make_spec("bench_merge", key=["order_id"], write_disposition="merge")
    plain, rows = make_spec(), bench.rows
    file, changed = bench.folder / "same.csv", bench.folder / "changed.csv"
    write_file(file, rows)
    write_file(changed, rows, changed=0.01)
    say(f"merge: {rows:,} rows")
    bench.warm_up(plain)
    bench.warm_up(spec)

    def before(name: str) -> None:
        if name in ("append", "first"):
            bench.empty(TYPE, "bench_merge")
            bench.server.execute("TRUNCATE importer_repeats.bench_merge, importer.loads CASCADE")

    series = bench.turns(
        {
            "append": lambda: bench.load(file, plain),
            "first": lambda: bench.load(file, spec),
            "unchanged": lambda: bench.load(file, spec, DAY + timedelta(days=1)),
            "changed": lambda: bench.load(changed, spec, DAY + timedelta(days=2)),
        },
        before=before,
    )
    before("first")
    for done in (file, changed):
        done.unlink()
    return [
        ratio_line(
            f"merge of {rows:,} rows into an empty table, against append",
            series.ratios("first", "append"),
            at_most=1.5,
        ),
        *series.cpu_lines("first", "append"),
        ratio_line(
            "… the same rows on the next day (all unchanged), against append",
            series.ratios("unchanged", "append"),
            at_most=1.0,
        ),
        *series.cpu_lines("unchanged", "append"),
        ratio_line(
            "… 1 % of the rows changed, against append", series.ratios("changed", "append"), at_most=1.2
        ),
        *series.cpu_lines("changed", "append"),
    ]
