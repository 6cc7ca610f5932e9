"""Drift events in the ledger: those of a load, and those that versions of a type declare.

Nothing is committed here: the caller decides what belongs to one transaction.

What does not belong here: finding drift (``validation/drift.py``,
``spec/versions.py``), and what is proposed for it (``operations/spec_proposals.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from importer_dagster.model import DriftEvent


def write(conn: psycopg.Connection, load_id: int, events: Sequence[DriftEvent]) -> None:
    """Record drift events of a load."""
    if events:
        conn.cursor().executemany(
            """
            INSERT INTO importer.drift (load_id, kind, column_name, detail, declared, profile)
            VALUES (%s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    load_id,
                    e.kind,
                    e.column_name,
                    e.detail,
                    e.declared,
                    Jsonb(e.profile) if e.profile else None,
                )
                for e in events
            ],
        )


def record_versions(
    conn: psycopg.Connection,
    type_name: str,
    tenant: str,
    versions: Sequence[tuple[date, Sequence[DriftEvent]]],
) -> None:
    """Record what each version declares with the first delivery of its days, in whatever order files came.

    ``versions`` are (first day, what it declares) in order of date. Mostly the record is right already.
    """
    ends = [*(since for since, _ in versions[1:]), date.max]
    for (since, events), end in zip(versions, ends, strict=True):
        rows = conn.execute(
            """
            SELECT load_id FROM importer.loads
            WHERE type = %s AND tenant = %s AND status = 'loaded' AND superseded_by IS NULL
              AND business_date >= %s AND business_date < %s
            ORDER BY business_date, path COLLATE "C" LIMIT 1
            """,
            (type_name, tenant, since, end),
        ).fetchall()
        wanted = [(rows[0][0], e.kind, e.column_name, e.detail) for e in events] if rows else []
        found = conn.execute(
            """
            SELECT d.load_id, d.kind, d.column_name, d.detail
            FROM importer.drift d JOIN importer.loads l USING (load_id)
            WHERE d.version = %s AND l.type = %s AND l.tenant = %s
            """,
            (since, type_name, tenant),
        ).fetchall()
        if sorted(map(repr, found)) == sorted(map(repr, wanted)):
            continue
        conn.execute(
            "DELETE FROM importer.drift WHERE version = %s AND load_id = ANY(%s)",
            (since, [row[0] for row in found]),
        )
        conn.cursor().executemany(
            """
            INSERT INTO importer.drift (load_id, kind, column_name, detail, declared, version)
            VALUES (%s, %s, %s, %s, true, %s)
            """,
            [(*row, since) for row in wanted],
        )


def version_events(conn: psycopg.Connection, load_id: int) -> tuple[DriftEvent, ...]:
    """What a version declares, if the load is the version's first; else nothing."""
    rows = conn.execute(
        "SELECT kind, column_name, detail FROM importer.drift WHERE load_id = %s AND version IS NOT NULL",
        (load_id,),
    )
    return tuple(DriftEvent(kind, column, detail, declared=True) for kind, column, detail in rows)


def deliveries_with_drift(conn: psycopg.Connection, type_name: str) -> list[dict[str, Any]]:
    """Deliveries of a type that are in force, or refused and not imported since; each with its drift events.

    Keys: load_id, tenant, day, path, status, drift (a list of mappings).
    """
    return (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT l.load_id, l.tenant, l.business_date AS day, l.path, l.status,
                   coalesce(jsonb_agg(to_jsonb(d) - 'load_id') FILTER (WHERE d.load_id IS NOT NULL), '[]') AS drift
            FROM importer.loads l LEFT JOIN importer.drift d USING (load_id)
            WHERE l.type = %s AND l.superseded_by IS NULL
              AND (l.status = 'loaded' OR (l.status = 'refused' AND NOT EXISTS (
                  SELECT FROM importer.loads n
                  WHERE (n.type, n.tenant, n.business_date, n.path) = (l.type, l.tenant, l.business_date, l.path)
                    AND n.load_id > l.load_id)))
            GROUP BY l.load_id ORDER BY l.business_date, l.path COLLATE "C"
            """,
            (type_name,),
        )
        .fetchall()
    )
