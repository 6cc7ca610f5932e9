"""Writes the rows of ``importer.loads`` and the gate's findings: a row for each load, and how it ended.

Nothing is committed here: the caller decides what belongs to one transaction.

What does not belong here: queries (``ledger/queries.py``), drift events (``ledger/drift.py``), rejects
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
    """Insert the load's row and return its number; other sessions see it when the transaction commits."""
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
    """Send the INSERT of a load's row, in a pipeline if one is open; call the result for the load's number.

    ``load_id`` is given for a row that will be rolled back, since a number from the sequence would be
    lost. Where another load of the delivery meets the SQL condition ``unless``, no row is written and
    the number is None.
    """
    key = "(%(type)s, %(tenant)s, %(day)s, %(path)s)"
    inserted = conn.execute(
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

    def number() -> int | None:
        row = inserted.fetchone()
        return int(row[0]) if row else None

    return number


def number_of_rehearsal() -> int:
    """A random load_id beyond all real ones, so that rehearsals at the same time have different ones."""
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
    """Complete the load's row. ``counts`` has the five rows_… figures; a constraint of the table checks their sum."""
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
    """The server's time, and ``count`` new load_ids in ascending order, for :func:`write_loaded`."""
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
    """Insert the complete rows of loads of one type and tenant in one statement; none of them has a reject.

    ``loads`` has at least one, ``file_versions`` as many.
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
    """Record that load ``new`` replaces load ``old``; None: that nothing replaces it."""
    conn.execute("UPDATE importer.loads SET superseded_by = %s WHERE load_id = %s", (new, old))


def unloaded(conn: psycopg.Connection, load_id: int, *, by: str | None, why: str | None) -> None:
    """Record that a load was unloaded, when, by whom and why."""
    conn.execute(
        """
        UPDATE importer.loads
        SET status = 'unloaded', finished_at = clock_timestamp(), decided_by = %s, reason = %s
        WHERE load_id = %s
        """,
        (by, why, load_id),
    )


def give_up_held(conn: psycopg.Connection, delivery: Delivery, new: int, words: str) -> list[int]:
    """Refuse the held loads of a delivery, since load ``new`` has newer content; returns their numbers."""
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
    """Record that a person refused a held load."""
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
    """Record that a person released a held load; ``counts`` says what became of its ``held`` rows."""
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
    """Record the file version under which a load's content was last seen."""
    conn.execute("UPDATE importer.loads SET stamp = %s WHERE load_id = %s", (file_version, load_id))


def set_file_versions(conn: psycopg.Connection, file_versions: Mapping[int, str | None]) -> set[int]:
    """Record file versions of many loads; returns those that were in force and not locked by another session."""
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
