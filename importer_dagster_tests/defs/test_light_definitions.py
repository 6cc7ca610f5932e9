"""Definitions stay light: every process of Dagster loads them, and only steps need what reads and validates."""

import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from importer_dagster.defs.schedule import PRELOAD
from importer_dagster.settings import SHIPPED_SPECS
from importer_dagster.spec.loading import load_specs

ROOT = Path(__file__).parents[2]
HEAVY = {"pandas", "pandera", "pyarrow", "numpy", "pgpq", "sqlalchemy", "psycopg", "psycopg2", "fsspec"}
# CPU of the definitions of the shipped types over that of importing Dagster: 0.4 to 0.5 when this was
# written, 1.5 when pandas, Pandera and Arrow came with them.
MOST = 0.85


def output(code: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    return done.stdout.split()


def new_modules(before: Sequence[str], *then: str) -> set[str]:
    """What all of ``then`` import in a fresh process that has imported ``before``."""
    code = (
        "import importlib, sys\n"
        "before, then = (words.split() for words in sys.argv[1:])\n"
        "for name in before: importlib.import_module(name)\n"
        "had = set(sys.modules)\n"
        "for name in then: importlib.import_module(name)\n"
        "print(*set(sys.modules) - had)"
    )
    return set(output(code, " ".join(before), " ".join(then)))


def test_definitions_bring_nothing_that_reads_validates_or_connects() -> None:
    found = new_modules(["dagster"], "importer_dagster.definitions")
    assert "importer_dagster.spec.table" in found
    assert found & HEAVY == set()


def test_that_would_be_seen() -> None:
    """The same look at what a step imports finds all of it."""
    found = new_modules(["dagster", "importer_dagster.definitions"], "importer_dagster.pipeline.delivery")
    assert found & HEAVY == HEAVY - {"psycopg2"}


def test_steps_are_forked_from_a_process_that_has_what_they_import() -> None:
    needed = (
        "defs.step",
        "defs.metadata",
        "defs.run_recovery",
        "defs.storage",
        "pipeline.delivery",
        "pipeline.unchanged_files",
        "pipeline.small_files",
    )
    assert new_modules(PRELOAD, *(f"importer_dagster.{name}" for name in needed)) == set()


def test_what_is_imported_before_it_is_asked_for_is_still_there() -> None:
    """In the process that steps are forked from; a release may have it elsewhere."""
    found = output(
        "import importlib.util, importer_dagster.launch.preload as warm\n"
        "print(*(name for name in warm.LATE if not importlib.util.find_spec(name)), 'end')"
    )
    assert found == ["end"]


def test_definitions_take_less_cpu_than_dagster_itself() -> None:
    code = (
        "import time\n"
        "a = time.process_time()\n"
        "import dagster\n"
        "b = time.process_time()\n"
        "from importer_dagster.definitions import defs\n"
        "assets = len(list(defs.resolve_all_asset_specs()))\n"
        "print(assets, (time.process_time() - b) / (b - a))"
    )
    runs = [output(code) for _ in range(3)]
    assert {int(assets) for assets, _ in runs} == {len(load_specs(SHIPPED_SPECS)) + 1}
    found = statistics.median(float(ratio) for _, ratio in runs)
    assert found <= MOST, f"{found:.2f} × the CPU of importing Dagster"
