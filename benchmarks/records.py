"""A long history made out of one real day: the ledger's loads and Dagster's records, copied in the database.

Dagster's rows are copied as Dagster wrote them, planned events and steps and all; only
ids, days and times differ. An earlier day has lower ids, so that the real day stays the
latest. Nothing of BI's tables is copied: nobody asks them about the history.

What does not belong here: measuring (``year.py``).
"""

from __future__ import annotations

from datetime import date

import psycopg
from psycopg import sql

from importer_dagster.ledger.arrivals import compare
from importer_dagster.settings import Settings
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.spec.loading import load_specs

_LOADS = """
    INSERT INTO importer.loads (type, tenant, business_date, path, bytes, sha256, spec_hash, status, rows_read,
        rows_loaded, rows_rejected, rows_skipped, rows_unchanged, reason, run_id, started_at, finished_at, stamp)
    SELECT type, tenant, business_date - k, replace(path, business_date::text, (business_date - k)::text), bytes,
           sha256, spec_hash, status, rows_read, rows_loaded, rows_rejected, rows_skipped, rows_unchanged, reason,
           md5(run_id || k)::uuid::text, started_at - make_interval(days => k),
           finished_at - make_interval(days => k), stamp
    FROM importer.loads, generate_series(%(back)s, 1, -1) k WHERE business_date = %(day)s
"""

# What differs in a text of another day: the run, the day, its window in seconds, the time of the event.
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


def fill_ledger(conn: psycopg.Connection, settings: Settings, day: date, days: int) -> int:
    """The loads of ``day`` once more for each of the ``days - 1`` days before; returns how many loads there are.

    Where the inbox still has the files of such a day, their loads get the stamps of
    these files, as if they had been imported.
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
        raise RuntimeError(f"{len(wanted)} files of the inbox are not settled, such as {wanted[0].path}")
    return _count(conn, "importer.loads")


def fill_dagster(conn: psycopg.Connection, run_id: str, day: date, days: int) -> int:
    """The records of the only run, that of ``day``, once more for each day before; returns how many events there are."""
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
    for statement, column, time in (
        (_RUNS, "run_body", "create_timestamp"),
        (_TAGS, None, None),
        (_EVENTS, "event", "timestamp"),
        (_EVENT_TAGS, None, None),
        (_CHECKS, "evaluation_event", "evaluation_event_timestamp"),
    ):
        text = _TEXT.format(column=column, time=time) if column else ""
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
    """Make room for that many copies with lower ids; returns how far one is from the next."""
    row = conn.execute(sql.SQL("SELECT max(id) FROM {}").format(sql.Identifier(table))).fetchone()
    span = int(row[0] or 0) if row else 0
    # by way of negative ids: a unique key is looked at row by row
    for change in (sql.SQL("-id"), sql.SQL("{} - id").format(span * times)):
        conn.execute(sql.SQL("UPDATE {} SET id = {}").format(sql.Identifier(table), change))
    return span


def _count(conn: psycopg.Connection, table: str) -> int:
    row = conn.execute(
        sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".")))
    ).fetchone()
    assert row
    return int(row[0])
