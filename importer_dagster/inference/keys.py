"""Which columns identify a row: unique, never missing, and called like a key or standing first.

That a column is unique in some files does not make it the key: each person of a
sample may have one phone. So a single column is taken as the key where its name
says so; where it is called after something else, a person is asked.

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

FEWEST_ROWS = 20  # records below which uniqueness is chance, unless the name says a key
MOST_ROWS = 1_000_000  # of each file, over which combinations are judged
_MOST_CANDIDATES = 8
_MOST_COLUMNS = 3
_LONGEST_RUN = 4
_FEWEST_NAMED = 3
_FEWEST_ELSEWHERE = 1_000  # for a column that neither stands first nor is called like the type
_FEWEST_UNNAMED = 1_000  # for one that stands first but is not called like a key
_FEWEST_COMBINED = 100  # records below which a combination is unique by chance
_FEWEST_HISTORY = 1_000  # records of a history that would name a thing twice if they were about it
_KEY_TEXT_LENGTH = 64

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
# A table of orders may be called order list; one called order photo holds photos.
_SAME_THINGS = re.compile(
    r"[a-z]{0,2}(?:\d|header|head|master|data|table|list|info|base|export|import|extract|dump|report|file|feed|full"
    r"|delta|snapshot|daily|archive|history|log)*"
)
_HISTORY = re.compile(r"history|log")
_ABBREVIATED = 4  # letters of a name that may stand for a longer one: cust_id in customers
# When or by what a row was written says nothing of what it is about.
_BOOKKEEPING = re.compile(
    r"(?i)^row_?(?:guid|uuid|id)$|modif|updat|creat|chang|insert|loaded|stamp|extract|version$"
)

Batches = Callable[[Sequence[str]], Iterable[Iterator[Mapping[str, pa.Array]]]]


@dataclass(frozen=True)
class Key:
    """The fields of a key and why; ``sure`` where the name says so, too. ``recurs`` is the share seen in an earlier file."""

    fields: tuple[str, ...]
    reason: str
    sure: bool = False
    recurs: float = 0.0


@dataclass(frozen=True)
class Finding:
    """The key, if one is certain enough to be written, and what only a person can say about it."""

    key: Key | None = None
    question: str | None = None


def is_key_name(name: str) -> bool:
    """Whether a column is called like what identifies something."""
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

    ``types`` gives the type chosen for each column, ``missing`` names those that
    lack values. ``batches`` reads some columns again, file by file. Where it is
    open how wide a key is, the wider one is taken, or none, and a question asked:
    one that is too narrow would reject or overwrite rows of tomorrow.
    """
    usable = [c for c in columns if c.name not in missing and _usable(c, types[c.name])]
    run = _leading(columns, usable)
    single = _own(usable, type_name) or _named(usable, columns)
    if single and _is_certain(single, run, columns, type_name):
        return Finding(_key_of(single, files, "the name says that it is the key"))
    if single and single in run and _is_same_thing(_entity(single.name), fold(type_name)):
        run = run[: run.index(single) + 1]  # what the type is called after is the last part of its key
    wide = _of_run(run, batches)
    if single and single in run:
        return Finding(wide, _ask(single, wide, type_name))
    if wide:
        return Finding(wide)
    if single and not _is_foreign(single.name, type_name):
        return Finding(_key_of(single, files, "the name says a key"))
    if single:
        return Finding(None, _ask(single, None, type_name))
    return Finding(_first(usable, columns, types, files) or _combined(usable, columns, batches))


def _is_certain(single: Column, run: Sequence[Column], columns: Sequence[Column], type_name: str) -> bool:
    """Whether a unique column must be the whole key: called for the type or just id, and no other key stands before it."""
    if _is_foreign(single.name, type_name):
        return False
    before = run[: run.index(single)] if single in run else []
    return not any(is_key_name(c.name) for c in before) and (
        single is columns[0] or _is_own(single.name, type_name)
    )


def _ask(single: Column, wide: Key | None, type_name: str) -> str:
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


def _usable(column: Column, kind: str) -> bool:
    """Whether a column may be (part of) a key: never empty, and of a type that names things."""
    if column.missing or column.empty or not column.rows or _BOOKKEEPING.search(column.name):
        return False
    return kind in ("integer", "date", "datetime") or (
        kind == "string" and column.longest <= _KEY_TEXT_LENGTH
    )


