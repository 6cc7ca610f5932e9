"""The record of what happened: a row for each load, and what becomes of it.

Nothing is committed here: the caller decides what belongs together in one
transaction. What does not belong here: what is asked of the ledger
(``ledger/queries.py``), drift events (``ledger/drift.py``), rejects
(``ledger/rejects.py``), the tables themselves (``ledger/schema.py``), data
tables (``writer/publish.py``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import LiteralString

import psycopg

from importer_dagster.model import Delivery, Finding, LoadResult

_COUNTS = ("rows_read", "rows_loaded", "rows_rejected", "rows_skipped", "rows_unchanged")


def begin_load(conn: psycopg.Connection, delivery: Delivery, spec_hash: str, run_id: str | None) -> int:
    """Write the load's row and return its number; others see it, complete, when the transaction commits."""
    load_id = begin_load_deferred(conn, delivery, spec_hash, run_id)()
    assert load_id is not None
    return load_id


def begin_load_deferred(
    conn: psycopg.Connection,
    delivery: Delivery,
    spec_hash: str,
    run_id: str | None,
    *,
    load_id: int | None = None,
    unless: LiteralString = "FALSE",
) -> Callable[[], int | None]:
    """The same in two steps, so that other statements may go along in a pipeline: ask, and see the answer.

    ``load_id`` is given where the row will be rolled back: a number taken would stay taken.
    Where another load of the delivery meets the condition ``unless``, no row is written, and the answer is None.
    """
    key = "(%(type)s, %(tenant)s, %(day)s, %(path)s)"
    asked = conn.execute(
        f"""
        INSERT INTO importer.loads (load_id, type, tenant, business_date, path, spec_hash, status, run_id)
        SELECT coalesce(%(load_id)s::bigint, nextval(pg_get_serial_sequence('importer.loads', 'load_id'))),
               %(type)s, %(tenant)s, %(day)s, %(path)s, %(spec_hash)s, 'loading', %(run_id)s
        WHERE NOT EXISTS (
            SELECT FROM importer.loads WHERE (type, tenant, business_date, path) = {key} AND {unless})
        RETURNING load_id
        """,  # noqa: S608 - our own words
        {
            "load_id": load_id,
            "type": delivery.type,
            "tenant": delivery.tenant,
            "day": delivery.business_date,
            "path": delivery.path,
            "spec_hash": spec_hash,
            "run_id": run_id,
        },
    )

    def answer() -> int | None:
        row = asked.fetchone()
        return int(row[0]) if row else None

    return answer


def number_of_rehearsal() -> int:
    """A load_id beyond all real ones, another for each of several rehearsals at a time."""
    return 2**62 + secrets.randbelow(2**60)


def finish_load(
    conn: psycopg.Connection,
    load_id: int,
    *,
    status: str,
    counts: dict[str, int],
    size: int | None,
    sha256: str | None,
    file_version: str | None = None,
    reason: str | None = None,
) -> None:
    """Complete the load's row. ``counts`` has the five rows_… figures; the table checks their sum."""
    conn.execute(
        """
        UPDATE importer.loads
        SET status = %(status)s, bytes = %(bytes)s, sha256 = %(sha256)s, stamp = %(stamp)s,
            reason = %(reason)s,
            rows_read = %(rows_read)s, rows_loaded = %(rows_loaded)s, rows_rejected = %(rows_rejected)s,
            rows_skipped = %(rows_skipped)s, rows_unchanged = %(rows_unchanged)s,
            finished_at = clock_timestamp()
        WHERE load_id = %(load_id)s
        """,
        {
            **{name: counts.get(name, 0) for name in _COUNTS},
            "status": status,
            "bytes": size,
            "sha256": sha256,
            "stamp": file_version,
            "reason": reason,
            "load_id": load_id,
        },
    )


def take_numbers(conn: psycopg.Connection, count: int) -> tuple[datetime, list[int]]:
    """The time now, and load_ids in ascending order, for :func:`write_loaded`."""
    rows = conn.execute(
        """
        SELECT nextval(pg_get_serial_sequence('importer.loads', 'load_id')), clock_timestamp()
        FROM generate_series(1, %s)
        """,
        (count,),
    ).fetchall()
    return rows[0][1], sorted(row[0] for row in rows)


