"""A spec in other formats: Frictionless, JSON Schema, SQL and Markdown.

What does not belong here: specs from Frictionless descriptors (``spec/frictionless.py``), the reference
of the spec format itself (``spec/reference.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable, SetColumnComment, SetTableComment

from importer_dagster.errors import UsageError
from importer_dagster.spec.columns import column_schema
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.sql_table import sql_table
from importer_dagster.spec.table import TableSpec

Format = Literal["frictionless", "json-schema", "sql", "markdown"]

_JSON_TYPES: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "datetime": {"type": "string", "format": "date-time"},
    "time": {"type": "string", "format": "time"},
    "object": {"type": "object"},
}
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
# Without a connection, SQLAlchemy doubles backslashes, as servers before 9.1 need it; no server does any more.
_DIALECT._backslash_escapes = False


def export(spec: TableSpec, format: Format, *, tenant: bool = True) -> str:
    """The spec in another format, as text.

    ``frictionless`` is a Resource descriptor, from which :func:`from_frictionless`
    makes the same spec again; ``json-schema`` describes a row as loaded; ``sql``
    creates its table, with ``_tenant`` if ``tenant`` is true; ``markdown`` is for
    people. Raises UsageError for another format.
    """
    writers: dict[str, Callable[[], str]] = {
        "frictionless": lambda: _json(frictionless(spec)),
        "json-schema": lambda: _json(json_schema(spec)),
        "sql": lambda: create_table(spec, tenant=tenant),
        "markdown": lambda: markdown(spec),
    }
    if format not in writers:
        raise UsageError(f"There is no format {format!r}; there are {', '.join(writers)}.")
    return writers[format]()


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def frictionless(spec: TableSpec) -> dict[str, Any]:
    """A Frictionless Resource descriptor; options that the standard does not have keep their names in the spec."""
    spec = spec.newest
    dumped = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    schema = dumped.pop("schema")
    schema["fields"] = [_typed_field(f, d) for f, d in zip(spec.fields, schema["fields"], strict=True)]
    schema["missingValues"] = list(spec.tableschema.missingValues)
    dialect = {"delimiter": spec.dialect.delimiter, **dumped.pop("dialect", {})}
    head = {"name": spec.name, "type": "table", "path": spec.path or f"{spec.name}.csv", "format": "csv"}
    dumped["write_disposition"] = spec.write_disposition
    return {**head, **dumped, "encoding": spec.encoding, "dialect": dialect, "schema": schema}


def _typed_field(field: FieldSpec, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """A field as the standard has it, from its options that are not defaults."""
    out = {
        "name": field.name,
        "type": field.type,
        **{k: v for k, v in dumped.items() if k not in ("name", "type")},
    }
    if len(field.formats) > 1:  # the standard has one pattern, or any
        out |= {"format": "any", "formats": list(field.formats)}
    if field.type == "datetime" and field.format == "default" and field.timezone is None:
        out["timezone"] = None  # without it, the standard means UTC
    if "precision" in out or "scale" in out:
        out |= {"precision": field.precision, "scale": field.scale}
    for bound in {"minimum", "maximum"} & set(out.get("constraints", ())):
        text = out["constraints"][bound]
        if field.type == "integer" and re.fullmatch(r"-?(?:0|[1-9]\d*)", text):
            # the standard has numbers here; other texts could lose something as numbers
            out["constraints"] = {**out["constraints"], bound: int(text)}
    return out


def json_schema(spec: TableSpec) -> dict[str, Any]:
    """A JSON Schema of one row as it is loaded: typed values, and null where a value is missing."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": spec.title or spec.name,
        **({"description": spec.description} if spec.description else {}),
        "type": "object",
        "properties": {f.column: _property(f) for f in spec.fields},
        "required": [f.column for f in spec.fields if f.required],
    }
    if spec.schema_contract.added in ("freeze", "discard"):
        schema["additionalProperties"] = False
    return schema


def _property(field: FieldSpec) -> dict[str, Any]:
    """The JSON Schema of a field's values."""
    c = field.constraints
    is_number = field.type in ("integer", "number")
    found = dict(_JSON_TYPES[field.type])
    if field.format in ("uuid", "email", "uri"):
        found["format"] = field.format
    words = {
        "title": field.title,
        "description": field.description,
        "minLength": c.minLength,
        "maxLength": c.maxLength,
    }
    found |= {k: v for k, v in words.items() if v is not None}
    if c.pattern is not None:
        found["pattern"] = f"^(?:{c.pattern})$"
    if is_number:
        bounds = {"minimum": c.minimum, "maximum": c.maximum}
        found |= {k: _number(field, v) for k, v in bounds.items() if v is not None}
    if c.enum is not None and is_number:
        found["enum"] = [_number(field, w) for w in c.enum]
    elif c.enum is not None:
        found["enum"] = [w in field.trueValues if field.type == "boolean" else w for w in c.enum]
    if not field.required:
        found["type"] = [found["type"], "null"]
        if "enum" in found:
            found["enum"].append(None)
    return found


def _number(field: FieldSpec, text: str) -> int | float:
    """The number that a text of the spec means, written as in the field's files."""
    plain = text.replace(field.groupChar, "") if field.groupChar else text
    number = float(plain.replace(field.decimalChar, "."))
    return int(number) if field.type == "integer" else number


def create_table(spec: TableSpec, *, tenant: bool) -> str:
    """The SQL that creates the type's table with its comments; ``tenant`` says whether it has ``_tenant``."""
    table = sql_table(spec, sa.MetaData(), tenant=tenant)
    commented = [column for column in table.columns if column.comment]
    statements: list[sa.schema.ExecutableDDLElement] = [CreateTable(table)]
    statements += [SetTableComment(table)] if table.comment else []
    statements += map(SetColumnComment, commented)
    created, *comments = (str(s.compile(dialect=_DIALECT)) for s in statements)
    created = created.strip().replace("\t", "    ").replace(" \n", "\n")
    return "".join(f"{statement};\n" for statement in (created, *comments))


def markdown(spec: TableSpec) -> str:
    """The type for people: its facts, a table of its columns, and its references."""
    lines = [f"# {spec.title or spec.name}", ""]
    if spec.description:
        lines += [spec.description, ""]
    facts = {
        "type": spec.name,
        "group": spec.group,
        "write disposition": spec.write_disposition,
        "primary key": ", ".join(spec.primary_key),
        "owner": spec.owner,
        "encoding": spec.encoding,
        "delimiter": spec.dialect.delimiter,
    }
    lines += [f"- {name}: `{value}`" for name, value in facts.items() if value]
    lines += [
        "",
        "| column | type | required | unique | constraints | description |",
        "|---|---|---|---|---|---|",
    ]
    for column in column_schema(spec):
        cells = (
            column.name,
            column.type,
            "" if column.nullable else "yes",
            "yes" if column.unique else "",
            "; ".join(column.constraints),
            column.description or "",
        )
        escaped = (re.sub(r"\s+", " ", c.replace("\\", "\\\\").replace("|", "\\|")) for c in cells)
        lines.append("| " + " | ".join(escaped) + " |")
    for key in spec.tableschema.foreignKeys:
        target = key.reference.resource or spec.name
        lines += ["", f"{', '.join(key.fields)} refers to {target} ({', '.join(key.reference.fields)})."]
    return "\n".join(lines) + "\n"
