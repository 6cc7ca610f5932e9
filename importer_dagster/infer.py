"""From files to a spec, once, on a person's desk: :func:`infer`.

All rows of all files are read as text through the importer's own reader. What
the values look like proposes types; each proposal is then tried on every value
with the importer's own parser, and the finished spec is rehearsed on all files.
Every choice carries its reason as a comment in the YAML. Where the evidence
does not decide, a column stays text and a question says so.

What does not belong here: encodings (``charset.py``), dialects (``sniff.py``),
summing up columns (``evidence.py``), readings of values (``kinds.py``), keys
(``keys.py``), YAML (``spec_yaml.py``).
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from importer_dagster import kinds, parse
from importer_dagster.charset import Charset, find_charset
from importer_dagster.drift import fold, map_header
from importer_dagster.errors import ImporterError, RefusedError, UsageError
from importer_dagster.evidence import SURE_SENTINELS, Column, bytes_per_column
from importer_dagster.fields import Dialect, FieldSpec
from importer_dagster.keys import Key, find_key, is_key_name
from importer_dagster.kinds import Candidate, Order, Style
from importer_dagster.model import Delivery
from importer_dagster.reader import MAX_COLUMNS, Reader, open_delivery
from importer_dagster.sniff import Sniffed, sniff
from importer_dagster.spec import TableSpec, parse_spec
from importer_dagster.spec_yaml import Document, to_yaml
from importer_dagster.validate import Validator

_NOISE = 0.01  # share of values that may be damage and not a second way of writing
_NOISE_FROM = 100  # values below which one odd value already says something
_REQUIRED_FROM = 1_000  # records without a blank from which a column is required: fewer than 0.3 % at 95 %
_REQUIRED_KEY_FROM = 100  # the same for a column called like a key
_ENUM_ROWS, _ENUM_MOST, _ENUM_EACH = 200, 20, 10  # records, different values, times that each comes
_BOUNDS_FROM = 1_000
_NO_ENUM = re.compile(
    r"(?i)name|city|town|country|state|province|region|street|address|title|descr|comment|note|text|product|customer"
    r"|user|person|email|url|currency|language|culture|locale|unit|file|path|model|brand|supplier|vendor|company"
)
_COUNTS = re.compile(r"(?i)(?:^|[_\s])(?:qty|quantity|count|anzahl|menge)(?:$|[_\s])|quantity$|qty$|count$")
_DATES_AND_COUNTERS = re.compile(r"[\d._-]*\d[\d._-]*")


@dataclass(frozen=True)
class Inference:
    """A proposed spec.

    ``yaml`` is its text with reasons as comments; ``spec`` is that text parsed.
    ``notes`` tell what a person may want to know, ``questions`` what only a
    person can decide.
    """

    yaml: str
    spec: TableSpec
    notes: list[str]
    questions: list[str]


@dataclass
class _File:
    """One file and how it is written; ``names`` are its columns under the names of the spec."""

    path: str
    charset: Charset
    sniffed: Sniffed
    names: tuple[str, ...] = ()
    records: int = 0


@dataclass
class _Choice:
    """What was decided for one column."""

    field: dict[str, Any]
    reason: str
    candidate: Candidate | None = None


@dataclass
class _Work:
    """What is known so far."""

    files: list[_File]
    columns: dict[str, Column] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    choices: dict[str, _Choice] = field(default_factory=dict)
    key: Key | None = None
    rejects: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    say: Callable[[str], None] = lambda _: None

    @property
    def records(self) -> int:
        return sum(f.records for f in self.files)


def infer(
    files: Sequence[str | Path],
    *,
    name: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    date_order: Literal["dmy", "mdy"] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Inference:
    """Read all of the files, days of one CSV type, and propose a spec for them.

    ``encoding``, ``delimiter`` and ``date_order`` (of dates such as 03/04/2024)
    are taken as given where they are. ``progress`` is told what is being done.
    Raises RefusedError for a file that is no
    CSV or cannot be read as a table, SourceUnavailable for one that cannot be
    reached, UsageError for no files or an impossible name.
    """
    if not files:
        raise UsageError("Name at least one file to infer a spec from.")
    _check_given(encoding, delimiter)
    say = progress or (lambda _: None)
    say("looking at the beginning")
    work = _Work([_look_at(str(f), encoding, delimiter) for f in files])
    work.say = say
    chosen = name_type(files, name)
    _agree(work)
    _name_columns(work)
    _read_all(work)
    say("trying types on all values")
    _choose_types(work, date_order)
    say("looking for a key")
    _choose_key(work, chosen)
    say("rehearsing the import")
    spec, text = _write(work, chosen)
    if _demote(work, spec):
        spec, text = _write(work, chosen)
        _rehearse(work, spec)
    return Inference(text, spec, list(dict.fromkeys(work.notes)), list(dict.fromkeys(work.questions)))


def _check_given(encoding: str | None, delimiter: str | None) -> None:
    """Raise UsageError for an encoding or a delimiter that there cannot be."""
    try:
        "".encode(encoding or "utf-8")
    except LookupError:
        raise UsageError(f"--encoding: {encoding!r} is no encoding that Python knows; try cp1252.") from None
    try:
        Dialect(**({} if delimiter is None else {"delimiter": delimiter}))
    except ValueError:
        raise UsageError(
            f"--delimiter {delimiter!r}: one character or more, no line end and no quote; \\t is a tab."
        ) from None


# --- the files ------------------------------------------------------------------------------


def group_files(files: Sequence[str]) -> list[list[str]]:
    """Files that are deliveries of one type together: called alike but for dates and numbers, with the same columns.

    Files called quite alike (in folders of their own) belong together whatever
    their columns. Groups and files keep their order.
    """
    stems = {f: _stem(Path(f)) for f in files}
    bare = {f: _DATES_AND_COUNTERS.sub("_", s).strip("_") for f, s in stems.items()}
    groups: list[list[str]] = []
    for file in files:
        home = next((g for g in groups if _belongs(file, g[0], stems, bare)), None)
        if home is None:
            groups.append([file])
        else:
            home.append(file)
    return groups


def called_alike(groups: Sequence[Sequence[str]]) -> list[str]:
    """Questions about groups of files that are called alike, but have other columns: one type that changed?"""
    alike: dict[str, list[str]] = {}
    for group in groups:
        stem = _stem(Path(group[0]))
        if bare := _DATES_AND_COUNTERS.sub("_", stem).strip("_"):
            alike.setdefault(bare, []).append(Path(group[0]).name)
    return [
        f"{' and '.join(names[:3])} are called alike, but have other columns: are they days of one type that changed? "
        "Then infer them together under one --name."
        for names in alike.values()
        if len(names) > 1
    ]


def _belongs(file: str, other: str, stems: Mapping[str, str], bare: Mapping[str, str]) -> bool:
    if stems[file] == stems[other]:
        return True
    return bare[file] == bare[other] and _columns_of(file) == _columns_of(other) != frozenset()


@lru_cache(maxsize=1024)
def _columns_of(file: str) -> frozenset[str]:
    """The folded names of a file's header; none where it cannot be read, which ``infer`` says itself."""
    try:
        return frozenset(fold(name) for name in _look_at(file, None, None).sniffed.names)
    except ImporterError:
        return frozenset()


