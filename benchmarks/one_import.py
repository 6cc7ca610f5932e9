"""Import one file in a process of its own and say how much memory that took.

``python -m benchmarks.one_import URL TYPE FILE`` prints one line of JSON:
``before`` and ``peak`` resident memory in bytes, ``status``, ``rows_loaded``, ``seconds``,
``cpu`` (seconds of this process for the import).
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from datetime import date
from pathlib import Path

from benchmarks.data import TYPE, make_spec
from benchmarks.shape_data import SHAPES
from importer_dagster.model import Delivery
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.spec.table import TableSpec
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


def _spec(type_: str) -> TableSpec:
    known = {TYPE: make_spec, **{shape.type: shape.spec for shape in SHAPES}}
    return known[type_]()


def main(url: str, type_: str, file: str) -> None:
    """Import ``file`` as a delivery of ``type_``."""
    spec = _spec(type_)
    before, cpu = peak_memory(), time.process_time()
    delivery = Delivery(type_, "acme", date(2024, 1, 1), f"alone/{Path(file).name}", file)
    result = import_delivery(delivery, spec, warehouse=Warehouse(url))
    print(
        json.dumps(
            {
                "before": before,
                "peak": peak_memory(),
                "status": result.status,
                "rows_loaded": result.rows_loaded,
                "seconds": result.seconds,
                "cpu": time.process_time() - cpu,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
