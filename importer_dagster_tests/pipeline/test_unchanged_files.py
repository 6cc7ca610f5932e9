"""Files that were sent again, recognised many at a time: the same answers and records as one by one."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest

from importer_dagster import slots
from importer_dagster.errors import SourceUnavailable
from importer_dagster.model import Delivery
from importer_dagster.pipeline import unchanged_files
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.pipeline.unchanged_files import Known, look_up
from importer_dagster.source import open_file
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer import held_rows
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, make_spec
from reliability.flood import set_cap

HEADER = "id,v,n\n"


def write(inbox: Inbox, **contents: str) -> list[Delivery]:
    """Files of the day by tenant, as they are listed; each written anew, with a stamp of its own."""
    for tenant, content in contents.items():
        file = inbox.folder / DAY.isoformat() / tenant / "things.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        again = file.with_suffix(".new")
        again.write_text(HEADER + content)
        os.utime(again, (time.time(), time.time() - (600 if not file.exists() else 60)))
        again.replace(file)
    return listed(inbox)


def listed(inbox: Inbox) -> list[Delivery]:
    return find_deliveries(
        str(inbox.folder), {"things": make_spec()}, default_path="{date}/{tenant}/{type}*.csv"
    )


def load(inbox: Inbox, spec: TableSpec, deliveries: list[Delivery]) -> list[str]:
    return [import_delivery(d, spec, warehouse=inbox.warehouse).status for d in deliveries]


def found(inbox: Inbox, spec: TableSpec, deliveries: list[Delivery]) -> dict[str, str]:
    """Tenant → status of what was recognised."""
    known = look_up(deliveries, {spec.name: spec}, warehouse=inbox.warehouse)
    return {d.tenant: result.status for d, result in known.same.items()}


def test_the_answer_and_the_records_are_those_of_one_by_one(inbox: Inbox, query: Query) -> None:
    spec, rows = make_spec(key=["id"], write_disposition="merge"), "1,a,1\n2,b,x\n"
    assert load(inbox, spec, write(inbox, a=rows, b=rows)) == ["loaded"] * 2
    ledger = "SELECT to_jsonb(l) - 'stamp' FROM importer.loads l ORDER BY load_id"
    before, file_versions = query(ledger), query("SELECT stamp FROM importer.loads ORDER BY tenant")
    again = write(inbox, a=rows, b=rows)
    known = look_up(again, {spec.name: spec}, warehouse=inbox.warehouse)
    same = known.same
    assert known.new == set()
    assert list(same) == again
    assert query(ledger) == before
    assert (
        query("SELECT stamp FROM importer.loads ORDER BY tenant")
        == [(d.file_version,) for d in again]
        != file_versions
    )
    assert query("SELECT count(*) FROM importer.waiting") == [(0,)]
    for delivery, result in same.items():
        alone = import_delivery(delivery, spec, warehouse=inbox.warehouse)
        assert alone.status == "unchanged"
        assert replace(result, seconds=alone.seconds) == alone


def test_only_what_is_in_force_with_this_content_is_recognised(inbox: Inbox, query: Query) -> None:
    spec = make_spec(gate={"empty": "hold"})
    first = write(inbox, same="1,a,1\n", other="1,a,1\n", longer="1,a,1\n", held="", gone="1,a,1\n")
    assert load(inbox, spec, first) == ["loaded", "held", "loaded", "loaded", "loaded"]
    with inbox.warehouse.connect() as conn:
        conn.execute("UPDATE importer.loads SET status = 'unloaded' WHERE tenant = 'gone'")
        conn.commit()
    again = write(
        inbox, same="1,a,1\n", other="1,b,1\n", longer="1,a,1\n\n", held="", gone="1,a,1\n", new="1,a,1\n"
    )
    assert found(inbox, spec, again) == {"same": "unchanged"}
    assert found(inbox, spec, again) == {"same": "unchanged"}, "with the stamp on record, too"
    assert load(inbox, spec, again) == ["loaded", "held", "loaded", "loaded", "loaded", "unchanged"]


def test_beside_a_held_content_nothing_is_recognised(inbox: Inbox) -> None:
    spec = make_spec(gate={"empty": "hold"})
    assert load(inbox, spec, write(inbox, a="1,a,1\n")) == ["loaded"]
    assert load(inbox, spec, write(inbox, a="")) == ["held"]
    again = write(inbox, a="1,a,1\n")
    assert found(inbox, spec, again) == {}
    assert load(inbox, spec, again) == ["unchanged"]
    with inbox.warehouse.connect() as conn:
        assert held_rows.leftovers(conn) == []


def test_a_load_that_another_session_changes_is_left_out(inbox: Inbox) -> None:
    spec = make_spec()
    load(inbox, spec, write(inbox, a="1,a,1\n", b="1,a,1\n"))
    again = write(inbox, a="1,a,1\n", b="1,a,1\n")
    with psycopg.connect(inbox.warehouse.url) as other:
        other.execute("SELECT FROM importer.loads WHERE tenant = 'a' FOR UPDATE")
        assert found(inbox, spec, again) == {"b": "unchanged"}


def test_files_that_cannot_be_read_and_large_ones_are_left_out(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    load(inbox, spec, write(inbox, a="1,a,1\n", b="1,a,1\n", c="1,a,1\n" + "2,b,2\n" * 9))
    again = write(inbox, a="1,a,1\n", b="1,a,1\n", c="1,a,1\n" + "2,b,2\n" * 9)
    Path(again[1].url).unlink()
    monkeypatch.setattr(unchanged_files, "SMALL_BYTES", 30)
    assert found(inbox, spec, again) == {"a": "unchanged"}


def test_a_file_that_leads_out_of_the_inbox_is_not_read(
    inbox: Inbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = make_spec()
    load(inbox, spec, write(inbox, a="1,a,1\n"))
    [delivery] = write(inbox, a="1,a,1\n")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "things.csv"
    elsewhere.write_text(HEADER + "1,a,1\n")
    Path(delivery.url).unlink()
    Path(delivery.url).symlink_to(elsewhere)
    assert found(inbox, spec, [delivery]) == {}
    files = [(delivery.url, None), (delivery.url, delivery.inbox)]
    assert open_file.read_files(files) == [elsewhere.read_bytes(), None]
    there = elsewhere.read_bytes()
    assert open_file.hash_files(files) == [(sha256(there).hexdigest(), len(there)), None]


def test_a_file_is_hashed_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_file, "_READ_AT_ONCE", 4)
    contents = [b"0123456789", b"", b"0123", b"01"]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    found = open_file.hash_files([(str(tmp_path / str(n)), None) for n in range(len(contents))])
    assert found == [(sha256(c).hexdigest(), len(c)) for c in contents]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="hashes one file at a time")
@pytest.mark.parametrize("slow", ["0", "1"])
def test_after_a_file_that_stalled_others_get_their_own_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    for name in "0123":
        (tmp_path / name).write_text(f"content of {name}")
    digests = open_file._digests

    def stalling(files: Sequence[tuple[str, str | None]]) -> list[tuple[str, int] | None]:
        if (str(tmp_path / slow), None) in files:
            time.sleep(1.5)
        return digests(files)

    monkeypatch.setattr(open_file, "_digests", stalling)
    monkeypatch.setenv("IMPORTER_READ_TIMEOUT", "1")
    with pytest.raises(SourceUnavailable, match="The source stalls"):
        open_file.hash_files([(str(tmp_path / name), None) for name in "01"])
    for files in ("23", "32"):
        found = open_file.hash_files([(str(tmp_path / name), None) for name in files])
        assert found == [(sha256(f"content of {name}".encode()).hexdigest(), 12) for name in files]


def test_recording_waits_for_a_slot(inbox: Inbox, warehouse: Warehouse) -> None:
    spec = make_spec()
    load(inbox, spec, write(inbox, a="1,a,1\n"))
    again = write(inbox, a="1,a,1\n")
    set_cap(warehouse.url, 1)
    results: list[dict[str, str]] = []
    with psycopg.connect(warehouse.url, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s, 0)", (slots.SLOT_LOCKS,))
        thread = threading.Thread(target=lambda: results.append(found(inbox, spec, again)))
        thread.start()
        while slots.counts(conn)[1] < 1:
            time.sleep(0.02)
        assert results == []
    thread.join()
    assert results == [{"a": "unchanged"}]


def test_where_the_database_cannot_be_reached_nothing_is_recognised_and_nothing_raised(inbox: Inbox) -> None:
    spec = make_spec()
    nowhere = Warehouse("postgresql://nobody@127.0.0.1:9/none")
    assert look_up(write(inbox, a="1,a,1\n"), {spec.name: spec}, warehouse=nowhere) == Known()
    assert look_up([], {spec.name: spec}, warehouse=nowhere) == Known()


def test_what_is_new_is_told_and_loaded_once_whoever_was_quicker(inbox: Inbox, query: Query) -> None:
    spec = make_spec()
    load(inbox, spec, write(inbox, a="1,a,1\n"))
    deliveries = write(inbox, a="1,b,1\n", b="1,a,1\n")
    known = look_up(deliveries, {spec.name: spec}, warehouse=inbox.warehouse)
    assert ({d.tenant for d in known.new}, known.same) == ({"b"}, {})
    new = deliveries[1]
    for expected in ("loaded", "unchanged"):  # the second time it is new no longer
        result = import_delivery(new, spec, warehouse=inbox.warehouse, is_new=True)
        assert result.status == expected
    write(inbox, b="1,c,1\n")
    assert import_delivery(new, spec, warehouse=inbox.warehouse, is_new=True).status == "loaded"
    assert query("SELECT v FROM things WHERE _tenant = 'b'") == [("c",)]
    loads = "SELECT status, superseded_by IS NULL FROM importer.loads WHERE tenant = 'b' ORDER BY load_id"
    assert query(loads) == [("loaded", False), ("loaded", True)]


def test_a_new_file_that_is_refused_or_met_while_it_loads(inbox: Inbox, query: Query) -> None:
    spec = make_spec()
    [delivery] = write(inbox, a="1,a\n")
    Path(delivery.url).write_text("who,knows\n1,2\n")
    assert import_delivery(delivery, spec, warehouse=inbox.warehouse, is_new=True).status == "refused"
    Path(delivery.url).write_text(HEADER + "1,a,1\n")
    results: list[str] = []

    def one() -> None:
        own = Warehouse(inbox.warehouse.url)
        results.append(import_delivery(delivery, spec, warehouse=own, is_new=True).status)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["loaded", "unchanged", "unchanged"]
    assert query("SELECT count(*) FROM things") == [(1,)]
