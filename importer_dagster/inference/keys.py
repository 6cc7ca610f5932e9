"""Finding the key: columns that are unique, never missing, and named like a key or first in the file.

A column that is unique in the sample files need not be the key: in a list of
phones, each person of the sample may have one phone. So a single column is the
key only where its name says so. Where it is named after another thing, a person
is asked.

What does not belong here: types (``inference/candidates.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from importer_dagster.inference.column_stats import Column, hashes_of
from importer_dagster.validation.drift import fold

FEWEST_ROWS = 20  # records; in fewer, several first columns may be unique together by chance
MOST_ROWS = 1_000_000  # records of each file over which combinations of columns are judged
_MOST_CANDIDATES = 8  # columns that combinations are made of
_MOST_COLUMNS = 3  # of one combination
_LONGEST_RUN = 4  # first columns that may be parts of one key
_KEY_TYPES = ("integer", "date", "datetime")  # and short texts
_KEY_TEXT_LENGTH = 64  # characters; a longer text is no key
# The records that a unique column needs to be the key:
_FEWEST_NAMED = 3  # named like a key, and first or named after the type
_FEWEST_ELSEWHERE = 1_000  # named like a key, but neither first nor named after the type
_FEWEST_UNNAMED = 1_000  # first, but not named like a key
_FEWEST_COMBINED = 100  # a combination of columns
_FEWEST_HISTORY = 1_000  # named after the type, which is a history and may have several records for one key

_KEY_NAME = re.compile(
    r"(?i)(?:^|[^a-z])(?:id|key|code|uuid|guid|nr|no|num|number|sku|isbn|iban|ean|ref)$|(?<=[a-z])(?:id|key|code|uuid|guid)$"
)
_CAMEL_KEY = re.compile(r"[a-z](?:ID|Id|Key|Code|Nr|No)$")
_NO_KEYS = {
    "paid", "unpaid", "valid", "invalid", "bid", "grid", "covid", "avoid", "fluid", "said", "raid", "kid", "mid",
    "solid", "android", "void", "aid", "monkey", "turkey", "hockey",
}  # fmt: skip
_PART_NAME = re.compile(
    r"(?i)date|day|year|month|period|type|seq|sequence|line|position|pos$|item|province|state|country|region"
)
# What may follow a thing's name in the name of a type that holds it: order list holds orders, order photo holds photos.
_SAME_THINGS = re.compile(
    r"[a-z]{0,2}(?:\d|header|head|master|data|table|list|info|base|export|import|extract|dump|report|file|feed|full"
    r"|delta|snapshot|daily|archive|history|log)*"
)
_HISTORY = re.compile(r"history|log")
_ABBREVIATED = 4  # letters at most of a name that may abbreviate the type's: cust_id in customers
# Columns about when or by what a row was written are no part of a key.
_BOOKKEEPING = re.compile(
    r"(?i)^row_?(?:guid|uuid|id)$|modif|updat|creat|chang|insert|loaded|stamp|extract|version$"
)

Batches = Callable[[Sequence[str]], Iterable[Iterator[Mapping[str, pa.Array]]]]


@dataclass(frozen=True)
class Key:
    """The fields of a key and the reason.

    ``sure`` is true where the name says a key, too. ``recurs`` is the share of the
    values that were in an earlier file already.
    """

    fields: tuple[str, ...]
    reason: str
    sure: bool = False
    recurs: float = 0.0


@dataclass(frozen=True)
class Finding:
    """The key, if one is certain enough to be written, and a question that only a person can answer."""

    key: Key | None = None
    question: str | None = None


def is_key_name(name: str) -> bool:
    """Whether a column is named like a key."""
    return name.casefold() not in _NO_KEYS and bool(_KEY_NAME.search(name) or _CAMEL_KEY.search(name))


def find_key(
    columns: Sequence[Column],
    types: Mapping[str, str],
    missing: Collection[str],
    batches: Batches,
    *,
    type_name: str,
    files: int,
) -> Finding:
    """The columns that identify a row in each file; no key if the evidence is not strong.

    ``types`` has the type chosen for each column, ``missing`` the columns that lack
    values. ``batches`` reads some columns again, file by file. Where two keys are
    possible, the wider one is taken, or none, and a question is asked: a key that is
    too narrow would reject or overwrite rows of later files.
    """
    usable = []  # columns that may be a key or a part of one
    for c in columns:
        short = types[c.name] == "string" and c.lengths.longest <= _KEY_TEXT_LENGTH
        has_values = c.rows and not c.missing and not c.empty and c.name not in missing
        if has_values and not _BOOKKEEPING.search(c.name) and (short or types[c.name] in _KEY_TYPES):
            usable.append(c)
    leading = _leading(columns, usable)
    single = _named_key(columns, usable, type_name)
    if single and _is_certain(single, leading, columns, type_name):
        return Finding(_key_of(single, files, "the name says that it is the key"))
    if single and single in leading and _is_same_thing(_entity(single.name), fold(type_name)):
        leading = leading[: leading.index(single) + 1]  # the column named after the type ends its key
    wide = _leading_key(leading, batches)
    if single and single in leading:
        return Finding(wide, _ask(single, wide, type_name))
    if wide:
        return Finding(wide)
    if single and not _is_foreign(single.name, type_name):
        return Finding(_key_of(single, files, "the name says a key"))
    if single:
        return Finding(None, _ask(single, None, type_name))
    first = columns[0]
    enough = first.uniqueness.holds and first.rows >= _FEWEST_UNNAMED and types[first.name] != "datetime"
    by_place = _key_of(first, files, "it comes first", sure=False) if enough and first in usable else None
    return Finding(by_place or _combined_key(usable, columns, batches))


def _is_certain(single: Column, leading: Sequence[Column], columns: Sequence[Column], type_name: str) -> bool:
    """Whether a unique column is the whole key: named after the type or just id, with no other key before it."""
    if _is_foreign(single.name, type_name):
        return False
    before = leading[: leading.index(single)] if single in leading else []
    return not any(is_key_name(c.name) for c in before) and (
        single is columns[0] or _is_own(single.name, type_name)
    )


def _ask(single: Column, wide: Key | None, type_name: str) -> str:
    """The question whether a unique column is the key; ``wide`` is the key until it is answered."""
    name = single.name
    if wide:
        return (
            f"{name} alone is unique in {single.rows:,} records, too. The key is {' and '.join(wide.fields)} until you "
            f"say otherwise: primaryKey: [{name}] if no {name} can ever have two records."
        )
    return (
        f"{name} is unique in {single.rows:,} records, but {type_name} may hold several for one {name} tomorrow. "
        f"If not, write primaryKey: [{name}] and write_disposition: merge. Until you say so there is no key, "
        "so that no record is rejected or overwritten."
    )


def _leading(columns: Sequence[Column], usable: Sequence[Column]) -> list[Column]:
    """The first columns, as long as they are named like parts of a key."""
    run: list[Column] = []
    for column in columns[:_LONGEST_RUN]:
        if column not in usable or not (is_key_name(column.name) or _PART_NAME.search(column.name)):
            break
        run.append(column)
    return run


def _named_key(columns: Sequence[Column], usable: Sequence[Column], type_name: str) -> Column | None:
    """A unique column named id or after the type; else one that is named like a key."""
    for column in usable:
        entity = _entity(column.name)
        is_history = entity and _HISTORY.search(fold(type_name).removeprefix(entity))
        fewest = _FEWEST_HISTORY if is_history else _FEWEST_NAMED
        if column.uniqueness.holds and column.rows >= fewest and _is_own(column.name, type_name):
            return column
    for column in usable:
        fewest = _FEWEST_NAMED if column is columns[0] else _FEWEST_ELSEWHERE
        if column.uniqueness.holds and column.rows >= fewest and is_key_name(column.name):
            return column
    return None


def _is_own(name: str, type_name: str) -> bool:
    """Whether a column is named id, or after what the type holds."""
    if not is_key_name(name):
        return False
    entity, whole = _entity(name), fold(type_name)
    if not entity:
        return fold(name) in ("id", "key", "code", "uuid", "guid")
    last = fold(type_name.rsplit("_", maxsplit=1)[-1])
    return (
        _is_same_thing(entity, whole)
        or (len(entity) <= _ABBREVIATED and last.startswith(entity))
        or (
            len(entity) > 2
            and any(re.search(f"{one}(?:[a-z]{{1,2}})?\\d*$", whole) for one in (entity, _plural(entity)))
        )
        or (len(whole) > 2 and any(entity.endswith(one) for one in (whole, whole.removesuffix("s"))))
    )


def _is_foreign(name: str, type_name: str) -> bool:
    """Whether a column is named after another thing than the type holds: person_id in phones."""
    return len(_entity(name)) > 0 and not _is_own(name, type_name)


def _entity(name: str) -> str:
    """The thing that a key belongs to: order for OrderID."""
    return re.sub(r"(?:id|key|code|uuid|guid|nr|no|num|number|sku|isbn|iban|ean|ref)$", "", fold(name))


def _is_same_thing(entity: str, whole: str) -> bool:
    """Whether a type holds such things: its name is the thing's, with an ending, a number, or a word such as list."""
    return any(
        whole.startswith(one) and _SAME_THINGS.fullmatch(whole, len(one)) for one in (entity, _plural(entity))
    )


