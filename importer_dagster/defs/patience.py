"""Makes a run sleep while all of its steps wait for the pool.

Dagster's multiprocess executor asks again at once when no step of its own runs:
a run that is wholly blocked on a pool takes 65 to 92 % of a core. It has no
setting for that, so its class for the state of a run gets a pause.

What does not belong here: who may run (``schedule.py``, ``turns.py``).
"""

import time
from typing import Any

from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.executor import multiprocess

PAUSE_S = 0.25  # Dagster itself asks the pool once a second at most


class PatientExecution(ActiveExecution):
    """A run's state that takes its time where nothing can be started and nothing runs."""

    def get_steps_to_execute(self, *args: Any, **options: Any) -> Any:
        """As Dagster's, with a pause before it says that there is nothing."""
        steps = super().get_steps_to_execute(*args, **options)
        if not steps and not self._in_flight and not self.is_complete:
            time.sleep(PAUSE_S)
        return steps


def install() -> None:
    """Let the multiprocess executor of this process use it."""
    multiprocess.ActiveExecution = PatientExecution  # type: ignore[attr-defined]
