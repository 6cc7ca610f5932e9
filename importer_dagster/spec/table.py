"""The description of a CSV type: one YAML file, checked, and nothing else.

A spec is a Frictionless *Resource* descriptor (name, path, encoding, dialect,
schema; https://specs.frictionlessdata.io) plus how to load it. Words of that
standard which say nothing to an importer (``licenses``, ``rdfType`` …) are
accepted and ignored, so that a descriptor can be pasted in as it is; any
other unknown key is refused with its line and the nearest known key.

What does not belong here: what a field becomes in Arrow, Pandera, PostgreSQL
or Dagster (``validation/schemas.py``), and how values are read (``validation/validator.py``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, wraps
from itertools import pairwise
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field, field_validator, model_validator

from importer_dagster.model import DriftEvent
from importer_dagster.spec.fields import (
    Dialect,
    FieldSpec,
    Model,
    Names,
    TableSchema,
    check_known,
    without_ignored,
)
from importer_dagster.spec.policy import (
    DEFAULT_REJECT_LIMIT,
    Complete,
    Gate,
    RejectLimit,
    Scd2,
    SchemaContract,
    Trailer,
)
from importer_dagster.spec.versions import LayoutState, Version, work_out

Disposition = Literal["append", "replace", "merge", "scd2"]


@dataclass(frozen=True)
class Layout:
    """How files of some days are written.

    ``spec`` has the fields that they should have; ``whole`` all columns of the
    table, where those of other layouts are optional. ``declared`` are the
    differences from the layout before, valid from ``since``; the first layout
    has none and begins with the first file.
    """

    spec: TableSpec
    whole: TableSpec
    since: date | None = None
    declared: tuple[DriftEvent, ...] = ()
    former: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # field → its names in other layouts

    @property
    def absent(self) -> tuple[FieldSpec, ...]:
        """Fields of the table that files of this layout do not have."""
        own = {f.name for f in self.spec.fields}
        return tuple(f for f in self.whole.fields if f.name not in own)


def declarations(spec: TableSpec) -> list[tuple[date, tuple[DriftEvent, ...]]]:
    """(first day, differences from the layout before) of each version."""
    return [(x.since, x.declared) for x in spec.layouts if x.since is not None]


class TableSpec(Model):
    """One CSV type: a Frictionless Resource and how to load it."""

    name: str = Field(description="The type's name: its asset, its table, and the YAML file's stem.")
    group: str = Field("default", description="The asset group it is shown in.")
    title: str | None = Field(None, description="A short name for people.")
    description: str | None = Field(None, description="What the type holds; becomes the table's comment.")
    owner: str | None = Field(None, description="Who answers for it: an e-mail address or team:name.")
    tags: Mapping[str, str] = Field({}, description="Free tags, shown at the asset.")
    path: str | None = Field(
        None, description="Pattern of its deliveries below the inbox; else the project's."
    )
    encoding: str = Field("utf-8", description="The text encoding, as Python names it.")
    compression: str | None = Field(None, description="Ignored: containers are recognised by content.")
    dialect: Dialect = Field(Dialect(), description="How the file is written down.")
    tableschema: TableSchema = Field(alias="schema", description="Its fields and keys.")
    write_disposition: Disposition = Field(
        "append",
        description="append: every file's rows stand. replace: the newest business date stands. "
        "merge: the newest row of each primary key stands. scd2: as merge, with the history of each key.",
    )
    scd2: Scd2 = Field(Scd2(), description="How history is kept (write_disposition scd2).")
    schema_contract: SchemaContract = Field(SchemaContract(), description="What to do about drift.")
    reject_limit: RejectLimit = Field(DEFAULT_REJECT_LIMIT, description="When rejects refuse the file.")
    gate: Gate = Field(Gate(), description="What makes a readable delivery suspicious.")
    complete: Complete = Field(Complete(), description="When a file is all there.")
    trailer: Trailer | None = Field(
        None, description="Totals in the last record, to be checked; needs dialect.footerRows: 1 or more."
    )
    expected_by: str | None = Field(
        None,
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
        description="Time of day (HH:MM, the project's time zone) by which the day's files should be there.",
    )
    checks: Names = Field((), description="Named Pandera checks over whole rows.")
    versions: tuple[Version, ...] = Field(
        (), description="How files changed, from which day on; older files keep loading as they are."
    )

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, data: Any) -> Any:
        return without_ignored("resource", data)

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(
                f"{name!r}: a type's name is made of letters, digits and _, and starts with no digit"
            )
        if len(name) > 55:  # room for what index names add
            raise ValueError(f"{name!r} is longer than 55 characters")
        return name

    @field_validator("schema_contract", mode="before")
    @classmethod
    def _one_word_for_all(cls, value: Any) -> Any:
        """dlt allows one word for every kind of drift."""
        if isinstance(value, str):
            others = "freeze" if value == "freeze" else "evolve"
            retyped = value if value in ("freeze", "rescue") else "reject"
            return {"added": value, "removed": others, "renamed": others, "retyped": retyped}
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError:
            raise ValueError(f"encoding {value!r} is not known to Python") from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> TableSpec:
        if self.write_disposition in ("merge", "scd2") and not self.tableschema.primaryKey:
            raise ValueError(f"write_disposition {self.write_disposition} needs a primaryKey in the schema")
        if self.write_disposition != "scd2" and self.scd2 != Scd2():
            raise ValueError(f"scd2 options mean nothing to write_disposition {self.write_disposition}")
        days = [v.since for v in self.versions]
        if any(a >= b for a, b in pairwise(days)):
            raise ValueError("versions: each must begin after the one before it")
        if self.versions:
            _ = self.layouts  # raises ValueError where they make no sense
        names = [f.name for f in self.fields]
        for key in self.tableschema.foreignKeys:  # a version may have added the field
            check_known("schema: foreignKeys", key.fields, names)
        self._check_gate(names)
        if self.trailer is not None:
            self._check_trailer(self.trailer, names)
        return self

    def _check_trailer(self, trailer: Trailer, names: Sequence[str]) -> None:
        dialects = [self.dialect, *(v.dialect for v in self.versions if v.dialect)]
        if not any(dialect.footerRows for dialect in dialects):
            raise ValueError(
                "trailer needs dialect.footerRows: 1, or how many records at the end are no data; the trailer "
                "is the last of them"
            )
        check_known("trailer.sums", list(trailer.sums), names)
        for own in (f for f in self.fields if f.name in trailer.sums):
            if own.type not in ("integer", "number") or own.format == "double":
                raise ValueError(f"trailer.sums names {own.name!r}, which is no integer and no exact number")

    def _check_gate(self, names: Sequence[str]) -> None:
        for rule in self.gate.unique:
            check_known("gate.unique", rule.fields, names)
        if self.gate.references and not self.tableschema.foreignKeys:
            raise ValueError("gate.references needs foreignKeys in the schema")

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The fields of all versions, in the table's order."""
        return self.newest.tableschema.fields

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """The type's layouts by date, the oldest first."""
        return _layouts(self) if self.versions else (Layout(self, self),)

    def layout(self, day: date) -> Layout:
        """How files of a business date are written."""
        if not self.versions:
            return Layout(self, self)
        return next(x for x in reversed(self.layouts) if x.since is None or x.since <= day)

    @property
    def newest(self) -> TableSpec:
        """The type with all columns of its table and no versions, the newest layout's way of writing."""
        return self.layouts[-1].whole if self.versions else self

    @cached_property
    def primary_key(self) -> tuple[str, ...]:
        """Column names of the primary key, without the tenant."""
        return tuple(self.field(name).column for name in self.tableschema.primaryKey)

    @property
    def absence_closes(self) -> bool:
        """scd2: whether a key's version ends on the first delivered day that does not name the key."""
        return self.write_disposition == "scd2" and self.scd2.absent == "close"

    @property
    def absence_deletes(self) -> bool:
        """Whether rows that a delivery does not have leave the table (or are no longer current)."""
        return self.write_disposition == "replace" or self.absence_closes

    @property
    def is_gated(self) -> bool:
        """Whether anything readable can be suspicious."""
        return self.gate != Gate() or self.absence_deletes

    @cached_property
    def _fields_by_name(self) -> dict[str, FieldSpec]:
        return {f.name: f for f in self.fields}

    def field(self, name: str) -> FieldSpec:
        """The field called ``name``; KeyError if there is none."""
        return self._fields_by_name[name]

    def missing_values(self, field: FieldSpec) -> tuple[str, ...]:
        """The texts that mean 'no value' in ``field``."""
        tokens = field.missingValues if field.missingValues is not None else self.tableschema.missingValues
        null = self.dialect.nullSequence
        return tokens if null is None or null in tokens else (*tokens, null)

    @cached_property
    def common_missing(self) -> tuple[str, ...]:
        """The texts that mean 'no value' in every field: the reader sees to them, where unquoted."""
        first, *rest = (self.missing_values(f) for f in self.fields)
        return tuple(t for t in first if all(t in tokens for tokens in rest))

    @cached_property
    def hash(self) -> str:
        """16 hex digits that change when the spec's meaning changes."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _layouts(spec: TableSpec) -> tuple[Layout, ...]:
    """All layouts of a type with versions, the oldest first; raises ValueError where they make no sense."""
    schema = spec.tableschema
    first = LayoutState({f.name: f for f in schema.fields}, spec.encoding, spec.dialect, schema.missingValues)
    return tuple(
        Layout(
            _as_only_layout(spec, dated.state, dated.state.fields),
            _as_only_layout(spec, dated.state, dated.columns),
            dated.since,
            dated.declared,
            dated.former,
        )
        for dated in work_out(first, spec.versions, schema.primaryKey)
    )


def _as_only_layout(spec: TableSpec, state: LayoutState, fields: Mapping[str, FieldSpec]) -> TableSpec:
    """The type as if ``state`` were all there is; references and gates are those of its fields."""
    keys = [k for k in spec.tableschema.foreignKeys if set(k.fields) <= set(fields)]
    gate = {
        "unique": tuple(rule for rule in spec.gate.unique if set(rule.fields) <= set(fields)),
        "references": spec.gate.references if keys else None,
    }
    schema = {
        **{k: getattr(spec.tableschema, k) for k in type(spec.tableschema).model_fields},
        "fields": [f.model_dump(exclude_unset=True) for f in fields.values()],
        "missingValues": state.missing,
        "foreignKeys": keys,
    }
    own = {
        **{k: getattr(spec, k) for k in type(spec).model_fields if k != "compression"},
        "tableschema": type(spec.tableschema).model_validate(schema),
        "dialect": state.dialect,
        "encoding": state.encoding,
        "gate": spec.gate.model_copy(update=gate),
        "versions": (),
    }
    return type(spec).model_validate(own)


T = TypeVar("T")
K = TypeVar("K")
_MOST_KEPT = 500  # of what types, and the headers of their files, are known by


def keep(made: dict[K, T], key: K, value: T) -> None:
    """Keep what was made for a type, so that its next file need not make it again; all is let go where it is too much."""
    if len(made) >= _MOST_KEPT:
        made.clear()
    made[key] = value


def once_per_spec(make: Callable[[TableSpec], T]) -> Callable[[TableSpec], T]:
    """Let ``make`` be called once for each spec; whoever asks again gets the same, and must not change it."""
    made: dict[str, T] = {}

    @wraps(make)
    def found(spec: TableSpec) -> T:
        value = made.get(spec.hash)
        if value is None:
            value = make(spec)
            keep(made, spec.hash, value)
        return value

    return found


# --- one file -----------------------------------------------------------------


# --- a folder of specs ----------------------------------------------------------
