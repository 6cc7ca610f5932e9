"""The results of an asset's checks: rejects, drift, references, what has not arrived, the gate.

All of them warn at most, since the rows are in force already.

What does not belong here: which checks an asset has (``defs/assets.py``), the metadata of a materialization
(``defs/metadata.py``).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg
from psycopg import sql
from psycopg.rows import dict_row

from importer_dagster.defs.assets import ARRIVED
from importer_dagster.defs.metadata import PREVIEW_REJECTS, Account, markdown_table
from importer_dagster.ledger import arrivals
from importer_dagster.ledger.arrivals import Missing
from importer_dagster.model import LoadResult
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.references import CANNOT_LOOK, dangling


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
            resource = key.reference.resource or spec.name
            try:
                found = dangling(
                    conn,
                    spec,
                    key,
                    schema=warehouse.schema,
                    rows=sql.Identifier(warehouse.schema, spec.name),
                    where=sql.SQL("t._load_id = ANY(%(loads)s)"),
                    values={"loads": list(load_ids)},
                )
            except CANNOT_LOOK as error:
                notes.append(f"{resource} cannot be looked at: {error.diag.message_primary}")
                continue
            if found.rows:
                missing.append(
                    {
                        "fields": ", ".join(key.fields),
                        "refers to": resource,
                        "rows": found.rows,
                        "such as": found.example,
                    }
                )
    return missing, notes
