"""The Dagster part with a real instance: PostgreSQL storage, real runs, a process for each step."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import psutil
import psycopg
import pytest
import sqlalchemy as sa
from dagster._core.utils import make_new_run_id
from dagster_postgres.event_log import PostgresEventLogStorage

from importer_dagster.defs import build_defs, step
from importer_dagster.defs.metadata import CELL_LENGTH, markdown_table
from importer_dagster.defs.run_recovery import end_orphans
from importer_dagster.defs.runs import PARTITION, RANGE_END, RANGE_START, contiguous, gaps_of, range_tags
from importer_dagster.defs.schedule import SCHEDULE
from importer_dagster.errors import UsageError, WarehouseUnavailable
from importer_dagster.launch import environment as instance_module
from importer_dagster.launch.environment import (
    POOL,
    PROJECT_ROOT,
    prepare_environment,
    with_search_path,
)
from importer_dagster.launch.runs import LaunchResult, StepEnd, days_between, launch_daily
from importer_dagster.settings import SHIPPED_SPECS, Settings
from importer_dagster.spec.loading import load_specs
from importer_dagster_tests.helpers.project import DEFINITIONS, SPECS, Project, day, gap_tags, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")


def ends(result: LaunchResult) -> dict[str, bool]:
    return {step.type: step.ok for run in result.runs for step in run.steps}


# --- definitions -------------------------------------------------------------------------


def test_definitions_load_without_settings_and_without_a_database():
    env = {k: v for k, v in os.environ.items() if not k.startswith(("IMPORTER_", "DAGSTER_"))}
    code = (
        "import importer_dagster.definitions as d, psycopg2;"
        "repo = d.defs.get_repository_def();"
        "print(len(repo.assets_defs_by_key))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd="/", check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == len(load_specs(SHIPPED_SPECS)) + 1


def test_every_shipped_type_is_an_asset_with_columns_pool_and_tag():
    specs = load_specs(SHIPPED_SPECS)
    defs = build_defs(settings=Settings(None, SHIPPED_SPECS, "/inbox", Path("/home")), specs=specs)
    graph = defs.resolve_asset_graph()
    for name, spec in specs.items():
        asset = defs.resolve_assets_def(name)
        key = dg.AssetKey(name)
        assert asset.op.pool == POOL
        assert asset.op.tags["dagster/concurrency_key"] == POOL
        assert asset.group_names_by_key[key] == spec.group
        columns = asset.metadata_by_key[key]["dagster/column_schema"].columns
        assert [c.name for c in columns] == [f.column for f in spec.fields]
        # no edge between types: one that fails must not keep another from its import
        assert {k.to_user_string() for k in graph.get(key).parent_keys} == {"supplier_inbox"}


def test_a_spec_shows_in_its_asset(project: Project):
    defs = build_defs(settings=project.settings)
    key = dg.AssetKey("gamma")
    spec = defs.resolve_assets_def("gamma").get_asset_spec(key)
    assert spec.description == "The third\n\nRefers to the first."
    assert spec.owners == ["team:sales_team"]
    assert spec.kinds == {"csv", "postgres"}
    assert spec.tags["source_system"] == "erp_1"
    assert spec.metadata["references"].value == "- alpha_id → alpha(id)"
    reference = spec.metadata["dagster/code_references"].code_references[0]
    assert reference.file_path == str(project.root / "specs" / "own" / "gamma.yaml")
    assert spec.freshness_policy.deadline_cron == "30 8 * * *"
    assert {c.name for c in defs.resolve_assets_def("gamma").check_specs} == {
        "rejects",
        "drift",
        "arrived",
        "references",
    }
    # what is referred to starts first
    priority = {n: int(defs.resolve_assets_def(n).op.tags["dagster/priority"]) for n in SPECS}
    assert priority == {"alpha": 1, "beta": 0, "gamma": 0}


def test_no_specs_at_all_is_no_error(tmp_path: Path):
    defs = build_defs(settings=Settings(None, tmp_path, "/inbox", tmp_path), specs={})
    dg.Definitions.validate_loadable(defs)


# --- the environment ---------------------------------------------------------------------


def test_a_fresh_instance_has_storage_and_the_limit(project: Project):
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
        limits = {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}
    assert limits == {POOL: 3}
    assert (project.environment.dagster_home / "dagster.yaml").read_text() == (
        PROJECT_ROOT / "dagster.yaml"
    ).read_text()


def test_a_process_keeps_one_connection_and_survives_its_loss(project: Project):
    def backends(instance: dg.DagsterInstance) -> set[int]:
        instance.get_runs(limit=1)
        instance.event_log_storage.get_pool_limits()
        instance.all_instigator_state()
        with instance.event_log_storage.index_connection() as conn:
            return {conn.scalar(sa.text("SELECT pg_backend_pid()"))}

    with dg.DagsterInstance.get() as instance:
        first = backends(instance)
        assert backends(instance) == first
        with psycopg.connect(project.environment.dagster_url, autocommit=True) as conn:
            conn.execute("SELECT pg_terminate_backend(%s, 5000)", (first.pop(),))
        assert backends(instance)  # as after a restart of the server: nobody notices
        # what is asked in a quicker way than Dagster's own is answered alike
        assert instance.event_log_storage.has_asset_key_col("cached_status_data")
        assert not instance.event_log_storage.has_asset_key_col("nonsense")


def test_a_lost_connection_is_seen_although_it_was_used_a_moment_ago(project: Project):
    """Nobody asks the server about a connection that was just used, so the socket must tell."""
    with dg.DagsterInstance.get() as instance:
        storage = instance.event_log_storage
        assert isinstance(storage, PostgresEventLogStorage)
        with storage.index_connection() as conn:
            # the server's last word, which comes after this connection went back to the pool
            number = conn.scalar(sa.text("SELECT pg_backend_pid()"))
        with psycopg.connect(project.environment.dagster_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (number,))
        with storage.index_connection() as conn:
            assert conn.scalar(sa.text("SELECT pg_backend_pid()")) != number


def test_events_are_stored_as_dagster_itself_stores_them(project: Project):
    """Every event of a real run, once more by both: the same rows in all tables."""
    project.deliver(day(80), "alpha", "id,v\n1,a\n")
    project.deliver(day(80), "gamma", "id,alpha_id\n1,1\n")
    result = launch_daily(project.settings, [day(80)], definitions=DEFINITIONS)
    queries = (
        "SELECT dagster_event_type, step_key, asset_key, partition, timestamp, replace(event, run_id, '') "
        "FROM event_logs WHERE run_id = :run ORDER BY id",
        "SELECT t.asset_key, t.key, t.value FROM asset_event_tags t JOIN event_logs e ON e.id = t.event_id "
        "WHERE e.run_id = :run ORDER BY 1, 2, 3",
        "SELECT asset_key, check_name, partition, execution_status, "
        "evaluation_event_storage_id IS NULL, replace(evaluation_event, run_id, '') "
        "FROM asset_check_executions WHERE run_id = :run ORDER BY 1, 2, 3, 4",
        "SELECT asset_key, last_materialization_timestamp, last_run_id = :run, "
        "regexp_replace(replace(last_materialization, :run, ''), 'storage_id\": \\d+', '', 'g') FROM asset_keys ORDER BY 1",
    )
    found = []
    with dg.DagsterInstance.get() as instance:
        ours = instance.event_log_storage
        plain = PostgresEventLogStorage(project.environment.dagster_url, should_autocreate_tables=False)
        entries = ours.get_logs_for_run(result.runs[0].run_id)
        kinds = {entry.dagster_event_type for entry in entries if entry.is_dagster_event}
        assert {
            dg.DagsterEventType.ASSET_MATERIALIZATION,
            dg.DagsterEventType.ASSET_CHECK_EVALUATION,
        } <= kinds
        assert not all(entry.is_dagster_event for entry in entries)
        for storage in (plain, ours):
            run_id = make_new_run_id()
            for entry in entries:
                storage.store_event(entry._replace(run_id=run_id))
            with ours.index_connection() as conn:
                found.append([conn.execute(sa.text(q), {"run": run_id}).fetchall() for q in queries])
            ours.delete_events(run_id)
    assert all(found[0])
    assert found[0] == found[1]


def test_preparing_twice_is_the_same(project: Project):
    again = prepare_environment(project.settings)
    assert again.dagster_url == project.environment.dagster_url
    assert prepare_environment(Settings.from_env()).dagster_url == project.environment.dagster_url


def test_a_configured_server_keeps_dagsters_tables_apart(project: Project, database_url: str, tmp_path: Path):
    code = (
        "from importer_dagster.launch.environment import prepare_environment; from importer_dagster.settings import Settings;"
        "import dagster as dg; e = prepare_environment(Settings.from_env()); assert e.server is None;"
        "i = dg.DagsterInstance.get(); i.get_runs(); print(i.event_log_storage.get_pool_limits()[0].limit)"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("IMPORTER_", "DAGSTER_"))}
    env |= {"IMPORTER_WAREHOUSE_URL": database_url, "IMPORTER_HOME": str(tmp_path), "IMPORTER_DB_WRITES": "7"}
    two = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=-1, stderr=-1, text=True) for _ in "ab"
    ]
    for process in two:  # at once, on an empty database
        assert process.communicate(timeout=120) == ("7\n", "")
    with psycopg.connect(database_url) as conn:
        tables = conn.execute(
            "SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_name IN ('runs', 'event_logs')"
        ).fetchall()
    assert tables == [("dagster",)]
    assert database_url not in (tmp_path / "dagster" / "dagster.yaml").read_text()


def test_the_limit_follows_the_setting(project: Project):
    try:
        prepare_environment(Settings.from_env({**os.environ, "IMPORTER_DB_WRITES": "2"}))
        with dg.DagsterInstance.get() as instance:
            assert [limit.limit for limit in instance.event_log_storage.get_pool_limits()] == [2]
    finally:
        os.environ["IMPORTER_DB_WRITES"] = "3"
        prepare_environment(Settings.from_env())


def test_search_path_joins_other_options():
    url = with_search_path("postgresql://u:p@h/d?sslmode=require&options=-c%20geqo%3Doff", "dagster")
    assert url == "postgresql://u:p@h/d?sslmode=require&options=-c%20geqo%3Doff%20-csearch_path%3Ddagster"


def test_a_database_that_is_down_names_the_variable_and_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str
):
    monkeypatch.setattr(instance_module, "_exported", {})
    for name in ("IMPORTER_DAGSTER_URL", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in list(os.environ):  # put back what the call sets
        if name.startswith(("IMPORTER_", "DAGSTER_")):
            monkeypatch.setenv(name, os.environ[name])
    monkeypatch.setenv("IMPORTER_DAGSTER_URL", "postgresql://u:geheim@127.0.0.1:1/d")
    settings = Settings(database_url, tmp_path, str(tmp_path), tmp_path)
    with pytest.raises(WarehouseUnavailable, match="IMPORTER_DAGSTER_URL") as caught:
        prepare_environment(settings)
    assert "geheim" not in str(caught.value)
    assert "geheim" not in (tmp_path / "dagster" / "dagster.yaml").read_text()


# --- runs -----------------------------------------------------------------------------------


def test_a_day_is_imported_and_accounted_for(project: Project):
    project.deliver(day(0), "alpha", "id,v\n1,a\n2,b\n")
    project.deliver(day(0), "alpha", "id,v\n1,c\n", tenant="bolt")
    project.deliver(day(0), "gamma", "id,alpha_id,extra\n1,1,x\n2,99,y\nz,1,z\n")
    seen: list[StepEnd] = []
    result = launch_daily(project.settings, [day(0)], on_event=seen.append, definitions=DEFINITIONS)
    assert result.success
    assert ends(result) == {"alpha": True, "beta": True, "gamma": True}
    assert [(e.done, e.total) for e in seen] == [(1, 3), (2, 3), (3, 3)]
    assert project.query("SELECT _tenant, id, v FROM alpha ORDER BY 1, 2") == [
        ("acme", 1, "a"), ("acme", 2, "b"), ("bolt", 1, "c"),
    ]  # fmt: skip
    run_ids = project.query("SELECT DISTINCT run_id FROM importer.loads WHERE business_date = %s", day(0))
    assert run_ids == [(result.runs[0].run_id,)]

    [event] = project.events(result, dg.DagsterEventType.ASSET_MATERIALIZATION, "alpha")
    metadata = event.materialization.metadata
    figures = {
        k: metadata[k].value for k in ("rows_read", "rows_loaded", "rows_rejected", "files", "tenants")
    }
    assert figures == {
        "rows_read": 3,
        "rows_loaded": 3,
        "rows_rejected": 0,
        "files": 2,
        "tenants": "acme, bolt",
    }
    assert metadata["dagster/row_count"].value == 3
    assert metadata["rows_per_second"].value > 0
    assert metadata["preview"].value.splitlines()[0] == "| id | v |"

    # nothing was delivered: not materialized, so that it stays missing
    assert day(0) not in project.materialized("beta")
    assert project.events(result, dg.DagsterEventType.STEP_SUCCESS, "beta")

    checks = project.events(result, dg.DagsterEventType.ASSET_CHECK_EVALUATION, "gamma")
    said = {e.asset_check_evaluation_data.check_name: e.asset_check_evaluation_data for e in checks}
    assert {name: data.passed for name, data in said.items()} == {
        "rejects": False, "drift": False, "arrived": True, "references": False,
    }  # fmt: skip
    assert all(data.severity == dg.AssetCheckSeverity.WARN for data in said.values())
    assert "| alpha_id | alpha | 1 | 99 |" in said["references"].metadata["first"].value


def test_one_bad_file_then_only_that_file_again(project: Project):
    project.deliver(day(1), "alpha", "id,v\n10,a\n", suffix="_1")
    project.deliver(day(1), "alpha", "wrong,v\n11,a\n", suffix="_2")
    first = project.run(day(1), types=["alpha"])
    assert not first.success
    [failed] = first.failed
    assert "alpha_2.csv" in failed.error and "alpha_1.csv" not in failed.error
    assert project.query("SELECT id FROM alpha WHERE _business_date = %s", day(1)) == [(10,)]
    assert day(1) not in project.materialized("alpha")
    # a fault of the data is not tried again
    assert not project.events(first, dg.DagsterEventType.STEP_UP_FOR_RETRY, "alpha")
    # the drift that refused it is seen in the check and in the failure, as it is in the ledger
    [check] = project.events(first, dg.DagsterEventType.ASSET_CHECK_EVALUATION, "alpha")
    found = check.asset_check_evaluation_data
    assert (found.check_name, found.passed, found.severity) == ("drift", False, dg.AssetCheckSeverity.WARN)
    assert "| removed | id |" in found.metadata["first"].value
    [failure] = project.events(first, dg.DagsterEventType.STEP_FAILURE, "alpha")
    assert "| added | wrong |" in failure.step_failure_data.user_failure_data.metadata["drift"].value

    project.deliver(day(1), "alpha", "id,v\n11,a\n", suffix="_2")
    second = project.run(day(1), types=["alpha"])
    assert second.success
    assert day(1) in project.materialized("alpha")
    loads = project.query(
        "SELECT path, status FROM importer.loads WHERE business_date = %s ORDER BY load_id", day(1)
    )
    name = f"{day(1)}/acme/alpha"
    assert loads == [
        (f"{name}_1.csv", "loaded"), (f"{name}_2.csv", "refused"), (f"{name}_2.csv", "loaded"),
    ]  # fmt: skip
    # the figures are those of what stands, not of what this run happened to do
    [event] = project.events(second, dg.DagsterEventType.ASSET_MATERIALIZATION, "alpha")
    assert event.materialization.metadata["rows_loaded"].value == 2
    assert event.materialization.metadata["files_unchanged"].value == 1


def test_a_held_delivery_fails_its_step_until_it_is_released(project: Project):
    project.deliver(day(14), "beta", "id,v\n1,a\n" + "x,a\n" * 4)
    first = project.run(day(14), types=["beta"])
    [failed] = first.failed
    (load_id,) = project.query("SELECT load_id FROM importer.loads WHERE status = 'held'")[0]
    assert "beta.csv: held: 4 rejected records are more than 3 (gate.rejects)" in failed.error
    assert f"importer release {load_id}" in failed.error
    assert not project.events(first, dg.DagsterEventType.STEP_UP_FOR_RETRY, "beta")
    assert day(14) not in project.materialized("beta")
    assert gate_of(project, first) == (False, f"importer release {load_id}, or importer refuse {load_id}")
    # the schedule asks for it again, which changes nothing
    assert not project.run(day(14), types=["beta"]).success
    assert project.query("SELECT count(*) FROM importer.loads WHERE business_date = %s", day(14)) == [(1,)]

    released = subprocess.run(
        [sys.executable, "-m", "importer_dagster.cli", "release", str(load_id), "--reason", "fine"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert released.returncode == 0, released.stderr
    assert project.query("SELECT count(*) FROM beta WHERE _business_date = %s", day(14)) == [(1,)]
    again = project.run(day(14), types=["beta"])
    assert again.success
    assert day(14) in project.materialized("beta")
    assert gate_of(project, again) == (True, None)  # a person decided


def gate_of(project: Project, result: LaunchResult) -> tuple[bool, str | None]:
    checks = project.events(result, dg.DagsterEventType.ASSET_CHECK_EVALUATION, "beta")
    [found] = [c for e in checks if (c := e.asset_check_evaluation_data).check_name == "gate"]
    return found.passed, found.metadata["remedy"].value if "remedy" in found.metadata else None


def test_a_type_that_crashes_stops_no_other(project: Project):
    project.deliver(day(2), "alpha", "id,v\n20,boom\n")
    project.deliver(day(2), "beta", "id,v\n20,fine\n")
    project.deliver(day(2), "gamma", "id,alpha_id\n20,1\n")
    result = project.run(day(2))
    assert not result.success
    assert ends(result) == {"alpha": False, "beta": True, "gamma": True}
    assert project.query("SELECT count(*) FROM beta WHERE _business_date = %s", day(2)) == [(1,)]
    assert project.query("SELECT count(*) FROM alpha WHERE _business_date = %s", day(2)) == [(0,)]
    with dg.DagsterInstance.get() as instance:
        slots = instance.event_log_storage.get_concurrency_info(POOL)
    assert (slots.active_slot_count, slots.pending_step_count) == (0, 0)


def test_small_files_of_a_step_are_imported_together(project: Project):
    for number in range(4):
        project.deliver(day(30), "gamma", f"id,alpha_id\n{number},1\n", suffix=f"-{number}")
    project.deliver(day(30), "gamma", "id,alpha_id\nx,1\n", suffix="-bad")
    assert project.run(day(30), types=["gamma"]).success
    loads = "SELECT count(DISTINCT xmin::text), count(DISTINCT run_id), count(*), sum(rows_loaded)::int"
    assert project.query(
        f"{loads} FROM importer.loads WHERE type = 'gamma' AND business_date = %s", day(30)
    ) == [(2, 1, 5, 4)]


def test_a_file_that_ends_the_process_takes_no_other_along(project: Project):
    for name in ("1", "2", "3-poison", "4"):
        project.deliver(day(31), "gamma", "id,alpha_id\n1,1\n", suffix=f"-{name}")
    result = project.run(day(31), types=["gamma"])
    assert not result.success
    assert project.events(result, dg.DagsterEventType.STEP_UP_FOR_RETRY, "gamma")
    # the first try imports together what the next ones import one by one, up to the file that ends them
    assert project.query(
        "SELECT path FROM importer.loads WHERE type = 'gamma' AND business_date = %s ORDER BY 1", day(31)
    ) == [(f"2024-02-01/acme/gamma-{n}.csv",) for n in "12"]


def test_a_lost_connection_is_tried_again(project: Project, tmp_path: Path):
    # more often than the import's own attempts, so that the step's policy has to step in
    project.deliver(day(3), "beta", f"id,v\n1,cut 7 {tmp_path / 'count'}\n")
    result = project.run(day(3), types=["beta"])
    assert result.success
    assert len(project.events(result, dg.DagsterEventType.STEP_UP_FOR_RETRY, "beta")) == 1
    assert project.query("SELECT count(*) FROM beta WHERE _business_date = %s", day(3)) == [(1,)]


def test_a_range_marks_only_its_good_days(project: Project):
    for n, header in ((5, "id,v"), (6, "id,id"), (7, "id,v")):
        project.deliver(day(n), "beta", f"{header}\n{n},x\n")
    result = project.run(day(4), day(5), day(6), day(7), types=["beta"])
    assert len(result.runs) == 1
    assert not result.success
    assert {day(n) for n in (4, 5, 6, 7)} & project.materialized("beta") == {day(5), day(7)}
    assert result.failed[0].materialized == {day(5), day(7)}
    days = project.query(
        "SELECT DISTINCT _business_date FROM beta WHERE _business_date BETWEEN %s AND %s ORDER BY 1",
        day(4), day(7),
    )  # fmt: skip
    assert days == [(day(5),), (day(7),)]


def test_a_good_range_has_figures_for_each_day(project: Project):
    for n in (8, 9):
        project.deliver(day(n), "beta", "id,v\n" + f"{n},x\n" * n)
    result = project.run(day(8), day(9), types=["beta"])
    assert result.success
    events = project.events(result, dg.DagsterEventType.ASSET_MATERIALIZATION, "beta")
    assert {e.partition: e.materialization.metadata["rows_loaded"].value for e in events} == {
        day(8).isoformat(): 8, day(9).isoformat(): 9,
    }  # fmt: skip


def test_days_that_are_no_partitions_are_refused(project: Project):
    with pytest.raises(UsageError, match="2019-01-01"):
        project.run(date(2019, 1, 1))
    with pytest.raises(UsageError, match="No day"):
        project.run()


def test_ctrl_c_ends_the_steps_and_comes_out(project: Project, tmp_path: Path):
    project.deliver(day(15), "beta", f"id,v\n1,sleep {tmp_path / 'pid'}\n")
    code = (
        "import datetime, signal; from importer_dagster.settings import Settings;"
        "from importer_dagster.launch.runs import launch_daily;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"launch_daily(Settings.from_env(), [datetime.date({day(15):%Y, %-m, %-d})], definitions={DEFINITIONS!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "pid").exists)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    step = int((tmp_path / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(step) or psutil.Process(step).status() == psutil.STATUS_ZOMBIE, 10)
    assert project.query("SELECT count(*) FROM importer.loads WHERE business_date = %s", day(15)) == [(0,)]
    with dg.DagsterInstance.get() as instance:
        assert instance.event_log_storage.get_concurrency_info(POOL).active_slot_count == 0
        assert instance.get_runs(limit=1)[0].is_finished


def test_a_killed_command_leaves_no_run_and_no_slot(project: Project, tmp_path: Path):
    project.deliver(day(16), "beta", f"id,v\n1,sleep {tmp_path / 'pid'}\n")
    code = (
        "import datetime; from importer_dagster.settings import Settings;"
        "from importer_dagster.launch.runs import launch_daily;"
        f"launch_daily(Settings.from_env(), [datetime.date({day(16):%Y, %-m, %-d})], ['beta'], definitions={DEFINITIONS!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for((tmp_path / "pid").exists)
    with dg.DagsterInstance.get() as instance:
        assert end_orphans(instance) == []  # its process lives
        process.kill()
        process.wait()
        [run] = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        assert instance.event_log_storage.get_concurrency_info(POOL).active_slot_count == 1
        wait_for(lambda: end_orphans(instance) == [run.run_id], 30)
        assert instance.event_log_storage.get_concurrency_info(POOL).active_slot_count == 0
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
    # its orphaned step goes on writing, and a run beside it is safe all the same
    assert project.run(day(16), types=["beta"]).success
    wait_for(lambda: not slots_held(project), 30)
    assert project.query("SELECT count(*) FROM beta WHERE _business_date = %s", day(16)) == [(1,)]


def slots_held(project: Project) -> int:
    [(count,)] = project.query(
        "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
        "WHERE locktype = 'advisory' AND datname = current_database()"
    )
    return count


def test_serve_answers_and_leaves_nothing_behind(project: Project):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    code = (
        "import sys; from importer_dagster.settings import Settings;"
        "from importer_dagster.launch.runs import serve;"
        f"sys.exit(serve(Settings.from_env(), '127.0.0.1', {port}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    def answers() -> bool:
        assert process.poll() is None, process.communicate()[0]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    wait_for(answers, 120)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 3  # dagster dev, the webserver, the daemon
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 0, output
    assert "superseded" not in output
    assert [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


# --- the schedule ---------------------------------------------------------------------------


def tick(project: Project, today: date) -> list[dg.RunRequest]:
    """What the schedule asks for at six o'clock."""
    defs = build_defs(settings=project.settings)
    schedule = defs.resolve_schedule_def(SCHEDULE)
    with (
        dg.DagsterInstance.get() as instance,
        dg.build_schedule_context(
            instance,
            scheduled_execution_time=datetime(today.year, today.month, today.day, 6, tzinfo=UTC),
            repository_def=defs.get_repository_def(),
        ) as context,
    ):
        data = schedule.evaluate_tick(context)
        return list(data.run_requests or [])


