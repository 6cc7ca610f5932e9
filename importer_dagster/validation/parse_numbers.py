"""Text into integers, exact decimals and binary floats, a column at a time.

What each type accepts is listed in ``validation/parse.py``.

What does not belong here: the other types (``validation/parse.py``, ``validation/parse_dates.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import (
    as_mask,
    byte_lengths,
    contains_any,
    has_other_bytes,
    null_where,
    present,
    try_cast,
)
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.validation.faults import Faults, null_unless_match

# Casts a whole column; None if one of its cells cannot be cast.
TryCast: TypeAlias = Callable[[pa.Array], pa.Array | None]

_EXPONENT = "[eE][+-]?[0-9]+"
_POINT_NUMBER = rf"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:{_EXPONENT})?"
_NOT_FINITE = "[+-]?(?i:nan|inf|infinity)"
_NO_NUMBER = "is no number"
_MOST_DIGITS = 38  # of a decimal128
_EXACT_DIGITS = 15  # two different numbers of so many decimal digits are different binary floats


# --- integers -------------------------------------------------------------------


def parse_integer(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Read a column of text as int64; cells that cannot be read become NULL and faults."""
    text = _in_plain_notation(text, field, faults)
    words = "is no integer"
    typed = _cast_integer(text)
    if typed is not None:
        return typed
    if not field.digitsOnly and contains_any(text, b".eE"):
        text = _in_digits(text, field)
    text, typed = _cast_without_other_bytes(text, _cast_integer, b"+-0123456789", faults, words)
    if typed is not None:
        return typed
    text = null_unless_match(text, "[+-]?[0-9]+", faults, words)
    typed = _cast_integer(text)
    if typed is not None:
        return typed
    # Arrow takes no plus sign, and some numbers are beyond 64 bits
    text = pc.replace_substring_regex(text, r"\A\+?(-?)0*([0-9])", r"\1\2")
    digits = pc.binary_length(pc.utf8_ltrim(text, characters="-"))
    over = as_mask(pc.greater(digits, 19))
    near = np.flatnonzero(as_mask(pc.equal(digits, 19)))  # of the others only these may be too large
    over[near] = [not -(2**63) <= int(cell) < 2**63 for cell in text.take(pa.array(near)).to_pylist()]
    faults.add(over, "is out of the range of a 64-bit integer")
    return pc.cast(null_where(text, over), pa.int64())


def _in_digits(text: pa.Array, field: FieldSpec) -> pa.Array:
    """Numbers such as 281.0 and 1e3 in digits alone; what is no integer keeps a byte that no integer has.

    A leading zero before an exponent shows that 0012E5 is a name and no number. Of 1.000 only a field that declares
    its notation tells whether it is one or a thousand.
    """
    is_declared = field.groupChar is not None or field.decimalChar != "."
    zeros = "0*" if is_declared else "(?:0{0,2}|0{4,})"
    is_other = pa.array(has_other_bytes(text, b"+-0123456789"))
    cells = pc.replace_substring_regex(text.filter(is_other), rf"\A([+-]?[0-9]+)\.{zeros}\z", r"\1")
    scientific = pc.match_substring_regex(cells, rf"\A[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?{_EXPONENT}\z")
    found = [_without_exponent(cell) for cell in cells.filter(scientific).to_pylist()]
    cells = pc.replace_with_mask(cells, scientific, pa.array(found, pa.string()))
    return pc.replace_with_mask(text, is_other, cells)


def _cast_integer(text: pa.Array) -> pa.Array | None:
    # Arrow would read 0x1F as a number
    return None if contains_any(text, b"xX") else try_cast(text, pa.int64())


# --- binary floats --------------------------------------------------------------


