"""What the tags of a run say: which days and types it is for, and who asked for it.

What does not belong here: which runs are wanted (``catchup.py``).
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta

import dagster as dg

JOB = "daily_import"
RETENTION = "retention"  # the job that deletes old records

# Dagster's tags for the day of a run, or for its first and last day.
PARTITION = "dagster/partition"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"

# Dagster's tags for what a run was asked for by.
BY_SCHEDULE = "dagster/schedule_name"
BY_SENSOR = "dagster/sensor_name"
PARENT = "dagster/parent_run_id"
RETRY = "dagster/retry_number"

# Dagster's tags on a failed run: whether its daemon will run it again, and as which run.
WILL_RETRY = "dagster/will_retry"
AUTO_RETRY_RUN = "dagster/auto_retry_run_id"

ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]

# Dagster's daemon looks for failed runs every five seconds. A failure that it overlooks is reported to it
# again after a minute (``run_recovery.py``). A retry that has not come by then may never come.
_RETRY_COMES_WITHIN = timedelta(minutes=3)

Gap = tuple[date, date]  # first and last day


def is_automatic(tags: Mapping[str, str]) -> bool:
    """Whether a schedule or a sensor asked for a run; not so if a person started it, for the first time or again."""
    again_by_hand = PARENT in tags and RETRY not in tags
    return not again_by_hand and (BY_SCHEDULE in tags or BY_SENSOR in tags)


def unfinished(
    instance: dg.DagsterInstance, *, job: str | None = None, now: datetime | None = None
) -> list[dg.DagsterRun]:
    """Runs that are queued or running, and failed ones that Dagster is about to run again."""

    def active() -> list[dg.DagsterRun]:
        return list(instance.get_runs(dg.RunsFilter(job_name=job, statuses=ACTIVE)))

    found = active()
    if instance.run_retries_enabled:
        since = (now or datetime.now(UTC)) - _RETRY_COMES_WITHIN
        failed = instance.get_runs(
            dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
        )
        # the tag that says whether it will be run again comes a moment after the failure
        found += [run for run in failed if run.is_complete_and_waiting_to_retry or WILL_RETRY not in run.tags]
        # a second time: the retry of a run that failed after the first query may be in this answer only
        found += active()
    return list({run.run_id: run for run in found}.values())


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
            continue  # a run of assets that somebody added, with other partitions


def covers(types: set[str] | None, gap: Gap, name: str, day: date) -> bool:
    """Whether a run for these types (None: all) and days imports a day of type ``name``."""
    return (types is None or name in types) and gap[0] <= day <= gap[1]


def gaps_of(missing: Mapping[str, Collection[date]]) -> dict[Gap, list[str]]:
    """Contiguous gaps in order of time, each with the types that lack exactly these days.

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
    """The tags of a run for the days of ``gap``."""
    first, last = (day.isoformat() for day in gap)
    return {PARTITION: first} if first == last else {RANGE_START: first, RANGE_END: last}


def run_request(gap: Gap, types: Collection[str], *, key: str, all_types: Collection[str]) -> dg.RunRequest:
    """One run for a gap. A second request with the same ``key`` starts no run: a tick may be evaluated twice.

    A run of all types has no selection. With one, each step's process builds a job of its own, which
    takes a tenth of a second of CPU with 500 types.
    """
    digest = hashlib.sha256("\n".join(sorted(types)).encode()).hexdigest()[:8]
    return dg.RunRequest(
        run_key=f"{key}/{gap[0]}...{gap[1]}/{digest}",
        tags=range_tags(gap),
        asset_selection=None if set(types) == set(all_types) else [dg.AssetKey(n) for n in sorted(types)],
    )
