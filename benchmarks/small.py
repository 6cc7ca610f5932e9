r"""Many small files in a row: what the importer costs per file, against ``psql \copy`` in one session.

What does not belong here: a day of many types (``day.py``, ``resent.py``), one large file (``cases.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import DAY, Bench, plain_table
from benchmarks.data import TYPE, make_spec, write_file
from benchmarks.measure import Line, Series, ratio_line, say
from importer_dagster.pipeline import import_delivery
from importer_dagster.resent import look_up
from importer_dagster.settings import Settings
from importer_dagster.source import find_deliveries
from importer_dagster.spec import TableSpec
from importer_dagster.together import import_together
from importer_dagster.warehouse import Warehouse

ROWS = 100
AT_MOST = 6.0


def small(bench: Bench) -> list[Line]:
    r"""``bench.files`` files of 100 rows: listed and imported as a step does it, against as many ``\copy`` in one psql."""
    spec, inbox = make_spec(), bench.folder / "small"
    bench.need_disk(3 * bench.files * ROWS)
    say(f"small: {bench.files:,} files of {ROWS} rows")
    bench.warm_up(spec)
    bench.server.execute("DROP TABLE IF EXISTS plain", plain_table(spec))
    script = _script(bench.folder, _write(inbox, bench.files))
    series = bench.turns(
        {"import": lambda: _import_all(bench, inbox, spec), "copy": lambda: bench.server.psql_file(script)},
        before=lambda _: bench.server.execute(f"TRUNCATE {TYPE}, plain, importer.loads CASCADE"),
        after=lambda name: _must_hold(bench, "plain" if name == "copy" else TYPE),
    )
    bench.server.execute(f"TRUNCATE {TYPE}", "DROP TABLE plain")
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
            result = done.get(delivery) or import_delivery(
                delivery, spec, warehouse=warehouse, is_new=delivery in known.new
            )
            if result.status != "loaded":
                raise RuntimeError(f"{delivery.path} is {result.status}: {result.reason}")


def _must_hold(bench: Bench, table: str) -> None:
    """A figure for the wrong work would be none."""
    rows = bench.server.value(f"SELECT count(*) FROM {table}")  # noqa: S608 - our own name
    if rows != bench.files * ROWS:
        raise RuntimeError(f"{table} holds {rows} rows instead of {bench.files * ROWS}")


def _lines(series: Series, files: int) -> list[Line]:
    sides = ("import", "copy")
    what = f"{files:,} files of {ROWS} rows × 17 columns, all checks on, wall against `psql \\copy` in one session"
    lines = [
        ratio_line(what, series.ratios(*sides), at_most=AT_MOST),
        _per_file("… milliseconds per file, import / \\copy", [series.wall(n) for n in sides], files),
        _per_file("… CPU of the client", [series.client_cpu(n) for n in sides], files),
    ]
    server = [cost for n in sides if (cost := series.server_cpu(n)) is not None]
    return [*lines, _per_file("… CPU of the server", server, files)] if server else lines


def _per_file(what: str, seconds: Sequence[float], files: int) -> Line:
    return Line(what, " / ".join(f"{1000 * s / files:.2f} ms" for s in seconds))
