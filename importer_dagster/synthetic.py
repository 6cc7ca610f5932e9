"""Synthetic deliveries, made from the specs alone: an inbox to show and to test the importer on.

Rows keep what their specs ask; keys overlap from day to day, so that a merge
meets new, changed and unchanged rows; references point at rows that exist.
Some dirt is planned, and :class:`PlannedFile` says what should become of it.

What does not belong here: single values (``synthetic_values.py``), importing.
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

import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.drift import fold
from importer_dagster.errors import UsageError
from importer_dagster.fields import Constraints, FieldSpec
from importer_dagster.source import compile_pattern
from importer_dagster.spec import ForeignKey, TableSpec
from importer_dagster.synthetic_values import Values
from importer_dagster.validate import Validator

Dirt = Literal["unreadable", "missing", "enum", "short"]
Row = tuple[str, ...]

_POOL = 240  # texts per field that rows are drawn from
_NEW_SHARE = 0.3  # of the rows of a merge type, how many are new each day
_CHANGED_SHARE = 0.25  # of the other rows, how many differ from the day before
_SPARE = 4  # times the rows are made where checks over whole rows choose among them
_MISSING_SHARE = 0.08  # of the values of an optional field
_DIRTY_EVERY, _GZIP_EVERY = 7, 11  # every so many files; with few types, one a day is dirty
_NONSENSE = "?!"  # no number, date, boolean or uuid in any format


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
    path: str = "{date}/{tenant}/{type}.csv",
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


# --- rows of one type and tenant ------------------------------------------------------


@dataclass
class _Table:
    """All rows that a type ever has for one tenant; a day's file is a window on them.

    ``columns`` holds the texts by field. ``window`` rows are in the first
    file; each day later the window starts ``step`` rows further on.
    """

    spec: TableSpec
    columns: dict[str, list[str]]
    window: int
    step: int
    fixed: set[str]  # fields that identify a row or refer to another

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def start(self, day: int) -> int:
        return min(self.step * day, max(len(self) - self.window, 0))

    def known_by(self, day: int) -> int:
        """How many rows have been delivered by that day (counted from 0)."""
        return min(len(self), self.start(day) + self.window)

    def rows(self, day: int) -> list[Row]:
        """The records of a day, in the order of the spec's fields."""
        part = slice(self.start(day), self.start(day) + self.window)
        return list(zip(*(self.columns[f.name][part] for f in self.spec.fields), strict=True))


