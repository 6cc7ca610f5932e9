"""Finding deliveries: from a URL and a path pattern per type to :class:`Delivery`.

Where several types match one file, the one with the most literal text wins,
so that ``productcategory.csv`` is no delivery of ``product*``.

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
    info_of,
    local_info,
    marker_of,
    places_beside,
    stamp_of,
    waits_for,
    with_manifest,
)
from importer_dagster.source.path_patterns import PathPattern, Patterns, pattern_of
from importer_dagster.spec.policy import Complete
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

    ``dates`` and ``types`` narrow the answer; ``specs`` must hold all types all
    the same, since a file belongs to the type that describes it best. Each
    folder is listed once, however many types there are. A pattern without
    ``{date}`` takes the file's modification date. A file that is not complete
    (by its type's ``complete``, else ``min_age``) says in ``waiting`` what it
    waits for. What leads out of the inbox, or is no file, is left out. Raises SourceUnavailable when
    the inbox cannot be listed, UsageError for a URL that makes no sense.
    """
    fs, root = _open_inbox(inbox_url)
    patterns = Patterns({name: pattern_of(spec, default_path) for name, spec in specs.items()})
    # the root itself may hold more than the address shows, as some file systems leave user and query in it
    files = _list_files(fs, root, patterns.by_type.values(), dates, redact(inbox_url))
    wanted = set(dates) if dates is not None else None
    listing = _Listing(fs, root, files, patterns, specs, min_age)
    found = [
        listing.delivery(path, name, tenant, day)
        for path in files
        for name, tenant, day in listing.claims(path)
        if (types is None or name in types) and (wanted is None or day in wanted)
    ]
    beside = {place for d in found for place in places_beside(d.path, specs[d.type].complete)}
    found = [d for d in found if d.path not in beside]  # a manifest may be called like a delivery
    return sorted(found, key=lambda d: (d.business_date, d.type, d.tenant, d.path))


@dataclass(frozen=True)
class _Listing:
    """The files of an inbox, by relative path, and what makes deliveries of them."""

    fs: fsspec.AbstractFileSystem
    root: str
    files: Mapping[str, Mapping[str, Any]]
    patterns: Patterns
    specs: Mapping[str, TableSpec]
    min_age: int

    def claims(self, path: str) -> list[tuple[str, str, date]]:
        """Type, tenant and business date of the deliveries that a file is: normally one, none if no type knows it."""
        if path.startswith(".") or "/." in path:
            return []  # hidden: editors' and transfer programs' temporary files
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
        """One of them."""
        info, rule = self.files[path], self.specs[name].complete
        is_local = _is_local(self.fs)
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
            file_version=self._file_version(path, info, rule),
        )

    def _file_version(self, path: str, info: Mapping[str, Any], rule: Complete) -> str | None:
        if rule.manifest is None:
            return stamp_of(info)
        return with_manifest(
            stamp_of(info), stamp_of(self.files.get(marker_of(path, rule.manifest.path), {}))
        )


