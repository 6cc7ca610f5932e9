"""``importer demo``: an inbox of synthetic deliveries, imported by the same daily job as real ones.

What does not belong here: making the files (``launch/sample_inbox.py``) and importing them (``launch/runs.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from importer_dagster.errors import UsageError
from importer_dagster.launch.environment import prepare_environment
from importer_dagster.launch.runs import LaunchResult, launch_daily
from importer_dagster.launch.sample_inbox import PlannedFile, resend, write_inbox
from importer_dagster.redaction import redact
from importer_dagster.settings import Settings
from importer_dagster.spec.loading import load_specs
from importer_dagster.spec.table import TableSpec
from importer_dagster.warehouse import Warehouse

TENANTS = ("acme", "borealis", "corvus", "dunes", "ember", "fjord", "gala", "harbor")

SUMMARY = """
SELECT l.type, l.tenant, count(*) AS files,
       sum(l.rows_loaded) FILTER (WHERE l.superseded_by IS NULL)::bigint,
       sum(l.rows_unchanged + l.rows_skipped) FILTER (WHERE l.superseded_by IS NULL)::bigint,
       sum(l.rows_rejected) FILTER (WHERE l.superseded_by IS NULL)::bigint,
       (SELECT string_agg(DISTINCT coalesce(r.column_name || ' ', '') || r.rule, ', ')
        FROM importer.rejects r JOIN importer.loads o USING (load_id)
        WHERE (o.type, o.tenant) = (l.type, l.tenant)) AS why,
       string_agg(DISTINCT CASE WHEN l.status <> 'loaded' THEN l.status
                                WHEN l.superseded_by IS NOT NULL THEN 're-sent' END, ', ') AS notes,
       (SELECT string_agg(DISTINCT d.kind || ' ' || d.column_name, ', ')
        FROM importer.drift d JOIN importer.loads o USING (load_id)
        WHERE (o.type, o.tenant) = (l.type, l.tenant)) AS drift
FROM importer.loads l
GROUP BY l.type, l.tenant ORDER BY l.type, l.tenant
"""


def run_demo(settings: Settings, *, days: int, tenants: int, rows: int, console: Console) -> bool:
    """Make the inbox, import it day by day, import a re-sent file, print a summary.

    Returns whether all runs succeeded. Raises UsageError if IMPORTER_INBOX_URL names an inbox other than the demo's.
    """
    inbox = settings.home / "inbox"
    if settings.inbox_url != str(inbox):
        raise UsageError(
            f"The demo writes files into the inbox, but IMPORTER_INBOX_URL names {redact(settings.inbox_url)!r}. "
            "Unset it, so that the demo uses an inbox of its own in IMPORTER_HOME."
        )
    specs = load_specs(settings.specs)
    today = datetime.now(ZoneInfo(settings.timezone)).date()
    chosen_days = [today - timedelta(days=n) for n in range(days, 0, -1)]
    names = [*TENANTS, *(f"tenant{n}" for n in range(9, 51))][:tenants]
    console.print(f"State in {settings.home}", soft_wrap=True)
    settings = prepare_environment(settings).settings
    console.print(f"Warehouse {redact(settings.warehouse_url or '')}", soft_wrap=True)
    planned = _write(settings, specs, chosen_days, names, rows, console)
    results = [_import(settings, [day], None, f"import {day}", console) for day in chosen_days]
    again = resend(inbox, planned, specs)
    results += [
        _import(settings, [file.date], {file.type}, f"re-sent {file.type} {file.date}", console)
        for file in again
    ]
    _summary(settings, console)
    notes = [f"{file.path}: {file.note}" for file in (*planned, *again) if file.note]
    console.print("\nOut of the ordinary on purpose:")
    for note in notes[:12]:
        console.print(f"  {note}", markup=False, soft_wrap=True)
    if len(notes) > 12:
        console.print(f"  … and {len(notes) - 12} more")
    console.print("\n`importer rejects TYPE` lists the rejects; `importer dev` opens the UI on this state.")
    return all(r.success for r in results)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<44}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _write(
    settings: Settings,
    specs: Mapping[str, TableSpec],
    days: Sequence[date],
    tenants: Sequence[str],
    rows: int,
    console: Console,
) -> list[PlannedFile]:
    with _bar(console) as bar:
        task = bar.add_task("write the inbox", total=len(specs) * len(tenants) * len(days))
        planned = write_inbox(
            Path(settings.inbox_url),
            specs,
            days=days,
            tenants=tenants,
            rows=rows,
            path=settings.default_path,
            on_file=lambda _: bar.advance(task),
        )
        bar.update(task, total=len(planned))  # fewer where a type's pattern names no tenant
    return planned


def _import(
    settings: Settings, days: Sequence[date], types: set[str] | None, title: str, console: Console
) -> LaunchResult:
    with _bar(console) as bar:
        task = bar.add_task(title, total=None)

        def show(step: Any) -> None:
            bar.update(task, completed=step.done, total=step.total)
            if not step.ok:
                console.print(f"  [red]✗[/red] {step.type}: {step.error}", markup=False, soft_wrap=True)

        return launch_daily(settings, days, types, show)


def _summary(settings: Settings, console: Console) -> None:
    assert settings.warehouse_url
    with Warehouse(settings.warehouse_url).connect() as conn:
        found = conn.execute(SUMMARY.encode()).fetchall()
    table = Table(title="What was imported")
    for name in ("type", "tenant"):
        table.add_column(name, no_wrap=True)
    for name in ("files", "loaded", "unchanged", "rejected"):
        table.add_column(name, justify="right")
    table.add_column("why")
    for type_name, tenant, files, loaded, same, rejected, why, notes, drift in found:
        words = "; ".join(w for w in (why, notes, drift) if w)
        table.add_row(type_name, tenant, str(files), str(loaded), str(same), str(rejected), words)
    console.print(table)
    files, loaded, rejected = (sum(row[i] for row in found) for i in (2, 3, 5))
    console.print(f"{files:,} files, {loaded:,} rows loaded, {rejected:,} rejected.")
