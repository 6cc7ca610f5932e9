"""The documentation agrees with the code: settings, commands, options, packages, links."""

import inspect
import re
from pathlib import Path

import click
import pytest

from importer_dagster.cli import main
from importer_dagster.settings import Settings
from importer_dagster.spec.reference import spec_reference

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_reference_of_a_spec_is_up_to_date() -> None:
    written = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    assert spec_reference() in written, "run: python -m importer_dagster.spec.reference > docs/spec.md"


def test_every_setting_is_in_the_readme() -> None:
    names = set(re.findall(r"IMPORTER_\w+", inspect.getsource(Settings)))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert names - set(re.findall(r"IMPORTER_\w+", readme)) == set()


def test_the_sample_spec_of_the_readme_is_right() -> None:
    from importer_dagster.spec.loading import parse_spec

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    sample = readme.split("```yaml\n")[1].split("```")[0]
    assert parse_spec(sample, "salestaxrate.yaml").write_disposition == "merge"


def test_the_table_of_the_packages_names_each_of_them_and_nothing_else() -> None:
    package = ROOT / "importer_dagster"
    packages = {init.parent.name for init in package.glob("*/__init__.py")}
    modules = {file.stem for file in package.glob("*.py")} - {"__init__"}
    table = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("| I want to change … |")[1]
    rows = table.split("\n\n")[0].splitlines()[2:]
    named = [set(re.findall("`([a-z_]+)`", row.rsplit("|", 2)[1])) for row in rows]
    assert all(named), "each row names a package or a module"
    assert set().union(*named) == packages | modules


def test_the_picture_shows_every_package() -> None:
    picture = (
        (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("```mermaid\n")[1].split("```")[0]
    )
    packages = {init.parent.name for init in (ROOT / "importer_dagster").glob("*/__init__.py")}
    assert set(re.findall(r"^ +(?:subgraph )?([a-z]+) ?\[", picture, re.M)) == packages | {"start"}


def anchors(file: Path) -> set[str]:
    """The anchors that GitHub makes from the headings of a guide."""
    headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda f: f.name)
def test_every_link_leads_somewhere(guide: Path) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]*)(?:#([^)]*))?\)", guide.read_text(encoding="utf-8"))
    targets = [(guide.parent / path if path else guide, anchor) for path, anchor in links]
    assert [t.name for t, _ in targets if not t.exists()] == []
    assert [(t.name, a) for t, a in targets if a and a not in anchors(t)] == []


def options(command: click.Command) -> set[str]:
    """What may follow a command: its options, and the names and options of its subcommands."""
    own = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    subcommands = command.commands if isinstance(command, click.Group) else {}
    return own.union({"--help"}, subcommands, *map(options, subcommands.values()))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda f: f.name)
def test_every_command_that_is_shown_exists(guide: Path) -> None:
    shown = re.findall(r"(?:^|`)importer ([a-z]+)([^`\n#]*)", guide.read_text(encoding="utf-8"), re.M)
    assert {name for name, _ in shown} - set(main.commands) == set()
    unknown = [
        (name, option)
        for name, rest in shown
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest)
        if option not in options(main.commands[name])
    ]
    assert unknown == []
