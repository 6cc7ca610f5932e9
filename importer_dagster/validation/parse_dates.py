"""Text into dates, datetimes and times, by ISO 8601 or by a declared strptime pattern.

Arrow's own ``strptime`` rolls 30 February over and knows no ``%f``; Python's is
slow and takes one cell at a time. A compiled pattern (``spec/date_formats.py``) is read in
two ways. Where all directives are digits of a
known width, bytes are read column by column as a matrix; what that cannot read
goes through a regular expression with named groups.

To the letter, with these liberties: a number that is not next to another
number may lack its leading zero, as in strptime; names of months and days and
am/pm may be in any case; names are English; a two-digit year is 1969–2068;
a day's name is not held against the date. Years are 1 to 9999.

What does not belong here: all other types (``validation/parse.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import (
    Mask,
    all_within,
    as_mask,
    blank,
    byte_lengths,
    holds,
    present,
    raw_bytes,
    strange,
    try_cast,
    with_nulls,
)
from importer_dagster.spec.date_formats import MONTHS, OF_DATE, Arrow, Format, Step, compile_format, zoned_iso
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.validation.faults import Faults

Integers: TypeAlias = npt.NDArray[np.int64]
# (text, field, one of its formats, faults, what is wanted in words) → typed
Reader: TypeAlias = Callable[[pa.Array, FieldSpec, str, Faults, str], pa.Array]

DAY = 86_400_000_000  # microseconds
YEAR_1 = -719_162 * DAY  # 0001-01-01
YEAR_10000 = 2_932_897 * DAY


def parse_date(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Dates as date32; NULL at faults."""
    return _by_formats(_date, text, field, faults)


