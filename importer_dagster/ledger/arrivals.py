"""The inbox against the ledger: what is to be imported, what is settled, what waits, what never came.

A file of the inbox is settled when the ledger has a load of the same path, size
and stamp that answers for it. What is not settled is wanted. Before a run is
asked for, the files are written down in ``importer.asked``, in one transaction
and one process at a time: so nothing is asked for twice, be it by the schedule,
the sensor, or one of them after a crash.

What does not belong here: listing the inbox (``source/inbox.py``), choosing runs
(``defs/catchup.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import psycopg

from importer_dagster.model import Delivery, LoadResult, Status
from importer_dagster.spec.table import TableSpec

ASK_LOCK = 0x1A57E005
LONGEST_PAUSE_S = 86_400


@dataclass(frozen=True)
class Known:
    """One load, as far as it answers for a file of the inbox."""

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
        """Whether the file is the one that was read; what the file system does not tell is not compared."""
        return self.file_version == delivery.file_version and delivery.size in (None, self.bytes)

    def settles(self, spec: TableSpec) -> bool:
        """Whether reading the same file again would end in the same."""
        if self.status == "refused":  # another spec may take it, unless a person has decided
            return self.decided or self.spec_hash == spec.hash
        return self.status in ("held", "unloaded") or (self.status == "loaded" and not self.superseded)

    def result(self, delivery: Delivery) -> LoadResult:
        """What importing the delivery again would end in."""
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
    """The files of some days: not imported yet, not complete yet, and settled with what settles them."""

    wanted: Sequence[Delivery] = ()
    waiting: Sequence[Delivery] = ()
    settled: Mapping[Delivery, Known] = field(default_factory=dict)


def compare(
    conn: psycopg.Connection, deliveries: Iterable[Delivery], specs: Mapping[str, TableSpec]
) -> Arrivals:
    """Sort listed deliveries by what the ledger says of them; one query for all."""
    deliveries = list(deliveries)
    complete = [d for d in deliveries if not d.waiting]
    loads = _loads(conn, complete)
    wanted: list[Delivery] = []
    settled: dict[Delivery, Known] = {}
    for delivery in complete:
        spec = specs[delivery.type]
        for known in reversed(loads.get(_key(delivery), [])):
            if known.is_of(delivery) and known.settles(spec):
                settled[delivery] = known
                break
        else:
            wanted.append(delivery)
    return Arrivals(wanted, [d for d in deliveries if d.waiting], settled)


_Key = tuple[str, str, date, str]


def _key(delivery: Delivery) -> _Key:
    return delivery.type, delivery.tenant, delivery.business_date, delivery.path


def _loads(conn: psycopg.Connection, deliveries: Sequence[Delivery]) -> dict[_Key, list[Known]]:
    """The loads of these deliveries and of others of their days, the oldest first."""
    if not deliveries:
        return {}
    days = [d.business_date for d in deliveries]
    rows = conn.execute(
        """
        SELECT type, tenant, business_date, path, load_id, status, superseded_by IS NOT NULL, bytes, stamp,
               spec_hash, decided_by IS NOT NULL, rows_read, rows_rejected, rows_skipped, reason
        FROM importer.loads WHERE business_date BETWEEN %s AND %s AND type = ANY(%s) ORDER BY load_id
        """,
        (min(days), max(days), sorted({d.type for d in deliveries})),
    )
    found: dict[_Key, list[Known]] = {}
    for row in rows:
        found.setdefault(row[:4], []).append(Known(*row[4:]))
    return found


# --- asking for runs ------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """Something a run is wanted for: a file in one version; without a path, a whole day of a type."""

    type: str
    business_date: date
    tenant: str = ""
    path: str = ""
    version: str = ""


def question(delivery: Delivery, spec: TableSpec) -> Question:
    """The question for one file as it is listed."""
    version = f"{delivery.size} bytes, {delivery.file_version}, spec {spec.hash}"
    return Question(delivery.type, delivery.business_date, delivery.tenant, delivery.path, version)


def due(conn: psycopg.Connection, questions: Collection[Question], by: str, pause: int) -> list[Question]:
    """Those that may be asked now; until the transaction ends nobody else may ask.

    Asked before, and still open, it is asked again after ``pause`` seconds, then
    after twice as long each time, a day at most. ``by`` names who asks: the same
    asker gets the same answer, since a tick may be evaluated twice.
    """
    conn.execute("SELECT pg_advisory_xact_lock(%s, 0)", (ASK_LOCK,))
    rows = conn.execute(
        """
        SELECT type, business_date, tenant, path, version, times, asked_by,
               extract(epoch FROM clock_timestamp() - asked_at)::float8
        FROM importer.asked
        """
    )
    resting = {
        Question(*row[:5])
        for row in rows
        if row[6] != by and row[7] < min(pause * 2 ** min(row[5] - 1, 20), LONGEST_PAUSE_S)
    }
    return [q for q in questions if q not in resting]


def ask(conn: psycopg.Connection, questions: Collection[Question], by: str, *, since: date) -> None:
    """Write down what is asked for; what was asked for days before ``since`` is forgotten."""
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
        [(q.type, q.tenant, q.business_date, q.path, q.version, by) for q in questions],
    )


# --- what never came ------------------------------------------------------------------


@dataclass(frozen=True)
class Missing:
    """A day of a type and tenant without a complete file at the time that the type expects it."""

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
    """What should be there by ``now`` and is not.

    A tenant is expected to send a type if it did so on one of as many days
    before as ``days`` has. A day that the ledger knows, or of which a complete
    file is listed, has come.
    """
    expecting = {name: spec.expected_by for name, spec in specs.items() if spec.expected_by}
    if not expecting or not days:
        return []
    came = _came(conn, sorted(expecting), days)
    listed = list(deliveries)
    here = came | {(d.type, d.tenant, d.business_date) for d in listed if not d.waiting}
    waiting = {(d.type, d.tenant, d.business_date): d for d in listed if d.waiting}
    found = []
    for (name, tenant), before in _days_by_sender(came).items():
        for day in days:
            at = _expected_at(day, expecting[name], timezone)
            usual = any(day - timedelta(days=len(days)) <= b < day for b in before)
            if at <= now and usual and (name, tenant, day) not in here:
                late = waiting.get((name, tenant, day))
                detail = f"{late.path} is there, but {late.waiting}" if late else "no file is there"
                found.append(Missing(name, tenant, day, at, detail))
    return sorted(found, key=lambda m: (m.business_date, m.type, m.tenant))


def _expected_at(day: date, expected_by: str, timezone: str) -> datetime:
    return datetime.combine(day, time.fromisoformat(expected_by), ZoneInfo(timezone))


def _came(conn: psycopg.Connection, types: Sequence[str], days: Sequence[date]) -> set[tuple[str, str, date]]:
    first = min(days) - timedelta(days=len(days))
    rows = conn.execute(
        """
        SELECT DISTINCT type, tenant, business_date FROM importer.loads
        WHERE business_date BETWEEN %s AND %s AND type = ANY(%s)
        """,
        (first, max(days), types),
    )
    return {(row[0], row[1], row[2]) for row in rows}


def _days_by_sender(came: Iterable[tuple[str, str, date]]) -> dict[tuple[str, str], list[date]]:
    found: dict[tuple[str, str], list[date]] = {}
    for name, tenant, day in came:
        found.setdefault((name, tenant), []).append(day)
    return found


def record_missing(conn: psycopg.Connection, missing: Iterable[Missing]) -> list[Missing]:
    """Put what is missing on record; returns what was not on record before."""
    return [m for m in missing if _record(conn, m)]


def _record(conn: psycopg.Connection, m: Missing) -> bool:
    row = conn.execute(
        """
        INSERT INTO importer.missing (type, tenant, business_date, expected_at, detail)
        VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING true
        """,
        (m.type, m.tenant, m.business_date, m.expected_at, m.detail),
    ).fetchone()
    return row is not None


def still_missing(conn: psycopg.Connection, since: date, types: Sequence[str] | None = None) -> list[Missing]:
    """What was reported missing for days from ``since`` on and has not come yet."""
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
