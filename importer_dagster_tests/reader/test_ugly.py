"""Every file in ../shared/data/ugly, through the whole importer: what its line in expected.csv says.

A case names its spec and what must come out. CONFIG cases are tried twice:
without their dialect they are refused or rejected, with it they load. Where we
judge otherwise than expected.csv, ``judged`` says why, and docs/reading.md lists it.
"""

import csv
import datetime as dt
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from importer_dagster.model import LoadResult
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import SHARED, Inbox, database

UGLY = SHARED / "ugly"
DOCS = Path(__file__).parents[2] / "docs" / "reading.md"

pytestmark = pytest.mark.shared


@dataclass
class Expect:
    """What must come of one file under one spec."""

    fields: list[Any]
    dialect: dict[str, Any] = field(default_factory=dict)
    encoding: str = "utf-8"
    missing: list[str] | None = None
    key: list[str] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    status: str = "loaded"
    counts: tuple[int, int, int] = (0, 0, 0)  # loaded, rejected, skipped
    rows: list[tuple[Any, ...]] | None = None  # all of them
    cell: tuple[str, Any] | None = None  # an SQL condition or expression, and its value
    rejects: list[tuple[int, str]] | None = None  # (line, rule)
    reason: str = ""
    warns: str | None = None  # words of a warning or drift event

    def spec(self, name: str) -> TableSpec:
        schema: dict[str, Any] = {"fields": [f if isinstance(f, dict) else _field(f) for f in self.fields]}
        if self.key:
            schema["primaryKey"] = self.key
        if self.missing is not None:
            schema["missingValues"] = self.missing
        return TableSpec.model_validate(
            {
                "name": name,
                "schema": schema,
                "dialect": self.dialect,
                "encoding": self.encoding,
                **self.options,
            }
        )


def _field(text: str) -> dict[str, Any]:
    """``"id:integer"`` as a field."""
    name, _, kind = text.partition(":")
    return {"name": name, "type": kind} if kind else {"name": name}


def header_of(file: str, encoding: str = "utf-8-sig", delimiter: str = ",", line: int = 0) -> list[str]:
    """Names of a file's header, as Python's csv module reads them."""
    text = (UGLY / file).read_bytes().decode(encoding)
    return [n.strip() for n in list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))[line]]


@dataclass
class Case:
    """One file: the expected outcome, with its dialect and (for CONFIG) without."""

    outcome: str
    declared: Expect
    plain: Expect | None = None
    judged: str = ""  # why we differ from expected.csv


def refused(fields: list[Any], reason: str, **more: Any) -> Expect:
    return Expect(fields, status="refused", reason=reason, **more)


CSSE = [
    "Province/State",
    "Country/Region",
    "Last Update",
    "Confirmed:integer",
    "Deaths:integer",
    "Recovered:integer",
]
POLLOCK = [
    "DATE",
    "TIME",
    "Qty:integer",
    "PRODUCTID",
    "Price",
    "ProductType",
    "ProductDescription",
    "URL",
    "Comments",
]
PRICE = {"name": "Price", "type": "number", "precision": 10, "scale": 2, "bareNumber": False}
SHOP = [
    {"name": "DATE", "type": "date", "format": "%d/%m/%Y"},
    "TIME",
    "Qty:integer",
    "PRODUCTID",
    PRICE,
    *POLLOCK[5:],
]
IMDB = ["tconst", "titleType", "primaryTitle", "originalTitle", "isAdult:integer", "startYear:integer", "endYear:integer",
        "runtimeMinutes:integer", "genres"]  # fmt: skip
MONTHS = [
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
    "J-D",
    "D-N",
    "DJF",
    "MAM",
    "JJA",
    "SON",
]
ABC = ["a", "b", "c"]
PEOPLE = ["name", "age:integer"]
BUDGET = ["GF_ID", "FN_ID", "SF_ID", "GF", "F", "SF",
          {"name": "Gasto total 2011", "type": "number", "precision": 18, "scale": 2, "groupChar": ","}, "Descripción"]  # fmt: skip


