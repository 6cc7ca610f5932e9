"""What becomes of cells that the spec has no place for: columns of their own, or the JSON of ``_extra``.

What does not belong here: deciding it (``validation/drift.py``), changing tables (``writer/schema_evolution.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from importer_dagster.spec.fields import FieldSpec
from importer_dagster.writer.schema_evolution import Evidence

EXTRA = "_extra"

# (field, its text, its typed values) → the texts that could not be read, NULL elsewhere
Judge: TypeAlias = Callable[["Rescued", pa.Array, pa.Array], pa.Array]


@dataclass(frozen=True)
class Rescued:
    """A field whose unreadable values are kept: where its text is, and under which key it goes."""

    field: FieldSpec
    source: str
    key: str


@dataclass
class Extras:
    """The cells of one delivery that no field takes.

    ``grows`` maps a text column of the batches to the column of the table that
    it becomes, ``kept`` to its key in ``_extra``; of the fields in ``rescued``
    what cannot be read is kept there, too. ``evidence`` sums up the values of
    those that grow.
    """

    grows: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    rescued: Sequence[Rescued] = ()
    evidence: dict[str, Evidence] = field(init=False)

    def __post_init__(self) -> None:
        self.evidence = {column: Evidence() for column in self.grows.values()}

    @property
    def names(self) -> list[str]:
        """Columns of the table, all text, that ``arrays`` fills."""
        return [*self.grows.values(), *([EXTRA] if self.kept or self.rescued else [])]

    def arrays(
        self, columns: pa.RecordBatch, typed: pa.RecordBatch, good: np.ndarray, judge: Judge
    ) -> list[pa.Array]:
        """The cells of the rows at ``good``, one array for each of ``names``.

        ``typed`` are those rows as read; ``judge`` tells what of a rescued field could not be.
        """
        if not self.names:
            return []
        taken = columns.take(pa.array(good))
        arrays = [taken.column(source) for source in self.grows]
        for column, cells in zip(self.grows.values(), arrays, strict=True):
            self.evidence[column].add(cells)
        if not (self.kept or self.rescued):
            return arrays
        whole = {key: taken.column(source) for source, key in self.kept.items()}
        parts = {r.key: judge(r, taken.column(r.source), typed.column(r.field.column)) for r in self.rescued}
        return [*arrays, _as_json(whole, parts)]


def _as_json(whole: Mapping[str, pa.Array], parts: Mapping[str, pa.Array]) -> pa.Array:
    """One JSON object a row, NULL if it would be empty; of ``parts``, only what is there.

    Row by row, since it runs only where a file has such cells.
    """
    names = [*whole, *parts]
    columns = [c.to_pylist() for c in (*whole.values(), *parts.values())]
    rows = zip(*columns, strict=True)
    return pa.array([_object(names, row, parts) for row in rows], pa.string())


def _object(names: Sequence[str], values: Sequence[str | None], parts: Collection[str]) -> str | None:
    found = {n: v for n, v in zip(names, values, strict=True) if v is not None or n not in parts}
    return json.dumps(found, ensure_ascii=False) if found else None
