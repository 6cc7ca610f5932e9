"""The shipped specs, each of them, and the errors for a wrong spec.

What does not belong here: how a spec becomes tables and checks (``validation/test_schemas.py``).
The real rows are judged by Python's csv module, decimal and datetime alone, so
that a fault of the importer cannot hide a fault of a spec.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from importer_dagster.errors import SpecError, UnknownTypeError
from importer_dagster.settings import SHIPPED_SPECS, Settings
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.loading import load_specs, parse_spec, spec_files
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.checks import check_names

GROUPS = {"people", "humanresources", "production", "purchasing", "sales"}
REAL = Path(__file__).parents[3] / "shared" / "data" / "adventureworks"
REAL_FILES = sorted(REAL.glob("[a-z]*.csv"))
SPECS = load_specs(SHIPPED_SPECS)

each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))

# --- reading one cell, by the standard library alone ------------------------------


@lru_cache(maxsize=1 << 16)
def _instant(text: str, pattern: str) -> datetime:
    return datetime.strptime(text, pattern)


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text) or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text!r} is no 64-bit integer")
    return int(text)


def _number(field: FieldSpec, text: str) -> Decimal:
    value = Decimal(text)
    scale = max(-int(value.as_tuple().exponent), 0)
    if not value.is_finite() or scale > field.scale or abs(value) >= 10 ** (field.precision - field.scale):
        raise ValueError(f"{text!r} does not fit numeric({field.precision}, {field.scale})")
    return value


def _boolean(field: FieldSpec, text: str) -> bool:
    if text not in (*field.trueValues, *field.falseValues):
        raise ValueError(f"{text!r} is neither true nor false")
    return text in field.trueValues


def _string(field: FieldSpec, text: str) -> str:
    if field.format == "uuid" and str(UUID(text)) != text.lower():
        raise ValueError(f"{text!r} is no UUID")
    return text


def cell_reader(field: FieldSpec) -> Callable[[str], Any]:
    """A function from text to the field's value; it raises ValueError or InvalidOperation."""
    readers: dict[str, Callable[[str], Any]] = {
        "string": partial(_string, field),
        "integer": _integer,
        "number": partial(_number, field),
        "boolean": partial(_boolean, field),
        "date": date.fromisoformat,
        "time": time.fromisoformat,
        "datetime": lambda text: _instant(text, field.format),
    }
    return readers[field.type]


def faults(field: FieldSpec, missing: tuple[str, ...], texts: list[str]) -> Iterator[str]:
    """What is wrong with the cells of one column."""
    rules, read = field.constraints, cell_reader(field)
    low = read(rules.minimum) if rules.minimum is not None else None
    high = read(rules.maximum) if rules.maximum is not None else None
    seen: set[str] = set()
    for row, text in enumerate(texts, 1):
        where = f"row {row}, {field.name}: {text[:40]!r}"
        if text in missing:
            if rules.required:
                yield f"{where} is missing"
            continue
        try:
            value = read(text)
        except (ValueError, InvalidOperation) as error:
            yield f"{where}: {error}"
            continue
        if (low is not None and value < low) or (high is not None and value > high):
            yield f"{where} is out of range"
        if rules.enum is not None and text not in rules.enum:
            yield f"{where} is not in {rules.enum}"
        if rules.pattern is not None and not re.fullmatch(rules.pattern, text):
            yield f"{where} does not match {rules.pattern}"
        if not (rules.minLength or 0) <= len(text) <= (rules.maxLength or len(text)):
            yield f"{where} has {len(text)} characters"
        if rules.unique and text in seen:
            yield f"{where} is not unique"
        seen.add(text)


def faults_of_rows(spec: TableSpec, rows: list[dict[str, str]]) -> list[str]:
    """What is wrong with any cell, and which keys occur again."""
    found = [
        fault
        for field in spec.fields
        for fault in faults(field, spec.missing_values(field), [row[field.name] for row in rows])
    ]
    keys = [tuple(row[k] for k in spec.tableschema.primaryKey) for row in rows]
    if spec.tableschema.primaryKey and len(set(keys)) < len(keys):
        found.append(f"{len(keys) - len(set(keys))} key occurs again")
    if "startdate_before_enddate" in spec.checks:
        found += [
            f"row {n}: enddate lies before startdate"
            for n, row in enumerate(rows, 1)
            if row["enddate"] and row["enddate"] < row["startdate"]  # ISO 8601 sorts as text
        ]
    return found


