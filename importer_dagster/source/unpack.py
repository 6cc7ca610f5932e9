"""From a file to the bytes in it: hashing, unpacking.

Containers are recognised by their first bytes, whatever the file is called. A
container that is damaged, cut off, hostile or of doubtful content is refused;
bytes behind its end are not passed over.

What does not belong here: opening files (``source/open_file.py``), text encodings
(``reader/decoding.py``), telling what is no CSV (``reader/file_kind.py``), records and fields (``reader/records.py``, ``reader/reader.py``).
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
try:  # takes two fifths of zlib's time; has no wheel for every processor
    from isal import igzip_lib, isal_zlib

    decompressobj, InflateError = isal_zlib.decompressobj, igzip_lib.IsalError
except ImportError:
    import zlib

    decompressobj, InflateError = zlib.decompressobj, zlib.error

CHUNK = 1 << 20
# A container that unpacks to more than this, and by more than this factor, is taken for a bomb.
# The same line over and over shrinks by a factor of 1,000 in gzip; tables of numbers by 3 to 50.
BOMB_BYTES, BOMB_FACTOR = 256 << 20, 400
_JUNK = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")  # what archivers add on their own

_SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}


class _Hashed:
    """A readable file that hashes and counts what passes through; ``head`` is given out once more."""

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
        """The first bytes, which ``read`` then gives again."""
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
        except OSError as error:  # told apart here from errors of what unpacks
            raise SourceUnavailable(f"The file could not be read to its end: {error}") from error
        self.sha.update(data)
        if self.other not in (None, self.sha):
            self.other.update(data)
        self.bytes += len(data)
        if not data and size:
            self._check_whole()
        return data

    def _check_whole(self) -> None:
        """At its end: no less came than the file had when it was opened; some network drives stop early."""
        size = self._file.size
        if size is not None and self.bytes < size:
            raise SourceUnavailable(
                f"The file was changed while it was read, or not read whole: it had {size} bytes, {self.bytes} came. "
                "Nothing of it is loaded; it is tried again. If this happens often, declare complete.marker or a longer "
                "complete.min_age."
            )

    def drain(self) -> None:
        """Read what is left, so that hash and size are of the whole file."""
        while not self._complete and self.read(CHUNK):
            pass
        self._complete = True  # whoever goes on reading the file, as zipfile does, is not heard

    # what Arrow asks of a file
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
    """The content of a gzip, bzip2 or xz file: all its members, and no bytes behind them passed over."""

    def __init__(self, file: _Hashed, new_member: Callable[[], Any]) -> None:
        self._file, self._new_member = file, new_member
        self._member = new_member()
        self._input = b""  # what the member has not taken yet
        self._ended = False

    def read(self, size: int) -> bytes:
        while not self._ended:
            data = self._some(size)
            if data:
                return data
            if self._member.eof:
                self._begin_next()
        return b""

    def _some(self, size: int) -> bytes:
        if self._member.eof:
            return b""
        hungry = not self._input and getattr(self._member, "needs_input", True)
        given = self._file.read(CHUNK) if hungry else self._input
        data = bytes(self._member.decompress(given, size))
        self._input = getattr(self._member, "unconsumed_tail", b"")
        if hungry and not given and not data and not self._member.eof:
            raise EOFError("it ends in the middle")
        return data

    def _begin_next(self) -> None:
        """Zeros behind a member are padding, as tapes have it; anything else must be one more member."""
        rest = self._member.unused_data
        while not rest.strip(b"\0"):
            rest = self._file.read(CHUNK)
            if not rest:
                self._ended = True
                return
        self._member, self._input = self._new_member(), rest.lstrip(b"\0")


def fingerprint_url(url: str, inbox: str | None = None) -> tuple[str, int]:
    """(sha256 as hex, size in bytes) of the file as it is stored."""
    with open_url(url, inbox) as file, source_errors(url):
        hashed = _Hashed(file)
        hashed.drain()
    return hashed.sha.hexdigest(), hashed.bytes


class Unpacked:
    """The decompressed bytes of one delivery, hashed as they are read.

    ``sha256`` and ``bytes`` (of the stored file) are complete after ``finish``.
    Raises RefusedError for what is no CSV, no sound archive, or empty. ``inbox`` is
    the folder that the file must lie in, ``also`` the name of one more hash, ``data``
    the file's bytes where they were read before.
    """

    def __init__(
        self, url: str, inbox: str | None = None, also: str | None = None, data: bytes | None = None
    ) -> None:
        self.url = redact(url)  # for messages
        self._file = open_url(url, inbox) if data is None else SourceFile.holding(data)
        try:
            with source_errors(url):
                self._hashed = _Hashed(self._file, also)
                self._stream = self._unpack()
        except BaseException:
            self._file.close()
            raise
        self._out = 0

    def _unpack(self) -> Any:
        head = self._hashed.peek(CHUNK)
        kind = next((k for magic, k in _MAGIC.items() if head.startswith(magic)), None)
        named = next((k for suffix, k in _SUFFIXES.items() if self.url.lower().endswith(suffix)), None)
        if kind is None and named is not None and head:
            raise RefusedError(
                f"{self.url} is called {named}, but its content is not. Rename it, or have it sent again.",
                rule="container",
            )
        if kind == "zip":
            return self._unzip()
        openers: dict[str | None, Callable[[], Any]] = {
            "gzip": partial(decompressobj, wbits=31),
            "bzip2": bz2.BZ2Decompressor,
            "xz": lzma.LZMADecompressor,
        }
        if kind == "zstd":
            return pa.CompressedInputStream(pa.PythonFile(self._hashed, "r"), "zstd")
        return _Inflated(self._hashed, openers[kind]) if kind else self._hashed

    def _unzip(self) -> Any:
        self._hashed.drain()
        self._file.seek(0)
        try:
            return self._member(zipfile.ZipFile(self._file))
        except NotImplementedError as error:
            raise RefusedError(f"{self.url} cannot be unpacked: {error}.", rule="container") from None
        except (OSError, ValueError, RuntimeError, struct.error) as error:  # what zipfile makes of damage
            raise zipfile.BadZipFile(str(error)) from None

    def _member(self, archive: zipfile.ZipFile) -> Any:
        """The one file in a zip archive."""
        files = [m for m in archive.infolist() if not m.is_dir()]
        members = [m for m in files if not m.filename.startswith(_JUNK[0]) and _base(m) not in _JUNK]
        names = [m.filename for m in members]
        if {"[Content_Types].xml", "mimetype"} & set(names):
            raise RefusedError(f"{self.url} is an Excel or other Office file, not CSV.", rule="not.csv")
        for name in (m.filename for m in archive.infolist()):
            if _is_hostile(name):
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
                part = self._read_some(wanted)
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

    def _read_some(self, size: int) -> bytes:
        try:
            data: bytes = self._stream.read(size)
            return data
        # of what unpacks; the file's own are SourceUnavailable by now
        except (OSError, InflateError) as error:
            raise EOFError(str(error)) from None
        except RuntimeError as error:  # zipfile, of what is encrypted
            raise zipfile.BadZipFile(str(error)) from None

    def finish(self) -> None:
        """Read the stored file to its end, so that hash and size are complete."""
        with source_errors(self.url):
            self._hashed.drain()

    @property
    def sha256(self) -> str:
        """Hash of what was read so far of the stored file, as hex."""
        return self._hashed.sha.hexdigest()

    @property
    def digest(self) -> str | None:
        """The other hash that was asked for."""
        return self._hashed.other.hexdigest() if self._hashed.other is not None else None

    @property
    def bytes(self) -> int:
        """How much was read so far of the stored file."""
        return self._hashed.bytes

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _base(member: zipfile.ZipInfo) -> str:
    return member.filename.rsplit("/", 1)[-1]


def _is_hostile(name: str) -> bool:
    """Whether a path would lead out of the folder it is unpacked in; nothing is ever unpacked to a folder."""
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\")) or ".." in parts or parts[0].endswith(":")