def write_loaded(
    conn: psycopg.Connection,
    loads: Sequence[LoadResult],
    file_versions: Sequence[str | None],
    spec_hash: str,
    run_id: str | None,
    started_at: datetime,
) -> None:
    """The rows of loads of one type and tenant, complete, in one statement; of each all records are loaded.

    ``file_versions`` has one for each of ``loads``, of which there is at least one.
    """
    first = loads[0].delivery
    conn.execute(
        """
        INSERT INTO importer.loads (
            load_id, type, tenant, business_date, path, bytes, sha256, stamp, spec_hash, status, run_id,
            rows_read, rows_loaded, started_at, finished_at)
        SELECT load_id, %(type)s, %(tenant)s, business_date, path, bytes, sha256, stamp, %(spec_hash)s, 'loaded',
               %(run_id)s, rows_read, rows_loaded, %(started_at)s, clock_timestamp()
        FROM unnest(%(numbers)s::bigint[], %(days)s::date[], %(paths)s::text[], %(sizes)s::bigint[],
                    %(hashes)s::text[], %(stamps)s::text[], %(read)s::bigint[], %(loaded)s::bigint[])
            AS d (load_id, business_date, path, bytes, sha256, stamp, rows_read, rows_loaded)
        """,
        {
            "type": first.type,
            "tenant": first.tenant,
            "spec_hash": spec_hash,
            "run_id": run_id,
            "started_at": started_at,
            "numbers": [r.load_id for r in loads],
            "days": [r.delivery.business_date for r in loads],
            "paths": [r.delivery.path for r in loads],
            "sizes": [r.bytes for r in loads],
            "hashes": [r.sha256 for r in loads],
            "stamps": list(file_versions),
            "read": [r.rows_read for r in loads],
            "loaded": [r.rows_loaded for r in loads],
        },
    )


def write_findings(conn: psycopg.Connection, load_id: int, findings: Sequence[Finding]) -> None:
    """Record what the gate objected to."""
    if findings:
        conn.cursor().executemany(
            "INSERT INTO importer.gate (load_id, rule, action, detail) VALUES (%s, %s, %s, %s)",
            [(load_id, f.rule, f.action, f.detail) for f in findings],
        )


def supersede(conn: psycopg.Connection, old: int, new: int | None) -> None:
    """Say that load ``new`` stands in place of load ``old``; None: that nothing does."""
    conn.execute("UPDATE importer.loads SET superseded_by = %s WHERE load_id = %s", (new, old))


def unloaded(conn: psycopg.Connection, load_id: int, *, by: str | None, why: str | None) -> None:
    """Say that a load was taken out, when, by whom and why."""
    conn.execute(
        """
        UPDATE importer.loads
        SET status = 'unloaded', finished_at = clock_timestamp(), decided_by = %s, reason = %s
        WHERE load_id = %s
        """,
        (by, why, load_id),
    )


def give_up_held(conn: psycopg.Connection, delivery: Delivery, new: int, words: str) -> list[int]:
    """Refuse what is held of a delivery, since ``new`` is its content by now; the loads given up."""
    rows = conn.execute(
        """
        UPDATE importer.loads
        SET status = 'refused', superseded_by = %s, finished_at = clock_timestamp(), reason = %s
        WHERE (type, tenant, business_date, path) = (%s, %s, %s, %s) AND status = 'held' RETURNING load_id
        """,
        (new, words, delivery.type, delivery.tenant, delivery.business_date, delivery.path),
    ).fetchall()
    return [row[0] for row in rows]


def refuse_held(conn: psycopg.Connection, load_id: int, *, by: str | None, why: str | None) -> None:
    """Say that a person refused a held load."""
    conn.execute(
        """
        UPDATE importer.loads
        SET status = 'refused', finished_at = clock_timestamp(), decided_by = coalesce(%s, ''),
            reason = concat_ws('; ', 'refused by ' || nullif(%s, ''), %s::text, 'was ' || reason)
        WHERE load_id = %s
        """,
        (by, by, why, load_id),
    )


def release_held(
    conn: psycopg.Connection,
    load_id: int,
    held: int,
    counts: dict[str, int],
    *,
    by: str | None,
    why: str | None,
) -> None:
    """Say that a person released a held load, and what became of its ``held`` rows."""
    conn.execute(
        """
        UPDATE importer.loads
        SET status = 'loaded', rows_loaded = %(rows_loaded)s, rows_unchanged = %(rows_unchanged)s,
            rows_skipped = rows_skipped - %(held)s + %(rows_skipped)s, finished_at = clock_timestamp(),
            decided_by = %(by)s, reason = concat_ws('; ', 'released', %(why)s::text, 'was ' || reason)
        WHERE load_id = %(load_id)s
        """,
        {**counts, "held": held, "by": by, "why": why, "load_id": load_id},
    )


def set_file_version(conn: psycopg.Connection, load_id: int, file_version: str | None) -> None:
    """Say that a file with this stamp has the content of a load."""
    conn.execute("UPDATE importer.loads SET stamp = %s WHERE load_id = %s", (file_version, load_id))


def set_file_versions(conn: psycopg.Connection, file_versions: Mapping[int, str | None]) -> set[int]:
    """The same for many loads; those that were done: in force, and not being changed by another session."""
    rows = conn.execute(
        """
        UPDATE importer.loads l SET stamp = d.stamp
        FROM unnest(%s::bigint[], %s::text[]) AS d (load_id, stamp)
        WHERE l.load_id = d.load_id AND l.load_id IN (
            SELECT load_id FROM importer.loads
            WHERE load_id = ANY(%s) AND status = 'loaded' AND superseded_by IS NULL FOR UPDATE SKIP LOCKED)
        RETURNING l.load_id
        """,
        (list(file_versions), list(file_versions.values()), list(file_versions)),
    )
    return {row[0] for row in rows}
