"""The end of a file: footers, a line of totals, a last record that is cut off.

Only at the end is it known which record is the last, so the last batch is held
back until there is another one.

What does not belong here: any other record (``reader/reader.py``).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.model import TextBatch
from importer_dagster.reader.blocks import CUT_CHARACTER
from importer_dagster.reject_schema import REJECT_SCHEMA
from importer_dagster.spec.fields import Dialect

_TOTALS = re.compile(
    r"(?i)\W*(?:(?:grand|sub|over-?all)[ -]?)?(?:totals?|sums?|summen?|gesamt(?:summe)?|insgesamt|totale?s?|total général"
    r"|suma|somme|totaal|итого|всего|合計|总计|小计)\W*"
)


def without_ending(
    batches: Iterator[TextBatch],
    dialect: Dialect,
    header: Sequence[str],
    warnings: list[str],
    trailer: list[str],
) -> Iterator[TextBatch]:
    """All batches, footers taken off and counted as skipped, a line of totals made a reject.

    The text of the last footer is put into ``trailer``.
    """
    held: deque[TextBatch] = deque()
    footers = dialect.footerRows
    for batch in batches:
        held.append(batch)
        while sum(_size(b) for b in list(held)[1:]) >= footers + 1:
            yield held.popleft()
    last = max((_last_number(b) for b in held), default=0)
    if footers:
        trailer += [text for batch in held for text in _text_of(batch, last)]
    last -= footers
    for batch in held:
        shorter = _only_until(batch, last) if footers else batch
        if dialect.totals == "reject" and header:
            shorter = _without_totals(shorter, last, header)
        if not footers:
            _warn_of_cut(shorter, last, warnings)
        yield shorter


def _size(batch: TextBatch) -> int:
    return len(batch.rows) + (len(batch.rejects["row"].unique()) if len(batch.rejects) else 0)


def _last_number(batch: TextBatch) -> int:
    """Both kinds of records are in order."""
    return max(
        (numbers[-1].as_py() for numbers in (batch.rows, batch.rejects["row"]) if len(numbers)), default=0
    )


def _text_of(batch: TextBatch, number: int) -> Iterator[str]:
    """The raw text of one record, if the batch has it."""
    at = pc.index(batch.rows, number).as_py() if len(batch.rows) else -1
    if at >= 0:
        yield batch.locate(np.array([at]))[1][0].as_py().rstrip("\r\n")
    found = batch.rejects.filter(pc.equal(batch.rejects["row"], number))["raw"].drop_null()
    if len(found):
        yield found[0].as_py().rstrip("\r\n")


def _only_until(batch: TextBatch, number: int) -> TextBatch:
    kept = pc.sum(pc.less_equal(batch.rows, number)).as_py() or 0
    rejects = batch.rejects.filter(pc.less_equal(batch.rejects["row"], number))
    shorter = replace(
        batch, columns=batch.columns.slice(0, kept), rows=batch.rows.slice(0, kept), rejects=rejects
    )
    return replace(shorter, skipped=_size(batch) - _size(shorter))


def _without_totals(batch: TextBatch, last: int, header: Sequence[str]) -> TextBatch:
    """The last record, where its first value says that it is a total, as a reject."""
    n = len(batch.rows)
    if n < 1 or last < 3 or batch.rows[n - 1].as_py() != last or batch.columns.num_columns < 2:
        return batch
    cells = ((i, batch.columns.column(i)[n - 1].as_py()) for i in batch.columns.schema.names)
    name, value = next(((i, v) for i, v in cells if v and v.strip()), ("0", ""))
    if not _TOTALS.fullmatch(value):
        return batch
    lines, raws = batch.locate(np.array([n - 1]))
    words = (
        f"the last record begins with {value.strip()!r}, so it repeats the others as a sum; declare "
        "dialect.footerRows: 1 to skip it, or dialect.totals: keep if it is a record like the others"
    )
    row = [[last], lines, [header[int(name)]], [value], ["footer.totals"], [words], raws]
    reject = pa.table([pa.array(v, f.type) if isinstance(v, list) else v for v, f in zip(row, REJECT_SCHEMA, strict=True)],
                      schema=REJECT_SCHEMA)  # fmt: skip
    return replace(
        batch,
        columns=batch.columns.slice(0, n - 1),
        rows=batch.rows.slice(0, n - 1),
        rejects=pa.concat_tables([batch.rejects, reject]),
    )


def _warn_of_cut(batch: TextBatch, last: int, warnings: list[str]) -> None:
    """A file whose last record is too short, or ends inside of quotes, was probably cut off."""
    if not len(batch.rejects):
        return
    found = batch.rejects.filter(pc.equal(batch.rejects["row"], last)).slice(0, 1).to_pylist()
    if found and (
        found[0]["rule"] in ("fields.short", "quote.unclosed") or CUT_CHARACTER in found[0]["message"]
    ):
        warnings.append(
            f"the last record, in line {found[0]['line']}, is incomplete ({found[0]['message']}): perhaps the file "
            "was cut off"
        )
