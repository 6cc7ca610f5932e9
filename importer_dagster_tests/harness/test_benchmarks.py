"""``make bench`` at a tiny size: that it runs, measures what it says, and cleans up. No figure is judged."""

import csv
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import cases, definitions, peer_tools, resent, small
from benchmarks.cases import Bench
from benchmarks.data import make_spec, write_file
from benchmarks.measure import Cost, Line, Series, markdown, ratio_line
from benchmarks.peers import peers
from benchmarks.server import Server
from benchmarks.shape_data import NARROW, TEXT, WIDE
from importer_dagster.model import Delivery
from importer_dagster.pipeline.delivery import import_delivery
from importer_dagster.warehouse import Warehouse
from importer_dagster_tests.helpers.inbox import DAY, Inbox, Query

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Bench:
    return Bench(Server(database_url), tmp_path, rows=500, pairs=1, large_mb=1)


def records(file: Path) -> list[list[str]]:
    with file.open(newline="") as lines:
        return list(csv.reader(lines))


def test_files_have_17_columns_and_fresh_keys_over_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.data._BLOCK", 40)
    size = write_file(tmp_path / "f.csv", 100)
    header, *rows = records(tmp_path / "f.csv")
    assert size == (tmp_path / "f.csv").stat().st_size
    assert header == [f.name for f in make_spec().fields]
    assert {len(r) for r in rows} == {17}
    assert [int(r[0]) for r in rows] == list(range(1, 101))
    assert len({r[1] for r in rows}) == 100
    assert any("," in r[16] for r in rows)
    assert any(r[10] == "" for r in rows)


def test_clean_file_has_no_reject_and_spoilt_cells_are_each_one(inbox: Inbox, query: Query) -> None:
    spec = make_spec()
    for name, share in (("clean", 0.0), ("every", 1.0)):
        write_file(inbox.folder / name, 50, bad_share=share)
        delivery = Delivery(spec.name, "acme", DAY, name, str(inbox.folder / name))
        result = import_delivery(delivery, spec, warehouse=inbox.warehouse)
        assert (result.status, result.rows_rejected) == ("loaded", 50 * share)
    assert query("SELECT count(*) FROM importer.rejects") == [(50 * 17,)]


def test_changed_rows_differ_in_one_column_only(tmp_path: Path) -> None:
    write_file(tmp_path / "a", 200)
    write_file(tmp_path / "b", 200, changed=0.01)
    pairs = list(zip(records(tmp_path / "a"), records(tmp_path / "b"), strict=True))
    assert sum(a != b for a, b in pairs) == 2
    assert all(a[3:] == b[3:] and a[:2] == b[:2] for a, b in pairs)


@pytest.mark.parametrize(
    ("part", "lines"), [("copy", 3), ("shapes", 14), ("large", 4), ("dirty", 2), ("merge", 6)]
)
def test_each_part_measures_and_leaves_nothing_behind(
    bench: Bench, query: Query, part: str, lines: int
) -> None:
    found = command.PARTS[part](bench)
    assert [line.what for line in found if not re.match(r"[\d.,]+", line.result)] == []
    assert len(found) == lines
    assert [f.name for f in bench.folder.iterdir()] == ["warm.csv"]
    assert query("SELECT count(*) FROM bench") == [(0,)]


def test_shapes_are_what_they_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.shape_data._BLOCK_BYTES", 60_000)  # 31 rows of the wide one
    for shape, columns in ((NARROW, 4), (WIDE, 200), (TEXT, 3)):
        size = shape.write(tmp_path / shape.name, 100)
        header, *rows = records(tmp_path / shape.name)
        assert header == [f.name for f in shape.spec().fields]
        assert {len(r) for r in rows} == {columns}
        assert [int(r[0]) for r in rows] == list(range(1, 101))
        assert 0.7 < size / (100 * shape.row_bytes) < 1.3
    assert len({f.type for f in WIDE.spec().fields}) == 6
    cells = [r[2] for r in rows]
    assert 900 < sum(map(len, cells)) / 100 < 1_100
    assert (
        {"\n" in c for c in cells}
        == {'"' in c for c in cells}
        == {"Größe" in c for c in cells}
        == {True, False}
    )