def _stem(file: Path) -> str:
    return re.sub(r"(?i)(?:\.(?:gz|zip|bz2|xz|zst|csv|tsv|txt|tab|psv|dat))+$", "", file.name)


def _look_at(path: str, encoding: str | None, delimiter: str | None) -> _File:
    url = path if "://" in path else Path(path).expanduser().absolute().as_posix()
    charset = Charset(encoding, "as given") if encoding else find_charset(url)
    sniffed = sniff(url, charset.encoding, delimiter)
    _check_width(len(sniffed.names), Path(url).name)
    return _File(url, charset, sniffed)


def name_type(files: Sequence[str | Path], name: str | None = None) -> str:
    """What the files' type is called: ``name``, or the files' stem without what differs between them.

    Raises UsageError for a name that cannot be.
    """
    if name is not None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,54}", name):
            raise UsageError(
                f"--name {name!r}: letters, digits and _ only, no digit first, at most 55 characters."
            )
        return name
    paths = [Path(f) for f in files]
    stems = [_stem(f) for f in paths]
    stem = stems[0]
    if len(set(stems)) > 1:
        bare = {_DATES_AND_COUNTERS.sub("_", s).strip("_") for s in stems}
        shared = re.sub(r"[\d_.-]+$", "", _common_start(stems))
        stem = bare.pop() if len(bare) == 1 else shared
        stem = stem or paths[0].absolute().parent.name
    word = re.sub(r"[^a-z0-9]+", "_", stem.casefold()).strip("_")
    word = f"t_{word}" if not word or word[0].isdigit() else word
    return word[:55].rstrip("_") or "t"


