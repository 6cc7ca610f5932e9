"""The inbox compared with the ledger: which files are to be imported, are done, are incomplete, or never came.

A file of the inbox is done when the ledger has a load of the same path, size and
file version whose outcome would be the same again. All other complete files are to be
imported. Before the schedule or the sensor requests runs, it records the files in
``importer.asked``, in one transaction and only one process at a time. So nothing is
requested twice, even after a crash.

What does not belong here: listing the inbox (``source/inbox.py``), choosing runs
(``defs/catchup.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import psycopg

from importer_dagster.ledger.queries import Key, key_of
from importer_dagster.model import Delivery, LoadResult, Status
from importer_dagster.spec.table import TableSpec

ASK_LOCK = 0x1A57E005
LONGEST_PAUSE_S = 86_400  # between two requests for the same file


@dataclass(frozen=True)
class EarlierLoad:
    """What the ledger says of one load of a file, to decide whether the file is done."""

    load_id: int
    status: str
    superseded: bool
    bytes: int | None
    file_version: str | None
    spec_hash: str
    decided: bool
    rows_read: int
    rows_rejected: int
    rows_skipped: int
    reason: str | None

    def is_of(self, delivery: Delivery) -> bool:
        """Whether the load read this very file; a size that the listing does not tell is not compared."""
        return self.file_version == delivery.file_version and delivery.size in (None, self.bytes)

    def is_final(self, spec: TableSpec) -> bool:
        """Whether importing the same file again would have the same outcome."""
        if self.status == "refused":  # a changed spec may accept it, unless a person has refused it
            return self.decided or self.spec_hash == spec.hash
        return self.status in ("held", "unloaded") or (self.status == "loaded" and not self.superseded)

    def result(self, delivery: Delivery) -> LoadResult:
        """The result that another import of the delivery would have."""
        loaded = self.status == "loaded"
        status: Status = "unchanged" if loaded else "held" if self.status == "held" else "refused"
        return LoadResult(
            delivery,
            status,
            self.load_id,
            rows_read=self.rows_read,
            rows_rejected=0 if loaded else self.rows_rejected,
            rows_skipped=0 if loaded else self.rows_skipped,
            rows_unchanged=self.rows_read if loaded else 0,
            reason=f"the same file is loaded already, as load {self.load_id}" if loaded else self.reason,
        )


@dataclass(frozen=True)
class Arrivals:
    """The files of some days: wanted (to be imported), waiting (incomplete), and done, with the load that says so."""

    wanted: Sequence[Delivery] = ()
    waiting: Sequence[Delivery] = ()
    done: Mapping[Delivery, EarlierLoad] = field(default_factory=dict)


def compare(
    conn: psycopg.Connection, deliveries: Iterable[Delivery], specs: Mapping[str, TableSpec]
) -> Arrivals:
    """Sort listed deliveries by what the ledger says of them, with one query for all."""
    deliveries = list(deliveries)
    complete = [d for d in deliveries if not d.waiting]
    loads: dict[Key, list[EarlierLoad]] = {}
    if complete:
        days = [d.business_date for d in complete]
        rows = conn.execute(
            """
            SELECT type, tenant, business_date, path, load_id, status, superseded_by IS NOT NULL, bytes, stamp,
                   spec_hash, decided_by IS NOT NULL, rows_read, rows_rejected, rows_skipped, reason
            FROM importer.loads WHERE business_date BETWEEN %s AND %s AND type = ANY(%s) ORDER BY load_id
            """,
            (min(days), max(days), sorted({d.type for d in complete})),
        )
        for row in rows:
            loads.setdefault(row[:4], []).append(EarlierLoad(*row[4:]))
    wanted: list[Delivery] = []
    done: dict[Delivery, EarlierLoad] = {}
    for delivery in complete:
        spec = specs[delivery.type]
        for known in reversed(loads.get(key_of(delivery), [])):
            if known.is_of(delivery) and known.is_final(spec):
                done[delivery] = known
                break
        else:
            wanted.append(delivery)
    return Arrivals(wanted, [d for d in deliveries if d.waiting], done)


# --- asking for runs ------------------------------------------------------------------


@dataclass(frozen=True)
class ImportRequest:
    """What a run is requested for: a file in one version or, without a path, a whole day of a type."""

    type: str
    business_date: date
    tenant: str = ""
    path: str = ""
    version: str = ""


def import_request(delivery: Delivery, spec: TableSpec) -> ImportRequest:
    """The request for a listed file; its version changes with the file or the spec."""
    version = f"{delivery.size} bytes, {delivery.file_version}, spec {spec.hash}"
    return ImportRequest(delivery.type, delivery.business_date, delivery.tenant, delivery.path, version)


def due(
    conn: psycopg.Connection, requests: Collection[ImportRequest], by: str, pause: int
) -> list[ImportRequest]:
    """Those of ``requests`` that may be made now; other processes wait until the transaction ends.

    A request made before that is not done yet is made again after ``pause`` seconds, then
    after twice as long each time, a day at most. ``by`` names the tick that asks. The same
    tick gets the same answer again, since Dagster may evaluate a tick twice.
    """
    conn.execute("SELECT pg_advisory_xact_lock(%s, 0)", (ASK_LOCK,))
    rows = conn.execute(
        """
        SELECT type, business_date, tenant, path, version, times, asked_by,
               extract(epoch FROM clock_timestamp() - asked_at)::float8
        FROM importer.asked
        """
    )
    too_early = {
        ImportRequest(*row[:5])
        for row in rows
        if row[6] != by and row[7] < min(pause * 2 ** min(row[5] - 1, 20), LONGEST_PAUSE_S)
    }
    return [r for r in requests if r not in too_early]


def ask(conn: psycopg.Connection, requests: Collection[ImportRequest], by: str, *, since: date) -> None:
    """Record requests that are made, and delete records of business dates before ``since``."""
    conn.execute("DELETE FROM importer.asked WHERE business_date < %s", (since,))
    conn.cursor().executemany(
        """
        INSERT INTO importer.asked AS a (type, tenant, business_date, path, version, times, asked_at, asked_by)
        VALUES (%s, %s, %s, %s, %s, 1, clock_timestamp(), %s)
        ON CONFLICT (type, tenant, business_date, path) DO UPDATE
        SET version = excluded.version, asked_at = excluded.asked_at, asked_by = excluded.asked_by,
            times = CASE WHEN a.version <> excluded.version THEN 1
                         WHEN a.asked_by = excluded.asked_by THEN a.times ELSE a.times + 1 END
        """,
        [(r.type, r.tenant, r.business_date, r.path, r.version, by) for r in requests],
    )


# --- what never came ------------------------------------------------------------------


@dataclass(frozen=True)
class Missing:
    """A type, tenant and day of which no complete file had come at the time that the spec expects it."""

    type: str
    tenant: str
    business_date: date
    expected_at: datetime
    detail: str


def overdue(
    conn: psycopg.Connection,
    specs: Mapping[str, TableSpec],
    deliveries: Iterable[Delivery],
    days: Sequence[date],
    *,
    now: datetime,
    timezone: str,
) -> list[Missing]:
    """Types, tenants and days whose file should be there by ``now`` and is not.

    A tenant is expected to send a type on a day if it did so on one of the days before it, as
    many as there are in ``days``. A day is there if the ledger has a load of it, or if a
    complete file of it is listed.
    """
    expecting = {name: spec.expected_by for name, spec in specs.items() if spec.expected_by}
    if not expecting or not days:
        return []
    rows = conn.execute(
        """
        SELECT DISTINCT type, tenant, business_date FROM importer.loads
        WHERE business_date BETWEEN %s AND %s AND type = ANY(%s)
        """,
        (min(days) - timedelta(days=len(days)), max(days), sorted(expecting)),
    )
    loaded: set[tuple[str, str, date]] = {(row[0], row[1], row[2]) for row in rows}
    days_of: dict[tuple[str, str], list[date]] = {}
    for name, tenant, day in loaded:
        days_of.setdefault((name, tenant), []).append(day)
    listed = list(deliveries)
    there = loaded | {(d.type, d.tenant, d.business_date) for d in listed if not d.waiting}
    waiting = {(d.type, d.tenant, d.business_date): d for d in listed if d.waiting}
    found = []
    for (name, tenant), before in days_of.items():
        for day in days:
            at = datetime.combine(day, time.fromisoformat(expecting[name]), ZoneInfo(timezone))
            is_expected = any(day - timedelta(days=len(days)) <= b < day for b in before)
            if at <= now and is_expected and (name, tenant, day) not in there:
                late = waiting.get((name, tenant, day))
                detail = f"{late.path} is there, but {late.waiting}" if late else "no file is there"
                found.append(Missing(name, tenant, day, at, detail))
    return sorted(found, key=lambda m: (m.business_date, m.type, m.tenant))


def record_missing(conn: psycopg.Connection, missing: Iterable[Missing]) -> list[Missing]:
    """Record what is missing in ``importer.missing``; returns what was not recorded before."""
    return [
        m
        for m in missing
        if conn.execute(
            """
            INSERT INTO importer.missing (type, tenant, business_date, expected_at, detail)
            VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING true
            """,
            (m.type, m.tenant, m.business_date, m.expected_at, m.detail),
        ).fetchone()
    ]


def still_missing(conn: psycopg.Connection, since: date, types: Sequence[str] | None = None) -> list[Missing]:
    """What was recorded as missing, of days from ``since`` on, and has no load yet."""
    rows = conn.execute(
        """
        SELECT type, tenant, business_date, expected_at, detail FROM importer.missing m
        WHERE business_date >= %s AND (%s::text[] IS NULL OR type = ANY(%s)) AND NOT EXISTS (
            SELECT FROM importer.loads l
            WHERE (l.type, l.tenant, l.business_date) = (m.type, m.tenant, m.business_date))
        ORDER BY business_date, type, tenant
        """,
        (since, types, types),
    )
    return [Missing(*row) for row in rows]
