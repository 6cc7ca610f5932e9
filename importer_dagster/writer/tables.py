"""Creates a type's tables in PostgreSQL, and changes them to what the spec says.

A type has up to three tables (``writer/target.py`` describes them): the one that BI reads,
superseded rows, and repeats.

What does not belong here: writing rows (``writer/publish.py``), the ledger's tables
(``ledger/migrations``).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import errors as pg
from psycopg import sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable, SetColumnComment, SetTableComment

from importer_dagster.errors import WarehouseError
from importer_dagster.spec import sql_table
from importer_dagster.warehouse import SETUP_LOCK, Warehouse
from importer_dagster.writer.column_backfill import MARK, convert, fill
from importer_dagster.writer.target import REPEATS, SUPERSEDED, Name, Target

# Shorter than PostgreSQL's deadlock_timeout, so that a waiter gives up before a session is cancelled.
_LOCK_WAIT_MS, _LOCK_TRIES = 500, 240


def ensure_tables(conn: psycopg.Connection, warehouse: Warehouse, target: Target) -> None:
    """Create the type's tables, or add the columns that its spec gained since, and commit.

    ``conn`` must hold a slot, since this writes. If this process has done it before, nothing
    is asked of the database. Raises WarehouseError if a column has another type than the spec
    says, or if the table is not the importer's.
    """
    done = f"{target.spec.name} {target.spec.hash} {target.has_tenant}"
    if done in warehouse.prepared:
        return
    create_tables(conn, target)
    conn.commit()
    warehouse.prepared.add(done)


def create_tables(conn: psycopg.Connection, target: Target) -> None:
    """Create the type's tables, or add columns, without a commit; raises WarehouseError as ensure_tables does."""
    conn.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (SETUP_LOCK, target.spec.name))
    roles = {"live": target.schema, "superseded": SUPERSEDED}
    if target.is_keyed:
        roles["repeats"] = REPEATS
    for role, schema_name in roles.items():
        table = _table(target, schema_name, role)
        name = sql.Identifier(schema_name, table.name)
        have = table_columns(conn, name)
        if not have:
            _create(conn, table, role)
            continue
        _check_origin(target, schema_name, role, have)
        want = {c.name: _type_text(c.type) for c in table.columns}
        if role != "repeats":
            have |= _adopt_gained(conn, target, schema_name, have, want)
        for column, type_text in want.items():
            if column not in have and column == "_tenant":
                raise WarehouseError(
                    f"Table {schema_name}.{table.name} was made without tenants, but the type's path now names "
                    "them. Rename the type, or unload it and drop the table."
                )
            if column not in have:
                add = sql.SQL("ALTER TABLE {} ADD COLUMN {} {}")
                conn.execute(add.format(name, sql.Identifier(column), sql.SQL(type_text)))
            elif have[column] != type_text:
                raise WarehouseError(
                    f"Column {column!r} of table {schema_name}.{table.name} is {have[column]}, but the spec of "
                    f"{target.spec.name} says {type_text}. Change the column with ALTER TABLE (in "
                    f"{SUPERSEDED} too), or put the spec back."
                )


def _check_origin(target: Target, schema_name: str, role: str, have: Mapping[str, str]) -> None:
    """Raise WarehouseError for a table that the importer has not made, or made for another disposition."""
    table = f"{schema_name}.{target.spec.name}"
    if "_load_id" not in have:
        raise WarehouseError(
            f"Table {table} exists but was not made by the importer (it has no _load_id). "
            "Move it away or rename the type."
        )
    if role == "live" and target.has_history != ("_valid_to" in have):
        raise WarehouseError(
            f"Table {table} was made {'with' if '_valid_to' in have else 'without'} history, "
            f"but the spec says write_disposition {target.spec.write_disposition}. Rename the type, or move the "
            "table away and import its deliveries again."
        )


