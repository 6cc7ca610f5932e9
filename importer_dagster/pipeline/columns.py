"""The columns of one delivery: which become fields, which are kept or become columns of the table.

Also what the values of a column look like that the spec does not know (a profile), kept with the drift event
so that a change of the spec can be proposed later.

What does not belong here: comparing a header with a layout (``validation/drift.py``), changing tables
(``writer/schema_evolution.py``), proposals (``operations/spec_proposals.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.errors import ImporterError, RefusedError
from importer_dagster.model import ColumnMapping, Delivery, DriftEvent
from importer_dagster.pipeline.state import Job, RestartLoad, Tally
from importer_dagster.reader.reader import Reader, open_delivery
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.drift import TypeWatch, map_header
from importer_dagster.validation.extra_columns import Extras, Rescued
from importer_dagster.writer import schema_evolution
from importer_dagster.writer.publish import Publisher

PROFILE_VALUES = 300  # different values that a profile keeps
_VALUE_LENGTH = 200  # characters of each
_PROFILE_LENGTH = 12_000  # characters of all of them


@dataclass(frozen=True)
class ColumnPlan:
    """What becomes of each column of a header: a field, or one of the extras."""

    mapping: ColumnMapping
    extras: Extras

    @property
    def sources(self) -> dict[str, str]:
        """Field → the text column of the batches that feeds it (its position in the header, as text)."""
        return {name: str(position) for name, position in self.mapping.sources.items()}


def plan_columns(job: Job, publisher: Publisher, reader: Reader, tally: Tally) -> ColumnPlan:
    """Decide what becomes of each column; raises RefusedError where the spec does not allow the header.

    Raises RestartLoad where the table must gain a column and is not reserved for that yet.
    """
    tally.warnings = reader.warnings
    header, spec = reader.header, job.spec
    mapping = map_header(header, job.layout.spec, job.layout, line=reader.header_line)
    tally.drift = mapping.events
    grows: Mapping[int, str] = {}
    if job.evolves:
        grows = schema_evolution.growing(publisher.conn, publisher.target, header, mapping.extras)
        if any(column not in publisher.target.gained for column in grows.values()):
            _reserve_tables(job)
    rescued = [
        Rescued(spec.field(name), str(mapping.sources[name]), header[mapping.sources[name]])
        for name, is_wanted in job.facts.rescued.items()
        if is_wanted
    ]
    extras = Extras(
        grows={str(i): column for i, column in grows.items()},
        kept={str(i): header[i] for i in mapping.extras if i not in grows},
        rescued=rescued,
    )
    tally.types = TypeWatch({spec.field(name).column: str(i) for name, i in mapping.sources.items()})
    return ColumnPlan(mapping, extras)


def _reserve_tables(job: Job) -> None:
    """Restart as the only load that changes the type's tables, unless this try is that already."""
    if not job.facts.changes_tables and not job.dry_run:
        raise RestartLoad(replace(job.facts, changes_tables=True))


def check_types(job: Job, plan: ColumnPlan, tally: Tally) -> None:
    """At the end of the file: what the contract says of columns whose values have another type.

    ``rescue``: raises RestartLoad, so that the values are kept in ``_extra`` where the column is not required,
    and once more where a column turns out to have too few of them. ``freeze``: raises RefusedError.
    """
    changed = tally.types.changed()
    contract = job.spec.schema_contract.retyped
    known = dict(job.facts.rescued)
    too_few = [r.field.name for r in plan.extras.rescued if r.field.column not in changed]
    if too_few:
        raise RestartLoad(replace(job.facts, rescued=known | dict.fromkeys(too_few, False)))
    if contract == "rescue":
        by_column = {f.column: f for f in job.layout.whole.fields}
        found = [by_column[column] for column in changed]
        new = [f.name for f in found if not f.required and f.name not in known]
        if new:
            raise RestartLoad(replace(job.facts, rescued=known | dict.fromkeys(new, True)))
    done = {"reject": "its records are rejected", "freeze": "the file is refused"}.get(
        contract, "kept as text in _extra where the column is not required"
    )
    tally.drift = (*tally.drift, *tally.types.events(done))
    if changed and contract == "freeze":
        raise RefusedError(
            f"Column {changed[0]!r} of type {job.spec.name} has another type: {tally.types.words(changed[0])}. "
            "schema_contract.retyped is freeze. Ask the supplier, or declare the new type in the spec.",
            rule="drift.retyped",
            column=changed[0],
        )


