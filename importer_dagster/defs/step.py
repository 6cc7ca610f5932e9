"""What an asset does when it runs: import the deliveries of its days.

Every delivery is imported for itself, small ones together. What went well stays, day by day; then
the step fails, naming what did not. Run again, it finds the good ones unchanged.
A run that the schedule or the sensor asked for takes complete files only, and
does not read again what the ledger has settled; a person's run takes all.

What does not belong here: how that is shown (``defs/metadata.py``), and how a single
delivery is imported (``pipeline/delivery.py``).
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from importer_dagster.defs.checks import arrived_result, check_results, drift_result, gate_result
from importer_dagster.defs.metadata import Account, drift_of, markdown_table, read_account
from importer_dagster.defs.run_recovery import end_with_parent
from importer_dagster.defs.runs import PARENT, RETRY, is_automatic
from importer_dagster.errors import PermanentError, TransientError, WarehouseUnavailable
from importer_dagster.ledger import arrivals
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.ledger.arrivals import Arrivals
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.settings import Settings, lookback
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse

log = logging.getLogger(__name__)

_LINES = 100  # in one event of the log at most
_MOMENT_S = 2.0
_NAMED = 20  # as many bad deliveries a failure names; the ledger has them all


@dataclass(frozen=True)
class Outcome:
    """One delivery's end: a result, or the error that prevented one; ``settled`` by an earlier run."""

    delivery: Delivery
    result: LoadResult | None = None
    error: Exception | None = None
    settled: bool = False

    @property
    def good(self) -> bool:
        """Whether the delivery's rows stand in the table."""
        return self.result is not None and self.result.status in ("loaded", "unchanged")

    @property
    def transient(self) -> bool:
        """Whether trying again may help."""
        return isinstance(self.error, TransientError)

    @property
    def reason(self) -> str:
        """Why it is not good."""
        if self.error is not None:
            return str(self.error) or repr(self.error)
        return (self.result.reason if self.result else None) or "no reason given"


def run_step(
    context: dg.AssetExecutionContext,
    spec: TableSpec,
    *,
    settings: Settings,
    specs: Mapping[str, TableSpec],
) -> Iterator[Any]:
    """Import what was delivered for the context's partitions; yields what Dagster wants to know.

    Raises dg.Failure naming the bad deliveries, after recording the good days.
    """
    end_with_parent()
    days = [date.fromisoformat(key) for key in context.partition_keys]
    warehouse = _warehouse(settings)
    delivered = _deliveries(context, spec, specs, settings, days)
    found = _compare(context, spec, delivered, warehouse)
    outcomes = [*_settled(context, found), *_import_all(context, spec, found.wanted, warehouse)]
    waiting = _log_waiting(context, delivered)
    good_days = [day for day in _good_days(outcomes) if day not in waiting]
    _log_days_without(context, spec, days, outcomes)
    accounts = _accounts(spec, warehouse, outcomes, good_days)
    bad = [o for o in outcomes if not o.good and not o.settled]
    drift = drift_of(o.result for o in outcomes if o.result and o.delivery.business_date not in accounts)
    if accounts or not bad:  # Dagster wants a result of every check of a step that succeeds
        yield from check_results(spec, warehouse, accounts.values(), drift)
    elif drift:
        yield drift_result(spec, drift)
    results = [o.result for o in outcomes if o.result is not None]
    if (accounts or results or not bad) and (gate := gate_result(spec, warehouse, results)):
        yield gate
    if spec.expected_by and (accounts or not bad):
        yield arrived_result(spec, warehouse, min(lookback(settings, _today(settings)), default=min(days)))
    if set(good_days) == set(days):
        yield _materialize_all(context, accounts)
        return
    # A result would stand for every day of the run. Only the good ones are
    # recorded, so that the schedule and a backfill find the others missing.
    for day in good_days:
        context.log_event(
            dg.AssetMaterialization(spec.name, partition=day.isoformat(), metadata=accounts[day].metadata())
        )
    _fail_for(spec, bad, drift)


def _warehouse(settings: Settings) -> Warehouse:
    if settings.warehouse_url is None:
        raise dg.Failure(
            "IMPORTER_WAREHOUSE_URL is not set in the step's process. Start Dagster through `importer dev`, "
            "which sets it, or set it where the daemon and the webserver are started.",
            allow_retries=False,
        )
    return Warehouse.of(settings, settings.warehouse_url)


def _today(settings: Settings) -> date:
    return datetime.now(ZoneInfo(settings.timezone)).date()


