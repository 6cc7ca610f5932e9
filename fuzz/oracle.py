"""Check what must hold of every file that is read.

* It is read to its end, or refused with a reason; no other error is raised.
* No record is lost or read twice: each number from 1 to n is in exactly one batch, or rejected.
* What is read does not depend on the size of the blocks.
* Every reject has its record, line, column, value, rule, message and raw text.
* The values are those that the grammar gives, cell by cell (``_by_grammar``).

What does not belong here: making files (``files.py``).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.files import File
from importer_dagster.errors import RefusedError
from importer_dagster.reader.grammar import Grammar
from importer_dagster.reader.reader import BLOCK, Reader
from importer_dagster.source.unpack import Unpacked
from importer_dagster.spec.table import TableSpec

BLOCK_SIZES = (BLOCK, 1, 13, 101)
_BY_BLOCK = {"encoding", "fields.systematic"}  # refusals by the share of bad records in the first block
LONGEST_FOR_TINY_BLOCKS = 600  # bytes


@dataclass
class Outcome:
    """The outcome of reading a file."""

    refused: str | None = None
    header: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = field(default_factory=list)  # (number, line, raw, cells)
    rejects: list[tuple[Any, ...]] = field(default_factory=list)
    skipped: int = 0
    warnings: list[str] = field(default_factory=list)


def check(file: File, folder: Path | None = None) -> Outcome:
    """Read a file in blocks of several sizes; raises AssertionError if something does not hold."""
    spec = TableSpec.model_validate(file.spec)
    with tempfile.TemporaryDirectory() if folder is None else _Kept(folder) as place:
        path = Path(place) / "f.csv"
        path.write_bytes(file.content)
        outcome = read(path, spec, BLOCK)
        _check_records(outcome, spec)
        for size in BLOCK_SIZES[1:]:
            if size > 1 or len(file.content) < LONGEST_FOR_TINY_BLOCKS:
                other = read(path, spec, size)
                if not {outcome.refused, other.refused} & _BY_BLOCK:
                    assert _comparable(other) == _comparable(outcome), (
                        f"blocks of {size} bytes read another file"
                    )
    if outcome.refused is None:
        _by_grammar(outcome, spec)
    return outcome


class _Kept:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> str:
        return str(self.folder)

    def __exit__(self, *_: object) -> None:
        pass


def read(path: Path, spec: TableSpec, block_size: int) -> Outcome:
    """Read the whole file."""
    outcome = Outcome()
    try:
        unpacked = Unpacked(str(path))
    except RefusedError as error:
        return Outcome(refused=error.rule)
    try:
        reader = Reader(unpacked, spec, block_size)
        outcome.header = reader.header
        for batch in reader.batches():
            _take(batch, outcome)
        outcome.warnings = reader.warnings
        assert reader.size == path.stat().st_size, "not all of the file was hashed"
    except RefusedError as error:
        assert str(error)
        return Outcome(refused=error.rule)
    finally:
        unpacked.close()
    return outcome


def _take(batch: Any, outcome: Outcome) -> None:
    import numpy as np

    lines, raws = batch.locate(np.arange(len(batch.rows)))
    columns = [c.to_pylist() for c in batch.columns.columns]
    cells = list(zip(*columns, strict=True)) if columns else []
    outcome.rows += zip(batch.rows.to_pylist(), lines.to_pylist(), raws.to_pylist(), cells, strict=True)
    outcome.rejects += [tuple(r.values()) for r in batch.rejects.to_pylist()]
    outcome.skipped += batch.skipped


def _comparable(outcome: Outcome) -> Any:
    if outcome.refused is not None:
        # the block size decides how early a file is refused, not whether
        return "refused"
    return outcome.header, outcome.rows, outcome.rejects, outcome.skipped, outcome.warnings


def _check_records(outcome: Outcome, spec: TableSpec) -> None:
    if outcome.refused is not None:
        return
    loaded = [r[0] for r in outcome.rows]
    rejected = [r[0] for r in outcome.rejects]
    assert len(set(rejected)) == len(rejected), "a record is rejected twice"
    numbers = sorted([*loaded, *rejected])
    assert numbers == list(range(1, len(numbers) + 1)), "records are lost, or stand twice"
    assert outcome.skipped <= spec.dialect.footerRows
    for row, line, column, value, rule, message, raw in outcome.rejects:
        assert row >= 1
        assert line >= 1
        assert None not in (column, value, raw), f"a reject without column, value or raw: {rule}"
        assert column
        assert rule
        assert message
    places = sorted([(r[0], r[1]) for r in outcome.rows] + [(r[0], r[1]) for r in outcome.rejects])
    lines = [line for _, line in places]
    assert lines == sorted(lines), "lines do not ascend with the records"


def _by_grammar(outcome: Outcome, spec: TableSpec) -> None:
    """Each loaded record's raw text, read by the grammar alone, has the values that were loaded."""
    grammar = Grammar(spec.dialect, spec.common_missing)
    missing = set(spec.common_missing)
    for _, _, raw, cells in outcome.rows:
        if "\\x" in raw or len(raw) > 60_000:
            continue
        fields = [(v.decode(), quoted) for v, quoted in grammar.fields(raw.encode())]
        expected = tuple(None if not quoted and v in missing else v for v, quoted in fields[: len(cells)])
        assert cells == expected, f"{raw!r} was loaded as {cells!r}"
