"""Commands about specs: ``infer``.

What does not belong here: making choices (``infer.py``).
"""

from __future__ import annotations

from pathlib import Path

import click

from importer_dagster.cli.common import console, plain
from importer_dagster.errors import UsageError


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the specs."
)
@click.option("--name", help="The type's name; then all files are days of this one type.")
@click.option("--force", is_flag=True, help="Overwrite specs that exist.")
def infer(files: tuple[str, ...], out: Path, name: str | None, force: bool) -> None:
    """Write a spec for each FILE, with the evidence for each choice.

    \b
    Examples:
      importer infer samples/*.csv --out specs/
      importer infer jan.csv feb.csv --name sales --out specs/     several days of one type
    """
    from importer_dagster.infer import infer as infer_spec

    out.mkdir(parents=True, exist_ok=True)
    groups = [list(files)] if name else [[f] for f in files]
    for group in groups:
        inference = infer_spec(group, name=name)
        target = out / f"{inference.spec.name}.yaml"
        if target.exists() and not force:
            raise UsageError(f"{target} exists already; --force overwrites it.")
        target.write_text(inference.yaml, encoding="utf-8")
        console.print(f"[green]✓[/green] {target}: {len(inference.spec.fields)} fields", soft_wrap=True)
        for question in inference.questions:
            console.print(f"  [yellow]?[/yellow] {plain(question)}", soft_wrap=True)
