"""Whether rows go straight into the type's table or through a staging table, where they are judged as a whole.

And what is judged there of keys: duplicates within the file, and whether a late file still has a place.

What does not belong here: the statements (``writer/publish.py``), what the gate must see (``gate.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from importer_dagster.errors import RefusedError
from importer_dagster.ledger import queries
from importer_dagster.pipeline import gate
from importer_dagster.pipeline.columns import ColumnPlan
from importer_dagster.pipeline.rows import ValidatedRows
from importer_dagster.pipeline.state import Begun, Job, StagingPlan, Tally, check_reject_count, write_rejects
from importer_dagster.reader.reader import open_delivery
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.rejects import duplicate_records
from importer_dagster.writer import schema_evolution


def plan_staging(job: Job, begun: Begun, plan: ColumnPlan, rows: ValidatedRows) -> StagingPlan:
    """Decide it for one file, once.

    A staging table is needed where rows must be judged as a whole before they may stand in the table. Making
    and dropping it takes the server as long as storing a hundred rows twice, so a short file avoids it where
    its rows meet no others.
    """
    if not _needs_staging_table(job, begun, plan, rows):
        return StagingPlan(stage=False)
    target, newest = begun.publisher.target, begun.newest
    # the rows that are left out are seen by nobody but the publisher
    only_publisher_looks = not gate.needs_stage(job.spec) and len(_unique_columns(job.spec)) <= 1
    is_newest = newest is not None and begun.publisher.is_newest(newest)
    return StagingPlan(True, filter_unchanged=target.is_keyed and only_publisher_looks and is_newest)


def _needs_staging_table(job: Job, begun: Begun, plan: ColumnPlan, rows: ValidatedRows) -> bool:
    if job.dry_run or plan.extras.grows or job.facts.has_duplicates or gate.needs_stage(job.spec):
        return True
    known = None if rows.known is None else [batch.typed for batch in rows.known]
    unique = {rule for rule, _ in _unique_columns(job.spec)}
    if begun.publisher.target.is_keyed:
        # keys are unique within a file as a rule, and the table's own index sees to it
        return unique != {"primaryKey"} or not _meets_no_key(begun, known)
    if known is not None and rows.key_order.holds:
        unique.discard("primaryKey")  # keys that rise throughout the file are unique
    is_append = job.spec.write_disposition == "append"
    return bool(unique) or not (is_append or _all_belong_in_table(begun, known))


def _meets_no_key(begun: Begun, known: Sequence[pa.RecordBatch] | None) -> bool:
    """merge, scd2: whether no other delivery has one of the file's keys, nor concerns the file what it lacks.

    ``known`` are the good rows of a short file.
    """
    publisher = begun.publisher
    if begun.newest is None:
        return publisher.prior is None
    if known is None or publisher.target.spec.absence_closes or not publisher.is_newest(begun.newest):
        return False
    return all(publisher.has_none_between(typed) for typed in known)


def _all_belong_in_table(begun: Begun, known: Sequence[pa.RecordBatch] | None) -> bool:
    """replace: whether all rows belong in the table that BI reads; and there are some, which the gate asks."""
    publisher, newest = begun.publisher, begun.newest
    if known is None or not any(map(len, known)):
        return False
    if publisher.takes_all(newest):
        return True
    is_same_day = newest is not None and newest[0] == publisher.business_date
    # of the day's files, no other has one of its keys
    return (
        is_same_day and publisher.prior is None and all(publisher.has_none_between(typed) for typed in known)
    )


def _unique_columns(spec: TableSpec) -> list[tuple[str, tuple[str, ...]]]:
    """(rule, columns) of everything that must be unique within a file."""
    keys = [("primaryKey", spec.primary_key)] if spec.primary_key else []
    return keys + [("unique", (f.column,)) for f in spec.fields if f.constraints.unique]


def prepare_tables(begun: Begun, plan: ColumnPlan, staging: StagingPlan) -> None:
    """Make the staging table, or move the rows away that the file's rows replace."""
    publisher = begun.publisher
    if not staging.stage:
        publisher.make_way(begun.newest)
        return
    publisher.create_stage()
    if plan.extras.grows:
        columns = list(plan.extras.grows.values())
        schema_evolution.prepare_stage(publisher.conn, columns, publisher.target.gained)


def reject_duplicates(job: Job, begun: Begun, rows: ValidatedRows, tally: Tally) -> None:
    """Reject staged rows whose key stood in an earlier record of the file.

    Only where there are any, the file is read again, for the text of their records.
    """
    publisher = begun.publisher
    for rule, columns in _unique_columns(job.spec):
        if rule == "primaryKey" and rows.key_order.holds:
            continue
        if not publisher.take_duplicates(columns):
            continue
        sources = rows.validator.sources_of(columns)
        with open_delivery(job.delivery, job.layout.spec) as reader:
            reader.select(rows.reader.selected)
            for batch in reader.batches():
                if not len(batch.rows):
                    continue
                numbers = batch.rows.to_numpy()
                found = publisher.duplicates_between(int(numbers[0]), int(numbers[-1]))
                if found:
                    names = ", ".join(columns)
                    tally.rejects.add(duplicate_records(found, batch, rule, names, sources))
                    check_reject_count(job.spec, tally)
                    write_rejects(publisher.conn, job, begun.load_id, tally)
        publisher.forget_duplicates()


def check_place(job: Job, begun: Begun) -> None:
    """merge, scd2: raise RefusedError for a late or corrected file whose place cannot be told any more.

    That is so where retention has deleted what earlier deliveries said. ``force`` accepts the file where what
    is left decides its place, unless absence closes versions: then nothing is left that could decide it.
    """
    delivery, publisher, newest = job.delivery, begun.publisher, begun.newest
    may_force = not job.spec.absence_closes
    on_top = publisher.prior is None and (newest is None or delivery.business_date > newest[0])
    if on_top or (job.force and may_force) or not publisher.target.is_keyed:
        return
    pruned = queries.pruned_until(publisher.conn, delivery.type, delivery.tenant, also=publisher.prior)
    if pruned and delivery.business_date <= pruned[0]:
        raise RefusedError(
            f"What the deliveries until {pruned[0]} said before others did was deleted on "
            f"{pruned[1]:%Y-%m-%d} (IMPORTER_KEEP_HISTORY), so the place of a file of "
            f"{delivery.business_date} among them cannot be told exactly. "
            + ("`importer load --force` puts it where the rest says" if may_force else queries.ONLY_ANEW),
            rule="retention",
        )
