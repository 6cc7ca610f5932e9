"""How a file is written down: delimiter, quotes, comments, where the header is.

Each dialect worth a try reads a sample of the file with the importer's own
grammar; the one under which the records agree on their number of fields wins.
This happens once, at ``importer infer``; an import never guesses.

What does not belong here: the encoding (``reader/encoding_detection.py``), what tells names from
values (``inference/header_detection.py``), what the columns hold (``inference/column_stats.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from importer_dagster.errors import RefusedError
from importer_dagster.inference.header_detection import has_header, header_rows, looks_like_names
from importer_dagster.reader.decoding import TextSource
from importer_dagster.reader.records import Grammar, count_lines, scan
from importer_dagster.source.unpack import Unpacked
from importer_dagster.spec.fields import TRACE_COLUMNS, Dialect

SAMPLE = 256 << 10  # bytes that dialects are tried on
_DELIMITERS = (",", ";", "\t", "|", "~", "^", "\x01", "\x1f", " ")
_COMMENT_MARKS = ("#", "//", "--", "%", ";", "'")
_FOOTER = re.compile(r"(?i)\W*(?:trl|trailer|total|totals|sum|summe|end|eof|footer|rows?|records?|count)\b")
_RECORDS_TRIED = 2_000


@dataclass(frozen=True)
class Sniffed:
    """What was found: the dialect as a spec has it, the header, and why.

    ``names`` are the columns' names, made up where there is no header;
    ``aliases`` tells under which name a renamed column stands in the header.
    """

    dialect: dict[str, Any]
    names: tuple[str, ...]
    reasons: dict[str, str]
    aliases: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()


@dataclass
class _Trial:
    """One dialect's reading of the sample."""

    dialect: Dialect
    records: list[list[str]]
    lines: list[int]  # physical line of each record, from 1
    width: int  # the usual number of fields
    agree: float  # share of the records that have it
    damaged: int

    @property
    def rank(self) -> tuple[float, float]:
        """Better dialects rank higher: agreement first, then width."""
        return (round(self.agree, 2) if self.width > 1 else 0.0, min(self.width, 3))


@dataclass
class _Findings:
    """What is found of a file, step by step."""

    dialect: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def say(self, key: str, value: Any, reason: str) -> None:
        """The dialect's ``key`` has this value, for that reason."""
        self.dialect[key], self.reasons[key] = value, reason

    def sniffed(self, names: Iterable[str], aliases: dict[str, str] | None = None) -> Sniffed:
        """All that was found, with the columns' names."""
        notes, questions = tuple(self.notes), tuple(self.questions)
        return Sniffed(self.dialect, tuple(names), self.reasons, aliases or {}, notes, questions)


def sniff(url: str, encoding: str, delimiter: str | None = None) -> Sniffed:
    """Find a file's dialect and header; ``delimiter`` is taken as given where there is one.

    Raises RefusedError for what is no CSV, SourceUnavailable for what cannot be read.
    """
    sample, whole = _sample(url, encoding)
    if not sample.strip():
        raise RefusedError(f"{url} is empty: it holds nothing but blanks and line ends.", rule="empty")
    trial = _best(sample, whole, delimiter)
    return _describe(trial, sample, whole, given=delimiter is not None)


def _sample(url: str, encoding: str) -> tuple[bytes, bool]:
    """The first bytes as UTF-8, cut at a line end, and whether that is all there is."""
    file = Unpacked(url)
    try:
        source = TextSource(file, encoding)
        parts, size = [], 0
        while size <= SAMPLE and (part := source.read(SAMPLE)):
            parts.append(part)
            size += len(part)
    finally:
        file.close()
    data = b"".join(parts)
    if size <= SAMPLE:
        return data.rstrip(b"\x1a"), True
    end = max(data.rfind(b"\n"), data.rfind(b"\r"))
    return data[: end + 1] if end > 0 else data, False


# --- which dialect ---------------------------------------------------------------------


