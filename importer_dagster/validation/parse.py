"""Text into typed values, exactly: :func:`parse` turns one column of text into one Arrow array.

A value that is not written as its field declares is reported. It is never guessed, rounded or turned into NULL.
The whole column is cast at once first. Only when that fails are the bad cells looked for, by regular expressions
and arithmetic over the column, so that a file with bad cells stays fast.

What each type accepts:

* string: anything. uuid: 32 hex digits in any case, without hyphens or with the four usual
  ones, and either in braces
* integer: digits with an optional sign, up to 64 bits; leading zeros are ignored. Unless
  digitsOnly is declared, also what is exactly an integer with a point or an exponent,
  such as 281.0 and 1e3, but not 0012E5
* number: digits with an optional sign, point and exponent; what does not fit
  precision and scale is a fault, except leading and trailing zeros, which are ignored
* number with format double: the same, and nan, inf, infinity in any case; rounded to the
  nearest binary float, but never to infinity
* with groupChar: groups of three digits (or the Indian two before the last
  three), or no groups at all; with decimalChar: that character and no point
* with bareNumber false: characters before and after the number that are no digit, sign,
  bracket, decimal or group character are removed, and nothing is computed:
  ``95%`` is 95. ``(5)`` and ``5-`` are faults, since some write minus 5 so
* boolean: the declared words, no others
* date, datetime, time: see ``validation/parse_dates.py``
* object: a JSON object that PostgreSQL's jsonb can store

What does not belong here: constraints (``validation/schemas.py``), the structure of files
(``reader/reader.py``).
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import (
    Mask,
    among_words,
    as_mask,
    byte_lengths,
    is_empty,
    mask_at,
    null_where,
    present,
    raw_bytes,
    with_nulls,
)
from importer_dagster.errors import SpecError
from importer_dagster.spec.date_formats import check_formats
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.validation.faults import SHOWN, BadCells, Faults
from importer_dagster.validation.local_times import Clock
from importer_dagster.validation.parse_dates import parse_date, parse_datetime, parse_time
from importer_dagster.validation.parse_numbers import parse_integer, parse_number

Parser: TypeAlias = Callable[[pa.Array, FieldSpec, Faults], pa.Array]


def parse(
    text: pa.Array, field: FieldSpec, missing: Sequence[str], clock: Clock | None = None
) -> tuple[pa.Array, BadCells | None]:
    """Read a column of text (pa.string()) as ``field`` declares.

    Texts in ``missing`` become NULL. ``clock`` is that of the file, for local times. Returns the typed array, NULL at bad
    cells, and the bad cells, None if there are none.
    """
    faults = Faults(text, clock)
    if tuple(missing) == ("",):  # the usual case, by a faster way
        has_value = text if byte_lengths(text).all() else null_where(text, is_empty(text))
    elif missing:
        has_value = null_where(text, *among_words(text, missing))
    else:
        has_value = text
    return _PARSERS[field.type](has_value, field, faults), faults.bad_cells()


def check_field(field: FieldSpec) -> None:
    """Raise SpecError if the field's format or time zone cannot be used."""
    if field.type in ("date", "datetime", "time"):
        check_formats(field)
    if field.ambiguous is not None and field.timezone is None:
        raise SpecError(f"field {field.name!r}: ambiguous goes with timezone only", key=field.name)
    if field.timezone is None:
        return
    if field.ambiguous == "by_order" and len(field.formats) > 1:
        raise SpecError(
            f"field {field.name!r}: ambiguous: by_order goes with one format only, since values of "
            "several formats are not read in the order of the file",
            key=field.name,
        )
    if field.type != "datetime":
        raise SpecError(f"field {field.name!r}: timezone goes with type datetime only", key=field.name)
    try:
        pc.assume_timezone(pa.array([0], pa.timestamp("us")), field.timezone)
    except pa.ArrowInvalid:
        raise SpecError(
            f"field {field.name!r}: {field.timezone!r} is no IANA time zone such as Europe/Berlin",
            key=field.name,
        ) from None


# --- booleans -------------------------------------------------------------------


