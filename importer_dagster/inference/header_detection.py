"""Telling a header from the records below it, by signs of names and of values.

What does not belong here: the dialect that records are read with (``inference/dialect.py``),
and what an import does with a header (``reader/header.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAME_LENGTH = 120  # characters; a longer text is no name of a column
_NUMBER = re.compile(r"[-+(]?[$€£]?\s?[\d.,'\s]*\d[\d.,'\s]*%?\)?(?:[eE][-+]?\d+)?")
_DATE_LIKE = re.compile(
    r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[T ].*)?|\d{1,2}:\d{2}.*|[A-Za-z]{3,9}\.? \d{1,2},? \d{4}"
    r"|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-.*"
)
_NO_NAMES = {
    "nan", "inf", "-inf", "infinity", "-infinity", "n/a", "#n/a", "null", "[null]", "\\n", "-", "true", "false",
}  # fmt: skip
_YEAR = re.compile(r"(?:19|20)\d\d")


def _is_value(text: str) -> bool:
    """Whether a text is certainly data: a number, a date, a UUID, a word for a missing value."""
    text = text.strip()
    return bool(_NUMBER.fullmatch(text) or _DATE_LIKE.fullmatch(text)) or text.casefold() in _NO_NAMES


def looks_like_names(record: Sequence[str]) -> bool:
    """Whether all cells could be names of columns."""
    cells = [c.strip() for c in record]
    while cells and not cells[-1]:
        cells.pop()
    if (
        not cells
        or any(len(c) > _NAME_LENGTH for c in cells)
        or sum(not c for c in cells) > max(1, len(cells) // 4)
    ):
        return False
    values = [c for c in cells if _is_value(c)]
    if not values:
        return True
    # a table with a column for each year or day: 'Country,2019,2020,2021'
    series = values == cells[len(cells) - len(values) :] and len(values) >= 2 and len(values) < len(cells)
    dated = all(_YEAR.fullmatch(v) or _DATE_LIKE.fullmatch(v) for v in values)
    return series and dated and len(set(values)) == len(values)


def has_header(records: Sequence[Sequence[str]]) -> tuple[bool, str]:  # noqa: PLR0911 - one for each sign
    """Whether the first record is a header, and why; the surest signs are looked for first."""
    first, below = records[0], records[1:]
    if not looks_like_names(first):
        return False, "the first record has values, not names"
    if not below:
        return True, "the first record has names, and there are no others"
    for i, cell in enumerate(first):
        column = [r[i].strip() for r in below if i < len(r) and r[i].strip()]
        if column and sum(map(_is_value, column)) > 0.5 * len(column) and not _is_value(cell):
            return True, f"below {cell.strip()[:30]!r} there are values"
    if any(len(c.split()) > 6 for c in first):
        return False, "the first record has whole sentences"
    if any(not c.strip() for c in first[1:-1]):
        return False, "the first record has an empty name"
    again = [c for i, c in enumerate(first) if c and any(i < len(r) and r[i] == c for r in below)]
    if again and len(first) > 1 and any(list(r) == list(first) for r in below):
        return True, "the first record is repeated further down"
    if again:
        return False, f"{again[0][:30]!r} of the first record is repeated further down"
    if len(first) == 1 and not re.fullmatch(r"[\w .-]*[^\W\d][\w .()#/-]*", first[0].strip()):
        return False, "the first record is not a name"
    for i, cell in enumerate(first):  # a column of codes that all have one shape, the first record's, too
        shapes = {_shape(r[i]) for r in below if i < len(r)}
        if len(below) > 2 and shapes == {_shape(cell)} and re.search(r"\d", cell):
            return False, "the first record looks like the others"
    return True, "the first record has distinct names that do not occur below"


def _shape(text: str) -> str:
    """The text with 9 for each digit, a for each small letter and A for each capital letter."""
    return re.sub(r"[a-z]", "a", re.sub(r"[A-Z]", "A", re.sub(r"\d", "9", text)))


def header_rows(records: Sequence[Sequence[str]], width: int) -> int:
    """How many records at the start belong to the header: more than one only if all records below hold values."""
    if width > 1 and len(records) > 1 and [c.strip() for c in records[0]] == [c.strip() for c in records[1]]:
        return 2
    names = [
        len(r) == len(records[0]) and all(c.strip() and not _is_value(c) for c in r) for r in records[:5]
    ]
    rows = next((i for i, is_names in enumerate(names) if not is_names), 0)
    below = records[rows:]
    all_values = all(_is_value(v) for r in below for v in r[:width] if v.strip())
    return rows if 1 < rows < len(names) and width > 1 and len(below) > 1 and all_values else 1
