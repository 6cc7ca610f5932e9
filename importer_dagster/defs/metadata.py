"""The metadata of a materialization: figures of the ledger and a preview of the rows.

All figures are those of the loads in force, so that a run which finds everything
unchanged shows the same as the run that loaded it.

What does not belong here: the results of checks (``defs/checks.py``), decisions about deliveries.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from importer_dagster.ledger import rejects as ledger_rejects
from importer_dagster.model import LoadResult
from importer_dagster.spec.table import TableSpec

PREVIEW_ROWS = 5
PREVIEW_REJECTS = 10
PREVIEW_COLUMNS = 12
CELL_LENGTH = 40  # enough to recognise a value; a preview is no copy of the data


@dataclass(frozen=True)
class Account:
    """One day of one type: the loads in force, from the ledger, and what this run did.

    ``loads`` are rows of importer.loads; ``drift``, ``rejects`` and ``rows`` are
    only the first ones.
    """

    results: Sequence[LoadResult]
    loads: Sequence[Mapping[str, Any]]
    drift: Sequence[Mapping[str, Any]] = field(default=())
    rejects: Sequence[Mapping[str, Any]] = field(default=())
    rows: Sequence[Mapping[str, Any]] = field(default=())

    def total(self, column: str) -> int:
        """Sum of a figure over the loads."""
        return sum(load[column] or 0 for load in self.loads)

    @property
    def new_loads(self) -> list[int]:
        """Loads that this run made."""
        return [r.load_id for r in self.results if r.status == "loaded" and r.load_id is not None]

    def metadata(self) -> dict[str, Any]:
        """Materialization metadata. Sizes in bytes, times in seconds."""
        seconds = sum(r.seconds for r in self.results)
        read_now = sum(r.rows_read for r in self.results if r.status == "loaded")
        metadata: dict[str, Any] = {
            "dagster/row_count": self.total("rows_loaded"),
            "dagster/size_bytes": self.total("bytes"),
            "rows_read": self.total("rows_read"),
            "rows_loaded": self.total("rows_loaded"),
            "rows_rejected": self.total("rows_rejected"),
            "rows_unchanged": self.total("rows_unchanged"),
            "rows_skipped": self.total("rows_skipped"),
            "seconds": round(seconds, 3),
            "rows_per_second": round(read_now / seconds) if seconds else 0,
            "files": len(self.loads),
            "files_unchanged": sum(r.status == "unchanged" for r in self.results),
            "tenants": ", ".join(sorted({load["tenant"] for load in self.loads} - {""})),
            "load_ids": ", ".join(str(load["load_id"]) for load in self.loads),
        }
        for name, rows in (("rejects", self.rejects), ("drift", self.drift), ("preview", self.rows)):
            if rows:
                metadata[name] = dg.MetadataValue.md(markdown_table(rows))
        return metadata


# "known": a declared alias, or an order of columns that the previous delivery had as well. It warns of nothing.
_DRIFT = """
    SELECT l.path, d.kind, d.column_name, d.detail,
           (d.declared OR d.kind = 'reordered') AND d.version IS NULL AND EXISTS (
               SELECT FROM importer.drift e
               WHERE (e.kind, e.column_name, e.detail) IS NOT DISTINCT FROM (d.kind, d.column_name, d.detail)
                 AND e.load_id = (
                   SELECT p.load_id FROM importer.loads p
                   WHERE p.type = l.type AND p.tenant = l.tenant AND p.status = 'loaded' AND p.superseded_by IS NULL
                     AND (p.business_date, p.path COLLATE "C") < (l.business_date, l.path COLLATE "C")
                   ORDER BY p.business_date DESC, p.path COLLATE "C" DESC LIMIT 1)) AS known
    FROM importer.drift d JOIN importer.loads l USING (load_id)
    WHERE load_id = ANY(%(ids)s) ORDER BY known, load_id LIMIT %(limit)s
"""


def drift_of(results: Iterable[LoadResult]) -> list[dict[str, Any]]:
    """The drift of deliveries as their imports found it, for days without an account since a delivery is bad."""
    return [
        {
            "path": r.delivery.path,
            "kind": e.kind,
            "column_name": e.column_name,
            "detail": e.detail,
            "known": False,
        }
        for r in results
        for e in r.drift
    ]


def read_account(
    conn: psycopg.Connection, spec: TableSpec, results: Sequence[LoadResult], *, schema: str
) -> Account:
    """The account of one day's good ``results``; ``schema`` is that of the type's table."""
    ids = [r.load_id for r in results if r.load_id is not None]
    rows = conn.cursor(row_factory=dict_row)
    loads = rows.execute(
        """
        SELECT load_id, tenant, path, bytes,
               rows_read, rows_loaded, rows_rejected, rows_unchanged, rows_skipped
        FROM importer.loads WHERE load_id = ANY(%s) ORDER BY load_id
        """,
        (ids,),
    ).fetchall()
    drift = rows.execute(_DRIFT, {"ids": ids, "limit": PREVIEW_REJECTS}).fetchall()
    wanted = ("tenant", "line", "column_name", "value", "rule", "message")
    rejects: list[dict[str, Any]] = []
    for load in loads:
        limit = PREVIEW_REJECTS - len(rejects)
        if limit and load["rows_rejected"]:
            for reject in ledger_rejects.read(conn, load_id=load["load_id"], limit=limit):
                rejects.append({name: reject[name] for name in wanted})
    columns = [f.column for f in spec.fields][:PREVIEW_COLUMNS]
    # the server shortens the cells, so that one of megabytes is never sent
    preview = sql.SQL("SELECT {} FROM {} WHERE _load_id = ANY(%s) LIMIT %s").format(
        sql.SQL(", ").join(
            sql.SQL("left({}::text, {}) AS {}").format(
                sql.Identifier(c), sql.Literal(CELL_LENGTH + 1), sql.Identifier(c)
            )
            for c in columns
        ),
        sql.Identifier(schema, spec.name),
    )
    return Account(results, loads, drift, rejects, rows.execute(preview, (ids, PREVIEW_ROWS)).fetchall())


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table, every cell cut to CELL_LENGTH.

    >>> print(markdown_table([{"a": 1, "b": "x|y"}]))
    | a | b |
    | --- | --- |
    | 1 | x\\|y |
    """

    def cell(value: Any) -> str:
        text = "" if value is None else str(value)
        text = text[:CELL_LENGTH] + "…" if len(text) > CELL_LENGTH else text
        return " ".join(text.split()).replace("|", "\\|")

    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)
