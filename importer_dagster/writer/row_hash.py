"""A number for the contents of each row: :func:`row_hashes`, by columns.

Equal contents have equal numbers; different ones have different numbers but for
a chance of one in 2**64 for each pair that is compared, and always where they differ
in one value of eight bytes (integer, date, time, binary float) only. Each column adds a number of its own for each
value and nothing for a null, so that a column which is new, and null in the rows
that were there before, leaves their numbers as they are.

A value counts by its bits, under its column's name and Arrow type: 0 and -0 of a
binary float differ, and 1.0 and 1.00 in the text of JSON.

Made of numpy (0.2 s for a million rows of 17 columns): Arrow has no such function to
call, and Polars, which has, is no faster by enough to be worth 180 MB of it.

What does not belong here: what the numbers are good for (``writer/unchanged_filter.py``).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

VERSION = 1  # to be raised with every change that gives a value another number

_Words = NDArray[np.uint64]
_WORD = 8  # bytes
_ROWS = 16_384  # at a time, so that what lies in between stays in the processor's cache
_LONG = 1024  # bytes of a text from which on it is hashed by itself: words of it by columns would be few rows each
_KEEP = np.array([(1 << 8 * n) - 1 for n in range(_WORD + 1)], np.uint64)  # the first n bytes of a word
# splitmix64's finalizer (Steele, Lea and Flood 2014, constants by Stafford): one to one, every bit moves every bit
_SHIFTS = tuple(map(np.uint64, (30, 27, 31)))
_FACTORS = tuple(map(np.uint64, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))


def row_hashes(batch: pa.RecordBatch) -> pa.Array:
    """The numbers of a batch's rows, as int64."""
    parts = [_hashed(batch.slice(start, _ROWS)) for start in range(0, len(batch), _ROWS)]
    return pa.array(np.concatenate(parts) if parts else np.zeros(0, np.int64))


def _hashed(batch: pa.RecordBatch) -> NDArray[np.int64]:
    total = np.zeros(len(batch), np.uint64)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if column.null_count == len(column):
            continue
        hashes = _hashes(column, _seed(field.name, _kind(field.type)))
        if column.null_count:
            hashes *= pc.is_valid(column).to_numpy(zero_copy_only=False)
        total += hashes
    return total.view(np.int64)


def _kind(type_: pa.DataType) -> str:
    """The type, in as far as it says what the bits mean: more digits before the decimals change no value."""
    return f"decimal {type_.scale}" if pa.types.is_decimal128(type_) else str(type_)


@lru_cache
def _seed(name: str, kind: str) -> np.uint64:
    digest = blake2b(f"{VERSION}\0{name}\0{kind}".encode(), digest_size=_WORD).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _mixed(words: _Words) -> _Words:
    """In place."""
    words ^= words >> _SHIFTS[0]
    words *= _FACTORS[0]
    words ^= words >> _SHIFTS[1]
    words *= _FACTORS[1]
    words ^= words >> _SHIFTS[2]
    return words


def _hashes(column: pa.Array, seed: np.uint64) -> _Words:
    if pa.types.is_string(column.type):
        return _hashes_of_texts(column, seed)
    first, *more = _words(column)
    hashes = _mixed(first ^ seed)
    for words in more:
        hashes = _mixed(hashes ^ words)
    return hashes


def _words(column: pa.Array) -> list[_Words]:
    """A value's bits, eight bytes in each array; anything where it is null."""
    type_, n = column.type, len(column)
    if pa.types.is_boolean(type_):
        column, type_ = column.cast(pa.uint8()), pa.uint8()
    if type_.bit_width == 64 * 2:  # decimal128, uuid
        both = np.frombuffer(column.buffers()[1], np.uint64, 2 * n, 2 * _WORD * column.offset)
        return [both[::2], both[1::2]]
    integer = {8: np.uint8, 32: np.int32, 64: np.int64}[type_.bit_width]
    values = np.frombuffer(column.buffers()[1], integer, n, column.offset * type_.bit_width // 8)
    return [values.astype(np.int64, copy=False).view(np.uint64)]


def _hashes_of_texts(column: pa.Array, seed: np.uint64) -> _Words:
    """Word for word, each step for the rows that have one left."""
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, 4 * column.offset).astype(
        np.int64
    )
    first, last = int(offsets[0]), int(offsets[-1])
    data = np.zeros(last - first + _WORD, np.uint8)  # with room for a word that begins at the last byte
    if last > first:
        data[:-_WORD] = np.frombuffer(column.buffers()[2], np.uint8, last - first, first)
    words = as_strided(data[:_WORD].view(np.uint64), (len(data) - _WORD + 1,), (1,), writeable=False)
    at, left = offsets[:-1] - first, np.diff(offsets)
    hashes = _mixed(left.view(np.uint64) ^ seed)
    hashes = _mixed(hashes ^ (words[at] & _KEEP[np.minimum(left, _WORD)]))
    long = np.flatnonzero(left > _LONG)
    if len(long):
        hashes[long] = _mixed(hashes[long] ^ _hashes_of_long(data, at[long], left[long]))
        left[long] = 0
    rows = np.flatnonzero(left > _WORD)
    at, left = at[rows], left[rows]
    while len(rows):
        at, left = at + _WORD, left - _WORD
        hashes[rows] = _mixed(hashes[rows] ^ (words[at] & _KEEP[np.minimum(left, _WORD)]))
        more = left > _WORD
        rows, at, left = rows[more], at[more], left[more]
    return hashes


def _hashes_of_long(data: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> _Words:
    digests = b"".join(
        blake2b(data[start : start + size].data, digest_size=_WORD).digest()
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
    )
    return np.frombuffer(digests, np.uint64)
