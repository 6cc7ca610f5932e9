"""Specs made from Frictionless descriptors: Data Package, Resource and Table Schema.

What does not belong here: descriptors made from specs (``spec/export.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.errors import UsageError
from importer_dagster.spec.fields import Constraints, Dialect, FieldSpec, FieldType, TableSchema
from importer_dagster.spec.loading import parse_spec
from importer_dagster.spec.table import TableSpec
from importer_dagster.spec.yaml_text import Document, to_yaml

# Types of the Table Schema standard that the importer does not have, and the type as which it is read.
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

    Comments in the YAML say what was changed or left out. ``name`` is the name of
    the type, for a descriptor of one type; a Table Schema without a name needs it.
    Raises UsageError for what is none of the three, SpecError for a descriptor that
    is no valid spec.
    """
    if "resources" in descriptor:
        resources = [r for r in descriptor["resources"] if isinstance(r, Mapping) and "schema" in r]
        if not resources or (name is not None and len(resources) > 1):
            found = f"{len(resources)} resources with a schema"
            raise UsageError(
                f"The Data Package has {found}; {'name them there' if name else 'it needs at least one'}."
            )
        specs = [_from_resource(r, name) for r in resources]
        if len({n for n, _ in specs}) < len(specs):
            raise UsageError("Two resources of the Data Package would have the same type name; rename one.")
        return dict(specs)
    if "schema" in descriptor:
        return dict([_from_resource(descriptor, name)])
    if "fields" in descriptor:
        return dict([_from_resource({"schema": descriptor, "name": descriptor.get("name")}, name)])
    raise UsageError(
        "This is no Frictionless descriptor: it has no `fields` (Table Schema), no `schema` (Resource) and no "
        "`resources` (Data Package)."
    )


def _from_resource(resource: Mapping[str, Any], name: str | None) -> tuple[str, str]:
    """The type's name and its spec as YAML, from a Resource descriptor."""
    given = name or resource.get("name")
    if not given:
        raise UsageError("The descriptor has no name; say which with --name.")
    word = re.sub(r"\W+", "_", str(given), flags=re.ASCII).strip("_").lower()
    type_name = (f"t_{word}" if not word or word[0].isdigit() else word)[:55]
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
    path = resource.get("path", "")
    if isinstance(path, str) and "{" in path:
        data["path"] = path
    elif "path" in resource:
        notes.append(
            f"left out: path {path!r}, the place of one file; `path` here is a pattern below the inbox"
        )
    if "dialect" in resource:
        data["dialect"] = _dialect(resource["dialect"], notes)
    data["schema"], comments = _schema(schema, notes)
    if data["schema"].get("primaryKey"):
        data.setdefault("write_disposition", "merge")
    head = ["From a Frictionless descriptor.", *notes]
    text = to_yaml(Document(data, tuple(head), field_comments=tuple(comments)))
    parse_spec(text, f"{type_name}.yaml")
    return type_name, text


def _dialect(dialect: Any, notes: list[str]) -> dict[str, Any]:
    """The options of a dialect that a spec has; ``notes`` gets the names of the others."""
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
    """A Table Schema as a spec has it, and a comment for each field; ``notes`` gets the names of what is left out."""
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
    """The texts of missing values, which may have labels in version 2 of the standard."""
    return [str(v["value"]) if isinstance(v, Mapping) else str(v) for v in values]


def _field(raw: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A field as a spec has it, and a comment on what was changed or left out."""
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
        constraints = field["constraints"]
        is_text = field.get("type", "string") == "string" and field.get("format") != "uuid"
        unusable = [k for k in constraints if k not in Constraints.model_fields]
        unusable += [k for k in _TEXT_ONLY if k in constraints and not is_text]
        if "pattern" in constraints and "pattern" not in unusable and not _is_re2(constraints["pattern"]):
            unusable.append("pattern")
        words += [f"left out: constraint {k}" for k in constraints if k in unusable]
        field["constraints"] = {
            k: v for k, v in constraints.items() if k not in unusable and (k == "pattern" or v is not None)
        }
    if left_out:
        words.append(f"left out: {', '.join(left_out)}")
    return field, "; ".join(words)


def _fit_format(field: dict[str, Any], words: list[str], raw: Mapping[str, Any]) -> None:
    """Replace the standard's format of a field by the spec's; ``words`` gets what was changed or left out."""
    kind, fmt = field.get("type", "string"), field.get("format", "default")
    if kind in ("date", "datetime", "time"):
        if raw.get("formats"):  # as spec/export.py writes several formats
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


def _is_re2(pattern: Any) -> bool:
    """Whether RE2, which validates values, can compile a pattern."""
    try:
        pc.match_substring_regex(pa.array([""]), str(pattern))
    except pa.ArrowInvalid:
        return False
    return True
