"""docs/operations.md: it lists the settings of the code and every table of the database."""

import json
import re
from dataclasses import fields
from pathlib import Path

import psycopg
import pytest

from importer_dagster.errors import UsageError
from importer_dagster.settings import Keep, Settings, keep_variable
from importer_dagster_tests.helpers.command import Command
from importer_dagster_tests.helpers.inbox import Query
from importer_dagster_tests.helpers.project import Project

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def bounded(heading: str) -> set[str]:
    """The names in the first column of a table of the page."""
    rows = PAGE.split(f"| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_the_settings_are_listed_as_they_are() -> None:
    listed = re.findall(r"^\| `IMPORTER_KEEP_\w+` .*$", PAGE, re.M)
    assert listed == [
        f"| `{keep_variable(f.name)}` | {f.metadata['what']} | {f.default} |" for f in fields(Keep)
    ]


def test_settings_come_from_the_environment() -> None:
    settings = Settings.from_env({"IMPORTER_KEEP_REJECTS": "7", "IMPORTER_KEEP_RUNS": "0"})
    assert (settings.keep.rejects, settings.keep.runs, settings.keep.loads) == (7, 0, 400)
    with pytest.raises(UsageError, match="IMPORTER_KEEP_DRIFT is 'x'; it must be a whole number, 0 or more"):
        Settings.from_env({"IMPORTER_KEEP_DRIFT": "x"})


def test_it_says_of_every_table_what_bounds_it(project: Project, query: Query) -> None:
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'importer'"
    assert {name for (name,) in query(tables)} == bounded("schema `importer`")
    with psycopg.connect(project.environment.dagster_url) as conn:
        found = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
    assert {name for (name,) in found} == bounded("Dagster's tables")


def test_prune_by_hand(tmp_path: Path, database_url: str, query: Query) -> None:
    importer = Command(tmp_path, database_url)
    importer("load", "orders", importer.file("id,amount\n1,2.50\nx,1\n"))
    assert importer("prune", "--dry-run").stdout.strip() == "Nothing is old enough to be deleted."
    with psycopg.connect(database_url) as conn:
        conn.execute("UPDATE importer.loads SET finished_at = finished_at - interval '181 days'")
    planned = importer("prune", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert re.search(
        r"rejects, by load +│ 1 +│ \d{4}-\d\d-\d\d +│ 180 +│ IMPORTER_KEEP_REJECTS", planned.stdout
    )
    assert query("SELECT count(*) FROM importer.rejects") == [(1,)]
    assert (
        importer("prune", "--dry-run", IMPORTER_KEEP_REJECTS="0").stdout.strip()
        == "Nothing is old enough to be deleted."
    )
    done = importer("prune", "--yes", "--json")
    [gone] = json.loads(done.stdout)
    assert (gone["what"], gone["count"], gone["setting"]) == ("rejects, by load", 1, "IMPORTER_KEEP_REJECTS")
    assert query("SELECT count(*) FROM importer.rejects") == [(0,)]
    [(load_id,)] = query("SELECT load_id FROM importer.loads")
    assert (
        f"The rejects of load {load_id} were deleted on" in importer("rejects", "--load", str(load_id)).stderr
    )
    help_text = importer("prune", "--help").stdout
    assert "importer prune --dry-run" in help_text and "Exit codes" in help_text
