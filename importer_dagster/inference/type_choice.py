"""Choosing the type of each column: each candidate is tried on every value with the importer's own parser.

Where the values do not decide, a column stays text and a question is asked.

What does not belong here: making candidates (``inference/candidates.py``), constraints and keys
(``inference/constraints.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from importer_dagster.inference import candidates as inference_candidates
from importer_dagster.inference import number_candidates
from importer_dagster.inference.column_stats import SURE_SENTINELS, Column
from importer_dagster.inference.samples import main_file, text_columns
from importer_dagster.inference.state import (
    NOISE,
    NOISE_FROM,
    Candidate,
    Choice,
    InferenceState,
    Order,
    Style,
)
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import parse

# Numbers and dates that often mean a missing value.
_EXTREMES = ("-1", "-9", "-99", "-999", "-9999", "999", "9999", "99999", "999999", "9999999")
_EXTREME_DATES = re.compile(
    r"(?:9999-12-31|31[./-]12[./-]9999|12/31/9999|99991231|1900-01-01|01[./-]01[./-]1900)(?:$|[T ])"
)


@dataclass
class _Trial:
    """A candidate, and the values that it does not read: how many, and up to three examples.

    ``tokens`` are the sentinels that the field would declare as missing values.
    """

    candidate: Candidate
    tokens: tuple[str, ...]
    spec: FieldSpec
    bad: int = 0
    examples: list[str] = field(default_factory=list)

    def judge(self, texts: pa.Array, counts: Any) -> None:
        """Try the candidate on texts; ``counts`` says how often each occurs."""
        _, bad = parse.parse(texts, self.spec, ("", *self.tokens))
        if bad is None:
            return
        self.bad += int(np.asarray(counts)[bad.indexes].sum())
        self.examples = (self.examples + texts.take(pa.array(bad.indexes[:3])).to_pylist())[:3]


def choose_types(state: InferenceState, date_order: Order | None) -> None:
    """Choose a type for every column; ``date_order`` is that of dates such as 03/04/2024, if a person gave it."""
    first = {n: inference_candidates.candidates(c) for n, c in state.columns.items()}
    style = number_candidates.style_of(c for found in first.values() for c in found[:1])
    if style is None and main_file(state).sniffed.dialect.get("delimiter", ",") == ",":
        style = (".", None)  # where commas are the delimiter, 1,234 in quotes is hardly a decimal comma
    found = {n: inference_candidates.candidates(c, style) for n, c in state.columns.items()}
    trials = _try_all(state, found)
    order, why = date_order, "as given by --date-order"
    if order is None:
        in_order: dict[Order, str] = {}  # the order of columns that have days beyond the 12th
        for name, tried in trials.items():
            orders = {t.candidate.order for t in tried if t.candidate.order and not t.bad}
            if len(orders) == 1 and any(t.candidate.order and t.bad for t in tried):
                in_order[orders.pop()] = name
        if len(in_order) == 1:
            (order, name) = in_order.popitem()
            why = f"as in {name}, which has days beyond the 12th"
    for name, column in state.columns.items():
        state.choices[name] = _choose(column, trials[name], order, why, state)
        if style is None and (found_mark := number_candidates.ambiguous_mark(column)):
            mark, example = found_mark
            word = "comma" if mark == "," else "point"
            # the question replaces the note
            state.notes = [n for n in state.notes if not n.startswith(f"{name} is text")]
            state.questions.append(
                f"{name} holds numbers such as {example!r}: is the {word} a decimal {word} or does it group "
                "digits? It is text until you say decimalChar or groupChar."
            )


def _try_all(state: InferenceState, found: Mapping[str, Sequence[Candidate]]) -> dict[str, list[_Trial]]:
    """Try each candidate on every value; columns with too many distinct texts to keep are read again for it."""
    trials: dict[str, list[_Trial]] = {}
    to_read: list[str] = []
    for name, candidates in found.items():
        column = state.columns[name]
        trials[name] = []
        for candidate in candidates:
            # a field of binary floats reads NaN as a value
            reads_nan = candidate.field.get("format") == "double" and "infinit" in candidate.reason
            tokens = tuple(t for t in sorted(column.sentinels) if not (reads_nan and t.casefold() == "nan"))
            spec = FieldSpec.model_validate({"name": name, **candidate.field})
            trials[name].append(_Trial(candidate, tokens, spec))
        if candidates and column.distinct is not None:
            texts = pa.array(column.distinct.keys(), pa.string())
            for trial in trials[name]:
                trial.judge(texts, list(column.distinct.values()))
        elif candidates:
            to_read.append(name)
    for name, texts in text_columns(state, to_read) if to_read else ():
        for trial in trials[name]:
            trial.judge(texts, np.ones(len(texts), np.int64))
    return trials


def _choose(
    column: Column, tried: Sequence[_Trial], order: Order | None, why: str, state: InferenceState
) -> Choice:
    """The first candidate that reads all values, or all but a little damage; else text."""
    good = [t for t in tried if not t.bad]
    if len({t.candidate.order for t in good if t.candidate.order}) == 2:
        return _by_order(column, good, order, why, state)
    if good:
        return _decided(column, good[0], state)
    best = min(tried, key=lambda t: t.bad, default=None)
    if best is None or column.plain < NOISE_FROM or best.candidate.kind == "time":
        return _as_text(column, state)
    other_order = [t for t in tried if t.candidate.order and t.candidate.order != best.candidate.order]
    is_mixed = best.candidate.order and any(t.bad < 0.5 * column.plain for t in other_order)
    if is_mixed or best.bad >= NOISE * column.plain:
        return _as_text(column, state)
    examples = ", ".join(repr(e[:30]) for e in best.examples)
    state.notes.append(
        f"{column.name}: {best.bad:,} of {column.plain:,} values are no {best.candidate.kind}, such as {examples}; "
        "their records will be rejected."
    )
    return _decided(column, best, state)


def _by_order(
    column: Column, good: Sequence[_Trial], order: Order | None, why: str, state: InferenceState
) -> Choice:
    """The choice for dates that can be read with day first and with month first."""
    pattern = str(good[0].candidate.field["format"])
    if order is None and "%d.%m" in " ".join(str(t.candidate.field.get("format")) for t in good):
        order, why = "dmy", "with points the day comes first everywhere"
    if order is None:
        state.questions.append(
            f"{column.name}: day or month first? No value such as {column.samples[0]!r} has a day beyond the 12th. "
            f"It is text until you say so: --date-order dmy or mdy, or a format such as {pattern} in the spec."
        )
        choice = _as_text(column, state)
        choice.reason = f"dates such as {column.samples[0]!r}, but day and month cannot be distinguished: text until you say which comes first"
        return choice
    chosen = next(t for t in good if t.candidate.order == order)
    choice = _decided(column, chosen, state)
    choice.reason += f"; {'day' if order == 'dmy' else 'month'} first, {why}"
    return choice


def _decided(column: Column, trial: _Trial, state: InferenceState) -> Choice:
    """The choice of a candidate, with its sentinels as missing values."""
    seen = dict(trial.candidate.field)
    reason = trial.candidate.reason
    if trial.candidate.order and ";" not in reason:
        reason += f"; {'day' if trial.candidate.order == 'dmy' else 'month'} first, since no other order reads them all"
    if trial.tokens:
        seen["missingValues"] = ["", *trial.tokens]
        counts = ", ".join(f"{t!r} ({column.sentinels[t]:,} times)" for t in trial.tokens)
        reason += f"; {counts} can only mean a missing value here"
    texts = column.distinct if column.distinct and len(column.distinct) >= 3 else {}
    extremes: list[
        str
    ] = []  # values that are valid but may mean a missing value, such as 9999-12-31 and -999
    if trial.candidate.kind in ("date", "datetime"):
        extremes = [t for t in texts if _EXTREME_DATES.match(t)]
    elif trial.candidate.kind in ("integer", "number"):
        negative = [t for t in texts if t.startswith("-")]
        frequent = [t for t in _EXTREMES if texts.get(t, 0) >= max(3, 0.02 * column.plain)]
        extremes = [t for t in frequent if negative == [t] or t.startswith("99")]
        longest_other = max((len(t) for t in texts if t not in extremes), default=0)
        extremes = [t for t in extremes if t.startswith("-") or len(t) > longest_other]
    for text in extremes:
        state.questions.append(
            f"{column.name}: {text!r} comes {texts[text]:,} times; does it mean a missing value? "
            "Then add it to the field's missingValues."
        )
    return Choice(seen, reason, trial.candidate)


def _as_text(column: Column, state: InferenceState) -> Choice:
    """The choice of text, with the reason and what databases write for NULL as missing values."""
    reason, note = inference_candidates.why_text(column)
    if note:
        state.notes.append(note)
    seen: dict[str, Any] = {"type": "string"}
    sure = [t for t in SURE_SENTINELS if t in column.sentinels]
    if sure:
        seen["missingValues"] = ["", *sure]
        reason += f"; {', '.join(map(repr, sure))} is how databases write a missing value"
    return Choice(seen, reason)


# --- one unknown column of a known type -------------------------------------------------------


def infer_field(
    name: str, profile: Mapping[str, Any], style: Style | None = None
) -> tuple[dict[str, Any], str]:
    """A field for a column that the spec does not know, by the values kept in its profile, and the reason.

    ``style`` is how the file's other numbers are written, where that is known.
    """
    values = profile.get("values") or []
    texts = pa.array(values, pa.string())
    column = Column(name)
    column.add(texts, 1 << 20)
    for candidate in inference_candidates.candidates(column, style) if values else ():
        made = {"name": name, **candidate.field}
        _, bad = parse.parse(texts, FieldSpec.model_validate(made), ("",))
        if bad is None:
            return made, candidate.reason
    return {"name": name, "type": "string"}, inference_candidates.why_text(column)[0]


def style_of_type(spec: TableSpec) -> Style | None:
    """How a type's files write decimals: as its other numbers; else by the delimiter."""
    points = {f.decimalChar for f in spec.fields if f.type == "number"}
    if len(points) == 1:
        return points.pop(), None
    return (".", None) if spec.dialect.delimiter == "," else None