class _TableMaker:
    """Makes the tables of one tenant, references after what they refer to."""

    def __init__(self, plan: _Plan, tenant: str) -> None:
        self.plan, self.tenant = plan, tenant
        self.made: dict[str, _Table] = {}

    def make(self, spec: TableSpec) -> _Table:
        plan = self.plan
        rng = Random(f"{plan.seed}/{spec.name}/{self.tenant}")  # noqa: S311 - no secret
        some = max(1, int(plan.rows * _NEW_SHARE))
        step = {"replace": 0, "append": plan.rows, "merge": some, "scd2": some}
        window, moves = plan.rows, step[spec.write_disposition]
        total = window + moves * (len(plan.days) - 1)
        wanted = total * (_SPARE if spec.checks else 1)  # checks over rows leave only some of them
        columns: dict[str, list[str]] = {}
        fixed = self._make_key(spec, wanted, rng, columns)
        n = len(next(iter(columns.values()))) if columns else wanted
        self._make_references(spec, n, window, moves, rng, columns, fixed)
        for f in spec.fields:
            if f.name not in columns:
                columns[f.name] = self._make_column(spec, f, n, rng, fixed)
        n = min(len(c) for c in columns.values())
        columns = {f.name: columns[f.name][:n] for f in spec.fields}
        if spec.checks:
            good = _judge(spec, list(columns.values()))[:total]
            columns = {name: [c[i] for i in good] for name, c in columns.items()}
            n = len(good)
        if not n:
            raise UsageError(
                f"No synthetic row satisfies the checks {', '.join(spec.checks)} of type {spec.name}."
            )
        window = min(window, n)
        table = _Table(spec, columns, window, min(moves, window), fixed)
        self.made[spec.name] = table
        return table

    def _make_column(self, spec: TableSpec, f: FieldSpec, n: int, rng: Random, fixed: set[str]) -> list[str]:
        if f.constraints.unique:
            fixed.add(f.name)
            return self.plan.distinct(spec, f, n)
        return _with_missing(spec, f, rng.choices(self.plan.pool(spec, f), k=n), rng)

    # --- keys ---

    def _make_key(self, spec: TableSpec, wanted: int, rng: Random, columns: dict[str, list[str]]) -> set[str]:
        """Fill the columns of the primary key, and of what refers together with them."""
        key = spec.tableschema.primaryKey
        if not key:
            return set()
        parts = self._key_parts(spec, wanted)
        rows = _combine(parts, wanted, rng)
        names = [name for part_names, _ in parts for name in part_names]
        for i, name in enumerate(names):
            columns[name] = [row[i] for row in rows]
        return set(names)

    def _key_parts(self, spec: TableSpec, wanted: int) -> list[tuple[tuple[str, ...], list[Row]]]:
        """The parts that a key is made of, each with its distinct values: references and single fields."""
        key = spec.tableschema.primaryKey
        parts: list[tuple[tuple[str, ...], list[Row]]] = []
        taken: set[str] = set()
        for reference in self._references(spec):
            own = [name for name in reference.fields if name in key]
            if not own or taken & set(reference.fields):
                continue
            rows = self._referred(spec, reference)
            at = [reference.fields.index(name) for name in own]
            distinct = {tuple(row[i] for i in at): row for row in reversed(rows)}  # the first row of each
            parts.append((tuple(reference.fields), list(reversed(distinct.values()))))
            taken |= set(reference.fields)
        for name in key:
            if name not in taken:
                values = self.plan.distinct(spec, spec.field(name), wanted)
                parts.append(((name,), [(value,) for value in values]))
        return parts

    # --- references ---

    def _references(self, spec: TableSpec) -> list[ForeignKey]:
        """References to tables that are there already, the widest first."""
        usable = [k for k in spec.tableschema.foreignKeys if self._usable(spec, k)]
        return sorted(usable, key=lambda k: -len(k.fields))

    def _usable(self, spec: TableSpec, key: ForeignKey) -> bool:
        target = self.made.get(key.reference.resource)
        if target is None:
            return False
        pairs = [
            (spec.field(a), target.spec.field(b))
            for a, b in zip(key.fields, key.reference.fields, strict=True)
            if b in target.columns
        ]
        return len(pairs) == len(key.fields) and all(_written_alike(a, b) for a, b in pairs)

    def _referred(self, spec: TableSpec, key: ForeignKey) -> list[Row]:
        """The values that the key may take: rows of the other table, as far as this one's fields accept them."""
        target = self.made[key.reference.resource]
        rows = list(zip(*(target.columns[name] for name in key.reference.fields), strict=True))
        tokens = [set(target.spec.missing_values(target.spec.field(n))) for n in key.reference.fields]
        accepted = [self.plan.accepts(spec, spec.field(name)) for name in key.fields]
        return [
            row
            for row in rows
            if all(
                value not in missing and accepts(value)
                for value, missing, accepts in zip(row, tokens, accepted, strict=True)
            )
        ]

    def _make_references(
        self,
        spec: TableSpec,
        n: int,
        window: int,
        step: int,
        rng: Random,
        columns: dict[str, list[str]],
        fixed: set[str],
    ) -> None:
        for key in self._references(spec):
            if any(name in columns for name in key.fields):
                continue
            rows = self._referred(spec, key)
            if not rows or any(spec.field(name).constraints.unique for name in key.fields):
                continue
            target = self.made[key.reference.resource]
            days = len(self.plan.days)
            known = [max(1, min(len(rows), target.known_by(day))) for day in range(days)]
            first = [
                0 if i < window or not step else min(1 + (i - window) // step, days - 1) for i in range(n)
            ]
            chosen = [rows[int(rng.random() * known[day])] for day in first]
            for i, name in enumerate(key.fields):
                f = spec.field(name)
                columns[name] = _with_missing(spec, f, [row[i] for row in chosen], rng)
                fixed.add(name)


def _written_alike(a: FieldSpec, b: FieldSpec) -> bool:
    return (a.type, a.format, a.decimalChar, a.groupChar) == (b.type, b.format, b.decimalChar, b.groupChar)


def _combine(parts: Sequence[tuple[tuple[str, ...], list[Row]]], wanted: int, rng: Random) -> list[Row]:
    """Distinct combinations of one row of each part, up to ``wanted``.

    Where one part has enough values, it counts up and the others are drawn.
    """
    lists = [rows for _, rows in parts]
    if not all(lists):
        return []
    longest = max(range(len(lists)), key=lambda i: len(lists[i]))
    if len(lists[longest]) >= wanted or len(lists) == 1:
        n = min(wanted, len(lists[longest]))
        return [
            tuple(v for i, rows in enumerate(lists) for v in (rows[k] if i == longest else rng.choice(rows)))
            for k in range(n)
        ]
    found: dict[Row, None] = {}
    for _ in range(wanted * 20):
        found[tuple(v for rows in lists for v in rng.choice(rows))] = None
        if len(found) == wanted:
            break
    return list(found)


def _missing_token(spec: TableSpec, f: FieldSpec) -> str | None:
    """A text that means 'no value' in the field; None where there is none.

    An empty text field is NULL only where that holds for the whole type, since
    elsewhere it cannot be told from a quoted empty text.
    """
    text = f.type == "string" and f.format != "uuid"
    usable = (t for t in spec.missing_values(f) if t or not text or t in spec.common_missing)
    # a lone empty value would be a blank line
    return next((t for t in usable if t or len(spec.fields) > 1), None)


def _with_missing(spec: TableSpec, f: FieldSpec, values: list[str], rng: Random) -> list[str]:
    """``values`` with some of them missing, where the field allows it."""
    token = _missing_token(spec, f)
    if f.required or token is None:
        return values
    return [token if rng.random() < _MISSING_SHARE else value for value in values]


def _judge(spec: TableSpec, columns: Sequence[list[str]]) -> list[int]:
    """Positions of the rows that satisfy the type's checks over whole rows."""
    bare = [
        f.model_copy(update={"constraints": Constraints(), "checks": ()}) for f in spec.fields
    ]  # single values are sound already
    schema = spec.tableschema.model_copy(update={"fields": tuple(bare)})
    judged = spec.model_copy(update={"tableschema": schema})
    judged.__dict__.pop("hash", None)  # the copy's own, not the one remembered of the original
    arrays = []
    for f, texts in zip(spec.fields, columns, strict=True):
        array, tokens = pa.array(texts, pa.string()), pa.array(spec.missing_values(f), pa.string())
        arrays.append(pc.if_else(pc.is_in(array, value_set=tokens), pa.scalar(None, pa.string()), array))
    names = [str(i) for i in range(len(columns))]
    validator = Validator(judged, {f.name: n for f, n in zip(spec.fields, names, strict=True)})
    _, good, _ = validator(pa.RecordBatch.from_arrays(arrays, names=names))
    found: list[int] = good.tolist()
    return found


# --- which files there are --------------------------------------------------------------


@dataclass
class _Plan:
    """What was asked for, and the values that are made once for all tenants."""

    specs: Mapping[str, TableSpec]
    days: list[date]
    tenants: list[str]
    rows: int
    seed: int
    path: str

    def __post_init__(self) -> None:
        self._values: dict[tuple[str, str], Values] = {}
        self._pools: dict[tuple[str, str], list[str]] = {}
        self._distinct: dict[tuple[str, str], list[str]] = {}

    def _of(self, spec: TableSpec, f: FieldSpec) -> Values:
        key = spec.name, f.name
        if key not in self._values:
            self._values[key] = Values(f, spec, self.days[-1])
        return self._values[key]

    def _rng(self, spec: TableSpec, f: FieldSpec) -> Random:
        return Random(f"{self.seed}/{spec.name}/{f.name}")  # noqa: S311 - no secret

    def pool(self, spec: TableSpec, f: FieldSpec) -> list[str]:
        """Texts for a field, to be drawn from."""
        key = spec.name, f.name
        if key not in self._pools:
            self._pools[key] = self._of(spec, f).pool(self._rng(spec, f), _POOL)
        return self._pools[key]

    def distinct(self, spec: TableSpec, f: FieldSpec, n: int) -> list[str]:
        """Up to ``n`` different texts for a field, always in the same order."""
        key = spec.name, f.name
        if len(self._distinct.get(key, ())) < n:
            self._distinct[key] = self._of(spec, f).distinct(self._rng(spec, f), n)
        return self._distinct[key][:n]

    def accepts(self, spec: TableSpec, f: FieldSpec) -> Callable[[str], bool]:
        """Whether a text of another type may stand in this field."""
        c = f.constraints
        pattern = re.compile(c.pattern) if c.pattern is not None else None

        def accepts(text: str) -> bool:
            return (
                (c.enum is None or text in c.enum)
                and (pattern is None or bool(pattern.fullmatch(text)))
                and (c.maxLength is None or len(text) <= c.maxLength)
                and text not in spec.missing_values(f)
            )

        return accepts

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
        casts = _Roles(self)
        written: set[str] = set()
        for t, tenant in enumerate(self.tenants):
            maker = _TableMaker(self, tenant)
            tables = [maker.make(spec) for spec in self.order]
            for d, day in enumerate(self.days):
                for i, table in enumerate(tables):
                    if d:
                        _change(table, d, self, tenant)
                    if t and "{tenant}" not in (table.spec.path or self.path):
                        continue  # one file for all
                    for file, content in self._of_day(table, i, t, d, day, tenant, casts):
                        if file.path not in written:  # a pattern without tenant or date has but one
                            written.add(file.path)
                            yield file, content
        if refuse:
            yield self._cut_off()

    def _of_day(
        self, table: _Table, i: int, t: int, d: int, day: date, tenant: str, roles: _Roles
    ) -> Iterator[tuple[PlannedFile, bytes]]:
        spec, rows = table.spec, table.rows(d)
        rng = Random(f"{self.seed}/{spec.name}/{tenant}/{day}")  # noqa: S311 - no secret
        first = t == 0 and d == 0
        if t == 0 and spec.name == roles.split and len(rows) > 1:
            half = len(rows) // 2
            for number, part in ((1, rows[:half]), (2, rows[half:])):
                planned = PlannedFile(
                    spec.name, tenant, day, self.path_of(spec, day, tenant, number), len(part),
                    expected_loaded_at_most=len(part), note=f"part {number} of 2",
                )  # fmt: skip
                yield planned, _encode(spec, part)
            return
        resent = first and spec.name == roles.resent
        renamed = roles.renamed if t == 0 and d == len(self.days) - 1 else None
        dirt: list[Dirt] = []
        if resent or (i + t + d) % min(_DIRTY_EVERY, len(self.specs)) == 0:
            dirt = _choose_dirt(spec, len(rows), i + 2 * t + 3 * d)
        planned = PlannedFile(
            spec.name, tenant, day, self.path_of(spec, day, tenant), len(rows),
            expected_rejects=len(dirt), expected_loaded_at_most=len(rows) - len(dirt),
            note=", ".join(_DIRT_WORDS[d] for d in dirt),
        )  # fmt: skip
        header = None
        if renamed and renamed[0] == spec.name:
            header = {renamed[1]: f"new_{renamed[1]}"}
            planned = replace(
                planned, note="; ".join(filter(None, [planned.note, f"column {renamed[1]} renamed"]))
            )
        content = _encode(spec, _soil(spec, rows, dirt, rng), header)
        if resent:
            planned = replace(planned, corrected=tuple(rows), note=f"{planned.note}; to be sent again")
        elif (i + 3 * t + 5 * d) % _GZIP_EVERY == 1:
            planned = replace(planned, path=planned.path + ".gz")
            content = gzip.compress(content, mtime=0)
        yield planned, content

    def _cut_off(self) -> tuple[PlannedFile, bytes]:
        """A file whose transfer ended in the middle of the header, before a required column."""
        for spec in self.order:
            needed = max((i for i, f in enumerate(spec.fields) if f.required), default=0)
            if spec.dialect.header and needed and spec.path is None:
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

    def path_of(self, spec: TableSpec, day: date, tenant: str, part: int | None = None) -> str:
        """Where a file goes, by the type's own pattern or the one for all; ``part`` tells several apart."""
        pattern = spec.path or self.path
        suffix = f"_{part}" if part is not None else ""
        if "{date" not in pattern:
            suffix = f"_{day:%Y%m%d}{suffix}"
        path = re.sub(r"\{date(?::([^}]+))?\}", lambda m: day.strftime(m[1] or "%Y-%m-%d"), pattern)
        path = path.replace("{tenant}", tenant).replace("{type}", spec.name).replace("?", "x")
        if "*" in path:
            head, _, tail = path.rpartition("*")
            path = head.replace("*", "") + suffix + tail
        elif suffix and spec.path is None:
            folder, slash, name = path.rpartition("/")
            stem, dot, ending = name.partition(".")
            path = f"{folder}{slash}{stem}{suffix}{dot}{ending}"
        if spec.path and compile_pattern(spec.path, spec.name).match(path) is None:
            raise UsageError(
                f"No synthetic file name fits the path pattern {spec.path!r} of type {spec.name}."
            )
        return path


class _Roles:
    """Which type plays which part: split in two, sent again, with a renamed column."""

    def __init__(self, plan: _Plan) -> None:
        types = sorted(plan.specs.values(), key=lambda s: (s.write_disposition != "append", s.name))
        can_split = [
            s for s in types if s.write_disposition != "replace" and (s.path is None or "*" in s.path)
        ]
        self.split = can_split[0].name if can_split else None
        rest = [s for s in types if s.name != self.split]
        dirty = [s for s in rest if _choose_dirt(s, plan.rows, 0)]
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


def _change(table: _Table, day: int, plan: _Plan, tenant: str) -> None:
    """Let some of the day's rows differ from what they were the day before."""
    spec = table.spec
    free = [f for f in spec.fields if f.name not in table.fixed]
    if spec.write_disposition == "append" or not free:
        return
    rng = Random(f"{plan.seed}/{spec.name}/{tenant}/{day}/changes")  # noqa: S311 - no secret
    start = table.start(day)
    chosen = [i for i in range(start, start + table.window) if rng.random() < _CHANGED_SHARE]
    if not chosen:
        return
    fresh = {
        f.name: _with_missing(spec, f, rng.choices(plan.pool(spec, f), k=len(chosen)), rng) for f in free
    }
    if spec.checks:
        new = [fresh.get(f.name) or [table.columns[f.name][i] for i in chosen] for f in spec.fields]
        good = _judge(spec, new)
        chosen = [chosen[i] for i in good]
        fresh = {name: [values[i] for i in good] for name, values in fresh.items()}
    for name, values in fresh.items():
        column = table.columns[name]
        for i, value in zip(chosen, values, strict=True):
            column[i] = value


# --- dirt -------------------------------------------------------------------------------

_DIRT_WORDS: dict[Dirt, str] = {
    "unreadable": "a value that cannot be read",
    "missing": "a required value missing",
    "enum": "a value outside of the enum",
    "short": "a short record",
}


def _choose_dirt(spec: TableSpec, rows: int, turn: int) -> list[Dirt]:
    """One or two kinds of dirt, as many as the type's reject_limit bears."""
    kinds: list[Dirt] = [kind for kind in _DIRT_WORDS if kind == "short" or _target(spec, kind) is not None]
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
    for i, f in enumerate(spec.fields):
        if f.name in key:
            continue
        text = f.type == "string" and f.format != "uuid"
        nonsense = _NONSENSE not in (*spec.missing_values(f), *f.trueValues, *f.falseValues)
        if kind == "unreadable" and not text and nonsense:
            return i
        if kind == "missing" and f.required and _missing_token(spec, f) is not None:
            return i
        if (
            kind == "enum"
            and text
            and f.constraints.enum
            and _NONSENSE not in f.constraints.enum
            and nonsense
        ):
            return i
    return None


def _soil(spec: TableSpec, rows: list[Row], dirt: Sequence[Dirt], rng: Random) -> list[Row]:
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
        token = _missing_token(spec, spec.fields[i]) if kind == "missing" else None
        value = _NONSENSE if token is None else token
        rows[at] = (*rows[at][:i], value, *rows[at][i + 1 :])
    return rows


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
