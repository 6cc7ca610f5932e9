"""``python -m benchmarks``: measure, and print a Markdown table.

What does not belong here: what is measured (``cases.py``, ``day.py``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import cases, day, definitions, large, many, peers, resent, shapes, small, year
from benchmarks.cases import Bench
from benchmarks.measure import Line, machine, markdown, say
from benchmarks.server import bench_server
from importer_dagster.errors import ImporterError

PARTS: dict[str, Callable[[Bench], list[Line]]] = {
    "copy": cases.copy,
    "merge": cases.merge,
    "small": small.small,
    "resent": resent.resent,
    "dirty": cases.dirty,
    "shapes": shapes.shapes,
    "large": large.large,
    "types": definitions.types,
    "dagster": day.dagster,
    "many": many.many,
    "year": year.year,
    "peers": peers.peers,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen parts; returns the exit code, which says nothing about targets.

    A part that fails is a line of the table, and the exit code is 1 then: the others took long.
    """
    args = _arguments(argv)
    failed: list[str] = []
    try:
        sizes = {name: getattr(args, name) for name in ("rows", "pairs", "large_mb", "files")}
        report = _measure(args.only or [*PARTS], sizes, failed)
    except ImporterError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(report)
    if args.markdown:
        args.markdown.write_text(report, encoding="utf-8")
    return 1 if failed else 0


def _measure(parts: Sequence[str], sizes: Mapping[str, int], failed: list[str]) -> str:
    """``sizes`` are those fields of Bench that have a default; ``failed`` gains the parts that fail."""
    notes, lines = machine(), []
    rounds = f"- {sizes['pairs']} rounds, the sides of a ratio taking turns; medians of the rounds' ratios"
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="importer-bench-") as name:
            folder = Path(name).resolve()
            # each has a server (or a database) to itself, so that it takes the same with and without the others
            with bench_server(folder / "home") as server:
                where = f"- PostgreSQL {server.value('SHOW server_version')}, {_where(server.pid)}"
                (folder / "files").mkdir()
                lines += _part(part, Bench(server, folder / "files", **sizes), failed)
    say("done")
    return markdown(lines, [*notes, where, rounds])


def _part(name: str, bench: Bench, failed: list[str]) -> list[Line]:
    try:
        return PARTS[name](bench)
    except Exception as error:
        failed.append(name)
        say(f"{name} failed: {error}")
        return [Line(f"`{name}` failed: {' '.join(str(error).split())[:300]}", "not measured", met=False)]


def _where(pid: int | None) -> str:
    return "IMPORTER_WAREHOUSE_URL" if pid is None else "embedded, on the same machine"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the importer; prints a Markdown table of ratios, progress goes to stderr. "
        "Uses an embedded PostgreSQL in a temporary folder (TMPDIR), or a database of its own on "
        "the server of IMPORTER_WAREHOUSE_URL. With the defaults it takes half an hour and about 8 GB of disk.",
    )
    parser.add_argument(
        "--rows",
        type=_positive,
        default=1_000_000,
        metavar="N",
        help="rows of the usual file (default 1000000)",
    )
    parser.add_argument(
        "--large-mb",
        type=_positive,
        default=2_000,
        metavar="N",
        help="size of the large file in MB (default 2000)",
    )
    parser.add_argument(
        "--pairs", type=_positive, default=5, metavar="N", help="rounds of each measurement (default 5)"
    )
    parser.add_argument(
        "--files",
        type=_positive,
        default=2_000,
        metavar="N",
        help="how many small files there are (default 2000)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        metavar="NAME",
        help=f"only these parts: {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to a file, too")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
