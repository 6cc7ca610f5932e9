"""The commands and samples of docs/gate.md and docs/dispositions.md, run as a user runs them."""

import json
import re
from pathlib import Path

import pytest

from importer_dagster.spec.loading import parse_spec
from importer_dagster_tests.helpers.command import Command

DOCS = Path(__file__).parents[2] / "docs"
GATED = """
schema:
  fields:
    - {name: id, type: integer}
    - {name: city}
  primaryKey: [id]
write_disposition: scd2
gate: {rows: {least: 2}}
"""


@pytest.fixture
def importer(tmp_path: Path, database_url: str) -> Command:
    command = Command(tmp_path, database_url)
    command.spec("customers", GATED)
    return command


def path(day: int) -> str:
    return f"inbox/2024-01-0{day}/acme/customers.csv"


def load(importer: Command, day: int, content: str) -> dict:
    done = importer("load", "customers", importer.file(content, path(day)), "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == (0 if answer["status"] in ("loaded", "unchanged") else 3)
    return answer


def test_a_held_delivery_is_released_taken_out_and_refused(importer: Command, query) -> None:
    load(importer, 1, "id,city\n1,Bonn\n2,Ulm\n")
    held = load(importer, 3, "id,city\n1,Trier\n")
    assert (held["status"], held["rows_read"], held["rows_skipped"]) == ("held", 1, 1)
    assert "1 records are fewer than the 2 it must have (gate.rows)" in held["reason"]
    number = str(held["load_id"])
    assert query(f"SELECT id, city FROM importer_held.customers_{number}") == [(1, "Trier")]
    assert [(r["load_id"], r["reason"][:5]) for r in json.loads(importer("held", "--json").stdout)] == [
        (held["load_id"], "held:")
    ]
    assert "customers" in importer("held").stdout
    assert json.loads(importer("status", "--json").stdout)[0]["held"] == 1

    plan = importer("release", number, "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "would release load" in plan.stdout and "1 rows were held" in plan.stdout
    assert "0 rows removed, 1 added, 1 changed" in plan.stdout
    assert query("SELECT count(*) FROM customers") == [(2,)]
    assert importer("release", number, "--reason", "a holiday").returncode == 0
    current = "SELECT id, city, _valid_from::text FROM customers WHERE _current ORDER BY id"
    assert query(current) == [(1, "Trier", "2024-01-03"), (2, "Ulm", "2024-01-01")]
    assert importer("release", number).returncode == 2

    foreseen = importer("unload", number, "--dry-run").stdout
    assert "1 rows removed, 0 added, 1 changed" in foreseen
    assert "- id = 1, city = Trier" in foreseen
    done = importer("unload", number, "--reason", "withdrawn")
    assert done.returncode == 0
    assert done.stdout.replace("unloaded", "would unload") == foreseen
    assert query("SELECT status, reason FROM importer.loads WHERE load_id = %s", held["load_id"]) == [
        ("unloaded", "withdrawn")
    ]
    assert query(current) == [(1, "Bonn", "2024-01-01"), (2, "Ulm", "2024-01-01")]

    again = load(importer, 3, "id,city\n1,Trier\n")
    assert again["status"] == "held"
    assert importer("refuse", str(again["load_id"]), "--dry-run").returncode == 0
    assert importer("refuse", str(again["load_id"]), "--reason", "cut off").returncode == 0
    assert importer("held").stdout.strip() == "Nothing is held."
    assert importer("refuse", "99").returncode == 2
    assert load(importer, 3, "id,city\n1,Trier\n")["status"] == "refused"


def test_the_queries_of_the_guide_answer(importer: Command, query) -> None:
    rows = "id,city\n1,{}\n9,x\n"
    for day, city in ((1, "Bonn"), (3, "Köln"), (2, "Bonn")):
        load(importer, day, rows.format(city))
    found = query(
        "SELECT id, city, _valid_from::text, _valid_to::text, _current FROM customers ORDER BY 1, 3"
    )
    assert found[:2] == [
        (1, "Bonn", "2024-01-01", "2024-01-03", False),
        (1, "Köln", "2024-01-03", None, True),
    ]
    text = (DOCS / "dispositions.md").read_text(encoding="utf-8")
    statements = re.sub(r"--.*", "", text.split("```sql\n")[1].split("```")[0]).split(";")
    assert {r[:2] for r in query(statements[0])} == {(1, "Köln"), (9, "x")}
    assert {r[:2] for r in query(statements[1])} == {(1, "Bonn"), (9, "x")}


@pytest.mark.parametrize("page", ["dispositions", "gate"])
def test_the_sample_specs_are_right(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    samples = re.findall(r"```yaml\n(name: (\w+)\n.*?)```", text, re.S)
    assert samples
    for sample, name in samples:
        parse_spec(sample, f"{name}.yaml")
