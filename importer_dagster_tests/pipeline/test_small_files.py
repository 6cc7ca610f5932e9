"""Small files that are imported together: the same rows, records and results as one by one, or not at all."""

import gzip
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandera.pandas as pandera
import psycopg
import pytest

from importer_dagster import slots
from importer_dagster.launch.embedded import EmbeddedServer
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.pipeline import small_file_groups, small_files
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.pipeline.small_files import import_together
from importer_dagster.pipeline.unchanged_files import look_up
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.source.open_file import read_files
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.checks import named_check
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, database, make_spec
from reliability.flood import set_cap
from reliability.patience import wait_for
from reliability.state import differences, state

PATH = "{date}/{tenant}/{type}*.csv"
FIELDS = [
    {"name": "id", "type": "integer", "constraints": {"minimum": 0}},
    {"name": "v", "aliases": ["word"]},
    {"name": "n", "type": "number", "precision": 8, "scale": 2},
]
CHOSEN = {"run_id": "the run"}


@pytest.fixture
def other(server: EmbeddedServer, _template: str) -> Iterator[Warehouse]:
    """A second database."""
    with database(server, _template) as url:
        yield Warehouse(url)


# --- files -------------------------------------------------------------------------------------------


def rows(made: random.Random, first: int = 1) -> str:
    numbers = range(first, first + made.randrange(1, 30))
    return "".join(f"{i},{made.choice('abc')},{made.randrange(900) / 100}\n" for i in numbers)


HEADER = "id,v,n\n"
# kind → its content; the first ones are what is imported together
PLAIN: dict[str, Callable[[random.Random], str | bytes]] = {
    "clean": lambda r: HEADER + rows(r),
    "clean too": lambda r: HEADER + rows(r),
    "quoted": lambda r: HEADER + '1,"a\nb",2\n2,"c"",",3\n',
    "no row": lambda r: HEADER,
    "blank lines": lambda r: "\n" + HEADER + "\n" + rows(r) + "\n\n",
    "another order": lambda r: "v,id,n\n" + "".join(f"{i},{i + 1},7\n" for i in range(5)),
    "an alias": lambda r: "id,word,n\n" + rows(r),
    "other case": lambda r: "ID,v,n\n" + rows(r),
    "a column less": lambda r: "id,v\n1,a\n2,b\n",
    "mark and CRLF": lambda r: ("\ufeff" + HEADER + rows(r)).replace("\n", "\r\n").encode(),
    "zipped": lambda r: gzip.compress((HEADER + rows(r)).encode()),
}
OTHER: dict[str, Callable[[random.Random], str | bytes]] = {
    "bad cell": lambda r: HEADER + rows(r) + "x,a,1\n",
    "bad constraint": lambda r: HEADER + rows(r) + "-1,a,1\n",
    "too long": lambda r: HEADER + rows(r) + "1,a,1,2\n",
    "cut off": lambda r: HEADER + rows(r) + "7",
    "open quote": lambda r: HEADER + rows(r) + '8,"a,1\n9,b,2\n',
    "a total": lambda r: HEADER + "1,a,1\n2,b,2\n3,c,2\nTotal,,5\n",
    "damaged text": lambda r: HEADER + "1,\ufffd,1\n",
    "NUL": lambda r: HEADER + "1,\0,1\n" + rows(r, 2),
    "a column more": lambda r: "id,v,n,new\n1,a,1,z\n",
    "delimiter at the end": lambda r: HEADER + "1,a,1,\n2,b,2,\n",
    "no byte": lambda r: "",
    "HTML": lambda r: "<!DOCTYPE html><html><body>no</body></html>",
    "another type": lambda r: "a,b,c\n1,2,3\n",
    "header again": lambda r: HEADER + rows(r) + HEADER,
    "all bad": lambda r: HEADER + "".join(f"x{i},a,1\n" for i in range(30)),
    "large": lambda r: HEADER + "".join(f"{i},{'y' * 50},1\n" for i in range(100)),
}
KINDS = {**PLAIN, **OTHER}


def put(inbox: Inbox, name: str, content: str | bytes, *, day: date = DAY, tenant: str = "acme") -> Path:
    file = inbox.folder / day.isoformat() / tenant / f"things-{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content.encode() if isinstance(content, str) else content)
    return fresh.replace(file)


def listed(inbox: Inbox, spec: TableSpec) -> list[Delivery]:
    return find_deliveries(str(inbox.folder), {spec.name: spec}, default_path=PATH)


def made_spec(**more: Any) -> TableSpec:
    return make_spec(fields=FIELDS, reject_limit={"share": 0.9}, **more)


