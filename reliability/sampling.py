"""Sample a database fifty times a second: sessions that write, that hold a slot, that are connected without one.

What does not belong here: the load that is sampled (``flood.py``, ``flood_runs.py``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg

from importer_dagster.slots import CONNECTED_LOCKS, SLOT_LOCKS

PAUSE_S = 0.02
STAYS_S = 1.0  # seconds without a slot after which a connection was not opened for one query only
RESTS_S = 0.1  # seconds without a statement after which a session is idle, not between two statements

# A session writes if it has a lock for writing on any table but the queue (waiting) and the daemon's
# notes on what it asked for and what is missing (asked, missing): these are single small rows.
_SAMPLE = """
SELECT a.pid, a.backend_start, EXISTS (
    SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'relation' AND l.granted
      AND l.mode IN ('RowExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
      AND l.relation NOT IN (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = 'importer' AND c.relname ~ '^(waiting|asked|missing)')),
    EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted
      AND l.classid::bigint = %s AND l.objsubid = 2),
    EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted
      AND l.classid::bigint = %s AND l.objsubid = 2),
    coalesce(a.state LIKE 'idle%%' AND clock_timestamp() - a.state_change > make_interval(secs => %s), false),
    left(a.query, 80)
FROM pg_stat_activity a WHERE a.application_name = 'importer' AND a.datname = current_database()
"""


class _Session(NamedTuple):
    """One connection of an importer, as a sample showed it."""

    pid: int
    start: object
    writes: bool
    slot: bool
    is_connected_waiter: bool
    rests: bool
    query: str


@dataclass
class Seen:
    """The most that any sample showed.

    ``without_slot`` counts the connections without a slot at one instant: those that wait with a
    connection, those that run one query and close, and those that have just given their slot back.
    ``staying`` counts those of them that have had no slot for a second, ``connected_waiters`` those that wait with
    a connection, and ``resting`` those that have sent no statement for a tenth of a second.
    """

    samples: int = 0
    writers: int = 0
    slots: int = 0
    connected_waiters: int = 0
    without_slot: int = 0
    resting: int = 0
    staying: int = 0
    waiting: int = 0  # tickets in the queue
    faults: list[str] = field(default_factory=list)

    def take(self, conn: psycopg.Connection, since: dict[object, float]) -> None:
        """Take one sample. ``since`` keeps the time at which each session was first seen without a slot."""
        rows = conn.execute(_SAMPLE, (SLOT_LOCKS, CONNECTED_LOCKS, RESTS_S)).fetchall()
        sessions = [_Session(*row) for row in rows]
        tickets = conn.execute(
            "SELECT count(*) FROM importer.waiting WHERE due > clock_timestamp()"
        ).fetchone()
        assert tickets
        now = time.monotonic()
        without = [s for s in sessions if not s.slot]
        for session in [s for s in since if s not in {(w.pid, w.start) for w in without}]:
            del since[session]
        staying = sum(now - since.setdefault((s.pid, s.start), now) > STAYS_S for s in without)
        self.samples += 1
        self.writers = max(self.writers, sum(s.writes for s in sessions))
        self.slots = max(self.slots, sum(s.slot for s in sessions))
        self.connected_waiters = max(self.connected_waiters, sum(s.is_connected_waiter for s in sessions))
        self.without_slot = max(self.without_slot, len(without))
        self.resting = max(self.resting, sum(s.rests for s in without))
        self.staying = max(self.staying, staying)
        self.waiting = max(self.waiting, tickets[0])


@contextmanager
def sampling(url: str) -> Iterator[Seen]:
    """Sample in a thread until the block ends."""
    seen, stop = Seen(), threading.Event()
    thread = threading.Thread(target=_sample, args=(url, seen, stop))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def _sample(url: str, seen: Seen, stop: threading.Event) -> None:
    try:
        since: dict[object, float] = {}
        with psycopg.connect(url, autocommit=True, application_name="harness") as conn:
            while not stop.is_set():
                seen.take(conn, since)
                time.sleep(PAUSE_S)
    except psycopg.Error as error:
        seen.faults.append(f"the sampler ended: {error}")
