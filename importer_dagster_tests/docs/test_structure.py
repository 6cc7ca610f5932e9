"""Limits that keep the package readable: sizes of packages, files, classes and functions.

What does not belong here: how the figures are taken (``helpers/structure.py``), which package may import which
(the import linter, ``pyproject.toml``).
"""

import ast
from collections import Counter

from importer_dagster_tests.helpers.structure import (
    PACKAGE,
    Module,
    attributes,
    length,
    modules,
    used_once,
)

FILES = 12  # in a package, without __init__.py
FILE_LINES = 400
CLASS_LINES = 250
FUNCTION_LINES = 50
ATTRIBUTES = 12  # of a class that has state: no record (frozen dataclass) and no pydantic model
PIPELINE_IMPORTS = 15  # of the package's own modules, in one module of pipeline/
USED_ONCE = 0.5  # of the private functions

ALL = modules()


def name(module: Module) -> str:
    return module.path.relative_to(PACKAGE).as_posix()


def pydantic_models() -> set[str]:
    """Names of all classes that derive from pydantic's BaseModel, directly or not."""
    bases = {
        c.name: {ast.unparse(b).split("[")[0].split(".")[-1] for b in c.bases} for m in ALL for c in m.classes
    }
    found = {"BaseModel"}
    while new := {c for c, above in bases.items() if above & found} - found:
        found |= new
    return found


def is_frozen(node: ast.ClassDef) -> bool:
    return any("frozen=True" in ast.unparse(d) for d in node.decorator_list)


def test_a_package_has_few_files() -> None:
    files = Counter(
        m.path.parent.relative_to(PACKAGE).as_posix() for m in ALL if m.path.name != "__init__.py"
    )
    assert {package: n for package, n in files.items() if n > FILES} == {}


def test_a_file_is_short() -> None:
    assert {name(m): m.lines for m in ALL if m.lines > FILE_LINES} == {}


def test_a_class_is_short() -> None:
    long = {f"{name(m)} {c.name}": length(c) for m in ALL for c in m.classes if length(c) > CLASS_LINES}
    assert long == {}


def test_a_function_is_short() -> None:
    long = {f"{name(m)} {f.name}": length(f) for m in ALL for f in m.functions if length(f) > FUNCTION_LINES}
    assert long == {}


def test_a_class_has_few_attributes() -> None:
    models = pydantic_models()
    many = {
        f"{name(m)} {c.name}": len(attributes(c))
        for m in ALL
        for c in m.classes
        if c.name not in models and not is_frozen(c) and len(attributes(c)) > ATTRIBUTES
    }
    assert many == {}


def test_a_module_of_the_pipeline_imports_few_others() -> None:
    pipeline = [m for m in ALL if m.path.parent.name == "pipeline"]
    many = {name(m): len(m.own_imports) for m in pipeline if len(m.own_imports) > PIPELINE_IMPORTS}
    assert many == {}


def test_few_private_functions_are_used_once() -> None:
    once, private = used_once(ALL)
    share = len(once) / private
    assert share <= USED_ONCE, f"{len(once)} of {private} private functions"
