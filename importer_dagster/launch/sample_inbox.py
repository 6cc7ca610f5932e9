"""Synthetic deliveries, made from the specs alone: an inbox to show and to test the importer on.

Rows keep what their specs ask; keys overlap from day to day, so that a merge
meets new, changed and unchanged rows; references point at rows that exist.
Some dirt is planned, and :class:`PlannedFile` says what should become of it.

What does not belong here: rows (``launch/sample_rows.py``), single values
(``launch/sample_values.py``), dirt (``launch/synthetic_dirt.py``), importing.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from random import Random
from typing import Literal

from importer_dagster.errors import UsageError
from importer_dagster.launch.sample_rows import Row, Table, TableMaker, Texts, change, missing_token
from importer_dagster.source.path_patterns import compile_pattern
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.drift import fold

_DIRTY_EVERY, _GZIP_EVERY = 7, 11  # every so many files; with few types, one a day is dirty


@dataclass(frozen=True)
class PlannedFile:
    """One synthetic file and what importing it should come to.

    ``path`` is relative to the inbox. ``rows`` are its records, dirty ones
    included. ``corrected`` holds the records to send again under the same path,
    None for most files (see :func:`resend`).
    """

    type: str
    tenant: str
    date: date
    path: str
    rows: int
    expected_rejects: int = 0
    expected_loaded_at_most: int = 0
    note: str = ""
    refused: bool = False
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
    refuse: bool = False,
    on_file: Callable[[Path], None] | None = None,
) -> list[PlannedFile]:
    """Write synthetic files of all types for each day and tenant; the same arguments, the same bytes.

    ``rows`` is the number of records of a file; fewer where a type's keys do
    not allow as many. ``path`` serves types that name none of their own. With
    ``refuse`` one file more has a header that is cut off. ``on_file`` is told
    of each file. Raises UsageError where a spec asks for what cannot be made.
    """
    if rows < 1 or not days or not tenants:
        raise UsageError("Synthetic deliveries need at least one day, one tenant and one row.")
    specs = {name: spec.layouts[-1].spec for name, spec in specs.items()}  # what is written now
    plan = _Plan(specs, sorted(days), list(tenants), rows, seed, path)
    planned: list[PlannedFile] = []
    for file, content in plan.files(refuse):
        target = root / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        planned.append(file)
        if on_file is not None:
            on_file(target)
    return planned


def resend(root: Path, planned: Sequence[PlannedFile], specs: Mapping[str, TableSpec]) -> list[PlannedFile]:
    """Write corrected content over the files that have a correction, as a supplier does who sends them again.

    Returns what importing these should come to now; other files are left as they are.
    """
    again: list[PlannedFile] = []
    for file in planned:
        if file.corrected is None:
            continue
        (root / file.path).write_bytes(_encode(specs[file.type].layouts[-1].spec, file.corrected))
        again.append(
            replace(
                file,
                expected_rejects=0,
                expected_loaded_at_most=file.rows,
                note="sent again, corrected",
                corrected=None,
            )
        )
    return again


# --- which files there are --------------------------------------------------------------


@dataclass
class _Plan:
    """What was asked for, and the files that follow from it."""

    specs: Mapping[str, TableSpec]
    days: list[date]
    tenants: list[str]
    rows: int
    seed: int
    path: str

    def __post_init__(self) -> None:
        self.texts = Texts(self.seed, self.days[-1])

    @cached_property
    def order(self) -> list[TableSpec]:
        """The types, referred ones first as far as references allow it."""
        names = {
            s.name: {k.reference.resource for k in s.tableschema.foreignKeys} & set(self.specs) - {s.name}
            for s in self.specs.values()
        }
        while True:
            try:
                return [self.specs[name] for name in TopologicalSorter(names).static_order()]
            except CycleError as error:
                first, second = error.args[1][:2]  # the second waits for the first
                names[second].discard(first)

    # --- files ---

    def files(self, refuse: bool) -> Iterator[tuple[PlannedFile, bytes]]:
        """All files with their content, by tenant and day."""
        roles = _Roles(self)
        written: set[str] = set()
        for t, tenant in enumerate(self.tenants):
            maker = TableMaker(self.texts, tenant, rows=self.rows, days=len(self.days))
            tables = [maker.make(spec) for spec in self.order]
            for d, day in enumerate(self.days):
                for i, table in enumerate(tables):
                    if d:
                        change(table, d, self.texts, self._rng(table.spec, tenant, d, "changes"))
                    if t and "{tenant}" not in self.pattern_of(table.spec):
                        continue  # one file for all
                    for file, content in self._of_day(table, i, t, d, day, tenant, roles):
                        if file.path not in written:  # a pattern without tenant or date has but one
                            written.add(file.path)
                            yield file, content
        if refuse:
            yield self._cut_off()

    def _of_day(
        self, table: Table, i: int, t: int, d: int, day: date, tenant: str, roles: _Roles
    ) -> Iterator[tuple[PlannedFile, bytes]]:
        """The file or files of type ``i`` for tenant ``t`` and day ``d``."""
        spec, rows = table.spec, table.rows(d)
        if t == 0 and spec.name == roles.split and len(rows) > 1:
            yield from self._split(spec, rows, day, tenant)
            return
        resent = t == 0 and d == 0 and spec.name == roles.resent
        dirt: list[Dirt] = []
        if resent or (i + t + d) % min(_DIRTY_EVERY, len(self.specs)) == 0:
            dirt = choose_dirt(spec, len(rows), i + 2 * t + 3 * d)
        note = ", ".join(DIRT_WORDS[kind] for kind in dirt)
        header: dict[str, str] = {}
        if t == 0 and d == len(self.days) - 1 and roles.renamed and roles.renamed[0] == spec.name:
            column = roles.renamed[1]
            header = {column: f"new_{column}"}
            note = "; ".join(filter(None, [note, f"column {column} renamed"]))
        planned = PlannedFile(
            spec.name, tenant, day, self.path_of(spec, day, tenant), len(rows),
            expected_rejects=len(dirt), expected_loaded_at_most=len(rows) - len(dirt),
            note=note,
        )  # fmt: skip
        content = _encode(spec, soil(spec, rows, dirt, self._rng(spec, tenant, day)), header)
        if resent:
            planned = replace(planned, corrected=tuple(rows), note=f"{planned.note}; to be sent again")
        elif (i + 3 * t + 5 * d) % _GZIP_EVERY == 1:
            planned = replace(planned, path=planned.path + ".gz")
            content = gzip.compress(content, mtime=0)
        yield planned, content

    def _split(
        self, spec: TableSpec, rows: Sequence[Row], day: date, tenant: str
    ) -> Iterator[tuple[PlannedFile, bytes]]:
        """One day's rows in two files."""
        half = len(rows) // 2
        for number, part in ((1, rows[:half]), (2, rows[half:])):
            planned = PlannedFile(
                spec.name, tenant, day, self.path_of(spec, day, tenant, number), len(part),
                expected_loaded_at_most=len(part), note=f"part {number} of 2",
            )  # fmt: skip
            yield planned, _encode(spec, part)

    def _rng(self, spec: TableSpec, *of: object) -> Random:
        return Random("/".join(map(str, (self.seed, spec.name, *of))))  # noqa: S311 - no secret

    def _cut_off(self) -> tuple[PlannedFile, bytes]:
        """A file whose transfer ended in the middle of the header, before a required column."""
        for spec in self.order:
            needed = max((i for i, f in enumerate(spec.fields) if f.required), default=0)
            if spec.dialect.header and needed and "*" in self.pattern_of(spec):
                break
        else:
            raise UsageError(
                "No type has a required column behind its first, so no cut-off header can be refused."
            )
        day, tenant = self.days[-1], self.tenants[0]
        note = f"header cut off before column {spec.fields[needed].name}"
        planned = PlannedFile(
            spec.name, tenant, day, self.path_of(spec, day, tenant, 9), 0, note=note, refused=True
        )
        names = spec.tableschema.model_copy(update={"fields": spec.fields[:needed]})
        return planned, _encode(spec.model_copy(update={"tableschema": names}), []).rstrip(b"\r\n\0")

    def pattern_of(self, spec: TableSpec) -> str:
        """Where files of a type are: by its own pattern, or the one for all that name none."""
        return spec.path or self.path

    def path_of(self, spec: TableSpec, day: date, tenant: str, part: int | None = None) -> str:
        """Where a file goes; ``part`` tells several apart, where the pattern has a ``*`` for it."""
        pattern = self.pattern_of(spec)
        suffix = f"_{part}" if part is not None else ""
        if "{date" not in pattern:
            suffix = f"_{day:%Y%m%d}{suffix}"
        path = re.sub(r"\{date(?::([^}]+))?\}", lambda m: day.strftime(m[1] or "%Y-%m-%d"), pattern)
        path = path.replace("{tenant}", tenant).replace("{type}", spec.name).replace("?", "x")
        if "*" in path:
            head, _, tail = path.rpartition("*")
            path = head.replace("*", "") + suffix + tail
        if compile_pattern(pattern, spec.name).match(path) is None:
            raise UsageError(f"No synthetic file name fits the path pattern {pattern!r} of type {spec.name}.")
        return path


