"""Specs exported to other formats, and made from Frictionless descriptors."""

import json

import psycopg
import pytest

from importer_dagster.errors import SpecError, UsageError
from importer_dagster.inference.infer import infer
from importer_dagster.settings import SHIPPED_SPECS
from importer_dagster.spec.export import export
from importer_dagster.spec.frictionless import from_frictionless
from importer_dagster.spec.loading import load_specs, parse_spec
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import make_spec

SPECS = load_specs(SHIPPED_SPECS)


def parsed(yaml: dict[str, str]) -> TableSpec:
    ((name, text),) = yaml.items()
    return parse_spec(text, f"{name}.yaml")


@pytest.mark.parametrize("name", sorted(SPECS))
def test_frictionless_and_back_is_the_same_spec(name: str) -> None:
    descriptor = json.loads(export(SPECS[name], "frictionless"))
    assert {"name", "path", "schema", "encoding", "dialect"} <= set(descriptor)
    assert all("type" in f for f in descriptor["schema"]["fields"])
    again = parsed(from_frictionless(descriptor))
    expected = SPECS[name].model_dump()
    assert {**again.model_dump(), "path": expected["path"]} == expected


def test_unusual_fields_survive_export_and_import() -> None:
    spec = make_spec(
        "hard",
        [
            {
                "name": "a b: #",
                "type": "number",
                "decimalChar": ",",
                "groupChar": ".",
                "precision": 9,
                "scale": 0,
            },
            {
                "name": "ü\u2028\x07",
                "title": 'say "hi"',
                "description": "two\nlines \\ | x",
                "missingValues": ["", "no"],
            },
            {"name": "on", "type": "boolean", "trueValues": ["yes", "1"], "falseValues": ["no", "0"]},
            {"name": "d", "type": "datetime", "format": "%d.%m.%Y %H:%M", "timezone": "Europe/Berlin"},
            {"name": "plain", "type": "datetime"},  # which the standard would take for UTC
            {"name": "some", "type": "date", "format": ["%d.%m.%Y", "default"]},
            {
                "name": "e",
                "constraints": {"enum": ["null", "~", "1", "true", "a, b", "😀"], "pattern": "[^\\s]+.*"},
            },
            {
                "name": "n",
                "type": "integer",
                "constraints": {"minimum": "-5", "maximum": "007"},
                "aliases": ["", "m"],
            },
        ],
        key=["n"],
        write_disposition="merge",
        dialect={"delimiter": "\t", "quoteChar": None, "headerRows": [2, 3]},
        schema_contract="freeze",
        path="{date}/{tenant}/x_*.txt",
    )
    given = json.loads(export(spec, "frictionless"))
    assert parsed(from_frictionless(given)) == spec
    assert [f.get("format") for f in given["schema"]["fields"] if f["name"] == "some"] == ["any"], (
        "a word of it"
    )


def test_a_bare_table_schema_needs_a_name() -> None:
    schema = {"fields": [{"name": "id", "type": "integer"}, {"name": "v"}], "primaryKey": "id"}
    with pytest.raises(UsageError, match="no name"):
        from_frictionless(schema)
    spec = parsed(from_frictionless(schema, "My-Things"))
    assert (spec.name, spec.primary_key, spec.write_disposition) == ("my_things", ("id",), "merge")


@pytest.mark.parametrize(
    ("name", "made"), [("2024 " + "x" * 60, "t_2024_" + "x" * 48), ("x" * 60, "x" * 55), ("ä", "t_")]
)
def test_every_name_of_a_resource_makes_one_of_a_type(name: str, made: str) -> None:
    assert parsed(from_frictionless({"name": name, "schema": {"fields": [{"name": "id"}]}})).name == made


def test_a_data_package_gives_a_spec_for_each_resource() -> None:
    package = {
        "name": "p",
        "resources": [
            {"name": "first-one", "path": "a.csv", "schema": {"fields": [{"name": "x"}]}},
            {"name": "second", "path": ["b.csv"], "schema": {"fields": [{"name": "y", "type": "date"}]}},
            {"name": "picture", "path": "c.png"},
        ],
    }
    found = from_frictionless(package)
    assert list(found) == ["first_one", "second"]
    assert "left out: path 'a.csv'" in found["first_one"]
    assert parse_spec(found["second"], "second.yaml").path is None
    with pytest.raises(UsageError, match="2 resources"):
        from_frictionless(package, "one")


