"""Which runs to ask for, for what is in the inbox and not imported; and the reports of files that did not come.

Both the schedule and the sensor use this. They ask for a bounded number of runs, the oldest days first,
and never for a type and day that a waiting or running run covers.

What does not belong here: the comparison of the inbox with the ledger (``ledger/arrivals.py``), when it is
made (``schedule.py``).
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import date, datetime
from zoneinfo import ZoneInfo

import dagster as dg

from importer_dagster.defs.checks import missing_evaluation
from importer_dagster.defs.runs import JOB, covers, gaps_of, is_automatic, run_request, under_way, unfinished
from importer_dagster.defs.storage import materialized
from importer_dagster.errors import UsageError
from importer_dagster.ledger import arrivals
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.ledger.arrivals import Arrivals, ImportRequest, import_request
from importer_dagster.settings import Settings, lookback
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse


def look(
    instance: dg.DagsterInstance,
    settings: Settings,
    specs: Mapping[str, TableSpec],
    *,
    now: datetime,
    last: datetime,
    by: str,
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Ask for runs of what was delivered up to the day of ``last`` and is not imported; report missing files.

    ``by`` names the tick. Raises TransientError if inbox or warehouse cannot be reached.
    """
    if settings.warehouse_url is None:
        raise UsageError(
            "IMPORTER_WAREHOUSE_URL is not set in this process. Start Dagster through `importer dev`, "
            "which sets it, or set it where the daemon and the webserver are started."
        )
    today = last.astimezone(ZoneInfo(settings.timezone)).date()
    days = lookback(settings, today)
    deliveries = find_deliveries(
        settings.inbox_url, specs, default_path=settings.default_path, dates=days, min_age=settings.min_age
    )
    warehouse = Warehouse.of(settings, settings.warehouse_url)
    ledger_schema.migrate(warehouse)
    with warehouse.connect() as conn:
        missing = arrivals.overdue(conn, specs, deliveries, days, now=now, timezone=settings.timezone)
        for name in sorted({m.type for m in arrivals.record_missing(conn, missing)}):
            instance.report_runless_asset_event(
                missing_evaluation(name, arrivals.still_missing(conn, min(days), [name]))
            )
        conn.commit()
        found = arrivals.compare(conn, deliveries, specs)
        wanted = [import_request(d, specs[d.type]) for d in found.wanted] + _to_materialize(instance, found)
        active = list(under_way(instance))
        idle = [
            r for r in wanted if not any(covers(types, gap, r.type, r.business_date) for types, gap in active)
        ]
        due = arrivals.due(conn, idle, by, settings.retry_after)
        requests, left = _requests(instance, settings, due, by, specs)
        arrivals.ask(conn, [r for _, asked in requests for r in asked], by, since=min(days, default=today))
        conn.commit()
    yield from (request for request, _ in requests)
    if not requests:
        yield dg.SkipReason(_why_nothing(found, left))


def _to_materialize(instance: dg.DagsterInstance, found: Arrivals) -> list[ImportRequest]:
    """Days with all files loaded, by hand or after a release, that Dagster has no materialization of."""
    open_days = {(d.type, d.business_date) for d in (*found.wanted, *found.waiting)}
    good: dict[str, set[date]] = {}
    for delivery, known in found.done.items():
        if known.status == "loaded":
            good.setdefault(delivery.type, set()).add(delivery.business_date)
        elif known.status != "unloaded":
            open_days.add((delivery.type, delivery.business_date))
    keys = [dg.AssetKey(name) for name in good]
    partitions = {day.isoformat() for days in good.values() for day in days}
    done = {(key.to_user_string(), day) for key, day in materialized(instance, keys, partitions)}
    return [
        ImportRequest(name, day)
        for name, days in good.items()
        for day in sorted(days)
        if (name, day.isoformat()) not in done and (name, day) not in open_days
    ]


def _requests(
    instance: dg.DagsterInstance,
    settings: Settings,
    imports: Collection[ImportRequest],
    by: str,
    all_types: Collection[str],
) -> tuple[list[tuple[dg.RunRequest, list[ImportRequest]]], int]:
    """(runs to ask for, the oldest days first, each with the imports that it is for; how many more runs are wanted)."""
    wanted: dict[str, set[date]] = {}
    for r in imports:
        wanted.setdefault(r.type, set()).add(r.business_date)
    gaps = list(gaps_of(wanted).items())
    if not gaps:
        return [], 0
    unfinished_runs = sum(is_automatic(run.tags) for run in unfinished(instance, job=JOB))
    allowed = max(settings.max_runs - unfinished_runs, 0)
    requests = [
        (
            run_request(gap, types, key=by, all_types=all_types),
            [r for r in imports if r.type in types and gap[0] <= r.business_date <= gap[1]],
        )
        for gap, types in gaps[:allowed]
    ]
    return requests, len(gaps) - len(requests)


def _why_nothing(found: Arrivals, left: int) -> str:
    if left:
        return f"{left} more runs are wanted, but as many as IMPORTER_MAX_RUNS allows are waiting or running."
    if found.waiting:
        first = found.waiting[0]
        return f"{len(found.waiting)} files are not complete yet, such as {first.path}: {first.waiting}."
    if found.wanted:
        return f"{len(found.wanted)} files are being imported, or have failed and are tried again later."
    return "Everything that was delivered is imported, or settled otherwise."
