"""All settings, read from environment variables.

What does not belong here: anything about a single CSV type, which its spec says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from importer_dagster.errors import UsageError

SHIPPED_SPECS = Path(__file__).parent / "specs"
POOL = "db_writes"  # Dagster's name for the cap on writes


def _days(default: int, what: str) -> int:
    return field(default=default, metadata={"what": what})


@dataclass(frozen=True)
class Keep:
    """For how many days things are kept before `importer prune` deletes them; 0 means for ever.

    Each field is the environment variable ``IMPORTER_KEEP_`` and the field's name. A test compares
    the list in docs/operations.md with the texts here.
    """

    replaced: int = _days(
        90, "rows of a file's earlier content after the file was sent again: what `importer unload` restores"
    )
    copies: int = _days(
        90, "`replace`: rows of days that a newer day has replaced (the last two days always stay)"
    )
    history: int = _days(
        400, "`merge`, `scd2`: rows that a newer delivery has replaced, needed for late and corrected files"
    )
    loads: int = _days(
        400, "ledger rows of refused, failed, unloaded and replaced loads; reports of missing files"
    )
    done: int = _days(
        1100,
        "the record that a day is done: ledger rows of files without any row left in the tables, Dagster's last "
        "materialization of each day",
    )
    rejects: int = _days(180, "rejected records; their number stays in the ledger")
    drift: int = _days(400, "drift events and what gates found; the first and the last of each stay")
    profiles: int = _days(90, "the sample of values kept with a drift event")
    runs: int = _days(90, "Dagster's runs, events and backfills; the last materialization of each day stays")
    files: int = _days(30, "files that runs leave in the Dagster home, such as captured output")

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Keep:
        """Read ``IMPORTER_KEEP_*``; raises UsageError naming the variable at fault."""
        keep = cls(**{f.name: _natural(env, keep_variable(f.name), int(str(f.default))) for f in fields(cls)})
        lookback_days = _positive(env, "IMPORTER_LOOKBACK_DAYS", Settings.lookback_days)
        if keep.done and keep.done <= lookback_days:
            raise UsageError(
                f"IMPORTER_KEEP_DONE is {keep.done}; it must be more than IMPORTER_LOOKBACK_DAYS, {lookback_days}: "
                "the schedule imports every file of those days that the ledger does not know."
            )
        return keep


def keep_variable(name: str) -> str:
    """The environment variable of a field of Keep."""
    return f"IMPORTER_KEEP_{name.upper()}"


@dataclass(frozen=True)
class Settings:
    """The settings of one process."""

    warehouse_url: str | None
    """The PostgreSQL database that BI reads; None for the embedded one."""
    specs: Path
    """The folder of specs."""
    inbox_url: str
    """Where deliveries arrive: a folder, or a URL that fsspec opens."""
    home: Path
    """The folder for state: the embedded database and Dagster's home."""
    db_writes: int = 4
    """The cap: how many sessions may write at once, unless ``importer cap`` has set another number."""
    default_path: str = "{date}/{tenant}/{type}*.csv"
    """The path pattern of types whose spec has none."""
    timezone: str = "UTC"
    """The IANA time zone of schedules and business dates."""
    start_date: date = date(2024, 1, 1)
    """The first daily partition."""
    schedule: str = "0 6 * * *"
    """When the daily schedule runs, as a cron expression."""
    lookback_days: int = 14
    """How many days back the schedule and the sensor look for files that are not imported."""
    min_age: int = 60
    """For how many seconds a file must not have changed to be taken as complete."""
    max_runs: int = 10
    """How many runs of the schedule and the sensor may wait or run at once."""
    arrival_interval: int = 60
    """Every how many seconds the sensor looks at the inbox; 0 turns it off."""
    retry_after: int = 600
    """After how many seconds a run that was without success is requested again; the pause doubles each time."""
    lock_timeout: int = 60
    """For how many seconds a statement waits for a lock."""
    statement_timeout: int = 3600
    """How many seconds a statement may take; a COPY has no limit."""
    read_timeout: int = 300
    """For how many seconds a source may send nothing."""
    keep: Keep = Keep()
    """For how many days things are kept."""
    prune_schedule: str = "30 3 * * *"
    """When the retention job runs, as a cron expression."""
    stock_dagster: bool = False
    """Whether Dagster runs with its own storage and executor; see :func:`stock_dagster`."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read ``IMPORTER_*``; raises UsageError naming the variable at fault."""
        env = os.environ if env is None else env
        home = Path(env.get("IMPORTER_HOME") or ".importer").expanduser().resolve()
        return cls(
            warehouse_url=env.get("IMPORTER_WAREHOUSE_URL") or None,
            specs=Path(env.get("IMPORTER_SPECS") or SHIPPED_SPECS).expanduser().resolve(),
            inbox_url=env.get("IMPORTER_INBOX_URL") or str(home / "inbox"),
            home=home,
            db_writes=_positive(env, "IMPORTER_DB_WRITES", cls.db_writes),
            default_path=env.get("IMPORTER_PATH_PATTERN") or cls.default_path,
            timezone=_timezone(env, "IMPORTER_TIMEZONE", cls.timezone),
            start_date=_date(env, "IMPORTER_START_DATE", cls.start_date),
            schedule=env.get("IMPORTER_SCHEDULE") or cls.schedule,
            lookback_days=_positive(env, "IMPORTER_LOOKBACK_DAYS", cls.lookback_days),
            min_age=_natural(env, "IMPORTER_MIN_AGE", cls.min_age),
            max_runs=_positive(env, "IMPORTER_MAX_RUNS", cls.max_runs),
            arrival_interval=_natural(env, "IMPORTER_ARRIVAL_INTERVAL", cls.arrival_interval),
            retry_after=_positive(env, "IMPORTER_RETRY_AFTER", cls.retry_after),
            lock_timeout=_positive(env, "IMPORTER_LOCK_TIMEOUT", cls.lock_timeout),
            statement_timeout=_positive(env, "IMPORTER_STATEMENT_TIMEOUT", cls.statement_timeout),
            read_timeout=read_timeout(env),
            keep=Keep.from_env(env),
            prune_schedule=env.get("IMPORTER_PRUNE_SCHEDULE") or cls.prune_schedule,
            stock_dagster=stock_dagster(env),  # IMPORTER_STOCK_DAGSTER
        )


