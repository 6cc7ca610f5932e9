"""Starting Dagster from a command: the daily job for given days, or Dagster's UI and daemon.

The job runs in processes below the calling one, with the job's own executor and
without a daemon. Ctrl-C ends its steps.

What does not belong here: what users are shown (``cli``), the environment of all this (``environment.py``).
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from multiprocessing import forkserver
from types import FrameType

import dagster as dg
import psutil

# Private to Dagster: its public execute_job takes no run id, by which a run is owned before it exists, and
# returns nothing before the end of the run.
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import execute_run_iterator

from importer_dagster.defs.run_recovery import end_orphans, owning
from importer_dagster.defs.runs import JOB, Gap, contiguous, range_tags
from importer_dagster.errors import UsageError
from importer_dagster.launch.environment import PROJECT_ROOT, prepare_environment
from importer_dagster.settings import Settings

DEFINITIONS = "importer_dagster.definitions"
# keeps Dagster from printing every event; users are shown what ``on_event`` is called with
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_GRACE_S = 30  # that `dagster dev` has to end its children


@dataclass(frozen=True)
class StepEnd:
    """A step that ended: one type, for all days of its run.

    ``materialized`` are the days that were recorded, without those that have no
    deliveries. ``done`` of ``total`` steps of the run have ended.
    """

    type: str
    ok: bool
    gap: Gap
    materialized: frozenset[date] = frozenset()
    error: str | None = None
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class RunEnd:
    """A run that ended."""

    run_id: str
    gap: Gap
    success: bool
    steps: tuple[StepEnd, ...] = field(default=())


@dataclass(frozen=True)
class LaunchResult:
    """All runs of a launch."""

    runs: tuple[RunEnd, ...]

    @property
    def success(self) -> bool:
        """Whether every run succeeded."""
        return all(run.success for run in self.runs)

    @property
    def failed(self) -> list[StepEnd]:
        """Steps that failed."""
        return [step for run in self.runs for step in run.steps if not step.ok]


def launch_daily(
    settings: Settings,
    days: Collection[date],
    types: Collection[str] | None = None,
    on_event: Callable[[StepEnd], None] | None = None,
    *,
    definitions: str = DEFINITIONS,
) -> LaunchResult:
    """Run the daily job for ``days``, one run for each range without holes, and wait for it.

    ``types`` narrows it (None: all). ``on_event`` is called as each step ends.
    A step that fails does not stop the others. KeyboardInterrupt ends all of them and is raised again.
    Prepares the environment if that is not done. Raises UsageError for no days, or days that are no partitions.
    """
    prepare_environment(settings)
    _renew_forkserver()
    repository = ReconstructableRepository.for_module(definitions, "defs", str(PROJECT_ROOT))
    job = repository.get_definition().get_job(JOB)
    if not days:
        raise UsageError("No day is given; name at least one, such as 2024-01-31.")
    assert job.partitions_def
    first, last = job.partitions_def.get_first_partition_key(), job.partitions_def.get_last_partition_key()
    assert first and last
    for day in (min(days), max(days)):
        if not first <= day.isoformat() <= last:
            raise UsageError(
                f"{day} cannot be imported through Dagster: its days go from {first} to {last}. "
                "IMPORTER_START_DATE names the first."
            )
    # a selection makes each step's process build a job of its own: see run_request
    is_all = types is None or set(types) == {node.name for node in job.nodes}
    keys = None if is_all else {dg.AssetKey(name) for name in types or ()}
    with dg.DagsterInstance.get() as instance:
        end_orphans(instance)
        return LaunchResult(
            tuple(_run(repository, instance, gap, keys, on_event) for gap in contiguous(days))
        )


_environment_of_forkserver: dict[str, str] = {}


def _renew_forkserver() -> None:
    """Stop the process that step processes are forked from if it was started in another environment.

    Python keeps one for the life of this process, with the environment and the
    definitions of its start.
    """
    now = {k: v for k, v in os.environ.items() if k.startswith(("IMPORTER_", "DAGSTER_"))}
    if now != _environment_of_forkserver:
        with suppress(AttributeError):  # private to Python; without it an outdated one would stay
            forkserver._forkserver._stop()  # type: ignore[attr-defined]
        _environment_of_forkserver.clear()
        _environment_of_forkserver.update(now)


def _run(
    repository: ReconstructableRepository,
    instance: dg.DagsterInstance,
    gap: Gap,
    keys: set[dg.AssetKey] | None,
    on_event: Callable[[StepEnd], None] | None,
) -> RunEnd:
    """One run of the job, for the days of ``gap`` and the assets ``keys`` (None: all)."""
    job = repository.get_reconstructable_job(JOB)
    if keys is not None:
        job = job.get_subset(asset_selection=keys)
    definition = job.get_definition()
    run_id = str(uuid.uuid4())
    interrupted = False
    with owning(run_id) as tags:
        run = instance.create_run_for_job(
            job_def=definition,
            run_id=run_id,
            tags={**range_tags(gap), **tags},
            run_config=_QUIET,
            asset_selection=frozenset(keys) if keys is not None else None,
            job_code_origin=job.get_python_origin(),
        )
        total = len(run.step_keys_to_execute or definition.nodes)
        watch = _Watch(instance, run.run_id, gap, total, on_event)
        try:
            for event in execute_run_iterator(job, run, instance):
                watch(event)
                error = event.job_failure_data.error if event.is_job_failure else None
                if event.event_type == dg.DagsterEventType.RUN_CANCELED or (
                    error is not None and error.cls_name == "DagsterExecutionInterruptedError"
                ):
                    interrupted = True
        finally:
            # the daemon would do this, but there may be none
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    if interrupted:  # Dagster ends the steps and does not raise the interrupt again
        raise KeyboardInterrupt
    finished = instance.get_run_by_id(run.run_id)
    return RunEnd(run.run_id, gap, finished is not None and finished.is_success, tuple(watch.ends.values()))


class _Watch:
    """Makes a StepEnd of Dagster's events as each step ends."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        run_id: str,
        gap: Gap,
        total: int,
        on_event: Callable[[StepEnd], None] | None,
    ) -> None:
        self.instance, self.run_id = instance, run_id
        self.gap, self.total, self.on_event = gap, total, on_event
        self.ends: dict[str, StepEnd] = {}
        self._days: dict[str, set[date]] = {}

    def __call__(self, event: dg.DagsterEvent) -> None:
        name = event.step_key
        if name is None:
            return
        if event.is_step_materialization:
            self._materialized(name, event.partition)
        elif event.is_step_success:
            self._end(name, ok=True)
        elif event.is_step_failure:
            # Dagster stores the good days of a step that failed, but does not pass these events on
            kind = dg.DagsterEventType.ASSET_MATERIALIZATION
            for record in self.instance.all_logs(self.run_id, of_type=kind):
                stored = record.dagster_event
                if stored is not None and stored.step_key == name:
                    self._materialized(name, stored.partition)
            self._end(name, ok=False, error=_message(event))

    def _materialized(self, name: str, partition: str | None) -> None:
        if partition is not None:
            self._days.setdefault(name, set()).add(date.fromisoformat(partition))

    def _end(self, name: str, *, ok: bool, error: str | None = None) -> None:
        days = frozenset(self._days.get(name, ()))
        end = StepEnd(name, ok, self.gap, days, error, len(self.ends) + 1, self.total)
        self.ends[name] = end
        if self.on_event:
            self.on_event(end)


