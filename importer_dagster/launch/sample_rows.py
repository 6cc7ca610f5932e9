"""Synthetic rows: all that a type ever has for one tenant, as its keys, references and checks ask.

What does not belong here: single values (``launch/sample_values.py``), which rows go
into which file (``launch/sample_inbox.py``), what is wrong with some (``launch/synthetic_dirt.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from random import Random

import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.errors import UsageError
from importer_dagster.launch.sample_values import Values
from importer_dagster.spec.fields import Constraints, FieldSpec, ForeignKey
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.validator import Validator

Row = tuple[str, ...]

_POOL = 240  # texts per field that rows are drawn from
_NEW_SHARE = 0.3  # of the rows of a merge type, how many are new each day
_CHANGED_SHARE = 0.25  # of the other rows, how many differ from the day before
_SPARE = 4  # times the rows are made where checks over whole rows choose among them
_MISSING_SHARE = 0.08  # of the values of an optional field


class Texts:
    """Texts for the fields of all types, made once for all tenants; the same ``seed``, the same texts.

    ``latest`` is the last business date: no date that is made lies behind it.
    """

    def __init__(self, seed: int, latest: date) -> None:
        self.seed, self.latest = seed, latest
        self._values: dict[tuple[str, str], Values] = {}
        self._pools: dict[tuple[str, str], list[str]] = {}
        self._distinct: dict[tuple[str, str], list[str]] = {}

    def _of(self, spec: TableSpec, f: FieldSpec) -> Values:
        key = spec.name, f.name
        if key not in self._values:
            self._values[key] = Values(f, spec, self.latest)
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


@dataclass
class Table:
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
        """The first row of a day's file (counted from 0, as days are)."""
        return min(self.step * day, max(len(self) - self.window, 0))

    def known_by(self, day: int) -> int:
        """How many rows have been delivered by that day."""
        return min(len(self), self.start(day) + self.window)

    def rows(self, day: int) -> list[Row]:
        """The records of a day, in the order of the spec's fields."""
        part = slice(self.start(day), self.start(day) + self.window)
        return list(zip(*(self.columns[f.name][part] for f in self.spec.fields), strict=True))


class TableMaker:
    """Makes the tables of one tenant, references after what they refer to.

    ``rows`` are those of the first of ``days`` files.
    """

    def __init__(self, texts: Texts, tenant: str, *, rows: int, days: int) -> None:
        self.texts, self.tenant, self.rows, self.days = texts, tenant, rows, days
        self.made: dict[str, Table] = {}

    def make(self, spec: TableSpec) -> Table:
        """The table of one more type; raises UsageError where no row satisfies the type's checks."""
        some = max(1, int(self.rows * _NEW_SHARE))
        moves = {"replace": 0, "append": self.rows, "merge": some, "scd2": some}[spec.write_disposition]
        total = self.rows + moves * (self.days - 1)
        wanted = total * (_SPARE if spec.checks else 1)  # checks over rows leave only some of them
        columns, fixed = self._make_columns(spec, wanted, moves)
        if spec.checks:
            good = _judge(spec, list(columns.values()))[:total]
            columns = {name: [c[i] for i in good] for name, c in columns.items()}
        n = len(next(iter(columns.values())))
        if not n:
            raise UsageError(
                f"No synthetic row satisfies the checks {', '.join(spec.checks)} of type {spec.name}."
            )
        window = min(self.rows, n)
        table = self.made[spec.name] = Table(spec, columns, window, min(moves, window), fixed)
        return table

    def _make_columns(
        self, spec: TableSpec, wanted: int, moves: int
    ) -> tuple[dict[str, list[str]], set[str]]:
        """The columns in the spec's order, ``wanted`` rows or as many as can be, and which of them are fixed."""
        rng = Random(f"{self.texts.seed}/{spec.name}/{self.tenant}")  # noqa: S311 - no secret
        columns: dict[str, list[str]] = {}
        fixed = self._make_key(spec, wanted, rng, columns)
        n = len(next(iter(columns.values()))) if columns else wanted
        self._make_references(spec, n, moves, rng, columns, fixed)
        for f in spec.fields:
            if f.name not in columns:
                columns[f.name] = self._make_column(spec, f, n, rng, fixed)
        n = min(len(c) for c in columns.values())
        return {f.name: columns[f.name][:n] for f in spec.fields}, fixed

    def _make_column(self, spec: TableSpec, f: FieldSpec, n: int, rng: Random, fixed: set[str]) -> list[str]:
        if f.constraints.unique:
            fixed.add(f.name)
            return self.texts.distinct(spec, f, n)
        return with_missing(spec, f, rng.choices(self.texts.pool(spec, f), k=n), rng)

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
                values = self.texts.distinct(spec, spec.field(name), wanted)
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
        accepted = [self.texts.accepts(spec, spec.field(name)) for name in key.fields]
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
            known = [max(1, min(len(rows), target.known_by(day))) for day in range(self.days)]
            first = [self._first_day(i, step) for i in range(n)]
            chosen = [rows[int(rng.random() * known[day])] for day in first]
            for i, name in enumerate(key.fields):
                f = spec.field(name)
                columns[name] = with_missing(spec, f, [row[i] for row in chosen], rng)
                fixed.add(name)

    def _first_day(self, row: int, step: int) -> int:
        """The day, counted from 0, of the first file that has a row."""
        if row < self.rows or not step:
            return 0
        return min(1 + (row - self.rows) // step, self.days - 1)


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


def missing_token(spec: TableSpec, f: FieldSpec) -> str | None:
    """A text that means 'no value' in the field; None where there is none.

    An empty text field is NULL only where that holds for the whole type, since
    elsewhere it cannot be told from a quoted empty text.
    """
    text = f.type == "string" and f.format != "uuid"
    usable = (t for t in spec.missing_values(f) if t or not text or t in spec.common_missing)
    # a lone empty value would be a blank line
    return next((t for t in usable if t or len(spec.fields) > 1), None)


def with_missing(spec: TableSpec, f: FieldSpec, values: list[str], rng: Random) -> list[str]:
    """``values`` with some of them missing, where the field allows it."""
    token = missing_token(spec, f)
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


def change(table: Table, day: int, texts: Texts, rng: Random) -> None:
    """Let some of the rows of a day (counted from 0) differ from what they were the day before."""
    spec = table.spec
    free = [f for f in spec.fields if f.name not in table.fixed]
    if spec.write_disposition == "append" or not free:
        return
    start = table.start(day)
    chosen = [i for i in range(start, start + table.window) if rng.random() < _CHANGED_SHARE]
    if not chosen:
        return
    fresh = {
        f.name: with_missing(spec, f, rng.choices(texts.pool(spec, f), k=len(chosen)), rng) for f in free
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
