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
import pyarrow.compute as pc

from importer_dagster.arrays import try_cast
from importer_dagster.spec.fields import FieldSpec

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


TEXT = "text"
_BIGINT, _NUMERIC, _TIMESTAMP = "bigint", "numeric", "timestamp without time zone"
# PostgreSQL type → what its values look like when PostgreSQL writes them
_WRITTEN = {
    "boolean": "true|false",
    _BIGINT: r"0|-?[1-9][0-9]{0,17}",
    _NUMERIC: r"(?:0|-?[1-9][0-9]{0,99}|-?(?:0|[1-9][0-9]{0,99})\.[0-9]{1,99})",
    "date": r"[1-9][0-9]{3}-[01][0-9]-[0-3][0-9]",
    _TIMESTAMP: r"[1-9][0-9]{3}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9](?:\.[0-9]{0,5}[1-9])?",
}
_CASTS = {"date": pa.date32(), _TIMESTAMP: pa.timestamp("us")}


@dataclass
class Evidence:
    """What the values of one column can be, over all of a file."""

    possible: list[str] = field(default_factory=lambda: list(_WRITTEN))
    seen: bool = False

    def add(self, cells: pa.Array) -> None:
        """Take in one batch of text."""
        cells = cells.drop_null()
        self.seen |= len(cells) > 0
        if len(cells) and self.possible:
            self.possible = [kind for kind in self.possible if _all_are(kind, cells)]

    @property
    def kind(self) -> str | None:
        """The type of the values; None if there were none."""
        return next(iter(self.possible), TEXT) if self.seen else None


def _all_are(kind: str, cells: pa.Array) -> bool:
    if not pc.all(pc.match_substring_regex(cells, rf"\A(?:{_WRITTEN[kind]})\z")).as_py():
        return False
    if kind == _NUMERIC:  # PostgreSQL has no negative zero
        return not pc.any(pc.match_substring_regex(cells, r"\A-0\.0+\z")).as_py()
    return kind not in _CASTS or try_cast(cells, _CASTS[kind]) is not None


def join(a: str | None, b: str | None) -> str | None:
    """The least type that holds the values of both."""
    if a is None or b is None or a == b:
        return a or b
    return _NUMERIC if {a, b} == {_BIGINT, _NUMERIC} else TEXT
