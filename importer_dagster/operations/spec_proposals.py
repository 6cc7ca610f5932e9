"""What to do about drift: the events of a type's deliveries, made into edits of its spec.

Nothing here changes anything. A rename is proposed where names are alike and
the values of the unknown column look like those that the field had before;
a proposal says what speaks for it, and it is a person who takes it.

What does not belong here: writing YAML (``operations/spec_edits.py``), recording events (``pipeline/delivery.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.inference.column_stats import shapes_of
from importer_dagster.inference.type_choice import infer_field, style_of_type
from importer_dagster.operations.spec_edits import add_alias, add_field, add_version
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import Layout, TableSpec
from importer_dagster.spec.versions import FieldChange, changed, stored
from importer_dagster.validation import parse
from importer_dagster.validation.drift import likeness

_ALIKE = 0.8  # names that are nearly the same say enough, if the values do not say otherwise
_RELATED = 0.5
_SEEN_BEFORE = 0.5  # share of values that the field had before which says enough without the name
_SEEN_VALUES = 8  # different values from which that means something
_SAME_WORDS = 3  # of a column of words, if they are the very same: no, Y and 1 say nothing
_WORD = 3  # letters

Edit = Callable[[str], str]
# (field) → values that it had in earlier deliveries, as PostgreSQL gives them
Known = Callable[[FieldSpec], Sequence[Any]]


@dataclass(frozen=True)
class Seen:
    """One delivery with its drift, from the ledger. ``drift`` has kind, column_name, detail, declared, profile."""

    tenant: str
    day: date
    path: str
    status: str
    drift: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Change:
    """One thing that changed: since when, in how many deliveries, and what is proposed.

    ``until`` is set where newer deliveries do not have it any more; then it is
    history, and ``edit`` is for those who ask. ``edit`` changes the spec's YAML;
    None where there is nothing to propose, with the reason in ``advice``.
    """

    kind: str
    column: str | None
    detail: str
    since: date
    first: str
    deliveries: int
    refused: int
    until: date | None = None
    everywhere: bool = True
    profile: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""
    edit: Edit | None = None


def changes(spec: TableSpec, deliveries: Sequence[Seen], known: Known) -> list[Change]:
    """What changed against the spec as it is now, oldest first, with a proposal for each where there is one.

    ``deliveries`` are those in force and those refused, of all tenants.
    """
    found = _summed_up(spec, deliveries)
    renames = _renames(spec, [c for c in found if c.until is None], known)
    done = {c.column for pair in renames for c in pair[:2]}
    made = [_renamed(*pair) for pair in renames]
    made += [
        _propose(spec, c, deliveries) if c.until is None else _past(spec, c, deliveries)
        for c in found
        if c.column not in done
    ]
    return sorted(made, key=lambda c: (c.since, c.kind))  # else as the columns stand in the file


# --- what is left of the drift, with the spec as it is now ------------------------------------


def _summed_up(spec: TableSpec, deliveries: Sequence[Seen]) -> list[Change]:
    ordered = sorted(deliveries, key=lambda d: (d.day, d.path.encode()))
    met: dict[tuple[str, str | None], list[tuple[Seen, Mapping[str, Any]]]] = {}
    for seen in ordered:
        for event in _undeclared(spec, seen):
            met.setdefault((event["kind"], event["column_name"]), []).append((seen, event))
    return [_sum(kind, column, events, ordered) for (kind, column), events in met.items()]


def _undeclared(spec: TableSpec, seen: Seen) -> Iterator[Mapping[str, Any]]:
    """A delivery's events, those left out that the spec has an answer to by now."""
    layout = spec.layout(seen.day)
    events = [e for e in seen.drift if not e["declared"] and e["kind"] not in ("evolved", "warning")]
    headers = {e["column_name"] for e in events if e["kind"] == "added"}
    fed = {f.name for f in layout.spec.fields if headers & set(f.names)}
    fields = {f.name: f for f in layout.spec.fields}
    own = {n for f in layout.spec.fields for n in (f.name, *f.names)}
    for event in events:
        kind, column = event["kind"], event["column_name"]
        if kind == "added" and column in own:
            continue
        if kind == "removed" and (column not in fields or column in fed):
            continue
        if kind == "renamed" and _is_name_of(fields.get(str(column)), event["profile"] or {}):
            continue
        if kind == "retyped" and _reads(fields.get(str(column)), layout, event["profile"] or {}):
            continue
        yield event


def _is_name_of(own: FieldSpec | None, profile: Mapping[str, Any]) -> bool:
    """Whether the name that a field came under is declared by now, or the field is gone."""
    return own is None or profile.get("header") in own.names


def _reads(own: FieldSpec | None, layout: Layout, profile: Mapping[str, Any]) -> bool:
    """Whether the values that were of another type can be read by now."""
    return own is None or _share_read(profile.get("values") or [], own, layout.spec) > 0.5


