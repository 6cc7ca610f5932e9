"""Text into typed values, exactly: :func:`parse` turns one column of text into one Arrow array.

A value that is not written as its field declares is reported, never guessed
at, rounded or turned into NULL. The whole column is tried at once first; only
when that fails are the bad cells looked for, by regular expressions and
arithmetic over the column, so that a file with bad cells stays fast.

What each type accepts:

* string: anything. uuid: 32 hex digits in any case, bare or with the four usual
  hyphens, and either in braces
* integer: digits with an optional sign, up to 64 bits; leading zeros mean nothing
* number: digits with an optional sign, point and exponent; what does not fit
  precision and scale is a fault, except zeros, which mean nothing
* number/double: the same, and nan, inf, infinity in any case; rounded to the
  nearest binary float, but never to infinity
* with groupChar: groups of three digits (or the Indian two before the last
  three), or no groups at all; with decimalChar: that and no point
* with bareNumber false: anything around the number that is no digit, sign,
  bracket, decimal or group character is taken off, and nothing is computed:
  ``95%`` is 95. ``(5)`` and ``5-`` are faults, since they mean minus to some
* boolean: the declared words, no others
* date, datetime, time: see ``validation/parse_dates.py``
* object: a JSON object that PostgreSQL's jsonb can hold

What does not belong here: constraints (``validation/schemas.py``), the structure of files
(``reader/reader.py``).
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import (
    Mask,
    among_words,
    as_mask,
    blank,
    byte_lengths,
    empty,
    present,
    raw_bytes,
    with_nulls,
)
from importer_dagster.errors import SpecError
from importer_dagster.spec.date_formats import check_formats
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.validation.faults import SHOWN, BadCells, Faults
from importer_dagster.validation.parse_dates import parse_date, parse_datetime, parse_time
from importer_dagster.validation.parse_numbers import parse_integer, parse_number

Parser: TypeAlias = Callable[[pa.Array, FieldSpec, Faults], pa.Array]


def parse(text: pa.Array, field: FieldSpec, missing: Sequence[str]) -> tuple[pa.Array, BadCells | None]:
    """Read a column of text (pa.string()) as ``field`` declares.

    Texts in ``missing`` become NULL. Returns the typed array, NULL at bad
    cells, and the bad cells, None if there are none.
    """
    faults = Faults(text)
    typed = _PARSERS[field.type](_without(text, missing), field, faults)
    return typed, faults.cells()


def check_field(field: FieldSpec) -> None:
    """Raise SpecError if the field's format or time zone cannot be used."""
    if field.type in ("date", "datetime", "time"):
        check_formats(field)
    if field.timezone is None:
        return
    if field.type != "datetime":
        raise SpecError(f"field {field.name!r}: timezone goes with type datetime only", key=field.name)
    try:
        pc.assume_timezone(pa.array([0], pa.timestamp("us")), field.timezone)
    except pa.ArrowInvalid:
        raise SpecError(
            f"field {field.name!r}: {field.timezone!r} is no IANA time zone such as Europe/Berlin",
            key=field.name,
        ) from None


def _without(text: pa.Array, missing: Sequence[str]) -> pa.Array:
    """``text`` with NULL for missing values."""
    if not missing:
        return text
    if tuple(missing) == ("",):  # the usual case
        return text if byte_lengths(text).all() else blank(text, empty(text))
    return blank(text, *among_words(text, missing))


# --- numbers --------------------------------------------------------------------


# --- words ----------------------------------------------------------------------


