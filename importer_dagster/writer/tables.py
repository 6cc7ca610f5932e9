"""A type's tables in PostgreSQL: their names, and making them what the spec says.

Beside the table that BI reads, a type has

* ``importer_superseded.<type>``: rows that another row stands in place of;
* ``importer_repeats.<type>`` (merge and scd2 only): what a delivery said again
  after an earlier one, a block of records in a row: arrays of their keys and
  numbers. A row for each record took seven times the space and twice the time.

What does not belong here: rows (``writer/publish.py``), the ledger's tables (``migrations``).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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

# shorter than PostgreSQL's deadlock_timeout, so that who waits steps back before anyone is killed
_LOCK_WAIT_MS, _LOCK_TRIES = 500, 240


def ensure_tables(conn: psycopg.Connection, warehouse: Warehouse, target: Target) -> None:
    """Create the type's tables, or add the columns that its spec gained since, and commit.

    ``conn`` holds a slot, since this writes. Cheap when this process did it
    before. Raises WarehouseError where a column has another type than the spec
    says, or the table is not the importer's.
    """
    done = f"{target.spec.name} {target.spec.hash} {target.has_tenant}"
    if done in warehouse.prepared:
        return
    create_tables(conn, target)
    conn.commit()
    warehouse.prepared.add(done)


def create_tables(conn: psycopg.Connection, target: Target) -> None:
    """The same, always, and without a commit."""
    conn.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (SETUP_LOCK, target.spec.name))
    for place in _places(target):
        _ensure_table(conn, target, *place)


def _places(target: Target) -> Iterator[tuple[str, str]]:
    yield target.schema, "live"
    yield SUPERSEDED, "superseded"
    if target.is_keyed:
        yield REPEATS, "repeats"


def _ensure_table(conn: psycopg.Connection, target: Target, schema_name: str, role: str) -> None:
    table = _table(target, schema_name, role)
    have = table_columns(conn, sql.Identifier(schema_name, table.name))
    if not have:
        _ensure_schema(conn, schema_name)
        _create(conn, table, role)
        return
    _check_origin(target, schema_name, role, have)
    want = {c.name: _type_text(c.type) for c in table.columns}
    if role != "repeats":
        have |= _adopt(conn, target, schema_name, have, want)
    for name, type_text in want.items():
        if name not in have:
            _add_column(conn, schema_name, table.name, name, type_text)
        elif have[name] != type_text:
            raise WarehouseError(
                f"Column {name!r} of table {schema_name}.{table.name} is {have[name]}, but the spec of "
                f"{target.spec.name} says {type_text}. Change the column with ALTER TABLE (in "
                f"{SUPERSEDED} too), or put the spec back."
            )


def _check_origin(target: Target, schema_name: str, role: str, have: Mapping[str, str]) -> None:
    """Raise WarehouseError for a table that is none of the importer's, or of another disposition."""
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


def _add_column(conn: psycopg.Connection, schema_name: str, table: str, name: str, type_text: str) -> None:
    if name == "_tenant":
        raise WarehouseError(
            f"Table {schema_name}.{table} was made without tenants, but the type's path now names "
            "them. Rename the type, or unload it and drop the table."
        )
    conn.execute(
        sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
            sql.Identifier(schema_name, table), sql.Identifier(name), sql.SQL(type_text)
        )
    )


def _adopt(
    conn: psycopg.Connection,
    target: Target,
    schema_name: str,
    have: Mapping[str, str],
    want: Mapping[str, str],
) -> dict[str, str]:
    """Make columns that the table once gained the fields that the spec has by now; their types."""
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
    """Move what ``_extra`` holds of fields into their columns; (rows, what could not be read and stays).

    Of all tenants: those who would load the type meanwhile wait for the tables.
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
    """Lock the type's rows without making readers queue behind us for long: wait a little, step back, again."""
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
    """Different values of a column, of some loads first; looks at ``limit`` rows at most."""
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


def _ensure_schema(conn: psycopg.Connection, name: str) -> None:
    # asked first: CREATE … IF NOT EXISTS needs the privilege even where there is nothing to create
    if conn.execute("SELECT to_regnamespace(%s)", (name,)).fetchone() == (None,):
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))


def _table(target: Target, schema_name: str, role: str) -> sa.Table:
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


# "named" leaves percent signs alone: nothing is bound in DDL
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]


def _create(conn: psycopg.Connection, table: sa.Table, role: str) -> None:
    statements: list[Any] = [CreateTable(table)]
    if role == "live":
        if table.comment:
            statements.append(SetTableComment(table))
        statements += [SetColumnComment(c) for c in table.columns if c.comment]
    for statement in statements:
        _execute_text(conn, str(statement.compile(dialect=_DIALECT)))
    if role == "live" and "_valid_to" in table.columns:
        _index_current(conn, table)
    for column in table.columns:
        if isinstance(
            column.type, sa.ARRAY
        ):  # to compress them halves the space and takes four times as long
            conn.execute(
                sql.SQL("ALTER TABLE {} ALTER {} SET STORAGE EXTERNAL").format(
                    sql.Identifier(str(table.schema), table.name), sql.Identifier(column.name)
                )
            )
    # finds a load's rows without a scan of the table; costs next to nothing to keep
    conn.execute(
        sql.SQL("CREATE INDEX ON {} USING brin (_load_id) WITH (autosummarize)").format(
            sql.Identifier(str(table.schema), table.name)
        )
    )


def _index_current(conn: psycopg.Connection, table: sa.Table) -> None:
    """One current version of a key at most: the database itself sees to it."""
    key = [c.name for c in table.primary_key.columns if c.name != "_business_date"]
    conn.execute(
        sql.SQL("CREATE UNIQUE INDEX ON {} ({}) WHERE _valid_to IS NULL").format(
            sql.Identifier(str(table.schema), table.name), sql.SQL(", ").join(map(sql.Identifier, key))
        )
    )


def _execute_text(conn: psycopg.Connection, text: str) -> None:
    conn.execute(text.encode())  # bytes: taken as it is, with no look for placeholders


def _type_text(type_: sa.types.TypeEngine[Any]) -> str:
    return re.sub(r",\s+", ",", type_.compile(dialect=_DIALECT).lower())


def table_columns(conn: psycopg.Connection, table: sql.Identifier) -> dict[str, str]:
    """Column name → type as PostgreSQL writes it, in the table's order; empty if there is no such table."""
    return table_columns_deferred(conn, table)()


def table_columns_deferred(
    conn: psycopg.Connection, table: sql.Identifier, *, also_in: sql.Identifier | None = None
) -> Callable[[], dict[str, str]]:
    """The columns of :func:`table_columns` by a query that may run in a pipeline; call the result for its answer.

    With ``also_in``, only columns that this other table has, too.
    """
    asked: psycopg.Cursor[tuple[str, str]] = conn.execute(
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
    return lambda: dict(asked.fetchall())
