"""What a column's values may be read as: candidates made from their shapes.

A candidate is only a proposal; ``choosing.py`` tries each with the importer's own
parser on every value before it believes it.

What does not belong here: collecting shapes (``evidence.py``), choosing (``choosing.py``).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from importer_dagster.evidence import Column, Shape

Order = Literal["dmy", "mdy"]
Style = tuple[str, str | None]  # (decimalChar, groupChar)

INT64 = 2**63 - 1
_MOST_DIGITS = 38
_ROOM = 4  # digits before the decimals beyond what was seen, so that larger values load, too
_SPARE_DECIMALS = 2
_MONEY_DECIMALS = 4
_FIXED_FROM = 50  # values from which a constant number of decimals is taken for a rule
_DOUBLE_DECIMALS = 13  # more decimals than people write: measured or computed

_DOUBLE_DIGITS = 17  # of one number, that a binary float gives back as they were

_MOST_FORMATS = 5  # of one column of dates
_FEWEST_IN_FORMAT = 2  # values that a second way of writing dates has; one may be a slip

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
_IDENTIFIER_DIGITS = (
    12  # whole numbers of one such length name something (cards, articles) unless they are times
)
_DATE_NAMES = re.compile(
    r"(?i)date|datum|(?:^|[_\s])(?:day|dt|tag|jour|fecha|asof|as_of)(?:$|[_\s])|_dt$|_on$"
)
_FLAG_NAMES = re.compile(
    r"(?i)^(?:is|has|was|can|should)[_\s]|(?:^|[_\s])(?:flag|active|enabled|deleted|valid)$|flag$|indicator$"
)
_FLAG_CAMEL = re.compile(r"^(?:is|has)[A-Z]")


@dataclass(frozen=True)
class Candidate:
    """One way to read a column: keys of a field, and why.

    ``order`` is set where the candidate depends on day or month coming first.
    ``share`` is that of the values whose shapes it was made for.
    """

    field: Mapping[str, Any]
    reason: str
    order: Order | None = None
    style: Style | None = None
    share: float = 1.0

    @property
    def kind(self) -> str:
        """The field's type."""
        return str(self.field["type"])


def candidates(column: Column, style: Style | None = None) -> list[Candidate]:
    """Ways to read a column as something else than text, the most fitting first.

    ``style`` is how other columns of the file write decimals, which decides
    what ``1,234`` means.
    """
    if not column.plain:
        return []
    if column.uuids == column.plain:
        return [Candidate({"type": "string", "format": "uuid"}, f"{_all(column)} are UUIDs")]
    shapes = column.shapes
    if shapes is None:
        return [*_json(column)]
    found = [*_booleans(column), *_json(column), *_compact_dates(column, shapes)]
    temporals = _temporals(column, shapes)
    found += temporals
    if not any(c.share == 1 for c in temporals):
        found += _mixed_temporals(column, shapes)
    found += _numbers(column, shapes, style)
    return found


def _all(column: Column) -> str:
    return f"all {column.plain:,} values"


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


# --- words --------------------------------------------------------------------------------

_ONE_SIDED_FROM = 20  # values from which yes alone is taken for a flag
_PAIRS = (
    ({"true", "t"}, {"false", "f"}),
    ({"yes", "y"}, {"no", "n"}),
    ({"ja", "j"}, {"nein", "n"}),
    ({"oui", "o"}, {"non", "n"}),
    ({"si", "sí", "s"}, {"no", "n"}),
    ({"on"}, {"off"}),
)


def _booleans(column: Column) -> Iterator[Candidate]:
    seen = _words(column)
    if seen is None or not 1 <= len(seen) <= 8:
        return
    folded = {w.casefold() for w in seen}
    if folded <= {"0", "1"}:
        if _FLAG_NAMES.search(column.name) or _FLAG_CAMEL.search(column.name):
            why = f"only {' and '.join(sorted(seen))}, and the name says a flag"
            yield Candidate({"type": "boolean", "trueValues": ["1"], "falseValues": ["0"]}, why)
        return
    for true, false in _PAIRS:
        if not folded <= true | false:
            continue
        both = bool(folded & true) and bool(folded & false)
        if (
            not both
            and not folded <= {"true", "false"}
            and (column.plain < _ONE_SIDED_FROM or max(map(len, folded)) < 2)
        ):
            return  # a lone Y or no says little
        yes, no = _spellings(seen, true, false)
        yield Candidate(
            {"type": "boolean", "trueValues": yes, "falseValues": no},
            f"only the words {', '.join(sorted(seen))}",
        )
        return


