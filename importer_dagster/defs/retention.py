"""The nightly job that deletes old records, and its schedule.

What does not belong here: what may be deleted (``operations/retention.py``, ``operations/dagster_retention.py``).
"""

import os
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from importer_dagster.defs.runs import RETENTION
from importer_dagster.errors import TransientError
from importer_dagster.settings import Settings
from importer_dagster.spec.table import TableSpec

RETENTION_SCHEDULE = "retention_schedule"


def build_retention(settings: Settings, specs: Mapping[str, TableSpec]) -> dg.ScheduleDefinition:
    """The schedule with its job, on from the start. The job is one process, which waits for imports that write."""

    @dg.op(
        name="prune",
        description="Deletes what is older than the IMPORTER_KEEP_ settings say.",
        retry_policy=dg.RetryPolicy(max_retries=2, delay=60),
    )
    def prune_op(context: dg.OpExecutionContext) -> None:
        _prune(context, settings, specs)

    @dg.job(
        name=RETENTION,
        executor_def=dg.in_process_executor,
        description="Deletes old rejects, drift, ledger rows, runs and events; docs/operations.md says which.",
    )
    def retention() -> None:
        prune_op()

    return dg.ScheduleDefinition(
        name=RETENTION_SCHEDULE,
        job=retention,
        cron_schedule=settings.prune_schedule,
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every night, so that nothing grows for ever.",
    )


def _prune(context: dg.OpExecutionContext, settings: Settings, specs: Mapping[str, TableSpec]) -> None:
    # late: see defs/__init__.py
    from importer_dagster.defs.run_recovery import own_for_good
    from importer_dagster.operations.dagster_retention import prune_dagster, prune_files
    from importer_dagster.operations.retention import prune
    from importer_dagster.source.path_patterns import names_tenants
    from importer_dagster.warehouse import Warehouse

    own_for_good(context.instance, context.run_id)  # so that a killed run is ended, like those of imports
    if settings.warehouse_url is None:
        raise dg.Failure("IMPORTER_WAREHOUSE_URL is not set in the run's process.", allow_retries=False)
    try:
        gone = prune(
            Warehouse.of(settings, settings.warehouse_url),
            specs,
            settings.keep,
            has_tenant=lambda spec: names_tenants(spec, settings.default_path),
        )
        gone += prune_dagster(os.environ["IMPORTER_DAGSTER_URL"], settings.keep)
    except TransientError as error:
        raise dg.Failure(str(error), allow_retries=True) from None
    gone += prune_files(Path(context.instance.root_directory), settings.keep)
    for g in gone:
        since = f", the oldest of {g.oldest:%Y-%m-%d}" if g.oldest else ""
        context.log.info(f"{g.count:,} {g.what} deleted{since} ({g.setting}={g.days})")
    if not gone:
        context.log.info("Nothing is old enough to be deleted.")
    context.add_output_metadata({g.what: g.count for g in gone})
