"""Reads what the supplier's manifest says of a file: how many records and bytes it has, and its checksum.

A manifest is a list of checksums as ``sha256sum`` or ``md5sum`` write it, a
CSV with a row for each file, or JSON with an object for each; it lies beside the
file it is about.

What does not belong here: waiting for it (``source/completeness.py``), totals inside of
the file (``validation/control_totals.py``).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from importer_dagster.errors import RefusedError
from importer_dagster.model import Delivery
from importer_dagster.redaction import redact
from importer_dagster.source.completeness import marker_of
from importer_dagster.source.open_file import open_url
from importer_dagster.spec.policy import Manifest

MOST_BYTES = 16 << 20
_ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}  # by the number of hex digits
_SUM = re.compile(r"([0-9A-Fa-f]+)(?:[ \t]+\*?(.+))?")
_REMEDY = "Ask the supplier to send both again."


@dataclass(frozen=True)
class Claims:
    """What a manifest says of one file; None where it does not say."""

    manifest: str
    rows: int | None = None
    bytes: int | None = None
    checksum: str | None = None

    @property
    def algorithm(self) -> str | None:
        """The hash algorithm of the checksum."""
        return None if self.checksum is None else _ALGORITHMS[len(self.checksum)]

    def check(self, *, size: int, digest: str | None, records: int) -> None:
        """Raise RefusedError unless the file is as the manifest says."""
        self._compare("bytes", self.bytes, size)
        self._compare("checksum", self.checksum, digest)
        self._compare("rows", self.rows, records)

    def _compare(self, what: str, said: int | str | None, found: int | str | None) -> None:
        if said is None or said == found:
            return
        if what == "checksum":
            words = f"the {self.algorithm} {said}; that of the file is {found}"
        else:
            words = f"{said} {what}; the file has {found}{' records' if what == 'rows' else ''}"
        raise RefusedError(
            f"The manifest {self.manifest} says {words} (complete.manifest.{what}). Perhaps the file was cut off "
            f"or changed. {_REMEDY}",
            rule=f"manifest.{what}",
        )


def url_of(delivery: Delivery, pattern: str) -> str:
    """The address of a delivery's manifest."""
    if delivery.url.endswith(delivery.path):
        return delivery.url.removesuffix(delivery.path) + marker_of(delivery.path, pattern)
    return marker_of(delivery.url, pattern)


def read_claims(delivery: Delivery, rule: Manifest | None) -> Claims | None:
    """What the manifest says of a delivery; None if its type has none.

    Raises RefusedError if there is no manifest, if it makes no sense, or if it
    does not name the file; SourceUnavailable where trying again may help.
    """
    if rule is None:
        return None
    url = url_of(delivery, rule.path)
    shown = redact(url)
    text = _read_text(url, shown, delivery.inbox)
    found = None
    if rule.file_format == "sums":
        found = _from_sums(text, shown, delivery)
    else:
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=rule.delimiter)
        rows: list[_Row] = _json_rows(text, shown) if rule.file_format == "json" else list(table)
        for row in rows:
            name = None if rule.file is None else _value(row, rule.file, shown)
            # a single row is about the delivery if the spec declares no column for the file's name
            if (name is None and len(rows) == 1) or (name is not None and _is_named(name, delivery.path)):
                found = Claims(
                    shown,
                    rows=_number(row, rule.rows, shown),
                    bytes=_number(row, rule.bytes, shown),
                    checksum=_checksum(_value(row, rule.checksum, shown), shown) if rule.checksum else None,
                )
                break
    if found is None:
        raise RefusedError(
            f"The manifest {shown} does not name {delivery.path.rpartition('/')[2]!r}. {_REMEDY}",
            rule="manifest.missing",
        )
    return found


def _read_text(url: str, shown: str, inbox: str | None) -> str:
    """The text of a manifest; raises RefusedError if it is not there, too long or not UTF-8."""
    try:
        with open_url(url, inbox) as file:
            data = file.read(MOST_BYTES + 1)
    except RefusedError as error:
        if error.rule != "missing":
            raise
        raise RefusedError(
            f"The manifest {shown} is not there (complete.manifest). {_REMEDY}", rule="manifest.missing"
        ) from None
    if len(data) > MOST_BYTES:
        raise RefusedError(f"The manifest {shown} has more than {MOST_BYTES} bytes.", rule="manifest.read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RefusedError(
            f"The manifest {shown} is no text in UTF-8. {_REMEDY}", rule="manifest.read"
        ) from None


def _is_named(name: str, path: str) -> bool:
    """Whether a name in a manifest, with or without folders, is that of a file.

    >>> [_is_named(n, "2024-01-01/acme/a.csv") for n in ("a.csv", "./acme/a.csv", "bolt/a.csv", "b.csv")]
    [True, True, False, False]
    """
    named = [part for part in name.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    return bool(named) and path.split("/")[-len(named) :] == named


def _from_sums(text: str, shown: str, delivery: Delivery) -> Claims | None:
    """The checksum of the delivery in lines of "checksum name"; a single line need not have a name."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for line in lines:
        found = _SUM.fullmatch(line)
        if found is None:
            raise RefusedError(
                f"The manifest {shown} has the line {line[:80]!r}, which is no checksum and a name. {_REMEDY}",
                rule="manifest.read",
            )
        alone = found[2] is None and len(lines) == 1
        if alone or (found[2] and _is_named(found[2], delivery.path)):
            return Claims(shown, checksum=_checksum(found[1], shown))
    return None


_Row = Mapping[str | None, Any]


def _json_rows(text: str, shown: str) -> list[_Row]:
    """The objects of a list, or of the list in an object; an object without such a list is the only row.

    Numbers stay text as they are written, so that 10.0 is no number of records.
    """
    try:
        found = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise RefusedError(
            f"The manifest {shown} is no JSON: {error}. {_REMEDY}", rule="manifest.read"
        ) from None
    if isinstance(found, dict):
        found = next((value for value in found.values() if _is_rows(value)), [found])
    if not _is_rows(found):
        raise RefusedError(
            f"The manifest {shown} has no object for each file (complete.manifest.format: json). {_REMEDY}",
            rule="manifest.read",
        )
    rows: list[_Row] = found
    return rows


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _value(row: _Row, column: str, shown: str) -> str:
    if row.get(column) is None:
        names = ", ".join(repr(name) for name in row if name is not None)
        raise RefusedError(
            f"The manifest {shown} has no column {column!r}, only {names}. {_REMEDY}",
            rule="manifest.read",
        )
    return str(row[column]).strip()


def _number(row: _Row, column: str | None, shown: str) -> int | None:
    if column is None:
        return None
    text = _value(row, column, shown)
    if not text.isascii() or not text.isdecimal():
        raise RefusedError(
            f"The manifest {shown} has {text[:60]!r} in its column {column!r}, and no number. {_REMEDY}",
            rule="manifest.read",
        )
    return int(text)


def _checksum(text: str, shown: str) -> str:
    if len(text) not in _ALGORITHMS or not re.fullmatch(r"[0-9A-Fa-f]+", text):
        raise RefusedError(
            f"The manifest {shown} has the checksum {text[:80]!r}; md5, sha1, sha256 and sha512 as hex digits are "
            "understood.",
            rule="manifest.read",
        )
    return text.lower()
