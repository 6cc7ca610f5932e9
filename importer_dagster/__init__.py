"""Imports daily CSV deliveries into a PostgreSQL warehouse, as Dagster assets.

This module gives the names that other code may rely on (``__all__``); ``docs/python.md`` describes them. Each is
imported at its first use, so that ``import importer_dagster`` and the processes of Dagster load only what they need.

What does not belong here: any code of the importer, and names that other code should not rely on.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importer_dagster.defs import build_defs
    from importer_dagster.errors import (
        ImporterError,
        PermanentError,
        RefusedError,
        SourceUnavailable,
        SpecError,
        TransientError,
        UnknownTypeError,
        UsageError,
        WarehouseError,
        WarehouseUnavailable,
    )
    from importer_dagster.model import Delivery, LoadResult
    from importer_dagster.pipeline.delivery import import_delivery
    from importer_dagster.spec.loading import load_specs
    from importer_dagster.validation.checks import named_check
    from importer_dagster.warehouse import Warehouse

__version__ = "0.1.0"

__all__ = [
    "Delivery",
    "ImporterError",
    "LoadResult",
    "PermanentError",
    "RefusedError",
    "SourceUnavailable",
    "SpecError",
    "TransientError",
    "UnknownTypeError",
    "UsageError",
    "Warehouse",
    "WarehouseError",
    "WarehouseUnavailable",
    "__version__",
    "build_defs",
    "import_delivery",
    "load_specs",
    "named_check",
]

_MODULES = {
    "build_defs": "importer_dagster.defs",
    "import_delivery": "importer_dagster.pipeline.delivery",
    "load_specs": "importer_dagster.spec.loading",
    "named_check": "importer_dagster.validation.checks",
    "Delivery": "importer_dagster.model",
    "LoadResult": "importer_dagster.model",
    "Warehouse": "importer_dagster.warehouse",
}  # all others are in importer_dagster.errors

if not TYPE_CHECKING:  # a type checker would take any name for a public one

    def __getattr__(name: str) -> object:
        """Import a public name at its first use; raises AttributeError for any other."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULES.get(name, "importer_dagster.errors")), name)
        globals()[name] = value  # the next use does not come here
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
