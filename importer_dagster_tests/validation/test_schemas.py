"""What a spec becomes in Arrow, Pandera and SQL; and values that come back the same after text, Validator and COPY."""

import datetime as dt
import json
import math
import uuid
from collections.abc import Iterator
from decimal import Context, Decimal
from typing import Any, get_args

import pandas as pd
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from importer_dagster.errors import SpecError
from importer_dagster.settings import SHIPPED_SPECS
from importer_dagster.spec import columns, sql_table
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.loading import load_specs, parse_spec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import schemas
from importer_dagster.validation.validator import Validator
from importer_dagster.writer import copy_rows
from importer_dagster_tests.helpers.inbox import SHARED, admin

assert SHARED  # conftest is imported for ``admin``

EVERYTHING = """
description: One field of each kind.
schema:
  fields:
    - {name: s, type: string, title: Some text}
    - {name: u, type: string, format: uuid}
    - {name: i, type: integer, constraints: {required: true, minimum: 1, maximum: 9}}
    - {name: n, type: number, precision: 38, scale: 18, description: Money}
    - {name: d, type: number, format: double}
    - {name: b, type: boolean}
    - {name: day, type: date}
    - {name: wall, type: datetime}
    - {name: point, type: datetime, format: "%Y-%m-%d %H:%M:%S.%f%z"}
    - {name: local, type: datetime, timezone: Europe/Berlin}
    - {name: t, type: time}
    - {name: o, type: object}
    - {name: e, type: string, constraints: {enum: [A, B], unique: true}}
  primaryKey: [i]
  missingValues: ["\\\\N"]
"""


def spec(text: str = EVERYTHING, **replace: str) -> TableSpec:
    for old, new in replace.items():
        text = text.replace(old, new)
    return parse_spec(text, "everything.yaml")


def one(field: str) -> TableSpec:
    return parse_spec(f"schema: {{fields: [{field}]}}", "one.yaml")


# --- projections -----------------------------------------------------------------------


def test_arrow_schema() -> None:
    assert schemas.arrow_schema(spec()) == pa.schema(
        {
            "s": pa.string(), "u": pa.binary(16), "i": pa.int64(), "n": pa.decimal128(38, 18), "d": pa.float64(),
            "b": pa.bool_(), "day": pa.date32(), "wall": pa.timestamp("us"), "point": pa.timestamp("us", "UTC"),
            "local": pa.timestamp("us", "UTC"), "t": pa.time64("us"), "o": pa.string(), "e": pa.string(),
        }
    )  # fmt: skip


def ddl(table: sa.Table) -> str:
    return " ".join(str(CreateTable(table).compile(dialect=postgresql.dialect())).split())


def test_sql_table_of_an_append_type_has_no_key() -> None:
    table = sql_table.sql_table(spec(), sa.MetaData(), tenant=False)
    assert ddl(table) == (
        "CREATE TABLE everything ( s TEXT, u UUID, i BIGINT, n NUMERIC(38, 18), d DOUBLE PRECISION, b BOOLEAN, "
        "day DATE, wall TIMESTAMP WITHOUT TIME ZONE, point TIMESTAMP WITH TIME ZONE, local TIMESTAMP WITH TIME ZONE, "
        "t TIME WITHOUT TIME ZONE, o JSONB, e TEXT, _extra JSONB, _business_date DATE NOT NULL, "
        "_load_id BIGINT NOT NULL, _row BIGINT NOT NULL )"
    )
    assert table.comment == "One field of each kind."
    assert (table.c.s.comment, table.c.n.comment) == ("Some text", "Money")


def test_sql_table_of_a_merge_type_has_the_tenant_first_in_its_key() -> None:
    merge = parse_spec(EVERYTHING + "write_disposition: merge", "everything.yaml")
    table = sql_table.sql_table(merge, sa.MetaData(), schema="lake", name="other", tenant=True)
    assert table.fullname == "lake.other"
    assert [c.name for c in table.primary_key] == ["_tenant", "i"]
    assert not table.c.i.nullable
    assert table.c.s.nullable
    bare = sql_table.sql_table(merge, sa.MetaData(), tenant=True, constraints=False)
    assert not bare.primary_key
    assert bare.c.i.nullable


