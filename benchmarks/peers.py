"""The importer against the tools that people load CSV files with today, on one file and one server.

What does not belong here: how each tool is called (``peer_tools.py``).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.cases import Bench
from benchmarks.data import TYPE, make_spec, write_file
from benchmarks.measure import Line, Series, say
from benchmarks.peer_tools import PEERS, Peer, make_tables
from importer_dagster.spec.table import TableSpec

_IMPORT = "import"
_TRIAL_ROWS = 100
_LEAST_ROWS = 50_000  # fewer would measure how a tool starts


def peers(bench: Bench, chosen: Sequence[Peer] = PEERS) -> list[Line]:
    """Seconds for a row, each tool against the importer in the same round; a tool that is not here is said so."""
    spec = make_spec()
    bench.need_disk(3 * bench.rows)
    bench.warm_up(spec)
    make_tables(bench.server, spec)
    here, absent = _sort_out(bench, spec, chosen)
    rows = {_IMPORT: bench.rows} | {p.key: _rows(bench, p) for p in here}
    files = _files(bench, set(rows.values()))
    say(f"peers: {bench.rows:,} rows; " + ", ".join(p.key for p in here))
    series = _measure(bench, spec, here, {key: files[n] for key, n in rows.items()}, rows)
    _clean_up(bench, files.values())
    return [_own_line(series, rows), *_ranked(series, rows, here), *absent]


def _sort_out(bench: Bench, spec: TableSpec, chosen: Sequence[Peer]) -> tuple[list[Peer], list[Line]]:
    """The tools that can run here, each tried on a few rows, and a line for each that cannot."""
    here, absent = [], []
    trial = bench.folder / "trial.csv"
    write_file(trial, _TRIAL_ROWS)
    for peer in chosen:
        if reason := peer.missing() or _trial(bench, spec, peer, trial):
            say(f"  {peer.key} is left out: {reason}")
            absent.append(Line(f"{peer.key}: left out, {reason}", "not measured"))
        else:
            here.append(peer)
    trial.unlink()
    return here, absent


def _trial(bench: Bench, spec: TableSpec, peer: Peer, file: Path) -> str:
    """Why a few rows do not load, or "": imports packages, makes tables, finds another version's other ways."""
    try:
        peer.load(bench.server, spec, file)
        _count(bench, peer, _TRIAL_ROWS)
        bench.server.execute(f"TRUNCATE {peer.table}")
    except Exception as error:
        return f"it failed on {_TRIAL_ROWS} rows: {' '.join(str(error).split())[:300]}"
    return ""


def _count(bench: Bench, peer: Peer, rows: int) -> None:
    """A figure for other work would be none."""
    found = bench.server.value(f"SELECT count(*) FROM {peer.table}")  # noqa: S608 - our own names
    if found != rows:
        raise RuntimeError(f"{peer.key} was to load {rows} rows, but {peer.table} holds {found}")


def _rows(bench: Bench, peer: Peer) -> int:
    return min(bench.rows, max(round(bench.rows * peer.share), _LEAST_ROWS))


def _files(bench: Bench, sizes: set[int]) -> dict[int, Path]:
    files = {n: bench.folder / f"peers{n}.csv" for n in sizes}
    for n, file in files.items():
        write_file(file, n)
    return files


def _measure(
    bench: Bench, spec: TableSpec, here: Sequence[Peer], files: dict[str, Path], rows: dict[str, int]
) -> Series:
    by_key = {p.key: p for p in here}
    runs: dict[str, Callable[[], object]] = {_IMPORT: partial(bench.load, files[_IMPORT], spec)}
    runs |= {p.key: partial(p.load, bench.server, spec, files[p.key]) for p in here}

    def empty(name: str) -> None:
        bench.server.execute(f"TRUNCATE {by_key[name].table if name in by_key else TYPE}")

    def check(name: str) -> None:
        if name in by_key:
            _count(bench, by_key[name], rows[name])
        empty(name)

    return bench.turns(runs, empty, after=check)


def _clean_up(bench: Bench, files: Iterable[Path]) -> None:
    for file in files:
        file.unlink()
    bench.empty(TYPE)
    bench.server.execute("DROP TABLE peer, peer_text", "DROP SCHEMA IF EXISTS peer_dlt CASCADE")


def _own_line(series: Series, rows: dict[str, int]) -> Line:
    what = f"Importer, {rows[_IMPORT]:,} rows × 17 columns, all checks on, with ledger and trace columns"
    return Line(f"{what} ({_cpu(series, rows, _IMPORT)})", f"{_speed(series, rows, _IMPORT)} rows/s")


def _ranked(series: Series, rows: dict[str, int], here: Sequence[Peer]) -> list[Line]:
    """A line for each tool, the fastest first."""
    ratios = {p.key: _ratios(series, rows, p.key) for p in here}
    ranked = sorted(here, key=lambda p: statistics.median(ratios[p.key]))
    return [_line(series, rows, p, ratios[p.key]) for p in ranked]


def _line(series: Series, rows: dict[str, int], peer: Peer, ratios: Sequence[float]) -> Line:
    fewer = (
        f"; on {rows[peer.key]:,} rows, seconds for a row compared" if rows[peer.key] < rows[_IMPORT] else ""
    )
    cost = f"{_speed(series, rows, peer.key)} rows/s, {_cpu(series, rows, peer.key)}"
    return Line(
        f"… {peer.name()}: {peer.notes}{fewer} ({cost})",
        f"{statistics.median(ratios):.2f} × the importer's time",
        f"{min(ratios):.2f}–{max(ratios):.2f}",
    )


def _ratios(series: Series, rows: dict[str, int], key: str) -> list[float]:
    """Wall of a tool over that of the importer, for as many rows, round by round."""
    return [r * rows[_IMPORT] / rows[key] for r in series.ratios(key, _IMPORT)]


def _speed(series: Series, rows: dict[str, int], key: str) -> str:
    return f"{rows[key] / series.wall(key):,.0f}"


def _cpu(series: Series, rows: dict[str, int], key: str) -> str:
    return f"{series.client_cpu(key) / rows[key] * 1e6:.1f} s of client CPU for a million rows"