class _Roles:
    """Which type plays which part: split in two, sent again, with a renamed column."""

    def __init__(self, plan: _Plan) -> None:
        types = sorted(plan.specs.values(), key=lambda s: (s.write_disposition != "append", s.name))
        can_split = [s for s in types if s.write_disposition != "replace" and "*" in plan.pattern_of(s)]
        self.split = can_split[0].name if can_split else None
        rest = [s for s in types if s.name != self.split]
        dirty = [s for s in rest if choose_dirt(s, plan.rows, 0)]
        self.resent = dirty[0].name if dirty else None
        found = ((s.name, name) for s in rest if s.name != self.resent and (name := _renamable(s)))
        self.renamed: tuple[str, str] | None = next(found, None)


def _renamable(spec: TableSpec) -> str | None:
    """An optional column that may come under a new name without being lost."""
    contract = spec.schema_contract
    if not spec.dialect.header or contract.removed != "evolve" or contract.added not in ("rescue", "evolve"):
        return None
    taken = {fold(n) for f in spec.fields for n in (f.name, *f.aliases)}
    referring = {name for k in spec.tableschema.foreignKeys for name in k.fields}
    return next(
        (
            f.name
            for f in spec.fields
            if not f.required
            and f.name not in referring
            and not f.constraints.unique
            and not spec.checks
            and fold(f"new_{f.name}") not in taken
        ),
        None,
    )


