"""The values of a column, summed up batch by batch in bounded memory.

A text's *shape* is the text with each run of letters as ``a``, each digit as
``9`` and a leading zero as ``z``: ``-0.50`` is ``-z.99``. Numbers, dates and codes have
few shapes, so counts of shapes show how values are written without keeping the values.

What does not belong here: choosing types by it (``inference/candidates.py``, ``inference/type_choice.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

MAX_SHAPES = 2_000
MAX_DISTINCT = 10_000
MAX_SENTINELS = 100  # of one batch
MAX_DISTINCT_BYTES = 64 << 20  # over all columns
MAX_HASHES = 4_000_000  # records of a file over which uniqueness is judged
_SHAPED = 80  # characters of a text that its shape is made of
LONG = 10_000_000  # characters, more than any value has: where the search for the shortest begins

# Texts that often mean a missing value. They count as such only where the rest of a
# column is no text, since NA is also Namibia and Null is also a surname.
SENTINELS = (
    "NA", "N/A", "n/a", "na", "#N/A", "n.a.", "k.A.", "NULL", "null", "Null", "[NULL]", "<NULL>", "(null)", "<null>",
    "None", "none", "NONE", "nil", "NIL", "NaN", "nan", "NAN", "\\N", "-", "--", "---", "?", ".", "..", "*", "**", "***",
    "****", "*****", "missing", "#NULL!", "#VALUE!", "#DIV/0!", "#REF!", "0000-00-00", "0000-00-00 00:00:00",
    "00.00.0000", "00/00/0000",
)  # fmt: skip
# These are never meant as text: databases write them for NULL.
SURE_SENTINELS = ("\\N", "[NULL]", "<NULL>", "(null)", "<null>")

_SENTINEL_ARRAY = pa.array(SENTINELS, pa.string())


@dataclass
class Shape:
    """How often a shape occurs, and one text that has it."""

    count: int
    example: str


@dataclass
class Lengths:
    """Characters of the longest and the shortest text."""

    longest: int = 0
    shortest: int = LONG


@dataclass
class Forms:
    """How many texts have a special form: uuids, and texts in braces as JSON objects are.

    ``largest_whole`` is the largest of the whole numbers with 19 digits or more, without sign.
    """

    uuids: int = 0
    objects: int = 0
    largest_whole: int = 0


@dataclass
class Uniqueness:
    """Whether no text comes twice in one file (``holds``), and how many were in an earlier file, too (``recurs``)."""

    holds: bool = True
    recurs: int = 0
    _hashes: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    _before: npt.NDArray[np.uint64] | None = None

    def add(self, texts: pa.Array, count: int) -> None:
        """Take in the different texts of a batch that has ``count`` texts."""
        if not self.holds:
            return
        repeats = len(texts) < count
        if not repeats and sum(map(len, self._hashes)) < MAX_HASHES:
            hashes = hashes_of(texts)
            repeats = any(np.isin(hashes, h).any() for h in self._hashes)
            self._hashes.append(hashes)
        if repeats:
            self.holds, self._hashes, self._before = False, [], None

    def end_of_file(self) -> None:
        """End one file: each is judged by itself, since days of one type may have the same keys."""
        if not self._hashes:
            return
        hashes = np.sort(np.concatenate(self._hashes))
        if self._before is not None:
            self.recurs += int(np.isin(hashes, self._before, assume_unique=True).sum())
        self._before, self._hashes = hashes, []


@dataclass
class Column:
    """One column, summed up over all records read so far.

    ``missing`` counts empty cells without quotes, ``empty`` those with quotes.
    ``distinct`` has the count of each text, and is None once there are too many;
    ``shapes`` has the count of each shape without sentinels, and is None likewise.
    """

    name: str
    rows: int = 0
    missing: int = 0
    empty: int = 0
    lengths: Lengths = field(default_factory=Lengths)
    forms: Forms = field(default_factory=Forms)
    uniqueness: Uniqueness = field(default_factory=Uniqueness)
    distinct: Counter[str] | None = field(default_factory=Counter)
    shapes: dict[str, Shape] | None = field(default_factory=dict)
    sentinels: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)
    _bytes: int = 0

    @property
    def values(self) -> int:
        """How many cells have a text that is not empty."""
        return self.rows - self.missing - self.empty

    @property
    def plain(self) -> int:
        """How many cells have a text that is neither empty nor a sentinel."""
        return self.values - sum(self.sentinels.values())

    def add(self, cells: pa.Array, most_bytes: int) -> None:
        """Add one batch of text, null where a cell was empty without quotes.

        ``most_bytes`` of distinct texts are kept at most.
        """
        self.rows += len(cells)
        self.missing += cells.null_count
        counted = pc.value_counts(cells.drop_null() if cells.null_count else cells)
        texts, counts = counted.field(0), counted.field(1).to_numpy()
        blank = pc.equal(pc.binary_length(texts), 0)
        if pc.any(blank).as_py():
            self.empty += int(counts[blank.to_numpy(zero_copy_only=False)].sum())
        if not len(texts):
            return
        lengths = pc.min_max(pc.utf8_length(texts))
        self.lengths.longest = max(self.lengths.longest, lengths["max"].as_py())
        self.lengths.shortest = min(self.lengths.shortest, lengths["min"].as_py())
        if len(self.samples) < 5:
            self.samples += [t[:40] for t in texts.slice(0, 5).to_pylist() if t]
        self._count_distinct(texts, counts, most_bytes)
        self._count_sentinels_and_shapes(texts, counts)
        self.uniqueness.add(texts, int(counts.sum()))

    def end_of_file(self) -> None:
        """End one file of several."""
        self.uniqueness.end_of_file()

    def _count_distinct(self, texts: pa.Array, counts: npt.NDArray[np.int64], most_bytes: int) -> None:
        if self.distinct is None:
            return
        new_bytes = texts.nbytes
        if len(texts) > MAX_DISTINCT or self._bytes + new_bytes > 4 * most_bytes:
            self.distinct = None
            return
        before = len(self.distinct)
        self.distinct.update(dict(zip(texts.to_pylist(), counts.tolist(), strict=True)))
        self._bytes += int(new_bytes * (len(self.distinct) - before) / max(len(texts), 1))
        if len(self.distinct) > MAX_DISTINCT or self._bytes > most_bytes:
            self.distinct = None

    def _count_sentinels_and_shapes(self, texts: pa.Array, counts: npt.NDArray[np.int64]) -> None:
        """Count the sentinels, which a text of blanks alone is too, and the shapes of all other texts."""
        blank = pc.match_substring_regex(texts, r"\A[\s\pZ]+\z")
        known = pc.or_(pc.is_in(texts, value_set=_SENTINEL_ARRAY), blank)
        if pc.any(known).as_py():
            mask = known.to_numpy(zero_copy_only=False)
            found = dict(zip(texts.filter(known).to_pylist(), counts[mask].tolist(), strict=True))
            self.sentinels.update(dict(list(found.items())[:MAX_SENTINELS]))
            texts, counts = texts.filter(pc.invert(known)), counts[~mask]
        filled = pc.greater(pc.binary_length(texts), 0)
        texts, counts = texts.filter(filled), counts[filled.to_numpy(zero_copy_only=False)]
        uuid = pc.match_substring_regex(
            texts, r"\A\{?[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}?\z"
        )
        self.forms.uuids += int(counts[uuid.to_numpy(zero_copy_only=False)].sum())
        braces = pc.match_substring_regex(texts, r"(?s)\A\s*\{.*\}\s*\z")
        self.forms.objects += int(counts[braces.to_numpy(zero_copy_only=False)].sum())
        if self.shapes is None:
            return
        long = texts.filter(pc.match_substring_regex(texts, r"\A[+-]?[0-9]{19,60}\z"))
        if len(long):
            self.forms.largest_whole = max(self.forms.largest_whole, *(abs(int(t)) for t in long.to_pylist()))
        encoded = shapes_of(texts).dictionary_encode()
        indices = encoded.indices.to_numpy(zero_copy_only=False)
        sums = np.bincount(indices, weights=counts, minlength=len(encoded.dictionary)).astype(np.int64)
        _, first = np.unique(indices, return_index=True)
        examples = texts.take(pa.array(first)).to_pylist()
        for shape, count, example in zip(
            encoded.dictionary.to_pylist(), sums.tolist(), examples, strict=True
        ):
            known_shape = self.shapes.get(shape)
            if known_shape is None:
                self.shapes[shape] = Shape(count, example)
            else:
                known_shape.count += count
        if len(self.shapes) > MAX_SHAPES:
            self.shapes = None


def shapes_of(texts: pa.Array) -> pa.Array:
    """The shape of each text."""
    shapes = pc.replace_substring_regex(pc.utf8_slice_codeunits(texts, 0, _SHAPED), r"\pL+", "a")
    shapes = pc.replace_substring_regex(shapes, r"\A([^0-9a]*)0", r"\1z")
    return pc.replace_substring_regex(shapes, "[0-9]", "9")


def hashes_of(texts: pa.Array) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each text; null has the hash of the NUL character."""
    plain = pc.fill_null(texts, "\0") if texts.null_count else texts
    hashed: npt.NDArray[np.uint64] = pd.util.hash_array(
        np.asarray(plain.to_pylist(), dtype=object), categorize=False
    )
    return hashed


def bytes_per_column(columns: Sequence[object]) -> int:
    """How many bytes of distinct texts one column may keep."""
    return max(1 << 14, MAX_DISTINCT_BYTES // max(len(columns), 1))
