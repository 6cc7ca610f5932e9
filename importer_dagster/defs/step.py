"""What an asset does when it runs: import the deliveries of its days.

Every delivery is imported by itself, small ones together. A day is recorded as materialized once all of its
deliveries are good. Then the step fails if others are bad, and names them. Run again, it finds the good
ones unchanged. A run that the schedule or the sensor asked for takes complete files only, and does
not read again what the ledger has settled; a person's run takes all files.

What does not belong here: what is shown of a step (``defs/metadata.py``, ``defs/checks.py``), how a single
delivery is imported (``pipeline/delivery.py``).
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.settings import Settings, lookback
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse

log = logging.getLogger(__name__)

_LINES = 100  # most lines in one event of the run's log
_MOMENT_S = 2.0  # lines of so many seconds are one event
_NAMED = 20  # most deliveries or days that a message names; the ledger has them all


@dataclass(frozen=True)
class Outcome:
    """What became of one delivery: a result, or the error that prevented one; ``settled`` by an earlier run."""

    delivery: Delivery
    result: LoadResult | None = None
    error: Exception | None = None
    settled: bool = False

    @property
    def good(self) -> bool:
        """Whether the delivery's rows are in the table."""
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
    """Import what was delivered for the context's partitions; yields the results for Dagster.

    Raises dg.Failure naming the bad deliveries, after recording the good days.
    """
    end_with_parent()
    if settings.warehouse_url is None:
        raise dg.Failure(
            "IMPORTER_WAREHOUSE_URL is not set in the step's process. Start Dagster through `importer dev`, "
            "which sets it, or set it where the daemon and the webserver are started.",
            allow_retries=False,
        )
    days = [date.fromisoformat(key) for key in context.partition_keys]
    step = Step(context, spec, Warehouse.of(settings, settings.warehouse_url), days)
    delivered = step.deliveries(settings, specs)
    outcomes = step.import_all(delivered)
    accounts = step.accounts(delivered, outcomes)
    bad = [o for o in outcomes if not o.good and not o.settled]
    drift = drift_of(o.result for o in outcomes if o.result and o.delivery.business_date not in accounts)
    yield from step.results_of_checks(settings, accounts, outcomes, drift)
    if set(accounts) == set(days):
        yield step.materialization(accounts)
        return
    # A result would count for every day of the run. Only the good days are recorded,
    # so that the schedule and a backfill find the others missing.
    for day, account in accounts.items():
        context.log_event(
            dg.AssetMaterialization(spec.name, partition=day.isoformat(), metadata=account.metadata())
        )
    if bad:
        raise failure(spec, bad, drift)


