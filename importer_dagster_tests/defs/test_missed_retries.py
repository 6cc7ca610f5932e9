"""A failed run that Dagster's daemon overlooked is reported again, and then its retry comes (dagster-io/dagster#33741)."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon

from importer_dagster.defs.run_recovery import report_failure_again
from importer_dagster.defs.runs import ACTIVE, JOB, unfinished
from importer_dagster.launch.environment import PROJECT_ROOT as ROOT
from importer_dagster_tests.helpers.project import DEFINITIONS, Project, day

pytestmark = pytest.mark.filterwarnings(
    "ignore::dagster.BetaWarning",
    "ignore::dagster.PreviewWarning",
    # Dagster's own: its daemon's words, and its code server, which ends on its own
    "ignore:The 'warn' method is deprecated:DeprecationWarning",
    "ignore:subprocess .* is still running:ResourceWarning",
)


@pytest.fixture
def daemon(project: Project) -> Iterator[WorkspaceProcessContext]:
    """What Dagster's daemon works with."""
    instance = dg.DagsterInstance.get()
    target = ModuleTarget(DEFINITIONS, None, str(ROOT), None)
    with instance, WorkspaceProcessContext(instance, target) as context:
        yield context


def look(daemon: WorkspaceProcessContext) -> None:
    """Have Dagster's daemon look for runs that it is to run again."""
    list(EventLogConsumerDaemon().run_iteration(daemon))


def queued_run(instance: dg.DagsterInstance, when: str) -> dg.DagsterRun:
    """A run that waits in the queue, as the UI or a command launches it."""
    before = {run.run_id for run in instance.get_runs()}
    tags = json.dumps({"dagster/partition": when})
    subprocess.run(
        [sys.executable, "-m", "dagster", "job", "launch", "-m", DEFINITIONS, "-j", JOB, "--tags", tags],
        check=True,
        capture_output=True,
        cwd=ROOT,
    )
    [run] = [r for r in instance.get_runs() if r.run_id not in before]
    return run


def test_a_failure_that_the_daemon_overlooked_is_reported_again(
    project: Project,
    daemon: WorkspaceProcessContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instance = daemon.instance
    run = queued_run(instance, day(70).isoformat())

    def retries() -> list[dg.DagsterRun]:
        return [r for r in instance.get_runs() if r.parent_run_id == run.run_id]

    look(daemon)  # its first look only notes where the log ends
    with monkeypatch.context() as patched:
        storage = instance.run_storage
        plain = storage.handle_run_event

        def late(*args, **options) -> None:
            look(daemon)  # the event is stored, the status is not
            plain(*args, **options)

        patched.setattr(storage, "handle_run_event", late)
        instance.report_run_failed(run, "its process was killed")
    failed = instance.get_run_by_id(run.run_id)
    assert failed is not None and failed.status == dg.DagsterRunStatus.FAILURE
    assert failed.tags["dagster/will_retry"] == "true"
    look(daemon)
    assert retries() == []  # Dagster says that it will, and never does

    assert report_failure_again(instance) == []  # it may still come
    later = datetime.now(UTC) + timedelta(minutes=2)
    assert report_failure_again(instance, now=later) == [run.run_id]
    assert report_failure_again(instance, now=later + timedelta(minutes=2)) == []  # once
    look(daemon)
    [retry] = retries()
    assert retry.status == dg.DagsterRunStatus.QUEUED
    assert retry.tags["dagster/partition"] == day(70).isoformat()
    # one that Dagster did not overlook is left alone
    assert report_failure_again(instance, now=later + timedelta(minutes=4)) == []
    for made in (retry, run):
        instance.delete_run(made.run_id)


def test_a_failed_run_counts_until_its_retry_has_ended(
    project: Project,
    daemon: WorkspaceProcessContext,
) -> None:
    instance = daemon.instance
    run = queued_run(instance, day(72).isoformat())

    def counted() -> list[str]:
        return [r.run_id for r in unfinished(instance, job=JOB) if r.root_run_id in (None, run.run_id)]

    look(daemon)
    assert counted() == [run.run_id]
    instance.report_run_failed(run, "its process was killed")
    assert not instance.get_runs(dg.RunsFilter(statuses=ACTIVE))
    assert counted() == [run.run_id]  # else others would be asked for in its place, and it came on top
    look(daemon)
    [retry] = [r for r in instance.get_runs() if r.parent_run_id == run.run_id]
    assert counted() == [retry.run_id]
    instance.report_run_failed(retry, "killed again, and that was the last try")
    assert counted() == []
    for made in (retry, run):
        instance.delete_run(made.run_id)


def test_a_retry_that_does_not_come_holds_nothing_up_for_long(project: Project) -> None:
    with dg.DagsterInstance.get() as instance:
        run = instance.add_run(dg.DagsterRun(job_name=JOB, status=dg.DagsterRunStatus.STARTED))
        instance.report_run_failed(run, "its process was killed")
        now = datetime.now(UTC)
        assert run.run_id in {r.run_id for r in unfinished(instance, now=now + timedelta(minutes=2))}
        assert run.run_id not in {r.run_id for r in unfinished(instance, now=now + timedelta(minutes=4))}
        instance.delete_run(run.run_id)


def test_what_dagster_will_not_run_again_is_left_alone(project: Project) -> None:
    with dg.DagsterInstance.get() as instance:
        run = instance.add_run(
            dg.DagsterRun(job_name=JOB, status=dg.DagsterRunStatus.STARTED, tags={"dagster/max_retries": "0"})
        )
        instance.report_run_failed(run)
        assert report_failure_again(instance, now=datetime.now(UTC) + timedelta(minutes=2)) == []
        instance.delete_run(run.run_id)
