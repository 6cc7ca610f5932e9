"""What every command does before it touches Dagster: :func:`prepare_environment`.

It finds the warehouse and the database for Dagster's own records, and starts the embedded server where
either is not configured. It makes DAGSTER_HOME with the project's ``dagster.yaml``, the tables of Dagster's
storage and the limit of the pool. All of it goes into environment variables, for the processes that
Dagster starts. Addresses are in environment variables only: none is written to a file, and
none is logged with its password.

``python -m importer_dagster.launch.environment`` does just this, for machines
that run ``dagster-daemon`` and ``dagster-webserver`` as services.

What does not belong here: definitions of assets and jobs (``defs/``).
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from importer_dagster import slots
from importer_dagster.errors import ImporterError, UsageError, WarehouseError
from importer_dagster.launch.embedded import EmbeddedServer, ensure_server
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.redaction import redact
from importer_dagster.settings import POOL, Settings
from importer_dagster.warehouse import SETUP_LOCK, Warehouse, plain_url

log = logging.getLogger(__name__)

DAGSTER_SCHEMA = "dagster"  # where Dagster's tables are when they share the warehouse's database
PROJECT_ROOT = Path(__file__).parent.parent.parent

_exported: dict[str, str] = {}  # what this process put into the environment itself


@dataclass(frozen=True)
class Environment:
    """What was prepared; ``os.environ`` has it as well.

    ``settings.warehouse_url`` is never None. ``server`` is the embedded
    server if this process uses it for the warehouse.
    """

    settings: Settings = field(repr=False)
    dagster_url: str = field(repr=False)
    dagster_home: Path
    server: EmbeddedServer | None


def resolve_warehouse(settings: Settings) -> Settings:
    """``settings`` with the warehouse's URL; starts the embedded server where none is configured.

    A command that does not touch Dagster needs nothing else. Raises UsageError for
    an invalid URL, WarehouseUnavailable if the embedded server does not start.
    """
    if settings.warehouse_url is not None:
        return replace(settings, warehouse_url=plain_url(settings.warehouse_url))
    return replace(settings, warehouse_url=ensure_server(settings.home).url("warehouse"))


def prepare_environment(settings: Settings) -> Environment:
    """Make everything ready for Dagster and put it into the environment; quick when it is already.

    Raises UsageError, WarehouseUnavailable or WarehouseError naming the variable
    at fault.
    """
    server = ensure_server(settings.home) if settings.warehouse_url is None else None
    dagster_url = _dagster_url(settings)
    resolved = resolve_warehouse(settings)
    assert resolved.warehouse_url is not None
    home = _dagster_home(settings)
    _export(resolved, dagster_url, home)
    with Warehouse(resolved.warehouse_url).connect() as conn:
        cap = slots.get_cap(conn) if ledger_schema.is_current(conn) else None  # of `importer cap`
    _prepare_storage(dagster_url, cap or resolved.db_writes)
    log.debug("Warehouse %s, Dagster's storage %s", redact(resolved.warehouse_url), redact(dagster_url))
    return Environment(resolved, dagster_url, home, server)


def dagster_records(settings: Settings) -> tuple[str, Path]:
    """The URL of Dagster's storage, and its home; nothing is made there."""
    given = _given("DAGSTER_HOME")
    return _dagster_url(settings), Path(given).expanduser().resolve() if given else settings.home / "dagster"


# --- addresses --------------------------------------------------------------------


def _dagster_url(settings: Settings) -> str:
    """IMPORTER_DAGSTER_URL, else the warehouse's server, else the embedded one."""
    if given := _given("IMPORTER_DAGSTER_URL"):
        with _naming("IMPORTER_DAGSTER_URL"):
            return plain_url(given)
    if settings.warehouse_url is not None:
        if settings.warehouse_url == _exported.get("IMPORTER_WAREHOUSE_URL"):
            return _exported["IMPORTER_DAGSTER_URL"]  # settings that were prepared before
        return with_search_path(plain_url(settings.warehouse_url), DAGSTER_SCHEMA)
    return ensure_server(settings.home).url("dagster")


def with_search_path(url: str, schema: str) -> str:
    """``url`` such that unqualified names mean tables of ``schema``.

    >>> with_search_path("postgresql://h/db", "dagster")
    'postgresql://h/db?options=-csearch_path%3Ddagster'
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    query["options"] = f"{query.get('options', '')} -csearch_path={schema}".strip()
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


@contextmanager
def _naming(variable: str) -> Iterator[None]:
    """Make errors of the block speak of Dagster's storage, not of the warehouse."""
    try:
        yield
    except ImporterError as error:
        text = str(error).replace("IMPORTER_WAREHOUSE_URL", variable)
        raise type(error)(text.replace("The warehouse", "Dagster's storage")) from error


