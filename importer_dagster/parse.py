"""Text into typed values, exactly: :func:`parse` turns one column of text into one Arrow array.

A value that is not written as its field declares is reported, never guessed
at, rounded or turned into NULL. The whole column is tried at once first; only
when that fails are the bad cells looked for, by regular expressions and
arithmetic over the column, so that a file with bad cells stays fast.

What each type accepts:

* integer: digits with an optional sign, up to 64 bits; leading zeros mean nothing
* number: digits with the declared decimal and group characters, an optional
  sign and exponent; more decimals than ``scale`` are an error, unless zeros
* number/double: the same, and the words nan, inf, infinity with a sign
* boolean: the declared words, no others
* date, datetime, time: ISO 8601, or the declared strptime pattern to the letter;
  a datetime in ISO form may be a date alone (midnight)
* string/uuid: 32 hex digits, with the four usual hyphens or none, in braces or not
* object: a JSON object

What does not belong here: constraints (``schema.py``), the structure of files
(``reader.py``).
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.errors import SpecError
from importer_dagster.spec import FieldSpec

SHOWN = 80  # characters of a value that a message shows


@dataclass(frozen=True)
class BadCells:
    """Cells that could not be read: positions from 0 (int64, ascending) and what is wrong with each."""

    indexes: np.ndarray
    messages: pa.Array


Parsed = tuple[pa.Array, BadCells | None]


def parse(text: pa.Array, field: FieldSpec, missing: Sequence[str]) -> Parsed:
    """Read a column of text (pa.string()) as ``field`` declares.

    Texts in ``missing`` become NULL. Returns the typed array, NULL at bad
    cells, and the bad cells, None if there are none.
    """
    if field.type == "string" and field.format != "uuid":
        return _without(text, missing), None
    if missing and "" in missing and len(missing) == 1 and not _has_empty(text):
        pass  # the usual case: empty cells came as null already
    elif missing:
        text = _without(text, missing)
    return _PARSERS[field.type](text, field)


def _without(text: pa.Array, missing: Sequence[str]) -> pa.Array:
    if not missing:
        return text
    tokens = pa.array(missing, pa.string())
    return pc.if_else(pc.is_in(text, value_set=tokens), pa.scalar(None, pa.string()), text)


def _has_empty(text: pa.Array) -> bool:
    return bool(pc.any(pc.equal(pc.binary_length(text), 0)).as_py())


# --- what parsers share ---------------------------------------------------------


def _quoted(cells: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise("'", pc.utf8_slice_codeunits(cells, 0, SHOWN), "'", "")


def _bad(text: pa.Array, bad: np.ndarray, what: str) -> BadCells:
    """Bad cells at the positions where the boolean array ``bad`` is true."""
    indexes = np.flatnonzero(bad)
    cells = text.take(pa.array(indexes))
    return BadCells(indexes, pc.binary_join_element_wise(_quoted(cells), what, " "))


def _merge(*parts: BadCells | None) -> BadCells | None:
    found = [p for p in parts if p is not None and len(p.indexes)]
    if not found:
        return None
    if len(found) == 1:
        return found[0]
    indexes = np.concatenate([p.indexes for p in found])
    order = np.argsort(indexes, kind="stable")
    return BadCells(indexes[order], pa.concat_arrays([p.messages for p in found]).take(pa.array(order)))


def _mask(condition: pa.Array) -> np.ndarray:
    """A boolean Arrow array as numpy, null as false."""
    return pc.fill_null(condition, False).to_numpy(zero_copy_only=False)


def _blank(array: pa.Array, bad: np.ndarray) -> pa.Array:
    """``array`` with NULL where ``bad`` is true."""
    return pc.if_else(pa.array(bad), pa.scalar(None, array.type), array) if bad.any() else array


def _data(text: pa.Array) -> memoryview:
    """The bytes of all cells, one after the other."""
    buffers = text.buffers()
    if buffers[2] is None or len(text) == 0:
        return memoryview(b"")
    offsets = np.frombuffer(buffers[1], dtype=np.int32)[text.offset : text.offset + len(text) + 1]
    return memoryview(buffers[2])[int(offsets[0]) : int(offsets[-1])]


def _holds_any(text: pa.Array, characters: bytes) -> bool:
    """Whether any cell holds one of the ASCII characters; a scan of raw bytes, so nearly free."""
    data = bytes(_data(text)) if len(characters) else b""
    return any(data.find(bytes([c])) >= 0 for c in characters)


def _try_cast(text: pa.Array, type_: pa.DataType) -> pa.Array | None:
    try:
        return pc.cast(text, type_)
    except pa.ArrowInvalid:
        return None


def _lexical(text: pa.Array, pattern: str, what: str) -> tuple[pa.Array, np.ndarray, BadCells | None]:
    """Text without the cells that do not match ``pattern``; which those are; the same as bad cells."""
    wrong = _mask(pc.invert(pc.match_substring_regex(text, rf"\A(?:{pattern})\z")))
    if not wrong.any():
        return text, wrong, None
    return _blank(text, wrong), wrong, _bad(text, wrong, what)


# --- numbers --------------------------------------------------------------------


def _plain_digits(text: pa.Array, field: FieldSpec) -> tuple[pa.Array, BadCells | None]:
    """Numbers as declared, rewritten with a point and without groups; the rest as bad cells."""
    declared = field.decimalChar != "." or field.groupChar is not None or not field.bareNumber
    if not declared:
        return text, None
    point, group = re.escape(field.decimalChar), field.groupChar
    digits = r"[0-9]+"
    if group is not None:
        g = re.escape(group)
        # thousands, or the Indian lakh and crore; the last group always has three
        digits = rf"(?:[0-9]{{1,3}}(?:{g}[0-9]{{2,3}})*{g}[0-9]{{3}}|[0-9]+)"
    core = rf"[+-]?(?:{digits}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?"
    special = r"|[+-]?(?i:nan|inf|infinity)" if field.format == "double" else ""
    around = r"[^0-9+\-]*" if not field.bareNumber else ""
    after = r"[^0-9]*" if not field.bareNumber else ""
    sign_first = r"[+-]?" if not field.bareNumber else ""
    wanted = rf"{sign_first}{around}(?:{core}{special}){after}"
    text, _, bad = _lexical(text, wanted, f"is no {_number_words(field)}")
    if not field.bareNumber:
        text = pc.replace_substring_regex(text, rf"\A([+-]?)[^0-9+\-]*?({core}){after}\z", r"\1\2")
    if group is not None:
        text = pc.replace_substring(text, group, "")
    if field.decimalChar != ".":
        text = pc.replace_substring(text, field.decimalChar, ".")
    return text, bad


def _number_words(field: FieldSpec) -> str:
    words = "integer" if field.type == "integer" else "number"
    if field.decimalChar != ".":
        words += f" with {field.decimalChar!r} before the decimals"
    if field.groupChar:
        words += f" and {field.groupChar!r} between groups"
    return words


def _parse_integer(original: pa.Array, field: FieldSpec) -> Parsed:
    text, bad_form = _plain_digits(original, field)
    # the cast alone would take 0x1F for a number
    typed = None if _holds_any(text, b"xX") else _try_cast(text, pa.int64())
    if typed is not None:
        return typed, bad_form
    text, _, bad_digits = _lexical(text, r"[+-]?[0-9]+", "is no integer")
    text = pc.utf8_ltrim(text, characters="+")
    typed = _try_cast(text, pa.int64())
    bad_range = None
    if typed is None:
        long = np.flatnonzero(_mask(pc.greater_equal(pc.utf8_length(text), 19)))
        values = [int(v) for v in text.take(pa.array(long)).to_pylist()]
        over = np.zeros(len(text), dtype=bool)
        over[long] = [not -(2**63) <= v < 2**63 for v in values]
        bad_range = _bad(original, over, "is out of the range of a 64-bit integer")
        typed = pc.cast(_blank(text, over), pa.int64())
    return typed, _merge(bad_form, bad_digits, bad_range)


_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"


def _parse_number(original: pa.Array, field: FieldSpec) -> Parsed:
    text, bad_form = _plain_digits(original, field)
    if field.format == "double":
        return _parse_double(original, text, bad_form)
    type_ = pa.decimal128(field.precision, field.scale)
    typed = _try_cast(text, type_)
    if typed is not None:
        return typed, bad_form
    text, _, bad_digits = _lexical(text, _NUMBER, "is no number")
    text, bad_size = _fit_decimal(original, text, field)
    return pc.cast(text, type_), _merge(bad_form, bad_digits, bad_size)


def _fit_decimal(original: pa.Array, text: pa.Array, field: FieldSpec) -> tuple[pa.Array, BadCells | None]:
    """Drop what means nothing (zeros at either end); report what does not fit precision and scale."""
    text = _without_exponents(text, field)
    parts = pc.extract_regex(text, r"\A(?P<sign>[+-]?)0*(?P<whole>[0-9]*)\.?(?P<rest>[0-9]*?)0*\z")
    whole, rest = pc.struct_field(parts, "whole"), pc.struct_field(parts, "rest")
    deep = _mask(pc.greater(pc.utf8_length(rest), field.scale))
    wide = _mask(pc.greater(pc.utf8_length(whole), field.precision - field.scale)) & ~deep
    text = pc.binary_join_element_wise(
        pc.struct_field(parts, "sign"), "0", whole, ".", rest, "0", "", null_handling="emit_null"
    )
    # a '0' on either side keeps '.5' and '5.' whole; past 38 digits it must go
    text = pc.replace_substring_regex(text, r"\A([+-]?)0*([0-9])", r"\1\2")
    decimals, digits = field.scale, field.precision - field.scale
    bad_deep = _bad(original, deep, f"has more than {decimals} decimals") if deep.any() else None
    bad_wide = (
        _bad(original, wide, f"has more than {digits} digits before the decimals") if wide.any() else None
    )
    text = _blank(text, deep | wide)
    text = pc.replace_substring_regex(text, r"\.([0-9]*?)0+\z", r".\1")
    return text, _merge(bad_deep, bad_wide)


def _without_exponents(text: pa.Array, field: FieldSpec) -> pa.Array:
    """Numbers such as 1E+3 written out. Cell by cell: they are rare in exact numbers."""
    rare = np.flatnonzero(_mask(pc.match_substring_regex(text, "[eE]")))
    if not len(rare):
        return text
    cells = text.to_pylist()
    for i in rare:
        cells[i] = _written_out(cells[i], field)
    return pa.array(cells, pa.string())


def _written_out(cell: str, field: FieldSpec) -> str:
    number = Decimal(cell)
    _, digits, exponent = number.as_tuple()
    too_long = "9" * 50  # does not fit any field: an exponent such as 1e999999 must not be written out
    if not any(digits):
        return "0"
    if not isinstance(exponent, int) or len(digits) + exponent > 100:
        return too_long
    if exponent < -1000:
        return "0." + "0" * 60 + "1"
    try:
        return format(number, "f")
    except InvalidOperation:
        return too_long


def _parse_double(original: pa.Array, text: pa.Array, bad_form: BadCells | None) -> Parsed:
    typed = _try_cast(text, pa.float64())
    if typed is not None and not pc.any(pc.invert(pc.is_finite(typed))).as_py():
        return typed, bad_form
    text, _, bad_digits = _lexical(text, rf"{_NUMBER}|[+-]?(?i:nan|inf|infinity)", "is no number")
    typed = pc.cast(text, pa.float64())
    over = _mask(pc.and_(pc.is_inf(typed), pc.match_substring_regex(text, "[0-9]")))
    bad_range = _bad(original, over, "is out of the range of a binary float") if over.any() else None
    return _blank(typed, over), _merge(bad_form, bad_digits, bad_range)


# --- words ----------------------------------------------------------------------


def _parse_boolean(text: pa.Array, field: FieldSpec) -> Parsed:
    true = pc.is_in(text, value_set=pa.array(field.trueValues, pa.string()))
    known = pc.or_(true, pc.is_in(text, value_set=pa.array(field.falseValues, pa.string())))
    null = pc.is_null(text)
    wrong = _mask(pc.invert(pc.or_(known, null)))
    typed = pc.if_else(pc.or_(null, pa.array(wrong)), pa.scalar(None, pa.bool_()), true)
    if not wrong.any():
        return typed, None
    words = ", ".join(dict.fromkeys((*field.trueValues, *field.falseValues)))
    return typed, _bad(text, wrong, f"is none of the words {words}")


_UUID = r"\{?[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}\}?"
_HYPHENS = [8, 13, 18, 23]


def _parse_string(text: pa.Array, field: FieldSpec) -> Parsed:
    """Only uuid comes here; other strings are taken as they are."""
    fast = _canonical_uuids(text)
    if fast is not None:
        return fast, None
    text, _, bad = _lexical(text, _UUID, "is no UUID")
    hexes = pc.replace_substring_regex(text, r"[{}-]", "")
    return _from_hex(hexes), bad


def _canonical_uuids(text: pa.Array) -> pa.Array | None:
    """The fast path: every cell has 36 bytes, hyphens at the four places and hex digits elsewhere."""
    filled = text.drop_null() if text.null_count else text
    raw = np.frombuffer(_data(filled), dtype=np.uint8)
    if len(raw) != 36 * len(filled) or not len(filled):
        return None
    if pc.min_max(pc.binary_length(filled)).as_py() != {"min": 36, "max": 36}:
        return None
    cells = raw.reshape(-1, 36)
    if not (cells[:, _HYPHENS] == ord("-")).all():
        return None
    try:
        packed = binascii.unhexlify(np.delete(cells, _HYPHENS, axis=1).tobytes())
    except (binascii.Error, ValueError):
        return None
    return _spread(pa.py_buffer(packed), text)


def _from_hex(hexes: pa.Array) -> pa.Array:
    filled = hexes.drop_null() if hexes.null_count else hexes
    return _spread(pa.py_buffer(binascii.unhexlify(bytes(_data(filled)))), hexes)


def _spread(packed: pa.Buffer, like: pa.Array) -> pa.Array:
    """16-byte values for the cells of ``like`` that are not null."""
    filled = len(like) - like.null_count
    values = pa.Array.from_buffers(pa.binary(16), filled, [None, packed])
    if not like.null_count:
        return values
    valid = like.is_valid()
    positions = pc.subtract(pc.cumulative_sum(pc.cast(valid, pa.int64())), 1)
    return values.take(pc.if_else(valid, positions, pa.scalar(None, pa.int64())))


def _parse_object(text: pa.Array, field: FieldSpec) -> Parsed:
    """Cell by cell: PostgreSQL's jsonb takes nothing but exact JSON, and no vectorised check is at hand."""
    reasons = {i: r for i, cell in enumerate(text.to_pylist()) if cell is not None and (r := _json_fault(cell))}
    if not reasons:
        return text, None
    bad = np.zeros(len(text), dtype=bool)
    bad[list(reasons)] = True
    indexes = np.flatnonzero(bad)
    cells = _quoted(text.take(pa.array(indexes)))
    why = pa.array([reasons[int(i)] for i in indexes], pa.string())
    return _blank(text, bad), BadCells(indexes, pc.binary_join_element_wise(cells, why, " "))