def test_merge_loads_what_it_says(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    load = Bench.load

    def spy(self: Bench, file: Path, *args: object, **more: object) -> object:
        found.append((file.name, load(self, file, *args, **more)))
        return found[-1]

    monkeypatch.setattr(Bench, "load", spy)
    cases.merge(bench)
    counts = [(r.rows_loaded, r.rows_unchanged) for name, r in found if name != "warm.csv"]
    assert counts == [(500, 0), (500, 0), (0, 500), (5, 495)]


def test_a_copy_that_differs_is_no_result(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "psql", lambda self, _: None)
    with pytest.raises(RuntimeError, match="0 equal rows of 500"):
        cases.copy(bench)


def test_ratios_are_taken_round_by_round_and_judged_by_their_median() -> None:
    series = Series({"a": [Cost(2, 1), Cost(9, 1), Cost(3, 1)], "b": [Cost(1, 1), Cost(3, 1), Cost(2, 1)]})
    line = ratio_line("a against b", series.ratios("a", "b"), at_most=2.0)
    assert line == Line("a against b", "2.00 ×", "1.50–3.00", "≤ 2 ×", True)
    assert ratio_line("x", [3.0], at_most=2.0).met is False
    assert "| x | 1 |  | ≤ 2 | **no** |" in markdown([Line("x", "1", "", "≤ 2", False)], ["- note"])


def test_the_command_on_a_configured_server(
    database_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORTER_WAREHOUSE_URL", database_url)
    report = tmp_path / "report.md"
    assert command.main(["--rows", "300", "--pairs", "1", "--only", "copy", "--markdown", str(report)]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == report.read_text().strip()
    assert "Import of 300 rows × 17 columns" in out
    assert f"Python {sys.version.split()[0]}" in out
    assert "round 1/1 import" in err
    with Warehouse(database_url).connect() as conn:
        left = conn.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'importer_bench_%'"
        ).fetchall()
        ours = conn.execute("SELECT to_regclass('public.bench')").fetchone()
    assert (left, ours) == ([], (None,))  # the configured database itself is left alone


def test_wrong_arguments_and_an_unreachable_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--only", "nonsense"])
    with pytest.raises(SystemExit):
        command.main(["--rows", "0"])
    monkeypatch.setenv("IMPORTER_WAREHOUSE_URL", "postgresql://nobody:secret@127.0.0.1:1/none")
    assert command.main(["--only", "copy"]) == 4
    err = capsys.readouterr().err
    assert "cannot be reached" in err
    assert "secret" not in err


def test_a_part_that_fails_does_not_take_the_others_along(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(bench: Bench) -> list[Line]:
        raise RuntimeError("no room\nleft")

    monkeypatch.setenv("IMPORTER_WAREHOUSE_URL", database_url)
    monkeypatch.setitem(command.PARTS, "merge", fail)
    assert command.main(["--rows", "300", "--pairs", "1", "--only", "merge", "copy"]) == 1
    out = capsys.readouterr().out
    assert "| `merge` failed: no room left | not measured |" in out
    assert "Import of 300 rows × 17 columns" in out


_DAY = """
import sys
from pathlib import Path
from benchmarks import cases, day, server
for line in day.dagster(cases.Bench(server.Server(sys.argv[1]), Path(sys.argv[2]), pairs=1), types=3, tenants=2):
    print(line.what, "|", line.result)
"""


def test_a_day_through_dagster(database_url: str, tmp_path: Path, query: Query) -> None:
    # a process of its own: Dagster's settings go by environment variables, which stay
    done = subprocess.run(
        [sys.executable, "-c", _DAY, database_url, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"Daily job, 3 types × 2 files: .* \| -?[\d.]+ s\n", done.stdout)
    # two days, each once through Dagster and once through the loop
    runs = query("SELECT run_id IS NOT NULL, status, count(*) FROM importer.loads GROUP BY 1, 2 ORDER BY 1")
    assert runs == [(False, "loaded", 12), (True, "loaded", 12)]


def peer(key: str) -> peer_tools.Peer:
    return next(p for p in peer_tools.PEERS if p.key == key)


def test_peers_are_measured_and_those_that_are_not_here_are_named_with_the_remedy(
    bench: Bench, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = dataclasses.replace(
        peer("pgloader"), missing=peer_tools._program("no-such-loader", "install it")
    )
    broken = dataclasses.replace(
        peer("psql"), key="broken", load=lambda server, *_: server.execute("nonsense")
    )
    idle = dataclasses.replace(peer("psql"), key="idle", load=lambda *_: None)
    monkeypatch.setattr("benchmarks.peers._LEAST_ROWS", 1)
    lines = peers(bench, [absent, peer("pandas"), broken, idle, peer("psql")])
    shown = [(line.what, line.result) for line in lines]
    assert "500 rows" in shown[0][0] and shown[0][1].endswith(" rows/s")
    measured = {
        what.split()[1] for what, result in shown[1:3] if re.match(r"[\d.]+ × the importer's", result)
    }
    assert measured == {"pandas", "psql"}
    assert "on 100 rows, seconds for a row compared" in "".join(what for what, _ in shown if "pandas" in what)
    assert [result for _, result in shown[3:]] == ["not measured"] * 3
    assert "no no-such-loader here; install it" in shown[3][0]
    assert "syntax error" in shown[4][0]
    assert "to load 100 rows, but peer holds 0" in shown[5][0]
    assert query("SELECT to_regclass('peer'), to_regclass('peer_text')") == [(None, None)]
    assert [f.name for f in bench.folder.iterdir()] == ["warm.csv"]


def test_the_peer_in_pandas_checks_what_the_spec_says(tmp_path: Path) -> None:
    import pandas as pd
    import pandera.errors

    spec, schema = make_spec(), peer_tools.pandera_by_hand(make_spec())
    write_file(tmp_path / "f", 20)
    types = {f.column: pd.ArrowDtype(peer_tools._text_type(f)) for f in spec.fields}
    frame = pd.read_csv(tmp_path / "f", engine="pyarrow", dtype=types)
    assert len(schema.validate(frame, lazy=True)) == 20
    bad = {"code": "1234-678", "customer_id": 0, "branch": "17", "quantity": 101, "unit_price": -1}
    bad |= {
        "tax_rate": 2,
        "weight": -1.0,
        "order_date": None,
        "row_id": "no",
        "status": "lost",
        "note": "x" * 21,
    }
    for column, value in bad.items():
        spoilt = frame.copy()
        spoilt[column] = pd.Series([value] * 20, dtype=frame.dtypes[column])
        with pytest.raises(pandera.errors.SchemaErrors, match=column):
            schema.validate(spoilt, lazy=True)


def test_a_day_sent_again_is_unchanged_file_by_file(bench: Bench, query: Query) -> None:
    (line,) = resent.resent(bench, types=3, tenants=2)
    assert "3 types × 2 files" in line.what and re.match(r"\d+\.\d{4} ×", line.result)
    counts = query("SELECT status, count(*) FROM importer.loads GROUP BY 1")
    assert ("loaded", 12) in counts  # two days


def test_small_files_are_imported_together_and_copied_one_by_one(
    bench: Bench, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.files = 3
    lines = small.small(bench)
    assert lines[0].what.startswith("3 files of 100 rows")
    ratios = [line for line in lines if re.match(r"[\d.]+ ×", line.result)]
    assert [line.target for line in ratios] == ["≤ 6 ×", "", ""], "together, one by one, merged one by one"
    assert re.match(r"[\d.]+ ms / [\d.]+ ms", lines[1].result)
    assert query("SELECT (SELECT count(*) FROM bench) + (SELECT count(*) FROM bench_keyed)") == [(0,)], (
        "it cleans up"
    )
    monkeypatch.setattr(Server, "psql_file", lambda self, _: None)
    with pytest.raises(RuntimeError, match="plain holds 0 rows instead of 300"):
        small.small(bench)


def test_definitions_are_loaded_in_a_fresh_process(bench: Bench) -> None:
    (line,) = definitions.types(bench, [(3, 60.0)])
    assert line.what.startswith("Definitions of 3 types") and line.met


_PART = """
import sys
from pathlib import Path
from benchmarks import cases, many, server, year
bench = cases.Bench(server.Server(sys.argv[1]), Path(sys.argv[2]), pairs=1)
if __name__ == "__main__":
    for line in eval(sys.argv[3]):
        print(line.what, "|", line.result, "|", line.met)
"""


def lines_of(part: str, database_url: str, folder: Path) -> dict[str, tuple[str, str]]:
    """What a part says, by its first words; a process of its own, since Dagster's settings stay in the environment."""
    done = subprocess.run(
        [sys.executable, "-c", _PART, database_url, str(folder), part],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    shown = [line.split(" | ") for line in done.stdout.splitlines() if line.count(" | ") == 2]
    return {what: (result, met) for what, result, met in shown}


def test_a_day_of_many_types_with_what_it_takes(database_url: str, tmp_path: Path, query: Query) -> None:
    lines = lines_of("many.many(bench, types=5)", database_url, tmp_path)
    assert query("SELECT count(*), min(status), max(status) FROM importer.loads") == [(5, "loaded", "loaded")]
    found = {what.split(", by")[0]: result for what, (result, _) in lines.items()}
    assert re.match(r"\d+ s, [\d.]+ s an asset", found["A first day of 5 types, a file of 50 rows each"])
    assert 1 <= int(found["… most steps at once"]) < int(found["… most processes of the run at once"])
    assert 1 <= int(found["… most writers at once"]) <= 4
    assert re.match(r"[1-9]\d+ MB", found["… peak memory of the process that the run lives in"])
    assert re.match(r"\d\d+ events, [\d.]+ MB", found["… Dagster's records of it"])


@pytest.mark.timeout(600)
def test_a_year_in_days(database_url: str, tmp_path: Path, query: Query) -> None:
    lines = lines_of("year.year(bench, types=2, tenants=2, days=5)", database_url, tmp_path)
    head, *measured = lines
    assert re.match(r"After 5 days of 2 types × 2 files: 20 loads, [\d,]+ events, 5 runs", head)
    assert [re.split(r"[,(]", what)[0].strip() for what in measured] == [
        "`importer status`",
        "One evaluation of the sensor `arrivals`",
    ]
    assert all(re.match(r"[\d.]+ s", lines[what][0]) for what in measured)
    # the days are one after the other, in the ledger and to Dagster
    days = "SELECT count(DISTINCT d), max(d) - min(d), count(*) FROM "
    assert query(days + "(SELECT business_date d FROM importer.loads) x") == [(5, 4, 20)]
    events = "event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
    assert query(days + f"(SELECT partition::date d FROM dagster.{events}) x") == [(5, 4, 10)]
    # … the latest with the highest ids, its event, its checks and its run still belonging together
    assert query(
        "SELECT count(*) FROM dagster.event_logs a JOIN dagster.event_logs b ON a.partition < b.partition AND a.id > b.id"
    ) == [(0,)]
    assert query(
        "SELECT bool_and(e.run_id = c.run_id AND e.event = c.evaluation_event), count(*), count(DISTINCT r.partition)"
        " FROM dagster.asset_check_executions c JOIN dagster.event_logs e ON e.id = c.evaluation_event_storage_id"
        " JOIN dagster.runs r ON r.run_id = c.run_id WHERE execution_status <> 'PLANNED'"
    ) == [(True, 30, 5)]
    assert query(
        "SELECT bool_and(event::json->>'run_id' = run_id"
        " AND abs((event::json->>'timestamp')::float - extract(epoch FROM timestamp)) < 1) FROM dagster.event_logs"
    ) == [(True,)]