def _words(column: Column) -> list[str] | None:
    if column.distinct is None:
        return None
    return [w for w in column.distinct if w and w not in column.sentinels]


def _spellings(seen: Iterable[str], true: set[str], false: set[str]) -> tuple[list[str], list[str]]:
    """The words seen, and of each the counterpart that was not, in the same case and length."""
    yes = {w for w in seen if w.casefold() in true}
    no = {w for w in seen if w.casefold() in false}

    def counterparts(words: set[str], others: set[str]) -> Iterator[str]:
        for word in words:
            for other in others:
                if (len(other) == 1) == (len(word) == 1):
                    yield other.upper() if word.isupper() else other.title() if word[0].isupper() else other

    return sorted(yes | set(counterparts(no, true))), sorted(no | set(counterparts(yes, false)))


def _json(column: Column) -> Iterator[Candidate]:
    if column.plain >= 3 and column.objects == column.plain:
        yield Candidate({"type": "object"}, f"{_all(column)} are JSON objects")


# --- dates and times ------------------------------------------------------------------------

_DATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"9999(?P<s>[-/.])99?(?P=s)99?", ("%Y{s}%m{s}%d",)),
    (r"99?(?P<s>[-/. ])99?(?P=s)9999", ("%d{s}%m{s}%Y", "%m{s}%d{s}%Y")),
    (r"99?(?P<s>[-/.])99?(?P=s)99", ("%d{s}%m{s}%y", "%m{s}%d{s}%y")),
    (r"99?(?P<s>[-/. ]?)a(?P=s)9999", ("%d{s}%b{s}%Y", "%d{s}%B{s}%Y")),
    (r"99?(?P<s>[-/ ]?)a(?P=s)99", ("%d{s}%b{s}%y", "%d{s}%B{s}%y")),
    (r"99?\.? a\.? 9999", ("%d. %B %Y", "%d. %b %Y", "%d %b. %Y")),
    (r"a(?P<s>[ -])99?,(?P<t> ?)9999", ("%b{s}%d,{t}%Y", "%B{s}%d,{t}%Y")),
    (r"a(?P<s>[ -])99?(?P=s)9999", ("%b{s}%d{s}%Y", "%B{s}%d{s}%Y")),
    (r"9999(?P<s>[-/ ])a(?P=s)99?", ("%Y{s}%b{s}%d", "%Y{s}%B{s}%d")),
)
_WEEKDAYS = ((r"a, ", ("%a, ", "%A, ")), (r"a ", ("%a ", "%A ")), ("", ("",)))
_TIMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"99?:99:99\.9{1,6}(?P<p> ?a)", ("%I:%M:%S.%f{p}%p",)),
    (r"99?:99:99(?P<p> ?)a", ("%I:%M:%S{p}%p",)),
    (r"99?:99(?P<p> ?)a", ("%I:%M{p}%p",)),
    (r"99?:99:99\.9{1,6}", ("%H:%M:%S.%f",)),
    (r"99?:99:99", ("%H:%M:%S",)),
    (r"99?:99", ("%H:%M",)),
)
_JOINTS = (("a", "T"), (", ", ", "), ("  ", "  "), (" ", " "), (":", ":"))
_ZONES = ((r"a", "%z"), (r" a", " %z"), (r"[+-]99:?99", "%z"), (r" [+-]99:?99", " %z"), ("", ""))
_COMPACT = {"9" * 8: ("date", "%Y%m%d"), "9" * 14: ("datetime", "%Y%m%d%H%M%S"), "9" * 8 + "a" + "9" * 6: ("datetime", "%Y%m%dT%H%M%S"),
            "9" * 8 + "a" + "9" * 6 + "a": ("datetime", "%Y%m%dT%H%M%S%z")}  # fmt: skip


