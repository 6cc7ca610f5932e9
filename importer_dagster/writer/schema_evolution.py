"""Columns that a table gains from its deliveries (``schema_contract.added: evolve``).

The spec does not know them, so the table itself remembers them and their types.
A type is taken only where PostgreSQL writes every value back just as it stood
in the files; so a column that later turns out to hold something else becomes
text with nothing changed, and the order of loading makes no difference:

    boolean, date, timestamp, bigint < numeric  < text

The column's type is the least one that holds the values of all loaded files.

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
from importer_dagster.writer.column_backfill import MARK
from importer_dagster.writer.tables import lock, table_columns_deferred
from importer_dagster.writer.target import Target

_MOST_COLUMNS = 1_590


# --- which columns ------------------------------------------------------------------------


def gained(conn: psycopg.Connection, target: Target) -> dict[str, str]:
    """Columns of the type's tables that the spec does not know, and their types, in the table's order."""
    return _gained_deferred(conn, target)()


def _gained_deferred(conn: psycopg.Connection, target: Target) -> Callable[[], dict[str, str]]:
    columns = table_columns_deferred(conn, target.live, also_in=target.superseded)
    known = {*(f.column for f in target.spec.fields), *TRACE_COLUMNS}
    return lambda: {name: type_ for name, type_ in columns().items() if name not in known}


def with_gained(conn: psycopg.Connection, target: Target) -> Target:
    """``target`` with the columns that earlier deliveries brought, which every statement must carry along."""
    return with_gained_deferred(conn, target)()


def with_gained_deferred(conn: psycopg.Connection, target: Target) -> Callable[[], Target]:
    """The same in two steps, so that other statements may go along in a pipeline: ask, and see the answer."""
    asked = _gained_deferred(conn, target)

    def answer() -> Target:
        found = tuple(asked())
        return replace(target, gained=found) if found else target

    return answer


def without_changes(target: Target, planned: Sequence[Grown]) -> Target:
    """``target`` without the columns that would change, for a rehearsal."""
    changed = {g.column for g in planned if g.type != g.before}
    return replace(target, gained=tuple(c for c in target.gained if c not in changed))


def growing(
    conn: psycopg.Connection, target: Target, header: Sequence[str], extras: Sequence[int]
) -> dict[int, str]:
    """Unknown columns of a header that can be columns of the table: position → column.

    The others (without a name, with that of a column of the importer's or of
    another type, more than a table can have) are for ``_extra``.
    """
    if not extras:
        return {}
    have = gained(conn, target)
    taken = {*(f.column for f in target.spec.fields), *TRACE_COLUMNS}
    taken |= {name for name, type_ in have.items() if type_ not in (*VALUE_PATTERNS, TEXT)}
    found: dict[int, str] = {}
    for i in extras:
        column = short_identifier(header[i])
        room = len(taken | {*have, *found.values(), column}) <= _MOST_COLUMNS
        if column and column not in taken and "\0" not in column and room:
            found[i] = column
    return found


# --- changing the tables --------------------------------------------------------------------


@dataclass(frozen=True)
class Grown:
    """One column after growing: its type, and the one it had before (None: it is new)."""

    column: str
    type: str
    before: str | None

    @property
    def words(self) -> str:
        """What happened, for people."""
        if self.before is None:
            return f"a column of the table since this delivery, as {self.type}"
        if self.before != self.type:
            return f"a column of the table; was {self.before}, is {self.type} from this delivery on"
        return f"a column of the table, as {self.type}"


def events(planned: Sequence[Grown]) -> list[DriftEvent]:
    """What is to be recorded: columns that are new or became wider."""
    changed = [g for g in planned if g.before != g.type]
    return [DriftEvent("retyped" if g.before else "evolved", g.column, g.words) for g in changed]


def reserve(conn: psycopg.Connection, target: Target) -> None:
    """Be the only one to change the type's tables, until the transaction ends.

    To be called before the transaction has touched the tables: two that have
    both read them, and both want to change them, would wait for each other.
    """
    conn.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (SETUP_LOCK, f"{target.spec.name}\ngrow"))


def plan(conn: psycopg.Connection, target: Target, kinds: Mapping[str, str | None]) -> list[Grown]:
    """What the columns become. ``kinds`` are the types that the delivery's own values have."""
    have = gained(conn, target)
    found = []
    for column, kind in kinds.items():
        before = have.get(column)
        known = (
            None if before == TEXT and kind not in (None, TEXT) and _empty(conn, target, column) else before
        )
        found.append(Grown(column, common_type(known, kind) or TEXT, before))
    return found


def grow(conn: psycopg.Connection, target: Target, planned: Sequence[Grown], origin: str) -> None:
    """Add or widen columns in the type's tables, in the caller's transaction, which has reserved that.

    The tables are locked for as long as the transaction lasts, and only if something changes.
    """
    if all(g.type == g.before for g in planned):
        return
    lock(conn, target, "ACCESS EXCLUSIVE")
    for g in planned:
        for table in (target.live, target.superseded):
            _change(conn, table, g, origin)


def _empty(conn: psycopg.Connection, target: Target, column: str) -> bool:
    """Whether no row has a value there, so that nothing is known of the type yet."""
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} IS NOT NULL)")
    tables = (target.live, target.superseded)
    return all(conn.execute(query.format(t, sql.Identifier(column))).fetchone() == (False,) for t in tables)


def _change(conn: psycopg.Connection, table: sql.Composable, grown: Grown, origin: str) -> None:
    column, type_ = sql.Identifier(grown.column), sql.SQL(grown.type)
    if grown.before is None:
        conn.execute(sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(table, column, type_))
        comment = f"{MARK}{origin}."
        conn.execute(sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(table, column, sql.Literal(comment)))
    elif grown.before != grown.type:
        conn.execute("SET LOCAL DateStyle = 'ISO, YMD'")
        conn.execute(
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {} USING {}::text::{}").format(
                table, column, type_, column, type_
            )
        )


# --- the stage: such columns come in as text, and are cast when the whole file is known -------

_STAGE = sql.Identifier("importer_stage")


def prepare_stage(conn: psycopg.Connection, columns: Sequence[str], have: Sequence[str]) -> None:
    """Give the stage these columns as text. ``have`` are those it has already, of whatever type."""
    for column in columns:
        change = "ALTER COLUMN {} TYPE text" if column in have else "ADD COLUMN {} text"
        conn.execute(sql.SQL("ALTER TABLE {} " + change).format(_STAGE, sql.Identifier(column)))


def cast_stage(conn: psycopg.Connection, planned: Sequence[Grown]) -> None:
    """Cast the stage's columns to the types of the table."""
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
