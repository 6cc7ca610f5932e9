"""The gate: what is suspicious is warned of, refused or held; and a person's word on what is held."""

import datetime
import random

import pytest
from alembic import command
from pydantic import ValidationError

from importer_dagster.errors import UsageError
from importer_dagster.ledger import queries
from importer_dagster.operations import release, unload
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, make_spec, migrate

HEADER = "id,v,n\n"
DISPOSITIONS = ["append", "replace", "merge", "scd2"]


def day(n: int) -> datetime.date:
    return DAY + datetime.timedelta(days=n)


def rows(n: int, value: str = "a") -> str:
    return HEADER + "".join(f"{i},{value},1\n" for i in range(n))


def usual_days(inbox: Inbox, spec, days: int = 4, n: int = 10) -> None:
    for i in range(days):
        assert inbox.load(spec, rows(n), path=f"{i}", day=day(i)).status == "loaded"


def released(inbox: Inbox, spec, load_id: int, **options) -> release.Decided:
    return release.release(
        load_id, {spec.name: spec}, warehouse=inbox.warehouse, has_tenant=lambda _: True, **options
    )


def held_tables(query: Query) -> list[tuple]:
    return query("SELECT count(*) FROM pg_tables WHERE schemaname = 'importer_held'")


# --- what it objects to ---------------------------------------------------------------------


@pytest.mark.parametrize("action", ["warn", "refuse", "hold"])
@pytest.mark.parametrize("disposition", DISPOSITIONS)
def test_a_count_out_of_the_band(inbox: Inbox, query: Query, disposition: str, action: str) -> None:
    spec = make_spec(key=["id"], write_disposition=disposition, gate={"rows": {"action": action}})
    usual_days(inbox, spec)
    before = query("SELECT * FROM things ORDER BY id, _load_id")
    result = inbox.load(spec, rows(3, "b"), path="9", day=day(9))
    assert result.status == {"warn": "loaded", "refuse": "refused", "hold": "held"}[action]
    detail = "3 records are 0.30 times the usual 10 (the median of the 4 deliveries before)"
    assert detail in result.gate[0].detail
    assert query("SELECT load_id, rule, action FROM importer.gate") == [(result.load_id, "rows", action)]
    if action == "warn":
        assert query("SELECT count(*) FROM things WHERE v = 'b'") == [(3,)]
    else:
        assert "gate.rows" in (result.reason or "")
        assert (result.rows_read, result.rows_loaded, result.rows_skipped) == (3, 0, 3)
        assert query("SELECT * FROM things ORDER BY id, _load_id") == before
    assert inbox.load(spec, rows(19, "c"), path="8", day=day(8)).status == "loaded"


def test_a_count_is_compared_with_earlier_days_of_the_same_tenant_only(inbox: Inbox) -> None:
    spec = make_spec(gate={"rows": {"over": 3, "band": [0.9, 1.1]}})
    usual_days(inbox, spec)
    assert inbox.load(spec, rows(90), path="t", day=day(5), tenant="new").status == "loaded"
    assert inbox.load(spec, rows(90), path="0", day=day(-1)).status == "loaded"  # nothing before it
    assert inbox.load(spec, rows(9), path="5", day=day(5)).status == "loaded"
    assert inbox.load(spec, rows(8), path="6", day=day(6)).status == "held"


def test_the_least_count_is_absolute(inbox: Inbox) -> None:
    spec = make_spec(gate={"rows": {"least": 5, "action": "refuse"}})
    result = inbox.load(spec, rows(4))
    assert (result.status, "4 records are fewer than the 5" in (result.reason or "")) == ("refused", True)


@pytest.mark.parametrize("gate", [{"share": 0.1}, {"count": 1}])
def test_rejects_below_the_limit_can_be_suspicious(inbox: Inbox, query: Query, gate: dict) -> None:
    spec = make_spec(gate={"rejects": gate})
    assert inbox.load(spec, rows(9) + "x,a,1\n", path="a").status == "loaded"
    result = inbox.load(spec, rows(8) + "x,a,1\ny,a,1\n", path="b")
    assert (result.status, result.rows_rejected, result.rows_skipped) == ("held", 2, 8)
    assert query("SELECT count(*) FROM importer.rejects WHERE load_id = %s", result.load_id) == [(2,)]
    done = released(inbox, spec, result.load_id)
    assert (done.counts.loaded, done.rows) == (8, 8)
    assert query(
        "SELECT rows_read, rows_loaded, rows_rejected, rows_skipped FROM importer.loads WHERE load_id = %s",
        result.load_id,
    ) == [(10, 8, 2, 0)]


