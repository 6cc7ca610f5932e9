"""The schema factory: what a spec becomes in Arrow, Pandera, PostgreSQL and the UI.

The spec is the only place where a column is described; each function here is
one projection of it.

What does not belong here: reading text (``parse.py``), statements (``writer.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd
import pandera.pandas as pandera
import pgpq
import pgpq.encoders
import pgpq.schema
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from importer_dagster import parse
from importer_dagster.checks import get_check, to_arrow, to_series
from importer_dagster.errors import SpecError
from importer_dagster.spec import FieldSpec, TableSpec

# --- Arrow ----------------------------------------------------------------------


def arrow_type(field: FieldSpec) -> pa.DataType:
    """The Arrow type of a field's typed column."""
    if field.type == "string":
        return pa.binary(16) if field.format == "uuid" else pa.string()
    if field.type == "number":
        return pa.float64() if field.format == "double" else pa.decimal128(field.precision, field.scale)
    if field.type == "datetime":
        return pa.timestamp("us", tz="UTC" if parse.has_zone(field) else None)
    return {
        "integer": pa.int64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "time": pa.time64("us"),
        "object": pa.string(),  # JSON as text
    }[field.type]


def arrow_schema(spec: TableSpec) -> pa.Schema:
    """The typed columns, in the spec's order, under their column names."""
    return pa.schema([pa.field(f.column, arrow_type(f)) for f in spec.fields])


def copy_encoder(schema: pa.Schema, spec: TableSpec) -> pgpq.ArrowToPostgresBinaryEncoder:
    """An encoder to PostgreSQL's binary COPY format for typed columns and trace columns.

    Arrow's 16 bytes of a uuid and microseconds of a timestamp with zone are
    what PostgreSQL expects of uuid and timestamptz; only jsonb needs a word.
    """
    json_columns = {f.column for f in spec.fields if f.type == "object"} | {"_extra"}
    encoders = {
        field.name: pgpq.encoders.StringEncoderBuilder.new_with_output(field, pgpq.schema.Jsonb())
        if field.name in json_columns
        else pgpq.ArrowToPostgresBinaryEncoder.infer_encoder(field)
        for field in schema
    }
    return pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(schema, encoders)


# --- PostgreSQL -------------------------------------------------------------------


def sql_type(field: FieldSpec) -> sa.types.TypeEngine[Any]:
    """The PostgreSQL type of a field's column."""
    if field.type == "string":
        return sa.Uuid() if field.format == "uuid" else sa.Text()
    if field.type == "number":
        return sa.Double() if field.format == "double" else sa.Numeric(field.precision, field.scale)
    if field.type == "datetime":
        return sa.TIMESTAMP(timezone=parse.has_zone(field))
    types: dict[str, sa.types.TypeEngine[Any]] = {
        "integer": sa.BigInteger(),
        "boolean": sa.Boolean(),
        "date": sa.Date(),
        "time": sa.Time(),
        "object": postgresql.JSONB(),
    }
    return types[field.type]


def sql_table(
    spec: TableSpec,
    metadata: sa.MetaData,
    *,
    schema: str | None = None,
    name: str | None = None,
    tenant: bool,
    constraints: bool = True,
) -> sa.Table:
    """The table of a type: its columns, then ``_extra`` and the trace columns.

    Only a merge type has a primary key in the database (tenant first). What is
    required is seen to by validation; columns stay nullable, so that a field
    can be added or dropped without rewriting the table.
    """
    merge = spec.write_disposition == "merge" and constraints
    key = {*spec.primary_key, "_tenant"} if merge else set()
    columns: list[sa.Column[Any]] = [
        sa.Column(f.column, sql_type(f), nullable=f.column not in key, comment=_comment(f)) for f in spec.fields
    ]
    columns.append(sa.Column("_extra", postgresql.JSONB(), comment="Columns that the spec does not know."))
    if tenant:
        columns.append(sa.Column("_tenant", sa.Text(), nullable=False, comment="Whose row it is."))
    columns += [
        sa.Column("_business_date", sa.Date(), nullable=False, comment="The day that the delivery is about."),
        sa.Column("_load_id", sa.BigInteger(), nullable=False, comment="The load in importer.loads."),
        sa.Column("_row", sa.BigInteger(), nullable=False, comment="The record's number in its file."),
    ]
    table = sa.Table(
        name or spec.name, metadata, *columns, schema=schema, comment=spec.description or spec.title
    )
    if merge:
        table.append_constraint(
            sa.PrimaryKeyConstraint(*(["_tenant"] if tenant else []), *spec.primary_key)
        )
    return table


def _comment(field: FieldSpec) -> str | None:
    return field.description or field.title


# --- Pandera ----------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _pandera_schema(spec_hash: str, spec: TableSpec) -> pandera.DataFrameSchema:
    return pandera.DataFrameSchema(
        {
            f.column: pandera.Column(
                pd.ArrowDtype(arrow_type(f)),
                checks=_checks(f),
                nullable=not f.required,
                required=True,
                title=f.title,
                description=f.description,
            )
            for f in spec.fields
        },
        checks=[get_check(name) for name in spec.checks],
        name=spec.name,
        ordered=True,
        strict=True,
    )