def _json_fault(cell: str) -> str | None:
    try:
        value = json.loads(cell, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return f"is no JSON that PostgreSQL can store: {error}"
    if not isinstance(value, dict):
        return "is JSON, but no object"
    if "\\u0000" in cell and "\0" in json.dumps(value, ensure_ascii=False).replace("\\u0000", "\0"):
        return "holds a NUL character, which PostgreSQL cannot store"
    if "\\ud" in cell.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "holds half a surrogate pair"
    return None


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _finite(text: str) -> float:
    exponent = re.search(r"[eE]([+-]?\d+)$", text)
    if exponent and abs(int(exponent[1])) > 10_000:
        raise ValueError(f"{text[:SHOWN]} is too large")
    return 0.0


# --- dates and times --------------------------------------------------------------


def has_zone(field: FieldSpec) -> bool:
    """Whether a datetime field is a point in time (timestamptz) or a time on the wall."""
    return field.type == "datetime" and (field.timezone is not None or "%z" in field.format)


# strptime pattern → shortest and longest text that Arrow's ISO cast may be trusted with
_ISO_LENGTHS = {
    "%Y-%m-%d %H:%M:%S.%f": (21, 26, " "),
    "%Y-%m-%dT%H:%M:%S.%f": (21, 26, "T"),
    "%Y-%m-%d %H:%M:%S": (19, 19, " "),
    "%Y-%m-%dT%H:%M:%S": (19, 19, "T"),
    "%Y-%m-%d %H:%M": (16, 16, " "),
    "%Y-%m-%dT%H:%M": (16, 16, "T"),
    "%Y-%m-%d": (10, 10, ""),
}
_ISO_DATETIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?)?"
_OFFSET = r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
_YEAR_1 = -719_162  # days from 1970 to 0001-01-01; Arrow takes a year 0, PostgreSQL's calendar has none


