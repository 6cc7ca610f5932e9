"""Typed rows into PostgreSQL: tables, COPY, and what each write_disposition makes of them.

Beside the table that BI reads, a type has

* ``importer_superseded.<type>``: rows that another row stands in place of;
* ``importer_repeats.<type>`` (merge only): one narrow row wherever a delivery
  said again what an earlier one had said.

Together they hold every accepted row of every delivery in force exactly once
(as a row or as a repeat), which is why the order of loading does not matter
and why a load can be taken out again.

What does not belong here: the ledger (``ledger.py``), validation, connections.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Any

import psycopg
import pyarrow as pa
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable, SetColumnComment, SetTableComment

from importer_dagster import schema
from importer_dagster.errors import WarehouseError
from importer_dagster.spec import TableSpec
from importer_dagster.warehouse import SETUP_LOCK, Warehouse

SUPERSEDED = "importer_superseded"
REPEATS = "importer_repeats"


@dataclass(frozen=True)
class Target:
    """Where a type's rows go, and the names that its statements are made of."""

    spec: TableSpec
    has_tenant: bool
    schema: str = "public"

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns, the tenant first where there is one."""
        return (*(("_tenant",) if self.has_tenant else ()), *self.spec.primary_key)

    @cached_property
    def data(self) -> tuple[str, ...]:
        """Columns that a delivery supplies."""
        return (*(f.column for f in self.spec.fields), "_extra")

    @cached_property
    def trace(self) -> tuple[str, ...]:
        """Columns that say where a row came from."""
        return (*(("_tenant",) if self.has_tenant else ()), "_business_date", "_load_id", "_row")

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
        columns = (*self.data, *self.trace)
        claim = {"_tenant": "t._tenant", "_business_date": "g.business_date"}
        return {
            "live": self.live,
            "superseded": self.superseded,
            "repeats": self.repeats,
            "mine": sql.SQL("t._tenant = %(tenant)s" if self.has_tenant else "TRUE"),
            "columns": _list(columns),
            "t_columns": _list(columns, "t"),
            "excluded": _list(columns, "excluded"),
            "t_data": _list(self.data, "t"),
            "g_data": _list(self.data, "g"),
            "key": _list(self.key),
            "t_key": _list(self.key, "t"),
            "g_key": _list(self.key, "g"),
            "same_key": _equal(self.key),
            "trace_from_claim": sql.SQL(", ").join(sql.SQL(claim.get(c, f"g.{c}")) for c in self.trace),
            "distinct_on": sql.SQL("DISTINCT ON ({})").format(_list(self.key, "t"))
            if self.spec.primary_key
            else sql.SQL(""),
            "key_or_row": sql.SQL("{},").format(_list(self.key, "t"))
            if self.spec.primary_key
            else sql.SQL(""),
        }


class _Name(sql.Identifier):
    """An identifier in a statement with bound values, where a percent sign must be doubled."""

    def as_bytes(self, context: Any = None) -> bytes:
        return super().as_bytes(context).replace(b"%", b"%%")


def _list(columns: Sequence[str], alias: str | None = None) -> sql.Composed:
    return sql.SQL(", ").join(_Name(alias, c) if alias else _Name(c) for c in columns)


def _equal(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(" AND ").join(sql.SQL("{} = {}").format(_Name("t", c), _Name("g", c)) for c in columns)


@lru_cache(maxsize=1)
def _statements() -> dict[str, str]:
    text = files("importer_dagster").joinpath("sql/publish.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


# --- tables ---------------------------------------------------------------------


def ensure_tables(warehouse: Warehouse, target: Target) -> None:
    """Create the type's tables, or add the columns that its spec gained since.

    Cheap when this process did it before. Raises WarehouseError where a column
    has another type than the spec says, or the table is not the importer's.
    """
    done = f"{target.spec.name} {target.spec.hash} {target.has_tenant}"
    if done in warehouse.prepared:
        return
    with warehouse.connect() as conn:
        create_tables(conn, target)
        conn.commit()
    warehouse.prepared.add(done)


def create_tables(conn: psycopg.Connection, target: Target) -> None:
    """The same on a connection of the caller's, in whose transaction it stays."""
    conn.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (SETUP_LOCK, target.spec.name))
    for place in _places(target):
        _ensure_table(conn, target, *place)


def _places(target: Target) -> Iterator[tuple[str, str]]:
    yield target.schema, "live"
    yield SUPERSEDED, "superseded"
    if target.spec.write_disposition == "merge":
        yield REPEATS, "repeats"


