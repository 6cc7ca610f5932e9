"""The description of a CSV type, :class:`TableSpec`, and the layouts that its files have from one date to the next.

A spec is a Frictionless *Resource* descriptor (name, path, encoding, dialect,
schema; https://specs.frictionlessdata.io) plus how to load it. Keys of that
standard which mean nothing for a load (``licenses``, ``rdfType`` …) are
accepted and ignored, so that a descriptor can be pasted in as it is.

What does not belong here: parts of a spec (``spec/fields.py``, ``spec/policy.py``, ``spec/versions.py``),
reading YAML (``spec/loading.py``), and what a field becomes in Arrow and Pandera (``validation/schemas.py``)
or PostgreSQL (``spec/sql_table.py``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
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
from importer_dagster.spec.versions import LayoutState, Version, layouts_by_date

Disposition = Literal["append", "replace", "merge", "scd2"]

_LONGEST_NAME = 55  # characters, so that names of indexes can add theirs within PostgreSQL's 63
_MOST_KEPT = 500  # values in one cache (see `keep`): of types, or of the headers of their files

T = TypeVar("T")
K = TypeVar("K")


class TableSpec(Model):
    """One CSV type: a Frictionless Resource and how to load it."""

    name: str = Field(
        description="The type's name, which is also the name of its asset, its table and the YAML file."
    )
    group: str = Field("default", description="The group of its asset in Dagster.")
    title: str | None = Field(None, description="A short name for people.")
    description: str | None = Field(
        None, description="What the rows are; becomes the table's comment in PostgreSQL."
    )
    owner: str | None = Field(None, description="Who is responsible: an e-mail address or team:name.")
    tags: Mapping[str, str] = Field({}, description="Tags of the asset, free to choose.")
    path: str | None = Field(
        None,
        description="Pattern of the paths of its deliveries below the inbox; if not given, the project's.",
    )
    encoding: str = Field("utf-8", description="The text encoding, as Python names it.")
    compression: str | None = Field(
        None, description="Ignored: compressed files are recognised by their content."
    )
    dialect: Dialect = Field(Dialect(), description="How the file is written.")
    tableschema: TableSchema = Field(alias="schema", description="Its fields and keys.")
    write_disposition: Disposition = Field(
        "append",
        description="append: keep the rows of every file. replace: keep the rows of the newest business date. "
        "merge: keep the newest row of each primary key. scd2: like merge, with the history of each key.",
    )
    scd2: Scd2 = Field(Scd2(), description="How history is kept (write_disposition scd2).")
    schema_contract: SchemaContract = Field(
        SchemaContract(), description="What to do about drift: a header that differs from the spec."
    )
    reject_limit: RejectLimit = Field(
        DEFAULT_REJECT_LIMIT, description="How many rejected records refuse the whole file."
    )
    gate: Gate = Field(Gate(), description="Checks of the whole delivery before its rows are visible.")
    complete: Complete = Field(Complete(), description="How to know that a file has arrived completely.")
    trailer: Trailer | None = Field(
        None, description="Totals in the last record, which are checked; needs dialect.footerRows: 1 or more."
    )
    expected_by: str | None = Field(
        None,
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
        description="Time of day (HH:MM, in the project's time zone) by which the day's files should have arrived.",
    )
    checks: Names = Field((), description="Named Pandera checks over whole rows.")
    versions: tuple[Version, ...] = Field(
        (), description="How the files changed, and from which day on; older files can still be loaded."
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
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"{name!r} is longer than {_LONGEST_NAME} characters")
        return name

    @field_validator("schema_contract", mode="before")
    @classmethod
    def _one_word_for_all(cls, value: Any) -> Any:
        """One word for every kind of drift, as dlt allows; where a kind has no such option, the nearest one."""
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
            _ = self.layouts  # raises ValueError for versions that contradict each other
        names = [f.name for f in self.fields]
        for key in self.tableschema.foreignKeys:  # checked here, as a version may add the field
            check_known("schema: foreignKeys", key.fields, names)
        return self

    @model_validator(mode="after")
    def _gate_fits(self) -> TableSpec:
        names = [f.name for f in self.fields]
        for rule in self.gate.unique:
            check_known("gate.unique", rule.fields, names)
        if self.gate.references and not self.tableschema.foreignKeys:
            raise ValueError("gate.references needs foreignKeys in the schema")
        return self

    @model_validator(mode="after")
    def _trailer_fits(self) -> TableSpec:
        if self.trailer is None:
            return self
        dialects = [self.dialect, *(v.dialect for v in self.versions if v.dialect)]
        if not any(dialect.footerRows for dialect in dialects):
            raise ValueError(
                "trailer needs dialect.footerRows: 1, or how many records at the end are no data; the trailer "
                "is the last of them"
            )
        check_known("trailer.sums", list(self.trailer.sums), [f.name for f in self.fields])
        for own in (f for f in self.fields if f.name in self.trailer.sums):
            if own.type not in ("integer", "number") or own.format == "double":
                raise ValueError(f"trailer.sums names {own.name!r}, which is no integer and no exact number")
        return self

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The fields of all versions, in the table's order."""
        return self.newest.tableschema.fields

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """The type's layouts by date, the oldest first; raises ValueError for versions that contradict each other."""
        if not self.versions:
            return (Layout(self, self),)
        schema = self.tableschema
        fields = {f.name: f for f in schema.fields}
        first = LayoutState(fields, self.encoding, self.dialect, schema.missingValues)
        return tuple(
            Layout(
                spec=_with_only_layout(self, dated.state, dated.state.fields),
                whole=_with_only_layout(self, dated.state, dated.columns),
                since=dated.since,
                declared=dated.declared,
                former=dated.former,
            )
            for dated in layouts_by_date(first, self.versions, schema.primaryKey)
        )

    def layout(self, day: date) -> Layout:
        """The layout of files of a business date."""
        if not self.versions:
            return Layout(self, self)
        return next(x for x in reversed(self.layouts) if x.since is None or x.since <= day)

    @property
    def newest(self) -> TableSpec:
        """The type with all columns of its table and no versions, written as in the newest layout."""
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
        """Whether a delivery that can be read may still be held, refused or warned about."""
        return self.gate != Gate() or self.absence_deletes

    @cached_property
    def _fields_by_name(self) -> dict[str, FieldSpec]:
        return {f.name: f for f in self.fields}

    def field(self, name: str) -> FieldSpec:
        """The field called ``name``; KeyError if there is none."""
        return self._fields_by_name[name]

    def missing_values(self, field: FieldSpec) -> tuple[str, ...]:
        """The texts that mean a missing value in ``field``."""
        tokens = field.missingValues if field.missingValues is not None else self.tableschema.missingValues
        null = self.dialect.nullSequence
        return tokens if null is None or null in tokens else (*tokens, null)

    @cached_property
    def common_missing(self) -> tuple[str, ...]:
        """The texts that mean a missing value in every field; the reader makes NULL of them, where they are not quoted."""
        first, *rest = (self.missing_values(f) for f in self.fields)
        return tuple(t for t in first if all(t in tokens for tokens in rest))

    @cached_property
    def hash(self) -> str:
        """16 hex digits that change when the spec's meaning changes."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Layout:
    """How files of some days are written.

    ``spec`` has the fields that the files should have; ``whole`` has all columns of the
    table, where those of other layouts are optional. ``declared`` are the differences
    from the layout before, valid from ``since``; the first layout has none and begins
    with the first file. ``former`` has for each field its names in other layouts.
    """

    spec: TableSpec
    whole: TableSpec
    since: date | None = None
    declared: tuple[DriftEvent, ...] = ()
    former: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def absent(self) -> tuple[FieldSpec, ...]:
        """Fields of the table that files of this layout do not have."""
        own = {f.name for f in self.spec.fields}
        return tuple(f for f in self.whole.fields if f.name not in own)


def declarations(spec: TableSpec) -> list[tuple[date, tuple[DriftEvent, ...]]]:
    """The first day of each version, and its differences from the layout before."""
    return [(x.since, x.declared) for x in spec.layouts if x.since is not None]


def _with_only_layout(spec: TableSpec, state: LayoutState, fields: Mapping[str, FieldSpec]) -> TableSpec:
    """The type with ``state`` as its only layout, and those references and gates that go with ``fields``."""
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


# --- values that are made once for each spec ------------------------------------


def keep(made: dict[K, T], key: K, value: T) -> None:
    """Keep a value in the cache ``made``, which is emptied first when it is full."""
    if len(made) >= _MOST_KEPT:
        made.clear()
    made[key] = value


def once_per_spec(make: Callable[[TableSpec], T]) -> Callable[[TableSpec], T]:
    """Decorate ``make`` so that it is called once for each spec; callers share its result and must not change it."""
    made: dict[str, T] = {}

    @wraps(make)
    def found(spec: TableSpec) -> T:
        value = made.get(spec.hash)
        if value is None:
            value = make(spec)
            keep(made, spec.hash, value)
        return value

    return found
