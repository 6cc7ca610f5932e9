"""Talking to PostgreSQL: connections, what their errors mean, and the cap on writers.

The cap (``IMPORTER_DB_WRITES``) is a semaphore of session advisory locks: a
writer holds lock number k < N of a fixed namespace while it writes. Such a lock
vanishes with its session, so a crashed writer can never leak its slot.

What does not belong here: any statement about data tables (``writer.py``) or
about the ledger (``ledger.py``).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict

from importer_dagster.errors import (
    ImporterError,
    RefusedError,
    UsageError,
    WarehouseError,
    WarehouseUnavailable,
)

# First key of the two-key advisory locks; any fixed number that others hardly use.
SLOT_LOCKS = 0x1A57E001
LOAD_LOCKS = 0x1A57E002
SETUP_LOCK = 0x1A57E003

_CONNECT_TIMEOUT_S = 10
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.02, 1.0

# SQLSTATE classes and codes after which the same statement may well succeed.
_TRANSIENT_CLASSES = (
    "08",  # connection exception
    "40",  # transaction rollback: serialization failure, deadlock
    "53",  # insufficient resources: too many connections, disk full, out of memory
    "55",  # object not in prerequisite state: lock not available
    "57",  # operator intervention: shutdown, crash, cannot connect now, cancelled
    "58",  # system error: I/O
)
_TRANSIENT_CODES = {"25006"}  # read-only transaction: a replica just before or after a fail-over


def redact(url: str) -> str:
    """``url`` without its password, for logs and messages.

    >>> redact("postgresql://u:secret@h/db")
    'postgresql://u:***@h/db'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    netloc = parts.netloc
    if parts.password is not None:
        netloc = f"{parts.username or ''}:***@{netloc.rpartition('@')[2]}"
    query = re.sub(r"(?i)(password|sslpassword)=[^&]*", r"\1=***", parts.query)
    return urlunsplit(parts._replace(netloc=netloc, query=query))


def plain_url(url: str) -> str:
    """A URL that libpq takes: a SQLAlchemy driver such as ``+psycopg`` is taken off. Raises UsageError."""
    found = re.match(r"^(postgres(?:ql)?)(?:\+\w+)?://", url)
    if not found:
        raise UsageError(
            f"IMPORTER_WAREHOUSE_URL {redact(url)!r} is no PostgreSQL URL; "
            "write postgresql://user:password@host:5432/database."
        )
    plain = "postgresql://" + url[found.end() :]
    try:
        conninfo_to_dict(plain)
    except psycopg.ProgrammingError as error:
        # libpq repeats parts of the URL, so its words are left out: they may hold the password
        raise UsageError(
            f"IMPORTER_WAREHOUSE_URL {redact(url)!r} cannot be used ({type(error).__name__}). Percent-encode "
            "special characters in user and password."
        ) from None
    return plain


def translate(error: psycopg.Error, url: str) -> ImporterError:
    """What a driver's error means to us: come back later, or never."""
    where = redact(url)
    text = " ".join(str(error).split()).replace(url, where)
    state = error.sqlstate
    if state is None:
        # no SQLSTATE: the connection could not be made or was lost, unless the
        # server's own words say that asking again is useless
        if re.search(r"authentication failed|does not exist|permission denied|no pg_hba.conf entry", text):
            return WarehouseError(
                f"The warehouse {where} lets nobody in: {text}. Check user, password and database "
                "in IMPORTER_WAREHOUSE_URL."
            )
        if not isinstance(error, psycopg.OperationalError):
            return WarehouseError(f"The driver refused a statement for {where}: {text}.")
        return WarehouseUnavailable(
            f"The warehouse {where} cannot be reached: {text}. Check that the server runs and that "
            "IMPORTER_WAREHOUSE_URL is right."
        )
    if state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_CODES:
        return WarehouseUnavailable(f"The warehouse {where} asks to come back later ({state}): {text}.")
    if isinstance(error, pg.InsufficientPrivilege):
        return WarehouseError(
            f"The warehouse {where} does not allow it: {text}. Grant the privilege to the importer's role."
        )
    return WarehouseError(f"The warehouse {where} refused a statement ({state}): {text}.")


