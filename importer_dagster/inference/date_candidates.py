"""Candidates for columns of dates and times: the strptime patterns that could read their shapes.

What does not belong here: the importer's own parsers (``validation/parse_dates.py``, ``spec/date_formats.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from importer_dagster.inference.column_stats import Column, Shape
from importer_dagster.inference.state import Candidate, Order, all_of

_NEARLY_ALL = 0.98  # share of the values that a pattern has to fit; the rest may be damage
_MOST_FORMATS = 5  # patterns of one column
_FEWEST_IN_FORMAT = 2  # values that a further pattern of a column needs; a single one may be a mistake
_DATE_NAMES = re.compile(
    r"(?i)date|datum|(?:^|[_\s])(?:day|dt|tag|jour|fecha|asof|as_of)(?:$|[_\s])|_dt$|_on$"
)

# Regular expressions over shapes, each with the strptime patterns that could read a text of such a shape.
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
    (r"99?:99:99(?P<f>[.,])9{1,9}(?P<p> ?a)", ("%I:%M:%S{f}%f{p}%p",)),
    (r"99?:99:99(?P<p> ?)a", ("%I:%M:%S{p}%p",)),
    (r"99?:99(?P<p> ?)a", ("%I:%M{p}%p",)),
    (r"99?:99:99(?P<f>[.,])9{1,9}", ("%H:%M:%S{f}%f",)),
    (r"99?:99:99", ("%H:%M:%S",)),
    (r"99?:99", ("%H:%M",)),
)
_JOINTS = (("a", "T"), (", ", ", "), ("  ", "  "), (" ", " "), (":", ":"))
_ZONES = ((r"a", "%z"), (r" a", " %z"), (r"[+-]99:?99", "%z"), (r" [+-]99:?99", " %z"), ("", ""))
_COMPACT = {
    "9" * 8: ("date", "%Y%m%d"),
    "9" * 14: ("datetime", "%Y%m%d%H%M%S"),
    "9" * 8 + "a" + "9" * 6: ("datetime", "%Y%m%dT%H%M%S"),
    "9" * 8 + "a" + "9" * 6 + "a": ("datetime", "%Y%m%dT%H%M%S%z"),
}


def candidates(column: Column, shapes: Mapping[str, Shape]) -> list[Candidate]:
    """Ways to read a column as dates, times or both, the best first."""
    compact: list[Candidate] = []
    forms = {_COMPACT.get(s.replace("z", "9")) for s in shapes}
    form = forms.pop() if len(forms) == 1 else None
    if form is not None:
        # digits without separators may be numbers, so the name or many values have to show that they are dates
        kind, pattern = form
        named = bool(_DATE_NAMES.search(column.name)) or "a" in next(iter(shapes))
        many = column.plain >= 50 and (column.distinct is None or len(column.distinct) >= 20)
        why = "the name says a date" if named else "other numbers would hardly all be dates"
        if named or many:
            reason = f"{all_of(column)} are days as {pattern}; {why}"
            compact = [Candidate({"type": kind, "format": pattern}, reason)]
    uniform = _in_one_format(column, shapes)
    mixed = [] if any(c.share == 1 for c in uniform) else _in_several_formats(column, shapes)
    return [*compact, *uniform, *mixed]


def temporal_formats(shape: str) -> set[tuple[str, str]]:
    """All pairs (type, strptime pattern) that could read texts of a shape."""
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
    """The patterns for ``rest`` behind a date: a separator, a time of day, and perhaps a zone."""
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
    """The pattern with the separators that the shape has."""
    return pattern.format(**{k: v or "" for k, v in found.groupdict().items()}) if "{" in pattern else pattern


def _order_of(pattern: str) -> Order | None:
    """Whether day or month comes first; None for a pattern that can be read in one order only."""
    if "%m" not in pattern or "%d" not in pattern or pattern.startswith("%Y"):
        return None
    return "dmy" if pattern.index("%d") < pattern.index("%m") else "mdy"


def _in_one_format(column: Column, shapes: Mapping[str, Shape]) -> list[Candidate]:
    """Candidates of one pattern each, which reads all shapes or nearly all."""
    counts: Counter[tuple[str, str]] = Counter()
    iso: Counter[str] = Counter()
    for shape, seen in shapes.items():
        formats = temporal_formats(shape)
        for found in formats:
            counts[found] += seen.count
        for kind in {k for k, p in formats if _is_iso(p)}:
            iso[kind] += seen.count
    least = _NEARLY_ALL * column.plain
    enough = [(count, kind, pattern) for (kind, pattern), count in counts.items() if count >= least]
    example = repr(column.samples[0]) if column.samples else "none"
    made = []
    for count, kind, pattern in sorted(enough, key=lambda m: (-m[0], m[2].count("%B"), m[2], m[1])):
        values = all_of(column) if count == column.plain else f"{count:,} of {column.plain:,} values"
        why = f"{values} are written {pattern}, such as {example}"
        field = {"type": kind, "format": pattern}
        made.append(Candidate(field, why, order=_order_of(pattern), share=count / column.plain))
    why = f"{all_of(column)} are ISO 8601, some with more digits than others"  # of the seconds or their fractions
    made += [
        Candidate({"type": kind}, why, share=count / column.plain)
        for kind, count in iso.items()
        if count >= least
    ]
    if any(c.kind == "datetime" for c in made) and iso["datetime"]:
        zoned = "ISO 8601, some with an offset; those without are taken for UTC"
        made.append(Candidate({"type": "datetime", "timezone": "UTC"}, zoned, share=_NEARLY_ALL))
    return made


def _in_several_formats(column: Column, shapes: Mapping[str, Shape]) -> Iterator[Candidate]:
    """Candidates of several patterns that together read all shapes, with day and month in one order."""
    orders: tuple[Order, ...] = ("dmy", "mdy")
    met: list[Mapping[str, int]] = []
    for kind, order in ((k, o) for k in ("date", "datetime", "time") for o in orders):
        chosen = _fewest_formats(shapes, kind, order)
        if not 2 <= len(chosen) <= _MOST_FORMATS or chosen in met:
            continue
        met.append(chosen)
        listed = ", ".join(f"{'ISO 8601' if f == 'default' else f} ({n:,})" for f, n in chosen.items())
        yield Candidate(
            {"type": kind, "format": list(chosen)},
            f"{all_of(column)} are written in one of {len(chosen)} ways: {listed}",
            order=order if any(_order_of(f) for f in chosen) else None,
        )


def _fewest_formats(shapes: Mapping[str, Shape], kind: str, order: Order) -> dict[str, int]:
    """Patterns that together read all shapes, and the values that each reads; empty if some cannot be read.

    Chosen greedily: the next pattern is the one that reads most of the values left.
    """
    unread = dict(shapes)
    chosen: dict[str, int] = {}
    while unread and len(chosen) <= _MOST_FORMATS:
        counts: Counter[str] = Counter()
        for shape, seen in unread.items():
            for pattern in _formats_in_order(shape, kind, order):
                counts[pattern] += seen.count
        best = min(counts, key=lambda p: (-counts[p], p.count("%B"), p), default=None)
        if best is None or counts[best] < _FEWEST_IN_FORMAT:
            return {}
        chosen[best] = counts[best]
        unread = {s: v for s, v in unread.items() if best not in _formats_in_order(s, kind, order)}
    return chosen


def _formats_in_order(shape: str, kind: str, order: Order) -> set[str]:
    """The patterns that read a shape with day and month in one order; only ``default`` where it is ISO 8601."""
    patterns = {p for k, p in temporal_formats(shape) if k == kind and "%z" not in p}
    iso = {"default"} if any(_is_iso(p) for p in patterns) else set()
    return iso or {p for p in patterns if _order_of(p) in (None, order)}


def _is_iso(pattern: str) -> bool:
    """Whether a pattern is a form of ISO 8601 that the format ``default`` reads."""
    return pattern.startswith(("%Y-%m-%d", "%H:%M")) and "%p" not in pattern and " %z" not in pattern