def test_options_of_the_standard_that_are_changed_or_left_out_are_noted() -> None:
    descriptor = {
        "name": "t",
        "custom": 1,
        "dialect": {"csv": {"delimiter": ";", "lineTerminator": "\n"}, "headerRows": [1], "commentRows": [2]},
        "schema": {
            "fields": [
                {"name": "y", "type": "year"},
                {"name": "p", "type": "geopoint", "format": "array"},
                {"name": "d", "type": "date", "format": "any"},
                {"name": "at", "type": "datetime"},
                {
                    "name": "n",
                    "type": "integer",
                    "constraints": {"minLength": 2, "minimum": 3, "exclusiveMinimum": 1},
                },
                {"name": "s", "constraints": {"pattern": "(?=a)a"}, "own": True},
            ],
            "missingValues": ["", {"value": "-99", "label": "not asked"}],
        },
    }
    text = from_frictionless(descriptor)["t"]
    spec = parse_spec(text, "t.yaml")
    assert [f.type for f in spec.fields] == ["integer", "string", "date", "datetime", "integer", "string"]
    assert spec.tableschema.missingValues == ("", "-99")
    assert spec.field("at").timezone == "UTC"
    assert spec.field("n").constraints.minimum == "3"
    assert spec.field("s").constraints.pattern is None
    assert spec.dialect.delimiter == ";"
    for words in ("custom", "dialect.commentRows", "type year", "format any", "constraint minLength", "constraint pattern",
                  "constraint exclusiveMinimum", "own"):  # fmt: skip
        assert words in text


@pytest.mark.parametrize("descriptor", [{}, {"title": "x"}, {"name": "x", "schema": "schema.json"}])
def test_what_is_no_descriptor_is_an_error(descriptor: dict) -> None:
    with pytest.raises(UsageError):
        from_frictionless(descriptor)


def test_a_descriptor_that_contradicts_itself_is_an_error() -> None:
    with pytest.raises(SpecError, match="primaryKey"):
        from_frictionless({"name": "t", "schema": {"fields": [{"name": "a"}], "primaryKey": ["b"]}})


def test_json_schema_of_a_row() -> None:
    spec = make_spec(
        "t",
        [
            {"name": "id", "type": "integer", "constraints": {"required": True, "minimum": 1}},
            {"name": "p", "type": "number", "decimalChar": ",", "constraints": {"maximum": "1,5"}},
            {"name": "k", "constraints": {"enum": ["a", "b"], "required": True}},
            {"name": "d", "type": "date"},
        ],
        schema_contract="freeze",
    )
    schema = json.loads(export(spec, "json-schema"))
    assert schema["properties"] == {
        "id": {"type": "integer", "minimum": 1},
        "p": {"type": ["number", "null"], "maximum": 1.5},
        "k": {"type": "string", "enum": ["a", "b"]},
        "d": {"type": ["string", "null"], "format": "date"},
    }
    assert schema["required"] == ["id", "k"]
    assert schema["additionalProperties"] is False


def test_sql_runs(warehouse: Warehouse) -> None:
    spec = make_spec(
        "odd name".replace(" ", "_"),
        [
            {"name": 'quote"d', "type": "integer", "description": "it's 100% \\ so"},
            {"name": "select", "type": "object"},
            {"name": "at", "type": "datetime", "format": "%Y-%m-%dT%H:%M%z"},
        ],
        key=['quote"d'],
        write_disposition="merge",
        description="A table's comment",
    )
    with warehouse.connect() as conn:
        conn.execute(export(spec, "sql").encode())
        comment = conn.execute(
            "SELECT obj_description('odd_name'::regclass), col_description('odd_name'::regclass, 1)"
        )
        assert comment.fetchone() == ("A table's comment", "it's 100% \\ so")
        conn.execute("""INSERT INTO odd_name ("quote""d", _tenant, _business_date, _load_id, _row)
                        VALUES (1, 'a', '2024-01-01', 1, 1)""")
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("""INSERT INTO odd_name ("quote""d", _tenant, _business_date, _load_id, _row)
                            VALUES (1, 'a', '2024-01-01', 2, 1)""")


def test_sql_of_every_shipped_type_runs(warehouse: Warehouse) -> None:
    with warehouse.connect() as conn:
        for spec in SPECS.values():
            conn.execute(export(spec, "sql", tenant=False).encode())


def test_markdown_names_every_column() -> None:
    spec = make_spec(
        "t", [{"name": "a|b", "description": "x | y\nz"}, {"name": "c", "constraints": {"enum": ["1"]}}]
    )
    text = export(spec, "markdown")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    assert "a\\|b" in rows[1]
    assert "x \\| y z" in rows[1]
    assert "enum: 1" in rows[2]


def test_another_format_is_an_error() -> None:
    with pytest.raises(UsageError, match="json-schema"):
        export(SPECS["address"], "xml")  # type: ignore[arg-type]


def test_what_infer_proposes_can_be_exchanged(tmp_path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("id;d;p\n1;31.01.2024;1,5\n2;-;2,25\n3;01.02.2024;N/A\n")
    spec = infer([file]).spec
    assert parsed(from_frictionless(json.loads(export(spec, "frictionless")))) == spec