def test_column_schema() -> None:
    shown = {c.name: c for c in columns.column_schema(spec())}
    assert shown["i"] == columns.ColumnInfo(
        "i", "bigint", None, nullable=False, unique=True, constraints=["minimum: 1", "maximum: 9"]
    )
    assert shown["e"].constraints == ["enum: A, B"]
    assert shown["e"].unique
    assert shown["n"].type == "numeric(38, 18)"
    assert shown["point"].type == "timestamp with time zone"


def test_types_in_words_are_those_of_the_table() -> None:
    dialect = postgresql.dialect(paramstyle="named")
    shipped = [f for s in load_specs(SHIPPED_SPECS).values() for f in s.fields]
    kinds = {f.type for f in spec().fields}
    assert kinds == set(get_args(FieldSpec.model_fields["type"].annotation)), "every kind is looked at"
    for field in (*spec().fields, *shipped):
        assert columns.type_words(field) == sql_table.sql_type(field).compile(dialect=dialect).lower()


def test_pandera_schema_is_made_once_and_judges_arrow_backed_frames() -> None:
    built = schemas.pandera_schema(spec())
    assert schemas.pandera_schema(spec()) is built
    assert {c.dtype.type for c in built.columns.values()} == {
        pd.ArrowDtype(t) for t in schemas.arrow_schema(spec()).types
    }
    good = (
        schemas.arrow_schema(one("{name: a, type: integer}"))
        .empty_table()
        .to_pandas(types_mapper=pd.ArrowDtype)
    )
    schemas.pandera_schema(one("{name: a, type: integer}")).validate(good)
    with pytest.raises(Exception, match="expected series 'a' to have type"):
        schemas.pandera_schema(one("{name: a, type: integer}")).validate(good.astype("float64"))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("{name: a, type: integer, constraints: {minimum: x}}", "minimum 'x' is no integer"),
        (
            "{name: a, type: number, precision: 4, scale: 1, constraints: {maximum: '1.23'}}",
            "more than 1 decimals",
        ),
        ("{name: a, type: date, format: '%d.%m.%Y', constraints: {minimum: 2024-01-01}}", "in the format"),
        ("{name: a, type: boolean, constraints: {enum: [maybe]}}", "none of the words"),
        ("{name: a, constraints: {minimum: 1}}", "minimum goes with"),
        ("{name: a, type: boolean, constraints: {maximum: 'true'}}", "maximum goes with"),
        ("{name: a, type: integer, constraints: {pattern: '1+'}}", "pattern goes with text"),
        ("{name: a, type: integer, constraints: {maxLength: 1}}", "maxLength goes with text"),
        ("{name: a, format: uuid, constraints: {minLength: 1}}", "minLength goes with text"),
        ("{name: a, type: object, constraints: {enum: ['{}']}}", "every type but object"),
        ("{name: a, constraints: {pattern: '(?=x)'}}", "RE2"),
        ("{name: a, type: date, format: '%Y-%Q'}", "%Q"),
        ("{name: a, type: datetime, timezone: Mars/Olympus}", "IANA"),
        ("{name: a, checks: [emial]}", "did you mean 'email'"),
        ("{name: a, checks: ['email(x)']}", "cannot be made"),
        ("{name: a, checks: ['e-mail(']}", "not written as"),
        ("{name: a, type: integer, checks: [email]}", "'email' does not work here"),
    ],
)
def test_a_constraint_that_makes_no_sense_is_a_spec_error(field: str, words: str) -> None:
    with pytest.raises(SpecError) as raised:
        schemas.pandera_schema(one(field))
    assert words in str(raised.value)


def test_a_row_check_over_a_field_that_is_not_there_is_a_spec_error() -> None:
    wrong = parse_spec("{checks: ['not_after(a, b)'], schema: {fields: [{name: a, type: date}]}}", "one.yaml")
    with pytest.raises(SpecError, match=r"not_after\(a, b\).*does not work here"):
        schemas.pandera_schema(wrong)


def test_every_shipped_spec_has_all_projections() -> None:
    for shipped in load_specs(SHIPPED_SPECS).values():
        schemas.pandera_schema(shipped)
        copy_rows.copy_encoder(schemas.arrow_schema(shipped), shipped)
        assert len(columns.column_schema(shipped)) == len(shipped.fields)
        assert ddl(sql_table.sql_table(shipped, sa.MetaData(), tenant=True))


# --- values → text → typed → COPY BINARY → values ---------------------------------------------


