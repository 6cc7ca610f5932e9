"""Files of other shapes than the usual one: narrow, wide, and full of text.

What does not belong here: measuring (``shapes.py``), the usual file (``data.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.data import FIELDS, keys, mixed_columns, write_blocks
from importer_dagster.spec.table import TableSpec

WIDE_COLUMNS = 200
_BLOCK_BYTES = 32 << 20  # made at once, roughly
_TEXTS = 2_000  # different ones


@dataclass(frozen=True)
class Shape:
    """A type that is measured: its name, how many rows for each of the usual file, and what it is made of.

    ``cells`` makes what is behind the keys of a number of rows, columns joined by commas.
    """

    name: str
    words: str
    share: float
    row_bytes: int
    fields: Sequence[dict[str, Any]]
    keys: int
    cells: Callable[[np.random.Generator, int], pa.Array]

    @property
    def type(self) -> str:
        """The name of the type and its table."""
        return f"bench_{self.name}"

    def spec(self) -> TableSpec:
        """The type, as it would be declared."""
        return TableSpec.model_validate({"name": self.type, "schema": {"fields": self.fields}})

    def write(self, path: Path, rows: int, *, seed: int = 1) -> int:
        """Write a file of ``rows`` rows with fresh keys; returns its size in bytes."""
        block = min(rows, max(_BLOCK_BYTES // self.row_bytes, 1))
        rest = self.cells(np.random.default_rng(seed), block)
        header = ",".join(f["name"] for f in self.fields) + "\n"

        def cells(start: int, n: int) -> list[pa.Array]:
            return [*list(keys(1 + start, n))[: self.keys], rest.slice(0, n)]

        return write_blocks(path, header, rows, block, cells)


def _joined(columns: Sequence[pa.Array]) -> pa.Array:
    return pc.binary_join_element_wise(*columns, ",")


# --- narrow -------------------------------------------------------------------------


def _integers(rng: np.random.Generator, n: int) -> pa.Array:
    ranges = ((1, 90_000), (0, 100), (-(10**12), 10**12))
    return _joined([pa.array(rng.integers(*r, n)).cast(pa.string()) for r in ranges])


_NARROW = [
    {"name": "id", "type": "integer", "constraints": {"required": True, "minimum": 1}},
    {"name": "customer_id", "type": "integer", "constraints": {"required": True, "minimum": 1}},
    {"name": "quantity", "type": "integer", "constraints": {"minimum": 0, "maximum": 100}},
    {"name": "balance", "type": "integer"},
]


# --- wide ---------------------------------------------------------------------------


def _wide_fields() -> list[dict[str, Any]]:
    """The keys of the usual type, and its other fields again and again."""
    usual = [f for f, _ in FIELDS]
    others = [
        {**usual[2 + i % 15], "name": f"{usual[2 + i % 15]['name']}_{i // 15}"}
        for i in range(WIDE_COLUMNS - 2)
    ]
    return [*usual[:2], *others]


def _mixed(rng: np.random.Generator, n: int) -> pa.Array:
    columns = [c for _ in range(-(-WIDE_COLUMNS // 15)) for c in mixed_columns(rng, n)]
    return _joined(columns[: WIDE_COLUMNS - 2])


# --- text ---------------------------------------------------------------------------

_TEXT = [
    {"name": "id", "type": "integer", "constraints": {"required": True, "minimum": 1}},
    {"name": "lang", "constraints": {"required": True, "enum": ["de", "en", "fr"]}},
    {"name": "body", "constraints": {"required": True, "maxLength": 2_000}},
]
_WORDS = (
    "the",
    "order",
    "was",
    "late",
    "and",
    "one",
    "box",
    "came",
    "damaged",
    "please",
    "refund",
    "it",
    "soon",
)
# of every five texts: one plain, three with commas, of these one with umlauts, one with quotes and lines
_MARKS = ((" ", False), (", ", True), (", ", True), (", Größe ", True), (' ""so""\n', True))


def _texts(rng: np.random.Generator, n: int) -> pa.Array:
    """Two short columns and cells of 1 KB on average, a few thousand different ones."""
    texts = pa.array([_text(rng, *_MARKS[i % len(_MARKS)]) for i in range(_TEXTS)])
    languages = pa.array(["de", "en", "fr"]).take(pa.array(rng.integers(0, 3, n)))
    return _joined([languages, texts.take(pa.array(rng.integers(0, _TEXTS, n)))])


def _text(rng: np.random.Generator, mark: str, quoted: bool) -> str:
    length = int(rng.integers(700, 1_300))
    words = " ".join(_WORDS[i] for i in rng.integers(0, len(_WORDS), length // 4))
    pieces = [words[i : i + 90] for i in range(0, length, 90)]
    text = mark.join(pieces).strip()
    return f'"{text}"' if quoted else text


NARROW = Shape("narrow", "4 integer columns", 4.0, 27, _NARROW, 1, _integers)
WIDE = Shape("wide", f"{WIDE_COLUMNS} mixed columns", 0.05, 1_900, _wide_fields(), 2, _mixed)
TEXT = Shape("text", "text cells of 1 KB", 0.2, 1_050, _TEXT, 1, _texts)
SHAPES = (NARROW, WIDE, TEXT)
