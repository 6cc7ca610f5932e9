"""Figures about the structure of the package, read from its source: ``python -m importer_dagster_tests.helpers.structure``.

What does not belong here: what the figures may be at most (``docs/test_structure.py``).
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).parents[2] / "importer_dagster"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """One file: its lines, what it defines, and how often it names each identifier."""

    path: Path
    lines: int
    tree: ast.Module
    names: Counter[str] = field(default_factory=Counter)

    @property
    def functions(self) -> list[Function]:
        """All functions and methods, nested ones included."""
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @property
    def classes(self) -> list[ast.ClassDef]:
        """All classes."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]

    @property
    def own_imports(self) -> set[str]:
        """Modules of the package that it imports, wherever."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("importer_dagster"):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    is_module = (PACKAGE.parent / (whole.replace(".", "/") + ".py")).exists()
                    found.add(whole if is_module else str(node.module))
        return found


def modules(*packages: str) -> list[Module]:
    """All modules of the package, or of some of its packages; migrations are history and left out."""
    files = [f for p in packages or (".",) for f in sorted((PACKAGE / p).rglob("*.py"))]
    found = []
    for file in files:
        if "migrations" not in file.parts:
            text = file.read_text(encoding="utf-8")
            module = Module(file, text.count("\n"), ast.parse(text))
            module.names.update(_identifiers(module.tree))
            found.append(module)
    return found


def _identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def length(node: ast.AST) -> int:
    """Lines from the first to the last of a definition, decorators left out."""
    return (node.end_lineno or 0) - node.lineno + 1  # type: ignore[attr-defined]


def attributes(node: ast.ClassDef) -> set[str]:
    """Attributes that a class sets on itself, and its fields."""
    fields = {
        n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    stored = {
        n.attr
        for n in ast.walk(node)
        if isinstance(n, ast.Attribute)
        and isinstance(n.ctx, ast.Store)
        and isinstance(n.value, ast.Name)
        and n.value.id == "self"
    }
    return fields | stored


def used_once(found: list[Module]) -> tuple[list[str], int]:
    """Private functions and methods that one place of their module names, and how many private ones there are."""
    once, total = [], 0
    for module in found:
        # a decorated function (a validator, a property) is called by whoever decorates it
        private = [f for f in module.functions if f.name.startswith("_") and not f.name.startswith("__")]
        private = [f for f in private if not f.decorator_list]
        total += len(private)
        once += [
            f"{module.path.relative_to(PACKAGE)}:{f.lineno} {f.name}"
            for f in private
            if module.names[f.name] == 1
        ]
    return once, total


def main() -> None:
    """Print the figures, of the packages that are named as arguments or of all."""
    found = modules(*(a for a in sys.argv[1:] if not a.startswith("-")))
    lengths = sorted(length(f) for m in found for f in m.functions)
    once, private = used_once(found)
    folders = Counter(m.path.parent for m in found if m.path.name != "__init__.py")
    longest_class = max((c for m in found for c in m.classes), key=length, default=None)
    most_attributes = max(
        (
            c
            for m in found
            for c in m.classes
            if not any(isinstance(b, ast.Name) and b.id == "Model" for b in c.bases)
            and not any("frozen=True" in ast.unparse(d) for d in c.decorator_list)
        ),
        key=lambda c: len(attributes(c)),
        default=None,
    )
    longest = max(found, key=lambda m: m.lines)
    print(f"lines of product code       {sum(m.lines for m in found):,} in {len(found)} files")
    print(
        f"files in the fullest folder {max(folders.values())} ({max(folders, key=folders.__getitem__).name})"
    )
    print(f"longest file                {longest.lines} lines ({longest.path.relative_to(PACKAGE)})")
    if longest_class:
        print(f"longest class               {length(longest_class)} lines ({longest_class.name})")
    if most_attributes:
        print(f"most attributes of a class  {len(attributes(most_attributes))} ({most_attributes.name})")
    print(
        f"functions                   {len(lengths)}, median {median(lengths):g} lines, longest {lengths[-1]}"
    )
    print(f"private functions used once {len(once)} of {private}: {len(once) / max(private, 1):.0%}")
    pipeline = max(
        (m for m in found if m.path.parent.name == "pipeline"), key=lambda m: len(m.own_imports), default=None
    )
    if pipeline:
        print(f"imports inside of pipeline/ {len(pipeline.own_imports)} ({pipeline.path.name})")
    if "--once" in sys.argv:
        print(*once, sep="\n")


if __name__ == "__main__":
    main()
