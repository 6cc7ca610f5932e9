"""Runs whose process died without a word: ended by the next launch, or within a minute by the daemon.

Dagster's code server looks after the processes of runs that the daemon launched. It
cannot where it died with them, as when a container is killed, nor look after runs of
commands: such a run would stay "started" for half a day, keep its slots of the pool,
and its days would count as being imported. So the process of each run holds an advisory
lock in Dagster's database as long as it lives; a run that says so and whose lock is
free is an orphan. It says so a moment after Dagster's records say "started"; a run
that was killed between the two is one that has been started for long and says nothing.

The steps of a run that lost its process end by themselves (:func:`end_with_parent`).

What does not belong here: slots in the warehouse (those vanish with their session).
"""

import ctypes
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psutil
import psycopg
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

from importer_dagster.defs.runs import JOB, RETENTION

LAUNCHED_BY = "importer/launched_by"
PROCESS = "importer/process"
RUN_LOCKS = 0x1A57E004
_URL = "IMPORTER_DAGSTER_URL"

_ORPHANED = 75  # exit code of a step whose run is gone
_PR_SET_PDEATHSIG = 1

_OWNED_WITHIN = timedelta(seconds=60)  # of its start; it takes milliseconds
_ASSET_JOB = "__ASSET_JOB"  # begins the name of Dagster's job of assets that were chosen in the UI

_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@contextmanager
def owning(run_id: str) -> Iterator[dict[str, str]]:
    """Own a run during the block, which creates it with the tags that this returns."""
    with _connect() as conn:
        conn.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (RUN_LOCKS, run_id))
        yield {LAUNCHED_BY: "importer", PROCESS: f"{_this_process()} {run_id}"}


_owned: dict[str, ExitStack] = {}  # by the process of a run that the daemon launched


def own_for_good(instance: dg.DagsterInstance, run_id: str) -> None:
    """Own a run until this process ends, unless it does already: a lock that is given back means that it died.

    Raises RuntimeError for a run that has been ended meanwhile, which somebody else may be doing again.
    """
    run = instance.get_run_by_id(run_id)
    if run is not None and run.is_finished:
        raise RuntimeError(f"Run {run_id} was ended before it began: it is {run.status.value}.")
    if run is None or _URL not in os.environ or run.tags.get(PROCESS) == f"{_this_process()} {run_id}":
        return
    for stack in _owned.values():  # of runs before, in a process that has several
        stack.close()
    _owned.clear()
    with ExitStack() as stack:
        tags = stack.enter_context(owning(run_id))
        instance.add_run_tags(run_id, {**tags, LAUNCHED_BY: "daemon"})
        _owned[run_id] = stack.pop_all()


def end_with_parent() -> None:
    """Let this step's process end when the process of its run is gone: its work would be done a second time.

    What it had begun is rolled back by the database. A step that runs in its run's
    own process has no parent to look after.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent,), name="parent watch", daemon=True).start()


def _wait_and_end(parent: Any) -> None:
    parent.join()
    os._exit(_ORPHANED)  # no clean-up: whatever hangs would hang that, too


def die_with_parent() -> None:
    """The same by the kernel, for a process that hangs outside of Python; only Linux can do so.

    Its parent is the process that steps are forked from, which ends with the run's.
    """
    parent = os.getppid()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was quicker
        os._exit(_ORPHANED)


def end_orphans(instance: dg.DagsterInstance, *, now: datetime | None = None) -> list[str]:
    """Fail the runs whose owner is gone, or never came, and free their slots; returns their ids."""
    runs = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED, tags={LAUNCHED_BY: ["importer", "daemon"]}))
    suspects = [run for run in runs if _is_owned(run) and not _lives(run.tags[PROCESS])]
    suspects += _never_owned(instance, now or datetime.now(UTC))
    if not suspects:
        return []
    with _connect() as conn:
        ended = [run for run in suspects if _is_free(conn, run.run_id)]
        for run in ended:
            instance.report_run_failed(run, "The process that this run belonged to was killed.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in ended]


def _is_owned(run: dg.DagsterRun) -> bool:
    # Dagster's own retry of a run has the tags of that one, until its process gives it its own
    return run.tags.get(PROCESS, "").endswith(f" {run.run_id}")


def _never_owned(instance: dg.DagsterInstance, now: datetime) -> list[dg.DagsterRun]:
    records = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    latest = (now - _OWNED_WITHIN).timestamp()
    old = [r.dagster_run for r in records if r.start_time is not None and r.start_time < latest]
    return [run for run in old if not _is_owned(run) and _should_be_owned(instance, run)]


def _should_be_owned(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether it is a run of ours; one of assets that somebody added may have another executor, which owns nothing."""
    if run.job_name in (JOB, RETENTION):
        return True
    begun = {dg.DagsterEventType.STEP_START}
    return run.job_name.startswith(_ASSET_JOB) and not instance.event_log_storage.get_logs_for_run(
        run.run_id, of_type=begun, limit=1
    )


def _connect() -> psycopg.Connection:
    return psycopg.connect(os.environ[_URL], autocommit=True, application_name="importer run")


def _is_free(conn: psycopg.Connection, run_id: str) -> bool:
    """Whether nobody holds the run's lock; taken for the rest of this session if so."""
    row = conn.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", (RUN_LOCKS, run_id)).fetchone()
    return row == (True,)


def _this_process() -> str:
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time()}"


def _lives(process: str) -> bool:
    """Whether a process of this host lives; its lock may be lost when the database restarts."""
    host, number, started, *_ = [*process.split(" "), "", "", ""]
    with suppress(psutil.Error, ValueError):
        found = psutil.Process(int(number))
        alive = found.status() != psutil.STATUS_ZOMBIE and str(found.create_time()) == started
        return host == socket.gethostname() and alive
    return False


REPORTED_AGAIN = "importer/told_again"
_AFTER = timedelta(seconds=60)  # the daemon looks every 5 seconds; it may have work of others before it
_WITHIN = timedelta(days=1)  # where the daemon was down for longer, the catch-up has its day by now


def report_failure_again(instance: dg.DagsterInstance, *, now: datetime | None = None) -> list[str]:
    """Report overlooked failures once more, each a single time; returns the ids of the runs."""
    now = now or datetime.now(UTC)
    records = instance.get_run_records(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE],
            tags={WILL_RETRY_TAG: "true"},
            updated_after=now - _WITHIN,
        )
    )
    overlooked = [
        r.dagster_run
        for r in records
        if r.end_time is not None
        and r.end_time < (now - _AFTER).timestamp()
        and AUTO_RETRY_RUN_ID_TAG not in r.dagster_run.tags
        # a retry has the tags of the run that it repeats
        and r.dagster_run.tags.get(REPORTED_AGAIN) != r.dagster_run.run_id
    ]
    for run in overlooked:
        instance.add_run_tags(run.run_id, {REPORTED_AGAIN: run.run_id})
        instance.report_run_failed(run, "Said once more, since Dagster's daemon has not run it again.")
    return [run.run_id for run in overlooked]
