"""A year of records in the ledger and in Dagster's database: do status and sensor stay quick?

One day is really imported through Dagster. Its loads and its records are then copied in the
database to each day before. Dagster's rows stay as Dagster wrote them; only ids, days and
times differ. An earlier day has lower ids, so that the real day is the latest. No rows of
the types' tables are copied, since nothing asks them about the history.

What does not belong here: what the pages of the Dagster UI take, a day's import (``day.py``).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.cases import Bench
from benchmarks.data import write_file, write_specs
from benchmarks.measure import Line, say
from importer_dagster.ledger.arrivals import compare
from importer_dagster.settings import Settings, lookback
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.spec.loading import load_specs

TYPES = 57
TENANTS = 4
DAYS = 365
SECONDS = 1.0
_ROWS = 5


def year(bench: Bench, *, types: int = TYPES, tenants: int = TENANTS, days: int = DAYS) -> list[Line]:
    """`importer status` and the sensor `arrivals` after ``days`` days of ``types`` × ``tenants`` files."""
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
    write_specs(settings.specs, names)
    for name in names[::5]:
        with (settings.specs / f"{name}.yaml").open("a") as spec:
            spec.write("expected_by: '08:30'\n")
    for day in lookback(settings, today):  # the days that the sensor looks at
        for name in names:
            for tenant in range(tenants):
                write_file(Path(settings.inbox_url) / str(day) / f"tenant{tenant}" / f"{name}.csv", _ROWS)
    environment = prepare_environment(settings)
    say(f"year: a day of {types} types × {tenants} files through Dagster")
    result = launch_daily(settings, [today])
    if not result.success:
        raise RuntimeError(f"The daily job failed: {[end.error for end in result.failed]}")
    say(f"year: {days} days out of it")
    with psycopg.connect(bench.server.url) as conn:
        loads = _fill_ledger(conn, settings, today, days)
    with psycopg.connect(environment.dagster_url) as conn:
        events = _fill_dagster(conn, result.runs[0].run_id, today, days)
    bench.server.checkpoint()
    what = f"After {days} days of {types} types × {tenants} files: {loads:,} loads, {events:,} events, {days} runs"
    return [Line(what, ""), _status(bench), _sensor(bench, settings, names[-1], days)]


def _status(bench: Bench) -> Line:
    """The whole command, with the start of Python and its imports."""
    command = [sys.executable, "-m", "importer_dagster.cli", "status", "--json"]

    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent.parent)  # noqa: S603

    before = os.times()
    times = _times(bench, run)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return _line("`importer status`, the whole command", times, cpu / bench.pairs)


def _sensor(bench: Bench, settings: Settings, name: str, days: int) -> Line:
    """One evaluation of `arrivals` where everything is imported, as it happens each minute.

    Raises RuntimeError if it asks for a run, or if Dagster does not know all days of the type ``name``.
    """
    import dagster as dg

    from importer_dagster.defs.catchup import look

    specs = load_specs(settings.specs)
    with dg.DagsterInstance.get() as instance:

        def evaluate() -> None:
            now = datetime.now(UTC)
            answers = list(look(instance, settings, specs, now=now, last=now, by=f"tick {time.time()}"))
            if any(isinstance(answer, dg.RunRequest) for answer in answers):
                raise RuntimeError(f"The sensor asks for runs, though all is imported: {answers[:3]}")

        known = instance.get_materialized_partitions(dg.AssetKey(name))
        if len(known) != days:
            raise RuntimeError(f"Dagster knows {len(known)} days of {name} instead of {days}")
        evaluate()
        before = time.process_time()
        times = _times(bench, evaluate)
        cpu = (time.process_time() - before) / bench.pairs
    return _line("One evaluation of the sensor `arrivals`", times, cpu)


def _times(bench: Bench, work: Callable[[], None]) -> list[float]:
    times = []
    for _ in range(bench.pairs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def _line(what: str, times: list[float], cpu: float) -> Line:
    seconds = statistics.median(times)
    return Line(
        f"{what} ({cpu:.2f} s of CPU)",
        f"{seconds:.2f} s",
        f"{min(times):.2f}–{max(times):.2f}",
        f"≤ {SECONDS:g} s",
        seconds <= SECONDS,
    )


# --- copies of one day ---------------------------------------------------------------------------

_LOADS = """
    INSERT INTO importer.loads (type, tenant, business_date, path, bytes, sha256, spec_hash, status, rows_read,
        rows_loaded, rows_rejected, rows_skipped, rows_unchanged, reason, run_id, started_at, finished_at, stamp)
    SELECT type, tenant, business_date - k, replace(path, business_date::text, (business_date - k)::text), bytes,
           sha256, spec_hash, status, rows_read, rows_loaded, rows_rejected, rows_skipped, rows_unchanged, reason,
           md5(run_id || k)::uuid::text, started_at - make_interval(days => k),
           finished_at - make_interval(days => k), stamp
    FROM importer.loads, generate_series(%(back)s, 1, -1) k WHERE business_date = %(day)s
