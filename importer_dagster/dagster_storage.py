"""Dagster's own storage: dagster-postgres, with one open connection per process.

dagster-postgres opens a connection for every statement: some fifty per step,
which cost more than the step itself. Here each process keeps one and opens
further ones only while several threads need them at once.

What does not belong here: where the database is (``instance.py``).
"""

from collections.abc import Collection, Sequence

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.event_log import SqlEventLogStorage, SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.utils import pg_url_from_config

_RECYCLE_S = 300  # firewalls forget connections that are silent for long


class _EventLog(PostgresEventLogStorage):
    """Asks in a millisecond what Dagster finds out by reflecting the table, anew in each process."""

    def _has_asset_key_col_on_connection(self, conn: sa.Connection, column_name: str) -> bool:
        query = sa.text(
            "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('asset_keys')"
            " AND attname = :name AND NOT attisdropped)"
        )
        return bool(conn.scalar(query, {"name": column_name}))


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
        engine = sa.create_engine(
            postgres_url,
            isolation_level="AUTOCOMMIT",
            pool_size=1,
            max_overflow=-1,  # what is more is closed again after use
            pool_recycle=_RECYCLE_S,
            pool_pre_ping=True,  # a restart of the database goes unnoticed
        )
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
