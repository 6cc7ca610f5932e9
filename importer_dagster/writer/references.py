"""Finds references of a type's rows to rows that do not exist (``foreignKeys`` of the spec).

What does not belong here: what is done about them (``pipeline/gate.py``, ``defs/checks.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from importer_dagster.spec.fields import ForeignKey, short_identifier
from importer_dagster.spec.table import TableSpec
from importer_dagster.writer.tables import table_columns
from importer_dagster.writer.target import Name, column_list

# errors if the other table or its column does not exist, may not be read, or has a type that cannot be compared
CANNOT_LOOK = (
    *(pg.UndefinedTable, pg.UndefinedColumn, pg.UndefinedFunction, pg.DatatypeMismatch),
    pg.InsufficientPrivilege,
)

_ALL = sql.SQL("TRUE")


@dataclass(frozen=True)
class Dangling:
    """Rows that refer to a row which does not exist: how many, and one such value."""

    resource: str
    rows: int
    example: str | None


def dangling(
    conn: psycopg.Connection,
    spec: TableSpec,
    key: ForeignKey,
    *,
    schema: str,
    rows: sql.Identifier,
    where: sql.Composable = _ALL,
    values: Mapping[str, Any] | None = None,
) -> Dangling:
    """Look up the references of a table's rows in the table that they refer to.

    ``rows`` is the table whose rows are judged, as ``t`` in the condition ``where``; it may be the staging
    table. A row of the same tenant must exist, and of a table with history (scd2) a current one. Rows of a
    staging table may also refer to each other. A reference with a missing value is not judged.

    Raises one of CANNOT_LOOK; the transaction can be used afterwards.
    """
    resource = key.reference.resource or spec.name
    other = sql.Identifier(schema, resource)
    own = [spec.field(name).column for name in key.fields]
    others = [short_identifier(name) for name in key.reference.fields]
    same: list[sql.Composable] = [
        sql.SQL("{} = {}").format(Name("r", o), Name("t", c)) for o, c in zip(others, own, strict=True)
    ]
    with conn.transaction():
        have = table_columns(conn, other)
        if "_tenant" in have and "_tenant" in table_columns(conn, rows):
            same.append(sql.SQL("r._tenant = t._tenant"))
        current = [sql.SQL("r._valid_to IS NULL")] if "_valid_to" in have else []
        missing = [_none_in(other, [*same, *current])]
        if resource == spec.name:  # a row may refer to another row of the same file
            missing.append(_none_in(rows, same))
        statement = sql.SQL(
            "SELECT count(*), min(concat_ws(', ', {own})) FROM {rows} t WHERE {where} AND {present} AND {missing}"
        ).format(
            own=column_list(own, "t"),
            rows=rows,
            where=where,
            present=sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(Name("t", c)) for c in own),
            missing=sql.SQL(" AND ").join(missing),
        )
        found, example = conn.execute(statement, values or {}).fetchone() or (0, None)
    return Dangling(resource, found, example)


def _none_in(table: sql.Composable, same: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL("NOT EXISTS (SELECT FROM {} r WHERE {})").format(table, sql.SQL(" AND ").join(same))