"""

# What differs in the text of another day: run id, day, the window of the day in seconds, time of the event.
_TEXT = """
    regexp_replace(
        replace(replace(replace(replace({column},
            %(run)s::text, md5(%(run)s::text || k)::uuid::text),
            %(day)s::text, (%(day)s::text::date - k)::text),
            %(start)s::text || '.0', (%(start)s::text::bigint - 86400 * k) || '.0'),
            %(end)s::text || '.0', (%(end)s::text::bigint - 86400 * k) || '.0'),
        '"timestamp": [0-9.]+, "user_message"',
        '"timestamp": ' || extract(epoch FROM {time} - make_interval(days => k)) || ', "user_message"')
"""

_RUNS = """
    INSERT INTO runs (id, run_id, snapshot_id, pipeline_name, mode, status, run_body, partition, partition_set,
                      create_timestamp, update_timestamp, start_time, end_time)
    SELECT id - k, md5(run_id || k)::uuid::text, snapshot_id, pipeline_name, mode, status, {text},
           (%(day)s::text::date - k)::text, partition_set, create_timestamp - make_interval(days => k),
           update_timestamp - make_interval(days => k), start_time - 86400 * k, end_time - 86400 * k
    FROM runs, generate_series(1, %(back)s) k WHERE run_id = %(run)s::text
"""

_TAGS = """
    INSERT INTO run_tags (run_id, key, value)
    SELECT md5(run_id || k)::uuid::text, key,
           replace(replace(value, %(day)s::text, (%(day)s::text::date - k)::text), %(run)s::text, md5(%(run)s::text || k)::uuid::text)
    FROM run_tags, generate_series(1, %(back)s) k WHERE run_id = %(run)s::text
"""

_EVENTS = """
    INSERT INTO event_logs (id, run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
    SELECT id - k * %(span)s, md5(run_id || k)::uuid::text, {text}, dagster_event_type,
           timestamp - make_interval(days => k), step_key, asset_key,
           CASE WHEN partition IS NOT NULL THEN (%(day)s::text::date - k)::text END
    FROM event_logs, generate_series(1, %(back)s) k WHERE run_id = %(run)s::text
"""

_EVENT_TAGS = """
    INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)
    SELECT event_id - k * %(span)s, asset_key, key, value, event_timestamp - make_interval(days => k)
    FROM asset_event_tags, generate_series(1, %(back)s) k
"""

_CHECKS = """
    INSERT INTO asset_check_executions (id, asset_key, check_name, partition, run_id, execution_status,
        evaluation_event, evaluation_event_timestamp, evaluation_event_storage_id,
        materialization_event_storage_id, create_timestamp)
    SELECT id - k * %(check_span)s, asset_key, check_name,
           CASE WHEN partition IS NOT NULL THEN (%(day)s::text::date - k)::text END,
           md5(run_id || k)::uuid::text, execution_status, {text},
           evaluation_event_timestamp - make_interval(days => k), evaluation_event_storage_id - k * %(span)s,
           materialization_event_storage_id - k * %(span)s, create_timestamp - make_interval(days => k)
    FROM asset_check_executions, generate_series(1, %(back)s) k WHERE run_id = %(run)s::text
