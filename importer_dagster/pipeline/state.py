"""What the steps of a load hand on to each other: the job, what earlier tries found out, counts, decisions.

What does not belong here: the steps themselves (``load.py`` tells their order).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psycopg

from importer_dagster.errors import RefusedError
from importer_dagster.ledger import rejects as ledger_rejects
from importer_dagster.model import Delivery, DriftEvent, Finding, Rank
from importer_dagster.pipeline.already_loaded import FileContent
from importer_dagster.spec.table import Layout, TableSpec
from importer_dagster.validation.drift import TypeWatch
from importer_dagster.validation.rejects import Rejects
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.publish import Publisher
from importer_dagster.writer.target import Target, target_of

Progress = Callable[[int, int], None]  # (records read so far, rejected so far)


@dataclass(frozen=True)
class Facts:
    """What earlier tries of a load found out, so that the next try begins with it.

    * ``is_new``: no load of the delivery is active. The statement that begins the load checks it again.
    * ``changes_tables``: the type's tables will change, which takes a lock before anything else.
    * ``has_duplicates``: a key comes twice in the file, so its rows need a staging table.
    * ``rescued``: per field whose values have another type, whether they are kept in ``_extra`` (True), or
      were found to be too few for that (False).
    """

    is_new: bool = False
    changes_tables: bool = False
    has_duplicates: bool = False
    rescued: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One delivery to import, and how."""

    content: FileContent
    warehouse: Warehouse
    run_id: str | None = None
    force: bool = False
    dry_run: bool = False
    progress: Progress | None = None
    facts: Facts = Facts()
    has_ledger: bool = True  # a rehearsal may run on a database without the ledger's tables
    started: float = field(default_factory=time.monotonic)

    @property
    def delivery(self) -> Delivery:
        """The file."""
        return self.content.delivery

    @property
    def spec(self) -> TableSpec:
        """The type, with all its versions."""
        return self.content.spec

    @property
    def layout(self) -> Layout:
        """How files of the delivery's business date are written."""
        return self.spec.layout(self.delivery.business_date)

    @property
    def target(self) -> Target:
        """The type's tables, without columns that they gained."""
        return target_of(self.spec, self.delivery.has_tenant, self.warehouse.schema)

    @property
    def evolves(self) -> bool:
        """Whether unknown columns of the file become columns of the table."""
        return self.spec.schema_contract.added == "evolve"


class RestartLoad(Exception):
    """The load must begin again, with ``facts``.

    With ``gives_slot_back`` the slot and the connection are given back first.
    """

    def __init__(self, facts: Facts, *, gives_slot_back: bool = False) -> None:
        super().__init__()
        self.facts, self.gives_slot_back = facts, gives_slot_back


@dataclass(frozen=True)
class Begun:
    """A load that has its row in the ledger.

    ``newest`` is the rank of the newest active delivery of the type and tenant, this one's prior load left
    out; None if there is none, or where it does not matter (append). ``publisher`` holds the type's tables.
    """

    load_id: int
    newest: Rank | None
    publisher: Publisher


@dataclass(frozen=True)
class StagingPlan:
    """Where the rows of a file go first, decided once.

    ``stage``: into a staging table, where they are judged as a whole; else straight into the type's table.
    ``filter_unchanged``: rows that the table has already are left out while the file is read.
    """

    stage: bool
    filter_unchanged: bool = False


@dataclass
class Tally:
    """What one try has met so far. The counts are of records."""

    read: int = 0
    skipped: int = 0  # no data by declaration, such as footers
    damaged: int = 0  # rejected by the reader; they are among the rejects, too
    rejects: Rejects = field(default_factory=Rejects)
    types: TypeWatch = field(default_factory=TypeWatch)
    drift: tuple[DriftEvent, ...] = ()
    warnings: list[str] = field(default_factory=list)
    findings: tuple[Finding, ...] = ()

    @property
    def records(self) -> int:
        """Records that are data."""
        return self.read - self.skipped

    @property
    def events(self) -> tuple[DriftEvent, ...]:
        """How the header differs from the spec, and what else was odd."""
        return (*self.drift, *(DriftEvent("warning", None, w) for w in self.warnings))

    @property
    def not_in_force(self) -> dict[str, int]:
        """The ledger's counts of a file of which nothing is in force: what was fine counts as skipped."""
        return {
            "rows_read": self.read,
            "rows_rejected": self.rejects.records,
            "rows_skipped": self.read - self.rejects.records,
        }


def write_rejects(conn: psycopg.Connection, job: Job, load_id: int, tally: Tally) -> None:
    """Put the rejects that are not written yet into quarantine; a rehearsal forgets them."""
    records, reasons = tally.rejects.take()
    if not job.dry_run:
        ledger_rejects.write(conn, load_id, records, reasons)


def check_reject_count(spec: TableSpec, tally: Tally, most_left: int | None = 0) -> None:
    """Raise RefusedError early: where more records are rejected than any end of the file can allow.

    ``most_left`` is how many records can follow at most, None if that is not known.
    """
    if spec.schema_contract.retyped == "rescue":
        return  # the end of the file may show that they are no rejects
    most = tally.records + (sys.maxsize if most_left is None else most_left)
    if spec.reject_limit.exceeded(tally.rejects.records, most):
        check_reject_limit(spec, tally)


def check_reject_limit(spec: TableSpec, tally: Tally) -> None:
    """Raise RefusedError where more records are rejected than the type allows (``reject_limit``)."""
    reason = spec.reject_limit.exceeded(tally.rejects.records, tally.records)
    if not reason:
        return
    first = tally.rejects.first[0].slice(0, 1).to_pylist()[0]
    column = f", column {first['column_name']}" if first["column_name"] else ""
    retyped = [f" Column {c!r} has another type: {tally.types.words(c)}." for c in tally.types.changed()]
    raise RefusedError(
        f"{reason}; first: record {first['row']} (line {first['line']}{column}): {first['message']}."
        f"{''.join(retyped)} `importer rejects` shows more.",
        rule="reject_limit",
    )
