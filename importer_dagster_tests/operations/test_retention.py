"""What retention deletes, what it must leave, and that nothing grows: with a real database, days simulated.

Time passes by changing when loads were finished, and by the ``now`` that prune is given.
"""

import datetime
import random
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

from importer_dagster.errors import UsageError
from importer_dagster.operations import release as operations_release
from importer_dagster.operations import retention
from importer_dagster.settings import Keep
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, make_spec, taken_out
from importer_dagster_tests.helpers.order_model import KEYS, VALUES, Tenant

HEADER = "id,v,n\n"
KEYED = {"append": None, "replace": ["id"], "merge": ["id"], "scd2": ["id"]}
FOR_EVER = Keep(*[0] * len(fields(Keep)))


def day(n: int) -> datetime.date:
    return DAY + datetime.timedelta(days=n)


def noon(n: int) -> datetime.datetime:
    return datetime.datetime.combine(day(n), datetime.time(12), datetime.UTC)


def let_time_pass(warehouse: Warehouse) -> None:
    """As if each delivery had been imported on its own day."""
    with warehouse.connect() as conn:
        conn.execute(
            "UPDATE importer.loads SET finished_at = business_date + interval '6 hours' + load_id * interval '1 s'"
        )
        conn.commit()


def prune(inbox: Inbox, *specs: TableSpec, on: int, keep: Keep, **options) -> dict[str, int]:
    gone = retention.prune(
        inbox.warehouse,
        {s.name: s for s in specs},
        keep,
        has_tenant=lambda _: True,
        now=noon(on),
        **options,
    )
    return {g.what: g.count for g in gone}


def everything(query: Query) -> list:
    tables = query(  # but for whose turn it was
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname ~ '^(importer|public)' AND tablename <> 'turns' ORDER BY 1"
    )
    return [(t, query(f"SELECT * FROM {t} t ORDER BY t::text")) for (t,) in tables]


# --- contents of files that were sent again --------------------------------------------------------


@pytest.mark.parametrize("disposition", KEYED)
def test_earlier_contents_go_and_everything_else_goes_on(
    inbox: Inbox, query: Query, disposition: str
) -> None:
    spec = make_spec(key=KEYED[disposition], write_disposition=disposition)
    inbox.load(spec, HEADER + "9,other,1\n", path="a", day=day(0))
    first, second, third = (
        inbox.load(spec, HEADER + f"1,{v},1\n{n},only,1\n", path="p", day=day(1))
        for n, v in enumerate("abc", 10)
    )
    let_time_pass(inbox.warehouse)
    keep = replace(FOR_EVER, replaced=30)
    assert prune(inbox, spec, on=20, keep=keep) == {}
    before = everything(query)
    planned = prune(inbox, spec, on=40, keep=keep, dry_run=True)
    assert planned == {"rows of files that were sent again": 4}
    assert everything(query) == before
    assert prune(inbox, spec, on=40, keep=keep) == planned
    assert prune(inbox, spec, on=40, keep=keep) == {}
    ids = [first.load_id, second.load_id]
    assert query("SELECT count(*) FROM importer_superseded.things WHERE _load_id = ANY(%s)", ids) == [(0,)]
    assert query("SELECT load_id FROM importer.loads WHERE pruned_at IS NOT NULL ORDER BY 1") == [
        (i,) for i in ids
    ]

    # the same file again, a correction, taking it out, an old content once more
    same = inbox.load(spec, HEADER + "1,c,1\n12,only,1\n", path="p", day=day(1))
    assert (same.status, same.load_id) == ("unchanged", third.load_id)
    fourth = inbox.load(spec, HEADER + "1,d,1\n", path="p", day=day(1))
    assert query("SELECT v FROM things WHERE id = 1") == [("d",)]
    assert taken_out(inbox, spec, fourth.load_id).restored == third.load_id
    assert query("SELECT v FROM things WHERE id = 1") == [("c",)]
    lost = taken_out(inbox, spec, third.load_id)
    assert lost.restored is None and f"load {second.load_id} had under the same path cannot be" in lost.note
    assert query("SELECT id, v FROM things") == [(9, "other")]
    again = inbox.load(spec, HEADER + "1,a,1\n10,only,1\n", path="p", day=day(1))
    assert again.status == "loaded"
    assert query("SELECT v FROM things WHERE id = 1") == [("a",)]


# --- replace: earlier days ------------------------------------------------------------------------------


