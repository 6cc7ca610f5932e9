"""Commands that show the ledger and undo a load: ``status``, ``rejects``, ``unload``.

What does not belong here: the queries (``ledger/queries.py``, ``ledger/rejects.py``) and how a load is
undone (``operations/unload.py``).
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import click
from rich.table import Table

from importer_dagster.cli.common import console, errors, person, plain, specs_of, warehouse_of
from importer_dagster.errors import ImporterError, UsageError
from importer_dagster.settings import Settings, lookback
from importer_dagster.spec.table import TableSpec

_NO_LOADS = {"last_success": None, "last_business_date": None, "deliveries": 0, "rows_loaded": 0,
             "rows_rejected": 0, "rows_unchanged": 0, "rows_skipped": 0, "refused": 0, "last_reason": None,
             "days_late": None, "held": 0}  # fmt: skip
# Columns of `importer status`: heading → key. The second ones are shown only if a row has a value.
_SHOWN = {"type": "type", "tenant": "tenant", "last day": "last_business_date", "days late": "days_late",
          "deliveries": "deliveries", "loaded": "rows_loaded", "rejected": "rows_rejected"}  # fmt: skip
_SHOWN_IF_ANY = {"refused": "refused", "held": "held", "to import": "to_import", "waiting": "waiting",
                 "missing": "missing", "why": "last_reason"}  # fmt: skip
_HIDDEN = ("_load_id", "_row", "_tenant", "_current", "_hash")  # columns of example rows that are not shown
_VALUE = 120  # characters of a value in a table of rejects


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object per type and tenant.")
def status(as_json: bool) -> None:
    """Show the last success, rows, rejects and lateness of every type and tenant.

    The columns "to import", "waiting" (for a file to be complete) and "missing"
    (expected by now) show the inbox of the last IMPORTER_LOOKBACK_DAYS days.

    \b
    Examples:
      importer status
      importer status --json
    """
    from importer_dagster.ledger import queries
    from importer_dagster.ledger import schema as ledger_schema

    settings = Settings.from_env()
    with warehouse_of(settings) as warehouse:
        ledger_schema.migrate(warehouse)
        with warehouse.connect() as conn:
            rows = _with_inbox(queries.status_rows(conn), conn, settings)
    if as_json:
        click.echo(json.dumps(rows, default=str, ensure_ascii=False))
        return
    if not rows:
        console.print("Nothing has been imported yet.")
        return
    shown = {**_SHOWN, **{k: c for k, c in _SHOWN_IF_ANY.items() if any(row[c] for row in rows)}}
    table = Table(*shown)
    for row in rows:
        cells = (row[column] for column in shown.values())
        table.add_row(*("" if c is None else plain(str(c)[:80]) for c in cells))
    console.print(table)


def _with_inbox(rows: list[dict[str, Any]], conn: Any, settings: Settings) -> list[dict[str, Any]]:
    """The rows with counts of the inbox by type and tenant; None if the inbox cannot be listed."""
    from importer_dagster.ledger import arrivals
    from importer_dagster.source.inbox import find_deliveries

    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    try:
        specs, now = specs_of(settings), datetime.now(ZoneInfo(settings.timezone))
        days = lookback(settings, now.date())
        listed = find_deliveries(
            settings.inbox_url,
            specs,
            default_path=settings.default_path,
            dates=days,
            min_age=settings.min_age,
        )
        found = arrivals.compare(conn, listed, specs)
        missing = arrivals.overdue(conn, specs, listed, days, now=now, timezone=settings.timezone)
        for what, things in (("to_import", found.wanted), ("waiting", found.waiting), ("missing", missing)):
            for thing in things:
                counts[thing.type, thing.tenant][what] += 1
    except ImporterError as error:
        errors.print(f"[yellow]The inbox cannot be listed:[/yellow] {plain(error)}", soft_wrap=True)
        return [{**row, "to_import": None, "waiting": None, "missing": None} for row in rows]
    known = {(row["type"], row["tenant"]): row for row in rows}
    for name, tenant in counts:
        known.setdefault((name, tenant), {"type": name, "tenant": tenant, **_NO_LOADS})
    none = Counter[str]()
    return [
        {**row, **{k: counts.get(key, none)[k] for k in ("to_import", "waiting", "missing")}}
        for key, row in sorted(known.items())
    ]


@click.command()
@click.argument("type_name", required=False, metavar="[TYPE]")
@click.option("--load", "load_id", type=int, metavar="ID", help="The rejects of one load.")
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV, to send it to the supplier.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="How many at most.")
def rejects(type_name: str | None, load_id: int | None, as_csv: bool, limit: int) -> None:
    """List rejected records, of a TYPE or of one load.

    \b
    Examples:
      importer rejects salestaxrate
      importer rejects --load 12 --csv > back-to-supplier.csv
    """
    from importer_dagster.ledger import queries
    from importer_dagster.ledger import rejects as ledger_rejects
    from importer_dagster.ledger import schema as ledger_schema

    settings = Settings.from_env()
    if type_name is None and load_id is None:
        raise UsageError("Name a TYPE, or a load with --load ID.")
    if type_name is not None:
        specs_of(settings)[type_name]
    with warehouse_of(settings) as warehouse:
        ledger_schema.migrate(warehouse)
        with warehouse.connect() as conn:
            if load_id is not None and (when := queries.get_load(conn, load_id)["rejects_pruned_at"]):
                errors.print(
                    f"The rejects of load {load_id} were deleted on {when:%Y-%m-%d} (IMPORTER_KEEP_REJECTS)."
                )
            rows = ledger_rejects.read(conn, load_id=load_id, type_name=type_name, limit=limit)
    if as_csv:
        names = ["load_id", "type", "tenant", "business_date", "path", "row", "line", "column_name", "value",
                 "rule", "message", "raw"]  # fmt: skip
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        print_rejects(rows)


def print_rejects(rows: Sequence[dict[str, Any]]) -> None:
    """Print rejects as a table; long values are cut off, messages are not, since they end with the remedy."""
    table = Table("row", "line", "column", "value", "rule", "message")
    for r in rows:
        value = str(r["value"] or "")
        shown = value if len(value) <= _VALUE else f"{value[:_VALUE]}…"
        cells = (r["row"], r["line"], r["column_name"], shown, r["rule"], r["message"])
        table.add_row(*("" if c is None else plain(c) for c in cells))
    console.print(table)


@click.command()
@click.argument("load_id", type=int)
@click.option("--dry-run", is_flag=True, help="Say what would change; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--reason", metavar="WHY", help="The reason, for the ledger.")
def unload(load_id: int, dry_run: bool, yes: bool, reason: str | None) -> None:
    """Take one delivery out again and restore what it replaced.

    \b
    Examples:
      importer unload 12 --dry-run
      importer unload 12 --reason "the supplier withdrew it"

    Exit codes: 0 done, 2 no such load or not in the tables, 4 the database is out of reach.
    """
    from importer_dagster.operations import unload as operations_unload
    from importer_dagster.source.path_patterns import names_tenants

    settings = Settings.from_env()
    specs = specs_of(settings)

    def has_tenant(spec: TableSpec) -> bool:
        return names_tenants(spec, settings.default_path)

    with warehouse_of(settings) as warehouse:
        if not dry_run and not yes and sys.stdin.isatty():
            plan = operations_unload.unload(
                load_id, specs, warehouse=warehouse, has_tenant=has_tenant, dry_run=True
            )
            _print_unloaded(plan, "would unload")
            click.confirm("Go on?", abort=True)
        done = operations_unload.unload(
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
        f"{verb} load {done.load_id}: {plain(done.path)} ({done.type}, {plain(done.tenant)}, {done.business_date}); "
        f"rows {done.before} → {done.after}",
        soft_wrap=True,
    )
    if done.restored is not None:
        console.print(f"  in force again: the earlier content of the same path, load {done.restored}")
    if done.note:
        console.print(f"  {plain(done.note)}", soft_wrap=True)
    print_changes(done.changes)


def print_changes(changes: Any) -> None:
    """Print how many rows of the table are removed, added and changed, and a few of them."""
    console.print(f"  {changes.gone} rows removed, {changes.back} added, {changes.changed} changed")
    signs = {"gone": "-", "back": "+", "changed": "~"}
    for change in changes.examples:
        before, after = change.before or {}, change.after or {}
        text = _row_text(before or after)
        if change.kind == "changed":
            text += " → " + _row_text({k: value for k, value in after.items() if before.get(k) != value})
        console.print(f"  {signs[change.kind]} {plain(text)}", soft_wrap=True)


def _row_text(row: dict[str, Any]) -> str:
    shown = ((k, v) for k, v in row.items() if v is not None and k not in _HIDDEN)
    return ", ".join(f"{k} = {str(v)[:40]}" for k, v in shown)
