"""A spec proposed from files: its fields, the reasons for them, and that it loads these files."""

import csv
import datetime
import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from importer_dagster.errors import RefusedError, UsageError
from importer_dagster.inference.dialect import sniff
from importer_dagster.inference.infer import Inference, infer
from importer_dagster.model import Delivery, LoadResult
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.reader.encoding_detection import find_charset
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.loading import parse_spec
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import SHARED, Inbox

Infer = Callable[..., Inference]


@pytest.fixture
def inferred(tmp_path: Path) -> Infer:
    """Write content to a file and infer its spec."""

    def run(content: str | bytes, *, file: str = "things.csv", **options) -> Inference:
        path = tmp_path / file
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        found = infer([path], **options)
        assert parse_spec(found.yaml, f"{found.spec.name}.yaml") == found.spec
        return found

    return run


def column(values: list[str], name: str = "v") -> str:
    """A file with an id, the column, and a constant one behind it."""
    return "".join(f"{i},{v},x\n" for i, v in [("id", name), *enumerate(values)]).replace(
        "id," + name + ",x", f"id,{name},c", 1
    )


def field_of(found: Inference, name: str = "v") -> FieldSpec:
    return found.spec.field(name)


# --- types of columns -------------------------------------------------------------------

TYPES = [
    (["1", "22", "-3"], {"type": "integer"}),
    (["007", "012", "100"], {"type": "string"}),
    (["9223372036854775807", "1"], {"type": "integer"}),
    (["9223372036854775808", "1"], {"type": "number", "precision": 38, "scale": 0}),
    (["12345678901234567890123", "22345678901234567890123"], {"type": "string"}),
    (["4111111111111111", "5500000000000004"], {"type": "string"}),
    (["+4930123456", "+4930123457"], {"type": "string"}),
    (["1.5", "22.25", "-0.125"], {"type": "number", "precision": 11, "scale": 5}),
    (["1e5", "2.5E-3"], {"type": "number", "format": "double"}),
    (["1.5", "inf", "nan"], {"type": "number", "format": "double"}),
    (["52.51704532197341", "13.3888599", "0.1"], {"type": "number", "format": "double"}),
    (['"1,234"', '"12,345,678"', "5"], {"type": "integer", "groupChar": ","}),
    (['"1,234.50"', "7.25"], {"type": "number", "groupChar": ","}),
    (["1.234.567", "12.345"], {"type": "integer", "groupChar": ".", "decimalChar": ","}),
    (["1.234", "5.678"], {"type": "number", "decimalChar": "."}),  # between commas
    (["$5.25", "$10.00"], {"type": "number", "bareNumber": False}),
    (["95%", "3%"], {"type": "integer", "bareNumber": False}),
    (["$5.25", "€10.00"], {"type": "string"}),
    (["95%", "0.95"], {"type": "string"}),
    ([" 5", "6"], {"type": "integer", "bareNumber": False}),
    (["true", "false"], {"type": "boolean"}),
    (["Y", "N", "Y"], {"type": "boolean", "trueValues": ("Y",), "falseValues": ("N",)}),
    (["True", "True"], {"type": "boolean", "falseValues": ("False",)}),
    (["yes"] * 20, {"type": "boolean", "falseValues": ("no",)}),
    (["yes"], {"type": "string"}),
    (["Y", "Y"], {"type": "string"}),
    (["M", "F"], {"type": "string"}),
    (["0", "1", "1"], {"type": "integer"}),
    (["6F9619FF-8B86-D011-B42D-00C04FC964FF"], {"type": "string", "format": "uuid"}),
    (["2024-01-31", "2024-02-01"], {"type": "date", "format": "%Y-%m-%d"}),
    (["31/01/2024", "01/02/2024"], {"type": "date", "format": "%d/%m/%Y"}),
    (["01/31/2024", "02/01/2024"], {"type": "date", "format": "%m/%d/%Y"}),
    (["1/31/24", "12/1/23"], {"type": "date", "format": "%m/%d/%y"}),
    (["01.02.2024", "03.04.2024"], {"type": "date", "format": "%d.%m.%Y"}),
    (["01/02/2024", "03/04/2024"], {"type": "string"}),
    (["31/01/2024", "01/31/2024"], {"type": "string"}),
    (["5 Mar 2024", "17 Dec 2023"], {"type": "date", "format": "%d %b %Y"}),
    (['"March 5, 2024"', '"December 17, 2023"'], {"type": "date", "format": "%B %d, %Y"}),
    (["2024-01-31 10:20:30", "2024-01-31 23:59:59"], {"type": "datetime", "format": "%Y-%m-%d %H:%M:%S"}),
    (
        ["2024-01-31T10:20:30Z", "2024-01-31T10:20:30+02:00"],
        {"type": "datetime", "format": "%Y-%m-%dT%H:%M:%S%z"},
    ),
    (["2024-01-31 10:20:30", "2024-01-31 10:20:30.125"], {"type": "datetime", "format": "default"}),
    (["1/31/2024 5:07 PM", "2/1/2024 11:00 AM"], {"type": "datetime", "format": "%m/%d/%Y %I:%M %p"}),
    (["2024-01-31 10:20:30.1234567", "2024-01-31 10:20:30.7654321"], {"type": "string"}),
    (["10:20", "23:59"], {"type": "time", "format": "%H:%M"}),
    (["10:20:00", "25:10:00"], {"type": "string"}),
    (["2024-02-30", "2024-02-31"], {"type": "string"}),
    (["2024-01-31", "31.01.2024"], {"type": "string"}),  # one value of a kind may be a mistake
    (
        ["2024-01-31", "31.01.2024", "1.2.2024", "2024-02-03", "2024-02-04"],
        {"type": "date", "format": ("default", "%d.%m.%Y")},
    ),
    (
        ["1/31/2020 8:09", "2/1/2020 10:00", "2020-02-02T10:11:12", "2020-02-03T00:00:00"],
        {"type": "datetime", "format": ("%m/%d/%Y %H:%M", "default")},
    ),
    (["1/2/2020", "3/4/2020", "2020-02-02", "2020-02-03"], {"type": "string"}),  # asked
    (["31/1/2020", "1/31/2020", "31/2/2020", "2/28/2020", "2020-02-03", "2020-02-04"], {"type": "string"}),
    (["2020-02-02 10:00:00", "2020-02-02 10:00:00", "never", "never"], {"type": "string"}),
    (["5,5", "5.555"], {"type": "string"}),
    (['"{""a"": 1}"', '"{""b"": [2]}"', '"{}"'], {"type": "object"}),
    (["NA", "DE", "FR"], {"type": "string", "missingValues": None}),
    (["NA", "NA"], {"type": "string", "missingValues": None}),
    (["\\N", "abc", "def"], {"type": "string", "missingValues": ("", "\\N")}),
    (["5", "N/A", "7"], {"type": "integer", "missingValues": ("", "N/A")}),
    (["5", "-", "-7"], {"type": "integer", "missingValues": ("", "-")}),
    (["2024-01-31", "0000-00-00"], {"type": "date", "missingValues": ("", "0000-00-00")}),
]


