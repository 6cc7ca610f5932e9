"""How files are read: every statement of docs/reading.md, each on a small file of its own."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from importer_dagster.errors import RefusedError
from importer_dagster.reader.reader import BLOCK, Reader
from importer_dagster.source import unpack
from importer_dagster.source.unpack import Unpacked, fingerprint_url
from importer_dagster.spec.table import TableSpec


class Read:
    """A file read to its end: rows of text with number and line, rejects, warnings."""

    def __init__(self, path: Path, spec: TableSpec, block_size: int = BLOCK) -> None:
        unpacked = Unpacked(str(path))
        try:
            reader = Reader(unpacked, spec, block_size)
            self.header = reader.header
            self.rows: list[tuple[Any, ...]] = []
            self.places: list[tuple[int, int]] = []
            self.rejects: list[dict[str, Any]] = []
            self.skipped = 0
            self.sizes: list[int] = []  # rows of each batch
            for batch in reader.batches():
                self.sizes.append(len(batch.rows))
                self.rows += zip(*(c.to_pylist() for c in batch.columns.columns), strict=True)
                lines, _ = batch.locate(np.arange(len(batch.rows)))
                self.places += zip(batch.rows.to_pylist(), lines.to_pylist(), strict=True)
                self.rejects += batch.rejects.to_pylist()
                self.skipped += batch.skipped
            self.warnings = reader.warnings
            assert (reader.sha256, reader.size) == fingerprint_url(str(path))
        finally:
            unpacked.close()

    @property
    def rules(self) -> list[tuple[int, str]]:
        return [(r["line"], r["rule"]) for r in self.rejects]


class Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(
        self,
        content: str | bytes,
        fields: str | list[str] = "a b",
        *,
        name: str = "f.csv",
        encoding: str = "utf-8",
        missing: list[str] | None = None,
        block_size: int = BLOCK,
        **dialect: Any,
    ) -> Read:
        names = fields.split() if isinstance(fields, str) else fields
        schema = {
            "fields": [{"name": n} for n in names],
            **({} if missing is None else {"missingValues": missing}),
        }
        spec = TableSpec.model_validate(
            {"name": "t", "schema": schema, "dialect": dialect, "encoding": encoding}
        )
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return Read(path, spec, block_size)

    def refuses(self, content: str | bytes, words: str, fields: str = "a b", **more: Any) -> RefusedError:
        with pytest.raises(RefusedError) as caught:
            self.read(content, fields, **more)
        assert words in str(caught.value)
        return caught.value


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


TWO = [("1", "x"), ("2", "é")]
TEXT = "a,b\n1,x\n2,é\n"


# --- encodings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF8 * 2 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
    ],
)
def test_a_byte_order_mark_says_the_encoding(files: Files, content: bytes) -> None:
    found = files.read(content)
    assert (found.header, found.rows, found.warnings) == (("a", "b"), TWO, [])
    assert files.read(gzip.compress(content)).rows == TWO


@pytest.mark.parametrize(
    "encoding",
    ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "cp1252", "latin-1", "mac_roman", "gb18030", "utf-7",
     "cp1140", "cp850", "iso-8859-15"],
)  # fmt: skip
def test_any_codec_of_python_can_be_declared(files: Files, encoding: str) -> None:
    assert files.read(TEXT.encode(encoding), encoding=encoding).rows == TWO


def test_utf16_declared_but_without_a_mark_is_told_by_its_nul_bytes(files: Files) -> None:
    for order in ("le", "be"):
        assert files.read(TEXT.encode(f"utf-16-{order}"), encoding="utf-16").rows == TWO


def test_a_mark_wins_over_another_declaration_and_is_said(files: Files) -> None:
    found = files.read(codecs.BOM_UTF8 + TEXT.encode(), encoding="cp1252")
    assert found.rows == TWO
    assert found.warnings == [
        "the spec says encoding cp1252, but the byte order mark says utf-8; utf-8 was read"
    ]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_text_without_a_mark_is_refused_with_the_encoding_to_declare(
    files: Files, encoding: str
) -> None:
    files.refuses(TEXT.encode(encoding), f"declare encoding: {encoding}")


def test_undeclared_other_encoding_is_refused_with_offset_line_and_suggestion(files: Files) -> None:
    rows = [f"{i},Zürich und Genève\n" for i in range(50)]
    content = ("a,b\n0,plain\n" + "".join(rows)).encode("cp1252")
    error = files.refuses(content, "is not UTF-8: 50 of the first 51 records hold bytes that are none")
    assert f"the first of them at offset {content.index(0xFC)} in line 3" in str(error)
    assert "declare encoding: cp1252" in str(error)
    assert (error.rule, error.line) == ("encoding", 3)


def test_a_few_bad_records_in_a_utf8_file_are_rejected_alone(files: Files) -> None:
    found = files.read(("a,b\n" + "1,é\n" * 50).encode() + b"7,caf\xe9,x\n8,caf\xe9\n9,ok\n")
    assert len(found.rows) == 51
    assert found.rejects == [
        {"row": 51, "line": 52, "column_name": "b", "value": "caf\\xe9", "rule": "encoding", "raw": "7,caf\\xe9,x",
             "message": "byte 0xe9 at position 6 of the record is not UTF-8"},
        {"row": 52, "line": 53, "column_name": "b", "value": "caf\\xe9", "rule": "encoding", "raw": "8,caf\\xe9",
             "message": "byte 0xe9 at position 6 of the record is not UTF-8"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [
        ("cp1252", b"\x81"),
        ("shift_jis", b"\x81 "),
        ("gb18030", b"\xff"),
        ("utf-16-le", b"\x00\xdc"),
        ("ascii", b"\xe9"),
    ],
)
def test_what_the_declared_codec_cannot_read_is_rejected_with_its_bytes(
    files: Files, encoding: str, bad: bytes
) -> None:
    def bytes_of(text: str) -> bytes:
        return text.encode(encoding)

    content = bytes_of("a,b\n") + bytes_of("1,x\n") * 60 + bytes_of("2,") + bad + bytes_of("\n3,y\n")
    found = files.read(content, encoding=encoding)
    assert (len(found.rows), found.rules) == (61, [(62, "encoding")])
    assert f"\\x{bad[0]:02x}" in found.rejects[0]["value"]
    assert f"is not {encoding.upper()}" in found.rejects[0]["message"] or encoding == "ascii"


def test_a_wrong_declared_codec_is_refused_with_the_offset(files: Files) -> None:
    content = b"a,b\n" + b"1,\xff\xff\n" * 30
    error = files.refuses(content, "is not SHIFT_JIS", encoding="shift_jis")
    assert "the first of them at offset 6 in line 2" in str(error)


def test_text_damaged_upstream_is_kept_and_said(files: Files) -> None:
    found = files.read("a,b\n1,x\n2,caf\ufffd\n3,\ufffd\n")
    assert found.rows[1:] == [("2", "caf\ufffd"), ("3", "\ufffd")]
    assert "2 records hold U+FFFD, the first in line 3" in found.warnings[0]


def test_a_mark_in_mid_file_stays_in_its_value(files: Files) -> None:
    for size in (BLOCK, 8, 16):
        assert files.read("a,b\n1,x\n\ufeff2,y\n", block_size=size).rows == [("1", "x"), ("\ufeff2", "y")]


def test_nul_bytes_reject_the_record(files: Files) -> None:
    found = files.read(b"a,b\n1,x\n2,y\0z\n3,\0\n4,ok\n")
    assert found.rows == [("1", "x"), ("4", "ok")]
    assert [(r["line"], r["rule"], r["column_name"], r["value"], r["raw"]) for r in found.rejects] == [
        (3, "nul", "b", "y\\x00z", "2,y\\x00z"),
        (4, "nul", "b", "\\x00", "3,\\x00"),
    ]
    files.refuses(b"a,b\0\n1,2\n", "NUL byte")


# --- line ends and blank lines ------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends(files: Files, end: str, last: bool) -> None:
    content = end.join(["a,b", "1,x", '"2","q' + end + 'r"', "3,y"]) + (end if last else "")
    for size in (BLOCK, 5):
        found = files.read(content, block_size=size)
        assert found.rows == [("1", "x"), ("2", f"q{end}r"), ("3", "y")]
        assert [line for _, line in found.places] == [2, 3, 5]


def test_mixed_line_ends_and_no_stray_cr_in_a_value(files: Files) -> None:
    assert files.read("a,b\r1,x\n2,y\r\n3,z\r4,w\r\r\n5,v").rows == [
        (str(i), c) for i, c in enumerate("xyzwv", 1)
    ]


def test_an_empty_value_at_the_very_end_is_missing(files: Files) -> None:
    assert files.read('a,b\n"1",').rows == [("1", None)]


def test_blank_lines_are_no_records_but_lines(files: Files) -> None:
    found = files.read("\n\n \na,b\n\n1,x\n\r\n\n2,y\n\n")
    assert found.rows == [("1", "x"), ("2", "y")]
    assert found.places == [(1, 6), (2, 9)]


def test_a_line_of_blanks_is_a_record_and_too_short(files: Files) -> None:
    assert files.read("a,b\n1,x\n  \n2,y\n").rules == [(3, "fields.short")]
    assert files.read("a,b\n1,x\n  \n2,y\n", skipInitialSpace=True).rules == []


def test_a_line_of_delimiters_is_a_record_of_missing_values(files: Files) -> None:
    assert files.read("a,b\n,\n1,x\n").rows == [(None, None), ("1", "x")]


def test_one_column(files: Files) -> None:
    assert files.read('a\n1\n\n""\n2\n', "a").rows == [("1",), ("",), ("2",)]


def test_control_z_at_the_end_is_no_record(files: Files) -> None:
    assert files.read("a,b\n1,x\n\x1a").rows == [("1", "x")]
    assert files.read("a,b\n1,x\n\x1a\x1a\x1a").rows == [("1", "x")]
    assert files.read("a,b\n1,\x1ax\n2,y\n").rows == [("1", "\x1ax"), ("2", "y")]


# --- empties and missing values -----------------------------------------------------------


def test_quoted_empties_and_words(files: Files) -> None:
    found = files.read('a,b\n,""\nNA,"NA"\n NA ,NaN\n', missing=["", "NA"])
    assert found.rows == [(None, ""), (None, "NA"), (" NA ", "NaN")]
    assert files.read('a,b\n,""\n', missing=["-"]).rows == [("", "")]
    assert files.read("a,b\n\\N,x\n", nullSequence="\\N").rows == [(None, "x")]


# --- quotes -------------------------------------------------------------------------------


def test_quotes_as_in_rfc_4180(files: Files) -> None:
    content = 'a,b\n"1","say ""hi"", you"\n2,"""\n"""\n'
    assert files.read(content).rows == [("1", 'say "hi", you'), ("2", '"\n"')]


@pytest.mark.parametrize(
    ("line", "column", "value"),
    [
        ('2,5" pipe', "b", '5" pipe'),
        ('2,"x" y', "b", '"x" y'),
        ('"2" ,x', "a", '"2" '),
        ('2, "x"', "b", ' "x"'),
    ],
)
def test_a_damaged_quote_costs_its_record_only(files: Files, line: str, column: str, value: str) -> None:
    found = files.read(f"a,b\n1,x\n{line}\n3,z\n")
    assert found.rows == [("1", "x"), ("3", "z")]
    reject = found.rejects[0]
    assert (reject["row"], reject["line"], reject["rule"], reject["column_name"], reject["value"], reject["raw"]) == (
        2, 3, "quote.damaged", column, value, line)  # fmt: skip


def test_quotes_without_meaning(files: Files) -> None:
    assert files.read('a,b\n1,5" pipe\n2,"x"\n', quoteChar=None).rows == [("1", '5" pipe'), ("2", '"x"')]


def test_an_unclosed_quote_is_reported_where_it_opened_and_swallows_nothing(files: Files) -> None:
    content = 'a,b\n1,x\n2,"never closed\n' + "".join(f"{i},y\n" for i in range(3, 1000))
    for size in (BLOCK, 64):
        found = files.read(content, block_size=size)
        assert len(found.rows) == 998
        assert found.rejects[0] | {"raw": ""} == {
            "row": 2, "line": 3, "column_name": "b", "value": '"never closed', "rule": "quote.unclosed", "raw": "",
            "message": "a quote opens in line 3 and is never closed where a value may end"}  # fmt: skip
        assert found.places[-1] == (999, 1000)


def test_the_line_of_a_quote_that_opens_behind_a_value_of_several_lines(files: Files) -> None:
    found = files.read('a,b,c\n1,"two\nlines","open\n2,x,y\n', "a b c")
    assert "a quote opens in line 3" in found.rejects[0]["message"]
    assert found.rows == [("2", "x", "y")]


def test_a_quote_closed_many_lines_later_is_one_value(files: Files) -> None:
    text = "\n".join(str(i) for i in range(5000))
    for size in (BLOCK, 4096):
        found = files.read(f'a,b\n1,"{text}"\n2,x\n', block_size=size)
        assert found.rows == [("1", text), ("2", "x")]


def test_a_quote_closed_many_lines_later_with_the_wrong_number_of_fields_costs_one_line(files: Files) -> None:
    found = files.read('a,b\n1,"open\n2,x\n3,y",z\n4,w\n')
    assert found.rules == [(2, "quote.unclosed"), (4, "quote.damaged")]
    assert found.rows == [("2", "x"), ("4", "w")]


def test_an_unclosed_quote_at_the_start_of_a_large_file_takes_no_memory(files: Files) -> None:
    path = files.folder / "f.csv"
    spec = TableSpec.model_validate({"name": "t", "schema": {"fields": [{"name": "a"}, {"name": "b"}]}})
    line = b"123456,some text here\n"
    with path.open("wb") as file:
        file.write(b'a,b\n1,"never closed\n')
        for _ in range(60):
            file.write(line * 50_000)
    with pa_memory() as peak:
        unpacked = Unpacked(str(path))
        rows = rejects = 0
        for batch in Reader(unpacked, spec, BLOCK).batches():
            rows, rejects = rows + len(batch.rows), rejects + len(batch.rejects)
        unpacked.close()
    assert (rows, rejects) == (3_000_000, 1)
    assert peak() < 200 << 20


class pa_memory:
    """The most memory that Arrow held at once."""

    def __enter__(self) -> Any:
        self.pool = pa.default_memory_pool()
        self.before = self.pool.bytes_allocated()
        return lambda: self.pool.max_memory() - self.before

    def __exit__(self, *_: object) -> None:
        pass


def test_escapes(files: Files) -> None:
    found = files.read('a|b\n1|"say \\"hi\\""\n2|x\\|y\n3|back\\\\slash\n', delimiter="|", escapeChar="\\")
    assert found.rows == [("1", 'say "hi"'), ("2", "x|y"), ("3", "back\\slash")]
    assert files.read('a,b\n1,"\\""""\n', escapeChar="\\").rows == [("1", '""')]
    assert files.read('a,b\n1,"x"\n', doubleQuote=False).rows == [("1", "x")]
    assert files.read('a,b\n1,"x""y"\n', doubleQuote=False).rules == [(2, "quote.damaged")]