def _leading(columns: Sequence[Column], usable: Sequence[Column]) -> list[Column]:
    """The columns at the front that are all called like parts of a key."""
    run: list[Column] = []
    for column in columns[:_LONGEST_RUN]:
        if column not in usable or not (is_key_name(column.name) or _PART_NAME.search(column.name)):
            break
        run.append(column)
    return run


def _own(usable: Sequence[Column], type_name: str) -> Column | None:
    """A unique column called id, or like the type itself."""
    return next(
        (
            c
            for c in usable
            if c.unique and c.rows >= _fewest(c.name, type_name) and _is_own(c.name, type_name)
        ),
        None,
    )


def _fewest(name: str, type_name: str) -> int:
    rest = fold(type_name).removeprefix(_entity(name))
    return _FEWEST_HISTORY if _entity(name) and _HISTORY.search(rest) else _FEWEST_NAMED


def _is_own(name: str, type_name: str) -> bool:
    """Whether a column is called id, or after what the type holds."""
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
    """Whether a column is called after another thing than the type holds: person_id in phones."""
    return len(_entity(name)) > 0 and not _is_own(name, type_name)


def _entity(name: str) -> str:
    """What a key is the key of: order for OrderID."""
    return re.sub(r"(?:id|key|code|uuid|guid|nr|no|num|number|sku|isbn|iban|ean|ref)$", "", fold(name))


def _is_same_thing(entity: str, whole: str) -> bool:
    """Whether a type holds what is called so: its name goes on with an ending, a number, or a word such as list."""
    return any(
        whole.startswith(one) and _SAME_THINGS.fullmatch(whole, len(one)) for one in (entity, _plural(entity))
    )


def _plural(entity: str) -> str:
    return f"{entity[:-1]}ies" if entity.endswith("y") else f"{entity}s"


def _of_run(run: Sequence[Column], batches: Batches) -> Key | None:
    """All of the columns at the front, where they are several and no first one settles it."""
    if len(run) < 2 or run[0].rows < FEWEST_ROWS:
        return None
    names = [c.name for c in run]
    for file in batches(names):
        hashes = _hashed(file, names)
        if not _is_unique([hashes[n] for n in names]):
            return None
    where = " and ".join(names)
    return Key(
        tuple(names), f"no two records share {where}, which stand first and are called like parts of a key"
    )


def _named(usable: Sequence[Column], columns: Sequence[Column]) -> Column | None:
    """A unique column called like a key."""
    for column in usable:
        fewest = _FEWEST_NAMED if column is columns[0] else _FEWEST_ELSEWHERE
        if column.unique and is_key_name(column.name) and column.rows >= fewest:
            return column
    return None


def _first(
    usable: Sequence[Column], columns: Sequence[Column], types: Mapping[str, str], files: int
) -> Key | None:
    """A unique column that stands first."""
    first = columns[0]
    enough = first.unique and first.rows >= _FEWEST_UNNAMED and types[first.name] != "datetime"
    return _key_of(first, files, "it stands first", sure=False) if enough and first in usable else None


def _key_of(column: Column, files: int, backing: str, *, sure: bool = True) -> Key:
    where = "in any file" if files > 1 else "in the file"
    recurs = column.recurs / column.rows
    return Key(
        (column.name,),
        f"no value of {column.name} is missing or comes twice {where}, and {backing}",
        sure,
        recurs,
    )


def _combined(usable: Sequence[Column], columns: Sequence[Column], batches: Batches) -> Key | None:
    """The fewest columns called like keys that are unique together."""
    wanted = [c for i, c in enumerate(usable) if is_key_name(c.name) or _PART_NAME.search(c.name)][
        :_MOST_CANDIDATES
    ]
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
        combos[0], f"no two records share {' and '.join(combos[0])}{checked}, and no single column would do"
    )


def _hashed(
    file: Iterator[Mapping[str, pa.Array]], names: Sequence[str]
) -> dict[str, npt.NDArray[np.uint64]]:
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
    mixed = columns[0].copy()
    for column in columns[1:]:
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed ^= column
    return len(np.unique(mixed)) == len(mixed)
