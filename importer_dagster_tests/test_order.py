"""Law 3: whatever the order of loading, the tables end the same; and they are what a plain model says."""

import datetime
import multiprocessing
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from conftest import DAY, Inbox, Query, database, make_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from importer_dagster.errors import UsageError
from importer_dagster.operations import unload as operations_unload
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer import unchanged_filter

KEYS, VALUES, DAYS = range(5), "abc", range(4)
KINDS = ["append", "replace", "merge", "scd2 keep", "scd2 close"]

Rows = list[tuple[int, str]]  # as in the file: a key may come twice
Place = tuple[int, str]  # day and path; a path stands for one day's file

contents = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=5)
places = st.tuples(st.sampled_from(DAYS), st.sampled_from("pq"))
# what is sent, in the order of sending: the last content of a path counts
sendings = st.lists(st.tuples(places, contents), min_size=1, max_size=8)


def spec_of(kind: str) -> TableSpec:
    disposition, _, absent = kind.partition(" ")
    more = {"scd2": {"absent": absent}} if absent else {}
    more["gate"] = {"empty": "load"}
    fields = [{"name": "id", "type": "integer"}, {"name": "v"}]
    return make_spec(
        name=kind.replace(" ", "_"), fields=fields, key=["id"], write_disposition=disposition, **more
    )


# --- the model: plain Python, day after day ---------------------------------------------------


def accepted(rows: Rows) -> dict[int, str]:
    """Of rows with the same key the first stands."""
    return dict(reversed(rows))


def model(kind: str, in_force: dict[Place, Rows]) -> list[tuple]:
    """(id, value, day of the delivery that began it; for scd2 the day it ends) of every row of the table."""
    days: dict[int, list[dict[int, str]]] = {}
    for (day, _), rows in sorted(in_force.items()):
        days.setdefault(day, []).append(accepted(rows))
    if kind == "append":
        return sorted((k, v, day) for day, files in days.items() for rows in files for k, v in rows.items())
    if kind == "replace":
        newest = max(days, default=None)
        merged = {k: v for rows in days.get(newest, []) for k, v in rows.items()}
        return sorted((k, v, newest) for k, v in merged.items())
    if kind == "merge":
        return model_of_merge(days)
    return model_of_history(days, closes=kind == "scd2 close")


def model_of_merge(days: dict[int, list[dict[int, str]]]) -> list[tuple]:
    state: dict[int, tuple[str, int]] = {}
    for day, files in days.items():
        for k, v in ((k, v) for rows in files for k, v in rows.items()):
            if k not in state or state[k][0] != v:
                state[k] = (v, day)
    return sorted((k, v, day) for k, (v, day) in state.items())


def model_of_history(days: dict[int, list[dict[int, str]]], *, closes: bool) -> list[tuple]:
    ended: list[tuple] = []
    current: dict[int, tuple[str, int]] = {}
    for day, files in days.items():
        said = {k: v for rows in files for k, v in rows.items()}
        for k in list(current):
            if (k in said and said[k] != current[k][0]) or (k not in said and closes):
                ended.append((k, *current.pop(k), day))
        for k, v in said.items():
            current.setdefault(k, (v, day))
    return sorted(ended + [(k, v, day, None) for k, (v, day) in current.items()], key=str)


# --- playing it to the importer -----------------------------------------------------------------


