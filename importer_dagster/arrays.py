"""Helpers that look at a whole Arrow column at once: masks, lengths in bytes, bytes that cells contain, casts.

Where Arrow's own function is slow, numpy reads the buffers of the array directly. The slots of nulls may then
contain bytes of anything; each function says what it does about them.

What does not belong here: how a type is written in text (``validation/parse.py``), unreadable cells
(``validation/faults.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import as_strided

Mask: TypeAlias = npt.NDArray[np.bool_]
Positions: TypeAlias = npt.NDArray[np.int64]

_WORD_BYTES = 8  # of a short word, which is compared as one 64-bit number
_MOST_COMPARED = 16  # short words, up to which comparing with each of them is faster than Arrow
_CELLS_TRIED_FIRST = 200  # before a whole column is cast


# --- masks and nulls --------------------------------------------------------------


def as_mask(condition: pa.Array) -> Mask:
    """A boolean Arrow array as numpy, null as false."""
    filled: Mask = pc.fill_null(condition, False).to_numpy(zero_copy_only=False)
    return filled


def present(array: pa.Array) -> Mask:
    """Where the array is not null; takes a tenth of the time of ``pc.is_valid``."""
    if not array.null_count:
        return np.ones(len(array), np.bool_)
    first_byte, first_bit = divmod(array.offset, 8)
    bits = np.frombuffer(array.buffers()[0], np.uint8)[first_byte:]
    unpacked = np.unpackbits(bits, count=first_bit + len(array), bitorder="little")
    mask: Mask = unpacked[first_bit:].view(np.bool_)
    return mask


def mask_at(positions: Positions, length: int) -> Mask:
    """A mask of ``length`` that is true at the positions."""
    mask = np.zeros(length, np.bool_)
    mask[positions] = True
    return mask


def null_where(array: pa.Array, where: Mask) -> pa.Array:
    """``array`` with NULL where the mask is true."""
    return pc.if_else(pa.array(where), pa.scalar(None, array.type), array) if where.any() else array


def with_nulls(values: npt.NDArray[Any], null: Mask, type_: pa.DataType) -> pa.Array:
    """Numbers as an Arrow array, NULL where the mask is true."""
    return pa.array(values, type_, mask=null if null.any() else None)


# --- lengths and bytes of text ------------------------------------------------------


def byte_lengths(text: pa.Array) -> npt.NDArray[np.int32]:
    """The number of bytes of each cell; of a null mostly 0, but its slot may contain some."""
    offsets = _offsets(text)
    lengths: npt.NDArray[np.int32] = offsets[1:] - offsets[:-1]
    return lengths


def _offsets(text: pa.Array) -> npt.NDArray[np.int32]:
    """Where each cell begins in the buffer of bytes, and where the last one ends."""
    offset_buffer = text.buffers()[1]
    if offset_buffer is None or not len(text):
        return np.zeros(len(text) + 1, np.int32)
    return np.frombuffer(offset_buffer, np.int32)[text.offset : text.offset + len(text) + 1]


def is_empty(text: pa.Array) -> Mask:
    """Where a cell is not null and has no bytes; takes a tenth of the time of Arrow's comparison with ``''``."""
    no_bytes: Mask = byte_lengths(text) == 0
    return no_bytes & present(text) if text.null_count else no_bytes


def all_within(text: pa.Array, shortest: int, longest: int) -> bool:
    """Whether all cells that are not null have between ``shortest`` and ``longest`` bytes."""
    lengths = byte_lengths(text)
    outside = (lengths < shortest) | (lengths > longest)
    return not (outside & present(text)).any() if outside.any() else True


def raw_bytes(text: pa.Array) -> npt.NDArray[np.uint8]:
    """The bytes of all cells, one after the other, without a copy; the column must have no nulls."""
    assert not text.null_count, "the slots of nulls may contain bytes"
    data = text.buffers()[2]
    if data is None:
        return np.empty(0, np.uint8)
    offsets = _offsets(text)
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]


