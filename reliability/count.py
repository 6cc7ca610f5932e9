"""What the tables must hold, computed from the files with Python's csv module, without any code of the importer.

What does not belong here: reading tables (``soak.py``).
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

Row = tuple[str, int, str | None, Decimal | None]  # tenant, id, v, n
Place = tuple[str, str]  # tenant, day; a type has one file for each


@dataclass(frozen=True)
class FileContent:
    """One file: the number of its records, and the good records in their order."""

    records: int
    good: tuple[tuple[int, str | None, Decimal | None], ...]


def read(file: Path, *, keyed: bool) -> FileContent:
    """Count a file's records and find the good ones. Of records with the same key, the first is good."""
    with file.open(newline="", encoding="utf-8") as lines:
        _, *records = csv.reader(lines)
    good: list[tuple[int, str | None, Decimal | None]] = []
    seen: set[int] = set()
    for record in records:
        row = _judged(record)
        if row is not None and not (keyed and row[0] in seen):
            seen.add(row[0])
            good.append(row)
    return FileContent(len(records), tuple(good))


def _judged(record: list[str]) -> tuple[int, str | None, Decimal | None] | None:
    if len(record) != 3:
        return None
    try:
        return int(record[0]), record[1] or None, Decimal(record[2]) if record[2] else None
    except (ValueError, InvalidOperation):
        return None


def table(disposition: str, files: Mapping[Place, FileContent]) -> Counter[Row]:
    """The rows that the table must hold (scd2: the current ones)."""
    if disposition == "append":
        return Counter((tenant, *row) for (tenant, _), c in files.items() for row in c.good)
    if disposition == "replace":
        newest = dict(sorted(files))
        return Counter((tenant, *row) for tenant, day in newest.items() for row in files[tenant, day].good)
    rows: dict[tuple[str, int], Row] = {}
    for (tenant, _), content in sorted(files.items()):
        for row in content.good:
            rows[tenant, row[0]] = (tenant, *row)
    return Counter(rows.values())


def difference(expected: Counter[Row], found: Iterable[Row]) -> int:
    """How many rows are in one of them only."""
    have = Counter(found)
    return sum((expected - have).values()) + sum((have - expected).values())
