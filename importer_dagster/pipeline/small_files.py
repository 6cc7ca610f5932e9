"""Many small new files of one type imported together: one validation, one COPY, one transaction.

Of a file of a hundred records nearly all time goes into what has nothing to do with its records: a call of
Pandera, a COPY, waiting for a slot, a commit. So such files share these. Each file is still opened, hashed and
read by itself, and ends with the same rows, ledger entry and result as if it were imported alone. Only the plain
case is handled here: files of which no load is active, of a type that appends, with good records only. All others
are left to :func:`pipeline.delivery.import_delivery`, which also tries again, refuses, and records failures.

What does not belong here: which files may be imported together, since a file that ends the process takes the
others of its group along (``defs/step.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import pyarrow as pa

from importer_dagster.errors import ImporterError, RefusedError
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.pipeline.already_loaded import FileContent
from importer_dagster.pipeline.columns import ColumnPlan, needs_profile
from importer_dagster.pipeline.small_file_groups import SmallFile, import_group
from importer_dagster.pipeline.state import Job
from importer_dagster.reader.reader import open_delivery
from importer_dagster.source.completeness import state_of
from importer_dagster.source.open_file import read_files
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import schemas
from importer_dagster.validation.drift import map_header
from importer_dagster.validation.extra_columns import Extras
from importer_dagster.warehouse import Warehouse

log = logging.getLogger(__name__)

MOST_FILES = 200  # in one transaction
MOST_BYTES = 2 << 20  # of their text; the slot is held for a tenth of a second then
SMALL_FILE = 128 << 10  # bytes as stored; of a larger one the rows take most of the time
_READ_AT_ONCE = 32


def import_together(
    deliveries: Sequence[Delivery], spec: TableSpec, *, warehouse: Warehouse, run_id: str | None = None
) -> dict[Delivery, LoadResult]:
    """Import those that are small and plain, and return what became of them; the caller imports the rest.

    ``deliveries`` are of one type, in order, and no load of them is active as far as the caller has seen
    (:func:`pipeline.unchanged_files.look_up`). Raises nothing: after an error the files concerned are not
    imported, and whoever imports them one by one meets it again.
    """
    found: dict[Delivery, LoadResult] = {}
    by_tenant: dict[tuple[str, bool], list[Delivery]] = {}
    for d in deliveries:
        if d.size is not None and d.size <= SMALL_FILE:
            by_tenant.setdefault((d.tenant, d.has_tenant), []).append(d)
    try:
        for mine in by_tenant.values() if _is_plain(spec) else ():
            if len(mine) > 1:
                _import_tenant([Job(FileContent(d, spec), warehouse, run_id) for d in mine], found)
    except Exception as error:  # whatever it is, one by one it costs time and nothing else
        known = isinstance(error, ImporterError)
        log.warning("Files are imported one by one: %s", error, exc_info=None if known else error)
    return found


def _is_plain(spec: TableSpec) -> bool:
    """Whether what becomes of a good record depends on that record and others of its file alone."""
    return (
        spec.write_disposition == "append"
        and not spec.is_gated
        and not spec.versions
        and spec.trailer is None
        and spec.complete.manifest is None
        and not any(f.constraints.unique for f in spec.fields)
        and schemas.has_only_cell_checks(spec)
    )


def _import_tenant(jobs: Sequence[Job], found: dict[Delivery, LoadResult]) -> None:
    """Import group after group of one tenant; no further one where most files of one had to be left out."""
    ledger_schema.migrate(jobs[0].warehouse)
    rest = iter(jobs)
    while tried := list(islice(rest, MOST_FILES)):
        before = len(found)
        start = time.monotonic()
        for files in _groups(_read_all(tried)):
            results = import_group(files)
            seconds = (time.monotonic() - start) / max(len(results), 1)
            found |= {r.delivery: replace(r, seconds=seconds) for r in results}
            start = time.monotonic()
        if 2 * (len(found) - before) < len(tried):
            return


# --- reading: without a slot, and without a connection ------------------------------------------


def _read_all(jobs: Sequence[Job]) -> Iterator[SmallFile]:
    """Read files, a few at a time; those that are to be imported alone are left out."""
    rest = iter(jobs)
    while some := list(islice(rest, _READ_AT_ONCE)):
        for job in some:
            job.content.look()
        small = [j for j in some if j.content.size is not None and j.content.size <= SMALL_FILE]
        states = [state_of(j.delivery.url) for j in small]
        local = [j.delivery for j in small if "://" not in j.delivery.url]
        data = dict(zip(local, read_files([(d.url, d.inbox) for d in local]), strict=True))
        for job, state in zip(small, states, strict=True):
            is_readable = job.delivery not in data or data[job.delivery] is not None
            file = _read(job, data.get(job.delivery)) if is_readable else None
            if file is not None and state_of(job.delivery.url) == state:
                yield file


def _read(job: Job, data: bytes | None) -> SmallFile | None:
    """Read one file; None where anything about it is out of the ordinary."""
    try:
        with open_delivery(job.delivery, job.spec, data=data) as reader:
            mapping = map_header(reader.header, job.spec, line=reader.header_line)
            if mapping.extras or any(map(needs_profile, mapping.events)) or not reader.is_short:
                return None
            reader.select(sorted(mapping.sources.values()))
            batches = list(reader.batches())
    except RefusedError:
        return None
    if len(batches) > 1 or any(len(b.rejects) or b.skipped for b in batches) or reader.warnings:
        return None
    job.content.sha256, job.content.size = reader.sha256, reader.size
    plan = ColumnPlan(mapping, Extras())
    if not batches:
        return SmallFile(job, plan, None, pa.array([], pa.int64()))
    return SmallFile(job, plan, batches[0].columns, batches[0].rows)


def _groups(files: Iterable[SmallFile]) -> Iterator[list[SmallFile]]:
    """Files with one mapping of columns, of up to MOST_BYTES together."""
    group: list[SmallFile] = []
    size = 0
    for file in files:
        if group and (size >= MOST_BYTES or file.plan.mapping != group[0].plan.mapping):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.columns.nbytes if file.columns else 0
    if group:
        yield group
