"""What the rooms hand to each other: frozen dataclasses.

What does not belong here: any behaviour. A room never imports its neighbour;
it takes and returns these, and ``pipeline`` joins them. Nor Arrow itself, which the
definitions need not load (``reject_schema.py`` has its schemas).
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

    ``path`` (with type, tenant and date) identifies it in the ledger; it is
    relative to the inbox where the file lies below it. ``url`` is what fsspec
    opens. ``tenant`` is "" where none is named; ``has_tenant`` says whether the
    type's paths name tenants at all, so whether its table has ``_tenant``.
    ``size`` is in bytes as listed, None when unknown. ``waiting`` says what a
    file that is not complete yet waits for. ``file_version`` is what the listing said of
    it that changes with its content, None if it was not listed. ``inbox`` is the
    local folder that it was listed in, and must be read from.
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

    Their message is ``words`` and a cell's own details; ``quotes``: behind the
    cell's value, if it has one.
    """

    column_name: str | None
    rule: str
    words: str
    quotes: bool


@dataclass(frozen=True)
class Failure:
    """Cells of one column of a batch (or whole rows, then ``column`` is None) that break one rule.

    ``indexes`` (int64, ascending) count from 0 inside the batch; ``values`` (string)
    are the cells' texts, ``words`` what is wrong, where it differs one for each cell.
    """

    column: str | None
    rule: str
    indexes: np.ndarray
    values: pa.Array
    words: str | pa.Array


class Locate(Protocol):
    """Finds records of one batch again in the bytes that it was read from."""

    def __call__(self, indexes: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """For rows of the batch (counted from 0): their physical lines (int64) and raw text (string)."""


@dataclass(frozen=True)
class Duplicate:
    """A staged row taken out because an earlier row of the file has the same key."""

    row: int
    value: str
    first_row: int


@dataclass(frozen=True)
class TextBatch:
    """Records as text, one string column per wanted header column.

    ``columns`` holds text exactly as in the file; null where the cell was
    empty without quotes or an unquoted missing-value token. ``rows`` (int64)
    is the record number of each. ``rejects`` (REJECT_SCHEMA) are the damaged
    records met in the same stretch of the file; ``skipped`` counts records
    that are no data by declaration (footers, comments are not records).
    """

    columns: pa.RecordBatch
    rows: pa.Array
    rejects: pa.Table
    locate: Locate
    skipped: int = 0


@dataclass(frozen=True)
class DriftEvent:
    """One difference between a delivery and its spec.

    ``kind`` is added, removed, renamed, reordered, retyped (values of another
    type), evolved (the table gained the column), version (another way of
    writing, as declared), of the header; or warning, of anything else that was
    odd but did not stop the load.
    ``declared`` says that the spec foresees it: an alias, or a version that
    begins with this delivery. ``profile`` sums up the values of a column that
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
    """What a type's gate objects to: rule (rows, rejects, unique …), action (warn, refuse, hold), words."""

    rule: str
    action: str
    detail: str


@dataclass(frozen=True)
class LoadResult:
    """What became of one delivery; the counts obey the law of conservation.

    ``rejects`` (REJECT_SCHEMA, the first thousand) is set by a rehearsal only:
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
