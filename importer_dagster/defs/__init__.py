"""Dagster's view of the importer: :func:`build_defs` makes all of it from the specs.

``assets`` turns each spec into an asset, ``step`` is what an asset does when it
runs, ``report`` what it says about it, ``schedule`` the daily job, its schedule
and its sensor, which ask through ``catchup`` for what is not imported;
``retention`` is the nightly job that deletes what is old; ``launch`` starts the
daily job or the whole of Dagster from a command.

Every process of Dagster loads the definitions, and few do what they describe. So
they know specs and settings only: the body of an asset, a schedule or a sensor imports
what it runs when it runs. Pandas, Pandera, Arrow and the drivers of the database come
with that; the process that steps are forked from has them already (``launch/preload.py``).

What does not belong here: how a delivery is imported (``pipeline/delivery.py``).
"""

import gc
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

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
    """All definitions: one asset per spec, the inbox, the daily job and its schedule.

    ``settings`` and ``specs`` default to those of the environment; nothing is
    connected to. ``retry_delay`` is the first pause, in seconds, before a step
    that met a transient failure is tried again. Raises SpecError or UsageError.
    """
    with warnings.catch_warnings(), _without_collection():
        # single-run backfills, code references and freshness are called beta by Dagster,
        # 57 times over
        warnings.simplefilter("ignore", dg.BetaWarning)
        return _build(settings, specs, retry_delay)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Look for no garbage: with 500 types it takes a fifth of the time, and next to nothing is thrown away."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _build(
    settings: Settings | None, specs: Mapping[str, TableSpec] | None, retry_delay: float
) -> dg.Definitions:
    settings = Settings.from_env() if settings is None else settings
    specs = load_specs(settings.specs) if specs is None else specs
    partitions = daily_partitions(settings)
    files = _files_of(settings.specs) if specs else {}
    priority = priorities(specs)
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
    if not assets:  # a job without assets is an error to Dagster
        return dg.Definitions(assets=[build_inbox(settings)])
    job = build_job(specs)
    return dg.Definitions(
        assets=[build_inbox(settings), *assets],
        jobs=[job],
        schedules=[build_schedule(job, settings=settings, specs=specs), build_retention(settings, specs)],
        sensors=[build_sensor(job, settings=settings, specs=specs), build_orphan_sensor()],
    )


def _files_of(folder: Path) -> dict[str, Path]:
    """Type → the file that describes it, for the link in the UI."""
    return {file.stem: file for file in spec_files(folder)} if folder.is_dir() else {}
