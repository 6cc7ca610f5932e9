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
ARRIVED = "arrived"  # the check of what never came


def daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition per day, today included: a day's files arrive on that day."""
    return dg.DailyPartitionsDefinition(
        start_date=settings.start_date.isoformat(), timezone=settings.timezone, end_offset=1
    )


def build_inbox(settings: Settings) -> dg.AssetSpec:
    """The supplier's inbox: an asset that is made by someone else."""
    return dg.AssetSpec(
        INBOX,
        group_name="inbox",
        description="Where the supplier puts each day's files.",
        kinds={"csv"},
        metadata={"dagster/uri": redact(settings.inbox_url), "pattern": settings.default_path},
    )


def priorities(specs: Mapping[str, TableSpec]) -> dict[str, int]:
    """Type → how many types refer to it, directly or not; the higher, the earlier its step starts.

    An order of starting only, and no edge between types: where one fails, those
    that refer to it are imported all the same.
    """
    referrers: dict[str, set[str]] = {name: set() for name in specs}
    for name, spec in specs.items():
        for key in spec.tableschema.foreignKeys:
            if key.reference.resource in referrers:
                referrers[key.reference.resource].add(name)
    return {name: len(_reachable(name, referrers) - {name}) for name in specs}


def _reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        new = edges[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen


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

    @dg.asset(
        key=spec.name,
        group_name=_word(spec.group),
        description=_description(spec),
        kinds={"csv", "postgres"},
        owners=_owners(spec),
        tags={_word(k): _word(v) for k, v in spec.tags.items()},
        metadata=_metadata(spec, settings, file),
        deps=[INBOX],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        # the same limit twice: the pool, and the tag that it was called by before
        pool=POOL,
        op_tags={"dagster/concurrency_key": POOL, "dagster/priority": str(priority)},
        code_version=spec.hash,
        check_specs=check_specs(spec),
        freshness_policy=_freshness(spec, settings),
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


def _owners(spec: TableSpec) -> list[str]:
    if spec.owner is None:
        return []
    return [spec.owner if "@" in spec.owner else f"team:{_word(spec.owner.removeprefix('team:'))}"]


def _description(spec: TableSpec) -> str:
    return "\n\n".join(filter(None, (spec.title, spec.description))) or f"CSV type {spec.name}."


def _freshness(spec: TableSpec, settings: Settings) -> dg.FreshnessPolicy | None:
    return None if spec.expected_by is None else _daily_by(spec.expected_by, settings.timezone)


@lru_cache  # Dagster looks through years of a calendar to check a policy: 11 ms each time
def _daily_by(time_of_day: str, timezone: str) -> dg.FreshnessPolicy:
    """Late is a type that was not materialized in the day before the time it is expected by."""
    hour, minute = time_of_day.split(":")
    return dg.FreshnessPolicy.cron(
        deadline_cron=f"{int(minute)} {int(hour)} * * *",
        lower_bound_delta=timedelta(hours=23),
        timezone=timezone,
    )


def _metadata(spec: TableSpec, settings: Settings, file: Path | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "dagster/column_schema": _columns(spec),
        "dagster/table_name": f"public.{spec.name}",
        "write_disposition": spec.write_disposition,
        "pattern": spec.path or settings.default_path,
    }
    if spec.primary_key:
        metadata["primary_key"] = ", ".join(spec.primary_key)
    if references := _references(spec):
        metadata["references"] = dg.MetadataValue.md(references)
    if file is not None:
        metadata["dagster/code_references"] = dg.CodeReferencesMetadataValue(
            code_references=[dg.LocalFileCodeReference(file_path=str(file), line_number=1)]
        )
    return metadata


def _columns(spec: TableSpec) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
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
    )


def _references(spec: TableSpec) -> str:
    keys = spec.tableschema.foreignKeys
    ends = [f"{k.reference.resource or spec.name}({', '.join(k.reference.fields)})" for k in keys]
    return "\n".join(f"- {', '.join(k.fields)} → {end}" for k, end in zip(keys, ends, strict=True))


def check_specs(spec: TableSpec) -> list[dg.AssetCheckSpec]:
    """The checks of a type; they are evaluated in its own step, which costs no process."""
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
                description=f"Every tenant's file is there by {spec.expected_by}. Looked at by schedule and sensor.",
            )
        )
    if spec.tableschema.foreignKeys:
        checks.append(
            dg.AssetCheckSpec(
                "references",
                asset=spec.name,
                description="What the rows refer to is there. Looked at when they are loaded: what "
                "arrives later, be it in the same run, is not counted.",
            )
        )
    return checks