def _parse_date(text: pa.Array, field: FieldSpec) -> Parsed:
    if field.format in ("default", "%Y-%m-%d"):
        typed = _try_cast(text, pa.date32())
        if typed is not None and _from_year_1(pc.cast(typed, pa.int32()), _YEAR_1):
            return typed, None
    pattern = "%Y-%m-%d" if field.format == "default" else field.format
    micros, bad = _strptime(text, pattern, field, "date")
    days = pc.cast(pa.array(micros // 86_400_000_000), pa.int32())
    return _masked(days, text, bad).cast(pa.date32()), bad


def _from_year_1(values: pa.Array, least: int) -> bool:
    smallest = pc.min(values).as_py()
    return smallest is None or smallest >= least


def _parse_datetime(text: pa.Array, field: FieldSpec) -> Parsed:
    if has_zone(field) and "%z" in field.format:
        return _strptime_datetime(text, field, pa.timestamp("us", "UTC"))
    if has_zone(field) and field.format == "default":
        typed = _try_cast(text, pa.timestamp("us", "UTC"))  # every value names its offset
        if typed is not None and _from_year_1(pc.cast(typed, pa.int64()), _YEAR_1 * 86_400_000_000):
            return typed, None
    naive, bad = _parse_naive(text, field)
    if not has_zone(field):
        return naive, bad
    return _in_zone(text, naive, field, bad)


def _parse_naive(text: pa.Array, field: FieldSpec) -> Parsed:
    typed = _try_cast(text, pa.timestamp("us")) if _is_iso(text, field.format) else None
    if typed is not None and _from_year_1(pc.cast(typed, pa.int64()), _YEAR_1 * 86_400_000_000):
        return typed, None
    if field.format == "default":
        return _parse_iso_datetime(text, field)
    return _strptime_datetime(text, field, pa.timestamp("us"))


def _is_iso(text: pa.Array, pattern: str) -> bool:
    """Whether Arrow's cast, which takes several ISO forms, can only have met the declared one."""
    if pattern == "default":
        extremes = pc.min_max(pc.binary_length(text)).as_py()
        return extremes["min"] != 13  # 'YYYY-MM-DD hh' is too little of a time
    if pattern not in _ISO_LENGTHS:
        return False
    shortest, longest, separator = _ISO_LENGTHS[pattern]
    extremes = pc.min_max(pc.binary_length(text)).as_py()
    if extremes["min"] is None:
        return True
    other = {" ": b"T", "T": b" ", "": b"T "}[separator]
    return extremes["min"] >= shortest and extremes["max"] <= longest and not _holds_any(text, other)


def _parse_iso_datetime(text: pa.Array, field: FieldSpec) -> Parsed:
    """The default format's slow path: a mixture of ISO forms, some cells bad."""
    zoned = _OFFSET + "?" if has_zone(field) else ""
    good, wrong, bad_form = _lexical(text, _ISO_DATETIME + zoned, "is no ISO 8601 date and time")
    parts = pc.extract_regex(
        good,
        r"\A(?P<Y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})"
        r"(?:[T ](?P<H>[0-9]{2}):(?P<M>[0-9]{2})(?::(?P<S>[0-9]{2})(?:\.(?P<f>[0-9]{1,6}))?)?)?",
    )
    micros, valid = _assemble(parts, good)
    impossible = ~valid & ~wrong & _mask(pc.is_valid(text))
    bad = _merge(bad_form, _bad(text, impossible, "is no date of the calendar") if impossible.any() else None)
    return _masked(pa.array(micros), text, bad).cast(pa.timestamp("us")), bad


def _in_zone(text: pa.Array, naive: pa.Array, field: FieldSpec, bad: BadCells | None) -> Parsed:
    """Wall-clock times of the declared zone as points in time; of a repeated hour the earlier one."""
    offsets = _mask(pc.match_substring_regex(text, rf"[0-9]{_OFFSET}\z")) & _mask(
        pc.match_substring_regex(text, ":")
    )
    try:
        typed = pc.assume_timezone(naive, field.timezone, ambiguous="earliest", nonexistent="raise")
        bad_gap = None
    except ValueError:
        early = pc.assume_timezone(naive, field.timezone, ambiguous="earliest", nonexistent="earliest")
        late = pc.assume_timezone(naive, field.timezone, ambiguous="earliest", nonexistent="latest")
        gap = _mask(pc.not_equal(early, late))
        bad_gap = _bad(text, gap, f"did not happen in {field.timezone}: clocks were set forward")
        typed = _blank(early, gap)
    typed = typed.cast(pa.timestamp("us", "UTC"))
    if field.format == "default" and offsets.any():
        own = pc.if_else(pa.array(offsets), text, pa.scalar(None, pa.string()))
        explicit, bad_own = _strptime(
            pc.replace_substring_regex(own, " ", "T"), "ISO%z", field, "date and time"
        )
        explicit_array = pa.array(explicit).cast(pa.timestamp("us", "UTC"))
        typed = pc.if_else(pa.array(offsets), explicit_array, typed)
        bad = _merge(bad, bad_own)
    return typed, _merge(bad, bad_gap)


def _strptime_datetime(text: pa.Array, field: FieldSpec, type_: pa.DataType) -> Parsed:
    micros, bad = _strptime(text, field.format, field, "date and time")
    return _masked(pa.array(micros), text, bad).cast(type_), bad


def _parse_time(text: pa.Array, field: FieldSpec) -> Parsed:
    pattern = "ISO-time" if field.format == "default" else field.format
    micros, bad = _strptime(text, pattern, field, "time")
    return _masked(pa.array(micros % 86_400_000_000), text, bad).cast(pa.time64("us")), bad


def _masked(values: pa.Array, text: pa.Array, bad: BadCells | None) -> pa.Array:
    """``values`` with NULL where the text is null or bad."""
    null = ~_mask(pc.is_valid(text))
    if bad is not None:
        null[bad.indexes] = True
    return _blank(values, null)


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_NAMES = ("january", "february", "march", "april", "may", "june", "july", "august", "september",
                "october", "november", "december")  # fmt: skip
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DIRECTIVES = {
    "Y": "(?P<Y>[0-9]{4})",
    "y": "(?P<y>[0-9]{2})",
    "m": "(?P<m>1[0-2]|0?[1-9])",
    "d": "(?P<d>3[01]|[12][0-9]|0?[1-9])",
    "j": "(?P<j>[0-9]{3})",
    "H": "(?P<H>2[0-3]|[01]?[0-9])",
    "I": "(?P<I>1[0-2]|0?[1-9])",
    "M": "(?P<M>[0-5]?[0-9])",
    "S": "(?P<S>[0-5]?[0-9])",
    "f": "(?P<f>[0-9]{1,6})",
    "p": "(?P<p>(?i:am|pm))",
    "b": f"(?P<b>(?i:{'|'.join(_MONTHS)}))",
    "B": f"(?P<B>(?i:{'|'.join(_MONTH_NAMES)}))",
    "a": f"(?i:{'|'.join(_DAYS)})",
    "A": "(?i:monday|tuesday|wednesday|thursday|friday|saturday|sunday)",
    "z": "(?P<z>Z|[+-][0-9]{2}:?[0-9]{2})",
}
_SHORTHANDS = {"T": "%H:%M:%S", "F": "%Y-%m-%d", "D": "%m/%d/%y", "R": "%H:%M"}


@lru_cache(maxsize=512)
def compile_format(pattern: str) -> str:
    """A strptime pattern as an RE2 regex with named groups; raises SpecError for an unknown directive."""
    if pattern == "ISO-time":
        return r"(?P<H>[01][0-9]|2[0-3]):(?P<M>[0-5][0-9])(?::(?P<S>[0-5][0-9])(?:\.(?P<f>[0-9]{1,6}))?)?"
    if pattern == "ISO%z":
        return (
            r"(?P<Y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})[T ](?P<H>[01][0-9]|2[0-3]):(?P<M>[0-5][0-9])"
            r"(?::(?P<S>[0-5][0-9])(?:\.(?P<f>[0-9]{1,6}))?)?(?P<z>Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
        )
    for short, long in _SHORTHANDS.items():
        pattern = pattern.replace(f"%{short}", long)
    out, i, seen = "", 0, set()
    while i < len(pattern):
        if pattern[i] != "%":
            out += re.escape(pattern[i]) if pattern[i] != " " else " "
            i += 1
            continue
        code = pattern[i + 1 : i + 2]
        if code == "%":
            out += "%"
        elif code in _DIRECTIVES and code not in seen:
            seen.add(code)
            out += _DIRECTIVES[code]
        else:
            raise SpecError(
                f"the format {pattern!r} uses %{code}, "
                + ("twice" if code in seen else f"which is not known; known are %{' %'.join(_DIRECTIVES)}")
            )
        i += 2
    if not seen:
        raise SpecError(f"the format {pattern!r} has no directive such as %Y; 'default' means ISO 8601")
    return out


def _strptime(text: pa.Array, pattern: str, field: FieldSpec, what: str) -> tuple[np.ndarray, BadCells | None]:
    """Microseconds since 1970 (int64) of text in ``pattern``; undefined where null or bad."""
    regex = compile_format(pattern)
    parts = pc.extract_regex(text, rf"\A(?:{regex})\z")
    micros, valid = _assemble(parts, text)
    unmatched = _mask(pc.is_valid(text)) & ~_mask(pc.is_valid(parts))
    impossible = _mask(pc.is_valid(text)) & ~unmatched & ~valid
    declared = f" in the format {field.format}" if field.format != "default" else " in ISO 8601"
    return micros, _merge(
        _bad(text, unmatched, f"is no {what}{declared}") if unmatched.any() else None,
        _bad(text, impossible, "is no date of the calendar") if impossible.any() else None,
    )


def _assemble(parts: pa.Array, text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds from extracted groups, and which of them are real dates and times."""
    names = {f.name for f in parts.type}

    def number(name: str, default: int) -> np.ndarray:
        if name not in names:
            return np.full(len(text), default, dtype=np.int64)
        digits = pc.struct_field(parts, name)
        digits = pc.if_else(pc.equal(pc.binary_length(digits), 0), pa.scalar(None, pa.string()), digits)
        return pc.fill_null(pc.cast(digits, pa.int64()), default).to_numpy(zero_copy_only=False)

    year = number("Y", 1970)
    if "y" in names:
        short = number("y", 70)
        year = short + np.where(short < 69, 2000, 1900)  # POSIX: 69-99 is 19xx
    month = _month(parts, names, number)
    day = number("d", 1)
    hour = _hour(parts, names, number)
    micro = _fraction(parts, names, len(text))
    days, valid = _civil(year, month, day)
    if "j" in names:
        ordinal = number("j", 1)
        first, _ = _civil(year, np.ones_like(year), np.ones_like(year))
        leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
        valid = (ordinal >= 1) & (ordinal <= np.where(leap, 366, 365)) & (year >= 1)
        days = first + ordinal - 1
    minute, second = number("M", 0), number("S", 0)
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - _offset(parts, names, len(text))
    return seconds * 1_000_000 + micro, valid & _mask(pc.is_valid(parts))


def _civil(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days since 1970 of civil dates, and which are real. After H. Hinnant, chrono-compatible algorithms."""
    lengths = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    in_year = (month >= 1) & (month <= 12)
    longest = lengths[np.where(in_year, month, 0)] + (leap & (month == 2))
    valid = in_year & (day >= 1) & (day <= longest) & (year >= 1)
    y = year - (month <= 2)
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468, valid


def _month(parts: pa.Array, names: set[str], number: Callable[[str, int], np.ndarray]) -> np.ndarray:
    for group, words in (("b", _MONTHS), ("B", _MONTH_NAMES)):
        if group in names:
            found = pc.index_in(pc.utf8_lower(pc.struct_field(parts, group)), value_set=pa.array(words))
            return pc.fill_null(pc.cast(found, pa.int64()), 0).to_numpy(zero_copy_only=False) + 1
    return number("m", 1)


def _hour(parts: pa.Array, names: set[str], number: Callable[[str, int], np.ndarray]) -> np.ndarray:
    if "I" not in names:
        return number("H", 0)
    hour = number("I", 12) % 12
    if "p" in names:
        hour = hour + 12 * _mask(pc.equal(pc.utf8_lower(pc.struct_field(parts, "p")), "pm"))
    return hour


def _fraction(parts: pa.Array, names: set[str], length: int) -> np.ndarray:
    if "f" not in names:
        return np.zeros(length, dtype=np.int64)
    digits = pc.utf8_rpad(pc.struct_field(parts, "f"), 6, "0")
    return pc.fill_null(pc.cast(digits, pa.int64()), 0).to_numpy(zero_copy_only=False)


def _offset(parts: pa.Array, names: set[str], length: int) -> np.ndarray:
    """Seconds east of Greenwich."""
    if "z" not in names:
        return np.zeros(length, dtype=np.int64)
    digits = pc.replace_substring_regex(pc.struct_field(parts, "z"), r"[Z:]", "")
    padded = pc.utf8_rpad(digits, 5, "0")  # '+02' → '+0200', '' (from Z) → '00000'
    zone = pc.replace_substring_regex(padded, r"\A00000\z", "+0000")
    sign = np.where(_mask(pc.starts_with(zone, "-")), -1, 1)
    hours = pc.fill_null(pc.cast(pc.utf8_slice_codeunits(zone, 1, 3), pa.int64()), 0)
    minutes = pc.fill_null(pc.cast(pc.utf8_slice_codeunits(zone, 3, 5), pa.int64()), 0)
    return sign * (hours.to_numpy(zero_copy_only=False) * 3_600 + minutes.to_numpy(zero_copy_only=False) * 60)


_PARSERS: dict[str, Callable[[pa.Array, FieldSpec], Parsed]] = {
    "string": _parse_string,
    "integer": _parse_integer,
    "number": _parse_number,
    "boolean": _parse_boolean,
    "date": _parse_date,
    "datetime": _parse_datetime,
    "time": _parse_time,
    "object": _parse_object,
}
