"""What the importer relies on in Dagster beyond its public interface, one test for each, named after it.

A test that fails after an upgrade of Dagster names the module that must be looked at. Until that is done,
``IMPORTER_STOCK_DAGSTER=1`` turns off what ``defs/storage.py`` and ``defs/executor.py`` change.
"""

import importlib.util
import inspect
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.execution.api import create_execution_plan, execute_run_iterator
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.executor import multiprocess
from dagster._core.storage import tags
from dagster._utils.schedules import schedule_execution_time_iterator
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.utils import pg_url_from_config

from importer_dagster.defs import executor, runs
from importer_dagster.defs.schedule import PRELOAD, last_tick
from importer_dagster.defs.storage import KeepingPostgresStorage
from importer_dagster.settings import Settings
from importer_dagster_tests.helpers.project import Project, day

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


# --- defs/storage.py --------------------------------------------------------------------


def test_storage_constructor_and_attributes(project: Project) -> None:
    assert parameters(DagsterPostgresStorage.__init__)[:4] == [
        "self",
        "postgres_url",
        "should_autocreate_tables",
        "inst_data",
    ]
    plain = DagsterPostgresStorage(project.environment.dagster_url, False)
    assert plain._event_log_storage is plain.event_log_storage
    for storage in (plain.run_storage, plain.event_log_storage, plain.schedule_storage):
        assert isinstance(storage._engine, sa.Engine)  # type: ignore[attr-defined]


def test_storage_all_three_use_the_one_engine(project: Project) -> None:
    kept = KeepingPostgresStorage(project.environment.dagster_url, False)
    engine = kept._event_log_storage._engine  # type: ignore[attr-defined]
    checked_out: list[str] = []
    sa.event.listen(engine, "checkout", lambda *_: checked_out.append("one"))
    kept.run_storage.get_runs(limit=1)
    assert len(checked_out) >= 1
    before = len(checked_out)
    kept.schedule_storage.all_instigator_state()
    assert len(checked_out) > before
    before = len(checked_out)
    kept.event_log_storage.get_pool_limits()
    assert len(checked_out) > before
    engine.dispose()


def test_storage_from_config_value_and_url() -> None:
    assert parameters(DagsterPostgresStorage.from_config_value) == ["inst_data", "config_value"]
    assert pg_url_from_config({"postgres_url": "postgresql://h/d"}) == "postgresql://h/d"


def test_storage_has_asset_key_col_is_what_dagster_asks() -> None:
    assert parameters(PostgresEventLogStorage.has_asset_key_col) == ["self", "column_name"]
    assert "self.has_asset_key_col(" in inspect.getsource(PostgresEventLogStorage.can_read_asset_status_cache)


def test_storage_notify_is_read_by_nobody() -> None:
    source = inspect.getsource(PostgresEventLogStorage.store_event)
    assert "NOTIFY {CHANNEL_NAME}" in source and "LISTEN/NOTIFY no longer used" in source
    assert "SqlPollingEventWatcher" in inspect.getsource(PostgresEventLogStorage.watch)


def test_materialized_connection_and_tables(project: Project) -> None:
    """The columns that the query names; test_catchup compares its answers with Dagster's own."""
    with dg.DagsterInstance.get() as instance, instance.event_log_storage.index_connection() as conn:  # type: ignore[attr-defined]
        columns = {
            table: {c["name"] for c in sa.inspect(conn).get_columns(table)}
            for table in ("event_logs", "asset_keys")
        }
    assert columns["event_logs"] >= {"asset_key", "partition", "dagster_event_type", "timestamp"}
    assert columns["asset_keys"] >= {"asset_key", "asset_details"}
    assert dg.DagsterEventType.ASSET_MATERIALIZATION.value == "ASSET_MATERIALIZATION"


def test_materialized_wipe_timestamp(project: Project) -> None:
    key = dg.AssetKey("wiped")
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="2024-01-01"))
        instance.wipe_assets([key])
        with instance.event_log_storage.index_connection() as conn:  # type: ignore[attr-defined]
            details = conn.scalar(
                sa.text("SELECT asset_details FROM asset_keys WHERE asset_key = :key"),
                {"key": key.to_string()},
            )
    assert abs(json.loads(details)["last_wipe_timestamp"] - datetime.now(UTC).timestamp()) < 600


# --- defs/executor.py -------------------------------------------------------------------


def test_executor_makes_the_replaced_classes() -> None:
    source = inspect.getsource(multiprocess.MultiprocessExecutor.execute)
    assert "InstanceConcurrencyContext(plan_context.instance, plan_context.dagster_run)" in source
    assert "ActiveExecution(" in source
    executor.install()
    assert multiprocess.ActiveExecution is executor.PatientExecution  # type: ignore[attr-defined]
    assert multiprocess.InstanceConcurrencyContext is executor.OwnedRun  # type: ignore[attr-defined]


def test_executor_active_execution() -> None:
    assert parameters(ActiveExecution.get_steps_to_execute) == ["self", "limit"]
    assert isinstance(ActiveExecution.has_in_flight_steps, property)
    assert isinstance(ActiveExecution.is_complete, property)


