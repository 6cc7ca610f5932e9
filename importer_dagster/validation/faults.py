"""Cells of a column that cannot be read, each with the reason.

What does not belong here: finding these cells (``validation/parse.py``), rejected records
(``validation/rejects.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import Mask, Positions, as_mask, null_where

if TYPE_CHECKING:
    from importer_dagster.validation.local_times import Clock

SHOWN = 80  # characters of a value that a message shows


@dataclass(frozen=True)
class BadCells:
    """Cells of the column ``text`` that could not be read.

    Each group has positions from 0 (int64, ascending) and their reason: one text for all of them, or an array with
    a text for each. No cell is in two groups.
    """

    text: pa.Array
    groups: tuple[tuple[Positions, str | pa.Array], ...]

    @property
    def indexes(self) -> Positions:
        """The positions of all bad cells, ascending."""
        return np.sort(np.concatenate([indexes for indexes, _ in self.groups]))

    @property
    def messages(self) -> pa.Array:
        """The message of each bad cell, its value included, in the order of ``indexes``."""
        order = np.argsort(np.concatenate([indexes for indexes, _ in self.groups]), kind="stable")
        messages = [fault_messages(self.values(indexes), words) for indexes, words in self.groups]
        return pa.concat_arrays(messages).take(pa.array(order))

    def values(self, indexes: Positions) -> pa.Array:
        """The texts at some positions."""
        return self.text.take(pa.array(indexes))


class Faults:
    """Collects the faults of one column; of a cell with several, the first counts.

    ``text`` is the column as it stands in the file; messages show it. ``clock`` knows the local times
    of earlier batches; None where there are none.
    """

    def __init__(self, text: pa.Array, clock: Clock | None = None) -> None:
        self.text, self.clock = text, clock
        self._groups: list[tuple[Positions, str | pa.Array]] = []
        self._is_known = np.zeros(len(text), np.bool_)

    def add(self, where: Mask, words: str) -> None:
        """Add a fault for every cell where the mask is true, with the same reason for all."""
        new = np.flatnonzero(where & ~self._is_known)
        if len(new):
            self._is_known[new] = True
            self._groups.append((new, words))

    def add_each(self, indexes: Positions, words: Sequence[str]) -> None:
        """Add a fault for each cell at ``indexes``, with a reason for each."""
        new = ~self._is_known[indexes]
        if new.any():
            self._is_known[indexes] = True
            self._groups.append((indexes[new], pa.array(words, pa.string()).filter(pa.array(new))))

    def subset(self, where: Mask) -> Faults:
        """A new, empty collection for the cells where the mask is true, which :meth:`add_subset` takes back."""
        return Faults(self.text.filter(pa.array(where)))

    def add_subset(self, subset: Faults, where: Mask) -> None:
        """Add the faults of a :meth:`subset` of the cells where the mask is true."""
        positions = np.flatnonzero(where)
        for indexes, words in subset._groups:
            self._is_known[positions[indexes]] = True
            self._groups.append((positions[indexes], words))

    def add_from(self, other: Faults, where: Mask, *, except_words: str) -> None:
        """Add the faults that ``other`` has of the same text where the mask is true, except those with these words."""
        for indexes, words in other._groups:
            new = where[indexes] & ~self._is_known[indexes]
            if isinstance(words, str) and words != except_words and new.any():
                self._is_known[indexes[new]] = True
                self._groups.append((indexes[new], words))
            elif not isinstance(words, str):
                self.add_each(indexes[new], words.filter(pa.array(new)).to_pylist())

    def bad_cells(self) -> BadCells | None:
        """All bad cells, each once; None if there are none."""
        return BadCells(self.text, tuple(self._groups)) if self._groups else None


def fault_messages(values: pa.Array, words: pa.Array | str) -> pa.Array:
    """Messages such as ``'12a' is no integer``, at most 80 characters of the value; the words alone for a null."""
    shown = pc.utf8_slice_codeunits(values, 0, SHOWN)
    is_cut = pc.greater(pc.binary_length(values), pc.binary_length(shown))
    end = pc.if_else(is_cut, "…' ", "' ")
    return pc.coalesce(pc.binary_join_element_wise("'", shown, end, words, ""), words)


def null_unless_match(text: pa.Array, pattern: str, faults: Faults, words: str) -> pa.Array:
    """``text`` with NULL where the whole cell does not match ``pattern`` (RE2); those cells become faults."""
    wrong = as_mask(pc.invert(pc.match_substring_regex(text, rf"\A(?:{pattern})\z")))
    faults.add(wrong, words)
    return null_where(text, wrong)
