"""Headers against specs."""

import pytest

from importer_dagster.errors import RefusedError
from importer_dagster.validation.drift import map_header
from importer_dagster_tests.helpers.inbox import Inbox, Query, make_spec


def spec(**more):
    fields = [
        {"name": "id", "type": "integer", "constraints": {"required": True}},
        {"name": "first name", "aliases": ["given", ""]},
        {"name": "n"},
    ]
    return make_spec(fields=fields, **more)


@pytest.mark.parametrize(
    ("header", "sources", "kinds"),
    [
        (["id", "first name", "n"], {"id": 0, "first name": 1, "n": 2}, []),
        (["n", "id", "first name"], {"n": 0, "id": 1, "first name": 2}, ["reordered"]),
        (["id", "given", "n"], {"id": 0, "first name": 1, "n": 2}, ["renamed"]),
        (["ID ", "First_Name", "n"], {"id": 0, "first name": 1, "n": 2}, ["renamed", "renamed"]),
        (["id", "n"], {"id": 0, "n": 1}, ["removed"]),
        (["id", "", "n"], {"id": 0, "first name": 1, "n": 2}, ["renamed"]),
        (["id", "first name", "n", "new"], {"id": 0, "first name": 1, "n": 2}, ["added"]),
    ],
)
def test_columns_are_matched_by_name(header, sources, kinds) -> None:
    mapping = map_header(header, spec())
    assert mapping.sources == sources
    assert sorted(e.kind for e in mapping.events) == kinds


def test_contracts_refuse_or_discard() -> None:
    with pytest.raises(RefusedError, match="lacks 'id'"):
        map_header(["first name", "n"], spec())
    with pytest.raises(RefusedError, match="removed: freeze"):
        map_header(["id", "n"], spec(schema_contract={"removed": "freeze"}))
    with pytest.raises(RefusedError) as lost:
        map_header(["id", "n"], spec(schema_contract={"removed": "freeze"}))
    assert [e.detail for e in lost.value.events] == ["the header lacks this column; refused"]
    with pytest.raises(RefusedError, match="does not know: 'new'"):
        map_header(["id", "first name", "n", "new"], spec(schema_contract="freeze"))
    with pytest.raises(RefusedError, match="another order"):
        map_header(["n", "id", "first name"], spec(schema_contract={"reordered": "freeze"}))
    assert (
        map_header(["id", "first name", "n", "new"], spec(schema_contract={"added": "discard"})).extras == ()
    )
    assert map_header(["id", "first name", "n", "new"], spec()).extras == (3,)


def test_two_candidates_are_no_match() -> None:
    with pytest.raises(RefusedError, match="could all be the field 'id'"):
        map_header(["ID", "Id", "first name", "n"], spec())


@pytest.mark.parametrize(
    ("header", "contract", "dialect", "line"),
    [
        ("first name,n", {}, {"headerRows": [4]}, 4),
        ("id,n", {"removed": "freeze"}, {"headerRows": [4]}, 4),
        ("id,first name,n,new", {"added": "freeze"}, {"commentChar": "Report"}, 4),
        ("n,id,first name", {"reordered": "freeze"}, {"headerRows": [4]}, 4),
        ("ID,Id,first name,n", {}, {"headerRows": [4]}, 4),
        ("x,y", {}, {"headerRows": [4]}, 4),
        ("id\nfirst", {}, {"headerRows": [4, 5]}, 4),  # of two lines, the first
    ],
)
def test_a_refusal_names_the_headers_own_line(
    inbox: Inbox, query: Query, header: str, contract: dict, dialect: dict, line: int
) -> None:
    content = f"Report of May\n\nReport of June\n{header}\n1,2,3,4\n"
    result = inbox.load(spec(schema_contract=contract, dialect=dialect), content)
    assert result.status == "refused"
    assert (result.reason or "").count(f"in line {line}") == 1, result.reason
    assert query("SELECT DISTINCT line FROM importer.rejects") == [(line,)]
