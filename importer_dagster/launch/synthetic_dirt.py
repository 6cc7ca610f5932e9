"""Dirt in synthetic files: records that an import has to reject, one by one.

What does not belong here: which files are dirty (``launch/sample_inbox.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal

from importer_dagster.launch.sample_rows import Row, missing_token
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec

Dirt = Literal["unreadable", "missing", "enum", "short"]

_NONSENSE = "?!"  # no number, date, boolean or uuid in any format

DIRT_WORDS: dict[Dirt, str] = {
    "unreadable": "a value that cannot be read",
    "missing": "a required value missing",
    "enum": "a value outside of the enum",
    "short": "a short record",
}


def choose_dirt(spec: TableSpec, rows: int, turn: int) -> list[Dirt]:
    """One or two kinds of dirt, as many as the type's reject_limit bears."""
    kinds: list[Dirt] = [kind for kind in DIRT_WORDS if kind == "short" or _target(spec, kind) is not None]
    if len(spec.fields) < 3:
        kinds = [k for k in kinds if k != "short"]
    if not kinds:
        return []
    chosen = [kinds[turn % len(kinds)], kinds[(turn + 1) % len(kinds)]][: 1 + turn % 2]
    while chosen and (len(chosen) > rows or spec.reject_limit.exceeded(len(chosen), rows)):
        chosen.pop()
    return chosen


def _target(spec: TableSpec, kind: Dirt) -> int | None:
    """The position of the field that such dirt goes into; keys are left alone."""
    key = spec.tableschema.primaryKey
    found = (i for i, f in enumerate(spec.fields) if f.name not in key and _may_bear(spec, f, kind))
    return next(found, None)


def _may_bear(spec: TableSpec, f: FieldSpec, kind: Dirt) -> bool:
    if kind == "missing":
        return f.required and missing_token(spec, f) is not None
    if _NONSENSE in (*spec.missing_values(f), *f.trueValues, *f.falseValues):
        return False
    text = f.type == "string" and f.format != "uuid"
    if kind == "enum":
        return text and bool(f.constraints.enum) and _NONSENSE not in (f.constraints.enum or ())
    return kind == "unreadable" and not text


def soil(spec: TableSpec, rows: list[Row], dirt: Sequence[Dirt], rng: Random) -> list[Row]:
    """``rows`` with one dirty record for each kind in ``dirt``."""
    if not dirt:
        return rows
    rows = list(rows)
    for at, kind in zip(rng.sample(range(len(rows)), len(dirt)), dirt, strict=True):
        if kind == "short":
            rows[at] = rows[at][:-1]
            continue
        i = _target(spec, kind)
        assert i is not None
        token = missing_token(spec, spec.fields[i]) if kind == "missing" else None
        value = _NONSENSE if token is None else token
        rows[at] = (*rows[at][:i], value, *rows[at][i + 1 :])
    return rows
