"""Synthetic rows of one type: keys, references, constraints and checks hold, by the importer's own validation.

Texts are made from the field's type, format and constraints, and then validated like a delivery (:func:`passing`):
texts that violate a constraint or a check are thrown away.

What does not belong here: which rows go into which file, faults, and writing (``launch/sample_inbox.py``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain, count, cycle, islice
from random import Random
from typing import Any
from uuid import UUID

import pyarrow as pa
from rstr import Rstr

from importer_dagster.errors import UsageError
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.parse import parse
from importer_dagster.validation.validator import Validator

Row = tuple[str, ...]

_NEW_SHARE = 0.3  # of the rows of a merge type, how many are new each day
_CHANGED_SHARE = 0.25  # of the rows that may change, how many differ from the day before
_MISSING_EVERY = 12  # of so many values of an optional field, one is missing
_POOL = 100  # texts that the values of a field are drawn from, unless they must all differ
_TRIES = 20  # times as many texts or rows are made as are wanted, before fewer are taken
_SPARE = 4  # times as many rows are made where checks over whole rows reject some
_DAYS_BACK = 700  # dates lie at most this far before the newest delivery

_WORDS = ("amber", "bridge", "cedar", "delta", "harbour", "island", "meadow", "orchard", "river", "café",
          "über", "over, under")  # fmt: skip
# For named checks: an address, the codes of countries and currencies, a number with a check digit, a link.
_PATTERNS_FOR_CHECKS = (r"[a-z]{4,9}\d{1,3}@example\.com", "[A-Z]{2}", "[A-Z]{3}", r"\d{16}",
                        r"https://example\.com/[a-z]{3,9}")  # fmt: skip
_DEFAULT_FORMATS = {"date": "%Y-%m-%d", "time": "%H:%M:%S", "datetime": "%Y-%m-%d %H:%M:%S"}


@dataclass
class Table:
    """All rows that a type ever has for one tenant. A day's file holds ``window`` of them, each day ``step`` later.

    ``free`` maps the fields that may change from day to day to the texts that they are drawn from.
    """

    spec: TableSpec
    rows: list[Row]
    window: int
    step: int
    free: dict[str, list[str]]

    def of_day(self, day: int) -> slice:
        """Which rows are in the file of a day (counted from 0)."""
        start = min(self.step * day, len(self.rows) - self.window)
        return slice(start, start + self.window)

    def change(self, day: int, rng: Random) -> None:
        """Let some of the rows of a day (counted from 0) differ from what they were the day before."""
        if self.spec.write_disposition == "append" or not self.free:
            return
        chosen = [i for i in range(len(self.rows))[self.of_day(day)] if rng.random() < _CHANGED_SHARE]
        names = [f.name for f in self.spec.fields]
        rows = [
            tuple(
                rng.choice(self.free[name]) if name in self.free else text
                for name, text in zip(names, self.rows[i], strict=True)
            )
            for i in chosen
        ]
        for n in passing(self.spec, rows) if self.spec.checks else range(len(rows)):
            self.rows[chosen[n]] = rows[n]


@dataclass
class _Source:
    """What one or several fields of a row are taken from: texts of their own, or the rows of ``table``."""

    fields: tuple[str, ...]
    rows: list[Row]
    table: Table | None = None


class TableMaker:
    """Makes the tables of types, each with ``rows`` rows a file for ``days`` days, the last of which is ``latest``.

    The texts of a field are made once and shared by all tenants. The same ``seed`` makes the same tables.
    """

    def __init__(self, rows: int, days: int, latest: date, seed: int) -> None:
        self.rows, self.days, self.latest, self.seed = rows, days, latest, seed
        self._texts: dict[str, dict[str, list[str]]] = {}  # by type and field

    def make(self, spec: TableSpec, tenant: str, tables: Mapping[str, Table]) -> Table:
        """The table of one type for one tenant; ``tables`` are those of the types that it may refer to.

        Raises UsageError where no text satisfies a field's constraints, or no row the type's checks.
        """
        new = max(1, int(self.rows * _NEW_SHARE))
        step = {"replace": 0, "append": self.rows}.get(spec.write_disposition, new)
        total = self.rows + step * (self.days - 1)
        wanted = total * (_SPARE if spec.checks else 1)
        key, unique = spec.tableschema.primaryKey, [(f.name,) for f in spec.fields if f.constraints.unique]
        identities = [names for names in (key, *unique) if names]
        distinct = set(chain(*identities))
        if spec.name not in self._texts:
            self._texts[spec.name] = {
                f.name: self._make_texts(spec, f, wanted if f.name in distinct else 0) for f in spec.fields
            }
        sources = _references(spec, tables)
        referring = {name for source in sources for name in source.fields}
        own = {name: texts for name, texts in self._texts[spec.name].items() if name not in referring}
        sources += [_Source((name,), [(text,) for text in texts]) for name, texts in own.items()]
        rng = Random(f"{self.seed}/{spec.name}/{tenant}")  # noqa: S311 - no secret
        rows = self._draw_rows(spec, sources, identities, wanted, step, rng)
        if spec.checks:
            rows = [rows[i] for i in passing(spec, rows)][:total]
        if not rows:
            raise UsageError(
                f"No synthetic row satisfies the checks {', '.join(spec.checks)} of type {spec.name}."
            )
        window = min(self.rows, len(rows))
        free = {name: texts for name, texts in own.items() if name not in distinct}
        return Table(spec, rows, window, min(step, window), free)

    def _draw_rows(
        self,
        spec: TableSpec,
        sources: Sequence[_Source],
        identities: Sequence[tuple[str, ...]],
        wanted: int,
        step: int,
        rng: Random,
    ) -> list[Row]:
        """Up to ``wanted`` rows, no two of which agree in the fields of one of ``identities``.

        The sources of ``identities`` are taken in their order first, then drawn like the others. A drawn reference
        leads to a row that is delivered no later than its own.
        """
        distinct = set(chain(*identities))
        rows: list[Row] = []
        seen: set[tuple[tuple[str, ...], Row]] = set()
        for attempt in range(_TRIES * wanted):
            if len(rows) == wanted:
                break
            day = max(0, len(rows) - self.rows + step) // max(step, 1)  # of the first file with this row
            row: dict[str, str] = {}
            for source in sources:
                known = source.table.of_day(day).stop if source.table else len(source.rows)
                in_order = attempt < len(source.rows) and not distinct.isdisjoint(source.fields)
                i = attempt if in_order else rng.randrange(min(max(known, 1), len(source.rows)))
                row.update(zip(source.fields, source.rows[i], strict=True))
            same = {(names, tuple(row[name] for name in names)) for names in identities}
            if seen.isdisjoint(same):
                seen |= same
                rows.append(tuple(row[f.name] for f in spec.fields))
        return rows

    def _make_texts(self, spec: TableSpec, f: FieldSpec, distinct: int) -> list[str]:
        """Texts for a field: up to ``distinct`` different ones, or, if that is 0, some to draw from."""
        rng = Random(f"{self.seed}/{spec.name}/{f.name}")  # noqa: S311 - no secret
        wanted = distinct or _POOL
        for texts in _candidates(f, rng, self.latest, distinct):
            found: list[str] = []
            for _ in range(_TRIES):
                found += _accepted(spec, f, islice(texts, wanted))
                if distinct:
                    found = list(dict.fromkeys(found))
                if len(found) >= wanted:
                    break
            if found and distinct:
                return found[:wanted]
            if found:  # few texts are repeated, so that a value is missing sometimes
                rows: list[Row] = [(text,) for text in islice(cycle(found), _POOL)]
                return [text for (text,) in _with_missing(spec, (f.name,), rows)]
        checks = f" and checks {', '.join(f.checks)}" if f.checks else ""
        raise UsageError(
            f"No synthetic value was found for field {f.name!r} of type {spec.name} that satisfies its "
            f"constraints{checks}. Loosen them, or give the field an enum."
        )


def _references(spec: TableSpec, tables: Mapping[str, Table]) -> list[_Source]:
    """The references to tables that are there, as far as this type's fields accept values of the other's."""
    key, taken, found = set(spec.tableschema.primaryKey), set[str](), []
    for k in sorted(spec.tableschema.foreignKeys, key=lambda k: (key.isdisjoint(k.fields), -len(k.fields))):
        table = tables.get(k.reference.resource)
        names = [f.name for f in table.spec.fields] if table else []
        if table is None or not taken.isdisjoint(k.fields) or not set(k.reference.fields) <= set(names):
            continue
        at = [names.index(name) for name in k.reference.fields]
        rows = [tuple(row[i] for i in at) for row in table.rows]
        for n, name in enumerate(k.fields):
            absent = table.spec.missing_values(table.spec.fields[at[n]])
            good = set(_accepted(spec, spec.field(name), [row[n] for row in rows])).difference(absent)
            rows = [row for row in rows if row[n] in good]
        if rows:
            taken.update(k.fields)
            found.append(_Source(tuple(k.fields), _with_missing(spec, k.fields, rows), table))
    return found


def _with_missing(spec: TableSpec, names: Sequence[str], rows: list[Row]) -> list[Row]:
    """``rows`` of values of some fields, of which some lack the optional ones."""
    fields = [spec.field(name) for name in names]
    tokens = [None if f.required or f.constraints.unique else missing_token(spec, f) for f in fields]
    return [
        tuple(
            token if token is not None and i % _MISSING_EVERY == 0 else text
            for text, token in zip(row, tokens, strict=True)
        )
        for i, row in enumerate(rows, 1)
    ]


def missing_token(spec: TableSpec, f: FieldSpec) -> str | None:
    """A text that means 'no value' in the field; None where there is none.

    An empty text field is NULL only where that holds for the whole type: elsewhere it cannot be told from a quoted
    empty text. A lone empty value would be a blank line.
    """
    text = f.type == "string" and f.format != "uuid"
    usable = (t for t in spec.missing_values(f) if t or not text or t in spec.common_missing)
    return next((t for t in usable if t or len(spec.fields) > 1), None)


def passing(spec: TableSpec, rows: Sequence[Row]) -> list[int]:
    """Positions of the rows that satisfy the spec, by the importer's own validation."""
    columns = [
        pa.array([None if row[i] in tokens else row[i] for row in rows], pa.string())
        for i, tokens in enumerate(map(spec.missing_values, spec.fields))
    ]
    names = [str(i) for i in range(len(columns))]
    validator = Validator(spec, {f.name: n for f, n in zip(spec.fields, names, strict=True)})
    _, good, _ = validator(pa.RecordBatch.from_arrays(columns, names=names))
    positions: list[int] = good.tolist()
    return positions


