"""One delivery through all rooms, into a real PostgreSQL."""

import datetime
import gzip
import random
import string
import threading
from decimal import Decimal

import pytest
from alembic import command

from importer_dagster.errors import WarehouseError, WarehouseUnavailable
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.pipeline import delivery as pipeline_delivery
from importer_dagster.pipeline import load as pipeline_load
from importer_dagster.pipeline import staging
from importer_dagster.slots import SLOT_LOCKS
from importer_dagster.validation.schemas import KEY_BYTES
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.copy_rows import Trace
from importer_dagster.writer.publish import Publisher
from importer_dagster_tests.helpers.inbox import (
    DAY,
    Inbox,
    Query,
    database,
    make_spec,
    migrate,
    pipeline_reader,
)

HEADER = "id,v,n\n"


def day(n: int) -> datetime.date:
    return DAY + datetime.timedelta(days=n)


def test_rows_values_and_trace(inbox: Inbox, query: Query) -> None:
    result = inbox.load(make_spec(), HEADER + '1,"a, ""b""",1.5\n2,,-0.25\n3,"",\n')
    assert (result.status, result.rows_read, result.rows_loaded) == ("loaded", 3, 3)
    assert query("SELECT id, v, n, _tenant, _business_date, _load_id, _row FROM things ORDER BY id") == [
        (1, 'a, "b"', Decimal("1.50"), "acme", DAY, result.load_id, 1),
        (2, None, Decimal("-0.25"), "acme", DAY, result.load_id, 2),
        (3, "", None, "acme", DAY, result.load_id, 3),
    ]
    recorded = query("SELECT status, rows_read, rows_loaded, bytes, sha256, spec_hash FROM importer.loads")
    assert recorded == [("loaded", 3, 3, result.bytes, result.sha256, make_spec().hash)]


def test_rejects_carry_row_line_column_value_rule_and_raw(inbox: Inbox, query: Query) -> None:
    content = HEADER + '1,"two\nlines",1\n\nx,b,1.234\n3,c\n4,d,4\n'
    result = inbox.load(make_spec(), content)
    assert (result.rows_read, result.rows_loaded, result.rows_rejected) == (4, 2, 2)
    rows = query('SELECT "row", line, column_name, value, rule, raw FROM importer.rejects ORDER BY 1, 3')
    assert rows == [
        (2, 5, "id", "x", "type", "x,b,1.234"),
        (2, 5, "n", "1.234", "type", "x,b,1.234"),
        (3, 6, "n", "", "fields.short", "3,c"),
    ]


@pytest.mark.parametrize("disposition", ["append", "replace", "merge"])
def test_same_content_again_writes_nothing_but_the_stamp(
    inbox: Inbox, query: Query, disposition: str
) -> None:
    spec = make_spec(key=["id"], write_disposition=disposition)
    first = inbox.load(spec, HEADER + "1,a,1\n2,b,2\n")
    before = (
        query("SELECT xmin::text, * FROM things"),
        query("SELECT to_jsonb(l) - 'stamp' FROM importer.loads l"),
    )
    again = inbox.load(spec, HEADER + "1,a,1\n2,b,2\n")
    assert (again.status, again.load_id, again.rows_unchanged) == ("unchanged", first.load_id, 2)
    assert before == (
        query("SELECT xmin::text, * FROM things"),
        query("SELECT to_jsonb(l) - 'stamp' FROM importer.loads l"),
    )
    forced = inbox.load(spec, HEADER + "1,a,1\n2,b,2\n", force=True)
    assert forced.status == "loaded"
    assert query("SELECT count(*) FROM things") == [(2,)]


def test_append_resend_replaces_just_that_path(inbox: Inbox, query: Query) -> None:
    spec = make_spec()
    inbox.load(spec, HEADER + "1,a,1\n2,b,2\n", path="a.csv")
    inbox.load(spec, HEADER + "1,x,1\n", path="b.csv")
    inbox.load(spec, HEADER + "3,c,3\n", path="a.csv")
    assert query("SELECT id, v FROM things ORDER BY id") == [(1, "x"), (3, "c")]
    in_force = query("SELECT path FROM importer.loads WHERE superseded_by IS NULL ORDER BY path")
    assert in_force == [("a.csv",), ("b.csv",)]


