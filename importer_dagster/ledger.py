"""The record of what happened: loads, rejects, drift events, and their migrations.

Every function takes a connection and commits nothing itself, except
``migrate``: the caller decides what belongs together in one transaction.

What does not belong here: data tables (``writer.py``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from importer_dagster.errors import UsageError, WarehouseError
from importer_dagster.model import Delivery, DriftEvent, Finding, LoadResult, Reason
from importer_dagster.sessions import single
from importer_dagster.warehouse import SETUP_LOCK, Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

LATEST_REVISION = "0010"

_COUNTS = ("rows_read", "rows_loaded", "rows_rejected", "rows_skipped", "rows_unchanged")


@dataclass(frozen=True)
class LoadRow:
    """What the ledger says of one load that is in force."""

    load_id: int
    business_date: date
    path: str
    sha256: str | None
    spec_hash: str
    rows_read: int
    rows_loaded: int
    rows_rejected: int
    rows_skipped: int
    rows_unchanged: int


def migrate(warehouse: Warehouse) -> None:
    """Bring schema ``importer`` to the latest revision; cheap when it is there already.

    Several processes may do so at once: an advisory lock lets one at a time. Raises
    WarehouseError for a ledger that a newer importer has made.
    """
    if "ledger" in warehouse.prepared:
        return
    with warehouse.connect() as conn:
        with single(conn):
            is_latest = _revision(conn) == LATEST_REVISION
        if not is_latest:
            # a session lock: alembic works on a connection and transaction of its own
            conn.execute("SELECT pg_advisory_lock(%s, 0)", (SETUP_LOCK,))
            conn.commit()
            if _revision(conn) != LATEST_REVISION:
                _run_alembic(warehouse)
    warehouse.prepared.add("ledger")


def _revision(conn: psycopg.Connection) -> str | None:
    if conn.execute("SELECT to_regclass('importer.schema_version')").fetchone() == (None,):
        return None
    row = conn.execute("SELECT version_num FROM importer.schema_version").fetchone()
    return row[0] if row else None


def _run_alembic(warehouse: Warehouse) -> None:
    """Run the migrations in one transaction. Imported late: it costs 0.3 s and is seldom needed."""
    import sqlalchemy as sa
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "importer_dagster:migrations")
    url = warehouse.url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except sa.exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from None
        raise
    except CommandError:  # the revision is none of ours
        raise WarehouseError(
            "The ledger (schema importer) was made by a newer version of the importer than this one. "
            "Update this one."
        ) from None


def in_force(conn: psycopg.Connection, delivery: Delivery) -> LoadRow | None:
    """The load of this very delivery (type, tenant, date, path) that is in force, if any."""
    row = conn.execute(
        """
        SELECT load_id, business_date, path, sha256, spec_hash,
               rows_read, rows_loaded, rows_rejected, rows_skipped, rows_unchanged
        FROM importer.loads
        WHERE (type, tenant, business_date, path) = (%s, %s, %s, %s)
          AND status = 'loaded' AND superseded_by IS NULL
        """,
        (delivery.type, delivery.tenant, delivery.business_date, delivery.path),
    ).fetchone()
    return LoadRow(*row) if row else None


def newest_rank(
    conn: psycopg.Connection, type_name: str, tenant: str, *, besides: int | None
) -> tuple[date, str] | None:
    """(business date, path) of the newest delivery in force for a type and tenant, ``besides`` left out."""
    row: tuple[date, str] | None = conn.execute(
        """
        SELECT business_date, path FROM importer.loads
        WHERE type = %s AND tenant = %s AND status = 'loaded' AND superseded_by IS NULL
          AND load_id IS DISTINCT FROM %s
        ORDER BY business_date DESC, path COLLATE "C" DESC LIMIT 1
        """,
        (type_name, tenant, besides),
    ).fetchone()
    return row


def pruned_until(
    conn: psycopg.Connection, type_name: str, tenant: str, *, also: int | None = None
) -> tuple[date, datetime] | None:
    """The last business date in force of which retention has deleted what stood aside, and when; None: of none.

    ``also`` is a load that is in force but for the transaction at hand.
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


