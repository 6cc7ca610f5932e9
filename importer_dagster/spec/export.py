"""Specs and the world: Frictionless descriptors in, Frictionless, JSON Schema, SQL and Markdown out.

What does not belong here: reading specs (``spec/table.py``), proposing them from data
(``inference/infer.py``), the reference of the spec format itself (``spec/reference.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable, SetColumnComment, SetTableComment

from importer_dagster.errors import UsageError
from importer_dagster.spec.columns import column_schema
from importer_dagster.spec.fields import Constraints, Dialect, FieldSpec, FieldType
from importer_dagster.spec.spec_yaml import Document, to_yaml
from importer_dagster.spec.table import TableSchema, TableSpec, parse_spec
from importer_dagster.validation.schemas import sql_table

Format = Literal["frictionless", "json-schema", "sql", "markdown"]

# --- in -----------------------------------------------------------------------------

# Types of the Table Schema standard that are read as another one here.
_OTHER_TYPES = {
    "any": "string",
    "array": "string",
    "list": "string",
    "duration": "string",
    "yearmonth": "string",
    "geopoint": "string",
    "geojson": "object",
    "year": "integer",
}
_TEXT_ONLY = ("pattern", "minLength", "maxLength")
_LEFT_OUT_SILENTLY = {"$schema", "profile", "csvddfVersion", "lineTerminator", "caseSensitiveHeader", "hash", "bytes",
                      "mediatype", "scheme", "licenses", "sources", "rdfType", "example", "compression"}  # fmt: skip


def from_frictionless(descriptor: Mapping[str, Any], name: str | None = None) -> dict[str, str]:
    """Specs as YAML, by type name, from a Frictionless Table Schema, Resource or Data Package.

    Comments in the YAML tell what was read otherwise or left out. ``name`` is
    that of the type where the descriptor has just one, and is needed for a bare
    Table Schema. Raises UsageError for what is none of the three, SpecError for
    a descriptor that makes no sense as a spec.
    """
    if "resources" in descriptor:
        resources = [r for r in descriptor["resources"] if isinstance(r, Mapping) and "schema" in r]
        if not resources or (name is not None and len(resources) > 1):
            found = f"{len(resources)} resources with a schema"
            raise UsageError(
                f"The Data Package has {found}; {'name them there' if name else 'it needs at least one'}."
            )
        specs = [_one(r, name) for r in resources]
        if len({n for n, _ in specs}) < len(specs):
            raise UsageError("Two resources of the Data Package would have the same type name; rename one.")
        return dict(specs)
    if "schema" in descriptor:
        return dict([_one(descriptor, name)])
    if "fields" in descriptor:
        return dict([_one({"schema": descriptor, "name": descriptor.get("name")}, name)])
    raise UsageError(
        "This is no Frictionless descriptor: it has no `fields` (Table Schema), no `schema` (Resource) and no "
        "`resources` (Data Package)."
    )


def _one(resource: Mapping[str, Any], name: str | None) -> tuple[str, str]:
    given = name or resource.get("name")
    if not given:
        raise UsageError("The descriptor has no name; say which with --name.")
    type_name = _type_name(str(given))
    schema = resource["schema"]
    if not isinstance(schema, Mapping):
        raise UsageError(
            f"The schema of {given!r} is a reference, {schema!r}; put the schema itself in its place."
        )
    notes: list[str] = []
    data: dict[str, Any] = {"name": type_name}
    known = {f.alias or n for n, f in TableSpec.model_fields.items()}
    for key, value in resource.items():
        if key in ("name", "schema", "dialect", "path", "compression"):
            continue
        if key in known and value is not None:
            data[key] = value
        elif key not in known | _LEFT_OUT_SILENTLY | {"type", "format", "data"}:
            notes.append(f"left out: {key}")
    if "path" in resource:
        _take_path(resource["path"], data, notes)
    if "dialect" in resource:
        data["dialect"] = _dialect(resource["dialect"], notes)
    data["schema"], comments = _schema(schema, notes)
    if data["schema"].get("primaryKey"):
        data.setdefault("write_disposition", "merge")
    head = ["From a Frictionless descriptor.", *notes]
    text = to_yaml(Document(data, tuple(head), field_comments=tuple(comments)))
    parse_spec(text, f"{type_name}.yaml")
    return type_name, text


def _type_name(given: str) -> str:
    """A name as a spec can have it, from a resource's."""
    name = re.sub(r"\W+", "_", given, flags=re.ASCII).strip("_").lower()
    return (f"t_{name}" if not name or name[0].isdigit() else name)[:55]


