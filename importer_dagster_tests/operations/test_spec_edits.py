"""Edits of a spec's text: just the change, whatever the layout."""

import difflib

import pytest

from importer_dagster.operations.spec_edits import add_alias, add_field, add_version
from importer_dagster.spec.loading import parse_spec

TEXT = """\
# head
schema:
  fields:
    - {name: a, type: integer}  # why a
    # between
    - name: b
      type: string  # why b
      # behind b
    - {name: c, aliases: [cc], constraints: {required: true}}
    - {name: d, aliases: dd}
  primaryKey: [a]
reject_limit: {share: 0.5}
"""


def diff(old: str, new: str) -> list[str]:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[:3] not in ("---", "+++") and line[:2] != "@@"]


@pytest.mark.parametrize(
    ("field", "lines"),
    [
        ("a", ["-    - {name: a, type: integer}  # why a", '+    - {name: a, type: integer, aliases: ["x y"]}  # why a']),
        ("b", ['+      aliases: ["x y"]']),
        ("c", ["-    - {name: c, aliases: [cc], constraints: {required: true}}",
               '+    - {name: c, aliases: [cc, "x y"], constraints: {required: true}}']),
        ("d", ["-    - {name: d, aliases: dd}", '+    - {name: d, aliases: [dd, "x y"]}']),
    ],
)  # fmt: skip
def test_an_alias(field: str, lines: list[str]) -> None:
    new = add_alias(TEXT, field, "x y")
    assert diff(TEXT, new) == lines
    assert "x y" in parse_spec(new, "t.yaml").field(field).aliases


def test_a_field() -> None:
    assert diff(TEXT, add_field(TEXT, {"name": "e", "type": "date"})) == ["+    - {name: e, type: date}"]


def test_versions_stay_in_order_of_date() -> None:
    new = add_version(TEXT, "2024-02-01", [{"name": "x", "type": "integer"}], ["b"])
    new = add_version(new, "2024-03-01", [{"name": "z"}], [])
    new = add_version(new, "2024-01-15", [], ["d"])
    new = add_version(new, "2024-02-01", [{"name": "w"}], ["c"])
    assert diff(TEXT, new) == [
        "+versions:",
        "+  - from: 2024-01-15",
        "+    removed: [d]",
        "+  - from: 2024-02-01",
        "+    fields:",
        "+      - {name: x, type: integer}",
        "+      - {name: w}",
        "+    removed: [b, c]",
        "+  - from: 2024-03-01",
        "+    fields:",
        "+      - {name: z}",
    ]
    spec = parse_spec(new, "t.yaml")
    assert [[f.name for f in x.spec.fields] for x in spec.layouts] == [
        ["a", "b", "c", "d"], ["a", "b", "c"], ["a", "x", "w"], ["a", "x", "w", "z"],
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["", "\n", "\n# the end\n", "\n\n\n"])
def test_flow_style_and_odd_endings(ending: str) -> None:
    text = "schema: {fields: [{name: a}, {name: b}]}\nversions: [{from: 2024-01-01, removed: [b]}]" + ending
    new = add_version(add_field(add_alias(text, "a", "q"), {"name": "c"}), "2024-02-01", [{"name": "z"}], [])
    new = add_version(new, "2024-01-01", [{"name": "y1"}], ["c"])
    spec = parse_spec(new, "t.yaml")
    assert [[f.name for f in x.spec.fields] for x in spec.layouts] == [
        ["a", "b", "c"],
        ["a", "y1"],
        ["a", "y1", "z"],
    ]
    assert spec.field("a").aliases == ("q",)


@pytest.mark.parametrize("ending", ["", "\n", "\n# the end\n", "\nversions: []\n", "\nversions:\n"])
def test_a_first_version(ending: str) -> None:
    new = add_version("schema: {fields: [{name: a}]}" + ending, "2024-01-01", [{"name": "no"}], [])
    assert [f.name for f in parse_spec(new, "t.yaml").fields] == ["a", "no"]