def _common_start(words: Sequence[str]) -> str:
    first, last = min(words), max(words)
    same = next((i for i, c in enumerate(first) if i >= len(last) or last[i] != c), len(first))
    return first[:same]


def _agree(work: _Work) -> None:
    """Note what differs between the files; a spec has one encoding and one dialect."""
    for file in work.files:
        label = f"{Path(file.path).name}: " if len(work.files) > 1 else ""
        work.notes += [f"{label}{n}" for n in file.sniffed.notes]
        work.questions += [f"{label}{q}" for q in file.sniffed.questions]
        if file.charset.question:
            work.questions.append(f"{label}{file.charset.question}")
    encodings = Counter(f.charset.encoding for f in work.files if not f.charset.ascii)
    if len(encodings) > 1:
        listed = ", ".join(f"{name} ({n} files)" for name, n in encodings.most_common())
        work.questions.append(
            f"The files are in different encodings: {listed}. A type has one; the first is taken."
        )
    dialects = Counter(str(_comparable(f)) for f in work.files)
    if len(dialects) > 1:
        work.questions.append(
            f"The files are written in {len(dialects)} different dialects: {'; '.join(dialects)}. "
            "A type has one; that of most files is taken."
        )


def _comparable(file: _File) -> dict[str, Any]:
    # a file with one column shows no delimiter
    return {k: v for k, v in file.sniffed.dialect.items() if k != "delimiter" or len(file.sniffed.names) > 1}


def _main_file(work: _Work) -> _File:
    """The file whose dialect stands for all."""
    usual = Counter(str(_comparable(f)) for f in work.files).most_common(1)[0][0]
    return next(f for f in work.files if str(_comparable(f)) == usual)


def _main_charset(work: _Work) -> Charset:
    telling = [f.charset for f in work.files if not f.charset.ascii] or [f.charset for f in work.files]
    usual = Counter(c.encoding for c in telling).most_common(1)[0][0]
    return next(c for c in telling if c.encoding == usual)


# --- the columns ----------------------------------------------------------------------------


def _name_columns(work: _Work) -> None:
    """Give each file's columns the names that the spec will have; the newest spelling counts."""
    spelled: dict[str, str] = {}
    for file in work.files:
        spelled |= {key: name for name, key in _folded_names(file).items()}
    seen: dict[str, dict[str, None]] = {}
    for file in work.files:
        names: dict[str, None] = {}
        for name, key in _folded_names(file).items():
            final = spelled[key] if spelled[key] not in names else name
            names[final] = None
            spellings = seen.setdefault(final, {})
            header = file.sniffed.aliases.get(name, name)
            if header != final:
                spellings[header] = None
        file.names = tuple(names)
    work.aliases = {name: list(others) for name, others in seen.items() if others}
    # a spelling that is some other column's name is no alias
    taken = set(seen)
    for name, others in list(work.aliases.items()):
        work.aliases[name] = [o for o in others if o not in taken]
    _check_width(len(seen), "all files together")
    _note_differences(work, list(seen))


def _check_width(columns: int, where: str) -> None:
    if columns > MAX_COLUMNS:
        raise RefusedError(
            f"There are {columns:,} columns in {where}; a PostgreSQL table can have 1,600, trace columns included. "
            "Split the file, or ask for fewer columns.",
            rule="header.wide",
        )


def _folded_names(file: _File) -> dict[str, str]:
    """Each name folded; names that fold alike are one column, unless one file has both."""
    folded = {name: fold(name) for name in file.sniffed.names}
    counts = Counter(folded.values())
    return {name: f if f and counts[f] == 1 else name for name, f in folded.items()}


def _note_differences(work: _Work, names: Sequence[str]) -> None:
    if len(work.files) == 1:
        return
    for name, others in work.aliases.items():
        if others:
            work.notes.append(
                f"{name} comes as {', '.join(map(repr, others))} in some files; given as aliases."
            )
    has = {n: [n in f.names for f in work.files] for n in names}
    partial = [n for n in names if not all(has[n])]
    for name in partial:
        first = next(i for i, there in enumerate(has[name]) if there)
        work.notes.append(
            f"{name} is in {sum(has[name])} of {len(work.files)} files, first in {Path(work.files[first].path).name}; "
            "it is optional."
        )
    for i, a in enumerate(partial):
        for b in partial[i + 1 :]:
            apart = not any(x and y for x, y in zip(has[a], has[b], strict=True))
            alike = difflib.SequenceMatcher(None, fold(a), fold(b)).ratio() >= 0.6 or fold(a).startswith(
                fold(b)[:3]
            )
            if apart and alike:
                work.questions.append(
                    f"{a} and {b} never come together and are called alike: is it one column that was renamed? "
                    "Then make one field of them, the old name in its aliases."
                )


