"""The formats of dates, datetimes and times: strptime patterns and ISO 8601, compiled.

A pattern is compiled once (:func:`compile_format`) into a regular expression with
named groups and, where all directives are digits of a known width, into layouts of
fixed width. Dagster's definitions import it, so nothing here imports Arrow.

What does not belong here: reading text by these formats (``validation/parse_dates.py``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from importer_dagster.errors import SpecError
from importer_dagster.spec.fields import FieldSpec

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WIDTHS = {"Y": 4, "y": 2, "m": 2, "d": 2, "j": 3, "H": 2, "I": 2, "M": 2, "S": 2, "f": 6}
_NUMBERS = {
    "Y": "[0-9]{4}",
    "y": "[0-9]{2}",
    "m": "1[0-2]|0?[1-9]",
    "d": "3[01]|[12][0-9]|0?[1-9]",
    "j": "[0-9]{3}",
    "H": "2[0-3]|[01]?[0-9]",
    "I": "1[0-2]|0?[1-9]",
    "M": "[0-5]?[0-9]",
    "S": "[0-5]?[0-9]",
    "f": "[0-9]+",  # of which six digits can be kept; the others must be zeros
}
_WORDS = {
    "p": "(?i:am|pm)",
    "b": f"(?i:{'|'.join(m[:3] for m in MONTHS)})",
    "B": f"(?i:{'|'.join(MONTHS)})",
    "a": f"(?i:{'|'.join(d[:3] for d in _WEEKDAYS)})",
    "A": f"(?i:{'|'.join(_WEEKDAYS)})",
    "z": "Z|[+-](?:0[0-9]|1[0-5]):?[0-5][0-9]",
}
_SHORTHANDS = {"T": "%H:%M:%S", "F": "%Y-%m-%d", "D": "%m/%d/%y", "R": "%H:%M"}
OF_DATE, _OF_TIME = set("YymdjbBaA"), set("HIMSfpz")
_ONE_OF = ("Yy", "mbBj", "dj", "HI")  # directives of one group name the same part of a date or time

_ISO_DATE = r"(?P<Y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})"
_ISO_TIME = r"(?P<H>[0-9]{2}):(?P<M>[0-9]{2})(?::(?P<S>[0-9]{2})(?:[.,](?P<f>[0-9]+))?)?"
_ISO_OFFSET = r"(?P<z>Z|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)"


@dataclass(frozen=True)
class Step:
    """A part of fixed width: the digits of the directive ``name``, or one byte that is in ``bytes``."""

    name: str
    width: int
    bytes: bytes = b""


@dataclass(frozen=True)
class Format:
    """A compiled pattern: an anchored RE2 regex, the directives in it, and the layouts of fixed width that it may have.

    Only the last number of a layout may be ``f``, which has any number of digits.
    ``arrow`` is set where the pattern is a form of ISO 8601 that Arrow's cast can read.
    """

    regex: str
    names: frozenset[str]
    layouts: tuple[tuple[Step, ...], ...] = ()
    arrow: Arrow | None = None


@dataclass(frozen=True)
class Arrow:
    """The texts of which Arrow's cast reads only the declared form; the cast takes several forms of ISO 8601.

    They have ``shortest`` to ``longest`` bytes, but none has ``not_one`` bytes, and none
    has the byte ``foreign``, which only other forms have.
    """

    shortest: int
    longest: int
    not_one: int = 0
    foreign: int = 0


# Arrow also takes 'YYYY-MM-DD hh', of 13 bytes
_ARROW_TEXTS = {
    "date": Arrow(10, 10),
    "datetime": Arrow(10, 26, not_one=13),
    "%Y-%m-%d": Arrow(10, 10),
    "%Y-%m-%d %H:%M": Arrow(16, 16, foreign=ord("T")),
    "%Y-%m-%dT%H:%M": Arrow(16, 16, foreign=ord(" ")),
    "%Y-%m-%d %H:%M:%S": Arrow(19, 19, foreign=ord("T")),
    "%Y-%m-%dT%H:%M:%S": Arrow(19, 19, foreign=ord(" ")),
    "%Y-%m-%d %H:%M:%S.%f": Arrow(21, 26, foreign=ord("T")),
    "%Y-%m-%dT%H:%M:%S.%f": Arrow(21, 26, foreign=ord(" ")),
}


def has_zone(field: FieldSpec) -> bool:
    """Whether a datetime field is a point in time (timestamp with time zone)."""
    return field.type == "datetime" and (
        field.timezone is not None or any("z" in f.names for f in formats_of(field))
    )


def formats_of(field: FieldSpec) -> list[Format]:
    """The compiled formats of a date, datetime or time; raises SpecError with the field's name."""
    try:
        return [compile_format(f, field.type) for f in field.formats]
    except SpecError as error:
        raise SpecError(f"field {field.name!r}: {error}", key=field.name) from None


def check_formats(field: FieldSpec) -> None:
    """Raise SpecError if a format cannot be used, or if only some of a field's formats have a zone."""
    zoned = {"z" in f.names for f in formats_of(field)}
    if len(zoned) > 1 and field.timezone is None:
        raise SpecError(
            f"field {field.name!r}: some of its formats have %z and others have not; give those without one a zone by "
            "`timezone`",
            key=field.name,
        )


