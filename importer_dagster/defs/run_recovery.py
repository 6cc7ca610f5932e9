"""Runs that lost their process are ended, and failed runs that Dagster's daemon overlooked are reported again.

Dagster's code server watches the processes of runs that the daemon launched. It cannot do so when it
died with them, as when a container is killed, and it does not know the runs of commands. Such a run
would stay "started" for half a day, keep its slots of the pool, and its days would count as being
imported. So the process of each run owns it: it holds an advisory lock in Dagster's database while it
lives, and says so in tags of the run. A run with these tags whose lock is free has lost its process.
A run gets its tags a moment after Dagster records it as started. One that was killed in that
moment is found by being started for a minute without them.

The steps of such a run end by themselves (:func:`end_with_parent`, :func:`die_with_parent`).

What does not belong here: slots of the warehouse, which end with their database session.
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

import dagster as dg
import psutil
import psycopg

from importer_dagster.defs.runs import AUTO_RETRY_RUN, JOB, RETENTION, WILL_RETRY
from importer_dagster.settings import stock_dagster

LAUNCHED_BY = "importer/launched_by"
PROCESS = "importer/process"
RUN_LOCKS = 0x1A57E004
_URL = "IMPORTER_DAGSTER_URL"

_ORPHANED = 75  # exit code of a step whose run has lost its process
_PR_SET_PDEATHSIG = 1

_OWNED_WITHIN = timedelta(seconds=60)  # of its start; it takes milliseconds
_ASSET_JOB = "__ASSET_JOB"  # begins the name of Dagster's job for assets that were chosen in the UI

_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


# --- the process of a run ---------------------------------------------------------------


@contextmanager
def owning(run_id: str) -> Iterator[dict[str, str]]:
    """Own a run during the block; yields the tags that the block must create it with."""
    with _connect() as conn:
        conn.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (RUN_LOCKS, run_id))
        yield {LAUNCHED_BY: "importer", PROCESS: f"{_this_process()} {run_id}"}


_owned: dict[str, ExitStack] = {}  # run id → its lock, in the process of a run that the daemon launched


def own_for_good(instance: dg.DagsterInstance, run_id: str) -> None:
    """Own a run until this process ends, unless it owns the run already.

    The lock is not given back before, since a free lock means that the process died. Raises
    RuntimeError for a run that has been ended meanwhile, since its days may be imported by another one.
    """
    run = instance.get_run_by_id(run_id)
    if run is not None and run.is_finished:
        raise RuntimeError(f"Run {run_id} was ended before it began: it is {run.status.value}.")
    if run is None or _URL not in os.environ or run.tags.get(PROCESS) == f"{_this_process()} {run_id}":
        return
    for stack in _owned.values():  # earlier runs of this process
        stack.close()
    _owned.clear()
    with ExitStack() as stack:
        tags = stack.enter_context(owning(run_id))
        instance.add_run_tags(run_id, {**tags, LAUNCHED_BY: "daemon"})
        _owned[run_id] = stack.pop_all()


def _connect() -> psycopg.Connection:
    return psycopg.connect(os.environ[_URL], autocommit=True, application_name="importer run")


def _this_process() -> str:
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time()}"


# --- the processes of its steps -----------------------------------------------------------


def end_with_parent() -> None:
    """End this step's process when the process of its run is gone: another run would repeat its work.

    The database rolls back what the step had begun. A step in its run's own process has no parent to watch.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_and_end() -> None:
        parent.join()
        os._exit(_ORPHANED)  # without clean-up, which would hang if the step hangs

    threading.Thread(target=wait_and_end, name="parent watch", daemon=True).start()


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent is gone, even if it hangs outside of Python. Linux only.

    The parent of a step is the process that steps are forked from, which ends with the process of the run.
    """
    parent = os.getppid()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(_ORPHANED)


# --- what the launch of a run and the sensor do ---------------------------------------------


def end_orphans(instance: dg.DagsterInstance, *, now: datetime | None = None) -> list[str]:
    """Fail the runs that lost their process or never had an owner, and free their slots; returns their ids."""
    runs = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED, tags={LAUNCHED_BY: ["importer", "daemon"]}))
    suspects = [run for run in runs if _is_owned(run) and not _lives(run.tags[PROCESS])]
    latest = ((now or datetime.now(UTC)) - _OWNED_WITHIN).timestamp()
    for record in instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        run = record.dagster_run
        if _is_owned(run) or record.start_time is None or record.start_time >= latest:
            continue
        should_be_owned = run.job_name == RETENTION
        if not stock_dagster():  # Dagster's own executor owns nothing
            should_be_owned |= run.job_name == JOB
            if run.job_name.startswith(_ASSET_JOB):
                # assets that somebody added may have an executor that owns nothing; then a step has begun
                begun = {dg.DagsterEventType.STEP_START}
                should_be_owned = not instance.event_log_storage.get_logs_for_run(
                    run.run_id, of_type=begun, limit=1
                )
        if should_be_owned:
            suspects.append(run)
    if not suspects:
        return []
    ended = []
    with _connect() as conn:
        for run in suspects:
            lock = conn.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", (RUN_LOCKS, run.run_id))
            if lock.fetchone() == (True,):  # nobody holds it; this session does from now on
                instance.report_run_failed(run, "The process that this run belonged to was killed.")
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
                ended.append(run.run_id)
    return ended


def _is_owned(run: dg.DagsterRun) -> bool:
    # Dagster's own retry of a run starts with the tags of that run, which name another run
    return run.tags.get(PROCESS, "").endswith(f" {run.run_id}")


def _lives(process: str) -> bool:
    """Whether a process of this host lives. It may have lost its lock, as when the database restarted."""
    host, number, started, *_ = [*process.split(" "), "", "", ""]
    with suppress(psutil.Error, ValueError):
        found = psutil.Process(int(number))
        alive = found.status() != psutil.STATUS_ZOMBIE and str(found.create_time()) == started
        return host == socket.gethostname() and alive
    return False


REPORTED_AGAIN = "importer/told_again"
_AFTER = timedelta(seconds=60)  # the daemon looks every 5 seconds; it may have other work first
_WITHIN = timedelta(days=1)  # after that the schedule has asked for the days again


def report_failure_again(instance: dg.DagsterInstance, *, now: datetime | None = None) -> list[str]:
    """Report failures again, once each, that Dagster's daemon overlooked (dagster-io/dagster#33741); returns run ids."""
    now = now or datetime.now(UTC)
    failed = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE], tags={WILL_RETRY: "true"}, updated_after=now - _WITHIN
    )
    reported = []
    for record in instance.get_run_records(failed):
        run, tags = record.dagster_run, record.dagster_run.tags
        is_due = record.end_time is not None and record.end_time < (now - _AFTER).timestamp()
        # a retry has the tags of the run that it repeats
        if is_due and AUTO_RETRY_RUN not in tags and tags.get(REPORTED_AGAIN) != run.run_id:
            instance.add_run_tags(run.run_id, {REPORTED_AGAIN: run.run_id})
            instance.report_run_failed(run, "Reported again, since Dagster's daemon has not retried the run.")
            reported.append(run.run_id)
    return reported
