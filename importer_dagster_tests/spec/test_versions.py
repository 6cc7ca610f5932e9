"""Dated versions of a type: every file is read by the layout of its day, and all are loaded into one table."""

import datetime
import random

import pytest

from importer_dagster.defs.checks import drift_result
from importer_dagster.defs.metadata import read_account
from importer_dagster.errors import SpecError
from importer_dagster.operations import unload
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.spec.loading import parse_spec
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import SHARED, Inbox, Query, database, make_spec

# One type, 70 days: columns added twice, renamed and reordered, five ways of writing a time.
CSSE = """
schema:
  fields:
    - {name: province_state, header: Province/State}
    - {name: country_region, header: Country/Region, constraints: {required: true}}
    - {name: last_update, header: Last Update, type: datetime, format: "%m/%d/%Y %H:%M"}
    - {name: confirmed, header: Confirmed, type: integer}
    - {name: deaths, header: Deaths, type: integer}
    - {name: recovered, header: Recovered, type: integer}
versions:
  - {from: 2020-01-23, fields: [{name: last_update, format: "%m/%d/%y %H:%M"}]}
  - {from: 2020-01-31, fields: [{name: last_update, format: "%m/%d/%Y %H:%M"}]}
  - {from: 2020-02-02, fields: [{name: last_update, format: default}]}
  - from: 2020-03-01
    fields:
      - {name: latitude, header: Latitude, type: number, format: double}
      - {name: longitude, header: Longitude, type: number, format: double}
  - from: 2020-03-22
    description: counties of the United States
    fields:
      - {name: fips, header: FIPS}
      - {name: admin2, header: Admin2}
      - {name: province_state, header: Province_State}
      - {name: country_region, header: Country_Region}
      - {name: last_update, header: Last_Update, format: "%m/%d/%y %H:%M"}
      - {name: latitude, header: Lat}
      - {name: longitude, header: Long_}
      - {name: confirmed}
      - {name: deaths}
      - {name: recovered}
      - {name: active, header: Active, type: integer}
      - {name: combined_key, header: Combined_Key}
  - {from: 2020-03-23, fields: [{name: last_update, format: default}]}
  - {from: 2020-03-28, fields: [{name: last_update, format: "%m/%d/%y %H:%M"}]}
  - {from: 2020-03-31, fields: [{name: last_update, format: default}]}
"""
FILES = sorted((SHARED / "csse").glob("*.csv"))


def csse_day(path) -> datetime.date:
    return datetime.datetime.strptime(path.stem, "%m-%d-%Y").date()


def load_days(url: str, spec: TableSpec, files: list) -> tuple[list, list, set]:
    """All rows but for _load_id, drift by business date, and each file's outcome."""
    warehouse = Warehouse(url)
    statuses = set()
    for file in files:
        delivery = Inbox(file.parent, warehouse).delivery(
            spec, file.read_bytes(), path=file.name, day=csse_day(file), has_tenant=False
        )
        result = import_delivery(delivery, spec, warehouse=warehouse)
        statuses.add((result.status, result.rows_rejected))
    with warehouse.connect() as conn:
        columns = ", ".join(f'"{f.column}"' for f in spec.fields)
        rows = conn.execute(
            f"SELECT _business_date, _row, {columns}, _extra FROM csse ORDER BY 1, 2"
        ).fetchall()
        drift = conn.execute(
            """
            SELECT l.business_date, d.kind, d.column_name, d.declared FROM importer.drift d
            JOIN importer.loads l USING (load_id) ORDER BY 1, 2, 3
            """
        ).fetchall()
    return rows, drift, statuses


@pytest.mark.shared
def test_seventy_days_in_any_order_are_one_table(server, _template, tmp_path) -> None:
    spec = parse_spec(CSSE, "csse.yaml")
    copies = []
    for file in FILES:
        copies.append(tmp_path / file.name)
        copies[-1].write_bytes(file.read_bytes())
    assert len(copies) == 70
    mixed = copies.copy()
    random.Random(7).shuffle(mixed)
    found = []
    for files in (copies, mixed):
        with database(server, _template) as url:
            found.append(load_days(url, spec, files))
    assert found[0] == found[1]
    rows, drift, statuses = found[0]
    assert statuses == {("loaded", 0)}
    assert len(rows) == sum(len(list(read_csv(f))) for f in FILES)
    headers = {(str(day), kind, column) for day, kind, column, _ in drift if kind != "version"}
    names = ("fips", "admin2", "active", "combined_key")
    renamed = ("province_state", "country_region", "last_update", "latitude", "longitude")
    assert headers == {
        ("2020-03-01", "added", "latitude"),
        ("2020-03-01", "added", "longitude"),
        ("2020-03-22", "reordered", None),
        *(("2020-03-22", "added", name) for name in names),
        *(("2020-03-22", "renamed", name) for name in renamed),
    }
    formats = {str(day) for day, kind, _, _ in drift if kind == "version"}
    assert formats == {"2020-01-23", "2020-01-31", "2020-02-02", "2020-03-22", "2020-03-23", "2020-03-28",
                       "2020-03-31"}  # fmt: skip


