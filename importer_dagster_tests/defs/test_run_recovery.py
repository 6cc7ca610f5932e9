"""What a killed process leaves running: its steps, and its sessions in the database, end by themselves and soon."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psutil
import psycopg
import pytest

from importer_dagster.defs import run_recovery
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.project import DEFINITIONS, Project, day
from reliability.patience import wait_for

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

RUN = f"""
import sys
from datetime import date
from importer_dagster.launch.runs import launch_daily
from importer_dagster.settings import Settings
launch_daily(Settings.from_env(), [date.fromisoformat(sys.argv[1])], ["alpha"], definitions={DEFINITIONS!r})
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("hangs", [False, True])
def test_a_step_ends_with_its_run(project: Project, tmp_path: Path, hangs: bool) -> None:
    """Also one that hangs so that no line of Python runs any more (Linux)."""
    if hangs and sys.platform != "linux":
        pytest.skip("only Linux ends a process with its parent")
    reached = tmp_path / "reached"
    when = day(40 + hangs)
    project.deliver(when, "alpha", f"id,v\n1,sleep {reached}\n")
    command = subprocess.Popen([sys.executable, "-c", RUN, when.isoformat()], stderr=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: reached.exists() and reached.read_text(), 60)
        step = int(reached.read_text())  # it sleeps for five seconds
        if hangs:
            os.kill(step, signal.SIGSTOP)
    finally:
        command.kill()
        command.wait()
    assert wait_for(lambda: gone(step), 3), "the step has outlived its run"
    assert wait_for(lambda: not project.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"), 3)
    assert project.run(when, types=["alpha"]).success


# a run as a daemon launches it: whoever started it does not look after it
UNOWNED = f"""
import contextlib
from importer_dagster.launch import runs
runs.owning = lambda run_id: contextlib.nullcontext({{}})
{RUN}
"""


def test_a_run_that_died_with_all_around_it_is_ended(project: Project, tmp_path: Path) -> None:
    """As when a container with the daemon, its code server and the runs is killed."""
    reached = tmp_path / "reached"
    when = day(45)
    project.deliver(when, "alpha", f"id,v\n1,sleep {reached}\n")
    command = subprocess.Popen([sys.executable, "-c", UNOWNED, when.isoformat()], stderr=subprocess.DEVNULL)
    assert wait_for(lambda: reached.exists() and reached.read_text(), 60)
    with dg.DagsterInstance.get() as instance:
        [run] = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        assert run.tags[run_recovery.LAUNCHED_BY] == "daemon"
        assert run_recovery.end_orphans(instance) == []
        command.kill()
        command.wait()
        # Dagster's retry of it, queued with its tags, is not taken for it
        retry = instance.add_run(
            dg.DagsterRun(
                job_name=run.job_name, status=dg.DagsterRunStatus.STARTING, tags={**run.tags, "retry": "1"}
            )
        )
        assert wait_for(lambda: run_recovery.end_orphans(instance) == [run.run_id], 10)
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        assert instance.get_run_by_id(retry.run_id).status == dg.DagsterRunStatus.STARTING
        instance.delete_run(retry.run_id)
    assert project.run(when, types=["alpha"]).success


# a run whose process is killed in the moment between Dagster's "started" and its own word
KILLED_EARLY = f"""
import contextlib, os
from importer_dagster.defs import run_recovery
from importer_dagster.launch import runs
runs.owning = lambda run_id: contextlib.nullcontext({{}})
run_recovery.own_for_good = lambda instance, run_id: os.kill(os.getpid(), 9)
{RUN}
"""


def test_a_run_that_died_before_it_said_a_word_is_ended(project: Project) -> None:
    when = day(46)
    project.deliver(when, "alpha", "id,v\n1,x\n")
    assert (
        subprocess.run([sys.executable, "-c", KILLED_EARLY, when.isoformat()], check=False).returncode == -9
    )
    now = datetime.now(UTC)
    with dg.DagsterInstance.get() as instance:
        [run] = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        assert run_recovery.LAUNCHED_BY not in run.tags
        assert (
            run_recovery.end_orphans(instance, now=now + timedelta(seconds=50)) == []
        )  # it may still say one
        with run_recovery.owning(run.run_id):  # it lives, and is about to
            assert run_recovery.end_orphans(instance, now=now + timedelta(seconds=70)) == []
        assert run_recovery.end_orphans(instance, now=now + timedelta(seconds=70)) == [run.run_id]
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        with pytest.raises(RuntimeError, match="was ended before it began"):
            run_recovery.own_for_good(instance, run.run_id)
    assert project.run(when, types=["alpha"]).success


@pytest.mark.parametrize(
    ("job", "events", "is_ended"),
    [
        ("retention", ["PIPELINE_START"], True),
        ("__ASSET_JOB", ["PIPELINE_START"], True),  # assets chosen in the UI
        ("__ASSET_JOB", ["PIPELINE_START", "STEP_START"], False),  # somebody's, whose executor owns nothing
        ("somebody_s", ["PIPELINE_START"], False),
    ],
)
def test_which_runs_should_have_said_that_they_live(
    project: Project,
    job: str,
    events: list[str],
    is_ended: bool,
) -> None:
    later = datetime.now(UTC) + timedelta(minutes=2)
    with dg.DagsterInstance.get() as instance:
        run = instance.add_run(dg.DagsterRun(job_name=job, status=dg.DagsterRunStatus.STARTING))
        for event in events:
            instance.report_dagster_event(dg.DagsterEvent(event, job, step_key="a step"), run.run_id)
        assert run_recovery.end_orphans(instance, now=later) == ([run.run_id] if is_ended else [])
        instance.delete_run(run.run_id)


def test_a_step_in_the_runs_own_process_watches_nobody() -> None:
    before = [t.name for t in run_recovery.threading.enumerate()]
    run_recovery.end_with_parent()
    assert [t.name for t in run_recovery.threading.enumerate()] == before


def test_a_statement_ends_soon_after_its_client(warehouse: Warehouse) -> None:
    code = (
        "import sys; from importer_dagster.warehouse import Warehouse\n"
        "with Warehouse(sys.argv[1]).connect() as conn: conn.execute('SELECT pg_sleep(60)')"
    )
    client = subprocess.Popen([sys.executable, "-c", code, warehouse.url])

    def at_work() -> bool:
        with psycopg.connect(warehouse.url) as conn:
            found = conn.execute("SELECT 1 FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'").fetchall()
        return bool(found)

    assert wait_for(at_work, 30)
    client.kill()
    client.wait()
    assert wait_for(lambda: not at_work(), 6)


def test_a_server_that_cannot_look_is_used_all_the_same(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL below 14 does not know the setting, other systems refuse it: here, a name that nobody knows."""
    monkeypatch.setattr("importer_dagster.warehouse._CLIENT_CHECK", "nobody_knows_this_setting")
    for _again in range(2):
        with warehouse.connect() as conn:
            assert conn.execute("SELECT current_setting('lock_timeout')").fetchone() == ("1min",)
