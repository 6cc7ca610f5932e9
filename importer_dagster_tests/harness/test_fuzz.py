"""A short run of the fuzzer, and that it finds a fault that is put in."""

import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.files import make
from fuzz.oracle import check

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(12))
def test_what_must_hold_of_every_file(seed: int) -> None:
    check(make(seed))


def test_the_oracle_sees_a_lost_record(monkeypatch: pytest.MonkeyPatch) -> None:
    from importer_dagster.reader.reader import Reader

    whole = Reader.batches
    monkeypatch.setattr(Reader, "batches", lambda self: (b for i, b in enumerate(whole(self)) if i))
    found = 0
    for seed in range(100, 115):
        try:
            check(make(seed))
        except AssertionError:
            found += 1
    assert found > 3


def test_the_command_stops_by_itself_and_reports(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "--minutes", "0.05", "--no-big", "--out", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no crash, hang, or memory: all held" in done.stdout