def read_csv(file):
    import csv

    with file.open(encoding="utf-8-sig", newline="") as lines:
        yield from list(csv.reader(lines))[1:]


@pytest.mark.shared
def test_values_of_the_seventy_days_are_those_of_the_files(database_url, tmp_path) -> None:
    spec = parse_spec(CSSE, "csse.yaml")
    picked = [
        f for f in FILES if f.stem in ("01-22-2020", "02-29-2020", "03-13-2020", "03-22-2020", "03-31-2020")
    ]
    for file in picked:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    rows, _, _ = load_days(database_url, spec, [tmp_path / f.name for f in picked])
    got = {(str(r[0]), r[1]): dict(zip((f.name for f in spec.fields), r[2:], strict=False)) for r in rows}
    for file in picked:
        layout = spec.layout(csse_day(file)).spec
        for n, cells in enumerate(read_csv(file), 1):
            for field, cell in zip(layout.fields, cells, strict=True):
                value = got[str(csse_day(file)), n][field.name]
                if field.type == "string":
                    assert value == (cell or None)
                elif field.type == "integer":
                    assert value == (int(cell) if cell else None)
                elif field.format == "double":
                    assert value == (float(cell) if cell else None)
                else:
                    assert value == parsed(cell, field.format)


def parsed(cell: str, pattern: str) -> datetime.datetime:
    if pattern == "default":
        return datetime.datetime.fromisoformat(cell)
    return datetime.datetime.strptime(cell, pattern)


# --- small files ----------------------------------------------------------------------

SMALL = """
schema:
  fields: [{name: id, type: integer}, {name: price, type: number, precision: 10, scale: 2}, {name: old}]
  primaryKey: id
write_disposition: merge
versions:
  - from: 2024-02-01
    encoding: cp1252
    dialect: {delimiter: ";"}
    fields: [{name: price, header: price_eur, decimalChar: ","}, {name: note, constraints: {required: true}}]
    removed: old
"""


