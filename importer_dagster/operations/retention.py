"""What is deleted after a time, so that nothing grows for ever: :func:`prune`.

Most of it is of the ledger: small transactions that no import waits for but for
a slot of the cap. Rows of a type's tables are deleted with the turn of that type
and tenant, as an import would write them.

What must stay, and why, is written at the statements (``sql/retention.sql``).

What does not belong here: Dagster's own records (``operations/dagster_retention.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg
from psycopg import sql

from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.settings import Keep, keep_variable
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer import held_rows
from importer_dagster.writer.target import REPEATS, SUPERSEDED, Target, column_list, run_statement, statements

HasTenant = Callable[[TableSpec], bool]

_NAME = "retention (no type)"  # in the queue of writers
_SOME = 5_000  # rows of the ledger in one transaction
_SOME_LOADS = 200


@dataclass(frozen=True)
class Gone:
    """One kind of thing that went, or would go. ``oldest`` is when the oldest of them came to be.

    ``keep`` is the field of Keep that it goes by; None for what nothing points to.
    """

    what: str
    keep: str | None
    days: int
    count: int
    oldest: datetime | None = None

    @property
    def setting(self) -> str:
        """The environment variable that says for how long it is kept."""
        return keep_variable(self.keep) if self.keep else ""


def prune(
    warehouse: Warehouse,
    specs: Mapping[str, TableSpec],
    keep: Keep,
    *,
    has_tenant: HasTenant,
    now: datetime | None = None,
    dry_run: bool = False,
) -> list[Gone]:
    """Delete what is older than ``keep`` says and nothing goes by any more; with ``dry_run`` only count it.

    Begun again after a crash, it goes on where it was. Types that are in no spec
    any more keep the rows of their tables, and lose what the ledger has of them.
    """
    ledger_schema.migrate(warehouse)
    work = _Prune(warehouse, specs, keep, has_tenant, now or datetime.now(UTC), dry_run)
    return [gone for gone in work() if gone.count]


@dataclass(frozen=True)
class _Old:
    """A load some of whose rows are to go."""

    load_id: int
    type: str
    tenant: str
    at: datetime


@dataclass(frozen=True)
class _Done:
    """All that the ledger has of one delivery of which nothing is left to do."""

    tenant: str
    ids: tuple[int, ...]
    at: datetime


class _Prune:
    """One pass over everything, in an order in which one deletion makes room for the next.

    But for what the ledger has of days that are done: that goes first, so that a
    rehearsal sees what a real pass sees.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        specs: Mapping[str, TableSpec],
        keep: Keep,
        has_tenant: HasTenant,
        now: datetime,
        dry_run: bool,
    ) -> None:
        self.warehouse, self.specs, self.keep, self.has_tenant = warehouse, specs, keep, has_tenant
        self.now, self.dry_run = now, dry_run
        # what a rehearsal would have done so far: loads whose rows it pruned, and that it deleted
        self.marked: set[int] = set()
        self.gone: set[int] = set()

    def __call__(self) -> Iterator[Gone]:
        yield self._done()
        yield self._rows("rows of files that were sent again", "replaced", self._replaced)
        yield self._rows("rows of earlier days (replace)", "copies", self._copies)
        yield self._rows("what was said before (merge, scd2)", "history", self._histories, self._tenth())
        yield self._by_load("rejects, by load", "rejects", "rejects")
        yield self._by_row("samples of values", "profiles", "profiles")
        yield self._by_row("drift events", "drift", "drift")
        yield self._by_row("findings of gates", "drift", "findings")
        yield self._by_row("reports of missing files", "loads", "missing")
        yield self._by_load("ledger rows", "loads", "loads")
        yield self._held_leftovers()

    def _before(self, kind: str) -> datetime | None:
        days = getattr(self.keep, kind)
        return self.now - timedelta(days=days) if days else None

    def _gone(self, what: str, kind: str, count: int, oldest: datetime | None) -> Gone:
        return Gone(what, kind, getattr(self.keep, kind), count, oldest)

    # --- the ledger ---

    def _turn(self) -> AbstractContextManager[psycopg.Connection]:
        """A connection for the ledger's own rows: whoever writes holds a slot; to count needs none."""
        if self.dry_run:
            return self.warehouse.connect()
        return self.warehouse.writing(_NAME, "", size=0)

    def _by_load(self, what: str, kind: str, name: str) -> Gone:
        """Loads whose own row, or whose rejects, go; some of them in a transaction."""
        before, count, oldest = self._before(kind), 0, None
        if before is None:
            return self._gone(what, kind, 0, None)
        gone, marked = {*self.gone}, [*self.marked]
        with self._turn() as conn:
            # what goes may leave others that nothing points to any more
            while found := self._run(
                conn, f"old_{name}", before=before, marked=marked, gone=[*gone]
            ).fetchall():
                count += len(found)
                oldest = min([oldest or found[0][1], *(at for _, at in found)])
                gone.update(load_id for load_id, _ in found)
                if not self.dry_run:
                    self._delete(conn, name, [load_id for load_id, _ in found])
        return self._gone(what, kind, count, oldest)

    def _delete(self, conn: psycopg.Connection, name: str, ids: Sequence[int]) -> None:
        for start in range(0, len(ids), _SOME_LOADS):
            self._run(conn, f"delete_{name}", ids=list(ids[start : start + _SOME_LOADS]))
            conn.commit()

    def _done(self) -> Gone:
        """What the ledger has of deliveries that are done with, one type and tenant after the other."""
        what, before, found = "ledger rows of days that are done", self._before("done"), list[_Done]()
        if before is not None:
            for spec in self.specs.values():
                for tenant, some in groupby(self._without_rows(spec, before), lambda d: d.tenant):
                    found += self._take_done(spec, tenant, list(some), before)
        self.gone.update(load_id for d in found for load_id in d.ids)
        return self._gone(what, "done", len(self.gone), min((d.at for d in found), default=None))

    def _without_rows(self, spec: TableSpec, before: datetime) -> list[_Done]:
        """By tenant. A load that has lost its last row never gets one again, so this needs no lock."""
        with self.warehouse.connect() as conn:
            found = self._old_done(conn, spec, before)
            ids = [load_id for d in found for load_id in d.ids]
            owners: set[int] = set()
            for schema_name in (self.warehouse.schema, SUPERSEDED, REPEATS):
                if ids and (names := _existing(conn, schema_name, spec.name)) is not None:
                    owners.update(i for (i,) in self._run(conn, "owners", ids=ids, names=names))
        return sorted((d for d in found if owners.isdisjoint(d.ids)), key=lambda d: d.tenant)

    def _old_done(self, conn: psycopg.Connection, spec: TableSpec, before: datetime) -> list[_Done]:
        empties = spec.write_disposition == "append"
        rows = self._run(conn, "old_done", type=spec.name, before=before, empties=empties).fetchall()
        return [_Done(tenant, tuple(ids), at) for tenant, ids, at in rows]

    def _take_done(
        self, spec: TableSpec, tenant: str, found: Sequence[_Done], before: datetime
    ) -> Sequence[_Done]:
        if self.dry_run:
            return found
        with self.warehouse.writing(spec.name, tenant, size=0) as conn:
            # once more: it took a while until it was our turn, and one may have been sent again
            still = {d.ids for d in self._old_done(conn, spec, before)}
            found = [d for d in found if d.ids in still]
            self._delete(conn, "loads", [load_id for d in found for load_id in d.ids])
        return found

    def _by_row(self, what: str, kind: str, name: str) -> Gone:
        before = self._before(kind)
        if before is None:
            return self._gone(what, kind, 0, None)
        old = sql.SQL(statements("retention")[f"old_{name}"])
        with self._turn() as conn:
            counted = sql.SQL("SELECT count(*), min(at) FROM ({}) AS old").format(old)
            values = {"before": before, "gone": [*self.gone]}
            row = conn.execute(counted, values).fetchone()
            conn.commit()
            assert row
            left = 0 if self.dry_run else row[0]
            while left > 0:
                names = {f"old_{name}": old}
                done = self._run(conn, f"delete_{name}", some=_SOME, names=names, **values).rowcount
                conn.commit()
                left = left - done if done else 0
        return self._gone(what, kind, *row)

    def _held_leftovers(self) -> Gone:
        """Tables of held loads that are not held any more: none, unless somebody meddled with the ledger."""
        with self._turn() as conn:
            names = held_rows.leftovers(conn)
            if not self.dry_run:
                for name in names:
                    conn.execute(
                        sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(held_rows.SCHEMA, name))
                    )
                    conn.commit()
        return Gone("tables of loads that are not held any more", None, 0, len(names))

    # --- rows of the types' tables ---

    def _rows(
        self,
        what: str,
        kind: str,
        find: Callable[[psycopg.Connection, datetime], list[_Old]],
        slack: timedelta = timedelta(0),
    ) -> Gone:
        """Rows of some loads, one type and tenant after the other, each with its turn; counts the loads' rows."""
        before = self._before(kind)
        if before is None:
            return self._gone(what, kind, 0, None)
        with self.warehouse.connect() as conn:
            found = find(conn, before)
        count, oldest = 0, None
        whose = itemgetter(0, 1)
        for (type_name, tenant), group in groupby(
            sorted(((o.type, o.tenant, o) for o in found), key=whose), whose
        ):
            olds = [o for _, _, o in group]
            first = min(o.at for o in olds)
            if first > before - slack:
                continue  # soon, with others
            count += self._take(kind, find, before, type_name, tenant)
            oldest = min(oldest or first, first)
        return self._gone(what, kind, count, oldest)

    def _take(
        self,
        kind: str,
        find: Callable[[psycopg.Connection, datetime], list[_Old]],
        before: datetime,
        type_name: str,
        tenant: str,
    ) -> int:
        with self.warehouse.writing(type_name, tenant, size=0, trace=not self.dry_run) as conn:
            # once more: it took a while until it was our turn
            olds = [o for o in find(conn, before) if (o.type, o.tenant) == (type_name, tenant)]
            if not olds:
                return 0
            if kind == "history" and not self.specs[type_name].absence_closes:
                count = self._take_history(conn, type_name, tenant, olds)
            else:
                count = self._delete_rows(conn, type_name, [o.load_id for o in olds])
            self._run(conn, "mark_pruned", ids=[o.load_id for o in olds])
            self.marked.update(o.load_id for o in olds)
            if self.dry_run:
                conn.rollback()
            else:
                conn.commit()
        return count

    def _delete_rows(self, conn: psycopg.Connection, type_name: str, ids: Sequence[int]) -> int:
        count = 0
        if (names := _existing(conn, SUPERSEDED, type_name)) is not None:
            count += self._run(conn, "delete_rows", ids=list(ids), names=names).rowcount
        if (names := _existing(conn, REPEATS, type_name)) is not None:
            row = self._run(conn, "delete_repeats", ids=list(ids), names=names).fetchone()
            assert row
            count += row[0]
        return count

    def _replaced(self, conn: psycopg.Connection, before: datetime) -> list[_Old]:
        return [_Old(*row) for row in self._run(conn, "old_replaced", before=before).fetchall()]

    def _copies(self, conn: psycopg.Connection, before: datetime) -> list[_Old]:
        return self._of_types(conn, "old_copies", before, lambda s: s.write_disposition == "replace")

    def _histories(self, conn: psycopg.Connection, before: datetime) -> list[_Old]:
        return self._of_types(conn, "old_history", before, lambda s: s.write_disposition in ("merge", "scd2"))

    def _of_types(
        self, conn: psycopg.Connection, name: str, before: datetime, wanted: Callable[[TableSpec], bool]
    ) -> list[_Old]:
        found = list[_Old]()
        for spec in filter(wanted, self.specs.values()):
            about = {"type": spec.name, "closes": spec.absence_closes}
            rows = self._run(conn, name, names=None, before=before, marked=[*self.marked], **about).fetchall()
            found += [_Old(*row) for row in rows]
        return found

    def _tenth(self) -> timedelta:
        """History goes in few large steps: each looks at the whole table."""
        return timedelta(days=self.keep.history // 10)

    def _take_history(
        self, conn: psycopg.Connection, type_name: str, tenant: str, olds: Sequence[_Old]
    ) -> int:
        """Of what was said of a key before the horizon only the last word stays, with the row that it repeats."""
        spec = self.specs[type_name]
        target = Target(spec, self.has_tenant(spec), self.warehouse.schema)
        row = conn.execute(
            "SELECT max(business_date) + 1 FROM importer.loads WHERE load_id = ANY(%s)",
            ([o.load_id for o in olds],),
        ).fetchone()
        assert row
        names = {
            **target.names,
            "c_key": column_list(target.key, "c"),
            "same_claim": sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(column_list([c], "c"), column_list([c], "s")) for c in target.key
            ),
        }
        self._run(conn, "history_claims", names=names, tenant=tenant, horizon=row[0])
        self._run(conn, "history_keep", names=names)
        gone = self._run(conn, "history_gone", names=names, tenant=tenant).rowcount
        gone += self._run(conn, "history_repeats", names=names, tenant=tenant).rowcount
        run_statement(conn, "publish", "drop_repeats", {}, {**names, "gone": sql.Identifier("importer_gone")})
        return gone

    def _run(
        self,
        conn: psycopg.Connection,
        name: str,
        *,
        names: Mapping[str, sql.Composable] | None = None,
        **values: Any,
    ) -> psycopg.Cursor:
        return run_statement(conn, "retention", name, values, names)


def _existing(conn: psycopg.Connection, schema_name: str, type_name: str) -> dict[str, sql.Composable] | None:
    """The names of a statement on that ``table``; None where there is none."""
    table = sql.Identifier(schema_name, type_name)
    exists = conn.execute("SELECT to_regclass(%s)", (table.as_string(conn),)).fetchone() != (None,)
    return {"table": table} if exists else None
