"""Columns of numbers: how they are written, and what type holds them.

What does not belong here: the importer's own parser (``validation/parse.py``).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from importer_dagster.inference.column_stats import Column, Shape
from importer_dagster.inference.state import Candidate, Style, all_of, counted

_INT64 = 2**63 - 1
_MOST_DIGITS = 38
_MOST_ODD = 0.02  # of the values, how many may be no numbers: damage
_ROOM = 4  # digits before the decimals beyond what was seen, so that larger values load, too
_SPARE_DECIMALS = 2
_MONEY_DECIMALS = 4
_FIXED_FROM = 50  # values from which a constant number of decimals is taken for a rule
_DOUBLE_DECIMALS = 13  # more decimals than people write: measured or computed
_DOUBLE_DIGITS = 17  # of one number, that a binary float gives back as they were
_IDENTIFIER_DIGITS = 12  # whole numbers of one such length name something, unless they are times
_SYMBOLS = "$€£¥₹₽₩%"
_TEXT_NAMES = re.compile(
    r"(?i)(?:^|[_\s.-])(?:zip|zip_?code|postal_?code|postcode|plz|cap|phone|telephone|tel|fax|mobile|iban|ssn|ean|isbn|gtin|upc)"
    r"(?:$|[_\s.-])|(?:zipcode|postalcode|postcode|phonenumber|mobilenumber)$"
)
_MONEY_NAMES = re.compile(
    r"(?i)(?:^|[_\s.-])(?:price|cost|amount|amt|salary|fee|balance|revenue|freight|discount|quota|bonus|subtotal|tax|betrag"
    r"|preis|montant|prix|importe)(?:$|[_\s.-])|(?:price|cost|amount|amt|salary|quota|bonus|subtotal)$|^cost"
)
_TIME_NAMES = re.compile(r"(?i)time|date|epoch|(?:^|_)(?:ts|at|ms)$")

_SPACES = " \u00a0\u202f"
_STYLES: tuple[tuple[Style, str], ...] = (
    ((".", None), r"[z9]9*(?:\.9*)?|\.9+"),
    ((",", None), r"[z9]9*(?:,9*)?|,9+"),
    ((".", ","), r"(?:9{1,3}(?:,999)+|9{1,2}(?:,99)*,999|[z9]9*)(?:\.9*)?"),
    ((",", "."), r"(?:9{1,3}(?:\.999)+|[z9]9*)(?:,9*)?"),
    *(
        ((point, mark), rf"(?:9{{1,3}}(?:{re.escape(mark)}999)+|[z9]9*)(?:{re.escape(point)}9*)?")
        for mark in (" ", "\u00a0", "\u202f", "'", "’")
        for point in (".", ",")
    ),
)
_DECORATED = re.compile(
    rf"(?P<sign>[+-]?)(?P<before>[{re.escape(_SYMBOLS)}\s]*)(?P<sign2>[+-]?)(?P<core>[z9.,][z9.,'’\u00a0\u202f ]*?)"
    rf"(?P<after>[{re.escape(_SYMBOLS)}\s]*)"
)
_EXPONENT = re.compile(r"[+-]?[z9]9*(?:[.,]9*)?a[+-]?9+|[+-]?[.,]9+a[+-]?9+")
_INFINITE = {"inf", "-inf", "+inf", "infinity", "-infinity", "+infinity", "nan"}


@dataclass
class _Digits:
    """What the numbers of a column are made of."""

    before: int = 0  # most digits before the decimals
    decimals: int = 0  # most decimals
    least_decimals: int = 99
    significant: int = 0  # most digits of one number, zeros in front left out
    fraction: bool = False
    plus: bool = False
    zeros: str | None = None  # an example with leading zeros
    decorations: set[str] = dataclasses.field(default_factory=set)
    bare: int = 0  # values without decoration
    exponent: bool = False
    infinite: bool = False
    padded: bool = False


@dataclass(frozen=True)
class _Numbers:
    """A column of numbers, with the keys of a field that say how they are written, and words for that."""

    column: Column
    style: Style
    digits: _Digits
    share: float
    keys: Mapping[str, Any]
    words: str

    def candidate(self, field: Mapping[str, Any], reason: str, style: Style | None) -> Candidate:
        """A way to read them: what they are, and how they are written."""
        return Candidate({**field, **self.keys}, f"{reason}{self.words}", style=style, share=self.share)


def candidates(column: Column, shapes: Mapping[str, Shape], other: Style | None) -> list[Candidate]:
    """The way to read a column as numbers, if there is one; ``other`` is how other columns write decimals."""
    digits = _Digits()
    parsed: list[tuple[str, Shape]] = []
    odd = 0
    for shape, seen in shapes.items():
        core = _core(shape, seen, digits)
        if core is None:
            odd += seen.count
        elif core:
            parsed.append((core, seen))
    if odd > _MOST_ODD * column.plain:
        return []
    style, doubt = _style(parsed, other)
    if style is None:
        return []
    _count_digits(parsed, style, digits)
    made = _number(column, style, digits, 1 - odd / column.plain)
    if made is None:
        return []
    return [dataclasses.replace(made, reason=f"{made.reason}; {doubt}") if doubt else made]


def _core(shape: str, seen: Shape, digits: _Digits) -> str | None:
    """As :func:`core_of`; what else the shape says of numbers is noted in ``digits``."""
    if seen.example.strip().casefold() in _INFINITE:
        digits.infinite = True
        return ""
    if _EXPONENT.fullmatch(shape.strip()) and re.search("[eE]", seen.example):
        digits.exponent = True
        return ""
    m = _DECORATED.fullmatch(shape)
    if m is None or (m["sign"] and m["sign2"]):
        return None
    decoration = (m["before"] + m["after"]).strip(_SPACES + "\t")
    if decoration:
        digits.decorations.add(decoration)
    else:
        digits.bare += seen.count
    digits.padded |= m["before"] != m["before"].strip() or m["after"] != m["after"].strip()
    sign = m["sign"] or m["sign2"]
    digits.plus |= sign == "+"
    return m["core"].rstrip(_SPACES)


def _style(parsed: Sequence[tuple[str, Shape]], other: Style | None) -> tuple[Style | None, str]:
    """How numbers are written, and a word of doubt; None where it cannot be told."""
    cores = [core for core, _ in parsed]
    styles = [style for style, regex in _STYLES if all(re.fullmatch(regex, core) for core in cores)]
    marks = {c for core in cores for c in core if c not in "z9"}
    if not marks:  # or no digits at all: exponents and infinities only
        return (other if other in styles else (".", None)), ""
    if marks == {"."} and (".", None) in styles:
        return _what_a_point_means(cores, other)
    if len(marks) > 1 and not any(len(set(core) - set("z9")) > 1 or _two_groups(core) for core in cores):
        return None, ""  # 5,5 and 5.555: one style with groups, or two without?
    if (",", None) in styles and (".", ",") in styles:
        return _what_a_comma_means(cores, other)
    return (styles[0] if styles else None), ""


def _what_a_point_means(cores: Sequence[str], other: Style | None) -> tuple[Style | None, str]:
    """1.234 may be a little more than one or a thousand."""
    groups = all(re.fullmatch(r"z|9{1,3}(?:\.999)*", c) for c in cores)
    if groups and other is None:
        return None, ""
    if groups and other is not None and other[0] == ",":
        return (",", "."), "other columns have a decimal comma, so the point groups digits"
    return (".", None), ""


def _what_a_comma_means(cores: Sequence[str], other: Style | None) -> tuple[Style | None, str]:
    """1,234 may be a thousand or a little more than one."""
    if any("," in c and not re.fullmatch(r"9{1,3}(?:,999)+", c) for c in cores):
        return (",", None), ""
    if other is None:
        return None, ""
    if other[0] == ",":
        return (",", None), "other columns have a decimal comma"
    return (".", ","), "a decimal comma would not go with the rest of the file"


def _two_groups(core: str) -> bool:
    return bool(re.search(r"(?P<mark>[^z9])999(?P=mark)999", core))


def core_of(shape: str, seen: Shape) -> str | None:
    """The digits and separators of a number's shape; "" where it has none, None for no number."""
    return _core(shape, seen, _Digits())


