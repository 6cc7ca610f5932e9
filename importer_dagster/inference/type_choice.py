"""The type of each column: proposals, each tried on every value with the importer's own parser.

Where the evidence does not decide, a column stays text and a question says so.

What does not belong here: readings of values (``inference/candidates.py``), constraints and keys (``inference/constraints.py``).
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
from importer_dagster.inference.state import NOISE, NOISE_FROM, Candidate, Choice, Order, Style, Work
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import parse

_EXTREMES = ("-1", "-9", "-99", "-999", "-9999", "999", "9999", "99999", "999999", "9999999")


_LAST_DAYS = re.compile(
    r"(?:9999-12-31|31[./-]12[./-]9999|12/31/9999|99991231|1900-01-01|01[./-]01[./-]1900)(?:$|[T ])"
)


@dataclass
class _Trial:
    """A candidate and the values that it does not read."""

    candidate: Candidate
    tokens: tuple[str, ...]
    spec: FieldSpec
    bad: int = 0
    examples: list[str] = field(default_factory=list)

    def judge(self, texts: pa.Array, counts: Any) -> None:
        _, bad = parse.parse(texts, self.spec, ("", *self.tokens))
        if bad is None:
            return
        self.bad += int(np.asarray(counts)[bad.indexes].sum())
        self.examples = (self.examples + texts.take(pa.array(bad.indexes[:3])).to_pylist())[:3]


def choose_types(work: Work, date_order: Order | None) -> None:
    """Choose a type for every column of ``work``; ``date_order`` is that of dates such as 03/04/2024, if given."""
    first = {n: inference_candidates.candidates(c) for n, c in work.columns.items()}
    style = number_candidates.style_of(c for found in first.values() for c in found[:1])
    style = style or _style_by_delimiter(work)
    found = {n: inference_candidates.candidates(c, style) for n, c in work.columns.items()}
    trials = _try_all(work, found)
    order, why = _file_order(trials, date_order)
    for name, column in work.columns.items():
        work.choices[name] = _choose(column, trials[name], order, why, work)
        if style is None and (found_mark := number_candidates.ambiguous_mark(column)):
            mark, example = found_mark
            word = "comma" if mark == "," else "point"
            work.notes = [
                n for n in work.notes if not n.startswith(f"{name} is text")
            ]  # the question says it
            work.questions.append(
                f"{name} holds numbers such as {example!r}: is the {word} a decimal {word} or does it group "
                "digits? It is text until you say decimalChar or groupChar."
            )


def _style_by_delimiter(work: Work) -> Style | None:
    """Between commas, a quoted 1,234 can hardly be a decimal comma."""
    return (".", None) if main_file(work).sniffed.dialect.get("delimiter", ",") == "," else None


def _try_all(work: Work, found: Mapping[str, Sequence[Candidate]]) -> dict[str, list[_Trial]]:
    """Try each candidate on every value with the importer's own parser."""
    trials: dict[str, list[_Trial]] = {}
    again: list[str] = []
    for name, candidates in found.items():
        column = work.columns[name]
        trials[name] = [
            _Trial(c, _tokens(column, c), FieldSpec.model_validate({"name": name, **c.field}))
            for c in candidates
        ]
        if candidates and column.distinct is not None:
            texts = pa.array(column.distinct.keys(), pa.string())
            for trial in trials[name]:
                trial.judge(texts, list(column.distinct.values()))
        elif candidates:
            again.append(name)
    if again:
        for name, texts in text_columns(work, again):
            for trial in trials[name]:
                trial.judge(texts, np.ones(len(texts), np.int64))
    return trials


def _tokens(column: Column, candidate: Candidate) -> tuple[str, ...]:
    """The sentinels that a column would declare as missing values."""
    infinite = candidate.field.get("format") == "double" and "infinit" in candidate.reason
    return tuple(t for t in sorted(column.sentinels) if not (infinite and t.casefold() == "nan"))


def _file_order(trials: Mapping[str, Sequence[_Trial]], given: Order | None) -> tuple[Order | None, str]:
    """Whether the files write day or month first, by the columns where the days tell."""
    if given is not None:
        return given, "as given by --date-order"
    told: dict[str, str] = {}
    for name, tried in trials.items():
        orders = {t.candidate.order for t in tried if t.candidate.order and not t.bad}
        if len(orders) == 1 and any(t.candidate.order and t.bad for t in tried):
            told[orders.pop() or ""] = name
    if len(told) != 1:
        return None, ""
    (order, name) = told.popitem()
    return ("dmy" if order == "dmy" else "mdy"), f"as in {name}, where days beyond the 12th tell"


def _choose(column: Column, tried: Sequence[_Trial], order: Order | None, why: str, work: Work) -> Choice:
    good = [t for t in tried if not t.bad]
    if len({t.candidate.order for t in good if t.candidate.order}) == 2:
        return _by_order(column, good, order, why, work)
    if good:
        return _decided(column, good[0], work)
    best = min(tried, key=lambda t: t.bad, default=None)
    if best is not None and _is_noise(column, best, tried):
        examples = ", ".join(repr(e[:30]) for e in best.examples)
        work.notes.append(
            f"{column.name}: {best.bad:,} of {column.plain:,} values are no {best.candidate.kind}, such as {examples}; "
            "their records will be rejected."
        )
        return _decided(column, best, work)
    return _as_text(column, work)


