"""Columns that a table gains from its deliveries: typed by evidence, exact, in any order the same."""

import csv
import io
import threading

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from importer_dagster.operations import unload
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import extra_columns
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer import schema_evolution
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, database, make_spec
from importer_dagster_tests.helpers.project import day

FIELDS = [{"name": "id", "type": "integer"}]


def spec(**more) -> TableSpec:
    return make_spec(fields=FIELDS, schema_contract="evolve", **more)


def types(query: Query, schema: str = "public") -> dict[str, str]:
    rows = query(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        f"{schema}.things",
    )
    return {n: t for n, t in rows if not n.startswith("_") and n != "id"}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", "0"], "bigint"),
        (["1", "2.50", "-0.5"], "numeric"),
        (["12345678901234567890"], "numeric"),
        (["007"], "text"),
        (["+1"], "text"),
        (["1e3"], "text"),
        (["-0"], "text"),
        (["-0.0"], "text"),
        ([" 1"], "text"),
        (["true", "false"], "boolean"),
        (["True"], "text"),
        (["2024-02-29", "1999-12-31"], "date"),
        (["2023-02-29"], "text"),
        (["2024-01-01 10:00:00", "2024-01-01 10:00:00.5"], "timestamp without time zone"),
        (["2024-01-01 10:00:00.50"], "text"),
        (["2024-01-01T10:00:00"], "text"),
        (["2024-01-01 25:00:00"], "text"),
        (["1", "x"], "text"),
        (["1", ""], "text"),
        ([None, "5"], "bigint"),
        ([None], None),
        ([], None),
    ],
)
def test_types_by_evidence(values: list, kind: str | None) -> None:
    evidence = extra_columns.Evidence()
    for value in values:  # a batch each: it is the whole file that counts
        evidence.add(pa.array([value], pa.string()))
    assert evidence.kind == kind


def test_an_added_column_becomes_one_of_the_table(inbox: Inbox, query: Query) -> None:
    inbox.load(spec(), "id\n1\n", path="a")
    result = inbox.load(spec(), "n,id,word\n5,2,x\n-7,3,\n", path="b", day=day(1))
    assert types(query) == types(query, "importer_superseded") == {"n": "bigint", "word": "text"}
    inbox.load(spec(), "id\n4\n", path="c", day=day(2))
    assert query("SELECT id, n, word, _extra FROM things ORDER BY id") == [
        (1, None, None, None), (2, 5, "x", None), (3, -7, None, None), (4, None, None, None),
    ]  # fmt: skip
    assert {(e.kind, e.column_name) for e in result.drift} >= {
        ("added", "n"),
        ("evolved", "n"),
        ("evolved", "word"),
    }
    (comment,) = query("SELECT col_description('things'::regclass, attnum) FROM pg_attribute "
                       "WHERE attrelid = 'things'::regclass AND attname = 'n'")  # fmt: skip
    assert comment[0].startswith("Not in the spec; first met in b")


def test_a_value_of_another_type_widens_the_column_and_changes_nothing(inbox: Inbox, query: Query) -> None:
    inbox.load(spec(), "id,n\n1,12\n2,\n", path="a")
    inbox.load(spec(), "id,n\n3,1.50\n", path="b", day=day(1))
    assert types(query) == {"n": "numeric"}
    assert query("SELECT n::text FROM things ORDER BY id") == [("12",), (None,), ("1.50",)]
    last = inbox.load(spec(), "id,n\n4,007\n", path="c", day=day(2))
    assert types(query) == {"n": "text"}
    assert query("SELECT n FROM things ORDER BY id") == [("12",), (None,), ("1.50",), ("007",)]
    assert [e.detail for e in last.drift if e.kind == "retyped"] == [
        "a column of the table; was numeric, is text from this delivery on"
    ]


@pytest.mark.parametrize("disposition", ["append", "replace", "merge"])
def test_values_survive_being_superseded_and_unloaded(inbox: Inbox, query: Query, disposition: str) -> None:
    """Rows that move between the tables keep what the spec does not know, even with a later plain file."""
    own = spec(key=["id"], write_disposition=disposition)
    inbox.load(own, "id,n\n1,5\n", path="a")
    plain = inbox.load(own, "id\n1\n", path="a" if disposition == "append" else "b", day=day(0))
    assert query("SELECT id, n FROM things") == [(1, None)]
    unload.unload(plain.load_id, {own.name: own}, warehouse=inbox.warehouse, has_tenant=lambda _: True)
    assert query("SELECT id, n FROM things") == [(1, 5)]


def test_no_value_yet_is_no_evidence(inbox: Inbox, query: Query) -> None:
    inbox.load(spec(), "id,n\n1,\n", path="a")
    assert types(query) == {"n": "text"}
    inbox.load(spec(), "id,n\n2,5\n", path="b", day=day(1))
    assert types(query) == {"n": "bigint"}


def test_names_that_cannot_be_columns_are_rescued(inbox: Inbox, query: Query) -> None:
    hostile = 'x"; DROP TABLE things; --'
    content = io.StringIO()
    csv.writer(content).writerows([["id", "_row", hostile, "100%", "é" * 60], ["1", "9", "8", "7", "6"]])
    assert inbox.load(spec(), content.getvalue()).status == "loaded"
    assert query("SELECT _extra FROM things") == [({"_row": "9"},)]
    short = schema_evolution.short_identifier("é" * 60)
    assert types(query) == {hostile: "bigint", "100%": "bigint", short: "bigint"}


