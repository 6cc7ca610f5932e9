"""Typed rows, with the columns that trace them to their file, into a table by COPY … BINARY.

What does not belong here: which table, and what becomes of the rows there (``writer/publish.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np
import pgpq
import pgpq.encoders
import pgpq.schema
import psycopg
import pyarrow as pa
from psycopg import sql

from importer_dagster.model import Delivery
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import schemas
from importer_dagster.writer.row_hash import row_hashes

# Encoded and sent at a time: while one piece is encoded, the server still works on what the socket
# holds of the last. With a whole batch at once it stood idle for a fifth of the import.
_PIECE_BYTES = 256 << 10
_PIECE_BYTES_PER_COLUMN = 5 << 10  # a piece costs 1.4 µs a column, as much as the encoding of 1 KB


class Trace:
    """Adds the columns that trace a row to its delivery; with a ``secret`` also the hash of its contents."""

    def __init__(self, delivery: Delivery, load_id: int, *, secret: bytes | None = None) -> None:
        self.secret = secret
        self.fields: list[tuple[pa.Field, Any]] = []
        if delivery.has_tenant:
            self.fields.append((pa.field("_tenant", pa.string()), delivery.tenant))
        self.fields.append((pa.field("_business_date", pa.date32()), delivery.business_date))
        self.fields.append((pa.field("_load_id", pa.int64()), load_id))

    def schema(self, spec: TableSpec, more: Sequence[str]) -> pa.Schema:
        """The Arrow schema of what ``add`` returns; ``more`` names columns of text."""
        fields = [*schemas.arrow_schema(spec), *(pa.field(name, pa.string()) for name in more)]
        last = [pa.field(name, pa.int64()) for name in (*self._hash_column, "_row")]
        return pa.schema([*fields, *(f for f, _ in self.fields), *last])

    @property
    def _hash_column(self) -> list[str]:
        return [] if self.secret is None else ["_hash"]

    def add(
        self, typed: pa.RecordBatch, rows: pa.Array, more: Sequence[pa.Array], whole: pa.Schema
    ) -> pa.RecordBatch:
        """``typed`` rows with the columns ``more`` and the trace columns added; ``whole`` is the resulting schema."""
        said = [*typed.columns, *more]
        last = [pa.repeat(pa.scalar(v, f.type), len(rows)) for f, v in self.fields]
        if self.secret is not None:
            contents = pa.RecordBatch.from_arrays(said, names=whole.names[: len(said)])
            last.append(row_hashes(contents, self.secret))
        return pa.RecordBatch.from_arrays([*said, *last, rows], names=whole.names)


def traced_together(
    typed: pa.RecordBatch,
    first: Delivery,
    parts: Sequence[tuple[date, int, pa.Array]],
    whole: pa.Schema,
) -> pa.RecordBatch:
    """``typed`` rows of several deliveries of one type and tenant (that of ``first``) with their trace columns.

    ``parts`` are, for each delivery in order, its business date, its load and the
    numbers of its records; ``whole`` is :meth:`Trace.schema`.
    """
    days, loads, rows = zip(*parts, strict=True)
    of_part = pa.array(np.repeat(np.arange(len(parts)), [len(r) for r in rows]))
    columns = [*typed.columns]
    if first.has_tenant:
        columns.append(pa.repeat(pa.scalar(first.tenant, pa.string()), len(typed)))
    columns += [pa.array(days, pa.date32()).take(of_part), pa.array(loads, pa.int64()).take(of_part)]
    return pa.RecordBatch.from_arrays([*columns, pa.concat_arrays(rows)], schema=whole)


@dataclass
class RowStream:
    """COPY … BINARY of typed batches into one table; can be paused for other statements.

    ``rows`` counts what was written. Close it (or pause) before any other
    statement on the same connection. ``is_short``: all of it is there when the COPY
    begins, so that it may be as long as any statement.
    """

    conn: psycopg.Connection
    table: sql.Composable
    spec: TableSpec
    arrow_schema: pa.Schema
    is_short: bool = False
    rows: int = 0
    _stack: ExitStack | None = field(default=None, init=False)
    _copy: psycopg.Copy | None = field(default=None, init=False)
    _encoder: Any = field(default=None, init=False)
    _timeout: str = field(default="0", init=False)  # of other statements; a COPY takes what the file takes

    def write(self, batch: pa.RecordBatch) -> None:
        """Send one batch; its schema is ``arrow_schema``."""
        if self._copy is None:
            self._open()
        assert self._copy is not None
        size = max(_PIECE_BYTES, _PIECE_BYTES_PER_COLUMN * batch.num_columns)
        step = max(size * len(batch) // max(batch.nbytes, 1), 1)
        for start in range(0, len(batch), step):
            self._copy.write(self._encoder.write_batch(batch.slice(start, step)))
        self.rows += len(batch)

    def _open(self) -> None:
        statement = _copy_statement(self.table.as_string(), tuple(self.arrow_schema.names))
        self._encoder = copy_encoder(self.arrow_schema, self.spec)
        self._stack = ExitStack()
        if not self.is_short:
            self._timeout = _statement_timeout(self.conn, "0")
        self._copy = self._stack.enter_context(self.conn.cursor().copy(statement))
        self._copy.write(self._encoder.write_header())

    def pause(self) -> None:
        """End the COPY, so that the connection is free; the next write begins another."""
        if self._copy is None or self._stack is None:
            return
        self._copy.write(self._encoder.finish())
        stack, self._stack, self._copy = self._stack, None, None
        stack.close()
        if not self.is_short:
            _statement_timeout(self.conn, self._timeout)

    def abort(self, error: BaseException) -> None:
        """Break the COPY off; the transaction is then good only for a rollback."""
        if self._stack is not None:
            stack, self._stack, self._copy = self._stack, None, None
            # the COPY ends with an error by design; ``error`` is the one that counts
            with suppress(psycopg.Error):
                stack.__exit__(type(error), error, error.__traceback__)


@lru_cache(maxsize=1_000)
def _copy_statement(table: str, columns: tuple[str, ...]) -> bytes:
    """The COPY statement, which is the same for each file of a type; ``table`` is quoted already."""
    names = ", ".join(sql.Identifier(name).as_string() for name in columns)
    return f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)".encode()


def _statement_timeout(conn: psycopg.Connection, value: str) -> str:
    """Set ``statement_timeout`` for the rest of the transaction; returns its value before."""
    row = conn.execute(
        "SELECT current_setting('statement_timeout'), set_config('statement_timeout', %s, true)", (value,)
    ).fetchone()
    assert row
    return str(row[0])


def copy_encoder(schema: pa.Schema, spec: TableSpec) -> pgpq.ArrowToPostgresBinaryEncoder:
    """An encoder to PostgreSQL's binary COPY format for typed columns and trace columns.

    Arrow's 16 bytes of a uuid and microseconds of a timestamp with zone are
    what PostgreSQL expects of uuid and timestamptz; only jsonb needs a word.
    """
    json_columns = {f.column for f in spec.fields if f.type == "object"} | {"_extra"}
    if json_columns.isdisjoint(schema.names):  # which takes a fortieth of the time
        return pgpq.ArrowToPostgresBinaryEncoder(schema)
    encoders = {
        field.name: pgpq.encoders.StringEncoderBuilder.new_with_output(field, pgpq.schema.Jsonb())
        if field.name in json_columns
        else pgpq.ArrowToPostgresBinaryEncoder.infer_encoder(field)
        for field in schema
    }
    return pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(schema, encoders)
