"""Data that the steps of an inference share: files, columns, ways to read a column, and what was chosen.

What does not belong here: filling it (``inference/samples.py``, ``inference/type_choice.py``,
``inference/constraints.py``), and the spec that is made from it (``inference/infer.py``).
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

NOISE = 0.01  # share of a column's values that may be unreadable and count as damage
NOISE_FROM = 100  # values; in a shorter column a single unreadable value is no damage but another type

Order = Literal["dmy", "mdy"]
Style = tuple[str, str | None]  # (decimalChar, groupChar)


@dataclass
class File:
    """One file and how it is written; ``names`` are its columns under the names of the spec."""

    path: str
    charset: Charset
    sniffed: Sniffed
    names: tuple[str, ...] = ()
    records: int = 0


@dataclass(frozen=True)
class Candidate:
    """One way to read a column: keys of a field, and the reason.

    ``order`` is set where the candidate depends on day or month coming first.
    ``style`` is how numbers are written, where the values show it.
    ``share`` is the share of the column's values whose shapes the candidate was made for.
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


@dataclass
class Choice:
    """What was chosen for one column: keys of its field, the reason, and the candidate if it is not plain text."""

    field: dict[str, Any]
    reason: str
    candidate: Candidate | None = None


@dataclass
class InferenceState:
    """All that is known so far of the files that a spec is inferred from.

    ``columns``, ``aliases`` and ``choices`` have the column's name as their key;
    a column sums up the cells of all files. ``rejects`` counts damaged records by
    rule. ``report`` is called with a few words on what is being done.
    """

    files: list[File]
    columns: dict[str, Column] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    key: Key | None = None
    rejects: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    report: Callable[[str], None] = lambda _: None

    @property
    def records(self) -> int:
        """How many undamaged records all files have together."""
        return sum(f.records for f in self.files)


def all_of(column: Column) -> str:
    """Words for the number of a column's values."""
    return f"all {column.plain:,} values"


def counted(number: int, word: str) -> str:
    """``number`` followed by ``word``, in the plural unless the number is one."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