def grow_columns(job: Job, publisher: Publisher, plan: ColumnPlan, tally: Tally) -> None:
    """Let the table gain the columns that this delivery brings; a rehearsal leaves the table alone.

    Raises RestartLoad where a column must change its type and the tables are not reserved for that yet.
    """
    if not plan.extras.grows:
        return
    conn = publisher.conn
    kinds = {column: evidence.kind for column, evidence in plan.extras.evidence.items()}
    planned = schema_evolution.plan(conn, publisher.target, kinds)
    if job.dry_run:
        publisher.target = schema_evolution.without_changes(publisher.target, planned)
        schema_evolution.cast_stage(conn, [g for g in planned if g.type == g.before])
        return
    if any(g.type != g.before for g in planned):
        _reserve_tables(job)
    origin = f"{job.delivery.path} ({job.delivery.business_date})"
    schema_evolution.grow(conn, publisher.target, planned, origin)
    schema_evolution.cast_stage(conn, planned)
    publisher.target = schema_evolution.with_gained(conn, publisher.target)
    tally.drift = (*tally.drift, *schema_evolution.events(planned))


def with_profiles(
    events: Sequence[DriftEvent], delivery: Delivery, spec: TableSpec, sources: Mapping[str, str]
) -> tuple[DriftEvent, ...]:
    """``events``, those about unknown columns or values of another type with a profile of the column.

    Only a delivery with such events pays for it: the first part of the file is read again, those columns
    alone. ``spec`` reads it; ``sources`` are the positions of columns in the header. A file that cannot be read
    again keeps its events as they are.
    """
    wanted = {n: event for n, event in enumerate(events) if needs_profile(event)}
    if not wanted:
        return tuple(events)
    found = list(events)
    try:
        with open_delivery(delivery, spec) as reader:
            in_header = {name: str(i) for i, name in reversed([*enumerate(reader.header)])}
            # a retyped field may stand in the header under another name
            places = {"added": in_header, "retyped": {**in_header, **sources}}
            found_at = {n: places[e.kind].get(str(e.column_name)) for n, e in wanted.items()}
            positions = {n: position for n, position in found_at.items() if position is not None}
            reader.select(sorted({int(position) for position in positions.values()}))
            batch = next(iter(reader.batches()), None)
    except ImporterError:
        return tuple(events)
    if batch is None:
        return tuple(events)
    for n, position in positions.items():
        own = {**(found[n].profile or {}), **profile(batch.columns.column(position))}
        found[n] = replace(found[n], profile=own)
    return tuple(found)


def needs_profile(event: DriftEvent) -> bool:
    """Whether a profile of its column belongs to an event."""
    return event.kind in ("added", "retyped") and not event.declared and event.column_name is not None


def profile(cells: pa.Array) -> dict[str, Any]:
    """How many values there are and how many are missing, and some of the different ones."""
    texts = pc.unique(cells.drop_null())
    counted = {"rows": len(cells), "missing": cells.null_count, "distinct": len(texts)}
    if not len(texts):
        return {**counted, "values": []}
    longest = pc.max(pc.utf8_length(texts)).as_py() or 1
    most = max(1, min(PROFILE_VALUES, len(texts), _PROFILE_LENGTH // min(longest, _VALUE_LENGTH)))
    some = np.unique(np.linspace(0, len(texts) - 1, most).astype(np.int64))
    values = pc.utf8_slice_codeunits(texts.take(pa.array(some)), 0, _VALUE_LENGTH).to_pylist()
    return {**counted, "values": values}
