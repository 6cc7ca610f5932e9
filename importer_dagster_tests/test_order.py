"""Law 3: whatever the order of loading, the tables end the same; and they are what a plain model says."""

import datetime
import random
import uuid

import psycopg
import pytest
from conftest import DAY, Inbox, admin, make_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from importer_dagster import undo
from importer_dagster.warehouse import Warehouse

KEYS, VALUES, DAYS = range(5), "abc", range(4)

# path → (day, {key: value}); a path stands for one day's file
content = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=4)
path = st.tuples(st.sampled_from(DAYS), st.sampled_from("pq"))
# what is sent, in the order of sending: the last content of a path counts
sendings = st.lists(st.tuples(path, content), min_size=1, max_size=8)


def write(rows: dict[int, str]) -> str:
    return "id,v\n" + "".join(f"{k},{v}\n" for k, v in rows.items())


def model(disposition: str, latest: dict[tuple[int, str], dict[int, str]]) -> list[tuple[int, str, int]]:
    """(id, value, day of the delivery that first said so in an unbroken run) in plain Python."""
    ranked = sorted(latest.items())
    if disposition == "append":
        return sorted((k, v, day) for (day, _), rows in ranked for k, v in rows.items())
    if disposition == "replace":
        newest = max((day for day, _ in latest), default=None)
        winners = {k: (v, day) for (day, _), rows in ranked if day == newest for k, v in rows.items()}
        return sorted((k, v, day) for k, (v, day) in winners.items())
    state: dict[int, tuple[str, int]] = {}
    for (day, _), rows in ranked:
        for k, v in rows.items():
            if k not in state or state[k][0] != v:
                state[k] = (v, day)
    return sorted((k, v, day) for k, (v, day) in state.items())


@pytest.mark.parametrize("disposition", ["append", "replace", "merge"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=sendings, shuffle=st.randoms(use_true_random=False), take_out=st.booleans())
def test_any_order_ends_in_the_model(
    server, _template, tmp_path, disposition: str, sent: list, shuffle: random.Random, take_out: bool
) -> None:
    name = f"order_{uuid.uuid4().hex[:10]}"
    with admin(server) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {_template}")
    try:
        inbox = Inbox(tmp_path, Warehouse(server.url(name)))
        spec = make_spec(fields=[{"name": "id", "type": "integer"}, {"name": "v"}], key=["id"],
                         write_disposition=disposition)  # fmt: skip
        latest = play(inbox, spec, sent, shuffle)
        check(inbox, disposition, latest)
        if take_out:
            victim = shuffle.choice(sorted(latest))
            before = take_out_one(inbox, spec, victim)
            if before is None or disposition == "merge":
                latest.pop(victim)
            else:
                latest[victim] = before
            check(inbox, disposition, latest)
    finally:
        with admin(server) as conn:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def play(inbox: Inbox, spec, sent: list, shuffle: random.Random) -> dict:
    """Load in random order of paths (each path's own contents stay in order), with random repeats."""
    queues: dict = {}
    for where, rows in sent:
        queues.setdefault(where, []).append(rows)
    inbox.history = {}
    latest: dict = {}
    while queues:
        where = shuffle.choice(sorted(queues))
        rows = queues[where].pop(0)
        if not queues[where]:
            del queues[where]
        for _ in range(shuffle.choice([1, 1, 2])):
            result = load(inbox, spec, where, rows)
            assert result.status in ("loaded", "unchanged")
            if result.status == "loaded":
                inbox.history.setdefault(where, []).append(rows)
        latest[where] = rows
    return latest


def load(inbox: Inbox, spec, where: tuple[int, str], rows: dict):
    day, letter = where
    when = DAY + datetime.timedelta(days=day)
    return inbox.load(spec, write(rows), path=f"{day}{letter}.csv", day=when)


def take_out_one(inbox: Inbox, spec, where: tuple[int, str]) -> dict | None:
    """Unload what is in force for a path; return the content that it had replaced, if any."""
    with inbox.warehouse.connect() as conn:
        (load_id,) = conn.execute(
            "SELECT load_id FROM importer.loads WHERE path = %s AND superseded_by IS NULL",
            (f"{where[0]}{where[1]}.csv",),
        ).fetchone()
    undo.unload(load_id, {spec.name: spec}, warehouse=inbox.warehouse, has_tenant=lambda _: True)
    return inbox.history[where][-2] if len(inbox.history[where]) > 1 else None


def check(inbox: Inbox, disposition: str, latest: dict) -> None:
    with inbox.warehouse.connect() as conn:
        rows = conn.execute("SELECT id, v, _business_date FROM things").fetchall()
        assert sorted((k, v, (d - DAY).days) for k, v, d in rows) == model(disposition, latest)
        if disposition == "merge":
            every_accepted_row_is_there_once(conn)


def every_accepted_row_is_there_once(conn: psycopg.Connection) -> None:
    """Conservation over tables: each row of each load in force is a row or a repeat, exactly once."""
    found = conn.execute(
        """
        SELECT l.load_id, l.rows_read - l.rows_rejected, count(r._row)
        FROM importer.loads l
        LEFT JOIN (SELECT _load_id, _row FROM things
                   UNION ALL SELECT _load_id, _row FROM importer_superseded.things
                   UNION ALL SELECT _load_id, _row FROM importer_repeats.things) r ON r._load_id = l.load_id
        WHERE l.status = 'loaded' AND l.superseded_by IS NULL
        GROUP BY 1, 2
        """
    ).fetchall()
    assert [(i, n) for i, n, _ in found] == [(i, m) for i, _, m in found]