def is_current(conn: psycopg.Connection) -> bool:
    """Whether the ledger is of this version of the importer."""
    return _revision(conn) == LATEST_REVISION


def is_usable(conn: psycopg.Connection) -> bool:
    """Whether there is a ledger, for one who must not change it.

    Raises WarehouseError where it is of another version of the importer.
    """
    revision = _revision(conn)
    if revision not in (None, LATEST_REVISION):
        raise WarehouseError(
            "The ledger (schema importer) is of another version of the importer. `importer status` brings an older "
            "one up to date, as any import does."
        )
    return revision is not None


def begin_load(
    conn: psycopg.Connection,
    delivery: Delivery,
    spec_hash: str,
    run_id: str | None,
    *,
    load_id: int | None = None,
) -> int:
    """Write the load's row; it shows up, complete, when the transaction commits.

    ``load_id`` is given where the row will be rolled back: a number taken would stay taken.
    """
    return ask_begin_load(conn, delivery, spec_hash, run_id, load_id=load_id)()


def ask_begin_load(
    conn: psycopg.Connection,
    delivery: Delivery,
    spec_hash: str,
    run_id: str | None,
    *,
    load_id: int | None = None,
) -> Callable[[], int]:
    """The same in two steps, so that other statements may go along in a pipeline: ask, and see the answer."""
    asked = conn.execute(
        """
        INSERT INTO importer.loads (load_id, type, tenant, business_date, path, spec_hash, status, run_id)
        VALUES (coalesce(%s, nextval(pg_get_serial_sequence('importer.loads', 'load_id'))), %s, %s, %s, %s, %s,
                'loading', %s) RETURNING load_id
        """,
        (load_id, delivery.type, delivery.tenant, delivery.business_date, delivery.path, spec_hash, run_id),
    )

    def answer() -> int:
        row = asked.fetchone()
        assert row
        return int(row[0])

    return answer


def number_of_rehearsal() -> int:
    """A load_id beyond all real ones, another for each of several rehearsals at a time."""
    return 2**62 + secrets.randbelow(2**60)


def supersede(conn: psycopg.Connection, old: int, new: int | None) -> None:
    """Say that load ``new`` stands in place of load ``old``; None: that nothing does."""
    conn.execute("UPDATE importer.loads SET superseded_by = %s WHERE load_id = %s", (new, old))


def replaced_by(conn: psycopg.Connection, load_id: int) -> dict[str, Any] | None:
    """The load whose content the same path had before ``load_id``, if it could be in force again."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute("SELECT * FROM importer.loads WHERE superseded_by = %s AND status = 'loaded'", (load_id,))
        .fetchone()
    )


# --- the gate: what was usual, what is held, what people decided ---------------------------


@dataclass(frozen=True)
class Standing:
    """A load of a delivery that answers for it when it is sent again: in force, held, or refused by a person."""

    load_id: int
    status: str
    sha256: str | None
    reason: str | None
    decided_by: str | None
    rows_read: int
    rows_rejected: int
    rows_skipped: int
    stamp: str | None
    bytes: int | None


Key = tuple[str, str, date, str]


def key_of(delivery: Delivery) -> Key:
    """What tells one delivery from another: type, tenant, business date, path."""
    return delivery.type, delivery.tenant, delivery.business_date, delivery.path


_STANDING = """
    load_id, status, sha256, reason, decided_by, rows_read, rows_rejected, rows_skipped, stamp, bytes
"""
_STANDS = """
    ((status = 'loaded' AND superseded_by IS NULL) OR status = 'held' OR (status = 'refused' AND decided_by IS NOT NULL))
