"""The parts of a spec that describe a file: dialect, fields, constraints, keys, and the table schema of them.

All have the names that the Frictionless standards give them.

What does not belong here: the type itself (``spec/table.py``), reading YAML
(``spec/loading.py``), what to do about a delivery that is not as described (``spec/policy.py``).
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

FieldType = Literal["string", "integer", "number", "boolean", "date", "datetime", "time", "object"]

MAX_COLUMNS = 1_590  # PostgreSQL's 1,600 less the columns that trace a row
MAX_IDENTIFIER_BYTES = 63  # PostgreSQL's NAMEDATALEN - 1; longer names are cut silently
HISTORY_COLUMNS = ("_valid_from", "_valid_to", "_current")  # of scd2 types, in the table that BI reads
TRACE_COLUMNS = (
    *("_load_id", "_row", "_business_date", "_tenant", "_extra", *HISTORY_COLUMNS),
    *("_hash", "_same_as", "_block"),
)

# Keys of the Frictionless standards that mean nothing for a load.
IGNORED_WORDS = {
    "resource": {"profile", "format", "mediatype", "bytes", "hash", "sources", "licenses",
                 "homepage", "$schema", "scheme", "type", "created", "version", "keywords"},
    "schema": {"$schema", "name", "title", "description", "fieldsMatch", "uniqueKeys"},
    "field": {"rdfType", "example", "categories", "categoriesOrdered"},
    "dialect": {"$schema", "csvddfVersion", "lineTerminator", "caseSensitiveHeader", "type", "name"},
}  # fmt: skip

# The formats of each type; dates, datetimes and times have strptime patterns instead.
_FORMATS: Mapping[str, set[str]] = {
    "string": {"default", "uuid", "email", "uri", "binary"},
    "integer": {"default"},
    "number": {"default", "double"},
    "boolean": {"default"},
    "object": {"default"},
}


class Model(BaseModel):
    """The base of all parts of a spec: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def without_ignored(kind: str, data: Any) -> Any:
    """``data`` without the keys of the standards that mean nothing for a load; ``kind`` is a key of ``IGNORED_WORDS``."""
    if isinstance(data, Mapping):
        return {k: v for k, v in data.items() if k not in IGNORED_WORDS[kind]}
    return data


def one_or_many(value: Any) -> Any:
    """A single name as a list of one."""
    return [value] if isinstance(value, str) else value


