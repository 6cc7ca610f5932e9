"""Reading specs from YAML files, one or a folder of them; errors name the file and the line.

What does not belong here: what the keys mean (``spec/table.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from importer_dagster.errors import SpecError, UnknownTypeError
from importer_dagster.spec.fields import nearest
from importer_dagster.spec.table import TableSpec
from importer_dagster.spec.yaml_text import line_of, parse_yaml


def parse_spec(text: str, file: str) -> TableSpec:
    """Read one spec from YAML text; raises SpecError. ``file`` names it in errors, and its stem is the type's name."""
    data = parse_yaml(text, file)
    if not isinstance(data, dict):
        raise SpecError("a spec is a YAML mapping with at least a schema", file=file, line=1)
    stem = Path(file).name.removesuffix(".yaml").removesuffix(".yml")
    data.setdefault("name", stem)
    if data["name"] != stem:
        raise SpecError(
            f"name is {data['name']!r} but the file is called {stem!r}; the file's stem is the type's name",
            file=file,
            line=line_of(text, ("name",)),
            key="name",
        )
    try:
        return TableSpec.model_validate(data)
    except ValidationError as error:
        raise _spec_error(error, text, file) from None


def _spec_error(error: ValidationError, text: str, file: str) -> SpecError:
    """The first fault with its line; unknown keys come first, as another key may be missing because of them."""
    faults = error.errors(include_url=False)
    first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    path = tuple(p for p in first["loc"] if p != "function-after")
    key = ".".join(str(p) for p in path)
    if first["type"] == "extra_forbidden":
        model: type[BaseModel] | None = TableSpec  # the part of the spec that has the unknown key
        for part in path[:-1]:
            if isinstance(part, str) and model is not None:
                options = model.model_fields.items()
                model = next((_model_in(f.annotation) for n, f in options if part in (n, f.alias)), None)
        known = [f.alias or n for n, f in model.model_fields.items()] if model else []
        message = f"unknown key {key!r}{nearest(str(path[-1]), known)}"
    else:
        message = f"{key}: {first['msg'].removeprefix('Value error, ')}" if key else first["msg"]
    more = error.error_count() - 1
    if more:
        message += f" (and {more} more)"
    return SpecError(message, file=file, line=line_of(text, path), key=key)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in an option's annotation: the annotation itself, one of a union, or the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


class Specs(Mapping[str, TableSpec]):
    """All types of a folder, by name. ``specs[name]`` raises UnknownTypeError, which suggests a similar name."""

    def __init__(self, specs: Iterable[TableSpec], folder: Path | None = None) -> None:
        self._by_name = {s.name: s for s in specs}
        self.folder = folder

    def __getitem__(self, name: str) -> TableSpec:
        try:
            return self._by_name[name]
        except KeyError:
            where = f" in {self.folder}" if self.folder else ""
            raise UnknownTypeError(
                f"There is no CSV type {name!r}{where}{nearest(name, self._by_name) or '.'} "
                "`importer check` lists all types; IMPORTER_SPECS names their folder."
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def spec_files(folder: Path) -> list[Path]:
    """All ``*.yaml`` and ``*.yml`` files below ``folder``, sorted; hidden ones left out."""
    if not folder.is_dir():
        raise SpecError(f"The folder of specs {folder} does not exist; IMPORTER_SPECS names it.")
    files = [*folder.rglob("*.yaml"), *folder.rglob("*.yml")]
    return sorted(f for f in files if not any(p.startswith(".") for p in f.relative_to(folder).parts))


def load_specs(folder: Path) -> Specs:
    """Read every spec below ``folder``, recursively; raises SpecError at the first wrong one."""
    specs: dict[str, TableSpec] = {}
    places: dict[str, Path] = {}
    for file in spec_files(folder):
        spec = load_spec(file)
        if spec.name.lower() in places:
            raise SpecError(
                f"type {spec.name!r} is already described in {places[spec.name.lower()]}", file=str(file)
            )
        places[spec.name.lower()] = file
        specs[spec.name] = spec
    return Specs(specs.values(), folder)


def load_spec(file: Path) -> TableSpec:
    """Read one spec file; raises SpecError."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read: {error}", file=str(file)) from None
    return parse_spec(text, str(file))
