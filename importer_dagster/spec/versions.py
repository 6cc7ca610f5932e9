"""Dated versions of a type: which layout a delivery of a given day has.

A spec's ``schema`` describes the first layout; each version says what changed
from its day on. All layouts feed one table, whose columns are those of all of
them together. What a version declares is written down as drift where it begins.

What does not belong here: comparing a header with a layout (``validation/drift.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, model_validator

from importer_dagster.model import DriftEvent
from importer_dagster.spec.fields import Dialect, FieldSpec, Model, Names, Token

M = TypeVar("M", bound=Model)


class FieldChange(FieldSpec):
    """A field of a version: a known name and what changed, or a new field; what is not written stays."""

    @model_validator(mode="after")
    def _consistent(self) -> FieldChange:
        return self  # judged as a whole field, together with what stays


class Version(Model):
    """What changed in a type's files from a business date on; everything else stays as before."""

    since: date = Field(alias="from", description="The first business date that it is valid for.")
    description: str | None = Field(None, description="Why, or who said so.")
    encoding: str | None = Field(None, description="The text encoding from then on.")
    dialect: Dialect | None = Field(None, description="What changed in how the file is written down.")
    fields: tuple[FieldChange, ...] = Field(
        (),
        description="Fields that are new, or that changed. Where all of the layout's fields are listed, "
        "their order is that of the columns.",
    )
    removed: Names = Field((), description="Fields that files no longer have; their columns stay.")
    missingValues: tuple[Token, ...] | None = Field(
        None, description="Texts that mean 'no value' from then on."
    )

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def changed(model: M, change: Model) -> M:
    """``model`` with what ``change`` says, however deep; raises ValueError where that makes no sense."""
    written = _merge(model.model_dump(exclude_unset=True), change.model_dump(exclude_unset=True))
    return type(model).model_validate(written)


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    nested = {
        k: _merge(old[k], v)
        for k, v in new.items()
        if isinstance(v, Mapping) and isinstance(old.get(k), Mapping)
    }
    return {**old, **new, **nested}


@dataclass(frozen=True)
class LayoutState:
    """What one layout says: its fields by name, and how its files are written."""

    fields: Mapping[str, FieldSpec]
    encoding: str
    dialect: Dialect
    missing: tuple[str, ...]
    gone: Mapping[str, FieldSpec] = field(
        default_factory=dict
    )  # removed fields, for the case that they return


@dataclass(frozen=True)
class DatedLayout:
    """One layout with its place in time.

    ``columns`` are the fields of all layouts in the table's order, those of other layouts optional;
    ``declared`` the differences from the layout before; ``former`` the names of each field in other layouts.
    """

    state: LayoutState
    columns: Mapping[str, FieldSpec]
    since: date | None
    declared: tuple[DriftEvent, ...]
    former: Mapping[str, tuple[str, ...]]


def work_out(
    first: LayoutState, versions: Sequence[Version], primary_key: Sequence[str]
) -> tuple[DatedLayout, ...]:
    """All layouts of a type, the oldest first; raises ValueError for versions that make no sense."""
    states = [first]
    for version in versions:
        states.append(_after(states[-1], version, primary_key))
    columns = _columns(states)
    found = []
    for i, state in enumerate(states):
        declared = tuple(_differences(states[i - 1], state)) if i else ()
        since = versions[i - 1].since if i else None
        whole = {n: state.fields.get(n) or _optional(f) for n, f in columns.items()}
        found.append(DatedLayout(state, whole, since, declared, _former(state, states)))
    return tuple(found)


def _former(state: LayoutState, states: list[LayoutState]) -> dict[str, tuple[str, ...]]:
    """Names that fields have in other layouts, unless this one gives them to another field."""
    taken = {name for f in state.fields.values() for name in f.names}
    found: dict[str, dict[str, None]] = {}
    for other in states:
        for name, f in other.fields.items():
            found.setdefault(name, {}).update(dict.fromkeys(n for n in f.names if n not in taken))
    return {name: tuple(names) for name, names in found.items() if names}


