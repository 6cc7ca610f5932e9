"""Which files are deliveries of one type, and what that type is called.

What does not belong here: what is in the files (``inference/samples.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from importer_dagster.errors import ImporterError, UsageError
from importer_dagster.inference.samples import look_at
from importer_dagster.validation.drift import fold

_DATES_AND_COUNTERS = re.compile(r"[\d._-]*\d[\d._-]*")


def group_files(files: Sequence[str]) -> list[list[str]]:
    """Files that are deliveries of one type together: called alike but for dates and numbers, with the same columns.

    Files called quite alike (in folders of their own) belong together whatever
    their columns. Groups and files keep their order.
    """
    stems = {f: _stem(Path(f)) for f in files}
    bare = {f: _DATES_AND_COUNTERS.sub("_", s).strip("_") for f, s in stems.items()}
    groups: list[list[str]] = []
    for file in files:
        home = next((g for g in groups if _belongs(file, g[0], stems, bare)), None)
        if home is None:
            groups.append([file])
        else:
            home.append(file)
    return groups


def called_alike(groups: Sequence[Sequence[str]]) -> list[str]:
    """Questions about groups of files that are called alike, but have other columns: one type that changed?"""
    alike: dict[str, list[str]] = {}
    for group in groups:
        stem = _stem(Path(group[0]))
        if bare := _DATES_AND_COUNTERS.sub("_", stem).strip("_"):
            alike.setdefault(bare, []).append(Path(group[0]).name)
    return [
        f"{' and '.join(names[:3])} are called alike, but have other columns: are they days of one type that changed? "
        "Then infer them together under one --name."
        for names in alike.values()
        if len(names) > 1
    ]


def _belongs(file: str, other: str, stems: Mapping[str, str], bare: Mapping[str, str]) -> bool:
    if stems[file] == stems[other]:
        return True
    return bare[file] == bare[other] and _columns_of(file) == _columns_of(other) != frozenset()


@lru_cache(maxsize=1024)
def _columns_of(file: str) -> frozenset[str]:
    """The folded names of a file's header; none where it cannot be read, which ``infer`` says itself."""
    try:
        return frozenset(fold(name) for name in look_at(file, None, None).sniffed.names)
    except ImporterError:
        return frozenset()


def _stem(file: Path) -> str:
    return re.sub(r"(?i)(?:\.(?:gz|zip|bz2|xz|zst|csv|tsv|txt|tab|psv|dat))+$", "", file.name)


def name_type(files: Sequence[str | Path], name: str | None = None) -> str:
    """What the files' type is called: ``name``, or the files' stem without what differs between them.

    Raises UsageError for a name that cannot be.
    """
    if name is not None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,54}", name):
            raise UsageError(
                f"--name {name!r}: letters, digits and _ only, no digit first, at most 55 characters."
            )
        return name
    paths = [Path(f) for f in files]
    stems = [_stem(f) for f in paths]
    stem = stems[0]
    if len(set(stems)) > 1:
        bare = {_DATES_AND_COUNTERS.sub("_", s).strip("_") for s in stems}
        shared = re.sub(r"[\d_.-]+$", "", _common_start(stems))
        stem = bare.pop() if len(bare) == 1 else shared
        stem = stem or paths[0].absolute().parent.name
    word = re.sub(r"[^a-z0-9]+", "_", stem.casefold()).strip("_")
    word = f"t_{word}" if not word or word[0].isdigit() else word
    return word[:55].rstrip("_") or "t"


def _common_start(words: Sequence[str]) -> str:
    first, last = min(words), max(words)
    same = next((i for i, c in enumerate(first) if i >= len(last) or last[i] != c), len(first))
    return first[:same]
