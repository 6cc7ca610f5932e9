"""The daily job, and the schedule that starts it for every day that is missing.

Dagster's own partitioned schedules launch the latest day only: a day on which
the daemon was down, or whose run failed, would never be looked at again. This
one compares: what was delivered in the last ``lookback_days`` days, less what
is materialized, less what is being imported already.

What does not belong here: what a step does (``step.py``).
"""

import hashlib
import multiprocessing
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from importer_dagster.defs import patience
from importer_dagster.settings import Settings
from importer_dagster.source import find_deliveries
from importer_dagster.spec import TableSpec

JOB = "daily_import"
SCHEDULE = "daily_schedule"

# Dagster's names for the tags of a run that stands for one day, or for several.
PARTITION = "dagster/partition"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"

# Imported once by the process that step processes are forked from: a step
# starts in a fifth of a second instead of two.
PRELOAD = [
    "importer_dagster.definitions",
    "importer_dagster.defs.warm",
    "dagster_postgres",
    # the main programs of runs, which every step process imports again
    "importer_dagster.cli",
    "dagster._cli",
]

_ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]

Gap = tuple[date, date]  # first and last day


def build_job(types: Collection[str], *, settings: Settings) -> "dg.UnresolvedAssetJobDefinition":
    """The job that imports all types of a day, each in a process of its own."""
    patience.install()
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
        tick = context.scheduled_execution_time
        today = tick.astimezone(ZoneInfo(settings.timezone)).date()
        missing = missing_days(context.instance, settings, specs, today)
        if not missing:
            yield dg.SkipReason("Everything that was delivered is imported, or is being imported.")
        for gap, types in gaps_of(missing).items():
            yield run_request(gap, types, key=tick.isoformat())

    return daily_schedule


# --- what is missing ------------------------------------------------------------------


def missing_days(
    instance: dg.DagsterInstance, settings: Settings, specs: Mapping[str, TableSpec], today: date
) -> dict[str, set[date]]:
    """Type → days of the last ``lookback_days`` with deliveries that are neither imported nor under way.

    Raises SourceUnavailable if the inbox cannot be listed.
    """
    first = max(settings.start_date, today - timedelta(days=settings.lookback_days - 1))
    days = [first + timedelta(days=n) for n in range((today - first).days + 1)]
    missing: dict[str, set[date]] = {}
    deliveries = find_deliveries(
        settings.inbox_url, specs, default_path=settings.default_path, dates=days, min_age=settings.min_age
    )
    waiting = {(d.type, d.business_date) for d in deliveries if d.waiting}
    for delivery in deliveries:
        # a day is imported when all its files are complete
        if (delivery.type, delivery.business_date) not in waiting:
            missing.setdefault(delivery.type, set()).add(delivery.business_date)
    under_way = list(_under_way(instance))
    for name, delivered in missing.items():
        done = {date.fromisoformat(k) for k in instance.get_materialized_partitions(dg.AssetKey(name))}
        running = {d for d in delivered for types, gap in under_way if _covers(types, gap, name, d)}
        delivered.difference_update(done, running)
    return {name: days_left for name, days_left in missing.items() if days_left}


def _under_way(instance: dg.DagsterInstance) -> Iterator[tuple[set[str] | None, Gap]]:
    """(types, gap) of the runs that are queued or running; None means all types."""
    for run in instance.get_runs(dg.RunsFilter(statuses=_ACTIVE)):
        start = run.tags.get(RANGE_START) or run.tags.get(PARTITION)
        end = run.tags.get(RANGE_END) or start
        if not start or not end:
            continue
        selection = run.asset_selection
        types = None if selection is None else {key.to_user_string() for key in selection}
        try:
            yield types, (date.fromisoformat(start), date.fromisoformat(end))
        except ValueError:
            continue  # a run of other assets that someone added, partitioned otherwise


def _covers(types: set[str] | None, gap: Gap, name: str, day: date) -> bool:
    return (types is None or name in types) and gap[0] <= day <= gap[1]


def gaps_of(missing: Mapping[str, Collection[date]]) -> dict[Gap, list[str]]:
    """Contiguous gaps in order of time, each with the types that miss just these days.

    >>> d = date
    >>> gaps_of({"a": {d(2024, 1, 1), d(2024, 1, 2)}, "b": {d(2024, 1, 1), d(2024, 1, 2)}})
    {(datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)): ['a', 'b']}
    """
    gaps: dict[Gap, list[str]] = {}
    for name in sorted(missing):
        for gap in contiguous(missing[name]):
            gaps.setdefault(gap, []).append(name)
    return dict(sorted(gaps.items()))


def contiguous(days: Iterable[date]) -> list[Gap]:
    """Days as ranges without holes.

    >>> contiguous([date(2024, 1, 3), date(2024, 1, 1), date(2024, 1, 2)])
    [(datetime.date(2024, 1, 1), datetime.date(2024, 1, 3))]
    """
    gaps: list[Gap] = []
    for day in sorted(set(days)):
        if gaps and day - gaps[-1][1] == timedelta(days=1):
            gaps[-1] = (gaps[-1][0], day)
        else:
            gaps.append((day, day))
    return gaps


# --- asking for it --------------------------------------------------------------------


def range_tags(gap: Gap) -> dict[str, str]:
    """The tags of a run that stands for ``gap``."""
    first, last = (day.isoformat() for day in gap)
    return {PARTITION: first} if first == last else {RANGE_START: first, RANGE_END: last}


def run_request(gap: Gap, types: Collection[str], *, key: str) -> dg.RunRequest:
    """One run for a gap. The same ``key`` again asks for no second run: a tick may be evaluated twice."""
    digest = hashlib.sha256("\n".join(sorted(types)).encode()).hexdigest()[:8]
    return dg.RunRequest(
        run_key=f"{key}/{gap[0]}...{gap[1]}/{digest}",
        tags=range_tags(gap),
        asset_selection=[dg.AssetKey(name) for name in sorted(types)],
    )
