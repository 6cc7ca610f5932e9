"""What a command changes in the table that BI reads, for people: counts and a few rows.

The rows that may change are copied before and after, inside the transaction
that changes them, and compared.

What does not belong here: changing anything (``operations/unload.py``, ``operations/release.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
from psycopg import sql

from importer_dagster.writer.target import Name, Target, run_statement

EXAMPLES = 3  # of each kind

_TRACE = ["_load_id", "_row", "_business_date", "_hash"]


@dataclass(frozen=True)
class Change:
    """One row that is gone, back, or changed; ``before`` and ``after`` by column name."""

    kind: Literal["gone", "back", "changed"]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True)
class Changes:
    """How many rows vanish, come (back) and have other contents; the first few of each."""

    gone: int = 0
    back: int = 0
    changed: int = 0
    examples: tuple[Change, ...] = field(default=(), repr=False)


class Watch:
    """Looks at the rows concerned before and after.

    ``touched`` are the loads concerned. Of a merge or scd2 type the keys must be
    found already (``Publisher.find_keys``).
    """

    def __init__(
        self, conn: psycopg.Connection, target: Target, tenant: str, touched: Sequence[int | None]
    ) -> None:
        self.conn, self.target = conn, target
        self.values = {"tenant": tenant, "touched": list(touched), "trace": _TRACE, "most": EXAMPLES}
        self._snapshot("importer_before")

    def changes(self) -> Changes:
        """What is different by now."""
        self._snapshot("importer_after")
        self._run("compare", same_row=self._same_row())
        counts = self._run("count_changes").fetchone()
        assert counts
        gone, back, changed = counts
        return Changes(gone, back, changed, tuple(Change(*row) for row in self._run("examples")))

    def _snapshot(self, into: str) -> None:
        self._run("snapshot", into=sql.Identifier(into), concerned=self._concerned())

    def _concerned(self) -> sql.Composable:
        if self.target.is_keyed:
            return sql.SQL("EXISTS (SELECT FROM importer_keys g WHERE {same_key})").format(
                **self.target.names
            )
        if self.target.spec.write_disposition == "replace":
            return sql.SQL("TRUE")
        return sql.SQL("t._load_id = ANY(%(touched)s)")

    def _same_row(self) -> sql.Composed:
        """By key where the table has one row for each, else by the record in its file."""
        columns: tuple[str, ...] = ("_load_id", "_row")
        if self.target.spec.primary_key and self.target.spec.write_disposition != "append":
            columns = (*self.target.key, *(("_business_date",) if self.target.has_history else ()))
        return sql.SQL(" AND ").join(sql.SQL("{} = {}").format(Name("b", c), Name("a", c)) for c in columns)

    def _run(self, name: str, **names: sql.Composable) -> psycopg.Cursor:
        return run_statement(self.conn, "undo", name, self.values, {**self.target.names, **names})
