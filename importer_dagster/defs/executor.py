"""Two changes to Dagster's multiprocess executor: a run that waits sleeps, and a run says that it lives.

Dagster's executor asks the pool again at once when none of its own steps runs: a run that waits for
the pool with all of its steps takes 65 to 92 % of a core. It has no setting for that. It has no place
either where the process of a run may do something as it begins, and there the run is owned
(``defs/run_recovery.py``). So two of its classes are replaced by subclasses.

``IMPORTER_STOCK_DAGSTER=1`` leaves the executor as it is.

What does not belong here: who may run (``schedule.py``, ``slots.py``).
"""

import time
from typing import Any

import dagster as dg

# Private to Dagster: it makes these two classes itself and takes none from outside.
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.executor import multiprocess

PAUSE_S = 0.25  # Dagster itself asks the pool once a second at most


class PatientExecution(ActiveExecution):
    """The state of a run, which pauses while nothing can be started and nothing runs."""

    def get_steps_to_execute(self, *args: Any, **options: Any) -> Any:
        """Like Dagster's, with a pause before it returns that there is nothing to start."""
        steps = super().get_steps_to_execute(*args, **options)
        if not steps and not self.has_in_flight_steps and not self.is_complete:
            time.sleep(PAUSE_S)
        return steps


class OwnedRun(InstanceConcurrencyContext):
    """A run's access to the pools; the process that makes one owns the run from then on."""

    def __init__(self, instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
        from importer_dagster.defs.run_recovery import own_for_good  # late: see defs/__init__.py

        own_for_good(instance, run.run_id)
        super().__init__(instance, run)


def install() -> None:
    """Make the multiprocess executor of this process use them."""
    multiprocess.InstanceConcurrencyContext = OwnedRun  # type: ignore[attr-defined, assignment]
    multiprocess.ActiveExecution = PatientExecution  # type: ignore[attr-defined]
