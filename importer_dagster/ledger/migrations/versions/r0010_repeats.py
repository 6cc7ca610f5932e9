"""Repeats are kept in blocks: arrays of the records' keys and numbers in place of a row for each."""

from collections.abc import Callable, Mapping

import psycopg
from alembic import op
from psycopg import sql

revision = "0010"
down_revision = "0009"

_SCALARS = ("_tenant", "_load_id", "_same_as", "_block")


def upgrade() -> None:
    """Gather the rows of each table of ``importer_repeats``."""
    _rebuild(_blocks)


def downgrade() -> None:
    """A row for each record again."""
    _rebuild(_records)


def _rebuild(select: Callable[[sql.Composable, Mapping[str, str]], sql.Composed]) -> None:
    conn: psycopg.Connection = op.get_bind().connection.driver_connection  # type: ignore[assignment]
    tables = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'importer_repeats'").fetchall()
    for (name,) in tables:
        old, new = sql.Identifier("importer_repeats", name), sql.Identifier("importer_repeats", "_new")
        conn.execute(sql.SQL("CREATE TABLE {} AS {}").format(new, select(old, _types(conn, old))))
        _finish(conn, new)
        conn.execute(sql.SQL("DROP TABLE {}").format(old))
        conn.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(new, sql.Identifier(name)))


def _types(conn: psycopg.Connection, table: sql.Composable) -> dict[str, str]:
    """Each column's type, in full: what aggregates give has no precision."""
    rows = conn.execute(
        """
        SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
        """,
        (table.as_string(conn),),
    ).fetchall()
    return dict(rows)


def _blocks(table: sql.Composable, types: Mapping[str, str]) -> sql.Composed:
    once: list[sql.Composable] = [sql.Identifier(c) for c in types if c in _SCALARS]
    once.append(sql.SQL("_row - (_row & 32767) AS _block"))
    gathered = [
        sql.SQL("array_agg({0})::{1}[] AS {0}").format(sql.Identifier(c), sql.SQL(type_))
        for c, type_ in types.items()
        if c not in (*_SCALARS, "_row")
    ]
    return sql.SQL("SELECT {}, array_agg((_row & 32767)::smallint) AS _row FROM {} GROUP BY {}").format(
        sql.SQL(", ").join([*once, *gathered]),
        table,
        sql.SQL(", ").join(map(sql.Literal, range(1, len(once) + 1))),
    )


def _records(table: sql.Composable, types: Mapping[str, str]) -> sql.Composed:
    once = sql.SQL(", ").join(sql.Identifier(c) for c in types if c in _SCALARS and c != "_block")
    arrays = [sql.Identifier(c) for c in types if c not in _SCALARS]
    keys = [
        sql.SQL("u.{0}::{1} AS {0}").format(sql.Identifier(c), sql.SQL(type_.removesuffix("[]")))
        for c, type_ in types.items()
        if c not in (*_SCALARS, "_row")
    ]
    return sql.SQL(
        "SELECT {}, {}, t._block + u._row AS _row FROM {} t CROSS JOIN LATERAL unnest({}) AS u ({})"
    ).format(
        once,
        sql.SQL(", ").join(keys),
        table,
        sql.SQL(", ").join(sql.SQL("t.{}").format(a) for a in arrays),
        sql.SQL(", ").join(arrays),
    )


def _finish(conn: psycopg.Connection, table: sql.Composable) -> None:
    """What CREATE TABLE AS leaves out: NOT NULL, the storage of arrays, the index."""
    described = conn.execute(
        """
        SELECT attname, typcategory = 'A' FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
        WHERE attrelid = to_regclass(%s) AND attnum > 0
        """,
        (table.as_string(conn),),
    ).fetchall()
    for column, is_array in described:
        names = {"table": table, "column": sql.Identifier(column)}
        conn.execute(sql.SQL("ALTER TABLE {table} ALTER {column} SET NOT NULL").format(**names))
        if is_array:
            conn.execute(sql.SQL("ALTER TABLE {table} ALTER {column} SET STORAGE EXTERNAL").format(**names))
    conn.execute(sql.SQL("CREATE INDEX ON {} USING brin (_load_id) WITH (autosummarize)").format(table))
