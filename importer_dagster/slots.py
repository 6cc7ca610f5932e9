"""The cap on writers: its slots, and the queue of those who wait for one.

The cap N is a semaphore of PostgreSQL's advisory locks. A writer holds one of the locks
0 to N-1 of the namespace SLOT_LOCKS as long as it writes. The lock belongs to its
connection, so PostgreSQL frees the slot of a writer that crashes.

Each waiter has a row (its ticket) in ``importer.waiting``. The ticket is valid until the
time ``due``, which the waiter moves on each time it asks for a slot. So the ticket of a
process that died becomes void after some seconds.

Only the first N waiters of the queue keep a connection while they wait, and ask about ten
times a second. All others close their connection and sleep, the longer the further behind
they are. The queue may change between two questions, and then more than N waiters may
believe that they are among the first N. Therefore a connected waiter also holds one of the
N locks of the namespace CONNECTED_LOCKS: there are never more than N.

What does not belong here: connections (``warehouse.py``), and what is written.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import psycopg

from importer_dagster.errors import UsageError
from importer_dagster.transactions import autocommit

# First key of the two-key advisory locks; any fixed number that others hardly use.
SLOT_LOCKS = 0x1A57E001
LOAD_LOCKS = 0x1A57E002
CONNECTED_LOCKS = 0x1A57E006  # of connected waiters; 3 to 5 are used by other modules

SMALL_BYTES = 8 << 20  # every other slot is for files below this size
CAP = "db_writes"  # the cap's name in importer.settings

_CONNECTED_PAUSE_S = 0.1  # between two questions of a connected waiter
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.3, 4.0  # of all others, who connect for each question
_GRACE_S = 5.0  # how much longer a ticket is valid than its owner needs to ask again

# Returns the cap, slots in use, waiters ahead of the ticket, waiters in the queue, and whether the ticket is valid
# for long enough.
# Order of the queue: small and large files alternate, beginning with the kind that did not get
# the last slot. Within a kind the tenant whose last slot is longest ago comes first, then the
# longest wait. Of the waiters for one type and tenant only the first is in the queue, and none
# while that type and tenant is being written, since they could not use a slot.
_QUEUE_POSITION = """
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
       (SELECT due > clock_timestamp() + make_interval(secs => %(needed)s)
        FROM importer.waiting WHERE ticket = %(ticket)s::bigint)
