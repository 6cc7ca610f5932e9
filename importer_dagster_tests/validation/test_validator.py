"""Batches of text into good rows and failures: every failing cell is reported, and no failing row is good."""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.errors import SchemaErrors

from importer_dagster.errors import SpecError
from importer_dagster.model import Failure
from importer_dagster.spec.loading import parse_spec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import checks
from importer_dagster.validation.faults import fault_messages
from importer_dagster.validation.parse import parse
from importer_dagster.validation.schemas import arrow_schema, pandera_schema
from importer_dagster.validation.validator import Validator

Columns = dict[str, list[str | None]]


def spec(*fields: str, **more: Any) -> TableSpec:
    inside = more.pop("schema", "")
    head = "".join(f"{k}: {v}\n" for k, v in more.items())
    listed = "".join(f"    - {f}\n" for f in fields)
    return parse_spec(f"{head}schema:\n  fields:\n{listed}{inside}", "t.yaml")


def validate(of: TableSpec, columns: Columns) -> tuple[pa.RecordBatch, list[int], list[dict[str, Any]]]:
    batch = pa.RecordBatch.from_pydict({k: pa.array(v, pa.string()) for k, v in columns.items()})
    sources = {f.name: f.name if f.name in columns else None for f in of.fields}
    typed, good, failures = Validator(of, sources)(batch)
    assert typed.schema == arrow_schema(of)
    assert good.dtype == "int64"
    assert len(typed) == len(good)
    cells = [cell for failure in failures for cell in cells_of(failure)]
    bad = {cell["index"] for cell in cells}
    assert sorted({*good.tolist(), *bad}) == list(range(len(batch)))
    assert not {*good.tolist()} & bad
    return typed, good.tolist(), sorted(cells, key=lambda cell: cell["index"])


def cells_of(failure: Failure) -> list[dict[str, Any]]:
    messages = fault_messages(failure.values, failure.words).to_pylist()
    rows = zip(failure.indexes.tolist(), failure.values.to_pylist(), messages, strict=True)
    return [
        {"index": i, "column_name": failure.column, "value": value, "rule": failure.rule, "message": message}
        for i, value, message in rows
    ]


def failed(of: TableSpec, columns: Columns) -> list[tuple[Any, ...]]:
    return [tuple(f.values()) for f in validate(of, columns)[2]]


# --- constraints, each with each type that it goes with --------------------------------------


