"""What the processes do that are killed: import one delivery, and say on a file how it ended.

What does not belong here: killing (``crash.py``).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import traceback
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import get_args

from importer_dagster import pipeline, reader
from importer_dagster.errors import ImporterError
from importer_dagster.model import Delivery
from importer_dagster.spec import Disposition, TableSpec
from importer_dagster.warehouse import Warehouse

SMALL_BLOCKS = 2048  # bytes, so that a small file has several batches
BUG = 70  # exit code of a process that met an error nobody raised on purpose


@dataclass(frozen=True)
class Job:
    """One import; ``report`` is the file that the outcome's words go to."""

    url: str
    spec: TableSpec
    delivery: Delivery
    report: Path


def variants() -> dict[str, TableSpec]:
    """A spec for each disposition there is; append also with a key, where it stages its rows."""
    keyed = {f"{d}": _spec(d, key=True) for d in get_args(Disposition) if d != "append"}
    return {"append": _spec("append", key=False), "append, keyed": _spec("append", key=True), **keyed}


def _spec(disposition: str, *, key: bool) -> TableSpec:
    schema = {
        "fields": [
            {"name": "id", "type": "integer"},
            {"name": "v"},
            {"name": "n", "type": "number", "precision": 12, "scale": 2},
        ],
        **({"primaryKey": ["id"]} if key else {}),
    }
    return TableSpec.model_validate(
        {"name": "things", "schema": schema, "write_disposition": disposition, "reject_limit": {"share": 0.9}}
    )


def processes() -> ForkServerContext:
    """Processes forked from one that has imported everything and has neither threads nor connections."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reliability.work"])
    return context


def import_one(job: Job) -> None:
    """Import, and end with the exit code that ``importer load`` would have."""
    pipeline.open_delivery = partial(reader.open_delivery, block_size=SMALL_BLOCKS)  # type: ignore[attr-defined]
    logging.disable(logging.ERROR)  # attempts that fail are what we are here for
    try:
        result = pipeline.import_delivery(job.delivery, job.spec, warehouse=Warehouse(job.url))
        code, words = (3 if result.status == "refused" else 0), f"{result.status} {result.reason or ''}"
    except ImporterError as error:
        code, words = error.exit_code, str(error)
    except BaseException:
        code, words = BUG, traceback.format_exc()
    job.report.write_text(words)
    os._exit(code)