def test_the_checker_itself_finds_each_kind_of_fault() -> None:
    spec = parse_spec(
        """
        schema:
          fields:
            - {name: k, type: integer, constraints: {minimum: 1, maximum: 9}}
            - {name: n, type: number, precision: 4, scale: 2}
            - {name: s, constraints: {required: true, pattern: "[A-Z]+", maxLength: 2}}
            - {name: e, constraints: {enum: [a], unique: true}}
            - {name: b, type: boolean}
            - {name: d, type: date}
            - {name: u, format: uuid}
          primaryKey: k
        """,
        "t.yaml",
    )
    uuid = "123e4567-e89b-12d3-a456-426614174000"
    good = {"k": "1", "n": "99.99", "s": "AB", "e": "a", "b": "true", "d": "2024-02-29", "u": uuid}
    assert faults_of_rows(spec, [good]) == []
    bad = {"k": ["0", "x"], "n": ["100", "1.234", "NaN", "x"], "s": ["", "ab", "ABC"], "e": ["b"],
           "b": ["yes"], "d": ["2023-02-29"], "u": ["x"]}  # fmt: skip
    for name, texts in bad.items():
        for text in texts:
            assert len(faults_of_rows(spec, [{**good, name: text}])) == 1, (name, text)
    assert len(faults_of_rows(spec, [good, good])) == 2  # e is unique, k is the key


# --- every shipped spec -------------------------------------------------------------


def test_the_shipped_types_are_many_and_in_their_groups() -> None:
    assert len(SPECS) >= 57
    assert {s.group for s in SPECS.values()} == GROUPS
    for file in spec_files(SHIPPED_SPECS):
        assert SPECS[file.stem].group == file.parent.name


def test_all_dispositions_occur() -> None:
    kinds = {s.write_disposition for s in SPECS.values()}
    assert kinds == {"append", "replace", "merge"}
    for name, spec in SPECS.items():
        if "history" in name:
            assert spec.write_disposition == "append"


@each_spec
def test_it_has_title_description_owner_and_time(spec: TableSpec) -> None:
    assert spec.title and spec.title[0].isupper()
    assert spec.description and spec.description.endswith(".")
    assert spec.owner and re.fullmatch(r"team:[a-z]+", spec.owner)
    assert spec.expected_by
    for field in spec.fields:
        assert field.description is None or field.description.endswith(".")


@each_spec
def test_its_references_exist(spec: TableSpec) -> None:
    for key in spec.tableschema.foreignKeys:
        target = SPECS[key.reference.resource]
        for here, there in zip(key.fields, key.reference.fields, strict=True):
            assert spec.field(here).type == target.field(there).type
        assert set(key.reference.fields) <= set(target.tableschema.primaryKey)


@each_spec
def test_its_constraints_are_values_of_their_type(spec: TableSpec) -> None:
    for field in spec.fields:
        rules, read = field.constraints, cell_reader(field)
        low, high = (read(t) if t is not None else None for t in (rules.minimum, rules.maximum))
        assert low is None or high is None or low <= high
        for text in rules.enum or ():
            assert not list(faults(field, (), [text]))
        if rules.pattern:
            assert rules.pattern.startswith("^") and rules.pattern.endswith("$")
            pc.match_substring_regex(pa.array(["x"]), rules.pattern)  # RE2 knows less than Python
        if field.type == "number" and field.format == "default":
            # An explicit precision: a column of numeric(38, 18) would be a guess.
            assert {"precision", "scale"} <= field.model_fields_set


@each_spec
def test_its_checks_are_registered(spec: TableSpec) -> None:
    named = {*spec.checks, *(c for f in spec.fields for c in f.checks)}
    assert named <= set(check_names())


@each_spec
def test_one_bad_record_does_not_refuse_a_file(spec: TableSpec) -> None:
    limit = spec.reject_limit
    assert limit.exceeded(1, 29) is None
    assert limit.exceeded(100, 1000) is not None
    assert limit.exceeded(1001, 10_000_000) is not None


