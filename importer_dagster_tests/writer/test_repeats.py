"""What deliveries said again is kept in blocks of records: nothing of it is lost, whatever is taken out or moved."""

import datetime

import pytest
from alembic import command

from importer_dagster.ledger import schema as ledger_schema
from importer_dagster.operations import unload
from importer_dagster.spec.table import TableSpec
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query, make_spec, migrate

FIELDS = [
    {"name": "code"},
    {"name": "on", "type": "date"},
    {"name": "ref", "format": "uuid"},
    {"name": "amount", "type": "number", "precision": 9, "scale": 2},
    {"name": "v"},
]
SAID_AGAIN = """
    SELECT r._tenant, r._load_id, r._same_as, u.code, u."on", u.ref, u.amount, r._block + u._row
    FROM importer_repeats.things r, unnest(r.code, r."on", r.ref, r.amount, r._row) AS u (code, "on", ref, amount, _row)
    ORDER BY 2, 8
"""


def keyed_spec(disposition: str = "merge") -> TableSpec:
    return make_spec(fields=FIELDS, key=["code", "on", "ref", "amount"], write_disposition=disposition)


def text_of(rows: int, values: dict[int, str] | None = None) -> str:
    said = dict.fromkeys(range(rows), "a") | (values or {})
    return "code,on,ref,amount,v\n" + "".join(
        f"c{i % 7},2024-01-0{i % 9 + 1},{i:032x},{i}.50,{v}\n" for i, v in said.items()
    )


def day(n: int) -> datetime.date:
    return DAY + datetime.timedelta(days=n)


def test_a_block_is_one_row_and_every_record_is_in_it(inbox: Inbox, query: Query) -> None:
    spec, rows = make_spec(key=["id"], write_disposition="merge"), 70_000
    content = "id,v,n\n" + "".join(f"{i},x,1\n" for i in range(rows))
    inbox.load(spec, content, path="0.csv")
    second = inbox.load(spec, content, path="1.csv", day=day(1))
    assert second.rows_unchanged == rows
    assert query(
        "SELECT _block, cardinality(_row), cardinality(id) FROM importer_repeats.things ORDER BY 1"
    ) == [
        (0, 32767, 32767),
        (32768, 32768, 32768),
        (65536, rows - 65535, rows - 65535),
    ]
    said = "SELECT count(*), sum(u.id), sum(r._block + u._row) FROM importer_repeats.things r, unnest(r.id, r._row) u (id, _row)"
    every = (rows, rows * (rows - 1) // 2, rows * (rows + 1) // 2)
    assert query(said) == [every]
    # a late change of one key takes one record out of one block
    inbox.load(spec, "id,v,n\n40000,y,1\n", path="half.csv", day=day(0))
    assert query(said) == [(every[0] - 1, every[1] - 40_000, every[2] - 40_001)]
    assert query("SELECT v, _load_id, _row FROM things WHERE id = 40000") == [("x", second.load_id, 40_001)]


@pytest.mark.parametrize("disposition", ["merge", "scd2"])
def test_what_was_said_again_stands_when_the_first_to_say_it_is_taken_out(
    inbox: Inbox, query: Query, disposition: str
) -> None:
    spec = keyed_spec(disposition)
    loads = [inbox.load(spec, text_of(50), path=f"{n}.csv", day=day(n)).load_id for n in range(3)]
    assert len(query(SAID_AGAIN)) == 100
    unload.unload(loads[0], {"things": spec}, warehouse=inbox.warehouse, has_tenant=lambda _: True)
    assert query("SELECT DISTINCT _load_id, count(*) FROM things GROUP BY 1") == [(loads[1], 50)]
    again = query(SAID_AGAIN)
    assert [r[1:3] + r[7:] for r in again] == [(loads[2], loads[1], n) for n in range(1, 51)]
    assert {r[3:7] for r in again} == set(query('SELECT code, "on", ref, amount FROM things'))


def test_repeats_of_before_are_kept_by_the_migration_and_back(inbox: Inbox, query: Query) -> None:
    spec = keyed_spec()
    for n, values in enumerate([{}, {3: "b"}, {3: "b", 4: "c"}]):
        inbox.load(spec, text_of(30, values), path=f"{n}.csv", day=day(n))
    before = query(SAID_AGAIN)
    assert len(before) == 58
    migrate(inbox.warehouse, command.downgrade, "0009")
    assert (
        query(
            'SELECT _tenant, _load_id, _same_as, code, "on", ref, amount, _row FROM importer_repeats.things ORDER BY 2, 8'
        )
        == before
    )
    migrate(inbox.warehouse, command.upgrade, "head")
    assert query(SAID_AGAIN) == before
    with inbox.warehouse.connect() as conn:
        assert ledger_schema.is_current(conn)
    inbox.warehouse.prepared.clear()
    late = inbox.load(
        spec, text_of(30, {3: "b"}), path="late.csv", day=day(1)
    )  # the table is what the spec wants
    assert late.status == "loaded"
    assert len(query(SAID_AGAIN)) == 88
