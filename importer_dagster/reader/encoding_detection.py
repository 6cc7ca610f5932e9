"""Finds the text encoding of a file by looking at all of its bytes.

A byte order mark decides. Without one, a file of valid UTF-8 is UTF-8. Any other file is
decoded in each usual encoding, and the encoding wins whose characters look most like words.
This is done by ``importer infer`` only; an import never guesses.

What does not belong here: the dialect (``inference/dialect.py``), decoding (``reader/decoding.py``).
"""

# Why this is not left to charset-normalizer (3.5.2, given the same lines, limited to the encodings below and
# iso8859-2, -5 and -7): it often reads cp1252 as cp1250, which turns ñ into ń. It does so in the real file
# enc_cp1252_thousands_real.csv, in 21 of 50 Western texts of 1 kB in cp1252, in 17 of 20 in iso8859-15 (the other 3
# as cp1252) and in 4 of 20 in mac_roman; this module is right in all of these. Where it is worse: it takes Czech and
# Hungarian cp1250 for cp1252 (18 of 20), and does not know iso8859-2. Of 250 texts, 10 in each of 25 pairs of
# language and encoding, this module decodes 196 without a fault and charset-normalizer 186.

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass, field

from importer_dagster.source.unpack import CHUNK, Unpacked

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # tested before UTF-16, whose mark is the first half of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 200_000  # bytes; the encodings are compared on about so many
_LATIN = ("cp1252", "iso8859_15", "mac_roman", "cp850", "cp1250", "cp1254", "cp437")
_OTHER_SCRIPTS = ("cp1251", "koi8_r", "cp866", "cp1253", "cp1255", "cp1256", "cp874")
_ASIAN = ("shift_jis", "cp932", "euc_jp", "euc_kr", "gb18030", "big5")
_NULS_OF_UTF16 = 0.2  # bytes with a larger share of NUL bytes may be UTF-16 without a mark

# How likely a character beyond ASCII is in Latin text that was decoded correctly.
_LATIN_WEIGHTS = {
    **dict.fromkeys("€£°’‘“”–—…«»§©®™²³ºª¿¡µ\u00a0·•´±½¼", 0.8),  # signs
    **dict.fromkeys("ąćęłńśźżĄĆĘŁŃŚŹŻčďěňřšťůžČĎĚŇŘŠŤŮŽőűŐŰăâîșțĂÂÎȘȚşţŞŢ", 0.95),  # Eastern Europe
    **dict.fromkeys(
        "àâäáãåçéèêëíìîïñóòôöõúùûüÿßøæœÀÂÄÁÃÅÇÉÈÊËÍÎÏÑÓÔÖÕÚÛÜØÆŒ", 1.0
    ),  # Western and Northern Europe
}
# First bytes of the common ideographs in each encoding.
_COMMON_IDEOGRAPHS = {
    "shift_jis": (0x88, 0x97),
    "cp932": (0x88, 0x97),
    "big5": (0xA4, 0xC6),
    "gb18030": (0xB0, 0xD7),
    "euc_jp": (0xB0, 0xCF),
}


@dataclass(frozen=True)
class Charset:
    """The encoding, as Python names it, and the reason; ``question`` is set where a person should decide."""

    encoding: str
    reason: str
    question: str | None = None
    ascii: bool = False


@dataclass
class _Survey:
    """What all bytes of a file show."""

    head: bytes = b""  # the first of them
    size: int = 0
    nuls: int = 0
    lines: int = 0
    bad_lines: int = 0  # with bytes that are not UTF-8
    multibyte_lines: int = 0  # valid UTF-8 beyond ASCII
    sample: bytearray = field(default_factory=bytearray)  # lines that are not ASCII

    @classmethod
    def of_file(cls, url: str) -> _Survey:
        """Read a file in pieces, each cut at the end of a line."""
        seen = cls()
        file = Unpacked(url)
        try:
            rest = b""
            while data := file.read(CHUNK):
                seen.head = seen.head or data[:4096]
                seen.size += len(data)
                seen.nuls += data.count(0)
                data = rest + data
                end = data.rfind(b"\n") + 1 or (len(data) if len(data) > 1 << 22 else 0)
                seen._add_lines(data[:end])
                rest = data[end:]
            seen._add_lines(rest)
        finally:
            file.close()
        return seen

    def _add_lines(self, data: bytes) -> None:
        """Count whole lines, and keep those that are not ASCII as long as the sample is small."""
        self.lines += data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
        if data.isascii():
            return
        for line in re.split(rb"[\r\n]+", data):
            if line.isascii():
                continue
            try:
                line.decode()
                self.multibyte_lines += 1
            except UnicodeDecodeError:
                self.bad_lines += 1
            if len(self.sample) < _SAMPLE:
                self.sample += line + b"\n"


