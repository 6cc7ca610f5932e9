"""The PostgreSQL table of a type: its columns and their types, as SQLAlchemy objects.

What does not belong here: creating and changing tables (``writer/tables.py``).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from importer_dagster.spec.date_formats import has_zone
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec

# Columns from which _extra is '{}' instead of NULL. A row with a NULL has a bitmap of one bit for each column,
# and with it a row of a thousand columns of 8 bytes does not fit into a page of 8 KB.
WIDE = 800


def sql_type(field: FieldSpec) -> sa.types.TypeEngine[Any]:
    """The PostgreSQL type of a field's column."""
    if field.type == "string":
        return sa.Uuid() if field.format == "uuid" else sa.Text()
    if field.type == "number":
        return sa.Double() if field.format == "double" else sa.Numeric(field.precision, field.scale)
    if field.type == "datetime":
        return sa.TIMESTAMP(timezone=has_zone(field))
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

    Only merge and scd2 types have a primary key in the database (tenant first).
    Required columns are nullable, as validation checks them, so that a field can be
    added or dropped without rewriting the table. ``constraints`` is true for the table
    that BI reads, which alone has the primary key and the columns of history.
    """
    is_keyed = spec.write_disposition in ("merge", "scd2")
    keyed = is_keyed and constraints
    key = {*spec.primary_key, "_tenant"} if keyed else set()
    columns: list[sa.Column[Any]] = [
        sa.Column(f.column, sql_type(f), nullable=f.column not in key, comment=f.description or f.title)
        for f in spec.fields
    ]
    empty = sa.text("'{}'") if len(spec.fields) > WIDE else None
    columns.append(
        sa.Column(
            "_extra", postgresql.JSONB(), server_default=empty, comment="Columns that the spec does not know."
        )
    )
    if tenant:
        columns.append(sa.Column("_tenant", sa.Text(), nullable=False, comment="Whose row it is."))
    columns += [
        sa.Column("_business_date", sa.Date(), nullable=False, comment="The day that the delivery is about."),
        sa.Column("_load_id", sa.BigInteger(), nullable=False, comment="The load in importer.loads."),
        sa.Column("_row", sa.BigInteger(), nullable=False, comment="The record's number in its file."),
    ]
    if is_keyed:
        columns.append(
            sa.Column("_hash", sa.BigInteger(), comment="Tells what is unchanged (docs/dispositions.md).")
        )
    history = spec.write_disposition == "scd2" and constraints
    if history:
        columns += _history_columns()
    table = sa.Table(
        name or spec.name, metadata, *columns, schema=schema, comment=spec.description or spec.title
    )
    if keyed:
        whole = [*(["_tenant"] if tenant else []), *spec.primary_key]
        table.append_constraint(sa.PrimaryKeyConstraint(*whole, *(["_business_date"] if history else [])))
    return table


def _history_columns() -> list[sa.Column[Any]]:
    """The columns that say from which day to which (exclusive) a version of a row is valid."""
    return [
        sa.Column(
            "_valid_from",
            sa.Date(),
            sa.Computed("_business_date", persisted=True),
            comment="First day of this version.",
        ),
        sa.Column("_valid_to", sa.Date(), comment="First day that it no longer holds; null while it does."),
        sa.Column(
            "_current",
            sa.Boolean(),
            sa.Computed("_valid_to IS NULL", persisted=True),
            comment="Whether it holds still.",
        ),
    ]
