"""Text into typed values: against Python's own exact readers, and by tables of what is taken and what not."""

import calendar
import datetime as dt
import json
import math
import struct
import uuid
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from importer_dagster.errors import SpecError
from importer_dagster.spec.date_formats import compile_format
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.validation import parse

UTC = dt.UTC


def field(type: str, **options: Any) -> FieldSpec:
    return FieldSpec(name="x", type=type, **options)


def read(of: FieldSpec, texts: list[str | None], missing: tuple[str, ...] = ("",)) -> list[Any]:
    """Values of the texts; the message, as a str, where one is faulty."""
    typed, bad = parse.parse(pa.array(texts, pa.string()), of, missing)
    values = typed.to_pylist()
    for i, message in zip(bad.indexes, bad.messages.to_pylist(), strict=True) if bad else ():
        assert values[i] is None, "a bad cell must be NULL in the typed column"
        values[i] = Fault(message)
    return values


class Fault(str):
    """A message in place of a value."""


def accepts(of: FieldSpec, pairs: list[tuple[str, Any]]) -> None:
    """Each text alone, and all of them among others, since a mixture takes another way through the code."""
    texts = [text for text, _ in pairs]
    values = [value for _, value in pairs]
    assert [read(of, [t])[0] for t in texts] == values
    assert read(of, [*texts, None, "<bad>", ""])[:-3] == values


def refuses(of: FieldSpec, texts: list[str], words: str) -> None:
    for found in [*(read(of, [t])[0] for t in texts), *read(of, texts)]:
        assert isinstance(found, Fault), found
        assert words in found


# --- integers and numbers ------------------------------------------------------------


def test_integer() -> None:
    accepts(
        field("integer"),
        [("0", 0), ("-0", 0), ("+1", 1), ("007", 7), ("-0000000000000000000000000012", -12),
         (str(2**63 - 1), 2**63 - 1), (str(-(2**63)), -(2**63)), ("+" + str(2**63 - 1), 2**63 - 1)],
    )  # fmt: skip
    refuses(field("integer"), ["0x1F", "-0X1f", "12a", " 1", "1 ", "1_000", "٣", "--1", "+", "-"],
            "is no integer")  # fmt: skip
    refuses(
        field("integer"),
        [str(2**63), str(-(2**63) - 1), "9" * 5000, "-" + "1" * 20],
        "range of a 64-bit integer",
    )


def test_integers_that_are_written_as_numbers() -> None:
    pairs = [("281.0", 281), ("-281.", -281), ("007.00", 7), ("0.0000", 0), ("1e3", 1000), ("1.5E+2", 150), ("-100e-2", -1),
             ("0e999999999999", 0), ("1.000e3", 1000), ("9223372036854775807.0", 2**63 - 1),
             ("1" + "0" * 5000 + "e-4999", 10), ("5e-00", 5)]  # fmt: skip
    accepts(field("integer"), pairs)
    refuses(field("integer", digitsOnly=True), [text for text, _ in pairs], "is no integer")
    refuses(field("integer"), ["281.5", "1.5e0", "1e-1", "0012E5", "00e1", "1e", "e3", ".", ".0", "1.0.0", "1e3.0", "1.000",
                               "12.000", "1e-999999999999999999"], "is no integer")  # fmt: skip
    refuses(
        field("integer"),
        ["1e19", "32E0134", "1e999999999999999999", "-1e" + "9" * 3000, "9223372036854775808.0", "1.5e300"],
        "range of a 64-bit integer",
    )
    accepts(field("integer", decimalChar=","), [("281,0", 281), ("1,000", 1), ("1,5e1", 15)])
    accepts(field("integer", groupChar=","), [("1,281.0", 1281), ("1.000", 1)])
    accepts(field("integer", bareNumber=False), [("281.0 EUR", 281), ("$5.00", 5)])
    refuses(field("integer", groupChar=".", decimalChar=","), ["281.0", "1.0"], "is no integer")
    assert read(field("integer"), ["1.5", "2.0"]) == ["'1.5' is no integer", 2]


@settings(deadline=None)
@given(st.from_regex(r"[+-]?([0-9]{1,45}\.?[0-9]{0,45}|\.[0-9]{1,9})[eE][+-]?[0-9]{1,3}", fullmatch=True))
def test_exponents_equal_python_decimal(text: str) -> None:
    for precision, scale in ((38, 0), (38, 18), (38, 38), (10, 4)):
        exact = _exact(text, precision, scale)
        [found] = read(field("number", precision=precision, scale=scale), [text])
        assert isinstance(found, Fault) if exact is None else found == exact


