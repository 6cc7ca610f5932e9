"""From a URL to UTF-8 bytes: opening, hashing, unpacking, telling what is no CSV, decoding.

Containers are recognised by their first bytes, whatever the file is called.

What does not belong here: records and fields (``records.py``, ``reader.py``).
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa

from importer_dagster.errors import ImporterError, RefusedError, SourceUnavailable

CHUNK = 1 << 20
# A container that unpacks to more than this, and by more than this factor, is taken for a bomb.
BOMB_BYTES, BOMB_FACTOR = 1 << 30, 2_000

_SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
_NOT_CSV = {
    b"PAR1": "a Parquet file",
    b"\xd0\xcf\x11\xe0": "an old Excel or other Microsoft Office file",
    b"%PDF": "a PDF document",
    b"ARROW1": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"SQLite format 3": "a SQLite database",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}
_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16: it starts with the same two bytes
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class _Hashed:
    """A readable file that hashes and counts what passes through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha.update(data)
        self.bytes += len(data)
        return data

    def drain(self) -> None:
        """Read what is left, so that hash and size are of the whole file."""
        while self.read(CHUNK):
            pass

    # what the decompressors ask of a file
    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def flush(self) -> None:
        pass


class _Ahead:
    """A file with some bytes put back in front of it."""

    def __init__(self, head: bytes, file: _Hashed) -> None:
        self._head, self._file = head, file
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            return self._file.read(size)
        if size is None or size < 0:
            data, self._head = self._head + self._file.read(), b""
            return data
        data, self._head = self._head[:size], self._head[size:]
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def flush(self) -> None:
        pass


@contextmanager
def source_errors(url: str) -> Iterator[None]:
    """Turn errors of the file system into ours."""
    try:
        yield
    except ImporterError:
        raise
    except FileNotFoundError:
        raise RefusedError(f"{url} does not exist. Check the path.", rule="missing") from None
    except IsADirectoryError:
        raise RefusedError(f"{url} is a folder; name a file.", rule="missing") from None
    except PermissionError as error:
        raise RefusedError(f"{url} may not be read: {error}. Grant read access.", rule="unreadable") from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise RefusedError(
            f"{url} is a damaged or truncated archive: {error}. Ask the supplier to send it again.",
            rule="container",
        ) from None
    except (OSError, ValueError, ImportError) as error:
        raise SourceUnavailable(f"{url} could not be read: {error}") from error


def open_url(url: str) -> BinaryIO:
    """Open a path or URL for reading bytes."""
    with source_errors(url):
        file = fsspec.open(url, "rb").open() if "://" in url else _open_local(url)
    return cast(BinaryIO, file)


def _open_local(path: str) -> BinaryIO:
    return open(path, "rb")  # noqa: PTH123 - the caller closes it


def fingerprint_url(url: str) -> tuple[str, int]:
    """(sha256 as hex, size in bytes) of the file as it is stored."""
    with open_url(url) as file, source_errors(url):
        hashed = _Hashed(file)
        hashed.drain()
    return hashed.sha.hexdigest(), hashed.bytes


