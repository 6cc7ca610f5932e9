"""Whether a delivery came before with the same content, and what became of it then.

:class:`FileContent` is what is known of a file without importing it; :class:`PriorLoads` looks it up in the
ledger. A content that has an active load (loaded, held, or refused by a person) is not loaded again; only its new
file version is put on record.

What does not belong here: reading the records of a file (``reader``), loading them (``load.py``), what a person does
with a held load (``operations/release.py``).
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
from importer_dagster.transactions import autocommit
from importer_dagster.warehouse import Warehouse
from importer_dagster.writer import held_rows


@dataclass(frozen=True)
class PriorOutcome:
    """What became of the same content when it came before, as load ``load_id``.

    ``figures`` are the counts (``rows_…``) of the result that are not 0.
    """

    status: Status
    load_id: int
    figures: dict[str, int]
    reason: str


class FileContent:
    """What is known of a delivery's content so far: ``size`` in bytes, ``file_version``, ``sha256``; None if unknown.

    ``is_unreadable`` is set where its fingerprint could not be taken; the import meets the fault again and records it.
    """

    def __init__(self, delivery: Delivery, spec: TableSpec) -> None:
        self.delivery, self.spec = delivery, spec
        self.size: int | None = delivery.size
        self.file_version: str | None = delivery.file_version
        self.sha256: str | None = None
        self.is_unreadable = False

    def look(self) -> None:
        """Note size and version before the file is read, so that the next listing finds any later change."""
        if self.file_version is None or "://" not in self.delivery.url:
            size, self.file_version = look_at(self.delivery.url)
            self.size = self.size if size is None else size
            if manifest := self.spec.complete.manifest:
                url = manifest_url(self.delivery, manifest.path)
                self.file_version = with_manifest(self.file_version, look_at(url)[1])

    def read(self, warehouse: Warehouse) -> None:
        """Take the fingerprint, which may take long: without a slot, and for a large file without a connection."""
        if self.size is None or self.size >= SMALL_BYTES:
            warehouse.close_kept()
        self.fingerprint()

    def fingerprint(self) -> None:
        """Note the content's hash, or that it is unreadable."""
        try:
            self.sha256, self.size = fingerprint(self.delivery)
        except RefusedError:
            self.is_unreadable = True


class PriorLoads:
    """The active loads of a delivery. With ``force`` its content is loaded in any case; ``dry_run`` writes nothing."""

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

    @property
    def needs_fingerprint(self) -> bool:
        """Whether only the content's fingerprint, which is not known yet, tells if it came before."""
        return self.content.sha256 is None and bool(self._with_fingerprint)

    @property
    def _with_fingerprint(self) -> Sequence[ActiveLoad]:
        """Active loads to compare the content with; none where it is to be loaded in any case."""
        if self.force or self.content.is_unreadable:
            return ()
        return [load for load in self.active_loads if load.sha256 is not None]

    def look(self, conn: psycopg.Connection) -> None:
        """See which loads are active. With the lock of type and tenant, one look is enough."""
        with autocommit(conn):
            self.active_loads = queries.active_loads(conn, self.content.delivery)

    def outcome(self, writer: psycopg.Connection | None = None) -> PriorOutcome | None:
        """What became of the same content before, as of the last look; None if it is to be imported.

        ``writer`` is a connection that holds the slot: nobody else writes meanwhile, so what is new about the
        content may be put on record. Without it the answer is also None where something is to be recorded.
        """
        active = self._with_fingerprint
        same = {load.status: load for load in active if load.sha256 == self.content.sha256}
        seen_anew = [load for load in same.values() if load.file_version != self.content.file_version]
        if seen_anew and not self.dry_run:
            if writer is None:
                return None
            for load in seen_anew:  # so that no listing takes the file for another content
                loads.set_file_version(writer, load.load_id, self.content.file_version)
            writer.commit()
        if "held" in same:
            return _not_in_force("held", same["held"])
        if "loaded" in same:
            if any(load.status == "held" for load in active) and not self.dry_run:
                if writer is None:
                    return None
                # the content in force was sent once more, so what is held is of no account any longer
                load_id = same["loaded"].load_id
                drop_held(
                    writer, self.content.delivery, load_id, f"sent again with the content of load {load_id}"
                )
                writer.commit()
            return unchanged(same["loaded"])
        return _not_in_force("refused", same["refused"]) if "refused" in same else None


def with_remedy(reason: str, load_id: int) -> str:
    """Why a load is held, with the commands that end that."""
    return f"{reason}. `importer release {load_id}` loads it, `importer refuse {load_id}` drops it."


def result_of(content: FileContent, prior: PriorOutcome, seconds: float) -> LoadResult:
    """The result of an import that found this outcome after ``seconds``."""
    return LoadResult(
        content.delivery,
        prior.status,
        prior.load_id,
        **prior.figures,  # type: ignore[arg-type]
        reason=prior.reason,
        bytes=content.size,
        sha256=content.sha256,
        seconds=seconds,
    )


def unchanged(same: ActiveLoad) -> PriorOutcome:
    """The outcome of a content that is in force."""
    figures = {"rows_read": same.rows_read, "rows_unchanged": same.rows_read}
    return PriorOutcome(
        "unchanged",
        same.load_id,
        figures,
        f"the same content is loaded already, as load {same.load_id}",
    )


def _not_in_force(status: Status, same: ActiveLoad) -> PriorOutcome:
    figures = {name: getattr(same, name) for name in ("rows_read", "rows_rejected", "rows_skipped")}
    reason = (
        with_remedy(str(same.reason), same.load_id)
        if status == "held"
        else f"the same content was refused before, as load {same.load_id} ({same.reason}). "
        "`importer load --force` judges it anew."
    )
    return PriorOutcome(status, same.load_id, figures, reason)


def drop_held(conn: psycopg.Connection, delivery: Delivery, new: int, words: str) -> None:
    """Drop what is held of a delivery that was sent again; load ``new`` is its content now. ``words`` say why."""
    for load_id in loads.give_up_held(conn, delivery, new, words):
        held_rows.drop(conn, delivery.type, load_id)
