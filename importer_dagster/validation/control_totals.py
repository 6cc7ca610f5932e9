"""The totals of a trailer against what was read: how many records, and sums of fields.

What does not belong here: telling which record is the trailer (``reader/footer.py``).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.errors import RefusedError
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.policy import Trailer
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import parse

_REMEDY = "Perhaps the file was cut off. Ask the supplier to send it again."


class Totals:
    """Sums up one delivery as it is read. ``sources`` maps fields to the text columns that feed them."""

    def __init__(self, spec: TableSpec, sources: Mapping[str, str]) -> None:
        # a layout without footers has no trailer
        self._trailer = spec.trailer if spec.dialect.footerRows else None
        self._spec, self._sources = spec, sources
        known = {f.name for f in spec.fields}  # of this layout
        named = self._trailer.sums if self._trailer else {}
        self._sums = {name: Decimal(0) for name in named if name in known}
        self._unread = dict.fromkeys(self._sums, 0)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count one batch of text in, those records too that are rejected for some other field."""
        for name in self._sums:
            source = self._sources.get(name)
            if source is not None:
                typed = self._parse(name, batch.column(source))
                self._sums[name] += pc.sum(typed.cast(pa.decimal128(38, typed.type.scale))).as_py() or 0

    def _parse(self, name: str, text: pa.Array) -> pa.Array:
        field = _wide(self._spec.field(name))
        typed, bad = parse.parse(text, field, self._spec.missing_values(field))
        if bad is not None:
            self._unread[name] += len(bad.indexes)
        return typed if pa.types.is_decimal(typed.type) else typed.cast(pa.decimal128(38, 0))

    def check(self, text: str | None, records: int, damaged: int) -> None:
        """Raise RefusedError if the trailer ``text`` says anything else than was read; do nothing without one."""
        if self._trailer is None:
            return
        cells = _cells(text or "", self._spec)
        if self._trailer.begins is not None and (not cells or cells[0] != self._trailer.begins):
            shown = (text or "")[:60]
            raise RefusedError(
                f"The file has no trailer: its last record is {shown!r}, and should begin with "
                f"{self._trailer.begins!r} (trailer.begins). {_REMEDY}",
                rule="trailer.missing",
            )
        self._check_rows(self._trailer, cells, records)
        for name in self._sums:
            self._check_sum(name, _cell(cells, self._trailer.sums[name], "trailer.sums"), damaged)

    def _check_rows(self, trailer: Trailer, cells: list[str], records: int) -> None:
        if trailer.rows is None:
            return
        cell = _cell(cells, trailer.rows, "trailer.rows")
        if not cell.isascii() or not cell.isdecimal():
            raise RefusedError(
                f"The trailer's cell {trailer.rows} should be the number of records and is {cell[:60]!r} "
                f"(trailer.rows). {_REMEDY}",
                rule="trailer.rows",
            )
        if int(cell) != records + trailer.rows_besides:
            besides = f", {trailer.rows_besides} besides the records" if trailer.rows_besides else ""
            raise RefusedError(
                f"The trailer says {int(cell)} rows{besides}; the file has {records} records (trailer.rows). {_REMEDY}",
                rule="trailer.rows",
            )

    def _check_sum(self, name: str, cell: str, damaged: int) -> None:
        field = _wide(self._spec.field(name))
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


def _wide(field: FieldSpec) -> FieldSpec:
    """The field with room for a sum."""
    return field.model_copy(update={"precision": 38}) if field.type == "number" else field


def _cells(text: str, spec: TableSpec) -> list[str]:
    delimiter, quote = spec.dialect.delimiter, spec.dialect.quoteChar
    if len(delimiter) > 1 or not quote:
        cells = text.split(delimiter)
    else:
        cells = next(csv.reader([text], delimiter=delimiter, quotechar=quote), [])
    return [cell.strip() for cell in cells]


def _cell(cells: list[str], position: int, option: str) -> str:
    if position > len(cells):
        raise RefusedError(
            f"The trailer has {len(cells)} cells; {option} names cell {position}. {_REMEDY}",
            rule="trailer.missing",
        )
    return cells[position - 1]