def _sum(
    kind: str,
    column: str | None,
    events: Sequence[tuple[Seen, Mapping[str, Any]]],
    everything: Sequence[Seen],
) -> Change:
    """One change over all deliveries; it counts from the day since when a tenant's files all have it."""
    with_it = {id(seen) for seen, _ in events}
    began: dict[str, Seen] = {}
    for tenant in {seen.tenant for seen, _ in events}:
        for seen in reversed([d for d in everything if d.tenant == tenant]):
            if id(seen) not in with_it:
                break
            began[tenant] = seen
    first = min(began.values(), key=lambda s: (s.day, s.path)) if began else events[0][0]
    others = [d for d in everything if d.day >= first.day and id(d) not in with_it]
    last_seen, last = events[-1]
    return Change(
        kind,
        column,
        str(last["detail"]),
        first.day,
        first.path,
        len(events),
        sum(seen.status == "refused" for seen, _ in events),
        until=None if began else last_seen.day,
        everywhere=not others,
        profile=last["profile"] or {},
    )


# --- renames ----------------------------------------------------------------------------------


def _renames(spec: TableSpec, found: Sequence[Change], known: Known) -> list[tuple[Change, Change, str]]:
    """(lost field, unknown column, what speaks for it) for every likely rename, each column once."""
    lost = [c for c in found if c.kind == "removed"]
    new = [c for c in found if c.kind == "added"]
    scored = []
    for gone in lost:
        own = spec.layout(gone.since).whole.field(str(gone.column))
        values = known(own) if new else ()
        scored += [
            (score, gone, added, words)
            for added in new
            if added.since == gone.since
            for score, words in _score(spec, own, added, values)
        ]
    taken: set[int] = set()
    pairs = []
    for _, gone, added, words in sorted(scored, key=lambda s: -s[0]):
        if not {id(gone), id(added)} & taken:
            taken |= {id(gone), id(added)}
            pairs.append((gone, added, words))
    return pairs


def _score(
    spec: TableSpec, own: FieldSpec, added: Change, known: Sequence[Any]
) -> Iterator[tuple[float, str]]:
    """How likely a column is a field under a new name, and why; nothing where it is not."""
    name = max(likeness(str(added.column), other) for other in (own.name, *own.names))
    values = added.profile.get("values") or []
    if values and _share_read(values, own, spec) < 0.95:
        return
    seen, alike = _compared(values, own, spec, known)
    if known and values and seen == 0 and alike < 0.5:
        return  # called alike, but of another kind
    by_values = (seen >= _SEEN_BEFORE and len(values) >= _SEEN_VALUES) or _same_words(values, own, known)
    if name >= _ALIKE or (name >= _RELATED and max(seen, alike) >= 0.5) or by_values:
        yield name + seen + alike / 2, _reason(name, seen, alike, values, known, own)


def _same_words(values: Sequence[str], own: FieldSpec, known: Sequence[Any]) -> bool:
    """Whether two columns of text hold the same few words."""
    words, before = {v for v in values if v}, {str(k) for k in known if k}
    return (
        own.type == "string"
        and len(words) >= _SAME_WORDS
        and words == before
        and all(sum(c.isalpha() for c in w) >= _WORD for w in words)
    )


def _reason(
    name: float, seen: float, alike: float, values: Sequence[str], known: Sequence[Any], own: FieldSpec
) -> str:
    words = [f"names alike by {name:.0%}"]
    if values:
        words.append(
            f"all values looked at read as {own.type}" if own.type != "string" else "values are text"
        )
    if values and known:
        words.append(f"{seen:.0%} of them stood in {own.name!r} before")
        words.append(f"{alike:.0%} are of a kind that it had")
    return ", ".join(words)


def _share_read(values: Sequence[str], own: FieldSpec, spec: TableSpec) -> float:
    if not values:
        return 0.0
    _, bad = parse.parse(pa.array(values, pa.string()), own, spec.missing_values(own))
    return 1 - (len(bad.indexes) if bad is not None else 0) / len(values)


def _compared(
    values: Sequence[str], own: FieldSpec, spec: TableSpec, known: Sequence[Any]
) -> tuple[float, float]:
    """Shares of the values that the field had before, and that are of a kind it had (range, or shape of text)."""
    if own.type == "object":
        return 0.0, 1.0
    typed, _ = parse.parse(pa.array(values, pa.string()), own, spec.missing_values(own))
    there = [v for v in typed.to_pylist() if v is not None]
    if not there or not known:
        return 0.0, 0.0
    if own.type == "string":
        return _share(there, {str(k) for k in known}), _share_of_shapes(there, known)
    low, high = min(known), max(known)
    return _share(there, set(known)), sum(low <= v <= high for v in there) / len(there)


def _share(values: Sequence[Any], known: Iterable[Any]) -> float:
    return sum(v in known for v in values) / len(values)


