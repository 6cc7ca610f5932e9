"""Local times of a time zone into points in time; what is done where clocks were set back or forward.

A local time that clocks skipped is a fault. One that came twice is decided by the field's ``ambiguous``.

What does not belong here: reading the text (``validation/parse_dates.py``).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import Mask, Positions, as_mask, mask_at, null_where, present
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.validation.faults import Faults

Integers = npt.NDArray[np.int64]


class _Cell(NamedTuple):
    """The last local time of a batch, its two points in time, and how often its hour went back up to it."""

    wall: int
    earlier: int
    later: int
    went_back: int


class Clock:
    """Turns the local times of one column of one file into points in time, batch by batch, in the file's order.

    With ``is_unique`` no two records can have the same time, so that an equal time is a later one, too.
    ``at`` has the positions of times that came twice, of the batch that was read last.
    """

    def __init__(self, field: FieldSpec, *, is_unique: bool = False) -> None:
        assert field.timezone is not None
        self._field, self._zone, self._is_unique = field, field.timezone, is_unique
        self._last: _Cell | None = None
        self._is_out_of_order = False
        self._went_back = False
        self._taken_as_earlier = 0
        self._example = ""
        self.at: list[Positions] = []

    def instants(self, wall: pa.Array, faults: Faults) -> pa.Array:
        """``wall`` (timestamps without zone) as timestamps with zone; NULL at faults."""
        rule = self._field.ambiguous
        try:
            typed = _assumed(wall, self._zone, "raise", "raise")
        except pa.ArrowInvalid:
            pass
        else:
            if rule == "by_order":
                self._put_in_order(wall, typed, typed)
            return typed
        earlier = _assumed(wall, self._zone, "earliest", "earliest")
        skipped = as_mask(pc.not_equal(earlier, _assumed(wall, self._zone, "earliest", "latest")))
        faults.add(skipped, f"did not happen in {self._zone}, where clocks were set forward")
        wall, earlier = null_where(wall, skipped), null_where(earlier, skipped)
        later = _assumed(wall, self._zone, "latest", "earliest")
        twice = as_mask(pc.not_equal(earlier, later))
        self._note(twice, faults.text)
        words = f"came twice in {self._zone}, when clocks were set back"
        if rule == "by_order":
            is_later, unknown = self._put_in_order(wall, earlier, later)
            typed = pc.if_else(pa.array(is_later), later, earlier)
            faults.add(unknown, f"{words}, and the records up to it are not in the order of time")
            return null_where(typed, unknown)
        if rule == "reject":
            faults.add(twice, f"{words} (ambiguous: reject)")
            return null_where(earlier, twice)
        return later if rule == "later" else earlier

    @property
    def warning(self) -> str | None:
        """What the load should say of times that were read as the earlier without being declared so."""
        rule = self._field.ambiguous
        if not self._taken_as_earlier or self._went_back or rule not in (None, "by_order"):
            return None
        since = " since no record goes back in time," if rule == "by_order" else ""
        return (
            f"column {self._field.column!r}: {self._taken_as_earlier:,} local times came twice in {self._zone}, when "
            f"clocks were set back;{since} each was read as the earlier one. The first is {self._example!r}. "
            "Declare in the spec what they mean (ambiguous: earlier, later, reject or by_order)"
        )

    def _note(self, twice: Mask, text: pa.Array) -> None:
        found = np.flatnonzero(twice)
        if len(found):
            self.at.append(found)
            self._taken_as_earlier += len(found)
            self._example = self._example or str(text[int(found[0])].as_py())

    def _put_in_order(self, wall: pa.Array, earlier: pa.Array, later: pa.Array) -> tuple[Mask, Mask]:
        """Which times are the later of two, and which cannot be told: those after the first that is out of order.

        Of the times of one hour that comes twice, those after the first that goes back are the later ones.
        """
        positions = np.flatnonzero(present(wall))
        walls, early, late = (a.drop_null().cast(pa.int64()).to_numpy() for a in (wall, earlier, later))
        before = [] if self._last is None else [self._last]
        n = len(before)
        walls, early, late = (
            np.concatenate([np.array([cell[i] for cell in before], np.int64), new])
            for i, new in enumerate((walls, early, late))
        )
        if not len(walls):
            return mask_at(positions, len(wall)), mask_at(positions, len(wall))
        twice, step = late > early, np.diff(walls)
        same_hour = twice[1:] & twice[:-1] & (np.abs(step) < (late - early)[1:])
        goes_back = same_hour & ((step <= 0) if self._is_unique else (step < 0))
        went_back = _counted_within(same_hour, goes_back, before[0].went_back if before else 0)
        is_later = twice & (went_back > 0)
        chosen = np.where(is_later, late, early)
        wrong = twice & (went_back > 1)
        wrong[1:] |= chosen[1:] < chosen[:-1]
        wrong[0] |= self._is_out_of_order
        unknown = np.logical_or.accumulate(wrong)
        self._went_back |= bool(is_later.any())
        self._is_out_of_order = bool(unknown[-1])
        self._last = _Cell(int(walls[-1]), int(early[-1]), int(late[-1]), int(went_back[-1]))
        return (
            mask_at(positions[is_later[n:]], len(wall)),
            mask_at(positions[(unknown & twice)[n:]], len(wall)),
        )


def _counted_within(same: Mask, counts: Mask, before: int) -> Integers:
    """How many of ``counts`` there are up to each of n + 1 cells, since the last of them that begins a new hour.

    ``same`` and ``counts`` are of the n steps from cell to cell; the first cell has ``before``.
    """
    total = np.concatenate([[before], before + np.cumsum(counts)])
    starts = np.concatenate([[0], np.where(same, 0, np.arange(1, len(same) + 1))])
    start = np.maximum.accumulate(starts)
    within: Integers = total - np.where(start > 0, total[start], 0)
    return within


def _assumed(
    wall: pa.Array,
    zone: str,
    ambiguous: Literal["raise", "earliest", "latest"],
    nonexistent: Literal["raise", "earliest", "latest"],
) -> pa.Array:
    return pc.assume_timezone(wall, zone, ambiguous=ambiguous, nonexistent=nonexistent)
