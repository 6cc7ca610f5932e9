"""The embedded server: starting, sharing, stopping, and what is left of those that were killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy as sa

from importer_dagster.errors import WarehouseError
from importer_dagster.launch import embedded
from importer_dagster.launch.embedded import EmbeddedServer, ensure_server

USER = """
import sys
from pathlib import Path
from importer_dagster.launch.embedded import ensure_server
server = ensure_server(Path(sys.argv[1]))
print(server.url("warehouse"), flush=True)
sys.stdin.read()  # until the test lets go
"""


def start_user(home: Path) -> "subprocess.Popen[str]":
    """A process that uses the server; every warning is an error to it."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", USER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def url_of(user: "subprocess.Popen[str]") -> str:
    """Wait until it uses the server; what it says the URL is."""
    url = user.stdout.readline().strip()
    assert url, user.communicate(timeout=60)
    return url


def end_user(user: "subprocess.Popen[str]") -> None:
    _, stderr = user.communicate(timeout=60)
    assert (user.returncode, stderr) == (0, "")


def postmaster(home: Path) -> int | None:
    return embedded._postmaster(home / "postgres")


def test_databases_are_there_for_psycopg_and_for_sqlalchemy(server: EmbeddedServer):
    for database in embedded.DATABASES:
        with psycopg.connect(server.url(database)) as conn:
            assert conn.execute("SELECT current_database()").fetchone() == (database,)
    engine = sa.create_engine(server.url("dagster"))
    assert engine.driver == "psycopg2"
    with engine.connect() as conn:
        assert conn.scalar(sa.text("SELECT current_database()")) == "dagster"
    engine.dispose()


def test_it_listens_on_no_network_address(server: EmbeddedServer):
    process = psutil.Process(postmaster(server.home))
    assert {c.laddr for c in process.net_connections(kind="inet")} == set()


def test_two_start_it_at_once_and_it_stops_with_the_last(tmp_path: Path):
    users = [start_user(tmp_path), start_user(tmp_path)]
    urls = {url_of(user) for user in users}
    assert len(urls) == 1
    end_user(users[0])
    with psycopg.connect(urls.pop()) as conn:  # the other one still uses it
        assert conn.execute("SELECT 1").fetchone() == (1,)
    end_user(users[1])
    assert postmaster(tmp_path) is None


def test_a_killed_user_does_not_keep_it_up(tmp_path: Path):
    killed, other = start_user(tmp_path), start_user(tmp_path)
    url_of(killed), url_of(other)
    killed.kill()
    killed.communicate()
    end_user(other)
    assert postmaster(tmp_path) is None


def test_the_next_user_finds_a_server_whose_users_were_all_killed(tmp_path: Path):
    """As when a test run is cut off: the server stays up, and the next user uses and stops it."""
    users = [start_user(tmp_path), start_user(tmp_path)]
    for user in users:
        url_of(user)
    server = postmaster(tmp_path)
    for user in users:
        os.killpg(user.pid, signal.SIGKILL)  # with all that belongs to it
        user.communicate()
    following = start_user(tmp_path)
    with psycopg.connect(url_of(following)) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert server is not None and postmaster(tmp_path) == server
    end_user(following)
    assert postmaster(tmp_path) is None


@pytest.mark.parametrize("name", ["with blank and 'quote'", "comma,", "long" * 40, "ümläut"])
def test_any_path_will_do(tmp_path: Path, name: str):
    home = tmp_path / name
    user = start_user(home)
    url = url_of(user)
    with psycopg.connect(url) as conn:
        assert conn.execute("SELECT current_database()").fetchone() == ("warehouse",)
    engine = sa.create_engine(url)
    with engine.connect() as conn:
        assert conn.scalar(sa.text("SELECT 1")) == 1
    engine.dispose()
    end_user(user)


def test_a_killed_server_starts_again_with_its_data(tmp_path: Path):
    server = ensure_server(tmp_path)
    try:
        with psycopg.connect(server.url("warehouse"), autocommit=True) as conn:
            conn.execute("CREATE TABLE t AS SELECT 7 AS x")
        os.kill(postmaster(tmp_path), signal.SIGKILL)
        deadline = time.monotonic() + 20
        while postmaster(tmp_path) is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        server = ensure_server(tmp_path)
        with psycopg.connect(server.url("warehouse")) as conn:
            assert conn.execute("SELECT x FROM t").fetchone() == (7,)
    finally:
        server.release()
    assert postmaster(tmp_path) is None


def test_it_starts_again_once_the_last_process_of_a_killed_server_is_gone(tmp_path: Path):
    """A session notices the end of its server only when it next waits; until then PostgreSQL starts no other."""
    server = ensure_server(tmp_path)
    try:
        with suppress(psycopg.OperationalError), psycopg.connect(server.url("warehouse")) as conn:
            session = psutil.Process(conn.info.backend_pid)
            killed = psutil.Process(postmaster(tmp_path))
            session.suspend()
            killed.kill()
            killed.wait(20)
            waking = threading.Timer(1.0, session.resume)
            waking.start()
            server = ensure_server(tmp_path)
            assert not session.is_running() or session.status() == psutil.STATUS_ZOMBIE
            waking.join()
        with psycopg.connect(server.url("warehouse")) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.release()


def test_a_stale_pid_file_with_the_number_of_another_program(tmp_path: Path):
    user = start_user(tmp_path)
    url_of(user)
    pid_file = tmp_path / "postgres" / "postmaster.pid"
    text = pid_file.read_text()
    end_user(user)
    # the number of this very test, which lives and is no PostgreSQL
    pid_file.write_text("\n".join([str(os.getpid()), *text.splitlines()[1:]]) + "\n")
    assert postmaster(tmp_path) is None
    server = ensure_server(tmp_path)
    try:
        assert server.is_running()
    finally:
        server.release()


def test_half_a_list_of_users_is_survived(tmp_path: Path):
    (tmp_path / "postgres.users").write_text("[[12, 3.5], [1")  # its writer was killed
    server = ensure_server(tmp_path)
    assert [pid for pid, _ in json.loads((tmp_path / "postgres.users").read_text())] == [os.getpid()]
    server.release()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path):
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "letters.txt").write_text("dear")
    with pytest.raises(WarehouseError, match="something else in it"):
        ensure_server(tmp_path)
    assert (tmp_path / "postgres" / "letters.txt").read_text() == "dear"


def test_files_of_another_version_are_refused(tmp_path: Path):
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(WarehouseError, match="made by PostgreSQL 16"):
        ensure_server(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is asked to open folders")
def test_as_root_no_folder_becomes_readable(tmp_path: Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = ensure_server(closed / "home")
    server.release()
    assert closed.stat().st_mode & 0o777 == 0o701  # passed through by the server, not listed
    assert (closed / "home" / "postgres").stat().st_mode & 0o777 == 0o700
