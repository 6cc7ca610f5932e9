"""The text of a delivery as UTF-8 bytes, whatever its encoding, and a window that moves over it.

Bytes that cannot be decoded do not stop the reading here. Each becomes a lone surrogate,
which UTF-8 does not allow, so that the record with it is found and rejected as in a UTF-8 file.

What does not belong here: unpacking (``source/unpack.py``), records (``reader/records.py``).
"""

from __future__ import annotations

import codecs
import re
from typing import Any

import numpy as np
import pyarrow as pa

from importer_dagster.errors import RefusedError
from importer_dagster.reader.encoding_detection import suggest_encoding
from importer_dagster.reader.file_kind import HEAD, kind_if_not_csv
from importer_dagster.reader.spans import count_lines
from importer_dagster.source.unpack import CHUNK, Unpacked

_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # tested before UTF-16, whose mark is the first half of this one
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_NULS_OF_WIDE_TEXT = 0.2  # bytes with a larger share of NUL bytes may be UTF-16 or UTF-32
_AS_SURROGATES = "importer.as_surrogates"


def _bytes_as_surrogates(error: UnicodeError) -> tuple[str, int]:
    """Error handler for codecs: the bad byte 0xNN becomes the lone surrogate U+DCNN."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + b) for b in error.object[error.start : error.end]), error.end


codecs.register_error(_AS_SURROGATES, _bytes_as_surrogates)


def shown(data: bytes) -> str:
    """Bytes as text for messages and rejects; a NUL or invalid byte is written as ``\\x00``."""
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "backslashreplace")
    return re.sub("[\0\ud800-\udfff]", lambda m: f"\\x{ord(m.group()) & 0xFF:02x}", text)


def first_bad_byte(data: bytes) -> int:
    """Position of the first byte that is not UTF-8; the length if there is none."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(data)


def is_utf8(data: bytes) -> bool:
    """Whether all bytes are valid UTF-8; ten times as fast as decoding them."""
    ends = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, ends, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


_MORE = np.zeros(256, np.int8)  # bytes that follow a first byte of UTF-8
_MORE[0xC2:0xE0], _MORE[0xE0:0xF0], _MORE[0xF0:0xF5] = 1, 2, 3
_LOWEST, _HIGHEST = np.full(256, 0x80, np.uint8), np.full(256, 0xBF, np.uint8)  # of the second byte
_LOWEST[[0xE0, 0xF0]], _HIGHEST[[0xED, 0xF4]] = (0xA0, 0x90), (0x9F, 0x8F)


def invalid_bytes(data: bytes) -> np.ndarray:
    """Positions of bytes that are not UTF-8. The first of a line is where decoding the line fails."""
    if is_utf8(data):
        return np.zeros(0, np.int64)
    raw = np.append(np.frombuffer(data, np.uint8), np.zeros(3, np.uint8))
    high = np.flatnonzero(raw >= 0x80)
    firsts = high[raw[high] >= 0xC0]
    more = _MORE[raw[firsts]]
    second = raw[firsts + 1]
    good = (more > 0) & (second >= _LOWEST[raw[firsts]]) & (second <= _HIGHEST[raw[firsts]])
    covered = np.zeros(len(raw), np.bool_)
    for behind in (2, 3):
        good &= (more < behind) | (raw[firsts + behind] & 0xC0 == 0x80)
    for behind in (1, 2, 3):
        covered[firsts[good & (more >= behind)] + behind] = True
    covered[firsts[good]] = True
    invalid: np.ndarray = high[~covered[high]]
    return invalid


