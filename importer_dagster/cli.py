"""The ``importer`` command: the hand tool beside the Dagster UI.

Exit codes: 0 done (loaded or unchanged), 1 a bug, 2 usage (arguments, settings,
specs), 3 refused, 4 the database or the source could not be reached.

What does not belong here: any logic that the assets need too (``pipeline.py``).
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from importer_dagster import __version__
from importer_dagster.errors import ImporterError, SpecError, UsageError
from importer_dagster.settings import Settings
from importer_dagster.spec import Specs, TableSpec, load_spec, load_specs, spec_files

# into a file or a pipe, tables are not squeezed to 80 columns
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
console = Console(highlight=False, width=_WIDTH)
errors = Console(stderr=True, highlight=False, width=_WIDTH)


class _Day(click.ParamType[date]):
    """A day such as 2024-01-31."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Text to a date; fails as a usage error."""
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date such as 2024-01-31", param, ctx)


DAY = _Day()


class _Group(click.Group):
    """Turns our errors into one paragraph and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ImporterError as error:
            if ctx.params.get("debug"):
                raise
            errors.print(f"[red]Error:[/red] {_plain(error)}", soft_wrap=True)
            sys.exit(error.exit_code)


def _plain(error: BaseException) -> str:
    return str(error).replace("[", r"\[")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="importer")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Import daily CSV deliveries into PostgreSQL.

    \b
    Examples:
      importer demo                                  see it work, in two minutes
      importer dev                                   the Dagster UI on the same state
      importer check salestaxrate --file new.csv     rehearse an import
      importer load salestaxrate new.csv --tenant acme --date 2024-01-31
      importer backfill --from 2024-01-01 --to 2024-01-31
    """


# --- what commands share --------------------------------------------------------


@contextmanager
def _warehouse(settings: Settings) -> Iterator[Any]:
    """The warehouse, the embedded server started if none is configured."""
    from importer_dagster.warehouse import Warehouse

    if settings.warehouse_url:
        yield Warehouse(settings.warehouse_url, db_writes=settings.db_writes)
        return
    from importer_dagster.embedded import ensure_server

    server = ensure_server(settings.home)
    yield Warehouse(server.url("warehouse"), db_writes=settings.db_writes)


def _specs(settings: Settings) -> Specs:
    return load_specs(settings.specs)


def _chosen(specs: Specs, types: Sequence[str]) -> list[TableSpec]:
    return [specs[name] for name in types] if types else list(specs.values())


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


def _failed_json(error: ImporterError) -> dict[str, Any]:
    counts = dict.fromkeys(("rows_read", "rows_loaded", "rows_rejected", "rows_skipped", "rows_unchanged"), 0)
    return {"load_id": None, "status": "failed", **counts, "reason": str(error), "drift": []}


def _print_result(result: Any, spec: TableSpec, *, rehearsed: bool = False) -> None:
    d = result.delivery
    verb = {"loaded": "would be loaded" if rehearsed else "loaded"}.get(result.status, result.status)
    color = {"loaded": "green", "unchanged": "cyan"}.get(result.status, "red")
    whose = f", tenant {d.tenant}" if d.tenant else ""
    load = f" as load {result.load_id}" if result.load_id and result.status == "loaded" else ""
    console.print(
        f"[{color}]{verb}[/{color}]{load}: {d.path} → {spec.name}{whose}, {d.business_date}", soft_wrap=True
    )
    console.print(
        f"  {result.rows_read} records read, {result.rows_loaded} loaded, {result.rows_rejected} rejected, "
        f"{result.rows_unchanged} unchanged, {result.rows_skipped} skipped ({result.seconds:.2f} s)"
    )
    if result.reason:
        console.print(f"  {_plain(Exception(result.reason))}", soft_wrap=True)
    for event in result.drift:
        console.print(f"  drift: {event.kind} {event.column_name or ''}: {_plain(Exception(event.detail))}")
    if result.rows_rejected and not rehearsed and result.load_id:
        console.print(f"  `importer rejects --load {result.load_id}` lists the rejects.")


def _print_rejects(rows: Sequence[dict[str, Any]]) -> None:
    table = Table("row", "line", "column", "value", "rule", "message")
    for r in rows:
        cells = (r["row"], r["line"], r["column_name"], r["value"], r["rule"], r["message"])
        table.add_row(*("" if c is None else str(c).replace("[", r"\[")[:120] for c in cells))
    console.print(table)


def _progress(rows: int, rejected: int) -> None:
    if errors.is_terminal:
        errors.print(f"  {rows:,} records read, {rejected:,} rejected", end="\r")


# --- commands -------------------------------------------------------------------


