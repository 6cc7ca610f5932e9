"""Specs, an inbox and databases for tests that import files."""

import datetime
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic.config import Config

from importer_dagster.launch.embedded import EmbeddedServer
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.operations import unload
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.reader.reader import open_delivery
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse

SHARED = Path(__file__).parents[3] / "shared" / "data"


DAY = datetime.date(2024, 1, 1)


def admin(server: EmbeddedServer) -> psycopg.Connection:
    return psycopg.connect(server.url("postgres"), autocommit=True)


def do_not_wait_for_the_disk(server: EmbeddedServer) -> None:
    """Switch fsync off: a database is made and dropped several times as fast, and no test crashes the machine."""
    with admin(server) as conn:
        for setting in ("fsync", "full_page_writes"):
            conn.execute(f"ALTER SYSTEM SET {setting} = off")
        conn.execute("SELECT pg_reload_conf()")


@contextmanager
def database(server: EmbeddedServer, template: str = "template1") -> Iterator[str]:
    """The URL of a new database, which is gone afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with admin(server) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.url(name)
    finally:
        with admin(server) as conn:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


Query = Callable[..., list[tuple]]


def make_spec(
    name: str = "things", fields: list | None = None, *, key: list | None = None, **more
) -> TableSpec:
    """A small spec; fields default to an integer, a text and an exact number."""
    fields = fields or [
        {"name": "id", "type": "integer"},
        {"name": "v"},
        {"name": "n", "type": "number", "precision": 8, "scale": 2},
    ]
    schema = {"fields": fields, **({"primaryKey": key} if key else {})}
    return TableSpec.model_validate({"name": name, "schema": schema, **more})


def migrate(warehouse: Warehouse, step: Callable[[Config, str], None], to: str) -> None:
    """Bring the ledger up (``alembic.command.upgrade``) or down to a revision."""
    config = Config()
    config.set_main_option("script_location", "importer_dagster.ledger:migrations")
    url = warehouse.url.replace("postgresql://", "postgresql+psycopg://", 1)
    with sa.create_engine(url, poolclass=sa.pool.NullPool).begin() as connection:
        config.attributes["connection"] = connection
        step(config, to)


class Inbox:
    """Writes files and imports them."""

    def __init__(self, folder: Path, warehouse: Warehouse) -> None:
        self.folder, self.warehouse = folder, warehouse

    def delivery(
        self,
        spec: TableSpec,
        content: str | bytes,
        *,
        path: str = "f.csv",
        day: datetime.date = DAY,
        tenant: str = "acme",
        has_tenant: bool = True,
    ) -> Delivery:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return Delivery(spec.name, tenant if has_tenant else "", day, path, str(file), has_tenant=has_tenant)

    def load(self, spec: TableSpec, content: str | bytes, **more) -> LoadResult:
        options = {k: more.pop(k) for k in ("force", "dry_run", "run_id") if k in more}
        delivery = self.delivery(spec, content, **more)
        return import_delivery(delivery, spec, warehouse=self.warehouse, **options)


def taken_out(inbox: Inbox, spec, load_id: int, **options) -> unload.Unloaded:
    return unload.unload(
        load_id, {spec.name: spec}, warehouse=inbox.warehouse, has_tenant=lambda _: True, **options
    )


def pipeline_reader(delivery, spec, **more):
    return open_delivery(delivery, spec, block_size=64, **more)