def refusal_of(error: psycopg.Error) -> RefusedError | None:
    """The refusal of a delivery that PostgreSQL's own limits forbid; None where the fault is not the file's."""
    sizes = re.search(r"row is too big: size (\d+)", str(error))
    if not isinstance(error, pg.ProgramLimitExceeded) or sizes is None:
        return None
    return RefusedError(
        f"A record takes {int(sizes[1]):,} bytes in PostgreSQL, where a row can have 8,160: its columns are too "
        "many for values of this size. Leave columns out, or split the file.",
        rule="row.size",
    )


class Warehouse:
    """The PostgreSQL database that BI reads. Cheap to make; connects when asked.

    ``db_writes`` is the cap on writing sessions, over all processes that use
    the same database and the same number. ``schema`` holds the data tables.
    """

    def __init__(self, url: str, *, db_writes: int = 4, schema: str = "public") -> None:
        self.url = plain_url(url)
        self.db_writes = db_writes
        self.schema = schema
        self.prepared: set[str] = set()  # what this process already made sure of

    def __repr__(self) -> str:
        return f"Warehouse({redact(self.url)!r})"

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        """A connection, no transaction begun; rolled back and closed at the end.

        Driver errors come out as WarehouseUnavailable or WarehouseError.
        """
        with (
            self.translating(),
            psycopg.connect(
                self.url,
                connect_timeout=_CONNECT_TIMEOUT_S,
                application_name="importer",
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=3,
                autocommit=True,
            ) as conn,
        ):
            conn.execute("SET TimeZone = 'UTC'; SET client_min_messages = 'warning'")
            conn.autocommit = False
            try:
                yield conn
            finally:
                if not conn.closed:
                    conn.rollback()

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Turn driver errors of the block into ours."""
        try:
            yield
        except psycopg.Error as error:
            raise translate(error, self.url) from error

    @contextmanager
    def writing(
        self,
        conn: psycopg.Connection,
        type_name: str,
        tenant: str,
        on_wait: Callable[[float], None] | None = None,
    ) -> Iterator[None]:
        """Hold a slot of the cap, and the lock of one type and tenant, during the block.

        The lock is only ever tried, never waited for, while a slot is held: so
        whoever holds the lock also holds a slot, and the two cannot deadlock.
        ``on_wait`` is called with the seconds waited so far.
        """
        start, pause = time.monotonic(), _FIRST_WAIT_S
        while True:
            slot = _try_slot(conn, self.db_writes)
            if slot is not None:
                if _try_load_lock(conn, type_name, tenant):
                    break
                _unlock(conn, SLOT_LOCKS, slot)
            if on_wait:
                on_wait(time.monotonic() - start)
            # jitter, so that waiting processes do not ask in step
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret depends on it
            pause = min(pause * 2, _LONGEST_WAIT_S)
        try:
            yield
        finally:
            if not conn.closed and not conn.broken:
                conn.rollback()
                conn.execute("SELECT pg_advisory_unlock_all()")
                conn.commit()


def _try_slot(conn: psycopg.Connection, cap: int) -> int | None:
    for slot in range(cap):
        row = conn.execute("SELECT pg_try_advisory_lock(%s, %s)", (SLOT_LOCKS, slot)).fetchone()
        conn.commit()
        if row and row[0]:
            return slot
    return None


def _try_load_lock(conn: psycopg.Connection, type_name: str, tenant: str) -> bool:
    row = conn.execute(
        "SELECT pg_try_advisory_lock(%s, hashtext(%s))", (LOAD_LOCKS, f"{type_name}\n{tenant}")
    ).fetchone()
    conn.commit()
    return bool(row and row[0])


def _unlock(conn: psycopg.Connection, namespace: int, key: int) -> None:
    conn.execute("SELECT pg_advisory_unlock(%s, %s)", (namespace, key))
    conn.commit()
