"""Hashes of rows: equal for equal contents, different for different ones, whatever lies around them."""

import datetime
import hashlib
import struct
from decimal import Decimal

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from importer_dagster.writer import publish, row_hash
from importer_dagster.writer.row_hash import row_hashes
from importer_dagster_tests.helpers.inbox import Inbox, Query, make_spec

SECRET = bytes(range(32))

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
    return row_hashes(pa.RecordBatch.from_pylist(found, schema=schema), SECRET).to_pylist()


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
    assert row_hashes(batch.slice(start), SECRET).to_pylist() == hashes[start:]


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
    hashes = row_hashes(numbers, SECRET)
    assert hashes.take(pa.array([0, 20_000, 39_999])).to_pylist() == hashes_of(
        [{"i": n} for n in (0, 20_000, 39_999)], numbers.schema
    )
    assert len(hashes.unique()) == 40_000
    assert row_hashes(numbers.slice(0, 0), SECRET).to_pylist() == []


# --- a supplier who wants a changed row to count as unchanged ---------------------------------------------

MASK = (1 << 64) - 1
PUBLIC = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # factors that anybody knows


def public_mix(word: int) -> int:
    for shift, factor in zip((30, 27), PUBLIC, strict=True):
        word = (word ^ (word >> shift)) * factor & MASK
    return word ^ (word >> 31)


def public_seed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"1\0{name}\0int64".encode(), digest_size=8).digest(), "little")


def forged(a: int, b: int, new_a: int) -> int:
    """The b that gives (new_a, b) the hash of (a, b), where that needs no secret."""
    left = (
        public_mix(a ^ public_seed("a"))
        + public_mix(b ^ public_seed("b"))
        - public_mix(new_a ^ public_seed("a"))
    )
    word = left & MASK
    for shift, factor in ((31, PUBLIC[1]), (27, PUBLIC[0]), (30, 1)):
        undone = word
        for _ in range(3):
            undone = word ^ (undone >> shift)
        word = undone * pow(factor, -1, 1 << 64) & MASK
    word ^= public_seed("b")
    return word - (1 << 64) if word >> 63 else word


def test_a_supplier_cannot_make_a_changed_row_look_unchanged(inbox: Inbox, query: Query) -> None:
    fields = [{"name": n, "type": "integer"} for n in ("id", "a", "b")]
    spec = make_spec(fields=fields, key=["id"], write_disposition="merge")
    n = 2_000
    inbox.load(spec, "id,a,b\n" + "".join(f"{i},10,20\n" for i in range(n)), path="1.csv")
    b = forged(10, 20, 999)
    result = inbox.load(spec, "id,a,b\n" + "".join(f"{i},999,{b}\n" for i in range(n)), path="2.csv")
    assert (result.rows_loaded, result.rows_unchanged) == (n, 0)
    assert query("SELECT DISTINCT a, b FROM things") == [(999, b)]


def test_no_difference_cancels_out_whatever_the_secret() -> None:
    """With known factors, the most frequent difference between two mixed words came in one of 4,000 tries."""
    difference = np.uint64((1 << 63) | (1 << 33) | (1 << 3))
    found = set()
    for n in range(2_000):
        key = row_hash._key(n.to_bytes(32, "big"), "s", "string")
        words = np.array([key.seed, key.seed ^ difference], np.uint64)
        one, other = row_hash._mixed(words, key.factors)
        found.add(int(one ^ other))
    assert len(found) == 2_000


def test_another_secret_gives_other_hashes() -> None:
    texts = ["", "a", "12345678", "1" * 9, "x" * 3000]
    batch = pa.RecordBatch.from_pylist(
        [{"s": text} for text in texts], schema=pa.schema([("s", pa.string())])
    )
    hashes = [row_hashes(batch, secret).to_pylist() for secret in (SECRET, SECRET[::-1])]
    assert len({*hashes[0], *hashes[1]}) == 2 * len(texts)


def test_hashes_of_another_secret_are_replaced_bit_by_bit(
    inbox: Inbox, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "MOST_HASHES", 2_000)
    spec = make_spec(key=["id"], write_disposition="merge")
    content = "id,v,n\n" + "".join(f"{i},a,{i}.50\n" for i in range(3_000))
    inbox.load(spec, content, path="0.csv")
    [(one,)] = query("SELECT array_agg(_hash ORDER BY id) FROM things")
    with inbox.warehouse.connect() as conn:
        conn.execute("UPDATE things SET _hash = _hash + 1")
        conn.commit()
    left = []
    for n in (1, 2, 3):
        result = inbox.load(spec, content, path=f"{n}.csv")
        assert (result.rows_loaded, result.rows_unchanged) == (0, 3_000)
        [(now,)] = query("SELECT array_agg(_hash ORDER BY id) FROM things")
        left.append(sum(a != b for a, b in zip(one, now, strict=True)))
    assert left == [1_000, 0, 0]


def test_the_secret_is_of_the_warehouse_and_not_for_others(inbox: Inbox, query: Query) -> None:
    inbox.load(make_spec(key=["id"], write_disposition="merge"), "id,v,n\n1,a,1\n")
    [(secret,)] = query("SELECT secret FROM importer.row_secret")
    assert bytes(secret) == inbox.warehouse.row_secret
    assert len(set(secret)) > 8
    role = f"bi_{inbox.folder.name[-8:]}".lower()
    with inbox.warehouse.connect() as conn:
        conn.execute(f'CREATE ROLE "{role}"')
        conn.execute(f'GRANT USAGE ON SCHEMA importer TO "{role}"')
        conn.execute(f'SET LOCAL ROLE "{role}"')
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT * FROM importer.row_secret")
