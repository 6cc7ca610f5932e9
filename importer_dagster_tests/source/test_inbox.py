"""Deliveries found below an inbox by path patterns."""

import datetime
import os
from pathlib import Path

import pytest

from importer_dagster.errors import SourceUnavailable, UsageError
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.settings import Settings
from importer_dagster.source.inbox import delivery_of_file, find_deliveries
from importer_dagster.source.path_patterns import Patterns, compile_pattern
from importer_dagster_tests.helpers.inbox import Inbox, Query, make_spec

DEFAULT = Settings.default_path


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("id\n1\n")


def test_deliveries_are_found_by_pattern(tmp_path: Path) -> None:
    specs = {s.name: s for s in (make_spec("product"), make_spec("productcategory"),
             make_spec("daily", path="in/daily_{date:%Y%m%d}.csv"))}  # fmt: skip
    touch(tmp_path, "2024-01-01/acme/product.csv", "2024-01-01/acme/product_2.csv.gz", "2024-01-01/b/productcategory.csv",
          "2024-01-02/acme/product.csv", "2024-01-01/acme/.product.csv", "2024-13-01/acme/product.csv",
          "2024-01-01/acme/product.txt", "in/daily_20240105.csv", "2024-01-01/acme/sub/product.csv")  # fmt: skip
    found = find_deliveries(str(tmp_path), specs, default_path=DEFAULT)
    assert [(d.type, d.tenant, str(d.business_date), d.path, d.has_tenant) for d in found] == [
        ("product", "acme", "2024-01-01", "2024-01-01/acme/product.csv", True),
        ("product", "acme", "2024-01-01", "2024-01-01/acme/product_2.csv.gz", True),
        ("productcategory", "b", "2024-01-01", "2024-01-01/b/productcategory.csv", True),
        ("product", "acme", "2024-01-02", "2024-01-02/acme/product.csv", True),
        ("daily", "", "2024-01-05", "in/daily_20240105.csv", False),
    ]
    day = datetime.date(2024, 1, 1)
    some = find_deliveries(str(tmp_path), specs, default_path=DEFAULT, dates=[day], types=["product"])
    assert [d.path for d in some] == ["2024-01-01/acme/product.csv", "2024-01-01/acme/product_2.csv.gz"]


@pytest.mark.parametrize(
    ("pattern", "path", "day"),
    [
        ("{date:%Y}/{date:%m}/{date:%d}/{type}.csv", "2024/01/31/t.csv", "2024-01-31"),
        ("{date:%Y-%m}/{type}_{date}.csv", "2024-01/t_2024-01-31.csv", "2024-01-31"),
        ("{date}/{type}_{date:%Y%m%d}.csv", "2024-01-31/t_20240131.csv", "2024-01-31"),
        ("{date}/{type}_{date:%Y%m%d}.csv", "2024-01-31/t_20240201.csv", None),
        ("{date:%Y/%Y-%m-%d}/{type}.csv", "2024/2024-01-31/t.csv", "2024-01-31"),
        ("{date:%y%j}/{type}_{date:%d%b%Y}.csv", "24031/t_31Jan2024.csv", "2024-01-31"),
        ("{date:%y%j}/{type}_{date:%d%b%Y}.csv", "24032/t_31Jan2024.csv", None),
        ("{date:%Y%m%d}/{type}_{date:%Y%m%d%H%M}.csv", "20240131/t_202401312359.csv", "2024-01-31"),
    ],
)
def test_a_path_may_say_its_date_in_several_ways(
    tmp_path: Path, pattern: str, path: str, day: str | None
) -> None:
    """As in a folder for each month of files that name their day; all must say the same."""
    touch(tmp_path, path, "elsewhere/t.csv")
    specs = {"t": make_spec("t", path=pattern)}
    for dates in (None, [datetime.date(2024, 1, 31)]):
        found = find_deliveries(str(tmp_path), specs, default_path=DEFAULT, dates=dates)
        assert [str(d.business_date) for d in found] == ([day] if day else [])


PATTERNS = [
    "{date}/{tenant}/{type}*.csv",
    "{type}/{date}.csv",
    "{date:%Y/%m/%d}*{type}.csv",
    "in/x_{date:%Y/%m}-{type}?.csv",
    "{tenant}_{type}.csv",
    "{date}/{type}",
    "?{type}*",
    "{date}_{tenant}/{type}_{tenant}.csv",
]