def many(inbox: Inbox, count: int = 6, tenant: str = "acme") -> list[Delivery]:
    for number in range(count):
        put(inbox, f"{number:02}", HEADER + f"{number},a,1\n" * 3, tenant=tenant)
    return [d for d in listed(inbox, made_spec()) if d.tenant == tenant]


# --- importing, as a step does -----------------------------------------------------------------------


def import_all(
    warehouse: Warehouse, spec: TableSpec, deliveries: Sequence[Delivery], *, grouped: bool = True
) -> tuple[dict[Delivery, LoadResult], dict[Delivery, LoadResult]]:
    """All results, and those of what was imported together."""
    known = look_up(deliveries, {spec.name: spec}, warehouse=warehouse)
    new = [d for d in deliveries if d in known.new]
    done = import_together(new, spec, warehouse=warehouse, **CHOSEN) if grouped else {}
    return {
        d: known.same.get(d)
        or done.get(d)
        or import_delivery(d, spec, warehouse=warehouse, is_new=d in known.new, **CHOSEN)
        for d in deliveries
    }, done


def records(warehouse: Warehouse) -> dict[str, Any]:
    """All that is on record, refusals and stamps too, without numbers and times."""
    ledger_of = """
        SELECT to_jsonb(l) - ARRAY['load_id', 'superseded_by', 'started_at', 'finished_at'], superseded_by IS NULL,
               finished_at >= started_at AND started_at > now() - interval '1 hour'
        FROM importer.loads l ORDER BY type, tenant, business_date, path, status, bytes, sha256
    """
    details = """
        SELECT l.type, l.tenant, l.business_date, l.path, l.status, l.bytes, to_jsonb(x) - 'load_id' AS more
        FROM importer.{} x JOIN importer.loads l USING (load_id) ORDER BY 1, 2, 3, 4, 5, 6, x::text COLLATE "C"
    """
    with warehouse.connect() as conn:
        found: dict[str, Any] = {"loads": conn.execute(ledger_of).fetchall()}
        for table in ("rejects", "drift", "gate"):
            found[table] = sorted(map(repr, conn.execute(details.format(table).encode()).fetchall()))
        return found


def same_but_for_numbers(result: LoadResult) -> LoadResult:
    reason = result.reason and result.reason.rpartition(" load ")[0]
    return replace(result, seconds=0, load_id=None if result.load_id is None else 0, reason=reason)


def check_same(one: Warehouse, two: Warehouse) -> None:
    with one.connect() as a, two.connect() as b:
        assert differences(state(a), state(b)) == []
    assert records(one) == records(two)


SPECS = {
    "append": made_spec(),
    "keyed": made_spec(key=["id"]),
    "frozen": made_spec(schema_contract={"added": "freeze", "removed": "freeze", "reordered": "freeze"}),
    "evolve": made_spec(schema_contract={"added": "evolve", "retyped": "rescue"}),
    "merge": made_spec(key=["id"], write_disposition="merge"),
    "gated": made_spec(gate={"empty": "hold"}),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SPECS)
