"""One way to read a column, and the words in which that is told.

What does not belong here: making candidates (``inference/candidates.py``, ``inference/date_candidates.py``,
``inference/number_candidates.py``), choosing among them (``inference/type_choice.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from importer_dagster.inference.column_stats import Column

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
