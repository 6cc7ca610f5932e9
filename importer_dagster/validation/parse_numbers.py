"""Text into integers, exact decimals and binary floats, a column at a time.

What each type accepts is listed in ``validation/parse.py``.

What does not belong here: the other types (``validation/parse.py``, ``validation/parse_dates.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import Mask, as_mask, blank, byte_lengths, holds, present, strange, try_cast
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.validation.faults import Faults, matching

Cast: TypeAlias = Callable[[pa.Array], pa.Array | None]
_POINT_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NO_NUMBER = "is no number"
_NOT_FINITE = "[+-]?(?i:nan|inf|infinity)"
_MOST_DIGITS = 38
_EXACT_DIGITS = 15  # of a number that a binary float can be told from all others by


def _plain(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Numbers as declared, rewritten with a point and without groups and decoration."""
    if field.decimalChar == "." and field.groupChar is None and field.bareNumber:
        return text
    number = _declared_number(field)
    if field.bareNumber:
        text = matching(text, number, faults, f"is no {_number_words(field)}")
    else:
        text = _undecorated(text, number, field, faults)
    if field.groupChar is not None:
        text = pc.replace_substring(text, field.groupChar, "")
    return pc.replace_substring(text, field.decimalChar, ".") if field.decimalChar != "." else text


def _declared_number(field: FieldSpec) -> str:
    """A regex of how the field's numbers are written, sign included."""
    digits = "[0-9]+"
    if field.groupChar is not None:
        group = re.escape(field.groupChar)
        digits = rf"(?:[0-9]{{1,3}}(?:{group}[0-9]{{3}})+|[0-9]{{1,2}}(?:{group}[0-9]{{2}})*{group}[0-9]{{3}}|[0-9]+)"
    if field.type == "integer":
        return f"[+-]?{digits}"
    point = re.escape(field.decimalChar)
    exact = rf"[+-]?(?:{digits}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?"
    return f"(?:{exact}|{_NOT_FINITE})" if field.format == "double" else exact


def _undecorated(text: pa.Array, number: str, field: FieldSpec, faults: Faults) -> pa.Array:
    """The numbers without what stands around them; a sign may stand before a currency."""
    own = field.decimalChar + (
        "" if field.groupChar is None or field.groupChar.isspace() else field.groupChar
    )
    around = rf"[^0-9()+\-−{re.escape(own)}]*"
    whole = rf"([+-]?){around}({number}){around}"
    text = matching(text, whole, faults, f"is no {_number_words(field)}")
    return pc.replace_substring_regex(text, rf"\A{whole}\z", r"\1\2")


def _number_words(field: FieldSpec) -> str:
    words = "integer" if field.type == "integer" else "number"
    extras = []
    if field.decimalChar != "." and field.type == "number":
        extras.append(f"{field.decimalChar!r} before the decimals")
    if field.groupChar:
        extras.append(f"{field.groupChar!r} between groups of digits")
    return f"{words} with {' and '.join(extras)}" if extras else words


def _cast_known(
    text: pa.Array, cast: Cast, alphabet: bytes, pattern: str, faults: Faults, words: str
) -> tuple[pa.Array, pa.Array | None]:
    """Text that is written by the rules, and the same cast, or None if not all of it can be.

    Each step is dearer than the one before and comes only when that has failed.
    """
    text, typed = _without_garbage(text, cast, alphabet, faults, words)
    if typed is None:
        text = matching(text, pattern, faults, words)
        typed = cast(text)
    return text, typed


def _without_garbage(
    text: pa.Array, cast: Cast, alphabet: bytes, faults: Faults, words: str
) -> tuple[pa.Array, pa.Array | None]:
    """Text without the cells that hold bytes which no value has, and the cast of it, or None if it cannot be cast."""
    typed = cast(text)
    if typed is not None:
        return text, typed
    garbage = strange(text, alphabet)
    if not garbage.any():
        return text, None
    faults.add(garbage, words)
    text = blank(text, garbage)
    return text, cast(text)


