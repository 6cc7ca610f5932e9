"""Queries of the ledger: loads in force, the newest one, earlier counts, held loads. Nothing here writes.

What does not belong here: what is written (``ledger/loads.py``),
drift events (``ledger/drift.py``), rejects (``ledger/rejects.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from importer_dagster.errors import UsageError
from importer_dagster.model import Delivery, Rank

Key = tuple[str, str, date, str]


# remedy for days before the horizon of an scd2 type with `absent: close`: only versions of its rows are kept
ONLY_ANEW = "To correct such days, give the type a new name and import its files again"


@dataclass(frozen=True)
class ActiveLoad:
    """A load that decides what happens when its delivery is sent again: in force, held, or refused by a person."""

    load_id: int
    status: str
    sha256: str | None
    reason: str | None
    rows_read: int
    rows_rejected: int
    rows_skipped: int
    file_version: str | None
    bytes: int | None


def key_of(delivery: Delivery) -> Key:
    """What identifies a delivery: type, tenant, business date, path."""
    return delivery.type, delivery.tenant, delivery.business_date, delivery.path


_ACTIVE_LOAD: LiteralString = "load_id, status, sha256, reason, rows_read, rows_rejected, rows_skipped, stamp, bytes"  # as the fields of ActiveLoad
# SQL condition for an ActiveLoad
IS_ACTIVE: LiteralString = """
    ((status = 'loaded' AND superseded_by IS NULL) OR status = 'held' OR (status = 'refused' AND decided_by IS NOT NULL))
