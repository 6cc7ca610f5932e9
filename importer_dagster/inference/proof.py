"""The proof of a spec: all files judged by it as an import would, and columns that fail made text.

What does not belong here: the importer's own rehearsal of one delivery (``pipeline/delivery.py``).
"""

from __future__ import annotations

from collections import Counter

from importer_dagster.errors import RefusedError
from importer_dagster.inference.samples import open_file
from importer_dagster.inference.state import NOISE, NOISE_FROM, Choice, Work
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.drift import map_header
from importer_dagster.validation.validator import Validator


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