def cases() -> dict[str, Case]:
    return {
        "enc_utf8_bom.csv": Case("LOAD", Expect(["id:integer", "name"], counts=(2, 0, 0), rows=[(1, "english"), (2, "中国人")])),
        "enc_utf16le_bom_large_real.csv": Case(
            "LOAD",
            Expect(header_of("enc_utf16le_bom_large_real.csv", "utf-16"), counts=(327, 0, 0),
                   cell=("max(\"Reporting_period\")", "2010-11")),
        ),
        "enc_utf16be_bom.csv": Case("LOAD", Expect(PEOPLE, counts=(12, 0, 0), cell=("min(age) FILTER (WHERE name = 'José Álvarez')", 30))),
        "enc_cp1252_thousands_real.csv": Case(
            "CONFIG",
            Expect(BUDGET, encoding="cp1252", counts=(116, 0, 0), cell=('max("Gasto total 2011") FILTER (WHERE "GF_ID" = \'1\' AND "FN_ID" IS NULL)', Decimal("229932.50"))),
            refused(BUDGET, "is not UTF-8: the header holds bytes that are none, the first of them at offset 52 in line 1. Perhaps it is cp1252"),
        ),
        "enc_shift_jis.csv": Case(
            "CONFIG",
            Expect(["名前", "年齢:integer"], encoding="shift_jis", counts=(20, 0, 0), cell=('min("年齢") FILTER (WHERE "名前" = \'山田\')', 30)),
            refused(["名前", "年齢:integer"], "offset 0 in line 1. Perhaps it is shift_jis"),
        ),
        "enc_mixed_utf8_and_latin1.csv": Case(
            "PARTIAL",
            Expect(PEOPLE, counts=(12, 12, 0), rejects=[(n, "encoding") for n in range(2, 14)], cell=("count(*) FILTER (WHERE name = 'Müller')", 1)),
        ),
        "enc_utf16le_contains_fffd.csv": Case(
            "FLAG", Expect(["v"], dialect={"header": False}, counts=(3, 0, 0), rows=[("bla",), ("bla",), ("\ufffd",)], warns="1 record holds U+FFFD, the first in line 3")
        ),
        "enc_only_bom.csv": Case("REFUSE", refused(["id"], "empty but for a byte order mark")),
        "nul_byte_in_value.csv": Case("PARTIAL", Expect(["col1", "col2", "col3"], dialect={"delimiter": "|"}, counts=(0, 1, 0), rejects=[(2, "nul")])),
        "dos_eof_1a.csv": Case("LOAD", Expect(CSSE, counts=(67, 0, 0), cell=("count(*) FILTER (WHERE \"Province/State\" LIKE '%\x1a%')", 0))),
        "repeated_header_midfile_real.csv": Case(
            "PARTIAL",
            Expect(header_of("repeated_header_midfile_real.csv"), key=["ISO3166-1-Alpha-3"], counts=(7, 4, 0),
                   cell=("count(DISTINCT \"ISO3166-1-Alpha-3\")", 7)),
        ),
        "truncated_last_row_real.csv": Case(
            "PARTIAL", Expect(header_of("truncated_last_row_real.csv"), counts=(5, 1, 0), rejects=[(7, "fields.short")], warns="perhaps the file was cut off")
        ),
        **{name: Case("LOAD", _as_json(name)) for name in (
            "spectrum_comma_in_quotes.csv", "spectrum_escaped_quotes.csv", "spectrum_newlines_crlf.csv", "spectrum_utf8.csv")},
        "quote_multiline_thwarts_splitting.csv": Case(
            "LOAD", Expect(["col1", "col2", {"name": "col3", "type": "integer"}], counts=(20, 0, 0),
                           cell=("max(length(col2) - length(replace(col2, E'\\n', '')))", 24))
        ),
        "quote_backslash_escape.csv": Case(
            "CONFIG",
            Expect(ABC, dialect={"delimiter": "|", "header": False, "escapeChar": "\\"}, counts=(3, 0, 0),
                   rows=[("123", "TEST7", "text1"), ("345", "TEST7", 'text"2"'), ("567", "TEST7", "text3")]),
            Expect(ABC, dialect={"delimiter": "|", "header": False}, counts=(2, 1, 0), rejects=[(2, "quote.damaged")]),
        ),
        "quote_single_quote_char.csv": Case(
            "CONFIG",
            Expect(ABC, dialect={"delimiter": "\t", "header": False, "quoteChar": "'"}, counts=(3, 0, 0),
                   rows=[("123", "TEST13", "text1"), ("345", "TEST13", "te\txt2"), ("567", "TEST13", "text3")]),
            Expect(ABC, dialect={"delimiter": "\t", "header": False}, counts=(2, 1, 0), rejects=[(2, "fields.long")]),
        ),
        "quote_unescaped_inner.csv": Case(
            "PARTIAL",
            Expect(["v"], dialect={"header": False}, counts=(2, 2, 0), rows=[('Pedro "the" legend',), ('Pedro "the',)],
                   rejects=[(2, "quote.damaged"), (4, "quote.damaged")]),
        ),
        "quote_text_after_closing.csv": Case("PARTIAL", Expect(["a", "b:integer"], counts=(6, 1, 0), rejects=[(5, "quote.damaged")])),
        "quote_empty_vs_unquoted_empty.csv": Case(
            "LOAD",
            Expect(["a", "b", "c"], dialect={"header": False}, counts=(6, 1, 0), rejects=[(7, "quote.damaged")],
                   rows=[("quoted empty string", "", "should be empty string"), ("no value between separators", None, "should be null"),
                         ("quoted blanks", "    ", "should be blanks"), ("unquoted blanks", "    ", "should be null"),
                         ("unquoted string", "no quote", "should be 'no quote'"), ("quoted separator", "a,b,c", "should be 'a,b,c'")]),
            judged="the file itself says of its last record that it should be an error",
        ),
        "quote_nulls_quoted.csv": Case(
            "LOAD",
            Expect(["name", "age", "height"], missing=["", "null", "none"], counts=(3, 0, 0),
                   rows=[("Pedro", "31", "1.73"), ("Mark", "null", ""), ("Thijs", "26", "none")]),
        ),
        "ragged_short_and_long.csv": Case(
            "PARTIAL", Expect(["id:integer", "name", "age:integer"], counts=(0, 2, 0), rejects=[(2, "fields.short"), (3, "fields.long")])
        ),
        "ragged_all_short.csv": Case("REFUSE", refused(list("ABCDE"), "Every record has 3 fields, but 5 are expected")),
        "ragged_multi_error.csv": Case(
            "PARTIAL",
            Expect(["name", "age:integer", "current_day", "barks"], counts=(2, 5, 0),
                   rejects=[(4, "fields.long"), (5, "fields.long"), (6, "quote.damaged"), (7, "fields.short"), (8, "fields.short")]),
        ),
        "blank_rows_middle.csv": Case("LOAD", Expect(["id:integer", "name", "age:integer"], counts=(2, 0, 0), rows=[(1101, "John", 30), (1102, "Julie", 26)])),
        "blank_lines_before_header.csv": Case("LOAD", Expect(["col1:integer", "col2:integer", "col3:integer"], counts=(3, 0, 0), rows=[(1, 2, 3), (4, 5, 6), (7, 8, 9)])),
        "empty_whitespace_only.csv": Case("REFUSE", refused(["id"], "is empty: it holds no line but blank ones")),
        "one_byte.csv": Case("REFUSE", refused(["id", "name"], "none of the columns")),
        "dup_headers.csv": Case("REFUSE", refused(["id", "name", "age"], "the name 'id' twice")),
        "header_empty_name.csv": Case("REFUSE", refused(["id", "name", "age"], "Column 2 of the header has no name")),
        "header_invalid_many.csv": Case("REFUSE", refused(["id", "name"], "the name 'name' twice")),
        "header_reserved_words.csv": Case(
            "LOAD",
            Expect(["territoryid:integer", "name", "countryregioncode", "group", *(f"{n}:number" for n in ("salesytd", "saleslastyear", "costytd", "costlastyear")),
                    {"name": "rowguid", "format": "uuid"}, {"name": "modifieddate", "type": "datetime"}], counts=(10, 0, 0),
                   cell=("max(\"group\") FILTER (WHERE territoryid = 10)", "Europe")),
        ),
        "header_odd_unicode.csv": Case(
            "LOAD", Expect(["#  Aₐₓ #", "ᴴᵉᴸᴸᵒ   ᵂᵒᴿᴸᵈ", "Qty (m²)"], counts=(2, 0, 0), rows=[("123", "TEST1", "text1"), ("345", "TEST1", "text2")])
        ),
        "header_three_rows_blank_between.csv": Case(
            "CONFIG",
            Expect([f"col{n} sub{n} part{n}:integer" for n in (1, 2, 3)], dialect={"headerRows": [1, 3, 5]}, counts=(3, 0, 0), rows=[(1, 2, 3), (4, 5, 6), (7, 8, 9)]),
            Expect(["col1:integer", "col2:integer", "col3:integer"], counts=(3, 2, 0), rejects=[(3, "type")] * 3 + [(5, "type")] * 3),
        ),
        "header_trailing_comma.csv": Case(
            "FLAG", Expect(["id:integer", "name", "lat:integer", "lon:integer"], counts=(1, 0, 0), rows=[(1, "name", 0, 0)], warns="the header ends with an empty name")
        ),
        "trailing_delimiter_semicolon_dates.csv": Case(
            "LOAD", Expect(["Zeit [MEZ]", "Wasserstand:integer", "Status"], dialect={"delimiter": ";"}, counts=(7, 0, 0), cell=("max(\"Wasserstand\")", 146))
        ),
        "header_two_rows.csv": Case(
            "CONFIG",
            Expect(SHOP, dialect={"headerRows": [2]}, counts=(83, 0, 0), cell=("max(\"Price\") FILTER (WHERE _row = 1)", Decimal("74.69"))),
            Expect(SHOP, counts=(83, 1, 0), rejects=[(2, "header.repeated")]),
        ),
        "header_renamed_reordered_real.csv": Case(
            "LOAD",
            Expect([*CSSE, "Suspected:integer", "ConfnSusp:integer"], counts=(44, 0, 0), warns="another order",
                   cell=("max(\"Deaths\") FILTER (WHERE \"Province/State\" = 'Hubei')", 52)),
        ),
        "preamble_long_german.csv": Case(
            "CONFIG",
            Expect([{"name": "Gebiet", "aliases": [""]}, *(str(y) for y in (1985, 1993, 2000, *range(2005, 2011)))],
                   dialect={"delimiter": ";", "headerRows": [12], "footerRows": 16}, counts=(60, 0, 16)),
            refused(["Gebiet", "1985", "1993"], "none of the columns"),
        ),
        "preamble_cr_only_nasa.csv": Case(
            "CONFIG",
            Expect(["Year:integer", *(f"{m}:integer" for m in MONTHS)], dialect={"headerRows": [4]}, missing=["", "****", "*****"], counts=(133, 0, 0),
                   cell=('min("J-D") FILTER (WHERE "Year" = 2011)', 51)),
            refused(["Year:integer", *MONTHS], "Column 2 of the header has no name"),
        ),
        "comments_hash.csv": Case(
            "CONFIG",
            Expect(["a:integer", "b:integer", "c:integer"], dialect={"commentChar": "#"}, counts=(2, 0, 0), rows=[(1, 2, 3), (7, 8, 9)]),
            refused(["a:integer", "b:integer", "c:integer"], "none of the columns"),
        ),
        "footer_rowcount_trailer.csv": Case(
            "PARTIAL", Expect(CSSE, counts=(67, 1, 0), rejects=[(69, "fields.short")]), Expect(CSSE, dialect={"footerRows": 1}, counts=(67, 0, 1))
        ),
        "truncated_in_quotes.csv": Case(
            "PARTIAL", Expect(SHOP, counts=(5, 0, 0)), judged="its five records are whole: each has nine fields and closed quotes, and the last line has its end"
        ),
        "eol_cr_only_small.csv": Case("LOAD", Expect(["col1:integer", "col2:integer", "col3:integer"], counts=(3, 0, 0), rows=[(1, 2, 3), (4, 5, 6), (7, 8, 9)])),
        "eol_cr_inside_value.csv": Case("PARTIAL", Expect(["a", "b"], counts=(0, 1, 0), rejects=[(2, "fields.long")])),
        "eol_windows_empty_lines.csv": Case("LOAD", Expect(["v:integer"], dialect={"header": False}, counts=(1, 0, 0), rows=[(1,)])),
        "delim_semicolon_decimal_comma.csv": Case(
            "LOAD",
            Expect([{"name": "jour", "type": "date", "format": "%d/%m/%Y", "aliases": [""]},
                    *({"name": n, "type": "number", "decimalChar": ",", "precision": 6, "scale": 3} for n in header_of("delim_semicolon_decimal_comma.csv", delimiter=";")[1:])],
                   dialect={"delimiter": ";"}, missing=["", "-"], counts=(6, 0, 0), cell=("max(\"EURIBOR à 1 mois\") FILTER (WHERE jour = '2018-04-17')", Decimal("-0.371"))),
        ),
        "delim_space_repeated.csv": Case(
            "CONFIG",
            Expect([f"{c}:integer" for c in "abcde"], dialect={"delimiter": " ", "skipInitialSpace": True}, counts=(3, 0, 0), rows=[(1, 2, 3, 4, 5)] * 3),
            refused([f"{c}:integer" for c in "abcde"], "none of the columns"),
        ),
        "delim_wrong_for_type.csv": Case("REFUSE", refused(["fieldNameA", "fieldNameB"], "looks like semicolon")),
        "num_leading_zeros.csv": Case(
            "LOAD", Expect(["CODGEO", *(f"NAISD{y}:integer" for y in range(14, 21))], counts=(6, 0, 0), cell=("min(\"CODGEO\")", "09001"))
        ),
        "num_int64_overflow.csv": Case(
            "PARTIAL", Expect(["col1:integer"], counts=(3, 1, 0), rejects=[(5, "type")]),
            Expect([{"name": "col1", "type": "number", "precision": 20}], counts=(4, 0, 0), cell=("max(col1)", Decimal("9223372036854775808"))),
        ),
        "num_nan_inf_currency_percent.csv": Case(
            "PARTIAL",
            Expect([{"name": "number", "type": "number", "precision": 12, "scale": 4}, "required", "unique", "minimum", "maximum", "enum"],
                   counts=(8, 5, 0), rejects=[(2, "type"), (3, "type"), (4, "type"), (10, "type"), (11, "type")],
                   cell=("array_agg(number ORDER BY _row)", [Decimal(n) for n in ("-1", "0", "1", "-99.99", "0", "-0.02", "3000", "40000")])),
            Expect([{"name": "number", "type": "number", "format": "double"}, "required", "unique", "minimum", "maximum", "enum"],
                   counts=(11, 2, 0), rejects=[(10, "type"), (11, "type")], cell=("count(*) FILTER (WHERE number = 'NaN' OR abs(number) = 'Infinity')", 3)),
        ),
        "num_thousands_semicolon.csv": Case(
            "CONFIG",
            Expect(["name", {"name": "money", "type": "number", "precision": 14, "scale": 2, "groupChar": ","}, "city"], dialect={"delimiter": ";"},
                   counts=(5, 0, 0), cell=("sum(money)", Decimal("10300400049.80"))),
            Expect(["name", {"name": "money", "type": "number", "precision": 14, "scale": 2}, "city"], dialect={"delimiter": ";"}, counts=(2, 3, 0),
                   rejects=[(2, "type"), (3, "type"), (4, "type")]),
        ),
        "num_decimal_mixed.csv": Case(
            "PARTIAL",
            Expect(["A:integer", {"name": "B", "type": "number", "decimalChar": ",", "precision": 6, "scale": 3}], dialect={"delimiter": ";"}, counts=(4, 1, 0), rejects=[(5, "type")],
                   rows=[(1, Decimal("5.5")), (2, Decimal("5.5")), (3, Decimal(5)), (5, Decimal("5.5"))]),
            Expect(["A:integer", {"name": "B", "type": "number", "precision": 6, "scale": 3}], dialect={"delimiter": ";"}, counts=(2, 3, 0), rows=[(3, Decimal(5)), (4, Decimal("5.555"))]),
        ),
        "num_float_in_int.csv": Case("PARTIAL", Expect(["col1:integer", "col2:integer", "col3:integer"], counts=(2, 1, 0), rejects=[(3, "type")], rows=[(1, 2, 3), (7, 8, 9)])),
        "num_currency_real.csv": Case(
            "CONFIG", Expect(SHOP, counts=(83, 0, 0), cell=("max(\"Price\") FILTER (WHERE _row = 1)", Decimal("74.69"))),
            Expect([*SHOP[:4], {"name": "Price", "type": "number", "precision": 10, "scale": 2}, *SHOP[5:]], counts=(0, 83, 0)),
        ),
        "null_NA_all_column.csv": Case("LOAD", Expect(["col1", "col2"], counts=(3, 0, 0), rows=[("123", "NA"), ("abc", "NA"), ("123abc", "NA")])),
        "null_backslash_N.csv": Case(
            "CONFIG",
            Expect(IMDB, dialect={"delimiter": "\t", "quoteChar": None, "nullSequence": "\\N"}, counts=(59, 0, 0), cell=("count(\"endYear\")", 0)),
            Expect(IMDB, dialect={"delimiter": "\t"}, counts=(0, 59, 0)),
        ),
        "bool_variants.csv": Case(
            "LOAD",
            Expect(["int:integer", {"name": "bools", "type": "boolean", "trueValues": ["T", "TRUE", "true"], "falseValues": ["F", "FALSE", "false"]}], counts=(6, 0, 0),
                   rows=[(1, True), (2, True), (3, True), (4, False), (5, False), (6, False)]),
            judged="T and F are declared: the Table Schema standard's words for a boolean are true, True, TRUE, 1 and their opposites",
        ),
        "date_ambiguous_dmy_mdy.csv": Case(
            "PARTIAL", Expect(["A:integer", "B:date"], counts=(4, 1, 0), rejects=[(4, "type")]),
            Expect(["A:integer", {"name": "B", "type": "date", "format": "%d/%m/%Y"}], counts=(1, 4, 0), rows=[(3, dt.date(2024, 10, 3))]),
        ),
        "date_month_name.csv": Case(
            "CONFIG",
            Expect([{"name": "d", "type": "date", "format": "%b %d, %Y"}], dialect={"header": False}, counts=(8, 0, 0), cell=("min(d)", dt.date(2022, 1, 10))),
            Expect(["d:date"], dialect={"header": False}, counts=(0, 8, 0)),
        ),
        "date_sub_second_precision.csv": Case(
            "PARTIAL",
            Expect(["event", {"name": "time", "type": "datetime", "format": "%Y-%m-%dT%H:%M:%S.%f%z"}, "typ"], counts=(2, 0, 0),
                   cell=("max(time)", dt.datetime(2018, 9, 20, 18, 2, 13, 671880, dt.UTC))),
            Expect([{"name": "event", "constraints": {"enum": ["StartMovie", "StopMovie"]}}, "time", "typ"], counts=(1, 1, 0), rejects=[(3, "enum")]),
            judged="nothing in the second record shows a shift: it has three fields of the right types. An enum of the events, where declared, rejects it",
        ),
        "date_gtfs_24h_times.csv": Case(
            "LOAD", Expect([n if n != "stop_sequence" else "stop_sequence:integer" for n in header_of("date_gtfs_24h_times.csv")], counts=(36, 0, 0), cell=("max(arrival_time)", "24:55:00")),
            Expect([f"{n}:time" if n == "arrival_time" else n for n in header_of("date_gtfs_24h_times.csv")], counts=(0, 36, 0)),
        ),
        "space_after_delimiter.csv": Case(
            "CONFIG",
            Expect([{"name": "date", "type": "date"}, "another date", {"name": "temperature", "type": "integer", "groupChar": ","}, "place"], dialect={"skipInitialSpace": True},
                   counts=(3, 0, 0), rows=[(dt.date(2011, 1, 1), "24 October 2011", 0, None), (dt.date(2011, 1, 2), "24 October 2012", -1, "Galway and more"),
                                           (dt.date(2011, 1, 3), None, 6_000_000, "Galway")]),
            Expect(["date", "another date", "temperature", "place"], counts=(2, 1, 0), rejects=[(4, "quote.damaged")]),
        ),
        "wide_9074_columns.csv": Case("REFUSE", refused(["id"], "9,074 columns; a PostgreSQL table can have 1,600")),
        "long_field_30k.csv": Case("LOAD", Expect(ABC, dialect={"header": False}, counts=(2, 0, 0), cell=("sum(length(b))", 30000))),
        "notcsv_html_error_page.csv": Case("REFUSE", refused(["id"], "looks like an HTML page")),
        "notcsv_json_lines.csv": Case("REFUSE", refused(["col_a"], "looks like JSON")),
        "zip_single.csv.zip": Case("LOAD", Expect(["id:integer", "name"], counts=(2, 0, 0), rows=[(1, "english"), (2, "中国人")])),
        "xz.csv.xz": Case(
            "CONFIG", Expect(["id:integer", "name"], counts=(2, 0, 0), rows=[(1, "english"), (2, "中国人")]), judged="nothing needs to be declared: containers are known by their content"
        ),
        "gz_multi_member.csv.gz": Case(
            "LOAD", Expect(["#CHROM", "POS:integer", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *(f"sample{n}" for n in range(1, 5))], dialect={"delimiter": "\t"},
                           counts=(14, 0, 0), cell=("count(*) FILTER (WHERE \"#CHROM\" = 'chr7')", 2))
        ),
        "csv_named_gz.csv.gz": Case("REFUSE", refused(CSSE, "is called gzip, but its content is not")),
        "zip_encrypted_or_empty.csv.zip": Case("REFUSE", refused(["id"], "must hold one file, but holds 0 (nothing)")),
        "dup_rows.csv": Case(
            "PARTIAL", Expect(["id:integer", "name", "age:integer"], key=["id"], counts=(2, 1, 0), rejects=[(4, "primaryKey")]),
            Expect(["id:integer", "name", "age:integer"], counts=(3, 0, 0)),
        ),
        "reissue_v2.csv": Case(
            "FLAG",
            Expect([{"name": "Province/State", "aliases": ["Province_State"]}, {"name": "Country/Region", "aliases": ["Country_Region"]}, {"name": "Last Update", "aliases": ["Last_Update"]},
                    *CSSE[3:]], counts=(199, 0, 0), warns="Combined_Key"),
        ),
        "名前_unicode name (1)&;$.csv": Case("LOAD", Expect(["id:integer", "name"], counts=(2, 0, 0), rows=[(1, "english"), (2, "中国人")])),
    }  # fmt: skip


