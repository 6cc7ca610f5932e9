"""Import one file in a process of its own and say how much memory that took.

``python -m benchmarks.one_import URL FILE PATH`` prints one line of JSON:
``before`` and ``peak`` resident memory in bytes, ``status``, ``rows_loaded``, ``seconds``.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from datetime import date
from pathlib import Path

from benchmarks.data import TYPE, make_spec
from importer_dagster.model import Delivery
from importer_dagster.pipeline import import_delivery
from importer_dagster.warehouse import Warehouse


def peak_memory() -> int:
    """Greatest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss may be the parent's there: exec hands it on
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert found
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(url: str, file: str, path: str) -> None:
    """Import ``file`` under the name ``path``."""
    before = peak_memory()
    delivery = Delivery(TYPE, "acme", date(2024, 1, 1), path, file)
    result = import_delivery(delivery, make_spec(), warehouse=Warehouse(url))
    print(
        json.dumps(
            {
                "before": before,
                "peak": peak_memory(),
                "status": result.status,
                "rows_loaded": result.rows_loaded,
                "seconds": result.seconds,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
