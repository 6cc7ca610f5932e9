"""The ``importer`` command, for work by hand beside the Dagster UI.

Exit codes: 0 done (loaded or unchanged), 1 a bug, 2 usage (arguments, settings,
specs), 3 refused or held, 4 the database or the source could not be reached.

What does not belong here: any logic that the assets need too (``pipeline/delivery.py``).
"""

from __future__ import annotations

import click

from importer_dagster import __version__
from importer_dagster.cli import cap, drift, gate, ledger, load, operate, prune, specs
from importer_dagster.cli.common import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="importer")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Import daily CSV deliveries into PostgreSQL.

    \b
    Examples:
      importer demo                                  a demonstration that takes two minutes
      importer dev                                   the Dagster UI, with the same database
      importer check salestaxrate --file new.csv     rehearse an import
      importer load salestaxrate new.csv --tenant acme --date 2024-01-31
      importer backfill --from 2024-01-01 --to 2024-01-31
    """


for _command in (
    load.load,
    load.check,
    ledger.status,
    ledger.rejects,
    ledger.unload,
    gate.held,
    gate.release,
    gate.refuse,
    drift.drift,
    specs.infer,
    specs.schema,
    cap.cap,
    prune.prune,
    operate.backfill,
    operate.demo,
    operate.dev,
):
    main.add_command(_command)