@pytest.fixture(scope="module")
def conn(server: Any) -> Iterator[psycopg.Connection]:
    """A database with a real table of every type."""
    with admin(server) as root:
        root.execute("CREATE DATABASE schema_factory")
    with psycopg.connect(server.url("schema_factory"), autocommit=True, prepare_threshold=None) as conn:
        conn.execute("SET TimeZone = 'UTC'")
        conn.execute(ddl(sql_table.sql_table(spec(), sa.MetaData(), tenant=True)).encode())
        yield conn


def copy(conn: psycopg.Connection, of: TableSpec, typed: pa.RecordBatch, extra: list[str | None]) -> None:
    """As the pipeline does: typed columns, _extra, and the trace columns behind them."""
    n = len(typed)
    trace = {
        "_extra": pa.array(extra, pa.string()),
        "_tenant": pa.array(["t"] * n),
        "_business_date": pa.array([dt.date(2024, 1, 1)] * n),
        "_load_id": pa.array([7] * n),
        "_row": pa.array(range(n), pa.int64()),
    }
    batch = pa.RecordBatch.from_arrays([*typed.columns, *trace.values()], names=[*typed.schema.names, *trace])
    encoder = copy_rows.copy_encoder(batch.schema, of)
    names = ", ".join(f'"{name}"' for name in batch.schema.names)
    with conn.cursor().copy(f"COPY everything ({names}) FROM STDIN (FORMAT BINARY)".encode()) as out:
        out.write(encoder.write_header())
        out.write(encoder.write_batch(batch))
        out.write(encoder.finish())


def round_trip(conn: psycopg.Connection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    of = spec()
    texts = pa.RecordBatch.from_pydict(
        {f.name: pa.array([_written(f, row[f.name]) for row in rows], pa.string()) for f in of.fields}
    )
    typed, good, failures = Validator(of, {f.name: f.name for f in of.fields})(texts)
    assert failures == []
    assert good.tolist() == list(range(len(rows)))
    conn.execute("TRUNCATE everything")
    copy(conn, of, typed, ['{"more": "😀"}'] * len(rows))
    found = conn.execute(
        "SELECT s, u, i, n, d, b, day, wall, point, local, t, o::text, e, _extra::text FROM everything ORDER BY _row"
    ).fetchall()
    assert {row[-1] for row in found} == {'{"more": "😀"}'}
    return [dict(zip((f.name for f in of.fields), row[:-1], strict=True)) for row in found]


def _written(field: FieldSpec, value: Any) -> str | None:
    if value is None:
        return None
    if field.name == "point":
        return value.strftime("%H:%M:%S.%f%z").join((f"{value.year:04}-{value:%m-%d} ", ""))
    if field.type == "object":
        return json.dumps(value, ensure_ascii=len(value) % 2 == 0)
    if field.type == "number" and field.format == "default":
        return format(value, "f")
    return (
        repr(value)
        if isinstance(value, float)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    return st.integers(-(10**precision) + 1, 10**precision - 1).map(
        lambda n: Decimal(n).scaleb(-scale, _EXACT)
    )


_EXACT = Context(prec=60)
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
in_utc = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC))
rows = st.fixed_dictionaries(
    {
        "s": st.none() | text,
        "u": st.none() | st.uuids(),
        "i": st.integers(1, 9),
        "n": st.none() | decimals(38, 18),
        "d": st.none() | st.floats(),
        "b": st.none() | st.booleans(),
        "day": st.none() | st.dates(),
        "wall": st.none() | st.datetimes(),
        "point": st.none() | in_utc,
        "local": st.none() | in_utc,
        "t": st.none() | st.times(),
        "o": st.none() | st.dictionaries(text, json_values, max_size=3),
        "e": st.none() | st.sampled_from("AB"),
    }
)
NOTHING: dict[str, Any] = dict.fromkeys(f.name for f in spec().fields) | {"i": 1}
LEAST = NOTHING | {
    "s": "", "u": uuid.UUID(int=0), "n": Decimal("-" + "9" * 20 + "." + "9" * 18), "d": -math.inf, "b": False,
    "day": dt.date.min, "wall": dt.datetime.min, "point": dt.datetime.min.replace(tzinfo=dt.UTC),
    "local": dt.datetime.min.replace(tzinfo=dt.UTC), "t": dt.time.min, "o": {},
}  # fmt: skip
MOST = NOTHING | {
    "s": "a\n\t\\N\"'😀é\u202e", "u": uuid.UUID(int=2**128 - 1), "n": Decimal("9" * 20 + "." + "9" * 18), "d": 5e-324,
    "b": True, "day": dt.date.max, "wall": dt.datetime.max, "point": dt.datetime.max.replace(tzinfo=dt.UTC),
    "local": dt.datetime.max.replace(tzinfo=dt.UTC), "t": dt.time.max, "o": {"😀": ["\\u0000", {"": 2**70}]},
}  # fmt: skip
SMALL = NOTHING | {"n": Decimal("0.000000000000000001"), "d": -0.0}


