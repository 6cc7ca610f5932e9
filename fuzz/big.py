"""Files of a hundred megabytes that could take too much memory or time.

What does not belong here: small ones (``files.py``).
"""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from importer_dagster.errors import RefusedError
from importer_dagster.reader.reader import BLOCK, Reader
from importer_dagster.source.unpack import Unpacked
from importer_dagster.spec.table import TableSpec

SIZE = 100 << 20
_LINE = b"12345,some text,1.50\n"


def _lines(line: bytes, size: int = SIZE) -> Iterator[bytes]:
    block = line * (1 + (1 << 20) // len(line))
    for _ in range(size // len(block)):
        yield block


def _open_quote() -> Iterator[bytes]:
    yield b'a,b,c\n1,"never closed,2\n'
    yield from _lines(_LINE)


def _many_open_quotes() -> Iterator[bytes]:
    yield b"a,b,c\n"
    yield from _lines(b'1,"x\n' + _LINE * 50)


def _doubled_quotes() -> Iterator[bytes]:
    yield b'a,b,c\n1,"x\n'
    yield from _lines(b'""\n')


def _one_line() -> Iterator[bytes]:
    yield b"a,b,c\n1,2,"
    yield from _lines(b"x" * 1000)


def _long_header() -> Iterator[bytes]:
    yield from _lines(b"x" * 1000)


def _wide_records() -> Iterator[bytes]:
    yield b"a,b,c\n"
    yield from _lines(b"," * 5000 + b"\n")


def _blank_lines() -> Iterator[bytes]:
    yield b"a,b,c\n"
    yield from _lines(b"\r\n")


def _quotes_only() -> Iterator[bytes]:
    yield b"a,b,c\n"
    yield from _lines(b'"')


def _bad_bytes() -> Iterator[bytes]:
    yield b"a,b,c\n" + "é,ü,1\n".encode() * 200_000
    yield from _lines(b"1,\xe9,2\n" + "é,ü,1\n".encode() * 100)


def _bomb() -> Iterator[bytes]:
    packed = gzip.compress(_LINE * 500_000)
    for _ in range(100):
        yield packed


_MAKERS: dict[str, Callable[[], Iterator[bytes]]] = {
    "open_quote": _open_quote,
    "many_open_quotes": _many_open_quotes,
    "doubled_quotes": _doubled_quotes,
    "one_line": _one_line,
    "long_header": _long_header,
    "wide_records": _wide_records,
    "blank_lines": _blank_lines,
    "quotes_only": _quotes_only,
    "bad_bytes": _bad_bytes,
    "bomb": _bomb,
}
BIG = tuple(_MAKERS)


def check_big(name: str) -> None:
    """Write and read one of the big files."""
    spec = TableSpec.model_validate({"name": "t", "schema": {"fields": [{"name": n} for n in "abc"]}})
    handle, path = tempfile.mkstemp(suffix=".csv")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(_MAKERS[name]())
        read_big(Path(path), spec)
    finally:
        Path(path).unlink()


def read_big(path: Path, spec: TableSpec) -> int:
    """The number of records; -1 if the file is refused."""
    unpacked = Unpacked(str(path))
    seen = 0
    try:
        for batch in Reader(unpacked, spec, BLOCK).batches():
            numbers = len(batch.rows) + len(batch.rejects["row"].unique())
            seen += numbers
    except RefusedError:
        return -1
    finally:
        unpacked.close()
    return seen
