"""``make flood`` in its short form: a daemon's schedule, a webserver and commands, all at once."""

import pytest

from reliability.flood_runs import Size, report, run

SHORT = Size(scheduled=1, ui=1, job_backfills=1, commands=1, people=1, rows=200, settle_s=3, held_s=3)


@pytest.mark.timeout(600)
def test_runs_of_every_origin_keep_to_the_cap(_clean_environment: None) -> None:
    said: list[str] = []
    [verdict] = run([1], SHORT, say=said.append)
    assert verdict.faults == [], said
    assert {"schedule", "UI", "job backfill", "command"} <= set(verdict.runs)
    assert verdict.seen.writers == verdict.seen.slots == 1
    assert verdict.statements > 24, "each writing statement asks whether its session holds a slot"
    assert max(verdict.waiting.run_cpu, verdict.waiting.step_cpu) < 0.25, "a busy wait takes 0.65 and more"
    assert verdict.waiting.steps <= 2, "the steps that wait are rows of the pool, not processes"
    assert verdict.rows_in == verdict.rows_out == 4 * 2 * 3 * 200
    assert "| 1 |" in report([verdict])
