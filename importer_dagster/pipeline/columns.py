"""The columns of one delivery: what becomes of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.errors import ImporterError
from importer_dagster.model import Delivery, DriftEvent
from importer_dagster.reader.reader import open_delivery
from importer_dagster.spec.table import TableSpec

VALUES = 300  # different values that are kept
_LENGTH = 200  # characters of each
_CHARACTERS = 12_000  # of all of them


def with_profiles(
    events: Sequence[DriftEvent], delivery: Delivery, spec: TableSpec, headers: dict[str, str]
) -> tuple[DriftEvent, ...]:
    """``events``, those about unknown columns or values of another type with a profile of the column.

    ``spec`` reads the delivery; ``headers`` are the headers of fields by name. A file
    that cannot be read again keeps its events as they are.
    """
    wanted = {i: _header_of(e, headers) for i, e in enumerate(events) if needs_profile(e)}
    if not wanted:
        return tuple(events)
    try:
        found = _profiles(delivery, spec, set(wanted.values()))
    except ImporterError:
        return tuple(events)
    return tuple(
        replace(e, profile={**(e.profile or {}), **found[wanted[i]]}) if wanted.get(i) in found else e
        for i, e in enumerate(events)
    )


def needs_profile(event: DriftEvent) -> bool:
    """Whether the values of the column that an event is about belong to it."""
    return event.kind in ("added", "retyped") and not event.declared and event.column_name is not None


def _header_of(event: DriftEvent, headers: dict[str, str]) -> str:
    name = str(event.column_name)
    return headers.get(name, name) if event.kind == "retyped" else name


def _profiles(delivery: Delivery, spec: TableSpec, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    with open_delivery(delivery, spec) as reader:
        places = {n: reader.header.index(n) for n in names if n in reader.header}
        reader.select(sorted(places.values()))
        batch = next(iter(reader.batches()), None)
        if batch is None:
            return {}
        return {n: profile(batch.columns.column(str(i))) for n, i in places.items()}


def profile(cells: pa.Array) -> dict[str, Any]:
    """How many values there are and how many are missing, and some of the different ones."""
    texts = pc.unique(cells.drop_null())
    counted = {"rows": len(cells), "missing": cells.null_count, "distinct": len(texts)}
    if not len(texts):
        return {**counted, "values": []}
    longest = pc.max(pc.utf8_length(texts)).as_py() or 1
    most = max(1, min(VALUES, len(texts), _CHARACTERS // min(longest, _LENGTH)))
    some = np.unique(np.linspace(0, len(texts) - 1, most).astype(np.int64))
    values = pc.utf8_slice_codeunits(texts.take(pa.array(some)), 0, _LENGTH).to_pylist()
    return {**counted, "values": values}
