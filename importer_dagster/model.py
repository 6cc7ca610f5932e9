"""Frozen dataclasses that the packages pass to each other.

What does not belong here: any behaviour. Nor an import of Arrow at run time, since Dagster's
definitions do without it (``reject_schema.py`` has the Arrow schemas of rejects).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Rank = tuple[date, str]  # business date and path, by which deliveries are ordered
Status = Literal["loaded", "unchanged", "held", "refused", "failed"]


@dataclass(frozen=True)
class Delivery:
    """One file as delivered.

    ``path`` (with type, tenant and date) identifies it in the ledger; for a file of the inbox
    it is relative to it. ``url`` is what fsspec opens. ``tenant`` is "" if the path names none;
    ``has_tenant`` says whether the type's paths name tenants at all, so whether its table has
    ``_tenant``. ``size`` is in bytes as listed, None if unknown. ``waiting`` says why a file is
    not complete yet. ``file_version`` is a text from the listing that changes with the file's
    content, None if the file was not listed. ``inbox`` is the local folder in which the file
    was listed; it may only be read from there.
    """

    type: str
    tenant: str
    business_date: date
    path: str
    url: str
    size: int | None = None
    has_tenant: bool = True
    waiting: str | None = None
    file_version: str | None = None
    inbox: str | None = None


class Reason(NamedTuple):
    """What many rejected cells have in common.

    A cell's message is ``words`` and the cell's details, with the cell's value, if it has one,
    in front of them if ``quotes``.
    """

    column_name: str | None
    rule: str
    words: str
    quotes: bool


@dataclass(frozen=True)
class Failure:
    """Cells of one column of a batch that break one rule; for whole rows ``column`` is None.

    ``indexes`` (int64, ascending) are the rows, counted from 0 in the batch. ``values`` (string)
    are the cells' texts. ``words`` says what is wrong, for all cells or for each.
    """

    column: str | None
    rule: str
    indexes: np.ndarray
    values: pa.Array
    words: str | pa.Array


class Locate(Protocol):
    """Finds records of a batch in the bytes that the batch was read from."""

    def __call__(self, indexes: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """For rows of the batch (counted from 0): their physical lines (int64) and raw text (string)."""


@dataclass(frozen=True)
class Duplicate:
    """A row deleted from the staging table because an earlier row of the file has the same key."""

    row: int
    first_row: int


@dataclass(frozen=True)
class TextBatch:
    """Records as text, one string column per wanted header column.

    ``columns`` has text exactly as in the file; null for a cell that was empty without
    quotes, or an unquoted missing-value token. ``rows`` (int64) are the record numbers.
    ``rejects`` (REJECT_SCHEMA) are the damaged records in the same part of the file;
    ``skipped`` counts records that the spec declares to be no data, such as footers
    (comments are not records). ``most_left`` is how many records can follow at most, None if that is not known.
    """

    columns: pa.RecordBatch
    rows: pa.Array
    rejects: pa.Table
    locate: Locate
    skipped: int = 0
    most_left: int | None = None


@dataclass(frozen=True)
class DriftEvent:
    """One difference between a delivery and its spec.

    ``kind`` is added, removed, renamed, reordered, retyped (values of another
    type), evolved (the table gained the column), version (another way of
    writing, as declared), or warning (anything else that is unusual but did not
    stop the load). ``declared`` says that the spec declares it: an alias, or a version
    that begins with this delivery. ``profile`` sums up the values of a column that
    the spec does not know, as JSON.
    """

    kind: str
    column_name: str | None
    detail: str
    declared: bool = False
    profile: Mapping[str, object] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ColumnMapping:
    """How a header's columns become the spec's fields.

    ``sources`` maps a field's name to the header's position (from 0); a field
    that is absent is not in it. ``extras`` are positions to keep in ``_extra``.
    """

    sources: Mapping[str, int]
    extras: tuple[int, ...] = ()
    events: tuple[DriftEvent, ...] = ()


@dataclass(frozen=True)
class Finding:
    """An objection of a type's gate: rule (rows, rejects, unique …), action (warn, refuse, hold), and the reason."""

    rule: str
    action: str
    detail: str


@dataclass(frozen=True)
class LoadResult:
    """How the import of one delivery ended: rows_read is the sum of the other four counts.

    ``rejects`` (REJECT_SCHEMA, the first thousand) is set by a rehearsal only;
    after an import they are in the ledger.
    """

    delivery: Delivery
    status: Status
    load_id: int | None = None
    rows_read: int = 0
    rows_loaded: int = 0
    rows_rejected: int = 0
    rows_skipped: int = 0
    rows_unchanged: int = 0
    reason: str | None = None
    drift: tuple[DriftEvent, ...] = field(default=())
    gate: tuple[Finding, ...] = field(default=())
    bytes: int | None = None
    sha256: str | None = None
    seconds: float = 0.0
    rejects: pa.Table | None = field(default=None, repr=False, compare=False)