def _plural(entity: str) -> str:
    return f"{entity[:-1]}ies" if entity.endswith("y") else f"{entity}s"


def _leading_key(leading: Sequence[Column], batches: Batches) -> Key | None:
    """The key of all the first columns together, if they are several and unique."""
    if len(leading) < 2 or leading[0].rows < FEWEST_ROWS:
        return None
    names = [c.name for c in leading]
    for file in batches(names):
        hashes = _hashed(file, names)
        if not _is_unique([hashes[n] for n in names]):
            return None
    where = " and ".join(names)
    return Key(
        tuple(names), f"no two records share {where}, which come first and are named like parts of a key"
    )


def _key_of(column: Column, files: int, backing: str, *, sure: bool = True) -> Key:
    where = "in any file" if files > 1 else "in the file"
    recurs = column.uniqueness.recurs / column.rows
    return Key(
        (column.name,),
        f"no value of {column.name} is missing or comes twice {where}, and {backing}",
        sure,
        recurs,
    )


def _combined_key(usable: Sequence[Column], columns: Sequence[Column], batches: Batches) -> Key | None:
    """The smallest combination of columns named like keys that is unique."""
    wanted = [c for c in usable if is_key_name(c.name) or _PART_NAME.search(c.name)][:_MOST_CANDIDATES]
    if len(wanted) < 2 or columns[0].rows < _FEWEST_COMBINED or not any(is_key_name(c.name) for c in wanted):
        return None
    names = [c.name for c in wanted]
    combos = [c for size in range(2, _MOST_COLUMNS + 1) for c in combinations(names, size)]
    combos = [c for c in combos if any(is_key_name(n) for n in c)]
    for file in batches(names):
        hashes = _hashed(file, names)
        combos = [c for c in combos if _is_unique([hashes[n] for n in c])]
    if not combos:
        return None
    checked = (
        ""
        if columns[0].rows <= MOST_ROWS
        else f" (looked at in the first {MOST_ROWS:,} records of each file)"
    )
    return Key(
        combos[0], f"no two records share {' and '.join(combos[0])}{checked}, and no single column is unique"
    )


def _hashed(
    file: Iterator[Mapping[str, pa.Array]], names: Sequence[str]
) -> dict[str, npt.NDArray[np.uint64]]:
    """The hashes of some columns of a file, up to about ``MOST_ROWS`` records."""
    parts: dict[str, list[npt.NDArray[np.uint64]]] = {n: [] for n in names}
    rows = 0
    for batch in file:
        for name in names:
            parts[name].append(hashes_of(batch[name]))
        rows += len(batch[names[0]])
        if rows >= MOST_ROWS:
            break
    return {n: np.concatenate(p) if p else np.empty(0, np.uint64) for n, p in parts.items()}


def _is_unique(columns: Sequence[npt.NDArray[np.uint64]]) -> bool:
    """Whether no two rows have the same hashes in all columns."""
    mixed = columns[0].copy()
    for column in columns[1:]:
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed ^= column
    return len(np.unique(mixed)) == len(mixed)
