"""Synthetic values of one field: texts that its spec accepts, written as its file would have them.

Everything is made from the spec: type, format, constraints, missing-value
tokens, decimal and group characters, true and false words, named checks. The
field's name only chooses among words (a column called ``city`` gets cities).

What does not belong here: how rows hang together (``launch/sample_inbox.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from itertools import islice
from random import Random
from uuid import UUID

import pyarrow as pa

from importer_dagster.errors import UsageError
from importer_dagster.launch.sample_text import text_maker
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import parse
from importer_dagster.validation.validator import Validator

_TRIES_PER_VALUE = 20
_DAYS_BACK = 700  # synthetic dates lie this far before the newest delivery, at most
_BASE36 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_WORDS = (
    "amber", "bridge", "cedar", "delta", "ember", "falcon", "garnet", "harbour", "island", "jasper",
    "kestrel", "lantern", "meadow", "north", "orchard", "pioneer", "quartz", "river", "summit", "timber",
    "umber", "valley", "willow", "yonder", "zephyr", "café", "señor", "über", "naïve", "smörgås",
)  # fmt: skip
_NAMED_WORDS: dict[str, tuple[str, ...]] = {
    "city": ("Aberdeen", "Bergen", "Córdoba", "Düsseldorf", "Évora", "Graz", "Malmö", "Porto", "Zürich"),
    "country": ("Austria", "Brazil", "Canada", "Denmark", "Finland", "Germany", "Kenya", "Peru", "Spain"),
    "firstname": ("Ada", "Björn", "Chloé", "Dina", "Emil", "Fatima", "Grace", "Hiro", "Inés", "Jo"),
    "lastname": ("Abbott", "Brandt", "Costa", "Dubois", "Evans", "Fischer", "García", "O'Neil", "Sørensen"),
    "color": ("Black", "Blue", "Grey", "Red", "Silver", "White", "Yellow"),
    "phone": ("030-555-0101", "555-0142", "020 555 0199", "(11) 555-0107"),
}


class Values:
    """Makes texts for one field of a type.

    ``newest`` is the day up to which dates reach. Raises UsageError where no
    text can be found that the field accepts.
    """

    def __init__(self, field: FieldSpec, spec: TableSpec, newest: date) -> None:
        self.field, self.spec = field, spec
        self._newest = datetime(newest.year, newest.month, newest.day)
        self._tokens = set(spec.missing_values(field)) | set(spec.tableschema.missingValues) | {""}
        self._named = _words_for(field) is not _WORDS  # a city is one city
        self._matching: Callable[[Random], str] | None = None
        self._words = _writable(_words_for(field), spec)

    def pool(self, rng: Random, size: int) -> list[str]:
        """Up to ``size`` texts, in no order, possibly alike; at least one."""
        enum = self.field.constraints.enum
        made = enum if enum is not None else [self._one(rng) for _ in range(size)]
        return self._accepted(made) or self._by_candidates(rng, size)

    def distinct(self, rng: Random, size: int) -> list[str]:
        """Up to ``size`` texts, no two of which mean the same; fewer where there are no more."""
        enum = self.field.constraints.enum
        made = list(enum) if enum is not None else list(islice(self._series(rng), size * 2))
        good = self._accepted(dict.fromkeys(made)) or self._by_candidates(rng, size * 2)
        return list(dict.fromkeys(good))[:size]

    # --- one after the other ---

    def _one(self, rng: Random) -> str:
        kind, fmt = self.field.type, self.field.format
        if kind == "string":
            return str(UUID(int=rng.getrandbits(128), version=4)) if fmt == "uuid" else self._text(rng)
        if kind == "integer":
            low, high = self._whole_bounds()
            return self._grouped(str(rng.randint(low, min(high, low + 10_000))))
        if kind == "number":
            return self._number(rng)
        if kind == "boolean":
            return rng.choice((*self.field.trueValues[:1], *self.field.falseValues[:1]))
        if kind == "object":
            return json.dumps({"id": rng.randint(1, 999), "name": rng.choice(_WORDS[:20])})
        return self._moment(rng.random())

    def _series(self, rng: Random) -> Iterator[str]:
        """Texts that differ from each other as far as the field allows."""
        field = self.field
        if field.type == "integer":
            low, high = self._whole_bounds()
            yield from (self._grouped(str(i)) for i in range(low, high + 1))
        elif field.type in ("date", "datetime", "time"):
            yield from self._moments()
        elif field.type == "boolean":
            yield from (*field.trueValues[:1], *field.falseValues[:1])
        elif field.type == "string" and field.format != "uuid" and field.constraints.pattern is None:
            yield from self._codes()
        else:
            tries = 0
            seen: set[str] = set()
            while tries < _TRIES_PER_VALUE * (len(seen) + 50):
                text = self._one(rng)
                tries += 1
                if text not in seen:
                    seen.add(text)
                    yield text

    # --- text ---

    def _text(self, rng: Random) -> str:
        c = self.field.constraints
        least, most = c.minLength or 0, c.maxLength
        if c.pattern is not None:
            if self._matching is None:
                self._matching = text_maker(c.pattern, least=least, most=most)
            return self._matching(rng)
        text = " ".join(rng.choice(self._words) for _ in range(1 + (not self._named and rng.random() < 0.4)))
        if rng.random() < 0.02:  # what needs quotes must be met, too
            text += f"{self.spec.dialect.delimiter} {rng.choice(self._words)}" if self._may_quote else ""
        text = text.ljust(least, "x")
        return text[:most].strip().ljust(least, "x") if most is not None else text

    @property
    def _may_quote(self) -> bool:
        dialect = self.spec.dialect
        return dialect.quoteChar is not None or dialect.escapeChar is not None

    def _codes(self) -> Iterator[str]:
        c = self.field.constraints
        width = max(min(8 if c.maxLength is None else c.maxLength, 8), 1)
        for number in range(min(36**width, 10_000_000)):
            digits, rest = "", number
            while rest or len(digits) < min(width, 4):
                rest, digit = divmod(rest, 36)
                digits = _BASE36[digit] + digits
            yield digits.ljust(c.minLength or 0, "x")

    # --- numbers ---

    def _bound(self, text: str | None) -> Decimal | None:
        if text is None:
            return None
        plain = text.replace(self.field.groupChar, "") if self.field.groupChar else text
        try:
            return Decimal(plain.replace(self.field.decimalChar, "."))
        except InvalidOperation:
            raise UsageError(f"field {self.field.name!r}: the bound {text!r} is no number") from None

    def _whole_bounds(self) -> tuple[int, int]:
        c = self.field.constraints
        low, high = self._bound(c.minimum), self._bound(c.maximum)
        least = int(-(-low // 1)) if low is not None else min(1, int(high)) if high is not None else 1
        return least, int(high) if high is not None else 2**31 - 1

    def _number(self, rng: Random) -> str:
        field, c = self.field, self.field.constraints
        low, high = self._bound(c.minimum), self._bound(c.maximum)
        decimals = min(field.scale, 4) if field.format != "double" else 6
        largest = (
            Decimal(10) ** min(field.precision - field.scale, 5)
            if field.format != "double"
            else Decimal(10**5)
        )
        least = low if low is not None else min(Decimal(0), high or Decimal(0))
        most = min(high, largest) if high is not None else least + largest
        step = Decimal(1).scaleb(-decimals)
        value = (least + (most - least) * Decimal(rng.random())).quantize(step)
        if (low is not None and value < low) or value.copy_abs() >= largest:
            value += step if value < 0 or value.copy_abs() < largest else -step
        return self._grouped(format(value, "f"))

    def _grouped(self, plain: str) -> str:
        """A plain number with the field's own decimal and group characters."""
        field = self.field
        sign, digits = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
        whole, _, decimals = digits.partition(".")
        if field.groupChar:
            whole = f"{int(whole):,}".replace(",", field.groupChar)
        return sign + whole + (field.decimalChar + decimals if decimals else "")

    # --- time ---

    def _range(self) -> tuple[datetime, datetime]:
        c = self.field.constraints
        low, high = (self._instant(b) for b in (c.minimum, c.maximum))
        if self.field.type == "time":
            start = datetime(2000, 1, 1)
            return low or start, high or start + timedelta(hours=23, minutes=59)
        last = (
            min(high, self._newest) if high and (low is None or low <= self._newest) else high or self._newest
        )
        first = max(low, last - timedelta(days=_DAYS_BACK)) if low else last - timedelta(days=_DAYS_BACK)
        return first, max(first, last)

    def _instant(self, text: str | None) -> datetime | None:
        """A bound as a wall-clock time, read by the importer's own parser."""
        if text is None:
            return None
        typed, bad = parse.parse(pa.array([text], pa.string()), self.field, ())
        if bad is not None:
            raise UsageError(f"field {self.field.name!r}: the bound {bad.messages[0].as_py()}")
        value = typed[0].as_py()
        if isinstance(value, datetime):
            return value.replace(tzinfo=None)
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day)
        return datetime.combine(date(2000, 1, 1), value)

    def _moment(self, share: float) -> str:
        first, last = self._range()
        return self._written(first + (last - first) * share)

    def _moments(self) -> Iterator[str]:
        first, last = self._range()
        step = timedelta(days=1) if self.field.type == "date" else timedelta(seconds=61)
        seen: set[str] = set()
        for i in range(_TRIES_PER_VALUE * 1000):
            moment = last - i * step
            text = self._written(moment)
            if moment < first:
                return
            if text not in seen:
                seen.add(text)
                yield text

    def _written(self, moment: datetime) -> str:
        moment = moment.replace(microsecond=0)
        pattern = self.field.formats[0]
        if pattern != "default":
            return moment.replace(tzinfo=UTC).strftime(pattern)
        if self.field.type == "date":
            return moment.date().isoformat()
        return moment.time().isoformat() if self.field.type == "time" else moment.isoformat(sep=" ")

    # --- what the importer itself says of them ---

    def _accepted(self, texts: Iterable[str]) -> list[str]:
        """Those texts that are read, pass all constraints and checks, and can be written in the encoding."""
        found = _writable(tuple(t for t in texts if t not in self._tokens), self.spec)
        if not found:
            return []
        array = pa.array(found, pa.string())
        if not self.field.checks:  # constraints hold by construction; asking Pandera each time is slow
            _, bad = parse.parse(array, self.field, ())
            wrong = set(bad.indexes.tolist()) if bad is not None else set()
            return [text for i, text in enumerate(found) if i not in wrong]
        name = self.field.name
        schema = self.spec.tableschema.model_copy(update={"fields": (self.field,), "primaryKey": ()})
        lone = self.spec.model_copy(
            update={"tableschema": schema, "checks": (), "write_disposition": "append"}
        )
        lone.__dict__.pop("hash", None)  # the copy's own, not the one remembered of the original
        _, good, _ = Validator(lone, {name: "0"})(pa.RecordBatch.from_arrays([array], names=["0"]))
        return [found[i] for i in good.tolist()]

    def _by_candidates(self, rng: Random, size: int) -> list[str]:
        """Texts in some usual shapes, for named checks that ask for one."""
        if self.field.type == "string":
            for candidate in _CANDIDATES:
                if good := self._accepted(dict.fromkeys(candidate(rng) for _ in range(size))):
                    return good
        checks = f" and checks {', '.join(self.field.checks)}" if self.field.checks else ""
        raise UsageError(
            f"No synthetic value was found for field {self.field.name!r} of type {self.spec.name} that satisfies "
            f"its constraints{checks}. Loosen them, or give the field an enum."
        )


