"""docs/benchmarks.md: it describes every part of the benchmarks, and its commands are accepted."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.measure import Line

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    blocks = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.S))
    return [shlex.split(line, comments=True) for line in blocks.splitlines()]


def test_the_commands_are_accepted() -> None:
    benches = [words[3:] for words in commands() if words[:3] == ["python", "-m", "benchmarks"]]
    assert len(benches) == 6
    parsed = [command._arguments(words) for words in benches]
    assert [(p.only, p.rows, p.pairs, p.files, p.large_mb) for p in parsed] == [
        (None, 1_000_000, 5, 2_000, 2_000),
        (["copy"], 200_000, 5, 2_000, 2_000),
        (["peers"], 1_000_000, 5, 2_000, 2_000),
        (["types", "resent"], 1_000_000, 3, 2_000, 2_000),
        (["small"], 1_000_000, 5, 500, 2_000),
        (["shapes", "large"], 1_000_000, 5, 2_000, 500),
    ]


def test_every_part_is_described() -> None:
    parts = re.findall(r"^\| `(\w+)` \|", TEXT, re.M)
    assert sorted(parts) == sorted(command.PARTS)


def test_without_a_name_all_parts_are_measured(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All parts are measured in one run, into one table."""
    monkeypatch.setenv("IMPORTER_WAREHOUSE_URL", database_url)  # else each part starts a server
    for part in command.PARTS:
        monkeypatch.setitem(command.PARTS, part, lambda _, part=part: [Line(f"measured {part}", "1")])
    assert command.main([]) == 0
    assert re.findall(r"^\| measured (\w+) \|", capsys.readouterr().out, re.M) == [*command.PARTS]


def test_the_extra_exists() -> None:
    assert ["pip", "install", "-c", "constraints.txt", "-e", ".[bench]"] in commands()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    extra = {re.split("[>=]", name)[0] for name in project["optional-dependencies"]["bench"]}
    assert extra <= pinned
