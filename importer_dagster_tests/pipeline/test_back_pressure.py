"""A slow database: the import waits, memory stays flat, nothing is dropped. `make flood` has the long form."""

from pathlib import Path

import pytest

from reliability import flood
from reliability.flood import MB
from reliability.throttle import throttled

RATE = 8 << 20


@pytest.mark.parametrize("rows", [900_000])
def test_memory_is_flat_before_a_slow_database(database_url: str, tmp_path: Path, rows: int) -> None:
    flood.set_cap(database_url, 1)
    with throttled(database_url, RATE) as url:
        # half the file fills every queue between reader and database already
        half, whole = (
            flood.import_slowly(database_url, url, tmp_path, f"share{share}", rows // share)
            for share in (2, 1)
        )
    assert whole[2] > 0.8 * whole[0] / RATE, "the proxy did not slow it"
    assert whole[1] - half[1] < 40 * MB, (
        f"{whole[1]} bytes for a file of {whole[0]}, {half[1]} for half of it"
    )


def test_a_table_that_another_has_locked_is_waited_for(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flood.set_cap(database_url, 1)
    assert flood.behind_a_lock(database_url, tmp_path, 4) >= 4