def test_an_escape_character_at_the_very_end_is_damage(files: Files) -> None:
    assert files.read("a,b\n1,x\n2,y\\", escapeChar="\\").rules == [(3, "quote.damaged")]


def test_a_missing_value_word_that_begins_with_the_escape_character(files: Files) -> None:
    content = '1,\\N\n\\N,a\\Nb\n2,"\\N"\n'
    found = files.read(content, header=False, escapeChar="\\", missing=["\\N"])
    assert found.rows == [("1", None), (None, "aNb"), ("2", "N")]


def test_dialects_beyond_rfc_4180_read_alike_however_they_are_cut(files: Files) -> None:
    rows = "".join(f'{i}, "a\\"b {i}\\\\" ,  x\\,y \n' for i in range(300))
    found = [
        files.read("a,b,c\n" + rows, "a b c", block_size=size, escapeChar="\\", skipInitialSpace=True)
        for size in (BLOCK, 512, 16)
    ]
    assert found[0].rows == [(str(i), f'a"b {i}\\', "x,y ") for i in range(300)]
    assert found[0].rows == found[1].rows == found[2].rows
    assert found[0].places == found[1].places == found[2].places


@pytest.mark.parametrize("quote", ["'", "|", "¦", "«"])
def test_any_quote_character(files: Files, quote: str) -> None:
    content = f"a,b\n1,{quote}x,y{quote * 2}{quote}\n"
    assert files.read(content, quoteChar=quote).rows == [("1", f"x,y{quote}")]


