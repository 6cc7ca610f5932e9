"""Candidates for columns of numbers: how the numbers are written, and the type that has space for them.

Shapes are those of ``inference/column_stats.py``: ``9`` is a digit, ``z`` a leading zero,
``a`` a run of letters. The *core* of a shape is its digits and separators, without sign
and decoration such as a currency.

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
_MOST_ODD = 0.02  # share of the values that may be no numbers and count as damage
_SPARE_DIGITS = 4  # digits before the decimals beyond those seen, so that larger values fit, too
_SPARE_DECIMALS = 2
_MONEY_DECIMALS = 4
_FIXED_FROM = 50  # values from which a constant number of decimals is taken for a rule
_DOUBLE_DECIMALS = 13  # more decimals than people write: such numbers were measured or computed
_DOUBLE_DIGITS = 17  # digits of one number that a binary float keeps
_IDENTIFIER_DIGITS = 12  # whole numbers of one such length are identifiers, unless they are times
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
    """What the numbers of a column are made of, collected shape by shape."""

    before: int = 0  # most digits before the decimals
    decimals: int = 0  # most decimals
    least_decimals: int = 99
    significant: int = 0  # most digits of one number, leading zeros left out
    fraction: bool = False
    plus: bool = False
    zeros: str | None = None  # an example with leading zeros
    decorations: set[str] = dataclasses.field(default_factory=set)
    bare: int = 0  # values without decoration
    exponent: bool = False
    infinite: bool = False
    padded: bool = False

    def add_shape(self, shape: str, seen: Shape) -> str | None:
        """Note sign, decoration and exponent of a shape, and return its core.

        The core is "" for an infinity or an exponent, and None if the shape is no number.
        """
        if seen.example.strip().casefold() in _INFINITE:
            self.infinite = True
            return ""
        if _EXPONENT.fullmatch(shape.strip()) and re.search("[eE]", seen.example):
            self.exponent = True
            return ""
        m = _DECORATED.fullmatch(shape)
        if m is None or (m["sign"] and m["sign2"]):
            return None
        decoration = (m["before"] + m["after"]).strip(_SPACES + "\t")
        if decoration:
            self.decorations.add(decoration)
        else:
            self.bare += seen.count
        self.padded |= m["before"] != m["before"].strip() or m["after"] != m["after"].strip()
        self.plus |= "+" in (m["sign"], m["sign2"])
        return m["core"].rstrip(_SPACES)

    def add_core(self, core: str, style: Style, example: str) -> None:
        """Count the digits of a core before and behind the decimal mark of ``style``."""
        point, group = style
        whole, mark, decimals = (core.replace(group, "") if group else core).partition(point)
        if len(whole) > 1 and whole.startswith("z"):
            self.zeros = self.zeros or example
        # behind "0." a shape does not tell zeros from other digits, so the example has to
        is_below_one = not whole.strip("z")
        significant = re.sub(r"\D", "", example).lstrip("0") if is_below_one else whole + decimals
        self.significant = max(self.significant, len(significant))
        self.before = max(self.before, len(whole.removeprefix("z")))
        self.decimals = max(self.decimals, len(decimals))
        self.least_decimals = min(self.least_decimals, len(decimals))
        self.fraction |= bool(mark)

    def written(self, style: Style) -> tuple[dict[str, Any], str] | None:
        """Keys of a field for how the numbers are written, and words for it.

        None where values are decorated in different ways: 5 % and 5, or $5 and €5, are not the same.
        """
        keys: dict[str, Any] = {}
        words = ""
        if style[0] != ".":
            keys["decimalChar"] = style[0]
            words += f", {style[0]!r} before the decimals" if self.fraction else ""
        if style[1] is not None:
            keys["groupChar"] = style[1]
            words += f", {style[1]!r} between groups of digits"
        if self.decorations:
            percent = any("%" in d for d in self.decorations)
            if len(self.decorations) > 1 or (percent and self.bare):
                return None
            keys["bareNumber"] = False
            words += f", with {next(iter(self.decorations))}, which is removed"
        elif self.padded:
            keys["bareNumber"] = False
            words += ", with blanks around, which are removed"
        return keys, words


@dataclass(frozen=True)
class _Numbers:
    """A column of numbers, and how they are written: as keys of a field, and in words."""

    column: Column
    style: Style
    digits: _Digits
    share: float
    keys: Mapping[str, Any]
    words: str

    def _candidate(self, field: Mapping[str, Any], reason: str, style: Style | None) -> Candidate:
        return Candidate({**field, **self.keys}, f"{reason}{self.words}", style=style, share=self.share)

    def as_whole(self) -> Candidate | None:
        """Whole numbers: integers, amounts of money, or beyond 64 bits; None if they are identifiers."""
        column, style, digits = self.column, self.style, self.digits
        one_length = column.lengths.longest == column.lengths.shortest
        is_code = one_length and digits.before >= _IDENTIFIER_DIGITS and not _TIME_NAMES.search(column.name)
        if is_code or _TEXT_NAMES.search(column.name) or (digits.plus and digits.before > 6):
            return None
        # without decimals, decimalChar is needed only to tell it from a point that groups digits
        keys = {k: v for k, v in self.keys.items() if k != "decimalChar" or style[1] == "."}
        numbers = dataclasses.replace(self, keys=keys)
        values = all_of(column) if self.share == 1 else f"{self.share:.2%} of the values"
        if (
            _MONEY_NAMES.search(column.name)
            and digits.before <= _MOST_DIGITS - _SPARE_DIGITS - _MONEY_DECIMALS
        ):
            precision = max(digits.before, 1) + _SPARE_DIGITS + _MONEY_DECIMALS
            money = {"type": "number", "precision": precision, "scale": _MONEY_DECIMALS}
            why = f"{values} are whole, but the name says money: space for {_MONEY_DECIMALS} decimals"
            return numbers._candidate(money, why, None)
        if column.forms.largest_whole > _INT64 or digits.before > 19:
            if one_length or digits.before > _MOST_DIGITS:
                return None
            large = {"type": "number", "precision": _MOST_DIGITS, "scale": 0}
            return numbers._candidate(large, "whole numbers beyond 64 bits", None)
        why = f"{values} are whole numbers of at most {counted(digits.before or 1, 'digit')}"
        return numbers._candidate({"type": "integer"}, why, style if style[1] else None)

    def as_double(self, why: str) -> Candidate:
        """Binary floats."""
        return self._candidate({"type": "number", "format": "double"}, why, self.style)

    def as_decimal(self) -> Candidate:
        """Exact numbers with spare digits for larger values, as far as 38 digits reach; else binary floats."""
        digits = self.digits
        same = digits.least_decimals == digits.decimals
        decimals = f"{digits.decimals}" if same else f"{digits.least_decimals} to {digits.decimals}"
        if not same and digits.decimals >= _DOUBLE_DECIMALS and digits.significant <= _DOUBLE_DIGITS:
            return self.as_double(f"numbers with {decimals} decimals, as binary floats are written")
        fixed = same and self.column.plain >= _FIXED_FROM
        scale = digits.decimals if fixed else digits.decimals + _SPARE_DECIMALS
        most = max(digits.before, 1)
        before = most + _SPARE_DIGITS
        if before + scale > _MOST_DIGITS:
            scale = digits.decimals
            before = min(before, _MOST_DIGITS - scale)
        if before < digits.before:
            return self.as_double(f"numbers of more than {_MOST_DIGITS} digits")
        spare = "" if fixed else f" and {scale - digits.decimals} more decimals"
        why = f"at most {counted(most, 'digit')} before {decimals} decimals; space for {before - most} more{spare}"
        return self._candidate(
            {"type": "number", "precision": before + scale, "scale": scale}, why, self.style
        )


def candidates(column: Column, shapes: Mapping[str, Shape], other: Style | None) -> list[Candidate]:
    """The way to read a column as numbers, if there is one.

    ``other`` is how other columns of the file write decimals. There is none where the
    values are codes, or where it is not clear how they are written.
    """
    digits = _Digits()
    parsed: list[tuple[str, Shape]] = []
    odd = 0
    for shape, seen in shapes.items():
        core = digits.add_shape(shape, seen)
        if core is None:
            odd += seen.count
        elif core:
            parsed.append((core, seen))
    if odd > _MOST_ODD * column.plain:
        return []
    style, doubt = _choose_style([core for core, _ in parsed], other)
    if style is None:
        return []
    for core, seen in parsed:
        digits.add_core(core, style, seen.example)
    written = digits.written(style)
    if written is None:
        return []
    numbers = _Numbers(column, style, digits, 1 - odd / column.plain, *written)
    whole = not (digits.fraction or digits.exponent or digits.infinite)
    if digits.zeros is not None and (whole or column.lengths.longest == column.lengths.shortest):
        return []  # codes with leading zeros
    if whole:
        made = numbers.as_whole()
    elif digits.exponent or digits.infinite:
        infinite = "infinities or NaN, which no exact number can hold"
        made = numbers.as_double(f"numbers with {'exponents such as 1E+3' if digits.exponent else infinite}")
    else:
        made = numbers.as_decimal()
    if made is None:
        return []
    return [dataclasses.replace(made, reason=f"{made.reason}; {doubt}") if doubt else made]


def _choose_style(cores: Sequence[str], other: Style | None) -> tuple[Style | None, str]:
    """How numbers are written, and words for a doubt; None where it cannot be told.

    ``1.234`` and ``1,234`` may be thousands, or a little more than one. Then ``other``
    decides, which is how the other columns of the file write decimals.
    """
    styles = [style for style, regex in _STYLES if all(re.fullmatch(regex, core) for core in cores)]
    marks = {c for core in cores for c in core if c not in "z9"}
    style, doubt = (styles[0] if styles else None), ""
    if not marks:  # whole numbers, or only exponents and infinities
        style = other if other in styles else (".", None)
    elif marks == {"."} and (".", None) in styles:
        style = (".", None)
        if all(re.fullmatch(r"z|9{1,3}(?:\.999)*", c) for c in cores):
            if other is None:
                style = None
            elif other[0] == ",":
                style, doubt = (",", "."), "other columns have a decimal comma, so the point groups digits"
    elif len(marks) > 1 and not any(
        len(set(c) - set("z9")) > 1 or re.search(r"(?P<mark>[^z9])999(?P=mark)999", c) for c in cores
    ):
        style = None  # 5,5 and 5.555: one style with groups, or two without
    elif (",", None) in styles and (".", ",") in styles:
        if any("," in c and not re.fullmatch(r"9{1,3}(?:,999)+", c) for c in cores):
            style = (",", None)
        elif other is None:
            style = None
        elif other[0] == ",":
            style, doubt = (",", None), "other columns have a decimal comma"
        else:
            style, doubt = (".", ","), "a decimal comma would not go with the rest of the file"
    return style, doubt


def core_of(shape: str, seen: Shape) -> str | None:
    """The digits and separators of a number's shape; "" for an infinity or an exponent, None for no number."""
    return _Digits().add_shape(shape, seen)


def ambiguous_mark(column: Column) -> tuple[str, str] | None:
    """The comma or point, and an example, where all numbers are such as 1,234: a thousand, or a little more than one."""
    cores = {s: core_of(s, v) for s, v in (column.shapes or {}).items()}
    for mark in (",", "."):
        number = rf"9{{1,3}}{re.escape(mark)}999|[z9]9{{0,2}}"
        if cores and all(c and re.fullmatch(number, c) for c in cores.values()):
            marked = next((s for s, c in cores.items() if c and mark in c), None)
            if marked is not None and column.shapes is not None:
                return mark, column.shapes[marked].example
    return None


def style_of(found: Iterable[Candidate]) -> Style | None:
    """How a file writes decimals, by the columns that show it; None if they differ or there are none."""
    styles = {c.style[0] for c in found if c.style is not None}
    return (styles.pop(), None) if len(styles) == 1 else None
