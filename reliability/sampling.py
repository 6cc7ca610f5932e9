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
STAYS_S = 1.0  # a connection without a slot that is older was not opened for one question

# A writer has a lock to write on anything but the queue of those who wait.
_SAMPLE = """
SELECT count(*) FILTER (WHERE writes), count(*) FILTER (WHERE holds),
       count(*) FILTER (WHERE NOT holds), count(*) FILTER (WHERE NOT holds AND stays)
FROM (
    SELECT a.backend_start < clock_timestamp() - make_interval(secs => %s) AS stays, EXISTS (
        SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'relation' AND l.granted
          AND l.mode IN ('RowExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
          AND l.relation NOT IN (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = 'importer' AND starts_with(c.relname, 'waiting'))) AS writes, EXISTS (
        SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted
          AND l.classid::bigint = %s AND l.objsubid = 2) AS holds
    FROM pg_stat_activity a WHERE a.application_name = 'importer' AND a.datname = current_database()
) AS sessions
"""


@dataclass
class Seen:
    """The most that any sample showed.

    ``without_slot`` are connections of whoever holds no slot, at an instant: those
    next in line, and those that ask one question and go. ``staying`` are those
    of them that are older than a second.
    """

    samples: int = 0
    writers: int = 0
    slots: int = 0
    without_slot: int = 0
    staying: int = 0
    waiting: int = 0  # tickets in the queue
    faults: list[str] = field(default_factory=list)

    def take(self, conn: psycopg.Connection) -> None:
        """One more sample."""
        row = conn.execute(_SAMPLE, (STAYS_S, SLOT_LOCKS)).fetchone()
        tickets = conn.execute(
            "SELECT count(*) FROM importer.waiting WHERE due > clock_timestamp()"
        ).fetchone()
        assert row and tickets
        self.samples += 1
        for name, count in zip(("writers", "slots", "without_slot", "staying"), row, strict=True):
            setattr(self, name, max(getattr(self, name), count))
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
        with psycopg.connect(url, autocommit=True, application_name="harness") as conn:
            while not stop.is_set():
                seen.take(conn)
                time.sleep(PAUSE_S)
    except psycopg.Error as error:
        seen.faults.append(f"the sampler ended: {error}")