def _share_of_shapes(values: Sequence[Any], known: Sequence[Any]) -> float:
    texts = pa.array([str(v) for v in values], pa.string())
    shapes = pc.unique(shapes_of(pa.array([str(k) for k in known], pa.string())))
    return float(pc.mean(pc.is_in(shapes_of(texts), value_set=shapes).cast(pa.int8())).as_py() or 0.0)


def _renamed(gone: Change, added: Change, why: str) -> Change:
    old, new = str(gone.column), str(added.column)
    return Change(
        "renamed",
        old,
        f"{old!r} is missing and {new!r} is unknown: {why}",
        gone.since,
        gone.first,
        gone.deliveries,
        gone.refused,
        everywhere=gone.everywhere,
        advice=f"take {new!r} as another name of {old!r}",
        edit=lambda text: add_alias(text, old, new),
    )


# --- everything else --------------------------------------------------------------------------


def _propose(spec: TableSpec, change: Change, deliveries: Sequence[Seen]) -> Change:
    makers = {"added": _for_added, "removed": _for_removed, "renamed": _for_renamed, "retyped": _for_retyped}
    maker = makers.get(change.kind)
    advice, edit = maker(spec, change, deliveries) if maker else ("nothing to do: mapped by name", None)
    return replace(change, advice=advice, edit=edit)


def _past(spec: TableSpec, change: Change, deliveries: Sequence[Seen]) -> Change:
    """A column that came and went can be a field of those days; only who asks for it gets that."""
    name, until = str(change.column), change.until
    after = min((d.day for d in deliveries if until and d.day > until), default=None)
    known = {f.column for f in spec.fields}
    if change.kind != "added" or after is None or FieldSpec(name=name).column in known:
        return change
    made, why = infer_field(name, change.profile, style_of_type(spec))
    advice = f"over; --column makes it a field of those days, as {made['type']}: {why}"

    def edit(text: str) -> str:
        return add_version(add_version(text, str(change.since), [made], []), str(after), [], [name])

    return replace(change, advice=advice, edit=edit)


Proposal = tuple[str, Edit | None]


def _for_added(spec: TableSpec, change: Change, deliveries: Sequence[Seen]) -> Proposal:
    name = str(change.column)
    if any(f.name == name for f in spec.layout(change.since).absent):
        advice = f"a field again from {change.since} on, as it was"
        return advice, lambda text: add_version(text, str(change.since), [{"name": name}], [])
    made, why = infer_field(name, change.profile, style_of_type(spec))
    if any(f.column == FieldSpec(name=name).column for f in spec.fields):
        return f"give it a name of its own: the table has a column {name!r} already", None
    older = any(d.day < change.since for d in deliveries)
    if older and change.everywhere:
        advice = f"a new field from {change.since} on, as {made['type']}: {why}"
        return advice, lambda text: add_version(text, str(change.since), [made], [])
    return f"a new field, as {made['type']}: {why}", lambda text: add_field(text, made)


def _for_removed(spec: TableSpec, change: Change, deliveries: Sequence[Seen]) -> Proposal:
    name = str(change.column)
    if name in spec.tableschema.primaryKey:
        return "it belongs to the primaryKey: ask the supplier for it", None
    if not change.everywhere:
        return "other deliveries still have it: ask the supplier, or make the field optional", None
    if not any(d.day < change.since for d in deliveries):
        return "no delivery has had it yet: take the field out of the spec, or ask the supplier", None
    advice = f"no field from {change.since} on; its column stays, with NULL"
    return advice, lambda text: add_version(text, str(change.since), [], [name])


def _for_renamed(spec: TableSpec, change: Change, deliveries: Sequence[Seen]) -> Proposal:
    header = change.profile.get("header")
    if header is None:
        return "declare the name as an alias of the field", None
    return f"take {header!r} as another name of it", lambda text: add_alias(text, str(change.column), header)


def _for_retyped(spec: TableSpec, change: Change, deliveries: Sequence[Seen]) -> Proposal:
    """Another way of writing the same type can be declared for the days since; another type needs a person."""
    name = str(change.column)
    layout = spec.layout(change.since)
    own = next((f for f in layout.spec.fields if name in (f.column, f.name)), None)
    values = change.profile.get("values") or []
    if own is None or not values:
        return "look at the rejects, and declare how its values are written", None
    made, why = infer_field(own.name, change.profile)
    written = {"name": own.name, **{k: v for k, v in made.items() if k in _WRITING}}
    new = _as_changed(own, written)
    if new is None or stored(new) != stored(own) or _share_read(values, new, layout.spec) < 0.95:
        return (
            f"its values look like {made['type']} now ({why}): declare a type that holds both, or ask",
            None,
        )
    advice = f"another way of writing from {change.since} on: {why}"
    return advice, lambda text: add_version(text, str(change.since), [written], [])


_WRITING = ("format", "decimalChar", "groupChar", "bareNumber", "trueValues", "falseValues")


def _as_changed(own: FieldSpec, written: Mapping[str, Any]) -> FieldSpec | None:
    try:
        return changed(own, FieldChange.model_validate(written))
    except ValueError:
        return None