def lookback(settings: Settings, today: date) -> list[date]:
    """The days that the schedule and the sensor look at, up to ``today``."""
    first = max(settings.start_date, today - timedelta(days=settings.lookback_days - 1))
    return [first + timedelta(days=n) for n in range((today - first).days + 1)]


def read_timeout(env: Mapping[str, str] | None = None) -> int:
    """For how many seconds a source may send nothing; for modules that open files without Settings."""
    return _positive(os.environ if env is None else env, "IMPORTER_READ_TIMEOUT", Settings.read_timeout)


def stock_dagster(env: Mapping[str, str] | None = None) -> bool:
    """Whether Dagster runs with its own storage and executor, without the importer's changes to them.

    Slower, since each statement to Dagster's storage opens a connection, and a killed run that the daemon
    launched may not be ended within a minute. It shows whether a fault comes from those changes.
    """
    text = (os.environ if env is None else env).get("IMPORTER_STOCK_DAGSTER") or "0"
    if text not in ("0", "1"):
        raise UsageError(f"IMPORTER_STOCK_DAGSTER is {text!r}; it must be 0 or 1.")
    return text == "1"


def _positive(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{name} is {text!r}; it must be a whole number of at least 1.")
    return int(text)


def _natural(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}; it must be a whole number, 0 or more.")
    return int(text)


def _date(env: Mapping[str, str], name: str, default: date) -> date:
    text = env.get(name)
    try:
        return date.fromisoformat(text) if text else default
    except ValueError:
        raise UsageError(f"{name} is {text!r}; it must be a date such as 2024-01-31.") from None


def _timezone(env: Mapping[str, str], name: str, default: str) -> str:
    text = env.get(name) or default
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError):
        raise UsageError(f"{name} is {text!r}; it must be an IANA time zone such as Europe/Berlin.") from None
    return text
