"""Faults of the database while an import runs: a retry that succeeds, or a clear failure; never half a file.

On a server of its own, since it is restarted here. Faults are real: connections
are cut, the server is stopped, a file system is full.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest

from importer_dagster.errors import TransientError, WarehouseUnavailable
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.pipeline import delivery as pipeline_delivery
from importer_dagster.pipeline import load as pipeline_load
from importer_dagster.reader import reader
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import DAY
from reliability.server import OwnServer, own_server
from reliability.state import differences, remains, state
from reliability.steps import arm, install, let_go, waiting
from reliability.work import variants

ROWS = 400
SPEC = variants()["merge"]


@pytest.fixture(scope="module")
def own(_clean_environment: None) -> Iterator[OwnServer]:
    with own_server() as server:
        server.clone("template_faults", "template1")
        with server.connect("template_faults") as conn:
            install(conn)
        ledger_schema.migrate(Warehouse(server.url("template_faults")))
        yield server


class Fault:
    """A database of its own with one file loaded, and another to load under fire."""

    def __init__(self, server: OwnServer, name: str, folder: Path) -> None:
        self.server, self.name, self.folder = server, name, folder
        self.warehouse = Warehouse(server.url(name))
        self.load(self.file("a.csv", "before"))
        with self.connect() as conn:
            self.before = state(conn)

    def connect(self) -> psycopg.Connection:
        return self.server.connect(self.name)

    def file(self, name: str, value: str, rows: int = ROWS) -> Delivery:
        file = self.folder / name
        file.write_text("id,v,n\n" + "".join(f"{i},{value},{i}.25\n" for i in range(1, rows + 1)))
        return Delivery("things", "acme", DAY, name, str(file), file.stat().st_size)

    def load(self, delivery: Delivery, warehouse: Warehouse | None = None) -> LoadResult:
        return pipeline_delivery.import_delivery(delivery, SPEC, warehouse=warehouse or self.warehouse)

    def values(self) -> dict[str, int]:
        with self.connect() as conn:
            return dict(conn.execute("SELECT v, count(*) FROM things GROUP BY v").fetchall())

    def settled(self) -> None:
        """Wait for sessions to end; then nothing may be left behind."""
        with self.connect() as conn:
            deadline = time.monotonic() + 10
            while remains(conn) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert remains(conn) == []

    def untouched(self) -> None:
        with self.connect() as conn:
            assert differences(self.before, state(conn)) == []
        self.settled()

    @contextmanager
    def in_mid_copy(self, delivery: Delivery) -> Iterator[tuple[int, list]]:
        """The block runs while the import is in mid-COPY; (server process, what the import ends with)."""
        outcome: list = []

        def run() -> None:
            try:
                outcome.append(self.load(delivery))
            except Exception as error:
                outcome.append(error)

        hold = self.connect()
        arm(hold, "copy", 200)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            pid = wait_for(lambda: waiting(hold))
            yield pid, outcome
        finally:
            with suppress(psycopg.OperationalError):  # the server is gone, and the hold with it
                let_go(hold)
            thread.join(120)
            hold.close()
        assert not thread.is_alive()


def wait_for(condition: Callable, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


@pytest.fixture
def fault(own: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
    monkeypatch.setattr(pipeline_load, "open_delivery", partial(reader.open_delivery, block_size=2048))
    monkeypatch.setattr(pipeline_delivery, "_FIRST_PAUSE_S", 0.1)
    name = f"fault_{os.urandom(4).hex()}"
    own.clone(name, "template_faults")
    yield Fault(own, name, tmp_path)
    own.drop(name)


def test_a_connection_cut_in_mid_copy_is_tried_again(fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    with fault.in_mid_copy(fault.file("b.csv", "after")) as (pid, outcome), fault.connect() as conn:
        conn.execute("SELECT pg_terminate_backend(%s)", (pid,))
    assert outcome[0].status == "loaded"
    assert fault.values() == {"after": ROWS}
    assert caplog.text.count("Attempt 1 of") == 1
    fault.settled()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_server_restarted_in_mid_copy_is_waited_for(
    fault: Fault, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_delivery, "_FIRST_PAUSE_S", 0.5)
    with fault.in_mid_copy(fault.file("b.csv", "after")) as (_, outcome):
        fault.server.signal(number)
        time.sleep(1)
        fault.server.start()
        assert fault.values() == {"before": ROWS} or outcome  # never half of it
    assert outcome[0].status == "loaded"
    assert fault.values() == {"after": ROWS}
    fault.settled()


def test_a_server_that_stays_down_is_a_failure_and_the_old_state_stands(fault: Fault) -> None:
    delivery = fault.file("b.csv", "after")
    with fault.in_mid_copy(delivery) as (_, outcome):
        fault.server.signal(signal.SIGINT)
        wait_for(lambda: outcome)
        fault.server.start()
    assert isinstance(outcome[0], WarehouseUnavailable)
    assert outcome[0].exit_code == 4
    fault.untouched()
    assert fault.load(delivery).status == "loaded"


def test_a_serialization_failure_is_tried_again(fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    with fault.connect() as conn:
        conn.execute(f"ALTER DATABASE {fault.name} SET default_transaction_isolation = 'repeatable read'")
    with fault.in_mid_copy(fault.file("b.csv", "after")), fault.connect() as conn:
        # the importer's snapshot is older than this
        conn.execute("UPDATE things SET n = 0 WHERE id = 1")
    assert "40001" in caplog.text
    assert fault.values() == {"after": ROWS}
    fault.settled()


def test_a_read_only_database_is_waited_for_and_then_a_failure(fault: Fault) -> None:
    delivery = fault.file("b.csv", "after")
    read_only(fault, True)
    with pytest.raises(WarehouseUnavailable, match="25006") as caught:
        fault.load(delivery)
    assert caught.value.exit_code == 4
    fault.untouched()
    timer = threading.Timer(0.5, read_only, (fault, False))  # as at a fail-over
    timer.start()
    assert fault.load(delivery).status == "loaded"
    timer.join()
    assert fault.values() == {"after": ROWS}


def read_only(fault: Fault, on: bool) -> None:
    with fault.server.connect("postgres") as conn:
        conn.execute(f"ALTER DATABASE {fault.name} SET default_transaction_read_only = {on}")


# the command, its pauses between attempts made short
_CLI = (
    "from importer_dagster import cli; from importer_dagster.pipeline import delivery; "
    "delivery._FIRST_PAUSE_S = 0.01; cli.main()"
)


def test_the_command_says_so_with_exit_code_4(fault: Fault, tmp_path: Path) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "things.yaml").write_text(
        "schema: {fields: [{name: id, type: integer}, {name: v}], primaryKey: [id]}\n"
    )
    read_only(fault, True)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _CLI,
            "load",
            "things",
            fault.file("things.csv", "x").url,
            "--tenant",
            "acme",
            "--json",
        ],
        env={
            **os.environ,
            "IMPORTER_WAREHOUSE_URL": fault.warehouse.url,
            "IMPORTER_SPECS": str(tmp_path / "specs"),
            "IMPORTER_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    said = json.loads(done.stdout)
    assert (said["status"], said["rows_loaded"]) == ("failed", 0)
    assert "read-only transaction" in said["reason"]
    fault.untouched()


@pytest.fixture
def limited(fault: Fault) -> Iterator[Warehouse]:
    """The same database through a role that may have one connection only."""
    with fault.connect() as conn:
        conn.execute(
            "CREATE ROLE limited LOGIN CONNECTION LIMIT 1 IN ROLE pg_read_all_data, pg_write_all_data"
        )
    yield Warehouse(fault.warehouse.url.replace("postgres@", "limited@"))
    with fault.connect() as conn:
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'limited'")
        conn.execute("DROP OWNED BY limited; DROP ROLE limited")


def test_too_many_connections_are_waited_for_and_then_a_failure(fault: Fault, limited: Warehouse) -> None:
    taken = psycopg.connect(limited.url)
    with pytest.raises(WarehouseUnavailable, match="too many connections"):
        fault.load(fault.file("b.csv", "after"), limited)
    taken.close()
    fault.untouched()


def test_a_connection_that_becomes_free_is_taken(
    fault: Fault, limited: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    with fault.connect() as conn:
        conn.execute("ALTER ROLE limited CONNECTION LIMIT 3; GRANT ALL ON SCHEMA reliability TO limited")
        conn.execute("GRANT ALL ON ALL TABLES IN SCHEMA public, importer, importer_superseded TO limited")
        conn.execute(
            "GRANT CREATE ON SCHEMA public, importer, importer_superseded, importer_repeats TO limited"
        )
    taken = [psycopg.connect(limited.url) for _ in range(3)]
    timer = threading.Timer(0.3, lambda: [conn.close() for conn in taken])
    timer.start()
    assert fault.load(fault.file("b.csv", "after"), limited).status == "loaded"
    timer.join()
    assert "too many connections" in caplog.text
    assert fault.values() == {"after": ROWS}


@pytest.fixture
def small_disk(own: OwnServer) -> Iterator[Path]:
    """A file system of two megabytes; only root can make one."""
    place = own.folder / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "importer-tests", str(place)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("a small file system cannot be mounted here (it takes root)")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_a_failure_on_the_ledger_and_no_harm(
    fault: Fault, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_load, "open_delivery", reader.open_delivery)
    monkeypatch.setattr(pipeline_delivery, "_FIRST_PAUSE_S", 0.01)
    owner = fault.server.server.data.stat()
    os.chown(small_disk, owner.st_uid, owner.st_gid)
    with fault.server.connect("postgres") as conn:
        conn.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
        conn.execute(f"ALTER DATABASE {fault.name} SET temp_tablespaces = small")
    delivery = fault.file("b.csv", "after" * 20, rows=30_000)
    try:
        with pytest.raises(TransientError, match="53100") as caught:
            fault.load(delivery)
        assert caught.value.exit_code == 4
        fault.untouched()
        with fault.connect() as conn:
            failed = conn.execute("SELECT path, status, reason FROM importer.loads WHERE status = 'failed'")
            [(path, _, reason)] = failed.fetchall()
        assert path == "b.csv" and "No space left on device" in reason
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)  # someone made room
        assert fault.load(delivery).status == "loaded"
        assert fault.values()["after" * 20] == 30_000
    finally:
        with fault.server.connect("postgres") as conn:
            conn.execute(f"ALTER DATABASE {fault.name} RESET temp_tablespaces")
            conn.execute("DROP TABLESPACE small")