def _text_spec(file: _File) -> TableSpec:
    """A spec that reads a file's columns as text, just as they stand."""
    fields = []
    for name in file.sniffed.names:
        alias = file.sniffed.aliases.get(name)
        fields.append({"name": name, **({"aliases": [alias]} if alias is not None else {})})
    return TableSpec.model_validate(
        {
            "name": "t",
            "encoding": file.charset.encoding,
            "dialect": file.sniffed.dialect,
            "schema": {"fields": fields},
        }
    )


def _open(file: _File, spec: TableSpec) -> Reader:
    delivery = Delivery("t", "", date.today(), file.path, file.path, has_tenant=False)
    return open_delivery(delivery, spec)


def _read_all(work: _Work) -> None:
    """Sum up all cells of all files."""
    for name in dict.fromkeys(n for f in work.files for n in f.names):
        work.columns[name] = Column(name)
    most_bytes = bytes_per_column(list(work.columns))
    for file in work.files:
        with _open(file, _text_spec(file)) as reader:
            names = file.names[: len(reader.header)]
            for batch in reader.batches():
                file.records += len(batch.rows)
                work.say(f"{work.records:,} records read")
                for position, name in enumerate(names):
                    work.columns[name].add(batch.columns.column(str(position)), most_bytes)
                for rule in batch.rejects["rule"].to_pylist():
                    work.rejects[rule] += 1
            label = f"{Path(file.path).name}: " if len(work.files) > 1 else ""
            # what is odd about the header is noted already
            work.notes += [f"{label}{w}." for w in reader.warnings if not w.startswith("the header")]
        for name in names:
            work.columns[name].end_of_file()
    if not work.records:
        work.notes.append("There is no sound record, so nothing is known of types: all columns are text.")
    if work.rejects:
        listed = ", ".join(f"{n:,} × {rule}" for rule, n in work.rejects.most_common())
        total = sum(work.rejects.values())
        damaged = "1 record is" if total == 1 else f"{total:,} records are"
        work.notes.append(f"{damaged} damaged and will be rejected: {listed}.")


def _texts(work: _Work, wanted: Sequence[str]) -> Iterator[tuple[str, pa.Array]]:
    """Some columns of all files once more, batch by batch."""
    for file in work.files:
        places = [(i, n) for i, n in enumerate(file.names) if n in wanted]
        if not places:
            continue
        with _open(file, _text_spec(file)) as reader:
            reader.select([i for i, _ in places])
            for batch in reader.batches():
                for i, name in places:
                    yield name, batch.columns.column(str(i))


def _file_batches(work: _Work, wanted: Sequence[str]) -> Iterator[Iterator[Mapping[str, pa.Array]]]:
    """The same, file by file and all columns of a batch together."""
    for file in work.files:
        if set(wanted) <= set(file.names):
            yield _one_file(file, wanted)


def _one_file(file: _File, wanted: Sequence[str]) -> Iterator[Mapping[str, pa.Array]]:
    places = {n: file.names.index(n) for n in wanted}
    with _open(file, _text_spec(file)) as reader:
        reader.select(sorted(places.values()))
        for batch in reader.batches():
            yield {n: batch.columns.column(str(i)) for n, i in places.items()}


# --- types ----------------------------------------------------------------------------------


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


def _choose_types(work: _Work, date_order: Order | None) -> None:
    first = {n: kinds.candidates(c) for n, c in work.columns.items()}
    style = kinds.style_of(c for found in first.values() for c in found[:1])
    style = style or _style_by_delimiter(work)
    found = {n: kinds.candidates(c, style) for n, c in work.columns.items()}
    trials = _try_all(work, found)
    order, why = _file_order(trials, date_order)
    for name, column in work.columns.items():
        work.choices[name] = _choose(column, trials[name], order, why, work)
        if style is None and (found_mark := kinds.ambiguous_mark(column)):
            mark, example = found_mark
            word = "comma" if mark == "," else "point"
            work.notes = [
                n for n in work.notes if not n.startswith(f"{name} is text")
            ]  # the question says it
            work.questions.append(
                f"{name} holds numbers such as {example!r}: is the {word} a decimal {word} or does it group "
                "digits? It is text until you say decimalChar or groupChar."
            )


