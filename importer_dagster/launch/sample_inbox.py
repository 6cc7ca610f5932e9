"""Synthetic deliveries, made from the specs alone: an inbox to show and to test the importer on.

Rows satisfy their specs: types, formats, constraints, keys, references and named checks. Keys overlap from day
to day, so that a merge meets new, changed and unchanged rows. Some files get faults on purpose, and
:class:`PlannedFile` says what importing each file comes to.

What does not belong here: importing the files, and what the demo prints (``launch/demo.py``).
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from random import Random
from typing import NamedTuple

from importer_dagster.errors import UsageError
from importer_dagster.launch.sample_rows import Row, Table, TableMaker, alone, missing_token, passing
from importer_dagster.source.path_patterns import compile_pattern
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.drift import fold

_FAULTS_EVERY, _GZIP_EVERY = 7, 11  # files; with fewer types than that, one file a day has faults


@dataclass(frozen=True)
class PlannedFile:
    """One synthetic file and what importing it comes to.

    ``path`` is relative to the inbox. ``rows`` is the number of its records, those with faults included.
    ``corrected`` holds the records to send again under the same path, None for most files (see :func:`resend`).
    """

    type: str
    tenant: str
    date: date
    path: str
    rows: int
    expected_rejects: int = 0
    note: str = ""
    corrected: tuple[Row, ...] | None = field(default=None, repr=False)


def write_inbox(
    root: Path,
    specs: Mapping[str, TableSpec],
    *,
    days: Sequence[date],
    tenants: Sequence[str],
    rows: int,
    seed: int = 0,
    path: str = "{date}/{tenant}/{type}*.csv",
    on_file: Callable[[Path], None] | None = None,
) -> list[PlannedFile]:
    """Write synthetic files of all types for each day and tenant; the same arguments make the same bytes.

    ``rows`` is the number of records of a file; fewer where a type's keys do not allow as many. ``path`` is the
    pattern of types that name none. ``on_file`` is called with the path of each file that was written.
    Raises UsageError where no value satisfies a field's constraints, or no file name fits a pattern.
    """
    if rows < 1 or not days or not tenants:
        raise UsageError("Synthetic deliveries need at least one day, one tenant and one row.")
    newest = {name: spec.layouts[-1].spec for name, spec in specs.items()}  # how files are written now
    plan = _Plan(newest, sorted(days), rows, seed, path)
    planned: dict[str, PlannedFile] = {}
    for number, tenant in enumerate(tenants):
        for file, content in plan.files(tenant, number):
            if file.path in planned:  # a pattern without tenant or date names one file for all of them
                continue
            planned[file.path] = file
            target = root / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            if on_file is not None:
                on_file(target)
    return list(planned.values())


def resend(root: Path, planned: Sequence[PlannedFile], specs: Mapping[str, TableSpec]) -> list[PlannedFile]:
    """Write corrected content over the files that have a correction, and return what importing these comes to."""
    again = []
    for file in planned:
        if file.corrected is not None:
            (root / file.path).write_bytes(_encode(specs[file.type].layouts[-1].spec, file.corrected))
            again.append(replace(file, expected_rejects=0, note="sent again, corrected", corrected=None))
    return again


class _Plan:
    """What was asked for, and the files that follow from it."""

    def __init__(
        self, specs: Mapping[str, TableSpec], days: list[date], rows: int, seed: int, path: str
    ) -> None:
        self.specs, self.days, self.rows, self.seed, self.path = specs, days, rows, seed, path
        self.maker = TableMaker(rows, len(days), days[-1], seed)
        self.faults = {name: _possible_faults(spec) for name, spec in specs.items()}
        by_role = sorted(specs.values(), key=lambda s: (s.write_disposition != "append", s.name))
        self.resent = next((s.name for s in by_role if self._choose_faults(s, rows, 0)), None)
        renames = ((s.name, name) for s in by_role if s.name != self.resent and (name := _renamable(s)))
        self.renamed = next(renames, None)  # the type and the column

    def files(self, tenant: str, number: int) -> Iterator[tuple[PlannedFile, bytes]]:
        """All files of one tenant with their content, by day; ``number`` counts the tenants from 0."""
        tables: dict[str, Table] = {}
        left = dict(self.specs)
        while left:  # a type comes after those that it refers to, unless they refer to each other in a circle
            names = {n: {k.reference.resource for k in s.tableschema.foreignKeys} for n, s in left.items()}
            ready = [n for n in left if not (names[n] & left.keys()) - {n}] or list(left)[:1]
            for name in ready:
                tables[name] = self.maker.make(left.pop(name), tenant, tables)
        for d in range(len(self.days)):
            for i, table in enumerate(tables.values()):
                if d:
                    table.change(d, self._random(table.spec.name, tenant, d, "changes"))
                if number == 0 or "{tenant}" in (table.spec.path or self.path):
                    yield self._file(table, tenant, i, number, d)

    def _file(self, table: Table, tenant: str, i: int, t: int, d: int) -> tuple[PlannedFile, bytes]:
        """The file of type number ``i`` for tenant number ``t`` and day number ``d``."""
        spec, rows, day = table.spec, table.rows[table.of_day(d)], self.days[d]
        resent = t == d == 0 and spec.name == self.resent
        faults: list[_Fault] = []
        if resent or (i + t + d) % min(_FAULTS_EVERY, len(self.specs)) == 0:
            faults = self._choose_faults(spec, len(rows), i + 2 * t + 3 * d)
        notes = [", ".join(f.words for f in faults)]
        header: dict[str, str] = {}
        if t == 0 and d == len(self.days) - 1 and self.renamed and self.renamed[0] == spec.name:
            column = self.renamed[1]
            header = {column: f"new_{column}"}
            notes.append(f"column {column} renamed")
        delivered = list(rows)
        positions = self._random(spec.name, tenant, day).sample(range(len(rows)), len(faults))
        for at, fault in zip(positions, faults, strict=True):
            delivered[at] = fault.add_to(rows[at])
        path, content = self._path_of(spec, day, tenant), _encode(spec, delivered, header)
        if resent:
            notes.append("to be sent again")
        elif (i + 3 * t + 5 * d) % _GZIP_EVERY == 1:
            path, content = path + ".gz", gzip.compress(content, mtime=0)
        note, corrected = "; ".join(filter(None, notes)), tuple(rows) if resent else None
        return PlannedFile(spec.name, tenant, day, path, len(rows), len(faults), note, corrected), content

    def _choose_faults(self, spec: TableSpec, rows: int, turn: int) -> list[_Fault]:
        """One or two faults for a file, as many as the type's reject_limit allows; ``turn`` chooses among them."""
        possible = self.faults[spec.name]
        chosen = [possible[(turn + k) % len(possible)] for k in range(min(1 + turn % 2, len(possible)))]
        while chosen and (len(chosen) > rows or spec.reject_limit.exceeded(len(chosen), rows)):
            chosen.pop()
        return chosen

    def _path_of(self, spec: TableSpec, day: date, tenant: str) -> str:
        """Where a file goes; the date takes the place of a ``*`` where the pattern does not name it."""
        pattern = spec.path or self.path
        path = re.sub(r"\{date(?::([^}]+))?\}", lambda m: day.strftime(m[1] or "%Y-%m-%d"), pattern)
        path = path.replace("{tenant}", tenant).replace("{type}", spec.name).replace("?", "x")
        if "*" in path:
            head, _, tail = path.rpartition("*")
            path = head.replace("*", "") + ("" if "{date" in pattern else f"_{day:%Y%m%d}") + tail
        if compile_pattern(pattern, spec.name).match(path) is None:
            raise UsageError(f"No synthetic file name fits the path pattern {pattern!r} of type {spec.name}.")
        return path

    def _random(self, *of: object) -> Random:
        return Random("/".join(map(str, (self.seed, *of))))  # noqa: S311 - no secret


