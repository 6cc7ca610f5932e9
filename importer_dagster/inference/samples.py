"""The sample files: grouped by type, inspected for how they are written, named, and read into summed-up columns.

Everything is read as text through the importer's own reader.

What does not belong here: encodings (``reader/encoding_detection.py``), dialects (``inference/dialect.py``), summing up
the cells of a column (``inference/column_stats.py``), choosing types (``inference/type_choice.py``).
"""

from __future__ import annotations

import difflib
import os.path
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from importer_dagster.errors import ImporterError, RefusedError, UsageError
from importer_dagster.inference.column_stats import Column, bytes_per_column
from importer_dagster.inference.dialect import sniff
from importer_dagster.inference.state import File, InferenceState
from importer_dagster.model import Delivery
from importer_dagster.reader.encoding_detection import Charset, find_charset
from importer_dagster.reader.reader import Reader, open_delivery
from importer_dagster.spec.fields import MAX_COLUMNS, Dialect
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.drift import fold

_DATES_AND_COUNTERS = re.compile(r"[\d._-]*\d[\d._-]*")  # in a file's name
_ALIKE = 0.6  # similarity, from 0 to 1, from which two column names may be one that was renamed

# --- which files are one type, and its name -------------------------------------------------


def group_files(files: Sequence[str]) -> list[list[str]]:
    """The files in groups of one CSV type each.

    Files are of one type if their names differ only in dates and numbers and their
    columns are the same. Files of the same name, in several folders, are of one type
    whatever their columns. Groups and files keep their order.
    """
    stems = {f: _stem(Path(f)) for f in files}
    undated = {f: _undated(s) for f, s in stems.items()}

    def is_one_type(a: str, b: str) -> bool:
        if stems[a] == stems[b]:
            return True
        return undated[a] == undated[b] and _columns_of(a) == _columns_of(b) != frozenset()

    groups: list[list[str]] = []
    for file in files:
        group = next((g for g in groups if is_one_type(file, g[0])), None)
        if group is None:
            groups.append([file])
        else:
            group.append(file)
    return groups


def called_alike(groups: Sequence[Sequence[str]]) -> list[str]:
    """Questions about groups whose files have similar names but other columns: they may be one type that changed."""
    alike: dict[str, list[str]] = {}
    for group in groups:
        if undated := _undated(_stem(Path(group[0]))):
            alike.setdefault(undated, []).append(Path(group[0]).name)
    return [
        f"{' and '.join(names[:3])} are called alike, but have other columns: are they days of one type that changed? "
        "Then infer them together under one --name."
        for names in alike.values()
        if len(names) > 1
    ]


@lru_cache(maxsize=1024)
def _columns_of(file: str) -> frozenset[str]:
    """The folded names of a file's header; none for a file that cannot be read, about which ``infer`` raises later."""
    try:
        return frozenset(fold(name) for name in inspect_file(file, None, None).sniffed.names)
    except ImporterError:
        return frozenset()


def _stem(file: Path) -> str:
    """The file's name without the endings of CSV files and of compression."""
    return re.sub(r"(?i)(?:\.(?:gz|zip|bz2|xz|zst|csv|tsv|txt|tab|psv|dat))+$", "", file.name)


def _undated(stem: str) -> str:
    """A stem without its dates and counters."""
    return _DATES_AND_COUNTERS.sub("_", stem).strip("_")