"""

# Takes a slot and the lock of type and tenant in one statement, provided that nobody waits. Each part
# is materialized, since PostgreSQL may reorder conditions, and a lock once taken stays taken.
_TAKE_AT_ONCE = """
WITH allowed AS MATERIALIZED (
    SELECT CASE WHEN EXISTS (SELECT FROM importer.waiting WHERE due > clock_timestamp()) THEN 0
           ELSE coalesce((SELECT value::int FROM importer.settings WHERE name = %(name)s), %(cap)s) END AS cap
), slot AS MATERIALIZED (
    SELECT n, cap FROM allowed, generate_series(0, cap - 1) AS n
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

# When tenants got their last slot. A statement of its own: as a part of the others it would lock the table
# for writing even where no slot was found. The record need not survive a crash.
_RECORD_SLOT = """
INSERT INTO importer.turns SELECT %s, %s, clock_timestamp()
WHERE set_config('synchronous_commit', 'off', true) IS NOT NULL
ON CONFLICT (tenant, small) DO UPDATE SET last = excluded.last
"""


@dataclass(frozen=True)
class QueuePosition:
    """Where a waiter is in the queue: ``free`` slots of the ``cap``, and how many waiters are ``ahead``.

    ``ahead`` is None for a waiter that could not use a slot now: its type and tenant is
    being written, or another waits longer for it. ``ticket_is_valid`` says whether the
    ticket is valid until the waiter asks again, ``connected`` whether it may keep its
    connection until then.
    """

    cap: int
    free: int
    ahead: int | None
    ticket_is_valid: bool
    connected: bool = False

    @property
    def has_free_slot(self) -> bool:
        """Whether a slot is free for this waiter."""
        return self.ahead is not None and self.ahead < self.free

    @property
    def may_connect(self) -> bool:
        """Whether it is one of the first waiters, as many as the cap, who should keep a connection."""
        return self.ahead is not None and self.ahead < self.cap

    @property
    def pause(self) -> float:
        """Seconds until the waiter asks again; random, so that waiters do not ask all at the same time."""
        if self.connected:
            return _CONNECTED_PAUSE_S * random.uniform(0.5, 1.5)  # noqa: S311 - no secret depends on it
        behind = 3 if self.ahead is None else self.ahead / self.cap
        return min(_SHORTEST_PAUSE_S * max(behind, 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1)  # noqa: S311


class SlotRequest:
    """One writer's request for a slot, from its first question until it gets the slot.

    ``size`` in bytes decides whether the file is small; ``cap`` is used unless one is set in
    the database. Without ``trace`` (a rehearsal) there is no ticket: the request comes after
    all others.
    """

    def __init__(
        self, type_name: str, tenant: str, size: int | None, cap: int, *, trace: bool = True
    ) -> None:
        self.type, self.tenant, self.size, self.cap, self.trace = type_name, tenant, size, cap, trace
        self.small = size is not None and size < SMALL_BYTES
        self.ticket: int | None = None
        self.connected_lock: int | None = None  # the number of the lock in CONNECTED_LOCKS
        self.waited = 0.0  # seconds
        self.others_wait = False  # when it last asked

    def ask(self, conn: psycopg.Connection) -> QueuePosition | None:
        """Take a slot and the lock of type and tenant (then None), or return the position in the queue.

        A connected waiter must ask over the same connection each time. All others must
        close theirs and call :meth:`disconnected`. No deadlock is possible: while a slot is
        held, the lock of type and tenant is only tried, never waited for.
        """
        if self.ticket is None and self._take_at_once(conn):
            return None
        position = self._queue_position(conn)
        if self.trace and not position.has_free_slot and not position.ticket_is_valid:
            self._renew_ticket(conn)
            position = self._queue_position(conn)
        conn.commit()
        if position.has_free_slot and self._take(conn, position.cap):
            self._record_slot(conn)
            conn.commit()
            return None
        if position.may_connect and self.connected_lock is None:
            self.connected_lock = try_connected_waiter(conn, position.cap)
        # the cap may have been lowered since the lock was taken
        is_allowed = self.connected_lock is not None and self.connected_lock < position.cap
        return replace(position, connected=position.may_connect and is_allowed)

    def disconnected(self) -> None:
        """Note that the connection is closed, and the lock of a connected waiter gone with it."""
        self.connected_lock = None

    def _take_at_once(self, conn: psycopg.Connection) -> bool:
        """Take a slot and the lock if nobody waits. The usual case, so it is one statement only."""
        values = {
            "slot_locks": SLOT_LOCKS,
            "load_locks": LOAD_LOCKS,
            "name": CAP,
            "cap": self.cap,
            "key": _load_key(self.type, self.tenant),
        }
        with autocommit(conn):
            row = conn.execute(_TAKE_AT_ONCE, values).fetchone()
            if row is not None and row[1]:
                self._record_slot(conn)
        if row is None:
            return False
        if not row[1]:
            unlock(conn, SLOT_LOCKS, row[0])
        self.others_wait = False
        return bool(row[1])

    def leave(self, conn: psycopg.Connection) -> None:
        """Delete the ticket; commits nothing."""
        if self.ticket is not None:
            conn.execute("DELETE FROM importer.waiting WHERE ticket = %s", (self.ticket,))
            self.ticket = None

    def _renew_ticket(self, conn: psycopg.Connection) -> None:
        """Make the ticket valid until some time after the next question; make a new one if it was deleted."""
        valid_s = 2 * _LONGEST_PAUSE_S + _GRACE_S
        conn.execute("SET LOCAL synchronous_commit = off")  # a ticket need not survive a crash
        renewed = conn.execute(
            """
            UPDATE importer.waiting SET due = clock_timestamp() + make_interval(secs => %s)
            WHERE ticket = %s RETURNING ticket
            """,
            (valid_s, self.ticket),
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
            (self.type, self.tenant, self.size, self.small, self.waited, valid_s),
        ).fetchone()
        assert row
        self.ticket = row[0]

    def _queue_position(self, conn: psycopg.Connection) -> QueuePosition:
        values = {
            "load_locks": LOAD_LOCKS,
            "slot_locks": SLOT_LOCKS,
            "cap": CAP,
            "ticket": self.ticket,
            "needed": _LONGEST_PAUSE_S + _GRACE_S / 2,
        }
        row = conn.execute(_QUEUE_POSITION, values).fetchone()
        assert row
        cap_set, in_use, ahead, in_queue, is_valid = row
        cap = cap_set or self.cap
        self.others_wait = in_queue > (ahead is not None)
        if self.ticket is None:
            ahead = in_queue
        return QueuePosition(cap, max(cap - in_use, 0), ahead, bool(is_valid))

    def _take(self, conn: psycopg.Connection, cap: int) -> bool:
        slot = try_slot(conn, cap)
        if slot is None:
            return False
        if try_load_lock(conn, self.type, self.tenant):
            return True
        unlock(conn, SLOT_LOCKS, slot)
        return False

    def _record_slot(self, conn: psycopg.Connection) -> None:
        """Note that the tenant got a slot; give back what the request held while it waited."""
        self.leave(conn)
        if self.connected_lock is not None:
            unlock(conn, CONNECTED_LOCKS, self.connected_lock)
            self.connected_lock = None
        if self.trace:
            conn.execute(_RECORD_SLOT, (self.tenant, self.small))


class UnqueuedSlotRequest(SlotRequest):
    """A request without a queue, for a rehearsal on a database whose ledger is missing or of another version."""

    def ask(self, conn: psycopg.Connection) -> QueuePosition | None:
        """Take a slot if one is free."""
        known = conn.execute("SELECT to_regclass('importer.settings')").fetchone() != (None,)
        cap = (get_cap(conn) if known else None) or self.cap
        conn.commit()
        return None if self._take(conn, cap) else QueuePosition(cap, 0, None, ticket_is_valid=False)


def try_slot(conn: psycopg.Connection, cap: int) -> int | None:
    """Take a slot if one is free; returns its number, or None."""
    for slot in range(cap):
        if _try_lock(conn, "SELECT pg_try_advisory_lock(%s, %s)", SLOT_LOCKS, slot):
            # after the cap was lowered, slots beyond it may still be in use, and count
            if _slots_in_use(conn) <= cap:
                return slot
            unlock(conn, SLOT_LOCKS, slot)
            return None
    return None


def try_connected_waiter(conn: psycopg.Connection, cap: int) -> int | None:
    """Take one of the ``cap`` locks of connected waiters if one is free; returns its number, or None."""
    row = conn.execute(
        "SELECT n FROM generate_series(0, %s - 1) AS n WHERE pg_try_advisory_lock(%s, n) LIMIT 1",
        (cap, CONNECTED_LOCKS),
    ).fetchone()
    conn.commit()
    return int(row[0]) if row else None


def _slots_in_use(conn: psycopg.Connection) -> int:
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
    return _try_lock(conn, "SELECT pg_try_advisory_lock(%s, hashtext(%s))", LOAD_LOCKS, key)


def _load_key(type_name: str, tenant: str) -> str:
    return f"{type_name}\n{tenant}"


def _try_lock(conn: psycopg.Connection, statement: str, *keys: object) -> bool:
    row = conn.execute(statement, keys).fetchone()
    conn.commit()
    return bool(row and row[0])


def unlock(conn: psycopg.Connection, namespace: int, key: int) -> None:
    """Give one lock back; commits."""
    conn.execute("SELECT pg_advisory_unlock(%s, %s)", (namespace, key))
    conn.commit()


# --- the cap itself ---------------------------------------------------------------


def get_cap(conn: psycopg.Connection) -> int | None:
    """The cap that was set in this database; None if there is none, then IMPORTER_DB_WRITES counts."""
    row = conn.execute("SELECT value::int FROM importer.settings WHERE name = %s", (CAP,)).fetchone()
    return row[0] if row else None


def set_cap(conn: psycopg.Connection, cap: int | None) -> None:
    """Set the cap for all processes; None removes it, so that IMPORTER_DB_WRITES counts again."""
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
    """How many slots are in use, and how many valid tickets wait."""
    waiting = conn.execute("SELECT count(*) FROM importer.waiting WHERE due > clock_timestamp()").fetchone()
    assert waiting
    return _slots_in_use(conn), waiting[0]
