"""Whether a file is complete, and whether it stays unchanged while it is read.

A file that its supplier is still writing must not be imported. Before it is read, it must be
old enough, or its marker file must exist (:func:`waits_for`). While it is read, its size, time of
change and identity are watched (:func:`unchanged`).

What does not belong here: finding files (``source/inbox.py``), damage inside of a file
(``reader/reader.py``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from fsspec.core import url_to_fs

from importer_dagster.errors import RefusedError, SourceUnavailable
from importer_dagster.redaction import redact, redact_text
from importer_dagster.spec.policy import Complete

# fsspec's names for the time of change: local files, S3, Azure, Google, others
_MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "created")
_VERSION = ("ETag", "etag", "md5Hash", "checksum")

State = tuple[Any, ...]


def waits_for(
    path: str, info: Mapping[str, Any], files: Mapping[str, Any], rule: Complete, min_age: int
) -> str | None:
    """What a listed file still waits for, in words; None if it is complete.

    ``files`` are all files of the listing by path. ``min_age`` is the project's, in seconds; that of
    the spec takes precedence. The age of a file that has a marker or a manifest does not matter.
    """
    places = places_beside(path, rule)
    for place, word in places.items():
        if place not in files:
            return f"its {word} {place} is not there yet"
    if places:
        return None
    wanted = min_age if rule.min_age is None else rule.min_age
    changed = next((info[key] for key in _MODIFIED if info.get(key) is not None), None)
    if isinstance(changed, datetime):
        changed = changed.timestamp()
    if not isinstance(changed, int | float):
        return None  # the file system does not tell
    age = time.time() - changed
    if age >= wanted:
        return None
    return f"it was changed {max(age, 0):.0f} s ago and must be unchanged for {wanted} s"


def places_beside(path: str, rule: Complete) -> dict[str, str]:
    """The paths of the files that a file waits for → "marker file" or "manifest"."""
    declared = {"marker file": rule.marker, "manifest": rule.manifest.path if rule.manifest else None}
    return {marker_of(path, pattern): word for word, pattern in declared.items() if pattern}


def marker_of(path: str, marker: str) -> str:
    """The path of the marker file of ``path``, by the pattern of the spec.

    >>> marker_of("a/b.csv", "{path}.done"), marker_of("a/b.csv", "_SUCCESS")
    ('a/b.csv.done', 'a/_SUCCESS')
    """
    if "{path}" in marker:
        return marker.replace("{path}", path)
    folder = path.rpartition("/")[0]
    return f"{folder}/{marker}" if folder else marker


def file_version_of(info: Mapping[str, Any]) -> str | None:
    """What a listing says of a file that changes with its content, except for its size; None if nothing.

    Of a local file, this is the time of change of its content (``mtime``), which a copy may keep, and
    of its entry in the folder (``created``), which a copy cannot keep.
    """
    known = [f"{key} {info[key]}" for key in (*_MODIFIED, *_VERSION) if info.get(key) is not None]
    return ", ".join(known) or None


def with_manifest(file_version: str | None, manifest: str | None) -> str:
    """The version of a file together with that of its manifest: another manifest makes it another delivery."""
    return f"{file_version}, manifest: {manifest}"


def look_at(url: str) -> tuple[int | None, str | None]:
    """(size, file version) of one file as it is now; (None, None) if it cannot be found out."""
    info: Mapping[str, Any] | None = None
    if "://" not in url:
        info = local_info(url)
    else:
        with suppress(OSError, ValueError, ImportError):  # reading the file will report it
            fs, path = url_to_fs(url)
            info = fs.info(path)
    return (info.get("size"), file_version_of(info)) if info else (None, None)


def local_info(path: str) -> dict[str, Any] | None:
    """Size and times of a local file, or of what a link leads to, under fsspec's names; None if there is none.

    Several times as fast as fsspec for a single file.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - a Path takes as long to make
    except (OSError, ValueError):
        return None
    return info_of(found)


def info_of(found: os.stat_result) -> dict[str, Any]:
    """Size and times of a local file under fsspec's names."""
    created = getattr(found, "st_birthtime", found.st_ctime)
    return {"size": found.st_size, "mtime": found.st_mtime, "created": created}


@contextmanager
def unchanged(url: str) -> Iterator[None]:
    """Raise SourceUnavailable, which is tried again, if the file changes while the block runs.

    This takes precedence over a RefusedError in the block, since a file that is half written looks damaged.
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
        return  # there was no file; opening it has reported that
    after = state_of(url)
    if after != before:
        url = redact(url)
        now = "is gone" if after is None else f"has {after[0]} bytes now"
        raise SourceUnavailable(
            f"{url} was changed while it was read: it had {before[0]} bytes and {now}. Nothing of it is loaded; "
            "it is tried again. If this happens often, declare complete.marker or a longer complete.min_age."
        ) from cause


def state_of(url: str) -> State | None:
    """Size, times and identity of a file, which differ if its content does; None if there is no such file."""
    try:
        if "://" not in url:
            stat = os.stat(url)  # noqa: PTH116 - a Path takes as long to make
            return stat.st_size, stat.st_mtime_ns, stat.st_ino
        fs, path = url_to_fs(url)
        fs.invalidate_cache()
        info = fs.info(path)
        return (info.get("size"), *(str(info[key]) for key in (*_VERSION, *_MODIFIED) if key in info))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceUnavailable(f"{redact(url)} cannot be looked at: {redact_text(error, url)}") from error
