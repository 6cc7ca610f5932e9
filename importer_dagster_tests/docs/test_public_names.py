"""The public names of the package, and docs/python.md: its table lists them and its examples run.

What does not belong here: what the names do (the tests of their packages).
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import importer_dagster
from importer_dagster import errors
from importer_dagster_tests.helpers.command import Command
from importer_dagster_tests.helpers.inbox import Query

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
NAMES = [name for name in importer_dagster.__all__ if name != "__version__"]


def block(language: str, word: str) -> str:
    """The one code block of the page in that language that holds ``word``."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    (found,) = (text for text in blocks if word in text)
    return str(found)


def run(command: Command, code: str, **env: str) -> str:
    """What a fresh process prints that runs ``code`` with the settings of ``command``."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code],
        env={**command.env, "PYTHONPATH": f"{command.folder}:{ROOT}", **env},
        cwd=command.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", importer_dagster.__all__)
def test_each_name_resolves_and_is_listed(name: str) -> None:
    value = getattr(importer_dagster, name)
    assert name in dir(importer_dagster)
    assert name in ("__version__", getattr(value, "__name__", None))


def test_type_checkers_see_the_same_names() -> None:
    package = ROOT / "importer_dagster"
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    guards = [node for node in tree.body if isinstance(node, ast.If)]
    (block,) = (node for node in guards if ast.unparse(node.test) == "TYPE_CHECKING")
    imports = [node for node in ast.walk(block) if isinstance(node, ast.ImportFrom)]
    assert sorted(alias.name for node in imports for alias in node.names) == sorted(NAMES)
    assert (package / "py.typed").exists()
    assert "py.typed" in (ROOT / "setup.cfg").read_text(encoding="utf-8").split()


def test_every_error_is_public() -> None:
    found = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert found <= set(NAMES)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'importer_dagster' has no attribute 'import_file'"):
        _ = importer_dagster.import_file  # type: ignore[attr-defined]


def test_the_page_names_each_of_them() -> None:
    assert [n for n in NAMES if not re.search(rf"^\| `{n}\b", PAGE, re.M)] == []


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, importer_dagster; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    found = set(done.stdout.split())
    assert found & {"dagster", "pandas", "pyarrow", "psycopg", "sqlalchemy", "pydantic", "yaml"} == set()
    assert {name for name in found if name.startswith("importer_dagster")} == {"importer_dagster"}


def test_one_file_is_imported(importer: Command, query: Query) -> None:
    importer.file("id,amount\n1,2.50\nx,1\n", "inbox/2024-01-31/acme/orders.csv")
    assert run(importer, block("python", "import_delivery(delivery")).split() == ["loaded", "2", "1", "1"]
    assert query("SELECT id, _tenant FROM orders") == [(1, "acme")]
    assert run(importer, block("python", "import_delivery(delivery")).split()[0] == "unchanged"


def test_a_check_of_ones_own_is_used(importer: Command) -> None:
    code = block("python", "@named_check")
    (importer.folder / code.split()[1]).write_text(code)
    importer.spec("packages", block("yaml", "multiple_of"))
    importer.file("id,quantity\n1,10\n2,7\n", "packages.csv")
    commands = block("sh", "IMPORTER_CHECKS")
    variables = dict(re.findall(r"(\w+)=(\S+)", commands))
    assert variables == {"IMPORTER_CHECKS": "own_checks", "PYTHONPATH": "$PWD"}
    arguments = re.findall(r"^importer (.*)$", commands, re.M)[0].split()
    done = importer(
        *arguments[:-1],
        str(importer.folder / arguments[-1]),
        "--date",
        "2024-01-31",
        IMPORTER_CHECKS="own_checks",
        PYTHONPATH=f"{importer.folder}:{ROOT}",
    )
    assert "'7' is no multiple of 5" in done.stdout + done.stderr, done.stdout + done.stderr


def test_definitions_of_ones_own_project(importer: Command) -> None:
    code = block("python", "build_defs()")
    (importer.folder / code.split()[1]).write_text(code)
    found = run(
        importer,
        "import dagster as dg\n"
        "from my_project import defs\n"
        "dg.Definitions.validate_loadable(defs)\n"
        "print(*sorted(s.key.to_user_string() for s in defs.resolve_all_asset_specs()))\n"
        "print(*(j.name for j in defs.jobs))",
    )
    assert found.splitlines() == ["daily_report orders supplier_inbox", "daily_import"]


def test_an_error_is_caught(importer: Command) -> None:
    assert "no-such-folder does not exist" in run(importer, block("python", "SpecError"))