def test_earlier_days_of_a_full_copy_go_but_for_the_last_one(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="replace")
    loads = [
        inbox.load(spec, HEADER + f"{n},x,1\n0,x,1\n", path=f"{n}", day=day(n)).load_id for n in range(6)
    ]
    let_time_pass(inbox.warehouse)
    keep = replace(FOR_EVER, copies=3)
    assert prune(inbox, spec, on=50, keep=keep) == {"rows of earlier days (replace)": 7}
    assert query("SELECT DISTINCT _load_id FROM importer_superseded.things") == [(loads[4],)]

    assert inbox.load(spec, HEADER + "2,x,1\n0,x,1\n", path="2", day=day(2)).status == "unchanged"
    late = inbox.load(spec, HEADER + "77,late,1\n", path="2", day=day(2))  # a correction of a pruned day
    assert (late.status, late.rows_skipped) == ("loaded", 1)
    taken_out(inbox, spec, loads[1])  # one that was pruned itself
    assert query("SELECT id FROM things ORDER BY 1") == [(0,), (5,)]
    assert taken_out(inbox, spec, loads[5]).after == 2
    assert query("SELECT id FROM things ORDER BY 1") == [(0,), (4,)]
    before = everything(query)
    with pytest.raises(
        UsageError, match=rf"would go back to 2024-01-04, and the rows of load {loads[3]} \(3\) were deleted"
    ):
        taken_out(inbox, spec, loads[4])
    assert everything(query) == before
    inbox.load(spec, HEADER + "3,x,1\n0,x,1\n", path="3", day=day(3), force=True)  # as the message says
    taken_out(inbox, spec, loads[4])
    assert query("SELECT id FROM things ORDER BY 1") == [(0,), (3,)]


# --- merge, scd2: replaced rows of keys ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["merge", "scd2 keep", "scd2 close"])
@pytest.mark.parametrize("seed", range(12))
def test_after_the_horizon_everything_is_as_if_nothing_had_been_deleted(
    tmp_path: Path,
    shared_warehouse: Warehouse,
    kind: str,
    seed: int,
) -> None:
    chosen = random.Random(seed)
    tenant = Tenant(tmp_path, shared_warehouse, kind)

    def rows() -> list[tuple[int, str]]:
        return [(chosen.choice(KEYS), chosen.choice(VALUES)) for _ in range(chosen.randint(0, 5))]

    def send(first: int, last: int, times: int) -> None:
        for _ in range(times):
            tenant.load((chosen.randint(first, last), chosen.choice("pq")), rows())

    send(0, 9, 18)
    with shared_warehouse.connect() as conn:
        conn.execute(
            "UPDATE importer.loads SET finished_at = CASE WHEN business_date < %s THEN %s ELSE %s END WHERE tenant = %s",
            (day(6), noon(1), noon(29), tenant.name),
        )
        conn.commit()
    gone = prune(tenant.inbox, tenant.spec, on=30, keep=replace(FOR_EVER, history=20))
    assert kind == "scd2 keep" or gone["replaced rows of keys (merge, scd2)"] > 0
    in_force = {place: stack[-1] for place, stack in tenant.loads.items() if stack}
    check(tenant)
    send(6, 12, 10)
    check(tenant)
    for load_id, content in [in_force[p] for p in in_force if p[0] >= 6][:3]:
        place = next(p for p, s in in_force.items() if s == (load_id, content))
        if tenant.loads[place][-1][0] == load_id:
            tenant.unload(load_id)
            check(tenant)
    send(6, 9, 4)
    check(tenant)

    # what lies before it: the same is unchanged, anything else is refused, and nothing happens
    old = max(p for p in in_force if p[0] < 6)
    tenant.load(old, in_force[old][1])
    content = "id,v\n" + "".join(f"{k},Z\n" for k in KEYS)
    remedy = "To correct such days" if kind == "scd2 close" else "`importer load --force`"
    for path in (f"{old[0]}{old[1]}.csv", "late.csv"):
        sent = tenant.inbox.load(tenant.spec, content, path=path, day=day(old[0]), tenant=tenant.name)
        assert sent.status == "refused"
        assert f"cannot be told exactly. {remedy}" in str(sent.reason)
    with pytest.raises(UsageError, match="cannot be taken out exactly"):
        taken_out(tenant.inbox, tenant.spec, in_force[old][0])
    check(tenant)
    forced = tenant.inbox.load(
        tenant.spec, content, path="late.csv", day=day(old[0]), tenant=tenant.name, force=True
    )
    assert forced.status == ("refused" if kind == "scd2 close" else "loaded")


