"""Finds deliveries: from the inbox's URL and a path pattern for each type to :class:`Delivery`.

Where patterns of several types match one file, the type whose pattern has the most literal
characters gets it, so that ``productcategory.csv`` is no delivery of ``product*``.

What does not belong here: what a pattern means (``source/path_patterns.py``), opening
and reading files (``reader/reader.py``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import fsspec
from fsspec.core import url_to_fs

from importer_dagster.errors import SourceUnavailable, UsageError, storable
from importer_dagster.model import Delivery
from importer_dagster.redaction import redact, redact_text
from importer_dagster.settings import Settings
from importer_dagster.source.completeness import (
    file_version_of,
    info_of,
    local_info,
    marker_of,
    places_beside,
    waits_for,
    with_manifest,
)
from importer_dagster.source.path_patterns import PathPattern, Patterns, pattern_of
from importer_dagster.spec.table import TableSpec

log = logging.getLogger(__name__)


def find_deliveries(
    inbox_url: str,
    specs: Mapping[str, TableSpec],
    *,
    default_path: str,
    dates: Collection[date] | None = None,
    types: Collection[str] | None = None,
    min_age: int = 0,
) -> list[Delivery]:
    """All deliveries below ``inbox_url``, ordered by (business date, type, tenant, path).

    Only those of ``dates`` and ``types``, where given. ``specs`` must have all types nevertheless,
    since a file belongs to the type whose pattern describes it best. Each folder is listed once,
    however many types there are. If a pattern has no ``{date}``, the date is that of the file's last
    change. ``waiting`` of a delivery says what an incomplete file waits for (by its type's ``complete``,
    else ``min_age``). Links out of the inbox, pipes and devices are left out with a warning.
    Raises SourceUnavailable if the inbox cannot be listed, UsageError if the URL cannot be used.
    """
    fs, root = _open_inbox(inbox_url)
    patterns = Patterns({name: pattern_of(spec, default_path) for name, spec in specs.items()})
    # messages show this instead of the root, which has user and query in some file systems
    files = _list_files(fs, root, patterns.by_type.values(), dates, redact(inbox_url))
    wanted = set(dates) if dates is not None else None
    listing = _Listing(fs, root, files, patterns, specs, min_age)
    found = [
        listing.delivery(path, name, tenant, day)
        for path in files
        for name, tenant, day in listing.claims(path)
        if (types is None or name in types) and (wanted is None or day in wanted)
    ]
    # the name of a manifest may match a pattern, too
    beside = {place for d in found for place in places_beside(d.path, specs[d.type].complete)}
    found = [d for d in found if d.path not in beside]
    return sorted(found, key=lambda d: (d.business_date, d.type, d.tenant, d.path))


@dataclass(frozen=True)
class _Listing:
    """The files of an inbox by relative path, and what is needed to make deliveries of them."""

    fs: fsspec.AbstractFileSystem
    root: str
    files: Mapping[str, Mapping[str, Any]]
    patterns: Patterns
    specs: Mapping[str, TableSpec]
    min_age: int

    def claims(self, path: str) -> list[tuple[str, str, date]]:
        """Type, tenant and business date of each delivery that a file is: normally one, none if no pattern matches."""
        if path.startswith(".") or "/." in path:
            return []  # hidden files are temporary files of editors and transfer programs
        matches = self.patterns.matches(path)
        if not matches:
            return []
        best = max(weight for weight, _, _ in matches)
        return [
            (name, tenant, day or _modified(self.fs, self.files[path]))
            for weight, name, (day, tenant) in matches
            if weight == best
        ]

    def delivery(self, path: str, name: str, tenant: str, day: date) -> Delivery:
        """The delivery that a file is, for one result of :meth:`claims`."""
        info, rule = self.files[path], self.specs[name].complete
        is_local = _is_local(self.fs)
        file_version = file_version_of(info)
        if rule.manifest is not None:
            manifest = self.files.get(marker_of(path, rule.manifest.path), {})
            file_version = with_manifest(file_version, file_version_of(manifest))
        return Delivery(
            type=name,
            tenant=tenant,
            business_date=day,
            path=path,
            url=info["full"] if is_local else self.fs.unstrip_protocol(info["full"]),
            size=info.get("size"),
            has_tenant=self.patterns.by_type[name].has_tenant,
            inbox=self.root if is_local else None,
            waiting=waits_for(path, info, self.files, rule, self.min_age),
            file_version=file_version,
        )


def _open_inbox(inbox_url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        fs, root = url_to_fs(inbox_url)
    except OSError as error:  # some file systems connect here already
        words = redact_text(error, inbox_url)
        raise SourceUnavailable(f"The inbox {redact(inbox_url)!r} cannot be reached: {words}") from error
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"The inbox URL {redact(inbox_url)!r} cannot be used: {redact_text(error, inbox_url)}. "
            "IMPORTER_INBOX_URL takes a folder or a URL such as s3://bucket/inbox."
        ) from None
    return fs, root.rstrip("/")


def _list_files(
    fs: fsspec.AbstractFileSystem,
    root: str,
    patterns: Iterable[PathPattern],
    dates: Collection[date] | None,
    shown: str,
) -> dict[str, dict[str, Any]]:
    """Relative path → fsspec's info, for all files in the folders that patterns and dates name."""
    days: Collection[date | None] = dates if dates is not None else [None]
    # most types share one pattern, and its folders
    different = {(p.folder, p.date_formats): p for p in patterns}.values()
    folders = {p.folder_for(day) for p in different for day in days}
    # a folder inside of another one is listed with it
    tops = {f for f in folders if not any(f != g and (not g or f.startswith(g + "/")) for g in folders)}
    files: dict[str, dict[str, Any]] = {}
    is_local = _is_local(fs)
    try:
        if not fs.isdir(root):
            raise SourceUnavailable(
                f"The inbox {shown!r} does not exist or is no folder; IMPORTER_INBOX_URL names it."
            )
        for folder in sorted(tops):
            top = f"{root}/{folder}" if folder else root
            found = _local_files(top) if is_local else fs.find(top, detail=True).items()
            for full, info in found:
                path = storable(full[len(root) + 1 :])
                if path in files:
                    log.warning("%s is left out: another file is recorded under the same name", path)
                elif _is_readable(full, root, info, is_local):
                    # of a link, the times of the file it leads to: its own say nothing of the content
                    times = local_info(full) or {} if info.get("islink") else {}
                    files[path] = {**info, **times, "full": full}
    except SourceUnavailable:
        raise
    except Exception as error:  # each file system's library has errors of its own
        raise SourceUnavailable(
            f"The inbox {shown!r} cannot be listed: {redact_text(str(error).replace(root, shown), shown)}"
        ) from error
    return files