def alone(spec: TableSpec, f: FieldSpec) -> TableSpec:
    """A type that has one field of ``spec`` only."""
    lone = f.model_copy(update={"missingValues": spec.missing_values(f)})
    return TableSpec.model_validate({"name": spec.name, "schema": {"fields": [lone]}})


def _accepted(spec: TableSpec, f: FieldSpec, texts: Iterable[str]) -> list[str]:
    """Those texts that satisfy the field's spec, mean a value, and can be written in the dialect and the encoding."""
    dialect, missing = spec.dialect, {"", *spec.missing_values(f), *spec.tableschema.missingValues}
    special = set("\r\n\0")
    if dialect.quoteChar is None and dialect.escapeChar is None:
        special.update(dialect.delimiter)
    good = [
        (t,)
        for t in texts
        if t not in missing
        and special.isdisjoint(t)
        and not (dialect.commentChar and t.startswith(dialect.commentChar))
        and t.encode(spec.encoding, "ignore").decode(spec.encoding) == t
    ]
    return [good[i][0] for i in passing(alone(spec, f), good)] if good else []


# --- texts of one field -----------------------------------------------------------------


def _candidates(f: FieldSpec, rng: Random, latest: date, distinct: int) -> Iterator[Iterator[str]]:
    """Series of texts that the field may accept, the likeliest series first; some have no end."""
    c = f.constraints
    if c.enum is not None:
        yield iter(c.enum)
    elif f.type == "boolean":
        yield iter((*f.trueValues[:1], *f.falseValues[:1]))
    elif f.type == "object":
        yield (json.dumps({"id": rng.randint(1, 999)}) for _ in count())
    elif f.type in ("integer", "number"):
        yield _numbers(f, rng, distinct)
    elif f.type != "string":
        yield _moments(f, rng, latest)
    elif f.format == "uuid":
        yield (str(UUID(int=rng.getrandbits(128), version=4)) for _ in count())
    else:
        if c.pattern is None and not distinct:
            yield (rng.choice(_WORDS) for _ in count())
        length = max(c.minLength or 1, min(c.maxLength or 8, 8))
        yield _matching(c.pattern or f"[A-Z0-9]{{{length}}}", rng)
        if f.checks:
            yield from (_matching(pattern, rng) for pattern in _PATTERNS_FOR_CHECKS)


