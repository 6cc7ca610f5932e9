"""Commands about specs: ``infer`` writes them, ``schema`` gives them out in other forms.

What does not belong here: making choices (``inference/type_choice.py``), other forms of a spec
(``spec/export.py``, ``spec/reference.py``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from importer_dagster.cli.common import console, errors, must_be_there, plain, specs_of
from importer_dagster.errors import ImporterError, RefusedError, TransientError, UsageError
from importer_dagster.settings import Settings
from importer_dagster.spec.loading import spec_files

EDITOR_SCHEMA = "spec.schema.json"
FORMATS = ("frictionless", "json-schema", "sql", "markdown")


@dataclass(frozen=True)
class _Proposal:
    """One type's spec as YAML, and what to tell the person about it."""

    name: str
    text: str
    questions: Sequence[str] = ()
    notes: Sequence[str] = ()


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the specs."
)
@click.option("--name", help="The type's name; then all files are days of this one type.")
@click.option("--encoding", metavar="CODEC", help="The files' encoding, where you know it.")
@click.option("--delimiter", metavar="CHAR", help="The files' delimiter, where you know it; \\t is a tab.")
@click.option(
    "--date-order",
    type=click.Choice(["dmy", "mdy"]),
    help="Of dates such as 03/04/2024: day or month first.",
)
@click.option("--dry-run", is_flag=True, help="Print the specs instead of writing them.")
@click.option("--force", is_flag=True, help="Overwrite specs that exist.")
def infer(
    files: tuple[str, ...],
    out: Path,
    name: str | None,
    encoding: str | None,
    delimiter: str | None,
    date_order: Any,
    dry_run: bool,
    force: bool,
) -> None:
    """Write a spec for each FILE, with the evidence for each choice.

    Files that are called alike but for a date or a number, and have the same
    columns, are taken as several deliveries of one type. A FILE that ends in
    .json is read as a Frictionless Table Schema, Resource or Data Package.

    \b
    Examples:
      importer infer samples/*.csv --out specs/
      importer infer jan.csv feb.csv --name sales --out specs/     several days of one type
      importer infer orders.csv --date-order dmy --out specs/      03/04/2024 is in April
      importer infer datapackage.json --out specs/

    Exit codes: 0 done, 2 usage, 3 a file is no CSV, 4 a file could not be reached; the other types are written.
    """
    plan = _plan(files, name)
    if not dry_run:
        _check_targets(out, list(plan), force=force)
    mark = None if delimiter is None else delimiter.replace("\\t", "\t")  # as it is typed in a shell
    options = {"encoding": encoding, "delimiter": mark, "date_order": date_order}
    failed: list[ImporterError] = []
    for item in plan.values():
        try:
            proposal = _infer_one(item, name, options) if isinstance(item, list) else item
        except (RefusedError, TransientError) as error:  # the other types have nothing to do with it
            failed.append(error)
            errors.print(f"[red]✗[/red] {plain(error)}", soft_wrap=True)
            continue
        if dry_run:
            click.echo(proposal.text, nl=False)
        else:
            _write(out, proposal.name, proposal.text)
        _tell(proposal)
    if not dry_run and len(failed) < len(plan):
        _write_editor_schema(out)
    if failed:
        if len(plan) > 1:
            errors.print(f"{len(failed)} of {len(plan)} types could not be inferred.")
        sys.exit(failed[0].exit_code)


def _plan(files: Sequence[str], name: str | None) -> dict[str, _Proposal | list[str]]:
    """By type: the spec that a descriptor gives at once, or the files to infer it from. Two of one name are refused."""
    from importer_dagster.inference.samples import name_type

    descriptors = [f for f in files if f.lower().endswith(".json")]
    found: list[tuple[str, str, _Proposal | list[str]]] = [
        (type_name, file, _Proposal(type_name, text))
        for file in descriptors
        for type_name, text in _from_descriptor(file, name).items()
    ]
    data = [f for f in files if f not in descriptors]
    must_be_there(data)
    found += [(name_type(g, name), g[0], g) for g in (_groups(data, name) if data else [])]
    plan: dict[str, _Proposal | list[str]] = {}
    for type_name, file, item in found:
        if type_name in plan:
            raise UsageError(
                f"{file} would be type {type_name!r}, as another of the files; give each a --name of its own."
            )
        plan[type_name] = item
    return plan