@dataclass(frozen=True)
class Step:
    """The import of one type for some days, as the parts that :func:`run_step` puts together."""

    context: dg.AssetExecutionContext
    spec: TableSpec
    warehouse: Warehouse
    days: Sequence[date]

    @property
    def is_automatic(self) -> bool:
        """Whether the schedule or the sensor asked for the run, and not a person."""
        return is_automatic(self.context.run.tags)

    def deliveries(self, settings: Settings, specs: Mapping[str, TableSpec]) -> list[Delivery]:
        """What is in the inbox for the days, complete or not."""
        from importer_dagster.source.inbox import find_deliveries

        with _as_failure(TransientError, PermanentError):
            return find_deliveries(
                settings.inbox_url,
                specs,
                default_path=settings.default_path,
                dates=self.days,
                types=[self.spec.name],
                # a person who starts a run wants the files as they are
                min_age=settings.min_age if self.is_automatic else 0,
            )

    def import_all(self, delivered: Sequence[Delivery]) -> list[Outcome]:
        """Import what is complete and, unless a person asks, not settled; returns settled deliveries as well."""
        wanted: Sequence[Delivery] = [d for d in delivered if not d.waiting]
        outcomes: list[Outcome] = []
        if self.is_automatic:
            with _as_failure(TransientError):
                ledger_schema.migrate(self.warehouse)
                with self.warehouse.connect() as conn:
                    found = arrivals.compare(conn, delivered, {self.spec.name: self.spec})
            wanted = found.wanted
            for delivery, known in found.done.items():
                if known.status == "unloaded":
                    self.context.log.info(
                        f"{delivery.path} was unloaded (load {known.load_id}) and is left out."
                    )
                    continue
                outcomes.append(Outcome(delivery, known.result(delivery), settled=True))
                if not outcomes[-1].good:
                    self.context.log.warning(
                        f"{delivery.path} is not read again, since it has not changed: {outcomes[-1].reason}"
                    )
        with self.warehouse.series():
            outcomes += self.import_wanted(wanted)
        for d in delivered:
            if d.waiting:
                self.context.log.warning(f"{d.path} is not read yet: {d.waiting}")
        without = sorted(set(self.days) - {o.delivery.business_date for o in outcomes})
        if without:
            listed = ", ".join(map(str, without[:_NAMED])) + (" …" if len(without) > _NAMED else "")
            self.context.log.info(
                f"Nothing was delivered for {self.spec.name} on {listed}; not materialized."
            )
        return outcomes

    def import_wanted(self, deliveries: Sequence[Delivery]) -> list[Outcome]:
        """Import each delivery: first the small new ones together, then the others one by one."""
        # Late, since they import pandas and Pandera: the code server and the daemon
        # never need these, and a step's process is forked from one that has them.
        from importer_dagster.pipeline.delivery import import_delivery
        from importer_dagster.pipeline.small_files import import_together
        from importer_dagster.pipeline.unchanged_files import look_up

        spec, warehouse, run_id = self.spec, self.warehouse, self.context.run_id
        known = look_up(deliveries, {spec.name: spec}, warehouse=warehouse)
        deliveries = small_tenants_first(deliveries)
        done = known.same
        # A file that ends the process takes along what is imported together with it. Tried
        # again one by one, all files that come before it are loaded.
        if self.context.retry_number == 0 and not {PARENT, RETRY} & set(self.context.run.tags):
            new = [d for d in deliveries if d in known.new]
            done = done | import_together(new, spec, warehouse=warehouse, run_id=run_id)
        outcomes: list[Outcome] = []
        lines = GroupedLines(self.context.log)
        for delivery in deliveries:
            error: Exception | None = outcomes[-1].error if outcomes else None
            result = None
            # after a lost warehouse no other delivery would succeed; the step's retry imports them
            if not isinstance(error, WarehouseUnavailable):
                error, result = None, done.get(delivery)
                try:
                    result = result or import_delivery(
                        delivery, spec, warehouse=warehouse, run_id=run_id, is_new=delivery in known.new
                    )
                except Exception as raised:  # one bad file, or a bug that it meets, does not stop its type
                    error = raised
                lines.add_outcome(Outcome(delivery, result, error))
            outcomes.append(Outcome(delivery, result, error))
        lines.flush()
        return outcomes

    def accounts(self, delivered: Sequence[Delivery], outcomes: Sequence[Outcome]) -> dict[date, Account]:
        """What the ledger says of each good day: one of which every delivery is complete and good.

        Raises dg.Failure if the ledger cannot be read; the loads stay.
        """
        found = {o.delivery.business_date for o in outcomes}
        found -= {o.delivery.business_date for o in outcomes if not o.good}
        found -= {d.business_date for d in delivered if d.waiting}
        if not found:
            return {}
        results = [o.result for o in outcomes if o.result is not None]
        with _as_failure(TransientError, PermanentError), self.warehouse.connect() as conn:
            return {
                day: read_account(
                    conn,
                    self.spec,
                    [r for r in results if r.delivery.business_date == day],
                    schema=self.warehouse.schema,
                )
                for day in sorted(found)
            }

    def results_of_checks(
        self,
        settings: Settings,
        accounts: Mapping[date, Account],
        outcomes: Sequence[Outcome],
        drift: Sequence[Mapping[str, Any]],
    ) -> Iterator[dg.AssetCheckResult]:
        """The results of the checks that the outcomes allow; of all checks if the step succeeds, as Dagster wants."""
        spec, warehouse = self.spec, self.warehouse
        results = [o.result for o in outcomes if o.result is not None]
        succeeds = all(o.good or o.settled for o in outcomes)
        if accounts or succeeds:
            yield from check_results(spec, warehouse, accounts.values(), drift)
        elif drift:
            yield drift_result(spec, drift)
        if (accounts or results or succeeds) and (gate := gate_result(spec, warehouse, results)):
            yield gate
        if spec.expected_by and (accounts or succeeds):
            today = datetime.now(ZoneInfo(settings.timezone)).date()
            yield arrived_result(spec, warehouse, min(lookback(settings, today), default=min(self.days)))

    def materialization(self, accounts: Mapping[date, Account]) -> dg.MaterializeResult[None]:
        """The result that stands for all days of the step, with the metadata of each."""
        if len(accounts) == 1:
            [account] = accounts.values()
            return dg.MaterializeResult(metadata=account.metadata())
        for day, account in accounts.items():
            self.context.add_asset_metadata(account.metadata(), partition_key=day.isoformat())
        return dg.MaterializeResult()