def _after(before: LayoutState, version: Version, primary_key: Sequence[str]) -> LayoutState:
    where = f"versions, from {version.since}"
    fields, gone = dict(before.fields), dict(before.gone)
    for name in version.removed:
        if name not in fields:
            raise ValueError(f"{where}: removed names {name!r}, which is no field by then")
        if name in primary_key:
            raise ValueError(f"{where}: {name!r} belongs to the primaryKey, so it cannot be removed")
        gone[name] = fields.pop(name)
    for change in version.fields:
        old = before.fields.get(change.name) or gone.get(change.name)
        try:
            fields[change.name] = changed(old or FieldSpec(name=change.name), change)
        except ValueError as error:
            raise ValueError(f"{where}, field {change.name!r}: {_first_line(error)}") from None
    listed = [c.name for c in version.fields]
    if set(listed) == set(fields):
        fields = {name: fields[name] for name in listed}
    dialect = changed(before.dialect, version.dialect) if version.dialect else before.dialect
    missing = before.missing if version.missingValues is None else version.missingValues
    return LayoutState(fields, version.encoding or before.encoding, dialect, missing, gone)


def _first_line(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    return str(errors()[0]["msg"]).removeprefix("Value error, ") if errors else str(error)


def _columns(states: list[LayoutState]) -> dict[str, FieldSpec]:
    """The table's columns in order of appearance, each as the newest layout that has it says."""
    columns: dict[str, FieldSpec] = {}
    for state in states:
        for name, own in state.fields.items():
            known = columns.get(name)
            if known is not None and stored(known) != stored(own):
                raise ValueError(
                    f"versions: {name!r} would be {stored(known)} in one layout and {stored(own)} in another; "
                    "all feed one column, so declare the type that holds both, or give the new one another name"
                )
            columns[name] = own
    return columns


def stored(field: FieldSpec) -> str:
    """What decides the type of a field's column, in words."""
    if field.type == "number":
        return "a double" if field.format == "double" else f"number({field.precision},{field.scale})"
    if field.type == "string":
        return "uuid" if field.format == "uuid" else "string"
    if field.type == "datetime":
        zoned = field.timezone is not None or any("%z" in f for f in field.formats)
        return "datetime with time zone" if zoned else "datetime without time zone"
    return field.type


def _optional(field: FieldSpec) -> FieldSpec:
    return field.model_copy(
        update={"constraints": field.constraints.model_copy(update={"required": False}), "header": None}
    )


def _differences(before: LayoutState, after: LayoutState) -> Iterator[DriftEvent]:
    """What a version declares, as drift from the layout before it."""
    for name, own in after.fields.items():
        old = before.fields.get(name)
        if old is None:
            yield DriftEvent("added", name, "a new field of this version", declared=True)
        elif old.names[0] != own.names[0]:
            words = f"{old.names[0]!r} is {own.names[0]!r} in this version"
            yield DriftEvent("renamed", name, words, declared=True)
    for name in before.fields:
        if name not in after.fields:
            yield DriftEvent("removed", name, "no field of this version; NULL is loaded", declared=True)
    stay = [n for n in before.fields if n in after.fields]
    if stay != [n for n in after.fields if n in before.fields]:
        yield DriftEvent("reordered", None, "columns come in another order in this version", declared=True)
    yield from _rewritten(before, after)


def _rewritten(before: LayoutState, after: LayoutState) -> Iterator[DriftEvent]:
    """Fields and files that are written in another way."""
    for name, own in after.fields.items():
        old = before.fields.get(name)
        words = _said(old, own) if old else ""
        if words:
            yield DriftEvent("version", name, f"another way of writing: {words}", declared=True)
    for key in ("encoding", "dialect", "missing"):
        if getattr(before, key) != getattr(after, key):
            word = "missingValues" if key == "missing" else key
            yield DriftEvent("version", None, f"another {word} in this version", declared=True)


def _said(old: FieldSpec, new: FieldSpec) -> str:
    keys = ("format", "missingValues", "trueValues", "falseValues", "decimalChar", "groupChar", "bareNumber")
    pairs = ((k, getattr(old, k), getattr(new, k)) for k in keys)
    return ", ".join(f"{k} {a!r} → {b!r}" for k, a, b in pairs if a != b)