def _compare(
    context: dg.AssetExecutionContext, spec: TableSpec, delivered: Sequence[Delivery], warehouse: Warehouse
) -> Arrivals:
    """What there is to import: all that is complete, less what is settled unless a person asks."""
    if not is_automatic(context.run.tags):
        return Arrivals([d for d in delivered if not d.waiting])
    try:
        ledger_schema.migrate(warehouse)
        with warehouse.connect() as conn:
            return arrivals.compare(conn, delivered, {spec.name: spec})
    except TransientError as error:
        raise dg.Failure(str(error), allow_retries=True) from None


def _settled(context: dg.AssetExecutionContext, found: Arrivals) -> Iterator[Outcome]:
    """What earlier runs made of files that have not changed since; what a person took out is left out."""
    for delivery, known in found.done.items():
        if known.status == "unloaded":
            context.log.info(f"{delivery.path} was unloaded (load {known.load_id}) and is left out.")
            continue
        outcome = Outcome(delivery, known.result(delivery), settled=True)
        if not outcome.good:
            context.log.warning(
                f"{delivery.path} is not read again, since it has not changed: {outcome.reason}"
            )
        yield outcome


def _log_waiting(context: dg.AssetExecutionContext, delivered: Sequence[Delivery]) -> set[date]:
    """Days that are not done, since one of their files is not complete yet."""
    for d in delivered:
        if d.waiting:
            context.log.warning(f"{d.path} is not read yet: {d.waiting}")
    return {d.business_date for d in delivered if d.waiting}


def _deliveries(
    context: dg.AssetExecutionContext,
    spec: TableSpec,
    specs: Mapping[str, TableSpec],
    settings: Settings,
    days: Sequence[date],
) -> list[Delivery]:
    from importer_dagster.source.inbox import find_deliveries

    try:
        return find_deliveries(
            settings.inbox_url,
            specs,
            default_path=settings.default_path,
            dates=days,
            types=[spec.name],
            # a person who starts a run takes the files as they are
            min_age=settings.min_age if is_automatic(context.run.tags) else 0,
        )
    except TransientError as error:
        # "from None": Dagster keeps causes, too, and a library's own words may hold a whole address
        raise dg.Failure(str(error), allow_retries=True) from None
    except PermanentError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def _import_all(
    context: dg.AssetExecutionContext, spec: TableSpec, deliveries: Sequence[Delivery], warehouse: Warehouse
) -> list[Outcome]:
    with warehouse.series():
        return _import_each(context, spec, deliveries, warehouse)


def _import_each(
    context: dg.AssetExecutionContext, spec: TableSpec, deliveries: Sequence[Delivery], warehouse: Warehouse
) -> list[Outcome]:
    # Late, since it brings pandas and Pandera: the code server and the daemon
    # never need them, and a step's process is forked from one that has them.
    from importer_dagster.pipeline.small_files import import_together
    from importer_dagster.pipeline.unchanged_files import look_up

    known = look_up(deliveries, {spec.name: spec}, warehouse=warehouse)
    deliveries = small_tenants_first(deliveries)
    done = known.same
    if _is_first_try(context):
        new = [d for d in deliveries if d in known.new]
        done = done | import_together(new, spec, warehouse=warehouse, run_id=context.run_id)
    outcomes: list[Outcome] = []
    said = _Said(context.log)
    for delivery in deliveries:
        if outcomes and isinstance(outcomes[-1].error, WarehouseUnavailable):
            # nothing else would fare better; the retry comes back to it
            outcomes.append(Outcome(delivery, error=outcomes[-1].error))
            continue
        if result := done.get(delivery):
            outcome = Outcome(delivery, result)
        else:
            outcome = _import_one(delivery, spec, warehouse, context.run_id, is_new=delivery in known.new)
        outcomes.append(outcome)
        _say(context, said, outcome)
    said.flush()
    return outcomes


def _say(context: dg.AssetExecutionContext, said: "_Said", outcome: Outcome) -> None:
    """What became of a delivery, for the run's log; an error is said at once."""
    r, path = outcome.result, outcome.delivery.path
    if r is not None and outcome.good:
        said.add(
            f"{path}: {r.status}, {r.rows_read} read, {r.rows_loaded} loaded, "
            f"{r.rows_rejected} rejected, {r.rows_unchanged} unchanged, {r.rows_skipped} skipped"
        )
        return
    said.flush()
    context.log.error(f"{path}: {outcome.reason}", exc_info=_bug(outcome.error))