def _check_targets(out: Path, types: Sequence[str], *, force: bool) -> None:
    """Before anything is read: no type may have a spec already, but for one that --force overwrites."""
    there = {f.stem.lower(): f for f in spec_files(out)} if out.is_dir() else {}
    for type_name in types:
        file = there.get(type_name.lower())
        if file is None or (force and file == _target(out, type_name)):
            continue
        remedy = (
            "--force overwrites it"
            if file == _target(out, type_name)
            else "a type has one spec: move that one, or name another folder by --out"
        )
        raise UsageError(f"{file} exists already; {remedy}. Nothing was written.")


def _target(out: Path, type_name: str) -> Path:
    return out / f"{type_name}.yaml"


def _tell(proposal: _Proposal) -> None:
    """What a person should decide (?) and know (i); the same stands in the YAML."""
    for question in proposal.questions:
        errors.print(f"  [yellow]?[/yellow] {plain(question)}", soft_wrap=True)
    for note in proposal.notes:
        errors.print(f"  [blue]i[/blue] {plain(note)}", soft_wrap=True)


def _from_descriptor(file: str, name: str | None) -> Mapping[str, str]:
    from importer_dagster.spec.frictionless import from_frictionless

    try:
        descriptor = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UsageError(f"{file} is no JSON: {error}.") from None
    if not isinstance(descriptor, dict):
        raise UsageError(f"{file} is no Frictionless descriptor: it holds no JSON object.")
    return from_frictionless(descriptor, name)


def _groups(files: Sequence[str], name: str | None) -> list[list[str]]:
    from importer_dagster.inference.samples import called_alike, group_files

    if name:
        return [list(files)]
    groups = group_files(files)
    for question in called_alike(groups):
        errors.print(f"[yellow]?[/yellow] {plain(question)}", soft_wrap=True)
    return groups


def _infer_one(group: Sequence[str], name: str | None, options: Mapping[str, Any]) -> _Proposal:
    """The proposal for one type's files."""
    from importer_dagster.inference.infer import infer as infer_spec

    title = Path(group[0]).name + (f" and {len(group) - 1} more" if len(group) > 1 else "")
    columns = (TextColumn(plain(title)), TextColumn("{task.fields[doing]}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("", doing="", total=None)
        inference = infer_spec(
            group, name=name, progress=lambda doing: progress.update(task, doing=doing), **options
        )
    return _Proposal(inference.spec.name, inference.yaml, inference.questions, inference.notes)


def _write(out: Path, type_name: str, text: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    target = _target(out, type_name)
    target.write_text(f"# yaml-language-server: $schema=./{EDITOR_SCHEMA}\n{text}", encoding="utf-8")
    fields = text.count("\n    - {")
    console.print(
        f"[green]✓[/green] {plain(target)}: {fields} field{'' if fields == 1 else 's'}", soft_wrap=True
    )


def _write_editor_schema(out: Path) -> None:
    """The schema by which an editor completes and checks the specs, beside them."""
    from importer_dagster.spec.reference import json_schema_text

    (out / EDITOR_SCHEMA).write_text(json_schema_text(), encoding="utf-8")


@click.command()
@click.argument("type_name", required=False, metavar="[TYPE]")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="How to give TYPE out: a Frictionless resource, a JSON Schema of its rows, CREATE TABLE, or a page.",
)
def schema(type_name: str | None, form: Any) -> None:
    """Give TYPE out for other tools; without TYPE, the JSON Schema of specs, for editors.

    \b
    Examples:
      importer schema salestaxrate --format frictionless > salestaxrate.json
      importer schema salestaxrate --format sql
      importer schema > spec.schema.json         what may stand in a spec
    """
    if type_name is None:
        if form is not None:
            raise UsageError("--format goes with a TYPE: importer schema TYPE --format FORMAT.")
        from importer_dagster.spec.reference import json_schema_text

        click.echo(json_schema_text(), nl=False)
        return
    if form is None:
        raise UsageError(f"Say in which form: importer schema {type_name} --format {'|'.join(FORMATS)}.")
    from importer_dagster.source.path_patterns import names_tenants
    from importer_dagster.spec.export import Format, export

    assert form in get_args(Format)
    settings = Settings.from_env()
    spec = specs_of(settings)[type_name]
    click.echo(export(spec, form, tenant=names_tenants(spec, settings.default_path)), nl=False)
