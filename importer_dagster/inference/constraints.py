"""The key of a type and the constraints of its columns, as far as the evidence is strong; else a question.

What does not belong here: finding a key among columns (``inference/keys.py``), types (``inference/type_choice.py``).
"""

from __future__ import annotations

import re
from typing import Any

from importer_dagster.inference.column_stats import Column
from importer_dagster.inference.keys import find_key, is_key_name
from importer_dagster.inference.samples import file_batches
from importer_dagster.inference.state import Choice, Work

_REQUIRED_FROM = 1_000  # records without a blank from which a column is required: fewer than 0.3 % at 95 %
_REQUIRED_KEY_FROM = 100  # the same for a column called like a key
_ENUM_ROWS, _ENUM_MOST, _ENUM_EACH = 200, 20, 10  # records, different values, times that each comes
_BOUNDS_FROM = 1_000
_NO_ENUM = re.compile(
    r"(?i)name|city|town|country|state|province|region|street|address|title|descr|comment|note|text|product|customer"
    r"|user|person|email|url|currency|language|culture|locale|unit|file|path|model|brand|supplier|vendor|company"
)

_COUNTS = re.compile(r"(?i)(?:^|[_\s])(?:qty|quantity|count|anzahl|menge)(?:$|[_\s])|quantity$|qty$|count$")


def choose_key(work: Work, type_name: str) -> None:
    """Choose the key of ``work`` among the columns that all files have, or ask about it."""
    everywhere = [c for n, c in work.columns.items() if all(n in f.names for f in work.files)]
    types = {n: str(c.field["type"]) for n, c in work.choices.items()}
    missing = [n for n, c in work.choices.items() if _lacks_values(work.columns[n], c)]
    found = find_key(
        everywhere,
        types,
        missing,
        lambda names: file_batches(work, names),
        type_name=type_name,
        files=len(work.files),
    )
    work.key = found.key
    if found.question:
        work.questions.append(found.question)
    elif work.key is None:
        for column in everywhere:
            _note_near_key(column, work)


def _lacks_values(column: Column, choice: Choice) -> bool:
    tokens = set(choice.field.get("missingValues", ())) & set(column.sentinels)
    return bool(column.missing or column.empty or tokens)


def _note_near_key(column: Column, work: Work) -> None:
    if not is_key_name(column.name) or column.distinct is None or column.missing or column.rows < 20:
        return
    twice = sum(n - 1 for n in column.distinct.values())
    if len(work.files) == 1 and 0 < twice <= 0.01 * column.rows:
        work.notes.append(
            f"{column.name} is unique but for {twice:,} of {column.rows:,} records. As a primaryKey it would reject those."
        )


def constraints_of(name: str, work: Work) -> tuple[dict[str, Any], list[str]]:
    """Constraints for which the evidence is strong, and the reasons."""
    column, choice = work.columns[name], work.choices[name]
    found: dict[str, Any] = {}
    reasons: list[str] = []
    if work.key and name in work.key.fields:
        found["required"] = True
    elif _never_blank(column, work):
        found["required"] = True
        reasons.append(f"required: no blank in {column.rows:,} records")
    kind = choice.field["type"]
    if kind == "string" and "format" not in choice.field and _is_enum(column):
        assert column.distinct is not None
        found["enum"] = sorted(t for t in column.distinct if t)
        reasons.append(f"enum: {len(found['enum'])} values recur in {column.values:,}")
    if kind == "string" and (width := _code_width(column)):
        found["pattern"] = f"[0-9]{{{width}}}"
        reasons.append(f"pattern: all {column.plain:,} are {width} digits")
    negative = any(s.startswith("-") for s in column.shapes or {})
    if (
        kind in ("integer", "number")
        and column.plain >= _BOUNDS_FROM
        and _COUNTS.search(name)
        and not negative
    ):
        found["minimum"] = "0"
        reasons.append(f"minimum: a count, never below 0 in {column.plain:,}")
    return found, reasons


def _never_blank(column: Column, work: Work) -> bool:
    if _lacks_values(column, work.choices[column.name]) or column.rows < work.records:
        return False
    return column.rows >= (_REQUIRED_KEY_FROM if is_key_name(column.name) else _REQUIRED_FROM)


def _is_enum(column: Column) -> bool:
    if column.distinct is None or column.rows < _ENUM_ROWS or _NO_ENUM.search(column.name):
        return False
    texts = [t for t in column.distinct if t]
    return (
        2 <= len(texts) <= _ENUM_MOST
        and column.values >= _ENUM_ROWS
        and column.longest <= 20
        and all(column.distinct[t] >= _ENUM_EACH and _is_word(t) for t in texts)
    )


def _is_word(text: str) -> bool:
    """A word or two, or a code; times and numbers recur too, but say nothing of what comes tomorrow."""
    digits = sum(c.isdigit() for c in text)
    return len(text.split()) <= 2 and digits <= len(text) // 2 and ":" not in text


def _code_width(column: Column) -> int | None:
    """The width of codes of digits that all have one, over many different ones."""
    if column.plain < _BOUNDS_FROM or column.longest != column.shortest or column.sentinels:
        return None
    if column.distinct is not None and len(column.distinct) < 100:
        return None
    digits = column.shapes is not None and all(re.fullmatch("[z9]9*", s) for s in column.shapes)
    return column.longest if digits else None