@pytest.mark.parametrize(
    ("field", "good", "bad", "rule", "message"),
    [
        ("constraints: {enum: [M, F]}", ["M", "F"], ["m", "", "MF"], "enum", "'{}' is not one of M, F"),
        ("type: integer, constraints: {enum: [1, 2]}", ["1", "02", "+2"], ["3"], "enum", "'{}' is not one of 1, 2"),
        ("type: number, precision: 5, scale: 2, constraints: {enum: ['1.5']}", ["1.5", "1.50"], ["1.51"], "enum", "'{}' is not one of 1.5"),
        ("type: number, format: double, constraints: {enum: ['1.5']}", ["1.5", "15e-1"], ["1.51", "nan"], "enum", "'{}' is not one of 1.5"),
        ("type: boolean, constraints: {enum: ['true']}", ["true", "1"], ["0"], "enum", "'{}' is not one of true"),
        ("type: date, constraints: {enum: ['2024-01-02']}", ["2024-01-02"], ["2024-01-03"], "enum", "'{}' is not one of 2024-01-02"),
        ("type: time, constraints: {enum: ['10:00']}", ["10:00", "10:00:00"], ["10:01"], "enum", "'{}' is not one of 10:00"),
        ("type: datetime, timezone: UTC, constraints: {enum: ['2024-01-02']}", ["2024-01-02 00:00"], ["2024-01-03"], "enum", "'{}' is not one of 2024-01-02"),
        ("format: uuid, constraints: {enum: ['00000000-0000-0000-0000-000000000001']}", ["{00000000-0000-0000-0000-000000000001}"], ["00000000-0000-0000-0000-000000000002"], "enum", "'{}' is not one of 00000000-0000-0000-0000-000000000001"),
        ("constraints: {pattern: '[A-Z]{2}|x'}", ["AB", "x"], ["ABC", "AB\n", "", "ax"], "pattern", "'{}' does not match the pattern [A-Z]{{2}}|x"),
        ("constraints: {pattern: '^[A-Z]{3}$'}", ["ABC"], ["AB", "ABCD", "ABC\n", "AbC", "ABÉ"], "pattern", "'{}' does not match the pattern ^[A-Z]{{3}}$"),
        ("type: integer, constraints: {minimum: 5}", ["5", "6"], ["4", "-9"], "minimum", "'{}' is less than 5"),
        ("type: integer, constraints: {maximum: -5}", ["-5"], ["-4"], "maximum", "'{}' is greater than -5"),
        ("type: number, precision: 9, scale: 2, decimalChar: ',', constraints: {minimum: '0,5'}", ["0,5", "1"], ["0,49"], "minimum", "'{}' is less than 0,5"),
        ("type: number, precision: 38, scale: 18, constraints: {maximum: '99999999999999999999.999999999999999998'}", ["99999999999999999999.999999999999999998"], ["99999999999999999999.999999999999999999"], "maximum", "'{}' is greater than 99999999999999999999.999999999999999998"),
        ("type: number, format: double, constraints: {minimum: 0.1}", ["0.1", "inf"], ["0.09", "-inf", "nan"], "minimum", "'{}' is less than 0.1"),
        ("type: date, format: '%d.%m.%Y', constraints: {minimum: 01.02.2024}", ["01.02.2024"], ["31.01.2024"], "minimum", "'{}' is less than 01.02.2024"),
        ("type: datetime, constraints: {maximum: 2024-01-01 12:00}", ["2024-01-01 12:00:00"], ["2024-01-01 12:00:00.000001"], "maximum", "'{}' is greater than 2024-01-01 12:00"),
        ("type: datetime, timezone: Europe/Berlin, constraints: {minimum: 2024-01-01 12:00}", ["2024-01-01 11:00Z"], ["2024-01-01 11:59"], "minimum", "'{}' is less than 2024-01-01 12:00"),
        ("type: time, constraints: {maximum: '18:00'}", ["18:00"], ["18:00:00.1"], "maximum", "'{}' is greater than 18:00"),
        ("constraints: {minLength: 2}", ["ab", "😀😀"], ["", "a", "😀"], "minLength", "'{}' is shorter than 2 characters"),
        ("constraints: {maxLength: 2}", ["", "ab", "😀😀"], ["abc"], "maxLength", "'{}' is longer than 2 characters"),
        ("format: email", ["a@b.de"], ["a@b", "a b@c.de", "@b.de", "a@b..de"], "email", "'{}' is no e-mail address"),
        ("format: uri", ["https://a.b/c?d=1", "urn:x:y"], ["a.b/c", "http:"], "uri", "'{}' is no URI"),
        ("format: binary", ["", "QUJD", "QUI=", "QQ=="], ["QUJ", "QQ=", "Q Q="], "base64", "'{}' is no base64"),
        ("checks: iso_country", ["DE", "US"], ["XX", "de", ""], "iso_country", "'{}' is no ISO 3166-1 country code"),
        ("checks: iso_currency", ["EUR"], ["eur", "EURO"], "iso_currency", "'{}' is not written like an ISO 4217 currency code"),
        ("checks: luhn", ["4539578763621486", "79927398713", "00"], ["79927398710", "4", "x", "", "1" * 20], "luhn", "'{}' has a wrong check digit"),
        ("checks: no_outer_blanks", ["", "a b"], [" a", "a\t", " "], "no_outer_blanks", "'{}' starts or ends with a blank"),
        ("checks: not_blank", ["a", " a"], ["", " \t"], "not_blank", "'{}' is blank"),
    ],
)  # fmt: skip
def test_constraint(field: str, good: list[str], bad: list[str], rule: str, message: str) -> None:
    of = spec(f"{{name: a, {field}}}", schema="  missingValues: [n/a]\n")
    cells = [*good, None, *bad, None]
    _, passed, failures = validate(of, {"a": cells})
    first = len(good) + 1
    assert passed == [*range(first), len(cells) - 1]
    assert failures == [
        {"index": first + i, "column_name": "a", "value": v, "rule": rule, "message": message.format(v)}
        for i, v in enumerate(bad)
    ]


