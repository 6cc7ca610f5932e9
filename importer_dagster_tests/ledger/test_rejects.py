"""Quarantine: one row per record in the database, one per cell to whoever asks."""

from functools import partial
from typing import Any

import pyarrow as pa
from alembic import command

from importer_dagster.ledger import rejects as ledger_rejects
from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.pipeline import load, rows
from importer_dagster.reject_schema import REJECT_SCHEMA
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.faults import SHOWN
from importer_dagster.validation.rejects import Rejects, records_from_cells
from importer_dagster_tests.helpers.inbox import Inbox, Query, make_spec, migrate

CELLS = "row, line, column_name, value, rule, message, raw"
LONG = "x" * (SHOWN + 1)


def mixed_spec() -> TableSpec:
    """A type whose rejects have all kinds of words: of a check, of a parser, its own for each cell, none of a value."""
    return make_spec(
        fields=[
            {"name": "id", "type": "integer", "constraints": {"required": True, "maximum": 99}},
            {"name": "code", "constraints": {"pattern": "[A-Z]+"}, "checks": ["luhn"]},
            {"name": "more", "type": "object"},
            {"name": "price", "type": "number", "precision": 5, "scale": 2},
        ],
        key=["id"],
        reject_limit={"share": 1.0},
    )


MIXED = (
    "id,code,more,price\n"
    "1,,{},1.5\n"
    f"{LONG},{LONG},[1],1.234\n"
    "2,ab\n"
    ',no,"{""a"": x}",12345.6\n'
    "100,,nope,y\n"
    "3,,,2\n"
    "3,,,7\n"
    "1,,,7\n"
)


def test_what_is_on_record_is_what_a_rehearsal_shows(inbox: Inbox, query: Query) -> None:
    rehearsed = inbox.load(mixed_spec(), MIXED, dry_run=True)
    result = inbox.load(mixed_spec(), MIXED)
    assert (result.rows_loaded, result.rows_rejected) == (2, 6)
    shown = [tuple(cell.values()) for cell in rehearsed.rejects.to_pylist()]
    recorded = query(f"SELECT {CELLS} FROM importer.rejects")
    assert sorted(recorded, key=str) == sorted(shown, key=str)
    messages = {(row, column): message for row, _, column, _, _, message, _ in recorded}
    assert messages[2, "id"] == f"'{'x' * SHOWN}…' is no integer"
    assert messages[2, "more"] == "'[1]' is JSON, but no object"
    assert messages[2, "price"] == "'1.234' has more than 2 decimals"
    assert messages[3, "more"] == "expected 4 fields, got 2"
    assert messages[4, "id"] == "is required, but missing"
    assert messages[4, "more"].startswith("""'{"a": x}' is no JSON: """)
    assert messages[4, "price"] == "'12345.6' has more than 3 digits before the decimals"
    assert messages[5, "id"] == "'100' is greater than 99"
    assert messages[7, "id"] == "the same id stood already in record 6"
    assert query("SELECT count(*) FROM importer.reject_records") == [(6,)]


def test_a_cell_with_two_faults_of_its_column_has_both(inbox: Inbox, query: Query) -> None:
    inbox.load(mixed_spec(), "id,code,more,price\n5,ab,,\n")
    assert query("SELECT column_name, rule FROM importer.rejects ORDER BY 2") == [
        ("code", "luhn"),
        ("code", "pattern"),
    ]


def test_reasons_are_numbered_on_where_rejects_are_written_in_between(
    inbox: Inbox, query: Query, monkeypatch: Any
) -> None:
    monkeypatch.setattr(rows, "REJECTS_IN_MEMORY", 1)
    monkeypatch.setattr(load, "open_delivery", partial(load.open_delivery, block_size=2_000))
    content = "id,code,more,price\n" + "".join(
        f"{i},,,\n" if i < 300 else f"{i},ab,,\n" if i < 600 else f"{i},,,x\n" for i in range(1, 1_000)
    )
    result = inbox.load(mixed_spec(), content)
    found = query(
        "SELECT rule, count(*) FROM importer.rejects WHERE load_id = %s GROUP BY 1 ORDER BY 1", result.load_id
    )
    assert found == [("luhn", 300), ("maximum", 900), ("pattern", 300), ("type", 400)]
    assert query("SELECT count(*) FROM importer.reject_reasons") == [(4,)]
    with inbox.warehouse.connect() as conn:
        some = ledger_rejects.read(conn, load_id=result.load_id, limit=7)
    assert [(r["row"], r["column_name"]) for r in some] == [(n, "id") for n in range(100, 107)]


def test_rejects_of_before_are_kept_by_the_migration_and_back(inbox: Inbox, query: Query) -> None:
    inbox.load(mixed_spec(), MIXED)
    everything = f"SELECT load_id, {CELLS} FROM importer.rejects ORDER BY 1, 2, 4, 6"
    before = query(everything)
    for step, to in ((command.downgrade, "0006"), (command.upgrade, "head")):
        migrate(inbox.warehouse, step, to)
        assert query(everything) == before
    with inbox.warehouse.connect() as conn:
        assert len(ledger_rejects.read(conn)) == len(before)
        assert ledger_schema.is_current(conn)


def test_a_thousand_kinds_of_words_make_no_thousand_reasons(inbox: Inbox, query: Query) -> None:
    content = "id,code,more,price\n" + "".join(f"{i % 50},,,\n" for i in range(1_000))
    result = inbox.load(mixed_spec(), content)
    assert result.rows_rejected == 950
    assert query("SELECT count(*), count(DISTINCT message) FROM importer.rejects") == [(950, 50)]
    assert query("SELECT count(*) FROM importer.reject_reasons") == [(1,)]


def test_the_first_cells_are_those_of_the_first_records() -> None:
    cells = {"row": [1, 1, 2], "line": [2, 2, 3], "column_name": ["a", "b", None], "value": ["x", None, "y"],
             "rule": ["r", "s", "t"], "message": ["m", "n", "o"], "raw": ["x,", None, "y"]}  # fmt: skip
    table = pa.table(cells, schema=REJECT_SCHEMA)
    rejects = Rejects()
    rejects.add(records_from_cells(table))
    assert rejects.records == 2
    assert [tuple(c.values())[:6] for c in rejects.first[0].to_pylist()] == [
        tuple(c.values())[:6] for c in table.to_pylist()
    ]