def test_hexadecimal_is_refused_beside_good_integers() -> None:
    assert read(field("integer"), ["1", "0x1F", "3"]) == [1, "'0x1F' is no integer", 3]


def test_number_is_exact() -> None:
    of = field("number", precision=10, scale=4)
    accepts(
        of,
        [("1.2345", Decimal("1.2345")), ("-0.0001", Decimal("-0.0001")), ("5.", Decimal(5)), (".5", Decimal("0.5")),
         ("+.5", Decimal("0.5")), ("1.23450000000000", Decimal("1.2345")), ("1e3", Decimal(1000)),
         ("12E-4", Decimal("0.0012")), ("0e999999", Decimal(0)), ("0" * 60 + "7", Decimal(7)),
         ("7." + "0" * 60, Decimal(7)), ("-999999.9999", Decimal("-999999.9999"))],
    )  # fmt: skip
    refuses(of, ["1.23456", "1e-5", "1e-99999999999999999999"], "has more than 4 decimals")
    refuses(of, ["1234567", "1e38", "1e99999999999999999999", "9" * 400], "has more than 6 digits before")
    refuses(
        of, ["12a", "NaN", "inf", "0x10", "1e", "e5", ".", "-", " 1", "1,5", "--1", "1.2.3"], "is no number"
    )


@settings(deadline=None)
@given(st.data())
def test_number_equals_python_decimal(data: st.DataObject) -> None:
    precision = data.draw(st.integers(1, 38))
    scale = data.draw(st.integers(0, precision))
    digits = st.from_regex(r"\A[+-]?(?:[0-9]{1,90}\.?[0-9]{0,60}|\.[0-9]{1,60})(?:[eE][+-]?[0-9]{1,3})?\Z")
    rough = st.text("0123456789+-.eE ", max_size=12)
    texts = data.draw(st.lists(digits | rough, min_size=1, max_size=8))
    for text, found in zip(
        texts, read(field("number", precision=precision, scale=scale), texts), strict=True
    ):
        expected = _exact(text, precision, scale)
        assert (found == expected and not isinstance(found, Fault)) if expected is not None else (
            isinstance(found, Fault) or text == ""
        ), (text, found, expected)  # fmt: skip


@settings(deadline=None)
@given(st.data())
def test_short_numbers_which_go_by_binary_floats_equal_python_decimal(data: st.DataObject) -> None:
    scale = data.draw(st.integers(0, 18))
    of = field("number", precision=data.draw(st.integers(max(scale, 1), 19)), scale=scale)
    units = st.integers(-(10**18), 10**18) | st.sampled_from(
        [10**n - d for n in range(1, 18) for d in (0, 1)]
    )
    shifts = st.integers(-18, 0)
    numbers = st.builds(lambda n, shift: format(Decimal(n).scaleb(shift), "f"), units, shifts)
    texts = data.draw(st.lists(numbers, min_size=1, max_size=3))
    for text, found in zip(texts, read(of, texts), strict=True):
        expected = _exact(text, of.precision, scale)
        assert isinstance(found, Fault) if expected is None else found == expected, (text, found, expected)


def _exact(text: str, precision: int, scale: int) -> Decimal | None:
    try:
        value = Decimal(text) if text == text.strip() else Decimal("x")
    except InvalidOperation:
        return None
    _, digits, exponent = value.normalize(_WIDE).as_tuple()
    fits = not any(digits) or (-exponent <= scale and len(digits) + exponent <= precision - scale)
    return value if fits else None


_WIDE = Context(prec=500, Emax=MAX_EMAX, Emin=MIN_EMIN)


def test_double() -> None:
    of = field("number", format="double")
    accepts(of, [("1.5", 1.5), ("+1e5", 1e5), ("-inf", -math.inf), ("Infinity", math.inf), ("1e-400", 0.0)])
    assert all(math.isnan(v) for v in read(of, ["nan", "NaN", "-nan"]))
    refuses(of, ["1e400", "-1e999"], "range of a binary float")
    refuses(of, ["nan(1)", "infinit", "0x10", "1,5", " 1", "x"], "is no number")