TYPES = [
    "type: string", "type: string, format: uuid", "type: integer", "type: number, precision: 9, scale: 2",
    "type: number, format: double", "type: boolean", "type: date", "type: datetime", "type: datetime, timezone: UTC",
    "type: time", "type: object",
]  # fmt: skip


@pytest.mark.parametrize("type", TYPES)
def test_required(type: str) -> None:
    of = spec(
        f"{{name: a, {type}, constraints: {{required: true}}}}",
        "{name: b}",
        schema="  missingValues: ['', n/a]\n",
    )
    missing = [(0, "a", None, "required", "is required, but missing")]
    if type != "type: string":  # where n/a in quotes is a text
        missing.append((1, "a", "n/a", "required", "'n/a' is required, but missing"))
    assert failed(of, {"a": [None, "n/a"], "b": ["x", "x"]}) == missing


@pytest.mark.parametrize("type", TYPES)
def test_a_column_that_the_file_lacks_is_null(type: str) -> None:
    of = spec("{name: a}", f"{{name: b, {type}}}")
    typed, good, _ = validate(of, {"a": ["x", "y"]})
    assert good == [0, 1]
    assert typed.column("b").null_count == 2


@pytest.mark.parametrize("type", TYPES[1:])
def test_what_cannot_be_read_is_reported_once_and_not_as_missing(type: str) -> None:
    of = spec(f"{{name: a, {type}, constraints: {{required: true}}}}", "{name: b}")
    assert [f[:4] for f in failed(of, {"a": ["~", None, "~"], "b": ["x", "x", "x"]})] == [
        (0, "a", "~", "type"),
        (1, "a", None, "required"),
        (2, "a", "~", "type"),
    ]


def test_a_missing_value_is_reported_beside_one_that_cannot_be_read() -> None:
    """The NULL in place of an unreadable cell is no missing value; a missing value beside it is reported."""
    of = spec("{name: a, type: integer, constraints: {required: true, maximum: 5}}")
    assert [f[:4] for f in failed(of, {"a": ["9", "x", None, "1"]})] == [
        (0, "a", "9", "maximum"),
        (1, "a", "x", "type"),
        (2, "a", None, "required"),
    ]


def test_every_failing_cell_of_a_row_is_reported() -> None:
    of = spec(
        "{name: a, type: integer, constraints: {required: true, minimum: 1, enum: [1, 2, 3]}}",
        "{name: b, type: date}",
        "{name: c, constraints: {required: true}}",
    )
    columns: Columns = {"a": ["1", "-1", "x"], "b": ["2024-01-01", "2024-02-30", None], "c": ["", "v", None]}
    typed, good, failures = validate(of, columns)
    assert good == [0]
    assert typed.to_pylist()[0]["c"] == ""
    assert [(f["index"], f["column_name"], f["rule"]) for f in failures] == [
        (1, "b", "type"),
        (1, "a", "enum"),
        (1, "a", "minimum"),
        (2, "a", "type"),
        (2, "c", "required"),
    ]


def test_an_empty_text_is_a_text_and_no_number() -> None:
    of = spec("{name: s, type: string}", "{name: i, type: integer}")
    typed, _, _ = validate(of, {"s": ["", None], "i": ["", None]})
    assert typed.to_pydict() == {"s": ["", None], "i": [None, None]}


def test_missing_values_of_one_field() -> None:
    of = spec(
        "{name: a, missingValues: ['-', '']}", "{name: b, type: integer, missingValues: ['-1']}", "{name: c}"
    )
    typed, good, failures = validate(of, {"a": ["-", "x", ""], "b": ["-1", "1", ""], "c": ["-", "-1", "NA"]})
    assert good == [0, 1]
    assert typed.to_pydict() == {"a": [None, "x"], "b": [None, 1], "c": ["-", "-1"]}
    assert failures[0]["message"] == "'' is no integer"


def test_long_names_are_named_as_in_the_table() -> None:
    of = spec(f"{{name: {'n' * 80}, type: integer}}")
    (failure,) = validate(of, {"n" * 80: ["x"]})[2]
    assert failure["column_name"] == of.fields[0].column != of.fields[0].name


def test_an_empty_batch() -> None:
    typed, good, failures = validate(spec("{name: a, type: integer, constraints: {minimum: 1}}"), {"a": []})
    assert (len(typed), good, failures) == (0, [], [])


