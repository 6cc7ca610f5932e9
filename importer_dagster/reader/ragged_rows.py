"""Rejects records that do not fit the header: shorter, longer, or the header itself once more.

What Arrow has parsed of a block becomes a batch; records that do not fit become its rejects.

What does not belong here: damaged records (``reader/records.py``), the last record (``reader/footer.py``).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import among_words, as_mask
from importer_dagster.errors import RefusedError
from importer_dagster.model import TextBatch
from importer_dagster.reader.arrow_csv import WrongWidth
from importer_dagster.reader.blocks import Block, column_name
from importer_dagster.reader.grammar import Grammar
from importer_dagster.reader.header import Header
from importer_dagster.reject_schema import NO_REJECTS
from importer_dagster.spec.table import TableSpec


class RaggedRows:
    """Makes a batch of each block. ``selected`` are the positions of the columns that are read."""

    def __init__(self, spec: TableSpec, grammar: Grammar, head: Header) -> None:
        self.spec, self.grammar, self.head, self.header = spec, grammar, head, head.names
        self.selected: tuple[int, ...] = tuple(range(len(head.names)))
        self._first = True

    def wanted(self) -> tuple[int, ...]:
        """Positions of the columns to parse: where records end with a delimiter, also the empty last one."""
        n = len(self.header)
        return self.selected if self.head.width == n else (*self.selected, n)

    def assemble(self, block: Block, columns: pa.RecordBatch, wrong: list[WrongWidth]) -> TextBatch:
        """The batch of a block, from what :func:`reader.arrow_csv.parse` made of it.

        Raises RefusedError where all records of a file's first block have the same wrong width.
        """
        parsed, n = len(columns) + len(wrong), len(self.header)
        block.number_records(parsed)
        if self._first:
            self._first = False
            self._refuse_if_systematic(len(columns), wrong, block)
        fits = np.ones(parsed, dtype=bool)
        fits[[w.position for w in wrong]] = False
        positions = np.flatnonzero(fits)
        if len(self.head.widths) > 1:
            columns, positions, wrong = self._without_last_field(block, columns, positions, wrong)
        rejects = [block.damage_rejects(self.header)]
        if wrong:
            surplus = [
                self.grammar.fields(block.record(w.position))[n:] if w.fields > n else [] for w in wrong
            ]
            rejects.append(
                block.rejects_at(
                    [w.position for w in wrong],
                    [column_name(self.header, min(w.fields, n)) for w in wrong],
                    [self.grammar.delimiter.join(value for value, _ in more) for more in surplus],
                    ["fields.short" if w.fields < n else "fields.long" for w in wrong],
                    [f"expected {n} fields, got {w.fields}" for w in wrong],
                )
            )
        repeats = self._header_repeats(block, columns, positions)
        if repeats is not None:
            words = "the header stands here again"
            if not self.spec.dialect.header:
                words = "a header stands here, but the spec says header: false"
            first, value = column_name(self.header, 0), self.header[0].encode()
            rejects.append(block.equal_rejects_at(positions[repeats], first, value, "header.repeated", words))
            columns, positions = columns.filter(pa.array(~repeats)), positions[~repeats]
        rows = pa.array(block.numbers[positions] if len(positions) else np.zeros(0, np.int64), pa.int64())
        found = [table for table in rejects if len(table)]
        table_of_rejects = pa.concat_tables(found).sort_by("row") if found else NO_REJECTS
        return TextBatch(columns, rows, table_of_rejects, block.locator(positions))

    def _refuse_if_systematic(self, good: int, wrong: list[WrongWidth], block: Block) -> None:
        """If every record has the same wrong width, the layout is another one, so refuse the file as a whole."""
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

    def _without_last_field(
        self, block: Block, columns: pa.RecordBatch, positions: np.ndarray, wrong: list[WrongWidth]
    ) -> tuple[pa.RecordBatch, np.ndarray, list[WrongWidth]]:
        """Records may end with a delimiter, so with an empty field behind the last named one: drop that field.

        Records that have a value in it move to ``wrong``. Records of ``wrong`` that only lack the
        field, or only have it, move to ``columns``.
        """
        n = len(self.header)
        if self.head.width > n:
            full = columns.column(columns.num_columns - 1)
            columns = columns.select(range(columns.num_columns - 1))
            surplus = as_mask(pc.greater(pc.binary_length(full), 0))
            wrong = [*wrong, *(WrongWidth(int(p), n + 1) for p in positions[surplus])]
            columns, positions = columns.filter(pa.array(~surplus)), positions[~surplus]
        fitting: list[tuple[int, list[tuple[bytes, bool]]]] = []
        others: list[WrongWidth] = []
        for w in wrong:
            fields = self.grammar.fields(block.record(w.position)) if w.fields in self.head.widths else []
            if fields and (len(fields) == n or fields[-1][0] == b""):
                fitting.append((w.position, fields))
            else:
                others.append(w)
        others.sort(key=lambda w: w.position)
        if not fitting:
            return columns, positions, others
        nulls = set(self.spec.common_missing)
        every = np.concatenate([positions, [p for p, _ in fitting]]).astype(np.int64)
        order = np.argsort(every, kind="stable")
        arrays = []
        for column, i in zip(columns.columns, self.selected, strict=True):
            cells = [fields[i] for _, fields in fitting]
            texts = [None if not quoted and v.decode() in nulls else v.decode() for v, quoted in cells]
            arrays.append(pa.concat_arrays([column, pa.array(texts, pa.string())]).take(pa.array(order)))
        return pa.RecordBatch.from_arrays(arrays, names=columns.schema.names), every[order], others

    def _header_repeats(
        self, block: Block, columns: pa.RecordBatch, positions: np.ndarray
    ) -> np.ndarray | None:
        """A mask of the records that are the header once more (or, if none is declared, a header); None if none is."""
        # the first selected column with a name leaves few candidates, which are then compared as a whole
        at = next((k for k, i in enumerate(self.selected) if self.header[i]), None)
        if at is None or not len(positions):
            return None
        name = self.header[self.selected[at]]
        repeats: np.ndarray = among_words(columns.column(at), (name, "\ufeff" + name))[0]
        if not repeats.any():
            return None
        exact = np.zeros(len(columns), np.bool_)
        if len(self.selected) >= len(self.header):  # compared as columns, since a file may have many repeats
            pairs = zip(columns.columns, self.selected, strict=True)
            exact = np.logical_and.reduce([as_mask(pc.equal(c, self.header[i])) for c, i in pairs])
        for row in np.flatnonzero(repeats & ~exact):
            fields = self.grammar.fields(block.record(int(positions[row])))
            titles = [v.decode().lstrip("\ufeff").strip() for v, _ in fields]
            if len(titles) > len(self.header) and not titles[-1]:
                titles.pop()
            repeats[row] = titles == [title.strip() for title in self.header]
        return repeats if repeats.any() else None