@pytest.mark.parametrize(
    "text", ["9" * 400, "127198222420213486683428", "-069e-72", "-9720448E-43", "1" + "0" * 77]
)
@pytest.mark.parametrize(("precision", "scale"), [(38, 38), (38, 18), (10, 4), (38, 0)])
def test_number_does_not_wrap_around(text: str, precision: int, scale: int) -> None:
    """Arrow's own cast gives wrong numbers for these, without an error."""
    found = read(field("number", precision=precision, scale=scale), [text])[0]
    assert found == Decimal(text) if _exact(text, precision, scale) is not None else isinstance(found, Fault)


@settings(deadline=None)
@given(st.lists(st.integers(-(10**40), 10**40) | st.integers(-(2**63) - 2, 2**63 + 1), min_size=1))
def test_integer_equals_python_int(values: list[int]) -> None:
    for value, found in zip(values, read(field("integer"), [str(v) for v in values]), strict=True):
        assert found == value if -(2**63) <= value < 2**63 else isinstance(found, Fault)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_double_reads_what_python_writes(values: list[float]) -> None:
    found = read(field("number", format="double"), [repr(v) for v in values])
    assert [struct.pack("d", f) for f in found] == [struct.pack("d", v) for v in values]


def test_decimal_comma_and_groups() -> None:
    german = field("number", precision=12, scale=2, decimalChar=",", groupChar=".")
    accepts(
        german,
        [("1.234,5", Decimal("1234.5")), ("1234,50", Decimal("1234.5")), (",5", Decimal("0.5")),
         ("-1.234.567", Decimal(-1234567))],
    )  # fmt: skip
    refuses(german, ["1,234.5", "1.23,4", "12.34", "1234.567", "1..234", ".5"], "is no number")
    indian = field("integer", groupChar=",")
    accepts(indian, [("12,34,567", 1234567), ("1,234,567", 1234567), ("1234567", 1234567), ("-1,234", -1234)])
    refuses(indian, ["123,45,678", "1,23", "1,234,5", ",123", "1,2345"], "is no integer")


def test_bare_number_false_takes_decoration_off_and_computes_nothing() -> None:
    of = field("number", precision=12, scale=2, bareNumber=False, groupChar=",")
    accepts(
        of,
        [("95%", Decimal(95)), ("$1,234.50", Decimal("1234.5")), ("-$5", Decimal(-5)), ("$-5", Decimal(-5)),
         ("EUR 5", Decimal(5)), ("5 €", Decimal(5)), ("7", Decimal(7)), ("5 EUR", Decimal(5))],
    )  # fmt: skip
    # each of these means minus five to some people, and something else to others
    refuses(of, ["5-", "(5)", "($5)", "−5", "-$-5"], "is no number")
    refuses(of, ["$", "a1b2", "1 2", "Rs. 5", "1.2.3"], "is no number")


def test_messages_show_the_text_of_the_file() -> None:
    assert read(field("integer", decimalChar=","), ["1,5"]) == ["'1,5' is no integer"]
    found = read(field("integer"), ["x" * 200])[0]
    assert found == "'" + "x" * 80 + "…' is no integer"


# --- words, uuid, json ----------------------------------------------------------------


def test_boolean() -> None:
    of = field("boolean", trueValues=["ja", "1"], falseValues=["nein"])
    accepts(of, [("ja", True), ("1", True), ("nein", False)])
    refuses(of, ["0", "true", "JA"], "is none of the words ja, 1, nein")


def test_words_of_any_length_are_told_apart() -> None:
    """Up to 7 bytes they are compared as numbers."""
    of = field("boolean", trueValues=["a", "äöü", "1234567"], falseValues=["", "ab", "123456"])
    accepts(of, [("a", True), ("äöü", True), ("1234567", True), ("ab", False), ("123456", False)])
    refuses(
        of, ["a\0", "\0a", "\0", "12345678", "1234567\0", "12345678\0", "äö", "b"], "is none of the words"
    )
    assert read(of, ["", "\0", "a", None], missing=())[::2] == [False, True]
    long = field("boolean", trueValues=["12345678"], falseValues=["123456789"])
    accepts(long, [("12345678", True), ("123456789", False)])
    refuses(long, ["1234567", "1234567\0", "1234567890"], "is none of the words")


def test_uuid() -> None:
    value = uuid.UUID("f01251e5-96a3-448d-981e-0f99d789110d")
    forms = [str(value), str(value).upper(), value.hex, "{" + str(value) + "}", "{" + value.hex.upper() + "}"]
    accepts(field("string", format="uuid"), [(form, value.bytes) for form in forms])
    text = str(value)
    refuses(field("string", format="uuid"),
            ["{" + text, text + "}", text[:-1], text.replace("-", " "), "g" + text[1:], text[:-1] + "é",
             "f01251e596a3-448d-981e-0f99d789110d"], "is no UUID")  # fmt: skip