def pandera_schema(spec: TableSpec) -> pandera.DataFrameSchema:
    """The Pandera schema that typed rows must satisfy.

    Uniqueness is not in it: it holds over the whole file, and is checked in the
    database by the writer. Raises SpecError for a constraint that makes no sense.
    """
    return _pandera_schema(spec.hash, _Hashable(spec))  # type: ignore[arg-type]


class _Hashable:
    """Lets a spec be part of a cache key; its hash stands for it."""

    def __init__(self, spec: TableSpec) -> None:
        self._spec = spec

    def __hash__(self) -> int:
        return hash(self._spec.hash)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and other._spec.hash == self._spec.hash

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spec, name)


def _checks(field: FieldSpec) -> list[pandera.Check]:
    c = field.constraints
    checks: list[pandera.Check] = []
    if c.enum is not None:
        checks.append(_check("enum", f"is not one of {_some(c.enum)}", _is_in(field, c.enum)))
    if c.pattern is not None:
        checks.append(_check("pattern", f"does not match {c.pattern}", _full_match(field, c.pattern)))
    if c.minimum is not None:
        bound = _bound(field, "minimum", c.minimum)
        checks.append(_check("minimum", f"is less than {c.minimum}", lambda a: pc.greater_equal(a, bound)))
    if c.maximum is not None:
        limit = _bound(field, "maximum", c.maximum)
        checks.append(_check("maximum", f"is greater than {c.maximum}", lambda a: pc.less_equal(a, limit)))
    if c.minLength is not None:
        least = c.minLength
        _only_text(field, "minLength")
        checks.append(
            _check("minLength", f"is shorter than {least}", lambda a: pc.greater_equal(pc.utf8_length(a), least))
        )
    if c.maxLength is not None:
        most = c.maxLength
        _only_text(field, "maxLength")
        checks.append(
            _check("maxLength", f"is longer than {most}", lambda a: pc.less_equal(pc.utf8_length(a), most))
        )
    return checks + [get_check(name) for name in field.checks]


def _check(name: str, error: str, judge: Any) -> pandera.Check:
    """A Pandera check over an Arrow array; missing values are not judged."""
    return pandera.Check(
        lambda series: to_series(judge(to_arrow(series)), series), name=name, error=error, ignore_na=False
    )


def _some(words: tuple[str, ...], limit: int = 12) -> str:
    return ", ".join(words[:limit]) + (f" … ({len(words)} in all)" if len(words) > limit else "")


def _bound(field: FieldSpec, what: str, text: str) -> pa.Scalar:
    return _parse_constants(field, what, (text,))[0]


def _is_in(field: FieldSpec, words: tuple[str, ...]) -> Any:
    values = _parse_constants(field, "enum", words)
    return lambda array: pc.if_else(pc.is_null(array), None, pc.is_in(array, value_set=values))


def _parse_constants(field: FieldSpec, what: str, words: tuple[str, ...]) -> pa.Array:
    """Words of a constraint, read as the field's own text is."""
    typed, bad = parse.parse(pa.array(words, pa.string()), field, ())
    if bad is not None:
        raise SpecError(f"field {field.name!r}: {what} {bad.messages[0].as_py()}")
    return typed


def _full_match(field: FieldSpec, pattern: str) -> Any:
    _only_text(field, "pattern")
    anchored = f"^(?:{pattern})$"
    try:
        pc.match_substring_regex(pa.array([""]), anchored)
    except pa.ArrowInvalid:
        raise SpecError(
            f"field {field.name!r}: the pattern {pattern!r} uses what RE2 does not have (look-around, back-references)"
        ) from None
    # \z and not $, which would let a final newline pass
    return lambda array: pc.match_substring_regex(array, rf"\A(?:{pattern})\z")


def _only_text(field: FieldSpec, what: str) -> None:
    if field.type != "string" or field.format == "uuid":
        raise SpecError(f"field {field.name!r}: {what} goes with type string only")


# --- the UI -----------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnInfo:
    """One column as shown to people."""

    name: str
    type: str
    description: str | None
    nullable: bool
    unique: bool
    constraints: list[str]


_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]


def column_schema(spec: TableSpec) -> list[ColumnInfo]:
    """The type's columns in words, for catalogues and the Dagster UI."""
    return [
        ColumnInfo(
            name=f.column,
            type=sql_type(f).compile(dialect=_DIALECT).lower(),
            description=_comment(f),
            nullable=not f.required,
            unique=f.constraints.unique or spec.primary_key == (f.column,),
            constraints=_constraint_words(f),
        )
        for f in spec.fields
    ]


def _constraint_words(field: FieldSpec) -> list[str]:
    c = field.constraints
    words = [
        f"{name}: {value if not isinstance(value, tuple) else _some(value)}"
        for name in ("enum", "pattern", "minimum", "maximum", "minLength", "maxLength")
        if (value := getattr(c, name)) is not None
    ]
    return words + list(field.checks)