@pytest.mark.parametrize(("values", "expected"), TYPES, ids=lambda v: str(v)[:40])
def test_type_of_a_column(inferred: Infer, inbox: Inbox, values: list[str], expected: dict) -> None:
    sep = ";" if any(v.startswith("5,5") for v in values) else ","
    content = column(values).replace(",", ";") if sep == ";" else column(values)
    if sep == ";":
        content = content.replace("5;5", "5,5")
    found = inferred(content)
    got = field_of(found)
    assert {k: getattr(got, k) for k in expected} == expected, found.yaml
    result = inbox.load(found.spec, content)
    assert (result.status, result.rows_rejected, result.rows_read) == ("loaded", 0, len(values)), (
        result.reason
    )


def test_eight_digits_are_days_only_with_further_evidence(inferred: Infer) -> None:
    days = ["20240131", "20231224"]
    assert field_of(inferred(column(days, "order_date")), "order_date").format == "%Y%m%d"
    assert field_of(inferred(column(days, "sold")), "sold").type == "integer"
    many = [f"2024{m:02d}{d:02d}" for m in range(1, 13) for d in range(1, 8)]
    assert field_of(inferred(column(many))).type == "date"


def test_names_decide_where_digits_do_not(inferred: Infer) -> None:
    assert field_of(inferred(column(["10115", "80331"], "zip_code")), "zip_code").type == "string"
    assert field_of(inferred(column(["0", "1", "1"], "is_active")), "is_active").type == "boolean"
    price = field_of(inferred(column(["10", "25"], "price")), "price")
    assert (price.type, price.scale) == ("number", 4)


