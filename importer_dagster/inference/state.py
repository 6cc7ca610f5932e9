"""What is known of some files while a spec is inferred from them: data that the rooms of it share.

What does not belong here: finding it out (``inference/samples.py``, ``inference/type_choice.py``), judging it (``inference/constraints.py``, ``inference/proof.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from importer_dagster.inference.column_stats import Column
from importer_dagster.inference.dialect import Sniffed
from importer_dagster.inference.keys import Key
from importer_dagster.reader.encoding_detection import Charset

NOISE = 0.01  # share of values that may be damage and not a second way of writing
NOISE_FROM = 100  # values below which one odd value already says something


@dataclass
class File:
    """One file and how it is written; ``names`` are its columns under the names of the spec."""

    path: str
    charset: Charset
    sniffed: Sniffed
    names: tuple[str, ...] = ()
    records: int = 0


@dataclass
class Choice:
    """What was decided for one column."""

    field: dict[str, Any]
    reason: str
    candidate: Candidate | None = None


@dataclass
class Work:
    """What is known so far.

    ``columns`` sum up all files, ``aliases`` and ``choices`` go by a column's name;
    ``rejects`` counts damaged records by rule. ``say`` is told what is being done.
    """

    files: list[File]
    columns: dict[str, Column] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    key: Key | None = None
    rejects: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    say: Callable[[str], None] = lambda _: None

    @property
    def records(self) -> int:
        """How many sound records all files have."""
        return sum(f.records for f in self.files)


Order = Literal["dmy", "mdy"]
Style = tuple[str, str | None]  # (decimalChar, groupChar)


@dataclass(frozen=True)
class Candidate:
    """One way to read a column: keys of a field, and why.

    ``order`` is set where the candidate depends on day or month coming first.
    ``share`` is that of the values whose shapes it was made for.
    """

    field: Mapping[str, Any]
    reason: str
    order: Order | None = None
    style: Style | None = None
    share: float = 1.0

    @property
    def kind(self) -> str:
        """The field's type."""
        return str(self.field["type"])


def all_of(column: Column) -> str:
    """Words for the number of a column's values."""
    return f"all {column.plain:,} values"


def counted(number: int, word: str) -> str:
    """``number`` and a word for what is counted, in its plural where need be."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
