"""Finds likely renames: a missing field and an unknown column with similar names or similar values.

What does not belong here: what is missing or unknown (``operations/drift_summary.py``), and what
is proposed (``operations/spec_proposals.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.inference.column_stats import shapes_of
from importer_dagster.operations.drift_summary import SpecChange, share_read
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import parse
from importer_dagster.validation.drift import likeness

# the values that a field had in earlier deliveries, as PostgreSQL gives them
KnownValues = Callable[[FieldSpec], Sequence[Any]]

_ALIKE = 0.8  # likeness of names that suffices, unless the values contradict
_RELATED = 0.5  # likeness of names that suffices together with similar values
_SEEN_BEFORE = 0.5  # share of values that the field had before which suffices without similar names,
_SEEN_VALUES = 8  # if there are at least so many different values,
_SAME_WORDS = 3  # or so many words which are exactly those of before, of at least so many letters each:
_WORD_LETTERS = 3  # Y, N and 1 prove nothing


def find_renames(
    spec: TableSpec, changes: Sequence[SpecChange], known: KnownValues
) -> list[tuple[SpecChange, SpecChange, str]]:
    """(missing field, unknown column, the reasons) of every likely rename; each column is used once at most."""
    unknown = [c for c in changes if c.kind == "added"]
    scored = []
    for missing in (c for c in changes if c.kind == "removed"):
        own = spec.layout(missing.since).whole.field(str(missing.column))
        values = known(own) if unknown else ()
        scored += [
            (score, missing, added, reasons)
            for added in unknown
            if added.since == missing.since
            for score, reasons in _score(spec, own, added, values)
        ]
    used: set[int] = set()
    pairs = []
    for _, missing, added, reasons in sorted(scored, key=lambda s: -s[0]):
        if not {id(missing), id(added)} & used:
            used |= {id(missing), id(added)}
            pairs.append((missing, added, reasons))
    return pairs


def _score(
    spec: TableSpec, own: FieldSpec, added: SpecChange, known: Sequence[Any]
) -> Iterator[tuple[float, str]]:
    """A score and its reasons if the unknown column is likely the field under a new name; else nothing."""
    name = max(likeness(str(added.column), other) for other in (own.name, *own.names))
    values = added.profile.get("values") or []
    if values and share_read(values, own, spec) < 0.95:
        return
    seen, alike = _compare_values(values, own, spec, known)
    if known and values and seen == 0 and alike < 0.5:
        return
    words = {v for v in values if v}
    are_same_words = (
        own.type == "string"
        and len(words) >= _SAME_WORDS
        and words == {str(k) for k in known if k}
        and all(sum(c.isalpha() for c in w) >= _WORD_LETTERS for w in words)
    )
    by_values = (seen >= _SEEN_BEFORE and len(values) >= _SEEN_VALUES) or are_same_words
    if not (name >= _ALIKE or (name >= _RELATED and max(seen, alike) >= 0.5) or by_values):
        return
    reasons = [f"names alike by {name:.0%}"]
    if values:
        is_text = own.type == "string"
        reasons.append("values are text" if is_text else f"all values looked at read as {own.type}")
    if values and known:
        reasons.append(f"{seen:.0%} of them stood in {own.name!r} before")
        reasons.append(f"{alike:.0%} are of a kind that it had")
    yield name + seen + alike / 2, ", ".join(reasons)


def _compare_values(
    values: Sequence[str], own: FieldSpec, spec: TableSpec, known: Sequence[Any]
) -> tuple[float, float]:
    """Shares of the values that the field had before, and that are in its range or have a shape it had."""
    if own.type == "object":
        return 0.0, 1.0
    typed, _ = parse.parse(pa.array(values, pa.string()), own, spec.missing_values(own))
    present = [v for v in typed.to_pylist() if v is not None]
    if not present or not known:
        return 0.0, 0.0
    if own.type == "string":
        shapes = pc.unique(shapes_of(pa.array([str(k) for k in known], pa.string())))
        is_known = pc.is_in(shapes_of(pa.array([str(v) for v in present], pa.string())), value_set=shapes)
        return _share(present, {str(k) for k in known}), float(
            pc.mean(is_known.cast(pa.int8())).as_py() or 0.0
        )
    low, high = min(known), max(known)
    return _share(present, set(known)), sum(low <= v <= high for v in present) / len(present)


def _share(values: Sequence[Any], known: Collection[Any]) -> float:
    return sum(v in known for v in values) / len(values)
