"""Commands about specs: ``infer`` writes them, ``schema`` gives them out in other forms.

What does not belong here: making choices (``infer.py``), other forms of a spec
(``exchange.py``, ``docs_spec.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from importer_dagster.cli.common import console, errors, plain, specs_of
from importer_dagster.errors import UsageError
from importer_dagster.settings import Settings

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
@click.option("--delimiter", metavar="CHAR", help="The files' delimiter, where you know it.")
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
    """
    found: dict[str, _Proposal] = {}
    for descriptor in (f for f in files if f.lower().endswith(".json")):
        found |= {n: _Proposal(n, text) for n, text in _from_descriptor(descriptor, name).items()}
    data = [f for f in files if not f.lower().endswith(".json")]
    if data:
        options = {"encoding": encoding, "delimiter": delimiter, "date_order": date_order}
        for group in _groups(data, name):
            proposal = _infer_one(group, name, options)
            if proposal.name in found:
                raise UsageError(
                    f"{group[0]} would be type {proposal.name!r}, as another of the files; give each a --name of its own."
                )
            found[proposal.name] = proposal
    for proposal in found.values():
        if dry_run:
            click.echo(proposal.text, nl=False)
        else:
            _write(out, proposal.name, proposal.text, force=force)
        _tell(proposal)
    if not dry_run:
        _write_editor_schema(out)


def _tell(proposal: _Proposal) -> None:
    """What a person should decide (?) and know (i); the same stands in the YAML."""
    for question in proposal.questions:
        errors.print(f"  [yellow]?[/yellow] {plain(question)}", soft_wrap=True)
    for note in proposal.notes:
        errors.print(f"  [blue]i[/blue] {plain(note)}", soft_wrap=True)


def _from_descriptor(file: str, name: str | None) -> Mapping[str, str]:
    from importer_dagster.exchange import from_frictionless

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
    from importer_dagster.infer import group_files

    return [list(files)] if name else group_files(files)


def _infer_one(group: Sequence[str], name: str | None, options: Mapping[str, Any]) -> _Proposal:
    """The proposal for one type's files."""
    from importer_dagster.infer import infer as infer_spec

    title = Path(group[0]).name + (f" and {len(group) - 1} more" if len(group) > 1 else "")
    columns = (TextColumn(plain(title)), TextColumn("{task.fields[doing]}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("", doing="", total=None)
        inference = infer_spec(
            group, name=name, progress=lambda doing: progress.update(task, doing=doing), **options
        )
    return _Proposal(inference.spec.name, inference.yaml, inference.questions, inference.notes)


def _write(out: Path, type_name: str, text: str, *, force: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{type_name}.yaml"
    if target.exists() and not force:
        raise UsageError(f"{target} exists already; --force overwrites it.")
    target.write_text(f"# yaml-language-server: $schema=./{EDITOR_SCHEMA}\n{text}", encoding="utf-8")
    fields = text.count("\n    - {")
    console.print(f"[green]✓[/green] {target}: {fields} fields", soft_wrap=True)


def _write_editor_schema(out: Path) -> None:
    """The schema by which an editor completes and checks the specs, beside them."""
    from importer_dagster.docs_spec import json_schema_text

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
        from importer_dagster.docs_spec import json_schema_text

        click.echo(json_schema_text(), nl=False)
        return
    if form is None:
        raise UsageError(f"Say in which form: importer schema {type_name} --format {'|'.join(FORMATS)}.")
    from importer_dagster.exchange import Format, export
    from importer_dagster.source import names_tenants

    assert form in get_args(Format)
    settings = Settings.from_env()
    spec = specs_of(settings)[type_name]
    click.echo(export(spec, form, tenant=names_tenants(spec, settings.default_path)), nl=False)
