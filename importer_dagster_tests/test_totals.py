"""What a supplier says about its own file: totals in a trailer, counts and checksums in a manifest."""

from typing import Any

import pytest
from conftest import Inbox, Query, make_spec

from importer_dagster.spec import TableSpec

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
