"""Cells that no field takes: they become columns of their own, or are kept as JSON in ``_extra``.

What does not belong here: deciding which (``validation/drift.py``), changing tables (``writer/schema_evolution.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import try_cast
from importer_dagster.spec.fields import FieldSpec

EXTRA = "_extra"
TEXT = "text"
_BIGINT, _NUMERIC, _TIMESTAMP = "bigint", "numeric", "timestamp without time zone"
# PostgreSQL type → what its values look like when PostgreSQL writes them
VALUE_PATTERNS = {
    "boolean": "true|false",
    _BIGINT: r"0|-?[1-9][0-9]{0,17}",
    _NUMERIC: r"(?:0|-?[1-9][0-9]{0,99}|-?(?:0|[1-9][0-9]{0,99})\.[0-9]{1,99})",
    "date": r"[1-9][0-9]{3}-[01][0-9]-[0-3][0-9]",
    _TIMESTAMP: r"[1-9][0-9]{3}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9](?:\.[0-9]{0,5}[1-9])?",
}
_CASTS = {"date": pa.date32(), _TIMESTAMP: pa.timestamp("us")}  # whether such a day or time exists

# (rescued field, its text, its typed values) → the texts that could not be read, NULL elsewhere
UnreadTexts: TypeAlias = Callable[["Rescued", pa.Array, pa.Array], pa.Array]


@dataclass(frozen=True)
class Rescued:
    """A field whose unreadable values are kept: the text column that feeds it, and its key in ``_extra``."""

    field: FieldSpec
    source: str
    key: str


@dataclass
class Extras:
    """The cells of one delivery that no field takes.

    ``grows`` maps a text column of the batches to the column of the table that
    it becomes, ``kept`` to its key in ``_extra``. Of the fields in ``rescued``,
    values that cannot be read are kept in ``_extra``, too. ``evidence`` has the possible
    types of each column that the table gains.
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
        self, columns: pa.RecordBatch, typed: pa.RecordBatch, good: np.ndarray, unread: UnreadTexts
    ) -> list[pa.Array]:
        """The cells of the rows at ``good``, one array for each of ``names``.

        ``columns`` is the whole batch of text, ``typed`` its good rows as read; ``unread``
        gives the texts of a rescued field that could not be read.
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
        parts = {r.key: unread(r, taken.column(r.source), typed.column(r.field.column)) for r in self.rescued}
        return [*arrays, _as_json(whole, parts)]


def _as_json(whole: Mapping[str, pa.Array], parts: Mapping[str, pa.Array]) -> pa.Array:
    """One JSON object per row, NULL if it would be empty; of ``parts`` only the values that are not null.

    It goes row by row, since it runs only where a file has such cells.
    """
    names = [*whole, *parts]
    columns = [column.to_pylist() for column in (*whole.values(), *parts.values())]
    texts = []
    for row in zip(*columns, strict=True):
        cells = {n: v for n, v in zip(names, row, strict=True) if v is not None or n not in parts}
        texts.append(json.dumps(cells, ensure_ascii=False) if cells else None)
    return pa.array(texts, pa.string())


@dataclass
class Evidence:
    """The PostgreSQL types that can hold all values of one column, over all of a file."""

    possible: list[str] = field(default_factory=lambda: list(VALUE_PATTERNS))
    seen: bool = False

    def add(self, cells: pa.Array) -> None:
        """Rule out the types that one batch of text does not fit."""
        cells = cells.drop_null()
        if len(cells):
            self.seen = True
            self.possible = [type_ for type_ in self.possible if _are_all(type_, cells)]

    @property
    def kind(self) -> str | None:
        """The type of the values; None if there were none."""
        return next(iter(self.possible), TEXT) if self.seen else None


def _are_all(type_: str, cells: pa.Array) -> bool:
    if not pc.all(pc.match_substring_regex(cells, rf"\A(?:{VALUE_PATTERNS[type_]})\z")).as_py():
        return False
    if type_ == _NUMERIC:  # PostgreSQL has no negative zero
        return not pc.any(pc.match_substring_regex(cells, r"\A-0\.0+\z")).as_py()
    return type_ not in _CASTS or try_cast(cells, _CASTS[type_]) is not None


def common_type(a: str | None, b: str | None) -> str | None:
    """The narrowest type that holds the values of both; None stands for no values."""
    if a is None or b is None or a == b:
        return a or b
    return _NUMERIC if {a, b} == {_BIGINT, _NUMERIC} else TEXT
