"""How a file is written: delimiter, quotes, comments, and where the header is.

Each dialect that is worth a try reads a sample of the file with the importer's own
grammar. The one under which most records have the same number of fields is chosen.
Only ``importer infer`` does this; an import never guesses.

What does not belong here: the encoding (``reader/encoding_detection.py``), telling names from
values (``inference/header_detection.py``), the values of the columns (``inference/column_stats.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from importer_dagster.errors import RefusedError
from importer_dagster.inference.header_detection import has_header, header_rows, looks_like_names
from importer_dagster.reader.decoding import TextSource
from importer_dagster.reader.records import Grammar, count_lines, scan
from importer_dagster.source.unpack import Unpacked
from importer_dagster.spec.fields import TRACE_COLUMNS, Dialect

SAMPLE = 256 << 10  # bytes that dialects are tried on
_RECORDS_TRIED = 2_000
_DELIMITERS = (",", ";", "\t", "|", "~", "^", "\x01", "\x1f", " ")  # the most usual first
_USUAL_DELIMITERS = ",;\t|"
_COMMENT_MARKS = ("#", "//", "--", "%", ";", "'")
_FOOTER = re.compile(r"(?i)\W*(?:trl|trailer|total|totals|sum|summe|end|eof|footer|rows?|records?|count)\b")


@dataclass(frozen=True)
class Sniffed:
    """What was found of a file: its dialect in the words of a spec, the header, and the reasons.

    ``names`` are the columns' names, made up where there is no header;
    ``aliases`` has the name in the header of each column that was renamed.
    """

    dialect: dict[str, Any]
    names: tuple[str, ...]
    reasons: dict[str, str]
    aliases: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()


@dataclass
class _Trial:
    """The sample as one dialect reads it."""

    dialect: Dialect
    records: list[list[str]]
    lines: list[int]  # line of the sample on which each record begins, from 1
    width: int  # the number of fields that most records have
    agree: float  # share of the records that have it
    damaged: int

    @property
    def rank(self) -> tuple[float, float]:
        """Better dialects rank higher: by the share of records that agree, then by width."""
        return (round(self.agree, 2) if self.width > 1 else 0.0, min(self.width, 3))

    @property
    def is_credible(self) -> bool:
        """Whether the dialect makes two or more columns and enough records agree on their number."""
        delimiter = self.dialect.delimiter
        is_usual = delimiter in _USUAL_DELIMITERS
        several = sum(len(r) > 1 for r in self.records)
        # most records have more than one field, however their numbers differ, and so has the header
        splits_most = is_usual and several > 0.7 * len(self.records) and len(self.records[0]) > 1
        if self.width < 2:
            return splits_most
        if delimiter == " " and (self.width < 3 or self.agree < 1 or len(self.records) < 3):
            return False
        return self.agree >= (0.5 if is_usual else 0.9) or splits_most

    def comment_mark(self) -> str | None:
        """The mark that begins lines which are no records: their width differs, or they are prose above the header."""
        for mark in _COMMENT_MARKS:
            if mark in (self.dialect.delimiter, self.dialect.quoteChar):
                continue
            marked = [r for r in self.records if r[0].startswith(mark)]
            others = [_fields_in(r) for r in self.records if not r[0].startswith(mark)]
            if not marked or not others:
                continue
            usual = Counter(others).most_common(1)[0][0]
            of_other_width = [r for r in marked if _fields_in(r) != usual]
            starts_with_prose = self.records[0][0].startswith((mark + " ", mark + "!"))
            is_prose = mark in ("#", "//") and usual == 1 and starts_with_prose
            if (of_other_width and 2 * len(marked) < len(self.records) + 4) or (is_prose and len(marked) > 1):
                return mark
        return None

    def table_start(self) -> int:
        """Index of the first record that belongs to the table; the records above it are preamble."""
        if not self.records or self.width < 2:
            return 0
        filled = [sum(bool(c.strip()) for c in r) for r in self.records]
        narrow = len(self.records[0]) < self.width
        if not narrow and (self.width < 3 or filled[0] > max(1, self.width // 4)):
            return 0
        full = (
            i
            for i, n in enumerate(filled[:50])
            if n > 0.7 * self.width and len(self.records[i]) >= self.width
        )
        first = next(full, 0)
        alike = sum(_fields_in(r) == self.width for r in self.records[first:])
        return first if alike > 1 and looks_like_names(self.records[first]) else 0


@dataclass
class _Findings:
    """What is found of a file, collected step by step."""

    dialect: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def decide(self, key: str, value: Any, reason: str) -> None:
        """Give the dialect's ``key`` this value, for this reason."""
        self.dialect[key], self.reasons[key] = value, reason

    def decide_delimiter_and_quotes(self, trial: _Trial, *, given: bool) -> None:
        """Take delimiter, quotes and escapes from the chosen trial; ``given`` says that a person named the delimiter."""
        d = trial.dialect
        records = len(trial.records) + trial.damaged
        if given:
            self.decide("delimiter", d.delimiter, "as given")
        elif trial.width > 1:
            agree = round(trial.agree * records)
            why = f"splits {agree:,} of the first {records:,} records into {trial.width} fields each"
            self.decide("delimiter", d.delimiter, why)
        if d.quoteChar is None:
            why = "quotes are in the middle of values, and records agree only if quotes have no meaning"
            self.decide("quoteChar", None, why)
        elif d.quoteChar == "'":
            self.decide("quoteChar", "'", "values are enclosed in apostrophes, none in quotes")
        if d.escapeChar:
            self.decide("escapeChar", d.escapeChar, 'quotes inside of values are written \\"')
        if d.skipInitialSpace and d.delimiter == " ":
            self.decide("skipInitialSpace", True, "runs of blanks are one delimiter")
        elif d.skipInitialSpace:
            self.decide("skipInitialSpace", True, "there are blanks between delimiter and quote")

    def sniffed(self, names: Iterable[str], aliases: dict[str, str] | None = None) -> Sniffed:
        """All that was found, with the columns' names."""
        notes, questions = tuple(self.notes), tuple(self.questions)
        return Sniffed(self.dialect, tuple(names), self.reasons, aliases or {}, notes, questions)

    def sniffed_by_header(self, names: Sequence[str], header_line: int) -> Sniffed:
        """All that was found, with names that fields can have.

        Empty and repeated names get a number. A header with repeated or several empty
        names cannot be mapped by name, so it is skipped and columns are taken by position.
        """
        distinct: dict[str, None] = {}
        aliases: dict[str, str] = {}
        for i, name in enumerate(names):
            own = wanted = name or f"column_{i + 1}"
            number = 2
            while wanted in distinct or wanted in TRACE_COLUMNS or (wanted != name and wanted in names):
                wanted = f"{own}_{number}"
                number += 1
            if wanted != name:
                aliases[wanted] = name
            distinct[wanted] = None
        counts = Counter(names)
        twice = sorted(n for n in counts if n and counts[n] > 1)
        if not twice and counts[""] < 2:
            return self.sniffed(distinct, aliases)
        what = f"the names {', '.join(map(repr, twice))} occur twice" if twice else "several names are empty"
        self.decide(
            "header", False, f"in the header {what}, so it is skipped and columns are taken by position"
        )
        self.dialect["headerRows"] = [header_line]
        self.questions.append(
            f"In the header {what}. Columns are named by position; a change of their order will not be noticed. "
            "Ask the supplier for distinct names."
        )
        return self.sniffed(distinct)


