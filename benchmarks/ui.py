"""The Dagster UI's own requests, asked of a real web server, page by page.

The web server's package holds the UI's source (its source maps), and in it the GraphQL
documents that a browser sends. They are taken from there, so that what is measured is
what the installed version asks.

What does not belong here: what the pages are asked about (``year.py``).
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import psutil

from importer_dagster.launch.environment import PROJECT_ROOT

Ask = tuple[str, Mapping[str, Any]]  # the constant that holds a document in the UI's source, its variables

_DOCUMENT = re.compile(r"(?:const|let) (\w+) = gql`(.*?)`", re.S)
_INSERTED = re.compile(r"\$\{(\w+)\}")
_START_S = 120
_AT_ONCE = 6  # requests of a browser to one host


@dataclass(frozen=True)
class PriorOutcome:
    """What asking a page took: seconds until the last answer, CPU seconds of the server, answers as they came."""

    seconds: float
    cpu: float
    slowest: str
    answers: Mapping[str, Any]


@cache
def documents() -> Mapping[str, str]:
    """Name of the constant → GraphQL text, of the whole UI. Raises RuntimeError if the package has no source maps."""
    found: dict[str, str] = {}
    for chunk in files("dagster_webserver").joinpath("webapp/build/_next/static/chunks").iterdir():
        if chunk.name.endswith(".js.map"):
            for source in json.loads(chunk.read_text(encoding="utf-8")).get("sourcesContent") or ():
                for name, text in _DOCUMENT.findall(source or ""):
                    found.setdefault(name, text)
    if not found:
        raise RuntimeError(
            "The installed dagster-webserver has no source maps to take the UI's requests from."
        )
    return found


def document(name: str) -> str:
    """The request called ``name`` with all fragments that it needs, each once."""
    whole: dict[str, str] = {}

    def add(constant: str) -> None:
        if constant not in whole:
            text = documents()[constant]
            whole[constant] = _INSERTED.sub("", text)
            for inner in _INSERTED.findall(text):
                add(inner)

    add(name)
    return "\n".join(whole.values())


class Ui:
    """A web server that runs, and what a browser would do with it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def ask(self, name: str, variables: Mapping[str, Any]) -> Any:
        """One request's data; raises RuntimeError for errors in it."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": document(name), "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310
            answer = json.load(response)
        if "errors" in answer:
            raise RuntimeError(f"{name}: {answer['errors'][0]['message']}")
        return answer["data"]

    def page(self, asks: Sequence[Ask]) -> PriorOutcome:
        """Ask for everything that a page asks for, as many requests at once as a browser has."""
        took: dict[str, float] = {}
        answers: dict[str, Any] = {}

        def one(ask: Ask) -> None:
            start = time.perf_counter()
            answers[ask[0]] = self.ask(*ask)
            took[ask[0]] = time.perf_counter() - start

        cpu, start = self._cpu(), time.perf_counter()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(one, asks))
        seconds = time.perf_counter() - start
        slowest = max(took, key=lambda name: took[name])
        return PriorOutcome(seconds, self._cpu() - cpu, f"{slowest} {took[slowest]:.2f} s", answers)

    def _cpu(self) -> float:
        server = psutil.Process(self.process.pid)
        return sum(sum(p.cpu_times()[:2]) for p in (server, *server.children(recursive=True)))

    def wait(self) -> None:
        """Until it answers; raises RuntimeError if it does not."""
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self.ask("VERSION_NUMBER_QUERY", {})
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("The web server does not answer.") from None
                time.sleep(0.2)


@contextmanager
def serving() -> Iterator[Ui]:
    """A web server on the project's workspace, in the environment as it is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workspace = str(PROJECT_ROOT / "workspace.yaml")
    process = subprocess.Popen(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "dagster_webserver", "-w", workspace, "-h", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ui = Ui(process, port)
        ui.wait()
        yield ui
    finally:
        process.terminate()
        process.wait(60)


# --- pages ------------------------------------------------------------------------------------


def workspace(location: str) -> list[Ask]:
    """What the UI asks once, before any page."""
    return [
        ("LOCATION_WORKSPACE_QUERY", {"name": location}),
        ("LOCATION_WORKSPACE_ASSETS_QUERY", {"name": location}),
        ("CODE_LOCATION_STATUS_QUERY", {}),
        ("PERMISSIONS_QUERY", {}),
        ("INSTANCE_WARNING_QUERY", {}),
    ]


def catalog(types: Sequence[str]) -> list[Ask]:
    """The list of all assets, in batches as the UI has them, every row in view."""
    keys = [{"path": [name]} for name in types]
    live = [{"assetKeys": keys[n : n + 10]} for n in range(0, len(keys), 10)]
    health = [{"assetKeys": keys[n : n + 250]} for n in range(0, len(keys), 250)]
    return [
        ("ASSET_RECORDS_QUERY", {"cursor": None, "limit": 1000}),
        *(("ASSETS_HEALTH_INFO_QUERY", variables) for variables in health),
        *(("ASSETS_GRAPH_LIVE_QUERY", variables) for variables in live),
    ]


def asset_overview(name: str) -> list[Ask]:
    """An asset's page as it opens."""
    key = {"path": [name]}
    return [
        ("ASSET_VIEW_DEFINITION_QUERY", {"assetKey": key}),
        ("ASSETS_GRAPH_LIVE_QUERY", {"assetKeys": [key]}),
        ("ASSETS_HEALTH_INFO_QUERY", {"assetKeys": [key]}),
        ("ASSET_OVERVIEW_METADATA_EVENTS_QUERY", {"assetKey": key}),
        ("RECENT_ASSET_EVENTS_QUERY", {"assetKey": key, "limit": 100, "eventTypeSelectors": _EVENTS}),
        ("LATEST_ASSET_PARTITIONS_QUERY", {"assetKey": key, "limit": 120}),
        ("PARTITION_HEALTH_QUERY", {"assetKey": key}),
    ]


def asset_partitions(name: str, day: str) -> list[Ask]:
    """An asset's page of partitions, with one day chosen."""
    key = {"path": [name]}
    return [
        ("ASSET_VIEW_DEFINITION_QUERY", {"assetKey": key}),
        ("PARTITION_HEALTH_QUERY", {"assetKey": key}),
        ("ASSET_PARTITION_DETAIL_QUERY", {"assetKey": key, "partitionKey": day}),
        ("ASSET_PARTITION_STALE_QUERY", {"assetKey": key, "partitionKey": day}),
    ]


def asset_checks(name: str, check: str) -> list[Ask]:
    """An asset's page of checks, with one check chosen."""
    key = {"path": [name]}
    return [
        ("ASSET_CHECKS_QUERY", {"assetKey": key}),
        ("ASSET_CHECK_DETAILS_QUERY", {"assetKey": key, "checkName": check, "limit": 25, "cursor": None}),
    ]


def overview(now: float) -> list[Ask]:
    """The timeline of the last day; ``now`` in seconds."""
    ended = {"statuses": ["FAILURE", "SUCCESS", "CANCELED"]}
    window = {"updatedAfter": now - 86_400, "updatedBefore": now}
    running = {"statuses": ["CANCELING", "STARTED", "STARTING", "NOT_STARTED", "QUEUED"]}
    return [
        ("ONGOING_RUN_TIMELINE_QUERY", {"inProgressFilter": running, "limit": 500}),
        ("COMPLETED_RUN_TIMELINE_QUERY", {"completedFilter": ended | window, "limit": 500}),
        ("FUTURE_TICKS_QUERY", {"tickCursor": now, "ticksUntil": now + 3_600}),
    ]


def runs() -> list[Ask]:
    """The list of runs, its first page."""
    queued, running = {"statuses": ["QUEUED"]}, {"statuses": ["STARTED", "STARTING", "CANCELING"]}
    return [
        ("RUNS_FEED_ROOT_QUERY", {"limit": 30, "view": "RUNS", "filter": None}),
        ("RUN_FEED_TABS_COUNT_QUERY", {"queuedFilter": queued, "inProgressFilter": running, "view": "RUNS"}),
        ("RUN_TAG_KEYS_QUERY", {}),
    ]


def run(run_id: str) -> list[Ask]:
    """A run's page with its log, the first thousand lines."""
    return [
        ("RUN_ROOT_QUERY", {"runId": run_id}),
        ("RUN_LOGS_QUERY", {"runId": run_id, "cursor": None, "limit": 1000}),
        ("RUN_STATS_QUERY", {"runId": run_id}),
    ]


_EVENTS = ["MATERIALIZATION", "OBSERVATION", "FAILED_TO_MATERIALIZE"]
