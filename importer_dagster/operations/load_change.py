"""The steps that unload and release share: wait for a slot, look at the load again, commit or roll back.

What does not belong here: what is changed (``operations/unload.py``, ``operations/release.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg

from importer_dagster.ledger import queries
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.schema_evolution import with_gained
from importer_dagster.writer.tables import ensure_tables
from importer_dagster.writer.target import Target

HasTenant = Callable[[TableSpec], bool]  # whether the paths of a type name tenants
LoadRow = dict[str, Any]  # a row of importer.loads by column name


@contextmanager
def changing_load(
    load_id: int,
    check: Callable[[LoadRow], None],
    specs: Mapping[str, TableSpec],
    warehouse: Warehouse,
    has_tenant: HasTenant,
    *,
    dry_run: bool,
) -> Iterator[tuple[psycopg.Connection, Target, LoadRow]]:
    """A connection that holds a slot, the tables of the load's type, and the load's row of the ledger.

    Commits at the end of the block; with ``dry_run`` rolls back. ``check`` raises UsageError
    for a load that cannot be changed. It is called before the wait for a slot and after it,
    since another session may have changed the load meanwhile.
    """
    ledger_schema.migrate(warehouse)
    with warehouse.connect() as conn:
        row = queries.get_load(conn, load_id)
        conn.rollback()
    check(row)
    spec = specs[row["type"]]
    target = Target(spec, has_tenant(spec), warehouse.schema)
    with warehouse.writing(row["type"], row["tenant"], size=row["bytes"]) as conn:
        ensure_tables(conn, warehouse, target)
        row = queries.get_load(conn, load_id)
        check(row)
        yield conn, with_gained(conn, target), row
        if dry_run:
            conn.rollback()
        else:
            conn.commit()