def test_a_comma_that_may_mean_two_things_is_asked_about(inferred: Infer, inbox: Inbox) -> None:
    content = "id;v\n1;1,234\n2;5,678\n"
    found = inferred(content)
    assert field_of(found).type == "string"
    assert any("decimal comma" in q for q in found.questions)
    assert "QUESTION" in found.yaml
    found = inferred("id;v\n1;1.234\n2;5.678\n3;0\n")
    assert field_of(found).type == "string"
    assert any("decimal point" in q for q in found.questions)
    found = inferred("id;v\n1; \n2;5\n3;5.678\n")
    assert [q[:30] for q in found.questions] == ["v holds numbers such as '5.678"]
    assert found.notes == [], "the question says it"
    assert field_of(inferred("id;v;w\n1;1.234;0,5\n2;5.678;1,25\n")).groupChar == "."
    assert field_of(inferred("id;v;w\n1;1.234;0.5\n2;5.678;1.25\n")).decimalChar == "."
    found = inferred("id;v;w\n1;1,234;0,5\n2;5,678;1,25\n")
    assert (field_of(found).type, field_of(found).decimalChar) == ("number", ",")


def test_day_and_month_are_asked_about_or_given(inferred: Infer) -> None:
    content = column(["01/02/2024", "03/04/2024"])
    assert any("day or month first" in q for q in inferred(content).questions)
    assert field_of(inferred(content, date_order="dmy")).format == "%d/%m/%Y"
    assert field_of(inferred(content, date_order="mdy")).format == "%m/%d/%Y"
    told = inferred("id,v,w\n1,01/02/2024,31/12/2023\n2,03/04/2024,01/01/2023\n")
    assert field_of(told).format == "%d/%m/%Y"
    assert "as in w" in told.yaml
    assert not told.questions


def test_ambiguity_is_resolved_by_the_last_row_of_a_large_file(inferred: Infer) -> None:
    rng = random.Random(1)
    early = [
        f"{rng.randint(1, 12):02d}/{rng.randint(1, 12):02d}/20{rng.randint(10, 99)}" for _ in range(30_000)
    ]
    assert field_of(inferred(column([*early, "13/01/2024"]))).format == "%d/%m/%Y"
    assert field_of(inferred(column([*early, "01/13/2024"]))).format == "%m/%d/%Y"


def test_one_text_at_the_end_makes_a_column_text(inferred: Infer) -> None:
    numbers = [str(n) for n in range(20_000)]
    assert field_of(inferred(column(numbers))).type == "integer"
    assert field_of(inferred(column([*numbers, "0042"]))).type == "string"
    half = field_of(inferred(column([*numbers, "1.5"])))
    assert (half.type, half.scale) == ("number", 3)


def test_little_damage_is_noted_and_rejected(inferred: Infer, inbox: Inbox) -> None:
    content = column([*(f"2024-01-{d:02d}" for d in range(1, 29)), *["2024-02-01"] * 200, "2024-02-30"])
    found = inferred(content)
    assert field_of(found).type == "date"
    assert any("'2024-02-30'" in n and "rejected" in n for n in found.notes)
    assert inbox.load(found.spec, content).rows_rejected == 1
    # one of ten values is too much for damage
    assert field_of(inferred(column([*["2024-02-01"] * 9, "soon"]))).type == "string"


def test_extremes_are_asked_about(inferred: Infer) -> None:
    found = inferred(column([*[str(n) for n in range(1, 60)], *["-999"] * 5], "temp"))
    assert any("'-999'" in q for q in found.questions)
    found = inferred(column([*[f"2024-01-{d:02d}" for d in range(1, 29)], "9999-12-31"]))
    assert any("9999-12-31" in q for q in found.questions)


# --- constraints and keys -----------------------------------------------------------------