def _ensure_table(conn: psycopg.Connection, target: Target, schema_name: str, role: str) -> None:
    table = _table(target, schema_name, role)
    have = _columns(conn, schema_name, table.name)
    if not have:
        _ensure_schema(conn, schema_name)
        _create(conn, table, role)
        return
    want = {c.name: _type_text(c.type) for c in table.columns}
    if "_load_id" not in have:
        raise WarehouseError(
            f"Table {schema_name}.{table.name} exists but was not made by the importer (it has no _load_id). "
            "Move it away or rename the type."
        )
    for name, type_text in want.items():
        if name not in have:
            if name == "_tenant":
                raise WarehouseError(
                    f"Table {schema_name}.{table.name} was made without tenants, but the type's path now names "
                    "them. Rename the type, or unload it and drop the table."
                )
            conn.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
                    sql.Identifier(schema_name, table.name), sql.Identifier(name), sql.SQL(type_text)
                )
            )
        elif have[name] != type_text:
            raise WarehouseError(
                f"Column {name!r} of table {schema_name}.{table.name} is {have[name]}, but the spec of "
                f"{target.spec.name} says {type_text}. Change the column with ALTER TABLE (in "
                f"{SUPERSEDED} too), or put the spec back."
            )


def _ensure_schema(conn: psycopg.Connection, name: str) -> None:
    # asked first: CREATE … IF NOT EXISTS needs the privilege even where there is nothing to create
    if conn.execute("SELECT to_regnamespace(%s)", (name,)).fetchone() == (None,):
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))


