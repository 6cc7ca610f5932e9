"""Whose turn it is to write: the cap, the slots, and the queue before them.

The cap is a semaphore of session advisory locks: a writer holds lock number
k < N of a fixed namespace while it writes. Such a lock vanishes with its
session, so a crashed writer can never leak its slot.

Those who wait have a row each in ``importer.waiting``. The first N of them, the
next in line, keep one idle connection and ask often; all others close theirs
and sleep, the longer the further behind they are. Places in line change while
nobody looks, so whoever keeps a connection also holds one of N seats, locks of
the same kind: there are never more of them, whoever thinks of itself what. A row
whose owner has not asked again by the time it promised is a dead one's and does
not count.

What does not belong here: connections (``warehouse.py``), and what is written.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import psycopg

from importer_dagster.errors import UsageError
from importer_dagster.transactions import single

# First key of the two-key advisory locks; any fixed number that others hardly use.
SLOT_LOCKS = 0x1A57E001
LOAD_LOCKS = 0x1A57E002
SEAT_LOCKS = 0x1A57E006  # of those who wait connected; 3 to 5 are of other rooms

SMALL_BYTES = 8 << 20  # every other turn is for files below it
CAP = "db_writes"

NEXT_PAUSE_S = 0.1  # of those next in line, who are connected
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.3, 4.0  # of all others, who connect to ask
_GRACE_S = 5.0  # a row counts this much longer than its owner promised

# Queue order: the kind (small or large) that did not have the last turn comes first at
# each position; within a kind the tenant whose last turn is longest ago, then who waits
# longest. Of those who want the same type and tenant only the first counts, and none
# while that one is being written: they could not use a slot.
_ORDER = """
WITH held AS (
    SELECT classid::bigint AS space, objid::bigint AS key FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 2
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), heads AS (
    SELECT DISTINCT ON (w.type, w.tenant) w.* FROM importer.waiting w
    WHERE w.due > clock_timestamp() AND NOT EXISTS (
        SELECT FROM held WHERE space = %(load_locks)s
          AND key = hashtext(w.type || E'\\n' || w.tenant)::bigint & 4294967295)
    ORDER BY w.type, w.tenant, w.since, w.ticket
), ranked AS (
    SELECT h.ticket, h.small, h.since, row_number() OVER (
        PARTITION BY h.small ORDER BY t.last NULLS FIRST, h.since, h.ticket) AS n
    FROM heads h LEFT JOIN importer.turns t USING (tenant, small)
), queue AS (
    SELECT ticket, row_number() OVER (
        ORDER BY n, small = coalesce((SELECT small FROM importer.turns ORDER BY last DESC LIMIT 1), false),
                 since, ticket) - 1 AS ahead
    FROM ranked
)
SELECT (SELECT value::int FROM importer.settings WHERE name = %(cap)s),
       (SELECT count(*) FROM held WHERE space = %(slot_locks)s),
       (SELECT ahead FROM queue WHERE ticket = %(ticket)s::bigint),
       (SELECT count(*) FROM queue),
       (SELECT due > clock_timestamp() + make_interval(secs => %(promised)s)
        FROM importer.waiting WHERE ticket = %(ticket)s::bigint)
