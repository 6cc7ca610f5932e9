"""Law 3: whatever the order of loading, the tables end the same; and they are what a plain model says."""

import datetime
import multiprocessing
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from importer_dagster.warehouse import Warehouse
from importer_dagster.writer import unchanged_filter
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, make_spec
from importer_dagster_tests.helpers.order_model import (
    DAYS,
    KEYS,
    KINDS,
    VALUES,
    Place,
    Rows,
    Tenant,
    send,
    spec_of,
)

contents = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=5)
places = st.tuples(st.sampled_from(DAYS), st.sampled_from("pq"))
# what is sent, in the order of sending: the last content of a path counts
sendings = st.lists(st.tuples(places, contents), min_size=1, max_size=8)


# --- the model: plain Python, day after day ---------------------------------------------------


# --- playing it to the importer -----------------------------------------------------------------


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
