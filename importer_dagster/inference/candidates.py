"""Candidates for a column's type, made from the shapes of its values; and why a column is text.

``inference/type_choice.py`` tries each candidate on every value with the importer's own parser.

What does not belong here: collecting shapes (``inference/column_stats.py``), candidates for dates
(``inference/date_candidates.py``) and for numbers (``inference/number_candidates.py``), and choosing
among them (``inference/type_choice.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from importer_dagster.inference import date_candidates, number_candidates
from importer_dagster.inference.column_stats import Column, Shape
from importer_dagster.inference.state import Candidate, Style, all_of, counted

_FLAG_NAMES = re.compile(
    r"(?i)^(?:is|has|was|can|should)[_\s]|(?:^|[_\s])(?:flag|active|enabled|deleted|valid)$|flag$|indicator$"
)
_FLAG_CAMEL = re.compile(r"^(?:is|has)[A-Z]")
_ONE_SIDED_FROM = 20  # values from which a column with only yes, or only no, is a flag
_PAIRS = (
    ({"true", "t"}, {"false", "f"}),
    ({"yes", "y"}, {"no", "n"}),
    ({"ja", "j"}, {"nein", "n"}),
    ({"oui", "o"}, {"non", "n"}),
    ({"si", "sí", "s"}, {"no", "n"}),
    ({"on"}, {"off"}),
)


def candidates(column: Column, style: Style | None = None) -> list[Candidate]:
    """Ways to read a column as another type than text, the best first.

    ``style`` is how other columns of the file write decimals; it decides what ``1,234`` means.
    """
    if not column.plain:
        return []
    if column.forms.uuids == column.plain:
        return [Candidate({"type": "string", "format": "uuid"}, f"{all_of(column)} are UUIDs")]
    shapes = column.shapes
    if shapes is None:
        return list(_json(column))
    return [
        *_booleans(column),
        *_json(column),
        *date_candidates.candidates(column, shapes),
        *number_candidates.candidates(column, shapes, style),
    ]


def _booleans(column: Column) -> Iterator[Candidate]:
    """The way to read a column of two words, of 0 and 1, or of one word often, as true and false."""
    words = [w for w in column.distinct or () if w and w not in column.sentinels]
    if not 1 <= len(words) <= 8:
        return
    folded = {w.casefold() for w in words}
    if folded <= {"0", "1"}:
        if _FLAG_NAMES.search(column.name) or _FLAG_CAMEL.search(column.name):
            why = f"only {' and '.join(sorted(words))}, and the name says a flag"
            yield Candidate({"type": "boolean", "trueValues": ["1"], "falseValues": ["0"]}, why)
        return
    pair = next((p for p in _PAIRS if folded <= p[0] | p[1]), None)
    if pair is None:
        return
    true, false = pair
    both = bool(folded & true) and bool(folded & false)
    few = column.plain < _ONE_SIDED_FROM or max(map(len, folded)) < 2
    if not both and few and not folded <= {"true", "false"}:
        return  # a few values of one word, or one letter alone, are no evidence of a flag

    def counterparts(words: set[str], others: set[str]) -> Iterator[str]:
        """The other word of each pair, in the case and length of the word that was seen."""
        for word in words:
            for other in others:
                if (len(other) == 1) == (len(word) == 1):
                    yield other.upper() if word.isupper() else other.title() if word[0].isupper() else other

    yes = {w for w in words if w.casefold() in true}
    no = {w for w in words if w.casefold() in false}
    yes, no = yes | set(counterparts(no, true)), no | set(counterparts(yes, false))
    why = f"only the words {', '.join(sorted(words))}"
    yield Candidate({"type": "boolean", "trueValues": sorted(yes), "falseValues": sorted(no)}, why)


def _json(column: Column) -> Iterator[Candidate]:
    if column.plain >= 3 and column.forms.objects == column.plain:
        yield Candidate({"type": "object"}, f"{all_of(column)} are JSON objects")


def why_text(column: Column) -> tuple[str, str | None]:
    """Why a column is text, and a note if most of its values look like another type."""
    if not column.plain:
        what = f"only {', '.join(map(repr, list(column.sentinels)[:3]))}" if column.sentinels else "no value"
        return f"{what} seen, so nothing is known of its type", None
    plain = f"text of at most {counted(column.lengths.longest, 'character')}"
    if column.shapes is None:
        return plain, None
    if all(re.fullmatch(r"[+-]?[z9]9*", s) for s in column.shapes):
        coded = next((v.example for s, v in column.shapes.items() if re.match(r"[+-]?z9", s)), None)
        if coded is not None:
            return f"leading zeros such as {coded!r} would be lost in a number", None
        return "digits that name something: nothing to add up, and leading zeros may come", None

    examples: dict[str, str] = {}  # of each kind, the most frequent first
    texts = 0
    for shape, seen in sorted(column.shapes.items(), key=lambda s: -s[1].count):
        kind = _rough_kind(shape, seen)
        examples.setdefault(kind, seen.example[:30])
        texts += seen.count if kind == "text" else 0
    usual = next(iter(examples))
    if len(examples) > 1 and "text" not in examples:
        why = f"values are written in several ways: {', '.join(map(repr, list(examples.values())[:3]))}"
    elif len(examples) > 1 and texts < 0.2 * column.plain:
        why = f"{texts:,} of {column.plain:,} values are no {usual}, such as {examples['text']!r}"
    else:
        return plain, None
    return why, f"{column.name} is text, since {why}"


def _rough_kind(shape: str, seen: Shape) -> str:
    """Words for what a shape looks like: a date's pattern, a number and its marks, or text."""
    formats = date_candidates.temporal_formats(shape)
    if formats:
        kind, pattern = min(formats)
        return f"{kind} ({pattern})"
    core = number_candidates.core_of(shape, seen)
    if core is None:
        return "text"
    marks = "".join(sorted({c for c in core if c not in "z9"}))
    return f"number with {marks!r}" if marks else "number"