def sniff(url: str, encoding: str, delimiter: str | None = None) -> Sniffed:
    """Find a file's dialect and header; a ``delimiter`` that is given is not guessed.

    Raises RefusedError for what is no CSV, SourceUnavailable for what cannot be read.
    """
    sample, whole = _read_sample(url, encoding)
    if not sample.strip():
        raise RefusedError(f"{url} is empty: it holds nothing but blanks and line ends.", rule="empty")
    trial = _best_trial(sample, whole, delimiter)
    found = _Findings()
    found.decide_delimiter_and_quotes(trial, given=delimiter is not None)
    if delimiter is not None and trial.dialect.delimiter.encode() not in sample:
        found.questions.append(
            f"The delimiter as given, {trial.dialect.delimiter!r}, is not in the file: is it right?"
        )
    if mark := trial.comment_mark():
        why = f"lines that start with {mark} do not have the same fields as the others"
        found.decide("commentChar", mark, why)
        trial = _try(trial.dialect.model_copy(update={"commentChar": mark}), sample, whole)
        kept = [i for i, r in enumerate(trial.records) if not r[0].startswith(mark)]
        trial.records, trial.lines = [trial.records[i] for i in kept], [trial.lines[i] for i in kept]
        widths = Counter(map(_fields_in, trial.records))
        trial.width = widths.most_common(1)[0][0] if widths else 1
    start = trial.table_start()
    if whole and len(trial.records) > start + 2:
        last = trial.records[-1]
        if _fields_in(last) != trial.width and _FOOTER.match(last[0]):
            found.notes.append(
                f"The last record, {', '.join(last)[:60]!r}, looks like a footer and will be rejected; "
                "`footerRows: 1` in the dialect would skip it in every file."
            )
            trial.records.pop()
            trial.lines.pop()
    return _with_header(trial, start, found)


def _read_sample(url: str, encoding: str) -> tuple[bytes, bool]:
    """The first bytes of the file as UTF-8, cut at a line end, and whether that is the whole file."""
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


# --- delimiter and quotes ----------------------------------------------------------------


