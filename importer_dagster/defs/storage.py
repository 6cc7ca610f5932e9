"""Dagster's storage in PostgreSQL with one open connection per process, and :func:`materialized`.

dagster-postgres opens a connection for every statement, about fifty for each step. That costs more
than the step itself. Here a process keeps one connection and opens further ones only while several
threads need them at once.

``IMPORTER_STOCK_DAGSTER=1`` turns all of this off: dagster.yaml stays as it is, and Dagster gets its own storage.

What does not belong here: where the database is (``launch/environment.py``).
"""

import selectors
import time
from collections.abc import Collection, Sequence
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.utils import pg_url_from_config

from importer_dagster.settings import stock_dagster

_RECYCLE_S = 300  # firewalls forget connections that are silent for long
_TRUSTED_S = 1.0  # after its last use a connection is not tested for so long, unless its socket is readable


def pooled_engine(url: str) -> sa.Engine:
    """An engine that keeps one connection and replaces it if it was lost.

    A connection that was used less than ``_TRUSTED_S`` ago is tested only if its socket is readable,
    as it is once the server has closed it. SQLAlchemy's ``pool_pre_ping`` tests before each
    statement, which doubles the round trips.
    """
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=1,
        max_overflow=-1,  # further connections are closed again after use
        pool_recycle=_RECYCLE_S,
    )

    @sa.event.listens_for(engine, "checkin")
    def note_use(dbapi_connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def test(dbapi_connection: Any, record: Any, proxy: Any) -> None:
        """Raise DisconnectionError for a lost connection, so that SQLAlchemy opens another one."""
        used = record.info.get("used")
        if used is None:  # it was opened just now
            return
        try:
            if time.monotonic() - used <= _TRUSTED_S:
                with selectors.DefaultSelector() as selector:
                    selector.register(dbapi_connection.fileno(), selectors.EVENT_READ)
                    if not selector.select(0):
                        return
            with dbapi_connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except dbapi_connection.Error as error:
            raise sa.exc.DisconnectionError from error

    @sa.event.listens_for(engine, "do_execute")
    def skip_notify(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        """Whether a statement counts as executed: dagster-postgres' NOTIFY after each event, which nobody reads.

        Dagster keeps it for older releases of itself. It takes 8 of 72 ms for the 13 events of a step (medians).
        """
        return statement.startswith("NOTIFY ")

    return engine


class _EventLog(PostgresEventLogStorage):
    """Dagster's event log with a cheaper look for a column."""

    # Dagster's own reflects the whole table, in every new process: 23 ms of CPU a step against 2 ms with this query
    def has_asset_key_col(self, column_name: str) -> bool:
        """Whether the table asset_keys has this column."""
        query = sa.text(
            "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('asset_keys')"
            " AND attname = :name AND NOT attisdropped)"
        )
        with self.index_connection() as conn:
            return bool(conn.scalar(query, {"name": column_name}))


class KeepingPostgresStorage(DagsterPostgresStorage):
    """Named in dagster.yaml; takes the same settings as ``storage: postgres``."""

    def __init__(
        self, postgres_url: str, should_autocreate_tables: bool = True, inst_data: Any = None
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data)
        # Private to Dagster: its storages take no engine, and optimize_for_webserver, which is public,
        # makes a connection for each of the three.
        self._event_log_storage = _EventLog(postgres_url, should_autocreate_tables=False)
        engine = pooled_engine(postgres_url)
        for storage in (self.run_storage, self.event_log_storage, self.schedule_storage):
            storage._engine = engine  # type: ignore[union-attr]

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> Any:
        """Called by Dagster with what stands in dagster.yaml."""
        if stock_dagster():
            return DagsterPostgresStorage.from_config_value(inst_data, config_value)
        return cls(
            pg_url_from_config(config_value), config_value.get("should_autocreate_tables", True), inst_data
        )


def materialized(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey], partitions: Collection[str]
) -> set[tuple[dg.AssetKey, str]]:
    """Which of ``partitions`` each asset has.

    One query for all assets; the public ``get_materialized_partitions`` makes two for each asset.
    """
    if stock_dagster():
        return {(k, p) for k in keys for p in instance.get_materialized_partitions(k) if p in partitions}
    # a wiped asset keeps its events; those up to the wipe do not count
    query = sa.text(
        """
        SELECT DISTINCT e.asset_key, e.partition
        FROM event_logs e LEFT JOIN asset_keys k USING (asset_key)
        WHERE e.asset_key = ANY(:keys) AND e.partition = ANY(:partitions)
          AND e.dagster_event_type = 'ASSET_MATERIALIZATION'
          AND (k.asset_details IS NULL OR e.timestamp > coalesce(
                to_timestamp((k.asset_details::json ->> 'last_wipe_timestamp')::float8) AT TIME ZONE 'UTC',
                '-infinity'))
        """
    )
    values = {"keys": [key.to_string() for key in keys], "partitions": list(partitions)}
    # Private to Dagster: the connection and the two tables have no public interface.
    with instance.event_log_storage.index_connection() as conn:  # type: ignore[attr-defined]
        found = conn.execute(query, values).fetchall()
    by_text = {key.to_string(): key for key in keys}
    return {(by_text[text], partition) for text, partition in found}
