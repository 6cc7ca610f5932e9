"""Looking at a database fifty times a second: who writes, who holds a slot, who is connected without one.

What does not belong here: the load that is looked at (``flood.py``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from importer_dagster.turns import SLOT_LOCKS

PAUSE_S = 0.02
STAYS_S = 1.0  # a connection that has had no slot for so long was not opened for one question

# A writer has a lock to write on anything but the queue of those who wait, and the notes of the
# daemon's ticks on what they asked for and what is missing: single small rows, as a ticket is.
_SAMPLE = """
SELECT a.pid, a.backend_start, EXISTS (
    SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'relation' AND l.granted
      AND l.mode IN ('RowExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
      AND l.relation NOT IN (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = 'importer' AND c.relname ~ '^(waiting|asked|missing)')), EXISTS (
    SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted
      AND l.classid::bigint = %s AND l.objsubid = 2)
FROM pg_stat_activity a WHERE a.application_name = 'importer' AND a.datname = current_database()
"""


@dataclass
class Seen:
    """The most that any sample showed.

    ``without_slot`` are connections of whoever holds no slot, at an instant: those
    next in line, those that ask one question and go, those that have just given
    their slot back. ``staying`` are those of them that have been so for a second.
    """

    samples: int = 0
    writers: int = 0
    slots: int = 0
    without_slot: int = 0
    staying: int = 0
    waiting: int = 0  # tickets in the queue
    faults: list[str] = field(default_factory=list)

    def take(self, conn: psycopg.Connection, since: dict[object, float]) -> None:
        """One more sample. ``since`` keeps when each session was first seen without a slot."""
        sessions = conn.execute(_SAMPLE, (SLOT_LOCKS,)).fetchall()
        tickets = conn.execute(
            "SELECT count(*) FROM importer.waiting WHERE due > clock_timestamp()"
        ).fetchone()
        assert tickets
        now = time.monotonic()
        idle = {(pid, start) for pid, start, _, holds in sessions if not holds}
        for session in [s for s in since if s not in idle]:
            del since[session]
        staying = sum(now - since.setdefault(session, now) > STAYS_S for session in idle)
        self.samples += 1
        self.writers = max(self.writers, sum(writes for _, _, writes, _ in sessions))
        self.slots = max(self.slots, sum(holds for *_, holds in sessions))
        self.without_slot = max(self.without_slot, len(idle))
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
