"""What becomes of cells that the spec has no place for: columns of their own, or the JSON of ``_extra``.

What does not belong here: deciding it (``drift.py``), changing tables (``evolve.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from importer_dagster.evolve import Evidence

EXTRA = "_extra"


@dataclass
class Extras:
    """The cells of one delivery that no field takes.

    ``grows`` maps a text column of the batches to the column of the table that
    it becomes, ``kept`` to its key in ``_extra``. ``evidence`` sums up the
    values of those that grow.
    """

    grows: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(init=False)

    def __post_init__(self) -> None:
        self.evidence = {column: Evidence() for column in self.grows.values()}

    @property
    def names(self) -> list[str]:
        """Columns of the table, all text, that ``arrays`` fills."""
        return [*self.grows.values(), *([EXTRA] if self.kept else [])]

    def arrays(self, columns: pa.RecordBatch, good: np.ndarray) -> list[pa.Array]:
        """The cells of the rows at ``good``, one array for each of ``names``."""
        if not self.names:
            return []
        taken = columns.take(pa.array(good))
        arrays = [taken.column(source) for source in self.grows]
        for column, cells in zip(self.grows.values(), arrays, strict=True):
            self.evidence[column].add(cells)
        return [*arrays, _as_json(taken, self.kept)] if self.kept else arrays


def _as_json(columns: pa.RecordBatch, kept: Mapping[str, str]) -> pa.Array:
    """One JSON object a row. Row by row, since it runs only where a file has such columns."""
    values = [columns.column(source).to_pylist() for source in kept]
    rows = zip(*values, strict=True)
    return pa.array([_object(list(kept.values()), row) for row in rows], pa.string())


def _object(names: Sequence[str], values: Sequence[str | None]) -> str:
    return json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False)
