"""``make crash`` in its short form: one kill at every step, and that its own checks can fail."""

import json
from collections.abc import Iterator

import pytest

from reliability import orchestrated
from reliability.crash import STEPS, TOGETHER, VICTIMS, Case, Crash, cases, report
from reliability.server import OwnServer, own_server
from reliability.state import differences, remains, slots_held, state
from reliability.work import variants


@pytest.fixture(scope="module")
def own(_clean_environment: None) -> Iterator[OwnServer]:
    with own_server() as server:
        yield server


@pytest.fixture(scope="module")
def crash(own: OwnServer) -> Crash:
    return Crash(own, seed=1)


_VARIANTS = list(variants())


@pytest.mark.parametrize(
    ("step", "variant"),
    # a plain append has no step called stage; each disposition has its turn
    [(step, _VARIANTS[1:][n % len(_VARIANTS[1:])]) for n, step in enumerate(STEPS)]
    + [("copy", "append")]
    + [(step, TOGETHER) for step in ("ddl", "copy", "ledger", "commit", "done")],
)
def test_a_killed_process(crash: Crash, step: str, variant: str) -> None:
    scenario = "first" if step in ("migrate", "ddl") else "new" if variant == TOGETHER else "resent"
    verdict = crash.kill_one(Case("process", step, variant, scenario))
    assert verdict.faults == []
    assert verdict.reached or step == "random"  # the import may end before the kill
    assert verdict.slot_s < 30


@pytest.mark.parametrize(
    ("victim", "step"), [("backend", "published"), ("server", "copy"), ("immediate", "commit")]
)
def test_a_killed_server(crash: Crash, victim: str, step: str) -> None:
    verdict = crash.kill_one(Case(victim, step, "merge", "late"))
    assert (verdict.faults, verdict.reached) == ([], True)
    assert verdict.exit_code == 0  # the import waited for the server and went on by itself


def test_every_victim_step_and_disposition_has_its_turn() -> None:
    chosen = list(cases(1000, 1, list(VICTIMS), _VARIANTS, list(STEPS)))
    assert len(chosen) == 1000
    seen = {(c.victim, c.step, c.variant) for c in chosen}
    assert len(seen) == len(VICTIMS) * len(STEPS) * len(_VARIANTS) - len(VICTIMS)
    assert "| **all** | 0 | 0 | 0 |" in report([])


def test_a_difference_is_found(own: OwnServer, crash: Crash) -> None:
    crash.expected("merge", "new", "begin")
    template = crash._template("merge", "begin")
    own.clone("tampered", template)
    with own.connect("tampered") as conn:
        before = state(conn)
        assert differences(before, state(conn)) == []
        conn.execute("UPDATE things SET v = 'tampered' WHERE ctid = (SELECT min(ctid) FROM things)")
        assert any("tampered" in line for line in differences(before, state(conn)))
        conn.execute("DELETE FROM things WHERE v = 'tampered'")
        [first, *_] = differences(before, state(conn))
        assert first.startswith("public.things: ")
        before = state(conn)
        conn.execute("UPDATE importer.loads SET rows_read = rows_read + 1, rows_skipped = rows_skipped + 1")
        assert [json.loads(line)["rows_read"] for line in state(conn)["importer.loads"]] == [301, 301]
        assert differences(before, state(conn))
    own.drop("tampered")


def test_what_is_left_behind_is_found(own: OwnServer) -> None:
    own.clone("littered", "template1")
    with own.connect("littered") as conn, own.connect("littered") as other:
        assert remains(conn) == []
        other.execute("SET application_name = 'importer'")
        other.execute("SELECT pg_advisory_lock(1, 1)")
        other.execute("CREATE TEMP TABLE importer_stage (a int)")
        assert slots_held(conn) == 1
        assert remains(conn) == [
            "1 sessions", "1 advisory locks", "1 temporary tables", "1 stages outside of a transaction",
        ]  # fmt: skip
    own.drop("littered")


def test_a_killed_command_below_dagster(_clean_environment: None) -> None:
    [verdict] = orchestrated.run(1, ["command"], ["commit"], say=lambda _: None)
    assert verdict.faults == []
    assert "| command | commit | 1 | 1 | 0 |" in orchestrated.report([verdict])
