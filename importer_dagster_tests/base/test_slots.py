"""Every write, of every command, is done by a session that holds a slot; the database itself says so."""

import dataclasses
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from importer_dagster.cli import main
from importer_dagster.launch.embedded import EmbeddedServer
from importer_dagster.operations import release, retention, unload
from importer_dagster.pipeline import delivery as pipeline_delivery
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.settings import Keep
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, database, make_spec
from reliability import guard

HEADER = "id,v,n\n"
DISPOSITIONS = ["append", "replace", "merge", "scd2"]


@pytest.fixture(autouse=True)
def _guarded(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_delivery, "_FIRST_PAUSE_S", 0.01)
    with psycopg.connect(database_url, autocommit=True) as conn:
        guard.install(conn)


def later(days: int) -> datetime.date:
    return DAY + datetime.timedelta(days=days)


def test_the_guard_stops_who_has_no_slot(inbox: Inbox, warehouse: Warehouse) -> None:
    spec = make_spec()
    inbox.load(spec, HEADER + "1,a,1\n")
    statements = (
        "DELETE FROM things",
        "ALTER TABLE things ADD COLUMN x text",
        "CREATE TABLE other (i int)",
        "DROP TABLE things",
        "COMMENT ON COLUMN things.v IS 'x'",
        "UPDATE importer.loads SET reason = 'x'",
    )
    with psycopg.connect(warehouse.url, autocommit=True) as conn:
        for statement in statements:
            with pytest.raises(psycopg.errors.RaiseException, match=guard.MESSAGE):
                conn.execute(statement)


@pytest.mark.parametrize("disposition", DISPOSITIONS)
def test_loading_and_unloading(inbox: Inbox, warehouse: Warehouse, disposition: str) -> None:
    spec = make_spec(key=["id"], write_disposition=disposition)
    for n in (2, 0, 1):  # one that is late among them
        assert inbox.load(spec, f"{HEADER}1,a{n},1\n2,b,x\n", path=f"{n}", day=later(n)).status == "loaded"
    again = inbox.load(spec, f"{HEADER}1,c,1\n", path="1", day=later(1))
    assert again.status == "loaded"
    os.utime(inbox.folder / "1", (1, 1))  # which goes on record
    assert import_delivery(again.delivery, spec, warehouse=warehouse).status == "unchanged"
    assert inbox.load(spec, "nothing,of,it\n", path="3", day=later(3)).status == "refused"
    assert inbox.load(spec, f"{HEADER}1,d,1\n", path="4", day=later(4), dry_run=True).status == "loaded"
    assert again.load_id
    unload.unload(again.load_id, {"things": spec}, warehouse=warehouse, has_tenant=lambda _: True)


def test_a_spec_that_gained_a_field_and_a_table_that_gains_columns(inbox: Inbox, query: Query) -> None:
    fields = [{"name": "id", "type": "integer"}, {"name": "v"}]
    evolving = {"schema_contract": {"added": "evolve"}}
    inbox.load(make_spec(fields=fields, **evolving), "id,v\n1,a\n")
    inbox.load(make_spec(fields=fields, **evolving), "id,v,w\n1,a,7\n", path="2")
    inbox.load(make_spec(fields=fields, **evolving), "id,v,w\n1,a,x\n", path="3")
    more = [*fields, {"name": "w"}, {"name": "z", "type": "integer"}]
    another = Inbox(inbox.folder, Warehouse(inbox.warehouse.url))  # which has not seen the tables yet
    assert (
        another.load(make_spec(fields=more, **evolving), "id,v,w,z\n1,a,x,3\n", path="4").status == "loaded"
    )
    assert query("SELECT w, z FROM things ORDER BY _load_id") == [
        (None, None),
        ("7", None),
        ("x", None),
        ("x", 3),
    ]


@pytest.mark.parametrize("decision", ["release", "refuse"])
def test_what_is_held(inbox: Inbox, warehouse: Warehouse, decision: str) -> None:
    spec = make_spec(gate={"rows": {"least": 2, "action": "hold"}})
    load_id = inbox.load(spec, HEADER + "1,a,1\n").load_id
    assert load_id
    fresh = Warehouse(warehouse.url)
    if decision == "release":
        release.release(load_id, {"things": spec}, warehouse=fresh, has_tenant=lambda _: True)
    else:
        release.refuse(load_id, warehouse=fresh)


def test_accepting_a_change_of_a_spec(
    inbox: Inbox, query: Query, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    fields = [{"name": "id", "type": "integer"}, {"name": "v"}]
    (specs / "things.yaml").write_text(
        "schema:\n  fields:\n    - {name: id, type: integer}\n    - {name: v}\nschema_contract: {added: rescue}\n"
    )
    spec = make_spec(fields=fields, schema_contract={"added": "rescue"})
    rows = "".join(f"{i},a,{i}\n" for i in range(30))
    for n in range(2):
        assert inbox.load(spec, f"id,v,w\n{rows}", path=f"{n}", day=later(n)).status == "loaded"
    monkeypatch.setenv("IMPORTER_WAREHOUSE_URL", inbox.warehouse.url)
    monkeypatch.setenv("IMPORTER_SPECS", str(specs))
    done = CliRunner().invoke(main, ["drift", "accept", "things", "--column", "w"])
    assert done.exit_code == 0, done.output
    assert query("SELECT count(w), count(_extra) FROM things") == [(60, 0)]


def test_pruning(inbox: Inbox, warehouse: Warehouse, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="merge")
    for content in ("1,a,1\n2,b,x\n", "1,b,1\n"):
        inbox.load(spec, HEADER + content)
    inbox.load(spec, HEADER + "1,c,1\n", path="2", day=later(1))
    much_later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9_000)
    keep = Keep(*[1] * len(dataclasses.fields(Keep)))
    gone = retention.prune(warehouse, {"things": spec}, keep, has_tenant=lambda _: True, now=much_later)
    assert sum(g.count for g in gone) > 0


# --- databases without a (current) ledger have no queue, but they have slots ----------------


@pytest.fixture
def bare_url(server: EmbeddedServer) -> Iterator[str]:
    """A database that the importer has never seen."""
    with database(server) as url:
        yield url


def test_a_first_load_and_a_rehearsal_before_it(bare_url: str, tmp_path: Path) -> None:
    with psycopg.connect(bare_url, autocommit=True) as conn:
        guard.install(conn)
    inbox, spec = Inbox(tmp_path, Warehouse(bare_url)), make_spec()
    delivery = inbox.delivery(spec, HEADER + "1,a,1\n")
    assert import_delivery(delivery, spec, warehouse=inbox.warehouse, dry_run=True).status == "loaded"
    assert import_delivery(delivery, spec, warehouse=inbox.warehouse).status == "loaded"