def _local_files(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All files below a folder, as fsspec's ``find`` lists them, in a third of its time.

    Warns of folders that may not be listed; fsspec leaves them out without a word.
    """
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError:  # the other folders are listed nevertheless
        log.warning("%s may not be listed, so its files are left out: grant read access", storable(folder))
        return
    for entry in listed:
        full = f"{folder}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _local_files(full)
            continue
        with suppress(FileNotFoundError):  # it was removed in the meantime
            kind = "file" if entry.is_file(follow_symlinks=False) else "other"
            info = info_of(entry.stat(follow_symlinks=False))
            yield full, {"type": kind, "islink": entry.is_symlink(), **info}


def _is_readable(full: str, root: str, info: Mapping[str, Any], is_local: bool) -> bool:
    """False, with a warning, for what would not be read as the very file that was listed."""
    reason = None
    if not is_local and "::" in full[len(root) :]:
        reason = "'::' in its name means several file systems"  # to fsspec
    elif is_local and (info["type"] != "file" or info["islink"]):
        if not Path(full).is_file():
            reason = "it is no regular file"
        elif not Path(full).resolve().is_relative_to(Path(root).resolve()):
            reason = "the link leads out of the inbox"
    if reason is not None:
        log.warning("%s is left out: %s", storable(full), reason)
    return reason is None


def _is_local(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def _modified(fs: fsspec.AbstractFileSystem, info: Mapping[str, Any]) -> date:
    """The date of a file's last change, in UTC."""
    if isinstance(info.get("mtime"), int | float):
        return datetime.fromtimestamp(info["mtime"], ZoneInfo("UTC")).date()
    modified: datetime = fs.modified(info["full"])
    return modified.date()


def delivery_of_file(
    file: str,
    spec: TableSpec,
    settings: Settings,
    *,
    tenant: str | None = None,
    business_date: date | None = None,
) -> Delivery:
    """The delivery for one file that a person names; the file need not exist.

    Tenant and date come from the arguments, or else from the file's path, if it (or its end)
    matches the type's pattern. If the pattern has no date, the date is that of the file's last
    change, as in a listing. If the path does not match, the tenant is "" and the date is today in
    the project's time zone. Raises UsageError for a tenant if the type's paths name none.
    """
    pattern = pattern_of(spec, settings.default_path)
    if tenant and not pattern.has_tenant:
        raise UsageError(
            f"Type {spec.name} has no tenants: its path pattern {spec.path or settings.default_path!r} "
            "names none. Leave --tenant away, or add {tenant} to the pattern."
        )
    url = _absolute(file)
    path = storable(_below_inbox(url, settings.inbox_url) or redact(url))
    tail = "/".join(path.split("/")[-pattern.segments :])
    named = pattern.match(path) or pattern.match(tail)
    named_day, named_tenant = named or (None, "")
    if named and named_day is None:
        # where it cannot be found out, opening the file will report why
        with suppress(OSError, ValueError, ImportError, NotImplementedError):
            fs, place = url_to_fs(url)
            named_day = _modified(fs, {**fs.info(place), "full": place})
    return Delivery(
        type=spec.name,
        tenant=tenant if tenant is not None else named_tenant,
        business_date=business_date or named_day or datetime.now(ZoneInfo(settings.timezone)).date(),
        path=path,
        url=url,
        has_tenant=pattern.has_tenant,
    )


def _below_inbox(url: str, inbox_url: str) -> str | None:
    """The path relative to the inbox, None if the file is not in it; either may be named through a link."""
    inbox = _absolute(inbox_url)
    spellings = [(url, inbox)]
    if "://" not in f"{url}{inbox}":
        spellings.append((Path(url).resolve().as_posix(), Path(inbox).resolve().as_posix()))
    for file, folder in spellings:
        root = folder.rstrip("/") + "/"
        if file.startswith(root):
            return file[len(root) :]
    return None


def _absolute(address: str) -> str:
    """A local path, with or without ``file://``, as an absolute path without ".."; another URL as it is.

    So "inbox/x/../a.csv" is the delivery inbox/a.csv, and "inbox/../a.csv" is not in the inbox.
    """
    scheme, _, rest = address.rpartition("://")
    if scheme not in ("", "file", "local"):
        return address
    return Path(os.path.abspath(Path(rest).expanduser())).as_posix()  # noqa: PTH100