def test_replace_keeps_the_newest_day_of_each_tenant(inbox: Inbox, query: Query) -> None:
    spec = make_spec(write_disposition="replace")
    inbox.load(spec, HEADER + "1,old,1\n", path="1", day=day(1))
    inbox.load(spec, HEADER + "2,new,1\n", path="2", day=day(2))
    inbox.load(spec, HEADER + "9,other,1\n", path="o", day=day(1), tenant="other")
    late = inbox.load(spec, HEADER + "3,late,1\n", path="0", day=day(0))
    assert (late.rows_loaded, late.rows_skipped) == (0, 1)
    inbox.load(spec, HEADER + "4,more,1\n", path="2b", day=day(2))
    assert query("SELECT id, v FROM things ORDER BY id") == [(2, "new"), (4, "more"), (9, "other")]


def test_replace_resend_of_one_of_two_files_of_a_day(inbox: Inbox, query: Query) -> None:
    spec = make_spec(write_disposition="replace", key=["id"], gate={"empty": "load"})
    inbox.load(spec, HEADER + "1,a,1\n2,b,1\n", path="p")
    inbox.load(spec, HEADER + "2,q,1\n3,c,1\n", path="q")
    inbox.load(spec, HEADER + "2,bb,1\n", path="p")
    assert query("SELECT id, v FROM things ORDER BY id") == [(2, "q"), (3, "c")]
    inbox.load(spec, HEADER, path="q")
    assert query("SELECT id, v FROM things ORDER BY id") == [(2, "bb")]
    inbox.load(spec, HEADER, path="p")
    assert query("SELECT id, v FROM things ORDER BY id") == []


def test_merge_counts_and_leaves_unchanged_rows_alone(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="merge")
    first = inbox.load(spec, HEADER + "1,a,1\n2,b,2\n", path="1", day=day(1))
    untouched = query("SELECT xmin::text, ctid::text FROM things WHERE id = 1")
    second = inbox.load(spec, HEADER + "1,a,1\n2,bb,2\n3,c,3\n", path="2", day=day(2))
    assert (second.rows_loaded, second.rows_unchanged) == (2, 1)
    assert query("SELECT xmin::text, ctid::text FROM things WHERE id = 1") == untouched
    # a delivery in between: the unchanged row of day 2 still speaks for day 2
    between = inbox.load(spec, HEADER + "1,z,1\n4,d,4\n", path="1b", day=day(1))
    assert (between.rows_loaded, between.rows_skipped) == (1, 1)
    assert query("SELECT id, v, _load_id FROM things ORDER BY id") == [
        (1, "a", second.load_id),
        (2, "bb", second.load_id),
        (3, "c", second.load_id),
        (4, "d", between.load_id),
    ]
    assert first.load_id != second.load_id


def test_merge_keys_are_per_tenant(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="merge")
    inbox.load(spec, HEADER + "1,a,1\n", tenant="one")
    inbox.load(spec, HEADER + "1,b,1\n", tenant="two")
    assert query("SELECT _tenant, v FROM things ORDER BY 1") == [("one", "a"), ("two", "b")]


def test_later_duplicate_in_one_file_is_rejected_with_its_place(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="merge")
    result = inbox.load(spec, HEADER + "1,a,1\nx,q,1\n2,b,2\n1,c,3\n1,d,4\n")
    assert (result.rows_loaded, result.rows_rejected) == (2, 3)
    assert query(
        "SELECT \"row\", line, column_name, value, message, raw FROM importer.rejects WHERE rule = 'primaryKey'"
    ) == [
        (4, 5, "id", "1", "the same id stood already in record 1", "1,c,3"),
        (5, 6, "id", "1", "the same id stood already in record 1", "1,d,4"),
    ]