def _take_path(path: Any, data: dict[str, Any], notes: list[str]) -> None:
    """A pattern is kept; the place of one data file says nothing of tomorrow's."""
    if isinstance(path, str) and "{" in path:
        data["path"] = path
    else:
        notes.append(
            f"left out: path {path!r}, the place of one file; `path` here is a pattern below the inbox"
        )


def _dialect(dialect: Any, notes: list[str]) -> dict[str, Any]:
    if not isinstance(dialect, Mapping):
        raise UsageError(f"The dialect is a reference, {dialect!r}; put the dialect itself in its place.")
    flat = {**{k: v for k, v in dialect.items() if k != "csv"}, **(dialect.get("csv") or {})}
    if flat.get("headerRows") == [1]:
        del flat["headerRows"]
    kept = {
        k: v for k, v in flat.items() if k in Dialect.model_fields and not (v is None and k != "quoteChar")
    }
    notes += [f"left out: dialect.{k}" for k in flat if k not in kept and k not in _LEFT_OUT_SILENTLY]
    return kept


def _schema(schema: Mapping[str, Any], notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    fields, comments = [], []
    for raw in schema.get("fields") or ():
        field, comment = _field({"name": raw} if isinstance(raw, str) else raw)
        fields.append(field)
        comments.append(comment)
    data: dict[str, Any] = {"fields": fields}
    for key in ("primaryKey", "foreignKeys"):
        if schema.get(key):
            data[key] = schema[key]
    if "missingValues" in schema:
        data["missingValues"] = _tokens(schema["missingValues"])
    known = {*TableSchema.model_fields, "name", "title", "description", "uniqueKeys", "fieldsMatch"}
    notes += [f"left out: schema.{k}" for k in schema if k not in known | _LEFT_OUT_SILENTLY]
    return data, comments


def _tokens(values: Sequence[Any]) -> list[str]:
    """Missing values; version 2 of the standard allows them to have labels."""
    return [str(v["value"]) if isinstance(v, Mapping) else str(v) for v in values]


def _field(raw: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    words: list[str] = []
    field = {k: v for k, v in raw.items() if k in FieldSpec.model_fields and v is not None}
    left_out = [k for k in raw if k not in {*FieldSpec.model_fields, "formats", *_LEFT_OUT_SILENTLY}]
    kind = field.get("type", "string")
    if kind not in get_args(FieldType):
        field["type"] = _OTHER_TYPES.get(kind, "string")
        words.append(f"type {kind} is read as {field['type']}")
        field.pop("format", None)
    _fit_format(field, words, raw)
    if "missingValues" in field:
        field["missingValues"] = _tokens(field["missingValues"])
    if field.get("constraints"):
        field["constraints"] = _constraints(field, words)
    if left_out:
        words.append(f"left out: {', '.join(left_out)}")
    return field, "; ".join(words)


def _fit_format(field: dict[str, Any], words: list[str], raw: Mapping[str, Any]) -> None:
    kind, fmt = field.get("type", "string"), field.get("format", "default")
    if kind in ("date", "datetime", "time"):
        if raw.get("formats"):  # as given out below
            field["format"] = list(raw["formats"])
        elif fmt == "any":
            field.pop("format")
            words.append("format any guesses at each value; ISO 8601 is read here, or declare a pattern")
        elif isinstance(fmt, str) and fmt.startswith("fmt:"):
            field["format"] = fmt[4:]
    elif fmt not in {
        "string": ("default", "uuid", "email", "uri", "binary"),
        "number": ("default", "double"),
    }.get(kind, ("default",)):
        field.pop("format")
        words.append(f"left out: format {fmt}")
    if kind == "datetime" and field.get("format", "default") == "default" and "timezone" not in raw:
        field["timezone"] = "UTC"
        words.append("the standard's datetimes are in UTC")


def _constraints(field: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    text = field.get("type", "string") == "string" and field.get("format") != "uuid"
    for key, value in field["constraints"].items():
        if key not in Constraints.model_fields or (key in _TEXT_ONLY and not text) or not _usable(key, value):
            words.append(f"left out: constraint {key}")
        elif key == "pattern" or value is not None:
            kept[key] = value
    return kept


def _usable(key: str, value: Any) -> bool:
    """Whether a pattern is one that RE2 knows; anything else is."""
    if key != "pattern":
        return True
    try:
        pc.match_substring_regex(pa.array([""]), str(value))
    except pa.ArrowInvalid:
        return False
    return True


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