def test_unique_fields_of_a_type_without_a_key(inbox: Inbox) -> None:
    spec = make_spec(gate={"unique": [{"fields": ["id", "v"]}]})
    assert inbox.load(spec, HEADER + "1,a,1\n1,b,1\n,a,1\n,a,1\n", path="a").status == "loaded"
    result = inbox.load(spec, HEADER + "1,a,1\n1,a,2\n2,b,1\n1,a,3\n", path="b")
    assert result.status == "held"
    assert "2 records repeat the id, v of an earlier one, such as 1, a (gate.unique)" in (result.reason or "")


def test_references_to_rows_that_are_not_there(inbox: Inbox, query: Query) -> None:
    parents = make_spec("parents", [{"name": "id", "type": "integer"}])
    fields = [{"name": "id", "type": "integer"}, {"name": "parent", "type": "integer"}]

    def child(gate: dict):
        spec = make_spec(fields=fields).model_dump(by_alias=True, exclude_defaults=True)
        spec["schema"]["foreignKeys"] = [
            {"fields": "parent", "reference": {"resource": "parents", "fields": "id"}},
            {"fields": "parent", "reference": {"resource": "", "fields": "id"}},
        ]
        return type(parents).model_validate({**spec, "gate": {"references": gate}})

    unknown = inbox.load(child({"action": "hold"}), "id,parent\n1,\n", path="0")
    assert [(f.action, f.detail[:28]) for f in unknown.gate] == [("warn", "parents cannot be looked at:")]
    inbox.load(parents, "id\n1\n2\n", path="p")
    inbox.load(parents, "id\n3\n", path="p", tenant="other")
    # 2 is a parent and in the file itself; 3 is another tenant's
    content = "id,parent\n2,2\n3,2\n4,\n5,3\n"
    warned = inbox.load(child({}), content, path="a")
    assert (warned.status, len(warned.gate)) == ("loaded", 1)
    assert warned.gate[0].detail == (
        "1 records refer by parent to a row that parents does not have, such as 3"
    )
    assert inbox.load(child({"count": 1}), content, path="b").gate == ()
    assert inbox.load(child({"share": 0.25, "action": "hold"}), content, path="c").status == "loaded"
    late = inbox.load(child({"action": "hold"}), content, path="d")
    assert late.status == "held"
    inbox.load(parents, "id\n3\n", path="p3")
    assert released(inbox, child({"action": "hold"}), late.load_id).counts.loaded == 4


def test_refuse_is_stronger_than_hold_and_all_reasons_are_on_record(inbox: Inbox, query: Query) -> None:
    spec = make_spec(
        gate={"rows": {"least": 5}, "unique": [{"fields": ["id"], "action": "refuse"}], "empty": "warn"}
    )
    result = inbox.load(spec, HEADER + "1,a,1\n1,b,1\n")
    assert result.status == "refused"
    assert {f.rule: f.action for f in result.gate} == {"rows": "hold", "unique": "refuse"}
    assert query("SELECT count(*) FROM importer.gate") == [(2,)]
    assert held_tables(query) == [(0,)]


# --- an empty file does not empty a table ----------------------------------------------------------


@pytest.mark.parametrize("disposition", DISPOSITIONS)
def test_an_empty_delivery_is_held_where_it_would_empty_the_table(
    inbox: Inbox, query: Query, disposition: str
) -> None:
    more = {"scd2": {"absent": "close"}} if disposition == "scd2" else {}
    spec = make_spec(key=["id"], write_disposition=disposition, **more)
    empties = disposition in ("replace", "scd2")
    assert inbox.load(spec, HEADER, path="first").status == "loaded"  # there is nothing to lose yet
    inbox.load(spec, rows(3), path="1", day=day(1))
    result = inbox.load(spec, HEADER, path="2", day=day(2))
    assert result.status == ("held" if empties else "loaded")
    assert query("SELECT count(*) FROM things") == [(3,)]
    resent = inbox.load(spec, HEADER, path="1", day=day(1))
    assert resent.status == ("held" if empties else "loaded")
    if empties:
        assert "`gate: {empty: load}` in the spec allows that" in (result.reason or "")
        assert query("SELECT count(*) FROM things") == [(3,)]
        declared = make_spec(key=["id"], write_disposition=disposition, gate={"empty": "load"}, **more)
        assert inbox.load(declared, HEADER, path="3", day=day(3)).status == "loaded"
        assert query("SELECT count(*) FROM importer.loads WHERE status = 'held'") == [(2,)]


