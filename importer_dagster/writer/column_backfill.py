"""Values that came in before the spec knew their column, brought into the field that it has by now.

They are in ``_extra`` (rescue) or in a column that the table gained (evolve),
in both cases as text just as in the file; so they are read by the importer's
own parser, as a load would read them now.

What does not belong here: gaining columns (``writer/schema_evolution.py``), changing specs (``operations/spec_proposals.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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

MARK = "Not in the spec; first met in "  # how the comment of a gained column begins

_BATCH = 50_000
_TEXTS = sql.Identifier("importer_texts")
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
    """Make a gained column the field's: of its type, read as the field declares.

    ``hashed`` says whether the table has hashes, which are forgotten. Raises
    WarehouseError if a value cannot be read so; nothing is changed then if the
    caller rolls back.
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
        raise WarehouseError(
            f"Column {own.column!r} of table {_shown(conn, table)} has values that the field of {spec.name} does "
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
    """The row is not what it was when it was hashed."""
    return sql.SQL(", _hash = NULL" if hashed else "")


def fill(
    conn: psycopg.Connection,
    tables: Sequence[sql.Identifier],
    spec: TableSpec,
    name: str,
    type_: str,
    gained: Collection[str] = (),
) -> tuple[int, list[str]]:
    """Move a field's values to its column; (rows, what could not be read and stays where it is).

    They come out of ``_extra``, or out of columns in ``gained`` that are called
    as the field is called in some files, which are dropped when nothing is left
    in them. Each row is read by the layout of its day.
    """
    moved = 0
    stay: list[str] = []
    emptied: set[str] = set()
    for start, end, own in _by_layout(spec, name):
        for table in tables:
            for key in dict.fromkeys((*own.names, own.name)):
                if key != own.column and key in gained:
                    emptied.add(key)
                    found = _move(conn, table, spec, own, type_, _column_source(key), (start, end))
                else:
                    found = _move(conn, table, spec, own, type_, _extra_source(key), (start, end))
                moved, stay = moved + found[0], [*stay, *found[1]]
    for column in emptied:
        _drop_if_empty(conn, tables, column)
    return moved, stay


def _by_layout(spec: TableSpec, name: str) -> Iterator[tuple[date, date, FieldSpec]]:
    ends = [x.since or date.min for x in spec.layouts[1:]]
    for layout, end in zip(spec.layouts, [*ends, date.max], strict=True):
        yield layout.since or date.min, end, layout.whole.field(name)


@dataclass(frozen=True)
class _Source:
    """Where values are now: whether a row has one, its text, and how it is taken away."""

    there: sql.Composable
    text: sql.Composable
    taken: sql.Composable


def _extra_source(key: str) -> _Source:
    literal = sql.Literal(key)
    return _Source(
        sql.SQL("t._extra ? {}").format(literal),
        sql.SQL("t._extra ->> {}").format(literal),
        sql.SQL("_extra = nullif(t._extra - {}, '{{}}'::jsonb)").format(literal),
    )


def _column_source(column: str) -> _Source:
    name = sql.Identifier(column)
    text = sql.SQL("t.{}::text").format(name)
    return _Source(sql.SQL("t.{} IS NOT NULL").format(name), text, sql.SQL("{} = NULL").format(name))


def _move(
    conn: psycopg.Connection,
    table: sql.Identifier,
    spec: TableSpec,
    own: FieldSpec,
    type_: str,
    source: _Source,
    days: tuple[date, date],
) -> tuple[int, list[str]]:
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


def _drop_if_empty(conn: psycopg.Connection, tables: Sequence[sql.Identifier], column: str) -> None:
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} IS NOT NULL)")
    name = sql.Identifier(column)
    if all(conn.execute(query.format(t, name)).fetchone() == (False,) for t in tables):
        for table in tables:
            conn.execute(sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table, name))


def _read(
    conn: psycopg.Connection, query: sql.Composed, spec: TableSpec, own: FieldSpec, type_: str
) -> list[str]:
    """A temporary table of texts and their values; what is wrong with the others, which are left out."""
    create = sql.SQL("CREATE TEMP TABLE {} (_text text, {} {}) ON COMMIT DROP")
    conn.execute(create.format(_TEXTS, sql.Identifier(own.column), sql.SQL(type_)))
    wrong: list[str] = []
    with conn.cursor(name="importer_texts") as cursor:
        cursor.execute(query)
        while rows := cursor.fetchmany(_BATCH):
            wrong += _read_batch(conn, pa.array([r[0] for r in rows], pa.string()), spec, own)
    return wrong


def _read_batch(conn: psycopg.Connection, texts: pa.Array, spec: TableSpec, own: FieldSpec) -> list[str]:
    typed, bad = parse.parse(texts, own, spec.missing_values(own))
    wrong: list[str] = bad.messages.to_pylist() if bad is not None else []
    batch = pa.RecordBatch.from_arrays([texts, typed], names=["_text", own.column])
    if bad is not None:
        keep = set(range(len(texts))) - set(bad.indexes.tolist())
        batch = batch.take(pa.array(sorted(keep), pa.int64()))
    _copy(conn, batch, spec, own)
    return wrong


def _copy(conn: psycopg.Connection, batch: pa.RecordBatch, spec: TableSpec, own: FieldSpec) -> None:
    encoder: Any = copy_rows.copy_encoder(batch.schema, spec)
    statement = sql.SQL("COPY {} (_text, {}) FROM STDIN (FORMAT BINARY)")
    with conn.cursor().copy(statement.format(_TEXTS, sql.Identifier(own.column))) as copy:
        copy.write(encoder.write_header())
        copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())


def _shown(conn: psycopg.Connection, table: sql.Identifier) -> str:
    return table.as_string(conn).replace('"', "")
