"""``importer drift``: shows what changed in the supplier's files, and writes proposed changes into specs.

What does not belong here: finding changes (``operations/spec_proposals.py``), editing YAML (``operations/spec_edits.py``).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from rich.syntax import Syntax
from rich.table import Table

from importer_dagster.cli.common import console, plain, specs_of, warehouse_of
from importer_dagster.errors import SpecError, UsageError
from importer_dagster.settings import Settings
from importer_dagster.spec.loading import Specs, parse_spec, spec_files
from importer_dagster.spec.table import TableSpec

_COMPARED_ROWS = 50_000  # of a field, with which the values of an unknown column are compared
_COMPARED_LOADS = 20


class _Drift(click.Group):
    """Takes ``importer drift TYPE`` for ``importer drift list TYPE``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Drift)
def drift() -> None:
    """Show what changed in the files, and write proposed changes into specs.

    \b
    Examples:
      importer drift                                  all types
      importer drift orders                           one type, with the proposed edit as a diff
      importer drift accept orders --dry-run          only show the diff
      importer drift accept orders --column price     write only what is proposed for one column
    """


@drift.command("list")
@click.argument("type_name", required=False, metavar="[TYPE]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object per change.")
def list_(type_name: str | None, as_json: bool) -> None:
    """List what changed and since when, and the proposed edit of each spec as a diff. Writes nothing."""
    settings = Settings.from_env()
    specs = specs_of(settings)
    chosen = [specs[type_name]] if type_name else list(specs.values())
    found = _changes_of(settings, chosen)
    if as_json:
        keys = ("kind", "column", "detail", "since", "until", "first", "deliveries", "refused", "advice")
        rows = [
            {
                "type": name,
                **{k: getattr(c, k) for k in keys},
                "proposed": c.edit is not None and c.until is None,
            }
            for name, changes in found.items()
            for c in changes
        ]
        click.echo(json.dumps(rows, default=str, ensure_ascii=False))
        return
    if not any(found.values()):
        console.print("No delivery differs from its spec.")
    for name, changes in found.items():
        if not changes:
            continue
        table = Table("change", "column", "since", "deliveries", "refused", "what", "proposal", title=name)
        for c in changes:
            since = f"{c.since} – {c.until}" if c.until else str(c.since)
            cells = (c.kind, c.column or "", since, c.deliveries, c.refused or "", c.detail, c.advice)
            table.add_row(*(plain(cell) for cell in cells))
        console.print(table)
        _print_proposed_edit(specs, name, changes)


@drift.command()
@click.argument("type_name", metavar="TYPE")
@click.option(
    "--column", "columns", multiple=True, metavar="NAME", help="Only what is proposed for this column."
)
@click.option("--dry-run", is_flag=True, help="Show the diff; write nothing.")
def accept(type_name: str, columns: tuple[str, ...], dry_run: bool) -> None:
    """Write what `importer drift TYPE` proposes into the spec of TYPE; comments and layout stay.

    Values of earlier deliveries that were kept under the accepted names (in _extra, or in a column that
    the table gained) are moved into the fields' columns. If the command is interrupted before that,
    it can be repeated.
    """
    settings = Settings.from_env()
    specs = specs_of(settings)
    changes = _changes_of(settings, [specs[type_name]])[type_name]
    try:
        chosen = _chosen(type_name, changes, columns)
    except UsageError:
        if dry_run or not _finish_interrupted(settings, specs[type_name], columns):
            raise
        return
    file = _file_of(specs, type_name)
    old = file.read_text(encoding="utf-8")
    new = _edited(old, chosen, file)
    _print_diff(old, new, file)
    if dry_run:
        return
    part = file.with_name(f".{file.name}.part")  # renamed when it is complete
    part.write_text(new, encoding="utf-8")
    part.chmod(file.stat().st_mode)
    part.replace(file)
    console.print(f"[green]✓[/green] wrote {plain(file)}", soft_wrap=True)
    _move(settings, parse_spec(new, str(file)), sorted({str(c.column) for c in chosen}))
    if any(c.refused for c in chosen):
        days = sorted(c.since for c in chosen if c.refused)
        console.print(
            f"Refused deliveries can be loaded now: importer backfill --from {days[0]} --to … {type_name}"
        )


# --- finding changes ------------------------------------------------------------------------