@main.command()
@click.argument("type_name", metavar="TYPE")
@click.argument("file")
@click.option("--tenant", metavar="T", help="Whose file it is; else as its path says.")
@click.option(
    "--date", "business_date", type=DAY, help="The business date; else as its path says, else today."
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
    """
    from importer_dagster.pipeline import import_delivery
    from importer_dagster.source import delivery_of_file

    settings = Settings.from_env()
    spec = _specs(settings)[type_name]
    delivery = delivery_of_file(file, spec, settings, tenant=tenant, business_date=business_date)
    try:
        with _warehouse(settings) as warehouse:
            result = import_delivery(
                delivery, spec, warehouse=warehouse, force=force, progress=None if as_json else _progress
            )
    except UsageError:
        raise
    except ImporterError as error:
        if as_json:
            click.echo(json.dumps(_failed_json(error), ensure_ascii=False))
        raise
    if as_json:
        click.echo(json.dumps(_result_json(result), ensure_ascii=False))
    else:
        _print_result(result, spec)
    if result.status == "refused":
        sys.exit(3)


@main.command()
@click.argument("types", nargs=-1, metavar="[TYPE]...")
@click.option("--file", metavar="FILE", help="Rehearse the import of this file as TYPE.")
@click.option("--tenant", metavar="T", help="With --file: whose it is.")
@click.option("--date", "business_date", type=DAY, help="With --file: its business date.")
@click.option("--json", "as_json", is_flag=True, help="With --file: print one JSON object.")
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
    _rehearse(settings, types[0], file, tenant, business_date, as_json)


def _rehearse(
    settings: Settings, name: str, file: str, tenant: str | None, day: date | None, as_json: bool
) -> None:
    from importer_dagster.pipeline import import_delivery
    from importer_dagster.source import delivery_of_file

    spec = _specs(settings)[name]
    delivery = delivery_of_file(file, spec, settings, tenant=tenant, business_date=day)
    with _warehouse(settings) as warehouse:
        result = import_delivery(delivery, spec, warehouse=warehouse, dry_run=True)
    if as_json:
        click.echo(json.dumps(_result_json(result), ensure_ascii=False))
    else:
        _print_result(result, spec, rehearsed=True)
        if result.rejects is not None and len(result.rejects):
            _print_rejects(result.rejects.slice(0, 50).to_pylist())
    if result.status == "refused":
        sys.exit(3)


def _check_all(settings: Settings, types: Sequence[str]) -> None:
    from importer_dagster.source import find_deliveries

    specs, faults = _read_all_specs(settings, types)
    for fault in faults:
        errors.print(f"[red]✗[/red] {_plain(fault)}", soft_wrap=True)
    console.print(f"[green]✓[/green] {len(specs)} specs in {settings.specs}", soft_wrap=True)
    with _warehouse(settings) as warehouse, warehouse.connect() as conn:
        version = conn.execute("SHOW server_version").fetchone()[0]
        console.print(f"[green]✓[/green] warehouse: PostgreSQL {version}")
    by_name = {s.name: s for s in specs}
    found = find_deliveries(settings.inbox_url, by_name, default_path=settings.default_path)
    console.print(f"[green]✓[/green] inbox: {len(found)} deliveries in {settings.inbox_url}", soft_wrap=True)
    if faults:
        sys.exit(2)


def _read_all_specs(settings: Settings, types: Sequence[str]) -> tuple[list[TableSpec], list[SpecError]]:
    """Every spec that is right, and what is wrong with each of the others."""
    from importer_dagster.schema import pandera_schema

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
        load_specs(settings.specs)  # what only shows between specs, such as a name used twice
    return specs, faults


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, one object per type and tenant.")
def status(as_json: bool) -> None:
    """Show the last success, rows, rejects and lateness of every type and tenant."""
    from importer_dagster import ledger

    with _warehouse(Settings.from_env()) as warehouse:
        ledger.migrate(warehouse)
        with warehouse.connect() as conn:
            rows = ledger.status_rows(conn)
    if as_json:
        click.echo(json.dumps(rows, default=str, ensure_ascii=False))
        return
    table = Table(
        "type", "tenant", "last day", "days late", "deliveries", "loaded", "rejected", "refused", "why"
    )
    for r in rows:
        cells = [r["type"], r["tenant"], r["last_business_date"], r["days_late"], r["deliveries"],
                 r["rows_loaded"], r["rows_rejected"], r["refused"], (r["last_reason"] or "")[:80]]  # fmt: skip
        table.add_row(*("" if c is None else str(c).replace("[", r"\[") for c in cells))
    console.print(table if rows else "Nothing has been imported yet.")


@main.command()
@click.argument("type_name", required=False, metavar="[TYPE]")
@click.option("--load", "load_id", type=int, metavar="ID", help="The rejects of one load.")
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV, for the supplier.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="At most so many.")
def rejects(type_name: str | None, load_id: int | None, as_csv: bool, limit: int) -> None:
    """List rejected records, of a TYPE or of one load.

    \b
    Examples:
      importer rejects salestaxrate
      importer rejects --load 12 --csv > back-to-supplier.csv
    """
    from importer_dagster import ledger

    settings = Settings.from_env()
    if type_name is None and load_id is None:
        raise UsageError("Name a TYPE, or a load with --load ID.")
    if type_name is not None:
        _specs(settings)[type_name]
    with _warehouse(settings) as warehouse:
        ledger.migrate(warehouse)
        with warehouse.connect() as conn:
            if load_id is not None:
                ledger.get_load(conn, load_id)
            rows = ledger.load_rejects(conn, load_id=load_id, type_name=type_name, limit=limit)
    if as_csv:
        _write_csv(rows)
    else:
        _print_rejects(rows)


def _write_csv(rows: Sequence[dict[str, Any]]) -> None:
    names = ["load_id", "type", "tenant", "business_date", "path", "row", "line", "column_name", "value",
             "rule", "message", "raw"]  # fmt: skip
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


@main.command()
@click.argument("load_id", type=int)
@click.option("--dry-run", is_flag=True, help="Say what would change; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def unload(load_id: int, dry_run: bool, yes: bool) -> None:
    """Take one delivery out again and restore what it replaced.

    \b
    Examples:
      importer unload 12 --dry-run
      importer unload 12
    """
    from importer_dagster import undo
    from importer_dagster.source import names_tenants

    settings = Settings.from_env()
    specs = _specs(settings)

    def has_tenant(spec: TableSpec) -> bool:
        return names_tenants(spec, settings.default_path)

    with _warehouse(settings) as warehouse:
        if not dry_run and not yes and sys.stdin.isatty():
            plan = undo.unload(load_id, specs, warehouse=warehouse, has_tenant=has_tenant, dry_run=True)
            _print_unloaded(plan, "would unload")
            click.confirm("Go on?", abort=True)
        done = undo.unload(load_id, specs, warehouse=warehouse, has_tenant=has_tenant, dry_run=dry_run)
    _print_unloaded(done, "would unload" if dry_run else "unloaded")


def _print_unloaded(done: Any, verb: str) -> None:
    console.print(
        f"{verb} load {done.load_id}: {done.path} ({done.type}, {done.tenant}, {done.business_date}); "
        f"rows {done.before} → {done.after}",
        soft_wrap=True,
    )
    if done.note:
        console.print(done.note)


@main.command()
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
            console.print(f"  [yellow]?[/yellow] {_plain(Exception(question))}", soft_wrap=True)


@main.command()
@click.option("--from", "first", type=DAY, required=True, help="First business date.")
@click.option("--to", "last", type=DAY, required=True, help="Last business date.")
@click.argument("types", nargs=-1, metavar="[TYPE]...")
def backfill(first: date, last: date, types: tuple[str, ...]) -> None:
    """Run the daily job for a range of days, here and now, through Dagster.

    \b
    Examples:
      importer backfill --from 2024-01-01 --to 2024-01-31
      importer backfill --from 2024-01-01 --to 2024-01-31 salestaxrate currency
    """
    if last < first:
        raise UsageError(f"--to {last} lies before --from {first}.")
    from importer_dagster.defs.launch import days_between, launch_daily

    settings = Settings.from_env()
    chosen = {s.name for s in _chosen(_specs(settings), types)}
    console.print(f"{len(chosen)} types, {first} to {last}")
    result = launch_daily(settings, days_between(first, last), chosen, _show_step())
    if not result.success:
        errors.print(f"[red]{len(result.failed)} steps failed;[/red] `importer status` says why.")
        sys.exit(3)


def _show_step() -> Callable[[Any], None]:
    """What is printed as each step of a run ends."""

    def show(step: Any) -> None:
        mark = "[green]✓[/green]" if step.ok else "[red]✗[/red]"
        console.print(f"  {mark} {step.done}/{step.total} {step.type}")
        if step.error:
            console.print(f"      {_plain(Exception(step.error))}", soft_wrap=True)

    return show


@main.command()
@click.option("--days", type=click.IntRange(1, 60), default=3, show_default=True, help="How many days.")
@click.option("--tenants", type=click.IntRange(1, 50), default=3, show_default=True, help="How many tenants.")
@click.option("--rows", type=click.IntRange(1), default=100, show_default=True, help="Rows in each file.")
def demo(days: int, tenants: int, rows: int) -> None:
    """Make a demo inbox and import it through Dagster; ends with a summary.

    \b
    Example:
      importer demo --days 2 --tenants 4 --rows 500
    """
    from importer_dagster.demo import run_demo

    if not run_demo(Settings.from_env(), days=days, tenants=tenants, rows=rows, console=console):
        raise click.exceptions.Exit(1)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port to listen on."
)
def dev(host: str, port: int) -> None:
    """Open the Dagster UI and daemon on this project; Ctrl-C ends them.

    The database is the embedded one unless IMPORTER_WAREHOUSE_URL names another.
    """
    from importer_dagster.defs.launch import serve

    settings = Settings.from_env()
    _specs(settings)
    sys.exit(serve(settings, host=host, port=port))


if __name__ == "__main__":
    main()
