"""What is in the inbox and not imported: which runs to ask for, and what never came.

Both the schedule and the sensor look through this. Runs are asked for in bounded
numbers, the oldest days first, and never while one for the same type and day is
waiting or running.

What does not belong here: the comparison itself (``ledger/arrivals.py``), when it is
made (``schedule.py``).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, datetime
from zoneinfo import ZoneInfo

import dagster as dg
import psycopg

from importer_dagster.defs.checks import missing_evaluation
from importer_dagster.defs.runs import JOB, covers, gaps_of, is_automatic, run_request, under_way, unfinished
from importer_dagster.defs.storage import materialized
from importer_dagster.errors import UsageError
from importer_dagster.ledger import arrivals
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.ledger.arrivals import Arrivals, ImportRequest, import_request
from importer_dagster.model import Delivery
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
    """Ask for runs of what was delivered up to the day of ``last`` and is not imported; report what never came.

    ``by`` names the tick. Raises TransientError if inbox or warehouse are out of reach.
    """
    today = last.astimezone(ZoneInfo(settings.timezone)).date()
    days = lookback(settings, today)
    deliveries = find_deliveries(
        settings.inbox_url, specs, default_path=settings.default_path, dates=days, min_age=settings.min_age
    )
    warehouse = _warehouse(settings)
    ledger_schema.migrate(warehouse)
    with warehouse.connect() as conn:
        _report_missing(conn, instance, settings, specs, deliveries, days, now)
        found = arrivals.compare(conn, deliveries, specs)
        questions = _questions(instance, found, specs)
        chosen = arrivals.due(conn, questions, by, settings.retry_after)
        requests, left = _choose(instance, settings, chosen, by, specs)
        arrivals.ask(conn, [q for _, asked in requests for q in asked], by, since=min(days, default=today))
        conn.commit()
    yield from (request for request, _ in requests)
    if not requests:
        yield dg.SkipReason(_why_nothing(found, left))


def _warehouse(settings: Settings) -> Warehouse:
    if settings.warehouse_url is None:
        raise UsageError(
            "IMPORTER_WAREHOUSE_URL is not set in this process. Start Dagster through `importer dev`, "
            "which sets it, or set it where the daemon and the webserver are started."
        )
    return Warehouse.of(settings, settings.warehouse_url)


def _why_nothing(found: Arrivals, left: int) -> str:
    if left:
        return f"{left} more runs are wanted, but as many as IMPORTER_MAX_RUNS allows are waiting or running."
    if found.waiting:
        first = found.waiting[0]
        return f"{len(found.waiting)} files are not complete yet, such as {first.path}: {first.waiting}."
    if found.wanted:
        return f"{len(found.wanted)} files are being imported, or have failed and are tried again later."
    return "Everything that was delivered is imported, or settled otherwise."


def _questions(
    instance: dg.DagsterInstance, found: Arrivals, specs: Mapping[str, TableSpec]
) -> list[ImportRequest]:
    """What a run is wanted for and none is under way."""
    asked = [import_request(d, specs[d.type]) for d in found.wanted] + _to_materialize(instance, found)
    active = list(under_way(instance))
    return [q for q in asked if not any(covers(types, gap, q.type, q.business_date) for types, gap in active)]


def _to_materialize(instance: dg.DagsterInstance, found: Arrivals) -> list[ImportRequest]:
    """Days of which every file is loaded, by hand or after a release, and that Dagster does not know as done."""
    open_days = {(d.type, d.business_date) for d in (*found.wanted, *found.waiting)}
    good: dict[str, set[date]] = {}
    for delivery, known in found.done.items():
        if known.status == "loaded":
            good.setdefault(delivery.type, set()).add(delivery.business_date)
        elif known.status != "unloaded":
            open_days.add((delivery.type, delivery.business_date))
    done = _materialized(instance, good)
    return [
        ImportRequest(name, day)
        for name, days in good.items()
        for day in sorted(days)
        if (name, day) not in done and (name, day) not in open_days
    ]


def _materialized(
    instance: dg.DagsterInstance, good: Mapping[str, Collection[date]]
) -> set[tuple[str, date]]:
    keys = [dg.AssetKey(name) for name in good]
    days = {day.isoformat() for days in good.values() for day in days}
    return {
        (key.to_user_string(), date.fromisoformat(day)) for key, day in materialized(instance, keys, days)
    }


def _choose(
    instance: dg.DagsterInstance,
    settings: Settings,
    questions: Collection[ImportRequest],
    by: str,
    all_types: Collection[str],
) -> tuple[list[tuple[dg.RunRequest, list[ImportRequest]]], int]:
    """As many runs as may be asked for, the oldest days first, each with what it is for; how many are left."""
    wanted: dict[str, set[date]] = {}
    for q in questions:
        wanted.setdefault(q.type, set()).add(q.business_date)
    gaps = list(gaps_of(wanted).items())
    room = max(settings.max_runs - _asked_and_active(instance), 0) if gaps else 0
    requests = [
        (
            run_request(gap, types, key=by, all_types=all_types),
            [q for q in questions if q.type in types and gap[0] <= q.business_date <= gap[1]],
        )
        for gap, types in gaps[:room]
    ]
    return requests, len(gaps) - len(requests)


def _asked_and_active(instance: dg.DagsterInstance) -> int:
    """Runs that schedule and sensor have asked for and that are not finished."""
    return sum(is_automatic(run.tags) for run in unfinished(instance, job=JOB))


def _report_missing(
    conn: psycopg.Connection,
    instance: dg.DagsterInstance,
    settings: Settings,
    specs: Mapping[str, TableSpec],
    deliveries: Collection[Delivery],
    days: Sequence[date],
    now: datetime,
) -> None:
    """Have what never came on record, and shown at its asset; once."""
    missing = arrivals.overdue(conn, specs, deliveries, days, now=now, timezone=settings.timezone)
    new = {m.type for m in arrivals.record_missing(conn, missing)}
    if new:
        for name in sorted(new):
            instance.report_runless_asset_event(
                missing_evaluation(name, arrivals.still_missing(conn, min(days), [name]))
            )
    conn.commit()
