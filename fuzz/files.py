"""Make hostile files, and the specs that they are read with, from a seed.

What does not belong here: what must hold of the files (``oracle.py``).
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import random
import zipfile
from dataclasses import dataclass
from typing import Any

DELIMITERS = [",", ";", "\t", "|", " ", "\x01", "§", "||", "::"]
QUOTES = ['"', '"', '"', "'", "¦", None]
ENDS = ["\n", "\n", "\r\n", "\r", "\n\r"]
ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1",
             "shift_jis", "gb18030", "utf-7", "iso2022_jp", "cp037", "ascii"]  # fmt: skip
PIECES = ['"', '""', "'", ",", ";", "\t", "|", "\\", '\\"', "\n", "\r", "\r\n", "\0", "#", "##", " ", "  ", "\ufeff",
          "\ufffd", "é", "名", "\x1a", "NA", "NULL", "\\N", "a", "Total", "1", "§", "||", '",', ',"', '"\n', '\n"', "\x85",
          "\u2028"]  # fmt: skip
BYTES = [
    b"\xff",
    b"\xfe",
    b"\xc3",
    b"\xe9",
    b"\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\0\0",
    b"\xef\xbb\xbf",
    b"\x1a",
]


@dataclass(frozen=True)
class File:
    """Bytes of a file, and the spec (as a dictionary) that it is read with."""

    content: bytes
    spec: dict[str, Any]


def make(seed: int) -> File:
    """The file of a seed; the same seed gives the same file."""
    rng = random.Random(seed)  # noqa: S311
    dialect = _dialect(rng)
    width = rng.choice([1, 1, 2, 3, 3, 4, 7])
    encoding = rng.choice(ENCODINGS)
    content = _encoded(_text(rng, dialect, width), encoding, rng)
    for _ in range(rng.choice([0, 0, 1, 2, 5, 20])):
        content = _damaged(content, rng)
    content = _contained(content, rng)
    declared = "utf-8" if rng.random() < 0.2 else encoding
    fields = [{"name": f"c{i}"} for i in range(width)]
    schema: dict[str, Any] = {"fields": fields}
    if rng.random() < 0.3:
        schema["missingValues"] = rng.choice([["", "NA"], [], ["NULL"], ["", "1"], ["", "\\N"]])
    return File(content, {"name": "t", "encoding": declared, "dialect": dialect, "schema": schema})


def _dialect(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {}
    delimiter = rng.choice(DELIMITERS)
    dialect: dict[str, Any] = {"delimiter": delimiter, "quoteChar": rng.choice(QUOTES)}
    if rng.random() < 0.25:
        dialect["escapeChar"] = "\\"
    if rng.random() < 0.2:
        dialect["doubleQuote"] = False
    if rng.random() < 0.2:
        dialect["skipInitialSpace"] = True
    if rng.random() < 0.25:
        dialect["commentChar"] = rng.choice(["#", "##", "//", "Total"])
    if rng.random() < 0.2:
        dialect["footerRows"] = rng.choice([1, 2, 5])
    if rng.random() < 0.2:
        dialect["header"] = False
    elif rng.random() < 0.15:
        dialect["headerRows"] = rng.choice([[1], [2], [1, 2], [1, 3], [5]])
    if rng.random() < 0.1:
        dialect["totals"] = "keep"
    return dialect


def _text(rng: random.Random, dialect: dict[str, Any], width: int) -> str:
    """A table as Python's csv module writes it, more or less in the dialect."""
    out = io.StringIO()
    single = dialect.get("delimiter", ",")
    written = single if len(single) == 1 else "\x00"
    quote = dialect.get("quoteChar", '"') or '"'
    writer = csv.writer(out, delimiter=written, quotechar=quote, lineterminator=rng.choice(ENDS),
                        quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))  # fmt: skip
    rows = [[f"c{i}" for i in range(width)]] if dialect.get("header", True) else []
    rows += [
        [_cell(rng) for _ in range(width)] for _ in range(rng.choice([0, 1, 2, 3, 8, 8, 30, 30, 30, 200]))
    ]
    if rng.random() < 0.1:
        rows.insert(rng.randrange(len(rows) + 1), [f"c{i}" for i in range(width)])
    for row in rows:
        wrong = row[:-1] if rng.random() < 0.5 else [*row, _cell(rng)]
        writer.writerow(wrong if rng.random() < 0.03 else row)
        if rng.random() < 0.05:
            out.write(rng.choice(["\n", "\r\n", "#x\n", '# "quoted\n', " \n"]))
    text = out.getvalue().replace("\x00", single) if written == "\x00" else out.getvalue()
    return text.rstrip("\r\n") if rng.random() < 0.2 else text


def _cell(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return str(rng.randrange(1000))
    if kind < 0.7:
        return rng.choice(["", "", "x", "NA", "Total", "c0"])
    return "".join(rng.choice(PIECES) for _ in range(rng.choice([1, 2, 3, 6])))


def _encoded(text: str, encoding: str, rng: random.Random) -> bytes:
    data = text.encode(encoding, "replace")
    if encoding == "utf-8" and rng.random() < 0.1:
        return codecs.BOM_UTF8 + data
    return data


def _damaged(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    kind = rng.random()
    if kind < 0.35:
        return content[:at] + rng.choice(PIECES).encode() + content[at:]
    if kind < 0.5:
        return content[:at] + rng.choice(BYTES) + content[at:]
    to = min(at + rng.choice([1, 1, 3, 50]), len(content))
    if kind < 0.7:
        return content[:at] + content[to:]
    if kind < 0.8:
        return content[:at]
    if kind < 0.9:
        return content[:to] + content[at:to] * rng.choice([1, 2, 30]) + content[to:]
    return content[:at] + bytes(rng.randrange(256) for _ in range(to - at)) + content[to:]


def _contained(content: bytes, rng: random.Random) -> bytes:
    kind = rng.random()
    if kind > 0.12:
        return content
    if kind < 0.04:
        half = len(content) // 2
        content = gzip.compress(content[:half]) + gzip.compress(content[half:])
    elif kind < 0.06:
        content = bz2.compress(content)
    elif kind < 0.08:
        content = lzma.compress(content)
    else:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
            archive.writestr(rng.choice(["f.csv", "a/b.csv", "../f.csv"]), content)
        content = buffer.getvalue()
    return _damaged(content, rng) if rng.random() < 0.3 else content
