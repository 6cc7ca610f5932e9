"""What the killed processes do: import one delivery or some together, and write the outcome to a file.

What does not belong here: killing (``crash.py``).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import get_args

from importer_dagster.errors import ImporterError
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.pipeline import load
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.pipeline.small_files import import_together
from importer_dagster.pipeline.unchanged_files import look_up
from importer_dagster.reader import reader
from importer_dagster.spec.table import Disposition, TableSpec
from importer_dagster.warehouse import Warehouse

SMALL_BLOCKS = 2048  # bytes, so that a small file has several batches
BUG = 70  # exit code of a process with an error that is no ImporterError


@dataclass(frozen=True)
class Job:
    """One import; ``report`` is the file to which the outcome is written.

    ``others`` are new files that are imported together with ``delivery``.
    """

    url: str
    spec: TableSpec
    delivery: Delivery
    report: Path
    others: tuple[Delivery, ...] = ()


def variants() -> dict[str, TableSpec]:
    """A spec for each disposition; append also with a key, since its rows are staged then."""
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
    load.open_delivery = partial(reader.open_delivery, block_size=SMALL_BLOCKS)  # type: ignore[attr-defined]
    logging.disable(logging.ERROR)  # failed attempts are expected here
    try:
        results = list(_import(job))
        code = 3 if any(r.status == "refused" for r in results) else 0
        words = "\n".join(f"{r.status} {r.reason or ''}" for r in results)
    except ImporterError as error:
        code, words = error.exit_code, str(error)
    except BaseException:
        code, words = BUG, traceback.format_exc()
    job.report.write_text(words)
    os._exit(code)


def _import(job: Job) -> Iterator[LoadResult]:
    """Import the deliveries as a step of Dagster does."""
    warehouse = Warehouse(job.url)
    deliveries = [job.delivery, *job.others]
    done: dict[Delivery, LoadResult] = {}
    if job.others:
        new = look_up(deliveries, {job.spec.name: job.spec}, warehouse=warehouse).new
        done = import_together([d for d in deliveries if d in new], job.spec, warehouse=warehouse)
    for delivery in deliveries:
        yield done.get(delivery) or import_delivery(delivery, job.spec, warehouse=warehouse)
