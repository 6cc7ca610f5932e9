"""What a column's values may be read as: candidates made from their shapes.

A candidate is only a proposal; ``inference/type_choice.py`` tries each with the importer's own
parser on every value before it believes it.

What does not belong here: collecting shapes (``inference/column_stats.py``), how dates
(``inference/date_candidates.py``) and numbers (``inference/number_candidates.py``) are written, choosing (``inference/type_choice.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from importer_dagster.inference import date_candidates, number_candidates
from importer_dagster.inference.column_stats import Column, Shape
from importer_dagster.inference.state import Candidate, Style, all_of, counted

_FLAG_NAMES = re.compile(
    r"(?i)^(?:is|has|was|can|should)[_\s]|(?:^|[_\s])(?:flag|active|enabled|deleted|valid)$|flag$|indicator$"
)
_FLAG_CAMEL = re.compile(r"^(?:is|has)[A-Z]")
_ONE_SIDED_FROM = 20  # values from which yes alone is taken for a flag
_PAIRS = (
    ({"true", "t"}, {"false", "f"}),
    ({"yes", "y"}, {"no", "n"}),
    ({"ja", "j"}, {"nein", "n"}),
    ({"oui", "o"}, {"non", "n"}),
    ({"si", "sí", "s"}, {"no", "n"}),
    ({"on"}, {"off"}),
)


def candidates(column: Column, style: Style | None = None) -> list[Candidate]:
    """Ways to read a column as something else than text, the most fitting first.

    ``style`` is how other columns of the file write decimals, which decides
    what ``1,234`` means.
    """
    if not column.plain:
        return []
    if column.uuids == column.plain:
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
        lone = column.plain < _ONE_SIDED_FROM or max(map(len, folded)) < 2
        if not both and lone and not folded <= {"true", "false"}:
            return  # a lone Y or no says little
        yes, no = _spellings(seen, true, false)
        why = f"only the words {', '.join(sorted(seen))}"
        yield Candidate({"type": "boolean", "trueValues": yes, "falseValues": no}, why)
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
        yield Candidate({"type": "object"}, f"{all_of(column)} are JSON objects")


def why_text(column: Column) -> tuple[str, str | None]:
    """Why a column is text, and a note where that may surprise."""
    plain = f"text of at most {counted(column.longest, 'character')}", None
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
    formats = date_candidates.temporal_formats(shape)
    if formats:
        kind, pattern = min(formats)
        return f"{kind} ({pattern})"
    core = number_candidates.core_of(shape, seen)
    if core is None:
        return "text"
    mark = "".join(sorted({c for c in core if c not in "z9"}))
    return f"number with {mark!r}" if mark else "number"
