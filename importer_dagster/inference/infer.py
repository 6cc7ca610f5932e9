"""From sample files to a spec: :func:`infer`, which ``importer infer`` calls.

All rows of all files are read as text through the importer's own reader. The
shapes of the values propose types. Each proposal is tried on every value with the
importer's own parser, and the finished spec is rehearsed on all files. The YAML
has the reason for each choice as a comment. Where the values do not decide, a
column stays text and a question is asked.

What does not belong here: reading the files (``inference/samples.py``), types
(``inference/type_choice.py``), keys and constraints (``inference/constraints.py``),
YAML text (``spec/yaml_text.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from importer_dagster.errors import RefusedError, UsageError
from importer_dagster.inference.constraints import choose_key, constraints_of
from importer_dagster.inference.samples import (
    inspect_file,
    main_charset,
    main_file,
    name_columns,
    name_type,
    note_column_differences,
    note_dialect_differences,
    open_file,
    read_all,
)
from importer_dagster.inference.state import NOISE, NOISE_FROM, Choice, InferenceState
from importer_dagster.inference.type_choice import choose_types
from importer_dagster.spec.loading import parse_spec
from importer_dagster.spec.table import TableSpec
from importer_dagster.spec.yaml_text import Document, to_yaml
from importer_dagster.validation.drift import map_header
from importer_dagster.validation.validator import Validator


@dataclass(frozen=True)
class Inference:
    """A proposed spec.

    ``yaml`` is its text with reasons as comments; ``spec`` is that text parsed.
    ``notes`` are facts that a person may want to know, ``questions`` are choices
    that only a person can make.
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
    """Read all of the files, which are days of one CSV type, and propose a spec for them.

    ``encoding``, ``delimiter`` and ``date_order`` (of dates such as 03/04/2024)
    are not guessed where they are given. ``progress`` is called with a few words
    at each step. Raises RefusedError for a file that cannot be read as a table,
    SourceUnavailable for one that cannot be reached, UsageError for no files and
    for a name, an encoding or a delimiter that cannot be used.
    """
    if not files:
        raise UsageError("Name at least one file to infer a spec from.")
    report = progress or (lambda _: None)
    report("looking at the beginning")
    state = InferenceState([inspect_file(str(f), encoding, delimiter) for f in files], report=report)
    type_name = name_type(files, name)
    note_dialect_differences(state)
    name_columns(state)
    note_column_differences(state)
    read_all(state)
    report("trying types on all values")
    choose_types(state, date_order)
    report("looking for a key")
    choose_key(state, type_name)
    report("rehearsing the import")
    spec, text = _write_spec(state, type_name)
    if make_text_of_rejected(state, spec):
        spec, text = _write_spec(state, type_name)
        rehearse(state, spec)
    return Inference(text, spec, list(dict.fromkeys(state.notes)), list(dict.fromkeys(state.questions)))


def _write_spec(state: InferenceState, name: str) -> tuple[TableSpec, str]:
    """The spec of all that was chosen, parsed and as YAML text."""
    charset, dialect = main_charset(state), main_file(state).sniffed
    data: dict[str, Any] = {"name": name}
    reasons = {"encoding": charset.reason}
    endings = {re.sub(r"(?i)\.(?:gz|zip|bz2|xz|zst)$", "", f.path).rpartition(".")[2] for f in state.files}
    ending = endings.pop() if len(endings) == 1 else "csv"
    if ending != "csv" and re.fullmatch(r"\w{1,5}", ending):
        data["path"] = f"{{date}}/{{tenant}}/{{type}}*.{ending}"
        reasons["path"] = "the files do not end in .csv"
    data["encoding"] = "utf-8" if charset.encoding == "utf-8-sig" else charset.encoding
    data["dialect"] = {"delimiter": ",", **dialect.dialect}
    reasons["dialect"] = "; ".join(f"{k}: {v}" for k, v in dialect.reasons.items()) or "the usual one"
    fields, comments = [], []
    for column, choice in ((c, state.choices[c]) for c in state.columns):
        constraints, why = constraints_of(column, state)
        aliases = state.aliases.get(column)
        files_with_it = sum(column in f.names for f in state.files)
        if files_with_it < len(state.files):
            why.append(f"in {files_with_it} of {len(state.files)} files")
        options = {"constraints": constraints, "aliases": aliases}
        fields.append({"name": column, **choice.field, **{k: v for k, v in options.items() if v}})
        comments.append("; ".join([choice.reason, *why]))
    schema: dict[str, Any] = {"fields": fields}
    if state.key:
        schema["primaryKey"] = list(state.key.fields)
        reasons["primaryKey"] = state.key.reason
    schema["missingValues"] = [""]
    reasons["missingValues"] = "empty without quotes; quoted empty text stays text"
    data["schema"] = schema
    data["write_disposition"], reasons["write_disposition"] = _disposition(state)

    listed = ", ".join(Path(f.path).name for f in state.files[:3]) + (" …" if len(state.files) > 3 else "")
    head = [
        f"Proposed by `importer infer` from {state.records:,} records of {listed}.",
        "The reason for each choice is in its comment; change what you know better.",
        *(f"QUESTION: {q}" for q in dict.fromkeys(state.questions)),
        *(f"NOTE: {n}" for n in dict.fromkeys(state.notes)),
    ]
    text = to_yaml(Document(data, tuple(head), reasons, tuple(comments)))
    return parse_spec(text, f"{name}.yaml"), text


def _disposition(state: InferenceState) -> tuple[str, str]:
    """The write_disposition that loses no rows, as far as the key and the files show, and the reason."""
    key = state.key
    if key is None:
        return (
            "append",
            "no key is certain, so the rows of every file are kept; a re-sent file replaces its own rows",
        )
    if key.sure and len(state.files) == 1:
        return (
            "merge",
            "there is a key: a row that comes again replaces the older one; append would keep every day's",
        )
    if key.sure and key.recurs > 0:
        return "merge", f"{key.recurs:.0%} of the keys come again in a later file and replace the older row"
    if key.recurs > 0 or len(state.files) > 1:
        return "append", "keeps every day's rows; merge would keep only the newest row of each key"
    return "append", "loses nothing; choose merge if rows that come again should replace the older ones"


def make_text_of_rejected(state: InferenceState, spec: TableSpec) -> bool:
    """Rehearse the import, and choose text for columns that reject more than damage; whether there were any.

    Each choice was tried on all values, so this is a second check: the proposed
    spec must load the files that it was made from.
    """
    try:
        rejected = rehearse(state, spec)
    except RefusedError as error:
        state.questions.append(f"The spec refuses one of the files: {error}")
        return True
    names = {f.column: f.name for f in spec.fields}
    any_changed = False
    for column, count in rejected.items():
        name = names.get(column)
        if name is None:
            continue
        plain = state.columns[name].plain
        if count > max(NOISE * plain, 0) or plain < NOISE_FROM:
            state.choices[name] = Choice(
                {"type": "string"},
                f"text: as {state.choices[name].field['type']}, {count:,} values would be rejected",
            )
            any_changed = True
    return any_changed


def rehearse(state: InferenceState, spec: TableSpec) -> Counter[str]:
    """Validate all files by the spec as an import would; how many values of each column are rejected."""
    rejected: Counter[str] = Counter()
    for file in state.files:
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
