"""An embedded PostgreSQL in a temporary folder that may be killed and started again.

What does not belong here: what is done with it (``crash.py``, ``soak.py``).
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from importer_dagster.launch import embedded
from importer_dagster.launch.embedded import EmbeddedServer

_PATIENCE_S = 120


class OwnServer:
    """The server; other files may be put into ``folder``."""

    def __init__(self, server: EmbeddedServer, folder: Path) -> None:
        self.server, self.folder = server, folder

    def url(self, database: str) -> str:
        """A database's URL."""
        return self.server.url(database)

    def connect(self, database: str) -> psycopg.Connection:
        """A connection in autocommit mode; waits until the server has started."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return psycopg.connect(
                    self.url(database), autocommit=True, application_name="harness", connect_timeout=10
                )
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def query(self, database: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self.connect(database) as conn:
            return conn.execute(statement.encode(), values or None).fetchall()

    def clone(self, name: str, template: str) -> None:
        """A new database like ``template``."""
        with self.connect("postgres") as conn:
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )

    def drop(self, name: str) -> None:
        """Remove a database."""
        with self.connect("postgres") as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    # --- killing it ---

    def signal(self, number: signal.Signals) -> None:
        """Signal the server's first process: SIGKILL, SIGQUIT (immediate) or SIGINT (fast); wait for its end."""
        pid = embedded._postmaster(self.server.data)
        if pid is None:
            return
        process = psutil.Process(pid)
        os.kill(pid, number)
        deadline = time.monotonic() + _PATIENCE_S
        while _lives(process) and time.monotonic() < deadline:
            time.sleep(0.01)

    def start(self) -> None:
        """Start it again, once the last process of a killed one is gone."""
        if not self.server.is_running():
            with self.server._locked():
                self.server._start()


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A server in a folder of its own; both are removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="importer-reliability-"))
    try:
        server = OwnServer(embedded.ensure_server(home), home)
        # The machine itself does not crash here, and the kernel keeps what a killed process has written.
        # With fsync, a recovery would first flush each file of each database.
        with server.connect("postgres") as conn:
            conn.execute("ALTER SYSTEM SET fsync = off")
            conn.execute("SELECT pg_reload_conf()")
        try:
            yield server
        finally:
            server.start()  # so that it is stopped in order
            server.server.release()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def kill(pids: Sequence[int], number: signal.Signals = signal.SIGKILL) -> int:
    """Signal processes; returns how many of them still ran."""
    hit = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            hit += 1
    return hit


def left_running(folder: Path, patience: float = 30) -> list[str]:
    """Processes of a project in ``folder`` that still run after ``patience`` seconds; they are killed then."""
    deadline = time.monotonic() + patience
    while (found := _of_project(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    kill(list(found))
    return [f"process {pid} was left: {words}" for pid, words in found.items()]


def _of_project(folder: Path) -> dict[int, str]:
    """Number → command of what was started with a home in ``folder``."""
    found: dict[int, str] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            mine = process.environ().get("IMPORTER_HOME", "").startswith(str(folder))
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())[:80]
    return found