def orders(n: int) -> str:
    rng = random.Random(3)
    lines = ["order_id,customer_id,status,qty,plz,note"]
    states = ["open", "closed", "sent"]
    lines += [
        f"{i + 1},{rng.randint(1, n)},{rng.choice(states)},{rng.randint(0, 9)},{rng.randint(0, 99999):05d},"
        for i in range(n)
    ]
    return "\n".join(lines) + "\n"


def test_constraints_come_with_strong_evidence_only(inferred: Infer) -> None:
    many, few = inferred(orders(2_000), file="orders.csv").spec, inferred(orders(30), file="orders.csv").spec
    assert many.field("status").constraints.enum == ("closed", "open", "sent")
    assert many.field("status").required
    assert many.field("qty").constraints.minimum == "0"
    assert many.field("plz").constraints.pattern == "[0-9]{5}"
    assert not many.field("note").required
    for name in ("status", "qty", "plz"):
        assert few.field(name).constraints.model_dump(exclude_defaults=True) == {}


def test_keys(inferred: Infer) -> None:
    found = inferred(orders(30), file="orders.csv").spec
    assert found.tableschema.primaryKey == ("order_id",)
    assert found.write_disposition == "merge"
    lines = "\n".join(f"{o},{n},x" for o in range(40) for n in (1, 2))
    found = inferred("order_id,line_no,article\n" + lines + "\n", file="lines.csv").spec
    assert found.tableschema.primaryKey == ("order_id", "line_no")
    assert found.write_disposition == "append"
    amounts = "\n".join(f"{n * 1.5},{'ab'[n % 2]}" for n in range(50))
    assert inferred("amount,kind\n" + amounts + "\n").spec.tableschema.primaryKey == ()
    assert inferred("id,v\n1,a\n1,b\n2,c\n3,d\n").spec.tableschema.primaryKey == ()


def of_others(names: str, row: str, n: int = 1_200) -> str:
    """A file of ``n`` records; ``row`` is filled with the number of each."""
    return names + "\n" + "".join(row.format(i=i) + "\n" for i in range(n))


# the file, what it is called, the key that is written, and the one that is asked about
NARROW = [
    (of_others("person_id,phone,kind", "{i},555-{i},1"), "person_phone.csv", (), ["person_id"]),
    (of_others("businessentityid,phone,kind", "{i},555-{i},1"), "personphone.csv", (), ["businessentityid"]),
    (
        of_others("productid,photoid,flag", "{i},1,f"),
        "productphoto.csv",
        ("productid", "photoid"),
        ["productid"],
    ),
    (
        of_others("order_id,order_line_id,price", "{i},{i},1.50"),
        "order_line.csv",
        ("order_id", "order_line_id"),
        ["order_line_id"],
    ),
    (of_others("name,rate", "n{i},1.50", 50), "rates.csv", (), []),
    (
        of_others("order_id,product_id,rate", "{i},{i},1.50", 300),
        "x.csv",
        ("order_id", "product_id"),
        ["order_id"],
    ),
]


@pytest.mark.parametrize(("content", "file", "written", "asked"), NARROW, ids=lambda v: str(v)[:20])
def test_a_key_that_may_be_too_narrow_is_asked_about(
    inferred: Infer, inbox: Inbox, content: str, file: str, written: tuple, asked: list
) -> None:
    found = inferred(content, file=file)
    assert found.spec.tableschema.primaryKey == written
    assert found.spec.write_disposition == "append"
    questions = [q for q in found.questions if "primaryKey" in q]
    assert [f"primaryKey: [{a}]" in q for q, a in zip(questions, asked, strict=True)] == [True] * len(asked)
    again = content + content.splitlines()[1].replace(",", ",9", 1) + "\n"  # the same first column once more
    assert inbox.load(found.spec, again).rows_rejected == 0, "nothing is lost until the question is answered"


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("orders.csv", "order_id"),
        ("order.csv", "OrderID"),
        ("sales_orders_2024.csv", "order_no"),
        ("orders_de.csv", "order_id"),
        ("customers.csv", "cust_id"),
        ("countries.csv", "countrycode"),
        ("kunden.csv", "kunde_nr"),
        ("salesorderheader.csv", "salesorderid"),
        ("transaction_log.csv", "transactionid"),
        ("articles.csv", "sku"),
        ("anything.csv", "id"),
    ],
)
def test_a_key_called_like_its_type_is_sure(inferred: Infer, file: str, column: str) -> None:
    found = inferred(of_others(f"{column},other_id,v", "{i},5,x"), file=file)
    assert found.spec.tableschema.primaryKey == (column,)
    assert (found.spec.write_disposition, found.questions) == ("merge", [])


