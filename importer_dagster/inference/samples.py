"""A look at all the files that a spec is inferred from: how they are written, their columns, all their cells summed up.

All is read as text, just as it stands, through the importer's own reader.

What does not belong here: encodings (``reader/encoding_detection.py``), dialects (``inference/dialect.py``), summing up a
column (``inference/column_stats.py``), what follows from it (``inference/type_choice.py``).
"""

from __future__ import annotations

import difflib
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
from importer_dagster.inference.state import File, Work
from importer_dagster.model import Delivery
from importer_dagster.reader.encoding_detection import Charset, find_charset
from importer_dagster.reader.reader import Reader, open_delivery
from importer_dagster.spec.fields import MAX_COLUMNS
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.drift import fold

# --- how they are written -------------------------------------------------------------------


def look_at(path: str, encoding: str | None, delimiter: str | None) -> File:
    """How a file is written, by its beginning; what is given is not guessed.

    Raises RefusedError for what is no table, SourceUnavailable for what cannot be reached.
    """
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


def agree(work: Work) -> None:
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


def _comparable(file: File) -> dict[str, Any]:
    # a file with one column shows no delimiter
    return {k: v for k, v in file.sniffed.dialect.items() if k != "delimiter" or len(file.sniffed.names) > 1}


def main_file(work: Work) -> File:
    """The file whose dialect stands for all."""
    usual = Counter(str(_comparable(f)) for f in work.files).most_common(1)[0][0]
    return next(f for f in work.files if str(_comparable(f)) == usual)


def main_charset(work: Work) -> Charset:
    """The encoding of most files; of ASCII alone nothing is known."""
    telling = [f.charset for f in work.files if not f.charset.ascii] or [f.charset for f in work.files]
    usual = Counter(c.encoding for c in telling).most_common(1)[0][0]
    return next(c for c in telling if c.encoding == usual)


# --- the columns ----------------------------------------------------------------------------


def name_columns(work: Work) -> None:
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


def _folded_names(file: File) -> dict[str, str]:
    """Each name folded; names that fold alike are one column, unless one file has both."""
    folded = {name: fold(name) for name in file.sniffed.names}
    counts = Counter(folded.values())
    return {name: f if f and counts[f] == 1 else name for name, f in folded.items()}


def _note_differences(work: Work, names: Sequence[str]) -> None:
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


# --- the cells ------------------------------------------------------------------------------


def _text_spec(file: File) -> TableSpec:
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


def open_file(file: File, spec: TableSpec) -> Reader:
    """The importer's own reader of a file; a context manager."""
    delivery = Delivery("t", "", date.today(), file.path, file.path, has_tenant=False)
    return open_delivery(delivery, spec)


def read_all(work: Work) -> None:
    """Sum up all cells of all files."""
    for name in dict.fromkeys(n for f in work.files for n in f.names):
        work.columns[name] = Column(name)
    most_bytes = bytes_per_column(list(work.columns))
    for file in work.files:
        with open_file(file, _text_spec(file)) as reader:
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


def text_columns(work: Work, wanted: Sequence[str]) -> Iterator[tuple[str, pa.Array]]:
    """Some columns of all files once more, batch by batch."""
    for file in work.files:
        places = [(i, n) for i, n in enumerate(file.names) if n in wanted]
        if not places:
            continue
        with open_file(file, _text_spec(file)) as reader:
            reader.select([i for i, _ in places])
            for batch in reader.batches():
                for i, name in places:
                    yield name, batch.columns.column(str(i))


def file_batches(work: Work, wanted: Sequence[str]) -> Iterator[Iterator[Mapping[str, pa.Array]]]:
    """Some columns of the files that have them all, file by file; each batch maps names to texts."""
    for file in work.files:
        if set(wanted) <= set(file.names):
            yield _one_file(file, wanted)


def _one_file(file: File, wanted: Sequence[str]) -> Iterator[Mapping[str, pa.Array]]:
    places = {n: file.names.index(n) for n in wanted}
    with open_file(file, _text_spec(file)) as reader:
        reader.select(sorted(places.values()))
        for batch in reader.batches():
            yield {n: batch.columns.column(str(i)) for n, i in places.items()}


_DATES_AND_COUNTERS = re.compile(r"[\d._-]*\d[\d._-]*")


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
        return frozenset(fold(name) for name in look_at(file, None, None).sniffed.names)
    except ImporterError:
        return frozenset()


def _stem(file: Path) -> str:
    return re.sub(r"(?i)(?:\.(?:gz|zip|bz2|xz|zst|csv|tsv|txt|tab|psv|dat))+$", "", file.name)


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