def _best_trial(sample: bytes, whole: bool, delimiter: str | None) -> _Trial:
    delimiters = [d for d in _DELIMITERS if d.encode() in sample] if delimiter is None else [delimiter]
    trials = [_best_trial_with(d, sample, whole) for d in delimiters]
    one_column = _try(Dialect(), sample, whole)
    good = [t for t in trials if t.is_credible]
    if not good:
        return max(trials, key=lambda t: t.rank) if delimiter is not None and trials else one_column
    # blanks are in names, dates and texts, too: they are the delimiter only where nothing else can be
    good = [t for t in good if t.dialect.delimiter != " " and t.agree == 1] or good
    # max takes the first of equals, which is the most usual delimiter
    return max(good, key=lambda t: t.rank)


def _best_trial_with(delimiter: str, sample: bytes, whole: bool) -> _Trial:
    """The best reading with one delimiter; other quotes and escapes are tried only where the sample has a sign of them."""
    base: dict[str, Any] = {"delimiter": delimiter}
    if delimiter == " ":
        base["skipInitialSpace"] = True  # runs of blanks are one delimiter
    mark = re.escape(delimiter.encode())
    edge = rb"(?:^|[\r\n]|" + mark + rb")"
    dialects = []
    if b'"' in sample:
        if b'\\"' in sample:
            dialects.append(Dialect(**base, escapeChar="\\"))
        after_blanks = len(re.findall(mark + rb' +"', sample))
        if after_blanks > len(re.findall(mark + rb'"', sample)) and delimiter != " ":
            dialects.append(Dialect(**base, skipInitialSpace=True))
        dialects.append(Dialect(**base, quoteChar=None))
    in_apostrophes = re.search(edge + rb"'[^'\r\n]*'(?:$|[\r\n]|" + mark + rb")", sample)
    if in_apostrophes and not re.search(edge + b'"', sample):
        dialects.append(Dialect(**base, quoteChar="'"))
    plain = _try(Dialect(**base), sample, whole)

    def reads_better(trial: _Trial) -> bool:
        """Whether a less usual dialect reads what the usual one cannot read."""
        if trial.dialect.quoteChar is None:
            # quotes mean nothing if the usual reading finds many records damaged and this one none
            quoted = any(
                len(v) > 1 and v.startswith('"') and v.endswith('"') for r in trial.records for v in r
            )
            return plain.damaged > 0 and trial.agree == 1 and trial.width > 1 and not quoted
        if trial.dialect.quoteChar == "'":
            return trial.agree >= plain.agree and trial.damaged == 0
        return trial.damaged < plain.damaged and trial.agree >= plain.agree

    better = filter(reads_better, [_try(d, sample, whole) for d in dialects])
    return max(better, key=lambda t: t.agree, default=plain)


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
        records.pop()  # the sample may end in the middle of it
        lines.pop()
    # an empty last field counts where the header has it, and else comes from a trailing delimiter
    header = _fields_in(records[0]) if records else 0
    widths = Counter(header if len(r) == header else _fields_in(r) for r in records)
    width, count = max(widths.items(), key=lambda w: (w[1], w[0]), default=(1, 0))
    total = len(records) + len(found.damaged)
    return _Trial(dialect, records, lines, width, count / total if total else 0.0, len(found.damaged))


def _fields_in(record: Sequence[str]) -> int:
    """How many fields a record has, without the empty one that a trailing delimiter makes."""
    return len(record) - (len(record) > 2 and record[-1] == "")


# --- the header --------------------------------------------------------------------------


def _with_header(trial: _Trial, start: int, found: _Findings) -> Sniffed:
    """All that was found, with the names of a header that begins at the record ``start``, or made-up names."""
    records, lines = trial.records[start:], trial.lines[start:]
    if not records:
        return found.sniffed(["column_1"])
    is_header, why = has_header(records)
    if not is_header and start == 0:
        found.decide("header", False, f"{why}; names are made up")
        width = _fields_in(records[0]) if len(records) > 1 else len(records[0])
        return found.sniffed(f"column_{i + 1}" for i in range(width))
    rows = header_rows(records, trial.width)
    names = [c.strip() for c in records[0]]
    if rows > 1 and names == [c.strip() for c in records[1]]:
        found.decide("headerRows", [lines[1]], "the header is there twice; the second one is used")
    elif start or rows > 1:
        above = f"{lines[0] - 1} lines are above the header" if start else ""
        more = f"{rows} lines of names are above the values" if rows > 1 else ""
        found.decide("headerRows", lines[:rows], "; ".join(filter(None, [above, more])))
        if rows > 1:  # joined as the reader joins them
            columns = zip_longest(*records[:rows], fillvalue="")
            names = [" ".join(filter(None, (c.strip() for c in column))) for column in columns]
    if names and names[-1] == "":
        names = names[:-1]  # a trailing delimiter
        found.notes.append("The header ends with an empty name; it is taken as absent.")
    return found.sniffed_by_header(names, lines[rows - 1])
