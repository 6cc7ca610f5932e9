"""``importer load`` imports one file; ``importer check`` checks specs, or rehearses an import.

What does not belong here: any logic that the assets need too (``pipeline/delivery.py``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import date
from typing import Any

import click

from importer_dagster.cli.common import DAY, console, errors, must_be_there, plain, specs_of, warehouse_of
from importer_dagster.cli.ledger import print_rejects
from importer_dagster.errors import ImporterError, SpecError, UsageError
from importer_dagster.model import LoadResult
from importer_dagster.redaction import redact
from importer_dagster.settings import Settings
from importer_dagster.spec.loading import Specs, load_spec, load_specs, spec_files
from importer_dagster.spec.table import TableSpec

_LISTED = 50  # rejects shown after a rehearsal


@click.command()
@click.argument("type_name", metavar="TYPE")
@click.argument("file")
@click.option("--tenant", metavar="T", help="The tenant; if not given, the one that the path names.")
@click.option(
    "--date",
    "business_date",
    type=DAY,
    help="The business date; if not given, the one in the path, else today; for types whose path has no {date}, the day "
    "when the file was last changed.",
)
@click.option("--force", is_flag=True, help="Load it again even if the same content is loaded already.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def load(
    type_name: str, file: str, tenant: str | None, business_date: date | None, force: bool, as_json: bool
) -> None:
    """Import one FILE of TYPE now, the way the asset would.

    \b
    Examples:
      importer load salestaxrate inbox/2024-01-31/acme/salestaxrate.csv
      importer load salestaxrate /tmp/rates.csv --tenant acme --date 2024-01-31 --json

    Exit codes: 0 loaded or unchanged, 2 usage, 3 refused, or held by the type's gate,
    4 the database or the file could not be reached.
    """
    from importer_dagster.pipeline.delivery import import_delivery
    from importer_dagster.source.inbox import delivery_of_file

    settings = Settings.from_env()
    spec = specs_of(settings)[type_name]
    must_be_there([file])
    delivery = delivery_of_file(file, spec, settings, tenant=tenant, business_date=business_date)

    def show(rows: int, rejected: int) -> None:
        errors.print(f"  {rows:,} records read, {rejected:,} rejected", end="\r")

    progress = show if errors.is_terminal and not as_json else None
    try:
        with warehouse_of(settings) as warehouse:
            result = import_delivery(delivery, spec, warehouse=warehouse, force=force, progress=progress)
    except UsageError:
        raise
    except ImporterError as error:
        if as_json:
            result = LoadResult(delivery, "failed", reason=str(error))
            click.echo(json.dumps(_result_json(result), ensure_ascii=False))
        raise
    if as_json:
        click.echo(json.dumps(_result_json(result), ensure_ascii=False))
    else:
        _print_result(result, spec)
    if result.status in ("refused", "held"):
        sys.exit(3)


@click.command()
@click.argument("types", nargs=-1, metavar="[TYPE]...")
@click.option("--file", metavar="FILE", help="Rehearse the import of this file as TYPE.")
@click.option("--tenant", metavar="T", help="With --file: the tenant.")
@click.option("--date", "business_date", type=DAY, help="With --file: its business date.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="With --file: print one JSON object, which includes the first rejects.",
)
def check(
    types: tuple[str, ...], file: str | None, tenant: str | None, business_date: date | None, as_json: bool
) -> None:
    """Check specs and connections; with --file, rehearse an import. Writes nothing.

    \b
    Examples:
      importer check                                  all specs, the inbox, the warehouse
      importer check salestaxrate --file rates.csv    what would be loaded, what rejected
    """
    settings = Settings.from_env()
    if file is None:
        _check_all(settings, types)
        return
    if len(types) != 1:
        raise UsageError("--file goes with exactly one TYPE: importer check TYPE --file FILE.")
    from importer_dagster.pipeline.delivery import import_delivery
    from importer_dagster.source.inbox import delivery_of_file

    spec = specs_of(settings)[types[0]]
    must_be_there([file])
    delivery = delivery_of_file(file, spec, settings, tenant=tenant, business_date=business_date)
    with warehouse_of(settings) as warehouse:
        result = import_delivery(delivery, spec, warehouse=warehouse, dry_run=True)
    rejects = [] if result.rejects is None else result.rejects.sort_by("row").to_pylist()
    if as_json:
        facts = ("row", "line", "column_name", "value", "rule", "message", "raw")
        shown = [{name.removesuffix("_name"): reject[name] for name in facts} for reject in rejects]
        click.echo(json.dumps({**_result_json(result), "rejects": shown}, ensure_ascii=False))
    else:
        _print_result(result, spec, rehearsed=True)
        if rejects:
            print_rejects(rejects[:_LISTED])
        if more := len(rejects[_LISTED:]):
            console.print(f"  and {more} more; --json lists up to a thousand, with their raw text.")
    if result.status in ("refused", "held"):
        sys.exit(3)


def _check_all(settings: Settings, types: Sequence[str]) -> None:
    from importer_dagster.source.inbox import find_deliveries
    from importer_dagster.source.path_patterns import pattern_of

    specs, faults = _read_all_specs(settings, types)
    for fault in faults:
        errors.print(f"[red]✗[/red] {plain(fault)}", soft_wrap=True)
    console.print(
        f"[green]✓[/green] {len(specs)} spec{'s' * (len(specs) != 1)} in {plain(settings.specs)}",
        soft_wrap=True,
    )
    for spec in specs:
        if spec.write_disposition == "append" and not pattern_of(spec, settings.default_path).has_date:
            errors.print(
                f"[yellow]![/yellow] {spec.name} appends, and its path names no {{date}}: a file that is written "
                "again on another day is loaded twice. See docs/arrival.md, or use replace or merge.",
                soft_wrap=True,
            )
    with warehouse_of(settings) as warehouse, warehouse.connect() as conn:
        version = conn.execute("SHOW server_version").fetchone()[0]
        console.print(f"[green]✓[/green] warehouse: PostgreSQL {version}")
    by_name = {s.name: s for s in specs}
    found = find_deliveries(settings.inbox_url, by_name, default_path=settings.default_path)
    console.print(
        f"[green]✓[/green] inbox: {len(found)} {'delivery' if len(found) == 1 else 'deliveries'} in {plain(redact(settings.inbox_url))}",
        soft_wrap=True,
    )
    if faults:
        sys.exit(2)


def _read_all_specs(settings: Settings, types: Sequence[str]) -> tuple[list[TableSpec], list[SpecError]]:
    """The valid specs of the types, or of all types, and the error of each other spec."""
    from importer_dagster.validation.schemas import pandera_schema

    specs: list[TableSpec] = []
    faults: list[SpecError] = []
    for file in spec_files(settings.specs):
        try:
            spec = load_spec(file)
            pandera_schema(spec)
            specs.append(spec)
        except SpecError as error:
            faults.append(error if error.file else SpecError(str(error), file=str(file)))
    if types:
        known = Specs(specs, settings.specs)
        specs = [known[name] for name in types]
    elif not faults:
        load_specs(settings.specs)  # raises for faults between specs, such as a name used twice
    return specs, faults


def _result_json(result: Any) -> dict[str, Any]:
    return {
        "load_id": result.load_id,
        "status": result.status,
        "rows_read": result.rows_read,
        "rows_loaded": result.rows_loaded,
        "rows_rejected": result.rows_rejected,
        "rows_skipped": result.rows_skipped,
        "rows_unchanged": result.rows_unchanged,
        "reason": result.reason,
        "drift": [{"kind": e.kind, "column": e.column_name, "detail": e.detail} for e in result.drift],
    }


def _print_result(result: Any, spec: TableSpec, *, rehearsed: bool = False) -> None:
    d = result.delivery
    verb = {"loaded": "would be loaded" if rehearsed else "loaded"}.get(result.status, result.status)
    color = {"loaded": "green", "unchanged": "cyan", "held": "yellow"}.get(result.status, "red")
    whose = f", tenant {plain(d.tenant)}" if d.tenant else ""
    load = f" as load {result.load_id}" if result.load_id and result.status in ("loaded", "held") else ""
    console.print(
        f"[{color}]{verb}[/{color}]{load}: {plain(d.path)} → {spec.name}{whose}, {d.business_date}",
        soft_wrap=True,
    )
    console.print(
        f"  {result.rows_read} records read, {result.rows_loaded} loaded, {result.rows_rejected} rejected, "
        f"{result.rows_unchanged} unchanged, {result.rows_skipped} skipped ({result.seconds:.2f} s)"
    )
    if result.reason:
        console.print(f"  {plain(result.reason)}", soft_wrap=True)
    for finding in result.gate:
        if finding.action == "warn":
            console.print(
                f"  [yellow]gate[/yellow]: {plain(finding.detail)} (gate.{finding.rule})", soft_wrap=True
            )
    for event in result.drift:
        about = f"drift: {event.kind} {plain(event.column_name or '')}".rstrip()
        about = "warning" if event.kind == "warning" else about
        console.print(f"  {about}: {plain(event.detail)}", soft_wrap=True)
    if result.rows_rejected and not rehearsed and result.load_id:
        console.print(f"  `importer rejects --load {result.load_id}` lists the rejects.")
