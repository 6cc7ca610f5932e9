"""Is there anything to do? Whether a delivery came before with the same content, and what became of it then.

:class:`FileContent` is what is known of a file without importing it; :class:`PriorLoads`
asks the ledger for it. A content that stands already (loaded, held, or refused
by a person) is not loaded again; at most its new stamp is put on record.

What does not belong here: reading the records of a file (``reader/reader.py``), loading
them (``pipeline/delivery.py``), what is held and how it is let go (``operations/release.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from importer_dagster.errors import RefusedError
from importer_dagster.ledger import loads, queries
from importer_dagster.ledger.queries import ActiveLoad
from importer_dagster.model import Delivery, LoadResult, Status
from importer_dagster.reader.reader import fingerprint
from importer_dagster.slots import SMALL_BYTES
from importer_dagster.source.completeness import look_at, with_manifest
from importer_dagster.source.manifest import url_of as manifest_url
from importer_dagster.spec.table import TableSpec
from importer_dagster.transactions import single
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer import held_rows


@dataclass(frozen=True)
class PriorOutcome:
    """What became of the same content when it came before: as load ``load_id``, in the words of a result.

    ``figures`` are those rows_… of the result that are not 0.
    """

    status: Status
    load_id: int
    figures: dict[str, int]
    reason: str


class FingerprintNeeded(Exception):
    """The delivery stands already: whether with the same content, only its fingerprint says."""

    def __init__(self, active_loads: Sequence[ActiveLoad]) -> None:
        super().__init__()
        self.active_loads = active_loads


class FileContent:
    """What is known of a delivery's content by now: ``size`` in bytes, ``file_version``, ``sha256``; None if unknown.

    ``is_unreadable`` where its fingerprint could not be taken; the import finds
    the fault again and records it.
    """

    def __init__(self, delivery: Delivery, spec: TableSpec) -> None:
        self.delivery, self.spec = delivery, spec
        self.size: int | None = delivery.size
        self.file_version: str | None = delivery.file_version
        self.sha256: str | None = None
        self.is_unreadable = False

    def look(self) -> None:
        """Note what the file is like before it is read: what changes from now on is found by the next listing."""
        if self.file_version is None or "://" not in self.delivery.url:
            size, self.file_version = look_at(self.delivery.url)
            self.size = self.size if size is None else size
            if manifest := self.spec.complete.manifest:
                url = manifest_url(self.delivery, manifest.path)
                self.file_version = with_manifest(self.file_version, look_at(url)[1])

    def read(self, warehouse: Warehouse) -> None:
        """Read the whole file, which may take long: without a slot, and without a connection."""
        if self.size is None or self.size >= SMALL_BYTES:
            warehouse.rest()
        self.fingerprint()

    def fingerprint(self) -> None:
        """Note the content's hash, or that it is unreadable."""
        try:
            self.sha256, self.size = fingerprint(self.delivery)
        except RefusedError:
            self.is_unreadable = True


class PriorLoads:
    """What the ledger says of a content that came before. ``dry_run``: nothing is written."""

    def __init__(self, content: FileContent, *, force: bool, dry_run: bool) -> None:
        self.content, self.force, self.dry_run = content, force, dry_run
        self.active_loads: Sequence[ActiveLoad] = ()

    @property
    def in_force(self) -> ActiveLoad | None:
        """The load of the delivery that is in force, as of the last look."""
        return next((s for s in self.active_loads if s.status == "loaded"), None)

    @property
    def is_held(self) -> bool:
        """Whether a content of the delivery is held, as of the last look."""
        return any(s.status == "held" for s in self.active_loads)

    def look(self, conn: psycopg.Connection) -> None:
        """See which loads answer for the delivery. Who holds the lock of type and tenant need do so but once."""
        with single(conn):
            self.active_loads = queries.active_loads(conn, self.content.delivery)

    def ask(self, conn: psycopg.Connection, *, alone: bool = False) -> PriorOutcome | None:
        """What became of the same content; None if it is to be imported.

        ``alone``: nobody else writes meanwhile, so that ``conn`` may put on record
        what is new. Raises Unread where the answer depends on a content that is not
        known yet.
        """
        self.look(conn)
        active_loads = [s for s in self.active_loads if s.sha256 is not None]
        if self.force or not active_loads or self.content.is_unreadable:
            return None
        if self.content.sha256 is None:
            raise FingerprintNeeded(active_loads)
        return self.say(active_loads, conn if alone else None)

    def say(
        self, active_loads: Sequence[ActiveLoad], alone: psycopg.Connection | None = None
    ) -> PriorOutcome | None:
        """What those that stand say of the content; ``alone``: a connection that may write."""
        same = {s.status: s for s in active_loads if s.sha256 == self.content.sha256}
        if (
            alone is None
            and not self.dry_run
            and any(s.file_version != self.content.file_version for s in same.values())
        ):
            return None  # that is to be put on record, which takes a slot
        for known in same.values():
            self._recognise(alone, known)
        if "held" in same:
            return _left_out("held", same["held"])
        if "loaded" in same:
            if any(s.status == "held" for s in active_loads) and not self.dry_run:
                if alone is None:
                    return None
                self._back_to(alone, same["loaded"])
            return unchanged(same["loaded"])
        return _left_out("refused", same["refused"]) if "refused" in same else None

    def _recognise(self, conn: psycopg.Connection | None, known: ActiveLoad) -> None:
        """Have the file's new stamp on record, so that no listing takes it for another content."""
        if conn is not None and known.file_version != self.content.file_version and not self.dry_run:
            loads.set_file_version(conn, known.load_id, self.content.file_version)
            conn.commit()

    def _back_to(self, conn: psycopg.Connection, loaded: ActiveLoad) -> None:
        """The content in force was sent once more, so that what is held is of no account any longer."""
        words = f"sent again with the content of load {loaded.load_id}"
        make_way(conn, self.content.delivery, loaded.load_id, words)
        conn.commit()


def with_remedy(reason: str, load_id: int) -> str:
    """Why a load is held, and what ends it."""
    return f"{reason}. `importer release {load_id}` loads it, `importer refuse {load_id}` drops it."


def result_of(content: FileContent, answer: PriorOutcome, seconds: float) -> LoadResult:
    """An answer as the result of an import that took so long."""
    return LoadResult(
        content.delivery,
        answer.status,
        answer.load_id,
        **answer.figures,  # type: ignore[arg-type]
        reason=answer.reason,
        bytes=content.size,
        sha256=content.sha256,
        seconds=seconds,
    )


def unchanged(same: ActiveLoad) -> PriorOutcome:
    """The answer for a content that is in force."""
    figures = {"rows_read": same.rows_read, "rows_unchanged": same.rows_read}
    return PriorOutcome(
        "unchanged",
        same.load_id,
        figures,
        f"the same content is loaded already, as load {same.load_id}",
    )


def _left_out(status: Status, same: ActiveLoad) -> PriorOutcome:
    figures = {name: getattr(same, name) for name in ("rows_read", "rows_rejected", "rows_skipped")}
    reason = (
        with_remedy(str(same.reason), same.load_id)
        if status == "held"
        else f"the same content was refused before, as load {same.load_id} ({same.reason}). "
        "`importer load --force` judges it anew."
    )
    return PriorOutcome(status, same.load_id, figures, reason)


def make_way(conn: psycopg.Connection, delivery: Delivery, new: int, words: str) -> None:
    """Drop what is held of the same delivery: it was sent again, and load ``new`` is its content by now."""
    for load_id in loads.give_up_held(conn, delivery, new, words):
        held_rows.drop(conn, delivery.type, load_id)