def name_type(files: Sequence[str | Path], name: str | None = None) -> str:
    """The name of the files' type: ``name``, or else what the files' names have in common.

    Raises UsageError for a ``name`` that a type cannot have.
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
        undated = {_undated(s) for s in stems}
        common_start = re.sub(r"[\d_.-]+$", "", os.path.commonprefix(stems))  # noqa: RUF071 - characters are meant
        stem = undated.pop() if len(undated) == 1 else common_start
        stem = stem or paths[0].absolute().parent.name
    word = re.sub(r"[^a-z0-9]+", "_", stem.casefold()).strip("_")
    word = f"t_{word}" if not word or word[0].isdigit() else word
    return word[:55].rstrip("_") or "t"


# --- how files are written ------------------------------------------------------------------


def inspect_file(path: str, encoding: str | None, delimiter: str | None) -> File:
    """How a file is written, by its beginning; ``encoding`` and ``delimiter`` are not guessed where they are given.

    Raises RefusedError for what is no table, SourceUnavailable for a file that cannot be
    reached, UsageError for an encoding or a delimiter that cannot be used.
    """
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
    url = path if "://" in path else Path(path).expanduser().absolute().as_posix()
    charset = Charset(encoding, "as given") if encoding else find_charset(url)
    sniffed = sniff(url, charset.encoding, delimiter)
    _check_width(len(sniffed.names), Path(url).name)
    return File(url, charset, sniffed)


def _check_width(columns: int, where: str) -> None:
    if columns > MAX_COLUMNS:
        raise RefusedError(
            f"There are {columns:,} columns in {where}; a PostgreSQL table can have 1,600, trace columns included. "
            "Split the file, or ask for fewer columns.",
            rule="header.wide",
        )


def note_dialect_differences(state: InferenceState) -> None:
    """Note what was found in each file, and ask where files differ; a spec has one encoding and one dialect."""
    for file in state.files:
        label = f"{Path(file.path).name}: " if len(state.files) > 1 else ""
        state.notes += [f"{label}{n}" for n in file.sniffed.notes]
        state.questions += [f"{label}{q}" for q in file.sniffed.questions]
        if file.charset.question:
            state.questions.append(f"{label}{file.charset.question}")
    encodings = Counter(f.charset.encoding for f in state.files if not f.charset.ascii)
    if len(encodings) > 1:
        listed = ", ".join(f"{name} ({n} files)" for name, n in encodings.most_common())
        state.questions.append(
            f"The files are in different encodings: {listed}. A type has one; the first is taken."
        )
    dialects = Counter(str(_comparable(f)) for f in state.files)
    if len(dialects) > 1:
        state.questions.append(
            f"The files are written in {len(dialects)} different dialects: {'; '.join(dialects)}. "
            "A type has one; that of most files is taken."
        )


def _comparable(file: File) -> dict[str, Any]:
    """The file's dialect without what the file does not show: with one column there is no delimiter to see."""
    return {k: v for k, v in file.sniffed.dialect.items() if k != "delimiter" or len(file.sniffed.names) > 1}


def main_file(state: InferenceState) -> File:
    """The first file that has the dialect of most files."""
    usual = Counter(str(_comparable(f)) for f in state.files).most_common(1)[0][0]
    return next(f for f in state.files if str(_comparable(f)) == usual)


def main_charset(state: InferenceState) -> Charset:
    """The encoding of most files; files of ASCII alone count only if all are, since they go with any encoding."""
    charsets = [f.charset for f in state.files if not f.charset.ascii] or [f.charset for f in state.files]
    usual = Counter(c.encoding for c in charsets).most_common(1)[0][0]
    return next(c for c in charsets if c.encoding == usual)


# --- the columns ----------------------------------------------------------------------------


def name_columns(state: InferenceState) -> None:
    """Give each file's columns the names that the spec will have, in the spelling of the last file; others are aliases."""
    spelled: dict[str, str] = {}
    for file in state.files:
        spelled |= {key: name for name, key in _folded_names(file).items()}
    seen: dict[str, dict[str, None]] = {}
    for file in state.files:
        names: dict[str, None] = {}
        for name, key in _folded_names(file).items():
            final = spelled[key] if spelled[key] not in names else name
            names[final] = None
            spellings = seen.setdefault(final, {})
            header = file.sniffed.aliases.get(name, name)
            if header != final:
                spellings[header] = None
        file.names = tuple(names)
    state.aliases = {name: list(others) for name, others in seen.items() if others}
    # a spelling that is the name of another column is no alias
    taken = set(seen)
    for name, others in list(state.aliases.items()):
        state.aliases[name] = [o for o in others if o not in taken]
    _check_width(len(seen), "all files together")


def _folded_names(file: File) -> dict[str, str]:
    """Each name with its folded form (see :func:`fold`), or with itself where two names of the file fold alike."""
    folded = {name: fold(name) for name in file.sniffed.names}
    counts = Counter(folded.values())
    return {name: f if f and counts[f] == 1 else name for name, f in folded.items()}