@pytest.mark.parametrize("disposition", ["merge", "scd2"])
def test_a_late_file_that_is_forced_in_does_not_win_over_what_was_said_again(
    inbox: Inbox, query: Query, disposition: str
) -> None:
    spec = make_spec(key=["id"], write_disposition=disposition)
    for n in (1, 2, 4, 5):
        inbox.load(spec, HEADER + "1,a,1\n", path=str(n), day=day(n))
    inbox.load(spec, HEADER + "2,b,1\n", path="6", day=day(6))
    let_time_pass(inbox.warehouse)
    assert prune(inbox, spec, on=90, keep=replace(FOR_EVER, history=30)) == {
        "replaced rows of keys (merge, scd2)": 2
    }
    current = f"SELECT v FROM things WHERE id = 1 {'AND _current' if disposition == 'scd2' else ''}"
    late = (spec, HEADER + "1,late,1\n")
    assert inbox.load(*late, path="3", day=day(3)).status == "refused"
    assert inbox.load(*late, path="3", day=day(3), force=True).status == "loaded"
    assert query(current) == [("a",)]


def check(tenant: Tenant) -> None:
    """The table is the model's; what is kept beside it is not whole any more."""
    tenant._check_conservation = lambda conn: None  # type: ignore[method-assign]
    tenant.check()


class Twins:
    """Two tenants that are sent the same; retention passes over one of them."""

    def __init__(self, folder: Path, warehouse: Warehouse) -> None:
        self.pruned, self.whole = (Tenant(folder, warehouse, "scd2 close") for _ in range(2))
        self.both = (self.pruned, self.whole)
        self.frozen = -1  # the last day that was pruned

    def load(self, place: tuple[int, str], rows: list[tuple[int, str]]) -> None:
        for tenant in self.both:
            tenant.load(place, rows)

    def unload(self, place: tuple[int, str], nth: int) -> None:
        for tenant in self.both:
            tenant.unload(tenant.loads[place][nth][0])

    def prune(self, until: int, keep: Keep) -> int:
        """As if all of before day ``until`` had come long ago, and the others lately."""
        with self.pruned.inbox.warehouse.connect() as conn:
            conn.execute(
                "UPDATE importer.loads SET finished_at = CASE WHEN business_date < %s THEN %s ELSE %s END WHERE tenant = %s",
                (day(until), noon(1), noon(29), self.pruned.name),
            )
            conn.commit()
        planned = prune(self.pruned.inbox, self.pruned.spec, on=30, keep=keep, dry_run=True)
        assert prune(self.pruned.inbox, self.pruned.spec, on=30, keep=keep) == planned
        in_force = sorted(n for (n, _), stack in self.pruned.loads.items() if stack)
        self.frozen = max((n for n in in_force if n < min(until, in_force[-1])), default=self.frozen)
        return sum(planned.values())

    def check(self) -> None:
        """Every column of every version is the same, and where it came from."""
        check(self.pruned)
        self.whole.check()
        assert self._versions(self.pruned) == self._versions(self.whole)

    def _versions(self, tenant: Tenant) -> list[tuple]:
        with tenant.inbox.warehouse.connect() as conn:
            return conn.execute(
                """SELECT id, v, _valid_from, _valid_to, _current, _hash, t._business_date, l.path, _row
                   FROM scd2_close t JOIN importer.loads l ON l.load_id = t._load_id
                   WHERE _tenant = %s ORDER BY id, _valid_from""",
                (tenant.name,),
            ).fetchall()

    def beside(self) -> int:
        """Records kept beside the table that are of the frozen days."""
        with self.pruned.inbox.warehouse.connect() as conn:
            row = conn.execute(
                """SELECT count(*) FROM (
                       SELECT _load_id FROM importer_superseded.scd2_close WHERE _tenant = %(t)s
                       UNION ALL SELECT _load_id FROM importer_repeats.scd2_close WHERE _tenant = %(t)s
                   ) AS kept JOIN importer.loads ON load_id = _load_id WHERE business_date <= %(frozen)s""",
                {"t": self.pruned.name, "frozen": day(self.frozen)},
            ).fetchone()
        assert row
        return row[0]


