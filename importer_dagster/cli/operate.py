"""Commands that run Dagster: ``backfill``, ``demo``, ``dev``.

What does not belong here: starting runs and servers (``launch/runs.py``).
"""

from __future__ import annotations

import sys
from datetime import date
from typing import Any

import click

from importer_dagster.cli.common import DAY, chosen_specs, console, errors, plain, specs_of
from importer_dagster.errors import UsageError
from importer_dagster.settings import Settings


@click.command()
@click.option("--from", "first", type=DAY, required=True, help="First business date.")
@click.option("--to", "last", type=DAY, required=True, help="Last business date.")
@click.argument("types", nargs=-1, metavar="[TYPE]...")
def backfill(first: date, last: date, types: tuple[str, ...]) -> None:
    """Run the daily job for a range of days now, through Dagster.

    \b
    Examples:
      importer backfill --from 2024-01-01 --to 2024-01-31
      importer backfill --from 2024-01-01 --to 2024-01-31 salestaxrate currency
    """
    if last < first:
        raise UsageError(f"--to {last} lies before --from {first}.")
    from importer_dagster.launch.runs import days_between, launch_daily

    settings = Settings.from_env()
    chosen = {s.name for s in chosen_specs(specs_of(settings), types)}
    console.print(f"{len(chosen)} types, {first} to {last}")

    def show(step: Any) -> None:
        mark = "[green]✓[/green]" if step.ok else "[red]✗[/red]"
        console.print(f"  {mark} {step.done}/{step.total} {step.type}")
        if step.error:
            console.print(f"      {plain(step.error)}", soft_wrap=True)

    result = launch_daily(settings, days_between(first, last), chosen, show)
    if not result.success:
        errors.print(f"[red]{len(result.failed)} steps failed;[/red] `importer status` says why.")
        sys.exit(3)


@click.command()
@click.option("--days", type=click.IntRange(1, 60), default=3, show_default=True, help="How many days.")
@click.option("--tenants", type=click.IntRange(1, 50), default=3, show_default=True, help="How many tenants.")
@click.option("--rows", type=click.IntRange(1), default=100, show_default=True, help="Rows in each file.")
def demo(days: int, tenants: int, rows: int) -> None:
    """Make a demo inbox and import it through Dagster; ends with a summary.

    \b
    Example:
      importer demo --days 2 --tenants 4 --rows 500
    """
    from importer_dagster.launch.demo import run_demo

    if not run_demo(Settings.from_env(), days=days, tenants=tenants, rows=rows, console=console):
        raise click.exceptions.Exit(1)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port to listen on."
)
def dev(host: str, port: int) -> None:
    """Open the Dagster UI and daemon on this project; Ctrl-C ends them.

    The database is the embedded one unless IMPORTER_WAREHOUSE_URL names another.
    """
    from importer_dagster.launch.runs import serve

    settings = Settings.from_env()
    specs_of(settings)
    sys.exit(serve(settings, host=host, port=port))