def parse_integer(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Read a column of text as int64; what cannot be read is null, and noted in ``faults``."""
    text = _plain(text, field, faults)
    text, typed = _cast_known(text, _cast_integer, b"+-0123456789", "[+-]?[0-9]+", faults, "is no integer")
    if typed is not None:
        return typed
    text = pc.replace_substring_regex(text, r"\A\+?(-?)0*([0-9])", r"\1\2")
    over = _beyond_64_bits(text)
    faults.add(over, "is out of the range of a 64-bit integer")
    return pc.cast(blank(text, over), pa.int64())


def _cast_integer(text: pa.Array) -> pa.Array | None:
    # Arrow takes 0x1F for a number
    return None if holds(text, b"xX") else try_cast(text, pa.int64())


def _beyond_64_bits(text: pa.Array) -> Mask:
    """Of integers without leading zeros, those that 64 bits cannot hold."""
    digits = pc.binary_length(pc.utf8_ltrim(text, characters="-"))
    over = as_mask(pc.greater(digits, 19))
    near = np.flatnonzero(as_mask(pc.equal(digits, 19)))  # the only ones that must be looked at
    over[near] = [not -(2**63) <= int(cell) < 2**63 for cell in text.take(pa.array(near)).to_pylist()]
    return over


def parse_number(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Read a column of text as the field's exact decimal, or as float64 where its format is double."""
    if field.format == "double":
        return parse_double(_plain(text, field, faults), faults)
    text = _plain(text, field, faults)
    type_ = pa.decimal128(field.precision, field.scale)
    cast = partial(_cast_decimal, type_=type_)
    text, typed = _without_garbage(text, cast, b"+-.0123456789Ee", faults, _NO_NUMBER)
    if typed is not None:
        return typed
    rare = _perhaps_unfit(text, field)
    usual = cast(blank(text, rare))
    if usual is None:
        return _parse_rare_decimals(text, field, faults)
    among = faults.among(rare)
    cells = _parse_rare_decimals(text.filter(pa.array(rare)), field, among)
    faults.include(among, rare)
    return pc.replace_with_mask(usual, pa.array(rare), cells)


def _parse_rare_decimals(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    text = matching(text, _POINT_NUMBER, faults, _NO_NUMBER)
    return pc.cast(_fitting(text, field, faults), pa.decimal128(field.precision, field.scale))


def _perhaps_unfit(text: pa.Array, field: FieldSpec) -> Mask:
    """Cells that have an exponent, or more characters than surely fit on either side of the point."""
    point = pc.find_substring(text, ".")
    length = pc.binary_length(text)
    none = pc.less(point, 0)
    before = pc.if_else(none, length, point)
    behind = pc.if_else(none, 0, pc.subtract(pc.subtract(length, point), 1))
    long = pc.or_(pc.greater(before, field.precision - field.scale), pc.greater(behind, field.scale))
    exponents = strange(text, b"+-.0123456789") if holds(text, b"eE") else np.zeros(len(text), np.bool_)
    return as_mask(long) | exponents


def _cast_decimal(text: pa.Array, type_: pa.Decimal128Type) -> pa.Array | None:
    """Arrow's cast where it can be trusted.

    It computes in 128 bits without noticing an overflow: of 400 nines it makes
    -1, of 25 digits with scale 38 anything, of -69e-72 it makes -0.0001. So it
    gets no exponents, and nothing that could need more than 38 digits.
    """
    longest = int(byte_lengths(text).max(initial=0))
    if longest + type_.scale > _MOST_DIGITS or holds(text, b"eE"):
        return None
    if max(longest, type_.scale) <= _EXACT_DIGITS:
        typed = _by_float(text, type_)
        # what does not go this way Arrow cannot cast either, but for a plus sign and larger numbers
        if typed is not None or (type_.precision <= _EXACT_DIGITS and not holds(text, b"+")):
            return typed
    return try_cast(text, type_)


def _by_float(text: pa.Array, type_: pa.Decimal128Type) -> pa.Array | None:
    """Decimals of short text by way of binary floats, which takes half the time; None where that could be wrong.

    Two numbers of at most 15 digits that are the same binary float are the same. So the
    integer of units next to what was read is exact if, divided again, it is that float.
    """
    read = try_cast(text, pa.float64())
    if read is None:
        return None
    floats = np.frombuffer(read.buffers()[1], np.float64)[read.offset : read.offset + len(read)]
    there = present(text) if text.null_count else None
    if there is not None:
        floats = np.where(there, floats, 0.0)
    units = np.rint(floats * 10.0**type_.scale)
    most = 10.0 ** min(type_.precision, _EXACT_DIGITS)
    if not ((np.abs(units) < most) & (units / 10.0**type_.scale == floats)).all():
        return None
    words = np.empty((len(text), 2), np.int64)
    words[:, 0] = units
    words[:, 1] = words[:, 0] >> 63
    valid = None if there is None else pa.array(there).buffers()[1]
    return pa.Array.from_buffers(type_, len(text), [valid, pa.py_buffer(words)])


def _fitting(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Numbers that fit precision and scale, without exponents and zeros that mean nothing."""
    decimals, digits = field.scale, field.precision - field.scale
    text = _without_exponents(text)
    deep = as_mask(pc.match_substring_regex(text, rf"\.[0-9]{{{decimals}}}[0-9]*[1-9]"))
    wide = as_mask(pc.match_substring_regex(text, rf"\A[+-]?0*[1-9][0-9]{{{digits},}}"))
    faults.add(deep, f"has more than {decimals} decimals")
    faults.add(wide, f"has more than {digits} digits before the decimals")
    text = blank(text, deep | wide)
    long = as_mask(pc.greater(pc.binary_length(text), _MOST_DIGITS))
    if not long.any():
        return text
    # Arrow counts zeros too, so both ends are cut; what is left has at most 38 digits, which it gets right
    short = pc.replace_substring_regex(text, r"\A([+-]?)0*([0-9])", r"\1\2")
    short = pc.replace_substring_regex(short, r"(\.[0-9]*?)0*\z", r"\1")
    return pc.if_else(pa.array(long), short, text)


def _without_exponents(text: pa.Array) -> pa.Array:
    """Numbers such as 1E+3 written out; one by one, since only cells that did not fit come here."""
    rare = as_mask(pc.match_substring_regex(text, "[eE]"))
    if not rare.any():
        return text
    cells = [_written_out(cell) for cell in text.filter(pa.array(rare)).to_pylist()]
    return pc.replace_with_mask(text, pa.array(rare), pa.array(cells, pa.string()))


def _written_out(cell: str) -> str:
    """A number without its exponent; where that would be very long, one as wide or as deep."""
    mantissa, exponent = re.split("[eE]", cell)
    if not mantissa.strip("+-0."):
        return "0"
    if len(exponent.lstrip("+-0")) > 3:
        return "." + "0" * 99 + "1" if exponent.startswith("-") else "9" * 99
    return format(Decimal(cell), "f")


def parse_double(text: pa.Array, faults: Faults) -> pa.Array:
    """Read a column of text as float64, rounded to the nearest, never to infinity."""
    pattern, words = rf"{_POINT_NUMBER}|{_NOT_FINITE}", "is no number"
    cast = partial(try_cast, type_=pa.float64())
    text, typed = _cast_known(text, cast, b"+-.0123456789EeAFINTYafinty", pattern, faults, words)
    assert typed is not None, "Arrow turns what is too large into infinity"
    if pc.all(pc.is_finite(typed)).as_py() is not False:
        return typed
    text = matching(text, pattern, faults, words)
    over = as_mask(pc.and_(pc.is_inf(typed), pc.match_substring_regex(text, "[0-9]")))
    faults.add(over, "is out of the range of a binary float")
    return blank(blank(typed, over), ~present(text))
