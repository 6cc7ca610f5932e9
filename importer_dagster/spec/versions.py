"""Dated versions of a type: which layout the deliveries of a day have.

A spec's ``schema`` describes the first layout; each version says what changed
from its day on. The files of all layouts are loaded into one table, which has the
columns of all layouts. The changes of a version are recorded as drift on its first day.

What does not belong here: comparing a header with a layout (``validation/drift.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError, model_validator

from importer_dagster.model import DriftEvent
from importer_dagster.spec.fields import Dialect, FieldSpec, Model, Names, Token

M = TypeVar("M", bound=Model)

# The options of a field that say how its values are written.
_WRITING = ("format", "missingValues", "trueValues", "falseValues", "decimalChar", "groupChar", "bareNumber")


class FieldChange(FieldSpec):
    """A field that a version adds or changes. Options of a known field that are not given stay as they were."""

    @model_validator(mode="after")
    def _consistent(self) -> FieldChange:
        return self  # FieldSpec checks the whole field, once the change is applied


class Version(Model):
    """What changed in a type's files from a business date on; everything else stays as before."""

    since: date = Field(alias="from", description="The first business date that it is valid for.")
    description: str | None = Field(None, description="Why the files changed, or who announced it.")
    encoding: str | None = Field(None, description="The text encoding from then on.")
    dialect: Dialect | None = Field(None, description="What changed in how the file is written.")
    fields: tuple[FieldChange, ...] = Field(
        (),
        description="Fields that are new or changed. If all fields of the layout are listed, their order is "
        "the order of the columns.",
    )
    removed: Names = Field(
        (), description="Fields that files no longer have; their columns stay in the table."
    )
    missingValues: tuple[Token, ...] | None = Field(
        None, description="Texts that mean a missing value from then on."
    )

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def changed(model: M, change: Model) -> M:
    """``model`` with the options that ``change`` sets, nested ones included; raises ValueError if they do not fit."""
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
    """One layout: its fields by name, and how its files are written.

    ``gone`` has the removed fields, as a later version may bring them back.
    """

    fields: Mapping[str, FieldSpec]
    encoding: str
    dialect: Dialect
    missing: tuple[str, ...]
    gone: Mapping[str, FieldSpec] = field(default_factory=dict)

    def after(self, version: Version, primary_key: Sequence[str]) -> LayoutState:
        """The layout that ``version`` makes of this one; raises ValueError for a change that is not possible."""
        where = f"versions, from {version.since}"
        fields, gone = dict(self.fields), dict(self.gone)
        for name in version.removed:
            if name not in fields:
                raise ValueError(f"{where}: removed names {name!r}, which is no field by then")
            if name in primary_key:
                raise ValueError(f"{where}: {name!r} belongs to the primaryKey, so it cannot be removed")
            gone[name] = fields.pop(name)
        for change in version.fields:
            old = self.fields.get(change.name) or gone.get(change.name)
            try:
                fields[change.name] = changed(old or FieldSpec(name=change.name), change)
            except ValidationError as error:
                fault = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"{where}, field {change.name!r}: {fault}") from None
        listed = [c.name for c in version.fields]
        if set(listed) == set(fields):
            fields = {name: fields[name] for name in listed}
        dialect = changed(self.dialect, version.dialect) if version.dialect else self.dialect
        missing = self.missing if version.missingValues is None else version.missingValues
        return LayoutState(fields, version.encoding or self.encoding, dialect, missing, gone)

    def changes_since(self, before: LayoutState) -> Iterator[DriftEvent]:
        """The differences from the layout before, as drift that a version declares."""
        for name, own in self.fields.items():
            old = before.fields.get(name)
            if old is None:
                yield DriftEvent("added", name, "a new field of this version", declared=True)
            elif old.names[0] != own.names[0]:
                words = f"{old.names[0]!r} is {own.names[0]!r} in this version"
                yield DriftEvent("renamed", name, words, declared=True)
        for name in before.fields:
            if name not in self.fields:
                yield DriftEvent("removed", name, "no field of this version; NULL is loaded", declared=True)
        stay = [n for n in before.fields if n in self.fields]
        if stay != [n for n in self.fields if n in before.fields]:
            yield DriftEvent(
                "reordered", None, "columns come in another order in this version", declared=True
            )
        for name, own in self.fields.items():
            old = before.fields.get(name)
            pairs = ((k, getattr(old, k), getattr(own, k)) for k in _WRITING) if old else ()
            words = ", ".join(f"{k} {a!r} → {b!r}" for k, a, b in pairs if a != b)
            if words:
                yield DriftEvent("version", name, f"another way of writing: {words}", declared=True)
        for key in ("encoding", "dialect", "missing"):
            if getattr(before, key) != getattr(self, key):
                word = "missingValues" if key == "missing" else key
                yield DriftEvent("version", None, f"another {word} in this version", declared=True)

    def former_names(self, states: Sequence[LayoutState]) -> dict[str, tuple[str, ...]]:
        """The names of each field in other layouts, without names that fields of this layout have."""
        taken = {name for f in self.fields.values() for name in f.names}
        found: dict[str, dict[str, None]] = {}
        for other in states:
            for name, f in other.fields.items():
                found.setdefault(name, {}).update(dict.fromkeys(n for n in f.names if n not in taken))
        return {name: tuple(names) for name, names in found.items() if names}


@dataclass(frozen=True)
class DatedLayout:
    """One layout with the day on which it begins, ``since``; None for the first.

    ``columns`` are the fields of all layouts in the table's order, those of other layouts optional.
    ``declared`` are the differences from the layout before. ``former`` has the names of each field
    in other layouts.
    """

    state: LayoutState
    columns: Mapping[str, FieldSpec]
    since: date | None
    declared: tuple[DriftEvent, ...]
    former: Mapping[str, tuple[str, ...]]


def layouts_by_date(
    first: LayoutState, versions: Sequence[Version], primary_key: Sequence[str]
) -> tuple[DatedLayout, ...]:
    """All layouts of a type, the oldest first; raises ValueError for versions that contradict each other."""
    states = [first]
    for version in versions:
        states.append(states[-1].after(version, primary_key))
    columns = _columns(states)
    found = []
    for i, state in enumerate(states):
        declared = tuple(state.changes_since(states[i - 1])) if i else ()
        since = versions[i - 1].since if i else None
        whole = dict(columns)
        for name, f in columns.items():
            optional = f.constraints.model_copy(update={"required": False})
            others = f.model_copy(update={"constraints": optional, "header": None})
            whole[name] = state.fields.get(name) or others
        found.append(DatedLayout(state, whole, since, declared, state.former_names(states)))
    return tuple(found)


def _columns(states: list[LayoutState]) -> dict[str, FieldSpec]:
    """The table's columns in the order in which layouts add them, each as in the newest layout that has it."""
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
    """The type of a field's column in words: fields with the same words can share a column."""
    if field.type == "number":
        return "a double" if field.format == "double" else f"number({field.precision},{field.scale})"
    if field.type == "string":
        return "uuid" if field.format == "uuid" else "string"
    if field.type == "datetime":
        zoned = field.timezone is not None or any("%z" in f for f in field.formats)
        return "datetime with time zone" if zoned else "datetime without time zone"
    return field.type