def _is_noise(column: Column, best: _Trial, tried: Sequence[_Trial]) -> bool:
    """Whether what cannot be read is damage: very little, and not another way of writing."""
    if column.plain < NOISE_FROM or best.bad >= NOISE * column.plain or best.candidate.kind == "time":
        return False
    other = [t for t in tried if t.candidate.order and t.candidate.order != best.candidate.order]
    return not (best.candidate.order and any(t.bad < 0.5 * column.plain for t in other))


def _by_order(column: Column, good: Sequence[_Trial], order: Order | None, why: str, work: Work) -> Choice:
    """Days and months that could be either way round."""
    pattern = str(good[0].candidate.field["format"])
    if order is None and "%d.%m" in " ".join(str(t.candidate.field.get("format")) for t in good):
        order, why = "dmy", "with points the day comes first everywhere"
    if order is None:
        work.questions.append(
            f"{column.name}: day or month first? No value such as {column.samples[0]!r} has a day beyond the 12th. "
            f"It is text until you say so: --date-order dmy or mdy, or a format such as {pattern} in the spec."
        )
        choice = _as_text(column, work)
        choice.reason = (
            f"dates such as {column.samples[0]!r}, but day and month cannot be told apart: text until asked"
        )
        return choice
    chosen = next(t for t in good if t.candidate.order == order)
    choice = _decided(column, chosen, work)
    choice.reason += f"; {'day' if order == 'dmy' else 'month'} first, {why}"
    return choice


def _decided(column: Column, trial: _Trial, work: Work) -> Choice:
    seen = dict(trial.candidate.field)
    reason = trial.candidate.reason
    if trial.candidate.order and not any(c in reason for c in (";",)):
        reason += f"; {'day' if trial.candidate.order == 'dmy' else 'month'} first, since no other order reads them all"
    if trial.tokens:
        seen["missingValues"] = ["", *trial.tokens]
        counted = ", ".join(f"{t!r} ({column.sentinels[t]:,} times)" for t in trial.tokens)
        reason += f"; {counted} can only mean a missing value here"
    _question_extremes(column, trial, work)
    return Choice(seen, reason, trial.candidate)


def _question_extremes(column: Column, trial: _Trial, work: Work) -> None:
    """Values that are valid but may stand for 'none': said, not decided."""
    if column.distinct is None or len(column.distinct) < 3:
        return
    texts = column.distinct
    if trial.candidate.kind in ("date", "datetime"):
        found = [t for t in texts if _LAST_DAYS.match(t)]
    elif trial.candidate.kind in ("integer", "number"):
        negative = [t for t in texts if t.startswith("-")]
        found = [t for t in _EXTREMES if texts.get(t, 0) >= max(3, 0.02 * column.plain)]
        found = [t for t in found if negative == [t] or t.startswith("99")] if found else []
        usual = max((len(t) for t in texts if t not in found), default=0)
        found = [t for t in found if t.startswith("-") or len(t) > usual]
    else:
        return
    for text in found:
        work.questions.append(
            f"{column.name}: {text!r} comes {texts[text]:,} times; does it stand for 'no value'? "
            "Then add it to the field's missingValues."
        )


def _as_text(column: Column, work: Work) -> Choice:
    reason, note = inference_candidates.why_text(column)
    if note:
        work.notes.append(note)
    seen: dict[str, Any] = {"type": "string"}
    sure = [t for t in SURE_SENTINELS if t in column.sentinels]
    if sure:
        seen["missingValues"] = ["", *sure]
        reason += f"; {', '.join(map(repr, sure))} is how databases write a missing value"
    return Choice(seen, reason)


def infer_field(
    name: str, profile: Mapping[str, Any], style: Style | None = None
) -> tuple[dict[str, Any], str]:
    """A field for an unknown column, by the values that were kept of it, and the reason.

    ``style`` is how the file's other numbers are written, where that is known.
    """
    values = profile.get("values") or []
    column = Column(name)
    column.add(pa.array(values, pa.string()), 1 << 20)
    for candidate in inference_candidates.candidates(column, style) if values else ():
        made = {"name": name, **candidate.field}
        if _all_read(values, FieldSpec.model_validate(made)):
            return made, candidate.reason
    return {"name": name, "type": "string"}, inference_candidates.why_text(column)[0]


def _style(spec: TableSpec) -> Style | None:
    """How the type's files write decimals: as its other numbers, else as goes with the delimiter."""
    points = {f.decimalChar for f in spec.fields if f.type == "number"}
    if len(points) == 1:
        return points.pop(), None
    return (".", None) if spec.dialect.delimiter == "," else None


def _all_read(values: Sequence[str], own: FieldSpec) -> bool:
    return parse.parse(pa.array(values, pa.string()), own, ("",))[1] is None
