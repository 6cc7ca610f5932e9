"""The schema factory: what a spec becomes in Arrow, Pandera and PostgreSQL.

The spec is the only place where a column is described; each function here is
one projection of it.

What does not belong here: reading text (``validation/parse.py``), statements (``writer/publish.py``),
columns in words (``spec/columns.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

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
from importer_dagster.validation.checks import Judge, all_at_once, column_check, get_check, judge_of

KEY_BYTES = 2_400  # of a key's texts together: PostgreSQL's index takes 2,704, tenant and all else included
_JSONB_BYTES = 6  # at most, for one of the JSON text

Judge2: TypeAlias = Callable[[pa.Array, Any], pa.Array]

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


# --- PostgreSQL -------------------------------------------------------------------


# --- Pandera ----------------------------------------------------------------------

_FORMAT_CHECKS = {"email": "email", "uri": "uri", "binary": "base64"}
_ORDERED = ("integer", "number", "date", "datetime", "time")


@once_per_spec  # making it takes longer than judging a small file by it
def pandera_schema(spec: TableSpec) -> pandera.DataFrameSchema:
    """The Pandera schema that typed rows (Arrow-backed) must satisfy.

    Uniqueness is not in it: it holds over the whole file, and is checked in the
    database by the writer. Raises SpecError for a constraint, format or check
    that makes no sense.
    """
    built = pandera.DataFrameSchema(
        {
            # nullable: what is required is a check like any other, since Pandera's own
            # lists every missing value, which takes far longer than all the rest
            f.column: pandera.Column(
                pd.ArrowDtype(arrow_type(f)), checks=_checks(f) + _key_checks(f, spec), nullable=True
            )
            for f in spec.fields
        },
        checks=[get_check(name) for name in spec.checks],
        name=spec.name,
        ordered=True,
        strict=True,
    )
    if spec.checks or any(f.checks for f in spec.fields):
        _try_on_nothing(built, spec)
    return built


@once_per_spec
def batch_schema(spec: TableSpec) -> pandera.DataFrameSchema:
    """The checks of :func:`pandera_schema` for batches that have the right columns by construction.

    Inside of :func:`validation.checks.collecting` it finds the same with a quarter of the
    time for a small file: what Pandera need not do column by column is one check.
    """
    whole = pandera_schema(spec)
    own: list[tuple[str, pandera.Check, Judge]] = []
    others: dict[str, pandera.Column] = {}
    for name, column in whole.columns.items():
        own += [(name, c, judge) for c in column.checks if (judge := judge_of(c))]
        foreign = [c for c in column.checks if not judge_of(c)]
        if foreign:
            others[name] = pandera.Column(checks=foreign, nullable=True)
    return pandera.DataFrameSchema(others, checks=[all_at_once(own), *whole.checks], name=whole.name)


def judges_row_by_row(spec: TableSpec) -> bool:
    """Whether no check is somebody else's, which may judge a record by others of its batch."""
    found = batch_schema(spec)
    return not found.columns and len(found.checks) == 1