def temporal_formats(shape: str) -> set[tuple[str, str]]:
    """(type, strptime pattern) pairs that could read texts of a shape."""
    shape = shape.replace("z", "9")
    found: set[tuple[str, str]] = set()
    for time_regex, times in _TIMES:
        if m := re.fullmatch(time_regex, shape):
            found |= {("time", _fill(t, m)) for t in times}
    for day_regex, weekdays in _WEEKDAYS:
        for date_regex, dates in _DATES:
            head = re.match(day_regex + date_regex, shape)
            if not head:
                continue
            patterns = [w + _fill(d, head) for w in weekdays for d in dates]
            rest = shape[head.end() :]
            found |= {("date", p) for p in patterns} if not rest else _with_time(patterns, rest)
    return found


def _with_time(dates: Sequence[str], rest: str) -> set[tuple[str, str]]:
    """Patterns of dates with what may follow: a joint, a time of day, a zone."""
    found: set[tuple[str, str]] = set()
    for mark, literal in _JOINTS:
        if not rest.startswith(mark):
            continue
        for time_regex, times in _TIMES:
            for zone_regex, zone in _ZONES:
                if m := re.fullmatch(f"(?:{time_regex}){zone_regex}", rest[len(mark) :]):
                    found |= {("datetime", d + literal + _fill(t, m) + zone) for d in dates for t in times}
    return found


def _fill(pattern: str, found: re.Match[str]) -> str:
    return pattern.format(**{k: v or "" for k, v in found.groupdict().items()}) if "{" in pattern else pattern


def _order_of(pattern: str) -> Order | None:
    """Whether a pattern depends on what comes first, day or month."""
    if "%m" not in pattern or "%d" not in pattern or pattern.startswith("%Y"):
        return None
    return "dmy" if pattern.index("%d") < pattern.index("%m") else "mdy"


def _temporals(column: Column, shapes: Mapping[str, Shape]) -> list[Candidate]:
    weights: dict[tuple[str, str], int] = {}
    iso: dict[str, int] = {}
    for shape, seen in shapes.items():
        formats = temporal_formats(shape)
        for found in formats:
            weights[found] = weights.get(found, 0) + seen.count
        for kind in {k for k, p in formats if _is_iso(p)}:
            iso[kind] = iso.get(kind, 0) + seen.count
    most = [(w, k) for k, w in sorted(weights.items()) if w >= 0.98 * column.plain]
    made = [
        Candidate(
            {"type": kind, "format": pattern},
            f"{_all(column) if w == column.plain else f'{w:,} of {column.plain:,} values'} "
            f"are written {pattern}, such as {_example(column)}",
            order=_order_of(pattern),
            share=w / column.plain,
        )
        for w, (kind, pattern) in sorted(most, key=lambda m: (-m[0], m[1][1].count("%B"), m[1]))
    ]
    # ISO 8601 with and without fractions of a second, or of seconds
    made += [
        Candidate(
            {"type": kind},
            f"{_all(column)} are ISO 8601, some with more digits than others",
            share=w / column.plain,
        )
        for kind, w in iso.items()
        if w >= 0.98 * column.plain
    ]
    if any(c.kind == "datetime" for c in made) and iso.get("datetime"):
        zoned = {"type": "datetime", "timezone": "UTC"}
        made.append(
            Candidate(zoned, "ISO 8601, some with an offset; those without are taken for UTC", share=0.98)
        )
    return made


def _mixed_temporals(column: Column, shapes: Mapping[str, Shape]) -> Iterator[Candidate]:
    """Several formats that together read all shapes, day and month in one order throughout."""
    orders: tuple[Order, ...] = ("dmy", "mdy")
    met: list[Mapping[str, int]] = []
    for kind, order in ((k, o) for k in ("date", "datetime", "time") for o in orders):
        chosen = _cover(shapes, kind, order)
        if not 2 <= len(chosen) <= _MOST_FORMATS or chosen in met:
            continue
        met.append(chosen)
        listed = ", ".join(f"{'ISO 8601' if f == 'default' else f} ({n:,})" for f, n in chosen.items())
        yield Candidate(
            {"type": kind, "format": list(chosen)},
            f"{_all(column)} are written in one of {len(chosen)} ways: {listed}",
            order=order if any(_order_of(f) for f in chosen) else None,
        )