def test_a_country_called_na_can_be_part_of_a_key(inferred: Infer) -> None:
    codes = [a + b for a in "ABCDEFN" for b in "ABCDEFGHIJ"]
    content = "countrycode,name\n" + "".join(f"{c},name of {c}\n" for c in codes)
    found = inferred(content, file="country.csv").spec
    assert "NA" in codes
    assert found.tableschema.primaryKey == ("countrycode",)


# --- several days -------------------------------------------------------------------------


def write(folder: Path, files: dict[str, str]) -> list[Path]:
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in files]


def test_days_of_one_type_are_merged(tmp_path: Path, inbox: Inbox) -> None:
    files = write(
        tmp_path,
        {
            "sales_2024-01-01.csv": "id,Product/Name,day\n1,a,01/02/2024\n2,b,02/02/2024\n",
            "sales_2024-01-02.csv": "id,Product_Name,day,price\n2,b,13/02/2024,1.5\n3,c,02/03/2024,2\n",
        },
    )
    found = infer(files)
    assert found.spec.name == "sales"
    assert [f.name for f in found.spec.fields] == ["id", "Product_Name", "day", "price"]
    assert found.spec.field("Product_Name").aliases == ("Product/Name",)
    assert found.spec.field("day").format == "%d/%m/%Y", "resolved over both files"
    assert not found.spec.field("price").required
    assert any("price is in 1 of 2 files" in n for n in found.notes)
    for day, file in enumerate(files, 1):
        result = inbox.load(found.spec, file.read_bytes(), path=file.name, day=datetime.date(2024, 1, day))
        assert (result.status, result.rows_rejected, result.rows_read) == ("loaded", 0, 2)


def test_a_possible_rename_is_asked_about_and_not_made(tmp_path: Path) -> None:
    found = infer(
        write(tmp_path, {"a.csv": "id,Latitude\n1,2.5\n", "b.csv": "id,Lat\n1,2.5\n"}), name="places"
    )
    assert [f.name for f in found.spec.fields] == ["id", "Latitude", "Lat"]
    assert any("Latitude and Lat" in q for q in found.questions)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Sales Tax.csv"], "sales_tax"),
        (["Sales.csv.gz"], "sales"),
        (["2024.csv"], "t_2024"),
        (["orders_20240101.csv", "orders_20240102.csv"], "orders"),
        (["2024-01-01.csv", "2024-01-02.csv"], "inbox_of_days"),
        (["orders_20240101.csv"], "orders_20240101"),
    ],
)
def test_name_of_the_type(tmp_path: Path, names: list[str], expected: str) -> None:
    folder = tmp_path / "inbox_of_days"
    folder.mkdir()
    for name in names:
        content = b"id,v\n1,a\n"
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert infer([folder / n for n in names]).spec.name == expected


def test_a_given_name_must_be_usable(tmp_path: Path) -> None:
    (file,) = write(tmp_path, {"a.csv": "id\n1\n"})
    assert infer([file], name="Other_1").spec.name == "Other_1"
    with pytest.raises(UsageError, match="letters, digits"):
        infer([file], name="no-name")
    with pytest.raises(UsageError, match="at least one file"):
        infer([])


# --- dialects and encodings ---------------------------------------------------------------

