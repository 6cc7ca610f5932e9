"""What a spec may say, told to people (Markdown) and to editors (JSON Schema).

Both are made from the pydantic models of ``spec/table.py``, so that no option is
described a second time.

What does not belong here: the options themselves (``spec/table.py``), and what a
CSV type's own spec becomes for others (``validation/schemas.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from importer_dagster.spec import fields, policy, table, versions
from importer_dagster.spec.policy import SchemaContract
from importer_dagster.spec.table import TableSpec

JSON_SCHEMA_DRAFT = "https://json-schema.org/draft/2020-12/schema"

# The models that take words of the Frictionless standards which mean nothing to us.
_KINDS: Mapping[str, str] = {
    "TableSpec": "resource",
    "Dialect": "dialect",
    "TableSchema": "schema",
    "FieldSpec": "field",
    "FieldChange": "field",
}
_HEADINGS: Mapping[str, str] = {
    "TableSpec": "A spec",
    "Dialect": "dialect",
    "TableSchema": "schema",
    "FieldSpec": "schema.fields",
    "Constraints": "schema.fields.constraints",
    "ForeignKey": "schema.foreignKeys",
    "Reference": "schema.foreignKeys.reference",
    "SchemaContract": "schema_contract",
    "RejectLimit": "reject_limit",
    "Scd2": "scd2",
    "Complete": "complete",
    "Manifest": "complete.manifest",
    "Trailer": "trailer",
    "Gate": "gate",
    "RowsGate": "gate.rows",
    "RejectsGate": "gate.rejects",
    "UniqueGate": "gate.unique",
    "ReferencesGate": "gate.references",
    "Version": "versions",
    "FieldChange": "versions.fields",
}
_WORDS: Mapping[str, str] = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
    "null": "null",
}


class _AsWritten(GenerateJsonSchema):
    """Describes what may stand in the YAML, before our validators make one shape of it."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """A number may stand for a text, a name for a list of one, a word for a whole contract."""
        inner = super().function_before_schema(schema)
        function: Any = schema["function"]["function"]
        if function is fields.as_text:
            return {"type": ["string", "number", "boolean"]}
        if function is fields.one_or_many:
            return {"anyOf": [{"type": "string"}, inner]}
        if getattr(function, "__name__", "") == "_one_word_for_all":
            return {"anyOf": [{"type": "string", "enum": _contract_words()}, inner]}
        return inner

    def function_after_schema(self, schema: core_schema.AfterValidatorFunctionSchema) -> JsonSchemaValue:
        """A character is a text of length 1."""
        inner = super().function_after_schema(schema)
        if schema["function"]["function"] is fields.single_character:
            return {**inner, "minLength": 1, "maxLength": 1}
        return inner


def _contract_words() -> list[str]:
    """The words that stand for a contract of every kind of drift: those for an added column."""
    return list(get_args(SchemaContract.model_fields["added"].annotation))


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec file, for completion and checks in editors.

    Words of the Frictionless standards that the importer ignores are allowed,
    any other unknown key is not. The name may be left out, as the file's stem gives it.
    """
    schema = TableSpec.model_json_schema(by_alias=True, schema_generator=_AsWritten)
    models: dict[str, dict[str, Any]] = {"TableSpec": schema, **schema["$defs"]}
    for name, model in models.items():
        for option in model["properties"].values():
            option.pop("title", None)  # pydantic's "Minlength" says less than the key
        for word in sorted(fields.IGNORED_WORDS.get(_KINDS.get(name, ""), ())):
            model["properties"].setdefault(word, {"description": "Accepted and ignored."})
    schema["required"] = [key for key in schema["required"] if key != "name"]
    return {"$schema": JSON_SCHEMA_DRAFT, **schema, "title": "A CSV type of importer_dagster"}


def spec_reference() -> str:
    """Markdown: a section for each part of a spec, with a table of all its options."""
    schema = json_schema()
    models = {"TableSpec": schema, **schema["$defs"]}
    missing = set(models) - set(_HEADINGS)
    assert not missing, f"parts of a spec without a heading: {missing}"
    return "\n".join(_section(name, models) for name in _HEADINGS)


def _described(name: str) -> type[BaseModel]:
    """The model called ``name``, wherever it stands."""
    found: type[BaseModel] = next(
        getattr(m, name) for m in (table, fields, policy, versions) if hasattr(m, name)
    )
    return found


def _section(name: str, models: Mapping[str, Any]) -> str:
    model, heading = models[name], _HEADINGS[name]
    described = _described(name)
    options = [field.alias or key for key, field in described.model_fields.items()]
    lines = [
        f"## {heading if name == 'TableSpec' else f'`{heading}`'}",
        "",
        model["description"],
        "",
        "| option | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for key in options:
        option = model["properties"][key]
        default = "required" if key in model.get("required", ()) else _default(option, models)
        lines.append(_row(f"`{key}`", _type(option), default, option["description"]))
    if ignored := sorted(set(model["properties"]) - set(options)):
        lines += ["", "Accepted and ignored: " + ", ".join(f"`{word}`" for word in ignored) + "."]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(option: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    """The default as it would be written; of a part, only what differs from the part's own table."""
    value = option.get("default")
    if part := next(filter(None, map(_part, _choices(option))), None):
        own = models[part]["properties"]
        value = {k: v for k, v in (value or {}).items() if v != own[k].get("default")}
    return f"`{json.dumps(value)}`" if value not in (None, [], {}) else ""


def _choices(option: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The alternatives of an option; null is none where it only stands for 'not given'."""
    choices: list[Mapping[str, Any]] = option.get("anyOf", [option])
    return [c for c in choices if c.get("type") != "null" or option.get("default") is not None]


def _part(option: Mapping[str, Any]) -> str | None:
    """The model that an option holds, if it is a part of its own."""
    return str(option["$ref"]).rpartition("/")[2] if "$ref" in option else None


def _type(option: Mapping[str, Any]) -> str:
    """A few words for the values an option takes."""
    return " or ".join(dict.fromkeys(map(_one_type, _choices(option))))


def _one_type(option: Mapping[str, Any]) -> str:
    if part := _part(option):
        return f"[{_HEADINGS[part]}](#{_anchor(_HEADINGS[part])})"
    if "enum" in option:
        return ", ".join(f"`{word}`" for word in option["enum"])
    if option["type"] == "array":
        return f"list of {_type(option['items'])}"
    if isinstance(option["type"], list) or option.get("maxLength") == 1:
        # What YAML reads as a number or a truth value is taken as the text it was written as.
        return "character" if option.get("maxLength") == 1 else "text"
    return _WORDS[option["type"]]


def _anchor(heading: str) -> str:
    """The anchor that GitHub and MkDocs give to a heading."""
    kept = [c for c in heading.lower() if c.isalnum() or c in "-_ "]
    return "".join(kept).replace(" ", "-")


def json_schema_text() -> str:
    """:func:`json_schema` as the text of a file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(
        "# Specs: every option\n\nMade from the definitions in `spec.py`, `fields.py`, `policy.py` and `versions.py`; do not edit.\n"
    )
    print(spec_reference(), end="")
