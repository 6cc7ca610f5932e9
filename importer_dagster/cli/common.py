"""What the commands share: consoles, the warehouse and the specs of the settings, errors as exit codes.

What does not belong here: any command.
"""

from __future__ import annotations

import getpass
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from importer_dagster.errors import ImporterError, RefusedError, UsageError
from importer_dagster.settings import Settings
from importer_dagster.spec.loading import Specs, load_specs
from importer_dagster.spec.table import TableSpec

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # control characters except tab and line feed
# rich would make tables 80 columns wide when the output goes to a file or a pipe
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
console = Console(highlight=False, emoji=False, width=_WIDTH)
errors = Console(stderr=True, highlight=False, emoji=False, width=_WIDTH)


class Day(click.ParamType[date]):
    """A day such as 2024-01-31."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """The date that the text says; fails as a usage error."""
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date such as 2024-01-31", param, ctx)


DAY = Day()


class Group(click.Group):
    """Prints an ImporterError as one paragraph and ends with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; with ``--debug`` errors are raised."""
        try:
            return super().invoke(ctx)
        except ImporterError as error:
            if ctx.params.get("debug"):
                raise
            errors.print(f"[red]Error:[/red] {plain(error)}", soft_wrap=True)
            sys.exit(error.exit_code)


def person() -> str:
    """The name of the operating system's user who gives the command, for the ledger."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def plain(words: object) -> str:
    """The text without rich markup and terminal control characters, since much of it comes from suppliers."""
    return escape(_CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(words)))


def must_be_there(files: Sequence[str]) -> None:
    """Raise UsageError for a path that names no file, before it is recorded as a refused delivery."""
    from importer_dagster.source.open_file import open_url

    for file in files:
        try:
            open_url(str(Path(file).expanduser()) if "://" not in file else file).close()
        except RefusedError as error:
            if error.rule == "missing":
                raise UsageError(str(error)) from None


@contextmanager
def warehouse_of(settings: Settings) -> Iterator[Any]:
    """The warehouse of the settings; if none is configured, the embedded server is started."""
    from importer_dagster.warehouse import Warehouse

    if settings.warehouse_url:
        yield Warehouse.of(settings, settings.warehouse_url)
        return
    from importer_dagster.launch.embedded import ensure_server

    server = ensure_server(settings.home)
    yield Warehouse.of(settings, server.url("warehouse"))


def specs_of(settings: Settings) -> Specs:
    """The specs of all types; raises SpecError."""
    return load_specs(settings.specs)


def chosen_specs(specs: Specs, types: Sequence[str]) -> list[TableSpec]:
    """The specs of the named types, or of all if none is named; raises UnknownTypeError."""
    return [specs[name] for name in types] if types else list(specs.values())
