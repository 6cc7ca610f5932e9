"""Specs and the world: Frictionless descriptors in, Frictionless, JSON Schema, SQL and Markdown out.

What does not belong here: reading specs (``spec/table.py``), proposing them from data
(``inference/infer.py``), the reference of the spec format itself (``spec/reference.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
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

# --- in -----------------------------------------------------------------------------


# --- out ----------------------------------------------------------------------------


def export(spec: TableSpec, format: Format, *, tenant: bool = True) -> str:
    """The type in another language, as text.

    ``frictionless`` is a Resource descriptor that :func:`from_frictionless`
    takes back without loss; ``json-schema`` describes a row as loaded; ``sql``
    creates its table (``tenant`` says whether with ``_tenant``); ``markdown``
    is for people. Raises UsageError for another format.
    """
    writers: dict[str, Callable[[], str]] = {
        "frictionless": lambda: _json(frictionless(spec)),
        "json-schema": lambda: _json(json_schema(spec)),
        "sql": lambda: _sql(spec, tenant),
        "markdown": lambda: _markdown(spec),
    }
    if format not in writers:
        raise UsageError(f"There is no format {format!r}; there are {', '.join(writers)}.")
    return writers[format]()


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def frictionless(spec: TableSpec) -> dict[str, Any]:
    """A Frictionless Resource; what the standard has no word for stands under the spec's own."""
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
    out = {
        "name": field.name,
        "type": field.type,
        **{k: v for k, v in dumped.items() if k not in ("name", "type")},
    }
    if len(field.formats) > 1:  # the standard has one pattern, or any
        out |= {"format": "any", "formats": list(field.formats)}
    if field.type == "datetime" and field.format == "default" and field.timezone is None:
        out["timezone"] = None  # else the standard means UTC
    if "precision" in out or "scale" in out:
        out |= {"precision": field.precision, "scale": field.scale}
    for bound in {"minimum", "maximum"} & set(out.get("constraints", ())):
        out["constraints"] = {**out["constraints"], bound: _as_number(field, out["constraints"][bound])}
    return out


def _as_number(field: FieldSpec, text: str) -> Any:
    """A bound as the standard wants it, typed, where that loses nothing."""
    if field.type == "integer" and re.fullmatch(r"-?(?:0|[1-9]\d*)", text):
        return int(text)
    return text


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


def json_schema(spec: TableSpec) -> dict[str, Any]:
    """A JSON Schema of one row as it is loaded: typed values, NULL where a value is missing."""
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
    found = dict(_JSON_TYPES[field.type])
    if field.format in ("uuid", "email", "uri"):
        found["format"] = field.format
    c = field.constraints
    words = {
        "title": field.title,
        "description": field.description,
        "minLength": c.minLength,
        "maxLength": c.maxLength,
    }
    found |= {k: v for k, v in words.items() if v is not None}
    if c.pattern is not None:
        found["pattern"] = f"^(?:{c.pattern})$"
    if field.type in ("integer", "number"):
        bounds = {"minimum": c.minimum, "maximum": c.maximum}
        found |= {k: _number(field, v) for k, v in bounds.items() if v is not None}
    if c.enum is not None:
        found["enum"] = [_enum_value(field, w) for w in c.enum]
    if not field.required:
        found["type"] = [found["type"], "null"]
        if "enum" in found:
            found["enum"].append(None)
    return found


def _number(field: FieldSpec, text: str) -> int | float:
    plain = text.replace(field.groupChar, "") if field.groupChar else text
    number = float(plain.replace(field.decimalChar, "."))
    return int(number) if field.type == "integer" else number


def _enum_value(field: FieldSpec, word: str) -> Any:
    if field.type in ("integer", "number"):
        return _number(field, word)
    return word in field.trueValues if field.type == "boolean" else word


_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
# Unconnected, SQLAlchemy doubles backslashes, as servers before 9.1 wanted; it asks a connected one.
_DIALECT._backslash_escapes = False


def _sql(spec: TableSpec, tenant: bool) -> str:
    table = sql_table(spec, sa.MetaData(), tenant=tenant)
    return "\n".join(f"{s};" for s in _statements(table)) + "\n"


def _statements(table: sa.Table) -> Iterator[str]:
    yield _compiled(CreateTable(table)).strip().replace("\t", "    ").replace(" \n", "\n")
    if table.comment:
        yield _compiled(SetTableComment(table))
    for column in table.columns:
        if column.comment:
            yield _compiled(SetColumnComment(column))


def _compiled(statement: Any) -> str:
    return str(statement.compile(dialect=_DIALECT))


def _markdown(spec: TableSpec) -> str:
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
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    for key in spec.tableschema.foreignKeys:
        target = key.reference.resource or spec.name
        lines += ["", f"{', '.join(key.fields)} refers to {target} ({', '.join(key.reference.fields)})."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\\", "\\\\").replace("|", "\\|"))
