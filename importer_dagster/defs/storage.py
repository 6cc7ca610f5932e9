"""Dagster's own storage: dagster-postgres, with one open connection per process.

dagster-postgres opens a connection for every statement: some fifty per step,
which cost more than the step itself. Here each process keeps one and opens
further ones only while several threads need them at once. What dagster-postgres
says to the database besides is left out where nobody hears it.

What does not belong here: where the database is (``launch/environment.py``).
"""

import selectors
import time
from collections.abc import Collection, Sequence
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqlEventLogStorage, SqlEventLogStorageTable
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.utils import pg_url_from_config

_RECYCLE_S = 300  # firewalls forget connections that are silent for long
_TRUSTED_S = 1.0  # so long a connection is taken to be whole unless its socket says otherwise


class _EventLog(PostgresEventLogStorage):
    """Stores the same as Dagster's, with fewer statements."""

    _has_checks = False

    @property
    def supports_asset_checks(self) -> bool:
        """As Dagster's, which looks for the table at every result of a check, and compiles a long query for it."""
        if not self._has_checks:
            with self.index_connection() as conn:
                query = sa.text("SELECT to_regclass(:name) IS NOT NULL")
                self._has_checks = bool(conn.scalar(query, {"name": AssetCheckExecutionsTable.name}))
        return self._has_checks

    def store_event(self, event: EventLogEntry) -> None:
        """As Dagster's without its NOTIFY, to which no process has listened for years: a round trip each."""
        columns = SqlEventLogStorageTable.c
        with self._connect() as conn:
            event_id = conn.execute(self.prepare_insert_event(event).returning(columns.id)).scalar_one()
        kind = event.dagster_event_type if event.is_dagster_event else None
        if kind in ASSET_EVENTS and event.get_dagster_event().asset_key:
            with self.index_transaction() as conn:
                self._store_asset_event_tags(conn, [event], [event_id])
                self._store_asset_event(conn, event, event_id)
        if kind in ASSET_CHECK_EVENTS:
            self.store_asset_check_event(event, event_id)

    def _has_asset_key_col_on_connection(self, conn: sa.Connection, column_name: str) -> bool:
        """Asks in a millisecond what Dagster finds out by reflecting the table, anew in each process."""
        query = sa.text(
            "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('asset_keys')"
            " AND attname = :name AND NOT attisdropped)"
        )
        return bool(conn.scalar(query, {"name": column_name}))


_prepared: dict[str, sa.Engine] = {}


def prepare(url: str) -> None:
    """Make what the storage at ``url`` needs, for processes forked from this one. Connects to nothing."""
    _prepared[url] = _engine(url)


def _engine(url: str) -> sa.Engine:
    """An engine that keeps a connection.

    A connection that was used a moment ago is asked whether it is whole only if its socket
    has something to say, as it has once the server has closed it. SQLAlchemy's ``pool_pre_ping``
    asks before each statement, which doubles the round trips.
    """
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=1,
        max_overflow=-1,  # what is more is closed again after use
        pool_recycle=_RECYCLE_S,
    )
    sa.event.listen(engine, "checkin", _used)
    sa.event.listen(engine, "checkout", _ensure_whole)
    return engine


def _used(dbapi_connection: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _ensure_whole(dbapi_connection: Any, record: Any, proxy: Any) -> None:
    """Have SQLAlchemy open another connection if this one was lost: a restart of the database goes unnoticed."""
    used = record.info.get("used")
    if used is None:  # it was opened just now
        return
    try:
        if time.monotonic() - used <= _TRUSTED_S and not _has_something_to_say(dbapi_connection):
            return
        with dbapi_connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except dbapi_connection.Error as error:
        raise sa.exc.DisconnectionError from error


def _has_something_to_say(dbapi_connection: Any) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(dbapi_connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


class KeepingPostgresStorage(DagsterPostgresStorage):
    """Named in dagster.yaml; takes the same settings as ``storage: postgres``."""

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data)
        self._event_log_storage = _EventLog(postgres_url, should_autocreate_tables=False)
        engine = _prepared.pop(postgres_url, None) or _engine(postgres_url)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engine

    @classmethod
    def from_config_value(cls, inst_data, config_value):  # type: ignore[no-untyped-def]  # noqa: D102
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data,
        )


def materialized(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey], partitions: Collection[str]
) -> set[tuple[dg.AssetKey, str]]:
    """Which of ``partitions`` each asset has: ``get_materialized_partitions`` of all, in two queries instead of two each."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    events = SqlEventLogStorageTable.c
    query = (
        sa.select(events.asset_key, events.partition)
        .where(
            events.asset_key.in_([key.to_string() for key in keys]),
            events.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            events.partition.in_(list(partitions)),
        )
        .distinct()
    )
    query = storage._add_assets_wipe_filter_to_query(query, storage._get_assets_details(keys), keys)
    with storage.index_connection() as conn:
        found = conn.execute(query).fetchall()
    by_text = {key.to_string(): key for key in keys}
    return {(by_text[text], partition) for text, partition in found}
