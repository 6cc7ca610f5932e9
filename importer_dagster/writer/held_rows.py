"""The rows of held loads: each load has a table of its own in the schema ``importer_held``.

So what the type's tables become in the meantime does not concern them.

What does not belong here: what is held (``pipeline/gate.py``), and how it ends (``operations/release.py``).
"""

from __future__ import annotations

import psycopg
from psycopg import sql

SCHEMA = "importer_held"
_NAME_PART = 43  # of the type's name: with a load's number it stays below PostgreSQL's 63


def table_of(type_name: str, load_id: int) -> sql.Identifier:
    """Where a held load's rows are."""
    return sql.Identifier(SCHEMA, f"{type_name[:_NAME_PART]}_{load_id}")


def leftovers(conn: psycopg.Connection) -> list[str]:
    """Tables of loads that are not held any more."""
    rows = conn.execute(
        r"""
        SELECT tablename FROM pg_tables
        WHERE schemaname = %s AND tablename ~ '_\d+$' AND NOT EXISTS (
            SELECT FROM importer.loads
            WHERE status = 'held' AND load_id::text = substring(tablename from '_(\d+)$'))
        ORDER BY tablename
        """,
        (SCHEMA,),
    ).fetchall()
    return [row[0] for row in rows]


def put_aside(conn: psycopg.Connection, type_name: str, load_id: int) -> None:
    """Keep the staged rows in a table of their own, in the caller's transaction."""
    conn.execute(
        sql.SQL("CREATE TABLE {} AS SELECT * FROM importer_stage").format(table_of(type_name, load_id))
    )


def drop(conn: psycopg.Connection, type_name: str, load_id: int) -> None:
    """Drop the rows of a held load."""
    conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table_of(type_name, load_id)))
