"""What a supplier says about its own file: totals in a trailer, counts and checksums in a manifest."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from importer_dagster.model import LoadResult
from importer_dagster.pipeline import load as load_steps
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.pipeline.small_files import import_together
from importer_dagster.settings import Settings
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.spec.table import TableSpec
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, make_spec, pipeline_reader

FIELDS = [
    {"name": "id", "type": "integer"},
    {"name": "v", "constraints": {"maxLength": 3}},
    {"name": "n", "type": "number", "precision": 8, "scale": 2},
]


def trailed(dialect: dict[str, Any] | None = None, **trailer: Any) -> TableSpec:
    return make_spec(fields=FIELDS, dialect={"footerRows": 1, **(dialect or {})}, trailer=trailer)


DATA = "id,v,n\n1,a,1.10\n2,b,2.20\n"


@pytest.mark.parametrize(
    "trailer",
    ["TRL,2", "TRL,2,3.30", "TRL,0002,3.3,and,more", '"TRL","2","3.30"', "TRL,2,+3.300"],
)
def test_a_trailer_that_agrees(inbox: Inbox, query: Query, trailer: str) -> None:
    sums = {"n": 3} if trailer.count(",") > 1 else {}
    spec = trailed(begins="TRL", rows=2, sums=sums)
    result = inbox.load(spec, DATA + trailer + "\n")
    assert (result.status, result.rows_loaded, result.rows_skipped) == ("loaded", 2, 1), result.reason
    assert query("SELECT id FROM things ORDER BY 1") == [(1,), (2,)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (DATA + "TRL,3,3.30\n", "The trailer says 3 rows; the file has 2 records"),
        (DATA + "TRL,2,3.31\n", "the sum of 'n' is 3.31; in the file it is 3.30"),
        (DATA + "TRL,2\n", "has 2 cells; trailer.sums names cell 3"),
        (DATA + "TRL,two,3.30\n", "should be the number of records and is 'two'"),
        (DATA + "TRL,2,much\n", "is 'much', which is no number"),
        (DATA, "no trailer: its last record is '2,b,2.20', and should begin with 'TRL'"),
        (DATA.removesuffix(",2.20\n"), "no trailer: its last record is '2,b'"),
        ("id,v,n\n", "no trailer: its last record is ''"),
    ],
)
def test_a_trailer_that_does_not(inbox: Inbox, query: Query, content: str, words: str) -> None:
    result = inbox.load(trailed(begins="TRL", rows=2, sums={"n": 3}), content)
    assert (result.status, result.rows_loaded) == ("refused", 0)
    assert words in str(result.reason)
    assert query("SELECT count(*) FROM things") == [(0,)]
    assert query("SELECT status FROM importer.loads") == [("refused",)]


def test_rejected_records_count_and_are_summed(inbox: Inbox) -> None:
    spec = trailed(rows=1, sums={"n": 2, "id": 3})
    content = "id,v,n\n1,a,1.10\n2,too long,2.20\n3,c,-0.30\n"
    result = inbox.load(spec, content + "3,3.00,6\n")
    assert (result.status, result.rows_loaded, result.rows_rejected) == ("loaded", 2, 1), result.reason
    # what cannot be read cannot be summed, which is said
    result = inbox.load(spec, "id,v,n\n1,a,1.10\n2,b,x\n3\n" + "3,3.30,6\n")
    assert "2 records of it could not be read" in str(result.reason)


def test_a_number_that_counts_more_than_the_records(inbox: Inbox) -> None:
    spec = trailed(rows=2, rows_besides=2)  # header and trailer
    assert inbox.load(spec, DATA + "T,4\n").status == "loaded"
    refused = inbox.load(spec, DATA + "T,2\n", path="other.csv")
    assert "The trailer says 2 rows, 2 besides the records; the file has 2 records" in str(refused.reason)


def test_a_trailer_in_the_way_of_writing_of_its_file(inbox: Inbox) -> None:
    spec = make_spec(
        fields=[{"name": "id", "type": "integer"}, {"name": "n", "type": "number", "precision": 8, "scale": 2,
                                                    "decimalChar": ",", "groupChar": "."}],
        dialect={"delimiter": ";", "footerRows": 2},
        trailer={"begins": "Summe", "sums": {"n": 2}},
    )  # fmt: skip
    result = inbox.load(spec, "id;n\n1;1.000,50\n2;2.000,00\n\nEnde\nSumme;3.000,50\n")
    assert (result.status, result.rows_loaded, result.rows_skipped) == ("loaded", 2, 2), result.reason


def test_many_batches_are_one_file(inbox: Inbox) -> None:
    spec = trailed(begins="T", rows=2, sums={"n": 3, "id": 4})
    n = 900_000  # more than one block
    rows = "".join(f"{i},abc,0.01\n" for i in range(n))
    assert inbox.load(spec, f"id,v,n\n{rows}T,{n},{n // 100}.00,{n * (n - 1) // 2}\n").rows_loaded == n
    refused = inbox.load(spec, f"id,v,n\n{rows}T,{n},{n // 100}.01,{n * (n - 1) // 2}\n", path="other.csv")
    assert "in the file it is 9000.00" in str(refused.reason)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"trailer": {"rows": 2}}, "trailer needs dialect.footerRows: 1"),
        ({"trailer": {}, "dialect": {"footerRows": 1}}, "say begins, rows or sums"),
        ({"trailer": {"sums": {"v": 1}}, "dialect": {"footerRows": 1}}, "no integer and no exact number"),
        ({"trailer": {"sums": {"m": 1}}, "dialect": {"footerRows": 1}}, "trailer.sums"),
    ],
)
def test_a_trailer_that_makes_no_sense(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_spec(fields=FIELDS, **more)


# --- manifests --------------------------------------------------------------------------

FOLDER = f"{DAY}/acme"
NAME = "things.csv"


def with_manifest(**manifest: Any) -> TableSpec:
    return make_spec(fields=FIELDS, complete={"manifest": manifest})


def deliver(inbox: Inbox, manifest: str | None, name: str, content: str = DATA) -> None:
    folder = inbox.folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(content)
    if manifest is not None:
        (folder / name).write_text(manifest)


def listed(inbox: Inbox, spec: TableSpec) -> Any:
    [found] = find_deliveries(
        str(inbox.folder), {"things": spec}, default_path=Settings.default_path, min_age=600
    )
    return found


def load(inbox: Inbox, spec: TableSpec) -> LoadResult:
    return import_delivery(listed(inbox, spec), spec, warehouse=inbox.warehouse)


def hexdigest(algorithm: str, content: str = DATA) -> str:
    return hashlib.new(algorithm, content.encode()).hexdigest()


SUMS = {
    "md5sum": ("{path}.md5", f"{hexdigest('md5')}  {NAME}\n"),
    "binary": ("{path}.sha256", f"{hexdigest('sha256')} *{NAME}\n"),
    "alone": ("{path}.sha1", f"{hexdigest('sha1').upper()}\n"),
    "folder": ("SUMS", f"{hexdigest('md5', 'x')}  other.csv\n{hexdigest('sha512')}  ./acme/{NAME}\n"),
}


@pytest.mark.parametrize("form", SUMS)
def test_a_list_of_checksums(inbox: Inbox, query: Query, form: str) -> None:
    path, manifest = SUMS[form]
    spec = with_manifest(path=path)
    place = path.replace("{path}", NAME)
    deliver(inbox, None, place)
    assert listed(inbox, spec).waiting == f"its manifest {FOLDER}/{place} is not there yet"
    deliver(inbox, manifest, place)
    assert listed(inbox, spec).waiting is None  # it need not be old
    assert load(inbox, spec).status == "loaded"
    deliver(inbox, manifest, place, DATA + "3,c,3\n")
    refused = load(inbox, spec)
    assert refused.status == "refused"
    assert "that of the file is" in str(refused.reason)
    assert query("SELECT id FROM things ORDER BY 1") == [(1,), (2,)]


CSV = {"path": "manifest.csv", "format": "csv", "file": "file", "rows": "rows", "bytes": "size"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (f"{NAME},2,{len(DATA)}", None),
        (f"in/{NAME},2,{len(DATA)}", "does not name 'things.csv'"),
        (f"{NAME},3,{len(DATA)}", "says 3 rows; the file has 2 records (complete.manifest.rows)"),
        (f"{NAME},2,99", f"says 99 bytes; the file has {len(DATA)} (complete.manifest.bytes)"),
        (f"{NAME},two,99", "has 'two' in its column 'rows', and no number"),
        ("other.csv,2,99", "does not name 'things.csv'"),
    ],
)
def test_a_csv_of_counts(inbox: Inbox, row: str, words: str | None) -> None:
    spec = with_manifest(**CSV)
    deliver(inbox, f"\ufefffile,rows,size\nmore.csv,1,1\n{row}\n", "manifest.csv")
    result = load(inbox, spec)
    assert result.status == ("loaded" if words is None else "refused"), result.reason
    assert words is None or words in str(result.reason)


def test_a_csv_for_one_file_needs_no_name_and_may_look_like_a_delivery(inbox: Inbox) -> None:
    spec = with_manifest(
        path="{path}.manifest.csv", format="csv", delimiter=";", checksum="sum", rows="records"
    )
    deliver(inbox, f"records;sum\n2;{hexdigest('md5')}\n", f"{NAME}.manifest.csv")
    assert load(inbox, spec).status == "loaded"  # `listed` found one delivery
    deliver(inbox, "records\n2\n", f"{NAME}.manifest.csv", DATA + "3,c,1\n")
    assert "has no column 'sum', only 'records'" in str(load(inbox, spec).reason)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"file": "more.csv", "rows": 1}, {"file": "%(name)s", "rows": 2, "md5": "%(md5)s"}]', None),
        ('{"date": "2024-01-01", "files": [{"file": "./%(name)s", "rows": "2", "md5": "%(md5)s"}]}', None),
        ('{"file": "%(name)s", "rows": 2, "md5": "%(md5)s", "more": {}}', None),
        ('[{"file": "%(name)s", "rows": 3, "md5": "%(md5)s"}]', "says 3 rows; the file has 2 records"),
        (
            '[{"file": "%(name)s", "rows": 2, "md5": "00000000000000000000000000000000"}]',
            "that of the file is",
        ),
        ('[{"file": "%(name)s", "rows": 2.0, "md5": "%(md5)s"}]', "has '2.0' in its column 'rows'"),
        ('[{"file": "%(name)s", "rows": null, "md5": "%(md5)s"}]', "has no column 'rows'"),
        ('[{"name": "%(name)s", "rows": 2}]', "has no column 'file', only 'name', 'rows'"),
        ('[{"file": "other.csv", "rows": 2}]', "does not name 'things.csv'"),
        ('{"files": {"%(name)s": 2}}', "has no column 'file', only 'files'"),
        ("[1, 2]", "has no object for each file"),
        ("2", "has no object for each file"),
        ('[{"file": "%(name)s"', "is no JSON: "),
        ("[" * 100_000, "is no JSON: "),
    ],
)
def test_a_manifest_in_json(inbox: Inbox, text: str, words: str | None) -> None:
    spec = with_manifest(path="manifest.json", format="json", file="file", rows="rows", checksum="md5")
    deliver(inbox, text % {"name": NAME, "md5": hexdigest("md5")}, "manifest.json")
    result = load(inbox, spec)
    assert result.status == ("loaded" if words is None else "refused"), result.reason
    assert words is None or words in str(result.reason)


def test_another_manifest_makes_it_another_delivery(inbox: Inbox, query: Query) -> None:
    spec = with_manifest(path="SUMS")
    deliver(inbox, f"{hexdigest('md5', 'wrong')}  {NAME}\n", "SUMS")
    before = listed(inbox, spec)
    assert load(inbox, spec).status == "refused"
    assert query("SELECT stamp FROM importer.loads") == [(before.file_version,)]
    (inbox.folder / FOLDER / "SUMS").write_text(f"{hexdigest('md5')}  {NAME}\n")
    assert listed(inbox, spec).file_version != before.file_version
    assert load(inbox, spec).status == "loaded"


def test_a_manifest_that_is_missing_damaged_or_leads_out(inbox: Inbox, tmp_path: Path) -> None:
    spec = with_manifest(path="SUMS")
    for manifest, words in (
        (None, "is not there"),
        ("what?\n", "has the line 'what?'"),
        ("abc\n", "md5, sha1"),
    ):
        deliver(inbox, manifest, "SUMS")
        assert words in str(load(inbox, spec).reason)
    secret = tmp_path.parent / f"{tmp_path.name}-secret"
    secret.write_text(f"{hexdigest('md5')}  {NAME}\n")
    place = inbox.folder / FOLDER / "SUMS"
    place.unlink()
    place.symlink_to(secret)
    assert "leads out of the inbox" in str(load(inbox, spec).reason)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"path": "../SUMS"}, "must stay in the inbox"),
        ({"path": "SUMS", "rows": "n"}, "are for format: csv"),
        ({"path": "M", "format": "csv", "file": "f"}, "at least one of the columns"),
        ({"path": "M", "format": "csv", "rows": "n"}, "name the column file"),
        ({"path": "M", "format": "json", "file": "f"}, "at least one of the columns"),
    ],
)
def test_a_manifest_that_makes_no_sense(manifest: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_manifest(**manifest)


# --- totals that are loaded ---------------------------------------------------------------------------

SALES = [{"name": "region"}, {"name": "sales", "type": "number", "precision": 12, "scale": 2}, {"name": "n", "type": "integer"}]  # fmt: skip
FOUR = "region,sales,n\nNorth,10,1\nSouth,20.5,2\nEast,5,\nWest,7,3\n"


@pytest.mark.parametrize(
    ("content", "records"),
    [
        (FOUR + "Total,42.5,\n,,\nSource: the office,,\n", [5]),
        (FOUR + "TOTAL:,,6\n,,\n", [5]),
        (FOUR + "Sum of sales,42.50,99\nx,,\n", [5]),
        ("region,sales,n\na,1,\nb,2,\nSubtotal,3,\nc,4,\nd,5,\nSubtotal,9,\nGrand total,12,\n.,0,\n", [7, 3]),
        (FOUR + "Total,42.6,\n,,\n", []),  # does not add up
        (FOUR + "Totally,42.5,\n,,\n", []),
        (FOUR + "All,42.5,\n,,\n", []),
        ("region,sales,n\nNorth,10,1\nTotal,10,1\nx,,\n", []),  # of one record
        (FOUR + "Total,42.5,\n" + "x,1,\n" * 30, []),  # not at the end
    ],
)
def test_a_total_that_is_loaded_is_warned_of(inbox: Inbox, content: str, records: list[int]) -> None:
    spec = make_spec(fields=SALES)
    result = inbox.load(spec, content)
    assert result.rows_rejected == 0
    warnings = [e.detail for e in result.drift if e.kind == "warning"]
    assert [w.split(" has ")[0] for w in warnings] == [f"record {n}" for n in records]
    assert all("dialect.footerRows" in w for w in warnings)
    keep = make_spec(name="kept", fields=SALES, dialect={"totals": "keep"})
    assert not inbox.load(keep, content).drift


def test_a_total_in_the_key_and_in_one_of_many_batches(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_steps, "open_delivery", pipeline_reader)
    fields = [{"name": "v"}, {"name": "id"}, {"name": "x", "type": "number", "format": "double"}]
    content = "v,id,x\n" + "".join(f"v,{i},0.1\n" for i in range(1000)) + "v,Total,100\nx,y,\n"
    result = inbox.load(make_spec(fields=fields, key=["id"], write_disposition="merge"), content)
    [warning] = result.drift
    assert warning.detail.startswith(
        "record 1,001 has 'Total' in column 'id', and its 'x' is the sum of the records"
    )


def test_a_small_file_with_a_total_is_imported_alone(inbox: Inbox) -> None:
    spec = make_spec(fields=SALES)
    contents = [FOUR + "x,1,\n", FOUR + "Total,42.5,\n,,\n", "region,sales,n\nTotal,1,\n" + "x,1,\n" * 30]
    deliveries = [
        replace(inbox.delivery(spec, c, path=f"{i}.csv"), size=len(c)) for i, c in enumerate(contents)
    ]
    found = import_together(deliveries, spec, warehouse=inbox.warehouse)
    assert sorted(d.path for d in found) == ["0.csv", "2.csv"]