def has_other_bytes(text: pa.Array, alphabet: bytes) -> Mask:
    """Where a cell contains a byte that is not in ``alphabet``; five times as fast as a regular expression."""
    data = text.buffers()[2]
    mask = np.zeros(len(text), np.bool_)
    if data is None or not len(text):
        return mask
    offsets = _offsets(text)
    is_other = bytes(byte not in alphabet for byte in range(256))
    used = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    # bytes.translate takes half the time of an array as the table
    hits = np.flatnonzero(np.frombuffer(used.tobytes().translate(is_other), np.bool_)) + offsets[0]
    mask[np.searchsorted(offsets, hits, side="right") - 1] = True
    return mask & present(text)  # the slots of nulls may contain bytes


def contains_any(text: pa.Array, wanted: bytes) -> bool:
    """Whether any cell contains one of the bytes; takes nearly no time where none does."""
    data = text.buffers()[2]
    if data is None:
        return False
    raw = data.to_pybytes()  # searching a copy takes a tenth of the time of comparing all bytes in numpy
    if not any(byte in raw for byte in wanted):
        return False
    # the slots of nulls may contain bytes
    return contains_any(text.drop_null(), wanted) if text.null_count else True


# --- comparing with words -----------------------------------------------------------


def among_words(text: pa.Array, *lists: Sequence[str]) -> list[Mask]:
    """For each list of words a mask of the cells that are one of them.

    If the words are few and shorter than 8 bytes, they are compared as numbers of 64 bits, which takes a third of
    the time of ``pc.is_in``.
    """
    lists_of_numbers = [_numbers_of_words(tuple(words)) for words in lists]
    if any(numbers is None for numbers in lists_of_numbers) or sum(map(len, lists)) > _MOST_COMPARED:
        return [as_mask(pc.is_in(text, value_set=pa.array(words, pa.string()))) for words in lists]
    cells, is_present = _as_numbers(text), present(text)
    masks = []
    for numbers in lists_of_numbers:
        found = np.zeros(len(text), np.bool_)
        for number in numbers if numbers is not None else ():
            found |= cells == number
        masks.append(found & is_present)
    return masks


@lru_cache
def _numbers_of_words(words: tuple[str, ...]) -> npt.NDArray[np.uint64] | None:
    """The words as numbers; None if one of them has 8 bytes or more."""
    array = pa.array(words, pa.string())
    return _as_numbers(array) if all_within(array, 0, _WORD_BYTES - 1) else None


def _as_numbers(text: pa.Array) -> npt.NDArray[np.uint64]:
    """One number for each cell: its first 8 bytes, or its bytes and their count if it has fewer than 8.

    Texts of fewer than 8 bytes have the same number only if they are the same.
    """
    offsets = _offsets(text)
    first, last = int(offsets[0]), int(offsets[-1])
    raw = np.zeros(last - first + _WORD_BYTES, np.uint8)  # 8 bytes can be read from the last byte on, too
    if last > first:
        raw[:-_WORD_BYTES] = np.frombuffer(text.buffers()[2], np.uint8)[first:last]
    # the 8 bytes from each position on
    words = as_strided(
        raw[:_WORD_BYTES].view(np.uint64), (len(raw) - _WORD_BYTES + 1,), (1,), writeable=False
    )
    sizes = np.minimum(np.diff(offsets), _WORD_BYTES).astype(np.uint64)
    numbers: npt.NDArray[np.uint64] = words[offsets[:-1] - first] << (8 * (_WORD_BYTES - sizes)) | sizes
    return numbers


# --- casts --------------------------------------------------------------------------


def try_cast(text: pa.Array, type_: pa.DataType) -> pa.Array | None:
    """The whole column cast to the type, or None if one of its cells cannot be cast.

    The first 200 cells are tried before the rest. Arrow makes an error text for every cell that it cannot cast,
    so a column of bad cells takes twenty times as long as one of good cells.
    """
    if len(text) > _CELLS_TRIED_FIRST and try_cast(text.slice(0, _CELLS_TRIED_FIRST), type_) is None:
        return None
    try:
        return pc.cast(text, type_)
    except pa.ArrowInvalid:
        return None