def test_a_column_of_someone_else_is_left_alone(inbox: Inbox, query: Query) -> None:
    inbox.load(spec(), "id\n1\n", path="a")
    with inbox.warehouse.connect() as conn:
        conn.execute("ALTER TABLE things ADD note text DEFAULT 'mine'")
        for table in ("things", "importer_superseded.things"):
            conn.execute(f"ALTER TABLE {table} ADD n numeric(5, 2)")
        conn.commit()
    inbox.load(spec(), "id,n\n2,1.234\n", path="b", day=day(1))
    assert query("SELECT id, n, note, _extra FROM things ORDER BY id") == [
        (1, None, "mine", None),
        (2, None, "mine", {"n": "1.234"}),
    ]


def test_the_column_comes_with_the_load_or_not_at_all(inbox: Inbox, query: Query, monkeypatch) -> None:
    inbox.load(spec(), "id\n1\n", path="a")

    def fail(*_: object) -> None:
        raise MemoryError("as if")

    monkeypatch.setattr("importer_dagster.writer.publish.Publisher.publish", fail)
    with pytest.raises(MemoryError):
        inbox.load(spec(), "id,n\n2,5\n", path="b")
    assert types(query) == types(query, "importer_superseded") == {}
    assert query("SELECT id FROM things") == [(1,)]


def test_a_rehearsal_adds_no_column(inbox: Inbox, query: Query) -> None:
    inbox.load(spec(), "id\n1\n", path="a")
    result = inbox.load(spec(), "id,n\n2,5\n", path="b", dry_run=True)
    assert (result.status, result.rows_loaded) == ("loaded", 1)
    assert types(query) == {}
    inbox.load(spec(), "id,n\n2,5\n", path="b")
    for content in ("id,n,m\n3,6,7\n", "id,n\n3,x\n"):
        assert inbox.load(spec(), content, path="c", dry_run=True).status == "loaded"
    assert types(query) == {"n": "bigint"}


def test_tenants_that_grow_the_table_at_once(inbox: Inbox, query: Query) -> None:
    own = spec(key=["id"], write_disposition="merge")
    inbox.load(own, "id\n0\n", tenant="t")
    outcomes = []

    def load(n: int) -> None:
        rows = "".join(f"{i},{i}\n" for i in range(200))
        outcomes.append(inbox.load(own, f"id,c{n % 2}\n{rows}", path=f"{n}", tenant=f"t{n}").status)

    threads = [threading.Thread(target=load, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["loaded"] * 6
    assert set(types(query).items()) == {("c0", "bigint"), ("c1", "bigint")}
    assert query("SELECT count(c0), count(c1) FROM things") == [(600, 600)]


WORDS = {
    "bigint": ["0", "7", "-12"],
    "numeric": ["1.5", "2.50", "-3.25"],
    "date": ["2024-01-01", "2024-12-31"],
    "boolean": ["true", "false"],
    "text": ["007", "abc", "1e3", "-0"],
    "none": [""],
}
cells = st.sampled_from(sorted(WORDS)).flatmap(
    lambda k: st.lists(st.sampled_from([*WORDS[k], ""]), min_size=1, max_size=3)
)
deliveries = st.lists(st.tuples(st.booleans(), cells), min_size=2, max_size=5)


@pytest.mark.parametrize("disposition", ["append", "merge"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(days=deliveries, shuffle=st.randoms(use_true_random=False))
def test_any_order_ends_in_the_same_columns(server, _template, tmp_path, disposition, days, shuffle) -> None:
    own = spec(key=["id"], write_disposition=disposition)
    order = list(enumerate(days))
    shuffle.shuffle(order)
    tables = [state(server, _template, tmp_path, own, way) for way in (list(enumerate(days)), order)]
    assert tables[0] == tables[1]
    if disposition == "append":  # and they are what the files say
        wanted = [
            (n, i, cell or None)
            for n, (has, values) in enumerate(days)
            for i, cell in enumerate(values)
            if has
        ]
        assert [(d, i, v) for d, i, v in tables[0][1] if (d, i) in {(a, b) for a, b, _ in wanted}] == wanted


def state(server, template: str, tmp_path, own: TableSpec, days: list) -> tuple:
    with database(server, template) as url:
        inbox = Inbox(tmp_path, Warehouse(url))
        for n, (has_column, values) in days:
            rows = "".join(f"{i},{v}\n" if has_column else f"{i}\n" for i, v in enumerate(values))
            content = ("id,n\n" if has_column else "id\n") + rows
            assert inbox.load(own, content, path=f"{n}.csv", day=day(n)).status == "loaded"
        with inbox.warehouse.connect() as conn:
            kind = conn.execute("SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
                                "WHERE attrelid = 'things'::regclass AND attname = 'n'").fetchone()  # fmt: skip
            column = "n::text" if kind else "NULL::text"
            rows = conn.execute(f"SELECT _business_date, id, {column} FROM things ORDER BY 1, 2").fetchall()
            return kind, [((d - DAY).days, i, v) for d, i, v in rows]
