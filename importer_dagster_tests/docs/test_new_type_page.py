"""docs/new-type.md: its commands are run and write the spec that the page shows."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from importer_dagster.spec.frictionless import from_frictionless
from importer_dagster.spec.loading import load_specs, parse_spec
from importer_dagster.spec.reference import json_schema, json_schema_text
from importer_dagster_tests.helpers.command import IMPORTER, Command

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "new-type.md").read_text(encoding="utf-8")


@pytest.fixture
def command(tmp_path: Path, database_url: str) -> Command:
    made = Command(tmp_path, database_url)
    (tmp_path / "specs" / "orders.yaml").unlink()
    return made


def test_the_guide(command: Command, tmp_path: Path) -> None:
    found = re.findall(r"```sh\n(.*?)```\n(?:\n```text\n(.*?)```)?", GUIDE, flags=re.S)
    assert len(found) == GUIDE.count("```sh") == 4
    env = {**command.env, "PATH": f"{IMPORTER.parent}:{os.environ['PATH']}"}
    for commands, lines in found:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for line in filter(None, lines.splitlines()):
            assert line in done.stdout
    specs = load_specs(tmp_path / "specs")
    (sample,) = re.findall(r"```yaml\n(.*?)```", GUIDE, flags=re.S)
    shown = yaml.safe_load(sample)["schema"]["fields"]
    written = yaml.safe_load((tmp_path / "specs" / "orders.yaml").read_text())["schema"]["fields"]
    assert [{k: v for k, v in f.items() if k != "constraints"} for f in written] == shown
    assert specs["rates"].primary_key == ("currency",)


def test_the_editors_schema_is_up_to_date() -> None:
    assert json.loads((DOCS / "spec.schema.json").read_text(encoding="utf-8")) == json_schema(), (
        "run: importer schema > docs/spec.schema.json"
    )


def test_infer_writes_what_an_editor_needs(command: Command, tmp_path: Path) -> None:
    file = command.file("id,v\n1,a\n", "things.csv")
    done = command("infer", file, "--out", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "new" / "things.yaml").read_text().splitlines()[0]
    schema = first.partition("$schema=./")[2]
    assert first.startswith("# yaml-language-server: ")
    assert (tmp_path / "new" / schema).read_text() == json_schema_text()
    again = command("infer", file, "--out", str(tmp_path / "new"))
    assert (again.returncode, "--force" in again.stderr) == (2, True)


def test_notes_reach_the_person_and_the_spec(command: Command, tmp_path: Path) -> None:
    rows = "".join(f"{n},2020-02-01\n" for n in range(300))
    file = command.file("id,day\n" + rows + "300,never\n301\n", "feed.csv")
    done = command("infer", file, "--out", str(tmp_path / "new"))
    notes = [
        "1 record is damaged and will be rejected: 1 × fields.short.",
        "day: 1 of 301 values are no date, such as 'never'; their records will be rejected.",
    ]
    head = (tmp_path / "new" / "feed.yaml").read_text().split("name: feed")[0]
    for note in notes:
        assert f"# NOTE: {note}\n" in head
        assert f"  i {note}\n" in done.stderr
    dry = command("infer", file, "--out", str(tmp_path / "new"), "--dry-run")
    assert all(f"# NOTE: {n}\n" in dry.stdout for n in notes)


@pytest.mark.parametrize("place", ["second.yaml", "sales/Second.yml"])
def test_a_spec_that_exists_is_found_before_anything_is_done(
    command: Command, tmp_path: Path, place: str
) -> None:
    new = tmp_path / "new"
    (new / place).parent.mkdir(parents=True)
    (new / place).write_text("by hand")
    first = command.file("<html>", "first.csv")  # would be refused, were it looked at
    second = command.file("id,v\n1,a\n", "second.csv")
    third = command.file('{"name": "third", "schema": {"fields": [{"name": "a"}]}}', "third.json")
    done = command("infer", first, second, third, "--out", str(new))
    assert (done.returncode, f"{new / place} exists" in done.stderr) == (2, True), done.stderr
    assert [f.name for f in new.rglob("*.y*ml")] == [Path(place).name]
    assert (new / place).read_text() == "by hand"
    forced = command("infer", second, third, "--out", str(new), "--force")
    if place == "second.yaml":
        assert forced.returncode == 0, forced.stderr
        assert sorted(load_specs(new)) == ["second", "third"]
    else:  # never a second spec of one type
        assert (forced.returncode, f"{new / place} exists" in forced.stderr) == (2, True)
        assert "--out" in forced.stderr


def test_one_file_that_is_no_csv_does_not_stop_the_others(command: Command, tmp_path: Path) -> None:
    files = [command.file("<html><body>503</body></html>", "a.csv"), command.file("id,v\n1,a\n", "b.csv")]
    done = command("infer", *files, "--out", str(tmp_path / "new"))
    assert done.returncode == 3
    assert "a.csv looks like an HTML page" in done.stderr
    assert "1 of 2 types could not be inferred" in done.stderr
    assert sorted(load_specs(tmp_path / "new")) == ["b"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--encoding", "nope"], "'nope' is no encoding that Python knows"),
        (["--delimiter", ""], "--delimiter ''"),
        (["--delimiter", '"'], "--delimiter '\"'"),
    ],
)
def test_what_is_given_wrongly_is_an_error_of_usage(
    command: Command, tmp_path: Path, options: list[str], words: str
) -> None:
    file = command.file("id,v\n1,a\n", "things.csv")
    done = command("infer", file, *options, "--out", str(tmp_path / "new"))
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_delimiter_that_stands_nowhere_is_asked_about(command: Command, tmp_path: Path) -> None:
    file = command.file("id\tv\n1\ta\n", "things.csv")
    done = command("infer", file, "--delimiter", "|", "--out", str(tmp_path / "new"))
    assert "'|', is not in the file" in done.stderr
    done = command("infer", file, "--delimiter", "\\t", "--out", str(tmp_path / "tab"))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(load_specs(tmp_path / "tab")["things"].fields) == 2


def test_a_header_alone_says_nothing_of_types(command: Command, tmp_path: Path) -> None:
    done = command("infer", command.file("id,v\n", "things.csv"), "--out", str(tmp_path / "new"))
    assert "no sound record" in done.stderr


def test_two_files_that_would_be_one_type_are_refused_first(command: Command, tmp_path: Path) -> None:
    files = [
        command.file('{"name": "a", "schema": {"fields": [{"name": "a"}]}}', "x.json"),
        command.file('{"name": "a", "schema": {"fields": [{"name": "b"}]}}', "y.json"),
    ]
    done = command("infer", *files, "--out", str(tmp_path / "new"))
    assert (done.returncode, "--name" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "new").exists()


def test_a_dry_run_writes_nothing(command: Command, tmp_path: Path) -> None:
    file = command.file("id,v\n1,a\n", "things.csv")
    done = command("infer", file, "--out", str(tmp_path / "new"), "--dry-run")
    assert parse_spec(done.stdout, "things.yaml").name == "things"
    assert not (tmp_path / "new").exists()


def test_files_are_one_type_if_name_and_columns_say_so(command: Command, tmp_path: Path) -> None:
    files = [
        command.file("id,v\n1,a\n", "in/sales_2024-01-01.csv"),
        command.file("id,v\n2,b\n", "in/sales_2024-01-02.csv"),
        command.file("x,y\n2,b\n", "in/part1.csv"),
        command.file("z\n2\n", "in/part2.csv"),  # other columns: a type of its own
        command.file("k,l\n2,2\n", "in/mon/stock.csv"),
        command.file("k,l,m\n2,2,3\n", "in/tue/stock.csv"),
    ]
    done = command("infer", *files, "--out", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    specs = load_specs(tmp_path / "new")
    assert sorted(specs) == ["part1", "part2", "sales", "stock"]
    assert "part1.csv and part2.csv are called alike, but have other columns" in done.stderr
    assert done.stderr.count("called alike") == 1
    assert [f.name for f in specs["stock"].fields] == ["k", "l", "m"]


def test_an_ambiguous_date_is_asked_about_and_answered(command: Command, tmp_path: Path) -> None:
    file = command.file("id,day\n1,03/04/2024\n2,05/06/2024\n", "days.csv")
    asked = command("infer", file, "--out", str(tmp_path / "a"))
    assert "day or month first?" in asked.stderr and "--date-order" in asked.stderr
    command("infer", file, "--out", str(tmp_path / "b"), "--date-order", "dmy")
    assert load_specs(tmp_path / "b")["days"].field("day").format == "%d/%m/%Y"


def test_times_that_recur_are_no_enum(command: Command, tmp_path: Path) -> None:
    rows = "".join(f"{n},2020-02-0{n % 5 + 1}T10:00,2/{n % 5 + 1}/20 10:00\n" for n in range(600))
    file = command.file("id,seen,also\n" + rows + "600,never,2/30/2020\n" * 20, "feed.csv")
    done = command("infer", file, "--out", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    fields = load_specs(tmp_path / "new")["feed"].fields
    assert [f.constraints.enum for f in fields] == [None, None, None]


@pytest.mark.parametrize("form", ["frictionless", "json-schema", "sql", "markdown"])
def test_a_type_is_given_out(command: Command, form: str) -> None:
    command.spec("rates", "schema: {fields: [{name: code}, {name: rate, type: number}], primaryKey: code}")
    done = command("schema", "rates", "--format", form)
    assert done.returncode == 0, done.stderr
    if form == "frictionless":
        assert list(from_frictionless(json.loads(done.stdout))) == ["rates"]
    assert "rate" in done.stdout


def test_wrong_uses_of_schema_and_descriptors(command: Command, tmp_path: Path) -> None:
    assert command("schema", "nothing", "--format", "sql").returncode == 2
    assert "--format" in command("schema", "nothing").stderr
    broken = command.file("{", "x.json")
    for file, words in ((broken, "no JSON"), (str(tmp_path / "none.json"), "cannot be read")):
        done = command("infer", file, "--out", str(tmp_path / "new"))
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert json.loads(command("schema").stdout) == json_schema()