def _try_on_nothing(built: pandera.DataFrameSchema, spec: TableSpec) -> None:
    """Find a check that cannot work (a field that is not there, text where a number is) before any data."""
    empty = arrow_schema(spec).empty_table().to_pandas(types_mapper=pd.ArrowDtype)
    try:
        built.validate(empty, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        for error in errors.schema_errors:
            if error.reason_code == pandera.errors.SchemaErrorReason.CHECK_ERROR:
                where = f"field {error.schema.name!r}" if error.schema is not built else spec.name
                raise SpecError(
                    f"{where}: the check {error.check.name!r} does not work here: {error.failure_cases}"
                ) from None


def _checks(field: FieldSpec) -> list[pandera.Check]:
    """Everything that is judged of one column, in the order in which people would."""
    parse.check_field(field)
    c = field.constraints
    checks: list[pandera.Check] = []
    if c.required:
        checks.append(column_check(pc.is_valid, name="required", error="is required, but missing"))
    if c.enum is not None:
        checks.append(column_check(_is_in(field, c.enum), name="enum", error=f"is not one of {some(c.enum)}"))
    if c.pattern is not None:
        checks.append(
            column_check(
                _full_match(field, c.pattern), name="pattern", error=f"does not match the pattern {c.pattern}"
            )
        )
    checks += [*_bounds(field), *_lengths(field)]
    of_format = _FORMAT_CHECKS.get(field.formats[0]) if field.type == "string" else None
    if of_format and of_format not in field.checks:
        checks.append(get_check(of_format))
    return checks + [get_check(name) for name in field.checks]


def _key_checks(field: FieldSpec, spec: TableSpec) -> list[pandera.Check]:
    """That a text fits the table's index, which would refuse the whole file; so does what an unclosed quote makes of it."""
    texts = [f for f in spec.fields if f.column in spec.primary_key and (_is_text(f) or f.type == "object")]
    if spec.write_disposition not in ("merge", "scd2") or field not in texts:
        return []
    most = KEY_BYTES // len(texts) // (_JSONB_BYTES if field.type == "object" else 1)
    words = f"has more than {most} bytes, too many for the primaryKey"
    return [column_check(partial(_is_within, most=most), name="primaryKey.length", error=words)]


def _is_within(array: pa.Array, most: int) -> pa.Array:
    if all_within(array, 0, most):
        return pa.repeat(True, len(array))
    return pc.less_equal(pc.binary_length(array), most)


def _bounds(field: FieldSpec) -> Iterator[pandera.Check]:
    sides = (
        ("minimum", field.constraints.minimum, pc.greater_equal, "less"),
        ("maximum", field.constraints.maximum, pc.less_equal, "greater"),
    )
    for name, text, compare, word in sides:
        if text is None:
            continue
        if field.type not in _ORDERED:
            raise _misplaced(field, name, f"type {', '.join(_ORDERED)}")
        bound = _parse_constants(field, name, (text,))[0]
        yield column_check(
            partial(_compared, compare=compare, bound=bound), name=name, error=f"is {word} than {text}"
        )


def _compared(array: pa.Array, compare: Judge2, bound: pa.Scalar) -> pa.Array:
    return compare(array, bound)


def _lengths(field: FieldSpec) -> Iterator[pandera.Check]:
    c = field.constraints
    for name, length, compare, word in (
        ("minLength", c.minLength, pc.greater_equal, "shorter"),
        ("maxLength", c.maxLength, pc.less_equal, "longer"),
    ):
        if length is None:
            continue
        if not _is_text(field):
            raise _misplaced(field, name, "text")
        yield column_check(
            partial(_length_compared, compare=compare, length=length),
            name=name,
            error=f"is {word} than {length} characters",
        )


def _length_compared(array: pa.Array, compare: Judge2, length: int) -> pa.Array:
    if compare is pc.less_equal and all_within(array, 0, length):
        return pa.repeat(True, len(array))  # with no more bytes there are no more characters
    return compare(pc.utf8_length(array), length)


def _is_in(field: FieldSpec, words: tuple[str, ...]) -> Judge:
    if field.type == "object":
        raise _misplaced(field, "enum", "every type but object")
    values = _parse_constants(field, "enum", words)
    return lambda array: pc.or_(pc.is_null(array), pc.is_in(array, value_set=values))


def _parse_constants(field: FieldSpec, what: str, words: tuple[str, ...]) -> pa.Array:
    """Words of a constraint, read as the field's own text is."""
    typed, bad = parse.parse(pa.array(words, pa.string()), field, ())
    if bad is not None:
        raise SpecError(f"field {field.name!r}: {what} {bad.messages[0].as_py()}", key=field.name)
    return typed


def _full_match(field: FieldSpec, pattern: str) -> Judge:
    if not _is_text(field):
        raise _misplaced(field, "pattern", "text")
    anchored = rf"\A(?:{pattern})\z"  # \z and not $, which would let a final newline pass
    try:
        pc.match_substring_regex(pa.array([""]), anchored)
    except pa.ArrowInvalid as error:
        raise SpecError(
            f"field {field.name!r}: the pattern {pattern!r} is none that RE2 knows (it has no look-around "
            f"and no back-references): {error}",
            key=field.name,
        ) from None
    return partial(pc.match_substring_regex, pattern=anchored)


def _is_text(field: FieldSpec) -> bool:
    return field.type == "string" and field.format != "uuid"


def _misplaced(field: FieldSpec, what: str, with_: str) -> SpecError:
    return SpecError(f"field {field.name!r} ({field.type}): {what} goes with {with_}", key=field.name)
