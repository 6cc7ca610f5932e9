"""Is a file all there, and does it stay as it is while it is read?

A supplier that is still writing must not have half its file imported. Before
reading, a file waits until it is old enough or its marker file is there
(:func:`waits_for`); while it is read, its size, age and identity are watched
(:func:`unchanged`).

What does not belong here: finding files (``source/inbox.py``), damage inside a file
(``reader/reader.py``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from importer_dagster.errors import RefusedError, SourceUnavailable
from importer_dagster.redaction import redact, redact_text
from importer_dagster.spec.policy import Complete

_MODIFIED = (
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)  # local, S3, Azure, Google, others
_VERSION = ("ETag", "etag", "md5Hash", "checksum")

State = tuple[Any, ...]


def waits_for(
    path: str, info: Mapping[str, Any], files: Mapping[str, Any], rule: Complete, min_age: int
) -> str | None:
    """What a listed file still waits for, in words; None if it is complete.

    ``files`` holds every path of the listing. The spec's own ``min_age`` goes
    before the project's. A file that has a marker or a manifest need not be old.
    """
    places = places_beside(path, rule)
    for place, word in places.items():
        if place not in files:
            return f"its {word} {place} is not there yet"
    if places:
        return None
    wanted = min_age if rule.min_age is None else rule.min_age
    age = _age(info)
    if age is None or age >= wanted:
        return None
    return f"it was changed {max(age, 0):.0f} s ago and must be unchanged for {wanted} s"


def places_beside(path: str, rule: Complete) -> dict[str, str]:
    """Where the files lie that a file waits for → what they are."""
    declared = {"marker file": rule.marker, "manifest": rule.manifest.path if rule.manifest else None}
    return {marker_of(path, pattern): word for word, pattern in declared.items() if pattern}


def marker_of(path: str, marker: str) -> str:
    """Where the file lies that is named beside ``path``.

    >>> marker_of("a/b.csv", "{path}.done"), marker_of("a/b.csv", "_SUCCESS")
    ('a/b.csv.done', 'a/_SUCCESS')
    """
    if "{path}" in marker:
        return marker.replace("{path}", path)
    folder = path.rpartition("/")[0]
    return f"{folder}/{marker}" if folder else marker


def _age(info: Mapping[str, Any]) -> float | None:
    """Seconds since it was changed, None where the file system does not say."""
    changed = next((info[key] for key in _MODIFIED if info.get(key) is not None), None)
    if isinstance(changed, datetime):
        changed = changed.timestamp()
    return time.time() - changed if isinstance(changed, int | float) else None


def stamp_of(info: Mapping[str, Any]) -> str | None:
    """What a listing says of a file that changes with its content, besides the size; None if nothing.

    A local file's time of change is looked at twice: a copy may keep the time of
    its content (``mtime``), but not that of the file's entry (``created``).
    """
    known = [f"{key} {info[key]}" for key in (*_MODIFIED, *_VERSION) if info.get(key) is not None]
    return ", ".join(known) or None


def with_manifest(file_version: str | None, manifest: str | None) -> str:
    """The stamp of a file together with that of its manifest: another manifest makes it another delivery."""
    return f"{file_version}, manifest: {manifest}"


def look_at(url: str) -> tuple[int | None, str | None]:
    """(size, stamp) of one file as it is now; nothing if it cannot be told."""
    if "://" not in url:
        return _size_and_stamp(local_info(url))
    try:
        fs, path = url_to_fs(url)
        return _size_and_stamp(fs.info(path))
    except (OSError, ValueError, ImportError):  # whoever reads it finds out why
        return None, None


def _size_and_stamp(info: Mapping[str, Any] | None) -> tuple[int | None, str | None]:
    return (info.get("size"), stamp_of(info)) if info else (None, None)


def local_info(path: str) -> dict[str, Any] | None:
    """What a stamp is made of, as fsspec lists it, of a local file or of what a link leads to; None if there is nothing.

    fsspec itself takes several times as long for a single file.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - a Path takes as long to make
    except (OSError, ValueError):
        return None
    return info_of(found)


def info_of(found: os.stat_result) -> dict[str, Any]:
    """What a stamp is made of, under fsspec's names."""
    created = getattr(found, "st_birthtime", found.st_ctime)
    return {"size": found.st_size, "mtime": found.st_mtime, "created": created}


@contextmanager
def unchanged(url: str) -> Iterator[None]:
    """Raise SourceUnavailable, to be tried again, if the file is another one at the end than at the beginning.

    A refusal in between counts only if the file stood still: half a file looks damaged.
    """
    before = state_of(url)
    try:
        yield
    except RefusedError as refused:
        _compare(url, before, refused)
        raise
    _compare(url, before, None)


def _compare(url: str, before: State | None, cause: Exception | None) -> None:
    if before is None:
        return  # there was nothing to look at; opening it has said so
    after = state_of(url)
    if after != before:
        url = redact(url)
        now = "is gone" if after is None else f"has {after[0]} bytes now"
        raise SourceUnavailable(
            f"{url} was changed while it was read: it had {before[0]} bytes and {now}. Nothing of it is loaded; "
            "it is tried again. If this happens often, declare complete.marker or a longer complete.min_age."
        ) from cause


def state_of(url: str) -> State | None:
    """Size and everything else that tells one content from another; None if there is no such file."""
    try:
        if "://" not in url:
            stat = os.stat(url)  # noqa: PTH116 - a Path takes as long to make
            return stat.st_size, stat.st_mtime_ns, stat.st_ino
        return _remote_state(*url_to_fs(url))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceUnavailable(f"{redact(url)} cannot be looked at: {redact_text(error, url)}") from error


def _remote_state(fs: fsspec.AbstractFileSystem, path: str) -> State:
    fs.invalidate_cache()
    info = fs.info(path)
    return (info.get("size"), *(str(info[key]) for key in (*_VERSION, *_MODIFIED) if key in info))
