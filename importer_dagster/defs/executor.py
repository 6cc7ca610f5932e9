"""Makes a run sleep while all of its steps wait for the pool, and own itself while it lives.

Dagster's multiprocess executor asks again at once when no step of its own runs:
a run that is wholly blocked on a pool takes 65 to 92 % of a core. It has no
setting for that, so its class for the state of a run gets a pause. The class beside
it is where the process of a run begins: there it says that it lives (``defs/run_recovery.py``).

What does not belong here: who may run (``schedule.py``, ``slots.py``).
"""

import time
from typing import Any, Self

from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
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


class OwnedRun(InstanceConcurrencyContext):
    """A run's view of the pools; while there is one, the process of the run is known."""

    def __enter__(self) -> Self:
        """As Dagster's."""
        from importer_dagster.defs.run_recovery import own_for_good  # late: see defs/__init__.py

        own_for_good(self._instance, self._run_id)
        return super().__enter__()


def install() -> None:
    """Let the multiprocess executor of this process use them."""
    multiprocess.InstanceConcurrencyContext = OwnedRun  # type: ignore[attr-defined]
    multiprocess.ActiveExecution = PatientExecution  # type: ignore[attr-defined]