def test_executor_instance_concurrency_context() -> None:
    assert parameters(InstanceConcurrencyContext.__init__) == ["self", "instance", "dagster_run"]


# --- defs/runs.py, defs/run_recovery.py ---------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "dagster_s"),
    [
        (runs.PARTITION, tags.PARTITION_NAME_TAG),
        (runs.RANGE_START, tags.ASSET_PARTITION_RANGE_START_TAG),
        (runs.RANGE_END, tags.ASSET_PARTITION_RANGE_END_TAG),
        (runs.BY_SCHEDULE, tags.SCHEDULE_NAME_TAG),
        (runs.BY_SENSOR, tags.SENSOR_NAME_TAG),
        (runs.PARENT, tags.PARENT_RUN_ID_TAG),
        (runs.RETRY, tags.RETRY_NUMBER_TAG),
        (runs.WILL_RETRY, tags.WILL_RETRY_TAG),
        (runs.AUTO_RETRY_RUN, tags.AUTO_RETRY_RUN_ID_TAG),
    ],
)
def test_runs_names_of_tags(ours: str, dagster_s: str) -> None:
    assert ours == dagster_s


def test_run_recovery_name_of_the_asset_job() -> None:
    from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME

    from importer_dagster.defs.run_recovery import _ASSET_JOB

    assert IMPLICIT_ASSET_JOB_NAME == _ASSET_JOB


# --- defs/schedule.py ---------------------------------------------------------------------


@pytest.mark.parametrize("cron", ["0 6 * * *", "30 2 * * *", "*/15 * * * *", "15 3,14 * * 1", "@daily"])
@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_schedule_last_tick_is_dagsters(cron: str, timezone: str, tmp_path: Any) -> None:
    """As Dagster's daemon counts ticks, also where clocks change."""
    settings = Settings(None, tmp_path, "", tmp_path, schedule=cron, timezone=timezone)
    for start in (datetime(2024, 3, 31, tzinfo=UTC), datetime(2024, 11, 3, 4, tzinfo=UTC)):
        for minutes in (0, 30, 59, 60, 90, 150, 210):
            now = start + timedelta(minutes=minutes)
            ticks = schedule_execution_time_iterator(now.timestamp(), cron, timezone, ascending=False)
            assert last_tick(settings, now) == next(ticks)


def test_schedule_preloaded_modules_exist() -> None:
    assert [name for name in PRELOAD if importlib.util.find_spec(name) is None] == []


# --- launch/preload.py, launch/runs.py ------------------------------------------------------


def test_preload_create_execution_plan() -> None:
    assert parameters(create_execution_plan)[0] == "job"


def test_launch_functions() -> None:
    assert parameters(ReconstructableRepository.for_module)[:3] == ["module", "fn_name", "working_directory"]
    assert parameters(execute_run_iterator)[:3] == ["job", "dagster_run", "instance"]
    assert parameters(ReconstructableRepository.get_reconstructable_job) == ["self", "name"]
    assert "asset_selection" in parameters(ReconstructableJob.get_subset)
    assert {"job_def", "run_id", "tags", "run_config", "asset_selection", "job_code_origin"} <= set(
        parameters(dg.DagsterInstance.create_run_for_job)
    )


def test_launch_a_run_may_have_any_uuid_as_its_id(project: Project) -> None:
    run_id = str(uuid.uuid4())
    with dg.DagsterInstance.get() as instance:
        run = instance.add_run(dg.DagsterRun(job_name="any", run_id=run_id))
        assert run.run_id == run_id
        instance.delete_run(run_id)


# --- without all of this ----------------------------------------------------------------


STOCK = """
import sys
from datetime import date
import dagster as dg
from dagster._core.executor import multiprocess
from importer_dagster.defs.storage import KeepingPostgresStorage, materialized
from importer_dagster.launch.runs import launch_daily
from importer_dagster.settings import Settings
day = sys.argv[1]
result = launch_daily(Settings.from_env(), [date.fromisoformat(day)], ["alpha"], definitions=sys.argv[2])
with dg.DagsterInstance.get() as instance:
    storage = type(instance.event_log_storage).__module__
    done = materialized(instance, [dg.AssetKey("alpha")], [day])
print(result.success, storage, multiprocess.ActiveExecution.__module__, len(done))
"""


def test_a_run_with_the_stock_settings(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """IMPORTER_STOCK_DAGSTER=1: a real run through Dagster's own storage and executor."""
    from importer_dagster_tests.helpers.project import DEFINITIONS

    project.deliver(day(60), "alpha", "id,v\n6000,x\n")
    monkeypatch.setenv("IMPORTER_STOCK_DAGSTER", "1")
    command = [sys.executable, "-W", "ignore", "-c", STOCK, day(60).isoformat(), DEFINITIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [
        "True",
        "dagster_postgres.event_log.event_log",
        "dagster._core.execution.plan.active",
        "1",
    ], done.stderr
    assert project.query("SELECT v FROM alpha WHERE id = 6000") == [("x",)]