def test_uuid_column_with_everything_mixed() -> None:
    value = uuid.uuid4()
    texts = [None, str(value), "x", value.hex, "", str(value)[:-1] + "z", None]
    assert read(field("string", format="uuid"), texts) == [
        None, value.bytes, "'x' is no UUID", value.bytes, None, f"'{texts[5]}' is no UUID", None,
    ]  # fmt: skip


def test_object_is_what_jsonb_takes() -> None:
    good = ['{"a": 1}', ' {"a": [1.5e10, null, "\\ud83d\\ude00"]} ', '{"a": "\\\\u0000 \\\\ud800"}', "{}"]
    accepts(field("object"), [(text, text) for text in good])
    refuses(field("object"), ["[1]", "1", '"a"', "null"], "is JSON, but no object")
    refuses(field("object"), ['{"a": NaN}', '{"a": -Infinity}', "{'a': 1}", '{"a": 1', '{"a": "\n"}', '{"a": 1e99999}'],
            "is no JSON")  # fmt: skip
    refuses(field("object"), ['{"a": "\\u0000"}', '{"a": "\\\\\\u0000"}'], "NUL")
    # the last of two equal keys hides the first, but PostgreSQL reads both
    refuses(
        field("object"),
        ['{"a": "\\ud800"}', '{"a": "\\udc00\\ud800"}', '{"a": "\\uD800", "a": 1}'],
        "surrogate",
    )
    refuses(field("object"), ['{"a":' * 100_000], "nested too deeply")


def test_string_is_taken_as_it_is() -> None:
    texts = ["", " a ", "NULL", "0012", None, "😀", "a\nb"]
    typed, bad = parse.parse(pa.array(texts), field("string"), ())
    assert typed.to_pylist() == texts
    assert bad is None


# --- missing values -------------------------------------------------------------------

EVERY_TYPE = [
    field("string"),
    field("string", format="uuid"),
    field("integer"),
    field("integer", groupChar=","),
    field("number", precision=10, scale=2),
    field("number", format="double"),
    field("number", bareNumber=False),
    field("boolean"),
    field("date"),
    field("date", format="%d.%m.%Y"),
    field("datetime"),
    field("datetime", timezone="Europe/Berlin"),
    field("datetime", format="%Y-%m-%d %H:%M:%S%z"),
    field("time"),
    field("object"),
]


@pytest.mark.parametrize("of", EVERY_TYPE, ids=lambda f: f"{f.type}-{f.format}-{f.timezone}")
@pytest.mark.parametrize("texts", [[], [None], [None, "", "n/a"], [""] * 3])
def test_missing_values_become_null(of: FieldSpec, texts: list[str | None]) -> None:
    assert read(of, texts, ("", "n/a")) == [None] * len(texts)


@pytest.mark.parametrize("of", EVERY_TYPE[1:], ids=lambda f: f"{f.type}-{f.format}-{f.timezone}")
def test_an_empty_text_that_is_no_missing_value_is_a_fault(of: FieldSpec) -> None:
    assert isinstance(read(of, [""], ("n/a",))[0], Fault)


@pytest.mark.parametrize("of", EVERY_TYPE[1:], ids=lambda f: f"{f.type}-{f.format}-{f.timezone}")
def test_a_slice_of_a_larger_column_is_read_alone(of: FieldSpec) -> None:
    text = pa.array(["<bad>", None, "<bad>", "é", None, "<bad>"])
    typed, bad = parse.parse(text.slice(1, 3), of, ("",))
    assert typed.null_count == len(typed) == 3
    assert bad is not None
    assert bad.indexes.tolist() == [1, 2]
    assert bad.messages[0].as_py().startswith("'<bad>' ")


# --- dates and times --------------------------------------------------------------------


def test_iso_date() -> None:
    accepts(
        field("date"),
        [("2024-02-29", dt.date(2024, 2, 29)), ("0001-01-01", dt.date.min), ("9999-12-31", dt.date.max)],
    )
    refuses(
        field("date"),
        ["2024-02-30", "2023-02-29", "1900-02-29", "2024-13-01", "2024-00-01", "0000-01-01"],
        "exists",
    )
    refuses(field("date"), ["2024-1-1", "20240101", "2024-01-01 00:00:00", "01/02/2024", "24-01-01", "2024-01-01T"],
            "is no ISO 8601 date")  # fmt: skip