class Tenant:
    """One tenant of a warehouse that others use too, and what it should hold: path → its loads, in order."""

    def __init__(self, folder: Path, warehouse: Warehouse, kind: str) -> None:
        self.name = uuid.uuid4().hex
        self.inbox = Inbox(folder / self.name, warehouse)
        self.kind, self.spec = kind, spec_of(kind)
        self.loads: dict[Place, list[tuple[int, Rows]]] = {}

    def load(self, place: Place, rows: Rows) -> None:
        """Send a file; the same content again must change nothing."""
        result = send(self.inbox, self.spec, self.name, place, rows)
        stack = self.loads.setdefault(place, [])
        if stack and stack[-1][1] == rows:
            assert (result.status, result.load_id) == ("unchanged", stack[-1][0])
        else:
            assert result.status == "loaded"
            stack.append((result.load_id, rows))

    def unload(self, load_id: int) -> None:
        """Take one out, in force or not; a second time there is nothing to take out."""
        place = next(p for p, stack in self.loads.items() if any(i == load_id for i, _ in stack))
        self.loads[place] = [(i, rows) for i, rows in self.loads[place] if i != load_id]
        args = (load_id, {self.spec.name: self.spec})
        options = {"warehouse": self.inbox.warehouse, "has_tenant": lambda _: True}
        foreseen = operations_unload.unload(*args, **options, dry_run=True)
        done = operations_unload.unload(*args, **options)
        assert done == foreseen
        assert done.after - done.before == done.changes.back - done.changes.gone
        with pytest.raises(UsageError, match="is unloaded"):
            operations_unload.unload(*args, **options)

    def check(self) -> None:
        """The table is the model's, and every accepted row of every load is kept exactly once."""
        in_force = {place: stack[-1][1] for place, stack in self.loads.items() if stack}
        ends = ", _valid_to" if "scd2" in self.kind else ""
        with self.inbox.warehouse.connect() as conn:
            found = conn.execute(
                f"SELECT id, v, _business_date{ends} FROM {self.spec.name} WHERE _tenant = %s", (self.name,)
            ).fetchall()
            rows = [(*r[:2], *((d - DAY).days if d else None for d in r[2:])) for r in found]
            assert sorted(rows, key=str) == sorted(model(self.kind, in_force), key=str)
            self._check_conservation(conn)

    def _check_conservation(self, conn) -> None:
        name = self.spec.name
        parts = [f"SELECT _load_id, _row FROM {t}" for t in (name, f"importer_superseded.{name}")]
        if self.kind not in ("append", "replace"):
            parts.append(f"SELECT _load_id, _block + r FROM importer_repeats.{name}, unnest(_row) AS r")
        union = " UNION ALL ".join(f"{part} WHERE _tenant = %(t)s" for part in parts)
        kept = conn.execute(
            f"""SELECT l.load_id, count(r._row), count(DISTINCT r._row)
                FROM importer.loads l LEFT JOIN ({union}) r ON r._load_id = l.load_id
                WHERE l.tenant = %(t)s GROUP BY 1""",
            {"t": self.name},
        ).fetchall()
        expected = {i: len(accepted(rows)) for stack in self.loads.values() for i, rows in stack}
        assert {i: (n, d) for i, n, d in kept if n or i in expected} == {
            i: (n, n) for i, n in expected.items()
        }


def send(inbox: Inbox, spec: TableSpec, tenant: str, place: Place, rows: Rows):
    day, letter = place
    content = "id,v\n" + "".join(f"{k},{v}\n" for k, v in rows)
    when = DAY + datetime.timedelta(days=day)
    return inbox.load(spec, content, path=f"{day}{letter}.csv", day=when, tenant=tenant)


@pytest.fixture(scope="module")
def shared_warehouse(server, _template: str) -> Iterator[Warehouse]:
    """One database for many examples: each has a tenant of its own."""
    with database(server, _template) as url:
        yield Warehouse(url)