class TextSource:
    """The text of a delivery as UTF-8 bytes without a byte order mark, read in pieces.

    The bytes of a UTF-8 file pass through unchecked: invalid ones are found where
    records are made. ``bom`` is the length of the byte order mark in bytes. ``first_bad``
    is the offset in the file of the first byte that could not be decoded from another encoding.
    """

    def __init__(self, unpacked: Unpacked, encoding: str) -> None:
        """Read the first piece; raises RefusedError if the file is empty or plainly no CSV."""
        self.unpacked = unpacked
        self.warnings: list[str] = []
        self.bom = 0
        self.first_bad: int | None = None
        self._read = 0  # bytes of the file that the decoder was given
        self._head = unpacked.read(CHUNK)
        if not self._head:
            raise RefusedError(f"{unpacked.url} is empty.", rule="empty")
        self.encoding = self._resolve_encoding(codecs.lookup(encoding).name)
        self._decoder: Any = None
        head = self._head[:HEAD]
        if self.encoding not in ("utf-8", "ascii"):
            self._decoder = codecs.getincrementaldecoder(self.encoding)()
            head = head.decode(self.encoding, "replace").encode("utf-8", "replace")
        elif wide := _wide_text(head):
            raise RefusedError(
                f"{unpacked.url} looks like {wide.upper()} without a byte order mark, but the spec says "
                f"{self.encoding}: declare encoding: {wide}. The first NUL byte is at offset {head.find(0)}.",
                rule="encoding",
                line=1,
            )
        if kind := kind_if_not_csv(head):
            raise RefusedError(
                f"{unpacked.url} looks like {kind}, not CSV. Ask the supplier for the CSV file.",
                rule="not.csv",
            )

    def _resolve_encoding(self, declared: str) -> str:
        """The encoding by the byte order mark, which is skipped; without a mark the declared one."""
        for bom, name in _BOMS.items():
            if not self._head.startswith(bom):
                continue
            while self._head.startswith(bom):  # some programs write it twice
                self._head = self._head[len(bom) :]
                self.bom += len(bom)
            self._read = self.bom
            if not self._head:
                raise RefusedError(f"{self.unpacked.url} is empty but for a byte order mark.", rule="empty")
            plain = declared.replace("_", "-")
            if plain not in ("utf-8", "utf-8-sig", "ascii") and not name.startswith(plain):
                self.warnings.append(
                    f"the spec says encoding {declared}, but the byte order mark says {name}; {name} was read"
                )
            return name
        if declared in ("utf-16", "utf-32"):
            return (
                _wide_text(self._head) or f"{declared}-be"
            )  # the Unicode standard's rule for text without a mark
        return "utf-8" if declared == "utf-8-sig" else declared

    def read(self, size: int) -> bytes:
        """About ``size`` bytes of UTF-8; b"" at the end."""
        while True:
            raw, self._head = self._head[:size], self._head[size:]
            if len(raw) < size:
                more = self.unpacked.read(size - len(raw))
                raw = raw + more if raw else more
            self._read += len(raw)
            if self._decoder is None:
                return raw
            text = self._decode(raw)
            if text or not raw:
                return text.encode("utf-8", "surrogatepass")

    @property
    def pending(self) -> int:
        """Bytes of the file that were read, but not handed on."""
        return len(self._head)

    def _decode(self, raw: bytes) -> str:
        before = self._decoder.getstate()
        try:
            return str(self._decoder.decode(raw, final=not raw))
        except UnicodeDecodeError as error:
            if self.first_bad is None:
                self.first_bad = self._read - len(error.object) + error.start
        except UnicodeError as error:
            raise self._undecodable(error) from None
        self._decoder.setstate(before)
        self._decoder.errors = _AS_SURROGATES
        try:
            return str(self._decoder.decode(raw, final=not raw))
        except UnicodeError as error:
            raise self._undecodable(error) from None
        finally:
            self._decoder.errors = "strict"

    def _undecodable(self, error: UnicodeError) -> RefusedError:
        return RefusedError(
            f"{self.unpacked.url} is not {self.encoding.upper()}: {error}, near byte {self._read}. Declare the right "
            "encoding.",
            rule="encoding",
        )

    def wrong_encoding(self, sample: bytes, fault: str, line: int, offset: int) -> RefusedError:
        """The error for a file whose encoding is not the declared one; ``sample`` are lines with invalid bytes."""
        offset = self.first_bad if self.first_bad is not None else offset
        advice = "Declare the right one in the spec."
        if self._decoder is None:
            guess = suggest_encoding(sample)
            text = sample[:400].decode(guess, "replace").strip()[:60]
            advice = f"Perhaps it is {guess}, in which this reads {text!r}: then declare encoding: {guess}."
        return RefusedError(
            f"{self.unpacked.url} is not {self.encoding.upper()}: {fault}, the first of them at offset {offset} "
            f"in line {line}. {advice}",
            rule="encoding",
            line=line,
        )


def _wide_text(head: bytes) -> str | None:
    """UTF-16 or UTF-32, if NUL bytes are in the places where these have them in text of mostly ASCII; else None."""
    head = head[: len(head) // 4 * 4]
    if head.count(0) <= _NULS_OF_WIDE_TEXT * max(len(head), 1):
        return None
    n = len(head) // 4
    nuls = [head[i::4].count(0) for i in range(4)]
    for name, full, empty in (
        ("utf-32-le", (2, 3), (0,)),
        ("utf-32-be", (0, 1), (3,)),
        ("utf-16-le", (1, 3), (0, 2)),
        ("utf-16-be", (0, 2), (1, 3)),
    ):
        if all(nuls[i] > 0.6 * n for i in full) and all(nuls[i] < 0.1 * n + 1 for i in empty):
            return name
    return None


_FIRST = 1 << 20  # bytes of the first piece; small, so that validating and writing begin soon
_MOST_MORE = 4 << 20
LINES = 128_000  # of a batch, and those of one piece more
_PIECE = 64 << 10


class Window:
    """The part of the text that was read but not consumed yet: its bytes, and the line and offset where it starts."""

    def __init__(self, source: TextSource, block_size: int) -> None:
        self.source, self.block_size = source, block_size
        self._next = min(block_size, _FIRST)
        self.data = b""
        self.line = 1
        self.offset = source.bom
        self.ended = False

    def fill(self) -> None:
        """Read one more piece of ``block_size`` bytes; less only at the end of the text, which sets ``ended``."""
        size, self._next = self._next, self.block_size
        size = max(size, min(len(self.data), _MOST_MORE))  # so that a long record is not looked at too often
        pieces = [self.data]
        while size > 0 and not self.ended:
            piece = self.source.read(size)
            pieces.append(piece)
            size -= len(piece)
            self.ended = not piece
        self.data = b"".join(pieces)
        if self.ended and self.data.endswith(b"\x1a"):
            self.data = self.data.rstrip(b"\x1a")  # Ctrl-Z, which DOS programs write at the end

    def visible(self) -> bytes:
        """The first of the bytes, for one batch: so few lines that its memory does not grow with their number."""
        most = min(len(self.data), self.block_size + _FIRST)
        lines = 0
        for at in range(0, most if most > LINES else 0, _PIECE):
            lines += count_lines(self.data, at, min(at + _PIECE, most))
            if lines >= LINES:
                most = min(at + _PIECE, most)
                break
        return self.data if most == len(self.data) else self.data[:most]

    def double(self) -> None:
        """Read pieces of twice the size from now on."""
        self.block_size *= 2
        self._next = self.block_size

    def consume(self, length: int) -> None:
        """Drop the first ``length`` bytes; ``line`` and ``offset`` move on."""
        self.line += count_lines(self.data, end=length)
        self.offset += length
        self.data = self.data[length:]
