"""Reads the plain bytes of a delivery: hashes the stored file and unpacks it.

Archives are recognised by their first bytes, whatever the file is called. An archive is refused
if it is damaged, cut off, dangerous or has more than one file. Bytes behind the end of
an archive are never ignored.

What does not belong here: opening files (``source/open_file.py``), text encodings
(``reader/decoding.py``), recognising files that are no CSV (``reader/file_kind.py``), records and
fields (``reader/records.py``, ``reader/reader.py``).
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa

from importer_dagster.errors import RefusedError, SourceUnavailable
from importer_dagster.redaction import redact
from importer_dagster.source.open_file import SourceFile, open_url, source_errors

decompressobj: Any
InflateError: Any
try:  # takes 40 % of zlib's time, but has no wheel for some processors
    from isal import igzip_lib, isal_zlib

    decompressobj, InflateError = isal_zlib.decompressobj, igzip_lib.IsalError
except ImportError:
    import zlib

    decompressobj, InflateError = zlib.decompressobj, zlib.error

CHUNK = 1 << 20
# An archive that unpacks to more bytes than this, and to more than this factor of its size, is refused as a bomb.
# gzip shrinks tables of numbers by a factor of 3 to 50, a file of one line over and over by 1,000.
BOMB_BYTES, BOMB_FACTOR = 256 << 20, 400
_JUNK = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")  # files that archive programs add

_SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}


class _HashingFile:
    """A readable file that hashes and counts the bytes that are read. ``also`` names a hash to make besides sha256."""

    def __init__(self, file: SourceFile, also: str | None = None) -> None:
        self._file = file
        self._ahead = b""
        self.sha = hashlib.sha256()
        self.other = self.sha if also == "sha256" else None
        if also and self.other is None:
            self.other = hashlib.new(also, usedforsecurity=False)
        self.bytes = 0
        self.closed = False
        self._complete = False

    def peek(self, size: int) -> bytes:
        """The first bytes; ``read`` returns them again."""
        self._ahead = self.read(size)
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead, b""
            if 0 <= size < len(data):
                data, self._ahead = data[:size], data[size:]
            return data
        try:
            data = self._file.read(size)
        except OSError as error:  # converted here, since an OSError of an unpacker means a damaged archive
            raise SourceUnavailable(f"The file could not be read to its end: {error}") from error
        self.sha.update(data)
        if self.other not in (None, self.sha):
            self.other.update(data)
        self.bytes += len(data)
        if not data and size and self._file.size is not None and self.bytes < self._file.size:
            # some network drives end the file too early
            raise SourceUnavailable(
                f"The file was changed while it was read, or not read whole: it had {self._file.size} bytes, "
                f"{self.bytes} came. Nothing of it is loaded; it is tried again. If this happens often, declare "
                "complete.marker or a longer complete.min_age."
            )
        return data

    def drain(self) -> None:
        """Read the rest, so that hash and size are those of the whole file."""
        while not self._complete and self.read(CHUNK):
            pass
        self._complete = True  # zipfile moves in the file afterwards, so it must not be read and hashed again

    # methods that Arrow needs of a file
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


class _Inflated:
    """The content of a gzip, bzip2 or xz file: of all its members, one behind the other."""

    def __init__(self, file: _HashingFile, new_member: Callable[[], Any]) -> None:
        self._file, self._new_member = file, new_member
        self._member = new_member()
        self._input = b""  # bytes that the member has not taken yet
        self._ended = False

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, b"" at the end; raises EOFError if the file ends inside of a member."""
        while not self._ended:
            if self._member.eof:
                # zeros behind a member are padding, as on tapes; anything else must be one more member
                rest = self._member.unused_data
                while not rest.strip(b"\0"):
                    rest = self._file.read(CHUNK)
                    if not rest:
                        self._ended = True
                        return b""
                self._member, self._input = self._new_member(), rest.lstrip(b"\0")
                continue
            needs_input = not self._input and getattr(self._member, "needs_input", True)
            given = self._file.read(CHUNK) if needs_input else self._input
            data = bytes(self._member.decompress(given, size))
            self._input = getattr(self._member, "unconsumed_tail", b"")
            if data:
                return data
            if needs_input and not given and not self._member.eof:
                raise EOFError("it ends in the middle")
        return b""


def fingerprint_url(url: str, inbox: str | None = None) -> tuple[str, int]:
    """(sha256 as hex, size in bytes) of the file as it is stored."""
    with open_url(url, inbox) as file, source_errors(url):
        hashed = _HashingFile(file)
        hashed.drain()
    return hashed.sha.hexdigest(), hashed.bytes