"""


def active_loads(conn: psycopg.Connection, delivery: Delivery) -> list[ActiveLoad]:
    """The active loads of a delivery in order of their numbers; at most one is in force and one held."""
    return active_loads_deferred(conn, delivery)()


def active_loads_deferred(conn: psycopg.Connection, delivery: Delivery) -> Callable[[], list[ActiveLoad]]:
    """Send the query for the active loads of a delivery, in a pipeline if one is open; call the result for them."""
    sent = conn.execute(
        f"SELECT {_ACTIVE_LOAD} FROM importer.loads "  # noqa: S608 - our own words
        f"WHERE (type, tenant, business_date, path) = (%s, %s, %s, %s) AND {IS_ACTIVE} ORDER BY load_id",
        key_of(delivery),
    )
    return lambda: [ActiveLoad(*row) for row in sent.fetchall()]


def active_loads_of(conn: psycopg.Connection, deliveries: Sequence[Delivery]) -> dict[Key, list[ActiveLoad]]:
    """The active loads of many deliveries by one query; deliveries without any are left out."""
    types, tenants, days, paths = zip(*map(key_of, deliveries), strict=True) if deliveries else ([],) * 4
    rows = conn.execute(
        f"SELECT type, tenant, business_date, path, {_ACTIVE_LOAD} "  # noqa: S608 - our own words
        "FROM unnest(%s::text[], %s::text[], %s::date[], %s::text[]) AS d (type, tenant, business_date, path) "
        f"JOIN importer.loads USING (type, tenant, business_date, path) WHERE {IS_ACTIVE} ORDER BY load_id",
        (list(types), list(tenants), list(days), list(paths)),
    )
    found: dict[Key, list[ActiveLoad]] = {}
    for row in rows:
        found.setdefault(row[:4], []).append(ActiveLoad(*row[4:]))
    return found


def in_force(conn: psycopg.Connection, delivery: Delivery) -> int | None:
    """The load of a delivery that is in force, if any."""
    row = conn.execute(
        """
        SELECT load_id FROM importer.loads
        WHERE (type, tenant, business_date, path) = (%s, %s, %s, %s)
          AND status = 'loaded' AND superseded_by IS NULL
        """,
        key_of(delivery),
    ).fetchone()
    return row[0] if row else None


def replaced_by(conn: psycopg.Connection, load_id: int) -> dict[str, Any] | None:
    """The load that ``load_id`` replaced under the same path, unless it was unloaded; it could be in force again."""
    rows = _dict_rows(
        conn, "SELECT * FROM importer.loads WHERE superseded_by = %s AND status = 'loaded'", (load_id,)
    )
    return rows[0] if rows else None


def newest_rank(conn: psycopg.Connection, type_name: str, tenant: str, *, besides: int | None) -> Rank | None:
    """The rank of the newest delivery in force of a type and tenant; load ``besides`` does not count."""
    return newest_rank_deferred(conn, type_name, tenant, besides=besides)()


def newest_rank_deferred(
    conn: psycopg.Connection, type_name: str, tenant: str, *, besides: int | None
) -> Callable[[], Rank | None]:
    """Send the query of :func:`newest_rank`, in a pipeline if one is open; call the result for the rank."""
    sent: psycopg.Cursor[Rank] = conn.execute(
        """
        SELECT business_date, path FROM importer.loads
        WHERE type = %s AND tenant = %s AND status = 'loaded' AND superseded_by IS NULL
          AND load_id IS DISTINCT FROM %s
        ORDER BY business_date DESC, path COLLATE "C" DESC LIMIT 1
        """,
        (type_name, tenant, besides),
    )
    return sent.fetchone


def pruned_until(
    conn: psycopg.Connection, type_name: str, tenant: str, *, also: int | None = None
) -> tuple[date, datetime] | None:
    """The last business date whose replaced rows retention has deleted, and when; None if there is none.

    Only loads in force count. ``also`` is a load that counts although this transaction has replaced it.
    """
    row: tuple[date, datetime] | None = conn.execute(
        """
        SELECT business_date, pruned_at FROM importer.loads
        WHERE type = %s AND tenant = %s AND pruned_at IS NOT NULL
          AND status = 'loaded' AND (superseded_by IS NULL OR load_id = %s)
        ORDER BY business_date DESC LIMIT 1
        """,
        (type_name, tenant, also),
    ).fetchone()
    return row


def earlier_counts(
    conn: psycopg.Connection, delivery: Delivery, over: int, *, besides: int | None
) -> list[int]:
    """Numbers of records of the last ``over`` deliveries in force before this one, by business date and path."""
    rows = conn.execute(
        """
        SELECT rows_read FROM importer.loads
        WHERE type = %s AND tenant = %s AND status = 'loaded' AND superseded_by IS NULL
          AND (business_date, path COLLATE "C") < (%s, %s) AND load_id IS DISTINCT FROM %s
        ORDER BY business_date DESC, path COLLATE "C" DESC LIMIT %s
        """,
        (delivery.type, delivery.tenant, delivery.business_date, delivery.path, besides, over),
    ).fetchall()
    return [row[0] for row in rows]


def day_has_rows(conn: psycopg.Connection, delivery: Delivery, *, besides: int | None) -> bool:
    """Whether another delivery in force of the same day brought rows."""
    row = conn.execute(
        """
        SELECT EXISTS (SELECT FROM importer.loads
            WHERE type = %s AND tenant = %s AND business_date = %s AND status = 'loaded'
              AND superseded_by IS NULL AND load_id IS DISTINCT FROM %s
              AND rows_read > rows_rejected)
        """,
        (delivery.type, delivery.tenant, delivery.business_date, besides),
    ).fetchone()
    assert row
    return bool(row[0])


def held_loads(conn: psycopg.Connection) -> list[dict[str, Any]]:
    """Held loads, the oldest first."""
    return _dict_rows(
        conn,
        """
        SELECT load_id, type, tenant, business_date, path, rows_read, rows_rejected, reason, finished_at
        FROM importer.loads WHERE status = 'held' ORDER BY load_id
        """,
    )


def status_rows(conn: psycopg.Connection) -> list[dict[str, Any]]:
    """The status view: one row per type and tenant."""
    return _dict_rows(conn, "SELECT * FROM importer.status ORDER BY type, tenant")


def get_load(conn: psycopg.Connection, load_id: int) -> dict[str, Any]:
    """One row of importer.loads; raises UsageError if there is none."""
    rows = _dict_rows(conn, "SELECT * FROM importer.loads WHERE load_id = %s", (load_id,))
    if not rows:
        raise UsageError(f"There is no load {load_id} in the ledger; `importer status` shows what there is.")
    return rows[0]


def _dict_rows(
    conn: psycopg.Connection, query: LiteralString, values: Sequence[Any] = ()
) -> list[dict[str, Any]]:
    return conn.cursor(row_factory=dict_row).execute(query, values).fetchall()
