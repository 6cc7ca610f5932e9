"""Path patterns: they read type, tenant and business date from a file's path.

A pattern such as ``{date}/{tenant}/{type}*.csv`` is matched against paths
relative to the inbox. ``*`` and ``?`` stop at a slash; ``{date}`` is an ISO
date unless a strptime format follows (``{date:%Y%m%d}``), and may stand there
several times, in other formats too; a compression suffix (``.gz``, ``.zip``,
``.bz2``, ``.xz``, ``.zst``) is always allowed.

What does not belong here: listing an inbox, and choosing between types whose
patterns match the same file (``source/inbox.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property, lru_cache
from itertools import takewhile

from importer_dagster.errors import UsageError
from importer_dagster.spec.policy import leads_out
from importer_dagster.spec.table import TableSpec

_COMPRESSION = r"(?:\.(?:gz|zip|bz2|xz|zst))?"
_TOKEN = re.compile(r"\{(date|tenant|type)(?::([^}]+))?\}|(\*)|(\?)")
_ISO = "%Y-%m-%d"
_DIRECTIVES = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}", "%y": r"\d{2}", "%j": r"\d{3}",
               "%b": r"[A-Za-z]{3}", "%H": r"\d{2}", "%M": r"\d{2}", "%S": r"\d{2}"}  # fmt: skip
_OF_A_TIME = {"%H", "%M", "%S"}
_DATE = "\0"  # where a date stands in a folder


@dataclass(frozen=True)
class PathPattern:
    """A path pattern, compiled for one type.

    ``directives`` are the strptime directives of its dates, each a group of ``regex``.
    ``date_formats`` has the format of each date in the pattern. ``weight`` is the number of
    literal characters, ``segments`` the number of path parts. ``folder`` are the folders before
    the first wildcard (NUL stands for a date). The names of all matching files begin with ``stem``.
    """

    regex: re.Pattern[str]
    directives: tuple[str, ...]
    date_formats: tuple[str, ...]
    weight: int
    segments: int
    folder: str
    stem: str

    @property
    def has_tenant(self) -> bool:
        """Whether the pattern names tenants."""
        return "tenant" in self.regex.groupindex

    @property
    def has_date(self) -> bool:
        """Whether the pattern names the business date."""
        return bool(self.directives)

    def match(self, path: str) -> tuple[date | None, str] | None:
        """The (business date or None, tenant) that ``path`` names, or None if it does not match."""
        found = self.regex.fullmatch(path)
        if found is None:
            return None
        tenant = found["tenant"] if self.has_tenant else ""
        if not self.has_date:
            return None, tenant
        day = _day(found.group(0, *self._groups)[1:], self.directives)
        return None if day is None else (day, tenant)

    @cached_property
    def _groups(self) -> tuple[str, ...]:
        return tuple(map(_group, self.directives))

    def folder_for(self, day: date | None) -> str:
        """The deepest folder that has all matching files, or all of that day if one is given."""
        formats = iter(self.date_formats)
        parts = []
        for part in self.folder.split("/"):
            if _DATE not in part:
                parts.append(part)
            elif day is None:
                break
            else:
                parts.append(re.sub(_DATE, lambda _: day.strftime(next(formats)), part))
        return "/".join(p for p in parts if p)


def _group(directive: str) -> str:
    return f"date_{directive[1:]}"


@lru_cache(maxsize=4096)  # since an inbox may have 1,000 files of each day
def _day(texts: tuple[str, ...], directives: tuple[str, ...]) -> date | None:
    """The date that all of a path's directives name; None if there is none."""
    try:
        day = datetime.strptime(" ".join(texts), " ".join(directives)).date()
    except ValueError:
        return None
    named = (
        day.strftime(d).casefold() == t.casefold()  # 31 January and the 32nd day of the year are two days
        for t, d in zip(texts, directives, strict=True)
        if d not in _OF_A_TIME
    )
    return day if all(named) else None


