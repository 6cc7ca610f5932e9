"""Which text encoding a file is in, by evidence over all of its bytes.

A byte order mark decides; else what is valid UTF-8 throughout is UTF-8. What is
neither is decoded in each usual encoding, and the one whose characters look
most like words wins. This happens once, at ``importer infer``; an import never
guesses.

What does not belong here: the dialect (``inference/dialect.py``).
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
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: it starts with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 200_000  # bytes around which encodings are compared
_WESTERN = ("cp1252", "iso8859_15", "mac_roman", "cp850", "cp1250", "cp1254", "cp437")
_RUNS = ("cp1251", "koi8_r", "cp866", "cp1253", "cp1255", "cp1256", "cp874")
_ASIAN = ("shift_jis", "cp932", "euc_jp", "euc_kr", "gb18030", "big5")
_NULS_OF_UTF16 = 0.2  # share of NUL bytes from which bytes may be UTF-16 without a mark


@dataclass(frozen=True)
class Charset:
    """The encoding, as Python names it, and why; ``question`` where a person should look."""

    encoding: str
    reason: str
    question: str | None = None
    ascii: bool = False


@dataclass
class _Survey:
    """What was seen in the bytes: the first of them, those that are not ASCII, whether all are UTF-8."""

    head: bytes = b""
    size: int = 0
    nuls: int = 0
    lines: int = 0
    bad_lines: int = 0  # with bytes that are no UTF-8
    multibyte_lines: int = 0  # sound UTF-8 beyond ASCII
    odd: bytearray = field(default_factory=bytearray)  # lines that are not ASCII


def find_charset(url: str) -> Charset:
    """Read all of a file and say its encoding; raises RefusedError or SourceUnavailable if it cannot be read."""
    seen = _survey(url)
    for mark, name in _BOMS:
        if seen.head.startswith(mark):
            return Charset(name, f"it starts with the byte order mark of {name.upper()}")
    if seen.nuls > _NULS_OF_UTF16 * seen.size and (wide := _utf16_without_mark(seen.head)):
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
    return _by_looks(bytes(seen.odd))


def _survey(url: str) -> _Survey:
    seen = _Survey()
    file = Unpacked(url)
    try:
        rest = b""
        while data := file.read(CHUNK):
            seen.head = seen.head or data[:4096]
            seen.size += len(data)
            seen.nuls += data.count(0)
            data = rest + data
            end = data.rfind(b"\n") + 1 or (len(data) if len(data) > 1 << 22 else 0)
            _look_at(data[:end], seen)
            rest = data[end:]
        _look_at(rest, seen)
    finally:
        file.close()
    return seen


def _look_at(data: bytes, seen: _Survey) -> None:
    """Whole lines: count them, and keep some of those that are not ASCII."""
    seen.lines += data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    if data.isascii():
        return
    for line in re.split(rb"[\r\n]+", data):
        if line.isascii():
            continue
        try:
            line.decode()
            seen.multibyte_lines += 1
        except UnicodeDecodeError:
            seen.bad_lines += 1
        if len(seen.odd) < _SAMPLE:
            seen.odd += line + b"\n"


def _utf16_without_mark(head: bytes) -> str | None:
    even, odd = head[::2].count(0), head[1::2].count(0)
    return "utf-16-le" if odd > 2 * even else "utf-16-be" if even > 2 * odd else None


def _by_looks(sample: bytes) -> Charset:
    scored = [
        (score, -i, name) for i, name in enumerate(_candidates(sample)) if (score := _score(sample, name)) > 0
    ]
    if not scored:
        return Charset(
            "latin-1",
            "no usual encoding fits; latin-1 reads any bytes",
            "The encoding could not be told; ask the supplier, and declare it with --encoding.",
        )
    scored.sort(reverse=True)
    name = scored[0][2]
    name = {"iso8859_15": "iso-8859-15", "cp932": "cp932"}.get(name, name)
    return Charset(
        name, f"the bytes are no UTF-8; read as {name}, the characters beyond ASCII look most like words"
    )


def _candidates(sample: bytes) -> tuple[str, ...]:
    """Encodings worth a try: Western texts have single accents, others whole words of high bytes."""
    high = len(re.findall(rb"[\x80-\xff]", sample))
    together = sum(len(m) for m in re.findall(rb"[\x80-\xff]{2,}", sample))
    if together < 0.35 * high:
        return (*_WESTERN, *_ASIAN)
    return (*_ASIAN, *_RUNS, *_WESTERN)


def _score(sample: bytes, encoding: str) -> float:
    """From 0, impossible, to 1: how much the characters beyond ASCII look like words."""
    try:
        text = sample.decode(encoding)
    except UnicodeDecodeError:
        return 0.0
    beyond = [c for c in text if ord(c) > 127]
    if not beyond:
        return 0.0
    if encoding in _ASIAN:
        return sum(_asian_weight(c, encoding) for c in beyond) / len(beyond)
    if encoding in _WESTERN:
        return sum(_western_weight(c) for c in beyond) / len(beyond) - 0.3 * _odd_case(text)
    letters = sum(unicodedata.category(c)[0] in "LM" for c in beyond) / len(beyond)
    return letters * 0.97 - 0.6 * _odd_case(text) - _mixed_words(text)


_FRENCH_TO_NORDIC = set("àâäáãåçéèêëíìîïñóòôöõúùûüÿßøæœÀÂÄÁÃÅÇÉÈÊËÍÎÏÑÓÔÖÕÚÛÜØÆŒ")
_SIGNS = set("€£°’‘“”–—…«»§©®™²³ºª¿¡µ\u00a0·•´±½¼")
_EASTERN = set("ąćęłńśźżĄĆĘŁŃŚŹŻčďěňřšťůžČĎĚŇŘŠŤŮŽőűŐŰăâîșțĂÂÎȘȚşţŞŢ")


def _western_weight(char: str) -> float:
    if char in _FRENCH_TO_NORDIC:
        return 1.0
    if char in _EASTERN:
        return 0.95
    if char in _SIGNS:
        return 0.8
    return 0.3 if unicodedata.category(char)[0] == "L" else -0.5


def _odd_case(text: str) -> float:
    """Share of words with a capital behind a small letter, as wrong tables give."""
    words = [w for w in re.findall(r"\w{2,}", text) if not w.isascii()]
    odd = sum(
        bool(re.search(r"[^\W\d_]", w)) and not (w.islower() or w.isupper() or w.istitle()) for w in words
    )
    return odd / len(words) if words else 0.0


def _mixed_words(text: str) -> float:
    """Share of words of ASCII letters and others together, which scripts other than Latin do not have."""
    words = [w for w in re.findall(r"[^\W\d_]{2,}", text) if not w.isascii()]
    return sum(bool(re.search("[A-Za-z]", w)) for w in words) / len(words) if words else 0.0


def _asian_weight(char: str, encoding: str) -> float:
    code = ord(char)
    if 0x3040 <= code < 0x3100:  # hiragana, katakana
        return 1.0 if encoding in ("shift_jis", "cp932", "euc_jp") else 0.1
    if 0xAC00 <= code < 0xD7A4:  # hangul
        return 1.0 if encoding == "euc_kr" else -0.2
    if 0x4E00 <= code < 0xA000:  # ideographs: common ones are in the first level of each table
        return 0.95 if _is_common(char, encoding) else 0.35
    if 0xFF01 <= code < 0xFF5F or 0x3000 <= code < 0x3020:  # full-width signs
        return 0.7
    return -0.5  # half-width katakana among them, what wrong tables give


def _is_common(char: str, encoding: str) -> bool:
    lead = char.encode(encoding)[0]
    if encoding in ("shift_jis", "cp932"):
        return 0x88 <= lead <= 0x97
    first, last = {"big5": (0xA4, 0xC6), "gb18030": (0xB0, 0xD7), "euc_jp": (0xB0, 0xCF)}.get(
        encoding, (0, 0)
    )
    return first <= lead <= last


def suggest(sample: bytes) -> str:
    """The encoding in which bytes that are not UTF-8 look most like words; only ever shown to a person."""
    return _by_looks(sample[:_SAMPLE]).encoding