DIALECTS = [
    ("a;b\n1;x\n2;y\n", {"delimiter": ";"}),
    ("a\tb\n1\tx\n2\ty\n", {"delimiter": "\t"}),
    ("a|b\n1|x, y\n2|z, w\n", {"delimiter": "|"}),
    ('a,b\n1,"x;y;z"\n2,"u;v;w"\n', {"delimiter": ","}),
    ("d;v\n01.02.2024;1,5\n03.02.2024;2,5\n", {"delimiter": ";"}),
    (
        "# made by x\n# on monday, late\na,b\n1,2\n# end of part\n3,4\n",
        {"delimiter": ",", "commentChar": "#"},
    ),
    ("#id,b\n1,2\n3,4\n", {"delimiter": ","}),
    ("Report of May\n\na,b,c\n1,2,3\n4,5,6\n", {"delimiter": ",", "headerRows": [3]}),
    ("Report,,\nof May,,\na,b,c\n1,2,3\n4,5,6\n", {"delimiter": ",", "headerRows": [3]}),
    ("1,x1\n2,x2\n", {"delimiter": ",", "header": False}),
    ("a,b\n1,'x\n2,it's\n", {"delimiter": ","}),
    ("a;b\n1;'x;y'\n2;'z;w'\n", {"delimiter": ";", "quoteChar": "'"}),
    ('a\tb\n1\tthe "x\n2\t"y" z\n3\tw"\n', {"delimiter": "\t", "quoteChar": None}),
    ('a,b\n1,"say \\"hi\\", he"\n2,"no"\n', {"delimiter": ",", "escapeChar": "\\"}),
    ('a, b\n1, "x, y"\n2, "z, w"\n', {"delimiter": ",", "skipInitialSpace": True}),
    ("a\n1\n2\n", {}),
    ("a,b\r1,2\r3,4\r", {"delimiter": ","}),
    ("a;b;\n1;2;\n3;4;\n", {"delimiter": ";"}),
    ("name a,name b\n,2000-01-01 1:00 AM\n1,2000-01-02 2:00 AM\n", {"delimiter": ","}),
    ("Country,2019,2020\nDE,1,2\nFR,3,4\n", {"delimiter": ","}),
]


@pytest.mark.parametrize(("content", "expected"), DIALECTS, ids=lambda v: str(v)[:30])
def test_dialect(tmp_path: Path, inbox: Inbox, content: str, expected: dict) -> None:
    file = tmp_path / "f.csv"
    file.write_bytes(content.encode())
    assert sniff(str(file), "utf-8").dialect == expected
    found = infer([file])
    result = inbox.load(found.spec, content)
    assert (result.status, result.rows_rejected) == ("loaded", 0), result.reason
    assert result.rows_loaded >= 2


def test_a_header_with_repeated_names_is_replaced_by_position(inferred: Infer, inbox: Inbox) -> None:
    content = "id,v,id\n1,a,001\n2,b,002\n"
    found = inferred(content)
    assert [f.name for f in found.spec.fields] == ["id", "v", "id_2"]
    assert found.spec.field("id_2").type == "string"
    assert any("occur twice" in q for q in found.questions)
    result = inbox.load(found.spec, content)
    assert (result.rows_loaded, result.rows_rejected) == (2, 0)


def test_an_empty_name_gets_one(inferred: Infer, inbox: Inbox) -> None:
    content = ",v,w\n0,a,1.5\n1,b,2.5\n"
    found = inferred(content)
    assert [f.name for f in found.spec.fields] == ["column_1", "v", "w"]
    assert inbox.load(found.spec, content).rows_loaded == 2


def test_the_importers_own_column_names_are_avoided(inferred: Infer, inbox: Inbox) -> None:
    content = "_row,_load_id\n1,2\n3,4\n"
    found = inferred(content)
    assert [f.name for f in found.spec.fields] == ["_row_2", "_load_id_2"]
    assert inbox.load(found.spec, content).rows_loaded == 2


SPEECH = {
    "utf-8": "name;city\nGrüße, café;Łódź 東京\n",
    "utf-16": "name;city\nGrüße;東京\n",
    "cp1252": "name;city\nGrüße – “café”;Málaga €5\nseñor;Zürich\n",
    "mac_roman": "name;city\nGrüße café;Málaga\nseñor;Zürich\n",
    "cp850": "name;city\nGrüße café;Málaga\nseñor;Zürich\n",
    "cp1250": "jméno;město\nŽofie;Plzeň\nŁukasz;Łódź\nJiří;Třebíč\n",
    "cp1251": "имя;город\nИван;Москва\nМария;Санкт-Петербург\n",
    "koi8_r": "имя;город\nИван;Москва\nМария;Санкт-Петербург\n",
    "cp1253": "όνομα;πόλη\nΓιώργος;Αθήνα\n",
    "shift_jis": "名前;都市\n田中太郎;東京テスト\n",
    "euc_jp": "名前;都市\nさとう花子;東京テスト\n",
    "gb18030": "姓名;城市\n张三;北京市\n李四;上海市\n",
    "big5": "姓名;城市\n張三;臺北市\n李四;高雄市\n",
    "euc_kr": "이름;도시\n김철수;서울\n",
}


