"""Many small new files of a type imported together: one judgement, one COPY, one transaction.

Of a file of a hundred rows nearly all time goes into what has nothing to do with
its rows: a call of Pandera, a COPY, a turn, a commit. So such files share these. Each
is still opened, hashed and read for itself, and ends with the very rows, the
row of the ledger and the result that it would have alone. Only the plain case is
dealt with here: files of which nothing stands, of a type that appends, and of which
every record is good. All others are left to :func:`pipeline.delivery.import_delivery`, which
also tries again, refuses and records what fails; so nothing here does.

What does not belong here: whose files may be imported together, since one that
ends the process takes the others along (``defs/step.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import psycopg
import pyarrow as pa

from importer_dagster.errors import ImporterError, RefusedError
from importer_dagster.ledger import drift as ledger_drift
from importer_dagster.ledger import loads as ledger_loads
from importer_dagster.ledger import queries
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.model import ColumnMapping, Delivery, LoadResult
from importer_dagster.pipeline.already_loaded import FileContent
from importer_dagster.pipeline.columns import needs_profile
from importer_dagster.reader.reader import Reader, open_delivery
from importer_dagster.source.completeness import state_of
from importer_dagster.source.open_file import read_files
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import schemas
from importer_dagster.validation.drift import map_header
from importer_dagster.validation.validator import Validator
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer.copy_rows import RowStream, Trace, traced_together
from importer_dagster.writer.key_order import KeyOrder
from importer_dagster.writer.tables import ensure_tables
from importer_dagster.writer.target import target_of

log = logging.getLogger(__name__)

MOST_FILES = 200  # in one transaction
MOST_BYTES = 2 << 20  # of their text; the slot is held for a tenth of a second then
SMALL_FILE = 128 << 10  # bytes as stored; of a larger one the rows take most of the time
_READ_AT_ONCE = 32


def import_together(
    deliveries: Sequence[Delivery], spec: TableSpec, *, warehouse: Warehouse, run_id: str | None = None
) -> dict[Delivery, LoadResult]:
    """Import those that are small and plain, and say what became of them; the caller imports the rest.

    ``deliveries`` are of one type, in order, and nothing stands of them as far as the
    caller has seen (:func:`pipeline.unchanged_files.look_up`). Raises nothing: whatever goes wrong,
    the files concerned are not imported, and whoever imports them finds it again.
    """
    found: dict[Delivery, LoadResult] = {}
    try:
        if _is_plain(spec):
            for mine in _by_tenant(deliveries):
                _Together(spec, warehouse, run_id, mine[0].has_tenant).run(mine, found)
    except Exception as error:  # whatever it is, one by one it costs time and nothing else
        known = isinstance(error, ImporterError)
        log.warning("Files are imported one by one: %s", error, exc_info=None if known else error)
    return found


def _is_plain(spec: TableSpec) -> bool:
    """Whether what becomes of a good record depends on that record, or on others of its file, alone."""
    return (
        spec.write_disposition == "append"
        and not spec.is_gated
        and not spec.versions
        and spec.trailer is None
        and spec.complete.manifest is None
        and not any(f.constraints.unique for f in spec.fields)
        and schemas.judges_row_by_row(spec)
    )


def _by_tenant(deliveries: Sequence[Delivery]) -> list[list[Delivery]]:
    """Small files of one tenant each, in their order; only where there are several."""
    found: dict[tuple[str, bool], list[Delivery]] = {}
    for d in deliveries:
        if d.size is not None and d.size <= SMALL_FILE:
            found.setdefault((d.tenant, d.has_tenant), []).append(d)
    return [some for some in found.values() if len(some) > 1]


@dataclass(frozen=True)
class _File:
    """One file as it was read: its columns as text (None: no record), and their record numbers."""

    content: FileContent
    mapping: ColumnMapping
    columns: pa.RecordBatch | None
    rows: pa.Array

    @property
    def delivery(self) -> Delivery:
        return self.content.delivery


@dataclass(frozen=True)
class _Judged:
    """Files whose records are all good, and these as typed columns, file by file."""

    files: Sequence[_File]
    typed: pa.RecordBatch

    def only(self, wanted: Sequence[bool]) -> _Judged:
        """The same without some of the files."""
        if all(wanted):
            return self
        counts = [len(f.rows) for f in self.files]
        files = [f for f, w in zip(self.files, wanted, strict=True) if w]
        return _Judged(files, self.typed.filter(pa.array(np.repeat(wanted, counts))))


class _Together:
    """The files of one type and tenant."""

    def __init__(self, spec: TableSpec, warehouse: Warehouse, run_id: str | None, has_tenant: bool) -> None:
        self.spec, self.warehouse, self.run_id = spec, warehouse, run_id
        self.target = target_of(spec, has_tenant, warehouse.schema)

    def run(self, deliveries: Sequence[Delivery], found: dict[Delivery, LoadResult]) -> None:
        """Import group after group; not any more where most files of one had to be left out."""
        ledger_schema.migrate(self.warehouse)
        rest = iter(deliveries)
        while tried := list(islice(rest, MOST_FILES)):
            before = len(found)
            start = time.monotonic()
            for files in self._groups(tried):
                results = self._import(files)
                seconds = (time.monotonic() - start) / max(len(results), 1)
                found |= {r.delivery: replace(r, seconds=seconds) for r in results}
                start = time.monotonic()
            if 2 * (len(found) - before) < len(tried):
                return

    # --- reading: without a slot, and without a connection ---

    def _groups(self, deliveries: Sequence[Delivery]) -> Iterator[list[_File]]:
        """Files with one mapping of columns, of up to MOST_BYTES together."""
        group: list[_File] = []
        size = 0
        for file in self._read_all(deliveries):
            if group and (size >= MOST_BYTES or file.mapping != group[0].mapping):
                yield group
                group, size = [], 0
            group.append(file)
            size += file.columns.nbytes if file.columns else 0
        if group:
            yield group

    def _read_all(self, deliveries: Sequence[Delivery]) -> Iterator[_File]:
        rest = iter(deliveries)
        while some := list(islice(rest, _READ_AT_ONCE)):
            yield from filter(None, self._read_some(some))

    def _read_some(self, deliveries: Sequence[Delivery]) -> Iterator[_File | None]:
        """Read some files; None for each that is to be imported alone."""
        contents = [FileContent(d, self.spec) for d in deliveries]
        for content in contents:
            content.look()
        contents = [c for c in contents if c.size is not None and c.size <= SMALL_FILE]
        before = [state_of(c.delivery.url) for c in contents]
        local = [c.delivery for c in contents if "://" not in c.delivery.url]
        data = dict(zip(local, read_files([(d.url, d.inbox) for d in local]), strict=True))
        for content, state in zip(contents, before, strict=True):
            delivery = content.delivery
            is_there = delivery not in data or data[delivery] is not None
            file = self._read(content, data.get(delivery)) if is_there else None
            yield file if file and state_of(delivery.url) == state else None

    def _read(self, content: FileContent, data: bytes | None) -> _File | None:
        try:
            with open_delivery(content.delivery, self.spec, data=data) as reader:
                mapping = self._mapping(reader)
                if mapping is None or not reader.is_short:
                    return None
                reader.select(sorted(mapping.sources.values()))
                batches = list(reader.batches())
        except RefusedError:
            return None
        if len(batches) > 1 or any(len(b.rejects) or b.skipped for b in batches) or reader.warnings:
            return None
        content.sha256, content.size = reader.sha256, reader.size
        if not batches:
            return _File(content, mapping, None, pa.array([], pa.int64()))
        return _File(content, mapping, batches[0].columns, batches[0].rows)

    def _mapping(self, reader: Reader) -> ColumnMapping | None:
        """What becomes of each column of the header; None where that is more than its field."""
        mapping = map_header(reader.header, self.spec, line=reader.header_line)
        plain = not mapping.extras and not any(map(needs_profile, mapping.events))
        return mapping if plain else None

    # --- judging ---

    def _import(self, files: Sequence[_File]) -> list[LoadResult]:
        """Import them, unless there is only one, which has nothing to share."""
        if len(files) < 2:
            return []
        judged = self._judge(files)
        return self._write(judged) if len(judged.files) > 1 else []

    def _judge(self, files: Sequence[_File]) -> _Judged:
        """Judge all records at once; files with one that fails are left out."""
        sources = {name: str(position) for name, position in files[0].mapping.sources.items()}
        validator = Validator(self.spec, {f.name: sources.get(f.name) for f in self.spec.fields})
        texts = [f.columns for f in files if f.columns is not None]
        whole = pa.Table.from_batches(texts).combine_chunks().to_batches() if texts else []
        if not whole:
            return _Judged(files, pa.RecordBatch.from_pylist([], schema=validator.schema))
        typed, good, failures = validator(whole[0])
        fine = np.ones(len(files), np.bool_)
        of_file = np.repeat(np.arange(len(files)), [len(f.rows) for f in files])
        for failure in failures:
            fine[of_file[failure.indexes]] = False
        typed = typed.filter(pa.array(fine[of_file[good]]))
        judged = _Judged([f for f, is_fine in zip(files, fine, strict=True) if is_fine], typed)
        return judged.only(self._have_unique_keys(judged)) if self.spec.primary_key else judged

    def _have_unique_keys(self, judged: _Judged) -> list[bool]:
        """Of which files it is plain that no key comes twice."""
        ends = np.cumsum([len(f.rows) for f in judged.files])
        found = []
        for file, end in zip(judged.files, ends.tolist(), strict=True):
            rising = KeyOrder(self.spec)
            rising.add(judged.typed.slice(end - len(file.rows), len(file.rows)))
            found.append(rising.holds)
        return found

    # --- writing: one turn, one transaction ---

    def _write(self, judged: _Judged) -> list[LoadResult]:
        first = judged.files[0].delivery
        size = sum(f.content.size or 0 for f in judged.files)
        with (
            self.warehouse.connect() as conn,
            self.warehouse.writing(first.type, first.tenant, size=size, conn=conn) as writer,
        ):
            ensure_tables(writer, self.warehouse, self.target)
            return self._load(writer, judged)

    def _load(self, conn: psycopg.Connection, judged: _Judged) -> list[LoadResult]:
        """Load what nothing stands of by now, and nobody else loads meanwhile."""
        active_loads = queries.active_loads_of(conn, [f.delivery for f in judged.files])
        judged = judged.only([queries.key_of(f.delivery) not in active_loads for f in judged.files])
        if not judged.files:
            return []
        begun, numbers = ledger_loads.take_numbers(conn, len(judged.files))
        self._copy_rows(conn, judged, numbers)
        loads = [_loaded(file, number) for file, number in zip(judged.files, numbers, strict=True)]
        file_versions = [file.content.file_version for file in judged.files]
        with conn.pipeline():  # which ends with the first statement that fails, before the commit
            ledger_loads.write_loaded(conn, loads, file_versions, self.spec.hash, self.run_id, begun)
            for load in loads:
                ledger_drift.write(conn, load.load_id or 0, load.drift)
            conn.commit()
        return loads

    def _copy_rows(self, conn: psycopg.Connection, judged: _Judged, numbers: Sequence[int]) -> None:
        layout = Trace(judged.files[0].delivery, 0).schema(self.spec, ())
        parts = [(f.delivery.business_date, n, f.rows) for f, n in zip(judged.files, numbers, strict=True)]
        stream = RowStream(conn, self.target.live, self.spec, layout, is_short=True)
        batch = traced_together(judged.typed, judged.files[0].delivery, parts, layout)
        try:
            if len(batch):
                stream.write(batch)
            stream.pause()
        except BaseException as error:
            stream.abort(error)
            raise


def _loaded(file: _File, load_id: int) -> LoadResult:
    return LoadResult(
        file.delivery,
        "loaded",
        load_id,
        rows_read=len(file.rows),
        rows_loaded=len(file.rows),
        drift=file.mapping.events,
        bytes=file.content.size,
        sha256=file.content.sha256,
    )