@pytest.mark.parametrize(
    "delimiter", [";", "\t", "|", "\x01", "\x1f", "§", "¦", "||", "::", "~|~", " ", "~", "^"]
)
def test_any_delimiter(files: Files, delimiter: str) -> None:
    content = f'a{delimiter}b\n1{delimiter}"x{delimiter}y"\n2{delimiter}\n'
    assert files.read(content, delimiter=delimiter).rows == [("1", f"x{delimiter}y"), ("2", None)]


def test_blanks_around_a_delimiter(files: Files) -> None:
    content = 'a, b\n1, x \n2,  "y" \n3, ""\n4,\n'
    assert files.read(content, skipInitialSpace=True).rows == [
        ("1", "x "),
        ("2", "y"),
        ("3", ""),
        ("4", None),
    ]
    assert (
        files.read("a b c\n1  2 3\n1 2   3\n", "a b c", delimiter=" ", skipInitialSpace=True).rows
        == [("1", "2", "3")] * 2
    )
    assert files.read("a,b\n 1 , x \n").rows == [(" 1 ", " x ")]


# --- comments, preamble, footers, repeated headers ------------------------------------------


def test_comments(files: Files) -> None:
    content = '## "made, by\na,b\n1,x\n## 2,y\n#3,z\n"4","\n## no comment"\n'
    for size in (BLOCK, 7):
        found = files.read(content, commentChar="##", block_size=size)
        assert found.rows == [("1", "x"), ("#3", "z"), ("4", "\n## no comment")]
        assert [line for _, line in found.places] == [3, 5, 6]
    assert files.read("# a,b\n1,x\n", ["# a", "b"]).rows == [("1", "x")]