def ambiguous_mark(column: Column) -> tuple[str, str] | None:
    """The comma or point, and an example, where numbers such as 1,234 may be a thousand or a little more than one."""
    cores = {s: core_of(s, v) for s, v in (column.shapes or {}).items()}
    for mark in (",", "."):
        number = rf"9{{1,3}}{re.escape(mark)}999|[z9]9{{0,2}}"
        if cores and all(c and re.fullmatch(number, c) for c in cores.values()):
            marked = next((s for s, c in cores.items() if c and mark in c), None)
            if marked is not None and column.shapes is not None:
                return mark, column.shapes[marked].example
    return None


def style_of(found: Iterable[Candidate]) -> Style | None:
    """How a file writes decimals, from the columns where there is no doubt; None if they differ or there are none."""
    styles = {c.style[0] for c in found if c.style is not None}
    return (styles.pop(), None) if len(styles) == 1 else None


def _count_digits(parsed: Sequence[tuple[str, Shape]], style: Style, digits: _Digits) -> None:
    point, group = style
    for core, seen in parsed:
        plain = core.replace(group, "") if group else core
        whole, mark, decimals = plain.partition(point)
        if len(whole) > 1 and whole.startswith("z"):
            digits.zeros = digits.zeros or seen.example
        digits.significant = max(digits.significant, _significant(whole, decimals, seen.example))
        digits.before = max(digits.before, len(whole.removeprefix("z")))
        digits.decimals = max(digits.decimals, len(decimals))
        digits.least_decimals = min(digits.least_decimals, len(decimals))
        digits.fraction |= bool(mark)


def _significant(whole: str, decimals: str, example: str) -> int:
    """Digits that count; behind ``0.`` the shape does not tell zeros apart, so an example has to."""
    if whole.strip("z"):
        return len(whole) + len(decimals)
    return len(re.sub(r"\D", "", example).lstrip("0"))


