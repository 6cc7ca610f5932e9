"""Connections to PostgreSQL, their time-outs, and what PostgreSQL's errors mean.

What does not belong here: any statement about data tables (``writer/publish.py``),
about the ledger (``ledger/loads.py``), or about the cap on writers (``slots.py``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from importer_dagster.errors import (
    ImporterError,
    RefusedError,
    UsageError,
    WarehouseError,
    WarehouseUnavailable,
)
from importer_dagster.redaction import redact, redact_text
from importer_dagster.settings import Settings
from importer_dagster.slots import SlotRequest, UnqueuedSlotRequest
from importer_dagster.transactions import autocommit

# First key of the two-key advisory locks; any fixed number that other programs hardly use.
SETUP_LOCK = 0x1A57E003

_CONNECT_TIMEOUT_S = 10
# After this time PostgreSQL ends the session of an importer that hangs, which frees its locks.
# It is long, since a transaction may be idle while a batch is validated.
_IDLE_IN_TRANSACTION_S = 600
# A peer that acknowledges nothing for this time counts as dead. Not shorter: the kernel cannot
# tell it from a database that takes no data while it waits for its disk.
_UNACKNOWLEDGED_MS = 600_000

# How often the server checks, during a statement, whether its client is still connected.
_CLIENT_CHECK = "client_connection_check_interval"
_CLIENT_CHECK_S = 2
_NO_CLIENT_CHECK = f"no {_CLIENT_CHECK}"  # in Warehouse.prepared: the server does not know the setting

# SQLSTATE classes and codes after which the same statement may well succeed.
_TRANSIENT_CLASSES = (
    "08",  # connection exception
    "40",  # transaction rollback: serialization failure, deadlock
    "53",  # insufficient resources: too many connections, disk full, out of memory
    "55",  # object not in prerequisite state: lock not available
    "57",  # operator intervention: shutdown, crash, cannot connect now, cancelled
    "58",  # system error: I/O
)
_TRANSIENT_CODES = {
    "25006",  # read-only transaction: a replica just before or after a fail-over
    "25P03",  # idle in transaction for too long: this process was stopped for a while
}


# Messages that say that TLS is demanded and not possible; trying again will not help.
_UNVERIFIED = re.compile(
    r"certificate verify failed|does not match host name|server does not support SSL|"
    r"root certificate file .* does not exist|certificate file .* does not exist|could not (?:read|load) .*certificate"
)
# Messages without a SQLSTATE that say that the server rejects user, password or database.
_REFUSED = re.compile(r"authentication failed|does not exist|permission denied|no pg_hba.conf entry")


def plain_url(url: str) -> str:
    """The URL without a SQLAlchemy driver such as ``+psycopg``, as libpq wants it; raises UsageError."""
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
        # libpq's message is left out: it repeats parts of the URL, which may hold the password
        raise UsageError(
            f"IMPORTER_WAREHOUSE_URL {redact(url)!r} cannot be used ({type(error).__name__}). Percent-encode "
            "special characters in user and password."
        ) from None
    return plain


def translate(error: psycopg.Error, url: str) -> ImporterError:
    """The WarehouseUnavailable or WarehouseError that stands for a driver's error."""
    where = f"The warehouse {redact(url)}"
    text = " ".join(redact_text(error, url).split()).rstrip(".?")
    state = error.sqlstate
    kind: type[ImporterError] = WarehouseError
    if state is None and _UNVERIFIED.search(text):
        message = (
            f"{where} could not be verified: {text}. sslmode and sslrootcert in the URL say what "
            "is asked of the server's certificate; see docs/security.md."
        )
    elif state is None and _REFUSED.search(text):
        message = f"{where} refuses the connection: {text}. Check user, password and database in IMPORTER_WAREHOUSE_URL."
    elif state is None and not isinstance(error, psycopg.OperationalError):
        message = f"{where} was not asked, since the driver refused a statement: {text}."
    elif state is None:  # the connection could not be made, or was lost
        kind = WarehouseUnavailable
        message = (
            f"{where} cannot be reached: {text}. Check that the server runs and that "
            "IMPORTER_WAREHOUSE_URL is right."
        )
    elif state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_CODES:
        kind = WarehouseUnavailable
        message = f"{where} is not available at the moment ({state}): {text}."
    elif isinstance(error, pg.InsufficientPrivilege):
        message = f"{where} does not allow it: {text}. Grant the privilege to the importer's role."
    else:
        message = f"{where} refused a statement ({state}): {text}."
    return kind(message)