class GroupedLines:
    """Lines for the run's log, several in one event, since an event takes as long as a small file."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lines: list[str] = []
        self._since = time.monotonic()

    def add_outcome(self, outcome: Outcome) -> None:
        """Log what became of a delivery: now if it is bad, else now or soon."""
        r, path, error = outcome.result, outcome.delivery.path, outcome.error
        if r is not None and outcome.good:
            self.add(
                f"{path}: {r.status}, {r.rows_read} read, {r.rows_loaded} loaded, "
                f"{r.rows_rejected} rejected, {r.rows_unchanged} unchanged, {r.rows_skipped} skipped"
            )
            return
        self.flush()
        is_expected = isinstance(error, PermanentError | TransientError)  # any other is a bug: with traceback
        self._log.error(f"{path}: {outcome.reason}", exc_info=None if is_expected else error)

    def add(self, line: str) -> None:
        """Log a line now or soon."""
        self._lines.append(line)
        if len(self._lines) >= _LINES or time.monotonic() - self._since > _MOMENT_S:
            self.flush()

    def flush(self) -> None:
        """Log the lines that wait."""
        if self._lines:
            self._log.info("\n".join(self._lines))
        self._lines.clear()
        self._since = time.monotonic()


def small_tenants_first(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Sort by how many bytes each tenant sent, so that no tenant waits behind a huge file of another one.

    The deliveries of each tenant keep their order.
    """
    sent: dict[str, int] = {}
    for d in deliveries:
        sent[d.tenant] = sent.get(d.tenant, 0) + (d.size or 0)
    return sorted(deliveries, key=lambda d: (sent[d.tenant], d.tenant))


def failure(spec: TableSpec, bad: Sequence[Outcome], drift: Sequence[Mapping[str, Any]]) -> dg.Failure:
    """The error that names the bad deliveries. Dagster retries the step if that may help one of them."""
    named = [f"{o.delivery.path}: {o.reason}" for o in bad[:_NAMED]]
    if len(bad) > _NAMED:
        named.append(f"and {len(bad) - _NAMED} more; `importer status` shows all")
    count = "1 delivery was" if len(bad) == 1 else f"{len(bad)} deliveries were"
    metadata: dict[str, Any] = {"deliveries": dg.MetadataValue.json([o.delivery.path for o in bad])}
    if drift:
        metadata["drift"] = dg.MetadataValue.md(markdown_table(drift[:_NAMED]))
    return dg.Failure(
        f"{spec.name}: {count} not imported; the others stand. " + "\n".join(named),
        metadata=metadata,
        allow_retries=any(o.transient for o in bad),
    )


@contextmanager
def _as_failure(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds into a dg.Failure, which is retried if the error is transient."""
    try:
        yield
    except kinds as error:
        # "from None": Dagster keeps causes as well, and a library's own message may hold a whole address
        raise dg.Failure(str(error), allow_retries=isinstance(error, TransientError)) from None
