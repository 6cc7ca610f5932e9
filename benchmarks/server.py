"""The PostgreSQL that both sides of a measurement use, and a database of it for the time of the run.

What does not belong here: what is measured (``cases.py``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
from psycopg import sql

from importer_dagster.errors import UsageError
from importer_dagster.launch import embedded, postgres_programs
from importer_dagster.warehouse import Warehouse, plain_url

_SETTLE_S = 0.3  # a session's process ends a moment after its client


@dataclass(frozen=True)
class Server:
    """A server and a database that belongs to this run.

    ``pid`` is that of the server's first process, None for one that is not ours.
    """

    url: str
    pid: int | None = None

    def execute(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    def value(self, query: str) -> object:
        """The first column of the first row."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            row = conn.execute(query.encode()).fetchone()
        assert row
        return row[0]

    def checkpoint(self) -> None:
        """Have what earlier runs wrote on the disk before the next begins; a privilege, so as far as allowed."""
        with suppress(psycopg.errors.InsufficientPrivilege):
            self.execute("CHECKPOINT")

    def cpu(self) -> float | None:
        """CPU seconds that the server's processes, living and ended, have used so far."""
        if self.pid is None:
            return None
        time.sleep(_SETTLE_S)
        first = psutil.Process(self.pid)
        used = float(sum(first.cpu_times()[:4]))  # user, system and those of ended children
        for child in first.children():
            with suppress(psutil.Error):
                used += sum(child.cpu_times()[:2])
        return used

    def psql(self, command: str) -> None:
        """Run one psql command; raises CalledProcessError with its output."""
        self._run_psql("--command", command)

    def psql_file(self, script: Path) -> None:
        """Run a file of commands in one session; raises as ``psql``."""
        self._run_psql("--file", str(script))

    def _run_psql(self, *what: str) -> None:
        subprocess.run(  # noqa: S603 - our own arguments
            [_psql(), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", *what, self.url],
            check=True,
            capture_output=True,
        )


@contextmanager
def bench_server(home: Path) -> Iterator[Server]:
    """A database for this run: on IMPORTER_WAREHOUSE_URL's server, else on an embedded one in ``home``.

    It is a database of its own in either case, and gone at the end.
    """
    if given := os.environ.get("IMPORTER_WAREHOUSE_URL"):
        with _own_database(plain_url(given)) as url:
            yield Server(url)
        return
    started = embedded.ensure_server(home)
    try:
        yield Server(started.url("warehouse"), embedded._postmaster(started.data))
    finally:
        started.release()


@contextmanager
def _own_database(given: str) -> Iterator[str]:
    name = f"importer_bench_{os.getpid()}"
    identifier = sql.Identifier(name)
    with Warehouse(given).translating(), psycopg.connect(given, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
        try:
            yield urlunsplit(urlsplit(given)._replace(path=f"/{name}"))
        finally:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


def _psql() -> str:
    bundled = postgres_programs.programs() / "psql"
    found = str(bundled) if bundled.exists() else shutil.which("psql")
    if found is None:
        raise UsageError(
            "There is no psql to compare with: neither in the embedded server's wheel nor in PATH."
        )
    return found


def psql_version() -> str:
    """The version of the psql that is used. Raises UsageError where there is none."""
    said = subprocess.run([_psql(), "--version"], check=True, capture_output=True, text=True).stdout  # noqa: S603
    return said.split()[2]
