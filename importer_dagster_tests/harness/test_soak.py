"""``make soak`` in its short form, and that its count can fail."""

from collections import Counter
from decimal import Decimal
from pathlib import Path

from reliability import count
from reliability.soak import run


def test_a_mixed_load_under_faults_loses_nothing(_clean_environment: None) -> None:
    said: list[str] = []
    good = run(0, 3, cycles=3, say=said.append)  # the second of the three cycles goes through Dagster
    assert good, said[-1]
    assert "| difference | 0 |" in said[-1]
    assert "| Dagster runs | 2 |" in said[-1]


def content(*rows: tuple[int, str]) -> count.FileContent:
    return count.FileContent(len(rows), tuple((key, value, Decimal(1)) for key, value in rows))


def test_the_count_reads_files_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text("id,v,n\n1,a,1.5\n1,b,2\nx,c,3\n2,,\n3,d,e\n")
    unkeyed = count.read(file, keyed=False)
    assert unkeyed.records == 5
    assert unkeyed.good == ((1, "a", Decimal("1.5")), (1, "b", Decimal(2)), (2, None, None))
    assert [row[0] for row in count.read(file, keyed=True).good] == [1, 2]


def test_the_count_knows_what_each_disposition_holds() -> None:
    files = {
        ("t", "1"): content((1, "a"), (2, "b")),
        ("t", "2"): content((1, "c")),
        ("u", "1"): content((1, "d")),
    }

    def held(disposition: str) -> list[tuple[str, int, str | None]]:
        return sorted(row[:3] for row in count.table(disposition, files).elements())

    assert held("append") == [("t", 1, "a"), ("t", 1, "c"), ("t", 2, "b"), ("u", 1, "d")]
    assert held("replace") == [("t", 1, "c"), ("u", 1, "d")]
    assert held("merge") == held("scd2") == [("t", 1, "c"), ("t", 2, "b"), ("u", 1, "d")]


def test_a_row_lost_doubled_or_changed_is_a_difference() -> None:
    expected = Counter([("t", 1, "a", None), ("t", 2, "b", None)])
    assert count.difference(expected, expected.elements()) == 0
    assert count.difference(expected, [("t", 1, "a", None)]) == 1
    assert count.difference(expected, [*expected.elements(), ("t", 2, "b", None)]) == 1
    assert count.difference(expected, [("t", 1, "a", None), ("t", 2, "c", None)]) == 2
