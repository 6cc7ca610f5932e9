"""The totals of a trailer against what was read, and records at the end that seem to be totals of the others.

What does not belong here: telling which record is the trailer (``reader/footer.py``).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import Positions, as_mask
from importer_dagster.errors import RefusedError
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import parse

_REMEDY = "Perhaps the file was cut off. Ask the supplier to send it again."
_MOST_DIGITS = 38  # of a decimal128
LAST_RECORDS = 20  # of a file, which may be totals of the others
_SUMMED = 16  # columns of a file, at most
_LABEL_LENGTH = 80  # characters
# as in "Total", "North Total", "sum of sales"; that the numbers add up is the stronger sign
_LABEL = (
    r"(?i)\b(?:(?:sub|grand)[ -]?)?(?:totals?|sums?|summen?|gesamt(?:summe)?|insgesamt|totale?s?|suma|somme|totaal)\b"
    "|итого|всего|合計|总计|小计"
)


class Totals:
    """Sums up one delivery as it is read. ``sources`` maps fields to the text columns that feed them."""

    def __init__(self, spec: TableSpec, sources: Mapping[str, str]) -> None:
        # a layout without footers has no trailer
        self._trailer = spec.trailer if spec.dialect.footerRows else None
        self._spec, self._sources = spec, sources
        in_layout = {f.name for f in spec.fields}
        declared = self._trailer.sums if self._trailer else {}
        self._sums = {name: Decimal(0) for name in declared if name in in_layout}
        self._unread = dict.fromkeys(self._sums, 0)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count one batch of text, including records that are rejected because of another field."""
        for name in self._sums:
            source = self._sources.get(name)
            if source is None:
                continue
            field = _for_a_sum(self._spec.field(name))
            typed, bad = parse.parse(batch.column(source), field, self._spec.missing_values(field))
            if bad is not None:
                self._unread[name] += len(bad.indexes)
            scale = typed.type.scale if pa.types.is_decimal(typed.type) else 0
            self._sums[name] += pc.sum(typed.cast(pa.decimal128(_MOST_DIGITS, scale))).as_py() or 0

    def check(self, text: str | None, records: int, damaged: int) -> None:
        """Raise RefusedError if the trailer ``text`` does not agree with what was read; do nothing without one.

        ``records`` were read in all; of these, ``damaged`` could not be split into cells.
        """
        trailer = self._trailer
        if trailer is None:
            return
        delimiter, quote = self._spec.dialect.delimiter, self._spec.dialect.quoteChar
        if len(delimiter) > 1 or not quote:
            cells = (text or "").split(delimiter)
        else:
            cells = next(csv.reader([text or ""], delimiter=delimiter, quotechar=quote), [])
        cells = [cell.strip() for cell in cells]
        if trailer.begins is not None and (not cells or cells[0] != trailer.begins):
            shown = (text or "")[:60]
            raise RefusedError(
                f"The file has no trailer: its last record is {shown!r}, and should begin with "
                f"{trailer.begins!r} (trailer.begins). {_REMEDY}",
                rule="trailer.missing",
            )
        if trailer.rows is not None:
            rows = _cell(cells, trailer.rows, "trailer.rows")
            if not rows.isascii() or not rows.isdecimal():
                raise RefusedError(
                    f"The trailer's cell {trailer.rows} should be the number of records and is {rows[:60]!r} "
                    f"(trailer.rows). {_REMEDY}",
                    rule="trailer.rows",
                )
            if int(rows) != records + trailer.rows_besides:
                besides = f", {trailer.rows_besides} besides the records" if trailer.rows_besides else ""
                raise RefusedError(
                    f"The trailer says {int(rows)} rows{besides}; the file has {records} records (trailer.rows). "
                    f"{_REMEDY}",
                    rule="trailer.rows",
                )
        for name in self._sums:
            self._check_sum(name, _cell(cells, trailer.sums[name], "trailer.sums"), damaged)

    def _check_sum(self, name: str, cell: str, damaged: int) -> None:
        field = _for_a_sum(self._spec.field(name))
        typed, bad = parse.parse(pa.array([cell], pa.string()), field, ())
        if bad is not None:
            raise RefusedError(
                f"The trailer's sum of {name!r} is {cell[:60]!r}, which is no number (trailer.sums). {_REMEDY}",
                rule="trailer.sums",
                column=field.column,
            )
        if Decimal(typed[0].as_py()) != self._sums[name]:
            left_out = damaged + self._unread[name]
            hint = f" {left_out} records of it could not be read, and are not in it." if left_out else ""
            raise RefusedError(
                f"The trailer says that the sum of {name!r} is {cell}; in the file it is {self._sums[name]} "
                f"(trailer.sums).{hint} {_REMEDY}",
                rule="trailer.sums",
                column=field.column,
            )


