"""Dagster's view of the importer: :func:`build_defs` makes all definitions from the specs.

``assets`` turns each spec into an asset. ``step`` is what an asset does when it runs, ``metadata`` and
``checks`` are what it shows of it. ``schedule`` has the daily job, its schedule and its sensors, which ask
``catchup`` for what is not imported; ``runs`` reads and writes the tags of runs. ``retention`` is the
nightly job that deletes old records. ``storage``, ``executor`` and ``run_recovery`` adapt Dagster itself.

Every process of Dagster loads the definitions, and only steps do the work that they describe. So
the definitions import specs and settings only. The body of an asset, a schedule or a sensor imports
what it needs when it runs: pandas, Pandera, Arrow, the drivers of the database. The process that steps
are forked from has imported these already (``launch/preload.py``).

What does not belong here: how a delivery is imported (``pipeline/delivery.py``), how a command starts a
run (``launch/runs.py``).
"""

import gc
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dagster as dg

from importer_dagster.defs.assets import build_asset, build_inbox, daily_partitions, priorities
from importer_dagster.defs.retention import build_retention
from importer_dagster.defs.schedule import build_job, build_orphan_sensor, build_schedule, build_sensor
from importer_dagster.settings import Settings
from importer_dagster.spec.loading import load_specs, spec_files
from importer_dagster.spec.table import TableSpec

RETRY_DELAY_S = 10.0


def build_defs(
    *,
    settings: Settings | None = None,
    specs: Mapping[str, TableSpec] | None = None,
    retry_delay: float = RETRY_DELAY_S,
) -> dg.Definitions:
    """All definitions: one asset per spec, the inbox, the jobs with their schedules, and the sensors.

    ``settings`` and ``specs`` default to those of the environment. Nothing is
    connected to. ``retry_delay`` is the first pause, in seconds, before a step
    that met a transient failure is tried again. Raises SpecError or UsageError.
    """
    with warnings.catch_warnings(), _without_collection():
        # Dagster warns for each asset that backfills in one run, code references and freshness are beta
        warnings.simplefilter("ignore", dg.BetaWarning)
        settings = Settings.from_env() if settings is None else settings
        specs = load_specs(settings.specs) if specs is None else specs
        inbox = build_inbox(settings)
        if not specs:  # Dagster does not accept a job without assets
            return dg.Definitions(assets=[inbox])
        partitions = daily_partitions(settings)
        priority = priorities(specs)
        files = {file.stem: file for file in spec_files(settings.specs)} if settings.specs.is_dir() else {}
        assets = [
            build_asset(
                spec,
                settings=settings,
                specs=specs,
                partitions=partitions,
                priority=priority[spec.name],
                file=files.get(spec.name),
                retry_delay=retry_delay,
            )
            for spec in specs.values()
        ]
        job = build_job(specs, stock_dagster=settings.stock_dagster)
        return dg.Definitions(
            assets=[inbox, *assets],
            jobs=[job],
            schedules=[
                build_schedule(job, settings=settings, specs=specs),
                build_retention(settings, specs),
            ],
            sensors=[build_sensor(job, settings=settings, specs=specs), build_orphan_sensor()],
        )


@contextmanager
def _without_collection() -> Iterator[None]:
    """Turn the garbage collector off: with 500 types it takes a fifth of the time and finds next to nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
