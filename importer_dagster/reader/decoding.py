"""A delivery's text as UTF-8 bytes, whatever encoding it came in, and a window that moves over it.

What cannot be decoded is not refused here: each bad byte becomes a code point
that UTF-8 does not allow, so that the record it stands in is found and rejected
the same way as in a UTF-8 file.

What does not belong here: unpacking (``source/unpack.py``), records (``reader/records.py``).
"""

from __future__ import annotations

import codecs
import re
from typing import Any

import numpy as np
import pyarrow as pa

from importer_dagster.errors import RefusedError
from importer_dagster.reader.encoding_detection import suggest
from importer_dagster.reader.file_kind import HEAD, what_else
from importer_dagster.reader.records import count_lines
from importer_dagster.source.unpack import CHUNK, Unpacked

_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16: it starts with the same two bytes
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_NULS_OF_WIDE_TEXT = 0.2  # share of NUL bytes from which bytes may be UTF-16 or UTF-32
_MARK = "importer.mark"


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Bad bytes as lone surrogates: never legal, and the byte can be told from them."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + b) for b in error.object[error.start : error.end]), error.end


codecs.register_error(_MARK, _mark)


def shown(data: bytes) -> str:
    """Bytes as text for a person; what is no text, and NUL, as ``\\x00``."""
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
    """Whether all of it is valid; ten times as fast as to decode it."""
    ends = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, ends, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


class TextSource:
    """The delivery as UTF-8 bytes without a BOM, in pieces.

    A file declared (or by default) UTF-8 passes through unchecked: bad bytes
    are found where records are made. ``first_bad`` is the offset in the file of
    the first byte that could not be decoded from another encoding.
    """

    def __init__(self, unpacked: Unpacked, encoding: str) -> None:
        self.unpacked = unpacked
        self.warnings: list[str] = []
        self.bom = 0  # bytes of the byte order mark
        self.first_bad: int | None = None
        self._read = 0  # bytes of the file that the decoder was given
        self._head = unpacked.read(CHUNK)
        if not self._head:
            raise RefusedError(f"{unpacked.url} is empty.", rule="empty")
        self.encoding = self._resolve(codecs.lookup(encoding).name)
        self._decoder: Any = None
        if self.encoding not in ("utf-8", "ascii"):
            self._decoder = codecs.getincrementaldecoder(self.encoding)()
        self._check_is_csv()

    def _resolve(self, declared: str) -> str:
        for bom, name in _BOMS.items():
            if self._head.startswith(bom):
                self._skip_bom(bom)
                plain = declared.replace("_", "-")
                if plain not in ("utf-8", "utf-8-sig", "ascii") and not name.startswith(plain):
                    self.warnings.append(
                        f"the spec says encoding {declared}, but the byte order mark says {name}; {name} was read"
                    )
                return name
        if declared in ("utf-16", "utf-32"):
            return _wide_text(self._head) or f"{declared}-be"  # as Unicode says for text without a mark
        return "utf-8" if declared == "utf-8-sig" else declared

    def _skip_bom(self, bom: bytes) -> None:
        while self._head.startswith(bom):  # some programs write it twice
            self._head = self._head[len(bom) :]
            self.bom += len(bom)
        self._read = self.bom
        if not self._head:
            raise RefusedError(f"{self.unpacked.url} is empty but for a byte order mark.", rule="empty")

    def _check_is_csv(self) -> None:
        head = self._head[:HEAD]
        if self._decoder is None and (wide := _wide_text(head)):
            raise RefusedError(
                f"{self.unpacked.url} looks like {wide.upper()} without a byte order mark, but the spec says "
                f"{self.encoding}: declare encoding: {wide}. The first NUL byte is at offset {head.find(0)}.",
                rule="encoding",
                line=1,
            )
        if self._decoder is not None:
            head = head.decode(self.encoding, "replace").encode("utf-8", "replace")
        if kind := what_else(head):
            raise RefusedError(
                f"{self.unpacked.url} looks like {kind}, not CSV. Ask the supplier for the CSV file.",
                rule="not.csv",
            )

    def read(self, size: int) -> bytes:
        """About ``size`` bytes of UTF-8; b"" at the end."""
        while True:
            raw = self._take(size)
            if self._decoder is None:
                return raw
            text = self._decode(raw)
            if text or not raw:
                return text.encode("utf-8", "surrogatepass")

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
        self._decoder.errors = _MARK
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

    def _take(self, size: int) -> bytes:
        if self._head:
            raw, self._head = self._head[:size], self._head[size:]
            if len(raw) < size:
                raw += self.unpacked.read(size - len(raw))
        else:
            raw = self.unpacked.read(size)
        self._read += len(raw)
        return raw

    def refuse(self, sample: bytes, fault: str, line: int, offset: int) -> RefusedError:
        """The refusal of a file whose encoding is not the one declared; ``sample`` is bad bytes of it."""
        offset = self.first_bad if self.first_bad is not None else offset
        advice = "Declare the right one in the spec."
        if self._decoder is None:
            guess = suggest(sample)
            text = sample[:400].decode(guess, "replace").strip()[:60]
            advice = f"Perhaps it is {guess}, in which this reads {text!r}: then declare encoding: {guess}."
        return RefusedError(
            f"{self.unpacked.url} is not {self.encoding.upper()}: {fault}, the first of them at offset {offset} "
            f"in line {line}. {advice}",
            rule="encoding",
            line=line,
        )


def _wide_text(head: bytes) -> str | None:
    """The encoding of text that is full of NUL bytes in the places where UTF-16 and UTF-32 have them."""
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


_FIRST = 1 << 20  # bytes; a small first piece, so that the stages behind the reader begin soon


class Window:
    """The stretch of the text that is not used up yet: its bytes, and at which line and offset it starts."""

    def __init__(self, source: TextSource, block_size: int) -> None:
        self.source, self.block_size = source, block_size
        self._next = min(block_size, _FIRST)
        self.data = b""
        self.line = 1
        self.offset = source.bom
        self.ended = False

    def fill(self) -> None:
        """Take up one more piece of the text, and find out whether it is the last where it is a short one."""
        size, self._next = self._next, self.block_size
        pieces = [self.data]
        while size > 0 and not self.ended:
            piece = self.source.read(size)
            pieces.append(piece)
            size -= len(piece)
            self.ended = not piece
        self.data = b"".join(pieces)
        if self.ended and self.data.endswith(b"\x1a"):
            self.data = self.data.rstrip(b"\x1a")  # the Ctrl-Z that DOS programs write at the end

    def double(self) -> None:
        """Take up twice as much at a time from here on."""
        self.block_size *= 2
        self._next = self.block_size

    def use(self, length: int) -> None:
        """Drop the first bytes, counting the lines in them."""
        self.line += count_lines(self.data, end=length)
        self.offset += length
        self.data = self.data[length:]