@settings(deadline=None)
@given(st.lists(rows, min_size=1, max_size=6))
@example([NOTHING, LEAST, MOST, SMALL, NOTHING])
@example(
    [SMALL | {"n": Decimal(n)} for n in ("0", "-1", "10000", "99990000", "0.0001", "-10000.0001", "1e19")]
)
def test_values_come_back_from_postgresql(conn: psycopg.Connection, rows: list[dict[str, Any]]) -> None:
    found = round_trip(conn, rows)
    for row in found:
        row["o"] = row["o"] and json.loads(row["o"])
    assert [_comparable(r) for r in found] == [_comparable(r) for r in rows]


def _comparable(row: dict[str, Any]) -> dict[str, Any]:
    return {k: repr(v) if isinstance(v, float) else v for k, v in row.items()}


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
@example([2**63 - 1, -(2**63), 0])
def test_integers_come_back_from_postgresql(conn: psycopg.Connection, values: list[int]) -> None:
    of = one("{name: i, type: integer}")
    typed, _, _ = Validator(of, {"i": "i"})(pa.RecordBatch.from_pydict({"i": [str(v) for v in values]}))
    conn.execute("TRUNCATE everything")
    copy(conn, of, typed, [None] * len(values))
    assert conn.execute("SELECT i FROM everything ORDER BY _row").fetchall() == [(v,) for v in values]


@pytest.mark.parametrize(
    ("precision", "scale"), [(1, 0), (4, 4), (10, 4), (19, 4), (38, 0), (38, 38), (5, 3)]
)
@settings(deadline=None)
@given(data=st.data())
def test_numbers_of_any_scale_come_back_from_postgresql(
    conn: psycopg.Connection, precision: int, scale: int, data: st.DataObject
) -> None:
    values = data.draw(st.lists(decimals(precision, scale), min_size=1))
    of = one(f"{{name: n, type: number, precision: {precision}, scale: {scale}}}")
    texts = pa.RecordBatch.from_pydict({"n": [format(v, "f") for v in values]})
    typed, good, _ = Validator(of, {"n": "n"})(texts)
    assert len(good) == len(values)
    conn.execute(f"CREATE TEMP TABLE one (n numeric({precision}, {scale}), r serial)".encode())
    try:
        encoder = copy_rows.copy_encoder(typed.schema, of)
        with conn.cursor().copy("COPY one (n) FROM STDIN (FORMAT BINARY)") as out:
            out.write(encoder.write_header() + encoder.write_batch(typed) + encoder.finish())
        found = conn.execute("SELECT n, n::text FROM one ORDER BY r").fetchall()
    finally:
        conn.execute("DROP TABLE one")
    assert [v for v, _ in found] == values
    # what is stored is what INSERT would store, down to the number of decimals shown
    assert [t for _, t in found] == [format(v if v else Decimal(0).scaleb(-scale), "f") for v in values]


@settings(deadline=None)
@given(value=st.dictionaries(text, json_values, max_size=4))
def test_json_that_passes_is_taken_by_postgresql(conn: psycopg.Connection, value: dict[str, Any]) -> None:
    written = json.dumps(value)
    (found,) = conn.execute("SELECT %s::jsonb::text", (written,)).fetchone() or ()
    assert json.loads(found) == value


def test_limits_of_json_are_inside_those_of_postgresql(conn: psycopg.Connection) -> None:
    """The deepest nesting and the longest numbers that validation accepts."""
    for cell in [
        '{"a":' * 900 + "1" + "}" * 900,
        '{"a": 1e9999}',
        '{"a": 1e-9999}',
        f'{{"a": 0.{"1" * 5990}e-9999}}',
    ]:
        typed, good, failures = Validator(one("{name: o, type: object}"), {"o": "o"})(
            pa.RecordBatch.from_pydict({"o": [cell]})
        )
        assert len(good) == 1, failures
        copy(conn, spec(), typed, [None])
