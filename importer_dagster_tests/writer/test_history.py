"""scd2: history by business date; and taking loads out again, with what it shows beforehand."""

import datetime

import pytest
from pydantic import ValidationError

from importer_dagster.errors import UsageError, WarehouseError
from importer_dagster.operations.row_diff import Changes
from importer_dagster.writer.publish import Counts, Publisher
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, make_spec, taken_out

HEADER = "id,v,n\n"


def day(n: int) -> datetime.date:
    return DAY + datetime.timedelta(days=n)


def history(query: Query) -> list[tuple]:
    rows = query("SELECT id, v, _valid_from, _valid_to, _current FROM things ORDER BY 1, 3")
    return [(i, v, (a - DAY).days, b and (b - DAY).days, c) for i, v, a, b, c in rows]


def test_versions_follow_each_other_whatever_comes_first(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="scd2")
    inbox.load(spec, HEADER + "1,a,1\n2,b,1\n", path="1", day=day(1))
    third = inbox.load(spec, HEADER + "1,A,1\n2,b,1\n", path="3", day=day(3))
    assert (third.rows_loaded, third.rows_unchanged) == (1, 1)
    assert history(query) == [(1, "a", 1, 3, False), (1, "A", 3, None, True), (2, "b", 1, None, True)]
    late = inbox.load(spec, HEADER + "1,x,1\n2,y,1\n", path="2", day=day(2))
    assert late.rows_loaded == 2
    assert history(query) == [
        (1, "a", 1, 2, False), (1, "x", 2, 3, False), (1, "A", 3, None, True),
        (2, "b", 1, 2, False), (2, "y", 2, 3, False), (2, "b", 3, None, True),
    ]  # fmt: skip
    taken_out(inbox, spec, late.load_id)
    assert history(query) == [(1, "a", 1, 3, False), (1, "A", 3, None, True), (2, "b", 1, None, True)]


def test_absence_closes_only_where_declared_and_judged_over_all_files_of_the_day(
    inbox: Inbox, query: Query
) -> None:
    spec = make_spec(key=["id"], write_disposition="scd2", scd2={"absent": "close"})
    inbox.load(spec, HEADER + "1,a,1\n2,b,1\n3,c,1\n", path="1", day=day(1))
    inbox.load(spec, HEADER + "1,a,1\n", path="2p", day=day(2))
    assert history(query)[1:] == [(2, "b", 1, 2, False), (3, "c", 1, 2, False)]
    inbox.load(spec, HEADER + "2,b,1\n", path="2q", day=day(2))  # the other half of the same day
    assert history(query) == [(1, "a", 1, None, True), (2, "b", 1, None, True), (3, "c", 1, 2, False)]
    inbox.load(spec, HEADER + "3,c,1\n", path="4", day=day(4))  # back again, after a gap
    assert history(query) == [
        (1, "a", 1, 4, False), (2, "b", 1, 4, False), (3, "c", 1, 2, False), (3, "c", 4, None, True),
    ]  # fmt: skip


def test_one_tenants_absence_is_not_anothers(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="scd2", scd2={"absent": "close"})
    inbox.load(spec, HEADER + "1,a,1\n", day=day(1), tenant="one")
    inbox.load(spec, HEADER + "2,b,1\n", day=day(2), tenant="two")
    assert history(query) == [(1, "a", 1, None, True), (2, "b", 2, None, True)]


def test_types_without_tenants_have_history_too(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="scd2")
    for n, value in ((3, "c"), (1, "a"), (2, "b")):
        inbox.load(spec, HEADER + f"1,{value},1\n", path=str(n), day=day(n), has_tenant=False)
    assert history(query) == [(1, "a", 1, 2, False), (1, "b", 2, 3, False), (1, "c", 3, None, True)]


def test_an_order_of_columns_of_other_types_is_refused_by_the_spec() -> None:
    with pytest.raises(ValidationError, match="scd2 needs a primaryKey"):
        make_spec(write_disposition="scd2")
    with pytest.raises(ValidationError, match="mean nothing to write_disposition merge"):
        make_spec(key=["id"], write_disposition="merge", scd2={"absent": "close"})
    with pytest.raises(ValidationError, match="a column that the importer adds itself"):
        make_spec(fields=[{"name": "_valid_to"}])


def test_a_table_made_without_history_is_not_given_one(inbox: Inbox) -> None:
    inbox.load(make_spec(key=["id"], write_disposition="merge"), HEADER + "1,a,1\n")
    with pytest.raises(WarehouseError, match=r"made without history, but the spec says .* scd2\. Rename"):
        inbox.load(make_spec(key=["id"], write_disposition="scd2"), HEADER + "1,b,1\n", day=day(2))


# --- taking out ---------------------------------------------------------------------------------


