"""A spec that ``infer`` proposes loads the files that it was made from, each value with its meaning."""

import csv
import datetime as dt
import itertools
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from importer_dagster.inference.infer import infer
from importer_dagster.model import LoadResult
from importer_dagster.spec.fields import FieldSpec
from importer_dagster_tests.helpers.inbox import SHARED, Inbox, Query

SAMPLES = {
    "codes": "zip,amount,day\n00123,1.50,2024-01-31\n04567,2.25,2024-02-01\n00001,3.00,2024-02-02\n",
    "german": "Datum;Betrag;Ja\n31.01.2024;1.234,50;wahr\n01.02.2024;2,25;falsch\n",
    "quoted": 'id,text\n1,"a, ""b""\nc"\n2,\n3,""\n',
    "gaps": "id,n\n1,5\n2,\n3,7\n",
}


def load_own(inbox: Inbox, file: Path) -> LoadResult:
    inference = infer([file])
    assert "#" in inference.yaml, "the reasons are missing"
    return inbox.load(inference.spec, file.read_bytes(), path=file.name)


@pytest.mark.parametrize("name", SAMPLES)
def test_small_files_load_with_their_inferred_spec(inbox: Inbox, tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.csv"
    file.write_text(SAMPLES[name], encoding="utf-8")
    result = load_own(inbox, file)
    assert (result.status, result.rows_rejected) == ("loaded", 0), result.reason


def test_leading_zeros_stay_text(tmp_path: Path) -> None:
    file = tmp_path / "codes.csv"
    file.write_text(SAMPLES["codes"], encoding="utf-8")
    fields = {f.name: f for f in infer([file]).spec.fields}
    assert fields["zip"].type == "string"
    assert (fields["amount"].type, fields["amount"].format) == ("number", "default")
    assert fields["day"].type == "date"


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["salestaxrate", "product", "currency", "employee", "store", "productmodel", "culture"]
)
def test_real_files_load_with_their_inferred_spec(inbox: Inbox, name: str) -> None:
    result = load_own(inbox, SHARED / "adventureworks" / f"{name}.csv")
    assert (result.status, result.rows_rejected, result.drift) == ("loaded", 0, ()), result.reason


# --- generated files, cell by cell --------------------------------------------------------------

NUMBERS = itertools.count()


@dataclass
class Kind:
    """A column: values, how each is written, and the types in which they keep their meaning."""

    values: st.SearchStrategy[Any]
    write: Callable[[Any], str]
    types: tuple[str, ...]
    words: tuple[str, ...] = ()  # that mean a missing value


@dataclass
class Habits:
    """How one file writes all of its columns."""

    delimiter: str
    point: str
    group: str
    day_first: bool
    everything: bool  # all values are in quotes
    end: str
    encoding: str


@st.composite
def habits(draw: st.DrawFn) -> Habits:
    delimiter = draw(st.sampled_from([",", ";", "\t", "|"]))
    # files with commas as delimiter have no decimal commas
    point = "." if delimiter == "," else draw(st.sampled_from([".", ","]))
    group = draw(st.sampled_from([",", " ", "'"] if point == "." else [".", " ", "\u202f"]))
    return Habits(
        delimiter, point, group, draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from(["\n", "\r\n"])),
        draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])),
    )  # fmt: skip


def number(value: Decimal, h: Habits, *, group: bool = False) -> str:
    text = format(value, ",f" if group else "f")
    return text.translate(str.maketrans({",": h.group, ".": h.point}))


DAYS = st.dates(dt.date(1970, 1, 1), dt.date(2068, 12, 31))
MOMENTS = st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2068, 12, 31))
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)


@st.composite
def column(draw: st.DrawFn, h: Habits) -> Kind:
    """A column as suppliers write them."""
    places = draw(st.integers(0, 4))
    decimals = st.decimals(-(10**9), 10**9, places=places)
    first, second = ("%d", "%m") if h.day_first else ("%m", "%d")
    # with points, the day comes first everywhere
    mark = draw(st.sampled_from(["/", "-", "."] if h.day_first else ["/", "-"]))
    date = draw(
        st.sampled_from(
            [
                "%Y-%m-%d",
                "%Y/%m/%d",
                "%d %b %Y",
                "%B %d, %Y",
                f"{first}{mark}{second}{mark}%Y",
                f"{first}/{second}/%y",
            ]
        )
    )
    time = draw(st.sampled_from(["%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p"]))
    true, false = draw(
        st.sampled_from([("true", "false"), ("Y", "N"), ("ja", "nein"), ("Oui", "Non"), ("1", "0")])
    )
    width = draw(st.integers(2, 9))
    missing = draw(st.sampled_from([(), ("NA",), ("n/a", "NULL"), ("-",)]))
    choices = [
        Kind(st.integers(-(10**6), 10**6), str, ("integer", "number"), missing),
        Kind(st.integers(0, 10**25), str, ("integer", "number"), missing),
        Kind(st.integers(0, 10**width - 1), lambda n: f"{n:0{width}}", ("string",)),
        Kind(decimals, lambda n: number(n, h), ("integer", "number"), missing),
        Kind(decimals, lambda n: number(n, h, group=True), ("integer", "number"), missing),
        Kind(decimals, lambda n: "$" + number(abs(n), h), ("integer", "number")),
        Kind(DAYS, lambda d: d.strftime(date), ("date",), missing),
        Kind(
            DAYS,
            lambda d: d.strftime(["%Y-%m-%d", f"{first}/{second}/%Y"][d.toordinal() % 2]),
            ("date",),
            missing,
        ),
        Kind(MOMENTS, lambda d: d.strftime(f"%Y-%m-%d {time}"), ("datetime",), missing),
        Kind(MOMENTS, lambda d: d.strftime(f"{date} {time}"), ("datetime",)),
        Kind(st.times(), lambda t: t.strftime(time), ("time",)),
        Kind(st.booleans(), lambda b: true if b else false, ("boolean",)),
        Kind(st.uuids(), str, ("string",)),
        Kind(st.dictionaries(WORDS, st.integers() | WORDS, max_size=2), json.dumps, ("object",)),
        Kind(WORDS, str, ("string",)),
        Kind(WORDS | st.integers().map(str) | DAYS.map(str), str, ("string",), ("NA",)),
        Kind(st.sampled_from(["open", "closed", "sent"]), str, ("string",), ("NA", "-")),
        Kind(st.floats(allow_nan=False), repr, ("integer", "number")),
    ]
    return draw(st.sampled_from(choices))


