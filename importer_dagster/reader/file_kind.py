"""Recognises files that are plainly no CSV by their first bytes, whatever they are called.

What does not belong here: containers that can be opened (``source/unpack.py``), text
encodings (``reader/decoding.py``), a CSV of another type (``reader/header.py``, ``validation/drift.py``).
"""

from __future__ import annotations

import json
import re

HEAD = 65_536  # bytes that are looked at

_MAGIC = {
    b"PAR1": "a Parquet file",
    b"\xd0\xcf\x11\xe0": "an old Excel or other Microsoft Office file",
    b"%PDF": "a PDF document",
    b"ARROW1": "an Arrow file",
    b"FEA1": "a Feather file",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"SQLite format 3": "a SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x7fELF": "a program",
    b"{\\rtf": "an RTF document",
    b"-----BEGIN PGP": "a PGP-encrypted file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\x1f\x9d": "a file packed by compress (.Z)",
    b"\x04\x22\x4d\x18": "an LZ4 file",
    b"LZIP": "an lzip file",
    b"PGDMP": "a PostgreSQL dump",
}
# archives inside of an archive that is open already
_NESTED = {
    b"PK\x03\x04": "a zip archive (or Excel file) inside of another archive",
    b"\x1f\x8b\x08": "a gzip file inside of another archive",
    b"BZh9": "a bzip2 file inside of another archive",
    b"\xfd7zXZ": "an xz file inside of another archive",
    b"\x28\xb5\x2f\xfd": "a zstd file inside of another archive",
}
_ANNEX = re.compile(rb"(?:\.\./)*(?:\.git|/)/?annex/objects/\S+\s*\Z")
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<table", b"<script", b"<div")
_TAG = re.compile(rb"<(?:[a-z_][\w:.-]*)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_SQL = re.compile(
    rb"(?im)^\s*(?:create\s+(?:table|database|schema)\b|insert\s+into\b|drop\s+table\b|copy\s+\S+.*\bfrom\s+stdin\b)"
)
_HOLE = re.compile(
    rb"\0{16,}"
)  # what a disk or a transfer has lost of a text; it is rejected with its record
_ORDINARY_CONTROLS = frozenset(b"\t\n\r\x0b\x0c\x1a\x1b\x01\x1c\x1d\x1e\x1f\x02\x03\x05\x06\x07")
_STRANGE = bytes(b for b in range(32) if b not in _ORDINARY_CONTROLS)


def kind_if_not_csv(head: bytes) -> str | None:
    """What the file is, in words, if it is no CSV; ``head`` is its start, decoded to UTF-8 where that is possible."""
    kind = next((k for magic, k in {**_MAGIC, **_NESTED}.items() if head.startswith(magic)), None)
    if kind is not None:
        return kind
    start = head.lstrip()
    lower = start[:4096].lower()
    # text has few of these; UTF-16 without a mark, which is full of NUL bytes, was recognised before
    text = _HOLE.sub(b"", head)
    strange = len(text) - len(text.translate(None, _STRANGE)) if text else len(head)
    if head[257:262] == b"ustar":
        kind = "a tar archive"
    elif lower.startswith(_HTML) or (lower.startswith(b"<!--") and b"<html" in lower):
        kind = "an HTML page (perhaps an error message of the supplier's server)"
    elif lower.startswith(b"<?xml") or (_TAG.match(start) and (b"</" in start or b"/>" in start)):
        kind = "an XML file"
    elif start[:1] in (b"{", b"[") and _is_json(start):
        kind = "JSON"
    elif _ANNEX.match(head):
        kind = "a git-annex pointer, not the file itself"
    elif _SQL.match(start) or (start.startswith((b"--", b"/*")) and _SQL.search(start)):
        kind = "a SQL script"
    elif len(head) >= 16 and strange > 0.1 * len(text):
        kind = "binary data"
    return kind


def _is_json(head: bytes) -> bool:
    """Whether the text, or its first line, is a JSON object or list, or the beginning of a large one."""
    text = head.decode("utf-8", "replace").strip()
    for candidate in (text, text.splitlines()[0]):
        try:
            if isinstance(json.loads(candidate), dict | list):
                return True
        except (ValueError, RecursionError):
            continue
    # the beginning of a large object: braces, a quoted name and a colon
    return bool(re.match(r"[{\[]\s*(?:[{\[]\s*)*\"(?:[^\"\\]|\\.)*\"\s*:", text))