def _best(sample: bytes, whole: bool, delimiter: str | None) -> _Trial:
    marks = (delimiter,) if delimiter is not None else tuple(d for d in _DELIMITERS if d.encode() in sample)
    trials = [t for d in marks for t in _trials_of(d, sample, whole)]
    one_column = _try(Dialect(), sample, whole)
    good = [t for t in trials if _credible(t)]
    if not good:
        return max(trials, key=lambda t: t.rank) if delimiter is not None and trials else one_column
    # blanks stand in names, dates and texts: they part columns only where nothing else does
    good = [t for t in good if t.dialect.delimiter != " " and t.agree == 1] or good
    # max takes the first of equals: delimiters stand in order of how usual they are
    return max(good, key=lambda t: t.rank)


def _credible(trial: _Trial) -> bool:
    """Whether a dialect with two or more columns explains the sample well enough."""
    if trial.width < 2:
        return _width_of_most(trial) > 1
    mark = trial.dialect.delimiter
    least = 0.5 if mark in ",;\t|" else 0.9
    if mark == " " and (trial.width < 3 or trial.agree < 1 or len(trial.records) < 3):
        return False
    return trial.agree >= least or _width_of_most(trial) > 1


def _width_of_most(trial: _Trial) -> int:
    """The header's width, where most records have more than one field however they differ."""
    several = sum(len(r) > 1 for r in trial.records)
    usual = trial.dialect.delimiter in ",;\t|"
    return len(trial.records[0]) if usual and trial.records and several > 0.7 * len(trial.records) else 0


def _trials_of(delimiter: str, sample: bytes, whole: bool) -> list[_Trial]:
    """The readings with one delimiter: plain first, others only where there is a sign of them."""
    base: dict[str, Any] = {"delimiter": delimiter}
    if delimiter == " ":
        base["skipInitialSpace"] = True  # runs of blanks are one delimiter
    dialects = [Dialect(**base)]
    mark = re.escape(delimiter.encode())
    edge = rb"(?:^|[\r\n]|" + mark + rb")"
    if b'"' in sample:
        if b'\\"' in sample:
            dialects.append(Dialect(**base, escapeChar="\\"))
        after_blanks = len(re.findall(mark + rb' +"', sample))
        if after_blanks > len(re.findall(mark + rb'"', sample)) and delimiter != " ":
            dialects.append(Dialect(**base, skipInitialSpace=True))
        dialects.append(Dialect(**base, quoteChar=None))
    if re.search(edge + rb"'[^'\r\n]*'(?:$|[\r\n]|" + mark + rb")", sample) and not re.search(
        edge + b'"', sample
    ):
        dialects.append(Dialect(**base, quoteChar="'"))
    trials = [_try(d, sample, whole) for d in dialects]
    plain = trials[0]
    better = [t for t in trials[1:] if _fits_better(t, plain)]
    return [max(better, key=lambda t: t.agree)] if better else [plain]


def _fits_better(trial: _Trial, plain: _Trial) -> bool:
    """Whether a less usual dialect is worth it: it mends what the usual one cannot read."""
    if trial.dialect.quoteChar is None:
        # quotes that mean nothing: the usual reading breaks on many of them, this one on none
        return plain.damaged > 0 and trial.agree == 1 and trial.width > 1 and not _boundary_quotes(trial)
    if trial.dialect.quoteChar == "'":
        return trial.agree >= plain.agree and trial.damaged == 0
    return trial.damaged < plain.damaged and trial.agree >= plain.agree


def _boundary_quotes(trial: _Trial) -> bool:
    return any(len(v) > 1 and v.startswith('"') and v.endswith('"') for r in trial.records for v in r)