def _cover(shapes: Mapping[str, Shape], kind: str, order: Order) -> dict[str, int]:
    """The fewest formats that read all shapes, and how many values each; none if some cannot be read."""
    open_ = dict(shapes)
    chosen: dict[str, int] = {}
    while open_ and len(chosen) <= _MOST_FORMATS:
        counts: dict[str, int] = {}
        for shape, seen in open_.items():
            for pattern in _formats_in_order(shape, kind, order):
                counts[pattern] = counts.get(pattern, 0) + seen.count
        best = min(counts, key=lambda p: (-counts[p], p.count("%B"), p), default=None)
        if best is None or counts[best] < _FEWEST_IN_FORMAT:
            return {}
        chosen[best] = counts[best]
        open_ = {s: v for s, v in open_.items() if best not in _formats_in_order(s, kind, order)}
    return chosen


def _formats_in_order(shape: str, kind: str, order: Order) -> set[str]:
    patterns = {p for k, p in temporal_formats(shape) if k == kind and "%z" not in p}
    iso = {"default"} if any(_is_iso(p) for p in patterns) else set()
    return iso or {p for p in patterns if _order_of(p) in (None, order)}


def _is_iso(pattern: str) -> bool:
    return pattern.startswith(("%Y-%m-%d", "%H:%M")) and "%p" not in pattern and " %z" not in pattern


def _example(column: Column) -> str:
    return repr(column.samples[0]) if column.samples else "none"


def _compact_dates(column: Column, shapes: Mapping[str, Shape]) -> list[Candidate]:
    """Digits without separators are dates only where name or number of values back it."""
    forms = {_COMPACT.get(s.replace("z", "9")) for s in shapes}
    if len(forms) != 1 or None in forms:
        return []
    (form,) = forms
    assert form is not None
    kind, pattern = form
    sure = bool(_DATE_NAMES.search(column.name)) or "a" in next(iter(shapes))
    many = column.plain >= 50 and (column.distinct is None or len(column.distinct) >= 20)
    if not (sure or many):
        return []
    backing = "the name says a date" if sure else "numbers by chance would not"
    return [Candidate({"type": kind, "format": pattern}, f"{_all(column)} are days as {pattern}; {backing}")]


# --- numbers --------------------------------------------------------------------------------

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
    negative: bool = False
    plus: bool = False
    zeros: str | None = None  # an example with leading zeros
    decorations: set[str] = dataclasses.field(default_factory=set)
    bare: int = 0  # values without decoration
    exponent: bool = False
    infinite: bool = False
    padded: bool = False


def _numbers(column: Column, shapes: Mapping[str, Shape], other: Style | None) -> list[Candidate]:
    parsed: list[tuple[str, Shape]] = []
    digits = _Digits()
    odd = 0
    for shape, seen in shapes.items():
        core = _core(shape, seen, digits)
        if core is None:
            odd += seen.count
        elif core:
            parsed.append((core, seen))
    if odd > 0.02 * column.plain:
        return []
    share = 1 - odd / column.plain
    if not parsed:
        made = _number(column, other if other and other[1] is None else (".", None), digits, parsed, share)
        return [made] if made is not None else []
    styles = [style for style, regex in _STYLES if all(re.fullmatch(regex, core) for core, _ in parsed)]
    if not styles:
        return []
    style, doubt = _choose_style(styles, parsed, other)
    if style is None:
        return []
    _count_digits(parsed, style, digits)
    made = _number(column, style, digits, parsed, share)
    if made is not None and doubt:
        made = Candidate(made.field, f"{made.reason}; {doubt}", style=made.style, share=share)
    return [made] if made is not None else []


def _core(shape: str, seen: Shape, digits: _Digits) -> str | None:
    """The digits and separators of a number's shape; "" where it has none, None for no number."""
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
    digits.negative |= sign == "-"
    digits.plus |= sign == "+"
    return m["core"].rstrip(_SPACES)


