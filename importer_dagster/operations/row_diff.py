"""Shows people what a command changes in the table that BI reads: counts and a few rows.

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
    """One row that the command removes (gone), adds (back) or changes; ``before`` and ``after`` by column name."""

    kind: Literal["gone", "back", "changed"]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True)
class Changes:
    """How many rows are removed (gone), added (back) and changed, with a few examples of each."""

    gone: int = 0
    back: int = 0
    changed: int = 0
    examples: tuple[Change, ...] = field(default=(), repr=False)


class RowDiff:
    """Compares the rows that a change concerns before and after it.

    The rows are copied when the object is made, so that must be before the change, and in
    its transaction. ``touched`` are the loads concerned. For a merge or scd2 type
    ``Publisher.find_keys`` must have been called.
    """

    def __init__(
        self, conn: psycopg.Connection, target: Target, tenant: str, touched: Sequence[int | None]
    ) -> None:
        self.conn, self.target = conn, target
        self.values = {"tenant": tenant, "touched": list(touched), "trace": _TRACE, "most": EXAMPLES}
        self._snapshot("importer_before")

    def changes(self) -> Changes:
        """The differences between the rows before and now."""
        self._snapshot("importer_after")
        target = self.target
        columns: tuple[str, ...] = ("_load_id", "_row")  # which row it is: the record of a file, or the key
        if target.spec.primary_key and target.spec.write_disposition != "append":
            columns = (*target.key, *(("_business_date",) if target.has_history else ()))
        pairs = (sql.SQL("{} = {}").format(Name("b", c), Name("a", c)) for c in columns)
        self._run("compare", same_row=sql.SQL(" AND ").join(pairs))
        counts = self._run("count_changes").fetchone()
        assert counts
        gone, back, changed = counts
        return Changes(gone, back, changed, tuple(Change(*row) for row in self._run("examples")))

    def _snapshot(self, into: str) -> None:
        concerned: sql.Composable = sql.SQL("t._load_id = ANY(%(touched)s)")
        if self.target.is_keyed:
            concerned = sql.SQL("EXISTS (SELECT FROM importer_keys g WHERE {same_key})").format(
                **self.target.names
            )
        elif self.target.spec.write_disposition == "replace":
            concerned = sql.SQL("TRUE")
        self._run("snapshot", into=sql.Identifier(into), concerned=concerned)

    def _run(self, name: str, **names: sql.Composable) -> psycopg.Cursor:
        return run_statement(self.conn, "undo", name, self.values, {**self.target.names, **names})
