"""The daily job, the schedule and the sensor that start it for whatever is not imported, a sensor for orphans.

Dagster's own partitioned schedules launch the latest day only: a day on which
the daemon was down, a late file, a corrected one would never be looked at. These
compare: what was delivered in the last ``lookback_days`` days, less what the
ledger has settled, less what is being imported already.

What does not belong here: the comparison (``catchup.py``), what a step does
(``step.py``), how orphans are found (``defs/run_recovery.py``).
"""

import multiprocessing
import os
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime

import dagster as dg
from dagster._utils.schedules import schedule_execution_time_iterator

from importer_dagster.defs import executor
from importer_dagster.defs.runs import JOB
from importer_dagster.settings import Settings
from importer_dagster.spec.table import TableSpec

SCHEDULE = "daily_schedule"
SENSOR = "arrivals"
ORPHANS = "orphaned_runs"

# Imported once by the process that step processes are forked from: a step
# starts in a fifth of a second instead of two.
PRELOAD = [
    "importer_dagster.definitions",
    "importer_dagster.launch.preload",
    "dagster_postgres",
    # the main programs of runs, which every step process imports again
    "importer_dagster.cli",
    "dagster._cli",
]


def build_job(types: Collection[str]) -> "dg.UnresolvedAssetJobDefinition":
    """The job that imports all types of a day, each in a process of its own."""
    executor.install()
    return dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.assets(*sorted(types)),
        executor_def=dg.multiprocess_executor.configured(_executor_config()),
        description="Imports one day (or a range of days) of all types, each in a process of its own.",
    )


def _executor_config() -> dict[str, object]:
    """As many processes as cores: the pool's limit, which may change, keeps the others from starting."""
    config: dict[str, object] = {"max_concurrent": max(2, os.cpu_count() or 2)}
    if "forkserver" in multiprocessing.get_all_start_methods():
        config["start_method"] = {"forkserver": {"preload_modules": PRELOAD}}
    return config


def build_schedule(
    job: "dg.UnresolvedAssetJobDefinition",
    *,
    settings: Settings,
    specs: Mapping[str, TableSpec],
) -> dg.ScheduleDefinition:
    """The schedule, in the project's time zone; on from the start.

    Dagster leaves schedules off until someone clicks. An importer that imports
    nothing after a fresh installation would be a surprise; the switch in the UI
    still turns it off.
    """

    @dg.schedule(
        name=SCHEDULE,
        job=job,
        cron_schedule=settings.schedule,
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Imports what was delivered in the last {settings.lookback_days} days and is missing.",
    )
    def daily_schedule(
        context: dg.ScheduleEvaluationContext,
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        from importer_dagster.defs.catchup import look  # late: see defs/__init__.py

        tick = context.scheduled_execution_time
        yield from look(context.instance, settings, specs, now=tick, last=tick, by=tick.isoformat())

    return daily_schedule


def build_sensor(
    job: "dg.UnresolvedAssetJobDefinition",
    *,
    settings: Settings,
    specs: Mapping[str, TableSpec],
) -> dg.SensorDefinition:
    """The sensor that finds late and corrected files, on from the start unless its interval is 0.

    It leaves today's files to the schedule until the schedule's time has come:
    when the database is to be busy is for that to say.
    """
    off = settings.arrival_interval == 0

    @dg.sensor(
        name=SENSOR,
        job=job,
        minimum_interval_seconds=settings.arrival_interval or Settings.arrival_interval,
        default_status=dg.DefaultSensorStatus.STOPPED if off else dg.DefaultSensorStatus.RUNNING,
        description="Imports late and corrected files of the days that the schedule has been through, and what "
        "the schedule had to leave for later.",
    )
    def look_for_arrivals(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        from importer_dagster.defs.catchup import look  # late: see defs/__init__.py

        now = datetime.now(UTC)
        last = last_tick(settings, now)
        by = f"{SENSOR} after {context.last_tick_completion_time}"
        yield from look(context.instance, settings, specs, now=now, last=last, by=by)

    return look_for_arrivals


def build_orphan_sensor() -> dg.SensorDefinition:
    """The daemon's look for runs that have lost their process, on from the start."""

    @dg.sensor(
        name=ORPHANS,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ends runs that were killed, so that their days are imported again, and reminds Dagster's "
        "daemon of failed runs that it should have run again.",
    )
    def orphaned_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        from importer_dagster.defs.run_recovery import end_orphans, report_failure_again

        ended, told = end_orphans(context.instance), report_failure_again(context.instance)
        found = [f"Ended {', '.join(ended)}."] if ended else []
        found += [f"Said again that {', '.join(told)} failed."] if told else []
        return dg.SkipReason(" ".join(found) or "No run has lost its process.")

    return orphaned_runs


def last_tick(settings: Settings, now: datetime) -> datetime:
    """When the schedule was last due."""
    return next(
        schedule_execution_time_iterator(
            now.timestamp(), settings.schedule, settings.timezone, ascending=False
        )
    )
