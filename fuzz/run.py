"""``python -m fuzz``: feed hostile files to the reader for a while, and report crashes, hangs and memory.

A worker process reads the files of one seed after the other. This process watches it, kills it
if a file takes too long or too much memory, and starts another worker. The file and the seed of
every failure are kept. The exit code is 1 if there was any.

What does not belong here: making files (``files.py``), what must hold (``oracle.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from fuzz.big import BIG, check_big
from fuzz.files import make
from fuzz.oracle import check

HANG_S = 60  # CPU seconds for a file of a few kB, or one of BIG
MEMORY = 1_500 << 20  # bytes of the worker; blocks of 8 MB and the longest record need about 400 MB
FILES_PER_WORKER = 20_000  # then a new worker starts; memory that grows slowly shows in the report


@dataclass
class Report:
    """Figures of a run."""

    files: int = 0
    big: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    records: int = 0
    rejects: int = 0
    slowest: tuple[float, str] = (0.0, "")
    peak: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)


def main() -> int:
    """Run for the time asked for, then report."""
    options = _options()
    if options.seed is not None:
        outcome = check(make(options.seed))
        print(make(options.seed), outcome, sep="\n")
        return 0
    report = Report()
    deadline = time.monotonic() + options.minutes * 60
    options.out.mkdir(parents=True, exist_ok=True)
    seed = options.start
    while time.monotonic() < deadline and len(report.failures) < options.failures:
        seed = _one_worker(seed, deadline, report, options)
    _print(report, options)
    return 1 if report.failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long (default 5)")
    parser.add_argument("--start", type=int, default=int(time.time()), help="first seed (default: the clock)")
    parser.add_argument("--seed", type=int, help="run one seed only, and print the outcome")
    parser.add_argument("--failures", type=int, default=20, help="stop after so many (default 20)")
    parser.add_argument(
        "--out", type=Path, default=Path(".fuzz"), help="folder for failing files (default .fuzz)"
    )
    parser.add_argument("--no-big", dest="big", action="store_false", help="leave the files of 100 MB out")
    return parser.parse_args()


def _one_worker(seed: int, deadline: float, report: Report, options: argparse.Namespace) -> int:
    """Start a worker at a seed and follow it to its end; returns the seed to go on with."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_work, args=(seed, deadline, options.big, theirs), daemon=True)
    worker.start()
    theirs.close()
    watch = _Watch(psutil.Process(worker.pid))
    while True:
        try:
            message = ours.recv() if ours.poll(1.0) else None
        except EOFError:
            worker.join(10)
            if worker.exitcode and time.monotonic() < deadline:
                _fail(report, options.out, "crash", watch.current, f"exit code {worker.exitcode}")
            break
        if message is not None and message[0] == "start":
            watch.begin(message[1])
            seed = seed if message[2] is None else message[2]
        elif message is not None:
            _take(report, options.out, *message)
        verdict = watch.verdict()
        report.peak = max(report.peak, watch.peak)
        if verdict:
            _fail(
                report,
                options.out,
                verdict,
                watch.current,
                f"after {watch.seconds():.0f} s, {watch.peak >> 20} MB",
            )
            worker.kill()
            break
    worker.join()
    return seed + 1


class _Watch:
    """The file that a worker reads, for how long, and the worker's memory.

    CPU seconds count, so that a busy machine does not look like a hang. Ten times as many seconds
    by the clock are a hang as well: the worker waits for something that does not come.
    """

    def __init__(self, process: psutil.Process) -> None:
        self.process = process
        self.current, self.peak = "the start", 0
        self._cpu, self._clock = 0.0, time.monotonic()

    def begin(self, what: str) -> None:
        self.current, self._clock = what, time.monotonic()
        self._cpu = self._cpu_seconds()

    def _cpu_seconds(self) -> float:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = self.process.cpu_times()
            return float(times.user + times.system)
        return self._cpu

    def seconds(self) -> float:
        return max(self._cpu_seconds() - self._cpu, (time.monotonic() - self._clock) / 10)

    def verdict(self) -> str | None:
        """What is wrong with it, if anything."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.peak = max(self.peak, self.process.memory_info().rss)
        return "memory" if self.peak > MEMORY else "hang" if self.seconds() > HANG_S else None


def _work(seed: int, deadline: float, big: bool, pipe: Connection) -> None:
    """The worker: read one of the big files, then the files of the seeds until a new worker is due."""
    try:
        if big:
            name = BIG[seed % len(BIG)]
            pipe.send(("start", f"big {name}", None))
            _tried(pipe, f"big {name}", lambda: check_big(name), "big")
        for s in range(seed, seed + FILES_PER_WORKER):
            if time.monotonic() > deadline:
                return
            pipe.send(("start", f"seed {s}", s))
            _tried(pipe, f"seed {s}", lambda s=s: check(make(s)), "file")
    except KeyboardInterrupt:
        pass
    finally:
        pipe.close()


def _tried(pipe: Connection, name: str, run: Any, kind: str) -> None:
    begun = time.monotonic()
    try:
        outcome = run()
    except Exception:
        pipe.send(("failure", name, traceback.format_exc()))
        return
    figures = {"seconds": time.monotonic() - begun}
    if outcome is not None:
        figures |= {"refused": outcome.refused, "rows": len(outcome.rows), "rejects": len(outcome.rejects)}
    pipe.send((kind, name, figures))


def _take(report: Report, out: Path, kind: str, what: str, more: Any) -> None:
    if kind == "failure":
        _fail(report, out, "failure", what, more)
        return
    report.slowest = max(report.slowest, (more["seconds"], what))
    if kind == "big":
        report.big += 1
        return
    report.files += 1
    report.outcomes[f"refused: {more['refused']}" if more["refused"] else "read"] += 1
    report.records += more["rows"] + more["rejects"]
    report.rejects += more["rejects"]


def _fail(report: Report, out: Path, kind: str, what: str, text: str) -> None:
    report.failures.append({"kind": kind, "what": what, "text": text})
    name = f"{kind}-{what.replace(' ', '-')}"
    (out / f"{name}.txt").write_text(text)
    if what.startswith("seed "):
        file = make(int(what.removeprefix("seed ")))
        (out / f"{name}.csv").write_bytes(file.content)
        (out / f"{name}.json").write_text(json.dumps(file.spec))
    print(f"{kind}: {what}\n{text}", file=sys.stderr, flush=True)


def _print(report: Report, options: argparse.Namespace) -> None:
    kinds = Counter(f["kind"] for f in report.failures)
    print(
        f"{options.minutes:g} minutes: {report.files:,} files read in up to 4 block sizes, {report.big} big ones"
    )
    print(f"records {report.records:,}, rejects {report.rejects:,}")
    print(f"slowest {report.slowest[0]:.1f} s ({report.slowest[1]}), peak memory {report.peak >> 20} MB")
    for outcome, n in report.outcomes.most_common():
        print(f"  {n:>9,}  {outcome}")
    print(
        f"failures {len(report.failures)}: {dict(kinds)}"
        if report.failures
        else "no crash, hang, or memory: all held"
    )
