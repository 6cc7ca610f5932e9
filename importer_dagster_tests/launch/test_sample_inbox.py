"""Synthetic deliveries keep what the specs ask, and come to exactly what was planned."""

import csv
import datetime
import gzip
import re
from pathlib import Path

import pytest

from importer_dagster.errors import UsageError
from importer_dagster.launch.sample_inbox import PlannedFile, resend, write_inbox
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.reader.reader import open_delivery
from importer_dagster.settings import SHIPPED_SPECS
from importer_dagster.source.inbox import find_deliveries
from importer_dagster.spec.loading import load_specs
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.drift import map_header
from importer_dagster.validation.validator import Validator
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import Query, make_spec

DAYS = [datetime.date(2026, 1, d) for d in (1, 2, 3)]
PATH = "{date}/{tenant}/{type}*.csv"


def every_kind_of_field() -> TableSpec:
    fields = [
        {"name": "id", "type": "integer"},
        {"name": "uid", "format": "uuid", "constraints": {"unique": True, "required": True}},
        {"name": "level", "type": "integer", "constraints": {"minimum": -5, "maximum": 5}},
        {
            "name": "price",
            "type": "number",
            "precision": 9,
            "scale": 2,
            "decimalChar": ",",
            "groupChar": ".",
            "constraints": {"minimum": "-10,50", "maximum": "99.000,25", "required": True},
        },
        {"name": "share", "type": "number", "format": "double"},
        {"name": "flag", "type": "boolean", "trueValues": ["ja"], "falseValues": ["nein"]},
        {
            "name": "day",
            "type": "date",
            "format": "%d.%m.%Y",
            "constraints": {"minimum": "01.06.2025", "maximum": "31.12.2025"},
        },
        {"name": "at", "type": "datetime", "format": "%Y-%m-%d %H:%M:%S%z"},
        {"name": "clock", "type": "time", "format": "%H:%M"},
        {"name": "about", "type": "object"},
        {
            "name": "code",
            "constraints": {"pattern": "[A-Z]{2}-\\d{3}(/x)?", "required": True, "maxLength": 6},
        },
        {"name": "word", "constraints": {"minLength": 3, "maxLength": 6}, "missingValues": ["-", "n/a"]},
        {"name": "kind", "constraints": {"enum": ["a", "b;c"], "required": True}},
        {"name": "mail", "checks": ["email"], "missingValues": [""]},
        {"name": "card", "checks": ["luhn"]},
    ]
    return make_spec(
        "everything",
        fields,
        key=["id"],
        encoding="cp1252",
        dialect={"delimiter": ";", "quoteChar": "'", "commentChar": "#"},
        write_disposition="merge",
    )


def family() -> dict[str, TableSpec]:
    """Types that refer to one another, in all three dispositions."""
    country = make_spec(
        "country", [{"name": "code"}, {"name": "name"}], key=["code"], write_disposition="replace"
    )
    customer = TableSpec.model_validate(
        {
            "name": "customer",
            "write_disposition": "merge",
            "schema": {
                "fields": [
                    {"name": "id", "type": "integer"},
                    {"name": "country"},
                    {"name": "city"},
                    {"name": "parent", "type": "integer"},
                ],
                "primaryKey": ["id"],
                "foreignKeys": [
                    {"fields": "country", "reference": {"resource": "country", "fields": "code"}},
                    {"fields": "parent", "reference": {"resource": "", "fields": "id"}},
                ],
            },
        }
    )
    visit = TableSpec.model_validate(
        {
            "name": "visit",
            "checks": ["startdate_before_enddate"],
            "schema": {
                "fields": [
                    {"name": "customer", "type": "integer"},
                    {"name": "startdate", "type": "date"},
                    {"name": "enddate", "type": "date"},
                    {"name": "note"},
                ],
                "primaryKey": ["customer", "startdate"],
                "foreignKeys": [
                    {"fields": "customer", "reference": {"resource": "customer", "fields": "id"}}
                ],
            },
        }
    )
    event = make_spec(
        "event", [{"name": "n", "type": "integer"}, {"name": "text"}, {"name": "day", "type": "date"}]
    )
    found = [country, customer, visit, event, every_kind_of_field()]
    return {s.name: s for s in found}


