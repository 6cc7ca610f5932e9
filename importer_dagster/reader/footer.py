"""Treats the last records of a file: footers, a line of totals, a last record that is cut off.

Which record is the last is known at the end of the file only. So the last batches are kept back
until the next ones are there.

What does not belong here: all other records (``reader/reader.py``).
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


def without_footer(
    batches: Iterator[TextBatch],
    dialect: Dialect,
    header: Sequence[str],
    warnings: list[str],
    trailer: list[str],
) -> Iterator[TextBatch]:
    """All batches, without footers, which are counted as skipped, and with a line of totals as a reject.

    The text of the last footer is appended to ``trailer``, a warning of a file that was cut off to ``warnings``.
    """
    footers = dialect.footerRows
    kept_back: deque[TextBatch] = deque()
    for batch in batches:
        kept_back.append(batch)
        while sum(_records(b) for b in list(kept_back)[1:]) >= footers + 1:
            yield kept_back.popleft()
    # rows and rejects both ascend
    ends = [n[-1].as_py() for b in kept_back for n in (b.rows, b.rejects["row"]) if len(n)]
    last = max(ends, default=0)
    if footers:
        for batch in kept_back:
            at = pc.index(batch.rows, last).as_py() if len(batch.rows) else -1
            raws = [batch.locate(np.array([at]))[1][0].as_py()] if at >= 0 else []
            raws += _rejects_of(batch, last)["raw"].drop_null().slice(0, 1).to_pylist()
            trailer += [raw.rstrip("\r\n") for raw in raws]
    last -= footers
    for whole in kept_back:
        batch = whole
        if footers:
            count = pc.sum(pc.less_equal(whole.rows, last)).as_py() or 0
            batch = replace(
                whole,
                columns=whole.columns.slice(0, count),
                rows=whole.rows.slice(0, count),
                rejects=whole.rejects.filter(pc.less_equal(whole.rejects["row"], last)),
            )
            batch = replace(batch, skipped=_records(whole) - _records(batch))
        if dialect.totals == "reject" and header:
            batch = _totals_rejected(batch, last, header)
        if not footers:
            _warn_if_cut_off(batch, last, warnings)
        yield batch


def _records(batch: TextBatch) -> int:
    numbers = batch.rejects["row"].to_numpy()  # ascending
    return len(batch.rows) + int(np.count_nonzero(numbers[1:] != numbers[:-1])) + bool(len(numbers))


def _rejects_of(batch: TextBatch, number: int) -> pa.Table:
    """The rejects of the record with this number."""
    return batch.rejects.filter(pc.equal(batch.rejects["row"], number))


def _warn_if_cut_off(batch: TextBatch, last: int, warnings: list[str]) -> None:
    """Warn if the last record is too short, or ends inside of quotes or of a character: the file may be cut off."""
    for reject in _rejects_of(batch, last).slice(0, 1).to_pylist():
        rule, message = reject["rule"], reject["message"]
        if rule in ("fields.short", "quote.unclosed") or CUT_CHARACTER in message:
            warnings.append(
                f"the last record, in line {reject['line']}, is incomplete ({message}): perhaps the file was cut off"
            )


def _totals_rejected(batch: TextBatch, last: int, header: Sequence[str]) -> TextBatch:
    """The batch with the last record as a reject, if the first value of that says that it is a total."""
    n = len(batch.rows)
    if n < 1 or last < 3 or batch.rows[n - 1].as_py() != last or batch.columns.num_columns < 2:
        return batch
    record = ((i, batch.columns.column(i)[n - 1].as_py()) for i in batch.columns.schema.names)
    name, value = next(((i, v) for i, v in record if v and v.strip()), ("0", ""))
    if not _TOTALS.fullmatch(value):
        return batch
    lines, raws = batch.locate(np.array([n - 1]))
    words = (
        f"the last record begins with {value.strip()!r}, so it repeats the others as a sum; declare "
        "dialect.footerRows: 1 to skip it, or dialect.totals: keep if it is a record like the others"
    )
    cells = [[last], lines, [header[int(name)]], [value], ["footer.totals"], [words], raws]
    arrays = [
        pa.array(c, f.type) if isinstance(c, list) else c for c, f in zip(cells, REJECT_SCHEMA, strict=True)
    ]
    return replace(
        batch,
        columns=batch.columns.slice(0, n - 1),
        rows=batch.rows.slice(0, n - 1),
        rejects=pa.concat_tables([batch.rejects, pa.table(arrays, schema=REJECT_SCHEMA)]),
    )