@dataclass(frozen=True)
class _Piece:
    """A part of a pattern: its regular expression, and its text in folders, which is None for a wildcard."""

    regex: str
    text: str | None = None
    weight: int = 0


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str, type_name: str) -> PathPattern:
    """Compile a path pattern; raises UsageError if it makes no sense."""
    if leads_out(pattern):
        raise UsageError(
            f"The path pattern {pattern!r} must stay below the inbox: no leading slash, no drive, no '..'."
        )
    formats = [m[2] or _ISO for m in _TOKEN.finditer(pattern) if m[1] == "date"]
    pieces = list(_pieces(pattern, type_name))
    # the format of a date may have slashes, too
    wild = re.sub(
        r"\{[^}]*\}",
        lambda token: "/*" if "/" in token[0] else "*",
        pattern.replace("{type}", type_name),
    )
    fixed = takewhile(lambda text: text is not None, (p.text for p in pieces))
    return PathPattern(
        regex=re.compile("".join(p.regex for p in pieces) + _COMPRESSION),
        directives=tuple(dict.fromkeys(d for f in formats for d in re.findall("%.", f))),
        date_formats=tuple(formats),
        weight=sum(p.weight for p in pieces),
        segments=pattern.count("/") + 1,
        folder="".join(text or "" for text in fixed).rpartition("/")[0],
        stem=re.split(r"[*?]", wild.rpartition("/")[2])[0],
    )


def _pieces(pattern: str, type_name: str) -> Iterator[_Piece]:
    seen: set[str] = set()
    position = 0
    for token in _TOKEN.finditer(pattern):
        yield _literal(pattern[position : token.start()])
        position = token.end()
        name, fmt, star, _ = token.groups()
        if name == "type":
            yield _literal(type_name)
        elif name == "date":
            yield _Piece(_date_regex(fmt or _ISO, seen), _DATE)
        elif name == "tenant":
            yield _Piece(_group_or_backreference("tenant", "[^/]+", seen))
        else:
            yield _Piece("[^/]*" if star else "[^/]")
    rest = pattern[position:]
    if "{" in rest or "}" in rest:
        raise UsageError(
            f"The path pattern {pattern!r} may hold only {{date}}, {{tenant}}, {{type}}, * and ?."
        )
    yield _literal(rest)


def _literal(text: str) -> _Piece:
    return _Piece(re.escape(text), text, len(text))


def _group_or_backreference(name: str, regex: str, seen: set[str]) -> str:
    if name in seen:
        return f"(?P={name})"
    seen.add(name)
    return f"(?P<{name}>{regex})"


def _date_regex(fmt: str, seen: set[str]) -> str:
    def part(text: str) -> str:
        if not text.startswith("%"):
            return re.escape(text)
        if text not in _DIRECTIVES:
            raise UsageError(
                f"The date format {fmt!r} in a path pattern may use {' '.join(_DIRECTIVES)} only."
            )
        return _group_or_backreference(_group(text), _DIRECTIVES[text], seen)

    return "".join(part(text) for text in re.findall("%.?|[^%]", fmt, re.S))


def pattern_of(spec: TableSpec, default_path: str) -> PathPattern:
    """The pattern that finds deliveries of ``spec``."""
    return compile_pattern(spec.path or default_path, spec.name)


def names_tenants(spec: TableSpec, default_path: str) -> bool:
    """Whether the type's paths name tenants; if so, its table has ``_tenant``."""
    return pattern_of(spec, default_path).has_tenant


class Patterns:
    """The patterns of all types, indexed by how file names begin, so that with 500 types few are tried on a file."""

    def __init__(self, by_type: Mapping[str, PathPattern]) -> None:
        self.by_type = by_type
        self._by_stem: dict[str, list[tuple[str, PathPattern]]] = {}
        for name, pattern in by_type.items():
            self._by_stem.setdefault(pattern.stem, []).append((name, pattern))
        self._lengths: dict[str, list[int]] = {}  # of the stems that begin with a character
        for stem in sorted(self._by_stem, key=len):
            lengths = self._lengths.setdefault(stem[:1], [])
            if len(stem) not in lengths:
                lengths.append(len(stem))

    def matches(self, path: str) -> list[tuple[int, str, tuple[date | None, str]]]:
        """(weight, type, (business date or None, tenant)) of all patterns that match ``path``."""
        name = path.rpartition("/")[2]
        lengths = (*self._lengths.get("", ()), *self._lengths.get(name[:1], ()))
        tried = [
            self._by_stem[stem] for n in lengths if (stem := name[:n]) in self._by_stem and n <= len(name)
        ]
        return [(p.weight, t, m) for some in tried for t, p in some if (m := p.match(path)) is not None]
