"""Whether the keys of a file rise from record to record: then none of them comes twice.

What does not belong here: finding those that do (``writer/publish.py``).
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.spec.table import TableSpec


class KeyOrder:
    """Whether the keys of all rows so far rise (``holds``); then no search for duplicates is needed.

    False where that cannot be told: nulls and JSON are not compared.
    """

    def __init__(self, spec: TableSpec) -> None:
        self._key = spec.primary_key
        self._last: pa.RecordBatch | None = None
        self.holds = all(f.type != "object" for f in spec.fields if f.column in self._key)

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the next rows."""
        if not self.holds or not len(batch):
            return
        keys = batch.select(list(self._key))
        try:
            self.holds = _rise(keys) and (self._last is None or _rise(_joined(self._last, keys.slice(0, 1))))
        except pa.ArrowNotImplementedError:
            self.holds = False
        self._last = keys.slice(len(keys) - 1)


def _joined(*batches: pa.RecordBatch) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _rise(keys: pa.RecordBatch) -> bool:
    """Whether each row is greater than the one before, by the first column in which they differ."""
    rises: pa.Array | None = None
    for column in reversed(keys.columns):
        before, after = column.slice(0, len(column) - 1), column.slice(1)
        less = pc.less(before, after)
        rises = less if rises is None else pc.or_(less, pc.and_(pc.equal(before, after), rises))
    return pc.all(rises, skip_nulls=False, min_count=0).as_py() is True
