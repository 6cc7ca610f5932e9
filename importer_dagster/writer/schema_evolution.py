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
from dataclasses import dataclass, field, replace

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from importer_dagster.arrays import try_cast
from importer_dagster.model import DriftEvent
from importer_dagster.spec.fields import TRACE_COLUMNS, short_identifier
from importer_dagster.warehouse import SETUP_LOCK
from importer_dagster.writer.column_backfill import MARK
from importer_dagster.writer.tables import Target, lock

TEXT = "text"
_BIGINT, _NUMERIC, _TIMESTAMP = "bigint", "numeric", "timestamp without time zone"
_MOST_COLUMNS = 1_590

# PostgreSQL type → what its values look like when PostgreSQL writes them
_WRITTEN = {
    "boolean": "true|false",
    _BIGINT: r"0|-?[1-9][0-9]{0,17}",
    _NUMERIC: r"(?:0|-?[1-9][0-9]{0,99}|-?(?:0|[1-9][0-9]{0,99})\.[0-9]{1,99})",
    "date": r"[1-9][0-9]{3}-[01][0-9]-[0-3][0-9]",
    _TIMESTAMP: r"[1-9][0-9]{3}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9](?:\.[0-9]{0,5}[1-9])?",
}
_CASTS = {"date": pa.date32(), _TIMESTAMP: pa.timestamp("us")}


@dataclass
class Evidence:
    """What the values of one column can be, over all of a file."""

    possible: list[str] = field(default_factory=lambda: list(_WRITTEN))
    seen: bool = False

    def add(self, cells: pa.Array) -> None:
        """Take in one batch of text."""
        cells = cells.drop_null()
        self.seen |= len(cells) > 0
        if len(cells) and self.possible:
            self.possible = [kind for kind in self.possible if _all_are(kind, cells)]

    @property
    def kind(self) -> str | None:
        """The type of the values; None if there were none."""
        return next(iter(self.possible), TEXT) if self.seen else None


def _all_are(kind: str, cells: pa.Array) -> bool:
    if not pc.all(pc.match_substring_regex(cells, rf"\A(?:{_WRITTEN[kind]})\z")).as_py():
        return False
    if kind == _NUMERIC:  # PostgreSQL has no negative zero
        return not pc.any(pc.match_substring_regex(cells, r"\A-0\.0+\z")).as_py()
    return kind not in _CASTS or try_cast(cells, _CASTS[kind]) is not None


def join(a: str | None, b: str | None) -> str | None:
    """The least type that holds the values of both."""
    if a is None or b is None or a == b:
        return a or b
    return _NUMERIC if {a, b} == {_BIGINT, _NUMERIC} else TEXT


# --- which columns ------------------------------------------------------------------------


def gained(conn: psycopg.Connection, target: Target) -> dict[str, str]:
    """Columns of the type's tables that the spec does not know, and their types, in the table's order."""
    return _ask_gained(conn, target)()


def _ask_gained(conn: psycopg.Connection, target: Target) -> Callable[[], dict[str, str]]:
    asked: psycopg.Cursor[tuple[str, str]] = conn.execute(
        """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod)
        FROM pg_attribute a
        JOIN pg_attribute s ON s.attname = a.attname AND s.attnum > 0 AND s.attrelid = to_regclass(%s)
        WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        ORDER BY a.attnum
        """,
        (target.superseded.as_string(conn), target.live.as_string(conn)),
    )
    known = {*(f.column for f in target.spec.fields), *TRACE_COLUMNS}
    return lambda: {name: type_ for name, type_ in asked.fetchall() if name not in known}


def with_gained(conn: psycopg.Connection, target: Target) -> Target:
    """``target`` with the columns that earlier deliveries brought, which every statement must carry along."""
    return ask_with_gained(conn, target)()


def ask_with_gained(conn: psycopg.Connection, target: Target) -> Callable[[], Target]:
    """The same in two steps, so that other statements may go along in a pipeline: ask, and see the answer."""
    asked = _ask_gained(conn, target)

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
    taken |= {name for name, type_ in have.items() if type_ not in (*_WRITTEN, TEXT)}
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
        found.append(Grown(column, join(known, kind) or TEXT, before))
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
