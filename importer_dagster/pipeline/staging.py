"""Which way a file's rows take: straight into the table, or through a stage, where they are looked at as a whole.

And whether there is a place for them at all.

What does not belong here: the statements (``writer/publish.py``), what the gate must see (``pipeline/gate.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pyarrow as pa

from importer_dagster.errors import RefusedError
from importer_dagster.ledger import queries
from importer_dagster.ledger.queries import ONLY_ANEW
from importer_dagster.model import Delivery, Rank
from importer_dagster.pipeline import gate
from importer_dagster.spec.table import TableSpec
from importer_dagster.writer.publish import Publisher
from importer_dagster.writer.target import Target


def unique_columns(spec: TableSpec) -> list[tuple[str, tuple[str, ...]]]:
    """(rule, columns) of everything that must be unique within a file."""
    keys = [("primaryKey", spec.primary_key)] if spec.primary_key else []
    return keys + [("unique", (f.column,)) for f in spec.fields if f.constraints.unique]


def needs_stage(
    publisher: Publisher, newest: Rank | None, known: Sequence[pa.RecordBatch] | None, *, rises: bool
) -> bool:
    """Whether rows must be looked at as a whole before they may stand in the table.

    ``newest`` is as for :meth:`Publisher.publish`. ``known`` are the good rows of a file that is known
    as a whole by now, None of any other; ``rises``: their keys do so throughout. The keys of a keyed
    type are unique as a rule, which the table itself sees to.
    """
    spec = publisher.target.spec
    if gate.needs_stage(spec):
        return True
    unique = {rule for rule, _ in unique_columns(spec)}
    if publisher.target.is_keyed:
        return unique != {"primaryKey"} or not _meets_nothing(publisher, newest, known)
    if rises:
        unique.discard("primaryKey")
    plain = spec.write_disposition == "append" or _replaces_plainly(publisher, newest, known)
    return bool(unique) or not plain


def _meets_nothing(publisher: Publisher, newest: Rank | None, known: Sequence[pa.RecordBatch] | None) -> bool:
    """merge, scd2: whether no delivery says anything of the file's keys, nor the file of what it does not name."""
    if newest is None:
        return publisher.prior is None
    if known is None or publisher.target.spec.absence_closes or not publisher.is_newest(newest):
        return False
    return _has_none_of(publisher, known)


def _replaces_plainly(
    publisher: Publisher, newest: Rank | None, known: Sequence[pa.RecordBatch] | None
) -> bool:
    """replace: whether all rows belong in the table; and there are some, which the gate asks of it."""
    if known is None or not any(map(len, known)):
        return False
    if publisher.takes_all(newest):
        return True
    is_same_day = newest is not None and newest[0] == publisher.business_date
    # of the day's files, no other has one of its keys
    return is_same_day and publisher.prior is None and _has_none_of(publisher, known)


def _has_none_of(publisher: Publisher, known: Sequence[pa.RecordBatch]) -> bool:
    """Whether it is plain that the table has none of the file's keys."""
    return all(publisher.has_none_between(typed) for typed in known)


def may_filter(publisher: Publisher, newest: Rank | None) -> bool:
    """Whether rows that say nothing new may stay out of the stage: nobody but the publisher looks at it."""
    spec = publisher.target.spec
    if not publisher.target.is_keyed or gate.needs_stage(spec) or len(unique_columns(spec)) > 1:
        return False
    return newest is not None and publisher.is_newest(newest)


def check_place(
    conn: psycopg.Connection,
    target: Target,
    delivery: Delivery,
    newest: Rank | None,
    *,
    prior: int | None,
    force: bool,
) -> None:
    """merge, scd2: raise RefusedError for a late or corrected file whose place cannot be told any more.

    ``prior`` is the load that it stands in place of; ``force``: it is accepted where the rest says.
    """
    on_top = prior is None and (newest is None or delivery.business_date > newest[0])
    may_force = not target.spec.absence_closes  # there, nothing is left to put it among
    if on_top or (force and may_force) or not target.is_keyed:
        return
    pruned = queries.pruned_until(conn, delivery.type, delivery.tenant, also=prior)
    if pruned and delivery.business_date <= pruned[0]:
        raise RefusedError(
            f"What the deliveries until {pruned[0]} said before others did was deleted on "
            f"{pruned[1]:%Y-%m-%d} (IMPORTER_KEEP_HISTORY), so the place of a file of "
            f"{delivery.business_date} among them cannot be told exactly. "
            + ("`importer load --force` puts it where the rest says" if may_force else ONLY_ANEW),
            rule="retention",
        )