@pytest.mark.parametrize("keep", [replace(FOR_EVER, history=20), Keep(*[20] * len(fields(Keep)))])
@pytest.mark.parametrize("seed", range(6))
def test_where_absence_ends_versions_they_are_as_if_nothing_had_been_deleted(
    tmp_path: Path,
    shared_warehouse: Warehouse,
    keep: Keep,
    seed: int,
) -> None:
    chosen = random.Random(f"absence {seed}")
    twins = Twins(tmp_path, shared_warehouse)

    def some(times: int) -> None:
        """Files of days after the frozen one in any order: new, late, corrected, sent again, taken out."""
        for _ in range(times):
            place = (chosen.randint(twins.frozen + 1, 12), chosen.choice("ppq"))
            stack = twins.pruned.loads.get(place)
            if stack and chosen.random() < 0.3:
                twins.unload(place, chosen.randrange(len(stack)))
            elif stack and chosen.random() < 0.2:
                twins.load(place, stack[-1][1])
            else:
                # few keys are missing and few change, so that versions last
                rows = [(k, chosen.choice("aab")) for k in KEYS if chosen.random() < 0.8]
                twins.load(place, chosen.choice([rows, rows, rows, []]))
            twins.check()

    some(14)
    for until in sorted(chosen.sample(range(2, 12), 2)):
        twins.prune(until, keep)
        assert twins.beside() == 0
        twins.check()
        some(8)
        if twins.frozen >= 0:
            refused_before(twins.pruned, twins.frozen)
            twins.check()
    old = [p for p, stack in twins.pruned.loads.items() if p[0] <= twins.frozen and len(stack) > 1]
    for place in old if not keep.done else []:  # what is not in force is nothing to anybody
        twins.unload(place, 0)
        twins.check()


def refused_before(tenant: Tenant, frozen: int) -> None:
    """Neither a late file, nor a corrected one, nor taking one out, up to the frozen day; nor by force."""
    known = [p for p, stack in tenant.loads.items() if stack and p[0] <= frozen]
    for place in [*known, (frozen, "z")]:
        content, when = "id,v\n1,Z\n", day(place[0])
        for force in (False, True):
            sent = tenant.inbox.load(
                tenant.spec,
                content,
                path=f"{place[0]}{place[1]}.csv",
                day=when,
                tenant=tenant.name,
                force=force,
            )
            assert sent.status == "refused" and "To correct such days, give the type" in str(sent.reason)
    for place in known:  # or the ledger has forgotten it (IMPORTER_KEEP_DONE)
        with pytest.raises(UsageError, match=r"give the type a new name|There is no load"):
            taken_out(tenant.inbox, tenant.spec, tenant.loads[place][-1][0])


def test_where_absence_ends_versions_what_was_said_again_goes(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="scd2", scd2={"absent": "close"})
    for n in range(10):
        inbox.load(spec, HEADER + "1,a,1\n" + ("2,b,1\n" if n < 3 else ""), path=str(n), day=day(n))
    let_time_pass(inbox.warehouse)
    table = "SELECT id, _valid_from, _valid_to, _load_id, _row FROM things ORDER BY id, _valid_from"
    before = query(table)
    keep = replace(FOR_EVER, history=20)
    gone = {"replaced rows of keys (merge, scd2)": 8 + 2}  # days 1 to 8, and key 2 on days 1 and 2
    assert prune(inbox, spec, on=50, keep=keep, dry_run=True) == gone
    assert prune(inbox, spec, on=50, keep=keep) == gone
    assert prune(inbox, spec, on=50, keep=keep) == {}
    assert query("SELECT count(*) FROM importer_repeats.things") == [(1,)]
    assert query(table) == before
    # later days go on: absent on the day that was the last, key 1 ends there, and begins again after it
    eleventh = inbox.load(spec, HEADER + "1,a,1\n", path="11", day=day(11)).load_id
    assert query(table) == before
    corrected = inbox.load(spec, HEADER + "3,c,1\n", path="9", day=day(9)).load_id
    assert query(table) == [
        (1, day(0), day(9), *before[0][3:]),
        (1, day(11), None, eleventh, 1),
        before[1],
        (3, day(9), day(11), corrected, 1),
    ]
    taken_out(inbox, spec, corrected)
    assert query(table) == before


