"""A real PostgreSQL for every test: one embedded server, one database cloned from a template per test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from importer_dagster.launch.embedded import EmbeddedServer, ensure_server
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.command import Command
from importer_dagster_tests.helpers.inbox import SHARED, Inbox, Query, admin, database
from importer_dagster_tests.helpers.project import Project


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


@pytest.fixture(scope="session")
def _template(server: EmbeddedServer) -> str:
    with admin(server) as conn:
        conn.execute("CREATE DATABASE template_ledger")
    ledger_schema.migrate(Warehouse(server.url("template_ledger")))
    return "template_ledger"


@pytest.fixture
def database_url(server: EmbeddedServer, _template: str) -> Iterator[str]:
    with database(server, _template) as url:
        yield url


@pytest.fixture
def warehouse(database_url: str) -> Warehouse:
    return Warehouse(database_url, db_writes=4)


@pytest.fixture
def query(warehouse: Warehouse) -> Query:
    def run(statement: str, *values: object) -> list[tuple]:
        with warehouse.connect() as conn:
            return conn.execute(statement, values or None).fetchall()

    return run


@pytest.fixture
def inbox(tmp_path: Path, warehouse: Warehouse) -> Inbox:
    return Inbox(tmp_path, warehouse)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, _clean_environment: None) -> Iterator[Project]:
    before = dict(os.environ)
    project = Project(tmp_path_factory.mktemp("project"))
    yield project
    if project.environment.server is not None:
        project.environment.server.release()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def shared_warehouse(server, _template: str) -> Iterator[Warehouse]:
    """One database for many examples: each has a tenant of its own."""
    with database(server, _template) as url:
        yield Warehouse(url)


@pytest.fixture
def importer(tmp_path: Path, database_url: str) -> Command:
    return Command(tmp_path, database_url)
