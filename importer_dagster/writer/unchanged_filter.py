"""Keeping rows that say nothing new out of the stage, while the file is still being read.

Of each batch the server is sent only keys and hashes (``writer/row_hash.py``), finds the rows
that say what the table says already, and notes them as repeats; the others follow
whole and are published like any. An equal hash is all that is looked at: whatever
does not have one, and whatever is not found, is compared in full as without a sieve.

What does not belong here: publishing (``writer/publish.py``), and when a sieve may be used
(``pipeline/delivery.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress

import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray

from importer_dagster.writer.copy_rows import RowStream
from importer_dagster.writer.publish import Publisher

LEAST = 1_000  # rows of a batch; to compare fewer of them in full takes no longer than to ask


class UnchangedFilter:
    """Writes batches to a stage, without the rows that the table has.

    Only for the newest delivery of a keyed type. Where most of a batch is new it
    lets through all that follows, since then asking costs more than it saves. The server
    looks a batch up while the next one is made ready; the connection is free after ``pause``.
    """

    def __init__(self, publisher: Publisher, stream: RowStream) -> None:
        self._publisher, self._stream = publisher, stream
        self._key = publisher.target.spec.primary_key
        self._named: RowStream | None = None
        self._is_open = True
        self._asking = ExitStack()  # the pipeline in which the server is asked about ``_asked``
        self._asked: tuple[pa.RecordBatch, Callable[[], NDArray[np.int64]]] | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """As :meth:`RowStream.write`."""
        self._receive()
        if not self._is_open or len(batch) < LEAST:
            self._stream.write(batch)
            return
        self._stream.pause()
        self._name(batch)
        self._asking.enter_context(self._stream.conn.pipeline())
        self._asked = batch, self._publisher.unchanged_deferred(len(batch))

    def _receive(self) -> None:
        """Wait for the answer about the last batch, and write what is new of it."""
        if self._asked is None:
            return
        (batch, answer), self._asked = self._asked, None
        with self._asking:
            new = answer()
        self._is_open = len(new) <= len(batch) // 2
        if len(new):
            numbers = batch.column("_row").to_numpy()
            self._stream.write(batch.take(pa.array(np.searchsorted(numbers, new))))

    def _name(self, batch: pa.RecordBatch) -> None:
        """Tell the server the batch's keys and hashes."""
        narrow = batch.select([*self._key, "_hash", "_row"])
        if self._named is None:
            table = self._publisher.create_named()
            self._named = RowStream(self._stream.conn, table, self._stream.spec, narrow.schema, is_short=True)
        self._named.write(narrow)
        self._named.pause()

    @property
    def arrow_schema(self) -> pa.Schema:
        """Of the batches that are written."""
        return self._stream.arrow_schema

    def pause(self) -> None:
        """As :meth:`RowStream.pause`."""
        self._receive()
        self._stream.pause()

    def abort(self, error: BaseException) -> None:
        """As :meth:`RowStream.abort`."""
        with suppress(psycopg.Error):  # as there
            self._asking.__exit__(type(error), error, error.__traceback__)
        for stream in (self._named, self._stream):
            if stream is not None:
                stream.abort(error)