# --- writing ----------------------------------------------------------------------------


def _encode(spec: TableSpec, rows: Sequence[Row], renamed: Mapping[str, str] | None = None) -> bytes:
    """Records as the bytes of a file, in the type's dialect and encoding."""
    dialect = spec.dialect
    out = io.StringIO()
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


Dirt = Literal["unreadable", "missing", "enum", "short"]
_NONSENSE = "?!"  # no number, date, boolean or uuid in any format
DIRT_WORDS: dict[Dirt, str] = {
    "unreadable": "a value that cannot be read",
    "missing": "a required value missing",
    "enum": "a value outside of the enum",
    "short": "a short record",
}


def choose_dirt(spec: TableSpec, rows: int, turn: int) -> list[Dirt]:
    """One or two kinds of dirt, as many as the type's reject_limit bears."""
    kinds: list[Dirt] = [kind for kind in DIRT_WORDS if kind == "short" or _target(spec, kind) is not None]
    if len(spec.fields) < 3:
        kinds = [k for k in kinds if k != "short"]
    if not kinds:
        return []
    chosen = [kinds[turn % len(kinds)], kinds[(turn + 1) % len(kinds)]][: 1 + turn % 2]
    while chosen and (len(chosen) > rows or spec.reject_limit.exceeded(len(chosen), rows)):
        chosen.pop()
    return chosen


def _target(spec: TableSpec, kind: Dirt) -> int | None:
    """The position of the field that such dirt goes into; keys are left alone."""
    key = spec.tableschema.primaryKey
    found = (i for i, f in enumerate(spec.fields) if f.name not in key and _may_bear(spec, f, kind))
    return next(found, None)


def _may_bear(spec: TableSpec, f: FieldSpec, kind: Dirt) -> bool:
    if kind == "missing":
        return f.required and missing_token(spec, f) is not None
    if _NONSENSE in (*spec.missing_values(f), *f.trueValues, *f.falseValues):
        return False
    text = f.type == "string" and f.format != "uuid"
    if kind == "enum":
        return text and bool(f.constraints.enum) and _NONSENSE not in (f.constraints.enum or ())
    return kind == "unreadable" and not text


def soil(spec: TableSpec, rows: list[Row], dirt: Sequence[Dirt], rng: Random) -> list[Row]:
    """``rows`` with one dirty record for each kind in ``dirt``."""
    if not dirt:
        return rows
    rows = list(rows)
    for at, kind in zip(rng.sample(range(len(rows)), len(dirt)), dirt, strict=True):
        if kind == "short":
            rows[at] = rows[at][:-1]
            continue
        i = _target(spec, kind)
        assert i is not None
        token = missing_token(spec, spec.fields[i]) if kind == "missing" else None
        value = _NONSENSE if token is None else token
        rows[at] = (*rows[at][:i], value, *rows[at][i + 1 :])
    return rows