def _choose_style(
    styles: Sequence[Style], parsed: Sequence[tuple[str, Shape]], other: Style | None
) -> tuple[Style | None, str]:
    """How numbers are written, and a word of doubt; None where it cannot be told."""
    cores = [core for core, _ in parsed]
    marks = {c for core in cores for c in core if c not in "z9"}
    if not marks:
        return (other if other in styles else (".", None)), ""
    if marks == {"."} and (".", None) in styles:
        return _what_a_point_means(cores, other)
    if len(marks) > 1 and not any(len(set(core) - set("z9")) > 1 or _two_groups(core) for core in cores):
        return None, ""  # 5,5 and 5.555: one style with groups, or two without?
    if (",", None) in styles and (".", ",") in styles:
        return _what_a_comma_means(cores, other)
    return styles[0], ""


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


def ambiguous_mark(column: Column) -> tuple[str, str] | None:
    """The comma or point, and an example, where numbers such as 1,234 may be a thousand or a little more than one."""
    cores = {s: _core(s, v, _Digits()) for s, v in (column.shapes or {}).items()}
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


def _number(
    column: Column, style: Style, digits: _Digits, parsed: Sequence[tuple[str, Shape]], share: float
) -> Candidate | None:
    extra, words = _writing(column, style, digits)
    if extra is None:
        return None
    whole = not (digits.fraction or digits.exponent or digits.infinite)
    if digits.zeros is not None and (whole or column.longest == column.shortest):
        return None  # a code
    if whole:
        return _integer(column, style, digits, extra, words, share)
    if digits.exponent or digits.infinite:
        why = (
            "exponents such as 1E+3"
            if digits.exponent
            else "infinities or NaN, which no exact number can hold"
        )
        seen = {"type": "number", "format": "double", **extra}
        return Candidate(seen, f"numbers with {why}{words}", share=share, style=style)
    return _decimal(column, style, digits, extra, words, share)


def _writing(column: Column, style: Style, digits: _Digits) -> tuple[dict[str, Any] | None, str]:
    """Keys for how numbers are written, and words for it; None where decorations say different things."""
    extra: dict[str, Any] = {}
    words = ""
    if style[0] != ".":
        extra["decimalChar"] = style[0]
        words += f", {style[0]!r} before the decimals" if digits.fraction else ""
    if style[1] is not None:
        extra["groupChar"] = style[1]
        words += f", {style[1]!r} between groups of digits"
    if digits.decorations:
        percent = any("%" in d for d in digits.decorations)
        if len(digits.decorations) > 1 or (percent and digits.bare):
            return None, ""  # 5 % and 5, or $5 and €5, are not the same
        extra["bareNumber"] = False
        words += f", with {next(iter(digits.decorations))}, which is taken off"
    elif digits.padded:
        extra["bareNumber"] = False
        words += ", with blanks around, which are taken off"
    return extra, words


def _integer(
    column: Column, style: Style, digits: _Digits, extra: dict[str, Any], words: str, share: float
) -> Candidate | None:
    if _TEXT_NAMES.search(column.name) or (digits.plus and digits.before > 6):
        return None
    # a point that groups digits needs to be told from the decimal point that nobody wrote
    extra = {k: v for k, v in extra.items() if k != "decimalChar" or style[1] == "."}
    values = _all(column) if share == 1 else f"{share:.2%} of the values"
    one_length = column.longest == column.shortest
    if one_length and digits.before >= _IDENTIFIER_DIGITS and not _TIME_NAMES.search(column.name):
        return None
    if _MONEY_NAMES.search(column.name) and digits.before <= _MOST_DIGITS - _ROOM - _MONEY_DECIMALS:
        precision = max(digits.before, 1) + _ROOM + _MONEY_DECIMALS
        seen = {"type": "number", "precision": precision, "scale": _MONEY_DECIMALS, **extra}
        why = f"{values} are whole, but the name says money: room for {_MONEY_DECIMALS} decimals{words}"
        return Candidate(seen, why, share=share)
    if column.largest_whole > INT64 or digits.before > 19:
        if column.longest == column.shortest or digits.before > _MOST_DIGITS:
            return None  # digits of one length that no integer holds: an identifier
        seen = {"type": "number", "precision": _MOST_DIGITS, "scale": 0, **extra}
        return Candidate(seen, f"whole numbers beyond 64 bits{words}", share=share)
    return Candidate(
        {"type": "integer", **extra},
        f"{values} are whole numbers of at most {_counted(digits.before or 1, 'digit')}{words}",
        share=share,
        style=style if style[1] else None,
    )


