"""Retention of Dagster's own records, on a real instance in PostgreSQL with real runs, UI queries included."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from importer_dagster.defs.catchup import look
from importer_dagster.defs.retention import RETENTION, RETENTION_SCHEDULE
from importer_dagster.defs.run_recovery import PROCESS
from importer_dagster.operations.dagster_retention import prune_dagster, prune_files
from importer_dagster.settings import Keep
from importer_dagster.spec.loading import load_specs
from importer_dagster_tests.helpers.project import Project, day

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

KEEP = Keep(runs=30)
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1"
QUERY = """{ assetNodes(loadMaterializations: true) {
  assetKey { path } partitionStats { numMaterialized numFailed }
  assetMaterializations(limit: 5) { runId partition timestamp runOrError { __typename } }
  assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } }"""


@pytest.fixture
def records(project: Project) -> Iterator[psycopg.Connection]:
    with psycopg.connect(project.environment.dagster_url, autocommit=True) as conn:
        yield conn


def sizes(conn: psycopg.Connection) -> dict[str, int]:
    names = [name for (name,) in conn.execute(TABLES).fetchall()]
    return {n: conn.execute(f"SELECT count(*) FROM {n}").fetchone()[0] for n in names}  # type: ignore[index]


def in_days(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def ask_the_ui() -> dict[str, Any]:
    """What the web server says of the assets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["-m", "dagster_webserver", "-m", "importer_dagster_tests.helpers.definitions", "-p", str(port)]
    server = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": QUERY}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    found = json.load(answer)
                break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.3)
    finally:
        server.terminate()
        server.wait(30)
    assert "errors" not in found, found["errors"]
    return {n["assetKey"]["path"][-1]: n for n in found["data"]["assetNodes"]}


def test_days_stay_imported_when_their_runs_are_gone(
    project: Project,
    records: psycopg.Connection,
) -> None:
    for n in (1, 2):
        project.deliver(day(n), "alpha", f"id,v\n{n},a\n")
    project.deliver(day(2), "beta", "x\n1\n")  # refused
    project.run(day(1), types=["alpha", "beta"])
    project.run(day(2), types=["alpha", "beta"])
    project.deliver(day(2), "alpha", "id,v\n2,b\n")
    last = project.run(day(2), types=["alpha"])
    settings = replace(project.settings, lookback_days=10, start_date=day(0))
    specs = load_specs(project.settings.specs)

    def asked() -> list[set[str]]:
        now = datetime(day(4).year, day(4).month, day(4).day, tzinfo=UTC)
        with dg.DagsterInstance.get() as instance:
            answer = list(look(instance, settings, specs, now=now, last=now, by="the tick"))
        requests = [a for a in answer if isinstance(a, dg.RunRequest)]
        return [{k.to_user_string() for k in r.asset_selection or ()} for r in requests]

    project.deliver(day(2), "gamma", "id,alpha_id\n1,1\n")  # not imported yet
    assert asked() == [{"gamma"}]
    url, before = project.environment.dagster_url, sizes(records)

    assert prune_dagster(url, KEEP, now=in_days(29)) == []
    planned = prune_dagster(url, KEEP, now=in_days(31), dry_run=True)
    assert sizes(records) == before
    counts = {g.what: g.count for g in planned}
    assert counts["Dagster's runs"] == 3 and counts["events of runs"] > 50
    assert prune_dagster(url, KEEP, now=in_days(31)) == planned
    assert prune_dagster(url, KEEP, now=in_days(31)) == []

    after = sizes(records)
    assert (after["runs"], after["run_tags"], after["event_logs"]) == (0, 0, 2)  # one for each day of alpha
    checks = records.execute(
        "SELECT asset_key, check_name FROM asset_check_executions WHERE execution_status <> 'PLANNED'"
    ).fetchall()
    assert len(checks) == len({*checks}) == 5
    assert asked() == [{"gamma"}]
    assert project.materialized("alpha") == {day(1), day(2)}
    nodes = ask_the_ui()
    assert nodes["alpha"]["partitionStats"]["numMaterialized"] == 2
    assert {m["runId"] for m in nodes["alpha"]["assetMaterializations"]} >= {last.runs[0].run_id}
    assert {m["runOrError"]["__typename"] for m in nodes["alpha"]["assetMaterializations"]} == {
        "RunNotFoundError"
    }

    # imported once more, much later: the earlier record of that day goes in its turn
    again = project.run(day(2), types=["alpha"])
    assert again.success
    prune_dagster(url, KEEP, now=in_days(31))
    assert sizes(records)["event_logs"] == 2
    assert project.materialized("alpha") == {day(1), day(2)}

    # in the end that goes too
    done = replace(KEEP, done=60)
    assert prune_dagster(url, done, now=in_days(59)) == []
    planned = prune_dagster(url, done, now=in_days(61), dry_run=True)
    assert {g.what: g.count for g in planned} == {"events of no run": 2}
    assert prune_dagster(url, done, now=in_days(61)) == planned
    after = sizes(records)
    assert (after["event_logs"], after["asset_event_tags"]) == (0, 0)
    assert ask_the_ui()["alpha"]["assetMaterializations"] == []


