"""What the ledger says, and taking a load out again: ``status``, ``rejects``, ``unload``.

What does not belong here: the statements (``ledger.py``, ``undo.py``).
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.table import Table

from importer_dagster.cli.common import console, errors, person, plain, specs_of, warehouse_of
from importer_dagster.errors import UsageError
from importer_dagster.settings import Settings
from importer_dagster.spec import TableSpec

_UNSHOWN = ("_load_id", "_row", "_tenant", "_current")  # of rows shown as examples


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object per type and tenant.")
def status(as_json: bool) -> None:
    """Show the last success, rows, rejects and lateness of every type and tenant."""
    from importer_dagster import ledger

    with warehouse_of(Settings.from_env()) as warehouse:
        ledger.migrate(warehouse)
        with warehouse.connect() as conn:
            rows = ledger.status_rows(conn)
    if as_json:
        click.echo(json.dumps(rows, default=str, ensure_ascii=False))
        return
    table = Table(
        "type",
        "tenant",
        "last day",
        "days late",
        "deliveries",
        "loaded",
        "rejected",
        "refused",
        "held",
        "why",
    )
    for r in rows:
        cells = [r["type"], r["tenant"], r["last_business_date"], r["days_late"], r["deliveries"],
                 r["rows_loaded"], r["rows_rejected"], r["refused"], r["held"], (r["last_reason"] or "")[:80]]  # fmt: skip
        table.add_row(*("" if c is None else str(c).replace("[", r"\[") for c in cells))
    console.print(table if rows else "Nothing has been imported yet.")


@click.command()
@click.argument("type_name", required=False, metavar="[TYPE]")
@click.option("--load", "load_id", type=int, metavar="ID", help="The rejects of one load.")
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV, for the supplier.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="At most so many.")
def rejects(type_name: str | None, load_id: int | None, as_csv: bool, limit: int) -> None:
    """List rejected records, of a TYPE or of one load.

    \b
    Examples:
      importer rejects salestaxrate
      importer rejects --load 12 --csv > back-to-supplier.csv
    """
    from importer_dagster import ledger

    settings = Settings.from_env()
    if type_name is None and load_id is None:
        raise UsageError("Name a TYPE, or a load with --load ID.")
    if type_name is not None:
        specs_of(settings)[type_name]
    with warehouse_of(settings) as warehouse:
        ledger.migrate(warehouse)
        with warehouse.connect() as conn:
            if load_id is not None and (when := ledger.get_load(conn, load_id)["rejects_pruned_at"]):
                errors.print(
                    f"The rejects of load {load_id} were deleted on {when:%Y-%m-%d} (IMPORTER_KEEP_REJECTS)."
                )
            rows = ledger.load_rejects(conn, load_id=load_id, type_name=type_name, limit=limit)
    if as_csv:
        _write_csv(rows)
    else:
        print_rejects(rows)


def print_rejects(rows: Sequence[dict[str, Any]]) -> None:
    """Rejects as a table."""
    table = Table("row", "line", "column", "value", "rule", "message")
    for r in rows:
        cells = (r["row"], r["line"], r["column_name"], r["value"], r["rule"], r["message"])
        table.add_row(*("" if c is None else str(c).replace("[", r"\[")[:120] for c in cells))
    console.print(table)


def _write_csv(rows: Sequence[dict[str, Any]]) -> None:
    names = ["load_id", "type", "tenant", "business_date", "path", "row", "line", "column_name", "value",
             "rule", "message", "raw"]  # fmt: skip
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


@click.command()
@click.argument("load_id", type=int)
@click.option("--dry-run", is_flag=True, help="Say what would change; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", metavar="WHY", help="Why, for the ledger.")
def unload(load_id: int, dry_run: bool, yes: bool, reason: str | None) -> None:
    """Take one delivery out again and restore what it replaced.

    \b
    Examples:
      importer unload 12 --dry-run
      importer unload 12 --reason "the supplier withdrew it"

    Exit codes: 0 done, 2 no such load or not in the tables, 4 the database is out of reach.
    """
    from importer_dagster import undo
    from importer_dagster.source import names_tenants

    settings = Settings.from_env()
    specs = specs_of(settings)

    def has_tenant(spec: TableSpec) -> bool:
        return names_tenants(spec, settings.default_path)

    with warehouse_of(settings) as warehouse:
        if not dry_run and not yes and sys.stdin.isatty():
            plan = undo.unload(load_id, specs, warehouse=warehouse, has_tenant=has_tenant, dry_run=True)
            _print_unloaded(plan, "would unload")
            click.confirm("Go on?", abort=True)
        done = undo.unload(
            load_id,
            specs,
            warehouse=warehouse,
            has_tenant=has_tenant,
            dry_run=dry_run,
            by=person(),
            why=reason,
        )
    _print_unloaded(done, "would unload" if dry_run else "unloaded")


def _print_unloaded(done: Any, verb: str) -> None:
    console.print(
        f"{verb} load {done.load_id}: {done.path} ({done.type}, {done.tenant}, {done.business_date}); "
        f"rows {done.before} → {done.after}",
        soft_wrap=True,
    )
    if done.restored is not None:
        console.print(f"  in force again: the earlier content of the same path, load {done.restored}")
    if done.note:
        console.print(f"  {done.note}", soft_wrap=True)
    print_changes(done.changes)


def print_changes(changes: Any) -> None:
    """How many rows of the table vanish, come back and change, and a few of them."""
    console.print(f"  {changes.gone} rows vanish, {changes.back} come back, {changes.changed} change")
    signs = {"gone": "-", "back": "+", "changed": "~"}
    for change in changes.examples:
        console.print(f"  {signs[change.kind]} {plain(_change_words(change))}", soft_wrap=True)


def _change_words(change: Any) -> str:
    before, after = change.before or {}, change.after or {}
    if change.kind != "changed":
        return _row_words(before or after)
    different = {name: value for name, value in after.items() if before.get(name) != value}
    return f"{_row_words(before)} → {_row_words(different)}"


def _row_words(row: dict[str, Any]) -> str:
    shown = ((k, v) for k, v in row.items() if v is not None and k not in _UNSHOWN)
    return ", ".join(f"{k} = {str(v)[:40]}" for k, v in shown)
