"""What the parts of one run of ``importer prune`` share: what to keep, what was deleted, and the statements.

What does not belong here: deciding what goes (``operations/retention.py``, ``operations/row_retention.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from importer_dagster.settings import Keep, keep_variable
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.target import run_statement


@dataclass(frozen=True)
class Pruned:
    """How many things of one kind were deleted, or would be. ``oldest`` is when the oldest of them was made.

    ``keep`` is the field of Keep that decides it; None for things that nothing refers to.
    """

    what: str
    keep: str | None
    days: int
    count: int
    oldest: datetime | None = None

    @property
    def setting(self) -> str:
        """The environment variable that says for how long it is kept."""
        return keep_variable(self.keep) if self.keep else ""


@dataclass(frozen=True)
class RetentionPass:
    """One run over everything; with ``dry_run`` it only counts.

    ``pruned`` are loads whose rows it has deleted, ``deleted`` loads whose row of the ledger it
    has deleted. A dry run needs them to count what a real run would delete later on.
    """

    warehouse: Warehouse
    specs: Mapping[str, TableSpec]
    keep: Keep
    has_tenant: Callable[[TableSpec], bool]
    now: datetime
    dry_run: bool
    pruned: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)

    def before(self, kind: str) -> datetime | None:
        """What is older than this is deleted, by a field of Keep; None if it is kept for ever."""
        days = getattr(self.keep, kind)
        return self.now - timedelta(days=days) if days else None

    def result(self, what: str, kind: str, count: int = 0, oldest: datetime | None = None) -> Pruned:
        """The result for one kind of thing that a field of Keep decides."""
        return Pruned(what, kind, getattr(self.keep, kind), count, oldest)


def execute(
    conn: psycopg.Connection,
    name: str,
    *,
    names: Mapping[str, sql.Composable] | None = None,
    **values: Any,
) -> psycopg.Cursor:
    """Execute a statement of ``sql/retention.sql``."""
    return run_statement(conn, "retention", name, values, names)


def existing_table(
    conn: psycopg.Connection, schema_name: str, type_name: str
) -> dict[str, sql.Composable] | None:
    """The type's table in that schema, as the name ``table`` of a statement; None if there is no such table."""
    table = sql.Identifier(schema_name, type_name)
    exists = conn.execute("SELECT to_regclass(%s)", (table.as_string(conn),)).fetchone() != (None,)
    return {"table": table} if exists else None
