"""The daily job, the schedule and the sensor that start it, and the sensor for runs that lost their process.

Dagster's own partitioned schedules launch the latest day only. They would never look at a day on which the
daemon was down, at a late file or at a corrected one. These start the job for every file that was delivered
in the last ``lookback_days`` days, that the ledger does not know as settled and that no run imports already.

What does not belong here: that comparison (``catchup.py``), what a step does (``step.py``), how runs that
lost their process are found (``run_recovery.py``).
"""

import multiprocessing
import os
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime

import dagster as dg

from importer_dagster.defs.runs import JOB
from importer_dagster.settings import Settings
from importer_dagster.spec.table import TableSpec

SCHEDULE = "daily_schedule"
SENSOR = "arrivals"
ORPHANS = "orphaned_runs"

# Imported once by the process that step processes are forked from. With this a step
# starts in 0.2 s instead of 2 s.
PRELOAD = [
    "importer_dagster.definitions",
    "importer_dagster.launch.preload",
    "dagster_postgres",
    # the main programs of runs, which every step process imports again; the second one is private to
    # Dagster, and Python ignores it where it does not exist
    "importer_dagster.cli",
    "dagster._cli",
]


def build_job(types: Collection[str], *, stock_dagster: bool) -> "dg.UnresolvedAssetJobDefinition":
    """The job that imports all types of a day, each in a process of its own."""
    # as many processes as cores; the limit of the pool, which may change, keeps other steps waiting
    config: dict[str, object] = {"max_concurrent": max(2, os.cpu_count() or 2)}
    if "forkserver" in multiprocessing.get_all_start_methods():
        config["start_method"] = {"forkserver": {"preload_modules": PRELOAD}}
    if not stock_dagster:
        from importer_dagster.defs import executor  # late: what it imports is private to Dagster

        executor.install()
    return dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.assets(*sorted(types)),
        executor_def=dg.multiprocess_executor.configured(config),
        description="Imports one day (or a range of days) of all types, each in a process of its own.",
    )


def build_schedule(
    job: "dg.UnresolvedAssetJobDefinition",
    *,
    settings: Settings,
    specs: Mapping[str, TableSpec],
) -> dg.ScheduleDefinition:
    """The schedule, in the project's time zone, on from the start.

    Dagster's default is off until somebody turns it on in the UI. Then a fresh installation would import
    nothing, which would be a surprise. The switch in the UI still turns it off.
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

    It leaves today's files to the schedule until the schedule was due, since the schedule says
    when the database may be busy.
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
    """The sensor that ends runs which lost their process and reports overlooked failures again, on from the start."""

    @dg.sensor(
        name=ORPHANS,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ends runs that were killed, so that their days are imported again, and reports failed runs "
        "again that Dagster's daemon should have retried.",
    )
    def orphaned_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        from importer_dagster.defs.run_recovery import end_orphans, report_failure_again

        ended, reported = end_orphans(context.instance), report_failure_again(context.instance)
        found = [f"Ended {', '.join(ended)}."] if ended else []
        found += [f"Reported again that {', '.join(reported)} failed."] if reported else []
        return dg.SkipReason(" ".join(found) or "No run has lost its process.")

    return orphaned_runs


def last_tick(settings: Settings, now: datetime) -> datetime:
    """When the schedule was last due, at ``now`` or before."""
    # partitions from one tick to the next; their start plays no part without bounds
    ticks = dg.TimeWindowPartitionsDefinition(
        cron_schedule=settings.schedule, timezone=settings.timezone, start=now, fmt="%Y-%m-%d %H:%M"
    )
    window = ticks.get_prev_partition_window(now, respect_bounds=False)
    assert window is not None
    return window.end
