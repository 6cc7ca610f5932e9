"""Columns of dates and times: the patterns that could read their shapes.

What does not belong here: the importer's own parsers (``validation/parse_dates.py``, ``spec/date_formats.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from importer_dagster.inference.column_stats import Column, Shape
from importer_dagster.inference.state import Candidate, Order, all_of

_NEARLY_ALL = 0.98  # of the values, how many one format has to fit: the rest may be damage
_MOST_FORMATS = 5  # of one column of dates
_FEWEST_IN_FORMAT = 2  # values that a second way of writing dates has; one may be a slip
_DATE_NAMES = re.compile(
    r"(?i)date|datum|(?:^|[_\s])(?:day|dt|tag|jour|fecha|asof|as_of)(?:$|[_\s])|_dt$|_on$"
)

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
_COMPACT = {
    "9" * 8: ("date", "%Y%m%d"),
    "9" * 14: ("datetime", "%Y%m%d%H%M%S"),
    "9" * 8 + "a" + "9" * 6: ("datetime", "%Y%m%dT%H%M%S"),
    "9" * 8 + "a" + "9" * 6 + "a": ("datetime", "%Y%m%dT%H%M%S%z"),
}


def candidates(column: Column, shapes: Mapping[str, Shape]) -> list[Candidate]:
    """Ways to read a column as dates, times or both, the most fitting first."""
    uniform = _uniform(column, shapes)
    mixed = [] if any(c.share == 1 for c in uniform) else _mixed(column, shapes)
    return [*_compact_dates(column, shapes), *uniform, *mixed]


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


def _uniform(column: Column, shapes: Mapping[str, Shape]) -> list[Candidate]:
    """Formats that read (nearly) all shapes, each for itself."""
    weights: dict[tuple[str, str], int] = {}
    iso: dict[str, int] = {}
    for shape, seen in shapes.items():
        formats = temporal_formats(shape)
        for found in formats:
            weights[found] = weights.get(found, 0) + seen.count
        for kind in {k for k, p in formats if _is_iso(p)}:
            iso[kind] = iso.get(kind, 0) + seen.count
    least = _NEARLY_ALL * column.plain
    most = sorted(
        ((w, kind, pattern) for (kind, pattern), w in weights.items() if w >= least),
        key=lambda m: (-m[0], m[2].count("%B"), m[2], m[1]),
    )
    made = [_written_as(column, kind, pattern, w) for w, kind, pattern in most]
    why = f"{all_of(column)} are ISO 8601, some with more digits than others"  # of a second, or its fractions
    made += [Candidate({"type": kind}, why, share=w / column.plain) for kind, w in iso.items() if w >= least]
    if any(c.kind == "datetime" for c in made) and iso.get("datetime"):
        zoned = "ISO 8601, some with an offset; those without are taken for UTC"
        made.append(Candidate({"type": "datetime", "timezone": "UTC"}, zoned, share=_NEARLY_ALL))
    return made


def _written_as(column: Column, kind: str, pattern: str, count: int) -> Candidate:
    values = all_of(column) if count == column.plain else f"{count:,} of {column.plain:,} values"
    example = repr(column.samples[0]) if column.samples else "none"
    return Candidate(
        {"type": kind, "format": pattern},
        f"{values} are written {pattern}, such as {example}",
        order=_order_of(pattern),
        share=count / column.plain,
    )


def _mixed(column: Column, shapes: Mapping[str, Shape]) -> Iterator[Candidate]:
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
            f"{all_of(column)} are written in one of {len(chosen)} ways: {listed}",
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
    return [
        Candidate({"type": kind, "format": pattern}, f"{all_of(column)} are days as {pattern}; {backing}")
    ]
