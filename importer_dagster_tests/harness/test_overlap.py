"""``make overlap`` in its short form: one contest, in which all four wait for a slot."""

import pytest

from reliability.overlap import run


@pytest.mark.timeout(900)
def test_who_wants_the_same_at_the_same_time_gets_it_once(_clean_environment: None) -> None:
    said: list[str] = []
    [verdict], words = run(1, 1, say=said.append)
    assert verdict.faults == [], said
    assert verdict.winner in ("schedule", "backfill", "UI", "person")
    assert verdict.unchanged + verdict.settled == 3
    assert verdict.in_line >= 2, "no two of them had to wait for the same slot"
    assert "| 1 from one line |" in words