def test_comments_with_quotes_swallow_nothing(files: Files) -> None:
    assert files.read('a,b\n#,"\n1,2\n#,"\n3,4\n', commentChar="#").rows == [("1", "2"), ("3", "4")]


def test_preamble_and_header_lines(files: Files) -> None:
    assert files.read('Report "of\nthe day\n\na,b\n1,x\n', headerRows=[4]).rows == [("1", "x")]
    found = files.read("x,y\n\nfrom,to\n1,2\n", ["x from", "y to"], headerRows=[1, 3])
    assert (found.header, found.rows) == (("x from", "y to"), [("1", "2")])
    assert files.read("1,x\n2,y\n", header=False).rows == [("1", "x"), ("2", "y")]
    assert files.read("made today\n1,x\n", header=False, headerRows=[1]).rows == [("1", "x")]
    files.refuses("a,b\n1,x\n", "has no line 9", headerRows=[9])


def test_footers_are_skipped_and_counted(files: Files) -> None:
    content = 'a,b\n1,x\n2,y\nTRL|2\nEnd of "file\n'
    for size in (BLOCK, 6):
        found = files.read(content, footerRows=2, block_size=size)
        assert (found.rows, found.skipped, found.rules) == ([("1", "x"), ("2", "y")], 2, [])
    assert files.read("a,b\n1,x\n", footerRows=5).rows == []


