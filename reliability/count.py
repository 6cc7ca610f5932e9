"""What the tables must hold, worked out from the files with Python's csv module and nothing of the importer.

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
class Content:
    """One file: how many records, and the good ones in order."""

    records: int
    good: tuple[tuple[int, str | None, Decimal | None], ...]


def read(file: Path, *, keyed: bool) -> Content:
    """Count a file's records; of those that share a key the first is good."""
    with file.open(newline="", encoding="utf-8") as lines:
        _, *records = csv.reader(lines)
    good: list[tuple[int, str | None, Decimal | None]] = []
    seen: set[int] = set()
    for record in records:
        row = _judged(record)
        if row is not None and not (keyed and row[0] in seen):
            seen.add(row[0])
            good.append(row)
    return Content(len(records), tuple(good))


def _judged(record: list[str]) -> tuple[int, str | None, Decimal | None] | None:
    if len(record) != 3:
        return None
    try:
        return int(record[0]), record[1] or None, Decimal(record[2]) if record[2] else None
    except (ValueError, InvalidOperation):
        return None


def table(disposition: str, files: Mapping[Place, Content]) -> Counter[Row]:
    """The rows that the table must hold (scd2: the current ones)."""
    if disposition == "append":
        return Counter((tenant, *row) for (tenant, _), c in files.items() for row in c.good)
    if disposition == "replace":
        newest = dict(sorted(files))
        return Counter((tenant, *row) for tenant, day in newest.items() for row in files[tenant, day].good)
    standing: dict[tuple[str, int], Row] = {}
    for (tenant, _), content in sorted(files.items()):
        for row in content.good:
            standing[tenant, row[0]] = (tenant, *row)
    return Counter(standing.values())


def difference(expected: Counter[Row], found: Iterable[Row]) -> int:
    """How many rows only one of them has."""
    have = Counter(found)
    return sum((expected - have).values()) + sum((have - expected).values())
