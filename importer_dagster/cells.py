"""What all parsers of text share: bad cells, and looks at a whole column at once.

What does not belong here: how any one type is written (``parse.py``, ``dates.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_PROBED = 200  # cells that are cast before all others
SHOWN = 80  # characters of a value that a message shows

Mask: TypeAlias = npt.NDArray[np.bool_]
Positions: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BadCells:
    """Cells that could not be read: positions from 0 (int64, ascending) and what is wrong with each."""

    indexes: Positions
    messages: pa.Array


class Faults:
    """Collects what is wrong with the cells of one column; the first fault of a cell counts.

    ``text`` is the column as it stood in the file; messages show it.
    """

    def __init__(self, text: pa.Array) -> None:
        self.text = text
        self._found: list[tuple[Positions, pa.Array]] = []

    def add(self, where: Mask, words: str) -> None:
        """Say ``words`` of every cell where the mask is true."""
        if where.any():
            indexes = np.flatnonzero(where)
            self._found.append((indexes, pa.repeat(pa.scalar(words), len(indexes))))

    def add_each(self, indexes: Positions, words: Sequence[str]) -> None:
        """Say the words of the same rank of each cell at ``indexes``."""
        if len(indexes):
            self._found.append((indexes, pa.array(words, pa.string())))

    def cells(self) -> BadCells | None:
        """All bad cells, each once; None if there are none."""
        if not self._found:
            return None
        if len(self._found) == 1:  # the usual case
            indexes, words = self._found[0]
            return BadCells(indexes, said(self.text.take(pa.array(indexes)), words))
        indexes, first = np.unique(np.concatenate([i for i, _ in self._found]), return_index=True)
        words = pa.concat_arrays([w for _, w in self._found]).take(pa.array(first))
        return BadCells(indexes, said(self.text.take(pa.array(indexes)), words))


def said(values: pa.Array, words: pa.Array | pa.Scalar) -> pa.Array:
    """Messages such as ``'12a' is no integer``; the words alone where there is no value."""
    shown = pc.utf8_slice_codeunits(values, 0, SHOWN)
    cut = pc.if_else(pc.greater(pc.binary_length(values), pc.binary_length(shown)), "…' ", "' ")
    return pc.coalesce(pc.binary_join_element_wise("'", shown, cut, words, ""), words)


def as_mask(condition: pa.Array) -> Mask:
    """A boolean Arrow array as numpy, null as false."""
    filled: Mask = pc.fill_null(condition, False).to_numpy(zero_copy_only=False)
    return filled


def present(text: pa.Array) -> Mask:
    """Where there is a value."""
    return as_mask(text.is_valid())


def blank(array: pa.Array, where: Mask) -> pa.Array:
    """``array`` with NULL where the mask is true."""
    return pc.if_else(pa.array(where), pa.scalar(None, array.type), array) if where.any() else array


def with_nulls(values: npt.NDArray[Any], null: Mask, type_: pa.DataType) -> pa.Array:
    """Numbers as an Arrow array, NULL where the mask is true."""
    return pa.array(values, type_, mask=null if null.any() else None)


def raw_bytes(text: pa.Array) -> npt.NDArray[np.uint8]:
    """The bytes of all cells, one after the other, without a copy; the column has no nulls."""
    assert not text.null_count, "null slots may hide bytes"
    _, offset_buffer, data = text.buffers()
    if data is None or not len(text):
        return np.empty(0, np.uint8)
    offsets = np.frombuffer(offset_buffer, np.int32)[text.offset : text.offset + len(text) + 1]
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]


def byte_lengths(text: pa.Array) -> Positions:
    """Bytes in each cell of a column without nulls."""
    lengths: Positions = pc.binary_length(text).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def strange(text: pa.Array, alphabet: bytes) -> Mask:
    """Where a cell holds a byte that is not in ``alphabet``: five times as fast as a regex."""
    _, offset_buffer, data = text.buffers()
    mask = np.zeros(len(text), np.bool_)
    if data is None or not len(text):
        return mask
    offsets = np.frombuffer(offset_buffer, np.int32)[text.offset : text.offset + len(text) + 1]
    foreign = np.ones(256, np.bool_)
    foreign[np.frombuffer(alphabet, np.uint8)] = False
    hits = np.flatnonzero(foreign[np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]]) + offsets[0]
    mask[np.searchsorted(offsets, hits, side="right") - 1] = True
    return mask & present(text)  # null slots may hide bytes


def holds(text: pa.Array, wanted: bytes) -> bool:
    """Whether any cell, or what is hidden behind a null, holds one of the bytes; nearly free."""
    data = text.buffers()[2]
    if data is None:
        return False
    raw = np.frombuffer(data, np.uint8)
    return any(bool((raw == byte).any()) for byte in wanted)


def matching(text: pa.Array, pattern: str, faults: Faults, words: str) -> pa.Array:
    """``text`` with NULL where it does not match ``pattern`` (RE2, the whole of it); those are faults."""
    wrong = as_mask(pc.invert(pc.match_substring_regex(text, rf"\A(?:{pattern})\z")))
    faults.add(wrong, words)
    return blank(text, wrong)


def try_cast(text: pa.Array, type_: pa.DataType) -> pa.Array | None:
    """The whole column cast at once, or None if any cell will not go.

    A few cells go first: Arrow makes an error text for every cell that it cannot
    cast, so that a column of bad cells takes twenty times as long as one of good ones.
    """
    if len(text) > _PROBED and try_cast(text.slice(0, _PROBED), type_) is None:
        return None
    try:
        return pc.cast(text, type_)
    except pa.ArrowInvalid:
        return None
