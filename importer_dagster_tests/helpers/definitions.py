"""The product's definitions with short pauses before retries, and a check that does harm if the data say so.

The value "boom" kills the process that checks it. "cut 3 /file" ends the database's connections, the first
three times. "sleep /file" writes that file, with the process's id, and then sleeps for five seconds. A file
with poison in its name kills the process that reads its records, whatever its type.

What does not belong here: the project that these are tested with (``helpers/project.py``).
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pandera
import psycopg

from importer_dagster.defs import build_defs
from importer_dagster.model import TextBatch
from importer_dagster.pipeline import delivery
from importer_dagster.reader.reader import Reader
from importer_dagster.validation.checks import named_check


def _harm(series: pd.Series) -> pd.Series:
    for value in series.dropna():
        if value == "boom":
            os.kill(os.getpid(), signal.SIGKILL)
        if value.startswith("cut "):
            _cut(*value.split()[1:])
        if value.startswith("sleep "):
            Path(value.split()[1]).write_text(str(os.getpid()))
            time.sleep(5)
    return series.notna()


def _cut(times: str, counter: str) -> None:
    count = Path(counter)
    done = len(count.read_text()) if count.exists() else 0
    count.write_text("x" * (done + 1))
    if done < int(times):
        with psycopg.connect(os.environ["IMPORTER_WAREHOUSE_URL"], autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'importer'"
            )


@named_check("harm")
def harm() -> pandera.Check:
    return pandera.Check(_harm, name="harm", error="does harm")


def _read_poison(reader: Reader, read: Callable[[Reader], Iterator[TextBatch]] = Reader.batches) -> Any:
    if "poison" in reader._unpacked.url:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(reader)


Reader.batches = _read_poison  # type: ignore[method-assign]
delivery._FIRST_PAUSE_S = 0.01
defs = build_defs(retry_delay=0.1)