class Unpacked:
    """The decompressed bytes of one delivery, hashed as they are read.

    ``sha256`` and ``bytes`` (of the stored file) are complete after ``finish``.
    Raises RefusedError for what is no CSV, no sound archive, or empty.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._file = open_url(url)
        try:
            with source_errors(url):
                self._hashed = _Hashed(self._file)
                self._stream = self._unpack()
        except BaseException:
            self._file.close()
            raise
        self._out = 0

    def _unpack(self) -> Any:
        head = self._hashed.read(CHUNK)
        kind = next((k for magic, k in _MAGIC.items() if head.startswith(magic)), None)
        named = next((k for suffix, k in _SUFFIXES.items() if self.url.lower().endswith(suffix)), None)
        if kind is None and named is not None and head:
            raise RefusedError(
                f"{self.url} is called {named}, but its content is not. Rename it, or have it sent again.",
                rule="container",
            )
        stream = _Ahead(head, self._hashed)
        if kind == "zip":
            return self._unzip()
        openers: dict[str | None, Callable[[Any], Any]] = {
            "gzip": lambda s: gzip.GzipFile(fileobj=s, mode="rb"),
            "bzip2": bz2.BZ2File,
            "xz": lzma.LZMAFile,
            "zstd": lambda s: pa.CompressedInputStream(pa.PythonFile(s, "r"), "zstd"),
        }
        return openers[kind](stream) if kind else stream

    def _unzip(self) -> Any:
        self._hashed.drain()
        self._file.seek(0)
        archive = zipfile.ZipFile(self._file)
        members = [m for m in archive.infolist() if not m.is_dir()]
        names = [m.filename for m in members]
        if any(n == "[Content_Types].xml" for n in names):
            raise RefusedError(f"{self.url} is an Excel or other Office file, not CSV.", rule="not.csv")
        if len(members) != 1:
            found = ", ".join(names[:5]) or "nothing"
            raise RefusedError(
                f"{self.url} is a zip archive that must hold one file, but holds {len(members)} ({found}).",
                rule="container",
            )
        if names[0].startswith(("/", "\\")) or ".." in names[0].replace("\\", "/").split("/"):
            raise RefusedError(
                f"{self.url} holds a file with a hostile path, {names[0]!r}.", rule="container"
            )
        if members[0].flag_bits & 1:
            raise RefusedError(f"{self.url} is an encrypted zip archive.", rule="container")
        try:
            return archive.open(members[0])
        except NotImplementedError as error:
            raise RefusedError(f"{self.url} cannot be unpacked: {error}.", rule="container") from None

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, less only at the end; b"" at the end."""
        parts, wanted = [], size
        with source_errors(self.url):
            while wanted:
                part = self._stream.read(wanted)
                if not part:
                    break
                parts.append(part)
                wanted -= len(part)
        data = b"".join(parts) if len(parts) != 1 else parts[0]
        self._out += len(data)
        if self._out > BOMB_BYTES and self._out > BOMB_FACTOR * max(self._hashed.bytes, 1):
            raise RefusedError(
                f"{self.url} unpacks to more than {BOMB_FACTOR} times its size; taken for a bomb.",
                rule="container",
            )
        return data

    def finish(self) -> None:
        """Read the stored file to its end, so that hash and size are complete."""
        with source_errors(self.url):
            self._hashed.drain()

    @property
    def sha256(self) -> str:
        """Hash of what was read so far of the stored file, as hex."""
        return self._hashed.sha.hexdigest()

    @property
    def bytes(self) -> int:
        """How much was read so far of the stored file."""
        return self._hashed.bytes

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TextSource:
    """The delivery as UTF-8 bytes without a BOM, in pieces.

    A file declared (or by default) UTF-8 passes through unchecked: bad bytes
    are found where records are made. ``warnings`` tells what was odd.
    """

    def __init__(self, unpacked: Unpacked, encoding: str) -> None:
        self.unpacked = unpacked
        self.warnings: list[str] = []
        self._offset = 0
        self._head = unpacked.read(CHUNK)
        self._check_empty()
        self.encoding = self._resolve(codecs.lookup(encoding).name)
        _check_is_csv(self._decoded_head(), unpacked.url)
        self._decoder = None
        if self.encoding not in ("utf-8", "ascii"):
            self._decoder = codecs.getincrementaldecoder(self.encoding)()

    def _check_empty(self) -> None:
        if not self._head:
            raise RefusedError(f"{self.unpacked.url} is empty.", rule="empty")

    def _resolve(self, declared: str) -> str:
        for bom, name in _BOMS.items():
            if self._head.startswith(bom):
                self._head = self._head[len(bom) :]
                self._offset = len(bom)
                if not self._head:
                    raise RefusedError(
                        f"{self.unpacked.url} is empty but for a byte order mark.", rule="empty"
                    )
                return name
        return "utf-8" if declared == "utf-8-sig" else declared

    def _decoded_head(self) -> bytes:
        head = self._head[:4096]
        if self.encoding in ("utf-8", "ascii"):
            return head
        return head.decode(self.encoding, "replace").encode()

    def read(self, size: int) -> bytes:
        """About ``size`` bytes of UTF-8; b"" at the end."""
        while True:
            raw = self._take(size)
            if self._decoder is None:
                return raw
            try:
                text = self._decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                raise RefusedError(
                    f"{self.unpacked.url} is not {self.encoding}: {error.reason} near byte "
                    f"{self._offset - len(raw) + error.start}. Declare the right encoding.",
                    rule="encoding",
                ) from None
            if text or not raw:
                return text.encode("utf-8", "surrogatepass")

    def _take(self, size: int) -> bytes:
        if self._head:
            raw, self._head = self._head[:size], self._head[size:]
            if len(raw) < size:
                raw += self.unpacked.read(size - len(raw))
        else:
            raw = self.unpacked.read(size)
        self._offset += len(raw)
        return raw


def _check_is_csv(head: bytes, url: str) -> None:
    """Refuse what is plainly something else under the name of a CSV file."""
    kind = next((k for magic, k in _NOT_CSV.items() if head.startswith(magic)), None)
    start = head.lstrip()[:512].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        kind = "an HTML page (perhaps an error message of the supplier's server)"
    elif start.startswith(b"<?xml"):
        kind = "an XML file"
    elif start[:1] in (b"{", b"[") and _is_json(head):
        kind = "JSON"
    if kind:
        raise RefusedError(
            f"{url} looks like {kind}, not CSV. Ask the supplier for the CSV file.", rule="not.csv"
        )


def _is_json(head: bytes) -> bool:
    text = head.decode("utf-8", "replace").strip()
    for candidate in (text, text.splitlines()[0]):
        try:
            if isinstance(json.loads(candidate), dict | list):
                return True
        except ValueError:
            continue
    # cut off in the middle of a large document: braces, a quoted name and a colon tell
    return text.startswith(("{\n", "[\n", "[{", "{\r\n", "[\r\n")) and '":' in text