def as_text(value: Any) -> Any:
    """A number or a truth value of YAML as the text that a CSV file would have."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def delimiter(value: str) -> str:
    """``value`` if it can be a delimiter; raises ValueError."""
    if not value or set(value) & set("\r\n\0"):
        raise ValueError("must be one character or more, and no line end")
    return value


def single_character(value: str) -> str:
    """``value`` if it is one character and no line end; raises ValueError."""
    if len(value) != 1 or value in "\r\n\0":
        raise ValueError("must be one character, and no line end")
    return value


def short_identifier(name: str) -> str:
    """Return ``name`` if it has at most 63 bytes; else its beginning and a hash.

    >>> short_identifier("a" * 70)
    'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa_66d6f4d4'
    """
    if len(name.encode()) <= MAX_IDENTIFIER_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    head = name.encode()[: MAX_IDENTIFIER_BYTES - 9].decode(errors="ignore")
    return f"{head}_{digest}"


def check_known(where: str, used: Iterable[str], names: Sequence[str]) -> None:
    """Raise ValueError for the first of ``used`` that is not one of ``names``; ``where`` is the option that uses it."""
    for name in used:
        if name not in names:
            raise ValueError(f"{where} names {name!r}, which is no field{nearest(name, names)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that is most like ``word``, to append to a message; empty if none is like it."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


Token = Annotated[str, BeforeValidator(as_text)]
Names = Annotated[tuple[str, ...], BeforeValidator(one_or_many)]
Character = Annotated[str, AfterValidator(single_character)]
Delimiter = Annotated[str, AfterValidator(delimiter)]


class Dialect(Model):
    """How the file is written, in the words of the Frictionless CSV Dialect."""

    delimiter: Delimiter = Field(",", description="The character, or characters, between two values.")
    quoteChar: Character | None = Field(
        '"', description="The character around a quoted value; null if quotes have no special meaning."
    )
    doubleQuote: bool = Field(True, description="A quote inside a quoted value is written twice.")
    escapeChar: Character | None = Field(
        None, description="A character that makes the next character part of the value."
    )
    header: bool = Field(True, description="The first record has the column names.")
    headerRows: tuple[int, ...] | None = Field(
        None,
        description="Numbers (from 1) of the lines that make up the header; lines above them are skipped.",
    )
    commentChar: str | None = Field(None, min_length=1, description="Lines that start with this are skipped.")
    skipInitialSpace: bool = Field(
        False,
        description="Blanks after a delimiter, and between a closing quote and the next delimiter, are not part "
        "of the value.",
    )
    nullSequence: str | None = Field(None, description="One more text that means a missing value.")
    footerRows: int = Field(0, ge=0, description="How many records at the end are not data.")
    totals: Literal["reject", "keep"] = Field(
        "reject",
        description="What to do with a last record whose first value is a word such as Total, and which has the "
        "sums of the other records. reject: reject it. keep: load it like any other record.",
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, data: Any) -> Any:
        return without_ignored("dialect", data)

    @model_validator(mode="after")
    def _distinct(self) -> Dialect:
        if self.quoteChar and self.quoteChar in self.delimiter:
            raise ValueError("delimiter and quoteChar must differ")
        if self.escapeChar and self.escapeChar in self.delimiter:
            raise ValueError("delimiter and escapeChar must differ")
        return self


class Constraints(Model):
    """Rules for the values of a field, in the words of the Frictionless Table Schema."""

    required: bool = Field(False, description="A missing value is rejected.")
    unique: bool = Field(False, description="A value that was already in the same file is rejected.")
    enum: tuple[Token, ...] | None = Field(None, min_length=1, description="The only values allowed.")
    pattern: str | None = Field(
        None, description="A regular expression (RE2) that the whole text must match."
    )
    minimum: Token | None = Field(None, description="The smallest value allowed, written as in the file.")
    maximum: Token | None = Field(None, description="The largest value allowed, written as in the file.")
    minLength: int | None = Field(None, ge=0, description="The smallest number of characters.")
    maxLength: int | None = Field(None, ge=0, description="The largest number of characters.")


class FieldSpec(Model):
    """One column of a type, in the words of the Frictionless Table Schema."""

    name: str = Field(min_length=1, description="The name in the file's header, and of the column.")
    type: FieldType = Field("string", description="What the text is read as.")
    format: str | tuple[str, ...] = Field(
        "default",
        description="string: uuid. number: double for a binary float instead of an exact number. "
        "date, datetime, time: a strptime pattern; default is ISO 8601. "
        "A datetime pattern with %z makes a time with time zone. With a list of patterns, the first one that can read "
        "a value is used: with [%d/%m/%Y, %m/%d/%Y], 03/04/2024 is in April.",
    )
    title: str | None = Field(None, description="A short name for people.")
    description: str | None = Field(
        None, description="What the column means; becomes the column's comment in PostgreSQL."
    )
    constraints: Constraints = Field(Constraints(), description="Rules for its values.")
    missingValues: tuple[Token, ...] | None = Field(
        None, description="Texts that mean a missing value in this column; if not given, those of the schema."
    )
    trueValues: tuple[Token, ...] = Field(("true", "True", "TRUE", "1"), description="Texts that mean true.")
    falseValues: tuple[Token, ...] = Field(
        ("false", "False", "FALSE", "0"), description="Texts that mean false."
    )
    decimalChar: Character = Field(".", description="The character before the decimals.")
    groupChar: Character | None = Field(None, description="The character between groups of digits.")
    bareNumber: bool = Field(
        True, description="false: characters around the digits, such as $ or %, are removed."
    )
    digitsOnly: bool = Field(
        False,
        description="integer: true rejects values such as 281.0 and 1e3, which are otherwise read as 281 and 1000. "
        "What is not exactly an integer is rejected in any case.",
    )
    precision: int = Field(38, ge=1, le=38, description="number: how many digits in total.")
    scale: int = Field(18, ge=0, le=38, description="number: how many of them are decimals.")
    timezone: str | None = Field(
        None, description="datetime: the time zone of values that name none; makes a time with time zone."
    )
    ambiguous: Literal["earlier", "later", "reject", "by_order"] | None = Field(
        None,
        description="With timezone: what a local time means that came twice, since clocks were set back. "
        "earlier, later: the first or the second time. reject: the record is rejected. by_order: the earlier until "
        "a record of the file goes back in time, then the later. If not given: earlier, with a warning.",
    )
    header: str | None = Field(
        None, description="The name in the file's header, if it differs from the column's."
    )
    aliases: Names = Field((), description="Other names that the column may have in a header.")
    checks: Names = Field(
        (), description="Named Pandera checks of the column (docs/python.md tells how to register your own)."
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, data: Any) -> Any:
        data = without_ignored("field", data)
        if isinstance(data, Mapping) and "precision" in data and "scale" not in data:
            data = {**data, "scale": 0}  # as in SQL: numeric(10) has no decimals
        return data

    @model_validator(mode="after")
    def _consistent(self) -> FieldSpec:
        if not isinstance(self.format, str):
            if self.type not in ("date", "datetime", "time"):
                raise ValueError(f"several formats go with type date, datetime or time, not with {self.type}")
            if not self.format:
                raise ValueError("a list of formats holds at least one")
            if len(set(self.format)) < len(self.format):
                raise ValueError("a format is in the list twice")
        allowed = _FORMATS.get(self.type)
        if allowed and self.format not in allowed:
            raise ValueError(
                f"format {self.format!r} does not go with type {self.type}; use one of {sorted(allowed)}"
            )
        if self.scale > self.precision:
            raise ValueError(f"scale {self.scale} is greater than precision {self.precision}")
        if self.name in TRACE_COLUMNS:
            raise ValueError(f"{self.name!r} is the name of a column that the importer adds itself")
        if "\0" in self.name:
            raise ValueError("a name cannot hold a NUL character")
        if self.groupChar == self.decimalChar:
            raise ValueError("groupChar and decimalChar must differ")
        if self.constraints.pattern is not None:
            try:
                re.compile(self.constraints.pattern)
            except re.error as error:
                raise ValueError(
                    f"pattern {self.constraints.pattern!r} is no regular expression: {error}"
                ) from None
        return self

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats in the order in which they are tried; most fields have one."""
        return (self.format,) if isinstance(self.format, str) else self.format

    @property
    def required(self) -> bool:
        """Whether a missing value is rejected."""
        return self.constraints.required

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the column may have in a header, the usual one first."""
        return (self.name if self.header is None else self.header, *self.aliases)

    @cached_property
    def column(self) -> str:
        """The column's name in PostgreSQL: the field's name, cut to 63 bytes if need be."""
        return short_identifier(self.name)


class Reference(Model):
    """The fields that a foreign key refers to."""

    resource: str = Field("", description="The type that is referred to; empty for this type itself.")
    fields: Names = Field(description="Its fields.")


class ForeignKey(Model):
    """A reference to another type. It is shown and checked; a load is never skipped because of it."""

    fields: Names = Field(description="The fields that refer.")
    reference: Reference = Field(description="The fields that they refer to.")


class TableSchema(Model):
    """A Frictionless Table Schema."""

    fields: tuple[FieldSpec, ...] = Field(min_length=1, description="The columns, in the table's order.")
    primaryKey: Names = Field((), description="The fields that identify a row (with the tenant).")
    foreignKeys: tuple[ForeignKey, ...] = Field((), description="References to other types.")
    missingValues: tuple[Token, ...] = Field(("",), description="Texts that mean a missing value.")

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
        check_known("primaryKey", self.primaryKey, names)
        for key in self.foreignKeys:
            if len(key.fields) != len(key.reference.fields):
                raise ValueError(
                    f"foreignKeys: {list(key.fields)} and {list(key.reference.fields)} differ in number"
                )
        return self