class _Said:
    """Lines for the run's log, those of a moment in one event: an event costs as much as a small file."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lines: list[str] = []
        self._since = time.monotonic()

    def add(self, line: str) -> None:
        """Say it now or a moment later."""
        self._lines.append(line)
        if len(self._lines) >= _LINES or time.monotonic() - self._since > _MOMENT_S:
            self.flush()

    def flush(self) -> None:
        """Say what has not been said."""
        if self._lines:
            self._log.info("\n".join(self._lines))
        self._lines.clear()
        self._since = time.monotonic()


def _is_first_try(context: dg.AssetExecutionContext) -> bool:
    """Whether nothing says that the step was tried before.

    A file that ends the process takes along what is imported together with it; tried
    again one by one, all files that come before it are loaded.
    """
    return context.retry_number == 0 and not {PARENT, RETRY} & set(context.run.tags)


def small_tenants_first(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """By how much each tenant sent, so that nobody waits behind one huge file; each tenant's in their order."""
    sent: dict[str, int] = {}
    for d in deliveries:
        sent[d.tenant] = sent.get(d.tenant, 0) + (d.size or 0)
    return sorted(deliveries, key=lambda d: (sent[d.tenant], d.tenant))


def _bug(error: Exception | None) -> Exception | None:
    """``error`` if nobody raised it on purpose, so that its traceback is wanted."""
    return None if isinstance(error, PermanentError | TransientError) else error


def _import_one(
    delivery: Delivery, spec: TableSpec, warehouse: Warehouse, run_id: str, *, is_new: bool
) -> Outcome:
    from importer_dagster.pipeline.delivery import import_delivery

    try:
        result = import_delivery(delivery, spec, warehouse=warehouse, run_id=run_id, is_new=is_new)
        return Outcome(delivery, result)
    except Exception as error:  # one bad file, or a bug that it meets, does not stop its type
        return Outcome(delivery, error=error)


def _good_days(outcomes: Sequence[Outcome]) -> list[date]:
    """Days of which every delivery is good."""
    bad = {o.delivery.business_date for o in outcomes if not o.good}
    return sorted({o.delivery.business_date for o in outcomes} - bad)


def _log_days_without(
    context: dg.AssetExecutionContext, spec: TableSpec, days: Sequence[date], outcomes: Sequence[Outcome]
) -> None:
    without = sorted(set(days) - {o.delivery.business_date for o in outcomes})
    if without:
        listed = ", ".join(map(str, without[:_NAMED])) + (" …" if len(without) > _NAMED else "")
        context.log.info(f"Nothing was delivered for {spec.name} on {listed}; not materialized.")


def _accounts(
    spec: TableSpec, warehouse: Warehouse, outcomes: Sequence[Outcome], days: Sequence[date]
) -> dict[date, Account]:
    """What the ledger says of each good day. Failing here means: try again, the loads stand."""
    if not days:
        return {}
    results = [o.result for o in outcomes if o.result is not None]
    try:
        with warehouse.connect() as conn:
            return {
                day: read_account(
                    conn,
                    spec,
                    [r for r in results if r.delivery.business_date == day],
                    schema=warehouse.schema,
                )
                for day in days
            }
    except (TransientError, PermanentError) as error:
        raise dg.Failure(str(error), allow_retries=isinstance(error, TransientError)) from None


def _materialize_all(
    context: dg.AssetExecutionContext, accounts: Mapping[date, Account]
) -> dg.MaterializeResult[None]:
    metadata = {day: account.metadata() for day, account in accounts.items()}
    if len(metadata) == 1:
        return dg.MaterializeResult(metadata=next(iter(metadata.values())))
    for day, values in metadata.items():
        context.add_asset_metadata(values, partition_key=day.isoformat())
    return dg.MaterializeResult()


def _fail_for(spec: TableSpec, bad: Sequence[Outcome], drift: Sequence[Mapping[str, Any]]) -> None:
    """Raise a Failure that names the bad deliveries, to be retried if that may help; none, none."""
    if not bad:
        return
    named = [f"{o.delivery.path}: {o.reason}" for o in bad[:_NAMED]]
    if len(bad) > _NAMED:
        named.append(f"and {len(bad) - _NAMED} more; `importer status` shows all")
    count = "1 delivery was" if len(bad) == 1 else f"{len(bad)} deliveries were"
    metadata: dict[str, Any] = {"deliveries": dg.MetadataValue.json([o.delivery.path for o in bad])}
    if drift:
        metadata["drift"] = dg.MetadataValue.md(markdown_table(drift[:_NAMED]))
    raise dg.Failure(
        f"{spec.name}: {count} not imported; the others stand. " + "\n".join(named),
        metadata=metadata,
        allow_retries=any(o.transient for o in bad),
    )
