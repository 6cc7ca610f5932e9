"""A type's columns in words: their PostgreSQL types and what is asked of their values.

Definitions and catalogues show them, so nothing here imports Arrow, Pandera or
SQLAlchemy: the definitions of 57 types would take three times as long to load.

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
    return [
        ColumnInfo(
            name=f.column,
            type=type_words(f),
            description=f.description or f.title,
            nullable=not f.required,
            unique=f.constraints.unique or spec.primary_key == (f.column,),
            constraints=_constraint_words(f),
        )
        for f in spec.fields
    ]


def type_words(field: FieldSpec) -> str:
    """The PostgreSQL type of a field's column, as SQL has it: what ``schema.sql_type`` becomes."""
    if field.type == "string" and field.format == "uuid":
        return "uuid"
    if field.type == "number":
        return (
            "double precision" if field.format == "double" else f"numeric({field.precision}, {field.scale})"
        )
    if field.type == "datetime":
        return f"timestamp {'with' if has_zone(field) else 'without'} time zone"
    return _TYPES[field.type]


def _constraint_words(field: FieldSpec) -> list[str]:
    c = field.constraints
    words = [
        f"{name}: {value if not isinstance(value, tuple) else some(value)}"
        for name in ("enum", "pattern", "minimum", "maximum", "minLength", "maxLength")
        if (value := getattr(c, name)) is not None
    ]
    return words + list(field.checks)


def some(words: tuple[str, ...], limit: int = 12) -> str:
    """The first of many words."""
    return ", ".join(words[:limit]) + (f" … ({len(words)} in all)" if len(words) > limit else "")
