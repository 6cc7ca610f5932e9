"""The key of a type and the constraints of its columns, where the values are strong evidence; else a question is asked.

What does not belong here: finding a key among columns (``inference/keys.py``), types (``inference/type_choice.py``).
"""

from __future__ import annotations

import re
from typing import Any

from importer_dagster.inference.column_stats import Column
from importer_dagster.inference.keys import find_key, is_key_name
from importer_dagster.inference.samples import file_batches
from importer_dagster.inference.state import Choice, InferenceState

# Records without a missing value from which a column is required. With 1,000 of them, fewer than 0.3 % of
# all values are missing, at a confidence of 95 %. A column with the name of a key needs fewer.
_REQUIRED_FROM, _REQUIRED_KEY_FROM = 1_000, 100
_ENUM_ROWS, _ENUM_MOST, _ENUM_EACH = 200, 20, 10  # least records, most distinct values, least times of each
_BOUNDS_FROM = 1_000  # values from which a column gets a pattern or a minimum
_NO_ENUM = re.compile(
    r"(?i)name|city|town|country|state|province|region|street|address|title|descr|comment|note|text|product|customer"
    r"|user|person|email|url|currency|language|culture|locale|unit|file|path|model|brand|supplier|vendor|company"
)
_COUNTS = re.compile(r"(?i)(?:^|[_\s])(?:qty|quantity|count|anzahl|menge)(?:$|[_\s])|quantity$|qty$|count$")


def choose_key(state: InferenceState, type_name: str) -> None:
    """Choose the key among the columns that all files have, or ask about it."""
    everywhere = [c for n, c in state.columns.items() if all(n in f.names for f in state.files)]
    types = {n: str(c.field["type"]) for n, c in state.choices.items()}
    missing = [n for n, c in state.choices.items() if _lacks_values(state.columns[n], c)]
    found = find_key(
        everywhere,
        types,
        missing,
        lambda names: file_batches(state, names),
        type_name=type_name,
        files=len(state.files),
    )
    state.key = found.key
    if found.question:
        state.questions.append(found.question)
    elif state.key is None:
        for column in everywhere if len(state.files) == 1 else ():
            if not is_key_name(column.name) or column.distinct is None or column.missing or column.rows < 20:
                continue
            repeats = sum(n - 1 for n in column.distinct.values())
            if 0 < repeats <= 0.01 * column.rows:
                state.notes.append(
                    f"{column.name} is unique but for {repeats:,} of {column.rows:,} records. As a primaryKey it would "
                    "reject those."
                )


def _lacks_values(column: Column, choice: Choice) -> bool:
    """Whether some values are missing: empty, or a text that the field declares as missing."""
    tokens = set(choice.field.get("missingValues", ())) & set(column.sentinels)
    return bool(column.missing or column.empty or tokens)


def constraints_of(name: str, state: InferenceState) -> tuple[dict[str, Any], list[str]]:
    """The constraints of a column for which the evidence is strong, and the reasons."""
    column, choice = state.columns[name], state.choices[name]
    found: dict[str, Any] = {}
    reasons: list[str] = []
    required_from = _REQUIRED_KEY_FROM if is_key_name(name) else _REQUIRED_FROM
    if state.key and name in state.key.fields:
        found["required"] = True
    elif column.rows >= max(required_from, state.records) and not _lacks_values(column, choice):
        found["required"] = True
        reasons.append(f"required: no blank in {column.rows:,} records")
    kind = choice.field["type"]
    if kind == "string" and "format" not in choice.field and _is_enum(column):
        assert column.distinct is not None
        found["enum"] = sorted(t for t in column.distinct if t)
        reasons.append(f"enum: {len(found['enum'])} values recur in {column.values:,}")
    are_many = column.plain >= _BOUNDS_FROM and (column.distinct is None or len(column.distinct) >= 100)
    one_width = column.lengths.longest == column.lengths.shortest and not column.sentinels
    if (
        kind == "string"
        and are_many
        and one_width
        and all(re.fullmatch("[z9]9*", s) for s in column.shapes or [""])
    ):
        found["pattern"] = f"[0-9]{{{column.lengths.longest}}}"
        reasons.append(f"pattern: all {column.plain:,} are {column.lengths.longest} digits")
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


def _is_enum(column: Column) -> bool:
    """Whether a column has few distinct texts, each of them often, and all of them words or codes."""

    def is_word(text: str) -> bool:
        """Times and numbers may recur, too, but others will come tomorrow."""
        digits = sum(c.isdigit() for c in text)
        return len(text.split()) <= 2 and digits <= len(text) // 2 and ":" not in text

    if column.distinct is None or column.rows < _ENUM_ROWS or _NO_ENUM.search(column.name):
        return False
    texts = [t for t in column.distinct if t]
    return (
        2 <= len(texts) <= _ENUM_MOST
        and column.values >= _ENUM_ROWS
        and column.lengths.longest <= 20
        and all(column.distinct[t] >= _ENUM_EACH and is_word(t) for t in texts)
    )
