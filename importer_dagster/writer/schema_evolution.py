"""Adds columns to a type's tables that its spec does not know (``schema_contract.added: evolve``).

The tables themselves keep the list of these columns and their types. A column gets a type
only if PostgreSQL writes every value back exactly as it was in the files. So a column can
become text later on without a change of its values, and the order of loading makes no
difference:

    boolean, date, timestamp, bigint < numeric  < text

The column's type is the narrowest one that holds the values of all loaded files.

What does not belong here: columns that the spec declares (``writer/tables.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from importer_dagster.model import DriftEvent
from importer_dagster.spec.fields import TRACE_COLUMNS, short_identifier
from importer_dagster.validation.extra_columns import TEXT, VALUE_PATTERNS, common_type
from importer_dagster.warehouse import SETUP_LOCK
from importer_dagster.writer.column_backfill import MARK, is_empty
from importer_dagster.writer.tables import lock, table_columns_deferred
from importer_dagster.writer.target import Target

_MOST_COLUMNS = 1_590  # of a table; PostgreSQL allows 1,600


# --- which columns ------------------------------------------------------------------------


def gained(conn: psycopg.Connection, target: Target) -> dict[str, str]:
    """Columns of the type's tables that the spec does not know, and their types, in the table's order."""
    return _gained_deferred(conn, target)()


def _gained_deferred(conn: psycopg.Connection, target: Target) -> Callable[[], dict[str, str]]:
    columns = table_columns_deferred(conn, target.live, also_in=target.superseded)
    known = {*(f.column for f in target.spec.fields), *TRACE_COLUMNS}
    return lambda: {name: type_ for name, type_ in columns().items() if name not in known}


def with_gained(conn: psycopg.Connection, target: Target) -> Target:
    """``target`` with the columns gained from earlier deliveries, which every statement must include."""
    return with_gained_deferred(conn, target)()


def with_gained_deferred(conn: psycopg.Connection, target: Target) -> Callable[[], Target]:
    """Send the query for gained columns, in a pipeline if one is open; call the result for the new target."""
    columns = _gained_deferred(conn, target)

    def new_target() -> Target:
        found = tuple(columns())
        return replace(target, gained=found) if found else target

    return new_target


def without_changes(target: Target, planned: Sequence[Grown]) -> Target:
    """``target`` without the columns that would be added or changed, for a rehearsal."""
    changed = {g.column for g in planned if g.type != g.before}
    return replace(target, gained=tuple(c for c in target.gained if c not in changed))


def growing(
    conn: psycopg.Connection, target: Target, header: Sequence[str], extras: Sequence[int]
) -> dict[int, str]:
    """Unknown columns of a header that can become columns of the table: position → column.

    All others are kept in ``_extra``: columns without a name, with the name of another
    column, or more than a table can have.
    """
    if not extras:
        return {}
    have = gained(conn, target)
    taken = {*(f.column for f in target.spec.fields), *TRACE_COLUMNS}
    taken |= {name for name, type_ in have.items() if type_ not in (*VALUE_PATTERNS, TEXT)}
    found: dict[int, str] = {}
    for i in extras:
        column = short_identifier(header[i])
        fits = len(taken | {*have, *found.values(), column}) <= _MOST_COLUMNS
        if column and column not in taken and "\0" not in column and fits:
            found[i] = column
    return found


# --- changing the tables --------------------------------------------------------------------


@dataclass(frozen=True)
class Grown:
    """A gained column: the type that it gets, and the type before (None: the column is new)."""

    column: str
    type: str
    before: str | None

    @property
    def words(self) -> str:
        """What changes, for people."""
        if self.before is None:
            return f"a column of the table since this delivery, as {self.type}"
        if self.before != self.type:
            return f"a column of the table; was {self.before}, is {self.type} from this delivery on"
        return f"a column of the table, as {self.type}"


def events(planned: Sequence[Grown]) -> list[DriftEvent]:
    """Drift events for columns that are new or get another type."""
    changed = [g for g in planned if g.before != g.type]
    return [DriftEvent("retyped" if g.before else "evolved", g.column, g.words) for g in changed]


def reserve(conn: psycopg.Connection, target: Target) -> None:
    """Take the lock for changing the type's tables, until the transaction ends.

    To be called before the transaction reads the tables. Otherwise two transactions that have
    read them, and both want to change them, would wait for each other.
    """
    conn.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (SETUP_LOCK, f"{target.spec.name}\ngrow"))


def plan(conn: psycopg.Connection, target: Target, kinds: Mapping[str, str | None]) -> list[Grown]:
    """The types that the columns get. ``kinds`` are the types of the delivery's values, None for no value."""
    have = gained(conn, target)
    found = []
    for column, kind in kinds.items():
        before = have.get(column)
        known = before
        if before == TEXT and kind not in (None, TEXT):
            # a column without values is text only because nothing is known of its type
            known = None if is_empty(conn, (target.live, target.superseded), column) else before
        found.append(Grown(column, common_type(known, kind) or TEXT, before))
    return found


def grow(conn: psycopg.Connection, target: Target, planned: Sequence[Grown], origin: str) -> None:
    """Add columns to the type's tables or widen them, in the caller's transaction, which has called reserve.

    The tables are locked until the transaction ends, and only if something changes.
    """
    if all(g.type == g.before for g in planned):
        return
    lock(conn, target, "ACCESS EXCLUSIVE")
    for g in planned:
        for table in (target.live, target.superseded):
            names = {"t": table, "c": sql.Identifier(g.column), "type": sql.SQL(g.type)}
            if g.before is None:
                names["comment"] = sql.Literal(f"{MARK}{origin}.")
                conn.execute(sql.SQL("ALTER TABLE {t} ADD COLUMN {c} {type}").format(**names))
                conn.execute(sql.SQL("COMMENT ON COLUMN {t}.{c} IS {comment}").format(**names))
            elif g.before != g.type:
                conn.execute("SET LOCAL DateStyle = 'ISO, YMD'")
                change = sql.SQL("ALTER TABLE {t} ALTER COLUMN {c} TYPE {type} USING {c}::text::{type}")
                conn.execute(change.format(**names))


# --- the staging table: gained columns are text in it, and cast when the whole file was read ---

_STAGE = sql.Identifier("importer_stage")


def prepare_stage(conn: psycopg.Connection, columns: Sequence[str], have: Sequence[str]) -> None:
    """Add these columns to the staging table as text. ``have`` are columns that it has already, of any type."""
    for column in columns:
        change = "ALTER COLUMN {} TYPE text" if column in have else "ADD COLUMN {} text"
        conn.execute(sql.SQL("ALTER TABLE {} " + change).format(_STAGE, sql.Identifier(column)))


def cast_stage(conn: psycopg.Connection, planned: Sequence[Grown]) -> None:
    """Cast the staging table's columns to the types of the table."""
    for g in planned:
        if g.type != TEXT:
            conn.execute(
                sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {} USING {}::{}").format(
                    _STAGE,
                    sql.Identifier(g.column),
                    sql.SQL(g.type),
                    sql.Identifier(g.column),
                    sql.SQL(g.type),
                )
            )