def test_a_slice_of_a_batch() -> None:
    of = spec("{name: a, type: integer, constraints: {maximum: 5}}", "{name: u, format: uuid}")
    u = "00000000-0000-0000-0000-00000000000"
    batch = pa.RecordBatch.from_pydict({"a": ["x", "1", "9", "y"], "u": ["", u + "1", u + "2", ""]}).slice(
        1, 2
    )
    typed, good, failures = Validator(of, {"a": "a", "u": "u"})(batch)
    assert typed.to_pydict() == {"a": [1], "u": [b"\0" * 15 + b"\1"]}
    assert good.tolist() == [0]
    assert [(c["index"], c["value"]) for f in failures for c in cells_of(f)] == [(1, "9")]


# --- checks --------------------------------------------------------------------------------------


def test_a_check_over_rows_rejects_the_rows() -> None:
    of = spec("{name: a, type: date}", "{name: b, type: date}", checks="['not_after(a, b)']")
    columns: Columns = {
        "a": ["2024-01-01", "2024-01-02", "2024-01-03", None, "x"],
        "b": ["2024-01-01", "2024-01-01", None, "2024-01-01", "2024-01-01"],
    }
    _, good, failures = validate(of, columns)
    assert good == [0, 2, 3]
    assert failures[0] == {
        "index": 1, "column_name": None, "value": None, "rule": "not_after(a, b)", "message": "a lies after b",
    }  # fmt: skip
    assert [(f["index"], f["rule"]) for f in failures[1:]] == [(4, "type")]


