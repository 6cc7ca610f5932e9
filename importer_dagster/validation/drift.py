"""The columns of a delivery against its layout: which column feeds which field, and types that have changed.

Columns are matched by name, whatever their order: first by the name in the
header that is declared, then by a declared alias, then by a name that the field
has in another version, then without regard to case and spacing where that leaves no
doubt. Other similar names are proposals (``operations/spec_proposals.py``), never a match.

What does not belong here: reading the header (``reader/reader.py``), changing tables
(``writer/schema_evolution.py``), which layout a day has (``spec/versions.py``).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from importer_dagster.errors import RefusedError
from importer_dagster.model import ColumnMapping, DriftEvent, Failure
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import Layout, TableSpec, keep
from importer_dagster.validation.faults import fault_messages

# When a column counts as one of another type:
_LEAST_SHARE = 0.9  # of its values cannot be read,
_LEAST_VALUES = 20  # and these are at least so many, since fewer may be chance

# Mappings that were made before: nearly all files of a type have the same header, and to compare it
# takes as long as a column of a small file.
_known_mappings: dict[tuple[Hashable, ...], ColumnMapping] = {}


# --- a header against a layout ----------------------------------------------------------


def map_header(
    header: Sequence[str], spec: TableSpec, layout: Layout | None = None, *, line: int = 1
) -> ColumnMapping:
    """Decide which column feeds which field.

    ``layout`` is that of the delivery's day, if the type has versions; ``line`` is
    the physical line in which the header stands. Raises
    RefusedError (rules ``drift.removed``, ``drift.added``, ``drift.renamed``,
    ``drift.reordered``, ``header.ambiguous``, ``header.unknown``) where the type's
    ``schema_contract`` says so, a required column is missing, or the header is of another
    file; its ``events`` are what was found until then.
    """
    layout = layout or Layout(spec, spec)
    key = (layout.spec.hash, layout.whole.hash, tuple(layout.former.items()), tuple(header), line)
    mapping = _known_mappings.get(key)
    if mapping is None:
        mapping = _HeaderComparison(header, layout, line).mapping()
        keep(_known_mappings, key, mapping)
    return mapping


class _HeaderComparison:
    """One header compared with one layout: ``sources`` (field → position) and ``events`` fill up on the way."""

    def __init__(self, header: Sequence[str], layout: Layout, line: int) -> None:
        self.header, self.layout, self.spec = header, layout, layout.spec
        self.line = line
        self.where = f" in line {line}" if line > 1 else ""
        self.contract = layout.spec.schema_contract
        self.sources: dict[str, int] = {}
        self.events: list[DriftEvent] = []

    def mapping(self) -> ColumnMapping:
        """Match the columns, note what differs, refuse what the contract forbids."""
        fields, former = self.spec.fields, self.layout.former
        self._match(fields, lambda f: f.names[:1])
        for field, name in self._match(fields, lambda f: f.aliases):
            words = f"comes under the alias {name!r}"
            self.events.append(DriftEvent("renamed", field.name, words, declared=True))
        for field, name in self._match(fields, lambda f: (f.name, *former.get(f.name, ()))):
            self._note_renamed(field, name, f"comes as {name!r}, its name in another version")
        absent = self.layout.absent
        for field, name in self._match(absent, lambda f: (*f.names, *former.get(f.name, ()))):
            words = f"{name!r} belongs to another version; loaded as that says"
            self.events.append(DriftEvent("added", field.name, words))
        self._match_without_case()
        self._note_differences()
        self._refuse_by_contract()
        if not self.sources:  # a header of another file, or no header
            names = ", ".join(repr(n[:40]) for n in self.header[:5]) + (", …" if len(self.header) > 5 else "")
            raise RefusedError(
                f"The header{self.where} holds none of the columns of type {self.spec.name}; it reads {names}. Check that the file is "
                "of this type, and the dialect: delimiter, headerRows where something stands above the header, "
                "commentChar, header: false where there is none.",
                rule="header.unknown",
                line=self.line,
            )
        kept = tuple(self._unmatched()) if self.contract.added in ("rescue", "evolve") else ()
        return ColumnMapping(self.sources, kept, tuple(self.events))

    # --- matching ---

    def _match(
        self, fields: Iterable[FieldSpec], names_of: Callable[[FieldSpec], Sequence[str]]
    ) -> list[tuple[FieldSpec, str]]:
        """Give each field without a source the first of its names that is free; returns those fields and names."""
        positions = {name: i for i, name in enumerate(self.header)}
        matched = []
        for field in fields:
            if field.name in self.sources:
                continue
            for name in names_of(field):
                if name in positions and positions[name] not in self.sources.values():
                    self.sources[field.name] = positions[name]
                    matched.append((field, name))
                    break
        return matched

    def _match_without_case(self) -> None:
        """Match what is left, without regard to case and spacing; a field with two candidates is refused."""
        positions: dict[str, list[int]] = {}
        for i in self._unmatched():
            positions.setdefault(fold(self.header[i]), []).append(i)
        for field in self._missing():
            folded = {fold(n) for n in (field.name, *field.names)} - {""}
            candidates = sorted(i for name in folded for i in positions.get(name, []))
            if len(candidates) > 1:
                names = ", ".join(repr(self.header[i]) for i in candidates)
                self._refuse(
                    f"The columns {names}{self.where} could all be the field {field.name!r}; name one of them exactly, "
                    "or give the field an alias.",
                    "header.ambiguous",
                    field.name,
                )
            if candidates and candidates[0] not in self.sources.values():
                self.sources[field.name] = candidates[0]
                name = self.header[candidates[0]]
                self._note_renamed(field, name, f"comes as {name!r}: same but for case or spacing")

    def _unmatched(self) -> list[int]:
        """Positions of the columns that no field takes."""
        taken = set(self.sources.values())
        return [i for i in range(len(self.header)) if i not in taken]

    def _missing(self) -> list[FieldSpec]:
        return [f for f in self.spec.fields if f.name not in self.sources]

    def _is_required(self, field: FieldSpec) -> bool:
        return field.required or field.name in self.spec.tableschema.primaryKey

    # --- events ---

    def _note_renamed(self, field: FieldSpec, name: str, words: str) -> None:
        self.events.append(DriftEvent("renamed", field.name, words, profile={"header": name}))

    def _note_differences(self) -> None:
        """Note missing columns, unknown columns, and another order."""
        for field in self._missing():
            hint = self._rename_hint(field)
            loss = "; refused" if self.contract.removed == "freeze" else "; NULL is loaded"
            what = (
                f"the header lacks this column{', which is required' if self._is_required(field) else loss}"
            )
            self.events.append(DriftEvent("removed", field.name, f"{what}.{hint}" if hint else what))
        effect = {
            "discard": "left out",
            "rescue": "kept in _extra",
            "evolve": "becomes a column of the table",
            "freeze": "refused",
        }[self.contract.added]
        for i in self._unmatched():
            words = f"a column that the spec does not know; {effect}"
            self.events.append(DriftEvent("added", self.header[i], words))
        declared = [f.name for f in self.spec.fields if f.name in self.sources]
        found = sorted(declared, key=self.sources.__getitem__)
        if found != declared:
            first = next(b for a, b in zip(declared, found, strict=True) if a != b)
            words = f"columns come in another order, from {first!r} on; mapped by name"
            self.events.append(DriftEvent("reordered", None, words))

    def _rename_hint(self, field: FieldSpec) -> str:
        """The unmatched column that is most like the missing field, in words; empty if none is."""
        own_names = (field.name, *field.names)
        alike = {
            self.header[i]: max(likeness(self.header[i], own) for own in own_names) for i in self._unmatched()
        }
        nearest = max(alike, key=alike.__getitem__, default=None)
        if nearest is None or (alike[nearest] < 0.5 and len(self._unmatched()) > 1):
            return ""
        return f" The unknown column {nearest!r} may be the same under a new name: then add it to the field's aliases."

    # --- refusals ---

    def _refuse_by_contract(self) -> None:
        """Refuse a missing required column, and what ``schema_contract`` freezes."""
        name = self.spec.name
        for field in self._missing():
            if self._is_required(field):
                why = f"a required column of type {name}"
            elif self.contract.removed == "freeze":
                why = f"a column of type {name} that schema_contract.removed: freeze protects"
            else:
                continue
            named = repr(field.name) + (f" (headed {field.header!r})" if field.header else "")
            self._refuse(
                f"The header{self.where} lacks {named}, {why}.{self._rename_hint(field)} "
                f"Ask the supplier for it, or change the spec; `importer drift {name}` proposes how.",
                "drift.removed",
                field.name,
            )
        unknown = [self.header[i] for i in self._unmatched()]
        if unknown and self.contract.added == "freeze":
            self._refuse(
                f"The header{self.where} has columns that type {name} does not know: {', '.join(map(repr, unknown))}; "
                "schema_contract.added is freeze. Add them to the spec, or choose rescue, discard or evolve.",
                "drift.added",
                unknown[0],
            )
        for kind, words in (("renamed", "under other names"), ("reordered", "in another order")):
            found = [e for e in self.events if e.kind == kind and not e.declared]
            if found and getattr(self.contract, kind) == "freeze":
                listed = "; ".join(
                    f"{e.column_name}: {e.detail}" if e.column_name else e.detail for e in found
                )
                self._refuse(
                    f"The columns of type {name} come{self.where} {words} ({listed}); schema_contract.{kind} is "
                    "freeze. Ask the supplier, or declare it in the spec.",
                    f"drift.{kind}",
                    found[0].column_name,
                )

    def _refuse(self, message: str, rule: str, column: str | None) -> None:
        raise RefusedError(message, rule=rule, line=self.line, column=column, events=tuple(self.events))


# --- names that are alike ---------------------------------------------------------------


def fold(name: str) -> str:
    """The name without case, spacing and punctuation, for a lenient comparison."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def likeness(a: str, b: str) -> float:
    """How alike two names of columns are, from 0 to 1: by their letters, and by words that both contain."""
    x, y = fold(a), fold(b)
    if not x or not y:
        return 0.0
    by_letters = difflib.SequenceMatcher(None, x, y).ratio()
    if min(len(x), len(y)) >= 2 and (x.startswith(y) or y.startswith(x)):
        by_letters = max(by_letters, 0.8)  # lat, latitude; price, price_eur
    words, other_words = _words(a), _words(b)
    by_words = 0.0
    if words and other_words:
        by_words = 0.9 * len(words & other_words) / len(words | other_words)
    return max(by_letters, by_words)


