"""A project with a PostgreSQL, a Dagster daemon and a webserver of its own, in which real runs are started.

The database refuses a write of a session without a slot (``guard.py``).

What does not belong here: what is delivered, and which runs start when (``flood_runs.py``, ``overlap.py``).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import yaml

from importer_dagster.defs.runs import JOB, PARTITION
from importer_dagster.launch.environment import PROJECT_ROOT
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.warehouse import Warehouse
from reliability import guard
from reliability.patience import wait_for
from reliability.server import OwnServer

PATIENCE_S = 400.0

_WORKSPACE = str(PROJECT_ROOT / "workspace.yaml")
_UNDER_WAY = "SELECT count(*) FROM runs WHERE status IN ('QUEUED', 'NOT_STARTED', 'STARTING', 'STARTED')"
_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""


class Project:
    """A project in which at most ``cap`` sessions may write and ``runs`` runs run at once.

    ``types`` maps the name of each CSV type to its write_disposition; each has the columns ``id``
    (the key) and ``v``. The schedule ticks every minute. ``settings`` are more environment variables.
    """

    def __init__(
        self,
        server: OwnServer,
        cap: int,
        types: Mapping[str, str],
        *,
        runs: int,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.server, self.cap, self.types, self.runs = server, cap, types, runs
        self.url = server.url("warehouse")
        self.today = datetime.now(UTC).date()
        self.inbox = server.folder / "inbox"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.port = _free_port()
        self._write_specs()
        self._write_instance()
        ledger_schema.migrate(Warehouse(self.url))
        with server.connect("warehouse") as conn:
            guard.install(conn, cap)
        self.environment = {**self._environment(), **(settings or {})}
        self._run("importer_dagster.launch.environment")

    def _write_specs(self) -> None:
        folder = self.server.folder / "specs"
        folder.mkdir()
        fields = [{"name": "id", "type": "integer"}, {"name": "v"}]
        for name, disposition in self.types.items():
            spec = {
                "name": name,
                "schema": {"fields": fields, "primaryKey": ["id"]},
                "write_disposition": disposition,
            }
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))

    def _write_instance(self) -> None:
        """The project's dagster.yaml, changed so that all runs may run at once."""
        home = self.server.folder / "dagster"
        home.mkdir()
        text = (PROJECT_ROOT / "dagster.yaml").read_text()
        assert "max_concurrent_runs: 2" in text
        (home / "dagster.yaml").write_text(
            text.replace("max_concurrent_runs: 2", f"max_concurrent_runs: {self.runs}")
        )

    def _environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("IMPORTER_", "DAGSTER_"))}
        return {
            **clean,
            "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]),
            "IMPORTER_WAREHOUSE_URL": self.url,
            "IMPORTER_DAGSTER_URL": self.server.url("dagster"),
            "IMPORTER_SPECS": str(self.server.folder / "specs"),
            "IMPORTER_INBOX_URL": str(self.inbox),
            "IMPORTER_HOME": str(self.server.folder / "home"),
            "IMPORTER_DB_WRITES": str(self.cap),
            "IMPORTER_START_DATE": str(self.today - timedelta(days=120)),
            "IMPORTER_SCHEDULE": "* * * * *",
            "IMPORTER_MIN_AGE": "0",
            "IMPORTER_ARRIVAL_INTERVAL": "0",  # the schedule alone
            "IMPORTER_MAX_RUNS": str(self.runs),
            "DAGSTER_HOME": str(self.server.folder / "dagster"),
        }

    def deliver(self, day: date, type_name: str, tenant: str, rows: int) -> str:
        """Write one file, with keys that no other day has; returns its path in the inbox."""
        path = f"{day}/{tenant}/{type_name}.csv"
        file = self.inbox / path
        file.parent.mkdir(parents=True, exist_ok=True)
        first = day.toordinal() * rows
        lines = "".join(f"{i},{tenant} {i}\n" for i in range(first, first + rows))
        # in one step, since IMPORTER_MIN_AGE is 0: a file is imported as soon as it is seen
        aside = file.with_name(f".{file.name}")
        aside.write_text(f"id,v\n{lines}")
        aside.replace(file)
        return path

    # --- starting runs ---

    @contextmanager
    def services(self) -> Iterator[None]:
        """Run a daemon and a webserver; at the end every process that was started is killed."""
        self.start("dagster._daemon", "run", "-w", _WORKSPACE)
        self.start("dagster_webserver", "-w", _WORKSPACE, "-h", "127.0.0.1", "-p", str(self.port))
        try:
            if not wait_for(self._answers, PATIENCE_S):
                raise RuntimeError("the webserver does not answer")
            yield
        finally:
            for process in self.processes:
                _kill(process)

    def backfill(self, day: date, *types: str) -> subprocess.Popen[bytes]:
        """`importer backfill` of one day."""
        days = ("--from", str(day), "--to", str(day))
        return self.start("importer_dagster.cli", "backfill", *days, *types)

    def job_backfill(self, day: date) -> subprocess.Popen[bytes]:
        """`dagster job backfill` of one day."""
        more = ("--partitions", str(day), "--noprompt")
        return self.start("dagster", "job", "backfill", "-w", _WORKSPACE, "-j", JOB, *more)

    def load(self, type_name: str, path: str, *more: str) -> subprocess.Popen[bytes]:
        """`importer load` of one file of the inbox."""
        return self.start("importer_dagster.cli", "load", type_name, str(self.inbox / path), *more)

    def launch_as_the_ui(self, day: date, types: Sequence[str] = ()) -> None:
        """Ask the webserver for a run, with the request that its UI sends."""
        selector: dict[str, Any] = {
            "repositoryLocationName": "importer_dagster",
            "repositoryName": "__repository__",
            "jobName": JOB,
        }
        if types:
            selector["assetSelection"] = [{"path": [name]} for name in types]
        params = {
            "selector": selector,
            "runConfigData": {},
            "mode": "default",
            "executionMetadata": {
                "tags": [{"key": PARTITION, "value": str(day)}, {"key": "from", "value": "ui"}]
            },
        }
        answer = self._graphql(_LAUNCH, {"params": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise RuntimeError(f"The webserver launched no run: {answer}")

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            answer = json.load(response)
        if "errors" in answer:
            raise RuntimeError(f"GraphQL: {answer['errors']}")
        data: dict[str, Any] = answer["data"]
        return data

    def _answers(self) -> bool:
        try:
            address = f"http://127.0.0.1:{self.port}/server_info"
            with urllib.request.urlopen(address, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    # --- looking ---

    def run_statuses(self) -> list[tuple[str, int]]:
        """(status, number of runs)."""
        return self.server.query("dagster", "SELECT status, count(*) FROM runs GROUP BY 1 ORDER BY 1")

    def under_way(self) -> int:
        """The number of runs that have not ended."""
        return int(self.server.query("dagster", _UNDER_WAY)[0][0])

    def tickets(self) -> int:
        """The number of imports that wait for a slot."""
        rows = self.server.query(
            "warehouse", "SELECT count(*) FROM importer.waiting WHERE due > clock_timestamp()"
        )
        return int(rows[0][0])

    def deadlocks(self) -> int:
        """The number of deadlocks that PostgreSQL has found in the warehouse."""
        rows = self.server.query(
            "warehouse", "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        return int(rows[0][0])

    def origins(self) -> dict[str, int]:
        """Origin → number of runs."""
        tags: dict[str, set[str]] = {}
        for run, key in self.server.query("dagster", "SELECT run_id, key FROM run_tags"):
            tags.setdefault(run, set()).add(key)
        runs = [r for (r,) in self.server.query("dagster", "SELECT run_id FROM runs")]
        kinds = [_origin(tags.get(run, set())) for run in runs]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}

    # --- processes ---

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program in the project's environment; its output goes to a file beside the server."""
        with self.said(len(self.processes), module).open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own arguments
                [sys.executable, "-m", module, *arguments],
                env=self.environment,
                cwd=self.server.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def said(self, number: int, module: str) -> Path:
        """The file with the output of the ``number``-th program."""
        return self.server.folder / f"{number}-{module}.log"

    def _run(self, module: str) -> None:
        process = self.start(module)
        if process.wait(PATIENCE_S):
            raise RuntimeError(self.said(0, module).read_text()[-2000:])


def _origin(tags: set[str]) -> str:
    for tag, origin in (
        ("dagster/schedule_name", "schedule"),
        ("from", "UI"),
        ("dagster/backfill", "job backfill"),
    ):
        if tag in tags:
            return origin
    return "sensor" if "dagster/sensor_name" in tags else "command"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants; empty if it has ended."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its descendants: Dagster's servers would take up to a minute to end by themselves."""
    below = tree(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for descendant in below:
        with suppress(psutil.Error):
            descendant.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    psutil.wait_procs(below, timeout=20)
