"""A real PostgreSQL for every test: one embedded server, one database cloned from a template per test."""

import datetime
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.config import Config

from importer_dagster.launch.embedded import EmbeddedServer, ensure_server
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
DAY = datetime.date(2024, 1, 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared" in item.keywords and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="the real data in ../shared/data is not here"))


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """Settings of the person who runs the tests must not reach them."""
    saved = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith(("IMPORTER_", "DAGSTER_"))}
    yield
    os.environ.update(saved)


@pytest.fixture(scope="session")
def server(_clean_environment: None) -> Iterator[EmbeddedServer]:
    # not below pytest's own folder: another run of pytest by root takes the way to
    # it from the user that the server runs as
    home = Path(tempfile.mkdtemp(prefix="importer-tests-"))
    server = ensure_server(home)
    yield server
    server.release()
    shutil.rmtree(home, ignore_errors=True)


def admin(server: EmbeddedServer) -> psycopg.Connection:
    return psycopg.connect(server.url("postgres"), autocommit=True)


@pytest.fixture(scope="session")
def _template(server: EmbeddedServer) -> str:
    with admin(server) as conn:
        conn.execute("CREATE DATABASE template_ledger")
    ledger_schema.migrate(Warehouse(server.url("template_ledger")))
    return "template_ledger"


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


@pytest.fixture
def database_url(server: EmbeddedServer, _template: str) -> Iterator[str]:
    with database(server, _template) as url:
        yield url


@pytest.fixture
def warehouse(database_url: str) -> Warehouse:
    return Warehouse(database_url, db_writes=4)


Query = Callable[..., list[tuple]]


@pytest.fixture
def query(warehouse: Warehouse) -> Query:
    def run(statement: str, *values: object) -> list[tuple]:
        with warehouse.connect() as conn:
            return conn.execute(statement, values or None).fetchall()

    return run


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


@pytest.fixture
def inbox(tmp_path: Path, warehouse: Warehouse) -> Inbox:
    return Inbox(tmp_path, warehouse)
