"""A project of three types with a Dagster instance of its own, for tests of real runs.

What does not belong here: what those tests assert.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from importer_dagster.defs.runs import PARTITION, RANGE_END, RANGE_START
from importer_dagster.launch.environment import Environment, prepare_environment
from importer_dagster.launch.runs import LaunchResult, launch_daily
from importer_dagster.settings import Settings
from importer_dagster.warehouse import Warehouse

START = date(2024, 1, 1)
DEFINITIONS = "importer_dagster_tests.helpers.definitions"

SPECS = {
    "alpha": "schema: {fields: [{name: id, type: integer}, {name: v, checks: [harm]}], primaryKey: [id]}\n"
    "write_disposition: merge\n",
    "beta": "schema: {fields: [{name: id, type: integer}, {name: v, checks: [harm]}]}\n"
    "gate: {rejects: {count: 3}}\n",
    "gamma": "title: The third\n"
    "description: Refers to the first.\n"
    "owner: sales team\n"
    "tags: {source system: erp/1}\n"
    "expected_by: '08:30'\n"
    "schema:\n"
    "  fields: [{name: id, type: integer}, {name: alpha_id, type: integer}]\n"
    "  foreignKeys: [{fields: alpha_id, reference: {resource: alpha, fields: id}}]\n",
}


class Project:
    """Specs and an inbox in a new folder, with an embedded database and a Dagster instance."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in SPECS.items():
            file = root / "specs" / "own" / f"{name}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"group: own\n{text}")
        (root / "home" / "inbox").mkdir(parents=True)
        os.environ.update(
            IMPORTER_HOME=str(root / "home"),
            IMPORTER_SPECS=str(root / "specs"),
            IMPORTER_CHECKS=DEFINITIONS,
            IMPORTER_DB_WRITES="3",
        )
        self.environment: Environment = prepare_environment(Settings.from_env())
        self.settings = self.environment.settings

    def deliver(
        self, day: date, name: str, content: str, tenant: str = "acme", suffix: str = "", age: int = 3600
    ) -> None:
        file = self.root / "home" / "inbox" / day.isoformat() / tenant / f"{name}{suffix}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        os.utime(file, (time.time() - age,) * 2)

    def run(self, *days: date, types: list[str] | None = None) -> LaunchResult:
        return launch_daily(self.settings, days, types, definitions=DEFINITIONS)

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with Warehouse(self.settings.warehouse_url or "").connect() as conn:
            return conn.execute(statement, values or None).fetchall()

    def execute(self, statement: str, *values: Any) -> None:
        with Warehouse(self.settings.warehouse_url or "").connect() as conn:
            conn.execute(statement, values or None)
            conn.commit()

    def importer(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "importer_dagster.cli", *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def materialized(self, name: str) -> set[date]:
        with dg.DagsterInstance.get() as instance:
            return {date.fromisoformat(k) for k in instance.get_materialized_partitions(dg.AssetKey(name))}

    def events(self, result: LaunchResult, kind: dg.DagsterEventType, step: str) -> list[dg.DagsterEvent]:
        with dg.DagsterInstance.get() as instance:
            records = instance.all_logs(result.runs[0].run_id, of_type=kind)
        events = [r.dagster_event for r in records if r.dagster_event is not None]
        return [e for e in events if e.step_key == step]


def day(number: int) -> date:
    """The day with this number. Each test uses other numbers, since a module's tests share one project."""
    return START + timedelta(days=number)


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def gap_tags(tags: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in tags.items() if k in (PARTITION, RANGE_START, RANGE_END)}
