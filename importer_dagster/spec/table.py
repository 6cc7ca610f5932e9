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

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property, wraps
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from importer_dagster.errors import SpecError, UnknownTypeError
from importer_dagster.spec.fields import (
    MAX_COLUMNS,
    Dialect,
    FieldSpec,
    Model,
    Names,
    Token,
    one_or_many,
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
from importer_dagster.spec.versions import Layout, Version, layouts
from importer_dagster.spec.yaml_text import line_of, parse_yaml

Disposition = Literal["append", "replace", "merge", "scd2"]


class Reference(Model):
    """The other end of a foreign key."""

    resource: str = Field("", description="The type referred to; empty for this type itself.")
    fields: Names = Field(description="Its fields.")


class ForeignKey(Model):
    """A reference to another type. Shown and checked; never a reason to skip a load."""

    fields: Names = Field(description="The fields that refer.")
    reference: Reference = Field(description="What they refer to.")


class TableSchema(Model):
    """A Frictionless Table Schema."""

    fields: tuple[FieldSpec, ...] = Field(min_length=1, description="The columns, in the table's order.")
    primaryKey: Names = Field((), description="The fields that identify a row (with the tenant).")
    foreignKeys: tuple[ForeignKey, ...] = Field((), description="References to other types.")
    missingValues: tuple[Token, ...] = Field(("",), description="Texts that mean 'no value'.")

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, data: Any) -> Any:
        return without_ignored("schema", data)

    @field_validator("fields", mode="after")
    @classmethod
    def _columns_distinct(cls, fields: tuple[FieldSpec, ...]) -> tuple[FieldSpec, ...]:
        columns = [f.column for f in fields]
        for twice in sorted({c for c in columns if columns.count(c) > 1}):
            raise ValueError(f"two fields would be the column {twice!r}")
        return fields

    @model_validator(mode="before")
    @classmethod
    def _keys_are_required(cls, data: Any) -> Any:
        """A primary key has no missing values, as the Table Schema standard says."""
        if not isinstance(data, Mapping) or not isinstance(data.get("fields"), list | tuple):
            return data
        keys = one_or_many(data.get("primaryKey") or ())
        fields = [
            {**f, "constraints": {**(f.get("constraints") or {}), "required": True}}
            if isinstance(f, Mapping) and f.get("name") in keys
            else f
            for f in data["fields"]
        ]
        return {**data, "fields": fields}

    @model_validator(mode="after")
    def _consistent(self) -> TableSchema:
        names = [f.name for f in self.fields]
        if len(names) > MAX_COLUMNS:
            raise ValueError(f"{len(names):,} fields are more than the {MAX_COLUMNS:,} that a table can have")
        for twice in sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two fields are named {twice!r}")
        headers = [h for f in self.fields for h in f.names]
        for twice in sorted({h for h in headers if headers.count(h) > 1}):
            raise ValueError(f"the header name {twice!r} would mean two fields")
        _check_known("primaryKey", self.primaryKey, names)
        for key in self.foreignKeys:
            if len(key.fields) != len(key.reference.fields):
                raise ValueError(
                    f"foreignKeys: {list(key.fields)} and {list(key.reference.fields)} differ in number"
                )
        return self


def _check_known(where: str, used: Iterable[str], names: Sequence[str]) -> None:
    for name in used:
        if name not in names:
            raise ValueError(f"{where} names {name!r}, which is no field{_nearest(name, names)}")


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
            _check_known("schema: foreignKeys", key.fields, names)
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
        _check_known("trailer.sums", list(trailer.sums), names)
        for field in (f for f in self.fields if f.name in trailer.sums):
            if field.type not in ("integer", "number") or field.format == "double":
                raise ValueError(
                    f"trailer.sums names {field.name!r}, which is no integer and no exact number"
                )

    def _check_gate(self, names: Sequence[str]) -> None:
        for rule in self.gate.unique:
            _check_known("gate.unique", rule.fields, names)
        if self.gate.references and not self.tableschema.foreignKeys:
            raise ValueError("gate.references needs foreignKeys in the schema")

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The fields of all versions, in the table's order."""
        return self.newest.tableschema.fields

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """The type's layouts by date, the oldest first."""
        return layouts(self) if self.versions else (Layout(self, self),)

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


