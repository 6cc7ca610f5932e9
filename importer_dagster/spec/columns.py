"""A type's columns in words, for people: their PostgreSQL types and the rules for their values.

Dagster's definitions show them, so nothing here imports Arrow, Pandera or
SQLAlchemy: with them, the definitions of 57 types take three times as long to load.

What does not belong here: the objects that do the work (``validation/schemas.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from importer_dagster.spec.date_formats import has_zone
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec

_TYPES = {
    "string": "text",
    "integer": "bigint",
    "boolean": "boolean",
    "date": "date",
    "time": "time without time zone",
    "object": "jsonb",
}
_RULES = ("enum", "pattern", "minimum", "maximum", "minLength", "maxLength")


@dataclass(frozen=True)
class ColumnInfo:
    """One column as shown to people."""

    name: str
    type: str
    description: str | None
    nullable: bool
    unique: bool
    constraints: list[str]


def column_schema(spec: TableSpec) -> list[ColumnInfo]:
    """The type's columns, for catalogues and the Dagster UI."""
    columns = []
    for f in spec.fields:
        rules = [(rule, getattr(f.constraints, rule)) for rule in _RULES]
        words = [f"{r}: {some(v) if isinstance(v, tuple) else v}" for r, v in rules if v is not None]
        columns.append(
            ColumnInfo(
                name=f.column,
                type=type_words(f),
                description=f.description or f.title,
                nullable=not f.required,
                unique=f.constraints.unique or spec.primary_key == (f.column,),
                constraints=[*words, *f.checks],
            )
        )
    return columns


def type_words(field: FieldSpec) -> str:
    """The PostgreSQL type of a field's column, as in SQL: the name of :func:`spec.sql_table.sql_type`."""
    if field.type == "string" and field.format == "uuid":
        return "uuid"
    if field.type == "number":
        return (
            "double precision" if field.format == "double" else f"numeric({field.precision}, {field.scale})"
        )
    if field.type == "datetime":
        return f"timestamp {'with' if has_zone(field) else 'without'} time zone"
    return _TYPES[field.type]


def some(words: tuple[str, ...], limit: int = 12) -> str:
    """The first ``limit`` words, and how many there are."""
    return ", ".join(words[:limit]) + (f" … ({len(words)} in all)" if len(words) > limit else "")
