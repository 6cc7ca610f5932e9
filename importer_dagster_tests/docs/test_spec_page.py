"""The published reference and JSON Schema of a spec agree with what the importer accepts.

A JSON Schema is judged here by a validator of its own, for the few words that
ours uses; a word that it does not know is an error, so nothing goes unchecked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from importer_dagster.errors import SpecError
from importer_dagster.settings import SHIPPED_SPECS
from importer_dagster.spec import fields, policy, versions
from importer_dagster.spec import table as spec_module
from importer_dagster.spec.loading import parse_spec, spec_files
from importer_dagster.spec.reference import json_schema, spec_reference
from importer_dagster.spec.yaml_text import parse_yaml

SCHEMA = json_schema()
SHIPPED = spec_files(SHIPPED_SPECS)
MODELS = {
    name: model
    for module in (fields, policy, spec_module, versions)
    for name, model in vars(module).items()
    if isinstance(model, type) and issubclass(model, BaseModel) and model.model_fields
}
PYTHON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
NOTES = {"$schema", "$defs", "title", "description", "default"}


def is_a(value: object, kind: str) -> bool:
    """Whether a value read from YAML is of a JSON type; a truth value is no number."""
    return isinstance(value, PYTHON_TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def complaints(schema: dict[str, Any], value: Any, at: str = "") -> Iterator[str]:
    """What a JSON Schema validator would say about ``value``."""
    for word, rule in schema.items():
        if word in NOTES or (word in {"items", "additionalProperties"} and rule is True):
            continue
        yield from COMPLAIN[word](schema, rule, value, at)


def _members(schema: dict[str, Any], rule: Any, value: Any, at: str) -> Iterator[str]:
    for key in value if isinstance(value, dict) else ():
        if key in rule:
            yield from complaints(rule[key], value[key], f"{at}.{key}")


def _others(schema: dict[str, Any], rule: Any, value: Any, at: str) -> Iterator[str]:
    for key in value if isinstance(value, dict) else ():
        if key not in schema.get("properties", {}):
            yield from [f"{at}.{key} is unknown"] if rule is False else complaints(rule, value[key], at)


def _items(schema: dict[str, Any], rule: Any, value: Any, at: str) -> Iterator[str]:
    for n, item in enumerate(value if isinstance(value, list) else ()):
        yield from complaints(rule, item, f"{at}.{n}")


def _when(kind: type | tuple[type, ...], wrong: Any) -> Any:
    def complain(schema: dict[str, Any], rule: Any, value: Any, at: str) -> Iterator[str]:
        if isinstance(value, kind) and wrong(value, rule):
            yield f"{at}: {value!r} against {rule!r}"

    return complain


def _kind(value: object, rule: str | list[str]) -> bool:
    return not any(is_a(value, k) for k in ([rule] if isinstance(rule, str) else rule))


def _ref(schema: dict[str, Any], rule: str, value: Any, at: str) -> Iterator[str]:
    yield from complaints(SCHEMA["$defs"][rule.rpartition("/")[2]], value, at)


def _any_of(schema: dict[str, Any], rule: list[dict[str, Any]], value: Any, at: str) -> Iterator[str]:
    found = [list(complaints(choice, value, at)) for choice in rule]
    if all(found):
        yield min(found, key=len)[0]


COMPLAIN = {
    "properties": _members,
    "additionalProperties": _others,
    "items": _items,
    "$ref": _ref,
    "anyOf": _any_of,
    "type": _when(object, _kind),
    "enum": _when(object, lambda v, r: v not in r),
    "required": _when(dict, lambda v, r: not set(r) <= set(v)),
    "minimum": _when((int, float), lambda v, r: v < r),
    "maximum": _when((int, float), lambda v, r: v > r),
    "minLength": _when(str, lambda v, r: len(v) < r),
    "maxLength": _when(str, lambda v, r: len(v) > r),
    "minItems": _when(list, lambda v, r: len(v) < r),
    "pattern": _when(str, lambda v, r: not re.search(r, v)),
}


def agrees(text: str) -> tuple[bool, bool]:
    """What the importer and the JSON Schema say of one spec: (taken, valid)."""
    valid = not list(complaints(SCHEMA, parse_yaml(text, "t.yaml")))
    try:
        parse_spec(text, "t.yaml")
    except SpecError:
        return False, valid
    return True, valid


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_shipped_specs_are_valid(file: Any) -> None:
    assert list(complaints(SCHEMA, parse_yaml(file.read_text(encoding="utf-8"), str(file)))) == []


@pytest.mark.parametrize(
    "text",
    [
        "schema: {fields: [{name: a}], primaryKey: a, missingValues: [NA, 0]}",
        "schema: {fields: [{name: a, constraints: {enum: [1, true, x], minimum: 0.5}}]}",
        "schema: {fields: [{name: a}]}\nschema_contract: freeze",
        "schema: {fields: [{name: a, rdfType: x}], $schema: y}\nlicenses: [{name: CC0-1.0}]\nprofile: z",
        "schema: {fields: [{name: a, decimalChar: ',', groupChar: '.'}]}\ndialect: {quoteChar: null}",
        "schema: {fields: [{name: a, aliases: b, checks: email}]}\nchecks: startdate_before_enddate",
    ],
)
def test_what_the_importer_takes_is_valid(text: str) -> None:
    assert agrees(text) == (True, True)


@pytest.mark.parametrize(
    "text",
    [
        "name: t",
        "schema: {fields: []}",
        "schema: {fields: [{name: a, typ: integer}]}",
        "schema: {fields: [{name: a, type: int}]}",
        "schema: {fields: [{name: a, licenses: x}]}",  # a resource's word is not a field's
        "schema: {fields: [{name: a, decimalChar: ',,'}]}",
        "schema: {fields: [{name: a, constraints: {minLength: -1}}]}",
        "schema: {fields: [{name: a, precision: 99}]}",
        "schema: {fields: [{name: a}]}\nwrite_disposition: upsert",
        "schema: {fields: [{name: a}]}\nschema_contract: perhaps",
        "schema: {fields: [{name: a}]}\nschema_contract: {removed: rescue}",
        "schema: {fields: [{name: a}]}\nreject_limit: {share: 2}",
        "schema: {fields: [{name: a}]}\nexpected_by: '25:00'",
        "schema: {fields: [{name: a}]}\ndialect: {delimeter: ;}",
    ],
)
def test_what_the_importer_refuses_is_not_valid(text: str) -> None:
    assert agrees(text) == (False, False)


def test_the_schema_is_json_and_names_its_draft() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"].startswith("https://json-schema.org/")
    assert SCHEMA["required"] == ["schema"]


def test_every_option_stands_once_in_the_reference_with_its_meaning() -> None:
    sections = {
        heading: body
        for heading, _, body in (
            s.partition("\n") for s in re.split("^## ", spec_reference(), flags=re.M)[1:]
        )
    }
    assert len(sections) == len(MODELS)
    rows = [line for body in sections.values() for line in body.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(m.model_fields) for m in MODELS.values())
    for row in rows:
        name, kind, _, meaning = (cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])
        assert name and kind and kind != "any", row
        assert meaning.endswith("."), row
    for model in MODELS.values():
        for key, field in model.model_fields.items():
            assert any(f"| `{field.alias or key}` |" in row and field.description in row.replace("\\|", "|")
                       for row in rows if field.description), (model, key)  # fmt: skip


def test_the_reference_shows_types_defaults_and_links() -> None:
    text = spec_reference()
    assert '| `delimiter` | text | `","` | The character, or characters, between two values. |' in text
    assert "| `schema` | [schema](#schema) | required | Its fields and keys. |" in text
    assert '| `write_disposition` | `append`, `replace`, `merge`, `scd2` | `"append"` |' in text
    assert '| `reject_limit` | [reject_limit](#reject_limit) | `{"share": 0.5, "share_from": 1000}` |' in text
    assert "| `quoteChar` | character or null |" in text
    assert "| `escapeChar` | character |  |" in text
    assert "Accepted and ignored: " in text and "`licenses`" in text
    headings = re.findall(r"^## `?([^`\n]+)`?$", text, flags=re.M)
    anchors = {re.sub(r"[^a-z0-9_-]", "", h.lower().replace(" ", "-")) for h in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