def _style_by_delimiter(work: _Work) -> Style | None:
    """Between commas, a quoted 1,234 can hardly be a decimal comma."""
    return (".", None) if _main_file(work).sniffed.dialect.get("delimiter", ",") == "," else None


def _try_all(work: _Work, found: Mapping[str, Sequence[Candidate]]) -> dict[str, list[_Trial]]:
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
        for name, texts in _texts(work, again):
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


def _choose(column: Column, tried: Sequence[_Trial], order: Order | None, why: str, work: _Work) -> _Choice:
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
    if column.plain < _NOISE_FROM or best.bad >= _NOISE * column.plain or best.candidate.kind == "time":
        return False
    other = [t for t in tried if t.candidate.order and t.candidate.order != best.candidate.order]
    return not (best.candidate.order and any(t.bad < 0.5 * column.plain for t in other))


def _by_order(column: Column, good: Sequence[_Trial], order: Order | None, why: str, work: _Work) -> _Choice:
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


def _decided(column: Column, trial: _Trial, work: _Work) -> _Choice:
    seen = dict(trial.candidate.field)
    reason = trial.candidate.reason
    if trial.candidate.order and not any(c in reason for c in (";",)):
        reason += f"; {'day' if trial.candidate.order == 'dmy' else 'month'} first, since no other order reads them all"
    if trial.tokens:
        seen["missingValues"] = ["", *trial.tokens]
        counted = ", ".join(f"{t!r} ({column.sentinels[t]:,} times)" for t in trial.tokens)
        reason += f"; {counted} can only mean a missing value here"
    _question_extremes(column, trial, work)
    return _Choice(seen, reason, trial.candidate)


_EXTREMES = ("-1", "-9", "-99", "-999", "-9999", "999", "9999", "99999", "999999", "9999999")
_LAST_DAYS = re.compile(
    r"(?:9999-12-31|31[./-]12[./-]9999|12/31/9999|99991231|1900-01-01|01[./-]01[./-]1900)(?:$|[T ])"
)


def _question_extremes(column: Column, trial: _Trial, work: _Work) -> None:
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


def _as_text(column: Column, work: _Work) -> _Choice:
    reason, note = kinds.why_text(column)
    if note:
        work.notes.append(note)
    seen: dict[str, Any] = {"type": "string"}
    sure = [t for t in SURE_SENTINELS if t in column.sentinels]
    if sure:
        seen["missingValues"] = ["", *sure]
        reason += f"; {', '.join(map(repr, sure))} is how databases write a missing value"
    return _Choice(seen, reason)


# --- constraints and keys -------------------------------------------------------------------


def _choose_key(work: _Work, type_name: str) -> None:
    everywhere = [c for n, c in work.columns.items() if all(n in f.names for f in work.files)]
    types = {n: str(c.field["type"]) for n, c in work.choices.items()}
    missing = [n for n, c in work.choices.items() if _lacks_values(work.columns[n], c)]
    found = find_key(
        everywhere,
        types,
        missing,
        lambda names: _file_batches(work, names),
        type_name=type_name,
        files=len(work.files),
    )
    work.key = found.key
    if found.question:
        work.questions.append(found.question)
    elif work.key is None:
        for column in everywhere:
            _note_near_key(column, work)


def _lacks_values(column: Column, choice: _Choice) -> bool:
    tokens = set(choice.field.get("missingValues", ())) & set(column.sentinels)
    return bool(column.missing or column.empty or tokens)


def _note_near_key(column: Column, work: _Work) -> None:
    if not is_key_name(column.name) or column.distinct is None or column.missing or column.rows < 20:
        return
    twice = sum(n - 1 for n in column.distinct.values())
    if len(work.files) == 1 and 0 < twice <= 0.01 * column.rows:
        work.notes.append(
            f"{column.name} is unique but for {twice:,} of {column.rows:,} records. As a primaryKey it would reject those."
        )


def _constraints(name: str, work: _Work) -> tuple[dict[str, Any], list[str]]:
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


def _never_blank(column: Column, work: _Work) -> bool:
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


# --- the spec -------------------------------------------------------------------------------


