"""Proposes edits of a spec for the drift of its type's deliveries. Nothing is changed here; a person accepts.

What does not belong here: writing YAML (``operations/spec_edits.py``), what the drift is
(``operations/drift_summary.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from importer_dagster.inference.type_choice import infer_field, style_of_type
from importer_dagster.operations.drift_summary import (
    DeliveryDrift,
    Edit,
    SpecChange,
    open_changes,
    share_read,
)
from importer_dagster.operations.rename_detection import KnownValues, find_renames
from importer_dagster.operations.spec_edits import add_alias, add_field, add_version
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec
from importer_dagster.spec.versions import FieldChange, changed, stored

Proposal = tuple[str, Edit | None]  # advice, edit

_WRITING = ("format", "decimalChar", "groupChar", "bareNumber", "trueValues", "falseValues")


def changes(spec: TableSpec, deliveries: Sequence[DeliveryDrift], known: KnownValues) -> list[SpecChange]:
    """What the deliveries have that the spec does not know, oldest first, each with a proposal if there is one.

    ``deliveries`` are those in force and those refused, of all tenants.
    """
    found = open_changes(spec, deliveries)
    proposed = []
    renamed: set[str | None] = set()
    for missing, added, why in find_renames(spec, [c for c in found if c.until is None], known):
        old, new = str(missing.column), str(added.column)
        detail = f"{old!r} is missing and {new!r} is unknown: {why}"
        advice = f"take {new!r} as another name of {old!r}"
        edit = partial(add_alias, field=old, alias=new)
        proposed.append(replace(missing, kind="renamed", detail=detail, profile={}, advice=advice, edit=edit))
        renamed |= {missing.column, added.column}
    proposed += [_with_proposal(spec, change, deliveries) for change in found if change.column not in renamed]
    return sorted(proposed, key=lambda c: (c.since, c.kind))  # else in the order of the file's columns


def _with_proposal(spec: TableSpec, change: SpecChange, deliveries: Sequence[DeliveryDrift]) -> SpecChange:
    advice: str
    edit: Edit | None
    advice, edit = "nothing to do: mapped by name", None
    if change.until is not None:
        advice, edit = _for_past_column(spec, change, deliveries)
    elif change.kind == "added":
        advice, edit = _for_added(spec, change, deliveries)
    elif change.kind == "removed":
        advice, edit = _for_removed(spec, change, deliveries)
    elif change.kind == "retyped":
        advice, edit = _for_retyped(spec, change)
    elif change.kind == "renamed":
        header = change.profile.get("header")
        advice = "declare the name as an alias of the field"
        if header is not None:
            advice = f"take {header!r} as another name of it"
            edit = partial(add_alias, field=str(change.column), alias=header)
    return replace(change, advice=advice, edit=edit)


def _for_past_column(spec: TableSpec, change: SpecChange, deliveries: Sequence[DeliveryDrift]) -> Proposal:
    """A column that came and went can become a field of those days, if a person asks for it."""
    name, until = str(change.column), change.until
    after = min((d.day for d in deliveries if until and d.day > until), default=None)
    known = {f.column for f in spec.fields}
    if change.kind != "added" or after is None or FieldSpec(name=name).column in known:
        return change.advice, change.edit
    made, why = infer_field(name, change.profile, style_of_type(spec))

    def edit(text: str) -> str:
        return add_version(add_version(text, str(change.since), [made], []), str(after), [], [name])

    return f"over; --column makes it a field of those days, as {made['type']}: {why}", edit


def _for_added(spec: TableSpec, change: SpecChange, deliveries: Sequence[DeliveryDrift]) -> Proposal:
    name = str(change.column)
    if any(f.name == name for f in spec.layout(change.since).absent):
        advice = f"a field again from {change.since} on, as it was"
        return advice, lambda text: add_version(text, str(change.since), [{"name": name}], [])
    made, why = infer_field(name, change.profile, style_of_type(spec))
    if any(f.column == FieldSpec(name=name).column for f in spec.fields):
        return f"give it a name of its own: the table has a column {name!r} already", None
    older = any(d.day < change.since for d in deliveries)
    if older and change.everywhere:
        advice = f"a new field from {change.since} on, as {made['type']}: {why}"
        return advice, lambda text: add_version(text, str(change.since), [made], [])
    return f"a new field, as {made['type']}: {why}", lambda text: add_field(text, made)


def _for_removed(spec: TableSpec, change: SpecChange, deliveries: Sequence[DeliveryDrift]) -> Proposal:
    name = str(change.column)
    if name in spec.tableschema.primaryKey:
        return "it belongs to the primaryKey: ask the supplier for it", None
    if not change.everywhere:
        return "other deliveries still have it: ask the supplier, or make the field optional", None
    if not any(d.day < change.since for d in deliveries):
        return "no delivery has had it yet: take the field out of the spec, or ask the supplier", None
    advice = f"no field from {change.since} on; its column stays, with NULL"
    return advice, lambda text: add_version(text, str(change.since), [], [name])


def _for_retyped(spec: TableSpec, change: SpecChange) -> Proposal:
    """Another way of writing the same type can be declared from that day on; another type needs a person."""
    name = str(change.column)
    layout = spec.layout(change.since)
    own = next((f for f in layout.spec.fields if name in (f.column, f.name)), None)
    values = change.profile.get("values") or []
    if own is None or not values:
        return "look at the rejects, and declare how its values are written", None
    made, why = infer_field(own.name, change.profile)
    written = {"name": own.name, **{k: v for k, v in made.items() if k in _WRITING}}
    try:
        new = changed(own, FieldChange.model_validate(written))
    except ValueError:
        new = None
    if new is None or stored(new) != stored(own) or share_read(values, new, layout.spec) < 0.95:
        advice = f"its values look like {made['type']} now ({why}): declare a type that holds both, or ask"
        return advice, None
    advice = f"another way of writing from {change.since} on: {why}"
    return advice, lambda text: add_version(text, str(change.since), [written], [])