def _as_json(name: str) -> Expect:
    """All values are text, equal to the JSON beside the file."""
    records = json.loads((UGLY / name.replace(".csv", ".json")).read_text(encoding="utf-8"))
    return Expect(list(records[0]), counts=(len(records), 0, 0), rows=[tuple(r.values()) for r in records])


def _lines() -> dict[str, dict[str, str]]:
    if not UGLY.is_dir():
        return {}
    with (UGLY / "expected.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


LINES = _lines()
CASES = cases() if LINES else {}


@pytest.fixture(scope="module")
def one_warehouse(server, _template: str) -> Iterator[Warehouse]:
    """One database for all files; each has a type of its own."""
    with database(server, _template) as url:
        yield Warehouse(url)


def test_every_file_has_a_case_of_the_same_outcome() -> None:
    assert {n: c.outcome for n, c in CASES.items()} == {n: r["outcome"] for n, r in LINES.items()}


def test_the_docs_list_where_we_judge_otherwise() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name, case in CASES.items():
        assert (f"`{name}`" in text) == bool(case.judged), name


@pytest.mark.parametrize("name", list(CASES))
def test_ugly(name: str, one_warehouse: Warehouse, tmp_path: Path) -> None:
    case = CASES[name]
    number = list(CASES).index(name)
    inbox = Inbox(tmp_path, one_warehouse)
    for suffix, expect in (("a", case.declared), ("b", case.plain)):
        if expect is None:
            continue
        spec = expect.spec(f"u{number}{suffix}")
        result = inbox.load(spec, (UGLY / name).read_bytes(), path=name)
        with one_warehouse.connect() as conn:
            judge(result, expect, spec, conn, case.outcome)
            rehearsed = inbox.load(spec, (UGLY / name).read_bytes(), path=f"again/{name}", dry_run=True)
        assert (rehearsed.status, rehearsed.rows_read, rehearsed.rows_rejected) == (
            result.status,
            result.rows_read,
            result.rows_rejected,
        )
    if case.outcome == "CONFIG" and not case.judged:
        assert case.plain is not None
        assert case.plain.status == "refused" or case.plain.counts[1]


def judge(
    result: LoadResult, expect: Expect, spec: TableSpec, conn: psycopg.Connection, outcome: str
) -> None:
    assert result.status == expect.status, result.reason
    assert expect.reason in (result.reason or "")
    rejects = conn.execute(
        'SELECT line, rule, "row", column_name, value, message, raw FROM importer.rejects WHERE load_id = %s ORDER BY "row", column_name',
        (result.load_id,),
    ).fetchall()
    if expect.status == "refused":
        assert rejects
        return
    counts = (result.rows_loaded, result.rows_rejected, result.rows_skipped)
    assert counts == expect.counts, rejects[:3]
    assert result.rows_read == sum(counts)
    assert all(None not in row for row in rejects), "a reject must say all"
    if expect.rejects is not None:
        assert [(line, rule) for line, rule, *_ in rejects] == expect.rejects
    columns = ", ".join(f'"{f.column}"' for f in spec.fields)
    if expect.rows is not None:
        assert conn.execute(f"SELECT {columns} FROM {spec.name} ORDER BY _row").fetchall() == expect.rows
    if expect.cell is not None:
        assert conn.execute(f"SELECT {expect.cell[0]} FROM {spec.name}").fetchone() == (expect.cell[1],)
    events = conn.execute(
        "SELECT concat_ws(' ', kind, column_name, detail) FROM importer.drift WHERE load_id = %s",
        (result.load_id,),
    ).fetchall()
    if expect.warns is not None:
        assert any(expect.warns in text for (text,) in events), events
        assert any(expect.warns in f"{e.column_name} {e.detail}" for e in result.drift)
    elif outcome == "LOAD":
        assert not [text for (text,) in events if text.startswith("warning")]