def _number(column: Column, style: Style, digits: _Digits, share: float) -> Candidate | None:
    """The type that holds the numbers; None where they are codes, or say different things."""
    written = _writing(style, digits)
    if written is None:
        return None
    numbers = _Numbers(column, style, digits, share, *written)
    whole = not (digits.fraction or digits.exponent or digits.infinite)
    if digits.zeros is not None and (whole or column.longest == column.shortest):
        return None  # a code
    if whole:
        return None if _is_identifier(column, digits) else _integer(numbers)
    if digits.exponent:
        return _double(numbers, "numbers with exponents such as 1E+3")
    if digits.infinite:
        return _double(numbers, "numbers with infinities or NaN, which no exact number can hold")
    return _decimal(numbers)


def _writing(style: Style, digits: _Digits) -> tuple[dict[str, Any], str] | None:
    """Keys for how numbers are written, and words for it; None where decorations say different things."""
    keys: dict[str, Any] = {}
    words = ""
    if style[0] != ".":
        keys["decimalChar"] = style[0]
        words += f", {style[0]!r} before the decimals" if digits.fraction else ""
    if style[1] is not None:
        keys["groupChar"] = style[1]
        words += f", {style[1]!r} between groups of digits"
    if digits.decorations:
        percent = any("%" in d for d in digits.decorations)
        if len(digits.decorations) > 1 or (percent and digits.bare):
            return None  # 5 % and 5, or $5 and €5, are not the same
        keys["bareNumber"] = False
        words += f", with {next(iter(digits.decorations))}, which is taken off"
    elif digits.padded:
        keys["bareNumber"] = False
        words += ", with blanks around, which are taken off"
    return keys, words


def _is_identifier(column: Column, digits: _Digits) -> bool:
    """Whether whole numbers name something: by the column's name, or digits of one length that say no time."""
    if _TEXT_NAMES.search(column.name) or (digits.plus and digits.before > 6):
        return True
    one_length = column.longest == column.shortest
    return one_length and digits.before >= _IDENTIFIER_DIGITS and not _TIME_NAMES.search(column.name)


def _integer(numbers: _Numbers) -> Candidate | None:
    column, style, digits = numbers.column, numbers.style, numbers.digits
    # a point that groups digits needs to be told from the decimal point that nobody wrote
    keys = {k: v for k, v in numbers.keys.items() if k != "decimalChar" or style[1] == "."}
    numbers = dataclasses.replace(numbers, keys=keys)
    values = all_of(column) if numbers.share == 1 else f"{numbers.share:.2%} of the values"
    if _MONEY_NAMES.search(column.name) and digits.before <= _MOST_DIGITS - _ROOM - _MONEY_DECIMALS:
        precision = max(digits.before, 1) + _ROOM + _MONEY_DECIMALS
        money = {"type": "number", "precision": precision, "scale": _MONEY_DECIMALS}
        why = f"{values} are whole, but the name says money: room for {_MONEY_DECIMALS} decimals"
        return numbers.candidate(money, why, None)
    if column.largest_whole > _INT64 or digits.before > 19:
        if column.longest == column.shortest or digits.before > _MOST_DIGITS:
            return None  # digits of one length that no integer holds: an identifier
        large = {"type": "number", "precision": _MOST_DIGITS, "scale": 0}
        return numbers.candidate(large, "whole numbers beyond 64 bits", None)
    most = digits.before or 1
    why = f"{values} are whole numbers of at most {counted(most, 'digit')}"
    return numbers.candidate({"type": "integer"}, why, style if style[1] else None)


def _double(numbers: _Numbers, why: str) -> Candidate:
    return numbers.candidate({"type": "number", "format": "double"}, why, numbers.style)


def _decimal(numbers: _Numbers) -> Candidate:
    """An exact number with room for larger ones, where PostgreSQL's widest that Arrow holds has room."""
    digits = numbers.digits
    same = digits.least_decimals == digits.decimals
    decimals = f"{digits.decimals}" if same else f"{digits.least_decimals} to {digits.decimals}"
    if not same and digits.decimals >= _DOUBLE_DECIMALS and digits.significant <= _DOUBLE_DIGITS:
        return _double(numbers, f"numbers with {decimals} decimals, as binary floats are written")
    fixed = same and numbers.column.plain >= _FIXED_FROM
    scale = digits.decimals if fixed else digits.decimals + _SPARE_DECIMALS
    most = max(digits.before, 1)
    before = most + _ROOM
    if before + scale > _MOST_DIGITS:
        scale = digits.decimals
        before = min(before, _MOST_DIGITS - scale)
    if before < digits.before:
        return _double(numbers, f"numbers of more than {_MOST_DIGITS} digits")
    spare = "" if fixed else f" and {scale - digits.decimals} more decimals"
    why = f"at most {counted(most, 'digit')} before {decimals} decimals; room for {before - most} more{spare}"
    return numbers.candidate(
        {"type": "number", "precision": before + scale, "scale": scale}, why, numbers.style
    )