@pytest.mark.parametrize("encoding", SPEECH)
def test_encoding(tmp_path: Path, inbox: Inbox, encoding: str) -> None:
    file = tmp_path / "f.csv"
    content = SPEECH[encoding].encode(encoding)
    file.write_bytes(content)
    assert find_charset(str(file)).encoding == encoding
    found = infer([file])
    assert [f.name for f in found.spec.fields] == SPEECH[encoding].split("\n")[0].split(";")
    assert inbox.load(found.spec, content).rows_loaded == SPEECH[encoding].count("\n") - 1


def test_what_is_given_is_not_guessed(inferred: Infer) -> None:
    content = "a;b,c\n1;2,3\n4;5,6\n"
    assert inferred(content, delimiter=",").spec.dialect.delimiter == ","
    assert inferred(content, delimiter=";").spec.dialect.delimiter == ";"
    assert inferred("a;b\n1;é\n".encode("latin-1"), encoding="latin-1").spec.encoding == "latin-1"


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"<html><body>no</body></html>", "not.csv"),
        (b"PAR1xxxx", "not.csv"),
    ],
)
def test_what_is_no_csv_is_refused(tmp_path: Path, content: bytes, rule: str) -> None:
    file = tmp_path / "f.csv"
    file.write_bytes(content)
    with pytest.raises(RefusedError) as error:
        infer([file])
    assert error.value.rule == rule


def test_too_many_columns_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text(",".join(f"c{i}" for i in range(9_000)) + "\n")
    with pytest.raises(RefusedError, match="9,000 columns"):
        infer([file])


def test_what_the_reader_finds_odd_is_noted(tmp_path: Path) -> None:
    files = write(tmp_path, {"a.csv": "id,v\n1,x\ufffd\n2,y\n", "b.csv": "id,v\n3,x\n4"})
    notes = infer(files, name="things").notes
    assert any(n.startswith("a.csv: 1 record holds U+FFFD") for n in notes)
    assert any(n.startswith("b.csv: the last record, in line 3, is incomplete") for n in notes)


def test_every_choice_has_a_reason(inferred: Infer) -> None:
    lines = inferred(orders(50), file="orders.csv").yaml.splitlines()
    for i, line in enumerate(lines):
        if line.startswith(("encoding:", "dialect:", "  primaryKey:", "write_disposition:", "    - {name:")):
            assert "#" in line or lines[i - 1].lstrip().startswith("#"), line


# --- generated files ----------------------------------------------------------------------

_CELLS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-1000, max_value=1000).map(str),
    st.dates(datetime.date(1950, 1, 1)).map(str),
    st.dates(datetime.date(1950, 1, 1)).map(lambda d: d.strftime("%d/%m/%Y")),
    st.sampled_from(
        ["", "NA", "N/A", "-", "NULL", "true", "0", "007", "1,5", "1.234,5", "%", "{}", " ", "'", '"x"']
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_table_is_rejected_by_the_spec_made_from_it(tmp_path: Path, data: st.DataObject) -> None:
    """Nothing crashes, and the spec rejects no record of the file that it was made from."""
    width, rows = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 30))
    kinds = [data.draw(st.sampled_from([0, 1, 2, 3, 4, 5])) for _ in range(width)]
    cells = [
        [data.draw(_CELLS if kinds[c] == 5 else _CELLS.original_strategies[kinds[c]]) for c in range(width)]
        for _ in range(rows)
    ]
    file = tmp_path / "f.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, delimiter=data.draw(st.sampled_from(",;\t|")))
        writer.writerow([f"name {chr(97 + c)}" for c in range(width)])
        writer.writerows(cells)
    found = infer([file])
    assert parse_spec(found.yaml, f"{found.spec.name}.yaml") == found.spec
    rejects = rehearse(found.spec, file)
    assert not rejects, (found.yaml, rejects)


