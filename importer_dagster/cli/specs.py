"""Commands about specs: ``infer`` writes them, ``schema`` exports them in other formats.

What does not belong here: how types are inferred (``inference/type_choice.py``), the formats
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
    """One type's spec as YAML; questions that a person should decide, and notes."""

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
@click.option("--encoding", metavar="CODEC", help="The files' encoding, if you know it.")
@click.option("--delimiter", metavar="CHAR", help="The files' delimiter, if you know it; \\t is a tab.")
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

    Files whose names differ only by a date or a number, and that have the same
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
    if delimiter is not None:
        delimiter = delimiter.replace("\\t", "\t")  # a tab as it is typed in a shell
    options = {"encoding": encoding, "delimiter": delimiter, "date_order": date_order}
    failed: list[ImporterError] = []
    for item in plan.values():
        try:
            proposal = _infer_one(item, name, options) if isinstance(item, list) else item
        except (RefusedError, TransientError) as error:  # the other types are inferred all the same
            failed.append(error)
            errors.print(f"[red]✗[/red] {plain(error)}", soft_wrap=True)
            continue
        _write(proposal, None if dry_run else out)
    if not dry_run and len(failed) < len(plan):
        from importer_dagster.spec.reference import json_schema_text

        # by which an editor completes and checks the specs
        (out / EDITOR_SCHEMA).write_text(json_schema_text(), encoding="utf-8")
    if failed:
        if len(plan) > 1:
            errors.print(f"{len(failed)} of {len(plan)} types could not be inferred.")
        sys.exit(failed[0].exit_code)


def _plan(files: Sequence[str], name: str | None) -> dict[str, _Proposal | list[str]]:
    """By type: the spec that a descriptor describes, or the files to infer the spec from.

    Raises UsageError for two types of one name.
    """
    from importer_dagster.inference.samples import called_alike, group_files, name_type
    from importer_dagster.spec.frictionless import from_frictionless

    found: list[tuple[str, str, _Proposal | list[str]]] = []
    descriptors = [f for f in files if f.lower().endswith(".json")]
    for file in descriptors:
        try:
            descriptor = json.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise UsageError(f"{file} is no JSON: {error}.") from None
        if not isinstance(descriptor, dict):
            raise UsageError(f"{file} is no Frictionless descriptor: it holds no JSON object.")
        specs = from_frictionless(descriptor, name)
        found += [(type_name, file, _Proposal(type_name, text)) for type_name, text in specs.items()]
    data = [f for f in files if f not in descriptors]
    must_be_there(data)
    groups = [data] if name and data else group_files(data) if data else []
    for question in called_alike(groups) if not name else ():
        errors.print(f"[yellow]?[/yellow] {plain(question)}", soft_wrap=True)
    found += [(name_type(group, name), group[0], group) for group in groups]
    plan: dict[str, _Proposal | list[str]] = {}
    for type_name, file, item in found:
        if type_name in plan:
            raise UsageError(
                f"{file} would be type {type_name!r}, as another of the files; give each a --name of its own."
            )
        plan[type_name] = item
    return plan


def _check_targets(out: Path, types: Sequence[str], *, force: bool) -> None:
    """Raise UsageError if a type has a spec already, unless --force overwrites it. Called before files are read."""
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


def _infer_one(group: Sequence[str], name: str | None, options: Mapping[str, Any]) -> _Proposal:
    """Infer the spec of one type from its files, with a progress line."""
    from importer_dagster.inference.infer import infer as infer_spec

    title = Path(group[0]).name + (f" and {len(group) - 1} more" if len(group) > 1 else "")
    columns = (TextColumn(plain(title)), TextColumn("{task.fields[doing]}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("", doing="", total=None)
        inference = infer_spec(
            group, name=name, progress=lambda doing: progress.update(task, doing=doing), **options
        )
    return _Proposal(inference.spec.name, inference.yaml, inference.questions, inference.notes)


def _write(proposal: _Proposal, out: Path | None) -> None:
    """Write the spec into the folder (print it if there is none), and print questions (?) and notes (i)."""
    if out is None:
        click.echo(proposal.text, nl=False)
    else:
        out.mkdir(parents=True, exist_ok=True)
        target = _target(out, proposal.name)
        target.write_text(
            f"# yaml-language-server: $schema=./{EDITOR_SCHEMA}\n{proposal.text}", encoding="utf-8"
        )
        fields = proposal.text.count("\n    - {")
        console.print(
            f"[green]✓[/green] {plain(target)}: {fields} field{'' if fields == 1 else 's'}", soft_wrap=True
        )
    for question in proposal.questions:
        errors.print(f"  [yellow]?[/yellow] {plain(question)}", soft_wrap=True)
    for note in proposal.notes:
        errors.print(f"  [blue]i[/blue] {plain(note)}", soft_wrap=True)


@click.command()
@click.argument("type_name", required=False, metavar="[TYPE]")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="The format: a Frictionless resource, a JSON Schema of the rows, CREATE TABLE, or a page about TYPE.",
)
def schema(type_name: str | None, form: Any) -> None:
    """Export TYPE for other tools; without TYPE, the JSON Schema of specs, for editors.

    \b
    Examples:
      importer schema salestaxrate --format frictionless > salestaxrate.json
      importer schema salestaxrate --format sql
      importer schema > spec.schema.json         what a spec may contain
    """
    if type_name is None:
        if form is not None:
            raise UsageError("--format goes with a TYPE: importer schema TYPE --format FORMAT.")
        from importer_dagster.spec.reference import json_schema_text

        click.echo(json_schema_text(), nl=False)
        return
    if form is None:
        raise UsageError(f"Name a format: importer schema {type_name} --format {'|'.join(FORMATS)}.")
    from importer_dagster.source.path_patterns import names_tenants
    from importer_dagster.spec.export import Format, export

    assert form in get_args(Format)
    settings = Settings.from_env()
    spec = specs_of(settings)[type_name]
    click.echo(export(spec, form, tenant=names_tenants(spec, settings.default_path)), nl=False)