def find_charset(url: str) -> Charset:
    """Read all of a file and find its encoding; raises RefusedError or SourceUnavailable if it cannot be read."""
    seen = _Survey.of_file(url)
    for mark, name in _BOMS:
        if seen.head.startswith(mark):
            return Charset(name, f"it starts with the byte order mark of {name.upper()}")
    even, odd = seen.head[::2].count(0), seen.head[1::2].count(0)
    if seen.nuls > _NULS_OF_UTF16 * seen.size and (odd > 2 * even or even > 2 * odd):
        wide = "utf-16-le" if odd > 2 * even else "utf-16-be"
        return Charset(wide, "every other byte is NUL, as in UTF-16 without a byte order mark")
    if not seen.bad_lines:
        plain = not seen.multibyte_lines
        return Charset("utf-8", "all bytes are ASCII" if plain else "all bytes are valid UTF-8", ascii=plain)
    if seen.multibyte_lines and seen.bad_lines <= seen.multibyte_lines:
        return Charset(
            "utf-8",
            f"{seen.multibyte_lines:,} lines are UTF-8 beyond ASCII, though {seen.bad_lines:,} are not",
            f"{seen.bad_lines:,} of {seen.lines:,} lines are not valid UTF-8; they will be rejected, and many of "
            "them refuse the file. Ask the supplier for one encoding.",
        )
    return _most_like_words(bytes(seen.sample))


def _most_like_words(sample: bytes) -> Charset:
    """Decode the sample in each encoding that is worth a try, and choose the one with the best score."""
    # Latin text has single letters beyond ASCII, other scripts have whole words of them
    high = len(re.findall(rb"[\x80-\xff]", sample))
    together = sum(len(m) for m in re.findall(rb"[\x80-\xff]{2,}", sample))
    encodings = (*_LATIN, *_ASIAN) if together < 0.35 * high else (*_ASIAN, *_OTHER_SCRIPTS, *_LATIN)
    scores = {name: _score(sample, name) for name in encodings}
    best = max(scores, key=scores.__getitem__)  # of several with the same score, the first
    if scores[best] <= 0:
        return Charset(
            "latin-1",
            "no usual encoding fits; latin-1 reads any bytes",
            "The encoding could not be told; ask the supplier, and declare it with --encoding.",
        )
    name = "iso-8859-15" if best == "iso8859_15" else best
    return Charset(
        name, f"the bytes are no UTF-8; read as {name}, the characters beyond ASCII look most like words"
    )


def suggest_encoding(sample: bytes) -> str:
    """The encoding in which bytes that are not UTF-8 look most like words, as a hint in a message."""
    return _most_like_words(sample[:_SAMPLE]).encoding


def _score(sample: bytes, encoding: str) -> float:
    """How much the characters beyond ASCII look like words: at most 1, and 0 or less for a wrong encoding."""
    try:
        text = sample.decode(encoding)
    except UnicodeDecodeError:
        return 0.0
    beyond = [c for c in text if ord(c) > 127]
    if not beyond:
        return 0.0
    if encoding in _ASIAN:
        return sum(_asian_weight(c, encoding) for c in beyond) / len(beyond)
    # wrong encodings give words with a capital behind a small letter
    words = [w for w in re.findall(r"\w{2,}", text) if not w.isascii()]
    odd_case = sum(
        bool(re.search(r"[^\W\d_]", w)) and not (w.islower() or w.isupper() or w.istitle()) for w in words
    ) / max(len(words), 1)
    categories = {c: unicodedata.category(c)[0] for c in set(beyond)}
    if encoding in _LATIN:
        weights = {c: _LATIN_WEIGHTS.get(c, 0.3 if k == "L" else -0.5) for c, k in categories.items()}
        return sum(weights[c] for c in beyond) / len(beyond) - 0.3 * odd_case
    # text in other scripts has no words that mix ASCII letters with others
    words = [w for w in re.findall(r"[^\W\d_]{2,}", text) if not w.isascii()]
    mixed = sum(bool(re.search("[A-Za-z]", w)) for w in words) / max(len(words), 1)
    letters = sum(categories[c] in "LM" for c in beyond) / len(beyond)
    return letters * 0.97 - 0.6 * odd_case - mixed


def _asian_weight(char: str, encoding: str) -> float:
    """How likely a character beyond ASCII is in text that was decoded correctly."""
    code = ord(char)
    if 0x3040 <= code < 0x3100:  # hiragana, katakana
        return 1.0 if encoding in ("shift_jis", "cp932", "euc_jp") else 0.1
    if 0xAC00 <= code < 0xD7A4:  # hangul
        return 1.0 if encoding == "euc_kr" else -0.2
    if 0x4E00 <= code < 0xA000:  # ideographs
        first, last = _COMMON_IDEOGRAPHS.get(encoding, (0, 0))
        return 0.95 if first <= char.encode(encoding)[0] <= last else 0.35
    if 0xFF01 <= code < 0xFF5F or 0x3000 <= code < 0x3020:  # full-width signs
        return 0.7
    return -0.5  # among them half-width katakana, which wrong encodings give