def _message(event: dg.DagsterEvent) -> str:
    """Why a step failed: the message of the error that it raised."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    if data.error is None:
        return event.message or "no reason given"
    cause = data.error.cause or data.error
    return cause.message.strip()


# --- all of Dagster ---------------------------------------------------------------------


def serve(
    settings: Settings, host: str = "127.0.0.1", port: int = 3000, *, extra: Collection[str] = ()
) -> int:
    """Run Dagster's UI and daemon until Ctrl-C or SIGTERM; returns the exit code.

    ``extra`` are further options of ``dagster dev``. When this returns, all processes
    that it started have ended.
    """
    environment = prepare_environment(settings)
    command = [
        # without Dagster's advice that `dagster dev` is superseded: users typed `importer dev`
        *(sys.executable, "-W", "ignore:Function `dev_command` is superseded", "-m", "dagster", "dev"),
        # the workspace, so that the code location has the same name as for services
        *("--workspace", str(PROJECT_ROOT / "workspace.yaml"), "--host", host, "--port", str(port)),
        *extra,
    ]
    with _Forwarding() as forwarding:
        # A session of its own: otherwise a terminal's Ctrl-C would reach it a second time,
        # directly, while it is already ending its children.
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            command, cwd=environment.dagster_home, start_new_session=True
        )
        forwarding.process = process
        code = process.wait()
        # end what is left of its processes; SIGTERM first, so that runs in flight can record that they end
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
                deadline = time.monotonic() + _GRACE_S / 2
                while time.monotonic() < deadline and _lives(process.pid):
                    time.sleep(0.1)
    return 0 if forwarding.asked else code


class _Forwarding:
    """Turns signals that mean 'end' into one SIGINT to the process, and kills it if it does not end.

    To be entered before the process is started: otherwise the process would inherit that a
    signal is ignored, as SIGINT is in a background job of a script.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.asked = False

    def __enter__(self) -> "_Forwarding":
        self.before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._kill)
        return self

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.process is None:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked = True
            self.process.send_signal(signal.SIGINT)
            signal.alarm(_GRACE_S)

    def _kill(self, number: int, frame: FrameType | None) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def _lives(group: int) -> bool:
    """Whether a process of the group lives. A zombie, which only waits to be reaped, does not count."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def days_between(first: date, last: date) -> list[date]:
    """All days from ``first`` to ``last``, both included."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]
