"""What is proposed for drift, and written into a spec: found in real deliveries, taken by the real command."""

import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from importer_dagster.cli import main
from importer_dagster.errors import WarehouseError
from importer_dagster.spec.loading import load_spec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.drift import likeness
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query

SPEC = """\
# Orders of the shop.
schema:
  fields:
    - {name: id, type: integer, constraints: {required: true}}  # its number
    - {name: customer, constraints: {required: true}}
    - {name: price, type: number, precision: 10, scale: 2}      # net
    - name: ordered
      type: date
      # by the shop's clock
    - {name: remark}
  primaryKey: [id]
"""
HEADER = ["id", "customer", "price", "ordered", "remark"]


def record(n: int) -> list[str]:
    return [str(n), f"C{n % 30:03d}", f"{n % 50}.50", f"2024-01-{n % 28 + 1:02d}", f"note {n}"]


def write(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(",".join(cells) for cells in [header, *rows]) + "\n"


class Shop:
    """Deliveries of one type, and the command on the same state."""

    def __init__(self, folder: Path, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file, self.inbox = folder / "specs" / "orders.yaml", inbox
        self.file.parent.mkdir()
        self.file.write_text(SPEC)
        monkeypatch.setenv("IMPORTER_HOME", str(folder / "home"))
        monkeypatch.setenv("IMPORTER_SPECS", str(self.file.parent))
        monkeypatch.setenv("IMPORTER_WAREHOUSE_URL", inbox.warehouse.url)

    @property
    def spec(self) -> TableSpec:
        return load_spec(self.file)

    def load(self, day: int, header: list[str], rows: list[list[str]] | None = None, tenant: str = "acme"):
        rows = rows or [record(n + 3 * day) for n in range(60)]
        when = DAY + datetime.timedelta(days=day)
        return self.inbox.load(
            self.spec, write(header, rows), path=f"{when}/{tenant}/orders.csv", day=when, tenant=tenant
        )

    def run(self, *args: str) -> Result:
        result = CliRunner().invoke(main, ["drift", *args])
        assert result.exit_code == 0, result.output
        return result

    def changes(self) -> dict[tuple[str, str | None], dict]:
        return {(c["kind"], c["column"]): c for c in json.loads(self.run("orders", "--json").output)}


@pytest.fixture
def shop(tmp_path: Path, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    yield Shop(tmp_path, inbox, monkeypatch)


def renamed(**names: str) -> list[str]:
    return [names.get(h, h) for h in HEADER]


def test_nothing_changed(shop: Shop) -> None:
    shop.load(0, HEADER)
    assert "No delivery differs" in shop.run().output
    result = CliRunner().invoke(main, ["drift", "accept", "orders"])
    assert result.exit_code == 2


def test_a_refused_rename_is_recognised_by_its_values_and_accepted(shop: Shop, query: Query) -> None:
    shop.load(0, HEADER)
    refused = shop.load(1, renamed(customer="account_no"))
    assert refused.status == "refused"
    assert "importer drift orders" in refused.reason
    listed = shop.run("orders").output
    assert "+    - {name: customer, constraints: {required: true}, aliases: [account_no]}" in listed
    assert "-    - {name: customer, constraints: {required: true}}" in listed
    (change,) = shop.changes().values()
    assert (change["kind"], change["column"], change["since"], change["refused"]) == (
        "renamed", "customer", "2024-01-02", 1)  # fmt: skip
    assert "100% of them stood in 'customer' before" in change["detail"]
    assert shop.file.read_text() == SPEC
    shop.run("accept", "orders", "--dry-run")
    assert shop.file.read_text() == SPEC
    shop.run("accept", "orders")
    assert shop.file.read_text() == SPEC.replace("{required: true}}\n    - {name: price", "{required: true}, "
                                                 "aliases: [account_no]}\n    - {name: price")  # fmt: skip
    again = shop.load(1, renamed(customer="account_no"))
    assert again.status == "loaded"
    assert [(e.kind, e.declared) for e in again.drift] == [("renamed", True)]
    assert shop.changes() == {}
    assert query("SELECT count(*) FROM orders WHERE customer IS NULL") == [(0,)]


@pytest.mark.parametrize(
    ("values", "renamed_"),
    [
        (["Bonn", "Berlin", "Ulm", "Kiel"], True),  # the very words that it had
        (["Bonn", "Berlin", "Ulm", "Graz"], False),  # one that it never had
        (["Y", "N"], False),  # as any flag has
    ],
)
def test_few_words_say_a_rename_if_they_are_the_same(shop: Shop, values: list[str], renamed_: bool) -> None:
    had = [values[0], *values[1:]] if renamed_ or len(values) == 2 else ["Bonn", "Berlin", "Ulm", "Kiel"]
    shop.load(0, HEADER, [[*record(n)[:1], had[n % len(had)], *record(n)[2:]] for n in range(60)])
    rows = [[*record(n)[:1], values[n % len(values)], *record(n)[2:]] for n in range(60)]
    shop.load(1, renamed(customer="town"), rows)
    assert (("renamed", "customer") in shop.changes()) == renamed_


def test_what_is_called_alike_but_holds_something_else_is_no_rename(shop: Shop) -> None:
    shop.load(0, HEADER)
    rows = [[*record(n)[:2], f"x{n}", *record(n)[3:]] for n in range(60)]
    shop.load(1, renamed(price="price_code"), rows)
    assert set(shop.changes()) == {("removed", "price"), ("added", "price_code")}


@pytest.mark.parametrize(
    ("new", "column"),
    [("price_eur", "price"), ("orderedDate", "ordered"), ("Remarks", "remark"), ("net_price", "price")],
)
def test_optional_columns_under_names_that_are_alike(shop: Shop, new: str, column: str) -> None:
    shop.load(0, HEADER)
    loaded = shop.load(1, ["id", "customer", *sorted(renamed(**{column: new})[2:])],
                       [[r[0], r[1], *[r[HEADER.index({new: column}.get(h, h))] for h in sorted(renamed(**{column: new})[2:])]]
                        for r in map(record, range(60))])  # fmt: skip
    assert loaded.status == "loaded"
    assert ("renamed", column) in shop.changes()
    shop.run("accept", "orders", "--column", column)
    assert new in shop.spec.field(column).aliases


def test_an_added_column_becomes_a_field_from_its_day_on(shop: Shop, query: Query) -> None:
    shop.load(0, HEADER)
    more = [[*record(n), f"{n}.125"] for n in range(60)]
    shop.load(1, [*HEADER, "weight"], more)
    shop.load(2, [*HEADER, "weight"], more)
    (change,) = shop.changes().values()
    assert (change["kind"], change["since"], change["deliveries"]) == ("added", "2024-01-02", 2)
    shop.run("accept", "orders")
    assert shop.file.read_text().startswith(
        SPEC + "versions:\n  - from: 2024-01-02\n    fields:\n      - {name: weight, type: number"
    )
    assert shop.changes() == {}
    assert shop.load(3, [*HEADER, "weight"], more).drift == ()
    assert shop.load(-1, HEADER).drift == ()
    assert query(
        "SELECT weight::numeric(10, 3) FROM orders WHERE _business_date = '2024-01-04' AND id = 7"
    ) == [(Decimal("7.125"),)]


def test_an_acceptance_that_was_cut_off_is_finished_by_the_same_command(
    shop: Shop, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [[*record(n), f"{n}.125"] for n in range(60)]
    shop.load(0, HEADER)
    shop.load(1, [*HEADER, "weight"], more)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("importer_dagster.cli.drift._move", cut_off)
        assert CliRunner().invoke(main, ["drift", "accept", "orders"]).exit_code == 1
    assert "name: weight" in shop.file.read_text() and shop.changes() == {}
    shop.load(2, [*HEADER, "weight"], more)  # the column is there, the values of the day before are not
    filled = "SELECT count(weight) FROM orders WHERE _business_date = '2024-01-02'"
    assert query(filled) == [(0,)]
    dry = CliRunner().invoke(main, ["drift", "accept", "orders", "--dry-run"])
    assert (dry.exit_code, query(filled)) == (2, [(0,)])
    assert (
        "60 values of earlier deliveries moved" in shop.run("accept", "orders", "--column", "weight").output
    )
    assert query(filled) == [(60,)]
    assert query("SELECT count(*) FROM orders WHERE _extra IS NOT NULL") == [(0,)]
    assert CliRunner().invoke(main, ["drift", "accept", "orders"]).exit_code == 2  # nothing is left to do


def test_a_column_that_is_lost_comes_back(shop: Shop, query: Query) -> None:
    without = [r[:4] for r in map(record, range(60))]
    shop.load(0, HEADER)
    shop.load(1, HEADER[:4], without)
    assert shop.changes()["removed", "remark"]["since"] == "2024-01-02"
    shop.run("accept", "orders")
    assert "removed: [remark]" in shop.file.read_text()
    assert shop.load(2, HEADER[:4], without).drift == ()
    back = shop.load(3, HEADER)
    assert [(e.kind, e.column_name) for e in back.drift] == [("added", "remark")]
    assert query("SELECT count(remark) FROM orders WHERE _business_date = '2024-01-04'") == [(60,)]
    shop.run("accept", "orders")
    assert shop.load(4, HEADER).drift == ()
    assert shop.changes() == {}


def test_what_is_over_is_history(shop: Shop, query: Query) -> None:
    shop.load(0, HEADER)
    shop.load(1, [*HEADER, "x"], [[*record(n), "1"] for n in range(60)])
    shop.load(2, HEADER)
    (change,) = shop.changes().values()
    assert (change["since"], change["until"], change["proposed"]) == ("2024-01-02", "2024-01-02", False)
    assert CliRunner().invoke(main, ["drift", "accept", "orders"]).exit_code == 2
    shop.run("accept", "orders", "--column", "x")  # for those who ask
    assert "from: 2024-01-03\n    removed: [x]" in shop.file.read_text()
    assert query("SELECT _business_date::text, count(x), count(_extra) FROM orders GROUP BY 1 ORDER BY 1") == [
        ("2024-01-01", 0, 0), ("2024-01-02", 60, 0), ("2024-01-03", 0, 0)]  # fmt: skip
    assert shop.changes() == {}


def test_where_only_one_tenant_changed_no_day_divides_them(shop: Shop) -> None:
    for tenant in ("a", "b"):
        shop.load(0, HEADER, tenant=tenant)
    shop.load(1, [*HEADER, "x"], [[*record(n), f"{n}"] for n in range(60)], tenant="a")
    shop.load(2, HEADER, tenant="b")
    shop.run("accept", "orders")
    assert "versions" not in shop.file.read_text()
    assert shop.spec.fields[-1].name == "x"


def test_a_new_way_of_writing_dates_is_a_version(shop: Shop) -> None:
    shop.load(0, HEADER)
    rows = [[*record(n)[:3], f"{n % 28 + 1:02d}.01.2024", "r"] for n in range(60)]
    result = shop.load(1, HEADER, rows)
    assert result.rows_rejected == 60
    change = shop.changes()["retyped", "ordered"]
    assert change["proposed"], change
    shop.run("accept", "orders")
    assert '{name: ordered, format: "%d.%m.%Y"}' in shop.file.read_text()
    assert shop.inbox.load(shop.spec, write(HEADER, rows), path="2024-01-02/acme/orders.csv",
                           day=DAY + datetime.timedelta(days=1), force=True).rows_loaded == 60  # fmt: skip


def test_renamed_reordered_split_and_added_on_one_day(shop: Shop) -> None:
    shop.load(0, HEADER)
    header = ["remark", "price_net", "first_seen", "id", "ordered", "Customer"]
    rows = [[r[4], r[2], r[3], r[0], r[3], r[1]] for r in map(record, range(60))]
    assert shop.load(1, header, rows).status == "loaded"
    found = shop.changes()
    assert set(found) == {
        ("renamed", "price"),
        ("renamed", "customer"),
        ("added", "first_seen"),
        ("reordered", None),
    }
    shop.run("accept", "orders")
    assert shop.load(2, header, rows).status == "loaded"
    assert set(shop.changes()) == {("reordered", None)}
    assert "type: date" in shop.file.read_text().split("versions:")[1]


@pytest.mark.parametrize("contract", ["rescue", "evolve"])
@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_what_came_in_before_is_as_if_it_came_in_now(
    shop: Shop, query: Query, contract: str, disposition: str
) -> None:
    """After accept, the table is that of a spec which had known the columns from the start."""
    shop.file.write_text(SPEC + f"schema_contract: {{added: {contract}}}\nwrite_disposition: {disposition}\n")
    shop.load(0, HEADER)
    header = ["id", "customer", "price_eur", "ordered", "remark", "weight", "at", "code"]
    rows = [[*record(n), f"{n}.{n % 3}", "31/01/2024", f"{n:03d}"] for n in range(60)]
    shop.load(1, header, rows)
    shop.load(2, header, [[*r[:7], ""] for r in rows[:30]])
    output = shop.run("accept", "orders").output
    assert "values of earlier deliveries moved into their columns" in output
    state = "SELECT _business_date, _row, id, price, weight, at, code, _extra FROM {} ORDER BY 1, 2"
    tables = ("orders", "importer_superseded.orders")
    filled = [query(state.format(t)) for t in tables]
    assert query("SELECT to_jsonb(t) ? 'price_eur' FROM orders t LIMIT 1") == [(False,)]
    with shop.inbox.warehouse.connect() as conn:
        conn.execute("DROP TABLE IF EXISTS orders, importer_superseded.orders, importer_repeats.orders")
        conn.execute("TRUNCATE importer.loads CASCADE")
        conn.commit()
    shop.inbox.warehouse.prepared.clear()
    shop.load(0, HEADER)
    shop.load(1, header, rows)
    shop.load(2, header, [[*r[:7], ""] for r in rows[:30]])
    assert [query(state.format(t)) for t in tables] == filled
    assert {type(v).__name__ for r in filled[0] if r[0].day == 3 for v in r[4:]} == {
        "Decimal",
        "date",
        "NoneType",
    }


def test_a_gained_column_that_the_spec_reads_otherwise_is_refused_with_a_remedy(shop: Shop) -> None:
    text = SPEC + "schema_contract: {added: evolve}\n"
    shop.file.write_text(text)
    shop.load(0, [*HEADER, "x"], [[*record(n), "a"] for n in range(3)])
    shop.file.write_text(
        text.replace("    - {name: remark}", "    - {name: remark}\n    - {name: x, type: integer}")
    )
    with pytest.raises(WarehouseError, match="'a' is no integer"):
        shop.load(1, [*HEADER, "x"], [[*record(n), "1"] for n in range(3)])


def test_a_field_of_a_version_is_renamed_where_it_is_described(shop: Shop) -> None:
    def rows(n: int) -> list[str]:
        return [*record(n), f"{n}.125"]

    shop.load(0, HEADER)
    shop.load(1, [*HEADER, "Latitude"], [rows(n) for n in range(60)])
    shop.run("accept", "orders")
    shop.load(2, [*HEADER, "Lat"], [rows(n) for n in range(60)])
    assert set(shop.changes()) == {("renamed", "Latitude")}
    shop.run("accept", "orders")
    assert "{name: Latitude, type: number" in shop.file.read_text()
    assert "aliases: [Lat]}" in shop.file.read_text().split("versions:")[1]
    assert shop.load(3, [*HEADER, "Lat"], [rows(n) for n in range(60)]).rows_loaded == 60


def test_hostile_names_are_only_quoted(shop: Shop, query: Query) -> None:
    names = ['it\'s 100% "new"', "a: b # c", "- {x}", "NO", "ü]", "%(load)s"]
    header = ",".join([*HEADER, *('"' + n.replace('"', '""') + '"' for n in names)])
    rows = "".join(",".join([*record(n), *(str(n + i) for i in range(len(names)))]) + "\n" for n in range(40))
    shop.load(0, HEADER)
    for day in (1, 2):
        when = DAY + datetime.timedelta(days=day)
        shop.inbox.load(shop.spec, f"{header}\n{rows}", path=f"{day}", day=when)
        if day == 1:
            shop.run("accept", "orders")
    assert [f.name for f in shop.spec.fields][-len(names) :] == names
    assert query("SELECT count(*) FROM orders WHERE _extra IS NOT NULL") == [(0,)]
    assert (
        query('SELECT "NO", "ü]" FROM orders WHERE id = 7 AND _business_date > \'2024-01-01\'')
        == [(10, 11)] * 2
    )


def test_accept_names_what_it_cannot_find(shop: Shop) -> None:
    shop.load(0, HEADER)
    shop.load(1, renamed(price="price_eur"))
    result = CliRunner().invoke(main, ["drift", "accept", "orders", "--column", "nope"])
    assert result.exit_code == 2
    assert shop.file.read_text() == SPEC


@pytest.mark.parametrize(
    ("a", "b", "least"),
    [("price", "price_eur", 0.8), ("Lat", "Latitude", 0.8), ("customerName", "name_customer", 0.8),
     ("cust_id", "customer_id", 0.7), ("zip", "remark", 0.0)],
)  # fmt: skip
def test_likeness(a: str, b: str, least: float) -> None:
    assert likeness(a, b) == likeness(b, a) >= least
    assert likeness(a, b) < 0.5 or least


def test_help_shows_examples() -> None:
    assert "importer drift accept orders --dry-run" in CliRunner().invoke(main, ["drift", "--help"]).output
