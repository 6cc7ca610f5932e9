"""What a spec becomes in Arrow and in Pandera: the types of the columns, and their constraints as checks.

What does not belong here: reading text (``validation/parse.py``), checks that specs name
(``validation/checks.py``), the table in PostgreSQL (``spec/sql_table.py``).
"""

from __future__ import annotations

from functools import partial

import pandas as pd
import pandera.errors
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.arrays import all_within
from importer_dagster.errors import SpecError
from importer_dagster.spec.columns import some
from importer_dagster.spec.date_formats import has_zone
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec, once_per_spec
from importer_dagster.validation import parse
from importer_dagster.validation.checks import (
    ColumnTest,
    all_at_once,
    column_check,
    column_test_of,
    get_check,
)

KEY_BYTES = 2_400  # of all texts of a key together; PostgreSQL's index takes 2,704, with tenant and overhead
_JSONB_BYTES = 6  # at most, for one byte of JSON text

_FORMAT_CHECKS = {"email": "email", "uri": "uri", "binary": "base64"}
_ORDERED = ("integer", "number", "date", "datetime", "time")

# --- Arrow ----------------------------------------------------------------------


def arrow_type(field: FieldSpec) -> pa.DataType:
    """The Arrow type of a field's typed column."""
    if field.type == "string":
        return pa.binary(16) if field.format == "uuid" else pa.string()
    if field.type == "number":
        return pa.float64() if field.format == "double" else pa.decimal128(field.precision, field.scale)
    if field.type == "datetime":
        return pa.timestamp("us", tz="UTC" if has_zone(field) else None)
    return {
        "integer": pa.int64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "time": pa.time64("us"),
        "object": pa.string(),  # JSON as text
    }[field.type]


@once_per_spec
def arrow_schema(spec: TableSpec) -> pa.Schema:
    """The typed columns, in the spec's order, under their column names."""
    return pa.schema([pa.field(f.column, arrow_type(f)) for f in spec.fields])


# --- Pandera ----------------------------------------------------------------------


