"""Talking to PostgreSQL: connections, their time-outs, and what their errors mean.

What does not belong here: any statement about data tables (``writer/publish.py``),
about the ledger (``ledger/loads.py``), or whose turn it is to write (``slots.py``).
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
from importer_dagster.transactions import single

# First key of the two-key advisory locks; any fixed number that others hardly use.
SETUP_LOCK = 0x1A57E003

_CONNECT_TIMEOUT_S = 10
# A hung importer gives its locks back. Long, since validation may pause a transaction.
_IDLE_IN_TRANSACTION_S = 600
# A peer that acknowledges nothing is dead after this time. Not shorter: to the kernel a
# database that takes no data while it waits for its disk looks the same.
_UNACKNOWLEDGED_MS = 600_000

_LOOK_S = 2  # so often a server at work looks whether its client still lives
_LOOK = "client_connection_check_interval"
_NO_LOOK = "no client_connection_check_interval"

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


# Encryption that was asked for and cannot be had: trying again will not help.
_UNVERIFIED = re.compile(
    r"certificate verify failed|does not match host name|server does not support SSL|"
    r"root certificate file .* does not exist|certificate file .* does not exist|could not (?:read|load) .*certificate"
)


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
    text = " ".join(redact_text(error, url).split()).rstrip(".?")
    state = error.sqlstate
    if state is None:
        return _without_state(error, text, where)
    if state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_CODES:
        return WarehouseUnavailable(f"The warehouse {where} asks to come back later ({state}): {text}.")
    if isinstance(error, pg.InsufficientPrivilege):
        return WarehouseError(
            f"The warehouse {where} does not allow it: {text}. Grant the privilege to the importer's role."
        )
    return WarehouseError(f"The warehouse {where} refused a statement ({state}): {text}.")


def _without_state(error: psycopg.Error, text: str, where: str) -> ImporterError:
    """No SQLSTATE: the connection could not be made or was lost, unless the words say that asking again is useless."""
    if _UNVERIFIED.search(text):
        return WarehouseError(
            f"The warehouse {where} could not be verified: {text}. sslmode and sslrootcert in the URL say what "
            "is asked of the server's certificate; see docs/security.md."
        )
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

    ``db_writes`` is the cap on writing sessions over all processes, unless
    ``importer cap`` has set one in the database. ``schema`` holds the data
    tables. ``lock_timeout`` and ``statement_timeout`` are seconds, 0 for none; a
    COPY knows no time-out.
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
        self.prepared: set[str] = set()  # what this process already made sure of
        self._in_series = False
        self._crowded = False  # whether others waited when this process last got its turn
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
        """A connection, no transaction begun; rolled back and closed at the end.

        Driver errors come out as WarehouseUnavailable or WarehouseError.
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
            client_encoding="UTF8",  # of what COPY is sent, and of statements that are kept as bytes
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
            tcp_user_timeout=_UNACKNOWLEDGED_MS,
            autocommit=True,
        )
        try:
            conn.execute(self._session_settings())
            self._let_the_server_look(conn)
            conn.autocommit = False
        except BaseException:
            conn.close()
            raise
        return conn

    def _keep_or_close(self, conn: psycopg.Connection) -> None:
        at_rest = conn.info.transaction_status == TransactionStatus.IDLE
        if at_rest and self._in_series and not self._crowded:
            self._kept.append(conn)
            return
        try:
            if not conn.closed:
                conn.rollback()
        finally:
            conn.close()

    @contextmanager
    def series(self) -> Iterator[None]:
        """Within the block a connection is kept from one delivery to the next, as long as nobody waits for a turn.

        To open one takes the server longer than a small file does.
        """
        self._in_series = True
        try:
            yield
        finally:
            self._in_series = False
            self.rest()

    def rest(self) -> None:
        """Close what is kept: something else takes long now."""
        while self._kept:
            self._kept.pop().close()

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Turn driver errors of the block into ours."""
        try:
            yield
        except psycopg.Error as error:
            raise translate(error, self.url) from error

    def _let_the_server_look(self, conn: psycopg.Connection) -> None:
        """Let a statement at work end soon after its client has died; not every server can (14, Linux)."""
        if _NO_LOOK in self.prepared:
            return
        try:
            conn.execute(sql.SQL("SET {} = {}").format(sql.Identifier(_LOOK), f"{_LOOK_S}s"))
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise
            self.prepared.add(_NO_LOOK)

    def _session_settings(self) -> sql.Composed:
        """The server's end too notices a peer that is gone, and gives its locks back."""
        values = {
            "TimeZone": "UTC",
            "client_min_messages": "warning",
            "lock_timeout": f"{int(self.lock_timeout * 1000)}ms",
            "statement_timeout": f"{int(self.statement_timeout * 1000)}ms",
            "idle_in_transaction_session_timeout": f"{_IDLE_IN_TRANSACTION_S}s",
            "tcp_keepalives_idle": "30",
            "tcp_keepalives_interval": "10",
            "tcp_keepalives_count": "3",
        }
        pairs = (sql.SQL("SET {} = {}").format(sql.Identifier(k.lower()), v) for k, v in values.items())
        return sql.SQL("; ").join(pairs)

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

        Waits for it as long as it takes, without a connection unless it is next
        in line. ``size`` in bytes: small files have turns of their own.
        ``on_wait`` is called with the seconds waited so far. Without ``trace``
        nothing is written, not even to the queue; without ``queue``, which needs
        a current ledger, it is not even read. ``conn`` is a connection that the
        caller has already; it is closed if there is much waiting to do.
        """
        kind = SlotRequest if queue else UnqueuedSlotRequest
        turn = kind(type_name, tenant, size, self.db_writes, trace=trace)
        start = time.monotonic()
        with ExitStack() as stack:
            while True:
                if conn is None:
                    conn = stack.enter_context(self.connect())
                pause = self._wait_connected(conn, turn, start, on_wait)
                self._crowded = turn.crowded
                if pause is None:
                    break
                conn.close()
                conn = None
                stack.close()
                time.sleep(pause)
            try:
                yield conn
            finally:
                _release(conn)

    def _wait_connected(
        self,
        conn: psycopg.Connection,
        turn: SlotRequest,
        start: float,
        on_wait: Callable[[float], None] | None,
    ) -> float | None:
        """None once the turn has come; else the seconds to sleep without the connection."""
        try:
            while (place := turn.ask(conn)) is not None:
                turn.waited = time.monotonic() - start
                if on_wait:
                    on_wait(turn.waited)
                if not place.seated:
                    turn.stand()
                    return place.pause
                time.sleep(place.pause)
        except BaseException:
            _give_up(conn, turn)
            raise
        return None


def _give_up(conn: psycopg.Connection, turn: SlotRequest) -> None:
    """Leave the queue at once, so that nobody waits for one who is gone, nor for what it holds."""
    with suppress(psycopg.Error):
        conn.rollback()
        conn.execute("SELECT pg_advisory_unlock_all()")
        turn.leave(conn)
        conn.commit()


def _release(conn: psycopg.Connection) -> None:
    if not conn.closed and not conn.broken:
        conn.rollback()
        with single(conn):
            conn.execute("SELECT pg_advisory_unlock_all()")