class _PatternRandom(Random):
    """Makes Rstr's texts short, and the same in every process.

    Rstr repeats ``*`` and ``+`` up to 100 times, and chooses from sets, whose order differs between processes.
    """

    def choice(self, seq: Any) -> Any:
        return super().choice(sorted(seq) if isinstance(seq[0], str) else seq)

    def randint(self, a: int, b: int) -> int:
        return super().randint(a, max(a, min(b, a + 8)))


def _matching(pattern: str, rng: Random) -> Iterator[str]:
    """Texts that match a regular expression."""
    texts = Rstr(_PatternRandom(rng.getrandbits(64)))
    try:
        while True:
            yield texts.xeger(pattern)
    except IndexError:  # a set without ASCII characters
        return


def _bounds(f: FieldSpec) -> list[Any]:
    """The least and the greatest value, as the importer reads them; None where there is no bound."""
    typed, _ = parse(pa.array([f.constraints.minimum, f.constraints.maximum], pa.string()), f, ())
    values: list[Any] = typed.to_pylist()
    return values


def _numbers(f: FieldSpec, rng: Random, distinct: int) -> Iterator[str]:
    """Numbers within the field's bounds, from the least: drawn, or, if ``distinct``, one after the other."""
    decimals = min(f.scale, 4) if f.type == "number" else 0
    unit = 10**decimals  # they are counted in units of the last decimal place
    limit = 10 ** (f.precision - f.scale + decimals) - 1 if f.type == "number" else 2**63 - 1
    low, high = (None if b is None else Decimal(str(b)) * unit for b in _bounds(f))
    last = limit if high is None else min(math.floor(high), limit)
    first = min(0 if decimals else 1, last) if low is None else max(math.ceil(low), -limit)
    last = min(last, first + max(distinct, 10_000) * unit)
    signs = str.maketrans({",": f.groupChar or "", ".": f.decimalChar})
    for n in range(first, last + 1) if distinct else (rng.randint(first, last) for _ in count()):
        yield f"{Decimal(n).scaleb(-decimals):,f}".translate(signs)


def _moments(f: FieldSpec, rng: Random, latest: date) -> Iterator[str]:
    """Dates or times within the field's bounds, none of them after ``latest``."""
    low, high = (None if bound is None else _as_datetime(bound) for bound in _bounds(f))
    end, back = datetime.combine(latest, time()), timedelta(days=_DAYS_BACK)
    if f.type == "time":
        end, back = _as_datetime(time(23, 59)), timedelta(hours=23, minutes=59)
    end = min(high or end, end)
    first = low or end - back
    last = max(end, first + timedelta(days=1))  # of a type that begins later than ``latest``
    pattern = f.formats[0] if f.formats[0] != "default" else _DEFAULT_FORMATS[f.type]
    while True:
        moment = (first + (last - first) * rng.random()).replace(microsecond=0)
        yield moment.replace(tzinfo=UTC).strftime(pattern)


def _as_datetime(value: date | time) -> datetime:
    """A date, or a time of some day, as a datetime without a zone."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, date):
        return datetime.combine(value, time())
    return datetime.combine(date(2000, 1, 1), value)
