"""Bringing a load into force: what each write_disposition makes of its rows.

A type's tables together hold every accepted row of every delivery in force
exactly once (as a row or as a repeat), which is why the order of loading does
not matter and why a load can be taken out again.

What does not belong here: COPY (``writer/copy_rows.py``), making tables (``writer/tables.py``),
the ledger (``ledger/loads.py``), validation, connections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg import sql

from importer_dagster.model import Duplicate, Rank
from importer_dagster.writer.target import Name, Target, column_list, statements

_STAGE = sql.Identifier("importer_stage")
FEW = 1_000  # staged rows
_DENSE = 4  # rows between the least and the greatest key of a batch, for each of the batch
_NEVER = {"range": ["nestloop", "sort"], "key": ["bitmapscan", "sort"]}


@dataclass(frozen=True)
class Counts:
    """What became of the staged rows."""

    loaded: int = 0
    unchanged: int = 0
    skipped: int = 0


class Publisher:
    """The statements that bring one load into force, on one connection and transaction.

    ``prior`` is the load of the same delivery that this one stands in place of.
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
        self._is_dense = True  # whether the keys of a batch lie close together in the table
        self.noted = 0  # rows found unchanged before they came to the stage
        self._staged = 0  # most rows that may be on the stage when they are published
        self._values: dict[str, Any] = {
            "load": load_id,
            "type": target.spec.name,
            "tenant": tenant,
            "date": business_date,
            "prior": prior,
            "absent_closes": target.spec.absence_closes,
        }

    def _run(
        self, name: str, values: Mapping[str, Any] | None = None, **names: sql.Composable
    ) -> psycopg.Cursor:
        known = {"stage": _STAGE, "named": self._named, **names}
        return self.conn.execute(
            self.target.statement("publish", name, known), {**self._values, **(values or {})}
        )

    def create_stage(self) -> sql.Identifier:
        """A temporary table like the type's own; gone with the transaction."""
        self._run("create_stage")
        return _STAGE

    @property
    def _named(self) -> sql.Composable:
        """The keys and numbers of all good records: those on the stage, and those noted as unchanged."""
        if not self.noted:
            return _STAGE
        return sql.SQL(
            "(SELECT {key}, _row FROM importer_stage UNION ALL "
            "SELECT {key}, _row FROM {said_again} t WHERE {mine} AND t._load_id = %(load)s)"
        ).format(**self.target.names)

    def create_named(self) -> sql.Identifier:
        """A temporary table for the keys and hashes of a batch."""
        self._run("create_named")
        return sql.Identifier("importer_named")

    def unchanged_deferred(self, rows: int) -> Callable[[], NDArray[np.int64]]:
        """Have the named rows noted that say what the table says; call the answer for the numbers of the others, in order.

        In a pipeline of the connection the server works until then. ``rows`` are named. To be
        used only where the load is the newest (:meth:`is_newest`).
        """
        return partial(
            self._unchanged, self._ask_by_range(_DENSE * rows) if self._is_dense else self._ask_by_key()
        )

    def _unchanged(self, asked: psycopg.Cursor) -> NDArray[np.int64]:
        known, unchanged, new = _only_row(asked)
        if not known:
            self._is_dense = False
            _, unchanged, new = _only_row(self._ask_by_key())
        self.noted += unchanged
        self._run("clear_named")
        return np.sort(np.array(new, np.int64))

    def _ask_by_range(self, most: int) -> psycopg.Cursor:
        """All between the least and the greatest key, if that are few: a third of the work of looking each up."""
        near = sql.SQL(statements("publish")["near_by_range"]).format(
            **self.target.names, first=Name(self.target.spec.primary_key[0])
        )
        known = sql.SQL("(SELECT count(*) < %(most)s FROM near)")
        return self._ask({"most": most}, known=known, near=near, by="range")

    def _ask_by_key(self) -> psycopg.Cursor:
        return self._ask(known=sql.SQL("TRUE"), near=sql.SQL("SELECT"), by="key")

    def _ask(
        self, values: Mapping[str, Any] | None = None, *, by: str, **names: sql.Composable
    ) -> psycopg.Cursor:
        """A row of whether it is known, how many rows are unchanged, the numbers of the others."""
        found = sql.SQL(statements("publish")[f"found_by_{by}"]).format(**self.target.names)
        with _planning(self.conn, _NEVER[by]):
            return self._run("take_unchanged", values, found=found, **names)

    def take_duplicates(self, columns: Sequence[str]) -> int:
        """Take rows out of the stage that repeat an earlier row's ``columns``; returns how many.

        ``duplicates_between`` tells which; ``forget_duplicates`` ends with them.
        """
        fields = column_list(columns)
        if self._run("has_duplicates", fields=fields).fetchone() == (False,):
            return 0  # the usual case, at the price of one hash aggregate
        shown = sql.SQL(" || ', ' || ").join(sql.SQL("{}::text").format(Name(c)) for c in columns)
        not_null = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(Name(c)) for c in columns)
        self._run("take_duplicates", fields=fields, shown=shown, not_null=not_null)
        return self._run("delete_duplicates").rowcount + self._forget_noted_duplicates()

    def _forget_noted_duplicates(self) -> int:
        if not self.noted:
            return 0
        gone = self._run("noted_duplicates").rowcount
        self._run("drop_repeats", gone=sql.Identifier("importer_gone"))
        self.noted -= gone
        return gone

    def duplicates_between(self, first: int, last: int) -> list[Duplicate]:
        """The rows taken out whose numbers lie in a range, ends included, in order."""
        rows = self._run("duplicates_between", {"first": first, "last": last}).fetchall()
        return [Duplicate(*row) for row in rows]

    def forget_duplicates(self) -> None:
        """Make room for the duplicates of other columns."""
        self._run("forget_duplicates")

    def publish(self, newest: Rank | None, staged: int) -> Counts:
        """Bring the staged rows into force; there are no more than ``staged``.

        ``newest`` is the highest (business date, path) in force for the type
        and tenant, the prior load left out; None if there is none.
        """
        self._staged = staged
        if self.target.is_keyed and staged <= FEW:
            # the planner, which takes pages for cold, would read the whole table to find a few keys of it
            self.conn.execute("SELECT set_config('random_page_cost', '0.1', true)")
        elif self.noted:  # most of the table has been read a moment ago, so that its pages are in memory
            self.conn.execute("SELECT set_config('random_page_cost', current_setting('seq_page_cost'), true)")
        counts: Counts = getattr(self, f"_publish_{self.target.spec.write_disposition}")(newest)
        return replace(counts, unchanged=counts.unchanged + self.noted)

    def is_newest(self, newest: Rank | None) -> bool:
        """merge, scd2: whether what the table says is all that the load meets; ``newest`` as for ``publish``."""
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
        return self._run("between", values, first=first).fetchone() is None

    def takes_all(self, newest: Rank | None) -> bool:
        """append, replace: whether all rows belong in the table that BI reads, once there is way; ``newest`` as for ``publish``."""
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
        """append, replace: put aside what the load's rows stand in place of."""
        if self.prior is not None:
            self._run("retire_load")
        if self._replaces_all(newest):
            self._run("retire_tenant")

    def _publish_append(self, newest: Rank | None) -> Counts:
        self.make_way(newest)
        return Counts(loaded=self._run("insert_stage", into=self.target.live).rowcount)

    def _publish_replace(self, newest: Rank | None) -> Counts:
        if newest is None or self.takes_all(newest):
            return self._publish_append(newest)
        assert self.business_date
        self.make_way(newest)
        staged = self._run("insert_stage", into=self.target.superseded).rowcount
        if self.business_date < newest[0]:
            return Counts(skipped=staged)
        self.settle()
        kept = self._count_live()
        return Counts(loaded=kept, skipped=staged - kept)

    def settle(self) -> None:
        """replace: make the live rows those of ``business_date``, by key the later path's."""
        self._run("settle_winners")
        self._run("settle_out")
        self._run("settle_in")

    def _count_live(self) -> int:
        row = self.conn.execute(
            sql.SQL("SELECT count(*) FROM {live} t WHERE {mine} AND t._load_id = %(load)s").format(
                live=self.target.live, mine=self.target.names["mine"]
            ),
            self._values,
        ).fetchone()
        assert row
        return int(row[0])

    def _publish_merge(self, newest: Rank | None) -> Counts:
        return self._merge_newest() if self.is_newest(newest) else self.recompute_keys()

    def _merge_newest(self) -> Counts:
        unchanged, rest = self._set_unchanged_aside()
        if rest is None:
            return Counts(unchanged=unchanged)
        with self.conn.pipeline():
            self._run("merge_retire", stage=rest)
            written = self._run("merge_upsert", stage=rest)
        return Counts(loaded=written.rowcount, unchanged=unchanged)

    def _set_unchanged_aside(self) -> tuple[int, sql.Identifier | None]:
        """Note the staged rows that say nothing new; how many, and the table of the others, None if there are none."""
        unchanged = self._run("find_unchanged").rowcount
        if not unchanged:
            return 0, _STAGE
        rest = sql.Identifier("importer_rest") if unchanged < self._staged else None
        with self.conn.pipeline():
            self._run("note_unchanged")
            self._run("note_hashes")
            if rest is not None:
                self._run("create_rest")
        return unchanged, rest

    def _publish_scd2(self, newest: Rank | None) -> Counts:
        return self._scd2_newest() if self.is_newest(newest) else self.recompute_keys()

    def _scd2_newest(self) -> Counts:
        if self._values["absent_closes"]:
            with _planning(self.conn, ["nestloop"]):  # it would look at all named for each key
                self._run("scd2_close_absent")
        unchanged, rest = self._set_unchanged_aside()
        if rest is None:
            return Counts(unchanged=unchanged)
        self._run("scd2_close_changed", stage=rest)
        return Counts(self._run("insert_stage", into=self.target.live, stage=rest).rowcount, unchanged)

    def recompute_keys(self) -> Counts:
        """merge, scd2: work out anew, from all deliveries, every key that this load touches."""
        if not self._keys_found:
            self.find_keys([self.prior])
        return self.recompute_found_keys()

    def find_keys(self, touched: Sequence[int | None]) -> None:
        """Find the keys that the staged rows and the loads ``touched`` concern."""
        and_absent = sql.SQL("")
        if self.target.has_history and self._values["absent_closes"]:
            and_absent = sql.SQL(statements("publish")["and_absent"])
            and_absent = and_absent.format(**self.target.names)  # type: ignore[assignment]
        self._run("derive_keys", {"touched": list(touched)}, and_absent=and_absent)
        self._keys_found = True

    def recompute_found_keys(self) -> Counts:
        """The same for the keys found before."""
        row = self._run("derive_frozen").fetchone()
        assert row
        self._values["frozen"] = row[0]
        for step in (
            "versions",
            "repeated",
            "said",
            f"claims_{self.target.spec.write_disposition}",
            "sent_again",
        ):
            self._run(f"derive_{step}", and_thawed=self._and_thawed)
        self._run("derive_clear", table=self.target.live, and_thawed=self._and_thawed)
        self._run("derive_clear", table=self.target.superseded, and_thawed=sql.SQL(""))
        self._run("drop_repeats", gone=sql.Identifier("importer_repeated"))
        self._derive_rows("live", history=self.target.has_history)
        self._derive_rows("superseded", history=False)
        self._run("derive_repeats")
        row = self._run("derive_counts").fetchone()
        assert row
        return Counts(*row)

    @property
    def _and_thawed(self) -> sql.SQL:
        """Of the table that BI reads: what is not told by versions alone (retention)."""
        return sql.SQL(statements("publish")["and_thawed"] if self.target.has_history else "")

    def _derive_rows(self, place: str, *, history: bool) -> None:
        self._run(
            "derive_rows",
            {"place": place},
            into=self.target.names[place],
            valid_to=sql.SQL(", _valid_to" if history else ""),
            g_valid_to=sql.SQL(", g.valid_to" if history else ""),
        )

    def delete_load(self, load_id: int) -> None:
        """append, replace: delete a load's rows from the type's tables."""
        for table in ("live", "superseded"):
            self._run("delete_load", {"load": load_id}, table=self.target.names[table])

    def revive_load(self, load_id: int) -> int:
        """append: bring a load's superseded rows back; returns how many."""
        return self._run("revive_load", {"load": load_id}).rowcount


@contextmanager
def _planning(conn: psycopg.Connection, never: Sequence[str]) -> Iterator[None]:
    """Keep the planner from what it would take for cheap: it has no statistics of rows that are not committed."""
    names = [f"enable_{what}" for what in never]
    conn.execute("SELECT set_config(name, 'off', true) FROM unnest(%s::text[]) AS name", (names,))
    yield
    conn.execute("SELECT set_config(name, 'on', true) FROM unnest(%s::text[]) AS name", (names,))


def _only_row(asked: psycopg.Cursor) -> Any:
    row = asked.fetchone()
    assert row
    return row


def _is_ordered_alike(type_: pa.DataType) -> bool:
    """Whether PostgreSQL orders values as Arrow does: not text, by its language, nor what may be no number."""
    kinds = (pa.types.is_integer, pa.types.is_decimal, pa.types.is_date, pa.types.is_timestamp)
    return any(is_kind(type_) for is_kind in kinds)