@once_per_spec  # making it takes longer than checking a small file by it
def pandera_schema(spec: TableSpec) -> pandera.DataFrameSchema:
    """The Pandera schema that typed rows (Arrow-backed) must satisfy.

    Uniqueness is not in it: it applies to the whole file, and is checked in the
    database by the writer. Raises SpecError for a constraint, format or check
    that makes no sense.
    """
    schema = pandera.DataFrameSchema(
        {
            # nullable: whether a column is required is a check like any other, since Pandera's own
            # lists every missing value, which takes far longer than all the rest
            f.column: pandera.Column(pd.ArrowDtype(arrow_type(f)), checks=_checks_of(f, spec), nullable=True)
            for f in spec.fields
        },
        checks=[get_check(name) for name in spec.checks],
        name=spec.name,
        ordered=True,
        strict=True,
    )
    if not spec.checks and not any(f.checks for f in spec.fields):
        return schema
    # a run without rows finds checks that cannot work: of a field that does not exist, of text instead of a number
    no_rows = arrow_schema(spec).empty_table().to_pandas(types_mapper=pd.ArrowDtype)
    try:
        schema.validate(no_rows, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        for error in errors.schema_errors:
            if error.reason_code == pandera.errors.SchemaErrorReason.CHECK_ERROR:
                where = f"field {error.schema.name!r}" if error.schema is not schema else spec.name
                raise SpecError(
                    f"{where}: the check {error.check.name!r} does not work here: {error.failure_cases}"
                ) from None
    return schema


@once_per_spec
def batch_schema(spec: TableSpec) -> pandera.DataFrameSchema:
    """The checks of :func:`pandera_schema` for batches whose columns are known to be right.

    Inside of :func:`validation.checks.collecting` it finds the same failures. It takes a quarter of the
    time for a small file, since the checks of columns are one check for Pandera.
    """
    whole = pandera_schema(spec)
    column_checks: list[tuple[str, pandera.Check, ColumnTest]] = []
    columns: dict[str, pandera.Column] = {}
    for name, column in whole.columns.items():
        column_checks += [(name, check, test) for check in column.checks if (test := column_test_of(check))]
        other_checks = [check for check in column.checks if not column_test_of(check)]
        if other_checks:
            columns[name] = pandera.Column(checks=other_checks, nullable=True)
    return pandera.DataFrameSchema(
        columns, checks=[all_at_once(column_checks), *whole.checks], name=whole.name
    )


def has_only_cell_checks(spec: TableSpec) -> bool:
    """Whether every check looks at one cell only; other checks may compare a record with others of its batch."""
    schema = batch_schema(spec)
    return not schema.columns and len(schema.checks) == 1


# --- the checks of one column -------------------------------------------------------


def _checks_of(field: FieldSpec, spec: TableSpec) -> list[pandera.Check]:
    """All checks of one column, in the order in which their failures are reported."""
    parse.check_field(field)
    c = field.constraints
    checks: list[pandera.Check] = []
    if c.required:
        checks.append(column_check(pc.is_valid, name="required", error="is required, but missing"))
    if c.enum is not None:
        if field.type == "object":
            raise _misplaced(field, "enum", "every type but object")
        allowed = _parse_constants(field, "enum", c.enum)
        checks.append(
            column_check(
                lambda array: pc.or_(pc.is_null(array), pc.is_in(array, value_set=allowed)),
                name="enum",
                error=f"is not one of {some(c.enum)}",
            )
        )
    if c.pattern is not None:
        test = _pattern_test(field, c.pattern)
        checks.append(column_check(test, name="pattern", error=f"does not match the pattern {c.pattern}"))
    checks += _range_checks(field)
    checks += _length_checks(field)
    of_format = _FORMAT_CHECKS.get(field.formats[0]) if field.type == "string" else None
    if of_format and of_format not in field.checks:
        checks.append(get_check(of_format))
    checks += [get_check(name) for name in field.checks]
    # PostgreSQL would refuse the whole file for a text that does not fit the index of the key, such as one with
    # an unclosed quote
    texts = [f for f in spec.fields if f.column in spec.primary_key and (_is_text(f) or f.type == "object")]
    if spec.write_disposition in ("merge", "scd2") and field in texts:
        most = KEY_BYTES // len(texts) // (_JSONB_BYTES if field.type == "object" else 1)
        words = f"has more than {most} bytes, too many for the primaryKey"
        test = partial(_is_at_most, length_of=pc.binary_length, most=most)
        checks.append(column_check(test, name="primaryKey.length", error=words))
    return checks


def _pattern_test(field: FieldSpec, pattern: str) -> ColumnTest:
    if not _is_text(field):
        raise _misplaced(field, "pattern", "text")
    anchored = rf"\A(?:{pattern})\z"  # \z and not $, which would allow a final newline
    try:
        pc.match_substring_regex(pa.array([""]), anchored)
    except pa.ArrowInvalid as error:
        raise SpecError(
            f"field {field.name!r}: the pattern {pattern!r} is none that RE2 knows (it has no look-around "
            f"and no back-references): {error}",
            key=field.name,
        ) from None
    return partial(pc.match_substring_regex, pattern=anchored)


def _range_checks(field: FieldSpec) -> list[pandera.Check]:
    checks = []
    for name, bound, compare, word in (
        ("minimum", field.constraints.minimum, pc.less_equal, "less"),
        ("maximum", field.constraints.maximum, pc.greater_equal, "greater"),
    ):
        if bound is None:
            continue
        if field.type not in _ORDERED:
            raise _misplaced(field, name, f"type {', '.join(_ORDERED)}")
        value = _parse_constants(field, name, (bound,))[0]
        test = partial(
            compare, value
        )  # the bound is the first argument of the comparison, the cell the second
        checks.append(column_check(test, name=name, error=f"is {word} than {bound}"))
    return checks


def _length_checks(field: FieldSpec) -> list[pandera.Check]:
    least, most = field.constraints.minLength, field.constraints.maxLength
    checks = []
    for name, length in (("minLength", least), ("maxLength", most)):
        if length is not None and not _is_text(field):
            raise _misplaced(field, name, "text")
    if least is not None:
        words = f"is shorter than {least} characters"
        checks.append(
            column_check(
                lambda text: pc.greater_equal(pc.utf8_length(text), least), name="minLength", error=words
            )
        )
    if most is not None:
        test = partial(_is_at_most, length_of=pc.utf8_length, most=most)
        checks.append(column_check(test, name="maxLength", error=f"is longer than {most} characters"))
    return checks


def _is_at_most(text: pa.Array, length_of: ColumnTest, most: int) -> pa.Array:
    if all_within(text, 0, most):  # a fast look at bytes; a text never has more characters than bytes
        return pa.repeat(True, len(text))
    return pc.less_equal(length_of(text), most)


def _parse_constants(field: FieldSpec, what: str, words: tuple[str, ...]) -> pa.Array:
    """Texts of a constraint, read in the same way as the field's own values."""
    typed, bad = parse.parse(pa.array(words, pa.string()), field, ())
    if bad is not None:
        raise SpecError(f"field {field.name!r}: {what} {bad.messages[0].as_py()}", key=field.name)
    return typed


def _is_text(field: FieldSpec) -> bool:
    return field.type == "string" and field.format != "uuid"


def _misplaced(field: FieldSpec, what: str, with_: str) -> SpecError:
    return SpecError(f"field {field.name!r} ({field.type}): {what} goes with {with_}", key=field.name)