class Unpacked:
    """The unpacked bytes of one delivery, hashed as they are read.

    ``sha256`` and ``bytes`` (of the stored file) are complete after ``finish``. ``inbox`` is the folder
    that the file must be in, ``also`` the name of a hash to make besides sha256, ``data`` the bytes
    of the file if they were read before. Raises RefusedError for a damaged or dangerous archive.
    """

    def __init__(
        self, url: str, inbox: str | None = None, also: str | None = None, data: bytes | None = None
    ) -> None:
        self.url = redact(url)  # for messages
        self._file = open_url(url, inbox) if data is None else SourceFile.holding(data)
        try:
            with source_errors(url):
                self._hashed = _HashingFile(self._file, also)
                self._stream = self._unpacking_stream()
        except BaseException:
            self._file.close()
            raise
        self._out = 0

    def _unpacking_stream(self) -> Any:
        """A stream of the unpacked bytes, by the kind of archive; of the file itself if it is none."""
        head = self._hashed.peek(CHUNK)
        kind = next((k for magic, k in _MAGIC.items() if head.startswith(magic)), None)
        named = next((k for suffix, k in _SUFFIXES.items() if self.url.lower().endswith(suffix)), None)
        if kind is None and named is not None and head:
            raise RefusedError(
                f"{self.url} is called {named}, but its content is not. Rename it, or have it sent again.",
                rule="container",
            )
        if kind == "zip":
            self._hashed.drain()
            self._file.seek(0)
            try:
                return self._open_zip_member(zipfile.ZipFile(self._file))
            except NotImplementedError as error:
                raise RefusedError(f"{self.url} cannot be unpacked: {error}.", rule="container") from None
            except (OSError, ValueError, RuntimeError, struct.error) as error:  # zipfile's errors for damage
                raise zipfile.BadZipFile(str(error)) from None
        if kind == "zstd":
            return pa.CompressedInputStream(pa.PythonFile(self._hashed, "r"), "zstd")
        openers: dict[str | None, Callable[[], Any]] = {
            "gzip": partial(decompressobj, wbits=31),
            "bzip2": bz2.BZ2Decompressor,
            "xz": lzma.LZMADecompressor,
        }
        return _Inflated(self._hashed, openers[kind]) if kind else self._hashed

    def _open_zip_member(self, archive: zipfile.ZipFile) -> Any:
        """The one file in a zip archive; raises RefusedError if there are several, or if it is dangerous."""
        files = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith(_JUNK[0])]
        members = [m for m in files if m.filename.rsplit("/", 1)[-1] not in _JUNK]
        names = [m.filename for m in members]
        if {"[Content_Types].xml", "mimetype"} & set(names):
            raise RefusedError(f"{self.url} is an Excel or other Office file, not CSV.", rule="not.csv")
        for name in (m.filename for m in archive.infolist()):
            # a path out of the folder of the archive is an attack, though nothing is unpacked to a folder here
            parts = name.replace("\\", "/").split("/")
            if name.startswith(("/", "\\")) or ".." in parts or parts[0].endswith(":"):
                raise RefusedError(
                    f"{self.url} holds a file with a hostile path, {name[:200]!r}. Ask the supplier about it.",
                    rule="container",
                )
        if len(members) != 1:
            found = ", ".join(n[:80] for n in names[:5]) or "nothing"
            raise RefusedError(
                f"{self.url} is a zip archive that must hold one file, but holds {len(members)} ({found}). "
                "Ask the supplier for one file in each.",
                rule="container",
            )
        if members[0].flag_bits & 1:
            raise RefusedError(
                f"{self.url} is an encrypted zip archive. Ask the supplier for one without a password.",
                rule="container",
            )
        return archive.open(members[0])

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, less only at the end; b"" at the end."""
        parts: list[bytes] = []
        wanted = size
        with source_errors(self.url):
            while wanted:
                try:
                    part = self._stream.read(wanted)
                # an error of the unpacker; an OSError of the file has become SourceUnavailable
                except (OSError, InflateError) as error:
                    raise EOFError(str(error)) from None
                except RuntimeError as error:  # zipfile's error for an encrypted file
                    raise zipfile.BadZipFile(str(error)) from None
                if not part:
                    break
                parts.append(part)
                wanted -= len(part)
        data = b"".join(parts) if len(parts) != 1 else parts[0]
        self._out += len(data)
        if self._out > BOMB_BYTES and self._out > BOMB_FACTOR * max(self._hashed.bytes, 1):
            raise RefusedError(
                f"{self.url} unpacks to more than {BOMB_FACTOR} times its size; taken for a bomb. Send it unpacked "
                "if it is sound.",
                rule="container",
            )
        return data

    def finish(self) -> None:
        """Read the stored file to its end, so that hash and size are complete."""
        with source_errors(self.url):
            self._hashed.drain()

    @property
    def sha256(self) -> str:
        """Hash of the bytes of the stored file that were read so far, as hex."""
        return self._hashed.sha.hexdigest()

    @property
    def digest(self) -> str | None:
        """The hash that ``also`` named, as hex."""
        return self._hashed.other.hexdigest() if self._hashed.other is not None else None

    @property
    def bytes(self) -> int:
        """How many bytes of the stored file were read so far."""
        return self._hashed.bytes

    @property
    def unread(self) -> int | None:
        """How many bytes were not read yet; None for an archive, and if the size of the file is not known."""
        size = self._file.size
        return None if self._stream is not self._hashed or size is None else max(size - self._out, 0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
