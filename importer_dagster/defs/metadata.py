"""What an asset says of what it did: metadata, a preview, and checks.

All figures come from the ledger and are those of the loads in force, so that a
run which finds everything unchanged says the same as the run that loaded it.

What does not belong here: deciding anything.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import dagster as dg
import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from importer_dagster.defs.checks import ARRIVED
from importer_dagster.ledger import arrivals
from importer_dagster.ledger import rejects as ledger_rejects
from importer_dagster.ledger.arrivals import Missing
from importer_dagster.model import LoadResult
from importer_dagster.spec.fields import short_identifier
from importer_dagster.spec.table import ForeignKey, TableSpec
from importer_dagster.warehouse import Warehouse

PREVIEW_ROWS = 5
PREVIEW_REJECTS = 10
PREVIEW_COLUMNS = 12
CELL_LENGTH = 40  # enough to recognise a value; a preview is no copy of the data

_LIVE_SCHEMA = "public"


@dataclass(frozen=True)
class Account:
    """One day of one type: the loads in force, from the ledger, and what this run did.

    ``loads`` are rows of importer.loads; ``drift``, ``rejects`` and ``rows`` are
    the first ones only.
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


# "known": a declared alias or an order of columns that the delivery before had, too; on record, and no news.
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
    """The drift of deliveries as their imports found it, for days that are no good and have no account."""
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


def read_account(conn: psycopg.Connection, spec: TableSpec, results: Sequence[LoadResult]) -> Account:
    """The account of one day's good ``results``."""
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
    return Account(results, loads, drift, _first_rejects(conn, loads), _first_rows(conn, spec, ids))


def _first_rejects(conn: psycopg.Connection, loads: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    wanted = ("tenant", "line", "column_name", "value", "rule", "message")
    found: list[dict[str, Any]] = []
    for load in loads:
        room = PREVIEW_REJECTS - len(found)
        if room and load["rows_rejected"]:
            rejects = ledger_rejects.read(conn, load_id=load["load_id"], limit=room)
            found += [{name: reject[name] for name in wanted} for reject in rejects]
    return found


def _first_rows(conn: psycopg.Connection, spec: TableSpec, load_ids: Sequence[int]) -> list[dict[str, Any]]:
    columns = [f.column for f in spec.fields][:PREVIEW_COLUMNS]
    # shortened by the server, so that a cell of megabytes never travels
    statement = sql.SQL("SELECT {} FROM {} WHERE _load_id = ANY(%s) LIMIT %s").format(
        sql.SQL(", ").join(
            sql.SQL("left({}::text, {}) AS {}").format(
                sql.Identifier(c), sql.Literal(CELL_LENGTH + 1), sql.Identifier(c)
            )
            for c in columns
        ),
        sql.Identifier(_LIVE_SCHEMA, spec.name),
    )
    return conn.cursor(row_factory=dict_row).execute(statement, (list(load_ids), PREVIEW_ROWS)).fetchall()


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table, every cell cut to CELL_LENGTH.

    >>> print(markdown_table([{"a": 1, "b": "x|y"}]))
    | a | b |
    | --- | --- |
    | 1 | x\\|y |
    """
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    text = text[:CELL_LENGTH] + "…" if len(text) > CELL_LENGTH else text
    return " ".join(text.split()).replace("|", "\\|")


# --- checks ---------------------------------------------------------------------------


def check_results(
    spec: TableSpec,
    warehouse: Warehouse,
    accounts: Collection[Account],
    other_drift: Sequence[Mapping[str, Any]] = (),
) -> Iterator[dg.AssetCheckResult]:
    """One result for each check of the type; all warn at most, since the rows stand already.

    ``other_drift`` is that of deliveries without an account, such as refused ones.
    """
    rejected = sum(a.total("rows_rejected") for a in accounts)
    yield _result(
        spec,
        "rejects",
        rejected == 0,
        {"rows_rejected": rejected},
        [reject for a in accounts for reject in a.rejects][:PREVIEW_REJECTS],
    )
    yield drift_result(spec, [*other_drift, *(event for a in accounts for event in a.drift)])
    if spec.tableschema.foreignKeys:
        load_ids = [load_id for a in accounts for load_id in a.new_loads]
        missing, notes = _check_references(spec, warehouse, load_ids)
        yield _result(spec, "references", not missing, {"notes": "; ".join(notes)} if notes else {}, missing)


def missing_evaluation(name: str, missing: Sequence[Missing]) -> dg.AssetCheckEvaluation:
    """The check of a type of which files have not come in time, for the record outside of any run."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(name),
        check_name=ARRIVED,
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=_missing_metadata(missing),
    )


def arrived_result(spec: TableSpec, warehouse: Warehouse, since: date) -> dg.AssetCheckResult:
    """The same, of a step: what was reported missing and has still not come."""
    with warehouse.connect() as conn:
        missing = arrivals.still_missing(conn, since, [spec.name])
    return _result(spec, ARRIVED, not missing, _missing_metadata(missing), ())