def _table(target: Target, schema_name: str, role: str) -> sa.Table:
    metadata = sa.MetaData()
    if role != "repeats":
        return schema.sql_table(
            target.spec,
            metadata,
            schema=schema_name,
            tenant=target.has_tenant,
            constraints=role == "live",
        )
    live = schema.sql_table(target.spec, sa.MetaData(), tenant=target.has_tenant)
    return sa.Table(
        target.spec.name,
        metadata,
        *(sa.Column(c, live.c[c].type, nullable=False) for c in target.key),
        *(sa.Column(c, sa.BigInteger, nullable=False) for c in ("_load_id", "_row", "_same_as")),
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
    # finds a load's rows without a scan of the table; costs next to nothing to keep
    conn.execute(
        sql.SQL("CREATE INDEX ON {} USING brin (_load_id) WITH (autosummarize)").format(
            sql.Identifier(str(table.schema), table.name)
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


# --- COPY -------------------------------------------------------------------------


@dataclass
class RowStream:
    """COPY … BINARY of typed batches into one table; can be paused for other statements.

    ``rows`` counts what was written. Close it (or pause) before any other
    statement on the same connection.
    """

    conn: psycopg.Connection
    table: sql.Composable
    spec: TableSpec
    arrow_schema: pa.Schema
    rows: int = 0
    _stack: ExitStack | None = field(default=None, init=False)
    _copy: psycopg.Copy | None = field(default=None, init=False)
    _encoder: Any = field(default=None, init=False)

    def write(self, batch: pa.RecordBatch) -> None:
        """Send one batch; its schema is ``arrow_schema``."""
        if self._copy is None:
            self._open()
        assert self._copy is not None
        self._copy.write(self._encoder.write_batch(batch))
        self.rows += len(batch)

    def _open(self) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            self.table, sql.SQL(", ").join(map(sql.Identifier, self.arrow_schema.names))
        )
        self._encoder = schema.copy_encoder(self.arrow_schema, self.spec)
        self._stack = ExitStack()
        self._copy = self._stack.enter_context(self.conn.cursor().copy(statement))
        self._copy.write(self._encoder.write_header())

    def pause(self) -> None:
        """End the COPY, so that the connection is free; the next write begins another."""
        if self._copy is None or self._stack is None:
            return
        self._copy.write(self._encoder.finish())
        stack, self._stack, self._copy = self._stack, None, None
        stack.close()

    def abort(self, error: BaseException) -> None:
        """Break the COPY off; the transaction is then good only for a rollback."""
        if self._stack is not None:
            stack, self._stack, self._copy = self._stack, None, None
            # the COPY ends with an error by design; ``error`` is the one that counts
            with suppress(psycopg.Error):
                stack.__exit__(type(error), error, error.__traceback__)


# --- publishing -------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """What became of the staged rows."""

    loaded: int = 0
    unchanged: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Duplicate:
    """A staged row taken out because an earlier row of the file has the same key."""

    row: int
    value: str
    first_row: int


class Publisher:
    """The statements that bring one load into force, on one connection and transaction.

    ``prior`` is the load of the same delivery that this one stands in place of.
    """

    def __init__(
        self,
        conn: psycopg.Connection,
        target: Target,
        *,
        load_id: int | None,
        tenant: str,
        business_date: date | None = None,
        path: str = "",
        prior: int | None = None,
    ) -> None:
        self.conn, self.target = conn, target
        self.business_date, self.path, self.prior = business_date, path, prior
        self._values = {"load": load_id, "tenant": tenant, "date": business_date, "prior": prior}

    def _run(
        self, name: str, values: Mapping[str, Any] | None = None, **names: sql.Composable
    ) -> psycopg.Cursor:
        statement = sql.SQL(_statements()[name]).format(**{**self.target.names, **names})
        return self.conn.execute(statement, {**self._values, **(values or {})})

    def create_stage(self) -> sql.Identifier:
        """A temporary table like the type's own; gone with the transaction."""
        self._run("create_stage")
        return sql.Identifier("importer_stage")

    def take_duplicates(self, columns: Sequence[str]) -> int:
        """Take rows out of the stage that repeat an earlier row's ``columns``; returns how many.

        ``duplicates_between`` tells which; ``forget_duplicates`` ends with them.
        """
        fields = _list(columns)
        if self._run("has_duplicates", fields=fields).fetchone() == (False,):
            return 0  # the usual case, at the price of one hash aggregate
        shown = sql.SQL(" || ', ' || ").join(sql.SQL("{}::text").format(_Name(c)) for c in columns)
        not_null = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(_Name(c)) for c in columns)
        self._run("take_duplicates", fields=fields, shown=shown, not_null=not_null)
        return self._run("delete_duplicates").rowcount

    def duplicates_between(self, first: int, last: int) -> list[Duplicate]:
        """The rows taken out whose numbers lie in a range, ends included, in order."""
        rows = self._run("duplicates_between", {"first": first, "last": last}).fetchall()
        return [Duplicate(*row) for row in rows]

    def forget_duplicates(self) -> None:
        """Make room for the duplicates of other columns."""
        self._run("forget_duplicates")

    def publish(self, newest: tuple[date, str] | None) -> Counts:
        """Bring the staged rows into force.

        ``newest`` is the highest (business date, path) in force for the type
        and tenant, the prior load left out; None if there is none.
        """
        return getattr(self, f"_publish_{self.target.spec.write_disposition}")(newest)  # type: ignore[no-any-return]

    def retire_prior(self) -> None:
        """append, replace: put the prior load's rows aside."""
        if self.prior is not None:
            self._run("retire_load")

    def _publish_append(self, newest: tuple[date, str] | None) -> Counts:
        self.retire_prior()
        return Counts(loaded=self._run("insert_stage", into=self.target.live).rowcount)

    def _publish_replace(self, newest: tuple[date, str] | None) -> Counts:
        self.retire_prior()
        assert self.business_date
        if newest is None or self.business_date > newest[0]:
            self._run("retire_tenant")
            return Counts(loaded=self._run("insert_stage", into=self.target.live).rowcount)
        if self.business_date == newest[0] and not self.target.spec.primary_key:
            return Counts(loaded=self._run("insert_stage", into=self.target.live).rowcount)
        staged = self._run("insert_stage", into=self.target.superseded).rowcount
        if self.business_date < newest[0]:
            return Counts(skipped=staged)
        self.settle()
        kept = self._count_live()
        return Counts(loaded=kept, skipped=staged - kept)

    def settle(self) -> None:
        """replace: make the live rows those of ``business_date``, by key the later path's."""
        self._run("settle_winners")
        self._run("settle_out")
        self._run("settle_in")

    def _count_live(self) -> int:
        row = self.conn.execute(
            sql.SQL("SELECT count(*) FROM {live} t WHERE {mine} AND t._load_id = %(load)s").format(
                live=self.target.live, mine=self.target.names["mine"]
            ),
            self._values,
        ).fetchone()
        assert row
        return int(row[0])

    def _publish_merge(self, newest: tuple[date, str] | None) -> Counts:
        assert self.business_date
        # paths are compared as PostgreSQL's "C" collation does: by their UTF-8 bytes
        rank = (self.business_date, self.path.encode())
        if self.prior is None and (newest is None or rank > (newest[0], newest[1].encode())):
            return self._merge_newest()
        return self.derive()

    def _merge_newest(self) -> Counts:
        unchanged = self._run("merge_unchanged").rowcount
        self._run("merge_retire")
        return Counts(loaded=self._run("merge_upsert").rowcount, unchanged=unchanged)

    def derive(self) -> Counts:
        """merge: work out anew, from all deliveries in force, every key that this load touches."""
        names = self.target.names
        for step in ("derive_keys", "derive_versions", "derive_claims"):
            self._run(step)
        for table in ("live", "superseded", "repeats"):
            self._run("derive_clear", table=names[table])
        self._run("derive_rows", {"stands": True}, into=self.target.live)
        self._run("derive_rows", {"stands": False}, into=self.target.superseded)
        self._run("derive_repeats")
        row = self._run("derive_counts").fetchone()
        assert row
        return Counts(*row)

    def delete_load(self) -> None:
        """Delete the load's own rows from all the type's tables."""
        tables = ["live", "superseded"]
        if self.target.spec.write_disposition == "merge":
            tables.append("repeats")
        for table in tables:
            self._run("delete_load", table=self.target.names[table])

    def revive_load(self, load_id: int) -> int:
        """append: bring a load's superseded rows back; returns how many."""
        return self._run("revive_load", {"load": load_id}).rowcount
