"""The cap on writers: never exceeded, changed while it is in use, fair, and free again after a crash."""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from click.testing import CliRunner

from importer_dagster import slots
from importer_dagster.cli import main
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Delivery
from importer_dagster.pipeline import already_loaded
from importer_dagster.pipeline import delivery as pipeline_delivery
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.slots import SLOT_LOCKS, SlotRequest
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.copy_rows import RowStream
from importer_dagster_tests.helpers.inbox import Inbox, Query, make_spec
from reliability import flood
from reliability.patience import wait_for

HEADER = "id,v,n\n"
BIG = slots.SMALL_BYTES


def take(warehouse: Warehouse, slot: int) -> psycopg.Connection:
    """Somebody who holds a slot until the connection is closed."""
    conn = psycopg.connect(warehouse.url, autocommit=True)
    conn.execute("SELECT pg_advisory_lock(%s, %s)", (SLOT_LOCKS, slot))
    return conn


@pytest.mark.parametrize("cap", [1, 3])
def test_a_flood_never_exceeds_the_cap(database_url: str, tmp_path: Path, cap: int) -> None:
    seen = flood.flood(database_url, tmp_path, cap=cap, processes=4, count=3, rows=2000)
    assert seen.statuses == {"loaded": 12}
    assert 1 <= seen.slots <= cap
    assert seen.writers <= cap


