"""A slow database: the import waits, memory stays flat, nothing is dropped."""

import subprocess
import time
from pathlib import Path

import psutil
import pytest
from conftest import Query
from throttle import throttled

from importer_dagster_tests import flood

RATE = 8 << 20
MB = 1 << 20


def write(file: Path, rows: int) -> int:
    """Bytes of a file of that many rows."""
    with file.open("w") as out:
        out.write("id,v\n")
        for first in range(0, rows, 10_000):
            out.writelines(f"{i},{'x' * 100}{i}\n" for i in range(first, min(first + 10_000, rows)))
    return file.stat().st_size


def peak(process: subprocess.Popen[str]) -> int:
    """The most memory that a process takes until it ends."""
    most = 0
    while process.poll() is None:
        try:
            most = max(most, psutil.Process(process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    process.wait()
    return most


@pytest.mark.parametrize("rows", [900_000])
def test_memory_is_flat_before_a_slow_database(
    database_url: str, tmp_path: Path, query: Query, rows: int
) -> None:
    flood.set_cap(database_url, 1)
    peaks, seconds = {}, {}  # half the file fills every queue between reader and database already
    with throttled(database_url, RATE) as url:
        for tenant, share in (("half", 2), ("whole", 1)):
            size = write(tmp_path / f"{tenant}-0.csv", rows // share)
            begun = time.monotonic()
            process = flood.start(url, tmp_path, tenant, 1, 0, "append")
            peaks[tenant], seconds[tenant] = peak(process), time.monotonic() - begun
            assert process.stdout
            with process.stdout as out:
                assert out.read() == '["loaded"]\n'
    assert seconds["whole"] > 0.8 * size / RATE, "the proxy did not slow it"
    assert peaks["whole"] - peaks["half"] < 40 * MB, f"{peaks} for a file of {size / MB:.0f} MB"
    assert query("SELECT _tenant, count(*), sum(id) FROM flood GROUP BY 1 ORDER BY 1") == [
        (tenant, n, n * (n - 1) // 2) for tenant, n in (("half", rows // 2), ("whole", rows))
    ]
