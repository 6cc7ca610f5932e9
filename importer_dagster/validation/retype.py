"""Columns whose values are of another type than declared: recognised over a whole file.

Single bad cells are rejects. Where nearly no value of a column can be read, it
is the column that has changed, and the type's ``schema_contract.retyped`` says
what to do about it.

What does not belong here: reading values (``validation/parse.py``), doing it (``pipeline/delivery.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from importer_dagster.arrays import said
from importer_dagster.model import DriftEvent, Failure

SHARE = 0.9  # of a column's values that cannot be read
LEAST = 20  # values below which it may be chance


@dataclass
class TypeWatch:
    """Counts, per column, the values of a delivery and those that cannot be read.

    ``sources`` maps a column of the table to the text column that feeds it.
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    present: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)

    def add(self, columns: pa.RecordBatch, failures: Sequence[Failure]) -> None:
        """Take in one batch of text and what validation says of it."""
        for column, source in self.sources.items():
            cells = columns.column(source)
            self.present[column] += len(cells) - cells.null_count
        for failure in failures:
            if failure.rule == "type" and failure.column is not None:
                self.bad[failure.column] += len(failure.indexes)
                if failure.column not in self.example:
                    words = failure.words if isinstance(failure.words, str) else failure.words.slice(0, 1)
                    self.example[failure.column] = said(failure.values.slice(0, 1), words)[0].as_py()

    def add_rescued(self, column: str, cells: pa.Array) -> None:
        """Take in values (NULL elsewhere) that could not be read, but are no rejects."""
        self.bad[column] += len(cells) - cells.null_count
        if column not in self.example and cells.null_count < len(cells):
            self.example[column] = repr(cells.drop_null()[0].as_py()[:80])

    def changed(self) -> list[str]:
        """Columns that nearly no value of could be read so far."""
        return [c for c, n in self.bad.items() if n >= LEAST and n >= SHARE * self.present[c]]

    def words(self, column: str) -> str:
        """What was found, for people."""
        return (
            f"{self.bad[column]:,} of {self.present[column]:,} values are of another type, "
            f"such as: {self.example[column]}"
        )

    def events(self, done: str) -> Iterator[DriftEvent]:
        """What is to be recorded; ``done`` says what became of the values."""
        for column in self.changed():
            yield DriftEvent("retyped", column, f"{self.words(column)}; {done}")