def parse_time(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Times of day as time64('us'); NULL at faults."""
    return _by_formats(_time, text, field, faults)


def parse_datetime(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Datetimes as timestamp('us'), in UTC where :func:`has_zone`; NULL at faults."""
    return _by_formats(_datetime, text, field, faults)


def _by_formats(read: Reader, text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Each value by the first of the formats that reads it; as a rule there is one."""
    wanted = _wanted(field)
    if len(field.formats) == 1:
        return read(text, field, field.formats[0], faults, wanted)
    left, typed, tried = text, None, []
    for pattern in field.formats:
        tried.append(Faults(text))
        found = read(left, field, pattern, tried[-1], wanted)
        typed = found if typed is None else pc.coalesce(typed, found)
        left = blank(left, ~present(left) | present(found))
        if left.null_count == len(left):
            return typed
    unread = present(left)
    for own in tried:  # that 30 February does not exist says more than that it is none of the formats
        faults.take(own, unread, but=f"is no {wanted}")
    faults.add(unread, f"is no {wanted}")
    return typed


def _date(text: pa.Array, field: FieldSpec, pattern: str, faults: Faults, wanted: str) -> pa.Array:
    format_ = compile_format(pattern, "date")
    if format_.arrow is not None:
        whole = try_cast(text, pa.date32())  # takes YYYY-MM-DD and nothing else
        if whole is not None and _all_between(whole, YEAR_1 // DAY, YEAR_10000 // DAY, np.int32):
            return whole
    return _read_cells(text, format_, faults, wanted).cast(pa.timestamp("us")).cast(pa.date32())


def _time(text: pa.Array, field: FieldSpec, pattern: str, faults: Faults, wanted: str) -> pa.Array:
    return _read(text, compile_format(pattern, "time"), faults, wanted).cast(pa.time64("us"))


def _datetime(text: pa.Array, field: FieldSpec, pattern: str, faults: Faults, wanted: str) -> pa.Array:
    format_ = compile_format(pattern, "datetime")
    if field.timezone is None or "z" in format_.names:
        zone = "UTC" if field.timezone is not None or "z" in format_.names else None
        return _timestamps(_read(text, format_, faults, wanted), zone, faults)
    own = _names_offset(text) if pattern == "default" else np.zeros(len(text), np.bool_)
    wall = _timestamps(_read(blank(text, own), format_, faults, wanted), None, faults)
    typed = _localised(wall, field.timezone, faults)
    if not own.any():
        return typed
    exact = _timestamps(_read(blank(text, ~own), zoned_iso(), faults, wanted), "UTC", faults)
    return pc.if_else(pa.array(own), exact, typed)


def _names_offset(text: pa.Array) -> Mask:
    return as_mask(pc.match_substring_regex(text, r":[0-9.:]*(?:Z|[+-][0-9:]+)\z"))


def _wanted(field: FieldSpec) -> str:
    words = {"date": "date", "time": "time of day", "datetime": "date and time"}[field.type]
    if len(field.formats) > 1:
        listed = ", ".join("ISO 8601" if f == "default" else f for f in field.formats)
        return f"{words} in one of the formats {listed}"
    if field.format != "default":
        return f"{words} in the format {field.formats[0]}"
    bare = field.type == "datetime" and field.timezone is None
    return f"ISO 8601 {words}" + (" without offset (the field has no timezone)" if bare else "")


def _timestamps(micros: pa.Array, zone: str | None, faults: Faults) -> pa.Array:
    if not _all_between(micros, YEAR_1, YEAR_10000):
        outside = as_mask(pc.or_(pc.less(micros, YEAR_1), pc.greater_equal(micros, YEAR_10000)))
        faults.add(outside, "lies outside of the years 1 to 9999 in UTC")
        micros = blank(micros, outside)
    return micros.cast(pa.timestamp("us", zone))


def _localised(wall: pa.Array, zone: str, faults: Faults) -> pa.Array:
    """Times on the wall of ``zone`` as points in time; of an hour that comes twice, the first."""
    try:
        typed = pc.assume_timezone(wall, zone, ambiguous="earliest", nonexistent="raise")
    except pa.ArrowInvalid:
        typed = pc.assume_timezone(wall, zone, ambiguous="earliest", nonexistent="earliest")
        after = pc.assume_timezone(wall, zone, ambiguous="earliest", nonexistent="latest")
        gap = as_mask(pc.not_equal(typed, after))
        faults.add(gap, f"did not happen in {zone}, where clocks were set forward")
        typed = blank(typed, gap)
    return _timestamps(typed.cast(pa.int64()), "UTC", faults)


def _read(text: pa.Array, format_: Format, faults: Faults, wanted: str) -> pa.Array:
    """Microseconds since 1970 (of the day, for a time) as int64, NULL for null and faulty text."""
    whole = _cast_iso(text, format_.arrow)  # the fastest by far
    return _read_cells(text, format_, faults, wanted, iso=True) if whole is None else whole


def _read_cells(
    text: pa.Array, format_: Format, faults: Faults, wanted: str, *, iso: bool = False
) -> pa.Array:
    """The same where not all cells can be cast at once; ``iso``: those that look like ISO may be, which pays for times."""
    null = ~present(text)
    cells = text.drop_null() if text.null_count else text
    micros, good = _read_iso(cells, format_.arrow if iso else None)
    if not good.any():
        micros, good = _read_fixed(cells, format_)
    if not good.all():
        rest = np.flatnonzero(~good)
        micros[rest], matched, valid = _read_regex(cells.take(pa.array(rest)), format_)
        where = np.flatnonzero(~null)[rest]
        faults.add(_at(where[~matched], len(text)), f"is no {wanted}")
        faults.add(_at(where[matched & ~valid], len(text)), "is no date or time that exists")
        good[rest] = valid
    if not text.null_count:
        return with_nulls(micros, ~good, pa.int64())
    spread = np.zeros(len(text), np.int64)
    spread[~null] = micros
    null[~null] = ~good
    return with_nulls(spread, null, pa.int64())


def _at(indexes: npt.NDArray[np.int64], length: int) -> Mask:
    mask = np.zeros(length, np.bool_)
    mask[indexes] = True
    return mask


# --- reading by Arrow -------------------------------------------------------------------


def _read_iso(cells: pa.Array, arrow: Arrow | None) -> tuple[Integers, Mask]:
    """Read by Arrow's cast all cells that look like ISO, or none."""
    micros, good = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
    if arrow is None or not len(cells):
        return micros, good
    usual = ~strange(cells, b"0123456789-:. T")
    found = _cast_iso(cells.filter(pa.array(usual)), arrow) if usual.any() and not usual.all() else None
    if found is not None:
        micros[usual], good[usual] = found.to_numpy(), True
    return micros, good


def _cast_iso(text: pa.Array, arrow: Arrow | None) -> pa.Array | None:
    """A whole column by Arrow's cast as microseconds, or None if that cannot be or could be wrong."""
    typed = try_cast(text, pa.timestamp("us")) if arrow is not None and _surely(text, arrow) else None
    if typed is None:
        return None
    micros = typed.cast(pa.int64())
    return (
        micros if _all_between(micros, YEAR_1, YEAR_10000) else None
    )  # Arrow takes a year 0, which the calendar has not


def _surely(text: pa.Array, arrow: Arrow) -> bool:
    if not all_within(text, arrow.shortest, arrow.longest):
        return False
    if arrow.not_one and (byte_lengths(text) == arrow.not_one).any():
        return False
    return not arrow.foreign or not holds(text, bytes([arrow.foreign]))


def _all_between(
    values: pa.Array, least: int, end: int, width: type[np.signedinteger[Any]] = np.int64
) -> bool:
    """Whether no value lies outside; what null slots hide may say no. A tenth of the time that Arrow takes with nulls."""
    if not len(values):
        return True
    raw = np.frombuffer(values.buffers()[1], width)[values.offset : values.offset + len(values)]
    return bool(raw.min() >= least and raw.max() < end)


# --- reading bytes of fixed width ---------------------------------------------------


def _read_fixed(cells: pa.Array, format_: Format) -> tuple[Integers, Mask]:
    """Read the cells of the most common length; the others are left for the regex."""
    micros, good = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
    if not format_.layouts or not len(cells):
        return micros, good
    lengths = byte_lengths(cells)
    length = (
        int(lengths[0])
        if (lengths == lengths[0]).all()
        else int(pc.mode(pa.array(lengths))[0]["mode"].as_py())
    )
    fits = lengths == length
    chosen = cells if fits.all() else cells.filter(pa.array(fits))
    for layout in format_.layouts:
        fraction = length - sum(s.width for s in layout if s.name != "f")
        if not (1 <= fraction <= 6 if layout_has_fraction(layout) else fraction == 0):
            continue
        matrix = raw_bytes(chosen).reshape(-1, length)
        values, readable = _fixed_values(matrix, layout, fraction)
        micros_of, valid = _microseconds(values, len(chosen))
        where = np.flatnonzero(fits)[readable & valid]
        micros[where], good[where] = micros_of[readable & valid], True
    return micros, good


def layout_has_fraction(layout: tuple[Step, ...]) -> bool:
    """Whether a layout ends its time in a fraction of a second."""
    return any(s.name == "f" for s in layout)


def _fixed_values(
    matrix: npt.NDArray[np.uint8], layout: tuple[Step, ...], fraction: int
) -> tuple[dict[str, Integers], Mask]:
    """Numbers of each row of bytes, and which rows have the layout."""
    columns = matrix.T
    readable = np.ones(len(matrix), np.bool_)
    values: dict[str, Integers] = {}
    at = 0
    for step in layout:
        width = fraction if step.name == "f" else step.width
        if step.bytes:
            readable &= np.logical_or.reduce([columns[at] == byte for byte in step.bytes])
            if step.name:  # the sign of an offset
                values[step.name] = np.where(columns[at] == ord("-"), -1, 1)
        else:
            number = np.zeros(len(matrix), np.int32)
            for column in columns[at : at + width]:
                digit = column - np.uint8(48)  # below '0' wraps around to above 9
                readable &= digit <= 9
                number = number * 10 + digit
            values[step.name] = number.astype(np.int64)
        at += width
    if "f" in values:
        values["f"] *= 10 ** (6 - fraction)
    if "zs" in values:
        values["z"] = values["zs"] * (values["zh"] * 3_600 + values["zm"] * 60)
        readable &= (values["zh"] < 16) & (values["zm"] < 60)
    return values, readable


# --- reading by regex -----------------------------------------------------------------


def _read_regex(cells: pa.Array, format_: Format) -> tuple[Integers, Mask, Mask]:
    """Microseconds, which cells have the form, and which of those exist."""
    groups = pc.extract_regex(cells, format_.regex)
    matched = present(groups)
    if not matched.any():  # the usual case for bad cells; what follows costs a millisecond, however few
        return np.zeros(len(cells), np.int64), matched, matched
    found = {f.name: pc.fill_null(pc.struct_field(groups, f.name), "") for f in groups.type}
    values = {name: _group_values(name, texts) for name, texts in found.items() if name not in "aA"}
    if "p" in values:
        values["I"] = values["I"] % 12 + values.pop("p")
    micros, valid = _microseconds(values, len(cells))
    return micros, matched, matched & valid


def _group_values(name: str, texts: pa.Array) -> Integers:
    """A group's numbers; where it is empty, the smallest."""
    if name == "z":
        return _offsets(texts)
    if name in "bB":
        return _index(pc.utf8_slice_codeunits(pc.utf8_lower(texts), 0, 3), [m[:3] for m in MONTHS]) + 1
    if name == "p":
        return _index(pc.utf8_lower(texts), ["am", "pm"]) * 12
    if name == "f":
        return _integers(pc.utf8_rpad(texts, 6, "0"), 0)
    return _integers(texts, 1 if name in "mdjYy" else 0)


def _integers(texts: pa.Array, default: int) -> Integers:
    digits = pc.if_else(pc.equal(pc.binary_length(texts), 0), str(default), texts)
    numbers: Integers = pc.cast(digits, pa.int64()).to_numpy()
    return numbers


def _index(texts: pa.Array, words: list[str]) -> Integers:
    found = pc.index_in(texts, value_set=pa.array(words))
    positions: Integers = pc.fill_null(found.cast(pa.int64()), 0).to_numpy()
    return positions


def _offsets(texts: pa.Array) -> Integers:
    """Seconds east of Greenwich of 'Z', '+02', '+0200', '+02:00'."""
    digits = pc.replace_substring_regex(texts, "[Z:+-]", "")
    hours = _integers(pc.utf8_slice_codeunits(digits, 0, 2), 0)
    minutes = _integers(pc.utf8_slice_codeunits(digits, 2, 4), 0)
    sign: Integers = np.where(as_mask(pc.starts_with(texts, "-")), -1, 1).astype(np.int64)
    return sign * (hours * 3_600 + minutes * 60)


# --- the calendar -----------------------------------------------------------------------


def _microseconds(values: Mapping[str, Integers], length: int) -> tuple[Integers, Mask]:
    """Microseconds since 1970 of named numbers, and which of them exist."""
    one, zero = np.broadcast_to(np.int64(1), length), np.broadcast_to(np.int64(0), length)
    days, valid = _days(values, length) if values.keys() & OF_DATE else (zero, one == 1)
    hour, minute, second = (values.get(n, zero) for n in ("H", "M", "S"))
    hour = values.get("I", hour)
    valid = valid & (hour < 24) & (minute < 60) & (second < 60)
    seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - values.get("z", zero)
    return seconds * 1_000_000 + values.get("f", zero), valid


def _days(values: Mapping[str, Integers], length: int) -> tuple[Integers, Mask]:
    one = np.broadcast_to(np.int64(1), length)
    year = values["Y"] if "Y" in values else values["y"] + np.where(values["y"] < 69, 2000, 1900)
    if "j" in values:
        first, valid = _civil(year, one, one)
        return first + values["j"] - 1, valid & (values["j"] >= 1) & (values["j"] <= 365 + _leap(year))
    month = next((values[n] for n in "mbB" if n in values), one)
    return _civil(year, month, values.get("d", one))


_LENGTHS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_BEFORE = np.cumsum(_LENGTHS) - _LENGTHS  # days of a common year before each month
_YEARS = np.arange(10_000)
_IS_LEAP = (_YEARS % 4 == 0) & ((_YEARS % 100 != 0) | (_YEARS % 400 == 0))
_FIRST_DAYS = 365 * _YEARS + np.cumsum(_IS_LEAP) - _IS_LEAP
_FIRST_DAYS -= _FIRST_DAYS[1970]  # days from 1970-01-01 to the first of each year


def _leap(year: Integers) -> Mask:
    leap: Mask = _IS_LEAP.take(year, mode="clip")  # what was not readable may be any number
    return leap


def _civil(year: Integers, month: Integers, day: Integers) -> tuple[Integers, Mask]:
    """Days since 1970-01-01 of dates in the Gregorian calendar, and which of them exist."""
    known = np.where((month >= 1) & (month <= 12), month, 0)
    leap = _leap(year)
    valid = (year >= 1) & (day >= 1) & (day <= _LENGTHS[known] + (leap & (known == 2)))
    days: Integers = _FIRST_DAYS.take(year, mode="clip") + _BEFORE[known] + (leap & (known > 2)) + day - 1
    return days, valid
