"""From files to a spec, once, on a person's desk: :func:`infer`.

All rows of all files are read as text through the importer's own reader. What
the values look like proposes types; each proposal is then tried on every value
with the importer's own parser, and the finished spec is rehearsed on all files.
Every choice carries its reason as a comment in the YAML. Where the evidence
does not decide, a column stays text and a question says so.

What does not belong here: which files belong together (``inference/grouping.py``), reading
them (``inference/samples.py``), types (``inference/type_choice.py``), keys and constraints
(``inference/constraints.py``), the rehearsal (``inference/proof.py``), YAML (``spec/spec_yaml.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from importer_dagster.errors import RefusedError, UsageError
from importer_dagster.inference.constraints import choose_key, constraints_of
from importer_dagster.inference.samples import (
    agree,
    look_at,
    main_charset,
    main_file,
    name_columns,
    name_type,
    open_file,
    read_all,
)
from importer_dagster.inference.state import NOISE, NOISE_FROM, Choice, Work
from importer_dagster.inference.type_choice import choose_types
from importer_dagster.spec.fields import Dialect
from importer_dagster.spec.loading import parse_spec
from importer_dagster.spec.table import TableSpec
from importer_dagster.spec.yaml_text import Document, to_yaml
from importer_dagster.validation.drift import map_header
from importer_dagster.validation.validator import Validator


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
    work = Work([look_at(str(f), encoding, delimiter) for f in files])
    work.say = say
    chosen = name_type(files, name)
    agree(work)
    name_columns(work)
    read_all(work)
    say("trying types on all values")
    choose_types(work, date_order)
    say("looking for a key")
    choose_key(work, chosen)
    say("rehearsing the import")
    spec, text = _write(work, chosen)
    if demote(work, spec):
        spec, text = _write(work, chosen)
        rehearse(work, spec)
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


# --- the spec -------------------------------------------------------------------------------


def _write(work: Work, name: str) -> tuple[TableSpec, str]:
    charset, main = main_charset(work), main_file(work)
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
    text = to_yaml(Document(data, tuple(_head(work)), reasons, tuple(comments)))
    return parse_spec(text, f"{name}.yaml"), text


def _head(work: Work) -> Iterator[str]:
    """What stands above the spec: where it comes from, what is asked, what should be known."""
    listed = ", ".join(Path(f.path).name for f in work.files[:3]) + (" …" if len(work.files) > 3 else "")
    yield f"Proposed by `importer infer` from {work.records:,} records of {listed}."
    yield "The reason for each choice stands with it; change what you know better."
    yield from (f"QUESTION: {q}" for q in dict.fromkeys(work.questions))
    yield from (f"NOTE: {n}" for n in dict.fromkeys(work.notes))


def _field(name: str, work: Work) -> tuple[dict[str, Any], str]:
    choice = work.choices[name]
    constraints, reasons = constraints_of(name, work)
    item = {"name": name, **choice.field}
    if constraints:
        item["constraints"] = constraints
    if work.aliases.get(name):
        item["aliases"] = work.aliases[name]
    partial = sum(name in f.names for f in work.files)
    if partial < len(work.files):
        reasons.append(f"in {partial} of {len(work.files)} files")
    return item, "; ".join([choice.reason, *reasons])


def _path(work: Work) -> str | None:
    endings = {re.sub(r"(?i)\.(?:gz|zip|bz2|xz|zst)$", "", f.path).rpartition(".")[2] for f in work.files}
    if len(endings) != 1:
        return None
    ending = endings.pop()
    return (
        None
        if ending == "csv" or not re.fullmatch(r"\w{1,5}", ending)
        else f"{{date}}/{{tenant}}/{{type}}*.{ending}"
    )


def _disposition(work: Work) -> tuple[str, str]:
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


def demote(work: Work, spec: TableSpec) -> bool:
    """Make text of columns that reject more than was foreseen; whether there were any.

    This should not happen, since each choice was tried on all values. It is the
    promise to the user that counts, not the cleverness before it.
    """
    try:
        rejected = rehearse(work, spec)
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
        if count > max(NOISE * summary.plain, 0) or summary.plain < NOISE_FROM:
            work.choices[name] = Choice(
                {"type": "string"},
                f"text: as {work.choices[name].field['type']}, {count:,} values would be rejected",
            )
            again = True
    return again


def rehearse(work: Work, spec: TableSpec) -> Counter[str]:
    """Judge all files by the spec as an import would; the rejects of each column."""
    rejected: Counter[str] = Counter()
    for file in work.files:
        with open_file(file, spec) as reader:
            sources = map_header(reader.header, spec).sources
            validator = Validator(
                spec, {f.name: str(sources[f.name]) if f.name in sources else None for f in spec.fields}
            )
            reader.select(sorted(set(sources.values())))
            for batch in reader.batches():
                _, _, failures = validator(batch.columns)
                rejected.update({str(f.column): len(f.indexes) for f in failures})
    return rejected