def _words_for(field: FieldSpec) -> tuple[str, ...]:
    name = field.name.casefold().replace("_", "").replace(" ", "")
    return next((words for key, words in _NAMED_WORDS.items() if key in name), _WORDS)


def _writable(texts: tuple[str, ...], spec: TableSpec) -> list[str]:
    """Texts that the encoding can say, and that do not look like a comment."""
    comment, special = spec.dialect.commentChar, "\r\n\0"
    if spec.dialect.quoteChar is None and spec.dialect.escapeChar is None:
        special += spec.dialect.delimiter
    found = []
    for text in texts:
        try:
            text.encode(spec.encoding)
        except UnicodeEncodeError:
            continue
        if not (comment and text.startswith(comment)) and not any(c in text for c in special):
            found.append(text)
    return found


def _email(rng: Random) -> str:
    return f"{rng.choice(_WORDS[:20])}{rng.randint(1, 9999)}@example.com"


def _capitals(rng: Random, count: int) -> str:
    return "".join(rng.choice(_BASE36[:26]) for _ in range(count))


def _card(rng: Random) -> str:
    """Sixteen digits with a Luhn check digit."""
    digits = [rng.randint(0, 9) for _ in range(15)]
    doubled = [d if i % 2 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(digits)]
    return "".join(map(str, digits)) + str(-sum(doubled) % 10)


_CANDIDATES: tuple[Callable[[Random], str], ...] = (
    _email,
    partial(_capitals, count=2),
    partial(_capitals, count=3),
    _card,
)