def test_the_default_path_pattern_is_spelled_out_only_as_itself() -> None:
    default = Settings.from_env({}).default_path
    for spec in SPECS.values():
        assert spec.path in (None, default.replace("{type}", spec.name))


# --- the real files -------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.skipif(not REAL_FILES, reason="../shared/data is absent")
def test_every_real_file_has_a_spec() -> None:
    assert len(REAL_FILES) == 57
    assert {f.stem for f in REAL_FILES} <= set(SPECS)


@pytest.mark.shared
@pytest.mark.parametrize(
    "file",
    REAL_FILES or [pytest.param(None, marks=pytest.mark.skip(reason="../shared/data is absent"))],
    ids=lambda f: f.stem if f else "absent",
)
def test_real_rows_satisfy_their_spec(file: Path) -> None:
    csv.field_size_limit(1 << 24)
    spec = SPECS[file.stem]
    with file.open(encoding="utf-8", newline="") as text:
        reader = csv.DictReader(text, restkey="_too_long")
        rows = list(reader)
    expected = ["1 key occurs again"] if file.stem == "productdocument" else []
    found = (
        faults_of_rows(spec, rows) if all(len(r) == len(spec.fields) for r in rows) else ["a damaged record"]
    )
    assert (list(reader.fieldnames or ()), found) == ([f.name for f in spec.fields], expected)


# --- a spec that is wrong ---------------------------------------------------------------

SAMPLE = """\
name: salestaxrate
group: sales
title: Sales tax rates
description: Tax rate by state or province.
path: "{date}/{tenant}/salestaxrate*.csv"    # else the project's default pattern
encoding: utf-8
dialect: {delimiter: ",", quoteChar: '"', header: true}
schema:
  fields:
    - {name: salestaxrateid, type: integer, constraints: {required: true}}
    - {name: taxrate, type: number, precision: 10, scale: 4, constraints: {minimum: 0}}
    - {name: name, type: string, aliases: [tax_name]}     # other headers it may come under
    - {name: modifieddate, type: datetime, format: "%Y-%m-%d %H:%M:%S.%f"}
  primaryKey: [salestaxrateid]
  missingValues: [""]
write_disposition: merge
schema_contract: {added: rescue, removed: freeze}
reject_limit: {share: 0.05, count: 1000}
"""


def error_of(text: str, file: str = "salestaxrate.yaml") -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, file)
    return caught.value


def test_the_documented_sample_loads(tmp_path: Path) -> None:
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "deep" / "down" / "salestaxrate.yaml").write_text(SAMPLE, encoding="utf-8")
    (tmp_path / ".hidden.yaml").write_text("no: spec", encoding="utf-8")
    specs = load_specs(tmp_path)
    assert list(specs) == ["salestaxrate"]
    spec = specs["salestaxrate"]
    assert [f.name for f in spec.fields] == ["salestaxrateid", "taxrate", "name", "modifieddate"]
    assert spec.field("name").aliases == ("tax_name",)
    assert spec.field("salestaxrateid").required
    assert (spec.field("taxrate").precision, spec.field("taxrate").scale) == (10, 4)
    assert spec.field("taxrate").constraints.minimum == "0"
    assert spec.primary_key == ("salestaxrateid",)
    assert (spec.write_disposition, spec.schema_contract.removed) == ("merge", "freeze")
    assert (spec.reject_limit.share, spec.reject_limit.count) == (0.05, 1000)


def test_the_shipped_type_agrees_with_the_sample() -> None:
    sample, shipped = parse_spec(SAMPLE, "salestaxrate.yaml"), SPECS["salestaxrate"]
    for word in ("group", "title", "description", "path", "encoding", "dialect", "write_disposition",
                 "schema_contract", "reject_limit", "primary_key"):  # fmt: skip
        assert getattr(shipped, word) == getattr(sample, word), word
    for field in sample.fields:
        mine = shipped.field(field.name)
        for word in ("type", "format", "precision", "scale", "aliases"):
            assert getattr(mine, word) == getattr(field, word), (field.name, word)