def test_what_went_well_is_said_in_few_events(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    lines = step.GroupedLines(step.log)
    for number in range(step._LINES + 2):
        lines.add(f"{number}.")
    assert [r.message for r in caplog.records] == ["\n".join(f"{n}." for n in range(step._LINES))]
    lines.flush()
    lines.flush()
    assert [r.message for r in caplog.records][1:] == [f"{step._LINES}.\n{step._LINES + 1}."]
    lines._since -= step._MOMENT_S
    lines.add("long after")
    assert caplog.messages[-1] == "long after"


def test_the_schedule_asks_for_what_is_missing_and_only_that(project: Project):
    assert build_defs(settings=project.settings).resolve_schedule_def(SCHEDULE).default_status == (
        dg.DefaultScheduleStatus.RUNNING
    )
    today = day(40)
    project.deliver(day(20), "beta", "id,v\n1,x\n")  # longer ago than the schedule looks back
    for n in (30, 31, 32):
        project.deliver(day(n), "alpha", f"id,v\n{n},x\n")
        project.deliver(day(n), "beta", f"id,v\n{n},x\n")
    project.deliver(day(40), "beta", "id,id\n40,x\n")
    assert project.run(day(31), types=["beta"]).success
    requests = tick(project, today)
    asked = [({k.to_user_string() for k in r.asset_selection or ()}, gap_tags(r.tags)) for r in requests]
    assert asked == [
        ({"beta"}, range_tags((day(30), day(30)))),
        ({"alpha"}, {RANGE_START: day(30).isoformat(), RANGE_END: day(32).isoformat()}),
        ({"beta"}, range_tags((day(32), day(32)))),
        ({"beta"}, range_tags((day(40), day(40)))),
    ]
    # the same tick again asks for the same runs, the next one for others
    keys = [r.run_key for r in requests]
    assert len(set(keys)) == 4
    assert [r.run_key for r in tick(project, today)] == keys

    for request in requests:
        first = date.fromisoformat(request.tags.get(RANGE_START) or request.tags[PARTITION])
        last = date.fromisoformat(request.tags.get(RANGE_END) or request.tags[PARTITION])
        project.run(
            *days_between(first, last), types=[k.to_user_string() for k in request.asset_selection or ()]
        )
    # what was refused would be refused again: it is not asked for until the file changes
    assert tick(project, today + timedelta(days=1)) == []
    project.deliver(day(40), "beta", "id,v\n40,x\n")
    [left] = tick(project, today + timedelta(days=2))
    assert gap_tags(left.tags) == range_tags((day(40), day(40)))
    assert left.run_key not in keys


def test_a_day_is_not_done_while_a_marker_is_missing(project: Project):
    spec = project.root / "specs" / "own" / "beta.yaml"
    before = spec.read_text()
    try:
        spec.write_text(before + '\ncomplete: {marker: "{path}.done"}\n')
        project.deliver(day(95), "beta", "id,v\n951,x\n")
        project.deliver(day(95), "beta", "id,v\n952,x\n", suffix="_2")
        folder = project.root / "home" / "inbox" / day(95).isoformat() / "acme"
        (folder / "beta.csv.done").touch()
        assert project.run(day(95), types=["beta"]).success
        assert project.query("SELECT id FROM beta WHERE id > 950") == [(951,)]
        assert day(95) not in project.materialized("beta")
        (folder / "beta_2.csv.done").touch()
        assert project.run(day(95), types=["beta"]).success
        assert project.query("SELECT id FROM beta WHERE id > 950 ORDER BY id") == [(951,), (952,)]
        assert day(95) in project.materialized("beta")
    finally:
        spec.write_text(before)


def test_nothing_missing_is_a_skip(project: Project):
    assert tick(project, day(80)) == []


def test_gaps():
    a, b, c = (date(2024, 2, n) for n in (28, 29, 27))
    march = date(2024, 3, 1)
    assert contiguous([march, a, b]) == [(a, march)]
    assert gaps_of({"x": {a, march}, "y": {c, a}}) == {(c, a): ["y"], (a, a): ["x"], (march, march): ["x"]}
    assert contiguous([]) == []


def test_cells_of_a_preview_are_short_and_on_one_line():
    [_, _, row] = markdown_table([{"a": "x" * 500, "b": "two\nlines | bar", "c": None}]).splitlines()
    assert row == f"| {'x' * CELL_LENGTH}… | two lines \\| bar |  |"


# --- waiting for the pool ----------------------------------------------------------------


def test_a_run_that_waits_for_the_pool_sleeps(project: Project):
    """Dagster's own executor takes 65 to 92 % of a core for that."""
    project.deliver(day(70), "beta", "id,v\n1,a\n")
    shares: list[float] = []

    def measure_and_let_go() -> None:
        with dg.DagsterInstance.get() as instance:
            storage = instance.event_log_storage
            while not storage.get_concurrency_info(POOL).pending_step_count:
                time.sleep(0.1)
            before = time.process_time()
            time.sleep(3)
            shares.append((time.process_time() - before) / 3)
            storage.free_concurrency_slots_for_run("somebody")

    with dg.DagsterInstance.get() as instance:
        for n in range(3):
            assert instance.event_log_storage.claim_concurrency_slot(POOL, "somebody", f"s{n}").is_claimed
    thread = threading.Thread(target=measure_and_let_go)
    thread.start()
    result = project.run(day(70), types=["beta"])
    thread.join()
    assert ends(result) == {"beta": True}
    assert shares[0] < 0.3


def test_a_raised_cap_lets_a_run_go_on_that_waits_for_the_pool(project: Project):
    project.deliver(day(71), "beta", "id,v\n1,a\n")
    waited: list[int] = []

    def raise_the_cap() -> None:
        with dg.DagsterInstance.get() as instance:
            while not (count := instance.event_log_storage.get_concurrency_info(POOL).pending_step_count):
                time.sleep(0.1)
            waited.append(count)
        subprocess.run([sys.executable, "-m", "importer_dagster.cli", "cap", "4"], check=True)

    with dg.DagsterInstance.get() as instance:
        for n in range(3):
            assert instance.event_log_storage.claim_concurrency_slot(POOL, "somebody", f"s{n}").is_claimed
        thread = threading.Thread(target=raise_the_cap)
        thread.start()
        try:
            result = project.run(day(71), types=["beta"])
            thread.join()
            assert (ends(result), waited) == ({"beta": True}, [1])
            assert instance.event_log_storage.get_concurrency_info(POOL).claimed_slots, "they are still taken"
        finally:
            instance.event_log_storage.free_concurrency_slots_for_run("somebody")
            subprocess.run([sys.executable, "-m", "importer_dagster.cli", "cap", "--reset"], check=True)