"""

# The same where nobody waits, in one go: no slot is tried where anybody does. Each part is
# materialized, since PostgreSQL may reorder conditions, and a lock once taken stays taken.
_TAKE = """
WITH room AS MATERIALIZED (
    SELECT CASE WHEN EXISTS (SELECT FROM importer.waiting WHERE due > clock_timestamp()) THEN 0
           ELSE coalesce((SELECT value::int FROM importer.settings WHERE name = %(name)s), %(cap)s) END AS cap
), slot AS MATERIALIZED (
    SELECT n, cap FROM room, generate_series(0, cap - 1) AS n
    WHERE pg_try_advisory_lock(%(slot_locks)s, n) LIMIT 1
), held AS MATERIALIZED (
    SELECT n, cap, (SELECT count(*) FROM pg_locks
        WHERE n >= 0 AND locktype = 'advisory' AND granted AND objsubid = 2 AND classid::bigint = %(slot_locks)s
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS slots
    FROM slot
), took AS MATERIALIZED (
    SELECT n, CASE WHEN slots <= cap THEN pg_try_advisory_lock(%(load_locks)s, hashtext(%(key)s))
              ELSE false END AS is_taken
    FROM held
)
SELECT n, is_taken FROM took
"""

# A statement of its own, since PostgreSQL locks the table to write on it even where nothing is written:
# who found no slot would be a writer for a moment. A turn's record need not survive a crash.
_SERVED = """
INSERT INTO importer.turns SELECT %s, %s, clock_timestamp()
WHERE set_config('synchronous_commit', 'off', true) IS NOT NULL
ON CONFLICT (tenant, small) DO UPDATE SET last = excluded.last
"""


@dataclass(frozen=True)
class QueuePosition:
    """Where a writer stands: slots free under the ``cap``, and how many come before it.

    ``ahead`` is None for one that could not use a slot now: its type and tenant
    is being written, or another waits longer for the same. ``counts`` is whether
    its ticket is good until it asks again, ``seated`` whether it may keep its
    connection until then.
    """

    cap: int
    free: int
    ahead: int | None
    counts: bool
    seated: bool = False

    @property
    def first(self) -> bool:
        """Whether a slot is free for it."""
        return self.ahead is not None and self.ahead < self.free

    @property
    def next_in_line(self) -> bool:
        """Whether it is one of those who should wait connected."""
        return self.ahead is not None and self.ahead < self.cap

    @property
    def pause(self) -> float:
        """Seconds until it asks again; jitter, so that the waiting do not ask in step."""
        if self.seated:
            return NEXT_PAUSE_S * random.uniform(0.5, 1.5)  # noqa: S311 - no secret depends on it
        behind = 3 if self.ahead is None else self.ahead / self.cap
        return min(_FIRST_PAUSE_S * max(behind, 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1)  # noqa: S311


class SlotRequest:
    """One writer's wait for its turn: a ticket in the queue, from the first question to the slot.

    Without ``trace`` (a rehearsal) there is no ticket: it comes behind all others.
    """

    def __init__(
        self, type_name: str, tenant: str, size: int | None, cap: int, *, trace: bool = True
    ) -> None:
        self.type, self.tenant, self.size, self.cap, self.trace = type_name, tenant, size, cap, trace
        self.small = size is not None and size < SMALL_BYTES
        self.ticket: int | None = None
        self.seat: int | None = None
        self.waited = 0.0
        self.crowded = False  # whether others waited too when it last asked

    def ask(self, conn: psycopg.Connection) -> QueuePosition | None:
        """Take a slot and the lock of type and tenant if it is this writer's turn, else say its place.

        To be asked over one connection as long as that has a seat; without one the
        connection must be closed (:meth:`stand`). The lock is only ever tried, never
        waited for, while a slot is held: so whoever holds the lock also holds a slot,
        and the two cannot deadlock.
        """
        if self.ticket is None and self._take_at_once(conn):
            return None
        place = self._place(conn)
        if self.trace and not place.first and not place.counts:  # only who must wait gets a ticket
            self._promise(conn)
            place = self._place(conn)
        conn.commit()
        if place.first and self._take(conn, place.cap):
            self._served(conn)
            conn.commit()
            return None
        return replace(place, seated=self._sit(conn, place))

    def stand(self) -> None:
        """Know that the connection is closed, and the seat gone with it."""
        self.seat = None

    def _take_at_once(self, conn: psycopg.Connection) -> bool:
        """Take a slot and the lock if nobody waits, in one statement; the usual case, so it is to cost little."""
        values = {
            "slot_locks": SLOT_LOCKS,
            "load_locks": LOAD_LOCKS,
            "name": CAP,
            "cap": self.cap,
            "key": _load_key(self.type, self.tenant),
        }
        with single(conn):
            row = conn.execute(_TAKE, values).fetchone()
            if row is not None and row[1]:
                self._served(conn)
        if row is None:
            return False
        if not row[1]:
            unlock(conn, SLOT_LOCKS, row[0])
        self.crowded = False
        return bool(row[1])

    def leave(self, conn: psycopg.Connection) -> None:
        """Give the ticket back."""
        if self.ticket is not None:
            conn.execute("DELETE FROM importer.waiting WHERE ticket = %s", (self.ticket,))
            self.ticket = None

    def _promise(self, conn: psycopg.Connection) -> None:
        """Have a row that counts until a little after the next question; again if it was taken for dead."""
        due = 2 * _LONGEST_PAUSE_S + _GRACE_S
        conn.execute("SET LOCAL synchronous_commit = off")  # a ticket need not survive a crash
        renewed = conn.execute(
            """
            UPDATE importer.waiting SET due = clock_timestamp() + make_interval(secs => %s)
            WHERE ticket = %s RETURNING ticket
            """,
            (due, self.ticket),
        ).fetchone()
        if renewed:
            return
        conn.execute(
            """
            DELETE FROM importer.waiting WHERE ticket IN (
                SELECT ticket FROM importer.waiting WHERE due < clock_timestamp() FOR UPDATE SKIP LOCKED)
            """
        )
        row = conn.execute(
            """
            INSERT INTO importer.waiting (type, tenant, bytes, small, since, due)
            VALUES (%s, %s, %s, %s, clock_timestamp() - make_interval(secs => %s),
                    clock_timestamp() + make_interval(secs => %s)) RETURNING ticket
            """,
            (self.type, self.tenant, self.size, self.small, self.waited, due),
        ).fetchone()
        assert row
        self.ticket = row[0]

    def _place(self, conn: psycopg.Connection) -> QueuePosition:
        row = conn.execute(
            _ORDER,
            {
                "load_locks": LOAD_LOCKS,
                "slot_locks": SLOT_LOCKS,
                "cap": CAP,
                "ticket": self.ticket,
                "promised": _LONGEST_PAUSE_S + _GRACE_S / 2,
            },
        ).fetchone()
        assert row
        cap = row[0] or self.cap
        self.crowded = row[3] > (row[2] is not None)
        ahead = row[2] if self.ticket is not None else row[3]
        return QueuePosition(cap, max(cap - row[1], 0), ahead, bool(row[4]))

    def _take(self, conn: psycopg.Connection, cap: int) -> bool:
        slot = try_slot(conn, cap)
        if slot is None:
            return False
        if try_load_lock(conn, self.type, self.tenant):
            return True
        unlock(conn, SLOT_LOCKS, slot)
        return False

    def _sit(self, conn: psycopg.Connection, place: QueuePosition) -> bool:
        """Have a seat if one is due and free. One beyond a cap that was lowered is given up."""
        if not place.next_in_line:
            return False
        if self.seat is None:
            self.seat = try_seat(conn, place.cap)
        return self.seat is not None and self.seat < place.cap

    def _give_seat_back(self, conn: psycopg.Connection) -> None:
        if self.seat is not None:
            unlock(conn, SEAT_LOCKS, self.seat)
            self.stand()

    def _served(self, conn: psycopg.Connection) -> None:
        self.leave(conn)
        self._give_seat_back(conn)
        if self.trace:
            conn.execute(_SERVED, (self.tenant, self.small))


class UnqueuedSlotRequest(SlotRequest):
    """For a rehearsal on a database whose ledger is missing or of another version: whoever finds a slot has it."""

    def ask(self, conn: psycopg.Connection) -> QueuePosition | None:
        """Take a slot if one is free."""
        known = conn.execute("SELECT to_regclass('importer.settings')").fetchone() != (None,)
        cap = (get_cap(conn) if known else None) or self.cap
        conn.commit()
        return None if self._take(conn, cap) else QueuePosition(cap, 0, None, counts=False)


def try_slot(conn: psycopg.Connection, cap: int) -> int | None:
    """The number of the slot taken, None if none is free."""
    for slot in range(cap):
        if _try(conn, "SELECT pg_try_advisory_lock(%s, %s)", SLOT_LOCKS, slot):
            # a cap that was lowered: slots beyond it may still be held, and count
            if _held(conn) <= cap:
                return slot
            unlock(conn, SLOT_LOCKS, slot)
            return None
    return None


def try_seat(conn: psycopg.Connection, cap: int) -> int | None:
    """The number of the seat taken, None if none is free."""
    row = conn.execute(
        "SELECT n FROM generate_series(0, %s - 1) AS n WHERE pg_try_advisory_lock(%s, n) LIMIT 1",
        (cap, SEAT_LOCKS),
    ).fetchone()
    conn.commit()
    return int(row[0]) if row else None


def _held(conn: psycopg.Connection) -> int:
    row = conn.execute(
        """
        SELECT count(*) FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid::bigint = %s
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        """,
        (SLOT_LOCKS,),
    ).fetchone()
    conn.commit()
    assert row
    return int(row[0])


def try_load_lock(conn: psycopg.Connection, type_name: str, tenant: str) -> bool:
    """Take the lock of one type and tenant if nobody has it."""
    key = _load_key(type_name, tenant)
    return _try(conn, "SELECT pg_try_advisory_lock(%s, hashtext(%s))", LOAD_LOCKS, key)


def _load_key(type_name: str, tenant: str) -> str:
    return f"{type_name}\n{tenant}"


def _try(conn: psycopg.Connection, statement: str, *keys: object) -> bool:
    row = conn.execute(statement, keys).fetchone()
    conn.commit()
    return bool(row and row[0])


def unlock(conn: psycopg.Connection, namespace: int, key: int) -> None:
    """Give one lock back."""
    conn.execute("SELECT pg_advisory_unlock(%s, %s)", (namespace, key))
    conn.commit()


# --- the cap itself ---------------------------------------------------------------


def get_cap(conn: psycopg.Connection) -> int | None:
    """The cap that was set for this database; None: each process's IMPORTER_DB_WRITES."""
    row = conn.execute("SELECT value::int FROM importer.settings WHERE name = %s", (CAP,)).fetchone()
    return row[0] if row else None


def set_cap(conn: psycopg.Connection, cap: int | None) -> None:
    """Set the cap for all processes; None takes it off, so that IMPORTER_DB_WRITES counts again."""
    if cap is None:
        conn.execute("DELETE FROM importer.settings WHERE name = %s", (CAP,))
        return
    if cap < 1:
        raise UsageError(f"The cap is {cap}; at least one session must be able to write.")
    conn.execute(
        "INSERT INTO importer.settings VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (CAP, str(cap)),
    )


def counts(conn: psycopg.Connection) -> tuple[int, int]:
    """How many write, and how many wait."""
    waiting = conn.execute("SELECT count(*) FROM importer.waiting WHERE due > clock_timestamp()").fetchone()
    assert waiting
    return _held(conn), waiting[0]