def test_a_repeated_header_is_rejected(files: Files) -> None:
    found = files.read("a,b\n1,x\na,b\n2,a\na,z\n\ufeffa,b\n3,y\n")
    assert found.rows == [("1", "x"), ("2", "a"), ("a", "z"), ("3", "y")]
    assert found.rules == [(3, "header.repeated"), (6, "header.repeated")]


def test_a_file_full_of_headers(files: Files) -> None:
    found = files.read('"a, 1",b\n' + '"a, 1",b\n' * 200_000 + "1,x\n")
    assert found.rows == [("1", "x")]
    assert len(found.rejects) == 200_000
    first, last = found.rejects[0], found.rejects[-1]
    assert (first["row"], first["line"], first["value"], first["raw"]) == (1, 2, "a, 1", '"a, 1",b')
    assert (last["row"], last["line"]) == (200_000, 200_001)


@pytest.mark.parametrize("word", ["Total", "TOTALS:", "Grand total", "Summe", "Gesamt", "Итого", "合計"])
def test_a_line_of_totals_is_rejected(files: Files, word: str) -> None:
    content = f"a,b\nnorth,1\nsouth,2\n{word},3\n\n"
    for size in (BLOCK, 9):
        found = files.read(content, block_size=size)
        assert (found.rows, found.rules) == ([("north", "1"), ("south", "2")], [(4, "footer.totals")])
    assert files.read(content, totals="keep").rules == []
    assert files.read(content, footerRows=1).skipped == 1


def test_a_total_elsewhere_is_a_value(files: Files) -> None:
    assert files.read("a,b\nTotal,1\nTotal Energies,2\nTotalis,3\n").rules == []


def test_a_second_table_of_another_width_is_rejected(files: Files) -> None:
    found = files.read("a,b\n1,x\n\nk,l,m\n1,2,3\n")
    assert (found.rows, found.rules) == ([("1", "x")], [(4, "fields.long"), (5, "fields.long")])


def test_a_file_that_is_cut_off_is_said(files: Files) -> None:
    assert "perhaps the file was cut off" in files.read("a,b\n1,x\n2").warnings[0]
    assert "perhaps the file was cut off" in files.read('a,b\n1,x\n2,"y').warnings[0]
    assert files.read("a,b\n1,x\n2\n3,y").warnings == []


# --- widths and names ----------------------------------------------------------------------


def test_short_and_long_records_say_what_was_expected_and_found(files: Files) -> None:
    found = files.read("a,b,c\n1,2,3\n1\n1,2\n1,2,3,4,5\n", "a b c")
    assert [
        (r["line"], r["rule"], r["column_name"], r["value"], r["message"], r["raw"]) for r in found.rejects
    ] == [
        (3, "fields.short", "b", "", "expected 3 fields, got 1", "1"),
        (4, "fields.short", "c", "", "expected 3 fields, got 2", "1,2"),
        (5, "fields.long", "column 4", "4,5", "expected 3 fields, got 5", "1,2,3,4,5"),
    ]


def test_a_delimiter_too_many(files: Files) -> None:
    both = files.read("a,b,\n1,x,\n2,y\n3,z,surplus\n")
    assert (both.rows, both.rules, both.warnings) == ([("1", "x"), ("2", "y")], [(4, "fields.long")], [])
    assert both.rejects[0]["value"] == "surplus"
    records = files.read("a,b\n1,x,\n2,y,\n3,z\n4,w,surplus\n5,v,\n")
    assert (records.rows, records.rules) == (
        [("1", "x"), ("2", "y"), ("3", "z"), ("5", "v")],
        [(5, "fields.long")],
    )
    assert "records end with a delimiter" in records.warnings[0]
    header = files.read("a,b,\n1,x\n2,y\n")
    assert header.rows == [("1", "x"), ("2", "y")]
    assert "the header ends with an empty name" in header.warnings[0]


def test_every_record_of_one_wrong_width_refuses_the_file(files: Files) -> None:
    files.refuses("a,b\n1,2,3\n4,5,6\n", "Every record has 3 fields, but 2 are expected")


def test_1000_columns(files: Files) -> None:
    names = [f"c{i}" for i in range(1000)]
    content = ",".join(names) + "\n" + (",".join(map(str, range(1000))) + "\n") * 3
    assert files.read(content, names).rows == [tuple(map(str, range(1000)))] * 3
    files.refuses(
        ",".join(f"c{i}" for i in range(1_601)) + "\n", "1,601 columns; a PostgreSQL table can have 1,600"
    )


def test_a_header_alone_is_a_file_of_no_records(files: Files) -> None:
    assert files.read("a,b\n").rows == []
    assert files.read("a,b").rows == []


def test_a_value_of_a_megabyte_and_a_record_that_is_too_long(files: Files) -> None:
    big = "x" * (1 << 20)
    assert files.read(f'a,b\n1,{big}\n2,"{big}"\n', block_size=1 << 16).rows == [("1", big), ("2", big)]
    found = files.read("a,b\n1," + "x" * (20 << 20) + "\n2,y\n", block_size=4 << 20)
    assert found.rules == [(2, "record.long")]
    assert found.places == [(2, 3)]