def test_iso_datetime() -> None:
    accepts(
        field("datetime"),
        [("2024-01-02", dt.datetime(2024, 1, 2)), ("2024-01-02T03:04", dt.datetime(2024, 1, 2, 3, 4)),
         ("2024-01-02 03:04:05", dt.datetime(2024, 1, 2, 3, 4, 5)),
         ("2024-01-02 03:04:05.1", dt.datetime(2024, 1, 2, 3, 4, 5, 100_000)),
         ("9999-12-31T23:59:59.999999", dt.datetime.max), ("0001-01-01 00:00:00", dt.datetime.min)],
    )  # fmt: skip
    refuses(
        field("datetime"), ["2024-01-02 24:00:00", "2024-01-02 23:59:60", "2024-02-30 00:00:00"], "exists"
    )
    refuses(field("datetime"), ["2024-01-02 10", "2024-01-02 10:11:12;5", "2024-01-02 10:11:12.", "10:11:12"],
            "is no ISO 8601 date and time")  # fmt: skip
    refuses(
        field("datetime"), ["2024-01-02T10:11:12Z", "2024-01-02T10:11:12+02:00"], "the field has no timezone"
    )


def test_hours_alone_are_refused_beside_good_datetimes() -> None:
    found = read(field("datetime"), ["2024-01-01", "2024-01-01 10"])
    assert found[0] == dt.datetime(2024, 1, 1)
    assert isinstance(found[1], Fault)


def test_iso_time() -> None:
    accepts(
        field("time"),
        [("10:11", dt.time(10, 11)), ("10:11:12.5", dt.time(10, 11, 12, 500_000)), ("00:00:00", dt.time())],
    )
    refuses(field("time"), ["24:00:00", "23:59:60", "10:60"], "exists")
    refuses(field("time"), ["1:00", "10", "10:11:12Z"], "is no ISO 8601 time of day")


def test_several_formats_are_tried_in_order_for_each_value() -> None:
    of = field("date", format=["%d/%m/%Y", "%m/%d/%Y", "default"])
    accepts(of, [("13/02/2024", dt.date(2024, 2, 13)), ("02/13/2024", dt.date(2024, 2, 13)),
                 ("2024-02-13", dt.date(2024, 2, 13)),
                 ("03/04/2024", dt.date(2024, 4, 3))])  # fmt: skip  # both read it: the first counts
    refuses(of, ["13.02.2024", "x"], "is no date in one of the formats %d/%m/%Y, %m/%d/%Y, ISO 8601")
    refuses(of, ["30/02/2024", "2024-02-30"], "is no date or time that exists")
    assert read(field("date", format=["%m/%d/%Y", "%d/%m/%Y"]), ["03/04/2024"]) == [dt.date(2024, 3, 4)]


def test_several_formats_of_datetimes_and_times() -> None:
    accepts(field("time", format=["%H:%M:%S", "%I:%M %p"]),
            [("10:20:30", dt.time(10, 20, 30)), ("1:05 pm", dt.time(13, 5))])  # fmt: skip
    accepts(field("datetime", format=["%m/%d/%Y %H:%M", "default"]),
            [("1/31/2020 8:09", dt.datetime(2020, 1, 31, 8, 9)), ("2020-02-02T10:11:12", dt.datetime(2020, 2, 2, 10, 11, 12))])  # fmt: skip
    zoned = field("datetime", format=["%Y-%m-%dT%H:%M:%S%z", "%d.%m.%Y %H:%M"], timezone="Europe/Berlin")
    accepts(zoned, [("2024-01-01T10:11:12Z", dt.datetime(2024, 1, 1, 10, 11, 12, tzinfo=UTC)),
                    ("01.07.2024 12:00", dt.datetime(2024, 7, 1, 10, tzinfo=UTC))])  # fmt: skip
    refuses(zoned, ["31.03.2024 02:30"], "did not happen in Europe/Berlin")


@settings(max_examples=40)
@given(st.lists(st.tuples(st.dates(dt.date(1000, 1, 1)), st.integers(0, 2)), min_size=1))
def test_each_value_is_read_by_the_format_that_wrote_it(made: list[tuple[dt.date, int]]) -> None:
    patterns = ["%d.%m.%Y", "%Y%m%d", "%b %d, %Y"]
    texts = [d.strftime(patterns[i]) for d, i in made]
    assert read(field("date", format=patterns), texts) == [d for d, _ in made]


