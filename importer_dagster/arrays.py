"""What all parsers of text share: bad cells, and looks at a whole column at once.

What does not belong here: how any one type is written (``validation/parse.py``, ``validation/parse_dates.py``).
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

_PROBED = 200  # cells that are cast before all others

Mask: TypeAlias = npt.NDArray[np.bool_]
Positions: TypeAlias = npt.NDArray[np.int64]


def as_mask(condition: pa.Array) -> Mask:
    """A boolean Arrow array as numpy, null as false."""
    filled: Mask = pc.fill_null(condition, False).to_numpy(zero_copy_only=False)
    return filled


def present(array: pa.Array) -> Mask:
    """Where there is a value: a tenth of the time that Arrow takes."""
    if not array.null_count:
        return np.ones(len(array), np.bool_)
    skipped, at = divmod(array.offset, 8)
    bits = np.frombuffer(array.buffers()[0], np.uint8)[skipped:]
    mask: Mask = np.unpackbits(bits, count=at + len(array), bitorder="little")[at:].view(np.bool_)
    return mask


def byte_lengths(text: pa.Array) -> npt.NDArray[np.int32]:
    """Bytes in each cell; of a null as a rule none, but its slot may hide some."""
    offsets = _offsets(text)
    lengths: npt.NDArray[np.int32] = offsets[1:] - offsets[:-1]
    return lengths


def _offsets(text: pa.Array) -> npt.NDArray[np.int32]:
    offset_buffer = text.buffers()[1]
    if offset_buffer is None or not len(text):
        return np.zeros(len(text) + 1, np.int32)
    return np.frombuffer(offset_buffer, np.int32)[text.offset : text.offset + len(text) + 1]


def empty(text: pa.Array) -> Mask:
    """Where there is a value without any bytes: a tenth of the time that Arrow takes."""
    none: Mask = byte_lengths(text) == 0
    return none & present(text) if text.null_count else none


def all_within(text: pa.Array, shortest: int, longest: int) -> bool:
    """Whether all values have that many bytes."""
    lengths = byte_lengths(text)
    outside = (lengths < shortest) | (lengths > longest)
    return not (outside & present(text)).any() if outside.any() else True


_WORD = 8  # bytes
_FEW = 16  # words, up to which it is faster to compare with each of them


def among_words(text: pa.Array, *lists: Sequence[str]) -> list[Mask]:
    """For each list of words, where the value is one of them: in a third of Arrow's time if they are few and short."""
    wanted = [_numbers_of(tuple(words)) for words in lists]
    if any(numbers is None for numbers in wanted) or sum(map(len, lists)) > _FEW:
        return [as_mask(pc.is_in(text, value_set=pa.array(words, pa.string()))) for words in lists]
    numbers, there = _as_numbers(text), present(text)
    return [_one_of(numbers, words) & there for words in wanted if words is not None]


@lru_cache
def _numbers_of(words: tuple[str, ...]) -> npt.NDArray[np.uint64] | None:
    """The numbers of words that are all short; None of others."""
    array = pa.array(words, pa.string())
    return _as_numbers(array) if all_within(array, 0, _WORD - 1) else None


def _one_of(numbers: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> Mask:
    found = np.zeros(len(numbers), np.bool_)
    for number in wanted:
        found |= numbers == number
    return found


def _as_numbers(text: pa.Array) -> npt.NDArray[np.uint64]:
    """A number for each cell, another one for every text of less than 8 bytes: its bytes and how many these are."""
    offsets = _offsets(text)
    first, last = int(offsets[0]), int(offsets[-1])
    raw = np.zeros(last - first + _WORD, np.uint8)  # with room for a word that begins at the last byte
    if last > first:
        raw[:-_WORD] = np.frombuffer(text.buffers()[2], np.uint8)[first:last]
    words = as_strided(raw[:_WORD].view(np.uint64), (len(raw) - _WORD + 1,), (1,), writeable=False)
    sizes = np.minimum(np.diff(offsets), _WORD).astype(np.uint64)
    found: npt.NDArray[np.uint64] = words[offsets[:-1] - first] << (8 * (_WORD - sizes)) | sizes
    return found


def blank(array: pa.Array, where: Mask) -> pa.Array:
    """``array`` with NULL where the mask is true."""
    return pc.if_else(pa.array(where), pa.scalar(None, array.type), array) if where.any() else array


def with_nulls(values: npt.NDArray[Any], null: Mask, type_: pa.DataType) -> pa.Array:
    """Numbers as an Arrow array, NULL where the mask is true."""
    return pa.array(values, type_, mask=null if null.any() else None)


def raw_bytes(text: pa.Array) -> npt.NDArray[np.uint8]:
    """The bytes of all cells, one after the other, without a copy; the column has no nulls."""
    assert not text.null_count, "null slots may hide bytes"
    data = text.buffers()[2]
    if data is None:
        return np.empty(0, np.uint8)
    offsets = _offsets(text)
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]


def strange(text: pa.Array, alphabet: bytes) -> Mask:
    """Where a cell holds a byte that is not in ``alphabet``: five times as fast as a regex."""
    data = text.buffers()[2]
    mask = np.zeros(len(text), np.bool_)
    if data is None or not len(text):
        return mask
    offsets = _offsets(text)
    foreign = bytes(byte not in alphabet for byte in range(256))
    used = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    # bytes.translate takes half the time of an array as the table
    hits = np.flatnonzero(np.frombuffer(used.tobytes().translate(foreign), np.bool_)) + offsets[0]
    mask[np.searchsorted(offsets, hits, side="right") - 1] = True
    return mask & present(text)  # null slots may hide bytes


def holds(text: pa.Array, wanted: bytes) -> bool:
    """Whether any cell holds one of the bytes; nearly free where none does."""
    data = text.buffers()[2]
    if data is None:
        return False
    raw = data.to_pybytes()  # to look for a byte in a copy takes a tenth of comparing all with it
    if not any(byte in raw for byte in wanted):
        return False
    return holds(text.drop_null(), wanted) if text.null_count else True  # null slots may hide bytes


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