def import_all(
    root: Path, specs: dict[str, TableSpec], warehouse: Warehouse, planned: list[PlannedFile]
) -> None:
    plan = {p.path: p for p in planned}
    deliveries = find_deliveries(str(root), specs, default_path=PATH)
    assert {d.path for d in deliveries} == set(plan)
    for delivery in deliveries:
        file = plan[delivery.path]
        assert (delivery.type, delivery.tenant, delivery.business_date) == (file.type, file.tenant, file.date)
        result = import_delivery(delivery, specs[delivery.type], warehouse=warehouse)
        assert result.status == "loaded", result.reason
        assert (result.rows_read, result.rows_rejected) == (file.rows, file.expected_rejects), delivery.path
        assert result.rows_loaded <= file.rows - file.expected_rejects


def test_each_file_comes_to_what_was_planned(tmp_path: Path, warehouse: Warehouse, query: Query) -> None:
    specs = family()
    planned = write_inbox(tmp_path, specs, days=DAYS, tenants=["acme", "globex"], rows=40)
    import_all(tmp_path, specs, warehouse, planned)
    assert {p.type for p in planned if p.expected_rejects} >= {"customer", "visit"}
    assert any("renamed" in p.note for p in planned)
    assert any(p.path.endswith(".gz") for p in planned)
    assert query("SELECT count(*) FROM importer.drift WHERE kind = 'added'")[0][0] >= 1


def test_merge_meets_new_changed_and_unchanged_rows(
    tmp_path: Path, warehouse: Warehouse, query: Query
) -> None:
    specs = {"everything": every_kind_of_field()}
    planned = write_inbox(tmp_path, specs, days=DAYS[:2], tenants=["acme"], rows=60)
    import_all(tmp_path, specs, warehouse, planned)
    (unchanged,) = query("SELECT sum(rows_unchanged) FROM importer.loads WHERE business_date = %s", DAYS[1])[
        0
    ]
    (loaded,) = query("SELECT sum(rows_loaded) FROM importer.loads WHERE business_date = %s", DAYS[1])[0]
    new = query("SELECT count(*) FROM everything")[0][0] - 60
    assert 0 < new < loaded, "some rows must be new, some changed"
    assert unchanged > 0


def test_references_point_at_rows_that_were_delivered(
    tmp_path: Path, warehouse: Warehouse, query: Query
) -> None:
    specs = {k: v for k, v in family().items() if k in ("country", "customer", "visit")}
    planned = write_inbox(tmp_path, specs, days=DAYS, tenants=["acme", "globex"], rows=50)
    import_all(tmp_path, specs, warehouse, planned)
    lost = query(
        "SELECT count(*) FILTER (WHERE k.code IS NULL), count(*) FROM customer c "
        "LEFT JOIN country k ON k.code = c.country AND k._tenant = c._tenant WHERE c.country IS NOT NULL"
    )[0]
    assert lost[0] <= 0.1 * lost[1]
    lost = query(
        "SELECT count(*) FILTER (WHERE c.id IS NULL), count(*) FROM visit v "
        "LEFT JOIN customer c ON c.id = v.customer AND c._tenant = v._tenant"
    )[0]
    assert lost[0] <= 0.1 * lost[1]


def test_a_file_sent_again_has_no_rejects(tmp_path: Path, warehouse: Warehouse) -> None:
    specs = family()
    planned = write_inbox(tmp_path, specs, days=DAYS[:1], tenants=["acme"], rows=20)
    (first,) = [p for p in planned if p.corrected is not None]
    assert first.expected_rejects > 0
    import_all(tmp_path, specs, warehouse, planned)
    (again,) = resend(tmp_path, planned, specs)
    assert (again.path, again.expected_rejects) == (first.path, 0)
    (delivery,) = [
        d for d in find_deliveries(str(tmp_path), specs, default_path=PATH) if d.path == first.path
    ]
    result = import_delivery(delivery, specs[first.type], warehouse=warehouse)
    assert (result.status, result.rows_rejected, result.rows_read) == ("loaded", 0, again.rows)
    assert resend(tmp_path, [again], specs) == []