def test_one_empty_file_of_several_is_no_reason_to_hold(inbox: Inbox, query: Query) -> None:
    spec = make_spec(write_disposition="replace")
    inbox.load(spec, rows(3), path="p", day=day(1))
    assert inbox.load(spec, HEADER, path="q", day=day(1)).status == "loaded"
    assert inbox.load(spec, HEADER, path="o", day=day(0)).status == "loaded"  # late, of no account
    assert query("SELECT count(*) FROM things") == [(3,)]


# --- held ------------------------------------------------------------------------------------------


def test_held_again_with_the_same_content_is_one_held_load(inbox: Inbox, query: Query) -> None:
    spec = make_spec(gate={"rows": {"least": 5}})
    first = inbox.load(spec, rows(3))
    assert f"`importer release {first.load_id}` loads it" in (first.reason or "")
    again = inbox.load(spec, rows(3))
    assert (again.status, again.load_id, again.rows_read) == ("held", first.load_id, 3)
    assert query("SELECT count(*) FROM importer.loads") == [(1,)]
    assert held_tables(query) == [(1,)]


def test_held_and_sent_again_with_other_content(inbox: Inbox, query: Query) -> None:
    spec = make_spec(gate={"rows": {"least": 5}})
    first, second = inbox.load(spec, rows(3)), inbox.load(spec, rows(4))
    assert second.status == "held"
    assert held_tables(query) == [(1,)]
    good = inbox.load(spec, rows(6))
    assert good.status == "loaded"
    assert held_tables(query) == [(0,)]
    for load in (first, second):
        with pytest.raises(UsageError, match="is refused, not held"):
            released(inbox, spec, load.load_id)
    assert query("SELECT status, superseded_by, reason FROM importer.loads ORDER BY load_id")[:2] == [
        ("refused", second.load_id, f"sent again with other content, as load {second.load_id}"),
        ("refused", good.load_id, f"sent again with other content, as load {good.load_id}"),
    ]


def test_a_held_resend_leaves_the_good_content_and_gives_way_to_it(inbox: Inbox, query: Query) -> None:
    spec = make_spec(gate={"rows": {"least": 5}})
    good = inbox.load(spec, rows(6))
    bad = inbox.load(spec, rows(1, "bad"))
    assert bad.status == "held"
    assert query("SELECT superseded_by FROM importer.loads WHERE load_id = %s", good.load_id) == [(None,)]
    assert inbox.load(spec, rows(6)).status == "unchanged"  # the supplier took it back
    assert query("SELECT status FROM importer.loads WHERE load_id = %s", bad.load_id) == [("refused",)]
    assert held_tables(query) == [(0,)]


@pytest.mark.parametrize("disposition", DISPOSITIONS)
def test_released_in_any_order_it_is_as_if_never_held(inbox: Inbox, query: Query, disposition: str) -> None:
    gated = make_spec("gated", key=["id"], write_disposition=disposition, gate={"rows": {"least": 4}})
    plain = make_spec("plain", key=["id"], write_disposition=disposition)
    rng = random.Random(disposition)
    for spec in (gated, plain):
        inbox.load(spec, rows(5), path="first")
    waiting = []
    for number in range(14):
        place = {"path": rng.choice("pq"), "day": day(rng.randrange(4))}
        content = HEADER + "".join(
            f"{i},{rng.choice('ab')},1\n" for i in rng.sample(range(6), rng.choice([2, 5]))
        )
        content += f"{90 + number},only,1\n"  # so that no content comes twice
        # released between others, or not at all: then the plain table does not get it either
        result = inbox.load(gated, content, **place)
        if result.status == "loaded":
            inbox.load(plain, content, **place)
            waiting = [w for w in waiting if w[2] != place]
        else:
            waiting = [w for w in waiting if w[2] != place] + [(result.load_id, content, place)]
        if waiting and rng.random() < 0.6:
            load_id, content, place = waiting.pop(rng.randrange(len(waiting)))
            foreseen = released(inbox, gated, load_id, dry_run=True)
            assert released(inbox, gated, load_id) == foreseen
            assert inbox.load(gated, content, **place).status == "unchanged"
            inbox.load(plain, content, **place)
        ends = ", _valid_to" if disposition == "scd2" else ""
        compared = [
            query(f"SELECT id, v, _business_date{ends} FROM {t} ORDER BY 1, 2, 3") for t in ("gated", "plain")
        ]
        assert compared[0] == compared[1]
    assert query("SELECT count(*) FROM importer.loads WHERE reason LIKE 'released%'")[0][0] > 2


