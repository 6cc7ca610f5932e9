"""The main job on real input: 57 types through the Dagster job, then compared cell by cell.

The comparison reads the files with Python's csv module and shares no code with
the importer.
"""

import csv
import datetime
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from importer_dagster_tests.helpers.inbox import SHARED

FILES = sorted(f for f in (SHARED / "adventureworks").glob("*.csv") if not f.name.startswith("_"))
DAY = "2024-03-05"

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def imported(server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Lay the files out as an inbox, run the daily job for the day, return the warehouse's URL."""
    from importer_dagster_tests.helpers.inbox import admin

    home = tmp_path_factory.mktemp("adventureworks")
    inbox = home / "inbox" / DAY / "adventureworks"
    inbox.mkdir(parents=True)
    for file in FILES:
        shutil.copy(file, inbox)
    with admin(server) as conn:
        conn.execute("CREATE DATABASE adventureworks")
    url = server.url("adventureworks")
    env = {
        **os.environ,
        "IMPORTER_HOME": str(home),
        "IMPORTER_WAREHOUSE_URL": url,
        "IMPORTER_INBOX_URL": str(home / "inbox"),
    }
    importer = Path(sys.executable).with_name("importer")
    command = [str(importer), "backfill", "--from", DAY, "--to", DAY, *(f.stem for f in FILES)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return url


def test_every_record_is_loaded_or_rejected_for_a_true_reason(imported: str) -> None:
    with psycopg.connect(imported) as conn:
        loads = conn.execute(
            "SELECT type, status, rows_read, rows_loaded, rows_rejected FROM importer.loads"
        ).fetchall()
        rejects = conn.execute(
            'SELECT l.type, r."row", r.rule, r.value FROM importer.rejects r JOIN importer.loads l USING (load_id)'
        ).fetchall()
    expected = {f.stem: sum(1 for _ in records(f)) for f in FILES}
    assert len(expected) == 57
    assert {(t, s, read) for t, s, read, _, _ in loads} == {(t, "loaded", n) for t, n in expected.items()}
    assert all(read == loaded + rejected for _, _, read, loaded, rejected in loads)
    assert [(t, rule, value) for t, _, rule, value in rejects] == [("productdocument", "primaryKey", "506")]
    seen = [r[0] for r in records(SHARED / "adventureworks" / "productdocument.csv")]
    assert seen[rejects[0][1] - 1] == "506"
    assert "506" in seen[: rejects[0][1] - 1]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_cell_is_as_in_the_file(imported: str, file: Path) -> None:
    header = next(csv.reader(file.read_text(encoding="utf-8").splitlines()))
    statement = sql.SQL("SELECT _row, {} FROM {} ORDER BY _row").format(
        sql.SQL(", ").join(map(sql.Identifier, header)), sql.Identifier(file.stem)
    )
    with psycopg.connect(imported) as conn:
        table = {row[0]: row[1:] for row in conn.execute(statement)}
    rejected = set()
    for number, cells in enumerate(records(file), 1):
        if number not in table:
            rejected.add(number)
            continue
        got = table.pop(number)
        for name, cell, value in zip(header, cells, got, strict=True):
            assert same(cell, value), (number, name, cell, value)
    assert not table, "rows in the table that are not in the file"
    assert len(rejected) == (1 if file.stem == "productdocument" else 0)


def records(file: Path) -> Any:
    with file.open(encoding="utf-8", newline="") as handle:
        reader = csv.reader(handle)
        next(reader)
        yield from (r for r in reader if r)


def same(cell: str, value: Any) -> bool:
    """Whether a PostgreSQL value is what the cell's text says."""
    if value is None:
        return cell in ("", "[NULL]")
    readers: dict[type, Callable[[str], Any]] = {
        str: str,
        bool: {"true": True, "false": False}.__getitem__,
        int: int,
        Decimal: Decimal,
        float: float,
        uuid.UUID: uuid.UUID,
        datetime.datetime: datetime.datetime.fromisoformat,
        datetime.date: datetime.date.fromisoformat,
        datetime.time: datetime.time.fromisoformat,
        dict: json.loads,
    }
    return readers[type(value)](cell) == value