def _adopt_gained(
    conn: psycopg.Connection,
    target: Target,
    schema_name: str,
    have: Mapping[str, str],
    want: Mapping[str, str],
) -> dict[str, str]:
    """Turn gained columns that the spec declares by now into fields; returns their types."""
    table = sql.Identifier(schema_name, target.spec.name)
    fields = {f.column: f for f in target.spec.newest.fields}
    adopted = [name for name in _gained_of(conn, schema_name, target.spec.name) if name in fields]
    for name in adopted:
        if have[name] != want[name]:
            convert(conn, table, target.spec, fields[name], want[name], hashed="_hash" in have)
        comment = sql.Literal(fields[name].description or fields[name].title)
        conn.execute(sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(table, sql.Identifier(name), comment))
    return {name: want[name] for name in adopted}


def _gained_of(conn: psycopg.Connection, schema_name: str, table: str) -> list[str]:
    """Columns that a load has added to the table, and that are no fields yet; their comments say so."""
    rows = conn.execute(
        """
        SELECT a.attname FROM pg_attribute a
        WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
          AND starts_with(col_description(a.attrelid, a.attnum), %s)
        """,
        (sql.Identifier(schema_name, table).as_string(conn), MARK),
    ).fetchall()
    return [row[0] for row in rows]


def move_rescued(warehouse: Warehouse, target: Target, names: Sequence[str]) -> tuple[int, list[str]]:
    """Move values in ``_extra`` and in gained columns into the columns of the named fields, of all tenants.

    Returns the number of rows, and errors of values that stay where they are. Imports of the
    type wait meanwhile, since the tables are locked.
    """
    types = {c.name: _type_text(c.type) for c in _table(target, target.schema, "live").columns}
    moved = 0
    stay: list[str] = []
    with warehouse.writing(target.spec.name, "") as conn:
        ensure_tables(conn, warehouse, target)
        gained = _gained_of(conn, target.schema, target.spec.name)
        # a gained column whose values have all been moved is dropped
        lock(conn, target, "ACCESS EXCLUSIVE" if gained else "SHARE ROW EXCLUSIVE")
        for name in names:
            type_ = types[target.spec.field(name).column]
            found = fill(conn, (target.live, target.superseded), target.spec, name, type_, gained)
            moved, stay = moved + found[0], [*stay, *found[1]]
        conn.commit()
    return moved, stay


def lock(conn: psycopg.Connection, target: Target, mode: str) -> None:
    """Lock the type's tables, trying many times for half a second each, so that readers wait behind it only so long."""
    statement = sql.SQL("LOCK TABLE {}, {} IN {} MODE").format(target.live, target.superseded, sql.SQL(mode))
    usual = conn.execute("SELECT current_setting('lock_timeout')").fetchone()
    assert usual
    for attempt in range(_LOCK_TRIES):
        try:
            with conn.transaction():
                conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(_LOCK_WAIT_MS))
                conn.execute(statement)
                conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(usual[0]))
            return
        except pg.LockNotAvailable:
            if attempt == _LOCK_TRIES - 1:
                raise
            time.sleep(random.uniform(0.2, 0.8))  # noqa: S311 - no secret depends on it


def recent_values(
    conn: psycopg.Connection, target: Target, column: str, loads: Sequence[int], limit: int
) -> list[Any]:
    """Distinct values of a column in rows of the given loads or, if these have none, in any; reads ``limit`` rows."""
    if column not in table_columns(conn, target.live):
        return []
    query = sql.SQL(
        "SELECT DISTINCT v FROM (SELECT {c} AS v FROM {t} WHERE {c} IS NOT NULL{only} LIMIT %(limit)s) AS looked_at"
    )
    for only in (" AND _load_id = ANY(%(loads)s)", ""):
        statement = query.format(c=Name(column), t=target.live, only=sql.SQL(only))
        rows = conn.execute(statement, {"limit": limit, "loads": list(loads)}).fetchall()
        if rows:
            return [row[0] for row in rows]
    return []