def rehearse(spec: TableSpec, file: Path) -> list[dict]:
    """What the importer would reject of a file, without a database."""
    from importer_dagster.reader.reader import open_delivery
    from importer_dagster.validation.drift import map_header
    from importer_dagster.validation.validator import Validator

    delivery = Delivery(spec.name, "", datetime.date(2024, 1, 1), file.name, str(file), has_tenant=False)
    found: list[dict] = []
    with open_delivery(delivery, spec) as reader:
        sources = map_header(reader.header, spec).sources
        validator = Validator(
            spec, {f.name: str(sources[f.name]) if f.name in sources else None for f in spec.fields}
        )
        for batch in reader.batches():
            _, _, failures = validator(batch.columns)
            found += [*failures, *batch.rejects.to_pylist()]
    return found


# --- real data ----------------------------------------------------------------------------


def load(file: Path, spec: TableSpec, warehouse: Warehouse) -> LoadResult:
    delivery = Delivery(spec.name, "", datetime.date(2024, 1, 1), file.name, str(file), has_tenant=False)
    return import_delivery(delivery, spec, warehouse=warehouse)


@pytest.mark.shared
def test_adventureworks_loads_without_a_reject(warehouse: Warehouse) -> None:
    files = sorted(f for f in (SHARED / "adventureworks").glob("*.csv") if not f.name.startswith("_"))
    assert len(files) == 57
    for file in files:
        found = infer([file])
        result = load(file, found.spec, warehouse)
        assert (result.status, result.rows_rejected) == ("loaded", 0), (file.name, result.reason, found.yaml)
        assert result.rows_loaded == result.rows_read


@pytest.mark.shared
def test_no_key_of_adventureworks_is_smaller_than_the_real_one() -> None:
    real: dict[str, set[str]] = {}
    with (SHARED / "adventureworks" / "_schema_columns.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["primary_key"] == "Y":
                real.setdefault(row["table"], set()).add(row["column"])
    equal, asked = 0, []
    for file in sorted(f for f in (SHARED / "adventureworks").glob("*.csv") if not f.name.startswith("_")):
        found = infer([file])
        key = set(found.spec.tableschema.primaryKey)
        assert key in (set(), real[file.stem]), (file.stem, key)
        equal += bool(key)
        if not key and any("primaryKey" in q for q in found.questions):
            asked.append(file.stem)
    assert asked == ["employee", "personphone", "salesperson", "store", "vendor"]
    assert equal == 48


@pytest.mark.shared
def test_seventy_days_of_drift_are_one_type(warehouse: Warehouse) -> None:
    files = sorted((SHARED / "csse").glob("*.csv"))
    found = infer(files)
    assert found.spec.field("Province_State").aliases == ("Province/State",)
    assert found.spec.field("FIPS").type == "string", "it has leading zeros"
    assert set(found.spec.field("Last_Update").formats) == {"default", "%m/%d/%Y %H:%M", "%m/%d/%y %H:%M"}
    for file in files[::6]:
        result = load(file, found.spec, warehouse)
        assert (result.status, result.rows_rejected) == ("loaded", 0), (file.name, result.reason)


def ugly() -> list[tuple[str, str]]:
    table = SHARED / "ugly" / "expected.csv"
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as lines:
        return [
            (r["name"], r["outcome"]) for r in csv.DictReader(lines) if r["outcome"] in ("LOAD", "CONFIG")
        ]


# Records that are damaged whatever the spec says, and the crosstab with its broken lines.
DAMAGED = {"quote_empty_vs_unquoted_empty.csv": 1, "preamble_long_german.csv": 16}


@pytest.mark.shared
@pytest.mark.parametrize(("name", "outcome"), ugly())
def test_hard_files_load_by_the_spec_made_from_them(warehouse: Warehouse, name: str, outcome: str) -> None:
    file = SHARED / "ugly" / name
    found = infer([file], name="t")
    result = load(file, found.spec, warehouse)
    assert result.status == "loaded", result.reason
    assert result.rows_rejected == DAMAGED.get(name, 0), found.yaml