def test_what_dagsters_own_delete_run_would_do(project: Project) -> None:
    """The reason for SQL of our own: the day would be imported again."""
    project.deliver(day(5), "alpha", "id,v\n5,a\n")
    run = project.run(day(5), types=["alpha"]).runs[0]
    assert day(5) in project.materialized("alpha")
    with dg.DagsterInstance.get() as instance:
        instance.delete_run(run.run_id)
    assert day(5) not in project.materialized("alpha")


def test_every_table_of_dagster_stays_flat_over_many_days(
    project: Project,
    records: psycopg.Connection,
) -> None:
    prune_dagster(project.environment.dagster_url, KEEP, now=in_days(31))

    def days_go_by(first: int, last: int) -> dict[str, int]:
        for n in range(first, last):
            project.deliver(day(n), "alpha", f"id,v\n{n},a\n")
            project.deliver(day(n), "gamma", f"id,alpha_id\n{n},{n}\n")
            # another choice of types each time: descriptions of jobs are new, too
            project.run(day(n), types=[["alpha"], ["alpha", "gamma"], ["gamma"]][n % 3])
            with dg.DagsterInstance.get() as instance:
                instance.report_runless_asset_event(dg.AssetObservation("alpha"))
            prune_dagster(project.environment.dagster_url, KEEP, now=in_days(31))
        return sizes(records)

    half = days_go_by(10, 16)
    whole = days_go_by(16, 22)
    # one event for each asset and day: that is the record itself
    kept = records.execute("SELECT asset_key, partition, dagster_event_type FROM event_logs").fetchall()
    assert len(kept) == len({*kept})
    for table in ("event_logs", "asset_event_tags"):
        assert whole.pop(table) - half.pop(table) == 8
    assert whole == half


def test_the_nightly_job_deletes_and_says_what(project: Project, records: psycopg.Connection) -> None:
    project.deliver(day(30), "alpha", "id,v\n1,a\nx,b\n")
    run = project.run(day(30), types=["alpha"]).runs[0]
    with psycopg.connect(project.settings.warehouse_url or "") as conn:
        conn.execute("UPDATE importer.loads SET finished_at = now() - interval '200 days'")
    old = time.time() - 100 * 86400
    records.execute(
        "UPDATE runs SET end_time = %s, update_timestamp = to_timestamp(%s) WHERE run_id = %s",
        (old, old, run.run_id),
    )
    code = (
        "import dagster as dg; from importer_dagster_tests.helpers.definitions import defs\n"
        f"result = defs.get_repository_def().get_job({RETENTION!r}).execute_in_process(instance=dg.DagsterInstance.get())\n"
        "print('RUN', result.run_id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"\d rejects, by load deleted, the oldest of .* \(IMPORTER_KEEP_REJECTS=180\)", done.stderr
    )
    assert "1 Dagster's runs deleted" in done.stderr
    assert records.execute("SELECT count(*) FROM runs WHERE run_id = %s", (run.run_id,)).fetchone() == (0,)
    assert project.query("SELECT count(*) FROM importer.reject_records") == [(0,)]
    owner = (
        "SELECT t.value FROM run_tags t JOIN runs r USING (run_id) WHERE r.pipeline_name = %s AND t.key = %s"
    )
    assert len(records.execute(owner, (RETENTION, PROCESS)).fetchall()) == 1  # a killed one would be ended


def test_the_schedule_is_on_and_runs_daily() -> None:
    from importer_dagster.defs import build_defs
    from importer_dagster.settings import SHIPPED_SPECS, Settings

    defs = build_defs(settings=Settings(None, SHIPPED_SPECS, "/inbox", Path("/home")))
    schedule = defs.get_repository_def().get_schedule_def(RETENTION_SCHEDULE)
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert (schedule.cron_schedule, schedule.job_name) == ("30 3 * * *", RETENTION)


def test_files_that_runs_left_go_and_nothing_else(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    old, new, other = (
        storage / name
        for name in ("01234567-89ab-cdef-0123-456789abcdef", "11234567-89ab-cdef-0123-456789abcdef", "mine")
    )
    for folder, age in ((old, 40), (new, 20), (other, 40)):
        (folder / "compute_logs").mkdir(parents=True)
        (folder / "compute_logs" / "a.out").write_text("x")
        when = time.time() - age * 86400
        for path in (folder / "compute_logs" / "a.out", folder / "compute_logs", folder):
            os.utime(path, (when, when))
    outside = tmp_path / "outside"
    outside.mkdir()
    (storage / "21234567-89ab-cdef-0123-456789abcdef").symlink_to(outside)
    planned = prune_files(tmp_path, Keep(), dry_run=True)
    assert [g.count for g in planned] == [1] and old.exists()
    assert prune_files(tmp_path, Keep()) == planned
    assert not old.exists() and new.exists() and other.exists() and outside.exists()
    assert prune_files(tmp_path / "none", Keep()) == []
