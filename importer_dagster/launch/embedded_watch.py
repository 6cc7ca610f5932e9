"""A small process beside the embedded server: when all users have died without a word, it stops the server.

Whoever ends in order stops the server itself (``launch/embedded.py``). Of users that
were killed, only a later one would notice; where none comes, as after a test run
that was cut off, the server would stay for ever. So whoever starts the server
starts this, which looks every few seconds, ends with the server, and imports
nothing but the standard library until there is something to do.

What does not belong here: starting and stopping the server (``launch/embedded.py``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

PAUSE_S = 2.0
_TIMES = 2  # in a row that nobody must be there: a list that is just being written is no list


def start(home: Path) -> None:
    """Watch over the server in ``home`` in a process of its own, which outlives this one."""
    source = str(Path(__file__).parent.parent.parent)
    path = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH")) if p)
    process = subprocess.Popen(  # noqa: S603 - our own arguments
        [sys.executable, "-m", __name__, str(home)],
        # no settings of the project: it is no part of what they configure
        env={k: v for k, v in os.environ.items() if not k.startswith(("IMPORTER_", "DAGSTER_"))}
        | {"PYTHONPATH": path},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    process.returncode = 0  # nobody waits for it, and it may stay longer than we do


def watch(home: Path) -> None:
    """Return when the server has stopped; stop it when nobody uses it any more."""
    alone = 0
    while (home / "postgres" / "postmaster.pid").exists():
        time.sleep(PAUSE_S)
        alone = 0 if any(map(_lives, _users(home))) else alone + 1
        if alone == _TIMES:
            from importer_dagster.launch.embedded import EmbeddedServer

            if EmbeddedServer(home).stop_unless_used():
                return
            alone = 0


def _users(home: Path) -> list[int]:
    try:
        return [int(pid) for pid, _ in json.loads((home / "postgres.users").read_text())]
    except (OSError, ValueError):  # being written, or gone with its folder
        return []


def _lives(pid: int) -> bool:
    """Whether a process has this number, perhaps another one by now; the server's own list is exact."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
