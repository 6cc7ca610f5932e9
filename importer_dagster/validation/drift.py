"""A delivery's header against its layout: a mapping of columns, or a refusal.

Columns are matched by name, whatever their order: first by the name in the
header that is declared, then by a declared alias, then by a name that the field
has in another version, then with case and spacing folded where that leaves no
doubt. Whatever else looks alike is a proposal (``operations/spec_proposals.py``), never a match.

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


def fold(name: str) -> str:
    """The name without case, spacing and punctuation, for a lenient comparison."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def map_header(
    header: Sequence[str], spec: TableSpec, layout: Layout | None = None, *, line: int = 1
) -> ColumnMapping:
    """Decide which column feeds which field.

    ``layout`` is that of the delivery's day, if the type has versions; ``line``
    the physical line in which the header stands. Raises
    RefusedError (rules ``drift.removed``, ``drift.added``, ``drift.renamed``,
    ``drift.reordered``, ``header.ambiguous``) where the type's
    ``schema_contract`` says so or a required column is missing; its ``events``
    are what was found until then.
    """
    layout = layout or Layout(spec, spec)
    key = (layout.spec.hash, layout.whole.hash, tuple(layout.former.items()), tuple(header), line)
    found = _known.get(key)
    if found is None:
        found = _Comparison(header, layout, line).mapping()
        keep(_known, key, found)
    return found


# The files of a type nearly all have the same header; to compare it takes as long as a column of a small file.
_known: dict[tuple[Hashable, ...], ColumnMapping] = {}