@pytest.mark.parametrize(
    ("type_", "formats", "words"),
    [
        ("string", ["default", "uuid"], "date, datetime or time"),
        ("date", [], "at least one"),
        ("date", ["%Y", "%Y"], "twice"),
        ("date", ["%Y-%m-%d", "%Q"], "%Q"),
        ("datetime", ["%Y-%m-%dT%H:%M%z", "%Y-%m-%d"], "timezone"),
    ],
)
def test_formats_that_make_no_sense(type_: str, formats: list[str], words: str) -> None:
    with pytest.raises((SpecError, ValueError), match=words):
        parse.check_field(field(type_, format=formats))


def test_declared_format_is_taken_to_the_letter() -> None:
    of = field("datetime", format="%Y-%m-%d %H:%M:%S.%f")
    accepts(of, [("2014-06-30 00:00:00.123", dt.datetime(2014, 6, 30, 0, 0, 0, 123_000))])
    refuses(of, ["2014-06-30T00:00:00.123", "2014-06-30 00:00:00", "2014-06-30", "2014-06-30 00:00:00,1"],
            "in the format %Y-%m-%d %H:%M:%S.%f")  # fmt: skip
    accepts(field("date", format="%m/%d/%y"), [("1/22/20", dt.date(2020, 1, 22)), ("12/31/68", dt.date(2068, 12, 31)),
                                               ("01/01/69", dt.date(1969, 1, 1))])  # fmt: skip
    accepts(
        field("date", format="%d %B %Y"),
        [("1 march 2024", dt.date(2024, 3, 1)), ("31 May 2024", dt.date(2024, 5, 31))],
    )
    accepts(field("date", format="%a, %d-%b-%Y"), [("Fri, 01-MAR-2024", dt.date(2024, 3, 1))])
    accepts(
        field("time", format="%I:%M %p"),
        [("1:05 PM", dt.time(13, 5)), ("12:00 am", dt.time()), ("12:00 PM", dt.time(12))],
    )
    accepts(
        field("date", format="%Y-%j"),
        [("2024-366", dt.date(2024, 12, 31)), ("2023-001", dt.date(2023, 1, 1))],
    )
    refuses(field("date", format="%Y-%j"), ["2023-366", "2024-000"], "exists")
    accepts(field("date", format="%Y-%m"), [("2024-03", dt.date(2024, 3, 1))])
    accepts(field("date", format="%Y年%m月%d日"), [("2024年03月05日", dt.date(2024, 3, 5))])
    accepts(field("date", format="100%% %F"), [("100% 2024-03-05", dt.date(2024, 3, 5))])


def test_numbers_side_by_side_need_their_full_width() -> None:
    of = field("date", format="%d%m%Y")
    accepts(of, [("01112024", dt.date(2024, 11, 1))])
    refuses(of, ["1112024"], "in the format")  # 11 January or 1 November?


def test_offsets() -> None:
    of = field("datetime", format="%Y-%m-%dT%H:%M:%S%z")
    accepts(of, [("2024-01-01T10:11:12Z", dt.datetime(2024, 1, 1, 10, 11, 12, tzinfo=UTC)),
                 ("2024-01-01T10:11:12+0230", dt.datetime(2024, 1, 1, 7, 41, 12, tzinfo=UTC)),
                 ("2024-01-01T10:11:12-14:00", dt.datetime(2024, 1, 2, 0, 11, 12, tzinfo=UTC))])  # fmt: skip
    refuses(
        of, ["2024-01-01T10:11:12", "2024-01-01T10:11:12+99:00", "2024-01-01T10:11:12+01:60"], "in the format"
    )
    refuses(of, ["0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00"], "outside of the years")


MICRO = dt.datetime(2024, 1, 2, 3, 4, 5, 123_456)


