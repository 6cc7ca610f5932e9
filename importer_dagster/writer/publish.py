"""Bringing a load into force: what each write_disposition makes of its rows.

A type's tables together hold every accepted row of every delivery in force
exactly once (as a row or as a repeat), which is why the order of loading does
not matter and why a load can be taken out again.

What does not belong here: COPY (``writer/copy_rows.py``), making tables (``writer/tables.py``),
the ledger (``ledger/loads.py``), validation, connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from importer_dagster.model import Duplicate, Rank
from importer_dagster.writer import recompute
from importer_dagster.writer.target import Name, Target, column_list

_STAGE = sql.Identifier("importer_stage")
FEW = 1_000  # staged rows
MOST_HASHES = 2_000_000  # of unchanged rows that one load replaces


@dataclass(frozen=True)
class Counts:
    """What became of the rows of a load."""

    loaded: int = 0
    unchanged: int = 0
    skipped: int = 0


class Publisher:
    """The statements that bring one load into force, on one connection and in its transaction.

    ``prior`` is the load of the same delivery that this load replaces. Where a method takes ``newest``, that is the
    highest (business date, path) in force for the type and tenant, the prior load left out; None if there is none.
    """

    def __init__(
        self,
        conn: psycopg.Connection,
        target: Target,
        *,
        load_id: int | None,
        tenant: str,
        business_date: date | None = None,
        path: str = "",
        prior: int | None = None,
    ) -> None:
        self.conn, self.target = conn, target
        self.business_date, self.path, self.prior = business_date, path, prior
        self._keys_found = False
        self.noted = (
            0  # rows found unchanged while the file was read, so that they are not in the staging table
        )
        self._values: dict[str, Any] = {
            "load": load_id,
            "type": target.spec.name,
            "tenant": tenant,
            "date": business_date,
            "prior": prior,
            "absent_closes": target.spec.absence_closes,
        }

    def run(
        self, name: str, values: Mapping[str, Any] | None = None, **names: sql.Composable
    ) -> psycopg.Cursor:
        """Run a statement of ``sql/publish.sql`` with the names of the target and the values of the load."""
        # the keys and numbers of all good records: those in the staging table, and those noted as unchanged
        named: sql.Composable = _STAGE
        if self.noted:
            named = sql.SQL(
                "(SELECT {key}, _row FROM importer_stage UNION ALL "
                "SELECT {key}, _row FROM {said_again} t WHERE {mine} AND t._load_id = %(load)s)"
            ).format(**self.target.names)
        known = {"stage": _STAGE, "named": named, **names}
        return self.conn.execute(
            self.target.statement("publish", name, known), {**self._values, **(values or {})}
        )

    @property
    def staging_table(self) -> sql.Identifier:
        """The table that :meth:`create_stage` makes."""
        return _STAGE

    def create_stage(self) -> None:
        """Make a temporary table like the type's own; it is gone with the transaction."""
        self.run("create_stage")

    def take_duplicates(self, columns: Sequence[str]) -> int:
        """Take rows that repeat an earlier row's ``columns`` out of the staging table; returns how many.

        :meth:`duplicates_between` tells which they are; :meth:`forget_duplicates` must follow.
        """
        fields = column_list(columns)
        if self.run("has_duplicates", fields=fields).fetchone() == (False,):
            return 0  # the usual case, at the price of one hash aggregate
        not_null = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(Name(c)) for c in columns)
        self.run("take_duplicates", fields=fields, not_null=not_null)
        taken = self.run("delete_duplicates").rowcount
        if self.noted:
            gone = self.run("noted_duplicates").rowcount
            self.run("drop_repeats", gone=sql.Identifier("importer_gone"))
            self.noted -= gone
            taken += gone
        return taken

    def duplicates_between(self, first: int, last: int) -> list[Duplicate]:
        """The rows taken out whose numbers lie in a range, ends included, in order."""
        rows = self.run("duplicates_between", {"first": first, "last": last}).fetchall()
        return [Duplicate(*row) for row in rows]

    def forget_duplicates(self) -> None:
        """Make room for the duplicates of other columns."""
        self.run("forget_duplicates")

    def publish(self, newest: Rank | None, staged: int) -> Counts:
        """Bring the rows of the staging table into force; there are at most ``staged``."""
        if self.target.is_keyed and staged <= FEW:
            # the planner, which takes pages for cold, would read the whole table to find a few keys of it
            self.conn.execute("SELECT set_config('random_page_cost', '0.1', true)")
        elif self.noted:  # most of the table has been read a moment ago, so that its pages are in memory
            self.conn.execute("SELECT set_config('random_page_cost', current_setting('seq_page_cost'), true)")
        disposition = self.target.spec.write_disposition
        if disposition == "append":
            counts = self._append(newest)
        elif disposition == "replace":
            counts = self._replace(newest)
        elif not self.is_newest(newest):
            counts = self.recompute_keys()
        else:
            counts = self._merge(staged) if disposition == "merge" else self._add_versions(staged)
        return replace(counts, unchanged=counts.unchanged + self.noted)

    def is_newest(self, newest: Rank | None) -> bool:
        """merge, scd2: whether the load comes after all others, so that it need be compared with the table only."""
        assert self.business_date
        if self.prior is not None:
            return False
        if newest is None or self.target.has_history:
            return newest is None or self.business_date > newest[0]
        # paths are compared as PostgreSQL's "C" collation does: by their UTF-8 bytes
        return (self.business_date, self.path.encode()) > (newest[0], newest[1].encode())

    def has_none_between(self, batch: pa.RecordBatch) -> bool:
        """Whether no row of the table lies between a batch's least and greatest key; False if not known."""
        key = batch.column(self.target.spec.primary_key[0])
        if not len(key):
            return True
        if not _is_ordered_alike(key.type):
            return False
        ends = pc.min_max(key)
        values = {"least": ends["min"].as_py(), "greatest": ends["max"].as_py()}
        first = Name(self.target.spec.primary_key[0])
        return self.run("between", values, first=first).fetchone() is None

    def takes_all(self, newest: Rank | None) -> bool:
        """append, replace: whether all rows belong in the table that BI reads, after :meth:`make_way`."""
        if self.target.spec.write_disposition == "append" or self._replaces_all(newest):
            return True
        is_same_day = newest is not None and newest[0] == self.business_date
        return is_same_day and not self.target.spec.primary_key

    def _replaces_all(self, newest: Rank | None) -> bool:
        if self.target.spec.write_disposition != "replace":
            return False
        assert self.business_date
        return newest is None or self.business_date > newest[0]

    def make_way(self, newest: Rank | None) -> None:
        """append, replace: move the rows that the load replaces to ``importer_superseded``."""
        if self.prior is not None:
            self.run("retire_load")
        if self._replaces_all(newest):
            self.run("retire_tenant")

    def _append(self, newest: Rank | None) -> Counts:
        self.make_way(newest)
        return Counts(loaded=self.run("insert_stage", into=self.target.live).rowcount)

    def _replace(self, newest: Rank | None) -> Counts:
        if newest is None or self.takes_all(newest):
            return self._append(newest)
        assert self.business_date
        self.make_way(newest)
        staged = self.run("insert_stage", into=self.target.superseded).rowcount
        if self.business_date < newest[0]:
            return Counts(skipped=staged)
        self.recompute_day()
        [kept] = self.run("count_live").fetchone() or (0,)
        return Counts(loaded=kept, skipped=staged - kept)

    def recompute_day(self) -> None:
        """replace: make the live rows those of ``business_date``; of a key, that of the later path."""
        self.run("recompute_day_winners")
        self.run("recompute_day_out")
        self.run("recompute_day_in")

    def _merge(self, staged: int) -> Counts:
        unchanged, rest = self._note_unchanged(staged)
        if rest is None:
            return Counts(unchanged=unchanged)
        with self.conn.pipeline():
            self.run("merge_retire", stage=rest)
            written = self.run("merge_upsert", stage=rest)
        return Counts(loaded=written.rowcount, unchanged=unchanged)

    def _add_versions(self, staged: int) -> Counts:
        if self.target.spec.absence_closes:
            with planning_without(self.conn, ["nestloop"]):  # it would look at all named keys for each key
                self.run("scd2_close_absent")
        unchanged, rest = self._note_unchanged(staged)
        if rest is None:
            return Counts(unchanged=unchanged)
        self.run("scd2_close_changed", stage=rest)
        return Counts(self.run("insert_stage", into=self.target.live, stage=rest).rowcount, unchanged)

    def _note_unchanged(self, staged: int) -> tuple[int, sql.Identifier | None]:
        """Note the staged rows that the table has already, as repeats.

        Returns how many, and the table of the other rows, None if there are none.
        """
        unchanged = self.run("find_unchanged").rowcount
        if not unchanged:
            return 0, _STAGE
        rest = sql.Identifier("importer_rest") if unchanged < staged else None
        with self.conn.pipeline():
            self.run("note_unchanged")
            self.run("note_hashes", {"most_hashes": MOST_HASHES})
            if rest is not None:
                self.run("create_rest")
        return unchanged, rest

    def recompute_keys(self) -> Counts:
        """merge, scd2: work out every key again that this load touches, from all deliveries."""
        if not self._keys_found:
            self.find_keys([self.prior])
        return Counts(*recompute.recompute_keys(self.run, self.target))

    def find_keys(self, touched: Sequence[int | None]) -> None:
        """Note the keys that the staged rows and the loads ``touched`` concern."""
        recompute.find_keys(self.run, self.target, touched)
        self._keys_found = True

    def delete_load(self, load_id: int) -> None:
        """append, replace: delete a load's rows from the type's tables."""
        for table in ("live", "superseded"):
            self.run("delete_load", {"load": load_id}, table=self.target.names[table])

    def revive_load(self, load_id: int) -> int:
        """append: bring a load's superseded rows back; returns how many."""
        return self.run("revive_load", {"load": load_id}).rowcount


def _is_ordered_alike(type_: pa.DataType) -> bool:
    """Whether PostgreSQL orders values of a type as Arrow does; not so text (collations) and floats (NaN)."""
    kinds = (pa.types.is_integer, pa.types.is_decimal, pa.types.is_date, pa.types.is_timestamp)
    return any(is_kind(type_) for is_kind in kinds)


@contextmanager
def planning_without(conn: psycopg.Connection, methods: Sequence[str]) -> Iterator[None]:
    """Keep PostgreSQL's planner from some methods (``enable_…``) within the block.

    It has no statistics of rows that are not committed, and would take these methods for cheap.
    """
    names = [f"enable_{method}" for method in methods]
    conn.execute("SELECT set_config(name, 'off', true) FROM unnest(%s::text[]) AS name", (names,))
    yield
    conn.execute("SELECT set_config(name, 'on', true) FROM unnest(%s::text[]) AS name", (names,))