class _Comparison:
    """One header against one layout."""

    def __init__(self, header: Sequence[str], layout: Layout, line: int) -> None:
        self.header, self.layout, self.spec = header, layout, layout.spec
        self.line = line
        self.where = f" in line {line}" if line > 1 else ""
        self.contract = layout.spec.schema_contract
        self.sources: dict[str, int] = {}
        self.events: list[DriftEvent] = []

    def mapping(self) -> ColumnMapping:
        self._match(self.spec.fields, lambda f: f.names[:1], self._nothing_to_say)
        self._match(self.spec.fields, lambda f: f.aliases, self._alias)
        self._match(self.spec.fields, lambda f: (f.name, *self.layout.former.get(f.name, ())), self._former)
        self._match(self.layout.absent, lambda f: (*f.names, *self.layout.former.get(f.name, ())), self._back)
        self._match_folded()
        self._note_missing()
        self._note_added()
        self._note_order()
        self._judge()
        self._check_any()
        kept = tuple(self._extras()) if self.contract.added in ("rescue", "evolve") else ()
        return ColumnMapping(self.sources, kept, tuple(self.events))

    # --- matching ---

    def _match(
        self,
        fields: Iterable[FieldSpec],
        names: Callable[[FieldSpec], Sequence[str]],
        say: Callable[[FieldSpec, str], None],
    ) -> None:
        positions = {name: i for i, name in enumerate(self.header)}
        for field in fields:
            free = (n for n in names(field) if n in positions and positions[n] not in self.sources.values())
            name = None if field.name in self.sources else next(free, None)
            if name is not None:
                self.sources[field.name] = positions[name]
                say(field, name)

    def _nothing_to_say(self, field: FieldSpec, name: str) -> None:
        pass

    def _say(
        self, kind: str, column: str | None, detail: str, *, declared: bool = False, header: str | None = None
    ) -> None:
        profile = None if header is None else {"header": header}
        self.events.append(DriftEvent(kind, column, detail, declared=declared, profile=profile))

    def _alias(self, field: FieldSpec, name: str) -> None:
        self._say("renamed", field.name, f"comes under the alias {name!r}", declared=True)

    def _former(self, field: FieldSpec, name: str) -> None:
        self._say("renamed", field.name, f"comes as {name!r}, its name in another version", header=name)

    def _back(self, field: FieldSpec, name: str) -> None:
        self._say("added", field.name, f"{name!r} belongs to another version; loaded as that says")

    def _match_folded(self) -> None:
        """Match what is left, case and spacing folded; two candidates are no match but a refusal."""
        folded: dict[str, list[int]] = {}
        for i in self._extras():
            folded.setdefault(fold(self.header[i]), []).append(i)
        for field in self.spec.fields:
            if field.name in self.sources:
                continue
            keys = {fold(n) for n in (field.name, *field.names)} - {""}
            candidates = sorted(i for key in keys for i in folded.get(key, []))
            if len(candidates) > 1:
                self._refuse_ambiguous(field, candidates)
            if candidates and candidates[0] not in self.sources.values():
                self.sources[field.name] = candidates[0]
                found = self.header[candidates[0]]
                words = f"comes as {found!r}: same but for case or spacing"
                self._say("renamed", field.name, words, header=found)

    def _refuse_ambiguous(self, field: FieldSpec, candidates: Sequence[int]) -> None:
        names = ", ".join(repr(self.header[i]) for i in candidates)
        self._refuse(
            f"The columns {names}{self.where} could all be the field {field.name!r}; name one of them exactly, "
            "or give the field an alias.",
            "header.ambiguous",
            field.name,
        )

    def _extras(self) -> list[int]:
        taken = set(self.sources.values())
        return [i for i in range(len(self.header)) if i not in taken]

    def _missing(self) -> list[FieldSpec]:
        return [f for f in self.spec.fields if f.name not in self.sources]

    # --- what is to be said of the rest ---

    def _check_any(self) -> None:
        """A header without a single known name is that of another file, or no header."""
        if self.sources:
            return
        names = ", ".join(repr(n[:40]) for n in self.header[:5]) + (", …" if len(self.header) > 5 else "")
        raise RefusedError(
            f"The header{self.where} holds none of the columns of type {self.spec.name}; it reads {names}. Check that the file is "
            "of this type, and the dialect: delimiter, headerRows where something stands above the header, "
            "commentChar, header: false where there is none.",
            rule="header.unknown",
            line=self.line,
        )

    def _note_missing(self) -> None:
        for field in self._missing():
            hint = _rename_hint(field, [self.header[i] for i in self._extras()])
            must = self._must(field)
            loss = "; refused" if self.contract.removed == "freeze" else "; NULL is loaded"
            what = f"the header lacks this column{', which is required' if must else loss}"
            self._say("removed", field.name, f"{what}.{hint}" if hint else what)

    def _note_added(self) -> None:
        what = {
            "discard": "left out",
            "rescue": "kept in _extra",
            "evolve": "becomes a column of the table",
            "freeze": "refused",
        }[self.contract.added]
        for i in self._extras():
            self._say("added", self.header[i], f"a column that the spec does not know; {what}")

    def _note_order(self) -> None:
        order = [f.name for f in self.spec.fields if f.name in self.sources]
        found = sorted(order, key=self.sources.__getitem__)
        if found != order:
            first = next(b for a, b in zip(order, found, strict=True) if a != b)
            self._say("reordered", None, f"columns come in another order, from {first!r} on; mapped by name")

    # --- refusals ---

    def _must(self, field: FieldSpec) -> bool:
        return field.required or field.name in self.spec.tableschema.primaryKey

    def _judge(self) -> None:
        for field in self._missing():
            if self._must(field) or self.contract.removed == "freeze":
                self._refuse_missing(field)
        if self.contract.added == "freeze" and self._extras():
            self._refuse_added()
        for kind, word in (("renamed", "under other names"), ("reordered", "in another order")):
            found = [e for e in self.events if e.kind == kind and not e.declared]
            if found and getattr(self.contract, kind) == "freeze":
                listed = "; ".join(
                    f"{e.column_name}: {e.detail}" if e.column_name else e.detail for e in found
                )
                self._refuse(
                    f"The columns of type {self.spec.name} come{self.where} {word} ({listed}); schema_contract.{kind} is "
                    "freeze. Ask the supplier, or declare it in the spec.",
                    f"drift.{kind}",
                    found[0].column_name,
                )

    def _refuse_missing(self, field: FieldSpec) -> None:
        name = self.spec.name
        why = (
            f"a required column of type {name}"
            if self._must(field)
            else f"a column of type {name} that schema_contract.removed: freeze protects"
        )
        hint = _rename_hint(field, [self.header[i] for i in self._extras()])
        named = repr(field.name) + (f" (headed {field.header!r})" if field.header else "")
        self._refuse(
            f"The header{self.where} lacks {named}, {why}.{hint} "
            f"Ask the supplier for it, or change the spec; `importer drift {self.spec.name}` proposes how.",
            "drift.removed",
            field.name,
        )

    def _refuse_added(self) -> None:
        extras = [self.header[i] for i in self._extras()]
        self._refuse(
            f"The header{self.where} has columns that type {self.spec.name} does not know: {', '.join(map(repr, extras))}; "
            "schema_contract.added is freeze. Add them to the spec, or choose rescue, discard or evolve.",
            "drift.added",
            extras[0],
        )

    def _refuse(self, message: str, rule: str, column: str | None) -> None:
        raise RefusedError(message, rule=rule, line=self.line, column=column, events=tuple(self.events))