def _decimal(
    column: Column, style: Style, digits: _Digits, extra: dict[str, Any], words: str, share: float
) -> Candidate:
    same = digits.least_decimals == digits.decimals
    if not same and digits.decimals >= _DOUBLE_DECIMALS and digits.significant <= _DOUBLE_DIGITS:
        seen = {"type": "number", "format": "double", **extra}
        why = f"numbers with {digits.least_decimals} to {digits.decimals} decimals, as binary floats are written{words}"
        return Candidate(seen, why, share=share, style=style)
    fixed = same and column.plain >= _FIXED_FROM
    scale = digits.decimals if fixed else digits.decimals + _SPARE_DECIMALS
    before = max(digits.before, 1) + _ROOM
    if before + scale > _MOST_DIGITS:
        scale = digits.decimals
        before = min(before, _MOST_DIGITS - scale)
    if before < digits.before:
        return Candidate(
            {"type": "number", "format": "double", **extra},
            f"numbers of more than {_MOST_DIGITS} digits{words}",
            share=share,
            style=style,
        )
    seen = {"type": "number", "precision": before + scale, "scale": scale, **extra}
    decimals = f"{digits.decimals}" if same else f"{digits.least_decimals} to {digits.decimals}"
    why = (
        f"at most {_counted(max(digits.before, 1), 'digit')} before {decimals} decimals; "
        f"room for {before - max(digits.before, 1)} more{'' if fixed else f' and {scale - digits.decimals} more decimals'}{words}"
    )
    return Candidate(seen, why, share=share, style=style)


def why_text(column: Column) -> tuple[str, str | None]:
    """Why a column is text, and a note where that may surprise."""
    plain = f"text of at most {_counted(column.longest, 'character')}", None
    if not column.plain:
        what = f"only {', '.join(map(repr, list(column.sentinels)[:3]))}" if column.sentinels else "no value"
        return f"{what} seen, so nothing is known of its type", None
    if column.shapes is None:
        return plain
    if all(re.fullmatch(r"[+-]?[z9]9*", s) for s in column.shapes):
        coded = next((v.example for s, v in column.shapes.items() if re.match(r"[+-]?z9", s)), None)
        if coded is not None:
            return f"leading zeros such as {coded!r} would be lost in a number", None
        return "digits that name something: nothing to add up, and leading zeros may come", None
    return _why_mixed(column, column.shapes) or plain


def _why_mixed(column: Column, shapes: Mapping[str, Shape]) -> tuple[str, str] | None:
    """Words for a column of which most values are no text, or that writes them in several ways."""
    kinds: dict[str, str] = {}
    texts = 0
    for shape, seen in sorted(shapes.items(), key=lambda s: -s[1].count):
        kind = _rough_kind(shape, seen)
        kinds.setdefault(kind, seen.example[:30])
        texts += seen.count if kind == "text" else 0
    usual = next(iter(kinds))
    if len(kinds) > 1 and "text" not in kinds:
        why = f"values are written in several ways: {', '.join(map(repr, list(kinds.values())[:3]))}"
    elif len(kinds) > 1 and texts < 0.2 * column.plain:
        why = f"{texts:,} of {column.plain:,} values are no {usual}, such as {kinds['text']!r}"
    else:
        return None
    return why, f"{column.name} is text, since {why}"


def _rough_kind(shape: str, seen: Shape) -> str:
    formats = temporal_formats(shape)
    if formats:
        kind, pattern = min(formats)
        return f"{kind} ({pattern})"
    core = _core(shape, seen, _Digits())
    if core is None:
        return "text"
    mark = "".join(sorted({c for c in core if c not in "z9"}))
    return f"number with {mark!r}" if mark else "number"
