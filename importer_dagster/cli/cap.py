"""``importer cap``: how many may write at once, shown and changed.

What does not belong here: how the cap is kept (``slots.py``).
"""

from __future__ import annotations

import click

from importer_dagster.cli.common import console, warehouse_of
from importer_dagster.errors import UsageError
from importer_dagster.settings import Settings


@click.command()
@click.argument("number", type=click.IntRange(1, 1000), required=False, metavar="[N]")
@click.option("--reset", is_flag=True, help="Let IMPORTER_DB_WRITES count again.")
def cap(number: int | None, reset: bool) -> None:
    """Show, or set to N, how many sessions may write to the warehouse at once.

    It counts for all processes at once, running ones too: raised, those who
    wait go on; lowered, nobody is interrupted, and slots go as they are given
    back. Until it is set, IMPORTER_DB_WRITES counts. The limit of Dagster's
    pool db_writes changes with it.

    \b
    Examples:
      importer cap             what it is, how many write and wait
      importer cap 2           two from now on
      importer cap --reset     as IMPORTER_DB_WRITES says
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
        _set_pool(settings)
    origin = "set by importer cap" if given else "IMPORTER_DB_WRITES"
    console.print(f"{effective} may write at once ({origin}); {writing} write, {waiting} wait.")


def _set_pool(settings: Settings) -> None:
    """Dagster's pool gets the same limit, which is what its UI shows."""
    from importer_dagster.launch.environment import prepare_environment

    prepare_environment(settings)