@pytest.mark.parametrize(
    ("old", "new", "key", "line", "near"),
    [
        ("group: sales", "grop: sales", "grop", 2, "'group'"),
        ("delimiter:", "delimeter:", "dialect.delimeter", 7, "'delimiter'"),
        ("{minimum: 0}", "{minimun: 0}", "schema.fields.1.constraints.minimun", 11, "'minimum'"),
        ("aliases:", "alias:", "schema.fields.2.alias", 12, "'aliases'"),
        ("primaryKey:", "primarykey:", "schema.primarykey", 14, "'primaryKey'"),
        ("{added:", "{add:", "schema_contract.add", 17, "'added'"),
    ],
)
def test_unknown_key_names_file_line_and_nearest(old: str, new: str, key: str, line: int, near: str) -> None:
    # merge needs a primaryKey, which the misspelt one is not; append keeps the error single
    text = SAMPLE.replace(old, new).replace("write_disposition: merge", "write_disposition: append")
    error = error_of(text)
    assert (error.file, error.line, error.key) == ("salestaxrate.yaml", line, key)
    assert str(error).startswith(f"salestaxrate.yaml:{line}: unknown key {key!r}")
    assert f"did you mean {near}?" in str(error)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("gate: {row: {}}", "unknown key 'gate.row'; did you mean 'rows'?"),
        ("gate: {rows: {ovr: 3}}", "unknown key 'gate.rows.ovr'; did you mean 'over'?"),
        ("gate: {unique: [{feilds: a}]}", "unknown key 'gate.unique.0.feilds'; did you mean 'fields'?"),
        ("complete: {manfest: {}}", "unknown key 'complete.manfest'; did you mean 'manifest'?"),
        ("complete: {manifest: {pth: x}}", "unknown key 'complete.manifest.pth'; did you mean 'path'?"),
        ("scd2: {absnt: close}", "unknown key 'scd2.absnt'; did you mean 'absent'?"),
        ("trailer: {rws: 1}", "unknown key 'trailer.rws'; did you mean 'rows'?"),
        (
            "versions: [{from: 2024-01-01, fields: [{name: a, alias: b}]}]",
            "unknown key 'versions.0.fields.0.alias'; did you mean 'aliases'?",
        ),
    ],
)
def test_an_unknown_key_is_compared_with_the_keys_of_its_own_part(written: str, said: str) -> None:
    """The error is about the misspelt key, not about the key that is missing because of it."""
    with pytest.raises(SpecError) as caught:
        parse_spec(f"schema: {{fields: [{{name: a, type: integer}}]}}\n{written}\n", "t.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("type: integer", "type: int", 10, "'integer'"),
        ("type: integer", "type: integer, format: uuid", 10, "format 'uuid' does not go with type integer"),
        ("precision: 10", "precision: ten", 11, "precision"),
        ("scale: 4", "scale: 12", 11, "scale 12 is greater than precision 10"),
        ("{minimum: 0}", "{required: perhaps}", 11, "required"),
        ("minimum: 0", "pattern: '('", 11, "no regular expression"),
        ("share: 0.05", "share: 5", 18, "less than or equal to 1"),
        (
            "write_disposition: merge",
            "write_disposition: upsert",
            16,
            "'append', 'replace', 'merge' or 'scd2'",
        ),
        ("[salestaxrateid]", "[salestaxratid]", 8, "did you mean 'salestaxrateid'?"),
        ("encoding: utf-8", "encoding: utf-9", 6, "not known to Python"),
        ('delimiter: ","', 'delimiter: ""', 7, "one character"),
        ("name: taxrate", "name: name", 9, "two fields would be the column 'name'"),
        ("aliases: [tax_name]", "aliases: [taxrate]", 8, "'taxrate' would mean two fields"),
        ("name: taxrate", "name: _row", 11, "'_row' is the name of a column that the importer adds"),
    ],
)
def test_wrong_value_names_file_line_and_reason(old: str, new: str, line: int, words: str) -> None:
    error = error_of(SAMPLE.replace(old, new, 1))
    assert words in str(error)
    assert str(error).startswith("salestaxrate.yaml:")
    assert error.line == line


def test_merge_needs_a_key() -> None:
    error = error_of(SAMPLE.replace("  primaryKey: [salestaxrateid]\n", ""))
    assert "merge needs a primaryKey" in str(error)


def test_a_key_written_twice_is_refused() -> None:
    error = error_of(SAMPLE + "group: people\n")
    assert error.line == 19
    assert "'group' is here a second time" in str(error)


