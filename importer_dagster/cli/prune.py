"""``importer prune``: deletes what is older than the settings say.

What does not belong here: what may be deleted (``operations/retention.py``, ``operations/dagster_retention.py``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from importer_dagster.cli.common import console, specs_of, warehouse_of
from importer_dagster.settings import Settings


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be deleted; delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON array, one object for each kind of thing."
)
def prune(dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete what is older than the IMPORTER_KEEP_ settings say, from the ledger and Dagster's records.

    The job `retention` does the same every night. Rows that BI reads are never
    deleted, nor the records by which a file that is sent again is recognised.
    docs/operations.md lists the settings and the consequences of each.

    \b
    Examples:
      importer prune --dry-run                       what would be deleted, and how old it is
      importer prune --yes
      IMPORTER_KEEP_REJECTS=30 importer prune --dry-run

    Exit codes: 0 done, 2 a setting is wrong, 4 the database is out of reach.
    """
    settings = Settings.from_env()
    if not dry_run and not yes and sys.stdin.isatty():
        _print(_prune(settings, dry_run=True), dry_run=True)
        click.confirm("Go on?", abort=True)
    gone = _prune(settings, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps([asdict(g) | {"setting": g.setting} for g in gone], default=str))
    else:
        _print(gone, dry_run=dry_run)


def _prune(settings: Settings, *, dry_run: bool) -> list[Any]:
    from importer_dagster.launch.environment import dagster_records
    from importer_dagster.operations.dagster_retention import prune_dagster, prune_files
    from importer_dagster.operations.retention import prune as prune_warehouse
    from importer_dagster.source.path_patterns import names_tenants

    specs = specs_of(settings)
    with warehouse_of(settings) as warehouse:
        gone = prune_warehouse(
            warehouse,
            specs,
            settings.keep,
            has_tenant=lambda spec: names_tenants(spec, settings.default_path),
            dry_run=dry_run,
        )
        url, home = dagster_records(settings)
        gone += prune_dagster(url, settings.keep, dry_run=dry_run)
    return gone + prune_files(home, settings.keep, dry_run=dry_run)


def _print(gone: Sequence[Any], *, dry_run: bool) -> None:
    if not gone:
        console.print("Nothing is old enough to be deleted.")
        return
    table = Table(
        "what", "would be deleted" if dry_run else "deleted", "the oldest of", "kept for days", "setting"
    )
    for g in gone:
        oldest = f"{g.oldest:%Y-%m-%d}" if g.oldest else ""
        table.add_row(g.what, f"{g.count:,}", oldest, str(g.days) if g.keep else "", g.setting)
    console.print(table)