def test_a_released_load_can_be_unloaded(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="merge", gate={"rows": {"least": 4}})
    inbox.load(spec, rows(5, "good"))
    bad = inbox.load(spec, rows(2, "bad"))
    done = released(inbox, spec, bad.load_id, by="ann", why="it is right")
    assert (done.changes.gone, done.changes.changed) == (3, 2)
    assert (
        query("SELECT decided_by, reason FROM importer.loads WHERE load_id = %s", bad.load_id)[0][0] == "ann"
    )
    unload.unload(bad.load_id, {spec.name: spec}, warehouse=inbox.warehouse, has_tenant=lambda _: True)
    assert query("SELECT count(*), min(v) FROM things") == [(5, "good")]


def test_columns_that_came_in_meanwhile(inbox: Inbox, query: Query) -> None:
    spec = make_spec(gate={"rows": {"least": 2}}, schema_contract={"added": "evolve"})
    waiting = inbox.load(spec, "id,v,n,extra\n1,a,1,7\n", path="a")
    inbox.load(spec, "id,v,n,extra,more\n1,a,1,x,y\n2,b,1,x,y\n", path="b")
    released(inbox, spec, waiting.load_id)
    assert query("SELECT id, extra, more FROM things ORDER BY id, extra") == [
        (1, "7", None),
        (1, "x", "y"),
        (2, "x", "y"),
    ]


def test_a_person_refuses_and_the_same_content_stays_refused(inbox: Inbox, query: Query) -> None:
    spec = make_spec(gate={"rows": {"least": 5}})
    waiting = inbox.load(spec, rows(3))
    options = {"warehouse": inbox.warehouse, "by": "ann", "why": "cut off"}
    assert release.refuse(waiting.load_id, **options, dry_run=True).rows == 3
    assert held_tables(query) == [(1,)]
    release.refuse(waiting.load_id, **options)
    assert held_tables(query) == [(0,)]
    (row,) = query("SELECT status, decided_by, reason FROM importer.loads")
    assert row[:2] == ("refused", "ann")
    assert row[2].startswith("refused by ann; cut off; was held: 3 records are fewer than the 5")
    again = inbox.load(spec, rows(3))
    assert (again.status, again.load_id) == ("refused", waiting.load_id)
    assert "the same content was refused before" in (again.reason or "")
    assert query("SELECT count(*) FROM importer.loads") == [(1,)]
    assert inbox.load(spec, rows(3), force=True).status == "held"
    with pytest.raises(UsageError, match="is refused, not held"):
        release.refuse(waiting.load_id, **options)


def test_a_rehearsal_asks_the_gate_and_leaves_no_trace(inbox: Inbox, query: Query) -> None:
    spec = make_spec(gate={"rows": {"least": 5}})
    result = inbox.load(spec, rows(3), dry_run=True)
    assert (result.status, result.load_id) == ("held", None)
    assert query("SELECT count(*) FROM importer.loads") == [(0,)]
    assert held_tables(query) == [(0,)]


def test_the_status_counts_what_is_held(inbox: Inbox, query: Query) -> None:
    inbox.load(make_spec(gate={"rows": {"least": 5}}), rows(3))
    with inbox.warehouse.connect() as conn:
        (row,) = queries.status_rows(conn)
        (waiting,) = queries.held_loads(conn)
    assert (row["held"], row["refused"], row["deliveries"]) == (1, 0, 0)
    assert row["last_reason"] == waiting["reason"]


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"rows": {"band": [2, 1]}}, "the least number comes first"),
        ({"rejects": {}}, "say a share or a count"),
        ({"unique": [{"fields": ["idd"]}]}, "gate.unique names 'idd', which is no field"),
        ({"references": {}}, "needs foreignKeys"),
    ],
)
def test_a_gate_that_makes_no_sense_is_an_error_of_the_spec(gate: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make_spec(gate=gate)


def test_the_ledger_goes_down_and_up_again_with_held_loads_in_it(inbox: Inbox, query: Query) -> None:
    held_load = inbox.load(make_spec(gate={"rows": {"least": 5}}), rows(3))
    for step, to in ((command.downgrade, "0002"), (command.upgrade, "head")):
        migrate(inbox.warehouse, step, to)
    assert query("SELECT load_id, status FROM importer.loads") == [(held_load.load_id, "refused")]
    assert query("SELECT held, refused FROM importer.status") == [(0, 1)]