def likeness(a: str, b: str) -> float:
    """How alike two names of columns are, from 0 to 1: letters, and words in common or abbreviated."""
    x, y = fold(a), fold(b)
    if not x or not y:
        return 0.0
    letters = difflib.SequenceMatcher(None, x, y).ratio()
    if min(len(x), len(y)) >= 2 and (x.startswith(y) or y.startswith(x)):
        letters = max(letters, 0.8)  # lat, latitude; price, price_eur
    return max(letters, _common_words(a, b))


def _common_words(a: str, b: str) -> float:
    x, y = _words(a), _words(b)
    return 0.9 * len(x & y) / len(x | y) if x and y else 0.0


def _words(name: str) -> set[str]:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    return {w for w in re.split(r"[\W_]+", parted.casefold()) if w}


def _rename_hint(field: FieldSpec, unknown: Sequence[str]) -> str:
    near = max(
        unknown, key=lambda n: max(likeness(n, own) for own in (field.name, *field.names)), default=None
    )
    if near is None:
        return ""
    alike = max(likeness(near, own) for own in (field.name, *field.names))
    if alike < 0.5 and len(unknown) > 1:
        return ""
    return (
        f" The unknown column {near!r} may be the same under a new name: then add it to the field's aliases."
    )


SHARE = 0.9  # of a column's values that cannot be read
LEAST = 20  # values below which it may be chance


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
        """Take in one batch of text and what validation says of it."""
        for column, source in self.sources.items():
            cells = columns.column(source)
            self.present[column] += len(cells) - cells.null_count
        for failure in failures:
            if failure.rule == "type" and failure.column is not None:
                self.bad[failure.column] += len(failure.indexes)
                if failure.column not in self.example:
                    words = failure.words if isinstance(failure.words, str) else failure.words.slice(0, 1)
                    self.example[failure.column] = fault_messages(failure.values.slice(0, 1), words)[
                        0
                    ].as_py()

    def add_rescued(self, column: str, cells: pa.Array) -> None:
        """Take in values (NULL elsewhere) that could not be read, but are no rejects."""
        self.bad[column] += len(cells) - cells.null_count
        if column not in self.example and cells.null_count < len(cells):
            self.example[column] = repr(cells.drop_null()[0].as_py()[:80])

    def changed(self) -> list[str]:
        """Columns that nearly no value of could be read so far."""
        return [c for c, n in self.bad.items() if n >= LEAST and n >= SHARE * self.present[c]]

    def words(self, column: str) -> str:
        """What was found, for people."""
        return (
            f"{self.bad[column]:,} of {self.present[column]:,} values are of another type, "
            f"such as: {self.example[column]}"
        )

    def events(self, done: str) -> Iterator[DriftEvent]:
        """What is to be recorded; ``done`` says what became of the values."""
        for column in self.changed():
            yield DriftEvent("retyped", column, f"{self.words(column)}; {done}")
