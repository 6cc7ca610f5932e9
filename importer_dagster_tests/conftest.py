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
from importer_dagster_tests.helpers.inbox import (
    SHARED,
    Inbox,
    Query,
    admin,
    database,
    do_not_wait_for_the_disk,
)
from importer_dagster_tests.helpers.project import Project

# Files whose tests mostly wait, for Dagster's daemon or for other processes. One worker runs them one
# after another, while the other workers keep the processors busy.
_WAITING = (
    "harness/test_flood.py",
    "harness/test_overlap.py",
    "defs/test_catchup.py",
    "pipeline/test_back_pressure.py",
    "defs/test_missed_retries.py",
    "launch/test_embedded.py",
    "source/test_arrival.py",
)
# Files with tests or groups of 20 seconds and more. They begin early, the longest first: then no worker
# has a long test left when the others are done.
_LONG = (
    "defs/test_dagster.py",
    "base/test_roles.py",
    "defs/test_run_recovery.py",
    "defs/test_adventureworks.py",
    "operations/test_dagster_retention.py",
    "reader/test_property.py",
    "harness/test_crash.py",
    "pipeline/test_faults.py",
    "docs/test_gate_and_dispositions_pages.py",
    "operations/test_retention.py",
    "pipeline/test_order.py",
    "harness/test_soak.py",
    "base/test_tls.py",
    "pipeline/test_cpu.py",
    "writer/test_unchanged_filter.py",
    "harness/test_benchmarks.py",
    "launch/test_demo.py",
)


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "shared" in item.keywords and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="the real data in ../shared/data is not here"))
    if getattr(config.option, "loadgroup", False):
        _distribute(items)


def _distribute(items: list[pytest.Item]) -> None:
    """What ``make test`` gives to one worker as a whole, and in which order.

    Tests with a fixture that a module shares stay together, so that it is set up once. Any other
    test goes to the next free worker.
    """
    order = {name: number for number, name in enumerate((*_WAITING, *_LONG))}
    items.sort(key=lambda item: order.get(_file(item), len(order)))
    for item in items:
        fixtures = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 - pytest has no public name for it
        shared = [name for name, found in fixtures.items() if found[-1].scope == "module"]
        if _file(item) in _WAITING:
            item.add_marker(pytest.mark.xdist_group("waiting"))
        elif set(shared) - {"shared_warehouse"}:  # which is quick to make
            item.add_marker(pytest.mark.xdist_group(_file(item)))


def _file(item: pytest.Item) -> str:
    """The test's file, below importer_dagster_tests."""
    return item.path.relative_to(Path(__file__).parent).as_posix()


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
    do_not_wait_for_the_disk(server)
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
    if project.environment.server is not None:
        do_not_wait_for_the_disk(project.environment.server)
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