@pytest.mark.parametrize(
    ("disposition", "words"),
    [
        ({"write_disposition": "merge"}, "importer load --force"),
        ({"write_disposition": "scd2"}, "importer load --force"),
        ({"write_disposition": "scd2", "scd2": {"absent": "close"}}, "give the type a new name"),
    ],
)
def test_what_was_held_until_its_place_was_gone_is_not_released(
    inbox: Inbox, query: Query, disposition: dict, words: str
) -> None:
    spec = make_spec(key=["id"], **disposition, gate={"rows": {"least": 2, "action": "hold"}})
    for n in (0, 2, 3, 4):
        inbox.load(spec, HEADER + f"1,{n},1\n2,as ever,1\n", path=str(n), day=day(n))
    late = inbox.load(spec, HEADER + "1,late,1\n", path="1", day=day(1))
    assert late.status == "held"
    let_time_pass(inbox.warehouse)
    assert prune(inbox, spec, on=50, keep=replace(FOR_EVER, history=20))[
        "replaced rows of keys (merge, scd2)"
    ]
    before = everything(query)

    def release(**options) -> operations_release.Decided:
        return operations_release.release(
            late.load_id,
            {spec.name: spec},
            warehouse=inbox.warehouse,
            has_tenant=lambda _: True,
            **options,
        )

    for dry_run in (True, False):
        with pytest.raises(UsageError, match=f"cannot be released: .*{words}"):
            release(dry_run=dry_run)
    assert everything(query) == before
    operations_release.refuse(late.load_id, warehouse=inbox.warehouse)  # the way out
    assert query("SELECT status FROM importer.loads WHERE load_id = %s", late.load_id) == [("refused",)]


def test_history_goes_in_few_steps(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="merge")
    for n in range(5):
        inbox.load(spec, HEADER + "1,a,1\n", path=str(n), day=day(n))
    let_time_pass(inbox.warehouse)
    keep = replace(FOR_EVER, history=100)
    assert prune(inbox, spec, on=109, keep=keep) == {}
    assert prune(inbox, spec, on=111, keep=keep) == {"replaced rows of keys (merge, scd2)": 2}


# --- the ledger ------------------------------------------------------------------------------------------


def statuses(query: Query) -> list[tuple]:
    return query("SELECT load_id, status FROM importer.loads ORDER BY 1")


def test_ledger_rows_go_once_nothing_goes_by_them(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="merge")
    refused = [inbox.load(spec, "x\n1\n", path="p", day=day(1)).load_id for _ in range(3)]
    loads = [inbox.load(spec, HEADER + f"1,{v},1\n", path="p", day=day(1)).load_id for v in "abcd"]
    waits = [inbox.load(spec, "x\n1\n", path="q", day=day(1)).load_id for _ in range(3)]
    let_time_pass(inbox.warehouse)
    keep = replace(FOR_EVER, replaced=30, loads=60)
    status = query("SELECT * FROM importer.status")
    assert prune(inbox, spec, on=59, keep=keep) == {"rows of files that were sent again": 3}
    assert prune(inbox, spec, on=70, keep=keep) == {"ledger rows": 7}
    # the one in force, the one before it, and the last word on the file that is refused
    assert [i for i, _ in statuses(query)] == [*loads[2:], waits[2]]
    assert query("SELECT DISTINCT load_id FROM importer.reject_records") == [(waits[2],)]
    assert query("SELECT count(*) FROM importer.drift WHERE load_id = ANY(%s)", refused) == [(0,)]
    after = query("SELECT * FROM importer.status")
    assert [r[:10] for r in after] == [(*r[:9], 1) for r in status]  # refused once, not three times
    assert "cannot be restored" in taken_out(inbox, spec, loads[3]).note


def test_a_persons_word_is_never_forgotten(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], gate={"rows": {"least": 2, "action": "hold"}})
    content = HEADER + "1,a,1\n"
    waiting = inbox.load(spec, content, path="w", day=day(1))
    dropped = inbox.load(spec, content, path="d", day=day(1))
    operations_release.refuse(dropped.load_id, warehouse=inbox.warehouse, by="ann", why="cut off")
    inbox.load(spec, HEADER + "1,a,1\n2,b,1\n", path="d", day=day(1))
    let_time_pass(inbox.warehouse)
    everywhere = Keep(*[1] * len(fields(Keep)))
    prune(inbox, spec, on=900, keep=everywhere)
    assert query(f"SELECT count(*) FROM importer_held.things_{waiting.load_id}") == [(1,)]
    assert inbox.load(spec, content, path="w", day=day(1)).load_id == waiting.load_id
    again = inbox.load(spec, content, path="d", day=day(1))
    assert (again.status, again.load_id) == ("refused", dropped.load_id)
    with inbox.warehouse.connect() as conn:  # a table that somebody's meddling left behind
        conn.execute("CREATE TABLE importer_held.things_12345 (id int)")
        conn.commit()
    assert prune(inbox, spec, on=900, keep=everywhere) == {"tables of loads that are not held any more": 1}
    assert query("SELECT tablename FROM pg_tables WHERE schemaname = 'importer_held'") == [
        (f"things_{waiting.load_id}",)
    ]


