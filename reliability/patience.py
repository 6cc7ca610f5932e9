"""Waiting for something, for a time only.

What does not belong here: what is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], seconds: float, pause: float = 0.05) -> bool:
    """Look every ``pause`` seconds until the condition holds; False if it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