@pytest.mark.parametrize("text", ["", "- a list\n", "just text\n"])
def test_a_spec_is_a_mapping(text: str) -> None:
    assert "mapping" in str(error_of(text))


def test_broken_yaml_names_the_line() -> None:
    error = error_of(SAMPLE.replace("quoteChar: '\"',", "quoteChar: ',"))
    assert "not valid YAML" in str(error)
    assert error.line is not None and error.line >= 7


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    error = error_of(
        f"name: !!python/object/apply:pathlib.Path.touch [!!python/object:pathlib.Path [{mark}]]\n"
    )
    assert "not valid YAML" in str(error)
    assert not mark.exists()


def test_words_of_yaml_1_1_stay_text() -> None:
    """NO may be Norway, on and y codes, 12:30 a time; YAML 1.1 reads them as false, true and 750."""
    text = """
    expected_by: 12:30
    schema:
      fields:
        - {name: no, constraints: {enum: [NO, on, y, 1, true, 0.50]}}
      missingValues: [NO, 0]
    """
    assert yaml.safe_load("NO") is False  # what we guard against
    spec = parse_spec(text, "t.yaml")
    field = spec.field("no")
    assert spec.expected_by == "12:30"
    assert (field.constraints.enum or ())[:5] == ("NO", "on", "y", "1", "true")
    assert spec.missing_values(field) == ("NO", "0")


def test_name_must_be_the_stem() -> None:
    error = error_of(SAMPLE, "taxes.yaml")
    assert (error.line, error.key) == (1, "name")
    assert "'salestaxrate'" in str(error) and "'taxes'" in str(error)
    assert parse_spec(SAMPLE.replace("name: salestaxrate\n", "", 1), "taxes.yaml").name == "taxes"


@pytest.mark.parametrize("second", ["salestaxrate.yaml", "salestaxrate.yml", "SalesTaxRate.yaml"])
def test_two_files_of_one_name_are_refused(tmp_path: Path, second: str) -> None:
    for folder, name in (("a", "salestaxrate.yaml"), ("b", second)):
        (tmp_path / folder).mkdir()
        stem = name.rpartition(".")[0]
        (tmp_path / folder / name).write_text(SAMPLE.replace("name: salestaxrate", f"name: {stem}", 1))
    with pytest.raises(SpecError, match="already described in") as caught:
        load_specs(tmp_path)
    assert str(tmp_path / "a" / "salestaxrate.yaml") in str(caught.value)
    assert caught.value.file == str(tmp_path / "b" / second)


def test_a_missing_folder_names_the_setting(tmp_path: Path) -> None:
    settings = Settings.from_env({"IMPORTER_SPECS": str(tmp_path / "gone")})
    with pytest.raises(SpecError, match="IMPORTER_SPECS") as caught:
        load_specs(settings.specs)
    assert str(tmp_path / "gone") in str(caught.value)


def test_a_spec_that_is_no_utf8_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_bytes(b"title: \xff\n")
    with pytest.raises(SpecError, match=r"t\.yaml: cannot be read"):
        load_specs(tmp_path)


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(UnknownTypeError, match="did you mean 'customer'"):
        SPECS["custmer"]


def test_a_frictionless_resource_can_be_pasted_in() -> None:
    spec = parse_spec(
        """
        profile: tabular-data-resource
        licenses: [{name: CC0-1.0}]
        mediatype: text/csv
        schema:
          $schema: https://datapackage.org/profiles/2.0/tableschema.json
          fields: [{name: a, type: integer, rdfType: "https://schema.org/Integer", example: 1}]
          primaryKey: a
          foreignKeys: [{fields: a, reference: {resource: "", fields: a}}]
        """,
        "t.yaml",
    )
    assert spec.primary_key == ("a",)
    assert spec.field("a").required
    assert spec.tableschema.foreignKeys[0].reference.fields == ("a",)


def test_the_hash_follows_the_meaning_only() -> None:
    one = parse_spec(SAMPLE, "salestaxrate.yaml")
    assert one.hash == parse_spec("# a comment\n" + SAMPLE, "salestaxrate.yaml").hash
    assert one.hash != parse_spec(SAMPLE.replace("scale: 4", "scale: 2"), "salestaxrate.yaml").hash