# --- DAGSTER_HOME and the environment ------------------------------------------------


def _dagster_home(settings: Settings) -> Path:
    """DAGSTER_HOME with a dagster.yaml in it: the user's own one, else a copy of the project's."""
    given = _given("DAGSTER_HOME")
    ours = settings.home / "dagster"
    home = Path(given).expanduser().resolve() if given else ours
    source, target = PROJECT_ROOT / "dagster.yaml", home / "dagster.yaml"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if home != ours and target.exists():
            return home
        if not source.exists():
            raise UsageError(
                f"The project's {source} is missing. Run the importer from its checkout, or set DAGSTER_HOME "
                "to a folder with a dagster.yaml of your own."
            )
        text = source.read_bytes()
        if not target.exists() or target.read_bytes() != text:
            # in one step, so that no other process reads half a file
            with tempfile.NamedTemporaryFile(dir=home, prefix=".dagster.yaml.", delete=False) as file:
                file.write(text)
            Path(file.name).replace(target)
    except OSError as error:
        raise UsageError(
            f"The Dagster home {home} cannot be used: {error}. Set IMPORTER_HOME (or DAGSTER_HOME) to a "
            "folder that may be written."
        ) from None
    return home


def _given(name: str) -> str | None:
    """A variable as the user set it; None where this process set it."""
    value = os.environ.get(name) or None
    return None if value == _exported.get(name) else value


def _export(settings: Settings, dagster_url: str, dagster_home: Path) -> None:
    assert settings.warehouse_url is not None
    _exported.update(
        {
            "IMPORTER_WAREHOUSE_URL": settings.warehouse_url,
            "IMPORTER_DAGSTER_URL": dagster_url,
            "IMPORTER_HOME": str(settings.home),
            "IMPORTER_INBOX_URL": settings.inbox_url,
            "IMPORTER_SPECS": str(settings.specs),
            "IMPORTER_DB_WRITES": str(settings.db_writes),
            "IMPORTER_PATH_PATTERN": settings.default_path,
            "IMPORTER_TIMEZONE": settings.timezone,
            "IMPORTER_START_DATE": settings.start_date.isoformat(),
            "IMPORTER_SCHEDULE": settings.schedule,
            "IMPORTER_LOOKBACK_DAYS": str(settings.lookback_days),
            "IMPORTER_PRUNE_SCHEDULE": settings.prune_schedule,
            "IMPORTER_STOCK_DAGSTER": str(int(settings.stock_dagster)),
            "DAGSTER_HOME": str(dagster_home),
        }
    )
    os.environ.update(_exported)
    # a step that stands for many days writes their events together
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "100")


# --- Dagster's storage ---------------------------------------------------------------


def _prepare_storage(url: str, db_writes: int) -> None:
    """Make Dagster's tables and set the pool's limit, one process at a time."""
    # late: importing Dagster takes a second
    from dagster_postgres import DagsterPostgresStorage
    from sqlalchemy.exc import SQLAlchemyError

    with _naming("IMPORTER_DAGSTER_URL"), Warehouse(url).connect() as conn:
        # held until the connection closes; Dagster itself takes no lock here
        conn.execute("SELECT pg_advisory_lock(%s, 1)", (SETUP_LOCK,))
        options = dict(parse_qsl(urlsplit(url).query)).get("options", "").split()
        has_schema = f"-csearch_path={DAGSTER_SCHEMA}" in options  # of with_search_path
        # asked first: CREATE … IF NOT EXISTS needs the privilege even where there is nothing to create
        asked = "SELECT to_regnamespace(%s)"
        if has_schema and conn.execute(asked, (DAGSTER_SCHEMA,)).fetchone() == (None,):
            conn.execute(f'CREATE SCHEMA IF NOT EXISTS "{DAGSTER_SCHEMA}"')
        conn.commit()
        try:
            events = DagsterPostgresStorage(url).event_log_storage
            # explicitly, before the first use: see dagster-io/dagster#33552
            if {limit.name: limit.limit for limit in events.get_pool_limits()}.get(POOL) != db_writes:
                events.set_concurrency_slots(POOL, db_writes)
        except SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", error)).split())
            raise WarehouseError(
                f"Dagster's tables cannot be made in {redact(url)}: {reason}. Grant the role CREATE there, or "
                "set IMPORTER_DAGSTER_URL to a database of its own."
            ) from None


if __name__ == "__main__":
    prepare_environment(Settings.from_env())