"""


def standing(conn: psycopg.Connection, delivery: Delivery) -> list[Standing]:
    """Loads of this very delivery that answer for it, in order; at most one is in force and one held."""
    return ask_standing(conn, delivery)()


def ask_standing(conn: psycopg.Connection, delivery: Delivery) -> Callable[[], list[Standing]]:
    """The same in two steps, so that other statements may go along in a pipeline: ask, and see the answer."""
    asked = conn.execute(
        f"SELECT {_STANDING} FROM importer.loads "  # noqa: S608 - our own words
        f"WHERE (type, tenant, business_date, path) = (%s, %s, %s, %s) AND {_STANDS} ORDER BY load_id",
        key_of(delivery),
    )
    return lambda: [Standing(*row) for row in asked.fetchall()]


def standing_of(conn: psycopg.Connection, deliveries: Sequence[Delivery]) -> dict[Key, list[Standing]]:
    """The same for many deliveries in one question."""
    types, tenants, days, paths = zip(*map(key_of, deliveries), strict=True) if deliveries else ([],) * 4
    rows = conn.execute(
        f"SELECT type, tenant, business_date, path, {_STANDING} "  # noqa: S608 - our own words
        "FROM unnest(%s::text[], %s::text[], %s::date[], %s::text[]) AS d (type, tenant, business_date, path) "
        f"JOIN importer.loads USING (type, tenant, business_date, path) WHERE {_STANDS} ORDER BY load_id",
        (list(types), list(tenants), list(days), list(paths)),
    )
    found: dict[Key, list[Standing]] = {}
    for *key, load_id, status, sha256, reason, by, read, rejected, skipped, stamp, size in rows:
        known = Standing(load_id, status, sha256, reason, by, read, rejected, skipped, stamp, size)
        found.setdefault(tuple(key), []).append(known)
    return found


def earlier_counts(
    conn: psycopg.Connection, delivery: Delivery, over: int, *, besides: int | None
) -> list[int]:
    """Records of the last ``over`` deliveries in force before this one, by business date and path."""
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


def write_findings(conn: psycopg.Connection, load_id: int, findings: Sequence[Finding]) -> None:
    """Record what the gate objected to."""
    if findings:
        conn.cursor().executemany(
            "INSERT INTO importer.gate (load_id, rule, action, detail) VALUES (%s, %s, %s, %s)",
            [(load_id, f.rule, f.action, f.detail) for f in findings],
        )


def held_loads(conn: psycopg.Connection) -> list[dict[str, Any]]:
    """Loads that wait for a person's word, the longest waiting first."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT load_id, type, tenant, business_date, path, rows_read, rows_rejected, reason, finished_at
            FROM importer.loads WHERE status = 'held' ORDER BY load_id
            """
        )
        .fetchall()
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
    row: dict[str, Any],
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
        {**counts, "held": held, "by": by, "why": why, "load_id": row["load_id"]},
    )


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


def finish_load(
    conn: psycopg.Connection,
    load_id: int,
    *,
    status: str,
    counts: dict[str, int],
    size: int | None,
    sha256: str | None,
    stamp: str | None = None,
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
            "stamp": stamp,
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
    stamps: Sequence[str | None],
    spec_hash: str,
    run_id: str | None,
    started_at: datetime,
) -> None:
    """The rows of loads of one type and tenant, complete, in one statement; of each all records are loaded.

    ``stamps`` has one for each of ``loads``, of which there is at least one.
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
            "stamps": list(stamps),
            "read": [r.rows_read for r in loads],
            "loaded": [r.rows_loaded for r in loads],
        },
    )


def set_stamp(conn: psycopg.Connection, load_id: int, stamp: str | None) -> None:
    """Say that a file with this stamp has the content of a load."""
    conn.execute("UPDATE importer.loads SET stamp = %s WHERE load_id = %s", (stamp, load_id))


def set_stamps(conn: psycopg.Connection, stamps: Mapping[int, str | None]) -> set[int]:
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
        (list(stamps), list(stamps.values()), list(stamps)),
    )
    return {row[0] for row in rows}


def write_drift(conn: psycopg.Connection, load_id: int, events: Sequence[DriftEvent]) -> None:
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


