"""Rejects records that do not fit the header: shorter, longer, or the header itself once more.

What Arrow has parsed of a block becomes a batch; records that do not fit become its rejects.

What does not belong here: damaged records (``reader/records.py``), the last record (``reader/footer.py``).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import among_words, as_mask, mask_at
from importer_dagster.errors import RefusedError
from importer_dagster.model import TextBatch
from importer_dagster.reader.arrow_csv import Parser, WrongWidths
from importer_dagster.reader.blocks import VALUE_SHOWN, Block, column_name, column_names, one_of, shown_texts
from importer_dagster.reader.grammar import Grammar
from importer_dagster.reader.header import Header
from importer_dagster.reader.spans import Fields, quotes_in, taken
from importer_dagster.reject_schema import NO_REJECTS
from importer_dagster.spec.table import TableSpec


class RaggedRows:
    """Makes a batch of each block. ``selected`` are the positions of the columns that are read."""

    def __init__(self, spec: TableSpec, grammar: Grammar, head: Header) -> None:
        self.spec, self.grammar, self.head, self.header = spec, grammar, head, head.names
        self.parser = Parser(spec, grammar)
        self.selected: tuple[int, ...] = tuple(range(len(head.names)))
        self._first = True

    def wanted(self) -> tuple[int, ...]:
        """Positions of the columns to parse: where records end with a delimiter, also the empty last one."""
        n = len(self.header)
        return self.selected if self.head.width == n else (*self.selected, n)

    def parse(self, block: Block) -> tuple[pa.RecordBatch, WrongWidths]:
        """The records of a block that have as many fields as they should, and the others."""
        return self.parser.parse(block, width=self.head.width, wanted=self.wanted())

    def assemble(self, block: Block, columns: pa.RecordBatch, wrong: WrongWidths, encoding: str) -> TextBatch:
        """The batch of a block, from what :meth:`parse` made of it.

        Raises RefusedError where all records of a file's first block have the same wrong width.
        """
        parsed = len(columns) + len(wrong)
        block.number_records(parsed)
        if self._first:
            self._first = False
            self._refuse_if_systematic(len(columns), wrong, block)
        fits = np.ones(parsed, dtype=bool)
        fits[wrong.positions] = False
        positions = np.flatnonzero(fits)
        if len(self.head.widths) > 1:
            columns, positions, wrong = self._without_last_field(block, columns, positions, wrong)
        rejects = [block.damage_rejects(self.header, encoding), self._width_rejects(block, wrong)]
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
        table_of_rejects = pa.concat_tables([NO_REJECTS, *found])
        if len(found) > 1:
            table_of_rejects = table_of_rejects.sort_by("row")
        return TextBatch(columns, rows, table_of_rejects, block.locator(positions))

    def _width_rejects(self, block: Block, wrong: WrongWidths) -> pa.Table:
        """Rejects of records that are too short or too long; with the surplus text of the latter."""
        if not len(wrong):
            return NO_REJECTS
        n, starts, ends = len(self.header), *(places[wrong.positions] for places in block.spans())
        if self.grammar.is_plain:
            records = taken(block.data, starts, ends)
            ends = np.cumsum(ends - starts)
            starts = np.append(0, ends[:-1])
            quotes = quotes_in(records, self.grammar.quote[0] if self.grammar.quote else None)
            begins = Fields(records, self.grammar.delimiter[0], quotes).behind(starts, ends, n)
            values = shown_texts(records, np.where(wrong.fields > n, begins, ends), ends)
        else:
            pairs = zip(starts.tolist(), ends.tolist(), strict=True)
            surplus = [self.grammar.fields(block.data[a:b], most=n + VALUE_SHOWN)[n:] for a, b in pairs]
            texts = [self.grammar.delimiter.join(value for value, _ in more) for more in surplus]
            ends = np.cumsum([len(t) for t in texts])
            values = shown_texts(b"".join(texts), np.append(0, ends[:-1]), ends)
        found, numbers = np.unique(wrong.fields, return_inverse=True)
        words = one_of([f"expected {n} fields, got {count}" for count in found.tolist()], numbers)
        rules = one_of(["fields.long", "fields.short"], (wrong.fields < n).astype(np.int8))
        names = column_names(self.header, np.minimum(wrong.fields, n))
        return block.rejects_at(wrong.positions, names, values, rules, words)

    def _refuse_if_systematic(self, good: int, wrong: WrongWidths, block: Block) -> None:
        """If every record has the same wrong width, the layout is another one, so refuse the file as a whole."""
        widths = set(np.unique(wrong.fields).tolist())
        damaged = block.scan is not None and len(block.scan.damaged) > 0
        if good or len(wrong) < 2 or len(widths) > 1 or damaged or widths <= self.head.widths:
            return
        raise RefusedError(
            f"Every record has {widths.pop()} fields, but {len(self.header)} are expected. Check the "
            "delimiter, or ask the supplier whether the layout changed.",
            rule="fields.systematic",
            line=block.line,
        )

    def _without_last_field(
        self, block: Block, columns: pa.RecordBatch, positions: np.ndarray, wrong: WrongWidths
    ) -> tuple[pa.RecordBatch, np.ndarray, WrongWidths]:
        """Header or records end with a delimiter, so with an empty field behind the last named one: drop that field.

        Records that have a value in it move to ``wrong``. Records of ``wrong`` that only lack the
        field, or only have it, move to ``columns``. But where records end with a delimiter, one that lacks the field
        and has no last value either is one value short.
        """
        n, is_trait = len(self.header), self.head.width > len(self.header)
        if is_trait:
            full = columns.column(columns.num_columns - 1)
            columns = columns.select(range(columns.num_columns - 1))
            surplus = as_mask(pc.greater(pc.binary_length(full), 0))
            wrong = wrong.and_others(positions[surplus], np.full(np.count_nonzero(surplus), n + 1))
            columns, positions = columns.filter(pa.array(~surplus)), positions[~surplus]
        width = n if is_trait else n + 1
        may_fit = wrong.only(wrong.fields == width)
        if not len(may_fit):
            return columns, positions, wrong
        ends_empty = self._end_empty(block, may_fit.positions)
        fitting = may_fit.positions[~ends_empty if is_trait else ends_empty]
        wrong = wrong.only(~np.isin(wrong.positions, fitting))
        if is_trait:
            wrong = WrongWidths(wrong.positions, np.where(wrong.fields == n, n - 1, wrong.fields))
        more = self.parser.parse_some(block, fitting, width=width, wanted=self.selected)
        every = np.concatenate([positions, fitting]).astype(np.int64)
        order = np.argsort(every, kind="stable")
        pairs = zip(columns.columns, more.columns, strict=True)
        arrays = [pa.concat_arrays(pair).take(pa.array(order)) for pair in pairs]
        return pa.RecordBatch.from_arrays(arrays, names=columns.schema.names), every[order], wrong

    def _end_empty(self, block: Block, positions: np.ndarray) -> np.ndarray:
        """Which of these records have nothing in their last field, not even quotes."""
        starts, ends = (places[positions] for places in block.spans())
        if self.grammar.is_plain:
            raw = np.frombuffer(block.data, np.uint8)
            return np.asarray(raw[ends - 1] == self.grammar.delimiter[0])
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        return np.array(
            [self.grammar.fields(block.data[a:b])[-1] == (b"", False) for a, b in pairs], np.bool_
        )

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
        others = self._may_repeat(columns, repeats & ~exact)
        repeats = exact & repeats
        for row in np.flatnonzero(others):
            fields = self.grammar.fields(block.record(int(positions[row])))
            titles = [v.decode().lstrip("\ufeff").strip() for v, _ in fields]
            if len(titles) > len(self.header) and not titles[-1]:
                titles.pop()
            repeats[row] = titles == [title.strip() for title in self.header]
        return repeats if repeats.any() else None

    def _may_repeat(self, columns: pa.RecordBatch, candidates: np.ndarray) -> np.ndarray:
        """Those of the candidates whose selected columns, without blanks around them, are the header's names."""
        at = np.flatnonzero(candidates)
        for column, i in zip(columns.columns, self.selected, strict=True) if len(at) else ():
            texts = pc.utf8_trim(column.take(pa.array(at)), " \t\ufeff\u00a0\x1c\x1d\x1e\x1f")
            at = at[as_mask(pc.equal(texts, self.header[i].strip(" \t\ufeff\u00a0\x1c\x1d\x1e\x1f")))]
        return mask_at(at, len(candidates))
