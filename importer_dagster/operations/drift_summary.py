"""Sums up the drift of a type's deliveries: what differs from its spec as it is now, and since when.

What does not belong here: what to do about it (``operations/spec_proposals.py``), recording drift
(``pipeline/delivery.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa

from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import parse

Edit = Callable[[str], str]  # of a spec's YAML text
Event = Mapping[str, Any]  # with kind, column_name, detail, declared, profile


@dataclass(frozen=True)
class DeliveryDrift:
    """One delivery and its drift events in the ledger."""

    tenant: str
    day: date
    path: str
    status: str
    drift: tuple[Event, ...] = ()


@dataclass(frozen=True)
class SpecChange:
    """One difference between a type's deliveries and its spec, and what is proposed for it.

    ``since`` is its first day, ``first`` the path of its first delivery; ``deliveries`` have it,
    and ``refused`` of them were refused. ``until`` is the last day of a difference that newer
    deliveries do not have any more; its ``edit`` is for those who ask for it. ``everywhere``
    says that all deliveries since then have it. ``edit`` changes the spec's YAML; it is None
    if there is nothing to propose, and ``advice`` says why.
    """

    kind: str
    column: str | None
    detail: str
    since: date
    first: str
    deliveries: int
    refused: int
    until: date | None = None
    everywhere: bool = True
    profile: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""
    edit: Edit | None = None


def open_changes(spec: TableSpec, deliveries: Sequence[DeliveryDrift]) -> list[SpecChange]:
    """The differences that the spec does not cover yet, without proposals.

    A difference counts from the first day since when all files of a tenant have it.
    """
    ordered = sorted(deliveries, key=lambda d: (d.day, d.path.encode()))
    events_of: dict[tuple[str, str | None], list[tuple[DeliveryDrift, Event]]] = {}
    for delivery in ordered:
        for event in _open_events(spec, delivery):
            events_of.setdefault((event["kind"], event["column_name"]), []).append((delivery, event))
    found = []
    for (kind, column), events in events_of.items():
        having = {id(delivery) for delivery, _ in events}
        began: dict[str, DeliveryDrift] = {}
        for tenant in {delivery.tenant for delivery, _ in events}:
            for delivery in reversed([d for d in ordered if d.tenant == tenant]):
                if id(delivery) not in having:
                    break
                began[tenant] = delivery
        first = min(began.values(), key=lambda d: (d.day, d.path)) if began else events[0][0]
        last_delivery, last_event = events[-1]
        change = SpecChange(
            kind,
            column,
            str(last_event["detail"]),
            first.day,
            first.path,
            len(events),
            sum(delivery.status == "refused" for delivery, _ in events),
            until=None if began else last_delivery.day,
            everywhere=all(id(d) in having for d in ordered if d.day >= first.day),
            profile=last_event["profile"] or {},
        )
        found.append(change)
    return found


def _open_events(spec: TableSpec, delivery: DeliveryDrift) -> Iterator[Event]:
    """A delivery's events that the spec, as it is now, does not cover."""
    layout = spec.layout(delivery.day)
    events = [e for e in delivery.drift if not e["declared"] and e["kind"] not in ("evolved", "warning")]
    headers = {e["column_name"] for e in events if e["kind"] == "added"}
    fields = {f.name: f for f in layout.spec.fields}
    with_other_header = {f.name for f in layout.spec.fields if headers & set(f.names)}
    own_names = {n for f in layout.spec.fields for n in (f.name, *f.names)}
    for event in events:
        kind, column, profile = event["kind"], event["column_name"], event["profile"] or {}
        own = fields.get(str(column))
        if kind == "added" and column in own_names:
            continue
        if kind == "removed" and (column not in fields or column in with_other_header):
            continue
        if kind == "renamed" and (own is None or profile.get("header") in own.names):
            continue
        if kind == "retyped" and (
            own is None or share_read(profile.get("values") or [], own, layout.spec) > 0.5
        ):
            continue
        yield event


def share_read(values: Sequence[str], own: FieldSpec, spec: TableSpec) -> float:
    """The share of texts that can be read as values of the field; 0 if there are none."""
    if not values:
        return 0.0
    _, bad = parse.parse(pa.array(values, pa.string()), own, spec.missing_values(own))
    return 1 - (len(bad.indexes) if bad is not None else 0) / len(values)
