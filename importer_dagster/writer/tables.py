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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import errors as pg
from psycopg import sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable, SetColumnComment, SetTableComment

from importer_dagster.errors import WarehouseError
from importer_dagster.spec.table import TableSpec, keep
from importer_dagster.validation import schemas
from importer_dagster.warehouse import SETUP_LOCK, Warehouse
from importer_dagster.writer.column_backfill import MARK, convert, fill

SUPERSEDED = "importer_superseded"
REPEATS = "importer_repeats"
BLOCK = 1 << 15  # records; their numbers within a block fit a smallint

# shorter than PostgreSQL's deadlock_timeout, so that who waits steps back before anyone is killed
_LOCK_WAIT_MS, _LOCK_TRIES = 500, 240


@lru_cache
def statements(file: str) -> dict[str, str]:
    """The statements of ``sql/<file>.sql`` by their names."""
    text = files("importer_dagster").joinpath(f"sql/{file}.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def run_statement(
    conn: psycopg.Connection,
    file: str,
    name: str,
    values: Mapping[str, Any],
    names: Mapping[str, sql.Composable] | None = None,
) -> psycopg.Cursor:
    """Execute a statement of ``sql/<file>.sql``, its names in braces filled in and its values bound."""
    return conn.execute(sql.SQL(statements(file)[name]).format(**(names or {})), values)


_ALL = sql.SQL("TRUE")


@dataclass(frozen=True)
class Target:
    """Where a type's rows go, and the names that its statements are made of."""

    spec: TableSpec
    has_tenant: bool
    schema: str = "public"
    gained: tuple[str, ...] = ()  # columns that the spec does not know (evolve.py)

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns, the tenant first where there is one."""
        return (*(("_tenant",) if self.has_tenant else ()), *self.spec.primary_key)

    @property
    def is_keyed(self) -> bool:
        """Whether rows of several deliveries contend for a key (merge, scd2)."""
        return self.spec.write_disposition in ("merge", "scd2")

    @property
    def has_history(self) -> bool:
        """Whether the live table holds all versions of a key (scd2)."""
        return self.spec.write_disposition == "scd2"

    @cached_property
    def data(self) -> tuple[str, ...]:
        """Columns that a delivery supplies."""
        return (*(f.column for f in self.spec.fields), *self.gained, "_extra")

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """The same, and what is known of them (keyed types only)."""
        return (*self.data, "_hash") if self.is_keyed else self.data

    @cached_property
    def trace(self) -> tuple[str, ...]:
        """Columns that say where a row came from."""
        return (*(("_tenant",) if self.has_tenant else ()), "_business_date", "_load_id", "_row")

    def _written(self, alias: str) -> sql.Composed:
        """The data columns, as text where PostgreSQL calls equal what is written differently.

        0 and -0 of a binary float, 1.0 and 1.00 inside of JSON: a delivery that says
        the one after the other is a change, whatever the order of loading.
        """
        loose = {f.column for f in self.spec.fields if f.type == "object" or f.format == "double"}
        return sql.SQL(", ").join(
            sql.SQL("{}::text").format(Name(alias, c)) if c in loose else Name(alias, c) for c in self.data
        )

    @property
    def live(self) -> sql.Identifier:
        """The table that BI reads."""
        return sql.Identifier(self.schema, self.spec.name)

    @property
    def superseded(self) -> sql.Identifier:
        """Rows that another row stands in place of."""
        return sql.Identifier(SUPERSEDED, self.spec.name)

    @property
    def repeats(self) -> sql.Identifier:
        """Rows that said again what another row says."""
        return sql.Identifier(REPEATS, self.spec.name)

    @cached_property
    def names(self) -> dict[str, sql.Composable]:
        """Everything that a statement of publish.sql may name."""
        columns = (*self.contents, *self.trace)
        claim = {"_tenant": "t._tenant", "_business_date": "g.business_date"}
        return {
            "live": self.live,
            "superseded": self.superseded,
            "repeats": self.repeats,
            "mine": sql.SQL("t._tenant = %(tenant)s" if self.has_tenant else "TRUE"),
            "columns": column_list(columns),
            "t_columns": column_list(columns, "t"),
            "excluded": column_list(columns, "excluded"),
            "t_data": column_list(self.data, "t"),
            "t_contents": column_list(self.contents, "t"),
            "t_written": self._written("t"),
            "g_written": self._written("g"),
            **self._names_of_repeats(),
            "key": column_list(self.key),
            "t_key": column_list(self.key, "t"),
            "g_key": column_list(self.key, "g"),
            "same_key": _equal(self.key),
            "data_key": column_list(self.spec.primary_key),
            "t_data_key": column_list(self.spec.primary_key, "t"),
            "same_data_key": _equal(self.spec.primary_key),
            "current": sql.SQL("t._valid_to IS NULL" if self.has_history else "TRUE"),
            "trace_from_claim": sql.SQL(", ").join(sql.SQL(claim.get(c, f"g.{c}")) for c in self.trace),
            "distinct_on": sql.SQL("DISTINCT ON ({})").format(column_list(self.key, "t"))
            if self.spec.primary_key
            else sql.SQL(""),
            "key_or_row": sql.SQL("{},").format(column_list(self.key, "t"))
            if self.spec.primary_key
            else sql.SQL(""),
        }

    def statement(self, file: str, name: str, names: Mapping[str, sql.Composable]) -> bytes:
        """A statement of ``sql/<file>.sql``, with the names in braces filled in: ``names``, and those of the target.

        Made once, since to compose it takes longer than to run it for a small file.
        """
        key = file, name, repr(names)
        if key not in self._statements:
            text = sql.SQL(statements(file)[name])
            self._statements[key] = text.format(**{**self.names, **names}).as_bytes()
        return self._statements[key]

    @cached_property
    def _statements(self) -> dict[tuple[str, str, str], bytes]:
        return {}

    def _names_of_repeats(self) -> dict[str, sql.Composable]:
        """``said_again`` is the table of repeats with a row for each record, ``_place`` the block that it is in.

        ``said_again_of_keys`` leaves out what names none of the keys that a load touches, and perhaps not all of it.
        ``blocks_said`` is the same of a subquery ``blocks``; ``blocks_of_g`` makes blocks of such rows again,
        grouped by ``block_of_g``.
        """
        scalars, arrays = self._columns_of_repeats
        offset = sql.SQL("(g._row & {})").format(sql.Literal(BLOCK - 1))
        block = [*(Name("g", c) for c in scalars), sql.SQL("g._row - {}").format(offset)]
        gathered = [sql.SQL("array_agg({})").format(Name("g", c)) for c in self.spec.primary_key]
        numbers = sql.SQL("array_agg({}::smallint)").format(offset)
        return {
            "repeats_columns": column_list((*scalars, "_block", *arrays)),
            "blocks_of_g": sql.SQL(", ").join([*block, *gathered, numbers]),
            "block_of_g": sql.SQL(", ").join(block),
            "said_again": self._record_by_record(self.repeats, place="r.ctid AS _place, "),
            "said_again_of_keys": self._record_by_record(
                self.repeats, place="r.ctid AS _place, ", where=self._names_a_key
            ),
            "blocks_said": self._record_by_record(sql.Identifier("blocks")),
        }

    @property
    def _columns_of_repeats(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a block of repeats has once, ``_block`` apart, and what it has for each record."""
        tenant = self.key[: len(self.key) - len(self.spec.primary_key)]
        return (*tenant, "_load_id", "_same_as"), (*self.spec.primary_key, "_row")

    @property
    def _names_a_key(self) -> sql.Composable:
        """Of a block ``r`` of repeats: whether it may name one of the touched keys."""
        if not self.spec.primary_key:
            return _ALL
        first = Name(self.spec.primary_key[0])
        return sql.SQL(statements("publish")["names_a_key"]).format(first=first)

    def _record_by_record(
        self, blocks: sql.Composable, *, place: str = "", where: sql.Composable = _ALL
    ) -> sql.Composed:
        scalars, arrays = self._columns_of_repeats
        return sql.SQL(
            "(SELECT {}{}, {}, r._block + u._row AS _row FROM {} r CROSS JOIN LATERAL unnest({}) AS u ({}) WHERE {})"
        ).format(
            sql.SQL(place),
            column_list(scalars, "r"),
            column_list(self.spec.primary_key, "u"),
            blocks,
            column_list(arrays, "r"),
            column_list(arrays),
            where,
        )