def _parse_boolean(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    true, false = among_words(text, field.trueValues, field.falseValues)
    known = true | false
    if not known.all():
        words = ", ".join(dict.fromkeys((*field.trueValues, *field.falseValues)))
        faults.add(present(text) & ~known, f"is none of the words {words}")
    return with_nulls(true, ~known, pa.bool_())


# --- text and uuids ---------------------------------------------------------------

_UUID = "(?:H{8}-H{4}-H{4}-H{4}-H{12}|H{32})".replace("H", "[0-9a-fA-F]")
# The 36 bytes of a uuid as PostgreSQL writes it. numpy copies fields of several bytes faster than columns of a matrix.
_CANONICAL = np.dtype("V8, u1, V4, u1, V4, u1, V4, u1, V12")
_DIGITS = [name for name in _CANONICAL.names or () if _CANONICAL[name] != np.uint8]
_HYPHENS = [name for name in _CANONICAL.names or () if name not in _DIGITS]
_ONLY_DIGITS = np.dtype([(name, _CANONICAL[name]) for name in _DIGITS])
_NOT_HEX = 255
_HEX_VALUES = np.full(256, _NOT_HEX, np.uint8)  # the value of each byte as a hex digit
for _digit in range(16):
    _HEX_VALUES[[ord(f"{_digit:x}"), ord(f"{_digit:X}")]] = _digit


def _parse_string(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """The text itself; of uuids 16 bytes each."""
    if field.format != "uuid":
        return text
    packed, good = _read_uuids(text.drop_null() if text.null_count else text)
    if text.null_count:
        is_present = present(text)
        packed, good = _spread(packed, is_present), _spread(good, is_present)
        faults.add(is_present & ~good, "is no UUID")
    else:
        faults.add(~good, "is no UUID")
    valid = None if good.all() else pa.array(good).buffers()[1]
    return pa.Array.from_buffers(pa.binary(16), len(text), [valid, pa.py_buffer(packed)])


def _spread(values: npt.NDArray[Any], where: Mask) -> npt.NDArray[Any]:
    """The values in the places where the mask is true, 0 elsewhere."""
    spread = np.zeros((len(where), *values.shape[1:]), values.dtype)
    spread[where] = values
    return spread


def _read_uuids(cells: pa.Array) -> tuple[npt.NDArray[np.uint8], Mask]:
    """Rows of 16 bytes, and which cells are UUIDs; the cells have no nulls.

    Cells of 36 bytes are read as a matrix of bytes, the others by a regular expression.
    """
    usual = byte_lengths(cells) == _CANONICAL.itemsize
    if usual.all():
        return _read_canonical(cells)
    packed, good = np.zeros((len(cells), 16), np.uint8), np.zeros(len(cells), np.bool_)
    packed[usual], good[usual] = _read_canonical(cells.filter(pa.array(usual)))
    others = cells.filter(pa.array(~usual))
    matches = as_mask(pc.match_substring_regex(others, rf"\A(?:{_UUID}|\{{{_UUID}\}})\z"))
    if matches.any():
        digits = pc.replace_substring_regex(others.filter(pa.array(matches)), "[{}-]", "")
        positions = np.flatnonzero(~usual)[matches]
        packed[positions], good[positions] = _from_hex(raw_bytes(digits).reshape(-1, 32))
    return packed, good


def _read_canonical(cells: pa.Array) -> tuple[npt.NDArray[np.uint8], Mask]:
    """Cells of 36 bytes as rows of 16 bytes, and which cells are UUIDs with their four hyphens."""
    fields = raw_bytes(cells).view(_CANONICAL)
    hyphens: Mask = np.logical_and.reduce([fields[name] == ord("-") for name in _HYPHENS])
    digits = np.empty(len(cells), _ONLY_DIGITS)
    for name in _DIGITS:
        digits[name] = fields[name]
    packed, readable = _from_hex(digits.view(np.uint8).reshape(-1, 32))
    return packed, readable & hyphens


def _from_hex(digits: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], Mask]:
    """Rows of 32 hex digits as 16 bytes, and which rows contain only hex digits."""
    try:  # all rows at once takes a third of the time
        packed = binascii.unhexlify(digits.data)
        return np.frombuffer(packed, np.uint8).reshape(-1, 16), np.ones(len(digits), np.bool_)
    except ValueError:
        values = _HEX_VALUES[digits]
        only_hex: Mask = np.all(values != _NOT_HEX, axis=1)
        return (values[:, ::2] << 4 | values[:, 1::2] & 15).astype(np.uint8), only_hex


# --- JSON -----------------------------------------------------------------------


def _parse_object(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """The text of each JSON object; cell by cell, since Arrow has no function that checks JSON as jsonb does."""
    cells = enumerate(text.to_pylist())
    found = {i: fault for i, cell in cells if cell is not None and (fault := _json_fault(cell))}
    if not found:
        return text
    bad = np.fromiter(found, np.int64)
    faults.add_each(bad, list(found.values()))
    return null_where(text, mask_at(bad, len(text)))


def _json_fault(cell: str) -> str | None:
    """Why PostgreSQL's jsonb would not take the text, or why it is no object; None if it is fine."""
    try:
        value: Any = json.loads(cell, parse_constant=_check_json_number, parse_float=_check_json_number)
    except RecursionError:
        return "is JSON that is nested too deeply"
    except ValueError as error:
        return f"is no JSON: {error}"
    if not isinstance(value, dict):
        return "is JSON, but no object"
    # Escapes are searched in the text: if a key comes twice, the parsed object has its last value only.
    escapes = cell.replace("\\\\", "") if "\\u" in cell else ""
    if "\\u0000" in escapes:
        return "holds a NUL character, which PostgreSQL cannot store"
    pairs = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    if escapes and re.search(r"\\u[dD][89a-fA-F]", re.sub(pairs, "", escapes)):
        return "holds half a surrogate pair, which PostgreSQL cannot store"
    return None


def _check_json_number(text: str) -> float:
    """Raise ValueError for NaN and Infinity, and for a number that PostgreSQL's numeric, as in jsonb, might not hold."""
    if text in ("NaN", "Infinity", "-Infinity"):
        raise ValueError(f"{text} is not JSON")
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent.lstrip("+-0")) > 4 or len(mantissa) > 6_000:
        raise ValueError(f"the number {text[:SHOWN]} is too large or too small")
    return 0.0  # the value itself is not used


_PARSERS: dict[str, Parser] = {
    "string": _parse_string,
    "integer": parse_integer,
    "number": parse_number,
    "boolean": _parse_boolean,
    "date": parse_date,
    "datetime": parse_datetime,
    "time": parse_time,
    "object": _parse_object,
}
