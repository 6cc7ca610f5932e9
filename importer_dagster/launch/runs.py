"""Starting Dagster from a command: the daily job for given days, or all of Dagster.

The job runs below the calling process, with the job's own executor, without a
daemon; Ctrl-C ends its steps. The environment must be prepared first
(:func:`importer_dagster.launch.environment.prepare_environment`).

What does not belong here: what users are shown (``cli``).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from multiprocessing import forkserver
from types import FrameType

import dagster as dg
import psutil
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import execute_run_iterator
from dagster._core.utils import make_new_run_id

from importer_dagster.defs.run_recovery import end_orphans, owning
from importer_dagster.defs.runs import JOB, Gap, contiguous, range_tags
from importer_dagster.errors import UsageError
from importer_dagster.launch.environment import PROJECT_ROOT, prepare_environment
from importer_dagster.settings import Settings

DEFINITIONS = "importer_dagster.definitions"
# Dagster would print every event; ``on_event`` says what there is to say.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_GRACE_S = 30  # for `dagster dev` to end its children


@dataclass(frozen=True)
class StepEnd:
    """A step that came to its end: one type, for all days of its run.

    ``materialized`` are the days that were recorded; a day without deliveries
    is not among them. ``done`` of ``total`` steps of the run have ended.
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
    """A run that came to its end."""

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
    A step that fails does not stop the others; KeyboardInterrupt
    ends all of them and comes out. Prepares the environment if that
    is not done. Raises UsageError for days that are no partitions, or no days.
    """
    prepare_environment(settings)
    _renew_forkserver()
    repository = ReconstructableRepository.for_module(definitions, "defs", str(PROJECT_ROOT))
    definition = repository.get_definition()
    job = definition.get_job(JOB)
    _check_days(job, days)
    # a selection costs each step's process a job of its own: see run_request
    keys = (
        None if types is None or {*types} == {n.name for n in job.nodes} else {dg.AssetKey(t) for t in types}
    )
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
        with suppress(AttributeError):  # private to Python; without it only a stale one would stay
            forkserver._forkserver._stop()  # type: ignore[attr-defined]
        _environment_of_forkserver.clear()
        _environment_of_forkserver.update(now)


def _check_days(job: dg.JobDefinition, days: Collection[date]) -> None:
    if not days:
        raise UsageError("No day is given; name at least one, such as 2024-01-31.")
    assert job.partitions_def
    first = job.partitions_def.get_first_partition_key()
    last = job.partitions_def.get_last_partition_key()
    assert first and last
    for day in (min(days), max(days)):
        if not first <= day.isoformat() <= last:
            raise UsageError(
                f"{day} cannot be imported through Dagster: its days go from {first} to {last}. "
                "IMPORTER_START_DATE names the first."
            )


def _run(
    repository: ReconstructableRepository,
    instance: dg.DagsterInstance,
    gap: Gap,
    keys: set[dg.AssetKey] | None,
    on_event: Callable[[StepEnd], None] | None,
) -> RunEnd:
    job = repository.get_reconstructable_job(JOB)
    definition = job.get_definition()
    if keys is not None:
        job = job.get_subset(asset_selection=keys)
        definition = job.get_definition()
    run_id = make_new_run_id()
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
                interrupted = interrupted or _was_interrupted(event)
        finally:
            # the daemon would do so, but perhaps there is none
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    if interrupted:  # Dagster ends the steps and keeps the interrupt to itself
        raise KeyboardInterrupt
    finished = instance.get_run_by_id(run.run_id)
    return RunEnd(run.run_id, gap, finished is not None and finished.is_success, tuple(watch.ends.values()))


def _was_interrupted(event: dg.DagsterEvent) -> bool:
    if event.event_type == dg.DagsterEventType.RUN_CANCELED:
        return True
    error = event.job_failure_data.error if event.is_job_failure else None
    return error is not None and error.cls_name == "DagsterExecutionInterruptedError"


class _Watch:
    """Turns Dagster's events into StepEnds."""

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
            self._recorded_before_failure(name)
            self._end(name, ok=False, error=_message(event))

    def _materialized(self, name: str, partition: str | None) -> None:
        if partition is not None:
            self._days.setdefault(name, set()).add(date.fromisoformat(partition))

    def _recorded_before_failure(self, name: str) -> None:
        """Find the good days of a step that failed: Dagster stores them, but does not pass them on."""
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        for record in self.instance.all_logs(self.run_id, of_type=kind):
            event = record.dagster_event
            if event is not None and event.step_key == name:
                self._materialized(name, event.partition)

    def _end(self, name: str, *, ok: bool, error: str | None = None) -> None:
        days = frozenset(self._days.get(name, ()))
        end = StepEnd(name, ok, self.gap, days, error, len(self.ends) + 1, self.total)
        self.ends[name] = end
        if self.on_event:
            self.on_event(end)


def _message(event: dg.DagsterEvent) -> str:
    """Why a step failed, in the words of whoever raised it."""
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
    """Run Dagster's UI and daemon until Ctrl-C or SIGTERM; returns its exit code.

    ``extra`` are further options of ``dagster dev``. All processes it started
    are gone when this returns.
    """
    environment = prepare_environment(settings)
    command = [
        # what users typed is `importer dev`: no word on what `dagster dev` is called nowadays
        *(sys.executable, "-W", "ignore:Function `dev_command` is superseded", "-m", "dagster", "dev"),
        # the workspace, so that the code location has the same name as for services
        *("--workspace", str(PROJECT_ROOT / "workspace.yaml"), "--host", host, "--port", str(port)),
        *extra,
    ]
    with _Forwarding() as forwarding:
        # A session of its own: a terminal's Ctrl-C reaches it once, through us, and
        # not a second time while it is already ending its children.
        forwarding.process = subprocess.Popen(  # noqa: S603 - our own arguments
            command, cwd=environment.dagster_home, start_new_session=True
        )
        code = forwarding.process.wait()
        _end_group(forwarding.process.pid)
    return 0 if forwarding.asked else code


class _Forwarding:
    """Turns signals that mean 'end' into one SIGINT to the process, and sees that it obeys.

    To be entered before the process is started: it would inherit that a signal
    is ignored, as SIGINT is below a script's background job.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.asked = False

    def __enter__(self) -> "_Forwarding":
        self.before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._insist)
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

    def _insist(self, number: int, frame: FrameType | None) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def _end_group(group: int) -> None:
    """End what is left of a process group: asked first, so that runs in flight can say that they end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(group, number)
            deadline = time.monotonic() + _GRACE_S / 2
            while time.monotonic() < deadline and _living(group):
                time.sleep(0.1)


def _living(group: int) -> bool:
    """Whether a process of the group lives; one that is only not reaped yet does not count."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def days_between(first: date, last: date) -> list[date]:
    """All days from ``first`` to ``last``, both included."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]
