"""A spec that ``infer`` wrote loads the very files that it came from."""

from pathlib import Path

import pytest
from conftest import SHARED, Inbox

from importer_dagster.infer import infer
from importer_dagster.model import LoadResult

SAMPLES = {
    "codes": "zip,amount,day\n00123,1.50,2024-01-31\n04567,2.25,2024-02-01\n00001,3.00,2024-02-02\n",
    "german": "Datum;Betrag;Ja\n31.01.2024;1.234,50;wahr\n01.02.2024;2,25;falsch\n",
    "quoted": 'id,text\n1,"a, ""b""\nc"\n2,\n3,""\n',
    "gaps": "id,n\n1,5\n2,\n3,7\n",
}


def load_own(inbox: Inbox, file: Path) -> LoadResult:
    inference = infer([file])
    assert "#" in inference.yaml, "the reasons are missing"
    return inbox.load(inference.spec, file.read_bytes(), path=file.name)


@pytest.mark.parametrize("name", SAMPLES)
def test_small_files_load_with_their_inferred_spec(inbox: Inbox, tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.csv"
    file.write_text(SAMPLES[name], encoding="utf-8")
    result = load_own(inbox, file)
    assert (result.status, result.rows_rejected) == ("loaded", 0), result.reason


def test_leading_zeros_stay_text(tmp_path: Path) -> None:
    file = tmp_path / "codes.csv"
    file.write_text(SAMPLES["codes"], encoding="utf-8")
    fields = {f.name: f for f in infer([file]).spec.fields}
    assert fields["zip"].type == "string"
    assert (fields["amount"].type, fields["amount"].format) == ("number", "default")
    assert fields["day"].type == "date"


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["salestaxrate", "product", "currency", "employee", "store", "productmodel", "culture"]
)
def test_real_files_load_with_their_inferred_spec(inbox: Inbox, name: str) -> None:
    result = load_own(inbox, SHARED / "adventureworks" / f"{name}.csv")
    assert (result.status, result.rows_rejected, result.drift) == ("loaded", 0, ()), result.reason
