"""The CPU time of a small import must not grow: a ratio, so that the machine does not matter."""

import statistics
import time
from collections.abc import Callable

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest

from benchmarks.data import make_spec, write_file
from importer_dagster.model import Delivery
from importer_dagster.pipeline import small_files
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.pipeline.small_files import import_together
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import schemas
from importer_dagster.validation.validator import Validator
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import DAY, Inbox

ROWS = 50_000
ROUNDS = 5
# Client CPU of an import over that of parsing the same file six times with pyarrow in one thread, every
# column as text: 0.74 to 0.83 in five runs when this was written. More than MARGIN times as much is a
# fault, or wants a new figure and its reason.
BASE = 0.8
MARGIN = 1.6
# The same for small files that are imported together, over parsing each of them ten times: 0.50 to 0.61;
# in groups of two files, 1.5 to 2.3.
FILES, SMALL_BASE = 200, 0.6
# Where each file (or group of two) is a transaction of its own, the ratio does not depend on their number.
FEWER = 80
# And for those that are imported one by one: 1.6 to 2.1, and 3.1 where six others were at work, since to wait
# for the server costs CPU then; where Pandera is asked column by column, 4.8 to 8.1.
ALONE_BASE, ALONE_MARGIN = 1.9, 2.1


def cpu_of(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def ratio(inbox: Inbox, rounds: int = ROUNDS) -> float:
    """The median over some rounds, the sides taking turns; CPU time does not depend on who else is at work."""
    file, spec = inbox.folder / "guard.csv", make_spec()
    write_file(file, ROWS)
    text = pa.csv.ConvertOptions(column_types={f.name: pa.string() for f in spec.fields})

    one = pa.csv.ReadOptions(use_threads=False)

    def parse() -> None:
        for _ in range(6):
            assert pa.csv.read_csv(file, read_options=one, convert_options=text).num_rows == ROWS

    def load(number: int) -> None:
        delivery = Delivery(spec.name, "acme", DAY, f"{number}.csv", str(file))
        assert import_delivery(delivery, spec, warehouse=inbox.warehouse).rows_loaded == ROWS

    load(-1)  # packages, tables
    parse()
    return statistics.median(cpu_of(lambda n=n: load(n)) / cpu_of(parse) for n in range(rounds))


def test_an_import_takes_no_more_cpu_than_it_did(inbox: Inbox) -> None:
    found = ratio(inbox)
    assert found <= BASE * MARGIN, f"{found:.2f} × parsing, against {BASE} × when this was written"


def test_the_guard_sees_a_slow_down(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows made into Python objects and compared, on the way: the likeliest way to become slow."""
    judge = Validator.__call__

    def slow(self: Validator, batch: pa.RecordBatch) -> object:
        assert batch.to_pylist() == batch.to_pylist()
        return judge(self, batch)

    monkeypatch.setattr(Validator, "__call__", slow)
    assert ratio(inbox, 3) > BASE * MARGIN


Load = Callable[[list[Delivery], TableSpec, Warehouse], int]


def load_together(new: list[Delivery], spec: TableSpec, warehouse: Warehouse) -> int:
    return len(import_together(new, spec, warehouse=warehouse))


def load_alone(new: list[Delivery], spec: TableSpec, warehouse: Warehouse) -> int:
    return [import_delivery(d, spec, warehouse=warehouse).status for d in new].count("loaded")


def small_ratio(
    inbox: Inbox, rounds: int = ROUNDS, how: Load = load_together, number_of_files: int = FILES
) -> float:
    """As :func:`ratio`, for files of a hundred rows."""
    spec = make_spec()
    files = [inbox.folder / f"small{n}.csv" for n in range(number_of_files)]
    for number, file in enumerate(files):
        write_file(file, 100, seed=number + 1)
    text = pa.csv.ConvertOptions(column_types={f.name: pa.string() for f in spec.fields})
    one = pa.csv.ReadOptions(use_threads=False)

    def parse() -> None:
        for file in files * 10:
            with pa.csv.open_csv(file, read_options=one, convert_options=text) as parser:
                assert parser.read_all().num_rows == 100

    def load(number: int) -> None:
        paths = [(f"{number}/{file.name}", file) for file in files]
        new = [Delivery(spec.name, "acme", DAY, path, str(f), f.stat().st_size) for path, f in paths]
        with inbox.warehouse.series():
            assert how(new, spec, inbox.warehouse) == number_of_files

    load(-1)
    parse()
    return statistics.median(cpu_of(lambda n=n: load(n)) / cpu_of(parse) for n in range(rounds))


def test_small_files_take_no_more_cpu_than_they_did(inbox: Inbox) -> None:
    found = small_ratio(inbox)
    assert found <= SMALL_BASE * MARGIN, (
        f"{found:.2f} × parsing, against {SMALL_BASE} × when this was written"
    )


def test_the_guard_sees_files_that_are_imported_in_small_groups(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_files, "MOST_FILES", 2)
    assert small_ratio(inbox, 3, number_of_files=FEWER) > SMALL_BASE * MARGIN


def test_a_small_file_alone_takes_no_more_cpu_than_it_did(inbox: Inbox) -> None:
    found = small_ratio(inbox, how=load_alone, number_of_files=FEWER)
    assert found <= ALONE_BASE * ALONE_MARGIN, (
        f"{found:.2f} × parsing, against {ALONE_BASE} × when this was written"
    )


def test_the_guard_sees_a_validation_column_by_column(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(self: Validator, typed: pa.RecordBatch) -> list[object]:
        frame = typed.to_pandas(types_mapper=pd.ArrowDtype)
        schemas.pandera_schema(self.spec).validate(frame, lazy=True, inplace=True)
        return []

    monkeypatch.setattr(Validator, "_errors", whole)
    assert small_ratio(inbox, 3, load_alone, 40) > ALONE_BASE * ALONE_MARGIN