def _table(target: Target, schema_name: str, role: str) -> sa.Table:
    """The table as the spec says; ``role`` is live, superseded or repeats."""
    metadata = sa.MetaData()
    if role != "repeats":
        return sql_table.sql_table(
            target.spec,
            metadata,
            schema=schema_name,
            tenant=target.has_tenant,
            constraints=role == "live",
        )
    live = sql_table.sql_table(target.spec, sa.MetaData(), tenant=target.has_tenant)
    return sa.Table(
        target.spec.name,
        metadata,
        *(sa.Column(c, sa.Text, nullable=False) for c in target.key if c == "_tenant"),
        *(sa.Column(c, sa.BigInteger, nullable=False) for c in ("_load_id", "_same_as", "_block")),
        *(sa.Column(c, sa.ARRAY(live.c[c].type), nullable=False) for c in target.spec.primary_key),
        sa.Column("_row", sa.ARRAY(sa.SmallInteger), nullable=False),
        schema=schema_name,
    )


# with "named" percent signs are not doubled; DDL has no bound values
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]


def _create(conn: psycopg.Connection, table: sa.Table, role: str) -> None:
    """Create the table, its schema, comments and indexes."""
    # CREATE SCHEMA IF NOT EXISTS would need the privilege even if the schema exists
    if conn.execute("SELECT to_regnamespace(%s)", (str(table.schema),)).fetchone() == (None,):
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(str(table.schema))))
    statements: list[Any] = [CreateTable(table)]
    if role == "live":
        statements += [SetTableComment(table)] if table.comment else []
        statements += [SetColumnComment(c) for c in table.columns if c.comment]
    for statement in statements:
        # as bytes, in which psycopg looks for no placeholders
        conn.execute(str(statement.compile(dialect=_DIALECT)).encode())
    name = sql.Identifier(str(table.schema), table.name)
    if role == "live" and "_valid_to" in table.columns:
        key = [c.name for c in table.primary_key.columns if c.name != "_business_date"]
        one_current_row = sql.SQL("CREATE UNIQUE INDEX ON {} ({}) WHERE _valid_to IS NULL")
        conn.execute(one_current_row.format(name, sql.SQL(", ").join(map(sql.Identifier, key))))
    for column in table.columns:
        if isinstance(column.type, sa.ARRAY):
            # uncompressed: compression would halve the space and take four times as long
            storage = sql.SQL("ALTER TABLE {} ALTER {} SET STORAGE EXTERNAL")
            conn.execute(storage.format(name, sql.Identifier(column.name)))
    # finds a load's rows without a scan of the table; costs next to nothing to maintain
    conn.execute(sql.SQL("CREATE INDEX ON {} USING brin (_load_id) WITH (autosummarize)").format(name))


def _type_text(type_: sa.types.TypeEngine[Any]) -> str:
    return re.sub(r",\s+", ",", type_.compile(dialect=_DIALECT).lower())


def table_columns(conn: psycopg.Connection, table: sql.Identifier) -> dict[str, str]:
    """Column name → type as PostgreSQL writes it, in the table's order; empty if the table does not exist."""
    return table_columns_deferred(conn, table)()


def table_columns_deferred(
    conn: psycopg.Connection, table: sql.Identifier, *, also_in: sql.Identifier | None = None
) -> Callable[[], dict[str, str]]:
    """Send the query of :func:`table_columns`, in a pipeline if one is open; call the result for the columns.

    With ``also_in`` only columns that this other table has, too.
    """
    sent: psycopg.Cursor[tuple[str, str]] = conn.execute(
        """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
        WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
          AND (%(also_in)s::text IS NULL OR EXISTS (
            SELECT FROM pg_attribute o
            WHERE o.attrelid = to_regclass(%(also_in)s) AND o.attname = a.attname AND NOT o.attisdropped))
        ORDER BY a.attnum
        """,
        {"table": table.as_string(conn), "also_in": also_in.as_string(conn) if also_in else None},
    )
    return lambda: dict(sent.fetchall())