def _for_a_sum(field: FieldSpec) -> FieldSpec:
    """The field with as many digits as a decimal can have, since a sum has more than its values."""
    return field.model_copy(update={"precision": _MOST_DIGITS}) if field.type == "number" else field


def _cell(cells: list[str], position: int, option: str) -> str:
    if position > len(cells):
        raise RefusedError(
            f"The trailer has {len(cells)} cells; {option} names cell {position}. {_REMEDY}",
            rule="trailer.missing",
        )
    return cells[position - 1]


class TotalLines:
    """Finds records at the end of one file that seem to be totals of the others, though they are loaded.

    Such a record has a word such as Total in the key or in the first column of text, and a number that is the sum
    of the records above it (or twice that, where these have subtotals).
    """

    def __init__(self, spec: TableSpec) -> None:
        texts = [f.column for f in spec.fields if f.type == "string" and f.format == "default"]
        numbers = [f.column for f in spec.fields if f.type in ("integer", "number")]
        is_wanted = spec.dialect.totals == "reject" and bool(numbers)
        self.labels = [c for c in texts if c == texts[0] or c in spec.primary_key] if is_wanted else []
        self._sums: dict[str, Any] = dict.fromkeys(numbers[:_SUMMED] if self.labels else (), 0)
        self._last: list[dict[str, Any]] = []
        self._records = 0

    def add(self, typed: pa.RecordBatch, rows: pa.Array, good: Positions) -> None:
        """Sum up the good records of a batch; ``rows`` are the numbers of all its records, ``good`` positions in it."""
        if not self.labels or not len(typed):
            return
        for column in self._sums:
            self._sums[column] += pc.sum(typed.column(column)).as_py() or 0
        last = typed.select([*self.labels, *self._sums]).slice(max(len(typed) - LAST_RECORDS, 0)).to_pylist()
        for record, number in zip(last, rows.take(pa.array(good[-LAST_RECORDS:])).to_pylist(), strict=True):
            short = {c: (record[c] or "")[:_LABEL_LENGTH] for c in self.labels}
            self._last.append({**record, **short, "": number})
        self._last = self._last[-LAST_RECORDS:]
        self._records += len(typed)

    def warnings(self) -> Iterator[str]:
        """What the load should say of such records, the last one first."""
        above, records = dict(self._sums), self._records
        for record in reversed(self._last):
            above = {c: total - (record[c] or 0) for c, total in above.items()}
            records -= 1
            label = next((c for c in self.labels if re.search(_LABEL, record[c])), None)
            equal = [c for c, total in above.items() if record[c] and _adds_up(record[c], total)]
            if label is not None and equal and records > 1:
                yield (
                    f"record {record['']:,} has {record[label]!r} in column {label!r}, and its {equal[0]!r} is the sum "
                    "of the records above it, so it is perhaps a total, loaded like any other record. Declare how "
                    "many records at the end are no data (dialect.footerRows), or that it is data (dialect.totals: "
                    "keep)"
                )

    @staticmethod
    def labelled(texts: Sequence[pa.Array], rows: Positions) -> Positions:
        """Those of ``rows`` of the label columns ``texts`` that have such a word."""
        found = np.zeros(len(rows), np.bool_)
        for text in texts:
            found |= as_mask(pc.match_substring_regex(text.take(pa.array(rows)), _LABEL))
        return rows[found]


def _adds_up(value: Any, above: Any) -> bool:
    """Whether a number is the sum of those above it, or half of it, where each counts in a subtotal, too."""
    if isinstance(value, float):
        return math.isclose(value, above, rel_tol=1e-9) or math.isclose(2 * value, above, rel_tol=1e-9)
    return bool(above in (value, 2 * value))