@pytest.mark.parametrize(
    ("of", "texts", "value"),
    [
        (field("datetime"), ["2024-01-02 03:04:05.1234560", "2024-01-02T03:04:05,123456000"], MICRO),
        (field("datetime"), ["2024-01-02 03:04:05.123456" + "0" * 20], MICRO),
        (field("datetime", format="%d.%m.%Y %H:%M:%S,%f"), ["02.01.2024 03:04:05,123456000"], MICRO),
        (field("datetime", format="%I:%M:%S.%f %p %F"), ["03:04:05.1234560 AM 2024-01-02"], MICRO),
        (
            field("datetime", timezone="UTC"),
            ["2024-01-02 03:04:05.1234560Z", "2024-01-02T04:04:05,1234560+01:00", "2024-01-02 03:04:05.1234560"],
            MICRO.replace(tzinfo=UTC),
        ),
        (
            field("datetime", format="%Y-%m-%d %H:%M:%S.%f %z"),
            ["2024-01-02 03:04:05.1234560 +00:00", "2024-01-02 04:04:05.123456000 +0100"],
            MICRO.replace(tzinfo=UTC),
        ),
        (field("time"), ["03:04:05.1234560", "03:04:05,123456000"], MICRO.time()),
        (field("time", format=["%H.%M.%S.%f", "default"]), ["03.04.05.1234560", "03:04:05.123456"], MICRO.time()),
    ],
    ids=str,
)  # fmt: skip
def test_fractions_finer_than_a_microsecond(of: FieldSpec, texts: list[str], value: Any) -> None:
    accepts(of, [(text, value) for text in texts])
    accepts(of, [(text, value) for text in texts[:1] * 3])
    # a digit that would be lost
    refuses(
        of, [t.replace("1234560", "1234567") for t in texts if "1234560" in t], "finer than a microsecond"
    )


def test_zone_of_times_that_name_none() -> None:
    of = field("datetime", timezone="Europe/Berlin")
    accepts(of, [("2024-07-01 12:00:00", dt.datetime(2024, 7, 1, 10, tzinfo=UTC)),
                 ("2024-01-01", dt.datetime(2023, 12, 31, 23, tzinfo=UTC)),
                 ("2024-03-31 02:30:00Z", dt.datetime(2024, 3, 31, 2, 30, tzinfo=UTC)),
                 ("2024-07-01T12:00:00.5+00:30", dt.datetime(2024, 7, 1, 11, 30, 0, 500_000, tzinfo=UTC)),
                 ("2024-07-01T12:00-03", dt.datetime(2024, 7, 1, 15, tzinfo=UTC)),
                 ("2024-10-27 02:30:00", dt.datetime(2024, 10, 27, 0, 30, tzinfo=UTC))])  # fmt: skip
    refuses(of, ["2024-03-31 02:30:00"], "did not happen in Europe/Berlin")
    refuses(of, ["0001-01-01 00:00:00"], "outside of the years")


DATES = ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%y", "%d%m%Y", "%b %d, %Y", "%A %d %B %Y", "%Y %j"]
TIMES = ["%H:%M:%S", "%H:%M:%S.%f", "%H%M", "%I:%M:%S.%f %p"]


@settings(deadline=None)
@given(st.data())
def test_formats_read_what_python_writes(data: st.DataObject) -> None:
    pattern = data.draw(st.sampled_from(DATES)) + data.draw(st.sampled_from(["", *(f" {t}" for t in TIMES)]))
    zone = data.draw(st.sampled_from(["", "%z"])) if " %H" in pattern else ""
    least, most = (dt.datetime(1969, 1, 1), dt.datetime(2068, 12, 31)) if "%y" in pattern else (
        dt.datetime(1000, 1, 1), dt.datetime(9998, 12, 31))  # fmt: skip
    offsets = st.timezones().map(
        lambda z: dt.timezone(dt.datetime(2024, 1, 1, tzinfo=z).utcoffset() or dt.timedelta())
    )
    values = data.draw(
        st.lists(st.datetimes(least, most, timezones=offsets if zone else st.none()), min_size=1)
    )
    texts = [v.strftime(pattern + zone) for v in values]
    expected = [dt.datetime.strptime(t, pattern + zone) for t in texts]
    assert read(field("datetime", format=pattern + zone), texts) == expected


@settings(deadline=None)
@given(st.lists(st.text("0123456789-: TZ+.", max_size=28) | st.datetimes().map(str), min_size=1))
def test_iso_reads_no_more_than_python(texts: list[str]) -> None:
    for text, found in zip(texts, read(field("datetime"), texts), strict=True):
        if text and not isinstance(found, Fault):
            assert found == dt.datetime.fromisoformat(text)