def _try(dialect: Dialect, sample: bytes, whole: bool) -> _Trial:
    grammar = Grammar(dialect)
    found = scan(sample, grammar, at_end=True, expected=None)
    records, lines, at, line = [], [], 0, 1
    for start, end in found.sound[:_RECORDS_TRIED]:
        line += count_lines(sample, at, start)
        at = start
        records.append([v.decode("utf-8", "replace") for v, _ in grammar.fields(sample[start:end])])
        lines.append(line)
    if not whole and len(records) > 1 and len(found.sound) <= _RECORDS_TRIED:
        records.pop()  # perhaps cut off in the middle
        lines.pop()
    widths = _widths(records)
    width, count = max(widths.items(), key=lambda w: (w[1], w[0]), default=(1, 0))
    total = len(records) + len(found.damaged)
    return _Trial(dialect, records, lines, width, count / total if total else 0.0, len(found.damaged))


def _widths(records: Sequence[Sequence[str]]) -> Counter[int]:
    """How many records have how many fields; an empty last one may belong to the header's or be one too many."""
    header = _effective(records[0]) if records else 0
    return Counter(header if len(r) == header else _effective(r) for r in records)


def _effective(record: Sequence[str]) -> int:
    """Fields without the empty one that a trailing delimiter makes."""
    return len(record) - (len(record) > 2 and record[-1] == "")


# --- what else the sample tells -----------------------------------------------------------


def _describe(trial: _Trial, sample: bytes, whole: bool, *, given: bool) -> Sniffed:
    found = _Findings()
    _say_dialect(trial, found, given)
    if given and trial.dialect.delimiter.encode() not in sample:
        found.questions.append(
            f"The delimiter as given, {trial.dialect.delimiter!r}, stands nowhere: is it right?"
        )
    if comment := _comment_mark(trial):
        why = f"lines that start with {comment} do not have the fields that the others have"
        found.say("commentChar", comment, why)
        trial = _without_comments(trial, comment, sample, whole)
    start = _header_at(trial)
    if whole and len(trial.records) > start + 2 and _is_footer(trial.records[-1], trial.width):
        found.notes.append(
            f"The last record, {', '.join(trial.records[-1])[:60]!r}, looks like a footer and will be rejected; "
            "`footerRows: 1` in the dialect would skip it in every file."
        )
        trial.records.pop()
        trial.lines.pop()
    return _with_header(trial, start, found)


def _say_dialect(trial: _Trial, found: _Findings, given: bool) -> None:
    d = trial.dialect
    n = len(trial.records) + trial.damaged
    if given:
        found.say("delimiter", d.delimiter, "as given")
    elif trial.width > 1:
        agree = round(trial.agree * n)
        why = f"splits {agree:,} of the first {n:,} records into {trial.width} fields each"
        found.say("delimiter", d.delimiter, why)
    if d.quoteChar is None:
        why = "quotes stand in the middle of values, and records agree only if they mean nothing"
        found.say("quoteChar", None, why)
    elif d.quoteChar == "'":
        found.say("quoteChar", "'", "whole values stand in apostrophes, none in quotes")
    if d.escapeChar:
        found.say("escapeChar", d.escapeChar, 'quotes inside of values are written \\"')
    if d.skipInitialSpace and d.delimiter == " ":
        found.say("skipInitialSpace", True, "runs of blanks are one delimiter")
    elif d.skipInitialSpace:
        found.say("skipInitialSpace", True, "blanks stand between delimiter and quote")


def _without_comments(trial: _Trial, mark: str, sample: bytes, whole: bool) -> _Trial:
    again = _try(trial.dialect.model_copy(update={"commentChar": mark}), sample, whole)
    kept = [i for i, r in enumerate(again.records) if not r[0].startswith(mark)]
    again.records, again.lines = [again.records[i] for i in kept], [again.lines[i] for i in kept]
    again.width = Counter(map(_effective, again.records)).most_common(1)[0][0] if again.records else 1
    return again


def _comment_mark(trial: _Trial) -> str | None:
    """A mark at the start of lines that are no records: their width differs, or prose stands above the header."""
    for mark in _COMMENT_MARKS:
        if mark in (trial.dialect.delimiter, trial.dialect.quoteChar):
            continue
        marked = [r for r in trial.records if r[0].startswith(mark)]
        others = [_effective(r) for r in trial.records if not r[0].startswith(mark)]
        if not marked or not others:
            continue
        usual = Counter(others).most_common(1)[0][0]
        strange = [r for r in marked if _effective(r) != usual]
        prose = (
            mark in ("#", "//") and usual == 1 and trial.records[0][0].startswith((mark + " ", mark + "!"))
        )
        if (strange and 2 * len(marked) < len(trial.records) + 4) or (prose and len(marked) > 1):
            return mark
    return None