def test_the_same_as_one_by_one(
    inbox: Inbox,
    warehouse: Warehouse,
    other: Warehouse,
    name: str,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = random.Random(f"{name} {seed}")
    monkeypatch.setattr(small_files, "SMALL_FILE", 4_000)
    monkeypatch.setattr(small_files, "MOST_FILES", made.choice([5, 9, 200]))
    monkeypatch.setattr(small_files, "MOST_BYTES", made.choice([300, 3_000, 2 << 20]))
    spec, counted = SPECS[name], 0
    for _ in range(2):
        for number in range(40):
            kind = made.choice([*PLAIN, *OTHER]) if made.random() < 0.4 else "clean"
            if made.random() < 0.8:  # some stay as they are, others come again with other content
                day, tenant = DAY + timedelta(days=number % 3), made.choice(["acme", "bolt"])
                put(inbox, f"{number:02} {kind}", KINDS[kind](made), day=day, tenant=tenant)
        found = listed(inbox, spec)
        Path(found[7].url).unlink()
        results, done = import_all(warehouse, spec, found)
        alone, _ = import_all(other, spec, found, grouped=False)
        assert {d: same_but_for_numbers(r) for d, r in results.items()} == {
            d: same_but_for_numbers(r) for d, r in alone.items()
        }
        assert {r.status for r in done.values()} <= {"loaded"}
        numbers = [r.load_id or 0 for d in found if (r := done.get(d)) and d.tenant == "acme"]
        assert numbers == sorted(numbers), "numbers in the order of the files"
        check_same(warehouse, other)
        counted += len(done)
    assert (counted > 3) == (name in ("append", "keyed", "frozen", "evolve"))


def test_which_files_are_imported_together(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_files, "SMALL_FILE", 4_000)
    spec = made_spec()
    for kind, content in KINDS.items():
        for number in range(9):  # more than one with the same columns
            put(inbox, f"{kind}-{number}", content(random.Random(number)))
    for kind in KINDS:
        mine = [d for d in listed(inbox, spec) if f"things-{kind}-" in d.path]
        done = import_together(mine, spec, warehouse=inbox.warehouse)
        assert len(done) == (9 if kind in PLAIN else 0), kind


def test_a_keyed_file_is_plain_where_its_keys_rise(inbox: Inbox, query: Query) -> None:
    spec = made_spec(key=["id"])
    for name, ids in {"a": "123", "b": "579", "c": "121", "d": "21", "e": "1"}.items():
        put(inbox, name, HEADER + "".join(f"{i},x,1\n" for i in ids))
    done = import_together(listed(inbox, spec), spec, warehouse=inbox.warehouse)
    assert [d.path[-5] for d in done] == ["a", "b", "e"]
    assert query("SELECT count(*) FROM things") == [(7,)]


@named_check("own_of_the_column")
def of_the_column() -> pandera.Check:
    return pandera.Check(lambda column: column.notna().any())


@pytest.mark.parametrize(
    "more",
    [
        {"write_disposition": "replace"},
        {"write_disposition": "merge", "key": ["id"]},
        {"gate": {"empty": "hold"}},
        {"complete": {"manifest": {"path": "{path}.sum", "format": "sums"}}},
        {"fields": [*FIELDS[:2], {**FIELDS[2], "constraints": {"unique": True}}]},
        {"versions": [{"since": "2024-06-01", "fields": [{"name": "w"}]}]},
        {"dialect": {"footerRows": 1}, "trailer": {"rows": 2}},
        {"fields": [FIELDS[0], {"name": "v", "checks": ["own_of_the_column"]}, FIELDS[2]]},
    ],
)
def test_which_types_are_not(inbox: Inbox, more: dict[str, Any]) -> None:
    spec = make_spec(**{"fields": FIELDS, **more})
    assert import_together(many(inbox), spec, warehouse=inbox.warehouse) == {}


# --- groups ------------------------------------------------------------------------------------------


def transactions(query: Query) -> list[int]:
    """How many loads each has, in order."""
    return [
        n for (n,) in query("SELECT count(*) FROM importer.loads GROUP BY xmin::text ORDER BY min(load_id)")
    ]


@pytest.mark.parametrize(
    ("name", "most", "expected"),
    [("MOST_FILES", 200, [7]), ("MOST_FILES", 3, [3, 3]), ("MOST_BYTES", 1, [])],
)
def test_a_group_is_no_larger_than_it_may_be(
    inbox: Inbox, query: Query, monkeypatch: pytest.MonkeyPatch, name: str, most: int, expected: list[int]
) -> None:
    monkeypatch.setattr(small_files, name, most)
    import_together(many(inbox, 7), made_spec(), warehouse=inbox.warehouse)
    assert transactions(query) == expected


def test_where_most_files_are_left_out_no_more_are_tried(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_files, "MOST_FILES", 4)
    for number in range(4):
        put(inbox, f"{number:02}", HEADER + "x,a,1\n" * (number != 2))
    many_more = [put(inbox, f"{number:02}", HEADER + "1,a,1\n") for number in range(4, 8)]
    spec = made_spec()
    assert import_together(listed(inbox, spec), spec, warehouse=inbox.warehouse) == {}
    again = [d for d in listed(inbox, spec) if Path(d.url) in many_more]
    assert len(import_together(again, spec, warehouse=inbox.warehouse)) == 4


def test_a_file_that_changes_while_it_is_read_is_left_out(
    inbox: Inbox, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = many(inbox)

    def read_and_change(files: Sequence[tuple[str, str | None]]) -> list[bytes | None]:
        data = read_files(files)
        put(inbox, "02", HEADER + "77,b,1\n")
        return data

    monkeypatch.setattr(small_files, "read_files", read_and_change)
    results, done = import_all(inbox.warehouse, made_spec(), found)
    assert found[2] not in done and len(done) == 5
    assert results[found[2]].status == "loaded"
    assert query("SELECT count(*) FILTER (WHERE id = 77), count(*) FROM things") == [(1, 16)]


def test_what_leads_out_of_the_inbox_is_not_read(
    inbox: Inbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = many(inbox)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "f.csv"
    elsewhere.write_text(HEADER + "1,a,1\n")
    Path(found[0].url).unlink()
    Path(found[0].url).symlink_to(elsewhere)
    results, done = import_all(inbox.warehouse, made_spec(), found)
    assert len(done) == 5
    assert results[found[0]].status == "refused"


# --- errors ------------------------------------------------------------------------------------------


def forbid_together(warehouse: Warehouse) -> None:
    """Have the server refuse what only an import of several files does: a row of the ledger that is complete at once."""
    with warehouse.connect() as conn:
        conn.execute(
            """
            CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '53100'; END $$;
            CREATE TRIGGER forbid BEFORE INSERT ON importer.loads FOR EACH ROW WHEN (NEW.status = 'loaded')
            EXECUTE FUNCTION forbid();
            """
        )
        conn.commit()


def test_after_an_error_the_files_are_imported_one_by_one(
    inbox: Inbox, other: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    spec, found = made_spec(), many(inbox)
    forbid_together(inbox.warehouse)
    results, done = import_all(inbox.warehouse, spec, found)
    assert done == {}
    assert {r.status for r in results.values()} == {"loaded"}
    assert "imported one by one" in caplog.text and "not today" in caplog.text
    import_all(other, spec, found)
    check_same(inbox.warehouse, other)


@pytest.mark.parametrize("stage", ["_validate", "_copy"])
def test_a_bug_leaves_nothing_behind(
    inbox: Inbox, query: Query, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    done = getattr(small_file_groups, stage)

    def stumble(*arguments: Any) -> None:
        done(*arguments)
        raise ValueError(stage)

    monkeypatch.setattr(small_file_groups, stage, stumble)
    with inbox.warehouse.series():
        assert import_together(many(inbox), made_spec(), warehouse=inbox.warehouse) == {}
        assert query("SELECT count(*) FROM importer.loads") == [(0,)]
        assert query("SELECT to_regclass('things') IS NULL OR (SELECT count(*) = 0 FROM pg_locks "
                     "WHERE locktype = 'advisory')") == [(True,)]  # fmt: skip
    monkeypatch.undo()
    results, _ = import_all(inbox.warehouse, made_spec(), listed(inbox, made_spec()))
    assert {r.status for r in results.values()} == {"loaded"}
    assert query("SELECT count(*) FROM things") == [(18,)]


def test_a_database_out_of_reach_raises_nothing(inbox: Inbox) -> None:
    nowhere = Warehouse("postgresql://nobody@127.0.0.1:1/nothing")
    assert import_together(many(inbox), made_spec(), warehouse=nowhere) == {}


# --- others at work ----------------------------------------------------------------------------------


def test_what_somebody_else_loads_meanwhile_is_left_out(
    inbox: Inbox, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, found = made_spec(), many(inbox)
    validate = small_file_groups._validate

    def slowly(files: Any) -> Any:
        import_delivery(found[3], spec, warehouse=Warehouse(inbox.warehouse.url))
        return validate(files)

    monkeypatch.setattr(small_file_groups, "_validate", slowly)
    results, done = import_all(inbox.warehouse, spec, found)
    assert list(done) == [*found[:3], *found[4:]]
    assert results[found[3]].status == "unchanged"
    assert query("SELECT count(*), count(DISTINCT (id, _load_id, _row)) FROM things") == [(18, 18)]


def test_several_at_once_load_each_file_once(
    inbox: Inbox, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_files, "MOST_FILES", 4)
    spec = made_spec()
    found = [*many(inbox, 30, "acme"), *many(inbox, 30, "bolt")]
    ledger_schema.migrate(inbox.warehouse)
    barrier = threading.Barrier(3)
    statuses: list[list[str]] = []

    def work(deliveries: Sequence[Delivery], grouped: bool) -> None:
        warehouse = Warehouse(inbox.warehouse.url, db_writes=2)
        barrier.wait()
        with warehouse.series():
            results, _ = import_all(warehouse, spec, deliveries, grouped=grouped)
        statuses.append([r.status for r in results.values()])

    plans = [(found, True), (found[::-1], True), (found, False)]
    threads = [threading.Thread(target=work, args=plan) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for some in statuses for status in some) == ["loaded"] * 60 + ["unchanged"] * 120
    assert query("SELECT count(*), count(DISTINCT (_tenant, id, _row)) FROM things") == [(180, 180)]
    assert query("SELECT count(*) FROM importer.loads") == [(60,)]
    assert query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_a_group_waits_for_a_slot(inbox: Inbox) -> None:
    set_cap(inbox.warehouse.url, 1)
    found, done = many(inbox), []
    with psycopg.connect(inbox.warehouse.url, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s, 0)", (slots.SLOT_LOCKS,))
        thread = threading.Thread(
            target=lambda: done.append(import_together(found, made_spec(), warehouse=inbox.warehouse))
        )
        thread.start()
        assert wait_for(lambda: slots.counts(conn)[1] == 1, 20)
        time.sleep(0.3)
        assert conn.execute("SELECT count(*) FROM importer.loads").fetchone() == (0,)
        assert done == []
    thread.join()
    assert len(done[0]) == 6