# --- faults and writing -----------------------------------------------------------------


class _Fault(NamedTuple):
    """What is wrong with a record: ``text`` in the field at ``position``, or, if that is None, no last field."""

    words: str
    position: int | None
    text: str

    def add_to(self, row: Row) -> Row:
        """The record with this fault."""
        i = self.position
        return row[:-1] if i is None else (*row[:i], self.text, *row[i + 1 :])


def _possible_faults(spec: TableSpec) -> list[_Fault]:
    """One fault of each kind that a type rejects, outside of its key."""
    found: dict[str, _Fault] = {}
    for i, f in enumerate(spec.fields):
        if f.name in spec.tableschema.primaryKey:
            continue
        is_text = f.type == "string" and f.format != "uuid"
        kind = "a value outside of the enum" if is_text else "a value that cannot be read"
        faults = [_Fault(kind, i, "?!")] if f.constraints.enum or not is_text else []
        if (token := missing_token(spec, f)) is not None:
            faults.append(_Fault("a required value missing", i, token))
        for fault in faults:
            if fault.words not in found and not passing(alone(spec, f), [(fault.text,)]):
                found[fault.words] = fault
    if len(spec.fields) > 2:
        found["a short record"] = _Fault("a short record", None, "")
    return list(found.values())


def _renamable(spec: TableSpec) -> str | None:
    """An optional column that may come under a new name without being lost."""
    contract = spec.schema_contract
    if not spec.dialect.header or contract.removed != "evolve" or contract.added not in ("rescue", "evolve"):
        return None
    taken = {fold(n) for f in spec.fields for n in f.names}
    needed = {name for k in spec.tableschema.foreignKeys for name in k.fields}
    needed |= {f.name for f in spec.fields if f.required or f.constraints.unique or spec.checks}
    names = (f.name for f in spec.fields if f.name not in needed and fold(f"new_{f.name}") not in taken)
    return next(names, None)


def _encode(spec: TableSpec, rows: Iterable[Row], renamed: Mapping[str, str] | None = None) -> bytes:
    """Records as the bytes of a file, in the type's dialect and encoding."""
    dialect, out = spec.dialect, io.StringIO()
    writer = csv.writer(
        out,
        delimiter=dialect.delimiter,
        quotechar=dialect.quoteChar,
        doublequote=dialect.doubleQuote,
        escapechar=dialect.escapeChar,
        quoting=csv.QUOTE_NONE if dialect.quoteChar is None else csv.QUOTE_MINIMAL,
        lineterminator="\n",
    )
    names = [(renamed or {}).get(f.name, f.names[0]) for f in spec.fields]
    lines = sorted(dialect.headerRows or (1,))
    for line in range(1, lines[-1] + 1):
        if dialect.header and line == lines[0]:
            writer.writerow(names)
        elif dialect.header and line in lines:
            out.write(dialect.delimiter * (len(names) - 1) + "\n")
        elif dialect.headerRows:
            out.write("synthetic data\n")
    writer.writerows(rows)
    for _ in range(dialect.footerRows):
        writer.writerow(["end", *[""] * (len(names) - 1)])
    return out.getvalue().encode(spec.encoding)
