"""Patterns that can be told byte by byte, which takes a tenth of the time of a regular expression.

That is what most patterns of constraints are: a row of ASCII characters and sets of
them, each once or so many times (``[A-Z]{2}-[0-9]{4}``), or one set any number
of times (``[0-9]{1,15}``). Whatever else a pattern holds is left to RE2.

What does not belong here: what is done with the answer (``validation/schemas.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from importer_dagster.arrays import bytes_within

Set = tuple[tuple[int, int], ...]  # ranges of bytes, ends included

_MOST = 2**31 - 1  # bytes of a cell
_WIDEST = 256  # bytes of a pattern
_AT_ONCE = 16_384  # bytes, which stay in the processor's cache
_ITEM = re.compile(
    r"(?:\[(?P<set>[ -Z_-~]+)\]|\\(?P<escaped>[-.+*?/()|{}$^\[\]])|(?P<digit>\\d)|(?P<plain>[-A-Za-z0-9 _/:#@,;=%&!~'\"<>]))"
    r"(?:\{(?P<least>[0-9]{1,3})(?P<upto>,(?P<most>[0-9]{1,3})?)?\}|(?P<any>[+*]))?"
)


@dataclass(frozen=True)
class Bytewise:
    """A pattern of ``least`` to ``most`` bytes. Each pair of arrays, repeated over all bytes, has ranges that
    these may be in: where they begin and how far they go."""

    ranges: tuple[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]], ...]
    least: int
    most: int

    def fits_all(self, text: pa.Array) -> bool:
        """Whether all values match. False may also mean that this way cannot tell."""
        raw = bytes_within(text, self.least, self.most)
        return raw is not None and all(
            self._fits(raw[start : start + len(self.ranges[0][0])])
            for start in range(0, len(raw), len(self.ranges[0][0]))
        )

    def _fits(self, raw: npt.NDArray[np.uint8]) -> bool:
        n = len(raw)
        # below the range the difference wraps around to above it
        return bool(np.logical_or.reduce([raw - first[:n] <= span[:n] for first, span in self.ranges]).all())


@lru_cache(maxsize=512)
def bytewise(pattern: str) -> Bytewise | None:
    """The pattern, which matches a whole value, if it can be told byte by byte."""
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern = pattern[:-1]
    sets: list[Set] = []
    at = 0
    while at < len(pattern):
        item = _ITEM.match(pattern, at)
        if item is None:
            return None
        at = item.end()
        if item["upto"] or item["any"]:
            whole = not sets and at == len(pattern)
            return _compiled([_set(item)], *_bounds(item)) if whole else None
        sets += [_set(item)] * int(item["least"] or 1)
    return _compiled(sets, len(sets), len(sets)) if 0 < len(sets) <= _WIDEST else None


def _bounds(item: re.Match[str]) -> tuple[int, int]:
    if item["any"]:
        return int(item["any"] == "+"), _MOST
    return int(item["least"]), int(item["most"] or _MOST)


def _set(item: re.Match[str]) -> Set:
    if item["digit"]:
        return ((ord("0"), ord("9")),)
    if not item["set"]:
        byte = ord(item["escaped"] or item["plain"])
        return ((byte, byte),)
    pairs = re.findall(r"(.)-(.)|(.)", item["set"])
    return tuple((ord(first or one), ord(last or one)) for first, last, one in pairs)


def _compiled(sets: Sequence[Set], least: int, most: int) -> Bytewise:
    alternatives = max(map(len, sets))
    filled = np.array([[*ranges, *[ranges[0]] * (alternatives - len(ranges))] for ranges in sets], np.uint8)
    tiles = np.tile(filled, (max(_AT_ONCE // len(sets), 1), 1, 1))
    ranges = ((tiles[:, i, 0], tiles[:, i, 1] - tiles[:, i, 0]) for i in range(alternatives))
    return Bytewise(tuple((np.ascontiguousarray(a), b) for a, b in ranges), least, most)