def _open_inbox(inbox_url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        fs, root = url_to_fs(inbox_url)
    except OSError as error:  # some file systems connect at once
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
    """Relative path → fsspec's info, for all files in the folders that matter."""
    days: Collection[date | None] = dates if dates is not None else [None]
    # most types share one pattern, and its folders
    different = {(p.folder, p.date_formats): p for p in patterns}.values()
    folders = {p.folder_for(day) for p in different for day in days}
    # a folder inside another one is listed with it
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
                elif _stays_inside(full, root, info) if is_local else _is_one_address(full, root):
                    files[path] = {**_followed(full, info), "full": full}
    except SourceUnavailable:
        raise
    except Exception as error:  # each file system's library has errors of its own
        raise SourceUnavailable(
            f"The inbox {shown!r} cannot be listed: {redact_text(str(error).replace(root, shown), shown)}"
        ) from error
    return files


def _local_files(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """As fsspec's ``find``, in a third of its time. That leaves out what it may not list, and says nothing."""
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError:  # it holds up no other folder
        log.warning("%s may not be listed, so its files are left out: grant read access", storable(folder))
        return
    for entry in listed:
        full = f"{folder}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _local_files(full)
        else:
            with suppress(FileNotFoundError):  # it is gone by now
                yield full, _info_of_entry(entry)


def _info_of_entry(entry: os.DirEntry[str]) -> dict[str, Any]:
    kind = "file" if entry.is_file(follow_symlinks=False) else "other"
    return {"type": kind, "islink": entry.is_symlink(), **info_of(entry.stat(follow_symlinks=False))}


def _stays_inside(full: str, root: str, info: Mapping[str, Any]) -> bool:
    """False, with a warning, for what would not be read as the very file that was listed."""
    plain = info["type"] == "file" and not info["islink"]
    return plain or _is_file_inside(Path(full), Path(root))


def _is_one_address(full: str, root: str) -> bool:
    """The same where fsspec takes '::' in a name for another address behind it."""
    if "::" in full[len(root) :]:
        log.warning("%s is left out: '::' in its name means several file systems", storable(full))
        return False
    return True


def _followed(full: str, info: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a local link, the times of what it leads to: its own say nothing of the content."""
    return {**info, **(local_info(full) or {})} if info.get("islink") else info


def _is_file_inside(file: Path, root: Path) -> bool:
    """False, with a warning, for a link that leads out of the inbox, a pipe, a device, a folder."""
    if not file.is_file():
        log.warning("%s is left out: it is no regular file", storable(str(file)))
        return False
    if not file.resolve().is_relative_to(root.resolve()):
        log.warning("%s is left out: the link leads out of the inbox", storable(str(file)))
        return False
    return True


def _is_local(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def _modified(fs: fsspec.AbstractFileSystem, info: Mapping[str, Any]) -> date:
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
    """The delivery that one named file is.

    Tenant and date come from the arguments, else from the file's path where it
    (or its end) matches the type's pattern: the date, where the pattern names none, is that
    of the file's last change, as in a listing. Else the tenant is "" and the date
    is today in the project's time zone. Raises UsageError for a tenant where
    the type's paths name none. The file need not exist.
    """
    pattern = pattern_of(spec, settings.default_path)
    if tenant and not pattern.has_tenant:
        raise UsageError(
            f"Type {spec.name} has no tenants: its path pattern {spec.path or settings.default_path!r} "
            "names none. Leave --tenant away, or add {tenant} to the pattern."
        )
    url = _absolute(file)
    path = storable(_below_inbox(url, settings.inbox_url) or redact(url))
    named = _named_by(path, pattern)
    named_day, named_tenant = named or (None, "")
    if named and named_day is None:
        named_day = _changed_on(url)
    return Delivery(
        type=spec.name,
        tenant=tenant if tenant is not None else named_tenant,
        business_date=business_date or named_day or datetime.now(ZoneInfo(settings.timezone)).date(),
        path=path,
        url=url,
        has_tenant=pattern.has_tenant,
    )


def _below_inbox(url: str, inbox_url: str) -> str | None:
    """The path in the inbox, also where one of the two is named by way of a link."""
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
    """The one spelling of a local path, ``file://`` or not; another URL as it is.

    "inbox/x/../a.csv" is the delivery inbox/a.csv, and "inbox/../a.csv" none of the inbox.
    """
    scheme, _, rest = address.rpartition("://")
    if scheme not in ("", "file", "local"):
        return address
    return Path(os.path.abspath(Path(rest).expanduser())).as_posix()  # noqa: PTH100


def _named_by(path: str, pattern: PathPattern) -> tuple[date | None, str] | None:
    tail = "/".join(path.split("/")[-pattern.segments :])
    return pattern.match(path) or pattern.match(tail)


def _changed_on(url: str) -> date | None:
    try:
        fs, path = url_to_fs(url)
        return _modified(fs, {**fs.info(path), "full": path})
    except (OSError, ValueError, ImportError, NotImplementedError):  # whoever reads it finds out why
        return None