"""


def _fill_ledger(conn: psycopg.Connection, settings: Settings, day: date, days: int) -> int:
    """Copy the loads of ``day`` to each of the ``days - 1`` days before; returns how many loads there are.

    Where the inbox has files of such a day, their loads get the version and the size of these
    files, as if these files had been imported.
    """
    conn.execute(_LOADS, {"day": day, "back": days - 1})
    specs = load_specs(settings.specs)
    listed = find_deliveries(settings.inbox_url, specs, default_path=settings.default_path)
    conn.cursor().executemany(
        "UPDATE importer.loads SET stamp = %s, bytes = %s"
        " WHERE (type, tenant, business_date, path) = (%s, %s, %s, %s)",
        [(d.file_version, d.size, d.type, d.tenant, d.business_date, d.path) for d in listed],
    )
    conn.commit()
    conn.execute("ANALYZE importer.loads")
    wanted = compare(conn, listed, specs).wanted
    if wanted:
        raise RuntimeError(f"{len(wanted)} files of the inbox are taken for new, such as {wanted[0].path}")
    return _count(conn, "importer.loads")


def _fill_dagster(conn: psycopg.Connection, run_id: str, day: date, days: int) -> int:
    """Copy the records of the only run, that of ``day``, to each day before; returns how many events there are."""
    start = int((day - date(1970, 1, 1)).total_seconds())
    values = {
        "run": run_id,
        "day": day.isoformat(),
        "start": str(start),
        "end": str(start + 86400),
        "back": days - 1,
        "span": _move_up(conn, "event_logs", days - 1),
        "check_span": _move_up(conn, "asset_check_executions", days - 1),
    }
    conn.execute("UPDATE asset_event_tags SET event_id = event_id + %s", (values["span"] * (days - 1),))
    conn.execute(
        "UPDATE asset_check_executions SET evaluation_event_storage_id = evaluation_event_storage_id + %(up)s,"
        " materialization_event_storage_id = materialization_event_storage_id + %(up)s",
        {"up": values["span"] * (days - 1)},
    )
    conn.execute("UPDATE runs SET id = id + %s", (days - 1,))
    for statement, column, timestamp in (
        (_RUNS, "run_body", "create_timestamp"),
        (_TAGS, None, None),
        (_EVENTS, "event", "timestamp"),
        (_EVENT_TAGS, None, None),
        (_CHECKS, "evaluation_event", "evaluation_event_timestamp"),
    ):
        text = _TEXT.format(column=column, time=timestamp) if column else ""
        conn.execute(statement.format(text=text).encode(), values)
    for table in ("event_logs", "asset_check_executions", "runs"):
        conn.execute(
            sql.SQL("SELECT setval(pg_get_serial_sequence({}, 'id'), max(id)) FROM {}").format(
                table, sql.Identifier(table)
            )
        )
    conn.commit()
    conn.execute("ANALYZE")
    conn.commit()
    return _count(conn, "event_logs")


def _move_up(conn: psycopg.Connection, table: str, times: int) -> int:
    """Raise all ids, so that ``times`` copies with lower ids fit in; returns the distance from one copy to the next."""
    row = conn.execute(sql.SQL("SELECT max(id) FROM {}").format(sql.Identifier(table))).fetchone()
    span = int(row[0] or 0) if row else 0
    # first to negative ids: a unique key is checked row by row
    for change in (sql.SQL("-id"), sql.SQL("{} - id").format(span * times)):
        conn.execute(sql.SQL("UPDATE {} SET id = {}").format(sql.Identifier(table), change))
    return span


def _count(conn: psycopg.Connection, table: str) -> int:
    row = conn.execute(
        sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".")))
    ).fetchone()
    assert row
    return int(row[0])