@pytest.mark.parametrize("disposition", ["append", "replace", "merge", "scd2"])
def test_processes_that_load_the_same_load_it_once(
    database_url: str, tmp_path: Path, query: Query, disposition: str
) -> None:
    flood.set_cap(database_url, 3)
    processes = [flood.start(database_url, tmp_path, "same", 8, 300, disposition) for _ in range(4)]
    seen = flood.watch(database_url, processes)
    assert seen.statuses == {"loaded": 8, "unchanged": 24}
    assert query("SELECT status, count(*) FROM importer.loads GROUP BY 1") == [("loaded", 8)]
    assert query("SELECT count(*) FROM importer.waiting") == [(0,)]
    assert query("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]
    holds = 8 * 300 if disposition in ("append", "scd2") else 300  # the same keys each day
    assert query("SELECT count(*), count(DISTINCT (_business_date, id)) FROM flood") == [(holds, holds)]


def test_waiting_takes_no_cpu(database_url: str, tmp_path: Path) -> None:
    _, most = flood.cpu_while_waiting(database_url, tmp_path, 3)
    assert most < 0.25, "measured: 0.01 to 0.04, while a busy wait takes 0.65 and more"


def test_a_file_is_hashed_without_a_connection(
    inbox: Inbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    original = already_loaded.fingerprint

    def fingerprint(delivery: Delivery) -> tuple[str, int]:
        with psycopg.connect(warehouse.url, autocommit=True) as conn:
            deadline = time.monotonic() + 1  # a session's process ends a moment after its client has gone
            while (count := _sessions(conn)) and time.monotonic() < deadline:
                time.sleep(0.02)
            seen.append((count, slots.counts(conn)[0]))
        return original(delivery)

    monkeypatch.setattr(already_loaded, "fingerprint", fingerprint)
    spec = make_spec()
    assert inbox.load(spec, HEADER + "1,a,1\n").status == "loaded"
    assert seen == [], "a file that was never seen is not read twice"
    assert inbox.load(spec, HEADER + "1,a,1\n").status == "unchanged"
    assert inbox.load(spec, HEADER + "1,b,1\n").status == "loaded"
    assert inbox.load(spec, HEADER + "1,b,1\n", dry_run=True).status == "unchanged"
    assert seen == [(0, 0)] * 3


def _sessions(conn: psycopg.Connection) -> int:
    row = conn.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'importer' "
                       "AND datname = current_database()").fetchone()  # fmt: skip
    assert row
    return row[0]


def test_who_was_overtaken_hashes_without_a_slot(
    inbox: Inbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    original = already_loaded.fingerprint

    def fingerprint(delivery: Delivery) -> tuple[str, int]:
        with psycopg.connect(warehouse.url, autocommit=True) as conn:
            taken.append(slots.counts(conn)[0])
        return original(delivery)

    monkeypatch.setattr(already_loaded, "fingerprint", fingerprint)
    flood.set_cap(warehouse.url, 1)
    spec, results = make_spec(), []
    delivery = inbox.delivery(spec, HEADER + "1,a,1\n")
    with take(warehouse, 0):
        threads = [
            threading.Thread(
                target=lambda: results.append(import_delivery(delivery, spec, warehouse=warehouse))
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        with psycopg.connect(warehouse.url, autocommit=True) as conn:
            while slots.counts(conn)[1] < 3:
                time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert sorted(r.status for r in results) == ["loaded", "unchanged", "unchanged"]
    assert taken == [0, 0], "the others read the file when it is not their turn"


def test_a_series_keeps_one_connection_while_nobody_waits(
    inbox: Inbox, warehouse: Warehouse, query: Query
) -> None:
    opened = count_opened(warehouse)
    spec = make_spec()
    files = [inbox.delivery(spec, f"{HEADER}{n},a,1\n", path=f"{n}") for n in range(4)]
    ledger_schema.migrate(warehouse)
    opened.clear()
    with warehouse.series():
        for status in ("loaded", "unchanged"):
            assert {import_delivery(d, spec, warehouse=warehouse).status for d in files} == {status}
        assert len(opened) == 1
        with psycopg.connect(warehouse.url, autocommit=True) as conn:
            assert slots.counts(conn) == (0, 0), "it holds no slot between two deliveries"
            conn.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'importer'"
            )
        again = inbox.delivery(spec, HEADER + "9,a,1\n", path="9")
        assert import_delivery(again, spec, warehouse=warehouse).status == "loaded", (
            "one that was cut is replaced"
        )
        assert len(opened) == 2
    assert all(conn.closed for conn in opened)


def test_a_series_closes_its_connection_where_others_wait(inbox: Inbox, warehouse: Warehouse) -> None:
    opened = count_opened(warehouse)
    spec = make_spec()
    inbox.load(spec, HEADER + "1,a,1\n")
    flood.set_cap(warehouse.url, 1)
    with take(warehouse, 0), psycopg.connect(warehouse.url) as other:
        assert SlotRequest("others", "acme", 1, 1).ask(other) is not None
    with warehouse.series():
        # the other one's turn comes after this one's
        with psycopg.connect(warehouse.url, autocommit=True) as conn:
            conn.execute("UPDATE importer.waiting SET since = clock_timestamp() + interval '1 hour'")
        assert inbox.load(spec, HEADER + "2,a,1\n", path="2").status == "loaded"
        assert all(conn.closed for conn in opened)


def count_opened(warehouse: Warehouse) -> list[psycopg.Connection]:
    opened: list[psycopg.Connection] = []
    original = warehouse._open

    def open_() -> psycopg.Connection:
        opened.append(original())
        return opened[-1]

    warehouse._open = open_  # type: ignore[method-assign]
    return opened


def test_who_is_overtaken_disconnects_before_another_waits_connected(
    inbox: Inbox, warehouse: Warehouse
) -> None:
    """The queue changes between two questions: two waiters may believe that they are first, one keeps its connection."""
    ledger_schema.migrate(warehouse)
    with take(warehouse, 0), warehouse.connect() as first_conn, warehouse.connect() as second_conn:
        first, second = SlotRequest("things", "acme", BIG, 1), SlotRequest("other", "bolt", 10, 1)
        position = first.ask(first_conn)
        assert position is not None and (position.ahead, position.connected) == (0, True)
        overtakes = second.ask(second_conn)  # a small file, and small ones have the next turn
        assert overtakes is not None and (overtakes.ahead, overtakes.may_connect) == (0, True)
        assert not overtakes.connected and overtakes.pause >= 0.15
        overtaken = first.ask(first_conn)
        assert overtaken is not None and (overtaken.ahead, overtaken.connected) == (1, False)
        first_conn.close()  # as `writing` does
        first.disconnected()
        assert wait_for(lambda: (position := second.ask(second_conn)) is not None and position.connected, 5)
        with warehouse.connect() as other:
            assert slots.try_connected_waiter(other, 1) is None
            assert slots.try_connected_waiter(other, 2) == 1


def test_the_lock_of_a_connected_waiter_is_given_back_with_a_slot_and_with_a_lowered_cap(
    inbox: Inbox, warehouse: Warehouse
) -> None:
    ledger_schema.migrate(warehouse)
    with warehouse.connect() as conn, warehouse.connect() as other:
        taken = take(warehouse, 0)
        request = SlotRequest("things", "acme", 10, 1)
        position = request.ask(conn)
        assert position is not None and position.connected and slots.try_connected_waiter(other, 1) is None
        taken.close()
        assert wait_for(lambda: request.ask(conn) is None, 5)
        assert slots.try_connected_waiter(other, 1) == 0
        slots.unlock(other, slots.CONNECTED_LOCKS, 0)
    with warehouse.connect() as conn, warehouse.connect() as other:
        taken = [take(warehouse, n) for n in range(2)]
        assert slots.try_connected_waiter(other, 2) == 0
        request = SlotRequest("things", "acme", 10, 2)
        position = request.ask(conn)
        assert position is not None and position.connected and request.connected_lock == 1
        slots.set_cap(other, 1)
        other.commit()
        lowered = request.ask(conn)
        assert lowered is not None and lowered.may_connect and not lowered.connected
        for slot in taken:
            slot.close()


def test_no_two_kinds_of_locks_have_the_same_number() -> None:
    """Once two kinds had: connected waiters kept the schedule from asking for runs."""
    sources = [p.read_text() for p in Path(slots.__file__).parent.rglob("*.py")]
    numbers = [n for text in sources for n in re.findall(r"^\w+ = (0x1A57E\w+)", text, re.MULTILINE)]
    assert len(numbers) >= 6 and len(numbers) == len({*numbers})


def test_a_raised_cap_lets_the_waiting_in_at_once(inbox: Inbox, warehouse: Warehouse) -> None:
    warehouse.db_writes = 1
    done = threading.Event()
    with take(warehouse, 0):
        thread = threading.Thread(target=lambda: (inbox.load(make_spec(), HEADER + "1,a,1\n"), done.set()))
        thread.start()
        assert not done.wait(1)
        flood.set_cap(warehouse.url, 2)
        assert done.wait(20)
        thread.join()


def test_a_lowered_cap_counts_slots_beyond_it(warehouse: Warehouse) -> None:
    flood.set_cap(warehouse.url, 1)
    with warehouse.connect() as conn:
        request = SlotRequest("things", "acme", 1, 8)
        with take(warehouse, 5):
            assert request.ask(conn) is not None, "slot 0 is free, but the one writer there may be writes"
        deadline = time.monotonic() + 10
        while request.ask(conn) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_killed_writer_leaves_its_slot(warehouse: Warehouse) -> None:
    flood.set_cap(warehouse.url, 1)
    code = (
        "import sys, time; from importer_dagster.warehouse import Warehouse\n"
        "with Warehouse(sys.argv[1]).writing('things', 'acme'):\n"
        "    print('writes', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, warehouse.url], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout as out:
        assert out.readline() == "writes\n"
    process.kill()
    process.wait()
    begun = time.monotonic()
    with warehouse.writing("things", "acme"):
        assert time.monotonic() - begun < 10


def test_one_who_died_in_line_does_not_count_for_long(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "_LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(slots, "_GRACE_S", 0.5)
    flood.set_cap(warehouse.url, 1)
    with take(warehouse, 0), warehouse.connect() as conn:
        assert SlotRequest("things", "dead", 1, 1).ask(conn) is not None
    with warehouse.connect() as conn:
        assert slots.counts(conn) == (0, 1)
    with warehouse.writing("things", "alive", size=1):
        pass


def served(warehouse: Warehouse, waiting: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The order in which those who began to wait in this order get the one slot."""
    flood.set_cap(warehouse.url, 1)
    order = []
    with warehouse.connect() as conn:
        with take(warehouse, 0):
            # of a type each: those of one type and tenant follow each other anyway
            queue = [(who, SlotRequest(f"type{n}", *who, 1)) for n, who in enumerate(waiting)]
            for _, request in queue:
                assert request.ask(conn) is not None
        while queue:
            for entry in queue:
                if entry[1].ask(conn) is None:
                    conn.execute("SELECT pg_advisory_unlock_all()")
                    conn.commit()
                    order.append(entry[0])
                    queue.remove(entry)
                    break
    return order


def test_a_flood_of_one_tenant_keeps_nobody_waiting(warehouse: Warehouse) -> None:
    flood_of_big = [("big", BIG)] * 6
    order = served(warehouse, [*flood_of_big, ("small", 10), ("other", BIG), ("small", 20)])
    # every other turn is for small files, and of the large ones each tenant's come by turns
    assert {order.index(("small", 10)), order.index(("small", 20))} <= {0, 1, 2, 3}
    assert order.index(("other", BIG)) <= 4


def test_small_files_wait_for_two_turns_a_tenant_at_most(database_url: str, tmp_path: Path) -> None:
    """With real files: seven large ones of one tenant at once, two small ones each of two others."""
    waits = flood.waits_beside_a_big_tenant(
        database_url, tmp_path, types=7, files=1, rows=450_000, small=2, count=2
    )
    # one more of each where a turn was taken between the question and the ticket; in order of
    # arrival the first would wait for six large ones
    assert len(waits) == 4
    assert max(w.large for w in waits) <= 2 + 1, waits
    assert max(w.small for w in waits) <= 2 + 1, waits


def test_equals_are_served_in_the_order_in_which_they_came(warehouse: Warehouse) -> None:
    waiting = [("acme", n) for n in range(5)]
    assert served(warehouse, waiting) == waiting


def test_a_lock_held_by_another_turns_into_a_retry(
    inbox: Inbox, query: Query, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline_delivery, "_FIRST_PAUSE_S", 0.5)
    spec = make_spec()
    inbox.load(spec, HEADER + "1,a,1\n", path="first.csv")
    inbox.warehouse.lock_timeout = 0.3
    with psycopg.connect(inbox.warehouse.url) as other:
        other.execute("LOCK TABLE things")
        threading.Timer(0.8, other.commit).start()
        result = inbox.load(spec, HEADER + "2,b,2\n", path="second.csv")
    assert result.status == "loaded"
    assert "Attempt 1 of" in caplog.text and "55P03" in caplog.text
    assert query("SELECT count(*) FROM things") == [(2,)]


def test_a_copy_that_waits_for_its_file_knows_no_time_out_and_others_do(inbox: Inbox, query: Query) -> None:
    inbox.warehouse.statement_timeout = 0.5
    with inbox.warehouse.connect() as conn:
        assert conn.execute("SHOW statement_timeout").fetchone() == ("500ms",)
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("SELECT pg_sleep(2)")
    spec = make_spec()
    slow = threading.Event()
    original = RowStream.write

    def write(self: RowStream, batch: pa.RecordBatch) -> None:
        original(self, batch)
        slow.set()
        time.sleep(1)  # the COPY stays open meanwhile

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowStream, "write", write)
        more = "".join(f"{n},{'x' * 1000},1\n" for n in range(1_100))  # too much to be read at once
        assert inbox.load(spec, HEADER + more).status == "loaded"
    assert slow.is_set()
    assert query("SELECT count(*) FROM things") == [(1_100,)]


def test_the_command_shows_and_sets_the_cap(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IMPORTER_WAREHOUSE_URL", database_url)
    monkeypatch.setenv("IMPORTER_HOME", str(tmp_path))
    script = "importer cap 2; importer cap; importer cap --reset"
    shown = []
    for line in script.split("; "):
        done = subprocess.run(
            [sys.executable, "-m", "importer_dagster.cli", *line.split()[1:]],
            capture_output=True,
            text=True,
            check=True,
        )
        shown.append(done.stdout.split(";")[0])
    by_setting = "4 may write at once (IMPORTER_DB_WRITES)"
    by_command = "2 may write at once (set by importer cap)"
    assert shown == [by_command, by_command, by_setting]
    with psycopg.connect(database_url) as conn:
        assert conn.execute('SELECT "limit" FROM dagster.concurrency_limits').fetchall() == [(4,)]
    assert CliRunner().invoke(main, ["cap", "0"]).exit_code == 2
