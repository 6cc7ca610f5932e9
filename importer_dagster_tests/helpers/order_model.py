"""A plain model of every write_disposition, and a tenant that is compared with it."""

import datetime
import uuid
from pathlib import Path

import pytest

from importer_dagster.errors import UsageError
from importer_dagster.operations import unload as operations_unload
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import DAY, Inbox, make_spec

KEYS, VALUES, DAYS = range(5), "abc", range(4)


KINDS = ["append", "replace", "merge", "scd2 keep", "scd2 close"]


Rows = list[tuple[int, str]]  # as in the file: a key may come twice


Place = tuple[int, str]  # day and path; a path stands for one day's file


def spec_of(kind: str) -> TableSpec:
    disposition, _, absent = kind.partition(" ")
    more = {"scd2": {"absent": absent}} if absent else {}
    more["gate"] = {"empty": "load"}
    fields = [{"name": "id", "type": "integer"}, {"name": "v"}]
    return make_spec(
        name=kind.replace(" ", "_"), fields=fields, key=["id"], write_disposition=disposition, **more
    )


def accepted(rows: Rows) -> dict[int, str]:
    """Of rows with the same key the first stands."""
    return dict(reversed(rows))


def model(kind: str, in_force: dict[Place, Rows]) -> list[tuple]:
    """(id, value, day of the delivery that began it; for scd2 the day it ends) of every row of the table."""
    days: dict[int, list[dict[int, str]]] = {}
    for (day, _), rows in sorted(in_force.items()):
        days.setdefault(day, []).append(accepted(rows))
    if kind == "append":
        return sorted((k, v, day) for day, files in days.items() for rows in files for k, v in rows.items())
    if kind == "replace":
        newest = max(days, default=None)
        merged = {k: v for rows in days.get(newest, []) for k, v in rows.items()}
        return sorted((k, v, newest) for k, v in merged.items())
    if kind == "merge":
        return model_of_merge(days)
    return model_of_history(days, closes=kind == "scd2 close")


def model_of_merge(days: dict[int, list[dict[int, str]]]) -> list[tuple]:
    state: dict[int, tuple[str, int]] = {}
    for day, files in days.items():
        for k, v in ((k, v) for rows in files for k, v in rows.items()):
            if k not in state or state[k][0] != v:
                state[k] = (v, day)
    return sorted((k, v, day) for k, (v, day) in state.items())


def model_of_history(days: dict[int, list[dict[int, str]]], *, closes: bool) -> list[tuple]:
    ended: list[tuple] = []
    current: dict[int, tuple[str, int]] = {}
    for day, files in days.items():
        said = {k: v for rows in files for k, v in rows.items()}
        for k in list(current):
            if (k in said and said[k] != current[k][0]) or (k not in said and closes):
                ended.append((k, *current.pop(k), day))
        for k, v in said.items():
            current.setdefault(k, (v, day))
    return sorted(ended + [(k, v, day, None) for k, (v, day) in current.items()], key=str)


class Tenant:
    """One tenant of a warehouse that others use too, and what it should hold: path → its loads, in order."""

    def __init__(self, folder: Path, warehouse: Warehouse, kind: str) -> None:
        self.name = uuid.uuid4().hex
        self.inbox = Inbox(folder / self.name, warehouse)
        self.kind, self.spec = kind, spec_of(kind)
        self.loads: dict[Place, list[tuple[int, Rows]]] = {}

    def load(self, place: Place, rows: Rows) -> None:
        """Send a file; the same content again must change nothing."""
        result = send(self.inbox, self.spec, self.name, place, rows)
        stack = self.loads.setdefault(place, [])
        if stack and stack[-1][1] == rows:
            assert (result.status, result.load_id) == ("unchanged", stack[-1][0])
        else:
            assert result.status == "loaded"
            stack.append((result.load_id, rows))

    def unload(self, load_id: int) -> None:
        """Take one out, in force or not; a second time there is nothing to take out."""
        place = next(p for p, stack in self.loads.items() if any(i == load_id for i, _ in stack))
        self.loads[place] = [(i, rows) for i, rows in self.loads[place] if i != load_id]
        args = (load_id, {self.spec.name: self.spec})
        options = {"warehouse": self.inbox.warehouse, "has_tenant": lambda _: True}
        foreseen = operations_unload.unload(*args, **options, dry_run=True)
        done = operations_unload.unload(*args, **options)
        assert done == foreseen
        assert done.after - done.before == done.changes.back - done.changes.gone
        with pytest.raises(UsageError, match="is unloaded"):
            operations_unload.unload(*args, **options)

    def check(self) -> None:
        """The table is the model's, and every accepted row of every load is kept exactly once."""
        in_force = {place: stack[-1][1] for place, stack in self.loads.items() if stack}
        ends = ", _valid_to" if "scd2" in self.kind else ""
        with self.inbox.warehouse.connect() as conn:
            found = conn.execute(
                f"SELECT id, v, _business_date{ends} FROM {self.spec.name} WHERE _tenant = %s", (self.name,)
            ).fetchall()
            rows = [(*r[:2], *((d - DAY).days if d else None for d in r[2:])) for r in found]
            assert sorted(rows, key=str) == sorted(model(self.kind, in_force), key=str)
            self._check_conservation(conn)

    def _check_conservation(self, conn) -> None:
        name = self.spec.name
        parts = [f"SELECT _load_id, _row FROM {t}" for t in (name, f"importer_superseded.{name}")]
        if self.kind not in ("append", "replace"):
            parts.append(f"SELECT _load_id, _block + r FROM importer_repeats.{name}, unnest(_row) AS r")
        union = " UNION ALL ".join(f"{part} WHERE _tenant = %(t)s" for part in parts)
        kept = conn.execute(
            f"""SELECT l.load_id, count(r._row), count(DISTINCT r._row)
                FROM importer.loads l LEFT JOIN ({union}) r ON r._load_id = l.load_id
                WHERE l.tenant = %(t)s GROUP BY 1""",
            {"t": self.name},
        ).fetchall()
        expected = {i: len(accepted(rows)) for stack in self.loads.values() for i, rows in stack}
        assert {i: (n, d) for i, n, d in kept if n or i in expected} == {
            i: (n, n) for i, n in expected.items()
        }


def send(inbox: Inbox, spec: TableSpec, tenant: str, place: Place, rows: Rows):
    day, letter = place
    content = "id,v\n" + "".join(f"{k},{v}\n" for k, v in rows)
    when = DAY + datetime.timedelta(days=day)
    return inbox.load(spec, content, path=f"{day}{letter}.csv", day=when, tenant=tenant)
