"""Hard files all the way into PostgreSQL: widths, names, what a reject says, and a rehearsal that writes nothing."""

import pytest

from importer_dagster.spec.table import TableSpec
from importer_dagster_tests.helpers.inbox import Inbox, Query, make_spec


def wide(columns: int, value: str, kind: str = "integer", **more) -> tuple[TableSpec, str]:
    names = [f"c{i}" for i in range(columns)]
    spec = make_spec(fields=[{"name": n, "type": kind} for n in names], **more)
    return spec, ",".join(names) + "\n" + (",".join([value] * columns) + "\n") * 3


@pytest.mark.parametrize("disposition", ["append", "replace"])
def test_1000_columns_of_integers_load(inbox: Inbox, query: Query, disposition: str) -> None:
    spec, content = wide(1000, "1234567890123", write_disposition=disposition)
    assert inbox.load(spec, content).rows_loaded == 3
    assert query("SELECT c0, c999 FROM things") == [(1234567890123, 1234567890123)] * 3


def test_1000_columns_merge_and_count_unchanged_rows(inbox: Inbox) -> None:
    spec, _ = wide(1000, "1", key=["c0"], write_disposition="merge")
    header = ",".join(f"c{i}" for i in range(1000)) + "\n"
    rows = [",".join(str(n * 1000 + i) for i in range(1000)) + "\n" for n in range(3)]
    inbox.load(spec, header + "".join(rows), path="a")
    again = inbox.load(
        spec, header + "".join(rows[1:]) + ",".join(map(str, range(9000, 10000))) + "\n", path="b"
    )
    assert (again.rows_loaded, again.rows_unchanged) == (1, 2)


def test_1590_columns_load_where_their_values_are_small(inbox: Inbox) -> None:
    assert inbox.load(*wide(1590, "1234", "string")).rows_loaded == 3


def test_a_row_too_large_for_postgresql_is_refused_with_the_reason(inbox: Inbox) -> None:
    result = inbox.load(*wide(1590, "1"))
    assert result.status == "refused"
    assert "A record takes 12," in (result.reason or "")
    assert "a row can have 8,160" in (result.reason or "")


def test_more_fields_than_a_table_can_have_are_an_error_of_the_spec() -> None:
    with pytest.raises(ValueError, match="1,591 fields are more than the 1,590 that a table can have"):
        wide(1591, "1")


def test_long_names_get_short_unique_ones(inbox: Inbox, query: Query) -> None:
    names = ["x" * 80 + "1", "x" * 80 + "2", "ü" * 40]
    spec = make_spec(fields=[{"name": n} for n in names])
    assert inbox.load(spec, ",".join(names) + "\n1,2,3\n").rows_loaded == 1
    columns = [f.column for f in spec.fields]
    assert len(set(columns)) == 3
    assert all(len(c.encode()) <= 63 for c in columns)
    assert query("SELECT * FROM things")[0][:3] == ("1", "2", "3")


def test_hostile_names_from_a_file_are_only_ever_data(inbox: Inbox, query: Query) -> None:
    names = ["'; DROP TABLE things; --", 'a""b', "100%s", "{x}", "two\nlines", "\\", "$1", ":p"]
    header = "id," + ",".join(f'"{n}"' for n in names) + "\n"
    spec = make_spec(fields=[{"name": "id", "type": "integer"}])
    result = inbox.load(spec, header + "1" + ",x" * len(names) + "\n")
    assert (result.status, len(result.drift)) == ("loaded", len(names))
    assert query("SELECT _extra FROM things") == [({n.replace('""', '"'): "x" for n in names},)]


EVERY_FAULT = (
    b'id,v,n\n1,ok,1\n2,short\n3,long,1,more\n4,q"uote,1\n5,"open,1\n6,nul\0,1\n7,byte\xff,1\nid,v,n\nx,type,1\n8,,1\n1,again,1\n'
    + "9,é,1\n10,é,1\n".encode()
    + b"Total,sum,3\n"
)