def test_a_duplicate_shows_the_key_as_it_stands_in_the_file(inbox: Inbox, query: Query) -> None:
    fields = [
        {"name": "at", "type": "datetime", "timezone": "Europe/Berlin"},
        {"name": "n", "type": "number", "precision": 8, "scale": 3},
        {"name": "v"},
        {"name": "b", "type": "boolean", "constraints": {"unique": True}},
    ]
    spec = make_spec(fields=fields, key=["n", "at"], write_disposition="merge")
    content = (
        "extra,v,n,at,b\ne,x,1,2024-07-01T12:00:00.5,1\ne,x,+1.0,2024-07-01 12:00:00.500,\n"
        "Total,y,2,2024-07-01,true\nNorth,Total,1e0,2024-07-01 12:00:00.50,\n"
    )
    result = inbox.load(spec, content)
    assert (result.rows_loaded, result.rows_rejected) == (1, 3)
    assert query('SELECT "row", column_name, value, message FROM importer.rejects ORDER BY 1') == [
        (2, "n, at", "+1.0, 2024-07-01 12:00:00.500", "the same n, at stood already in record 1"),
        (3, "b", "true", "the same b stood already in record 1"),
        (4, "n, at", "1e0, 2024-07-01 12:00:00.50", "the same n, at stood already in record 1"),
    ]


def test_unique_constraint_rejects_later_rows_but_not_nulls(inbox: Inbox, query: Query) -> None:
    fields = [{"name": "id", "type": "integer"}, {"name": "mail", "constraints": {"unique": True}}]
    result = inbox.load(make_spec(fields=fields), "id,mail\n1,a\n2,\n3,a\n4,\n")
    assert (result.rows_loaded, result.rows_rejected) == (3, 1)
    assert query("SELECT rule, value FROM importer.rejects") == [("unique", "a")]


def test_too_many_rejects_refuse_the_file_whole_with_first_reasons(inbox: Inbox, query: Query) -> None:
    spec = make_spec(reject_limit={"share": 0.05, "count": 1000})
    inbox.load(spec, HEADER + "7,before,1\n")
    bad = HEADER + "".join(f"{i},v,1\n" if i % 10 else "x,v,1\n" for i in range(100))
    result = inbox.load(spec, bad, path="bad.csv")
    assert result.status == "refused"
    assert "10 of 100 records rejected (10.0%)" in (result.reason or "")
    assert (result.rows_read, result.rows_loaded, result.rows_rejected, result.rows_skipped) == (
        100,
        0,
        10,
        90,
    )
    assert query("SELECT id FROM things") == [(7,)]
    assert query("SELECT count(*) FROM importer.rejects WHERE load_id = %s", result.load_id) == [(10,)]


def test_reject_count_limit(inbox: Inbox) -> None:
    spec = make_spec(reject_limit={"count": 2})
    assert inbox.load(spec, HEADER + "x,1,1\nx,1,1\n1,1,1\n", path="a").status == "loaded"
    assert inbox.load(spec, HEADER + "x,1,1\nx,1,1\nx,1,1\n", path="b").status == "refused"


