"""The gate: whether a delivery that can be read is also plausible, decided before it is in force.

It compares counts, and where the type asks for it the rows in the staging table, in the load's own transaction.
A type that declares no gate pays nothing.

What does not belong here: the options (``spec/policy.py``), and what becomes of a
held load (``operations/release.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import psycopg
from psycopg import sql

from importer_dagster.errors import RefusedError
from importer_dagster.ledger import queries
from importer_dagster.model import Delivery, Finding
from importer_dagster.spec.fields import ForeignKey
from importer_dagster.spec.policy import Action, ReferencesGate, RowsGate
from importer_dagster.spec.table import TableSpec
from importer_dagster.writer.references import CANNOT_LOOK, dangling
from importer_dagster.writer.target import Name, Target, column_list

_STAGE = sql.Identifier("importer_stage")
_ENOUGH = 3  # earlier deliveries that are needed to know what is usual


@dataclass(frozen=True)
class Figures:
    """Counts of records, known when the last one has been read."""

    read: int
    rejected: int

    @property
    def accepted(self) -> int:
        """Records that would be loaded."""
        return self.read - self.rejected


def needs_stage(spec: TableSpec) -> bool:
    """Whether rows must stay in a staging table until the gate has decided."""
    gate = spec.gate
    actions = [g.action for g in (gate.rows, gate.rejects) if g] + [gate.empty]
    return "hold" in actions or bool(gate.unique) or gate.references is not None


def repeats(conn: psycopg.Connection, spec: TableSpec) -> tuple[Finding, ...]:
    """Keys that come more than once in the staging table; to be called before duplicates are taken out."""
    return tuple(f for rule in spec.gate.unique for f in _repeats_of(conn, spec, rule.fields, rule.action))


def _repeats_of(
    conn: psycopg.Connection, spec: TableSpec, fields: Sequence[str], action: Action
) -> Iterator[Finding]:
    columns = [spec.field(name).column for name in fields]
    query = sql.SQL(
        """
        SELECT coalesce(sum(n - 1), 0), min(shown) FROM (
            SELECT count(*) AS n, concat_ws(', ', {columns}) AS shown FROM importer_stage
            WHERE {present} GROUP BY {columns} HAVING count(*) > 1) AS repeated
        """
    ).format(
        columns=column_list(columns),
        present=sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(Name(c)) for c in columns),
    )
    more, shown = conn.execute(query, {}).fetchone() or (0, None)
    if more:
        names = ", ".join(fields)
        yield Finding(
            "unique", action, f"{more} records repeat the {names} of an earlier one, such as {shown}"
        )


def judge(
    conn: psycopg.Connection,
    target: Target,
    delivery: Delivery,
    figures: Figures,
    *,
    prior: int | None,
) -> tuple[Finding, ...]:
    """What the gate objects to, apart from :func:`repeats`. The ledger must exist. ``prior`` is the load to replace."""
    gate = target.spec.gate
    found: list[Finding] = []
    if figures.accepted == 0:
        found += _empty(conn, target, delivery, prior)
    if gate.rows:
        found += _rows(conn, delivery, gate.rows, figures.read, prior)
    if gate.rejects and (too_many := gate.rejects.exceeded(figures.rejected, figures.read)):
        found.append(Finding("rejects", gate.rejects.action, too_many))
    if gate.references:
        for key in target.spec.tableschema.foreignKeys:
            found += _dangling(conn, target, key, gate.references, figures.accepted)
    return tuple(found)


def decide(findings: Sequence[Finding]) -> bool:
    """Whether to hold the delivery. Raises RefusedError where it is to be refused."""
    refusing = [f for f in findings if f.action == "refuse"]
    if refusing:
        raise RefusedError(
            f"The gate refuses it: {words(refusing)}. Ask the supplier, or change `gate` in the spec.",
            rule=f"gate.{refusing[0].rule}",
        )
    return any(f.action == "hold" for f in findings)


def words(findings: Sequence[Finding]) -> str:
    """Findings in one line, each with its rule."""
    return "; ".join(f"{f.detail} (gate.{f.rule})" for f in findings)


# --- empty --------------------------------------------------------------------------------


def _empty(
    conn: psycopg.Connection, target: Target, delivery: Delivery, prior: int | None
) -> Iterator[Finding]:
    """Not one good record: as declared, else where that would empty the table."""
    declared = target.spec.gate.empty
    if declared == "load":
        return
    if declared is not None:
        yield Finding("empty", declared, "it has not one good record")
    elif target.spec.absence_deletes and _would_empty(conn, target, delivery, prior):
        yield Finding(
            "empty",
            "hold",
            "it has not one good record and would leave nothing of what the table holds; "
            "`gate: {empty: load}` in the spec allows that",
        )


def _would_empty(conn: psycopg.Connection, target: Target, delivery: Delivery, prior: int | None) -> bool:
    """Whether the day would count (none is newer, or history is kept) and has no other delivery with rows."""
    has_rows = sql.SQL("SELECT EXISTS (SELECT FROM {live} t WHERE {mine} AND t._business_date <= %(day)s)")
    values = {"tenant": delivery.tenant, "day": delivery.business_date}
    if conn.execute(has_rows.format(**target.names), values).fetchone() == (False,):
        return False
    newest = queries.newest_rank(conn, delivery.type, delivery.tenant, besides=prior)
    if newest and newest[0] > delivery.business_date and not target.has_history:
        return False
    return not queries.day_has_rows(conn, delivery, besides=prior)


# --- rows ---------------------------------------------------------------------------------


def _rows(
    conn: psycopg.Connection, delivery: Delivery, gate: RowsGate, read: int, prior: int | None
) -> Iterator[Finding]:
    if gate.least is not None and read < gate.least:
        yield Finding("rows", gate.action, f"{read} records are fewer than the {gate.least} it must have")
    earlier = queries.earlier_counts(conn, delivery, gate.over, besides=prior)
    if len(earlier) < min(gate.over, _ENOUGH):
        return
    usual, (low, high) = median(earlier), gate.band
    if not low * usual <= read <= high * usual:
        of = f"{read / usual:.2f} times" if usual else "more than"
        yield Finding(
            "rows",
            gate.action,
            f"{read} records are {of} the usual {usual:g} (the median of the {len(earlier)} deliveries before); "
            f"{low:g} to {high:g} times is allowed",
        )


# --- references ---------------------------------------------------------------------------


def _dangling(
    conn: psycopg.Connection, target: Target, key: ForeignKey, gate: ReferencesGate, rows: int
) -> Iterator[Finding]:
    try:
        found = dangling(conn, target.spec, key, schema=target.schema, rows=_STAGE)
    except CANNOT_LOOK as error:
        resource = key.reference.resource or target.spec.name
        yield Finding("references", "warn", f"{resource} cannot be looked at: {error.diag.message_primary}")
        return
    if gate.too_many(found.rows, rows):
        yield Finding(
            "references",
            gate.action,
            f"{found.rows} records refer by {', '.join(key.fields)} to a row that {found.resource} does not have, "
            f"such as {found.example}",
        )
