"""The reference of all options of a spec: as Markdown for people, as JSON Schema for editors.

Both are made from the pydantic models of this package, so that each option is described once.
``python -m importer_dagster.spec.reference > docs/spec.md`` writes the page; ``importer schema``
prints the JSON Schema.

What does not belong here: the options themselves (``spec/table.py``, ``spec/fields.py``,
``spec/policy.py``, ``spec/versions.py``), and exports of one type's spec (``spec/export.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from importer_dagster.spec import fields, policy, table, versions
from importer_dagster.spec.policy import SchemaContract
from importer_dagster.spec.table import TableSpec

JSON_SCHEMA_DRAFT = "https://json-schema.org/draft/2020-12/schema"

# The models that accept and ignore keys of the Frictionless standards, as keys of `fields.IGNORED_WORDS`.
_KINDS: Mapping[str, str] = {
    "TableSpec": "resource",
    "Dialect": "dialect",
    "TableSchema": "schema",
    "FieldSpec": "field",
    "FieldChange": "field",
}
# The parts of a spec in the order of the reference.
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
    """Describes the values that the YAML may have, before validators bring them into one form."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """A text may be a number, a list of one may be a name, and a schema contract may be one word."""
        inner = super().function_before_schema(schema)
        function: Any = schema["function"]["function"]
        if function is fields.as_text:
            return {"type": ["string", "number", "boolean"]}
        if function is fields.one_or_many:
            return {"anyOf": [{"type": "string"}, inner]}
        if getattr(function, "__name__", "") == "_one_word_for_all":
            words = list(get_args(SchemaContract.model_fields["added"].annotation))
            return {"anyOf": [{"type": "string", "enum": words}, inner]}
        return inner

    def function_after_schema(self, schema: core_schema.AfterValidatorFunctionSchema) -> JsonSchemaValue:
        """A character is a text of length 1."""
        inner = super().function_after_schema(schema)
        if schema["function"]["function"] is fields.single_character:
            return {**inner, "minLength": 1, "maxLength": 1}
        return inner


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec file, for completion and checks in editors.

    Keys of the Frictionless standards that the importer ignores are allowed; any other
    unknown key is an error. The name may be left out, as it is the file's stem.
    """
    schema = TableSpec.model_json_schema(by_alias=True, schema_generator=_AsWritten)
    models: dict[str, dict[str, Any]] = {"TableSpec": schema, **schema["$defs"]}
    for name, model in models.items():
        for option in model["properties"].values():
            option.pop("title", None)  # pydantic makes it of the key, such as "Minlength"
        for word in sorted(fields.IGNORED_WORDS.get(_KINDS.get(name, ""), ())):
            model["properties"].setdefault(word, {"description": "Accepted and ignored."})
    schema["required"] = [key for key in schema["required"] if key != "name"]
    return {"$schema": JSON_SCHEMA_DRAFT, **schema, "title": "A CSV type of importer_dagster"}


def spec_reference() -> str:
    """Markdown: a section for each part of a spec, with a table of all its options."""
    schema = json_schema()
    models = {"TableSpec": schema, **schema["$defs"]}
    without_heading = set(models) - set(_HEADINGS)
    assert not without_heading, f"parts of a spec without a heading: {without_heading}"
    lines = []
    for name, heading in _HEADINGS.items():
        model = models[name]
        described = next(getattr(m, name) for m in (table, fields, policy, versions) if hasattr(m, name))
        options = [field.alias or key for key, field in described.model_fields.items()]
        lines += [
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
            cells = [f"`{key}`", _type(option), default, option["description"]]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        if ignored := sorted(set(model["properties"]) - set(options)):
            lines += ["", "Accepted and ignored: " + ", ".join(f"`{word}`" for word in ignored) + "."]
        lines.append("")
    return "\n".join(lines)


def _default(option: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    """The default as YAML would have it; of a part, only options whose default is another than in the part's table."""
    value = option.get("default")
    if part := next(filter(None, map(_part, _choices(option))), None):
        own = models[part]["properties"]
        value = {k: v for k, v in (value or {}).items() if v != own[k].get("default")}
    return f"`{json.dumps(value)}`" if value not in (None, [], {}) else ""


def _choices(option: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The alternatives of an option; null is left out where it only means that the option is not given."""
    choices: list[Mapping[str, Any]] = option.get("anyOf", [option])
    return [c for c in choices if c.get("type") != "null" or option.get("default") is not None]


def _part(option: Mapping[str, Any]) -> str | None:
    """The name of the model that an option holds, if it has a section of its own."""
    return str(option["$ref"]).rpartition("/")[2] if "$ref" in option else None


def _type(option: Mapping[str, Any]) -> str:
    """A few words for the values that an option takes."""
    words = []
    for choice in _choices(option):
        if part := _part(choice):
            # the anchor that GitHub and MkDocs give to a heading
            kept = [c for c in _HEADINGS[part].lower() if c.isalnum() or c in "-_ "]
            words.append(f"[{_HEADINGS[part]}](#{''.join(kept).replace(' ', '-')})")
        elif "enum" in choice:
            words.append(", ".join(f"`{word}`" for word in choice["enum"]))
        elif choice["type"] == "array":
            words.append(f"list of {_type(choice['items'])}")
        elif choice.get("maxLength") == 1:
            words.append("character")
        elif isinstance(choice["type"], list):  # numbers and truth values, which are taken as text
            words.append("text")
        else:
            words.append(_WORDS[choice["type"]])
    return " or ".join(dict.fromkeys(words))


def json_schema_text() -> str:
    """:func:`json_schema` as the text of a file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print("# Specs: every option\n")
    print(
        "Made from the definitions in `table.py`, `fields.py`, `policy.py` and `versions.py` of "
        "`importer_dagster/spec/`; do not edit.\n"
    )
    print(spec_reference(), end="")