def _header_at(trial: _Trial) -> int:
    """Index of the first record that belongs to the table; what is above is preamble."""
    records, width = trial.records, trial.width
    if not records or width < 2:
        return 0
    filled = [sum(bool(c.strip()) for c in r) for r in records]
    narrow = len(records[0]) < width
    if not narrow and (width < 3 or filled[0] > max(1, width // 4)):
        return 0
    first = next((i for i, n in enumerate(filled[:50]) if n > 0.7 * width and len(records[i]) >= width), 0)
    alike = sum(_effective(r) == width for r in records[first:])
    return first if alike > 1 and looks_like_names(records[first]) else 0


def _is_footer(record: Sequence[str], width: int) -> bool:
    return _effective(record) != width and bool(_FOOTER.match(record[0]))


def _with_header(trial: _Trial, start: int, found: _Findings) -> Sniffed:
    records, lines = trial.records[start:], trial.lines[start:]
    if not records:
        return found.sniffed(["column_1"])
    is_header, why = has_header(records)
    if not is_header and start == 0:
        found.say("header", False, f"{why}; the names are made up")
        width = _effective(records[0]) if len(records) > 1 else len(records[0])
        return found.sniffed(f"column_{i + 1}" for i in range(width))
    rows = header_rows(records, trial.width)
    names = [c.strip() for c in records[0]]
    if rows > 1 and names == [c.strip() for c in records[1]]:
        found.say("headerRows", [lines[1]], "the header stands twice; the second counts")
    elif start or rows > 1:
        above = f"{lines[0] - 1} lines stand above the header" if start else ""
        more = f"{rows} lines of names stand above the values" if rows > 1 else ""
        found.say("headerRows", lines[:rows], "; ".join(filter(None, [above, more])))
        names = _join(records[:rows]) if rows > 1 else names
    return _usable(names, found, lines[rows - 1])


def _join(records: Sequence[Sequence[str]]) -> list[str]:
    """Names over several lines, joined as the reader joins them."""
    width = max(map(len, records))
    return [" ".join(r[i].strip() for r in records if i < len(r) and r[i].strip()) for i in range(width)]


def _usable(names: list[str], found: _Findings, last_line: int) -> Sniffed:
    """Names that fields can have; where the header itself cannot serve, it is skipped and made good by position."""
    if names and names[-1] == "":
        names = names[:-1]  # a trailing delimiter
        found.notes.append("The header ends with an empty name; it is taken as absent.")
    fresh, aliases = _distinct(names)
    counts = Counter(names)
    twice = sorted(n for n in counts if n and counts[n] > 1)
    if not twice and counts[""] < 2:
        return found.sniffed(fresh, aliases)
    what = f"the names {', '.join(map(repr, twice))} stand twice" if twice else "several names are empty"
    found.say("header", False, f"in the header {what}, so it is skipped and columns are taken by position")
    found.dialect["headerRows"] = [last_line]
    found.questions.append(
        f"In the header {what}. Columns are named by position; a change of their order will not be noticed. "
        "Ask the supplier for distinct names."
    )
    return found.sniffed(fresh)


def _distinct(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """A name of its own for each column, and of those that had to be renamed the name in the header."""
    fresh: dict[str, None] = {}
    aliases: dict[str, str] = {}
    for i, name in enumerate(names):
        own = wanted = name or f"column_{i + 1}"
        number = 2
        while wanted in fresh or wanted in TRACE_COLUMNS or (wanted != name and wanted in names):
            wanted = f"{own}_{number}"
            number += 1
        if wanted != name:
            aliases[wanted] = name
        fresh[wanted] = None
    return list(fresh), aliases