def _write(work: _Work, name: str) -> tuple[TableSpec, str]:
    charset, main = _main_charset(work), _main_file(work)
    fields, comments = [], []
    for column in work.columns:
        item, comment = _field(column, work)
        fields.append(item)
        comments.append(comment)
    data: dict[str, Any] = {"name": name}
    reasons = {"encoding": charset.reason}
    pattern = _path(work)
    if pattern:
        data["path"] = pattern
        reasons["path"] = "the files do not end in .csv"
    data["encoding"] = "utf-8" if charset.encoding == "utf-8-sig" else charset.encoding
    data["dialect"] = {"delimiter": ",", **main.sniffed.dialect}
    reasons["dialect"] = "; ".join(f"{k}: {v}" for k, v in main.sniffed.reasons.items()) or "the usual one"
    schema: dict[str, Any] = {"fields": fields}
    if work.key:
        schema["primaryKey"] = list(work.key.fields)
        reasons["primaryKey"] = work.key.reason
    schema["missingValues"] = [""]
    reasons["missingValues"] = "empty without quotes; quoted empty text stays text"
    data["schema"] = schema
    data["write_disposition"], reasons["write_disposition"] = _disposition(work)
    listed = ", ".join(Path(f.path).name for f in work.files[:3]) + (" …" if len(work.files) > 3 else "")
    head = [
        f"Proposed by `importer infer` from {work.records:,} records of {listed}.",
        "The reason for each choice stands with it; change what you know better.",
    ]
    head += [f"QUESTION: {q}" for q in dict.fromkeys(work.questions)]
    head += [f"NOTE: {n}" for n in dict.fromkeys(work.notes)]
    text = to_yaml(Document(data, tuple(head), reasons, tuple(comments)))
    return parse_spec(text, f"{name}.yaml"), text


def _field(name: str, work: _Work) -> tuple[dict[str, Any], str]:
    choice = work.choices[name]
    constraints, reasons = _constraints(name, work)
    item = {"name": name, **choice.field}
    if constraints:
        item["constraints"] = constraints
    if work.aliases.get(name):
        item["aliases"] = work.aliases[name]
    partial = sum(name in f.names for f in work.files)
    if partial < len(work.files):
        reasons.append(f"in {partial} of {len(work.files)} files")
    return item, "; ".join([choice.reason, *reasons])


def _path(work: _Work) -> str | None:
    endings = {re.sub(r"(?i)\.(?:gz|zip|bz2|xz|zst)$", "", f.path).rpartition(".")[2] for f in work.files}
    if len(endings) != 1:
        return None
    ending = endings.pop()
    return (
        None
        if ending == "csv" or not re.fullmatch(r"\w{1,5}", ending)
        else f"{{date}}/{{tenant}}/{{type}}*.{ending}"
    )


def _disposition(work: _Work) -> tuple[str, str]:
    key = work.key
    if key is None:
        return "append", "no key is certain, so every file's rows stand; a re-sent file replaces its own rows"
    if key.sure and len(work.files) == 1:
        return (
            "merge",
            "there is a key: a row that comes again replaces the older one; append would keep every day's",
        )
    if key.sure and key.recurs > 0:
        return "merge", f"{key.recurs:.0%} of the keys come again in a later file and replace the older row"
    if key.recurs > 0 or len(work.files) > 1:
        return "append", "keeps every day's rows; merge would keep only the newest row of each key"
    return "append", "loses nothing; choose merge if rows that come again should replace the older ones"


# --- the proof ------------------------------------------------------------------------------


def _rehearse(work: _Work, spec: TableSpec) -> Counter[str]:
    """Judge all files by the spec as an import would; the rejects of each column."""
    rejected: Counter[str] = Counter()
    for file in work.files:
        with _open(file, spec) as reader:
            sources = map_header(reader.header, spec).sources
            validator = Validator(
                spec, {f.name: str(sources[f.name]) if f.name in sources else None for f in spec.fields}
            )
            reader.select(sorted(set(sources.values())))
            for batch in reader.batches():
                _, _, failures = validator(batch.columns)
                rejected.update({str(f.column): len(f.indexes) for f in failures})
    return rejected


def _demote(work: _Work, spec: TableSpec) -> bool:
    """Make text of columns that reject more than was foreseen; whether there were any.

    This should not happen, since each choice was tried on all values. It is the
    promise to the user that counts, not the cleverness before it.
    """
    try:
        rejected = _rehearse(work, spec)
    except RefusedError as error:
        work.questions.append(f"The spec refuses one of the files: {error}")
        return True
    names = {f.column: f.name for f in spec.fields}
    again = False
    for column, count in rejected.items():
        name = names.get(column)
        if name is None:
            continue
        summary = work.columns[name]
        if count > max(_NOISE * summary.plain, 0) or summary.plain < _NOISE_FROM:
            work.choices[name] = _Choice(
                {"type": "string"},
                f"text: as {work.choices[name].field['type']}, {count:,} values would be rejected",
            )
            again = True
    return again