def test_missing_required_column_is_refused_with_a_hint(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"])
    result = inbox.load(spec, "idd,v,n\n1,a,1\n")
    assert result.status == "refused"
    assert "lacks 'id'" in (result.reason or "")
    assert "'idd' may be the same under a new name" in (result.reason or "")
    assert query("SELECT status FROM importer.loads") == [("refused",)]
    assert query("SELECT rule FROM importer.rejects") == [("drift.removed",)]


def test_added_column_is_rescued_and_optional_loss_is_null(inbox: Inbox, query: Query) -> None:
    result = inbox.load(make_spec(), 'n,id,"new ""x"\n1,2,hé\n')
    assert result.status == "loaded"
    assert query("SELECT id, v, n, _extra FROM things") == [(2, None, Decimal("1.00"), {'new "x': "hé"})]
    assert sorted(e.kind for e in result.drift) == ["added", "removed", "reordered"]
    assert query("SELECT count(*) FROM importer.drift") == [(3,)]


def test_rehearsal_leaves_no_trace(server, inbox: Inbox, query: Query) -> None:
    before = query("SELECT relname FROM pg_class ORDER BY 1")
    result = inbox.load(make_spec(key=["id"]), HEADER + "1,a,1\n1,b,2\nx,c,3\n", dry_run=True)
    assert (result.status, result.load_id) == ("loaded", None)
    assert (result.rows_read, result.rows_loaded, result.rows_rejected) == (3, 1, 2)
    assert {r["rule"] for r in result.rejects.to_pylist()} == {"primaryKey", "type"}
    assert query("SELECT relname FROM pg_class ORDER BY 1") == before
    assert query("SELECT count(*) FROM importer.loads") == [(0,)]


def test_rehearsal_on_a_database_without_ledger(server, tmp_path) -> None:
    with database(server) as url:
        warehouse = Warehouse(url)
        result = Inbox(tmp_path, warehouse).load(make_spec(), HEADER + "1,a,1\n", dry_run=True)
        assert (result.status, result.rows_loaded) == ("loaded", 1)
        with warehouse.connect() as conn:
            assert conn.execute("SELECT to_regnamespace('importer')").fetchone() == (None,)


@pytest.mark.parametrize("key", [None, ["id"]])
def test_rehearsal_on_the_ledger_of_an_older_importer_names_the_remedy(
    inbox: Inbox, query: Query, key: list[str] | None
) -> None:
    spec = make_spec(key=key, write_disposition="merge" if key else "append")
    inbox.load(spec, HEADER + "1,a,1\n")
    migrate(inbox.warehouse, command.downgrade, "0009")
    with pytest.raises(WarehouseError, match="`importer status` brings an older one up to date"):
        inbox.load(spec, HEADER + "2,b,1\n", path="b", dry_run=True)
    inbox.warehouse.prepared.clear()  # as another process
    ledger_schema.migrate(inbox.warehouse)  # as `importer status` does
    assert inbox.load(spec, HEADER + "2,b,1\n", path="b", dry_run=True).status == "loaded"
    assert query("SELECT id FROM things") == [(1,)]


def test_the_ledger_of_a_newer_importer_is_left_alone(inbox: Inbox, query: Query) -> None:
    with inbox.warehouse.connect() as conn:
        conn.execute("UPDATE importer.schema_version SET version_num = '9999'")
        conn.commit()
    inbox.warehouse.prepared.clear()
    for dry_run in (False, True):
        with pytest.raises(WarehouseError, match="version of the importer"):
            inbox.load(make_spec(), HEADER + "1,a,1\n", dry_run=dry_run)
    assert query("SELECT version_num FROM importer.schema_version") == [("9999",)]


def test_a_crash_in_mid_file_leaves_nothing(
    inbox: Inbox, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    inbox.load(spec, HEADER + "1,a,1\n", path="a")
    original = Trace.add

    def fail_later(self, *args):
        if self.fields and fail_later.calls:
            raise MemoryError("as if")
        fail_later.calls += 1
        return original(self, *args)

    fail_later.calls = 0
    monkeypatch.setattr(Trace, "add", fail_later)
    monkeypatch.setattr("importer_dagster.reader.reader.BLOCK", 64)
    monkeypatch.setattr(pipeline_load, "open_delivery", pipeline_reader)
    with pytest.raises(MemoryError):
        inbox.load(spec, HEADER + "".join(f"{i},v,1\n" for i in range(200)), path="b")
    assert query("SELECT count(*) FROM things") == [(1,)]
    assert query("SELECT path FROM importer.loads") == [("a",)]
    assert threading.active_count() < 10


@pytest.mark.parametrize("disposition", ["merge", "scd2"])
def test_the_first_delivery_needs_no_stage_unless_it_has_a_key_twice(
    inbox: Inbox, query: Query, monkeypatch, disposition: str
) -> None:
    stages = []
    create = Publisher.create_stage
    monkeypatch.setattr(Publisher, "create_stage", lambda self: stages.append(self.path) or create(self))
    spec = make_spec(key=["id"], write_disposition=disposition)
    assert inbox.load(spec, HEADER + "1,a,1\n2,b,2\n", path="first").rows_loaded == 2
    assert inbox.load(spec, HEADER + "1,a,1\n2,c,2\n", path="second", day=day(1)).rows_unchanged == 1
    twice = inbox.load(spec, HEADER + "1,a,1\n2,b,2\n1,c,3\n", path="other", tenant="other")
    assert (twice.rows_loaded, twice.rows_rejected) == (2, 1)
    assert stages == ["second", "other"]
    assert query("SELECT _tenant, id, v FROM things WHERE _business_date = %s ORDER BY 1, 2", DAY) == [
        ("acme", 1, "a"),
        *([("acme", 2, "b")] if disposition == "scd2" else []),
        ("other", 1, "a"),
        ("other", 2, "b"),
    ]
    assert query("SELECT message FROM importer.rejects") == [("the same id stood already in record 1",)]


# (path, day, keys, whether it needs a stage); the first of each came before all others
MEETING = {
    "merge": [
        ("a", 0, (1, 2, 30), False),
        ("b", 0, (40, 41), False),  # newer than the first, and above all its keys
        ("c", 1, (7, 5, 20), False),  # between two of them, in no order
        ("d", 1, (29, 31), True),  # with one in between
        ("b", 0, (50,), True),  # sent again
        ("e", 2, (), False),
        ("f", 0, (60,), True),  # late
        ("g", 2, (70, 71, 70), True),  # a key twice
    ],
    "replace": [
        ("a", 0, (1, 2), False),
        ("b", 0, (3,), False),  # the same day has several files
        ("c", 1, (4, 5), False),
        ("c", 1, (6,), False),  # sent again
        ("d", 0, (7,), True),  # late
        ("e", 2, (8,), False),
    ],
    "replace by key": [
        ("a", 0, (1, 2), False),
        ("b", 0, (10, 11), False),  # other keys of the same day
        ("c", 0, (11, 12), True),
        ("d", 0, (0, 20), True),  # with some in between
        ("a0", 0, (30,), False),
        ("b", 0, (40,), True),  # sent again
        ("e", 0, (), True),
        ("f", 1, (1,), False),
    ],
    "append": [("a", 0, (1, 2), False), ("a", 0, (3,), False), ("b", 0, (5, 4), True)],
}
MEETING["scd2"] = [*MEETING["merge"][:1], ("b", 1, (40, 41), False), *MEETING["merge"][3:]]


@pytest.mark.parametrize("kind", MEETING)
def test_a_short_file_that_meets_no_other_row_needs_no_stage(
    inbox: Inbox, query: Query, monkeypatch, kind: str
) -> None:
    """And ends as it would with one."""
    stages = []
    create = Publisher.create_stage
    monkeypatch.setattr(Publisher, "create_stage", lambda self: stages.append(self.path) or create(self))
    key = {} if kind == "replace" else {"key": ["id"]}
    spec = make_spec(write_disposition=kind.split(maxsplit=1)[0], **key)

    def load(tenant: str) -> list[tuple]:
        results = []
        for path, n, ids, _ in MEETING[kind]:
            text = HEADER + "".join(f"{i},v,1\n" for i in ids)
            results.append(inbox.load(spec, text, path=path, day=day(n), tenant=tenant))
        return [(r.status, r.rows_loaded, r.rows_unchanged, r.rows_rejected, r.rows_skipped) for r in results]

    def found(tenant: str) -> list[list[tuple]]:
        what = "SELECT id, v, n, t._business_date, path, _row FROM {} t JOIN importer.loads USING (load_id)"
        what = (
            what.replace("USING (load_id)", "ON load_id = _load_id") + " WHERE _tenant = %s ORDER BY 1, 5, 6"
        )
        return [query(what.format(table), tenant) for table in ("things", "importer_superseded.things")]

    results = load("plain")
    assert stages == [path for path, _, _, staged in MEETING[kind] if staged]
    monkeypatch.setattr(staging, "_needs_staging_table", lambda *_: True)
    assert load("staged") == results
    assert len(stages) == len(MEETING[kind]) + sum(staged for *_, staged in MEETING[kind])
    assert found("plain") == found("staged")


@pytest.mark.parametrize("disposition", ["merge", "scd2"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_key_too_long_for_an_index_is_a_reject_of_its_record(
    inbox: Inbox, query: Query, disposition: str, parts: int
) -> None:
    """As an unclosed quote makes one. The index takes whatever passes."""
    most = KEY_BYTES // parts
    longest = random_text(most)
    names = ["a", "b"][:parts]
    fields = [{"name": n} for n in (*names, "v")]
    spec = make_spec(fields=fields, key=names, write_disposition=disposition)
    records = [["x"] * parts, [longest] * parts, ["x"] * (parts - 1) + [longest + "é"]]
    text = "\n".join(",".join([*record, "1"]) for record in records)
    result = inbox.load(spec, f"{','.join(names)},v\n{text}\n", tenant=random_text(200))
    assert (result.status, result.rows_loaded, result.rows_rejected) == ("loaded", 2, 1)
    assert query("SELECT row, column_name, rule FROM importer.rejects") == [
        (3, names[-1], "primaryKey.length")
    ]
    changed = inbox.load(
        spec, f"{','.join(names)},v\n{text.replace(',1', ',2')}\n", tenant=random_text(200), day=day(1)
    )
    assert changed.rows_loaded == 2


def random_text(length: int) -> str:
    """ASCII that cannot be compressed."""
    return "".join(random.Random(length).choices(string.ascii_letters + string.digits, k=length))


def test_keys_that_the_database_orders_in_its_own_way_are_compared_there(inbox: Inbox, query: Query) -> None:
    """By the rules of a language, "B" lies between "a" and "c"; by its bytes it does not."""
    spec = make_spec(key=["v"], write_disposition="merge")
    inbox.load(spec, HEADER + "1,B,1\n", path="1")
    inbox.load(spec, HEADER + "2,a,1\n2,c,1\n", path="2", day=day(1))
    inbox.load(spec, HEADER + "3,B,1\n", path="3", day=day(2))
    assert query("SELECT v, id FROM things ORDER BY id") == [("a", 2), ("c", 2), ("B", 3)]


def test_bad_files_are_refused_with_a_reason(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"])
    cases = {
        b"": "is empty",
        b"\xef\xbb\xbf": "empty but for a byte order mark",
        b"id,id,n\n1,2,3\n": "the name 'id' twice",
        b"id;v;n\n1;2;3\n": "looks like semicolon",
        b"<!DOCTYPE html><html>": "looks like an HTML page",
        b"id,v\xe9,n\n1,2,3\n": "is not UTF-8: the header holds bytes that are none, the first of them at offset 4 in line 1",
    }
    for i, (content, words) in enumerate(cases.items()):
        result = inbox.load(spec, content, path=f"{i}.csv")
        assert result.status == "refused", content
        assert words in (result.reason or ""), result.reason
    assert query("SELECT count(*) FROM importer.loads WHERE status = 'refused'") == [(len(cases),)]


def test_nul_bytes_and_bad_encoding_reject_the_record(inbox: Inbox, query: Query) -> None:
    good = "".join(f"{i},é,1\n" for i in range(100)).encode()
    result = inbox.load(make_spec(), HEADER.encode() + good + b"7,a\0b,1\n8,caf\xe9,1\n9,fine,1\n")
    assert (result.rows_loaded, result.rows_rejected) == (101, 2)
    assert query('SELECT "row", line, rule FROM importer.rejects ORDER BY 1') == [
        (101, 102, "nul"),
        (102, 103, "encoding"),
    ]


def test_gzip_is_recognised_by_content(inbox: Inbox) -> None:
    two_members = gzip.compress(HEADER.encode() + b"1,a,1\n") + gzip.compress(b"2,b,2\n")
    assert inbox.load(make_spec(), two_members, path="x.csv").rows_loaded == 2
    cut = gzip.compress(HEADER.encode() + b"1,a,1\n" * 1000)[:-9]
    result = inbox.load(make_spec(), cut, path="y.csv.gz")
    assert result.status == "refused"
    assert "damaged or truncated archive" in (result.reason or "")


def test_wrong_column_type_in_the_warehouse_is_a_clear_error(inbox: Inbox, query: Query) -> None:
    inbox.load(make_spec(), HEADER + "1,a,1\n")
    changed = make_spec(fields=[{"name": "id"}, {"name": "v"}, {"name": "n", "type": "integer"}])
    with pytest.raises(
        WarehouseError, match=r"'id' of table public\.things is bigint, but the spec of things says text"
    ):
        inbox.load(changed, HEADER + "2,b,2\n", path="b")


def test_a_field_gained_by_the_spec_becomes_a_column(inbox: Inbox, query: Query) -> None:
    inbox.load(make_spec(fields=[{"name": "id", "type": "integer"}]), "id\n1\n", path="a")
    inbox.load(make_spec(fields=[{"name": "id", "type": "integer"}, {"name": "w"}]), "id,w\n2,x\n", path="b")
    assert query("SELECT id, w FROM things ORDER BY 1") == [(1, None), (2, "x")]


def test_hostile_names_are_only_quoted(inbox: Inbox, query: Query) -> None:
    names = ['a"; DROP TABLE importer.loads; --', "select", "100%", "%s", "ü b", "{x}", "x" * 80]
    fields = [{"name": n, "description": "100% 'sure'"} for n in names]
    header = ",".join('"' + n.replace('"', '""') + '"' for n in names) + "\n"
    spec = make_spec(fields=fields, key=[names[0]], write_disposition="merge")
    assert inbox.load(spec, header + "k,1,2,3,4,5,6\n").rows_loaded == 1
    assert inbox.load(spec, header + "k,1,2,3,4,5,7\n", path="b", day=day(2)).rows_loaded == 1
    assert query("SELECT * FROM things")[0][:7] == ("k", "1", "2", "3", "4", "5", "7")


def test_the_database_down_is_transient_and_tried_again(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline_delivery, "_FIRST_PAUSE_S", 0.01)
    inbox.warehouse = Warehouse("postgresql://u:secret@127.0.0.1:1/nowhere")
    with pytest.raises(WarehouseUnavailable, match="cannot be reached") as caught:
        inbox.load(make_spec(), HEADER + "1,a,1\n")
    assert "secret" not in str(caught.value)
    assert "secret" not in caplog.text
    assert caplog.text.count("Attempt") == 2


def test_the_cap_holds_and_waiting_ends(inbox: Inbox, query: Query) -> None:
    spec = make_spec()
    inbox.warehouse.db_writes = 1
    done = threading.Event()
    with inbox.warehouse.connect() as conn:
        conn.execute("SELECT pg_advisory_lock(%s, 0)", (SLOT_LOCKS,))
        conn.commit()
        thread = threading.Thread(target=lambda: (inbox.load(spec, HEADER + "1,a,1\n"), done.set()))
        thread.start()
        assert not done.wait(0.7), "it wrote although the only slot was taken"
        conn.execute("SELECT pg_advisory_unlock(%s, 0)", (SLOT_LOCKS,))
        conn.commit()
        assert done.wait(10)
        thread.join()
    assert query("SELECT count(*) FROM things") == [(1,)]
    assert query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_two_at_once_load_the_same_delivery_once(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="merge")
    content = HEADER + "".join(f"{i},v,1\n" for i in range(500))
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(inbox.load(spec, content).status)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["loaded"] + ["unchanged"] * 5
    assert query("SELECT count(*) FROM things") == [(500,)]
