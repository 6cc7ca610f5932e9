"""Computes a 64-bit hash of each row's contents, column by column: :func:`row_hashes`.

Equal rows have equal hashes. Two different rows have the same hash with a probability of
1 in 2**64; if they differ in only one value of at most eight bytes (integer, date, time,
binary float), never. The hash of a row is the sum of a hash for each value, and nulls add
nothing. So a new column that is null in older rows does not change their hashes.

A value is hashed by its bits, its column's name and its Arrow type: 0 and -0 of a binary
float differ, and so do 1.0 and 1.00 in the text of JSON.

It is written in numpy (0.2 s for a million rows of 17 columns). Arrow has no such function.
Polars has one, which is not faster by enough to justify a dependency of 180 MB.

What does not belong here: what the hashes are used for (``writer/unchanged_filter.py``).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

VERSION = 1  # to be raised with every change that changes a hash

_Words = NDArray[np.uint64]
_WORD = 8  # bytes
_ROWS = 16_384  # at a time, so that intermediate arrays stay in the processor's cache
_LONG = 1024  # bytes; longer texts are hashed one by one, since hashing by words is slow for few rows
_KEEP = np.array([(1 << 8 * n) - 1 for n in range(_WORD + 1)], np.uint64)  # the first n bytes of a word
# splitmix64's finalizer (Steele, Lea and Flood 2014, constants by Stafford): it is one to one, and every bit of
# the input changes every bit of the output with a probability of one half
_SHIFTS = tuple(map(np.uint64, (30, 27, 31)))
_FACTORS = tuple(map(np.uint64, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))


def row_hashes(batch: pa.RecordBatch) -> pa.Array:
    """The hashes of a batch's rows, as int64."""
    parts = [np.zeros(0, np.int64)]
    for start in range(0, len(batch), _ROWS):
        some = batch.slice(start, _ROWS)
        total = np.zeros(len(some), np.uint64)
        for field, column in zip(some.schema, some.columns, strict=True):
            if column.null_count == len(column):
                continue
            # the precision of a decimal is left out: more digits before the decimal point change no value
            is_decimal = pa.types.is_decimal128(field.type)
            seed = _seed(field.name, f"decimal {field.type.scale}" if is_decimal else str(field.type))
            is_text = pa.types.is_string(column.type)
            hashes = _hash_texts(column, seed) if is_text else _hash_values(column, seed)
            if column.null_count:
                hashes *= pc.is_valid(column).to_numpy(zero_copy_only=False)
            total += hashes
        parts.append(total.view(np.int64))
    return pa.array(np.concatenate(parts))


@lru_cache
def _seed(name: str, kind: str) -> np.uint64:
    digest = blake2b(f"{VERSION}\0{name}\0{kind}".encode(), digest_size=_WORD).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _mixed(words: _Words) -> _Words:
    """Mix the bits of each word; changes the array in place."""
    words ^= words >> _SHIFTS[0]
    words *= _FACTORS[0]
    words ^= words >> _SHIFTS[1]
    words *= _FACTORS[1]
    words ^= words >> _SHIFTS[2]
    return words


def _hash_values(column: pa.Array, seed: np.uint64) -> _Words:
    """Hashes of values of a fixed width of at most 16 bytes; of a null any number."""
    type_, n = column.type, len(column)
    if pa.types.is_boolean(type_):
        column, type_ = column.cast(pa.uint8()), pa.uint8()
    if type_.bit_width == 64 * 2:  # decimal128, uuid
        both = np.frombuffer(column.buffers()[1], np.uint64, 2 * n, 2 * _WORD * column.offset)
        return _mixed(_mixed(both[::2] ^ seed) ^ both[1::2])
    integer = {8: np.uint8, 32: np.int32, 64: np.int64}[type_.bit_width]
    values = np.frombuffer(column.buffers()[1], integer, n, column.offset * type_.bit_width // 8)
    return _mixed(values.astype(np.int64, copy=False).view(np.uint64) ^ seed)


def _hash_texts(column: pa.Array, seed: np.uint64) -> _Words:
    """Hashes of texts, in steps of eight bytes; each step works on the rows that are long enough."""
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, 4 * column.offset).astype(
        np.int64
    )
    first, last = int(offsets[0]), int(offsets[-1])
    data = np.zeros(last - first + _WORD, np.uint8)  # long enough for a word that begins at the last byte
    if last > first:
        data[:-_WORD] = np.frombuffer(column.buffers()[2], np.uint8, last - first, first)
    words = as_strided(data[:_WORD].view(np.uint64), (len(data) - _WORD + 1,), (1,), writeable=False)
    at, left = offsets[:-1] - first, np.diff(offsets)
    hashes = _mixed(left.view(np.uint64) ^ seed)
    hashes = _mixed(hashes ^ (words[at] & _KEEP[np.minimum(left, _WORD)]))
    long = np.flatnonzero(left > _LONG)
    if len(long):
        digests = b"".join(
            blake2b(data[start : start + size].data, digest_size=_WORD).digest()
            for start, size in zip(at[long].tolist(), left[long].tolist(), strict=True)
        )
        hashes[long] = _mixed(hashes[long] ^ np.frombuffer(digests, np.uint64))
        left[long] = 0
    rows = np.flatnonzero(left > _WORD)
    at, left = at[rows], left[rows]
    while len(rows):
        at, left = at + _WORD, left - _WORD
        hashes[rows] = _mixed(hashes[rows] ^ (words[at] & _KEEP[np.minimum(left, _WORD)]))
        more = left > _WORD
        rows, at, left = rows[more], at[more], left[more]
    return hashes