PATHS = [
    "2024-01-31/acme/order.csv",
    "2024-01-31/acme/orders_2.csv.gz",
    "order/2024-01-31.csv",
    "2024/01/31_order.csv",
    "in/x_2024/01-orders1.csv",
    "acme_order.csv",
    "2024-01-31/order",
    "xorders",
    "2024-01-31_acme/order_acme.csv",
    "",
    "/",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_looking_by_the_beginning_of_a_name_finds_what_trying_all_patterns_finds(pattern: str) -> None:
    everything = {
        f"{name}{n}": p for n, p in enumerate([pattern, *PATTERNS]) for name in ("order", "orders", "o")
    }
    by_type = {name: compile_pattern(p, name.rstrip("0123456789")) for name, p in everything.items()}
    found = Patterns(by_type)
    for path in PATHS:
        tried = {(p.weight, t, m) for t, p in by_type.items() if (m := p.match(path)) is not None}
        assert set(found.matches(path)) == tried
    own = {path for path in PATHS for t in by_type if t.endswith("0") and by_type[t].match(path)}
    assert own, "the pattern is put to a test at all"


def test_inboxes_that_cannot_be_used(tmp_path: Path) -> None:
    specs = {"product": make_spec("product")}
    with pytest.raises(SourceUnavailable, match="does not exist"):
        find_deliveries(str(tmp_path / "none"), specs, default_path=DEFAULT)
    with pytest.raises(UsageError, match="cannot be used"):
        find_deliveries("nonsense://x", specs, default_path=DEFAULT)
    with pytest.raises(UsageError, match="below the inbox"):
        find_deliveries(str(tmp_path), specs, default_path="../{type}.csv")


def test_a_named_file_takes_date_and_tenant_from_its_path(tmp_path: Path) -> None:
    settings = Settings.from_env({"IMPORTER_HOME": str(tmp_path)})
    product = make_spec("product")
    inside = delivery_of_file(str(tmp_path / "inbox/2024-01-02/acme/product.csv"), product, settings)
    assert (inside.path, inside.tenant, str(inside.business_date)) == (
        "2024-01-02/acme/product.csv", "acme", "2024-01-02")  # fmt: skip
    elsewhere = delivery_of_file("/data/2024-01-03/b/product.csv", product, settings)
    assert (elsewhere.path, elsewhere.tenant, str(elsewhere.business_date)) == (
        "/data/2024-01-03/b/product.csv", "b", "2024-01-03")  # fmt: skip
    assert delivery_of_file("x.csv", product, settings, tenant="t").tenant == "t"
    with pytest.raises(UsageError, match="has no tenants"):
        delivery_of_file("x.csv", make_spec("p", path="{date}/p.csv"), settings, tenant="t")


def test_a_named_file_without_a_date_in_its_path_is_the_delivery_that_is_listed(tmp_path: Path) -> None:
    """Else a file that a person has loaded would be loaded once more, as one of another day."""
    settings = Settings.from_env({"IMPORTER_HOME": str(tmp_path)})
    spec = make_spec(path="exports/things.csv")
    file = tmp_path / "inbox" / "exports" / "things.csv"
    file.parent.mkdir(parents=True)
    file.touch()
    os.utime(file, (1_700_000_000,) * 2)
    [listed] = find_deliveries(settings.inbox_url, {"things": spec}, default_path=DEFAULT)
    named = delivery_of_file(str(file), spec, settings)
    assert (named.business_date, named.path) == (listed.business_date, listed.path) == (
        datetime.date(2023, 11, 14), "exports/things.csv")  # fmt: skip
    file.unlink()
    assert (
        delivery_of_file(str(file), spec, settings).business_date
        == datetime.datetime.now(datetime.UTC).date()
    )


def test_a_file_that_vanished_after_it_was_listed_stays_on_record(inbox: Inbox, query: Query) -> None:
    delivery = inbox.delivery(make_spec(), "id,first name,n\n1,2,3\n")
    Path(delivery.url).unlink()
    assert import_delivery(delivery, make_spec(), warehouse=inbox.warehouse).status == "refused"
    assert query("SELECT status, reason LIKE '%%does not exist%%' FROM importer.loads") == [("refused", True)]