def settle_versions(
    conn: psycopg.Connection,
    type_name: str,
    tenant: str,
    versions: Sequence[tuple[date, Sequence[DriftEvent]]],
) -> None:
    """Let what each version declares stand with the first delivery of its days, whatever came in first.

    ``versions`` are (first day, what it declares) in order of date.
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
        _settle_version(conn, type_name, tenant, since, events, rows[0][0] if rows else None)


def _settle_version(
    conn: psycopg.Connection,
    type_name: str,
    tenant: str,
    since: date,
    events: Sequence[DriftEvent],
    first: int | None,
) -> None:
    """Write the version's events with its first delivery, and nowhere else; mostly there is nothing to do."""
    wanted = [] if first is None else [(first, e.kind, e.column_name, e.detail) for e in events]
    found = conn.execute(
        """
        SELECT d.load_id, d.kind, d.column_name, d.detail
        FROM importer.drift d JOIN importer.loads l USING (load_id)
        WHERE d.version = %s AND l.type = %s AND l.tenant = %s
        """,
        (since, type_name, tenant),
    ).fetchall()
    if sorted(map(repr, found)) == sorted(map(repr, wanted)):
        return
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
    """What a load's version declares, if the load is the version's first."""
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


_REJECTS_ENCODED = 2_000  # records at a time


def write_rejects(
    conn: psycopg.Connection, load_id: int, records: pa.Table, reasons: Mapping[int, Reason]
) -> None:
    """COPY rejected records (reject_tables.RECORD_SCHEMA) into quarantine, and the reasons that are new in them."""
    # late: commands and sensors that only read the ledger need neither
    import pgpq
    import pyarrow as pa

    if not len(records):
        return
    conn.cursor().executemany(
        "INSERT INTO importer.reject_reasons (load_id, reason, column_name, rule, words, quotes) "
        "VALUES (%s, %s, %s, %s, %s, %s)",
        [(load_id, number, *reason) for number, reason in reasons.items()],
    )
    table = records.add_column(0, "load_id", pa.repeat(pa.scalar(load_id, pa.int64()), len(records)))
    encoder = pgpq.ArrowToPostgresBinaryEncoder(table.schema)
    statement = (
        "COPY importer.reject_records (load_id, row, line, reasons, values, details, raw) "
        "FROM STDIN (FORMAT BINARY)"
    )
    with conn.cursor().copy(statement) as copy:
        copy.write(encoder.write_header())
        for batch in table.to_batches(max_chunksize=_REJECTS_ENCODED):
            copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())


def load_rejects(
    conn: psycopg.Connection,
    *,
    load_id: int | None = None,
    type_name: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Rejects of one load, or of all loads of a type that are in force or pending, in order."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            -- so many records have at least as many cells
            WITH found AS MATERIALIZED (
                SELECT DISTINCT r.load_id, r.row FROM importer.reject_records r JOIN importer.loads l USING (load_id)
                WHERE (%(load_id)s::bigint IS NULL OR r.load_id = %(load_id)s)
                  AND (%(type)s::text IS NULL OR l.type = %(type)s)
                ORDER BY r.load_id, r.row LIMIT %(limit)s
            )
            SELECT r.load_id, l.type, l.tenant, l.business_date, l.path,
                   r.row, r.line, r.column_name, r.value, r.rule, r.message, r.raw
            FROM found JOIN importer.rejects r USING (load_id, row) JOIN importer.loads l USING (load_id)
            WHERE (%(load_id)s::bigint IS NULL OR r.load_id = %(load_id)s)
            ORDER BY r.load_id, r.row, r.column_name LIMIT %(limit)s
            """,
            {"load_id": load_id, "type": type_name, "limit": limit},
        )
        .fetchall()
    )


def status_rows(conn: psycopg.Connection) -> list[dict[str, Any]]:
    """The status view: one row per type and tenant."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute("SELECT * FROM importer.status ORDER BY type, tenant")
        .fetchall()
    )


def get_load(conn: psycopg.Connection, load_id: int) -> dict[str, Any]:
    """One row of importer.loads; raises UsageError if there is none."""
    row = (
        conn.cursor(row_factory=dict_row)
        .execute("SELECT * FROM importer.loads WHERE load_id = %s", (load_id,))
        .fetchone()
    )
    if row is None:
        raise UsageError(f"There is no load {load_id} in the ledger; `importer status` shows what there is.")
    return row