@pytest.fixture
def sifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches are asked for what is unchanged, too."""
    monkeypatch.setattr(unchanged_filter, "LEAST", 1)


@pytest.mark.usefixtures("sifted")
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=sendings, shuffle=st.randoms(use_true_random=False), undone=st.integers(0, 3))
def test_any_order_ends_in_the_model(
    shared_warehouse, tmp_path, kind: str, sent: list, shuffle: random.Random, undone: int
) -> None:
    tenant = Tenant(tmp_path, shared_warehouse, kind)
    for place, rows in shuffled(sent, shuffle):
        tenant.load(place, rows)
    tenant.check()
    for _ in range(undone):
        every = sorted(i for stack in tenant.loads.values() for i, _ in stack)
        if every:
            tenant.unload(shuffle.choice(every))
            tenant.check()
    for place, stack in list(tenant.loads.items()):
        if not stack:  # what was taken out comes in again when it is sent again
            tenant.load(place, [(1, "c")])
    tenant.check()


def shuffled(sent: list[tuple[Place, Rows]], shuffle: random.Random) -> list[tuple[Place, Rows]]:
    """Random order of paths (each path's own contents stay in order), with random repeats."""
    queues: dict[Place, list[Rows]] = {}
    for place, rows in sent:
        queues.setdefault(place, []).append(rows)
    order = []
    while queues:
        place = shuffle.choice(sorted(queues))
        rows = queues[place].pop(0)
        if not queues[place]:
            del queues[place]
        order += [(place, rows)] * shuffle.choice([1, 1, 2])
    return order


# --- a month, several processes at once ----------------------------------------------------------


def a_month(rng: random.Random) -> dict[Place, list[Rows]]:
    """Path → the contents it was sent with, one after the other."""
    places = [(day, "p") for day in range(31)] + [(day, "q") for day in rng.sample(range(31), 6)]
    return {place: [some_rows(rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))] for place in places}


def some_rows(rng: random.Random) -> Rows:
    return [(rng.randrange(12), rng.choice(VALUES)) for _ in range(rng.randrange(1, 12))]


def play_path(url: str, folder: Path, kind: str, tenant: str, place: Place, sent: list[Rows]) -> list:
    """In a process of its own: the contents of one path in their order, each again now and then."""
    inbox = Inbox(folder / uuid.uuid4().hex, Warehouse(url))
    loaded = []
    for rows in sent:
        results = [send(inbox, spec_of(kind), tenant, place, rows) for _ in range(random.choice([1, 2]))]
        loaded += [(r.load_id, rows) for r in results if r.status == "loaded"]
    return loaded


@pytest.mark.parametrize("kind", KINDS)
def test_a_month_at_once_from_several_processes(shared_warehouse, processes, tmp_path, kind: str) -> None:
    rng = random.Random(f"a month of {kind}")
    tenant = Tenant(tmp_path, shared_warehouse, kind)
    month = a_month(rng)
    tasks = [place for place, sent in month.items() for _ in range(2 if len(sent) == 1 else 1)]
    rng.shuffle(tasks)  # a path with one content comes twice: the two may meet
    args = (shared_warehouse.url, tmp_path, kind, tenant.name)
    played = [(place, processes.submit(play_path, *args, place, month[place])) for place in tasks]
    for place, future in played:
        tenant.loads.setdefault(place, []).extend(future.result())
    assert all(tenant.loads.values())
    tenant.check()
    for load_id in rng.sample(sorted(i for stack in tenant.loads.values() for i, _ in stack), 5):
        tenant.unload(load_id)
    tenant.check()


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("disposition", ["merge", "scd2"])
def test_what_postgresql_calls_equal_is_a_change_in_any_order(
    warehouse: Warehouse, tmp_path: Path, query: Query, disposition: str
) -> None:
    fields = [
        {"name": "id", "type": "integer"},
        {"name": "d", "type": "number", "format": "double"},
        {"name": "j", "type": "object"},
    ]
    days = [("0", '{"a": 1.0}'), ("-0", '{"a": 1.0}'), ("-0", '{"a": 1.00}')]
    found = []
    for name, order in (("early", (0, 1, 2)), ("late", (2, 1, 0))):
        spec = make_spec(name, fields, key=["id"], write_disposition=disposition)
        inbox = Inbox(tmp_path, warehouse)
        for n in order:
            text = 'id,d,j\n1,{},"{}"\n'.format(days[n][0], days[n][1].replace('"', '""'))
            inbox.load(spec, text, path=f"{name}{n}.csv", day=DAY + datetime.timedelta(days=n))
        found.append(query(f"SELECT d::text, j::text, _business_date FROM {name} ORDER BY _business_date"))
    assert found[0] == found[1]
    assert found[0][-1] == ("-0", '{"a": 1.00}', DAY + datetime.timedelta(days=2))
