"""Wait for a condition, with a time-out.

What does not belong here: what is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], seconds: float, pause: float = 0.05) -> bool:
    """Check every ``pause`` seconds; returns False if the condition does not hold within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
