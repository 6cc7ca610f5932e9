"""The names of a type's tables and columns, and the statements of ``sql/`` filled in with them.

Beside the table that BI reads (``live``), a type has

* ``importer_superseded.<type>``: rows that other rows have replaced;
* ``importer_repeats.<type>`` (merge and scd2 only): records of deliveries that have the same
  contents as an earlier record of their key. A row of this table is a block of records: arrays
  of their keys and row numbers. With one row for each record it took seven times the space and
  twice the time.

What does not belong here: creating the tables (``writer/tables.py``), running the statements (``writer/publish.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from importer_dagster.spec.table import TableSpec, keep

SUPERSEDED = "importer_superseded"
REPEATS = "importer_repeats"
BLOCK = 1 << 15  # records, so that a record's number within its block is a smallint


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
    """The tables of a type, and the names that are filled into its statements."""

    spec: TableSpec
    has_tenant: bool
    schema: str = "public"
    gained: tuple[str, ...] = ()  # columns that the spec does not know (writer/schema_evolution.py)

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns, first the tenant if the type has tenants."""
        return (*(("_tenant",) if self.has_tenant else ()), *self.spec.primary_key)

    @property
    def is_keyed(self) -> bool:
        """Whether rows of several deliveries may have the same key (merge, scd2)."""
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
        """Columns that a delivery supplies and, for keyed types, the hash of them."""
        return (*self.data, "_hash") if self.is_keyed else self.data

    @cached_property
    def trace(self) -> tuple[str, ...]:
        """Columns that say where a row came from."""
        return (*(("_tenant",) if self.has_tenant else ()), "_business_date", "_load_id", "_row")

    def _written(self, alias: str) -> sql.Composed:
        """The data columns; as text if PostgreSQL compares values as equal that are written differently.

        Such values are 0 and -0 of a binary float, and 1.0 and 1.00 in JSON. From one to the other is a
        change, whatever the order of loading.
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
        """Rows that other rows have replaced."""
        return sql.Identifier(SUPERSEDED, self.spec.name)

    @property
    def repeats(self) -> sql.Identifier:
        """Records with the same contents as an earlier record of their key, in blocks."""
        return sql.Identifier(REPEATS, self.spec.name)

    @cached_property
    def names(self) -> dict[str, sql.Composable]:
        """All names in braces that a statement of publish.sql may contain."""
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
        """A statement of ``sql/<file>.sql`` with ``names`` and the names of the target filled in.

        It is kept, since for a small file to compose it takes longer than to run it.
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
        """Names for the table of repeats.

        ``said_again`` is the table with a row for each record, in which ``_place`` is its block.
        ``said_again_of_keys`` leaves out blocks that have none of the keys that a load touches, though
        maybe not all of them. ``blocks_said`` has a row for each record of a subquery ``blocks``.
        ``blocks_of_g`` makes blocks of such rows again, grouped by ``block_of_g``.
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
        """Columns with one value for a block of repeats, except ``_block``, and columns with a value for each record."""
        tenant = self.key[: len(self.key) - len(self.spec.primary_key)]
        return (*tenant, "_load_id", "_same_as"), (*self.spec.primary_key, "_row")

    @property
    def _names_a_key(self) -> sql.Composable:
        """SQL condition: whether block ``r`` of repeats may have one of the touched keys."""
        if not self.spec.primary_key:
            return _ALL
        first = Name(self.spec.primary_key[0])
        return sql.SQL(statements("publish")["names_a_key"]).format(first=first)

    def _record_by_record(
        self, blocks: sql.Composable, *, place: str = "", where: sql.Composable = _ALL
    ) -> sql.Composed:
        """A subquery with a row for each record of ``blocks``."""
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
    """The target of a spec; the same object each time, since it keeps its composed statements."""
    key = spec.hash, has_tenant, schema
    if key not in _targets:
        keep(_targets, key, Target(spec, has_tenant, schema))
    return _targets[key]


class Name(sql.Identifier):
    """An identifier in a statement with bound values, where a percent sign must be doubled."""

    def as_bytes(self, context: Any = None) -> bytes:
        """The quoted identifier, with percent signs doubled."""
        return super().as_bytes(context).replace(b"%", b"%%")


def column_list(columns: Sequence[str], alias: str | None = None) -> sql.Composed:
    """Column names, quoted, with commas between them and ``alias.`` before each."""
    return sql.SQL(", ").join(Name(alias, c) if alias else Name(c) for c in columns)


def _equal(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(" AND ").join(sql.SQL("{} = {}").format(Name("t", c), Name("g", c)) for c in columns)