def test_every_kind_of_reject_says_all_there_is_to_say(inbox: Inbox, query: Query) -> None:
    fields = [
        {"name": "id"},
        {"name": "v", "constraints": {"required": True}},
        {"name": "n", "type": "integer"},
    ]
    content = EVERY_FAULT.replace(b"x,type,1", b"0,type,x")
    result = inbox.load(make_spec(fields=fields, key=["id"]), content)
    assert (result.rows_read, result.rows_loaded, result.rows_rejected) == (14, 3, 11)
    rows = query(
        'SELECT "row", line, column_name, value, rule, raw FROM importer.rejects ORDER BY "row", rule'
    )
    assert rows == [
        (2, 3, "n", "", "fields.short", "2,short"),
        (3, 4, "column 4", "more", "fields.long", "3,long,1,more"),
        (4, 5, "v", 'q"uote', "quote.damaged", '4,q"uote,1'),
        (5, 6, "v", '"open,1', "quote.unclosed", '5,"open,1'),
        (6, 7, "v", "nul\\x00", "nul", "6,nul\\x00,1"),
        (7, 8, "v", "byte\\xff", "encoding", "7,byte\\xff,1"),
        (8, 9, "id", "id", "header.repeated", "id,v,n"),
        (9, 10, "n", "x", "type", "0,type,x"),
        (10, 11, "v", None, "required", "8,,1"),
        (11, 12, "id", "1", "primaryKey", "1,again,1"),
        (14, 15, "id", "Total", "footer.totals", "Total,sum,3"),
    ]


def everything(query: Query) -> dict[str, object]:
    """All that a rehearsal could have written: rows of every table, objects, sequences."""
    tables = query(
        "SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE relkind IN ('r', 'm') AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' ORDER BY 1"
    )
    return {
        "rows": {t: query(f"SELECT count(*), max(xmin::text) FROM {t}") for (t,) in tables},
        "objects": query("SELECT oid, relname, relkind FROM pg_class WHERE relpersistence <> 't' ORDER BY 1"),
        "schemas": query("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp' ORDER BY 1"),
        "columns": query("SELECT attrelid, attname FROM pg_attribute WHERE attrelid > 16384 ORDER BY 1, 2"),
        "sequences": query("SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2"),
    }


@pytest.mark.parametrize("known", [True, False])
def test_a_rehearsal_writes_nothing(inbox: Inbox, query: Query, known: bool) -> None:
    spec = make_spec(key=["id"], write_disposition="merge", schema_contract={"added": "evolve"})
    if known:
        inbox.load(spec, "id,v,n\n1,a,1\n2,b,2\n", path="before.csv")
    before = everything(query)
    for content in (b"id,v,n,new\n1,x,1,7\n3,c,3,8\nx,y,1,1\n", EVERY_FAULT, b"what,is,this\n1,2,3\n", b""):
        result = inbox.load(spec, content, path="f.csv", dry_run=True)
        assert result.load_id is None
    assert everything(query) == before


def test_a_rehearsal_comes_to_what_the_import_comes_to(inbox: Inbox) -> None:
    spec = make_spec(key=["id"])
    rehearsed = inbox.load(spec, EVERY_FAULT, dry_run=True)
    loaded = inbox.load(spec, EVERY_FAULT)
    for figure in (
        "status",
        "rows_read",
        "rows_loaded",
        "rows_rejected",
        "rows_skipped",
        "reason",
        "drift",
        "sha256",
    ):
        assert getattr(rehearsed, figure) == getattr(loaded, figure)
    assert len({r["row"] for r in rehearsed.rejects.to_pylist()}) == loaded.rows_rejected > 5


def test_warnings_are_in_result_and_ledger(inbox: Inbox, query: Query) -> None:
    result = inbox.load(make_spec(), "id,v,n,\n1,a\ufffd,1\n2,b")
    assert [e.kind for e in result.drift] == ["warning"] * 3
    details = [
        d for (d,) in query("SELECT detail FROM importer.drift WHERE kind = 'warning' ORDER BY detail")
    ]
    assert [d[:25] for d in details] == [
        "1 record holds U+FFFD, th",
        "the header ends with an e",
        "the last record, in line 3"[:25],
    ]


def test_one_column_in_several_formats_of_dates(inbox: Inbox, query: Query) -> None:
    fields = [
        {"name": "id", "type": "integer"},
        {
            "name": "day",
            "type": "date",
            "format": ["%d/%m/%Y", "default"],
            "constraints": {"minimum": "2024-01-01"},
        },
    ]
    result = inbox.load(
        make_spec(fields=fields), "id,day\n1,03/04/2024\n2,2024-04-03\n3,\n4,4.3.2024\n5,2023-01-01\n"
    )
    assert (result.rows_loaded, result.rows_rejected) == (3, 2)
    assert query("SELECT id, day::text FROM things ORDER BY id") == [
        (1, "2024-04-03"),
        (2, "2024-04-03"),
        (3, None),
    ]
    rejects = query('SELECT "row", rule FROM importer.rejects ORDER BY "row"')
    assert rejects == [(4, "type"), (5, "minimum")]
