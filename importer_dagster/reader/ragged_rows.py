"""Records that do not fit the header: shorter, longer, or the header itself once more.

What Arrow made of a block becomes a batch; what does not fit, its rejects.

What does not belong here: records that are damaged (``reader/records.py``) or the last (``reader/footer.py``).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import among_words, as_mask
from importer_dagster.errors import RefusedError
from importer_dagster.model import TextBatch
from importer_dagster.reader.arrow_csv import Wrong
from importer_dagster.reader.blocks import Block, column_name
from importer_dagster.reader.grammar import Grammar
from importer_dagster.reader.header import Header
from importer_dagster.reject_schema import NO_REJECTS
from importer_dagster.spec.table import TableSpec


class RaggedRows:
    """Puts aside what does not fit, block by block. ``selected`` are the positions of the columns that are read."""

    def __init__(self, spec: TableSpec, grammar: Grammar, head: Header) -> None:
        self.spec, self.grammar, self.head, self.header = spec, grammar, head, head.names
        self.selected: tuple[int, ...] = tuple(range(len(head.names)))
        self._first = True

    def wanted(self) -> tuple[int, ...]:
        """Columns to parse: also the one behind the header's last, where records end with a delimiter."""
        n = len(self.header)
        return self.selected if self.head.width == n else (*self.selected, n)

    def assemble(self, block: Block, columns: pa.RecordBatch, wrong: list[Wrong]) -> TextBatch:
        """The batch of a block, from what :func:`reader.arrow_csv.parse` made of it.

        Raises RefusedError where all of a file's first block have the same wrong width.
        """
        parsed = len(columns) + len(wrong)
        block.settle(parsed)
        self._refuse_systematic(len(columns), wrong, block)
        keep = np.ones(parsed, dtype=bool)
        keep[[w.position for w in wrong]] = False
        positions = np.flatnonzero(keep)
        rejects = [block.damage_rows(self.header)]
        columns, positions, wrong = self._without_last(block, columns, positions, wrong)
        rejects.append(self._width_rejects(block, wrong))
        columns, positions, repeated = self._without_header_repeats(block, columns, positions)
        rejects.append(self._header_rejects(block, repeated))
        rows = pa.array(block.numbers[positions] if len(positions) else np.zeros(0, np.int64), pa.int64())
        found = [table for table in rejects if len(table)]
        table_of_rejects = pa.concat_tables(found).sort_by("row") if found else NO_REJECTS
        return TextBatch(columns, rows, table_of_rejects, block.locator(positions))

    def _refuse_systematic(self, good: int, wrong: list[Wrong], block: Block) -> None:
        """A file of which every record has the same wrong width is no heap of bad records."""
        if not self._first:
            return
        self._first = False
        widths = {w.fields for w in wrong}
        damaged = block.scan is not None and bool(block.scan.damaged)
        if good or len(wrong) < 2 or len(widths) > 1 or damaged or widths <= self.head.widths:
            return
        raise RefusedError(
            f"Every record has {widths.pop()} fields, but {len(self.header)} are expected. Check the "
            "delimiter, or ask the supplier whether the layout changed.",
            rule="fields.systematic",
            line=block.line,
        )

    # --- a delimiter too many ---

    def _without_last(
        self, block: Block, columns: pa.RecordBatch, positions: np.ndarray, wrong: list[Wrong]
    ) -> tuple[pa.RecordBatch, np.ndarray, list[Wrong]]:
        """Let go of an empty field behind the last named one, and judge who lacks it or has more there."""
        if len(self.head.widths) == 1:
            return columns, positions, wrong
        n = len(self.header)
        if self.head.width > n:
            full = columns.column(columns.num_columns - 1)
            columns = columns.select(range(columns.num_columns - 1))
            surplus = as_mask(pc.greater(pc.binary_length(full), 0))
            wrong = [*wrong, *(Wrong(int(p), n + 1) for p in positions[surplus])]
            columns, positions = columns.filter(pa.array(~surplus)), positions[~surplus]
        fine, other = [], []
        for w in wrong:
            fields = self.grammar.fields(block.record(w.position)) if w.fields in self.head.widths else []
            if fields and (len(fields) == n or fields[-1][0] == b""):
                fine.append((w.position, fields))
            else:
                other.append(w)
        if fine:
            columns, positions = self._insert(columns, positions, fine)
        return columns, positions, sorted(other, key=lambda w: w.position)

    def _insert(
        self, columns: pa.RecordBatch, positions: np.ndarray, more: list[tuple[int, list[tuple[bytes, bool]]]]
    ) -> tuple[pa.RecordBatch, np.ndarray]:
        """Put records that Arrow passed over back at their places."""
        nulls = set(self.spec.common_missing)
        extra = []
        for i in self.selected:
            cells = [fields[i] for _, fields in more]
            texts = [None if not quoted and v.decode() in nulls else v.decode() for v, quoted in cells]
            extra.append(pa.array(texts, pa.string()))
        everything = np.concatenate([positions, [p for p, _ in more]]).astype(np.int64)
        order = np.argsort(everything, kind="stable")
        arrays = [
            pa.concat_arrays([column, add]).take(pa.array(order))
            for column, add in zip(columns.columns, extra, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, names=columns.schema.names), everything[order]

    # --- the header once more ---

    def _without_header_repeats(
        self, block: Block, columns: pa.RecordBatch, positions: np.ndarray
    ) -> tuple[pa.RecordBatch, np.ndarray, np.ndarray]:
        """Records that are the header once more, or although none is declared, taken out."""
        if not len(positions) or not self.selected:
            return columns, positions, positions[:0]
        # one column tells nearly always; the few candidates are looked at whole
        at = next((k for k, i in enumerate(self.selected) if self.header[i]), None)
        if at is None:
            return columns, positions, positions[:0]
        column, name = columns.column(at), self.header[self.selected[at]]
        same = among_words(column, (name, "\ufeff" + name))[0]
        if not same.any():
            return columns, positions, positions[:0]
        exact = self._are_headers(columns) & same
        for row in np.flatnonzero(same & ~exact):
            same[row] = self._is_header(block.record(int(positions[row])))
        if not same.any():
            return columns, positions, positions[:0]
        return columns.filter(pa.array(~same)), positions[~same], positions[same]

    def _are_headers(self, columns: pa.RecordBatch) -> np.ndarray:
        """Rows that are the header to the letter, as far as all of it is selected: a file may be full of them."""
        if len(self.selected) < len(self.header):
            return np.zeros(len(columns), np.bool_)
        pairs = zip(columns.columns, self.selected, strict=True)
        same: np.ndarray = np.logical_and.reduce([as_mask(pc.equal(c, self.header[i])) for c, i in pairs])
        return same

    def _is_header(self, record: bytes) -> bool:
        names = [v.decode().lstrip("\ufeff").strip() for v, _ in self.grammar.fields(record)]
        if len(names) > len(self.header) and not names[-1]:
            names.pop()
        return names == [n.strip() for n in self.header]

    # --- rejects ---

    def _width_rejects(self, block: Block, wrong: list[Wrong]) -> pa.Table:
        n = len(self.header)
        if not wrong:
            return NO_REJECTS
        return block.rejects_at(
            [w.position for w in wrong],
            [column_name(self.header, min(w.fields, n)) for w in wrong],
            [self._surplus(block.record(w.position)) if w.fields > n else b"" for w in wrong],
            ["fields.short" if w.fields < n else "fields.long" for w in wrong],
            [f"expected {n} fields, got {w.fields}" for w in wrong],
        )

    def _surplus(self, record: bytes) -> bytes:
        """What stands behind the last named field."""
        values = [v for v, _ in self.grammar.fields(record)[len(self.header) :]]
        return self.grammar.delimiter.join(values)

    def _header_rejects(self, block: Block, positions: np.ndarray) -> pa.Table:
        declared = self.spec.dialect.header
        words = (
            "the header stands here again"
            if declared
            else "a header stands here, but the spec says header: false"
        )
        return block.rejects_alike(
            positions, column_name(self.header, 0), self.header[0].encode(), "header.repeated", words
        )