_targets: dict[tuple[str, bool, str], Target] = {}


def target_of(spec: TableSpec, has_tenant: bool, schema: str) -> Target:
    """The target of a spec, the same one each time, with what was made of its names before."""
    key = spec.hash, has_tenant, schema
    if key not in _targets:
        keep(_targets, key, Target(spec, has_tenant, schema))
    return _targets[key]


class Name(sql.Identifier):
    """An identifier in a statement with bound values, where a percent sign must be doubled."""

    def as_bytes(self, context: Any = None) -> bytes:
        """As psycopg's, for a statement with placeholders."""
        return super().as_bytes(context).replace(b"%", b"%%")


def column_list(columns: Sequence[str], alias: str | None = None) -> sql.Composed:
    """Column names, quoted, with commas between them and ``alias.`` before each."""
    return sql.SQL(", ").join(Name(alias, c) if alias else Name(c) for c in columns)


def _equal(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(" AND ").join(sql.SQL("{} = {}").format(Name("t", c), Name("g", c)) for c in columns)


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
    have = _columns(conn, schema_name, table.name)
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
    exists = conn.execute("SELECT to_regclass(%s)", (target.live.as_string(conn),)).fetchone()
    if exists == (None,) or column not in _columns(conn, target.schema, target.spec.name):
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
        return schemas.sql_table(
            target.spec,
            metadata,
            schema=schema_name,
            tenant=target.has_tenant,
            constraints=role == "live",
        )
    live = schemas.sql_table(target.spec, sa.MetaData(), tenant=target.has_tenant)
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


def _columns(conn: psycopg.Connection, schema_name: str, table: str) -> dict[str, str]:
    """Column name → type as PostgreSQL writes it; empty if there is no such table."""
    rows = conn.execute(
        """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
        """,
        (schema_name, table),
    ).fetchall()
    return dict(rows)