OWN = '''
"""Checks as people write them."""
import pandera.pandas as pandera
from importer_dagster.validation.checks import named_check

@named_check("own_multiple")
def own_multiple(step):
    n = int(step)
    return pandera.Check(lambda s: s // n * n == s, error=f"is no multiple of {step}")

@named_check("own_elementwise")
def own_elementwise():
    return pandera.Check(lambda v: v != 3, element_wise=True)

@named_check("own_all_or_nothing")
def own_all_or_nothing():
    return pandera.Check(lambda s: bool((s < 5).all()), error="is in a bad batch")

@named_check("own_broken")
def own_broken():
    return pandera.Check(lambda s: 1 / (0 if len(s) else 1) > 0)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_checks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("IMPORTER_CHECKS", "own_checks")
    checks._load_own_checks.cache_clear()
    yield
    checks._load_own_checks.cache_clear()
    sys.modules.pop("own_checks", None)
    for name in [n for n in checks._registry if n.startswith("own_")]:
        del checks._registry[name]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("own_multiple(2)", [(1, "'3' is no multiple of 2"), (4, "'5' is no multiple of 2")]),
        ("own_elementwise", [(1, "'3' fails the check own_elementwise")]),
        ("own_all_or_nothing", [(i, f"'{v}' is in a bad batch") for i, v in enumerate("23_45") if v != "_"]),
    ],
)
def test_own_checks(check: str, expected: list[tuple[int, str]]) -> None:
    of = spec(f"{{name: a, type: integer, checks: ['{check}']}}")
    found = [
        (f["index"], f["message"]) for f in validate(of, {"a": ["2", "3", None, "4", "5"]})[2] if f["value"]
    ]
    assert found == expected
    assert check in [f["rule"] for f in validate(of, {"a": ["5", "3"]})[2]]


@pytest.mark.usefixtures("own")
def test_a_check_that_breaks_is_no_fault_of_the_data() -> None:
    with pytest.raises(SpecError, match="'own_broken' of t stopped with ZeroDivisionError"):
        validate(spec("{name: a, type: integer, checks: [own_broken]}"), {"a": ["1"]})


def test_a_module_of_checks_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORTER_CHECKS", "no_such_module_of_checks")
    checks._load_own_checks.cache_clear()
    try:
        with pytest.raises(SpecError, match="no_such_module_of_checks"):
            checks.check_names()
    finally:
        checks._load_own_checks.cache_clear()


def test_every_shipped_check_has_a_description() -> None:
    assert {"email", "luhn", "not_after"} <= set(checks.check_names())
    # other tests of the same process may have registered checks of their own
    shipped = [f for f in checks._registry.values() if f.__module__ == checks.__name__]
    assert len(shipped) > 5
    for factory in shipped:
        assert factory.__doc__


def test_the_environment_cannot_switch_validation_off() -> None:
    of = spec("{name: a, type: integer, constraints: {maximum: 1}}")
    with pandera.config.config_context(validation_enabled=False):
        assert [f["rule"] for f in validate(of, {"a": ["2"]})[2]] == ["maximum"]


# --- against a plain model -----------------------------------------------------------------------

MODEL = spec(
    "{name: a, type: integer, constraints: {required: true, minimum: 0, maximum: 100}}",
    "{name: b, constraints: {enum: [x, y], maxLength: 1}}",
    "{name: c, type: number, precision: 4, scale: 1, constraints: {minimum: 0}}",
)


def plain(row: tuple[str | None, str | None, str | None]) -> set[tuple[str, str]]:
    """(column, rule) of all that is wrong with a row, cell by cell."""
    a, b, c = row
    wrong = set()
    if a is None or a == "":
        wrong.add(("a", "required"))
    elif not a.lstrip("-").isdecimal():
        wrong.add(("a", "type"))
    else:
        wrong |= {("a", "minimum")} if int(a) < 0 else {("a", "maximum")} if int(a) > 100 else set()
    if b is not None:
        wrong |= ({("b", "enum")} if b not in ("x", "y") else set()) | (
            {("b", "maxLength")} if len(b) > 1 else set()
        )
    if c is not None and c != "":
        wrong |= {("c", "type")} if c in ("1.23", "?") else {("c", "minimum")} if c.startswith("-") else set()
    return wrong


cells = (
    st.none() | st.sampled_from(["", "x1", "5", "-5", "101", "0"]),
    st.none() | st.sampled_from(["", "x", "y", "z", "xy"]),
    st.none() | st.sampled_from(["", "1.5", "1.23", "-1", "?", "1.50"]),
)


@settings(deadline=None)
@given(st.lists(st.tuples(*cells), max_size=12))
def test_failures_are_those_of_a_plain_model(rows: list[tuple[str | None, str | None, str | None]]) -> None:
    columns: Columns = {name: [row[i] for row in rows] for i, name in enumerate("abc")}
    _, good, failures = validate(MODEL, columns)
    found: dict[int, set[tuple[str, str]]] = {i: set() for i in range(len(rows))}
    for f in failures:
        found[f["index"]].add((f["column_name"], f["rule"]))
    assert found == {i: plain(row) for i, row in enumerate(rows)}
    assert len(failures) == sum(len(v) for v in found.values())
    assert good == [i for i, v in found.items() if not v]


def test_what_is_judged_at_once_is_what_pandera_finds_column_by_column() -> None:
    of = spec(
        "{name: n, type: integer, constraints: {required: true, minimum: 2, maximum: 5}}",
        "{name: t, constraints: {maxLength: 2, enum: [ab, abc]}, checks: not_blank}",
        "{name: d, type: date, constraints: {minimum: 2024-01-01}}",
        "{name: e, type: date}",
        checks='["not_after(d, e)"]',
    )
    columns: Columns = {
        "n": ["1", "2", None, "6", "5", "3"],
        "t": ["ab", "", "abc", None, "x", " "],
        "d": ["2023-12-31", "2024-01-01", None, "2024-01-02", "2024-02-01", "2024-01-01"],
        "e": ["2023-12-31", "2023-01-01", "2024-01-01", None, "2024-01-31", "2024-01-01"],
    }
    found = {(f["column_name"], f["rule"], f["index"]) for f in validate(of, columns)[2]}
    batch = pa.RecordBatch.from_pydict({k: pa.array(v, pa.string()) for k, v in columns.items()})
    arrays = [parse(batch.column(f.name), f, ())[0] for f in of.fields]
    frame = pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(of)).to_pandas(types_mapper=pd.ArrowDtype)
    with pytest.raises(SchemaErrors) as caught:
        pandera_schema(of).validate(frame, lazy=True)
    by_pandera = {
        (error.schema.name if isinstance(error.schema, pandera.Column) else None, error.check.name, index)
        for error in caught.value.schema_errors
        for index in error.check_output.index[~error.check_output]
    }
    assert found == by_pandera
    assert len(found) > 8