def test_headers_that_are_refused(files: Files) -> None:
    files.refuses("a,b,a\n", "the name 'a' twice, as columns 1 and 3")
    files.refuses("a,,b\n", "Column 2 of the header has no name")
    files.refuses(",,\n1,2,3\n", "holds no name at all")
    files.refuses("a;b\n1;2\n", "looks like semicolon-separated")
    files.refuses('a,"b\n1,2\n', "a quote where none may stand")
    files.refuses("x" * (5 << 20), "longer than 4 MB")
    for content in (b"", b"\n\n", b"  \r\n \t\r\n", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, gzip.compress(b"")):
        files.refuses(content, "empty")


def test_a_header_that_cannot_be_used_can_be_passed_over(files: Files) -> None:
    for header in ("id,name,id", "id,,age"):
        found = files.read(f"{header}\n1,x,001\n", "a b c", header=False, headerRows=[1])
        assert (found.rows, found.rules) == ([("1", "x", "001")], [])


def test_names_are_kept_as_they_are(files: Files) -> None:
    names = ["'; DROP TABLE x; --", '"', "100%", "{x}", "two\nlines", "ü", "#1", "select"]
    header = ",".join('"' + n.replace('"', '""') + '"' for n in names)
    assert files.read(f"{header}\n1,2,3,4,5,6,7,8\n", names).header == tuple(names)


# --- containers -----------------------------------------------------------------------------


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd}


@pytest.mark.parametrize("kind", PACKERS)
def test_containers_are_known_by_content_and_all_members_are_read(files: Files, kind: str) -> None:
    pack = PACKERS[kind]
    assert files.read(pack(b"a,b\n1,x\n") + pack("2,é\n".encode())).rows == TWO


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_zeros_behind_an_archive_are_padding(files: Files, kind: str) -> None:
    assert files.read(PACKERS[kind](TEXT.encode()) + b"\0" * 512).rows == TWO


