"""Taking turns, ratios, and the table they end up in.

What does not belong here: what is measured (``cases.py``).
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("importer-dagster", "pyarrow", "pandas", "pandera", "psycopg", "pgpq", "dagster")


@dataclass(frozen=True)
class Cost:
    """What one run took, in seconds. ``server_cpu`` is None where the server's processes are out of sight."""

    wall: float
    client_cpu: float
    server_cpu: float | None = None

    @property
    def cpu(self) -> float:
        """CPU seconds of client and server, as far as they are known."""
        return self.client_cpu + (self.server_cpu or 0.0)


@dataclass(frozen=True)
class Line:
    """One line of the table: ``met`` says whether ``target`` is met, None where there is none."""

    what: str
    result: str
    spread: str = ""
    target: str = ""
    met: bool | None = None


@dataclass
class Series:
    """Runs of several candidates that took turns: ``costs[name][round]``."""

    costs: dict[str, list[Cost]] = field(default_factory=dict)

    def ratios(self, name: str, base: str) -> list[float]:
        """Wall of ``name`` over that of ``base``, round by round."""
        return [a.wall / b.wall for a, b in zip(self.costs[name], self.costs[base], strict=True)]

    def wall(self, name: str) -> float:
        """Median wall seconds."""
        return statistics.median(c.wall for c in self.costs[name])

    def client_cpu(self, name: str) -> float:
        """Median CPU seconds of the client."""
        return statistics.median(c.client_cpu for c in self.costs[name])

    def server_cpu(self, name: str) -> float | None:
        """Median CPU seconds of the server, if they are known."""
        known = [c.server_cpu for c in self.costs[name] if c.server_cpu is not None]
        return statistics.median(known) if known else None

    def cpu_lines(self, name: str, base: str, *, at_most: float | None = None) -> list[Line]:
        """CPU of client and server together against that of ``base``, and the seconds of each.

        Of the client alone where the server's processes are out of sight.
        """
        pairs = list(zip(self.costs[name], self.costs[base], strict=True))
        client = f"{self.client_cpu(name):.2f} / {self.client_cpu(base):.2f}"
        own, other = self.server_cpu(name), self.server_cpu(base)
        if own is None or other is None:
            return [Line("… CPU seconds of the client", client)]
        return [
            ratio_line(
                f"… CPU of client and server together (client {client} s, server {own:.2f} / {other:.2f} s)",
                [a.cpu / b.cpu for a, b in pairs],
                at_most=at_most,
            )
        ]


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def take_turns(
    rounds: int,
    candidates: Mapping[str, Callable[[], object]],
    *,
    before: Callable[[str], None],
    after: Callable[[str], None] = lambda _: None,
    server_cpu: Callable[[], float | None] = lambda: None,
) -> Series:
    """Run all candidates once a round (A B A B …); ``before`` and ``after`` each are not measured."""
    series = Series({name: [] for name in candidates})
    for number in range(1, rounds + 1):
        for name, run in candidates.items():
            before(name)
            with _costs(series.costs[name], server_cpu):
                run()
            after(name)
            cost = series.costs[name][-1]
            say(f"  round {number}/{rounds} {name}: {cost.wall:.2f} s, client CPU {cost.client_cpu:.2f} s")
    return series


@contextmanager
def _costs(into: list[Cost], server_cpu: Callable[[], float | None]) -> Iterator[None]:
    server, cpu, wall = server_cpu(), _client_cpu(), time.perf_counter()
    yield
    wall, cpu = time.perf_counter() - wall, _client_cpu() - cpu
    after = server_cpu()
    into.append(Cost(wall, cpu, after - server if after is not None and server is not None else None))


def _client_cpu() -> float:
    """CPU seconds of this process and of the children that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def ratio_line(what: str, ratios: Sequence[float], *, at_most: float | None = None, digits: int = 2) -> Line:
    """A line with the median ratio, its range, and whether it is at most ``at_most``."""
    median = statistics.median(ratios)
    return Line(
        what,
        f"{median:.{digits}f} ×",
        f"{min(ratios):.{digits}f}–{max(ratios):.{digits}f}",
        f"≤ {at_most:g} ×" if at_most is not None else "",
        median <= at_most if at_most is not None else None,
    )


# --- the report --------------------------------------------------------------------


def markdown(lines: Sequence[Line], notes: Sequence[str]) -> str:
    """The report: what it was measured on, and a table."""
    rows = [(line.what, line.result, line.spread, line.target, _verdict(line.met)) for line in lines]
    table = [("Measured", "Median", "Min–max", "Target", "Met"), ("---",) * 5, *rows]
    return "\n".join([*notes, "", *("| " + " | ".join(row) + " |" for row in table), ""])


def _verdict(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "**no**"


def machine() -> list[str]:
    """Lines that say on what machine and with which versions something was measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return [
        f"- Machine: {_processor()}, {os.cpu_count()} CPUs, {memory:.0f} GiB, {platform.system()} "
        f"{platform.release()}; load before the run {load:.1f}",
        f"- Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in _PACKAGES),
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()
