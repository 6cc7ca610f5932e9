"""What a run of the daily job stands for, by its tags: which days, which types, who asked for it.

What does not belong here: which runs are wanted (``catchup.py``).
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster._core.storage.tags import WILL_RETRY_TAG

JOB = "daily_import"
RETENTION = "retention"  # the job that deletes what is too old

# Dagster's names for the tags of a run that stands for one day, or for several.
PARTITION = "dagster/partition"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"

# Dagster's tags of who asked for a run.
BY_SCHEDULE = "dagster/schedule_name"
BY_SENSOR = "dagster/sensor_name"
PARENT = "dagster/parent_run_id"
RETRY = "dagster/retry_number"

ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]

# Dagster's daemon looks for failed runs every five seconds; one that it overlooks is told again
# after a minute (``unheard.py``). What has not come by then may never come.
_RETRY_COMES_WITHIN = timedelta(minutes=3)

Gap = tuple[date, date]  # first and last day


def is_automatic(tags: Mapping[str, str]) -> bool:
    """Whether a schedule or a sensor asked for a run, and not a person who started it, or started it again."""
    again_by_hand = PARENT in tags and RETRY not in tags
    return not again_by_hand and (BY_SCHEDULE in tags or BY_SENSOR in tags)


def unfinished(
    instance: dg.DagsterInstance, *, job: str | None = None, now: datetime | None = None
) -> list[dg.DagsterRun]:
    """Runs that are queued or running, and those that have failed and that Dagster is about to run again."""
    since = (now or datetime.now(UTC)) - _RETRY_COMES_WITHIN

    def active() -> list[dg.DagsterRun]:
        return list(instance.get_runs(dg.RunsFilter(job_name=job, statuses=ACTIVE)))

    # twice: what fails after the first question is in that, and what is run again before the second is in the last
    found = [*active(), *_to_be_retried(instance, job, since), *active()]
    return list({run.run_id: run for run in found}.values())


def _to_be_retried(instance: dg.DagsterInstance, job: str | None, since: datetime) -> list[dg.DagsterRun]:
    if not instance.run_retries_enabled:
        return []
    failed = instance.get_runs(
        dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    )
    # the tag that says whether it will be comes a moment after the failure
    return [run for run in failed if run.is_complete_and_waiting_to_retry or WILL_RETRY_TAG not in run.tags]


def under_way(instance: dg.DagsterInstance) -> Iterator[tuple[set[str] | None, Gap]]:
    """(types, gap) of the runs that are not finished; None means all types."""
    for run in unfinished(instance):
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


def covers(types: set[str] | None, gap: Gap, name: str, day: date) -> bool:
    """Whether a run for these types (None: all) and days imports a day of type ``name``."""
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


def range_tags(gap: Gap) -> dict[str, str]:
    """The tags of a run that stands for ``gap``."""
    first, last = (day.isoformat() for day in gap)
    return {PARTITION: first} if first == last else {RANGE_START: first, RANGE_END: last}


def run_request(gap: Gap, types: Collection[str], *, key: str, all_types: Collection[str]) -> dg.RunRequest:
    """One run for a gap. The same ``key`` again asks for no second run: a tick may be evaluated twice.

    A run of all types selects none: for a selection each step's process makes a job of its own, a
    tenth of a second of CPU where there are 500 types.
    """
    digest = hashlib.sha256("\n".join(sorted(types)).encode()).hexdigest()[:8]
    return dg.RunRequest(
        run_key=f"{key}/{gap[0]}...{gap[1]}/{digest}",
        tags=range_tags(gap),
        asset_selection=None if set(types) == set(all_types) else [dg.AssetKey(n) for n in sorted(types)],
    )
