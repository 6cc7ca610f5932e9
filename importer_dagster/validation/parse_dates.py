"""Text into dates, datetimes and times, by ISO 8601 or by a declared strptime pattern.

Arrow's own ``strptime`` reads 30 February as 1 March and does not know ``%f``; Python's is slow and takes one cell
at a time. So a column is read by a compiled pattern (``spec/date_formats.py``) in the first of three ways that
works: by Arrow's cast where the pattern is ISO 8601; as a matrix of bytes where all directives are digits of a
known width; by a regular expression with named groups.

Text must be written exactly by the pattern, with these exceptions: a number that is not next to another
number may lack its leading zero, as in strptime; names of months and days and
am/pm may be in any case; names are English; a two-digit year is 1969–2068;
a day's name is not compared with the date. Years are 1 to 9999.

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
    byte_lengths,
    contains_any,
    has_other_bytes,
    mask_at,
    null_where,
    present,
    raw_bytes,
    try_cast,
    with_nulls,
)
from importer_dagster.spec.date_formats import MONTHS, OF_DATE, Arrow, Format, Step, compile_format, zoned_iso
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.validation.faults import Faults
from importer_dagster.validation.local_times import Clock

Integers: TypeAlias = npt.NDArray[np.int64]
# (text, one of the field's formats, faults, what is expected in words) → typed
FormatReader: TypeAlias = Callable[[pa.Array, str, Faults, str], pa.Array]

DAY = 86_400_000_000  # microseconds
_KEPT_DIGITS = 6  # of the fraction of a second
_TOO_FINE = "is finer than a microsecond, which is all that can be kept"
_LONGEST_FRACTION = 12  # digits, in the way of reading that is for the usual cells
YEAR_1 = -719_162 * DAY  # 0001-01-01
YEAR_10000 = 2_932_897 * DAY

_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_DAYS_BEFORE_MONTH = np.cumsum(_MONTH_DAYS) - _MONTH_DAYS  # in a common year
_YEARS = np.arange(10_000)
_IS_LEAP = (_YEARS % 4 == 0) & ((_YEARS % 100 != 0) | (_YEARS % 400 == 0))
_FIRST_DAYS = 365 * _YEARS + np.cumsum(_IS_LEAP) - _IS_LEAP
_FIRST_DAYS -= _FIRST_DAYS[1970]  # days from 1970-01-01 to the first of each year


# --- the three types --------------------------------------------------------------------


def parse_date(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Dates as date32; NULL at faults."""

    def read(text: pa.Array, pattern: str, faults: Faults, wanted: str) -> pa.Array:
        format_ = compile_format(pattern, "date")
        if format_.arrow is not None:
            whole = try_cast(text, pa.date32())  # takes YYYY-MM-DD and nothing else
            if whole is not None and _all_between(whole, YEAR_1 // DAY, YEAR_10000 // DAY, np.int32):
                return whole
        return _read_cells(text, format_, faults, wanted).cast(pa.timestamp("us")).cast(pa.date32())

    return _by_formats(read, text, field, faults)


def parse_time(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Times of day as time64('us'); NULL at faults."""

    def read(text: pa.Array, pattern: str, faults: Faults, wanted: str) -> pa.Array:
        return _read(text, compile_format(pattern, "time"), faults, wanted).cast(pa.time64("us"))

    return _by_formats(read, text, field, faults)


def parse_datetime(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Datetimes as timestamp('us'), in UTC where :func:`has_zone`; NULL at faults."""

    def read(text: pa.Array, pattern: str, faults: Faults, wanted: str) -> pa.Array:
        format_ = compile_format(pattern, "datetime")
        if "z" in format_.names:
            return _timestamps(_read(text, format_, faults, wanted), "UTC", faults)
        if field.timezone is None:
            return _timestamps(_read(text, format_, faults, wanted), None, faults)
        # ISO 8601 may name an offset, which then counts instead of the field's time zone
        has_offset = np.zeros(len(text), np.bool_)
        if pattern == "default":
            has_offset = as_mask(pc.match_substring_regex(text, r":[0-9.,:]*(?:Z|[+-][0-9:]+)\z"))
        wall = _timestamps(_read(null_where(text, has_offset), format_, faults, wanted), None, faults)
        local = (faults.clock or Clock(field)).instants(wall, faults)
        typed = _timestamps(local.cast(pa.int64()), "UTC", faults)
        if not has_offset.any():
            return typed
        exact = _read(null_where(text, ~has_offset), zoned_iso(), faults, wanted)
        return pc.if_else(pa.array(has_offset), _timestamps(exact, "UTC", faults), typed)

    return _by_formats(read, text, field, faults)


def _by_formats(read: FormatReader, text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Read each value by the first of the field's formats that can; most fields have one format."""
    wanted = _wanted_words(field)
    if len(field.formats) == 1:
        return read(text, field.formats[0], faults, wanted)
    left, typed, faults_by_format = text, None, []
    for pattern in field.formats:
        faults_by_format.append(Faults(text, faults.clock))
        found = read(left, pattern, faults_by_format[-1], wanted)
        typed = found if typed is None else pc.coalesce(typed, found)
        left = null_where(left, ~present(left) | present(found))
        if left.null_count == len(left):
            return typed
    unread = present(left)
    # a fault such as "30 February does not exist" says more than "is in none of the formats"
    for of_format in faults_by_format:
        faults.add_from(of_format, unread, except_words=f"is no {wanted}")
    faults.add(unread, f"is no {wanted}")
    return typed


def _wanted_words(field: FieldSpec) -> str:
    """What a value of the field should be, for messages."""
    words = {"date": "date", "time": "time of day", "datetime": "date and time"}[field.type]
    if len(field.formats) > 1:
        listed = ", ".join("ISO 8601" if f == "default" else f for f in field.formats)
        return f"{words} in one of the formats {listed}"
    if field.format != "default":
        return f"{words} in the format {field.formats[0]}"
    no_offset = field.type == "datetime" and field.timezone is None
    return f"ISO 8601 {words}" + (" without offset (the field has no timezone)" if no_offset else "")


def _timestamps(micros: pa.Array, zone: str | None, faults: Faults) -> pa.Array:
    """Microseconds since 1970 as timestamps; those outside of the years 1 to 9999 become NULL and faults."""
    if not _all_between(micros, YEAR_1, YEAR_10000):
        outside = as_mask(pc.or_(pc.less(micros, YEAR_1), pc.greater_equal(micros, YEAR_10000)))
        faults.add(outside, "lies outside of the years 1 to 9999 in UTC")
        micros = null_where(micros, outside)
    return micros.cast(pa.timestamp("us", zone))


# --- one format -------------------------------------------------------------------------


def _read(text: pa.Array, format_: Format, faults: Faults, wanted: str) -> pa.Array:
    """Microseconds since 1970 (of the day, for a time) as int64, NULL for null and faulty text."""
    whole = _cast_iso(text, format_.arrow)  # by far the fastest way
    return _read_cells(text, format_, faults, wanted, iso=True) if whole is None else whole


def _read_cells(
    text: pa.Array, format_: Format, faults: Faults, wanted: str, *, iso: bool = False
) -> pa.Array:
    """Microseconds as of :func:`_read`, where not all cells can be cast at once.

    With ``iso`` the cells that look like ISO 8601 are tried by Arrow's cast first, which is faster if they have
    a time.
    """
    null = ~present(text)
    cells = text.drop_null() if text.null_count else text
    micros, good = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
    if iso and format_.arrow is not None and len(cells):
        like_iso = ~has_other_bytes(cells, b"0123456789-:. T")
        some_are = like_iso.any() and not like_iso.all()  # if all are, that cast has failed already
        found = _cast_iso(cells.filter(pa.array(like_iso)), format_.arrow) if some_are else None
        if found is not None:
            micros[like_iso], good[like_iso] = found.to_numpy(), True
    if not good.any():
        micros, good = _read_fixed_width(cells, format_)
    if not good.all():
        rest = np.flatnonzero(~good)
        micros[rest], wrong = _read_by_regex(cells.take(pa.array(rest)), format_, wanted)
        positions = np.flatnonzero(~null)[rest]
        good[rest] = True
        for where, words in wrong:
            faults.add(mask_at(positions[where], len(text)), words)
            good[rest[where]] = False
    if not text.null_count:
        return with_nulls(micros, ~good, pa.int64())
    spread = np.zeros(len(text), np.int64)
    spread[~null] = micros
    null[~null] = ~good
    return with_nulls(spread, null, pa.int64())


def _cast_iso(text: pa.Array, arrow: Arrow | None) -> pa.Array | None:
    """The whole column by Arrow's cast as microseconds; None if it fails or could read another form than declared."""
    if (
        arrow is None
        or not all_within(text, arrow.shortest, arrow.longest)
        or (arrow.not_one and (byte_lengths(text) == arrow.not_one).any())
        or (arrow.foreign and contains_any(text, bytes([arrow.foreign])))
    ):
        return None
    typed = try_cast(text, pa.timestamp("us"))
    if typed is None:
        return None
    micros = typed.cast(pa.int64())
    # Arrow takes a year 0, which the calendar does not have
    return micros if _all_between(micros, YEAR_1, YEAR_10000) else None


def _all_between(
    values: pa.Array, least: int, end: int, width: type[np.signedinteger[Any]] = np.int64
) -> bool:
    """Whether all values are at least ``least`` and less than ``end``; takes a tenth of Arrow's time with nulls.

    False may also come from what the slots of nulls contain.
    """
    if not len(values):
        return True
    raw = np.frombuffer(values.buffers()[1], width)[values.offset : values.offset + len(values)]
    return bool(raw.min() >= least and raw.max() < end)


# --- reading bytes of fixed width ---------------------------------------------------


def _read_fixed_width(cells: pa.Array, format_: Format) -> tuple[Integers, Mask]:
    """Microseconds of the cells of the most common length, and which cells were read."""
    micros, good = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
    if not format_.layouts or not len(cells):
        return micros, good
    lengths = byte_lengths(cells)
    length = int(lengths[0])
    if not (lengths == length).all():
        length = int(pc.mode(pa.array(lengths))[0]["mode"].as_py())
    fits = lengths == length
    chosen = cells if fits.all() else cells.filter(pa.array(fits))
    for layout in format_.layouts:
        has_fraction = any(step.name == "f" for step in layout)
        fraction = length - sum(step.width for step in layout if step.name != "f")
        if not (1 <= fraction <= _LONGEST_FRACTION if has_fraction else fraction == 0):
            continue
        values, readable = _fixed_width_values(raw_bytes(chosen).reshape(-1, length), layout, fraction)
        found, exists = _microseconds(values, len(chosen))
        positions = np.flatnonzero(fits)[readable & exists]
        micros[positions], good[positions] = found[readable & exists], True
    return micros, good


def _fixed_width_values(
    matrix: npt.NDArray[np.uint8], layout: tuple[Step, ...], fraction: int
) -> tuple[dict[str, Integers], Mask]:
    """The numbers of each row of bytes by directive, and which rows have the layout.

    ``fraction`` is the number of digits of the fraction of a second.
    """
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
            kept = min(width, _KEPT_DIGITS)
            for column in columns[at + kept : at + width]:
                readable &= column == ord("0")
            for column in columns[at : at + kept]:
                digit = column - np.uint8(48)  # a byte below '0' wraps around to above 9
                readable &= digit <= 9
                number = number * 10 + digit
            values[step.name] = number.astype(np.int64)
        at += width
    if "f" in values:
        values["f"] *= 10 ** max(_KEPT_DIGITS - fraction, 0)
    if "zs" in values:
        values["z"] = values["zs"] * (values["zh"] * 3_600 + values["zm"] * 60)
        readable &= (values["zh"] < 16) & (values["zm"] < 60)
    return values, readable


# --- reading by a regular expression ---------------------------------------------------


def _read_by_regex(cells: pa.Array, format_: Format, wanted: str) -> tuple[Integers, list[tuple[Mask, str]]]:
    """Microseconds, and which cells cannot be read, with the reason."""
    groups = pc.extract_regex(cells, format_.regex)
    matched = present(groups)
    wrong = [(~matched, f"is no {wanted}")]
    if (
        not matched.any()
    ):  # the usual case for bad cells; what follows takes a millisecond, however few they are
        return np.zeros(len(cells), np.int64), wrong
    found = {f.name: pc.fill_null(pc.struct_field(groups, f.name), "") for f in groups.type}
    values = {name: _group_values(name, texts) for name, texts in found.items() if name not in "aA"}
    if "p" in values:
        values["I"] = values["I"] % 12 + values.pop("p")
    micros, exists = _microseconds(values, len(cells))
    wrong.append((matched & ~exists, "is no date or time that exists"))
    if "f" in found:
        is_finer = as_mask(pc.match_substring_regex(found["f"], r"\A[0-9]{6}[0-9]*[1-9]"))
        wrong.append((is_finer & exists, _TOO_FINE))
    return micros, wrong


def _group_values(name: str, texts: pa.Array) -> Integers:
    """The numbers of a directive from its texts; an empty text is the smallest value."""
    if name == "z":  # seconds east of Greenwich of 'Z', '+02', '+0200', '+02:00'
        digits = pc.replace_substring_regex(texts, "[Z:+-]", "")
        hours = _integers(pc.utf8_slice_codeunits(digits, 0, 2), 0)
        minutes = _integers(pc.utf8_slice_codeunits(digits, 2, 4), 0)
        sign: Integers = np.where(as_mask(pc.starts_with(texts, "-")), -1, 1).astype(np.int64)
        return sign * (hours * 3_600 + minutes * 60)
    if name in "bB":
        return _index(pc.utf8_slice_codeunits(pc.utf8_lower(texts), 0, 3), [m[:3] for m in MONTHS]) + 1
    if name == "p":
        return _index(pc.utf8_lower(texts), ["am", "pm"]) * 12
    if name == "f":
        kept = pc.utf8_slice_codeunits(texts, 0, _KEPT_DIGITS)
        return _integers(pc.utf8_rpad(kept, _KEPT_DIGITS, "0"), 0)
    return _integers(texts, 1 if name in "mdjYy" else 0)


def _integers(texts: pa.Array, default: int) -> Integers:
    digits = pc.if_else(pc.equal(pc.binary_length(texts), 0), str(default), texts)
    numbers: Integers = pc.cast(digits, pa.int64()).to_numpy()
    return numbers


def _index(texts: pa.Array, words: list[str]) -> Integers:
    found = pc.index_in(texts, value_set=pa.array(words))
    positions: Integers = pc.fill_null(found.cast(pa.int64()), 0).to_numpy()
    return positions


# --- the calendar -----------------------------------------------------------------------


def _microseconds(values: Mapping[str, Integers], length: int) -> tuple[Integers, Mask]:
    """Microseconds since 1970 of the numbers of directives, and which of them exist."""
    one, zero = np.broadcast_to(np.int64(1), length), np.broadcast_to(np.int64(0), length)
    days, exists = zero, one == 1
    if values.keys() & OF_DATE:
        year = values["Y"] if "Y" in values else values["y"] + np.where(values["y"] < 69, 2000, 1900)
        if "j" in values:
            days, exists = _days_since_1970(year, one, one)
            days = days + values["j"] - 1
            exists = exists & (values["j"] >= 1) & (values["j"] <= 365 + _is_leap(year))
        else:
            month = next((values[name] for name in "mbB" if name in values), one)
            days, exists = _days_since_1970(year, month, values.get("d", one))
    hour, minute, second = (values.get(name, zero) for name in ("H", "M", "S"))
    hour = values.get("I", hour)
    exists = exists & (hour < 24) & (minute < 60) & (second < 60)
    seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - values.get("z", zero)
    return seconds * 1_000_000 + values.get("f", zero), exists


def _days_since_1970(year: Integers, month: Integers, day: Integers) -> tuple[Integers, Mask]:
    """Days from 1970-01-01 to dates of the Gregorian calendar, and which of them exist."""
    known = np.where((month >= 1) & (month <= 12), month, 0)
    leap = _is_leap(year)
    exists = (year >= 1) & (day >= 1) & (day <= _MONTH_DAYS[known] + (leap & (known == 2)))
    days: Integers = (
        _FIRST_DAYS.take(year, mode="clip") + _DAYS_BEFORE_MONTH[known] + (leap & (known > 2)) + day - 1
    )
    return days, exists


def _is_leap(year: Integers) -> Mask:
    leap: Mask = _IS_LEAP.take(
        year, mode="clip"
    )  # the year of a cell that could not be read may be any number
    return leap