@pytest.mark.parametrize("kind", PACKERS)
def test_archives_that_are_cut_off_or_damaged_are_refused(files: Files, kind: str) -> None:
    content = os.urandom(3000).hex().encode()
    packed = PACKERS[kind](b"a,b\n" + b"1," + content + b"\n")
    for damaged in (
        packed[:-9],
        packed[: len(packed) // 2],
        packed[:20],
        packed + b"garbage behind",
        packed + packed[:40],
    ):
        files.refuses(damaged, "is a damaged or truncated archive")
    half = len(packed) // 2
    if kind == "zstd":
        return  # this frame has no checksum, so that nobody can see a flipped bit
    files.refuses(
        packed[:half] + bytes([packed[half] ^ 255]) + packed[half + 1 :], "is a damaged or truncated archive"
    )


def test_gzip_is_unpacked_alike_where_isal_is_not(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "decompressobj", zlib.decompressobj)
    monkeypatch.setattr(unpack, "InflateError", zlib.error)
    test_containers_are_known_by_content_and_all_members_are_read(files, "gzip")
    test_zeros_behind_an_archive_are_padding(files, "gzip")
    test_archives_that_are_cut_off_or_damaged_are_refused(files, "gzip")


def test_zip(files: Files) -> None:
    junk = {"__MACOSX/._f.csv": b"\0\5\x16\7", ".DS_Store": b"x", "folder/": b""}
    assert files.read(zipped(**{"folder/f.csv": TEXT.encode(), **junk})).rows == TWO
    files.refuses(zipped(), "must hold one file, but holds 0")
    files.refuses(zipped(**{"1.csv": b"a", "2.csv": b"b"}), "must hold one file, but holds 2 (1.csv, 2.csv)")
    for name in ("../f.csv", "/etc/f.csv", "a/../../f.csv", "..\\f.csv", "C:/f.csv"):
        files.refuses(zipped(**{name: TEXT.encode()}), "hostile path")
    files.refuses(zipped(**{"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b"<x/>"}), "is an Excel")
    whole = zipped(**{"f.csv": os.urandom(2000).hex().encode()})
    for damaged in (whole[:200], whole[:-4], whole[:100] + b"\0\0\0\0" + whole[104:]):
        files.refuses(damaged, "is a damaged or truncated archive")
    locked = bytearray(zipped(**{"f.csv": TEXT.encode()}))
    locked[6] |= 1
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    files.refuses(bytes(locked), "encrypted")


def test_an_archive_in_an_archive_is_refused(files: Files) -> None:
    files.refuses(gzip.compress(gzip.compress(TEXT.encode())), "a gzip file inside of another archive")
    files.refuses(gzip.compress(zipped(**{"f.csv": b"a"})), "a zip archive (or Excel file) inside")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("f.csv")
        info.size = len(TEXT.encode())
        archive.addfile(info, io.BytesIO(TEXT.encode()))
    files.refuses(buffer.getvalue(), "a tar archive")


def test_a_bomb_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "BOMB_BYTES", 4 << 20)
    content = b"a,b\n" + b"1,x\n" * 4_000_000
    files.refuses(gzip.compress(content), "taken for a bomb")
    files.refuses(zipped(**{"f.csv": content}), "taken for a bomb")
    assert len(files.read(b"a,b\n" + b"1,x\n" * 200_000).rows) == 200_000


def test_a_name_that_promises_another_container(files: Files) -> None:
    files.refuses(TEXT, "is called gzip, but its content is not", name="f.csv.gz")
    assert files.read(gzip.compress(TEXT.encode()), name="f.csv.zip").rows == TWO


# --- what is no CSV -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html><body>404", "an HTML page"),
        (b"\xef\xbb\xbf \n<html><head>", "an HTML page"),
        (b"<!-- made by x --><html>", "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML file"),
        (b"<rows><row a='1'/></rows>", "an XML file"),
        (b'{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n', "JSON"),
        (b'[\n  {"a": 1},\n  {"a": 2}\n]\n', "JSON"),
        (b'{"a": [' + b"1," * 50_000, "JSON"),
        (b"PAR1\x15\x04", "a Parquet file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer"),
        (b"/annex/objects/SHA256E-s1--abc.csv\n", "a git-annex pointer"),
        (b"../../.git/annex/objects/xx/yy/SHA256E-s1/SHA256E-s1.csv", "a git-annex pointer"),
        (b"-- MySQL dump 10.13\n--\nDROP TABLE IF EXISTS `a`;\nCREATE TABLE `a` (\n", "a SQL script"),
        (b"INSERT INTO a VALUES (1, 2);\n", "a SQL script"),
        (bytes(range(32)) * 40, "binary data"),
        (b"SQLite format 3\0", "a SQLite database"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7-Zip archive"),
        (b"Rar!\x1a\x07\x00", "a RAR archive"),
    ],
)  # fmt: skip
def test_what_is_no_csv_is_refused_for_what_it_is(files: Files, content: bytes, words: str) -> None:
    error = files.refuses(content, f"looks like {words}")
    assert error.rule == "not.csv"


@pytest.mark.parametrize("header", ["<id>,b", "[a],b", "{a},b", "-- a,b"])
def test_a_strange_header_is_still_a_header(files: Files, header: str) -> None:
    names = header.split(",")
    assert files.read(f"{header}\n1,x\n", names).header == tuple(names)


def test_a_few_bad_records_of_a_small_file_are_few(files: Files) -> None:
    good = b"".join(b"%d,x\n" % i for i in range(3))
    assert files.read(b"a,b\n" + good + b"7,caf\xe9\n").rules == [(5, "encoding")]
    files.refuses(b"a,b\n1,x\n7,caf\xe9\n", "declare encoding: cp1252")
    files.refuses(b"a,b\n" + good * 4 + b"7,caf\xe9\n" * 4, "declare encoding: cp1252")


def test_a_file_that_ends_in_the_middle_of_a_character(files: Files) -> None:
    found = files.read("a,b\n1,x\n2,é".encode()[:-1])
    assert found.rules == [(3, "encoding")]
    assert "the file ends in the middle of a character" in found.rejects[0]["message"]
    assert "perhaps the file was cut off" in found.warnings[0]


def test_a_header_where_none_is_declared_is_rejected(files: Files) -> None:
    found = files.read("a,b\n1,x\n", header=False)
    assert (found.rows, found.rules) == ([("1", "x")], [(1, "header.repeated")])
    assert "the spec says header: false" in found.rejects[0]["message"]


def test_the_separator_line_of_excel_is_refused_with_what_to_declare(files: Files) -> None:
    for dialect in ({}, {"delimiter": ";"}):
        error = files.refuses("sep=;\na;b\n1;x\n", "headerRows: [2]", **dialect)
        assert error.rule == "preamble"
    assert files.read("sep=;\na;b\n1;x\n", delimiter=";", headerRows=[2]).rows == [("1", "x")]


@pytest.mark.parametrize(
    ("columns", "value", "factor"), [(60, "123456789", 2), (60, "1", 1), (20, "123456789", 1)]
)
def test_of_a_wide_file_blocks_are_twice_as_long(files: Files, columns: int, value: str, factor: int) -> None:
    names = [f"c{i}" for i in range(columns)]
    record = ",".join([value] * columns) + "\n"
    content = ",".join(names) + "\n" + record * 500
    found = files.read(content, names, block_size=100 * len(record))
    assert len(found.rows) == sum(found.sizes) == 500
    assert found.sizes[1] == 100 * factor


# --- damage in bulk ---------------------------------------------------------------------


def test_numbers_go_on_behind_a_block_with_damage(files: Files) -> None:
    content = 'a,b\n1,x\n2,q"uote\n3,y\n' + "".join(f"{i},z\n" for i in range(4, 400))
    for size in (BLOCK, 64):
        found = files.read(content, block_size=size)
        assert [number for number, _ in found.places] == [1, *range(3, 400)]
        assert [number + 1 for number, _ in found.places] == [line for _, line in found.places]


def test_one_record_with_a_delimiter_at_its_end_says_nothing_about_the_file(files: Files) -> None:
    found = files.read("a,b\n1,2,\n3,4\n5,6\n")
    assert (found.rows, found.rules, found.warnings) == ([("3", "4"), ("5", "6")], [(2, "fields.long")], [])
    assert files.read("a,b,c\n1,2,\n3,4,5\n", "a b c").rows == [("1", "2", None), ("3", "4", "5")]
    # the first record is damaged, and says nothing either
    found = files.read('a,b\nx"y,1,\n3,4,\n5,6,\n')
    assert (found.rows, found.rules) == ([("3", "4"), ("5", "6")], [(2, "quote.damaged")])


def test_where_records_end_with_a_delimiter_a_record_may_not_shift_it_into_its_last_value(
    files: Files,
) -> None:
    for size in (BLOCK, 8):
        found = files.read("a,b\n1,2,\n3,\n4,5,\n6,7\n8,,\n9\n10,11,\n", block_size=size)
        assert found.rows == [("1", "2"), ("4", "5"), ("6", "7"), ("8", None), ("10", "11")]
        assert [(r["line"], r["rule"], r["column_name"], r["message"]) for r in found.rejects] == [
            (3, "fields.short", "b", "expected 2 fields, got 1"),
            (7, "fields.short", "b", "expected 2 fields, got 1"),
        ]


def test_the_delimiter_at_the_end_is_told_alike_however_the_file_is_cut(files: Files) -> None:
    content = "a,b\n" + "1,2,\n" * 30 + "3,4\n" * 29
    for size in (BLOCK, 7):
        found = files.read(content, block_size=size)
        assert (len(found.rows), found.rules) == (59, [])
        found = files.read(content + "3,4\n", block_size=size)
        assert (len(found.rows), len(found.rules)) == (30, 30)


@pytest.mark.parametrize("nuls", [200, 5_000, 100_000])
def test_a_tail_of_nuls_is_rejected_and_not_the_file(files: Files, nuls: int) -> None:
    rows = "".join(f"{i},x\n" for i in range(60)).encode()
    for tail in (b"\0" * nuls, b"\0" * nuls + b"\n", b"\0" * nuls + b"\n7,y\n"):
        found = files.read(b"a,b\n" + rows + tail)
        assert found.rules == [(62, "nul")]
        assert len(found.rows) == 60 + tail.endswith(b"y\n")
    files.refuses(b"\0" * nuls, "binary data")
    files.refuses(bytes(range(1, 32)) * 9 + b"\0" * nuls, "binary data")


@pytest.mark.parametrize("before", [0, 1, 40_000])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_the_limit_of_a_line_holds_wherever_it_stands(files: Files, before: int, end: bytes) -> None:
    line = b"1," + b"x" * (18 << 20)
    for quote in (b"", b'"'):
        rows = b"5,a value of some length\n" * before
        found = files.read(b"a,b\n" + rows + line.replace(b"1,", b"1," + quote) + quote + end)
        assert found.rules == [(2 + before, "record.long")]
        assert len(found.rows) == before


def test_of_records_that_are_damaged_each_is_rejected_for_what_it_is(files: Files) -> None:
    lines = ['x"y,1', '"x"y,1', "1", "1,2,3", '1,"open', "1,2", '"a","b,"', '1,"x""y"', '"']
    rules = {"1": "fields.short", "1,2,3": "fields.long", '1,"open': "quote.unclosed", '"': "quote.unclosed"}
    sound = {"1,2", '"a","b,"', '1,"x""y"'}
    content = "a,b\n" + "\n".join(lines * 700) + "\n"
    for size in (BLOCK, 300):
        found = files.read(content, block_size=size)
        assert len(found.rows) == 3 * 700
        expected = [
            (i + 2, rules.get(line, "quote.damaged"))
            for i, line in enumerate(lines * 700)
            if line not in sound
        ]
        assert found.rules == expected
    assert {r["raw"] for r in found.rejects} == set(lines) - sound


@pytest.mark.parametrize(
    "line",
    [
        b"x\n",
        b'x"y\n',
        b'"\n',
        b'1,"x\n',
        b"12345,\0\n1234567,890\n",
        b",,,\n",
        b"a,b\n",
        b"\xc3,1\n\xc3\xa9,1\n\xc3\xa9,1\n",
    ],
)
def test_a_batch_has_few_lines_whatever_is_wrong_with_them(files: Files, line: bytes) -> None:
    content = b"a,b\n1,2\n" + line * (400_000 // line.count(b"\n"))
    found = files.read(content)
    assert len(found.rows) + len(found.rejects) == content.count(b"\n") - 1
    assert len(found.sizes) > 2
    numbers = [r["row"] for r in found.rejects]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("line", ["\n", "#\n", " \n", "\r\n", "\r"])
def test_many_lines_before_the_header(files: Files, line: str) -> None:
    content = line * 300_000 + "a,b\n1,2\n"
    found = files.read(content, commentChar="#")
    assert (found.rows, found.places) == ([("1", "2")], [(1, 300_002)])
    found = files.read(content, headerRows=[300_001])
    assert (found.rows, found.places) == ([("1", "2")], [(1, 300_002)])