def read_all(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_inbox(tmp_path / name, family(), days=DAYS[:2], tenants=["acme"], rows=15, seed=seed)
    first, same, other = (read_all(tmp_path / n) for n in "abc")
    assert first == same
    assert set(first) == set(other)
    assert first != other


def test_all_shipped_types(tmp_path: Path) -> None:
    """Read and judged as the importer does, without a database; uniqueness is counted here."""
    specs = load_specs(SHIPPED_SPECS)
    planned = {p.path: p for p in write_inbox(tmp_path, specs, days=DAYS[:2], tenants=["acme"], rows=25)}
    deliveries = find_deliveries(str(tmp_path), specs, default_path=PATH)
    assert {d.path for d in deliveries} == set(planned)
    assert {d.type for d in deliveries} == set(specs)
    for delivery in deliveries:
        spec, rejected, read, keys = specs[delivery.type], 0, 0, []
        with open_delivery(delivery, spec) as reader:
            sources = map_header(reader.header, spec).sources
            texts = {f.name: str(sources[f.name]) if f.name in sources else None for f in spec.fields}
            validator = Validator(spec, texts)
            for batch in reader.batches():
                typed, good, _ = validator(batch.columns)
                rejected += len(batch.rejects) + len(batch.rows) - len(good)
                read += len(batch.rejects) + len(batch.rows)
                uniques = [spec.primary_key, *((f.column,) for f in spec.fields if f.constraints.unique)]
                for columns in filter(None, uniques):
                    keys = [*zip(*(typed[c].to_pylist() for c in columns), strict=True)]
                    keys = [k for k in keys if k != (None,)]
                    assert len(keys) == len(set(keys)), (delivery.path, columns)
        plan = planned[delivery.path]
        assert (read, rejected) == (plan.rows, plan.expected_rejects), (delivery.path, plan.note)


def test_a_types_own_path_is_kept(tmp_path: Path) -> None:
    spec = make_spec("t", path="in/{date:%Y%m%d}/x_{type}?*.txt")
    planned = write_inbox(tmp_path, {"t": spec}, days=DAYS[:1], tenants=["acme", "globex"], rows=3)
    assert [p.path for p in planned] == ["in/20260101/x_tx.txt"]


def test_gzip_has_no_time_of_its_own(tmp_path: Path) -> None:
    write_inbox(tmp_path, family(), days=DAYS, tenants=["a", "b"], rows=3)
    zipped = list(tmp_path.rglob("*.gz"))
    assert zipped
    assert all(f.read_bytes()[4:8] == b"\0\0\0\0" and gzip.decompress(f.read_bytes()) for f in zipped)


@pytest.mark.parametrize(
    "pattern",
    [
        "[A-Z]{3}",
        r"^\d{2,4}-[^\s,]+$",
        "(?:ab|cd)+x?",
        r"(?P<n>[0-9]+)\.\w{2,}",
        r"[\w.-]+@[a-z]+\.(com|org)",
        r"^/([0-9]+/)*$",
        r"\x41é[]x-]",
        ".{3}",
        "[0-9A-F]{120}",
    ],
)
def test_text_matches_its_pattern(tmp_path: Path, pattern: str) -> None:
    fields = [{"name": "c", "constraints": {"pattern": pattern, "required": True}}]
    spec = make_spec("t", fields, write_disposition="append", reject_limit={"count": 0})
    (planned,) = write_inbox(tmp_path, {"t": spec}, days=DAYS[:1], tenants=["a"], rows=50)
    with (tmp_path / planned.path).open(encoding="utf-8", newline="") as file:
        _, *texts = (text for (text,) in csv.reader(file))
    assert len(texts) == 50 and all(re.fullmatch(pattern, t) for t in texts)
    assert len(set(texts)) > 1
    assert max(map(len, texts)) <= 130


@pytest.mark.parametrize("pattern", [r"a\bb", r"[^\x00-\x7f]"])
def test_a_pattern_that_no_text_is_found_for_is_an_error(tmp_path: Path, pattern: str) -> None:
    spec = make_spec("t", [{"name": "c", "constraints": {"pattern": pattern}}])
    with pytest.raises(UsageError, match="field 'c' of type t"):
        write_inbox(tmp_path, {"t": spec}, days=DAYS[:1], tenants=["a"], rows=2)


def test_a_field_that_nothing_satisfies_is_named(tmp_path: Path) -> None:
    spec = make_spec("t", [{"name": "c", "checks": ["iso_country"], "constraints": {"pattern": "[a-z]{2}"}}])
    with pytest.raises(UsageError, match="field 'c' of type t"):
        write_inbox(tmp_path, {"t": spec}, days=DAYS[:1], tenants=["a"], rows=2)
