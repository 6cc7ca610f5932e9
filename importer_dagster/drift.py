"""A delivery's header against its spec: a mapping of columns, or a refusal.

Columns are matched by name, whatever their order: first exactly, then by a
declared alias, then with case and spacing folded where that leaves no doubt.

What does not belong here: reading the header (``reader.py``), changing tables
(``writer.py``).
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence

from importer_dagster.errors import RefusedError
from importer_dagster.fields import FieldSpec
from importer_dagster.model import ColumnMapping, DriftEvent
from importer_dagster.spec import TableSpec


def fold(name: str) -> str:
    """The name without case, spacing and punctuation, for a lenient comparison."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def map_header(header: Sequence[str], spec: TableSpec) -> ColumnMapping:
    """Decide which column feeds which field.

    Raises RefusedError (rules ``drift.removed``, ``drift.added``,
    ``drift.reordered``, ``header.ambiguous``) where the type's
    ``schema_contract`` says so or a required column is missing.
    """
    sources, events = _match(header, spec)
    extras = [i for i in range(len(header)) if i not in sources.values()]
    missing = [f for f in spec.fields if f.name not in sources]
    _check_removed(missing, extras, header, spec)
    _check_added(extras, header, spec)
    events += [DriftEvent("removed", f.name, "the header lacks this column; NULL is loaded") for f in missing]
    events += [_added_event(header[i], spec) for i in extras]
    events += _check_order(sources, spec)
    kept = tuple(extras) if spec.schema_contract.added in ("rescue", "evolve") else ()
    return ColumnMapping(sources, kept, tuple(events))


def _match(header: Sequence[str], spec: TableSpec) -> tuple[dict[str, int], list[DriftEvent]]:
    positions = {name: i for i, name in enumerate(header)}
    sources: dict[str, int] = {}
    events: list[DriftEvent] = []
    for field in spec.fields:
        name = next((n for n in (field.name, *field.aliases) if n in positions), None)
        if name is not None:
            sources[field.name] = positions[name]
            if name != field.name:
                events.append(DriftEvent("renamed", field.name, f"comes under the alias {name!r}"))
    _match_folded(header, spec, sources, events)
    return sources, events


def _match_folded(
    header: Sequence[str], spec: TableSpec, sources: dict[str, int], events: list[DriftEvent]
) -> None:
    """Match what is left, case and spacing folded; two candidates are no match but a refusal."""
    taken = set(sources.values())
    folded: dict[str, list[int]] = {}
    for i, name in enumerate(header):
        if i not in taken:
            folded.setdefault(fold(name), []).append(i)
    for field in spec.fields:
        if field.name in sources:
            continue
        keys = {fold(n) for n in (field.name, *field.aliases)} - {""}
        candidates = sorted(i for key in keys for i in folded.get(key, []))
        if len(candidates) > 1:
            names = ", ".join(repr(header[i]) for i in candidates)
            raise RefusedError(
                f"The columns {names} could all be the field {field.name!r}; name one of them exactly, "
                "or give the field an alias.",
                rule="header.ambiguous",
                line=1,
                column=field.name,
            )
        if candidates:
            sources[field.name] = candidates[0]
            found = header[candidates[0]]
            events.append(
                DriftEvent("renamed", field.name, f"comes as {found!r}: same but for case or spacing")
            )


def _check_removed(
    missing: Sequence[FieldSpec], extras: Sequence[int], header: Sequence[str], spec: TableSpec
) -> None:
    needed = {*spec.tableschema.primaryKey}
    for field in missing:
        must = field.required or field.name in needed
        if not must and spec.schema_contract.removed != "freeze":
            continue
        why = "a required column" if must else "a column that schema_contract.removed: freeze protects"
        hint = _rename_hint(field.name, [header[i] for i in extras])
        raise RefusedError(
            f"The header lacks {field.name!r}, {why} of type {spec.name}.{hint} "
            "Ask the supplier for it, or change the spec.",
            rule="drift.removed",
            line=1,
            column=field.name,
        )


def _rename_hint(name: str, unknown: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, unknown, n=1, cutoff=0.4) or (unknown if len(unknown) == 1 else [])
    if not near:
        return ""
    return f" The unknown column {near[0]!r} may be the same under a new name: then add it to the field's aliases."


def _check_added(extras: Sequence[int], header: Sequence[str], spec: TableSpec) -> None:
    if extras and spec.schema_contract.added == "freeze":
        names = ", ".join(repr(header[i]) for i in extras)
        raise RefusedError(
            f"The header has columns that type {spec.name} does not know: {names}; schema_contract.added is "
            "freeze. Add them to the spec, or choose rescue, discard or evolve.",
            rule="drift.added",
            line=1,
            column=header[extras[0]],
        )


def _added_event(name: str, spec: TableSpec) -> DriftEvent:
    what = "left out" if spec.schema_contract.added == "discard" else "kept in _extra"
    return DriftEvent("added", name, f"a column that the spec does not know; {what}")


def _check_order(sources: dict[str, int], spec: TableSpec) -> list[DriftEvent]:
    order = [f.name for f in spec.fields if f.name in sources]
    found = sorted(order, key=sources.__getitem__)
    if found == order:
        return []
    first = next(b for a, b in zip(order, found, strict=True) if a != b)
    if spec.schema_contract.reordered == "freeze":
        raise RefusedError(
            f"The columns of type {spec.name} come in another order, from {first!r} on; "
            "schema_contract.reordered is freeze.",
            rule="drift.reordered",
            line=1,
            column=first,
        )
    return [
        DriftEvent("reordered", None, f"columns come in another order, from {first!r} on; mapped by name")
    ]
