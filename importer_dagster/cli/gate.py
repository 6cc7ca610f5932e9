"""Lists and decides held loads: ``held``, ``release``, ``refuse``.

What does not belong here: how they are decided (``operations/release.py``), and which loads are held
(``pipeline/gate.py``).
"""

from __future__ import annotations

import json
from typing import Any

import click
from rich.table import Table

from importer_dagster.cli.common import console, person, plain, specs_of, warehouse_of
from importer_dagster.cli.ledger import print_changes
from importer_dagster.settings import Settings

_dry_run = click.option("--dry-run", is_flag=True, help="Say what would change; change nothing.")
_reason = click.option("--reason", metavar="WHY", help="The reason, for the ledger.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object per load.")
def held(as_json: bool) -> None:
    """List deliveries that a gate holds, with the reasons, the oldest first.

    \b
    Examples:
      importer held
      importer held --json
    """
    from importer_dagster.ledger import queries
    from importer_dagster.ledger import schema as ledger_schema

    with warehouse_of(Settings.from_env()) as warehouse:
        ledger_schema.migrate(warehouse)
        with warehouse.connect() as conn:
            rows = queries.held_loads(conn)
    if as_json:
        click.echo(json.dumps(rows, default=str, ensure_ascii=False))
        return
    table = Table("load", "type", "tenant", "day", "path", "records", "rejected", "why")
    for r in rows:
        cells = (r["load_id"], r["type"], r["tenant"], r["business_date"], r["path"], r["rows_read"],
                 r["rows_rejected"], r["reason"])  # fmt: skip
        table.add_row(*(plain(c) for c in cells))
    console.print(table if rows else "Nothing is held.")


@click.command()
@click.argument("load_id", type=int)
@_dry_run
@_reason
def release(load_id: int, dry_run: bool, reason: str | None) -> None:
    """Load a held delivery, as its import would have done.

    \b
    Examples:
      importer release 12 --dry-run
      importer release 12 --reason "a holiday: fewer orders are right"

    Exit codes: 0 done, 2 no such load or not held, 4 the database is out of reach.
    """
    from importer_dagster.operations import release as operations_release
    from importer_dagster.source.path_patterns import names_tenants

    settings = Settings.from_env()
    specs = specs_of(settings)
    with warehouse_of(settings) as warehouse:
        done = operations_release.release(
            load_id,
            specs,
            warehouse=warehouse,
            has_tenant=lambda spec: names_tenants(spec, settings.default_path),
            dry_run=dry_run,
            by=person(),
            why=reason,
        )
    _print_decided(done, "would release" if dry_run else "released")
    counts = done.counts
    console.print(f"  {counts.loaded} loaded, {counts.unchanged} unchanged, {counts.skipped} skipped")
    print_changes(done.changes)


@click.command()
@click.argument("load_id", type=int)
@_dry_run
@_reason
def refuse(load_id: int, dry_run: bool, reason: str | None) -> None:
    """Drop a held delivery; the same content is refused from now on, unless loaded with --force.

    \b
    Examples:
      importer refuse 12 --dry-run
      importer refuse 12 --reason "the export was cut off"

    Exit codes: 0 done, 2 no such load or not held, 4 the database is out of reach.
    """
    from importer_dagster.operations import release as operations_release

    with warehouse_of(Settings.from_env()) as warehouse:
        done = operations_release.refuse(
            load_id, warehouse=warehouse, dry_run=dry_run, by=person(), why=reason
        )
    _print_decided(done, "would refuse" if dry_run else "refused")


def _print_decided(done: Any, verb: str) -> None:
    whose = ", ".join(map(str, filter(None, (done.type, done.tenant, done.business_date))))
    console.print(
        f"{verb} load {done.load_id}: {plain(done.path)} ({plain(whose)}); {done.rows} rows were held",
        soft_wrap=True,
    )
