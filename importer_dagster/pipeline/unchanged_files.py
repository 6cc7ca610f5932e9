"""Files that were sent again unchanged, recognised many at a time with one query and one update of the ledger.

A day that is sent again consists of hundreds of them, and waiting for a slot for each would take far longer than
reading its bytes. Only the plain case is handled here: a small file whose content is in force, with nothing held
beside it. All others are left to :func:`pipeline.delivery.import_delivery`, which comes to the same result.

What does not belong here: other states of a delivery (``already_loaded.py``), files that are not even opened since
their version is known (``ledger/arrivals.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from importer_dagster.errors import ImporterError
from importer_dagster.ledger import loads, queries
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.ledger.queries import ActiveLoad, Key
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.pipeline.already_loaded import FileContent, result_of, unchanged
from importer_dagster.slots import SMALL_BYTES
from importer_dagster.source.open_file import hash_files
from importer_dagster.spec.table import TableSpec
from importer_dagster.transactions import autocommit
from importer_dagster.warehouse import Warehouse

log = logging.getLogger(__name__)

_AT_A_TIME = 500  # files in one question
_READ_AT_ONCE = 32  # of them


@dataclass
class Known:
    """What the ledger knows of many deliveries.

    ``same``: those that are loaded already with the same content, each with its result (``unchanged``).
    ``new``: those that have no active load.
    """

    same: dict[Delivery, LoadResult] = field(default_factory=dict)
    new: set[Delivery] = field(default_factory=set)


def look_up(deliveries: Sequence[Delivery], specs: Mapping[str, TableSpec], *, warehouse: Warehouse) -> Known:
    """Tell the deliveries that were sent again unchanged and those that are new from the rest.

    New file versions are put on record, in one transaction and with one slot for up to 500 files. Raises nothing:
    after an error, importing the files one by one meets it again.
    """
    found = Known()
    try:
        for start in range(0, len(deliveries), _AT_A_TIME):
            _look_up(found, deliveries[start : start + _AT_A_TIME], specs, warehouse)
    except Exception as error:  # whatever it is, one by one it costs time and nothing else
        known = isinstance(error, ImporterError)
        log.warning("Files are looked at one by one: %s", error, exc_info=None if known else error)
    return found


def _look_up(
    found: Known, deliveries: Sequence[Delivery], specs: Mapping[str, TableSpec], warehouse: Warehouse
) -> None:
    ledger_schema.migrate(warehouse)
    with warehouse.connect() as conn, autocommit(conn):
        active_loads = queries.active_loads_of(conn, deliveries)
    found.new |= {d for d in deliveries if queries.key_of(d) not in active_loads}
    start = time.monotonic()
    same = list(_same(deliveries, specs, active_loads))
    seconds = (time.monotonic() - start) / max(len(same), 1)
    new = {
        known.load_id: content.file_version
        for content, known in same
        if known.file_version != content.file_version
    }
    recorded: set[int] = set()
    if new:
        first = same[0][0].delivery  # any: the update itself leaves out loads that others are changing
        with warehouse.writing(first.type, first.tenant, size=0) as conn, autocommit(conn):
            recorded = loads.set_file_versions(conn, new)
    found.same |= {
        content.delivery: result_of(content, unchanged(known), seconds)
        for content, known in same
        if known.load_id in recorded or known.load_id not in new
    }


def _same(
    deliveries: Sequence[Delivery],
    specs: Mapping[str, TableSpec],
    active_loads: Mapping[Key, Sequence[ActiveLoad]],
) -> Iterator[tuple[FileContent, ActiveLoad]]:
    """The files with the content that is in force, and its load. Only files of the same size are read."""
    alike: list[tuple[FileContent, ActiveLoad]] = []
    for delivery in deliveries:
        known = active_loads.get(queries.key_of(delivery), ())
        if len(known) != 1 or known[0].status != "loaded" or known[0].sha256 is None:
            continue
        content = FileContent(delivery, specs[delivery.type])
        content.look()
        if content.size is not None and content.size == known[0].bytes and content.size < SMALL_BYTES:
            alike.append((content, known[0]))
    for some in _portions(alike):
        _read([content for content, _ in some])
        yield from (pair for pair in some if pair[0].sha256 == pair[1].sha256)


def _portions(
    alike: list[tuple[FileContent, ActiveLoad]],
) -> Iterator[list[tuple[FileContent, ActiveLoad]]]:
    """Files of up to SMALL_BYTES together, and up to _READ_AT_ONCE."""
    some: list[tuple[FileContent, ActiveLoad]] = []
    for pair in alike:
        if some and (len(some) == _READ_AT_ONCE or sum(c.size or 0 for c, _ in [*some, pair]) > SMALL_BYTES):
            yield some
            some = []
        some.append(pair)
    if some:
        yield some


def _read(contents: Sequence[FileContent]) -> None:
    """Take the fingerprints; local files are read together."""
    local = [c for c in contents if "://" not in c.delivery.url]
    files = [(c.delivery.url, c.delivery.inbox) for c in local]
    for content, found in zip(local, hash_files(files), strict=True):
        if found is not None:
            content.sha256, content.size = found
    for content in contents:
        if "://" in content.delivery.url:
            content.fingerprint()