def refusal_of(error: psycopg.Error) -> RefusedError | None:
    """The refusal of a delivery whose row is too wide for PostgreSQL; None for any other error."""
    sizes = re.search(r"row is too big: size (\d+)", str(error))
    if not isinstance(error, pg.ProgramLimitExceeded) or sizes is None:
        return None
    return RefusedError(
        f"A record takes {int(sizes[1]):,} bytes in PostgreSQL, where a row can have 8,160: its columns are too "
        "many for values of this size. Leave columns out, or split the file.",
        rule="row.size",
    )


class Warehouse:
    """The PostgreSQL database that BI reads; to construct it opens no connection.

    ``db_writes`` is the cap on writing sessions over all processes, unless
    ``importer cap`` has set one in the database. ``schema`` holds the data
    tables. ``lock_timeout`` and ``statement_timeout`` are seconds, 0 for none; a
    COPY has no time-out. ``prepared`` names what this process has already checked or
    set up in the database. ``row_secret`` is the key of the hashes of rows, None until it is read.
    """

    def __init__(
        self,
        url: str,
        *,
        db_writes: int = 4,
        schema: str = "public",
        lock_timeout: float = 60,
        statement_timeout: float = 3600,
    ) -> None:
        self.url = plain_url(url)
        self.db_writes = db_writes
        self.lock_timeout, self.statement_timeout = lock_timeout, statement_timeout
        self.schema = schema
        self.prepared: set[str] = set()
        self.row_secret: bytes | None = None
        self._in_series = False
        self._others_wait = False  # for a slot, when this process last asked for one
        self._kept: list[psycopg.Connection] = []

    @classmethod
    def of(cls, settings: Settings, url: str) -> Warehouse:
        """The warehouse at ``url`` with the cap and the time-outs of ``settings``."""
        return cls(
            url,
            db_writes=settings.db_writes,
            lock_timeout=settings.lock_timeout,
            statement_timeout=settings.statement_timeout,
        )

    def __repr__(self) -> str:
        return f"Warehouse({redact(self.url)!r})"

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        """A connection without a transaction; rolled back and closed at the end of the block.

        In a :meth:`series` it may be kept open. Driver errors become WarehouseUnavailable or
        WarehouseError.
        """
        with self.translating():
            conn = self._kept.pop() if self._kept else self._open()
            try:
                yield conn
            finally:
                self._keep_or_close(conn)

    def _open(self) -> psycopg.Connection:
        conn = psycopg.connect(
            self.url,
            connect_timeout=_CONNECT_TIMEOUT_S,
            application_name="importer",
            client_encoding="UTF8",  # of data sent by COPY, and of statements that are kept as bytes
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
            tcp_user_timeout=_UNACKNOWLEDGED_MS,
            autocommit=True,
        )
        settings = {
            "timezone": "UTC",
            "client_min_messages": "warning",
            "lock_timeout": f"{int(self.lock_timeout * 1000)}ms",
            "statement_timeout": f"{int(self.statement_timeout * 1000)}ms",
            "idle_in_transaction_session_timeout": f"{_IDLE_IN_TRANSACTION_S}s",
            # the server, too, notices a client that is gone, and frees its locks
            "tcp_keepalives_idle": "30",
            "tcp_keepalives_interval": "10",
            "tcp_keepalives_count": "3",
        }
        assignment = sql.SQL("SET {} = {}")
        statements = (assignment.format(sql.Identifier(k), v) for k, v in settings.items())
        try:
            conn.execute(sql.SQL("; ").join(statements))
            self._set_client_check(conn)
            conn.autocommit = False
        except BaseException:
            conn.close()
            raise
        return conn

    def _keep_or_close(self, conn: psycopg.Connection) -> None:
        is_idle = conn.info.transaction_status == TransactionStatus.IDLE
        if is_idle and self._in_series and not self._others_wait:
            self._kept.append(conn)
            return
        try:
            if not conn.closed:
                conn.rollback()
        finally:
            conn.close()

    @contextmanager
    def series(self) -> Iterator[None]:
        """Within the block a connection is kept from one delivery to the next, unless others wait for a slot.

        To open one takes the server longer than to load a small file.
        """
        self._in_series = True
        try:
            yield
        finally:
            self._in_series = False
            self.close_kept()

    def close_kept(self) -> None:
        """Close connections kept in a series, before work without the database that takes long."""
        while self._kept:
            self._kept.pop().close()

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Turn the block's driver errors into WarehouseUnavailable or WarehouseError."""
        try:
            yield
        except psycopg.Error as error:
            raise translate(error, self.url) from error

    def _set_client_check(self, conn: psycopg.Connection) -> None:
        """Let PostgreSQL end a running statement soon after its client has died; needs PostgreSQL 14 on Linux."""
        if _NO_CLIENT_CHECK in self.prepared:
            return
        try:
            conn.execute(sql.SQL("SET {} = {}").format(sql.Identifier(_CLIENT_CHECK), f"{_CLIENT_CHECK_S}s"))
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise
            self.prepared.add(_NO_CLIENT_CHECK)

    @contextmanager
    def writing(
        self,
        type_name: str,
        tenant: str,
        *,
        size: int | None = None,
        on_wait: Callable[[float], None] | None = None,
        trace: bool = True,
        queue: bool = True,
        conn: psycopg.Connection | None = None,
    ) -> Iterator[psycopg.Connection]:
        """A connection that holds a slot of the cap, and the lock of one type and tenant.

        Waits for the slot without a time limit; while waiting only the first in the queue
        keep a connection. ``size`` is in bytes; every other slot is for small files.
        ``on_wait`` is called with the seconds waited so far. Without ``trace``
        nothing is written, not even to the queue; without ``queue``, which needs
        a current ledger, the queue is not even read. ``conn`` is a connection that the
        caller has already; it is closed if the wait is long.
        """
        kind = SlotRequest if queue else UnqueuedSlotRequest
        request = kind(type_name, tenant, size, self.db_writes, trace=trace)
        start = time.monotonic()
        with ExitStack() as stack:
            while True:
                if conn is None:
                    conn = stack.enter_context(self.connect())
                pause = _wait_connected(conn, request, start, on_wait)
                self._others_wait = request.others_wait
                if pause is None:
                    break
                conn.close()
                conn = None
                stack.close()
                time.sleep(pause)
            try:
                yield conn
            finally:
                if not conn.closed and not conn.broken:
                    conn.rollback()
                    with autocommit(conn):
                        conn.execute("SELECT pg_advisory_unlock_all()")


def _wait_connected(
    conn: psycopg.Connection, request: SlotRequest, start: float, on_wait: Callable[[float], None] | None
) -> float | None:
    """Ask until there is a slot (then None), or until the connection must be closed: for how many seconds."""
    try:
        while (position := request.ask(conn)) is not None:
            request.waited = time.monotonic() - start
            if on_wait:
                on_wait(request.waited)
            if not position.connected:
                request.disconnected()
                return position.pause
            time.sleep(position.pause)
    except BaseException:
        # leave the queue at once, so that nobody waits for this ticket, nor for the locks
        with suppress(psycopg.Error):
            conn.rollback()
            conn.execute("SELECT pg_advisory_unlock_all()")
            request.leave(conn)
            conn.commit()
        raise
    return None
