"""The exceptions that this package raises on purpose, and whether a retry makes sense.

::

    ImporterError
    ├── PermanentError            the same call would fail again: never retried
    │   ├── UsageError            a command or setting makes no sense
    │   │   ├── SpecError         a spec is wrong; names file, line and key
    │   │   └── UnknownTypeError  no spec of that name; names the nearest ones
    │   ├── RefusedError          a delivery is refused whole; the ledger keeps the reason
    │   └── WarehouseError        the warehouse refuses a statement (privileges, wrong table)
    └── TransientError            worth trying again later
        ├── SourceUnavailable     the inbox or a file in it could not be reached
        └── WarehouseUnavailable  the database could not be reached, or refuses for the time being

What does *not* belong here: rejected records. They are data (rows of
``importer.rejects``), not exceptions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importer_dagster.model import DriftEvent


def storable(text: str) -> str:
    r"""``text`` with characters escaped that databases, terminals and logs do not accept.

    These are lone surrogates, by which Python represents bytes of a file's name that are no UTF-8.

    >>> print(storable("gebühr_\udcfc.csv"))
    gebühr_\udcfc.csv
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class ImporterError(Exception):
    """Base of all exceptions here; ``str()`` is one paragraph with what failed, where, and the remedy."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(storable(message))


class PermanentError(ImporterError):
    """The same call would fail again."""


class UsageError(PermanentError):
    """A command's arguments or a setting make no sense."""

    exit_code = 2


class SpecError(UsageError):
    """A spec is wrong.

    Attributes: ``file`` (path as given), ``line`` (1-based, or None), ``key``
    (dotted path inside the spec, or None).
    """

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, key: str | None = None
    ) -> None:
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(f"{where}{message}")
        self.file, self.line, self.key = file, line, key


class UnknownTypeError(UsageError):
    """No spec describes a CSV type of that name."""


class RefusedError(PermanentError):
    """A delivery is refused whole; nothing of it is loaded.

    Attributes: ``rule`` (short machine word such as ``header.missing``),
    ``line`` (1-based physical line, or None), ``column`` (or None), ``events``
    (drift found until then).
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        rule: str,
        line: int | None = None,
        column: str | None = None,
        events: tuple[DriftEvent, ...] = (),
    ) -> None:
        super().__init__(message)
        self.rule, self.line, self.column, self.events = rule, line, column, events


class WarehouseError(PermanentError):
    """The warehouse can be reached, but refuses a statement."""

    exit_code = 4


class TransientError(ImporterError):
    """Worth trying again later."""

    exit_code = 4


class SourceUnavailable(TransientError):
    """The inbox, or a file in it, could not be reached."""


class WarehouseUnavailable(TransientError):
    """The database could not be reached, or refuses for the time being."""