def note_column_differences(state: InferenceState) -> None:
    """Note columns that some files lack or spell otherwise, and ask about columns that may have been renamed."""
    if len(state.files) == 1:
        return
    for name, others in state.aliases.items():
        if others:
            state.notes.append(
                f"{name} comes as {', '.join(map(repr, others))} in some files; given as aliases."
            )
    names = dict.fromkeys(n for f in state.files for n in f.names)
    has = {n: [n in f.names for f in state.files] for n in names}
    partial = [n for n in names if not all(has[n])]
    for name in partial:
        first = next(i for i, there in enumerate(has[name]) if there)
        state.notes.append(
            f"{name} is in {sum(has[name])} of {len(state.files)} files, first in {Path(state.files[first].path).name}; "
            "it is optional."
        )
    for i, a in enumerate(partial):
        for b in partial[i + 1 :]:
            apart = not any(x and y for x, y in zip(has[a], has[b], strict=True))
            alike = difflib.SequenceMatcher(None, fold(a), fold(b)).ratio() >= _ALIKE or fold(a).startswith(
                fold(b)[:3]
            )
            if apart and alike:
                state.questions.append(
                    f"{a} and {b} never come together and are called alike: is it one column that was renamed? "
                    "Then make one field of them, the old name in its aliases."
                )


# --- the cells ------------------------------------------------------------------------------


def _text_spec(file: File) -> TableSpec:
    """A spec that reads all columns of a file as text."""
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


def open_file(file: File, spec: TableSpec) -> Reader:
    """A reader of the file, as imports use it; a context manager."""
    delivery = Delivery("t", "", date.today(), file.path, file.path, has_tenant=False)
    return open_delivery(delivery, spec)


def read_all(state: InferenceState) -> None:
    """Sum up all cells of all files in ``state.columns``, and note damaged records."""
    for name in dict.fromkeys(n for f in state.files for n in f.names):
        state.columns[name] = Column(name)
    most_bytes = bytes_per_column(list(state.columns))
    for file in state.files:
        with open_file(file, _text_spec(file)) as reader:
            names = file.names[: len(reader.header)]
            for batch in reader.batches():
                file.records += len(batch.rows)
                state.report(f"{state.records:,} records read")
                for position, name in enumerate(names):
                    state.columns[name].add(batch.columns.column(str(position)), most_bytes)
                for rule in batch.rejects["rule"].to_pylist():
                    state.rejects[rule] += 1
            label = f"{Path(file.path).name}: " if len(state.files) > 1 else ""
            # inspect_file has noted what is odd about the header
            state.notes += [f"{label}{w}." for w in reader.warnings if not w.startswith("the header")]
        for name in names:
            state.columns[name].end_of_file()
    if not state.records:
        state.notes.append("There is no sound record, so nothing is known of types: all columns are text.")
    if state.rejects:
        listed = ", ".join(f"{n:,} × {rule}" for rule, n in state.rejects.most_common())
        total = sum(state.rejects.values())
        damaged = "1 record is" if total == 1 else f"{total:,} records are"
        state.notes.append(f"{damaged} damaged and will be rejected: {listed}.")


def text_columns(state: InferenceState, wanted: Sequence[str]) -> Iterator[tuple[str, pa.Array]]:
    """Read some columns of all files again: (column name, its cells) of each batch."""
    for file in state.files:
        places = [(i, n) for i, n in enumerate(file.names) if n in wanted]
        if not places:
            continue
        with open_file(file, _text_spec(file)) as reader:
            reader.select([i for i, _ in places])
            for batch in reader.batches():
                for i, name in places:
                    yield name, batch.columns.column(str(i))


def file_batches(state: InferenceState, wanted: Sequence[str]) -> Iterator[Iterator[Mapping[str, pa.Array]]]:
    """Read some columns again of the files that have them all: for each file its batches, which map names to cells."""

    def batches(file: File) -> Iterator[Mapping[str, pa.Array]]:
        places = {n: file.names.index(n) for n in wanted}
        with open_file(file, _text_spec(file)) as reader:
            reader.select(sorted(places.values()))
            for batch in reader.batches():
                yield {n: batch.columns.column(str(i)) for n, i in places.items()}

    for file in state.files:
        if set(wanted) <= set(file.names):
            yield batches(file)