def day(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


def test_dialect_encoding_names_and_formats_change_with_the_version(inbox: Inbox, query: Query) -> None:
    spec = parse_spec(SMALL, "t.yaml")
    new = "id;price_eur;note\n1;1,50;é\n2;2,00;\n".encode("cp1252")
    assert (
        inbox.load(spec, new, path="b", day=day("2024-02-03")).rows_rejected == 1
    )  # note is required by then
    assert (
        inbox.load(spec, "id,price,old\n1,1.25,x\n3,3.25,y\n", path="a", day=day("2024-01-31")).rows_read == 2
    )
    assert query("SELECT id, price::text, old, note FROM t ORDER BY id") == [
        (1, "1.50", None, "é"),
        (3, "3.25", "y", None),
    ]
    assert query("SELECT id, old FROM importer_superseded.t") == [(1, "x")]
    again = inbox.load(spec, new, path="b", day=day("2024-02-03"))
    assert again.status == "unchanged"


def test_drift_is_recorded_with_the_first_delivery_of_the_version(inbox: Inbox, query: Query) -> None:
    spec = parse_spec(SMALL, "t.yaml")
    where = "SELECT DISTINCT l.path FROM importer.drift d JOIN importer.loads l USING (load_id) WHERE version IS NOT NULL"
    content = "id;price_eur;note\n{};1,50;n\n"
    late = inbox.load(spec, content.format(1), path="late", day=day("2024-02-09"))
    assert {e.kind for e in late.drift} == {"added", "removed", "renamed", "version"}
    assert query(where) == [("late",)]
    first = inbox.load(spec, content.format(2), path="first", day=day("2024-02-03"))
    assert query(where) == [("first",)]
    assert inbox.load(spec, content.format(3), path="later", day=day("2024-02-11")).drift == ()
    unload.unload(first.load_id, {"t": spec}, warehouse=inbox.warehouse, has_tenant=lambda _: True)
    assert query(where) == [("late",)]


def test_columns_of_another_version_are_known(inbox: Inbox, query: Query) -> None:
    spec = parse_spec(SMALL, "t.yaml")
    back = inbox.load(spec, "id;note;price;old\n1;n;1,50;was here\n", day=day("2024-02-02"))
    assert query("SELECT id, price::text, old, note, _extra FROM t") == [(1, "1.50", "was here", "n", None)]
    assert [(e.kind, e.column_name) for e in back.drift if not e.declared] == [
        ("renamed", "price"),
        ("added", "old"),
        ("reordered", None),
    ]


def test_a_declared_alias_is_drift_only_where_it_begins(inbox: Inbox) -> None:
    spec = parse_spec("schema: {fields: [{name: id}, {name: v, aliases: w}]}", "t.yaml")
    said = []
    for n, header in enumerate(["id,v", "id,w", "id,w", "id,v", "id,w", "id,W", "v,id", "v,id"]):
        result = inbox.load(spec, f"{header}\n1,2\n", path=f"{n}", day=day(f"2024-01-0{n + 1}"))
        with inbox.warehouse.connect() as conn:
            account = read_account(conn, spec, [result], schema=inbox.warehouse.schema)
        said.append((len(account.drift), drift_result(spec, account.drift).passed))
    assert said == [
        (0, True),
        (1, False),
        (1, True),
        (0, True),
        (1, False),
        (1, False),
        (1, False),
        (1, True),
    ]


def test_changing_the_versions_loads_nothing_again(inbox: Inbox, query: Query) -> None:
    spec = parse_spec(SMALL, "t.yaml")
    inbox.load(spec, "id,price,old\n1,1.25,x\n", day=day("2024-01-31"))
    text = SMALL + "  - {from: 2024-03-01, fields: [{name: more}]}\n"
    assert (
        inbox.load(parse_spec(text, "t.yaml"), "id,price,old\n1,1.25,x\n", day=day("2024-01-31")).status
        == "unchanged"
    )


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ("[{from: 2024-02-01}, {from: 2024-01-01}]", "must begin after the one before"),
        ("[{from: 2024-02-01, removed: nope}]", "removed names 'nope'"),
        ("[{from: 2024-02-01, removed: id}]", "belongs to the primaryKey"),
        ("[{from: 2024-02-01, fields: [{name: v, type: date}]}]", "'v' would be string in one layout and date"),
        ("[{from: 2024-02-01, fields: [{name: v, format: nope}]}]", "field 'v': format 'nope' does not go with"),
        ("[{from: 2024-02-01, fields: [{name: w, aliases: id}]}]", "'id' would mean two fields"),
        ("[{from: soon}]", "versions.0.from"),
        ("[{from: 2024-02-01, feilds: []}]", "did you mean 'fields'"),
    ],
)  # fmt: skip
def test_versions_that_contradict_each_other_are_an_error(versions: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse_spec(
            f"schema: {{fields: [{{name: id}}, {{name: v}}], primaryKey: id}}\nversions: {versions}", "t.yaml"
        )


REFERRING = """
schema:
  fields: [{name: id, type: integer}, {name: old, type: integer}]
  foreignKeys:
    - {fields: parent, reference: {resource: parents, fields: id}}
    - {fields: old, reference: {resource: parents, fields: id}}
gate: {references: {action: warn}, unique: [{fields: [parent]}]}
versions:
  - {from: 2024-02-01, fields: [{name: parent, type: integer}], removed: [old]}
"""


def test_a_field_that_only_a_version_has_may_refer_to_another_type(inbox: Inbox) -> None:
    spec = parse_spec(REFERRING, "children.yaml")
    inbox.load(make_spec("parents", [{"name": "id", "type": "integer"}]), "id\n1\n", path="p")
    early = inbox.load(spec, "id,old\n1,1\n2,9\n", path="a", day=datetime.date(2024, 1, 1))
    late = inbox.load(spec, "id,parent\n1,1\n2,7\n3,7\n", path="b", day=datetime.date(2024, 2, 1))
    assert [f.detail[:34] for f in early.gate] == ["1 records refer by old to a row th"]
    assert [f.detail[:34] for f in late.gate] == [
        "1 records repeat the parent of an ",
        "2 records refer by parent to a row",
    ]


@pytest.mark.parametrize("name", ["nothing", "i d"])
def test_a_reference_by_no_field_of_any_version_is_wrong(name: str) -> None:
    with pytest.raises(SpecError, match=f"foreignKeys names '{name}', which is no field"):
        parse_spec(REFERRING.replace("fields: parent", f'fields: "{name}"'), "children.yaml")
