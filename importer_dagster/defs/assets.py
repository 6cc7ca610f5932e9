"""The factory: one spec becomes one asset.

What does not belong here: what the asset does when it runs (``step.py``).
"""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg

from importer_dagster.redaction import redact
from importer_dagster.settings import POOL, Settings
from importer_dagster.spec.columns import column_schema
from importer_dagster.spec.table import TableSpec

INBOX = dg.AssetKey("supplier_inbox")
MAX_RETRIES = 3
ARRIVED = "arrived"  # the check for files that did not come


def daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition per day, today included: a day's files arrive on that day."""
    return dg.DailyPartitionsDefinition(
        start_date=settings.start_date.isoformat(), timezone=settings.timezone, end_offset=1
    )


def build_inbox(settings: Settings) -> dg.AssetSpec:
    """The supplier's inbox: an asset that somebody else makes."""
    return dg.AssetSpec(
        INBOX,
        group_name="inbox",
        description="Where the supplier puts each day's files.",
        kinds={"csv"},
        metadata={"dagster/uri": redact(settings.inbox_url), "pattern": settings.default_path},
    )


def priorities(specs: Mapping[str, TableSpec]) -> dict[str, int]:
    """Type → how many types refer to it, directly or not; the higher, the earlier its step starts.

    This is only the order in which steps start. There is no edge between types: where one
    fails, those that refer to it are imported all the same.
    """
    referrers: dict[str, set[str]] = {name: set() for name in specs}
    for name, spec in specs.items():
        for key in spec.tableschema.foreignKeys:
            if key.reference.resource in referrers:
                referrers[key.reference.resource].add(name)
    found = {}
    for name in specs:
        reached: set[str] = set()
        pending = [name]
        while pending:
            new = referrers[pending.pop()] - reached
            reached |= new
            pending += new
        found[name] = len(reached - {name})
    return found


def build_asset(
    spec: TableSpec,
    *,
    settings: Settings,
    specs: Mapping[str, TableSpec],
    partitions: dg.DailyPartitionsDefinition,
    priority: int,
    file: Path | None,
    retry_delay: float,
) -> dg.AssetsDefinition:
    """The asset of one type. ``specs`` must hold all types, for finding files and references."""
    owner = spec.owner
    if owner is not None and "@" not in owner:
        owner = f"team:{_word(owner.removeprefix('team:'))}"

    @dg.asset(
        key=spec.name,
        group_name=_word(spec.group),
        description="\n\n".join(filter(None, (spec.title, spec.description))) or f"CSV type {spec.name}.",
        kinds={"csv", "postgres"},
        owners=[owner] if owner is not None else [],
        tags={_word(k): _word(v) for k, v in spec.tags.items()},
        metadata=asset_metadata(spec, settings, file),
        deps=[INBOX],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        # the same limit twice: as a pool, and as the older tag for it
        pool=POOL,
        op_tags={"dagster/concurrency_key": POOL, "dagster/priority": str(priority)},
        code_version=spec.hash,
        check_specs=check_specs(spec),
        freshness_policy=spec.expected_by and _daily_by(spec.expected_by, settings.timezone),
        output_required=False,  # a day without deliveries is not materialized
        retry_policy=dg.RetryPolicy(
            max_retries=MAX_RETRIES,
            delay=retry_delay,
            backoff=dg.Backoff.EXPONENTIAL,
            jitter=dg.Jitter.PLUS_MINUS,
        ),
    )
    def import_type(context: dg.AssetExecutionContext) -> Iterator[Any]:
        from importer_dagster.defs.step import run_step  # late: see defs/__init__.py

        yield from run_step(context, spec, settings=settings, specs=specs)

    return import_type


# --- how it is shown ----------------------------------------------------------------


def _word(text: str) -> str:
    """``text`` as Dagster allows it in a tag or as a group's name."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text)[:63] or "_"


@lru_cache  # Dagster checks a policy against years of a calendar: 11 ms each time
def _daily_by(time_of_day: str, timezone: str) -> dg.FreshnessPolicy:
    """A type is late that was not materialized in the 23 hours before ``time_of_day``, such as "08:30"."""
    hour, minute = time_of_day.split(":")
    return dg.FreshnessPolicy.cron(
        deadline_cron=f"{int(minute)} {int(hour)} * * *",
        lower_bound_delta=timedelta(hours=23),
        timezone=timezone,
    )


def asset_metadata(spec: TableSpec, settings: Settings, file: Path | None) -> dict[str, Any]:
    """What the UI shows of a type beside its description; ``file`` is its spec."""
    columns = [
        dg.TableColumn(
            name=column.name,
            type=column.type,
            description=column.description,
            constraints=dg.TableColumnConstraints(
                nullable=column.nullable, unique=column.unique, other=column.constraints
            ),
        )
        for column in column_schema(spec)
    ]
    metadata: dict[str, Any] = {
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "dagster/table_name": f"public.{spec.name}",
        "write_disposition": spec.write_disposition,
        "pattern": spec.path or settings.default_path,
    }
    if spec.primary_key:
        metadata["primary_key"] = ", ".join(spec.primary_key)
    references = [
        f"- {', '.join(key.fields)} → {key.reference.resource or spec.name}({', '.join(key.reference.fields)})"
        for key in spec.tableschema.foreignKeys
    ]
    if references:
        metadata["references"] = dg.MetadataValue.md("\n".join(references))
    if file is not None:
        metadata["dagster/code_references"] = dg.CodeReferencesMetadataValue(
            code_references=[dg.LocalFileCodeReference(file_path=str(file), line_number=1)]
        )
    return metadata


def check_specs(spec: TableSpec) -> list[dg.AssetCheckSpec]:
    """The checks of a type. Its own step evaluates them, so that they need no process of their own."""
    checks = [
        dg.AssetCheckSpec("rejects", asset=spec.name, description="No record was put aside."),
        dg.AssetCheckSpec("drift", asset=spec.name, description="The headers are those of the spec."),
    ]
    if spec.is_gated:
        checks.append(
            dg.AssetCheckSpec("gate", asset=spec.name, description="Nothing is suspicious or held.")
        )
    if spec.expected_by:
        checks.append(
            dg.AssetCheckSpec(
                ARRIVED,
                asset=spec.name,
                description=f"Every tenant's file is there by {spec.expected_by}. The schedule and the sensor look.",
            )
        )
    if spec.tableschema.foreignKeys:
        checks.append(
            dg.AssetCheckSpec(
                "references",
                asset=spec.name,
                description="What the rows refer to is there. This is looked at when the rows are loaded, so "
                "that what arrives later is not counted, even in the same run.",
            )
        )
    return checks