@settings(deadline=None)
@given(st.lists(st.dates().map(str) | st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}\Z"), min_size=1))
def test_dates_exist_when_python_says_so(texts: list[str]) -> None:
    for text, found in zip(texts, read(field("date"), texts), strict=True):
        try:
            assert found == dt.date.fromisoformat(text)
        except ValueError:
            assert isinstance(found, Fault)


@pytest.mark.parametrize(
    ("type", "pattern", "words"),
    [
        ("date", "%Q", "%Q, which is not known"),
        ("date", "any", "no directive"),
        ("date", "%Y-%Y", "twice"),
        ("date", "%Y-%m-%d %b", "two ways"),
        ("date", "%d/%m", "no year"),
        ("date", "%Y-%d", "no month"),
        ("date", "%Y-%m-%d %H:%M", "use type datetime"),
        ("time", "%Y-%m-%d %H:%M", "use type datetime"),
        ("time", "%H:%M%z", "use type datetime"),
        ("time", "%I:%M", "%I and %p"),
        ("time", "%H:%M %p", "%I and %p"),
        ("time", "%M:%S", "larger part"),
        ("datetime", "%Y-%m-%d %H.%f", "no second"),
        ("date", "%Y-%m-%d%", "which is not known"),
    ],
)
def test_formats_that_leave_something_open_are_refused(type: str, pattern: str, words: str) -> None:
    with pytest.raises(SpecError, match="field 'x'") as raised:
        parse.check_field(field(type, format=pattern))
    assert words in str(raised.value)


def test_unknown_zone_is_a_spec_error() -> None:
    with pytest.raises(SpecError, match="no IANA time zone"):
        parse.check_field(field("datetime", timezone="Europe/Atlantis"))
    with pytest.raises(SpecError, match="type datetime only"):
        parse.check_field(field("date", timezone="UTC"))


# --- the two ways through the code agree ----------------------------------------------------


def test_the_calendar_is_that_of_python() -> None:
    days = [dt.date(year, 3, 1) - dt.timedelta(n) for year in range(1, 10_000) for n in (0, 1)]
    texts = [f"{d:%d.%m.}{d.year:04}" for d in days]
    assert read(field("date", format="%d.%m.%Y"), texts) == days
    leap = [f"29.02.{year:04}" for year in range(1, 10_000)]
    found = [isinstance(v, dt.date) for v in read(field("date", format="%d.%m.%Y"), leap)]
    assert found == [calendar.isleap(year) for year in range(1, 10_000)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_bad_cells_do_not_change_what_becomes_of_their_neighbours(data: st.DataObject) -> None:
    of = data.draw(st.sampled_from(EVERY_TYPE))
    rough = st.text('0123456789-:. T+eE%,xnaif{}"', max_size=24)
    texts = data.draw(st.lists(st.none() | st.sampled_from(SAMPLES) | rough, min_size=1, max_size=12))
    alone = [read(of, [t])[0] for t in texts]
    together = read(of, texts)
    assert [_comparable(v) for v in together] == [_comparable(v) for v in alone]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_lies_behind_nulls_and_before_the_column_is_not_looked_at(data: st.DataObject) -> None:
    of = data.draw(st.sampled_from(EVERY_TYPE))
    cells = st.tuples(st.sampled_from([*SAMPLES, ""]), st.booleans())
    drawn = data.draw(st.lists(cells, min_size=1, max_size=12))
    before = data.draw(st.integers(0, len(drawn)))
    hidden = pa.array([text for text, _ in drawn], pa.string())
    bits = pa.array([is_there for _, is_there in drawn]).buffers()[1]
    behind = pa.Array.from_buffers(pa.string(), len(drawn), [bits, *hidden.buffers()[1:]]).slice(before)
    plain = pa.array([text if is_there else None for text, is_there in drawn[before:]], pa.string())
    (typed, bad), (expected, bad_plain) = (parse.parse(text, of, ("",)) for text in (behind, plain))
    assert [_comparable(v) for v in typed.to_pylist()] == [_comparable(v) for v in expected.to_pylist()]
    assert bool(bad) == bool(bad_plain)
    if bad and bad_plain:
        assert bad.messages.equals(bad_plain.messages)
        assert bad.indexes.tolist() == bad_plain.indexes.tolist()


def _comparable(value: Any) -> Any:
    return (type(value).__name__, repr(value))


SAMPLES = [
    "1", "-1.50", "+7", "1e2", "true", "0", "2024-01-02", "02.01.2024", "2024-01-02 03:04:05", "2024-01-02T03:04",
    "2024-01-02 03:04:05+01:00", "2024-01-02 03:04:05Z", "03:04:05.5", json.dumps({"a": 1}), str(uuid.UUID(int=1)),
    uuid.UUID(int=2).hex, "0x1F", "0000-00-00", "2024-02-30", "9" * 40, "nan", "inf", "1,234", "$5",
]  # fmt: skip


def test_compiled_formats_are_kept() -> None:
    assert compile_format("%d.%m.%Y", "date") is compile_format("%d.%m.%Y", "date")