def _changes_of(settings: Settings, specs: Sequence[TableSpec]) -> dict[str, list[Any]]:
    from importer_dagster.ledger import drift as ledger_drift
    from importer_dagster.ledger import schema as ledger_schema
    from importer_dagster.operations.drift_summary import DeliveryDrift
    from importer_dagster.operations.spec_proposals import changes
    from importer_dagster.writer.target import Target

    found: dict[str, list[Any]] = {}
    with warehouse_of(settings) as warehouse:
        ledger_schema.migrate(warehouse)
        with warehouse.connect() as conn:
            for spec in specs:
                rows = ledger_drift.deliveries_with_drift(conn, spec.name)
                seen = [
                    DeliveryDrift(r["tenant"], r["day"], r["path"], r["status"], tuple(r["drift"]))
                    for r in rows
                ]
                loads = [r["load_id"] for r in rows if r["status"] == "loaded"][-_COMPARED_LOADS:]
                known = partial(_known_values, conn, Target(spec, False, warehouse.schema), loads)
                found[spec.name] = changes(spec, seen, known)
    return found


def _known_values(conn: Any, target: Any, loads: Sequence[int], field: Any) -> list[Any]:
    """Values that a field had in earlier deliveries, first of all in the given loads."""
    from importer_dagster.writer.tables import recent_values

    if field.type == "object":
        return []
    values = recent_values(conn, target, field.column, loads, _COMPARED_ROWS)
    return [v.bytes if isinstance(v, UUID) else v for v in values]


def _chosen(name: str, changes: Sequence[Any], columns: Sequence[str]) -> list[Any]:
    offered = [c for c in changes if c.edit is not None]
    for column in columns:
        if not any(c.column == column for c in offered):
            known = ", ".join(repr(c.column) for c in offered) or "none"
            raise UsageError(
                f"Nothing is proposed for {column!r} of {name}; there are proposals for: {known}."
            )
    chosen = [c for c in offered if (c.column in columns if columns else c.until is None)]
    if not chosen:
        raise UsageError(
            f"There is nothing to accept for {name}: `importer drift {name}` shows what is known."
        )
    return chosen


# --- the edit ---------------------------------------------------------------------------------


def _file_of(specs: Specs, name: str) -> Path:
    assert specs.folder is not None
    return next(f for f in spec_files(specs.folder) if f.stem == name)


def _edited(text: str, changes: Sequence[Any], file: Path) -> str:
    """The spec's text with all proposals; raises SpecError if the result is not a valid spec."""
    try:
        for change in changes:
            if change.edit is not None:
                text = change.edit(text)
        parse_spec(text, str(file))
    except (ValueError, SpecError) as error:
        raise SpecError(
            f"The proposals cannot be written as they are: {error}. Choose one with --column, or edit by hand.",
            file=str(file),
        ) from None
    return text


def _finish_interrupted(settings: Settings, spec: TableSpec, columns: Sequence[str]) -> int:
    """Move the values of an earlier acceptance that was interrupted after it wrote the spec; how many values."""
    from importer_dagster.ledger import drift as ledger_drift

    with warehouse_of(settings) as warehouse, warehouse.connect() as conn:
        if not ledger_drift.deliveries_with_drift(conn, spec.name):
            return 0
    fields = [f for f in spec.fields if not columns or {f.name, f.column, *f.names} & set(columns)]
    return _move(settings, spec, [f.name for f in fields])


def _move(settings: Settings, spec: TableSpec, columns: Sequence[str]) -> int:
    """Move values kept in _extra, or in columns that the table gained, into the fields' columns; how many values."""
    from importer_dagster.source.path_patterns import names_tenants
    from importer_dagster.writer.tables import move_rescued
    from importer_dagster.writer.target import Target

    names = [f.name for f in spec.fields if {f.name, f.column} & set(columns)]
    with warehouse_of(settings) as warehouse:
        target = Target(spec, names_tenants(spec, settings.default_path), warehouse.schema)
        moved, stay = move_rescued(warehouse, target, names)
    if moved:
        console.print(f"[green]✓[/green] {moved:,} values of earlier deliveries moved into their columns")
    if stay:
        console.print(
            f"{len(stay):,} different values stay where they are, such as: {plain(stay[0])}", soft_wrap=True
        )
    return moved


# --- showing ----------------------------------------------------------------------------------


def _print_proposed_edit(specs: Specs, name: str, changes: Sequence[Any]) -> None:
    changes = [c for c in changes if c.until is None]  # past ones are accepted only by name
    if not any(c.edit for c in changes):
        return
    file = _file_of(specs, name)
    old = file.read_text(encoding="utf-8")
    try:
        new = _edited(old, changes, file)
    except SpecError as error:
        console.print(plain(error), soft_wrap=True)
        return
    _print_diff(old, new, file)
    console.print(f"To write it: importer drift accept {name}\n")


def _print_diff(old: str, new: str, file: Path) -> None:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{file}", f"{file} (proposed)", lineterm=""
    )
    text = "\n".join(lines)
    if console.is_terminal:
        console.print(Syntax(text, "diff", word_wrap=True))
    else:
        click.echo(text)
