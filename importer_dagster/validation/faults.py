"""Cells of a column that cannot be read, with the reason of each.

What does not belong here: which cells these are (``validation/parse.py``), rejected records (``validation/rejects.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import Mask, Positions, as_mask, blank

SHOWN = 80  # characters of a value that a message shows


@dataclass(frozen=True)
class BadCells:
    """Cells of the column ``text`` that could not be read.

    Each group has positions from 0 (int64, ascending) and what is wrong: the
    same words for all, or an array of one for each. No cell is in two groups.
    """

    text: pa.Array
    groups: tuple[tuple[Positions, str | pa.Array], ...]

    @property
    def indexes(self) -> Positions:
        """The positions of all, ascending."""
        return np.sort(np.concatenate([indexes for indexes, _ in self.groups]))

    @property
    def messages(self) -> pa.Array:
        """What is wrong with each, its value included, in the order of ``indexes``."""
        order = np.argsort(np.concatenate([indexes for indexes, _ in self.groups]), kind="stable")
        return pa.concat_arrays([said(self.values(i), words) for i, words in self.groups]).take(
            pa.array(order)
        )

    def values(self, indexes: Positions) -> pa.Array:
        """The texts at some positions."""
        return self.text.take(pa.array(indexes))


class Faults:
    """Collects what is wrong with the cells of one column; the first fault of a cell counts.

    ``text`` is the column as it stood in the file; messages show it.
    """

    def __init__(self, text: pa.Array) -> None:
        self.text = text
        self._found: list[tuple[Positions, str | pa.Array]] = []
        self._known = np.zeros(len(text), np.bool_)

    def add(self, where: Mask, words: str) -> None:
        """Say ``words`` of every cell where the mask is true."""
        new = np.flatnonzero(where & ~self._known)
        if len(new):
            self._known[new] = True
            self._found.append((new, words))

    def add_each(self, indexes: Positions, words: Sequence[str]) -> None:
        """Say the words of the same rank of each cell at ``indexes``."""
        new = ~self._known[indexes]
        if new.any():
            self._known[indexes] = True
            self._found.append((indexes[new], pa.array(words, pa.string()).filter(pa.array(new))))

    def among(self, where: Mask) -> Faults:
        """An own collection for the cells where the mask is true, which are looked at apart."""
        return Faults(self.text.filter(pa.array(where)))

    def include(self, among: Faults, where: Mask) -> None:
        """Take over what was found ``among`` the cells where the mask is true."""
        positions = np.flatnonzero(where)
        for indexes, words in among._found:
            self._known[positions[indexes]] = True
            self._found.append((positions[indexes], words))

    def take(self, other: Faults, where: Mask, *, but: str) -> None:
        """Say of the cells at ``where`` what ``other``, of the same text, said of them, the words ``but`` left out."""
        for indexes, words in other._found:
            new = where[indexes] & ~self._known[indexes]
            if isinstance(words, str) and words != but and new.any():
                self._known[indexes[new]] = True
                self._found.append((indexes[new], words))
            elif not isinstance(words, str):
                self.add_each(indexes[new], words.filter(pa.array(new)).to_pylist())

    def cells(self) -> BadCells | None:
        """All bad cells, each once; None if there are none."""
        return BadCells(self.text, tuple(self._found)) if self._found else None


def said(values: pa.Array, words: pa.Array | str) -> pa.Array:
    """Messages such as ``'12a' is no integer``; the words alone where there is no value."""
    shown = pc.utf8_slice_codeunits(values, 0, SHOWN)
    cut = pc.if_else(pc.greater(pc.binary_length(values), pc.binary_length(shown)), "…' ", "' ")
    return pc.coalesce(pc.binary_join_element_wise("'", shown, cut, words, ""), words)


def matching(text: pa.Array, pattern: str, faults: Faults, words: str) -> pa.Array:
    """``text`` with NULL where it does not match ``pattern`` (RE2, the whole of it); those are faults."""
    wrong = as_mask(pc.invert(pc.match_substring_regex(text, rf"\A(?:{pattern})\z")))
    faults.add(wrong, words)
    return blank(text, wrong)
