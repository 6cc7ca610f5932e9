"""Moves values of earlier deliveries into a column that the spec declares by now.

The values are in ``_extra`` (rescue) or in a column that the table gained (evolve), in both
cases as text exactly as in the file. They are parsed as an import would parse them now.

What does not belong here: gaining columns (``writer/schema_evolution.py``), changing specs
(``operations/spec_proposals.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from importer_dagster.errors import WarehouseError
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import parse
from importer_dagster.writer import copy_rows

MARK = "Not in the spec; first met in "  # the comment of a gained column begins so

_BATCH = 50_000  # texts parsed at once
_TEXTS = sql.Identifier("importer_texts")  # a temporary table of texts and their values
_OLD = sql.Identifier("_importer_old")


def convert(
    conn: psycopg.Connection,
    table: sql.Identifier,
    spec: TableSpec,
    own: FieldSpec,
    type_: str,
    *,
    hashed: bool,
) -> None:
    """Turn a gained column into the field's column of type ``type_``, its values parsed as the field declares.

    ``hashed`` says whether the table has row hashes; those of changed rows are set to NULL.
    Raises WarehouseError if a value cannot be parsed; then the caller must roll back.
    """
    names = {
        "t": table,
        "c": sql.Identifier(own.column),
        "old": _OLD,
        "type": sql.SQL(type_),
        "texts": _TEXTS,
        "forget": _forget(hashed),
    }
    query = sql.SQL("SELECT DISTINCT {c}::text FROM {t} WHERE {c} IS NOT NULL").format(**names)
    bad = _read(conn, query, spec, own, type_)
    if bad:
        shown = table.as_string(conn).replace('"', "")
        raise WarehouseError(
            f"Column {own.column!r} of table {shown} has values that the field of {spec.name} does "
            f"not read: {bad[0]}. Declare a type that holds them (string holds all), or drop the column and "
            "load those days again."
        )
    for statement in (
        "ALTER TABLE {t} RENAME COLUMN {c} TO {old}",
        "ALTER TABLE {t} ADD COLUMN {c} {type}",
        "UPDATE {t} SET {c} = x.{c}{forget} FROM {texts} x WHERE {t}.{old}::text = x._text",
        "ALTER TABLE {t} DROP COLUMN {old}",
        "DROP TABLE {texts}",
    ):
        conn.execute(sql.SQL(statement).format(**names))


def _forget(hashed: bool) -> sql.Composable:
    """SQL that removes the hash of a changed row."""
    return sql.SQL(", _hash = NULL" if hashed else "")


def fill(
    conn: psycopg.Connection,
    tables: Sequence[sql.Identifier],
    spec: TableSpec,
    name: str,
    type_: str,
    gained: Collection[str] = (),
) -> tuple[int, list[str]]:
    """Move a field's values into its column; returns (rows moved, errors of values that stay where they are).

    The values come from ``_extra``, or from columns in ``gained`` that have a name that the field
    has in some files. Such a column is dropped when it is empty afterwards. Each row is parsed
    by the layout of its day.
    """
    moved = 0
    errors: list[str] = []
    columns: set[str] = set()
    ends = [layout.since or date.min for layout in spec.layouts[1:]]
    for layout, end in zip(spec.layouts, [*ends, date.max], strict=True):
        own, days = layout.whole.field(name), (layout.since or date.min, end)
        for table in tables:
            for key in dict.fromkeys((*own.names, own.name)):
                is_column = key != own.column and key in gained
                source = _source(key, is_column=is_column)
                rows, bad = _move(conn, table, spec, own, type_, source, days)
                moved, errors = moved + rows, [*errors, *bad]
                if is_column:
                    columns.add(key)
    for column in columns:
        if is_empty(conn, tables, column):
            for table in tables:
                drop = sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table, sql.Identifier(column))
                conn.execute(drop)
    return moved, errors


def is_empty(conn: psycopg.Connection, tables: Sequence[sql.Identifier], column: str) -> bool:
    """Whether the column is NULL in all rows of the tables."""
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} IS NOT NULL)")
    return all(conn.execute(query.format(t, sql.Identifier(column))).fetchone() == (False,) for t in tables)


@dataclass(frozen=True)
class _Source:
    """SQL for where values are now: whether row ``t`` has one, its text, and how it is removed."""

    there: sql.Composable
    text: sql.Composable
    taken: sql.Composable


def _source(key: str, *, is_column: bool) -> _Source:
    """A column of the table, or a key of ``_extra``."""
    if is_column:
        name = sql.Identifier(key)
        text = sql.SQL("t.{}::text").format(name)
        return _Source(sql.SQL("t.{} IS NOT NULL").format(name), text, sql.SQL("{} = NULL").format(name))
    literal = sql.Literal(key)
    return _Source(
        sql.SQL("t._extra ? {}").format(literal),
        sql.SQL("t._extra ->> {}").format(literal),
        sql.SQL("_extra = nullif(t._extra - {}, '{{}}'::jsonb)").format(literal),
    )


def _move(
    conn: psycopg.Connection,
    table: sql.Identifier,
    spec: TableSpec,
    own: FieldSpec,
    type_: str,
    source: _Source,
    days: tuple[date, date],
) -> tuple[int, list[str]]:
    """Move values of one table and source, of days from the first to before the second of ``days``."""
    names: dict[str, sql.Composable] = {
        "t": table,
        "c": sql.Identifier(own.column),
        "texts": _TEXTS,
        "text": source.text,
        "taken": source.taken,
        "forget": _forget(spec.write_disposition in ("merge", "scd2")),
    }
    where = sql.SQL(
        "{there} AND t.{c} IS NULL AND t._business_date >= {start} AND t._business_date < {end}"
    ).format(there=source.there, c=names["c"], start=sql.Literal(days[0]), end=sql.Literal(days[1]))
    names["where"] = where
    query = sql.SQL("SELECT DISTINCT {text} FROM {t} t WHERE {text} IS NOT NULL AND {where}").format(**names)
    bad = _read(conn, query, spec, own, type_)
    moved = 0
    for statement in (
        "UPDATE {t} t SET {c} = x.{c}, {taken}{forget} FROM {texts} x WHERE x._text = {text} AND {where}",
        "UPDATE {t} t SET {taken}{forget} WHERE {text} IS NULL AND {where}",
    ):
        moved += conn.execute(sql.SQL(statement).format(**names)).rowcount
    conn.execute(sql.SQL("DROP TABLE {texts}").format(**names))
    return moved, bad


def _read(
    conn: psycopg.Connection, query: sql.Composed, spec: TableSpec, own: FieldSpec, type_: str
) -> list[str]:
    """Parse the texts of ``query`` into the temporary table ``importer_texts``; returns the errors of the others."""
    names = {"texts": _TEXTS, "column": sql.Identifier(own.column), "type": sql.SQL(type_)}
    create = sql.SQL("CREATE TEMP TABLE {texts} (_text text, {column} {type}) ON COMMIT DROP")
    conn.execute(create.format(**names))
    errors: list[str] = []
    with conn.cursor(name="importer_texts") as cursor:
        cursor.execute(query)
        while rows := cursor.fetchmany(_BATCH):
            texts = pa.array([r[0] for r in rows], pa.string())
            typed, bad = parse.parse(texts, own, spec.missing_values(own))
            batch = pa.RecordBatch.from_arrays([texts, typed], names=["_text", own.column])
            if bad is not None:
                errors += bad.messages.to_pylist()
                good = set(range(len(texts))) - set(bad.indexes.tolist())
                batch = batch.take(pa.array(sorted(good), pa.int64()))
            encoder: Any = copy_rows.copy_encoder(batch.schema, spec)
            statement = sql.SQL("COPY {texts} (_text, {column}) FROM STDIN (FORMAT BINARY)")
            with conn.cursor().copy(statement.format(**names)) as copy:
                copy.write(encoder.write_header())
                copy.write(encoder.write_batch(batch))
                copy.write(encoder.finish())
    return errors
