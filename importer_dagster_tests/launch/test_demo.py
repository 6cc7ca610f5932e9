"""``importer demo``, as a new user runs it: everything that it writes is imported."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from importer_dagster.settings import SHIPPED_SPECS

TYPES = ("currency", "salestaxrate", "salesreason")


@pytest.fixture
def home() -> Iterator[Path]:
    """Not below pytest's own folder, to which the user that the server runs as may not have the way."""
    with tempfile.TemporaryDirectory(prefix="importer-demo-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("pattern", [None, "drop/{tenant}/{type}_{date:%Y%m%d}*.csv"])
def test_every_file_is_imported_wherever_the_project_expects_files(home: Path, pattern: str | None) -> None:
    specs = home / "specs"
    specs.mkdir()
    for name in TYPES:
        shutil.copy(next(SHIPPED_SPECS.rglob(f"{name}.yaml")), specs)
    env = {**os.environ, "IMPORTER_HOME": str(home), "IMPORTER_SPECS": str(specs)}
    if pattern:
        env["IMPORTER_PATH_PATTERN"] = pattern
    command = [sys.executable, "-m", "importer_dagster.cli", "demo"]
    done = subprocess.run(
        [*command, "--days", "1", "--tenants", "2", "--rows", "10"],
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = [f for f in (home / "inbox").rglob("*") if f.is_file()]
    files, loaded = re.findall(r"(\d+) files, (\d+) rows loaded", done.stdout)[0]
    assert int(files) == len(written) + done.stdout.count("sent again, corrected")
    assert int(loaded) > 10 * len(TYPES)
