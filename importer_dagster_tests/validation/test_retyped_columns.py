"""Columns whose values are of another type than declared: recognised over the whole file, treated as declared."""

import pytest

from importer_dagster.pipeline import load
from importer_dagster.spec.table import TableSpec
from importer_dagster_tests.helpers.inbox import Inbox, Query, make_spec, pipeline_reader

FIELDS = [
    {"name": "id", "type": "integer"},
    {"name": "price", "type": "number", "precision": 8, "scale": 2, "missingValues": ["", "NA"]},
]


def spec(contract: str | dict, **more) -> TableSpec:
    return make_spec(fields=FIELDS, schema_contract=contract, **more)


def content(good: int, bad: int, missing: int = 0) -> str:
    cells = ["NA"] * missing + ['"1,50"'] * bad + ["2.50"] * good
    return "id,price\n" + "".join(f"{i},{c}\n" for i, c in enumerate(cells))


def test_freeze_refuses_with_that_reason(inbox: Inbox, query: Query) -> None:
    result = inbox.load(spec({"retyped": "freeze"}), content(2, 48))
    assert result.status == "refused"
    assert "Column 'price' of type things has another type: 48 of 50 values" in result.reason
    assert "'1,50' is no number" in result.reason
    assert query("SELECT kind, column_name FROM importer.drift") == [("retyped", "price")]
    assert query("SELECT count(*) FROM things") == [(0,)]


def test_without_a_word_they_are_rejects_and_on_record(inbox: Inbox, query: Query) -> None:
    result = inbox.load(spec({}), content(2, 48))
    assert (result.status, result.rows_loaded, result.rows_rejected) == ("loaded", 2, 48)
    assert query("SELECT kind, column_name FROM importer.drift") == [("retyped", "price")]


def test_a_refusal_for_too_many_rejects_names_the_column(inbox: Inbox, query: Query) -> None:
    result = inbox.load(spec({}, reject_limit={"share": 0.1}), content(2, 48))
    assert result.status == "refused"
    assert "Column 'price' has another type" in result.reason
    assert query("SELECT kind, column_name FROM importer.drift") == [("retyped", "price")]


@pytest.mark.parametrize("limit", [{"count": 5}, {"share": 0.1}])
@pytest.mark.parametrize("more", [{}, {"key": ["id"], "write_disposition": "merge"}])
def test_rescue_keeps_the_text(inbox: Inbox, query: Query, monkeypatch, limit: dict, more: dict) -> None:
    """NULL in the column, the text in _extra; what can be read is read, what is missing is missing."""
    monkeypatch.setattr(load, "open_delivery", pipeline_reader)  # blocks of 64 bytes
    result = inbox.load(spec({"retyped": "rescue"}, reject_limit=limit, **more), content(2, 48, 3))
    assert (result.status, result.rows_read, result.rows_loaded, result.rows_rejected) == (
        "loaded",
        53,
        53,
        0,
    )
    assert query("SELECT price::text, _extra, count(*) FROM things GROUP BY 1, 2 ORDER BY 3") == [
        ("2.50", None, 2),
        (None, None, 3),
        (None, {"price": "1,50"}, 48),
    ]
    assert query("SELECT count(*) FROM importer.loads") == [(1,)]
    events = query("SELECT kind, detail FROM importer.drift")
    assert events == [("retyped", "48 of 53 values are of another type, such as: '1,50'; kept as text in _extra "
                                  "where the column is not required")]  # fmt: skip


def test_the_whole_file_decides(inbox: Inbox, monkeypatch) -> None:
    """A file that begins as if the type had changed is not rescued if the rest is as declared."""
    monkeypatch.setattr(load, "open_delivery", pipeline_reader)
    own = spec({"retyped": "rescue"}, reject_limit={"count": 30})
    assert inbox.load(own, content(200, 25)).rows_rejected == 25
    assert inbox.load(own, content(200, 40), path="b").status == "refused"


def test_few_bad_cells_are_just_rejects(inbox: Inbox, query: Query) -> None:
    own = spec({"retyped": "freeze"})
    assert inbox.load(own, content(0, 19)).rows_rejected == 19
    assert inbox.load(own, content(10, 60), path="b").rows_rejected == 60
    assert query("SELECT count(*) FROM importer.drift") == [(0,)]


def test_a_required_column_is_never_null(inbox: Inbox, query: Query) -> None:
    fields = [FIELDS[0], {**FIELDS[1], "constraints": {"required": True}}]
    own = make_spec(fields=fields, schema_contract={"retyped": "rescue"})
    assert inbox.load(own, content(5, 60)).rows_rejected == 60
    assert query("SELECT count(*) FROM things WHERE price IS NULL") == [(0,)]


def test_a_rehearsal_says_the_same(inbox: Inbox, query: Query) -> None:
    own = spec({"retyped": "rescue"})
    result = inbox.load(own, content(2, 48), dry_run=True)
    assert (result.status, result.rows_loaded) == ("loaded", 50)
    assert [e.kind for e in result.drift] == ["retyped"]
    assert query("SELECT to_regclass('things')") == [(None,)]
