r"""Many small files in a row: what the importer costs per file, against ``psql \copy`` in one session.

What does not belong here: a day of many types (``day.py``, ``pipeline/unchanged_files.py``), one large file (``cases.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import DAY, Bench, plain_table
from benchmarks.data import TYPE, make_spec, write_file
from benchmarks.measure import Line, Series, ratio_line, say
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.pipeline.small_files import import_together
from importer_dagster.pipeline.unchanged_files import look_up
from importer_dagster.settings import Settings
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse

KEYED = f"{TYPE}_keyed"
ROWS = 100
AT_MOST = 6.0


def small(bench: Bench) -> list[Line]:
    r"""``bench.files`` files of 100 rows against as many ``\copy`` in one psql: listed and imported as a step does it, and one by one."""
    spec, keyed = make_spec(), make_spec(KEYED, key=["order_id"], write_disposition="merge")
    inbox = bench.folder / "small"
    bench.need_disk(4 * bench.files * ROWS)
    say(f"small: {bench.files:,} files of {ROWS} rows")
    bench.warm_up(spec)
    bench.warm_up(keyed)
    bench.server.execute("DROP TABLE IF EXISTS plain", plain_table(spec))
    files = _write(inbox, bench.files)
    script = _script(bench.folder, files)
    tables = {"import": TYPE, "alone": TYPE, "merge": KEYED, "copy": "plain"}
    empty = ", ".join({*tables.values(), "importer.loads"})
    series = bench.turns(
        {
            "import": lambda: _import_all(bench, inbox, spec),
            "alone": lambda: _one_by_one(bench, files, spec),
            "merge": lambda: _one_by_one(bench, files, keyed),
            "copy": lambda: bench.server.psql_file(script),
        },
        before=lambda _: bench.server.execute(f"TRUNCATE {empty} CASCADE"),
        after=lambda name: _must_hold(bench, tables[name]),
    )
    bench.server.execute(f"TRUNCATE {TYPE}, {KEYED}", "DROP TABLE plain")
    return _lines(series, bench.files)


def _write(inbox: Path, files: int) -> list[Path]:
    folder = inbox / DAY.isoformat() / "acme"
    found = [folder / f"{TYPE}-{number:05}.csv" for number in range(files)]
    for number, file in enumerate(found):
        write_file(file, ROWS, first=number * ROWS + 1, seed=number + 1)
    return found


def _script(folder: Path, files: Sequence[Path]) -> Path:
    r"""One ``\copy`` a line, each a transaction of its own."""
    script = folder / "small.sql"
    script.write_text("".join(f"\\copy plain from '{f}' with (format csv, header true)\n" for f in files))
    return script


def _import_all(bench: Bench, inbox: Path, spec: TableSpec) -> None:
    found = find_deliveries(str(inbox), {TYPE: spec}, default_path=Settings.default_path, dates=[DAY])
    warehouse = Warehouse(bench.server.url)
    with warehouse.series():  # as a step does
        known = look_up(found, {TYPE: spec}, warehouse=warehouse)
        done = import_together([d for d in found if d in known.new], spec, warehouse=warehouse)
        for delivery in found:
            _must_be_loaded(
                done.get(delivery)
                or import_delivery(delivery, spec, warehouse=warehouse, is_new=delivery in known.new)
            )


def _one_by_one(bench: Bench, files: Sequence[Path], spec: TableSpec) -> None:
    """As whoever has files that are not to be grouped, or does not know of grouping."""
    warehouse = Warehouse(bench.server.url)
    with warehouse.series():
        for file in files:
            delivery = Delivery(spec.name, "acme", DAY, file.name, str(file), file.stat().st_size)
            _must_be_loaded(import_delivery(delivery, spec, warehouse=warehouse))


def _must_be_loaded(result: LoadResult) -> None:
    if result.status != "loaded":
        raise RuntimeError(f"{result.delivery.path} is {result.status}: {result.reason}")


def _must_hold(bench: Bench, table: str) -> None:
    """A figure for the wrong work would be none."""
    rows = bench.server.value(f"SELECT count(*) FROM {table}")  # noqa: S608 - our own name
    if rows != bench.files * ROWS:
        raise RuntimeError(f"{table} holds {rows} rows instead of {bench.files * ROWS}")


def _lines(series: Series, files: int) -> list[Line]:
    what = f"{files:,} files of {ROWS} rows × 17 columns, all checks on, wall against `psql \\copy` in one session"
    return [
        ratio_line(what, series.ratios("import", "copy"), at_most=AT_MOST),
        *_per_file(series, "import", files),
        ratio_line("The same, imported one by one", series.ratios("alone", "copy")),
        *_per_file(series, "alone", files),
        ratio_line("The same, of a type that merges, with new keys", series.ratios("merge", "copy")),
        *_per_file(series, "merge", files),
    ]


def _per_file(series: Series, side: str, files: int) -> list[Line]:
    sides = (side, "copy")
    lines = [
        _figures("… milliseconds per file, import / \\copy", [series.wall(n) for n in sides], files),
        _figures("… CPU of the client", [series.client_cpu(n) for n in sides], files),
    ]
    server = [cost for n in sides if (cost := series.server_cpu(n)) is not None]
    return [*lines, _figures("… CPU of the server", server, files)] if server else lines


def _figures(what: str, seconds: Sequence[float], files: int) -> Line:
    return Line(what, " / ".join(f"{1000 * s / files:.2f} ms" for s in seconds))