@lru_cache(maxsize=512)
def compile_format(pattern: str, kind: str) -> Format:
    """Compile a strptime pattern, or "default", for a ``kind`` of date, datetime or time.

    Raises SpecError for an unknown directive and for a pattern by which a text could
    mean several things.
    """
    if pattern == "default":
        return _iso(kind)
    parts = _parts(pattern)
    names = [name for name, _ in parts if name]
    _check(pattern, kind, names)
    regex = ""
    for i, (name, literal) in enumerate(parts):
        beside = [parts[j] for j in (i - 1, i + 1) if 0 <= j < len(parts)]
        if not name:
            regex += re.escape(literal) if literal.isascii() else literal
        elif name in _NUMBERS and any(n in _NUMBERS or x.isdigit() for n, x in beside):
            # digits follow digits, as in 1112024, so each number has its full width
            regex += f"(?P<{name}>[0-9]{{{_WIDTHS[name]}}})"
        else:
            regex += f"(?P<{name}>{_NUMBERS.get(name) or _WORDS[name]})"
    without_shorthands = "".join(f"%{name}" if name else literal for name, literal in parts)
    return Format(
        rf"\A(?:{regex})\z", frozenset(names), _layouts(parts), _ARROW_TEXTS.get(without_shorthands)
    )


def _parts(pattern: str) -> list[tuple[str, str]]:
    """The parts of a pattern, each a (directive, "") or a ("", literal character); shorthands are written out."""
    parts: list[tuple[str, str]] = []
    i = 0
    while i < len(pattern):
        if pattern[i] != "%":
            parts.append(("", pattern[i]))
            i += 1
            continue
        code = pattern[i + 1 : i + 2]
        i += 2
        if code == "%":
            parts.append(("", "%"))
        elif code in _SHORTHANDS:
            parts += _parts(_SHORTHANDS[code])
        elif code in _NUMBERS or code in _WORDS:
            parts.append((code, ""))
        else:
            known = " ".join(f"%{c}" for c in (*_NUMBERS, *_WORDS, *_SHORTHANDS))
            raise SpecError(f"the format {pattern!r} uses %{code}, which is not known; known are {known}")
    return parts


def _check(pattern: str, kind: str, names: list[str]) -> None:
    """Raise SpecError for a pattern that lacks a part, has one that its type cannot hold, or has one twice."""
    found = set(names)
    fault = None
    if not names:
        fault = "has no directive such as %Y; 'default' means ISO 8601"
    elif len(found) < len(names):
        fault = "uses a directive twice"
    elif any(len(found & set(group)) > 1 for group in _ONE_OF):
        fault = "has the same part of a date or time in two ways"
    elif ("I" in found) != ("p" in found):
        fault = "needs %I and %p together, or %H"
    elif kind == "date" and found & _OF_TIME:
        fault = "names a time of day, which a date cannot hold; use type datetime"
    elif kind == "time" and found & (OF_DATE | {"z"}):
        fault = "names more than a time of day; use type datetime"
    elif kind != "time" and not found & {"Y", "y"}:
        fault = "names no year"
    elif "d" in found and not found & {"m", "b", "B"}:
        fault = "names a day but no month"
    elif ("M" in found and not found & {"H", "I"}) or ("S" in found and "M" not in found):
        fault = "leaves a larger part of the time of day out"
    elif "f" in found and "S" not in found:
        fault = "names a fraction but no second"
    if fault:
        raise SpecError(f"the format {pattern!r} {fault}")


def _layouts(parts: list[tuple[str, str]]) -> tuple[tuple[Step, ...], ...]:
    """The layouts of fixed width of a pattern; none if it has words, or a fraction of a second before other numbers."""
    names = [name for name, _ in parts if name]
    if set(names) & set("pbBaA") or ("f" in names and [n for n in names if n != "z"][-1] != "f"):
        return ()
    layouts: list[tuple[Step, ...]] = [()]
    tails: list[tuple[Step, ...]]
    for name, literal in parts:
        if name == "z":
            sign, hours, colon, minutes = (
                Step("zs", 1, b"+-"),
                Step("zh", 2),
                Step("", 1, b":"),
                Step("zm", 2),
            )
            tails = [(Step("", 1, b"Z"),), (sign, hours, minutes), (sign, hours, colon, minutes)]
        elif name:
            tails = [(Step(name, _WIDTHS[name]),)]
        else:
            tails = [tuple(Step("", 1, bytes([b])) for b in literal.encode())]
        layouts = [(*layout, *tail) for layout in layouts for tail in tails]
    return tuple(layouts)


def zoned_iso() -> Format:
    """ISO 8601 of a datetime with an offset."""
    return _iso("zoned")


def _iso(kind: str) -> Format:
    """Strict ISO 8601 for a kind; a time needs hours and minutes, a datetime may be a date alone."""
    regexes = {
        "date": _ISO_DATE,
        "time": _ISO_TIME,
        "datetime": f"{_ISO_DATE}(?:[T ]{_ISO_TIME})?",
        "zoned": f"{_ISO_DATE}[T ]{_ISO_TIME}{_ISO_OFFSET}",
    }
    patterns = {
        "date": ["%F"],
        "time": ["%T.%f", "%T", "%R"],
        "datetime": ["%F %T.%f", "%F %T", "%F %R", "%F"],
        "zoned": ["%F %T.%f%z", "%F %T%z", "%F %R%z"],
    }
    layouts = [layout for p in patterns[kind] for layout in _layouts(_parts(p))]
    marks = {b" ": b" T", b".": b".,"}  # ISO 8601 allows a comma before the fraction, too
    either = [tuple(replace(s, bytes=marks.get(s.bytes, s.bytes)) for s in layout) for layout in layouts]
    names = frozenset("".join(n for n, _ in _parts(patterns[kind][0])))
    return Format(rf"\A(?:{regexes[kind]})\z", names, tuple(either), _ARROW_TEXTS.get(kind))
