"""Creates and updates the ledger's tables, and says whether they fit this version of the importer.

What does not belong here: the migrations themselves (``migrations/versions``),
what is in the tables (``ledger/loads.py``, ``ledger/queries.py``).
"""

from __future__ import annotations

import psycopg

from importer_dagster.errors import WarehouseError
from importer_dagster.transactions import autocommit
from importer_dagster.warehouse import SETUP_LOCK, Warehouse

LATEST_REVISION = "0011"


def migrate(warehouse: Warehouse) -> None:
    """Bring schema ``importer`` to the latest revision; one short query if it is there already.

    Several processes may call it at once: an advisory lock lets one migrate at a time. Raises
    WarehouseError for a ledger that a newer importer has made.
    """
    if "ledger" in warehouse.prepared:
        return
    with warehouse.connect() as conn:
        with autocommit(conn):
            is_latest = _revision(conn) == LATEST_REVISION
        if not is_latest:
            # a lock of the session, since alembic uses a connection and transaction of its own
            conn.execute("SELECT pg_advisory_lock(%s, 0)", (SETUP_LOCK,))
            conn.commit()
            if _revision(conn) != LATEST_REVISION:
                _run_alembic(warehouse)
    warehouse.prepared.add("ledger")


def row_secret(conn: psycopg.Connection, warehouse: Warehouse) -> bytes:
    """The key of the hashes of rows in a warehouse; asked for once in a process."""
    if warehouse.row_secret is None:
        row = conn.execute("SELECT secret FROM importer.row_secret").fetchone()
        if row is None:
            raise WarehouseError(
                "Table importer.row_secret is empty. Give it a new secret: INSERT INTO importer.row_secret VALUES "
                "(sha256(gen_random_uuid()::text::bytea)). All rows are then compared in full once."
            )
        warehouse.row_secret = bytes(row[0])
    return warehouse.row_secret


def is_current(conn: psycopg.Connection) -> bool:
    """Whether the ledger is of this version of the importer."""
    return _revision(conn) == LATEST_REVISION


def is_usable(conn: psycopg.Connection) -> bool:
    """Whether there is a ledger, for a caller that must not create it.

    Raises WarehouseError where it is of another version of the importer.
    """
    revision = _revision(conn)
    if revision not in (None, LATEST_REVISION):
        raise WarehouseError(
            "The ledger (schema importer) is of another version of the importer. `importer status` brings an older "
            "one up to date, as any import does."
        )
    return revision is not None


def _revision(conn: psycopg.Connection) -> str | None:
    if conn.execute("SELECT to_regclass('importer.schema_version')").fetchone() == (None,):
        return None
    row = conn.execute("SELECT version_num FROM importer.schema_version").fetchone()
    return row[0] if row else None


def _run_alembic(warehouse: Warehouse) -> None:
    """Run the migrations in one transaction. Alembic is imported late: that takes 0.3 s and is seldom needed."""
    import sqlalchemy as sa
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "importer_dagster.ledger:migrations")
    url = warehouse.url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except sa.exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from None
        raise
    except CommandError:  # this importer has no such revision
        raise WarehouseError(
            "The ledger (schema importer) was made by a newer version of the importer than this one. "
            "Update this one."
        ) from None