def _words(name: str) -> set[str]:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    return {w for w in re.split(r"[\W_]+", parted.casefold()) if w}


# --- types that have changed ------------------------------------------------------------


@dataclass
class TypeWatch:
    """Counts, per column, the values of a delivery and those that cannot be read.

    ``sources`` maps a column of the table to the text column that feeds it.
    """

    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    present: Counter[str] = dataclasses.field(default_factory=Counter)
    bad: Counter[str] = dataclasses.field(default_factory=Counter)
    example: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, columns: pa.RecordBatch, failures: Sequence[Failure]) -> None:
        """Count one batch of text and the failures of its validation."""
        for column, source in self.sources.items():
            cells = columns.column(source)
            self.present[column] += len(cells) - cells.null_count
        for failure in failures:
            if failure.rule == "type" and failure.column is not None:
                self.bad[failure.column] += len(failure.indexes)
                if failure.column not in self.example:
                    words = failure.words if isinstance(failure.words, str) else failure.words.slice(0, 1)
                    message = fault_messages(failure.values.slice(0, 1), words)[0].as_py()
                    self.example[failure.column] = message

    def add_rescued(self, column: str, cells: pa.Array) -> None:
        """Count values (NULL elsewhere) that could not be read, but are no rejects."""
        self.bad[column] += len(cells) - cells.null_count
        if column not in self.example and cells.null_count < len(cells):
            self.example[column] = repr(cells.drop_null()[0].as_py()[:80])

    def changed(self) -> list[str]:
        """Columns of which nearly all values so far could not be read."""
        return [
            column
            for column, bad in self.bad.items()
            if bad >= _LEAST_VALUES and bad >= _LEAST_SHARE * self.present[column]
        ]

    def words(self, column: str) -> str:
        """How many values of a changed column could not be read, and one of them."""
        return (
            f"{self.bad[column]:,} of {self.present[column]:,} values are of another type, "
            f"such as: {self.example[column]}"
        )

    def events(self, done: str) -> Iterator[DriftEvent]:
        """One event for each changed column; ``done`` says what became of its values."""
        for column in self.changed():
            yield DriftEvent("retyped", column, f"{self.words(column)}; {done}")