def test_rejects_go_and_their_number_stays(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"])
    old = inbox.load(spec, HEADER + "x,a,y\n1,a,1\n", path="1", day=day(1))
    new = inbox.load(spec, HEADER + "x,a,y\n", path="50", day=day(50))
    let_time_pass(inbox.warehouse)
    keep = replace(FOR_EVER, rejects=30)
    assert prune(inbox, spec, on=60, keep=keep) == {"rejects, by load": 1}
    assert query("SELECT DISTINCT load_id FROM importer.rejects") == [(new.load_id,)]
    assert query(
        "SELECT rows_rejected, rejects_pruned_at IS NOT NULL FROM importer.loads WHERE load_id = %s",
        old.load_id,
    ) == [(1, True)]
    assert inbox.load(spec, HEADER + "x,a,y\n1,a,1\n", path="1", day=day(1)).status == "unchanged"


def test_of_drift_the_first_and_the_last_stay(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"])
    for n in range(6):
        inbox.load(spec, "id,v,n,more\n1,a,1,new\n", path=str(n), day=day(n))
    let_time_pass(inbox.warehouse)
    seen = "SELECT (business_date - '2024-01-01')::int, profile ? 'values' FROM importer.drift JOIN importer.loads USING (load_id) ORDER BY 1"
    assert prune(inbox, spec, on=40, keep=replace(FOR_EVER, profiles=30)) == {"samples of values": 5}
    assert query(seen) == [(n, n == 5) for n in range(6)]
    assert prune(inbox, spec, on=40, keep=replace(FOR_EVER, drift=30)) == {"drift events": 4}
    assert query(seen) == [(0, False), (5, True)]


def test_reports_of_missing_files_go(inbox: Inbox, query: Query) -> None:
    with inbox.warehouse.connect() as conn:
        conn.cursor().executemany(
            "INSERT INTO importer.missing VALUES ('things', 'acme', %s, %s, %s, 'late')",
            [(day(n), noon(n), noon(n)) for n in (1, 50)],
        )
        conn.commit()
    assert prune(inbox, on=70, keep=replace(FOR_EVER, loads=30)) == {"reports of missing files": 1}
    assert query("SELECT business_date FROM importer.missing") == [(day(50),)]


def test_whoever_deletes_holds_a_slot(inbox: Inbox, query: Query) -> None:
    """Laws of the cap hold for retention too: with no slot free it waits, and deletes nothing."""
    spec = make_spec(key=["id"])
    inbox.load(spec, HEADER + "x,a,y\n", path="1", day=day(1))
    let_time_pass(inbox.warehouse)
    one = Warehouse(inbox.warehouse.url, db_writes=1)
    keep = replace(FOR_EVER, rejects=30)
    with one.writing("other", "acme"):
        waiting = threading.Thread(
            target=retention.prune, args=(one, {}, keep), kwargs={"has_tenant": bool, "now": noon(60)}
        )
        waiting.start()
        time.sleep(2)
        assert query("SELECT count(*) FROM importer.reject_records") == [(1,)]
    waiting.join(30)
    assert query("SELECT count(*) FROM importer.reject_records") == [(0,)]


# --- nothing grows -----------------------------------------------------------------------------------------


def test_after_many_days_the_sizes_are_flat(inbox: Inbox, query: Query) -> None:
    """Every day the same: a full copy, changes, a file sent again, a bad file, a drifted one, one refused."""
    more = {"gate": {"rows": {"least": 1}}}
    specs = [
        make_spec("copy", key=["id"], write_disposition="replace", **more),
        make_spec("change", key=["id"], write_disposition="merge", **more),
        make_spec("version", key=["id"], write_disposition="scd2", **more),
        make_spec("closed", key=["id"], write_disposition="scd2", scd2={"absent": "close"}, **more),
        make_spec("event", write_disposition="append", **more),
    ]
    keep = Keep(4, copies=4, history=4, loads=6, done=8, rejects=4, drift=4, profiles=2, runs=4, files=4)
    gone: set[str] = set()

    def one_day(n: int) -> None:
        for spec in specs:
            path = f"{n}.csv"
            inbox.load(spec, "nothing\n", path=path, day=day(n))
            inbox.load(spec, HEADER + "1,first,1\nx,bad,1\n", path=path, day=day(n))
            inbox.load(spec, f"id,v,n,more\n1,same,1,m\n2,{n % 2},1,m\nx,bad,y,m\n", path=path, day=day(n))
            inbox.load(spec, "nothing\n", path=f"{n}-bad.csv", day=day(n))
        with inbox.warehouse.connect() as conn:
            conn.execute(
                "UPDATE importer.loads SET finished_at = %s WHERE business_date = %s", (noon(n), day(n))
            )
            conn.commit()
        planned = prune(inbox, *specs, on=n + 1, keep=keep, dry_run=True)
        assert prune(inbox, *specs, on=n + 1, keep=keep) == planned
        gone.update(planned)

    def sizes() -> dict[str, int]:
        found = query(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname ~ '^importer'"
        )
        return {t: query(f"SELECT count(*) FROM {t}")[0][0] for (t,) in found}

    def ledger_rows() -> dict[str, int]:
        return dict(query("SELECT type, count(*) FROM importer.loads GROUP BY 1"))

    for n in range(12):  # the longest period that is kept is 8 days
        one_day(n)
    half, ledger_half = sizes(), ledger_rows()
    for n in range(12, 20):
        one_day(n)
    whole, ledger_whole = sizes(), ledger_rows()
    grown = {name: ledger_whole[name] - rows for name, rows in ledger_half.items()}
    # where each delivery has rows in the table that BI reads, the ledger has its row, and one for what was replaced
    assert grown == {"copy": 0, "change": 0, "version": 8 * 2, "closed": 8 * 2, "event": 8 * 2}
    assert whole.pop("importer.loads") - half.pop("importer.loads") == sum(grown.values())
    assert whole == half
    assert {"ledger rows of days that are done", "ledger rows", "replaced rows of keys (merge, scd2)"} <= gone


def test_what_is_done_goes_when_no_row_stands_any_more(inbox: Inbox, query: Query) -> None:
    spec = make_spec(key=["id"], write_disposition="merge")
    for n in range(6):  # key 1 is of the first day for ever, key 2 of the last
        inbox.load(spec, HEADER + f"1,a,1\n2,{n},1\n", path=f"{n}", day=day(n))
    let_time_pass(inbox.warehouse)
    keep = replace(FOR_EVER, history=20, done=60)
    assert prune(inbox, spec, on=50, keep=keep) == {"replaced rows of keys (merge, scd2)": 4 + 3}
    assert prune(inbox, spec, on=59, keep=keep) == {}
    planned = prune(inbox, spec, on=90, keep=keep, dry_run=True)
    assert planned == {"ledger rows of days that are done": 3}
    assert prune(inbox, spec, on=90, keep=keep) == planned
    # the first, whose row stands, the horizon, and the last
    assert query("SELECT business_date FROM importer.loads ORDER BY 1") == [(day(n),) for n in (0, 4, 5)]

    table = query("SELECT id, v FROM things ORDER BY 1")
    assert inbox.load(spec, HEADER + "1,a,1\n2,5,1\n", path="5", day=day(5)).status == "unchanged"
    again = inbox.load(spec, HEADER + "1,a,1\n2,2,1\n", path="2", day=day(2))  # known once, and forgotten
    assert again.status == "refused" and "cannot be told exactly" in str(again.reason)
    assert query("SELECT id, v FROM things ORDER BY 1") == table
    assert inbox.load(spec, HEADER + "2,9,1\n", path="6", day=day(6)).status == "loaded"


def test_days_that_the_schedule_looks_at_are_not_forgotten() -> None:
    with pytest.raises(UsageError, match="IMPORTER_KEEP_DONE is 14; it must be more than"):
        Keep.from_env({"IMPORTER_KEEP_DONE": "14"})
    assert Keep.from_env({"IMPORTER_KEEP_DONE": "15"}).done == 15
    assert Keep.from_env({"IMPORTER_KEEP_DONE": "0", "IMPORTER_LOOKBACK_DAYS": "5000"}).done == 0
