"""Keeps rows that the table has already out of the staging table, while the file is still being read.

Of each batch the server gets only keys and hashes (``row_hash.py``). It finds the rows whose key has the same hash
in the table, and notes them as repeats; the other rows follow whole and are published like any. It is a filter
and no more: a row without a hash, or one that is not found, is compared in full when it is published.

What does not belong here: publishing (``publish.py``), and when the filter may be used (``pipeline/staging.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import sql

from importer_dagster.writer.copy_rows import RowStream
from importer_dagster.writer.publish import Publisher, planning_without
from importer_dagster.writer.target import Name, statements

LEAST = 1_000  # rows of a batch; to compare fewer of them in full takes no longer than to ask
_DENSE = 4  # rows of the table between the least and the greatest key of a batch, for each row of the batch
_AVOIDED = {"range": ["nestloop", "sort"], "key": ["bitmapscan", "sort"]}


class UnchangedFilter:
    """Writes batches to a staging table, without the rows that the type's table has.

    Only for the newest delivery of a keyed type. After a batch of which most is new it lets all that follows pass,
    since then asking costs more than it saves. The server looks a batch up while the next one is made ready;
    the connection is free after :meth:`pause`.
    """

    def __init__(self, publisher: Publisher, stream: RowStream) -> None:
        self._publisher, self._stream = publisher, stream
        self._keys: RowStream | None = None  # takes the keys and hashes of a batch to the server
        self._is_open = True
        self._is_dense = True  # whether the keys of a batch lie close together in the table
        self._pipeline = ExitStack()  # in which the server is asked about the batch of ``_asked``
        self._asked: tuple[pa.RecordBatch, Callable[[], NDArray[np.int64]]] | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Send the new rows of one batch; its schema is that of the stream."""
        self._receive()
        if not self._is_open or len(batch) < LEAST:
            self._stream.write(batch)
            return
        self._stream.pause()
        narrow = batch.select([*self._publisher.target.spec.primary_key, "_hash", "_row"])
        if self._keys is None:
            self._publisher.run("create_named")
            table = sql.Identifier("importer_named")
            self._keys = RowStream(self._stream.conn, table, self._stream.spec, narrow.schema, is_short=True)
        self._keys.write(narrow)
        self._keys.pause()
        self._pipeline.enter_context(self._stream.conn.pipeline())
        self._asked = batch, self._new_rows_deferred(len(batch))

    def _receive(self) -> None:
        """Wait for the answer about the last batch, and write its new rows."""
        if self._asked is None:
            return
        (batch, answer), self._asked = self._asked, None
        with self._pipeline:
            new = answer()
        self._is_open = len(new) <= len(batch) // 2
        if len(new):
            numbers = batch.column("_row").to_numpy()
            self._stream.write(batch.take(pa.array(np.searchsorted(numbers, new))))

    def _new_rows_deferred(self, rows: int) -> Callable[[], NDArray[np.int64]]:
        """Ask for the ``rows`` whose keys were sent; call the result for the numbers of new rows, ascending.

        The server notes the others as repeats. It works while the caller goes on, in a pipeline.
        """
        asked = self._ask("range", {"most": _DENSE * rows}) if self._is_dense else self._ask("key")

        def answer() -> NDArray[np.int64]:
            is_known, unchanged, new = asked.fetchone() or (False, 0, [])
            if not is_known:
                self._is_dense = False
                _, unchanged, new = self._ask("key").fetchone() or (True, 0, [])
            self._publisher.noted += unchanged
            self._publisher.run("clear_named")
            return np.sort(np.array(new, np.int64))

        return answer

    def _ask(self, by: str, values: Mapping[str, Any] | None = None) -> psycopg.Cursor:
        """One row: whether the answer is known, how many rows are unchanged, the numbers of the others.

        By ``range`` all rows of the table between the least and the greatest key are read, if they are few: a third
        of the work of looking each key up (by ``key``).
        """
        target = self._publisher.target
        near, known = sql.SQL("SELECT"), sql.SQL("TRUE")
        if by == "range":
            first = Name(target.spec.primary_key[0])
            near = sql.SQL(statements("publish")["near_by_range"]).format(**target.names, first=first)  # type: ignore[assignment]
            known = sql.SQL("(SELECT count(*) < %(most)s FROM near)")
        found = sql.SQL(statements("publish")[f"found_by_{by}"]).format(**target.names)
        with planning_without(self._stream.conn, _AVOIDED[by]):
            return self._publisher.run("take_unchanged", values, found=found, known=known, near=near)

    def pause(self) -> None:
        """End the COPY, so that the connection is free; the next write begins another."""
        self._receive()
        self._stream.pause()

    def abort(self, error: BaseException) -> None:
        """Break everything off; the transaction is then good only for a rollback."""
        with suppress(psycopg.Error):  # ``error`` is the one that counts
            self._pipeline.__exit__(type(error), error, error.__traceback__)
        for stream in (self._keys, self._stream):
            if stream is not None:
                stream.abort(error)
