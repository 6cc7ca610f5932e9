"""The results of an asset's checks: rejects, drift, references, files that did not come, the gate.

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
    """The results of the checks for rejects, drift and references.

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
        yield references_result(spec, warehouse, [load_id for a in accounts for load_id in a.new_loads])


def missing_evaluation(name: str, missing: Sequence[Missing]) -> dg.AssetCheckEvaluation:
    """The result of the check ``arrived``, to be recorded outside of a run: files that did not come in time."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(name),
        check_name=ARRIVED,
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=_missing_metadata(missing),
    )


def arrived_result(spec: TableSpec, warehouse: Warehouse, since: date) -> dg.AssetCheckResult:
    """The result of the check ``arrived`` in a step: files that were reported missing and have still not come."""
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
    """Warns of every difference that is not marked as known, and names the command to look at them."""
    news = [event for event in drift if not event["known"]]
    hint = {"events": len(drift), **({"remedy": f"importer drift {spec.name}"} if news else {})}
    return _result(spec, "drift", not news, hint, drift[:PREVIEW_REJECTS])


def gate_result(
    spec: TableSpec, warehouse: Warehouse, results: Iterable[LoadResult]
) -> dg.AssetCheckResult | None:
    """Warns of what the gate objected to, unless a person decided; None for a type without a gate."""
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


def references_result(spec: TableSpec, warehouse: Warehouse, load_ids: Sequence[int]) -> dg.AssetCheckResult:
    """Warns of references to rows that do not exist, in the rows of the loads ``load_ids``."""
    if not load_ids:
        return _result(spec, "references", True, {"notes": "no new rows"}, ())
    missing: list[dict[str, Any]] = []
    notes: list[str] = []
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
    return _result(spec, "references", not missing, {"notes": "; ".join(notes)} if notes else {}, missing)


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
