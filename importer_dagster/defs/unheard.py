"""Failed runs that Dagster's daemon should run again and has overlooked: it is told once more.

A run's failure is stored first, then its status. A daemon that looks between the two
sees the event of a run that has not failed yet, takes it for done with, and never
looks again: the automatic retry does not come (dagster-io/dagster#33741 counts 54
of 24,112). Reported a second time, the failure is a new event of a run whose status
is known by now.

What does not belong here: runs that lost their process (``defs/run_recovery.py``).
"""

from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

TOLD_AGAIN = "importer/told_again"

_AFTER = timedelta(seconds=60)  # the daemon looks every 5 seconds; it may have work of others before it
_WITHIN = timedelta(days=1)  # where the daemon was down for longer, the catch-up has its day by now


def tell_again(instance: dg.DagsterInstance, *, now: datetime | None = None) -> list[str]:
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
        and r.dagster_run.tags.get(TOLD_AGAIN) != r.dagster_run.run_id
    ]
    for run in overlooked:
        instance.add_run_tags(run.run_id, {TOLD_AGAIN: run.run_id})
        instance.report_run_failed(run, "Said once more, since Dagster's daemon has not run it again.")
    return [run.run_id for run in overlooked]
