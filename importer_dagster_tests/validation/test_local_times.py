"""Local times that came twice since clocks were set back: what they are read as, and what the load says."""

import datetime as dt
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from importer_dagster.errors import SpecError
from importer_dagster.pipeline.small_files import import_together
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.validation import parse
from importer_dagster.validation.local_times import Clock
from importer_dagster_tests.helpers.inbox import Inbox, Query, make_spec

NEW_YORK = "America/New_York"
TWICE = "2023-11-05 01:30:00"
EARLIER, LATER = (
    dt.datetime(2023, 11, 5, 5, 30, tzinfo=dt.UTC),
    dt.datetime(2023, 11, 5, 6, 30, tzinfo=dt.UTC),
)


def spec(ambiguous: str | None = None, **more: Any):
    at = {"name": "at", "type": "datetime", "timezone": NEW_YORK}
    fields = [{"name": "id", "type": "integer"}, at if ambiguous is None else {**at, "ambiguous": ambiguous}]
    return make_spec(fields=fields, **more)


@pytest.mark.parametrize(
    ("ambiguous", "expected"),
    [
        (None, [EARLIER, EARLIER]),
        ("earlier", [EARLIER, EARLIER]),
        ("later", [LATER, LATER]),
        ("reject", []),
        ("by_order", [EARLIER, EARLIER]),  # the same time twice does not go back
    ],
)
def test_what_it_is_read_as(inbox: Inbox, query: Query, ambiguous: str | None, expected: list) -> None:
    result = inbox.load(
        spec(ambiguous), f"id,at\n1,{TWICE}\n2,{TWICE}\n3,2023-03-12 02:30:00\n4,2023-11-05 03:00\n"
    )
    found = query("SELECT at FROM things WHERE id < 3 ORDER BY id")
    assert [at for (at,) in found] == expected
    rejected = query("SELECT value, message FROM importer.rejects ORDER BY row")
    assert "did not happen in America/New_York" in rejected[-1][1]
    if ambiguous == "reject":
        assert rejected[0] == (
            TWICE,
            f"'{TWICE}' came twice in {NEW_YORK}, when clocks were set back (ambiguous: reject)",
        )
    warnings = [e.detail for e in result.drift if e.kind == "warning"]
    assert len(warnings) == (ambiguous in (None, "by_order"))
    for words in warnings:
        assert words.startswith(
            f"column 'at': 2 local times came twice in {NEW_YORK}, when clocks were set back;"
        )
        assert f"The first is {TWICE!r}. Declare" in words
    assert query("SELECT count(*) FROM importer.drift WHERE kind = 'warning'") == [(len(warnings),)]


def test_in_the_order_of_the_file(inbox: Inbox, query: Query) -> None:
    times = ["00:59:59", "01:00", "01:40", "01:10", "01:59", "02:00", "03:00"]
    result = inbox.load(
        spec("by_order"), "id,at\n" + "".join(f"{i},2023-11-05 {t}\n" for i, t in enumerate(times))
    )
    found = [at for (at,) in query("SELECT at AT TIME ZONE 'UTC' FROM things ORDER BY id")]
    assert [f"{at:%H:%M}" for at in found] == ["04:59", "05:00", "05:40", "06:10", "06:59", "07:00", "08:00"]
    assert not result.drift


def test_a_unique_time_comes_later_when_it_is_equal(inbox: Inbox, query: Query) -> None:
    content = "id,at\n1,2023-11-05 01:00\n2,2023-11-05 01:00\n3,2023-11-05 02:00\n"
    assert inbox.load(spec("by_order", key=["at"]), content).rows_loaded == 3
    assert query("SELECT extract(hour FROM at AT TIME ZONE 'UTC')::int FROM things ORDER BY id") == [
        (5,),
        (6,),
        (7,),
    ]


def test_files_that_are_not_in_order(inbox: Inbox, query: Query) -> None:
    content = "id,at\n1,2023-11-05 04:00\n2,2023-11-05 03:00\n3,2023-11-05 01:30\n4,2023-11-05 00:30\n"
    result = inbox.load(spec("by_order"), content)
    assert (result.rows_loaded, result.rows_rejected) == (3, 1)
    assert query("SELECT row, message FROM importer.rejects") == [
        (3, f"'2023-11-05 01:30' came twice in {NEW_YORK}, when clocks were set back, and the records up to it are "
            "not in the order of time")
    ]  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(0, 4 * 60 * 60), min_size=1, max_size=30),
    st.lists(st.integers(1, 5), min_size=30, max_size=30),
    st.booleans(),
)
def test_batches_make_no_difference_to_a_plain_model(
    offsets: list[int], sizes: list[int], is_unique: bool
) -> None:
    """Local times of the night, in any order: a walk from record to record is the model."""
    start = dt.datetime(2023, 11, 5, 0, 0)
    walls = [start + dt.timedelta(seconds=s // 600 * 600) for s in offsets]
    of = FieldSpec(name="x", type="datetime", timezone=NEW_YORK, ambiguous="by_order")
    clock, found, at = Clock(of, is_unique=is_unique), [], 0
    for size in sizes:
        texts = pa.array([str(w) for w in walls[at : at + size]], pa.string())
        found += parse.parse(texts, of, ("",), clock)[0].to_pylist()
        at += size
    assert found == plain(walls, is_unique)


def plain(walls: list[dt.datetime], is_unique: bool) -> list[dt.datetime | None]:
    """In order: the earlier time until one goes back within the hour; nothing after the first that is out of order."""
    zone, result, is_ordered, gone_back = ZoneInfo(NEW_YORK), [], True, 0
    last: dt.datetime | None = None
    for before, wall in pairwise([None, *walls]):
        both = [wall.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1)]
        is_twice = both[0] != both[1]
        was_twice = before is not None and before.hour == 1
        if not (is_twice and was_twice):
            gone_back = 0
        elif wall < before or (is_unique and wall == before):
            gone_back += 1
        now = both[1] if is_twice and gone_back else both[0]
        is_ordered &= (last is None or now >= last) and not (is_twice and gone_back > 1)
        result.append(now if is_ordered or not is_twice else None)
        last = now
    return result


def test_a_small_file_with_such_times_is_imported_alone(inbox: Inbox) -> None:
    of = spec()
    deliveries = [
        inbox.delivery(of, f"id,at\n1,{TWICE if i == 1 else '2023-11-06 01:30:00'}\n", path=f"{i}.csv") for i in range(3)
    ]  # fmt: skip
    deliveries = [type(d)(**{**vars(d), "size": 40}) for d in deliveries]
    found = import_together(deliveries, of, warehouse=inbox.warehouse)
    assert sorted(d.path for d in found) == ["0.csv", "2.csv"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ambiguous": "later"}, "ambiguous goes with timezone only"),
        (
            {"ambiguous": "by_order", "timezone": NEW_YORK, "format": ["default", "%d.%m.%Y %H:%M"]},
            "by_order goes with one format only",
        ),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse.check_field(FieldSpec.model_validate({"name": "x", "type": "datetime", **options}))
