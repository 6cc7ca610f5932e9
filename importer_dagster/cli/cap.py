"""``importer cap``: shows and sets how many sessions may write at once.

What does not belong here: how the cap is kept (``slots.py``).
"""

from __future__ import annotations

import click

from importer_dagster.cli.common import console, warehouse_of
from importer_dagster.errors import UsageError
from importer_dagster.settings import Settings


@click.command()
@click.argument("number", type=click.IntRange(1, 1000), required=False, metavar="[N]")
@click.option(
    "--reset", is_flag=True, help="Remove the cap that was set, so that IMPORTER_DB_WRITES counts again."
)
def cap(number: int | None, reset: bool) -> None:
    """Show, or set to N, how many sessions may write to the warehouse at once.

    The cap counts for all processes together, also for running ones. After it is
    raised, waiting writers go on at once; after it is lowered, nobody is interrupted.
    Until it is set, IMPORTER_DB_WRITES counts. The limit of Dagster's pool db_writes
    is set with it.

    \b
    Examples:
      importer cap             the cap, and how many sessions write and wait
      importer cap 2           two sessions from now on
      importer cap --reset     as many as IMPORTER_DB_WRITES says
    """
    from importer_dagster import slots
    from importer_dagster.ledger import schema as ledger_schema

    if number is not None and reset:
        raise UsageError("Give a number or --reset, not both.")
    settings = Settings.from_env()
    with warehouse_of(settings) as warehouse:
        ledger_schema.migrate(warehouse)
        with warehouse.connect() as conn:
            if number is not None or reset:
                slots.set_cap(conn, number)
                conn.commit()
            given = slots.get_cap(conn)
            writing, waiting = slots.counts(conn)
    effective = given or settings.db_writes
    if number is not None or reset:
        from importer_dagster.launch.environment import prepare_environment

        prepare_environment(settings)  # which sets the limit of Dagster's pool, too
    origin = "set by importer cap" if given else "IMPORTER_DB_WRITES"
    console.print(f"{effective} may write at once ({origin}); {writing} write, {waiting} wait.")