def test_unloading_shows_what_it_would_change_and_then_does_just_that(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="merge")
    inbox.load(spec, HEADER + "1,a,1\n2,b,1\n", path="1", day=day(1))
    inbox.load(spec, HEADER + "3,first,1\n", path="2", day=day(2))
    second = inbox.load(spec, HEADER + "1,A,1\n2,b,1\n4,new,1\n", path="2", day=day(2))
    before = query("SELECT * FROM things ORDER BY id"), query("SELECT * FROM importer.loads ORDER BY 1")
    plan = taken_out(inbox, spec, second.load_id, dry_run=True)
    assert (
        query("SELECT * FROM things ORDER BY id"),
        query("SELECT * FROM importer.loads ORDER BY 1"),
    ) == before
    assert (plan.changes.gone, plan.changes.back, plan.changes.changed) == (1, 1, 1)
    words = [(c.kind, (c.before or {}).get("v"), (c.after or {}).get("v")) for c in plan.changes.examples]
    assert words == [("gone", "new", None), ("back", None, "first"), ("changed", "A", "a")]
    assert taken_out(inbox, spec, second.load_id, by="ann", why="withdrawn") == plan
    assert query("SELECT id, v FROM things ORDER BY id") == [(1, "a"), (2, "b"), (3, "first")]
    assert query(
        "SELECT status, decided_by, reason FROM importer.loads WHERE load_id = %s", second.load_id
    ) == [("unloaded", "ann", "withdrawn")]
    again = inbox.load(spec, HEADER + "1,A,1\n2,b,1\n4,new,1\n", path="2", day=day(2))
    assert again.status == "loaded"


@pytest.mark.parametrize("disposition", ["append", "replace", "merge", "scd2"])
def test_each_content_of_a_path_comes_back_in_turn(inbox: Inbox, query: Query, disposition: str) -> None:
    spec = make_spec(key=["id"], write_disposition=disposition)
    loads = [inbox.load(spec, HEADER + f"1,{v},1\n{n},only,1\n").load_id for n, v in enumerate("abc", 10)]
    taken_out(inbox, spec, loads[1])  # not in force: nothing changes
    assert query("SELECT id, v FROM things ORDER BY id") == [(1, "c"), (12, "only")]
    done = taken_out(inbox, spec, loads[2])
    assert done.restored == loads[0]
    assert query("SELECT id, v, _load_id FROM things ORDER BY id") == [
        (1, "a", loads[0]),
        (10, "only", loads[0]),
    ]
    taken_out(inbox, spec, loads[0])
    assert query("SELECT count(*) FROM things") == [(0,)]


@pytest.mark.parametrize("disposition", ["append", "replace", "merge", "scd2"])
def test_what_was_pruned_is_said_to_be_lost(inbox: Inbox, query: Query, disposition: str) -> None:
    spec = make_spec(key=["id"], write_disposition=disposition)
    first = inbox.load(spec, HEADER + "1,a,1\n")
    second = inbox.load(spec, HEADER + "1,b,1\n")
    with inbox.warehouse.connect() as conn:  # as retention does
        conn.execute("DELETE FROM importer_superseded.things WHERE _load_id = %s", (first.load_id,))
        conn.execute("UPDATE importer.loads SET pruned_at = now() WHERE load_id = %s", (first.load_id,))
        conn.commit()
    done = taken_out(inbox, spec, second.load_id)
    assert done.restored is None
    assert (
        f"load {first.load_id} had under the same path cannot be restored: its rows were pruned" in done.note
    )
    assert query("SELECT count(*) FROM things") == [(0,)]
    assert inbox.load(spec, HEADER + "1,a,1\n").status == "loaded"


def test_nothing_to_take_out_is_a_usage_error(inbox: Inbox) -> None:
    spec = make_spec(key=["id"])
    refused = inbox.load(spec, "x\n1\n")
    with pytest.raises(UsageError, match="is refused: none of its rows are in the warehouse"):
        taken_out(inbox, spec, refused.load_id)
    with pytest.raises(UsageError, match="There is no load 99"):
        taken_out(inbox, spec, 99)


def test_an_unchanged_row_that_only_changes_its_trace_is_no_change(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="merge")
    first = inbox.load(spec, HEADER + "1,a,1\n", path="1", day=day(1))
    second = inbox.load(spec, HEADER + "1,a,1\n", path="2", day=day(2))
    assert taken_out(inbox, spec, first.load_id).changes == Changes()
    assert query("SELECT v, _load_id FROM things") == [("a", second.load_id)]


@pytest.mark.parametrize("disposition", ["merge", "scd2", "close"])
def test_what_is_read_grows_with_the_rows_and_not_with_their_square(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, disposition: str
) -> None:
    """PostgreSQL has no statistics of a table that was filled a moment ago."""
    more = {"scd2": {"absent": "close"}} if disposition == "close" else {}
    spec = make_spec(key=["id"], write_disposition="merge" if disposition == "merge" else "scd2", **more)
    read: list[int] = []
    publish = Publisher.publish

    def counted(self: Publisher, newest: tuple[datetime.date, str] | None, staged: int) -> Counts:
        counts = publish(self, newest, staged)
        [(tuples,)] = self.conn.execute(
            "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_all_tables "
            "WHERE relname = 'things' OR relname LIKE 'importer%'"
        ).fetchall()
        read.append(int(tuples))
        return counts

    monkeypatch.setattr(Publisher, "publish", counted)
    rows, days = 1_000, [0, 1, 2, 5]
    for n in days:  # a tenth changes each day, one row comes and one goes
        content = HEADER + "".join(f"{i},{n if i % 10 == n else ''},1\n" for i in range(n, rows + n))
        assert inbox.load(spec, content, path=str(n), day=day(n)).status == "loaded"
    late = inbox.load(spec, HEADER + "500,late,1\n", path="late", day=day(3))
    assert late.status == "loaded"
    assert len(read) == len(days) - 1 + 1  # the first is copied into the table itself
    assert max(read) < 100 * rows, read
