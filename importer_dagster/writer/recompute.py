"""merge and scd2: the rows of some keys worked out again from all deliveries that name them.

Done where a load is not simply the newest: late, corrected, released or unloaded. The result is the same as if
all deliveries had been loaded in the order of their business dates.

What does not belong here: when this is needed (``publish.py``, ``operations``), the statements (``sql/publish.sql``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import psycopg
from psycopg import sql

from importer_dagster.writer.target import Target, statements


class RunStatement(Protocol):
    """Runs a statement of ``sql/publish.sql`` for one load (:meth:`Publisher.run`)."""

    def __call__(
        self, name: str, values: dict[str, object] | None = None, **names: sql.Composable
    ) -> psycopg.Cursor:
        """Fill in ``names``, bind ``values`` and those of the load."""


def find_keys(run: RunStatement, target: Target, touched: Sequence[int | None]) -> None:
    """Note the keys that the staged rows and the loads ``touched`` concern, for :func:`recompute_keys`."""
    and_absent: sql.Composable = sql.SQL("")
    if target.has_history and target.spec.absence_closes:
        and_absent = sql.SQL(statements("publish")["and_absent"]).format(**target.names)
    run("recompute_find_keys", {"touched": list(touched)}, and_absent=and_absent)


def recompute_keys(run: RunStatement, target: Target) -> tuple[int, int, int]:
    """Write the rows of the keys found anew; of the load's own rows: (loaded, unchanged, skipped)."""
    [frozen] = run("recompute_frozen").fetchone() or (None,)
    values = {"frozen": frozen}
    # of the table that BI reads: what is not told by versions alone (retention)
    and_thawed = sql.SQL(statements("publish")["and_thawed"] if target.has_history else "")
    claims = f"claims_{target.spec.write_disposition}"
    for step in ("versions", "repeated", "said", claims, "sent_again"):
        run(f"recompute_{step}", values, and_thawed=and_thawed)
    run("recompute_clear", values, table=target.live, and_thawed=and_thawed)
    run("recompute_clear", values, table=target.superseded, and_thawed=sql.SQL(""))
    run("drop_repeats", gone=sql.Identifier("importer_repeated"))
    for place, history in (("live", target.has_history), ("superseded", False)):
        run(
            "recompute_rows",
            {**values, "place": place},
            into=target.names[place],
            valid_to=sql.SQL(", _valid_to" if history else ""),
            g_valid_to=sql.SQL(", g.valid_to" if history else ""),
        )
    run("recompute_repeats", values)
    loaded, unchanged, skipped = run("recompute_counts", values).fetchone() or (0, 0, 0)
    return loaded, unchanged, skipped