def _parse_boolean(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    true, false = among_words(text, field.trueValues, field.falseValues)
    known = true | false
    if not known.all():
        words = ", ".join(dict.fromkeys((*field.trueValues, *field.falseValues)))
        faults.add(present(text) & ~known, f"is none of the words {words}")
    return with_nulls(true, ~known, pa.bool_())


_UUID = "(?:H{8}-H{4}-H{4}-H{4}-H{12}|H{32})".replace("H", "[0-9a-fA-F]")
# 36 bytes as PostgreSQL writes them: fields of bytes are copied faster than columns of a matrix
_CANONICAL = np.dtype("V8, u1, V4, u1, V4, u1, V4, u1, V12")
_DIGITS = [name for name in _CANONICAL.names or () if _CANONICAL[name] != np.uint8]
_HYPHENS = [name for name in _CANONICAL.names or () if name not in _DIGITS]
_BARE = np.dtype([(name, _CANONICAL[name]) for name in _DIGITS])


def _parse_string(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    return _parse_uuid(text, faults) if field.format == "uuid" else text


def _parse_uuid(text: pa.Array, faults: Faults) -> pa.Array:
    """Cells of 36 bytes are read as a matrix of bytes; the rest, and what fails there, by regex."""
    packed, good = _read_uuids(text.drop_null() if text.null_count else text)
    if text.null_count:
        there = present(text)
        packed, good = _spread(packed, there), _spread(good, there)
        faults.add(there & ~good, "is no UUID")
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
    """Rows of 16 bytes, and which cells are UUIDs."""
    usual = byte_lengths(cells) == _CANONICAL.itemsize
    if usual.all():
        return _from_canonical(cells)
    packed, good = np.zeros((len(cells), 16), np.uint8), np.zeros(len(cells), np.bool_)
    for form, read in ((usual, _from_canonical), (~usual, _from_other_forms)):
        packed[form], good[form] = read(cells.filter(pa.array(form)))
    return packed, good


def _from_canonical(cells: pa.Array) -> tuple[npt.NDArray[np.uint8], Mask]:
    fields = raw_bytes(cells).view(_CANONICAL)
    hyphens: Mask = np.logical_and.reduce([fields[name] == ord("-") for name in _HYPHENS])
    digits = np.empty(len(cells), _BARE)
    for name in _DIGITS:
        digits[name] = fields[name]
    packed, readable = _from_hex(digits.view(np.uint8).reshape(-1, 32))
    return packed, readable & hyphens


def _from_other_forms(cells: pa.Array) -> tuple[npt.NDArray[np.uint8], Mask]:
    known = as_mask(pc.match_substring_regex(cells, rf"\A(?:{_UUID}|\{{{_UUID}\}})\z"))
    packed = np.zeros((len(cells), 16), np.uint8)
    if known.any():
        digits = pc.replace_substring_regex(cells.filter(pa.array(known)), "[{}-]", "")
        packed[known], _ = _from_hex(raw_bytes(digits).reshape(-1, 32))
    return packed, known


_NIBBLES = np.full(256, 255, np.uint8)
for _digit in range(16):
    _NIBBLES[[ord(f"{_digit:x}"), ord(f"{_digit:X}")]] = _digit


def _from_hex(digits: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], Mask]:
    """Rows of 32 hex digits as 16 bytes, and which rows are nothing but hex digits."""
    try:  # whole batch at once: three times as fast
        packed = binascii.unhexlify(digits.data)
        return np.frombuffer(packed, np.uint8).reshape(-1, 16), np.ones(len(digits), np.bool_)
    except ValueError:
        nibbles = _NIBBLES[digits]
        hex_only: Mask = np.all(nibbles < 16, axis=1)
        return (nibbles[:, ::2] << 4 | nibbles[:, 1::2] & 15).astype(np.uint8), hex_only


# --- JSON -----------------------------------------------------------------------


def _parse_object(text: pa.Array, field: FieldSpec, faults: Faults) -> pa.Array:
    """Cell by cell: jsonb takes nothing but exact JSON, and no vectorised check is at hand."""
    cells = enumerate(text.to_pylist())
    found = {i: fault for i, cell in cells if cell is not None and (fault := _json_fault(cell))}
    if not found:
        return text
    bad = np.fromiter(found, np.int64)
    faults.add_each(bad, list(found.values()))
    mask = np.zeros(len(text), np.bool_)
    mask[bad] = True
    return blank(text, mask)


def _json_fault(cell: str) -> str | None:
    """Why PostgreSQL's jsonb would not take the text, or it is no object; None if it would."""
    try:
        value: Any = json.loads(cell, parse_constant=_no_constant, parse_float=_check_float)
    except RecursionError:
        return "is JSON that is nested too deeply"
    except ValueError as error:
        return f"is no JSON: {error}"
    if not isinstance(value, dict):
        return "is JSON, but no object"
    return _escape_fault(cell) if "\\u" in cell else None


def _escape_fault(cell: str) -> str | None:
    """Judged on the text, since of a key that comes twice only the last value is in the parsed object."""
    escapes = cell.replace("\\\\", "")
    if "\\u0000" in escapes:
        return "holds a NUL character, which PostgreSQL cannot store"
    pairs = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    if re.search(r"\\u[dD][89a-fA-F]", re.sub(pairs, "", escapes)):
        return "holds half a surrogate pair, which PostgreSQL cannot store"
    return None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _check_float(text: str) -> float:
    """Refuse what PostgreSQL's numeric, which jsonb is made of, might not hold."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent.lstrip("+-0")) > 4 or len(mantissa) > 6_000:
        raise ValueError(f"the number {text[:SHOWN]} is too large or too small")
    return 0.0


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