def _missing_metadata(missing: Sequence[Missing]) -> dict[str, Any]:
    if not missing:
        return {}
    rows = [
        {"day": m.business_date, "tenant": m.tenant, "expected": f"{m.expected_at:%H:%M}", "what": m.detail}
        for m in missing[:PREVIEW_REJECTS]
    ]
    return {"missing": len(missing), "first": dg.MetadataValue.md(markdown_table(rows))}


def drift_result(spec: TableSpec, drift: Sequence[Mapping[str, Any]]) -> dg.AssetCheckResult:
    """Warns of every difference but those that are settled and go on; says what to do."""
    news = [event for event in drift if not event["known"]]
    hint = {"events": len(drift), **({"remedy": f"importer drift {spec.name}"} if news else {})}
    return _result(spec, "drift", not news, hint, drift[:PREVIEW_REJECTS])


def gate_result(
    spec: TableSpec, warehouse: Warehouse, results: Iterable[LoadResult]
) -> dg.AssetCheckResult | None:
    """Warns of what the gate objected to, unless a person decided; None where there is no gate."""
    if not spec.is_gated:
        return None
    ids = [r.load_id for r in results if r.load_id is not None]
    with warehouse.connect() as conn:
        found = (
            conn.cursor(row_factory=dict_row)
            .execute(
                """
                SELECT l.load_id AS load, l.status, g.rule, g.detail, l.decided_by AS "decided by"
                FROM importer.gate g JOIN importer.loads l USING (load_id)
                WHERE load_id = ANY(%s) ORDER BY l.decided_by IS NOT NULL, load_id LIMIT %s
                """,
                (ids, PREVIEW_REJECTS),
            )
            .fetchall()
        )
    held = [row["load"] for row in found if row["status"] == "held"]
    remedy = {"remedy": f"importer release {held[0]}, or importer refuse {held[0]}"} if held else {}
    return _result(spec, "gate", all(row["decided by"] is not None for row in found), remedy, found)


def _result(
    spec: TableSpec, name: str, passed: bool, metadata: dict[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dg.AssetCheckResult:
    if rows:
        metadata = {**metadata, "first": dg.MetadataValue.md(markdown_table(rows))}
    return dg.AssetCheckResult(
        asset_key=spec.name,
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=metadata,
    )


def _check_references(
    spec: TableSpec, warehouse: Warehouse, load_ids: Sequence[int]
) -> tuple[list[dict[str, Any]], list[str]]:
    """(references that lead nowhere, notes) of the rows of ``load_ids``."""
    missing: list[dict[str, Any]] = []
    notes: list[str] = []
    if not load_ids:
        return missing, ["no new rows"]
    with warehouse.connect() as conn:
        for key in spec.tableschema.foreignKeys:
            target = key.reference.resource or spec.name
            try:
                found = _orphans(conn, spec, key, target, load_ids)
            except psycopg.ProgrammingError as error:  # no such table or column, types that do not compare
                conn.rollback()
                notes.append(f"{target} cannot be looked at: {error.diag.message_primary}")
                continue
            if found[0]:
                missing.append(
                    {
                        "fields": ", ".join(key.fields),
                        "refers to": target,
                        "rows": found[0],
                        "such as": found[1],
                    }
                )
    return missing, notes


def _columns_of(conn: psycopg.Connection, table: str) -> set[str]:
    rows = conn.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        (sql.Identifier(_LIVE_SCHEMA, table).as_string(conn),),
    )
    return {row[0] for row in rows}


def _orphans(
    conn: psycopg.Connection,
    spec: TableSpec,
    key: ForeignKey,
    target: str,
    load_ids: Sequence[int],
) -> tuple[int, str | None]:
    """How many rows of ``load_ids`` refer to a row that ``target`` does not have, and one such value."""
    by_tenant = all("_tenant" in _columns_of(conn, table) for table in (spec.name, target))
    own = [sql.Identifier("t", spec.field(name).column) for name in key.fields]
    others = [sql.Identifier("r", short_identifier(name)) for name in key.reference.fields]
    pairs: list[sql.Composable] = [sql.SQL("{} = {}").format(o, t) for o, t in zip(others, own, strict=True)]
    if by_tenant:
        pairs.append(sql.SQL("r._tenant = t._tenant"))
    statement = sql.SQL(
        """
        SELECT count(*), min(concat_ws(', ', {own}))
        FROM {table} t
        WHERE t._load_id = ANY(%s) AND {present} AND NOT EXISTS (SELECT FROM {target} r WHERE {same})
        """
    ).format(
        own=sql.SQL(", ").join(own),
        table=sql.Identifier(_LIVE_SCHEMA, spec.name),
        present=sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(o) for o in own),
        target=sql.Identifier(_LIVE_SCHEMA, target),
        same=sql.SQL(" AND ").join(pairs),
    )
    row = conn.execute(statement, (list(load_ids),)).fetchone()
    assert row
    return row[0], row[1]
