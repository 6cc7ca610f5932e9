"""What is unchanged stays out of the stage: with a sieve and without, all ends the same."""

import datetime
import itertools
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from importer_dagster.errors import WarehouseError
from importer_dagster.model import LoadResult
from importer_dagster.operations import unload
from importer_dagster.operations.release import release
from importer_dagster.pipeline import load
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.schemas import arrow_schema
from importer_dagster.writer import unchanged_filter
from importer_dagster.writer.key_order import KeyOrder
from importer_dagster.writer.tables import move_rescued
from importer_dagster.writer.target import Target
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, make_spec

FIELDS = [
    {"name": "id", "type": "integer"},
    {"name": "d", "type": "number", "format": "double"},
    {"name": "n", "type": "number", "precision": 12, "scale": 2},
    {"name": "j", "type": "object"},
    {"name": "v"},
]
EVERYTHING = """
    SELECT 'live' AS place, to_jsonb(t) - '{{_tenant,_load_id,_hash}}'::text[] AS row, l.path, NULL AS same_as
    FROM {name} t JOIN importer.loads l ON l.load_id = t._load_id WHERE t._tenant = %(tenant)s
    UNION ALL
    SELECT 'superseded', to_jsonb(t) - '{{_tenant,_load_id,_hash}}'::text[], l.path, NULL
    FROM importer_superseded.{name} t JOIN importer.loads l ON l.load_id = t._load_id WHERE t._tenant = %(tenant)s
    UNION ALL
    SELECT 'repeats', jsonb_build_array(u.id, t._block + u._row), l.path, s.path
    FROM importer_repeats.{name} t CROSS JOIN LATERAL unnest(t.id, t._row) AS u (id, _row)
    JOIN importer.loads l ON l.load_id = t._load_id JOIN importer.loads s ON s.load_id = t._same_as
    WHERE t._tenant = %(tenant)s
    ORDER BY 1, 3, 2, 4
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, list[int]]]]:
    """Batches of any size are sifted; (rows of a batch, numbers of those that are new) each time."""
    monkeypatch.setattr(unchanged_filter, "LEAST", 1)
    found: list[tuple[int, list[int]]] = []
    ask = unchanged_filter.UnchangedFilter._new_rows_deferred

    def noting(self: unchanged_filter.UnchangedFilter, rows: int) -> Callable[[], np.ndarray]:
        answer = ask(self, rows)

        def noted() -> np.ndarray:
            new = answer()
            found.append((rows, new.tolist()))
            return new

        return noted

    monkeypatch.setattr(unchanged_filter.UnchangedFilter, "_new_rows_deferred", noting)
    yield found


def spec_of(name: str, disposition: str = "merge", **more: Any) -> TableSpec:
    return make_spec(name, FIELDS, key=["id"], write_disposition=disposition, **more)


def day(n: int) -> datetime.date:
    return DAY + datetime.timedelta(days=n)


def text_of(rows: list[tuple]) -> str:
    return "id,d,n,j,v\n" + "".join(
        ",".join("" if cell is None else '"{}"'.format(str(cell).replace('"', '""')) for cell in row) + "\n"
        for row in rows
    )


def some(ids: range, v: str = "a") -> list[tuple]:
    return [(i, i / 4, "1.00", None, v) for i in ids]


# --- with and without ---------------------------------------------------------------------------

values = st.tuples(
    st.integers(0, 30),
    st.sampled_from([None, "0", "-0", "1.5", "NaN"]),
    st.sampled_from([None, "0", "1.00", "99999.99", "x"]),
    st.sampled_from([None, '{"a": 1.0}', '{"a": 1.00}', '{"a":1.0}']),
    st.sampled_from([None, "a", "b", "long " * 300]),
)


@st.composite
def changing_files(draw: st.DrawFn) -> list[list[tuple]]:
    """Files of a few days, most rows of one as in the one before; keys may come twice, cells may be bad."""
    rows = draw(st.lists(values, min_size=5, max_size=40))
    files = [rows]
    for _ in range(draw(st.integers(1, 3))):
        rows = list(rows)
        for i in draw(st.lists(st.integers(0, len(rows) - 1), max_size=4)):
            rows[i] = draw(values)
        if draw(st.booleans()):
            rows = rows[draw(st.integers(0, 4)) :] + rows[: draw(st.integers(0, 4))]
        files.append(rows)
    return files


@pytest.mark.parametrize("kind", ["merge", "scd2 keep", "scd2 close"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=changing_files())
def test_with_and_without_a_sieve_all_ends_the_same(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, kind: str, files: list
) -> None:
    disposition, _, absent = kind.partition(" ")
    more = {"scd2": {"absent": absent}} if absent else {}
    spec = spec_of(disposition, disposition, reject_limit={"share": 1.0}, gate={"empty": "load"}, **more)
    monkeypatch.setattr(load, "open_delivery", partial(OPEN, block_size=600))  # a few batches
    ends = []
    for least in (1, 1_000_000):
        monkeypatch.setattr(unchanged_filter, "LEAST", least)
        tenant = uuid.uuid4().hex
        results = [
            inbox.load(spec, text_of(rows), path=f"{n}.csv", day=day(n), tenant=tenant)
            for n, rows in enumerate(files)
        ]
        states = [state(inbox, spec, tenant)]
        for done in results[1:]:
            if done.status == "loaded":
                unload.unload(
                    done.load_id, {spec.name: spec}, warehouse=inbox.warehouse, has_tenant=lambda _: True
                )
                states.append(state(inbox, spec, tenant))
        ends.append(([told(r) for r in results], states))
    assert ends[0] == ends[1]


OPEN = load.open_delivery


def told(result: LoadResult) -> tuple:
    figures = (result.rows_read, result.rows_loaded, result.rows_rejected, result.rows_skipped)
    return (result.status, *figures, result.rows_unchanged)


def state(inbox: Inbox, spec: TableSpec, tenant: str) -> list[tuple]:
    with inbox.warehouse.connect() as conn:
        rows = conn.execute(EVERYTHING.format(name=spec.name), {"tenant": tenant}).fetchall()
        rejects = conn.execute(
            "SELECT l.path, r.row, r.line, r.column_name, r.message FROM importer.rejects r JOIN importer.loads l "
            "USING (load_id) WHERE l.tenant = %s ORDER BY 1, 2, 4",
            (tenant,),
        ).fetchall()
    return [*rows, *rejects]


# --- what is asked, and what follows ----------------------------------------------------------------


def test_only_what_changed_comes_to_the_stage(inbox: Inbox, query: Query, asked: list) -> None:
    spec = spec_of("things")
    inbox.load(spec, text_of(some(range(100))), path="0.csv", day=day(0))
    assert not asked  # the first meets nobody
    changed = text_of([*some(range(50)), *some(range(50, 53), "b"), *some(range(53, 101))])
    result = inbox.load(spec, changed, path="1.csv", day=day(1))
    assert asked == [(101, [51, 52, 53, 101])]
    assert (result.rows_loaded, result.rows_unchanged) == (4, 97)
    assert query("SELECT count(*) FROM things WHERE _load_id = %s", result.load_id) == [(4,)]
    assert query("SELECT count(*) FROM things WHERE _hash IS NULL") == [(0,)]
    again = inbox.load(spec, changed, path="2.csv", day=day(2), dry_run=True)
    assert (again.status, again.rows_unchanged, asked[1:]) == ("loaded", 101, [(101, [])])


def test_a_key_that_comes_twice_is_found_wherever_the_first_went(
    inbox: Inbox, query: Query, asked: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "open_delivery", partial(OPEN, block_size=600))
    spec = spec_of("things", reject_limit={"share": 1.0})
    inbox.load(spec, text_of(some(range(200))), path="0.csv", day=day(0))
    rows = [
        *some(range(200)),
        *some(range(3)),
        *some(range(3, 6), "b"),
        *some(range(200, 202)),
        *some(range(201, 202)),
    ]
    rows[7] = (7, 0, "1.00", None, "c")
    rows.append((7, 7 / 4, "1.00", None, "a"))  # as the table has it, but the first says otherwise
    result = inbox.load(spec, text_of(rows), path="1.csv", day=day(1))
    assert len(asked) > 5
    assert (result.rows_read, result.rows_loaded, result.rows_unchanged, result.rows_rejected) == (
        210,
        3,
        199,
        8,
    )
    assert [r[0] for r in query("SELECT row FROM importer.rejects ORDER BY 1")] == [
        *range(201, 207),
        209,
        210,
    ]
    assert query("SELECT v FROM things WHERE id IN (3, 4, 5, 7) ORDER BY id") == [("a",)] * 3 + [("c",)]
    assert query("SELECT sum(cardinality(_row)) FROM importer_repeats.things") == [(199,)]


def test_keys_that_lie_far_apart_are_looked_up_one_by_one(inbox: Inbox, query: Query, asked: list) -> None:
    spec = spec_of("things")
    inbox.load(spec, text_of(some(range(5_000))), path="0.csv", day=day(0))
    result = inbox.load(
        spec, text_of([*some(range(0, 5_000, 100)), (4_999, 0, None, None, "b")]), path="1.csv", day=day(1)
    )
    assert asked == [(51, [51])]
    assert (result.rows_loaded, result.rows_unchanged) == (1, 50)
    assert query("SELECT sum(cardinality(_row)) FROM importer_repeats.things") == [(50,)]


def test_where_most_is_new_nobody_is_asked_again(
    inbox: Inbox, asked: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "open_delivery", partial(OPEN, block_size=600))
    spec = spec_of("things")
    inbox.load(spec, text_of(some(range(200))), path="0.csv", day=day(0))
    result = inbox.load(
        spec, text_of([*some(range(100), "b"), *some(range(100, 200))]), path="1.csv", day=day(1)
    )
    assert len(asked) == 1
    assert (result.rows_loaded, result.rows_unchanged) == (100, 100)


@pytest.mark.parametrize("disposition", ["merge", "scd2"])
def test_a_late_or_corrected_file_is_not_sifted(inbox: Inbox, asked: list, disposition: str) -> None:
    spec = spec_of("things", disposition)
    for n in (0, 2):
        inbox.load(spec, text_of(some(range(20))), path=f"{n}.csv", day=day(n))
    asked.clear()
    late = inbox.load(spec, text_of(some(range(21))), path="1.csv", day=day(1))
    corrected = inbox.load(spec, text_of(some(range(20), "b")), path="2.csv", day=day(2))
    assert (late.status, corrected.status, asked) == ("loaded", "loaded", [])


def test_a_file_that_may_be_held_is_not_sifted(inbox: Inbox, query: Query, asked: list) -> None:
    spec = spec_of("things", gate={"rejects": {"share": 0.01, "action": "hold"}}, reject_limit={"share": 1.0})
    inbox.load(spec, text_of(some(range(20))), path="0.csv", day=day(0))
    held = inbox.load(spec, text_of([*some(range(20)), ("x", 0, None, None, "")]), path="1.csv", day=day(1))
    assert (held.status, asked) == ("held", [])
    done = release(held.load_id, {"things": spec}, warehouse=inbox.warehouse, has_tenant=lambda _: True)
    assert done.counts.unchanged == 20


def test_a_file_may_be_refused_while_the_server_looks_up(
    inbox: Inbox, query: Query, asked: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "open_delivery", partial(OPEN, block_size=600))
    spec = spec_of("things", reject_limit={"count": 3})
    inbox.load(spec, text_of(some(range(200))), path="0.csv", day=day(0))
    bad = [("x", 0, None, None, "")] * 100
    result = inbox.load(spec, text_of([*some(range(100)), *bad]), path="1.csv", day=day(1))
    assert (result.status, result.rows_loaded, bool(asked)) == ("refused", 0, True)
    assert query("SELECT count(*) FROM importer_repeats.things") == [(0,)]
    again = inbox.load(spec, text_of(some(range(200))), path="2.csv", day=day(2))
    assert (again.status, again.rows_unchanged) == ("loaded", 200)


def test_what_goes_wrong_as_the_server_looks_up_is_the_error_of_the_import(
    inbox: Inbox, query: Query, asked: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "open_delivery", partial(OPEN, block_size=600))
    spec, content = spec_of("things"), text_of(some(range(200)))
    inbox.load(spec, content, path="0.csv", day=day(0))
    with inbox.warehouse.connect() as conn:
        conn.execute("ALTER TABLE importer_repeats.things ADD CONSTRAINT none CHECK (_load_id < 0)")
        conn.commit()
    with pytest.raises(WarehouseError, match='violates check constraint "none"'):
        inbox.load(spec, content, path="1.csv", day=day(1))
    with inbox.warehouse.connect() as conn:
        conn.execute("ALTER TABLE importer_repeats.things DROP CONSTRAINT none")
        conn.commit()
    again = inbox.load(spec, content, path="1.csv", day=day(1))
    assert (again.status, again.rows_unchanged) == ("loaded", 200)


# --- hashes that are missing, or of another time -----------------------------------------------------------


def test_a_table_from_before_gets_its_hashes_from_the_next_file(
    inbox: Inbox, query: Query, asked: list
) -> None:
    spec = spec_of("things")
    content = text_of(some(range(30)))
    inbox.load(spec, content, path="0.csv", day=day(0))
    with inbox.warehouse.connect() as conn:
        for table in ("things", "importer_superseded.things"):
            conn.execute(f"ALTER TABLE {table} DROP COLUMN _hash")
        conn.commit()
    inbox.warehouse.prepared.clear()
    results = [inbox.load(spec, content, path=f"{n}.csv", day=day(n)) for n in (1, 2)]
    assert [r.rows_unchanged for r in results] == [30, 30]
    assert asked == [(30, list(range(1, 31))), (30, [])]


def test_a_value_that_was_moved_into_its_column_is_compared_in_full(
    inbox: Inbox, query: Query, asked: list
) -> None:
    content = "id,v,w\n" + "".join(f"{i},a,{i}.50\n" for i in range(10))
    fields: list[dict] = [{"name": "id", "type": "integer"}, {"name": "v"}]
    options = {"key": ["id"], "write_disposition": "merge", "schema_contract": {"added": "rescue"}}
    inbox.load(make_spec("things", fields, **options), content, path="0.csv", day=day(0))
    fields.append({"name": "w", "type": "number", "precision": 8, "scale": 2})
    spec = make_spec("things", fields, **options)
    assert move_rescued(inbox.warehouse, Target(spec, has_tenant=True), ["w"]) == (10, [])
    results = [inbox.load(spec, content, path=f"{n}.csv", day=day(n)) for n in (1, 2)]
    assert [r.rows_unchanged for r in results] == [10, 10]
    assert [len(new) for _, new in asked] == [10, 0]
    older = inbox.load(make_spec("things", fields[:2], **options), content, path="3.csv", day=day(3))
    assert (older.rows_loaded, older.rows_unchanged) == (10, 0)  # _extra again


def test_a_column_that_the_table_gained_counts(inbox: Inbox, query: Query, asked: list) -> None:
    spec = spec_of("things", schema_contract={"added": "evolve"})
    for n, more in enumerate(["5", "5", "6", "six"]):
        text = text_of(some(range(10))).replace("\n", f",{more}\n").replace(f"v,{more}", "v,more", 1)
        inbox.load(spec, text, path=f"{n}.csv", day=day(n))
    # the last is read twice, since the column becomes wider
    assert [len(new) for _, new in asked] == [0, 10, 10, 10]
    assert query("SELECT DISTINCT more, _business_date FROM things") == [("six", day(3))]
    without = inbox.load(spec, text_of(some(range(10))), path="4.csv", day=day(4))
    assert without.rows_loaded == 10
    assert query("SELECT DISTINCT more FROM things") == [(None,)]


# --- keys that only rise --------------------------------------------------------------------------------------

KEYS = {
    "integer": ({"type": "integer"}, st.integers(0, 5)),
    "string": ({}, st.text("ab", max_size=2)),
    "date": ({"type": "date"}, st.dates(datetime.date(2024, 1, 1), datetime.date(2024, 1, 4))),
}


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    kinds=st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=2),
    cut=st.integers(0, 6),
)
def test_keys_that_rise_come_once(data: st.DataObject, kinds: list[str], cut: int) -> None:
    fields = [{"name": f"k{i}", **KEYS[kind][0]} for i, kind in enumerate(kinds)]
    spec = make_spec("things", fields, key=[f["name"] for f in fields], write_disposition="merge")
    keys = data.draw(st.lists(st.tuples(*(st.none() | KEYS[kind][1] for kind in kinds)), max_size=6))
    if data.draw(st.booleans()):
        keys = sorted({k for k in keys if None not in k})
    batch = pa.RecordBatch.from_pylist(
        [dict(zip((f["name"] for f in fields), key, strict=True)) for key in keys], schema=arrow_schema(spec)
    )
    rising = KeyOrder(spec)
    for part in (batch.slice(0, cut), batch.slice(cut)):
        rising.add(part)
    if len(keys) > 1:
        expected = not any(None in k for k in keys) and all(a < b for a, b in itertools.pairwise(keys))
        assert rising.holds == expected


def test_keys_that_postgresql_compares_in_another_way_are_looked_at() -> None:
    for field, values, holds in (
        ({"type": "object"}, ["1", "1.0"], False),  # one key
        ({"type": "number", "format": "double"}, [-0.0, 0.0], False),  # one key
        ({"format": "uuid"}, [b"a" * 16, b"b" * 16], True),
    ):
        spec = make_spec("things", [{"name": "id", **field}], key=["id"], write_disposition="merge")
        rising = KeyOrder(spec)
        rising.add(pa.RecordBatch.from_pylist([{"id": v} for v in values], schema=arrow_schema(spec)))
        assert rising.holds == holds