def meant(kind: Kind, value: Any, text: str) -> Any:
    """The parts of a value that its text has: 10:20 has no seconds."""
    if isinstance(value, dt.datetime | dt.time) and kind.types[0] in ("datetime", "time"):
        shape = text.upper()
        keep = {"microsecond": 0} if "." not in shape.rpartition(" ")[2] + shape.rpartition(":")[2] else {}
        if text.count(":") == 1:
            keep = {"second": 0, "microsecond": 0}
        return value.replace(**keep)
    if text.startswith("$"):
        return abs(value)
    return value


def is_faithful(got: Any, value: Any, text: str, kind: Kind, field: FieldSpec, quoted: bool) -> bool:
    """Whether the value in the table is the value in the file."""
    plain_text = field.type == "string" and field.format == "default"
    if text == "":
        return got == ("" if quoted and plain_text else None)
    if got is None:  # a word declared as missing; in quotes, it is text in a column of text
        return value is None and text in (field.missingValues or ()) and not (quoted and plain_text)
    if plain_text:
        return bool(got == text)
    if field.type == "string":
        return bool(uuid.UUID(str(got)) == uuid.UUID(text))
    if value is None or field.type not in kind.types:
        return got == by_itself(text, field)
    value = meant(kind, value, text)
    return bool(got == value) if not isinstance(value, float) else float(got) == value


def by_itself(text: str, field: FieldSpec) -> Any:
    """What a text says that only happens to look like another type: in Python's words, no sooner than it has any."""
    readers: dict[str, Callable[[str], Any]] = {
        "integer": int,
        "number": float if field.format == "double" else Decimal,
        "date": dt.date.fromisoformat,
        "datetime": dt.datetime.fromisoformat,
        "boolean": lambda t: t in (field.trueValues or ()),
    }
    return readers[field.type](text)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_a_file_says_is_what_the_inferred_type_holds(
    inbox: Inbox, query: Query, tmp_path: Path, data: st.DataObject
) -> None:
    h = data.draw(habits())
    kinds = data.draw(st.lists(column(h), min_size=2, max_size=5))
    height = data.draw(st.integers(1, 30))
    cells = [[data.draw(st.none() | k.values) for k in kinds] for _ in range(height)]
    texts = [
        [
            data.draw(st.sampled_from(("", *k.words))) if v is None else k.write(v)
            for k, v in zip(kinds, row, strict=True)
        ]
        for row in cells
    ]
    name = f"inferred_{next(NUMBERS)}"
    file = tmp_path / f"{name}.csv"
    with file.open("w", newline="", encoding=h.encoding) as out:
        quoting = csv.QUOTE_ALL if h.everything else csv.QUOTE_MINIMAL
        writer = csv.writer(out, delimiter=h.delimiter, lineterminator=h.end, quoting=quoting)
        writer.writerow([f"name {chr(97 + c)}" for c in range(len(kinds))])
        writer.writerows(texts)
    found = infer([file])
    result = inbox.load(found.spec, file.read_bytes(), path=file.name)
    assert (result.status, result.rows_rejected, result.rows_loaded) == ("loaded", 0, height), found.yaml
    columns = ", ".join(f'"{f.column}"' for f in found.spec.fields)
    rows = query(f'SELECT {columns} FROM "{name}" ORDER BY _row')
    for row, said, values in zip(rows, texts, cells, strict=True):
        for got, text, value, kind, field in zip(row, said, values, kinds, found.spec.fields, strict=True):
            quoted = h.everything or any(c in text for c in (h.delimiter, '"', "\n", "\r"))
            assert is_faithful(got, value, text, kind, field, quoted), (text, got, value, found.yaml)
