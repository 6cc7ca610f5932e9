"""Hashes of rows: equal for equal contents, different for different ones, whatever lies around them."""

import datetime
import struct
from decimal import Decimal

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from importer_dagster.writer.row_hash import row_hashes

TYPES = {
    "i": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "d": (pa.float64(), st.floats(width=64) | st.sampled_from([0.0, -0.0])),
    "n": (pa.decimal128(30, 4), st.integers(-(10**29), 10**29).map(lambda n: Decimal(n).scaleb(-4))),
    "b": (pa.bool_(), st.booleans()),
    "on": (pa.date32(), st.dates()),
    "at": (pa.timestamp("us"), st.datetimes()),
    "t": (pa.time64("us"), st.times()),
    "u": (pa.binary(16), st.binary(min_size=16, max_size=16)),
    "s": (
        pa.string(),
        st.text(st.sampled_from("aé\0"), max_size=20)
        | st.sampled_from(["x" * n for n in (1023, 1024, 1025, 3000)]),
    ),
}
SCHEMA = pa.schema([(name, type_) for name, (type_, _) in TYPES.items()])
rows = st.fixed_dictionaries({name: st.none() | values for name, (_, values) in TYPES.items()})


def hashes_of(found: list[dict], schema: pa.Schema = SCHEMA) -> list[int]:
    return row_hashes(pa.RecordBatch.from_pylist(found, schema=schema)).to_pylist()


def bits(row: dict) -> tuple:
    """A row as it is: 0 and -0 are two values."""
    values = (row[name] for name in TYPES)
    return tuple(struct.pack("d", v) if isinstance(v, float) else v for v in values)


@settings(max_examples=200, deadline=None)
@given(
    found=st.lists(rows, max_size=8), repeats=st.lists(st.integers(0, 7), max_size=4), start=st.integers(0, 8)
)
def test_equal_rows_and_only_they_have_equal_hashes(found: list, repeats: list, start: int) -> None:
    found = found + [found[i] for i in repeats if i < len(found)]
    hashes = hashes_of(found)
    for row, number in zip(found, hashes, strict=True):
        for other, others in zip(found, hashes, strict=True):
            assert (number == others) == (bits(row) == bits(other))
    batch = pa.RecordBatch.from_pylist(found, schema=SCHEMA)
    assert row_hashes(batch.slice(start)).to_pylist() == hashes[start:]


def test_one_value_that_differs_always_shows() -> None:
    base = {
        "i": 1,
        "d": 0.0,
        "n": Decimal("1.0000"),
        "b": True,
        "on": datetime.date(2024, 1, 1),
        "s": "12345678",
    }
    others = [("i", 2), ("i", None), ("d", -0.0), ("d", None), ("n", Decimal("1.0001")), ("b", False), ("b", None),
              ("on", datetime.date(2024, 1, 2)), ("s", "12345679"), ("s", "1234567"), ("s", "123456789"), ("s", ""),
              ("s", None), ("s", "12345678" * 200)]  # fmt: skip
    found = [base, *({**base, name: value} for name, value in others)]
    schema = pa.schema([SCHEMA.field(name) for name in base])
    assert len(set(hashes_of(found, schema))) == len(found)


def test_a_new_column_of_nulls_and_more_digits_leave_the_hash_as_it_was() -> None:
    row = {"n": Decimal("12.3400"), "s": "a"}
    narrow = hashes_of([row], pa.schema([("n", pa.decimal128(8, 4)), ("s", pa.string())]))
    assert hashes_of([row]) == narrow
    assert hashes_of([row], pa.schema([("n", pa.decimal128(8, 5)), ("s", pa.string())])) != narrow
    assert hashes_of([row], pa.schema([("s", pa.string()), ("n", pa.decimal128(8, 4))])) == narrow


def test_the_column_counts_not_only_the_value() -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.int64())])
    assert len(set(hashes_of([{"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 1}, {"b": 1}], schema))) == 4


def test_many_rows_are_hashed_as_few_are() -> None:
    numbers = pa.RecordBatch.from_arrays([pa.array(range(40_000))], names=["i"])
    hashes = row_hashes(numbers)
    assert hashes.take(pa.array([0, 20_000, 39_999])).to_pylist() == hashes_of(
        [{"i": n} for n in (0, 20_000, 39_999)], numbers.schema
    )
    assert len(hashes.unique()) == 40_000
    assert row_hashes(numbers.slice(0, 0)).to_pylist() == []