def parse_spec(text: str, file: str) -> TableSpec:
    """Read one spec from YAML text; ``file`` names it in errors and gives the default name."""
    data = parse_yaml(text, file)
    if not isinstance(data, dict):
        raise SpecError("a spec is a YAML mapping with at least a schema", file=file, line=1)
    stem = Path(file).name.removesuffix(".yaml").removesuffix(".yml")
    data.setdefault("name", stem)
    if data["name"] != stem:
        raise SpecError(
            f"name is {data['name']!r} but the file is called {stem!r}; the file's stem is the type's name",
            file=file,
            line=line_of(text, ("name",)),
            key="name",
        )
    try:
        return TableSpec.model_validate(data)
    except ValidationError as error:
        raise _spec_error(error, text, file) from None


def _spec_error(error: ValidationError, text: str, file: str) -> SpecError:
    """The first fault, with its line; a misspelt key before what is missed because of it."""
    faults = error.errors(include_url=False)
    first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    path = tuple(p for p in first["loc"] if p != "function-after")
    key = ".".join(str(p) for p in path)
    if first["type"] == "extra_forbidden":
        message = f"unknown key {key!r}{_nearest(str(path[-1]), _known_keys(path[:-1]))}"
    else:
        message = f"{key}: {first['msg'].removeprefix('Value error, ')}" if key else first["msg"]
    more = error.error_count() - 1
    if more:
        message += f" (and {more} more)"
    return SpecError(message, file=file, line=line_of(text, path), key=key)


def _known_keys(path: Sequence[str | int]) -> list[str]:
    """Keys allowed at ``path`` inside a spec."""
    model: type[BaseModel] | None = TableSpec
    for part in path:
        if isinstance(part, str) and model is not None:
            fields = model.model_fields.items()
            model = next((_model_in(f.annotation) for n, f in fields if part in (n, f.alias)), None)
    return [f.alias or n for n, f in model.model_fields.items()] if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds: itself, one of several, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


# --- a folder of specs ----------------------------------------------------------


class Specs(Mapping[str, TableSpec]):
    """All types of a folder, by name. ``specs[name]`` raises UnknownTypeError with the nearest name."""

    def __init__(self, specs: Iterable[TableSpec], folder: Path | None = None) -> None:
        self._by_name = {s.name: s for s in specs}
        self.folder = folder

    def __getitem__(self, name: str) -> TableSpec:
        try:
            return self._by_name[name]
        except KeyError:
            where = f" in {self.folder}" if self.folder else ""
            raise UnknownTypeError(
                f"There is no CSV type {name!r}{where}{_nearest(name, self._by_name) or '.'} "
                "`importer check` lists all types; IMPORTER_SPECS names their folder."
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def spec_files(folder: Path) -> list[Path]:
    """All ``*.yaml`` and ``*.yml`` files below ``folder``, sorted; hidden ones left out."""
    if not folder.is_dir():
        raise SpecError(f"The folder of specs {folder} does not exist; IMPORTER_SPECS names it.")
    files = [*folder.rglob("*.yaml"), *folder.rglob("*.yml")]
    return sorted(f for f in files if not any(p.startswith(".") for p in f.relative_to(folder).parts))


def load_specs(folder: Path) -> Specs:
    """Read every spec below ``folder``, recursively; raises SpecError at the first wrong one."""
    specs: dict[str, TableSpec] = {}
    places: dict[str, Path] = {}
    for file in spec_files(folder):
        spec = load_spec(file)
        if spec.name.lower() in places:
            raise SpecError(
                f"type {spec.name!r} is already described in {places[spec.name.lower()]}", file=str(file)
            )
        places[spec.name.lower()] = file
        specs[spec.name] = spec
    return Specs(specs.values(), folder)


def load_spec(file: Path) -> TableSpec:
    """Read one spec file; raises SpecError."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read: {error}", file=str(file)) from None
    return parse_spec(text, str(file))
