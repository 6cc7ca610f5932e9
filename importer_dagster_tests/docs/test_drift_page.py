"""docs/drift.md: its commands are run, its spec is read, and its table has all options of the contract."""

import os
import re
import subprocess
import typing
from pathlib import Path

import pytest

from importer_dagster.spec.loading import parse_spec
from importer_dagster.spec.policy import SchemaContract
from importer_dagster_tests.helpers.command import IMPORTER, Command

GUIDE = (Path(__file__).parents[2] / "docs" / "drift.md").read_text(encoding="utf-8")


@pytest.fixture
def command(tmp_path: Path, database_url: str) -> Command:
    made = Command(tmp_path, database_url)
    (tmp_path / "specs" / "orders.yaml").unlink()
    return made


def blocks() -> list[tuple[str, list[str]]]:
    """Pairs of commands and the lines that they must print, in the order of the page."""
    found = re.findall(r"```sh\n(.*?)```\n(?:\n```text\n(.*?)```)?", GUIDE, flags=re.S)
    assert len(found) == GUIDE.count("```sh")
    return [(commands, [line for line in text.splitlines() if line]) for commands, text in found]


def squeezed(text: str) -> str:
    """``text`` without the frames and line breaks of tables."""
    return re.sub(r"[\s│┃]+", " ", text)


def test_the_commands_do_what_the_guide_says(command: Command, tmp_path: Path) -> None:
    for commands, lines in blocks():
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=tmp_path,
            env={**command.env, "COLUMNS": "1000", "PATH": f"{IMPORTER.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        for line in lines:
            assert squeezed(line) in squeezed(output), output
    assert "aliases: [account_no]" in (tmp_path / "specs" / "orders.yaml").read_text()


def test_its_spec_is_right() -> None:
    (sample,) = re.findall(r"```yaml\n(.*?)```", GUIDE, flags=re.S)
    spec = parse_spec(sample, "t.yaml")
    assert [f.name for f in spec.fields] == ["id", "state", "updated", "fax", "county"]


def test_its_table_has_every_word_of_the_contract() -> None:
    for kind, option in SchemaContract.model_fields.items():
        row = next(line for line in GUIDE.splitlines() if line.startswith(f"| `{kind}` |"))
        for word in typing.get_args(option.annotation):
            assert f"`{word}`" in row, (kind, word)
        assert f"`{option.default}`" in row.split("|")[3]