def _parse_double(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Read a column of text as float64, rounded to the nearest, never to infinity."""
    text = _in_plain_notation(text, field, faults)
    pattern = rf"{_POINT_NUMBER}|{_NOT_FINITE}"
    cast = partial(try_cast, type_=pa.float64())
    text, typed = _cast_without_other_bytes(text, cast, b"+-.0123456789EeAFINTYafinty", faults, _NO_NUMBER)
    if typed is None:
        text = null_unless_match(text, pattern, faults, _NO_NUMBER)
        typed = cast(text)
    assert typed is not None, "Arrow turns what is too large into infinity"
    if pc.all(pc.is_finite(typed)).as_py() is not False:
        return typed
    # Arrow also takes other words for infinity and nan than those that are allowed
    text = null_unless_match(text, pattern, faults, _NO_NUMBER)
    over = as_mask(pc.and_(pc.is_inf(typed), pc.match_substring_regex(text, "[0-9]")))
    faults.add(over, "is out of the range of a binary float")
    return null_where(null_where(typed, over), ~present(text))


# --- exact decimals -------------------------------------------------------------


def parse_number(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Read a column of text as the field's exact decimal, or as float64 where its format is double."""
    if field.format == "double":
        return _parse_double(text, field, faults)
    text = _in_plain_notation(text, field, faults)
    cast = partial(_cast_decimal, type_=pa.decimal128(field.precision, field.scale))
    text, typed = _cast_without_other_bytes(text, cast, b"+-.0123456789Ee", faults, _NO_NUMBER)
    if typed is not None:
        return typed
    # Rare cells have an exponent, or more characters than surely fit on one side of the point.
    point, length = pc.find_substring(text, "."), pc.binary_length(text)
    no_point = pc.less(point, 0)
    before = pc.if_else(no_point, length, point)
    behind = pc.if_else(no_point, 0, pc.subtract(pc.subtract(length, point), 1))
    rare = as_mask(pc.or_(pc.greater(before, field.precision - field.scale), pc.greater(behind, field.scale)))
    if contains_any(text, b"eE"):
        rare |= has_other_bytes(text, b"+-.0123456789")
    usual = cast(null_where(text, rare))
    if usual is None:
        return _parse_rare_decimals(text, field, faults)
    rare_faults = faults.subset(rare)
    cells = _parse_rare_decimals(text.filter(pa.array(rare)), field, rare_faults)
    faults.add_subset(rare_faults, rare)
    return pc.replace_with_mask(usual, pa.array(rare), cells)


def _cast_decimal(text: pa.Array, type_: pa.Decimal128Type) -> pa.Array | None:
    """Arrow's cast to a decimal, where its result is certain to be right; else None.

    Arrow computes in 128 bits without noticing an overflow: 400 nines become -1, 25 digits with scale 38 any number,
    and -69e-72 becomes -0.0001. So it gets no exponents, and nothing that could need more than 38 digits.
    """
    longest = int(byte_lengths(text).max(initial=0))
    if longest + type_.scale > _MOST_DIGITS or contains_any(text, b"eE"):
        return None
    if max(longest, type_.scale) <= _EXACT_DIGITS:
        typed = _cast_decimal_by_float(text, type_)
        # what cannot be cast this way Arrow cannot cast either, except a plus sign and larger numbers
        if typed is not None or (type_.precision <= _EXACT_DIGITS and not contains_any(text, b"+")):
            return typed
    return try_cast(text, type_)


def _cast_decimal_by_float(text: pa.Array, type_: pa.Decimal128Type) -> pa.Array | None:
    """Decimals of at most 15 digits by way of binary floats, in half the time; None where that could be wrong.

    Two numbers of at most 15 digits are the same if they are the same binary float. So the rounded number of units
    (of the last decimal) is exact if dividing it again gives the float that was read.
    """
    read = try_cast(text, pa.float64())
    if read is None:
        return None
    floats = np.frombuffer(read.buffers()[1], np.float64)[read.offset : read.offset + len(read)]
    is_present = present(text) if text.null_count else None
    if is_present is not None:
        floats = np.where(is_present, floats, 0.0)
    units = np.rint(floats * 10.0**type_.scale)
    most = 10.0 ** min(type_.precision, _EXACT_DIGITS)
    if not ((np.abs(units) < most) & (units / 10.0**type_.scale == floats)).all():
        return None
    halves = np.empty((len(text), 2), np.int64)  # of 128 bits, the low half first
    halves[:, 0] = units
    halves[:, 1] = halves[:, 0] >> 63
    valid = None if is_present is None else pa.array(is_present).buffers()[1]
    return pa.Array.from_buffers(type_, len(text), [valid, pa.py_buffer(halves)])


def _parse_rare_decimals(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Decimals of any notation by regular expressions; what does not fit precision and scale becomes a fault."""
    decimals, digits = field.scale, field.precision - field.scale
    text = null_unless_match(text, _POINT_NUMBER, faults, _NO_NUMBER)
    with_exponent = as_mask(pc.match_substring_regex(text, "[eE]"))
    if with_exponent.any():
        cells = [_without_exponent(cell) for cell in text.filter(pa.array(with_exponent)).to_pylist()]
        text = pc.replace_with_mask(text, pa.array(with_exponent), pa.array(cells, pa.string()))
    deep = as_mask(pc.match_substring_regex(text, rf"\.[0-9]{{{decimals}}}[0-9]*[1-9]"))
    wide = as_mask(pc.match_substring_regex(text, rf"\A[+-]?0*[1-9][0-9]{{{digits},}}"))
    faults.add(deep, f"has more than {decimals} decimals")
    faults.add(wide, f"has more than {digits} digits before the decimals")
    text = null_where(text, deep | wide)
    long = as_mask(pc.greater(pc.binary_length(text), _MOST_DIGITS))
    if long.any():
        # Arrow counts zeros at both ends, so they are cut off; of at most 38 digits its result is right
        short = pc.replace_substring_regex(text, r"\A([+-]?)0*([0-9])", r"\1\2")
        short = pc.replace_substring_regex(short, r"(\.[0-9]*?)0*\z", r"\1")
        text = pc.if_else(pa.array(long), short, text)
    return pc.cast(text, pa.decimal128(field.precision, field.scale))


def _without_exponent(cell: str) -> str:
    """A number such as 1E+3 written out.

    Where it has more than 38 digits before or behind the point, another number that has, so that the work and the
    text stay small.
    """
    mantissa, exponent = re.split("[eE]", cell)
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, decimals = mantissa.lstrip("+-").partition(".")
    significant = (whole + decimals).lstrip("0")
    point = len(whole) - (len(whole + decimals) - len(significant))  # its place among the digits
    digits = significant.rstrip("0")
    if not digits:
        return "0"
    size = exponent.lstrip("+-0")
    # nothing that fits into memory has a thousand million digits
    shift = int(size or 0) if len(size) < 10 else 10**9
    point += -shift if exponent.startswith("-") else shift
    if point > _MOST_DIGITS:
        return sign + "9" * (_MOST_DIGITS + 1)
    if len(digits) - point > _MOST_DIGITS:
        return sign + "." + "0" * _MOST_DIGITS + "1"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if point >= len(digits):
        return sign + digits.ljust(point, "0")
    return f"{sign}{digits[:point]}.{digits[point:]}"


# --- what all numbers share -----------------------------------------------------


def _cast_without_other_bytes(
    text: pa.Array, cast: TryCast, alphabet: bytes, faults: Faults, words: str
) -> tuple[pa.Array, pa.Array | None]:
    """Cast a column; if that fails, once more without the cells that contain bytes outside of ``alphabet``.

    Those cells become NULL and faults. Returns the text that is left and the cast of it, None if it still fails.
    Looking for bytes takes a fifth of the time of a regular expression, which callers try only after it.
    """
    typed = cast(text)
    if typed is not None:
        return text, typed
    garbage = has_other_bytes(text, alphabet)
    if not garbage.any():
        return text, None
    faults.add(garbage, words)
    text = null_where(text, garbage)
    return text, cast(text)


def _in_plain_notation(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Numbers rewritten with a decimal point and without groups and other characters; others become faults."""
    if field.decimalChar == "." and field.groupChar is None and field.bareNumber:
        return text
    number, words = _declared_notation(field)
    if field.bareNumber:
        text = null_unless_match(text, number, faults, words)
    else:
        group = "" if field.groupChar is None or field.groupChar.isspace() else field.groupChar
        around = rf"[^0-9()+\-−{re.escape(field.decimalChar + group)}]*"
        whole = rf"([+-]?){around}({number}){around}"  # a sign may stand before a currency
        text = null_unless_match(text, whole, faults, words)
        text = pc.replace_substring_regex(text, rf"\A{whole}\z", r"\1\2")
    if field.groupChar is not None:
        text = pc.replace_substring(text, field.groupChar, "")
    return pc.replace_substring(text, field.decimalChar, ".") if field.decimalChar != "." else text


def _declared_notation(field: FieldSpec) -> tuple[str, str]:
    """A regular expression of how the field's numbers are written, sign included; and what is said of others."""
    words = [f"is no {'integer' if field.type == 'integer' else 'number'}"]
    if field.decimalChar != "." and field.type == "number":
        words.append(f"{field.decimalChar!r} before the decimals")
    digits = "[0-9]+"
    if field.groupChar is not None:
        group = re.escape(field.groupChar)
        digits = rf"(?:[0-9]{{1,3}}(?:{group}[0-9]{{3}})+|[0-9]{{1,2}}(?:{group}[0-9]{{2}})*{group}[0-9]{{3}}|[0-9]+)"
        words.append(f"{field.groupChar!r} between groups of digits")
    message = words[0] if len(words) == 1 else f"{words[0]} with {' and '.join(words[1:])}"
    if field.type == "integer" and field.digitsOnly:
        return f"[+-]?{digits}", message
    point = re.escape(field.decimalChar)
    exact = rf"[+-]?(?:{digits}(?:{point}[0-9]*)?|{point}[0-9]+)(?:{_EXPONENT})?"
    return (f"(?:{exact}|{_NOT_FINITE})" if field.format == "double" else exact), message
