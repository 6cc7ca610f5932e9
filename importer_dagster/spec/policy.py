"""The options of a spec for deliveries that are late, incomplete, suspicious or not as described.

What does not belong here: how a file should look (``spec/fields.py``, ``spec/table.py``), and
applying these options (``validation/drift.py``, ``source/completeness.py``, ``pipeline/gate.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from importer_dagster.spec.fields import Model, Names

Action = Literal["warn", "refuse", "hold"]
_ACTION = (
    "warn: load the file and warn. refuse: refuse the file. hold: keep its rows aside until a person decides."
)


class SchemaContract(Model):
    """What to do when a header differs from the spec, for each kind of difference (in the words of dlt)."""

    added: Literal["evolve", "freeze", "discard", "rescue"] = Field(
        "rescue",
        description="A column that the spec does not have. evolve: add it to the table. freeze: refuse the "
        "file. discard: leave it out. rescue: keep it in the JSON column _extra.",
    )
    removed: Literal["evolve", "freeze"] = Field(
        "evolve",
        description="A missing column. evolve: load NULL if the column is optional, refuse the file if it is "
        "required. freeze: refuse the file.",
    )
    renamed: Literal["evolve", "freeze"] = Field(
        "evolve",
        description="A column under another name that is known to be the same column (other case, other "
        "spacing, the name in another version). evolve: map it. freeze: refuse the file. A declared alias is always mapped.",
    )
    reordered: Literal["evolve", "freeze"] = Field(
        "evolve",
        description="The same columns in another order. evolve: map them by name. freeze: refuse the file.",
    )
    retyped: Literal["reject", "freeze", "rescue"] = Field(
        "reject",
        description="A column of which nine in ten values, and at least 20, are of another type. reject: "
        "reject these records. freeze: refuse the file. rescue: load NULL and keep the text in _extra, unless the "
        "column is required.",
    )


class RejectLimit(Model):
    """How many rejected records a file may have; with more, the whole file is refused."""

    share: float | None = Field(None, ge=0, le=1, description="Largest share of the records, from 0 to 1.")
    count: int | None = Field(None, ge=0, description="Largest number of records.")
    share_from: int = Field(0, ge=0, description="The share counts only from this many rejected records on.")

    def exceeded(self, rejected: int, read: int) -> str | None:
        """The reason why ``rejected`` of ``read`` records are too many; None if they are not."""
        if self.count is not None and rejected > self.count:
            return f"{rejected} rejected records are more than the limit of {self.count} (reject_limit.count)"
        if (
            self.share is not None
            and read
            and rejected >= max(self.share_from, 1)
            and rejected / read > self.share
        ):
            return (
                f"{rejected} of {read} records rejected ({rejected / read:.1%}) is more than the limit "
                f"of {self.share:.1%} (reject_limit.share)"
            )
        return None


# For types that declare none: a small file with some bad records is loaded without them, a large file of
# which more than half is bad is refused, as then the file itself is wrong.
DEFAULT_REJECT_LIMIT = RejectLimit(share=0.5, share_from=1000)


def leads_out(pattern: str) -> bool:
    r"""Whether a relative path may lead out of its folder, on any operating system.

    >>> [leads_out(p) for p in ("/etc", "a/../b", "..\\b", "C:/b", "C:\\b")]
    [True, True, True, True, True]
    >>> [leads_out(p) for p in ("a/b..csv", "{date:%H:%M}/b", "a:b/c")]
    [False, False, False]
    """
    return bool(re.match(r"[/\\]|[A-Za-z]:(?:[/\\]|$)", pattern)) or ".." in re.split(r"[/\\]", pattern)


class Manifest(Model):
    """A file of the supplier with facts about each file. Scheduled runs wait for it, and the facts are checked."""

    path: str = Field(
        min_length=1,
        description="The manifest: a name such as SHA256SUMS in the same folder, or with {path}, such as "
        '"{path}.md5", one for each file.',
    )
    file_format: Literal["sums", "csv", "json"] = Field(
        "sums",
        alias="format",
        description="sums: lines of a checksum and a name, as sha256sum and md5sum write them, or one checksum "
        "alone. csv: a CSV in UTF-8 with a header and a row for each file. json: a list of objects, one for each "
        "file, or an object that has such a list as a value.",
    )
    delimiter: str = Field(
        ",", min_length=1, max_length=1, description="csv: the character between two values."
    )
    file: str | None = Field(
        None,
        description="The column or key with the file's name, with or without folders.",
    )
    rows: str | None = Field(None, description="The column or key with the number of records.")
    bytes: str | None = Field(None, description="The column or key with the size in bytes.")
    checksum: str | None = Field(
        None,
        description="The column or key with the checksum (md5, sha1, sha256 or sha512, as hex digits).",
    )

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _makes_sense(self) -> Manifest:
        if leads_out(self.path):
            raise ValueError("complete.manifest.path must stay in the inbox: no leading slash, no '..'")
        columns = (self.file, self.rows, self.bytes, self.checksum)
        if self.file_format == "sums":
            if any(columns):
                raise ValueError(
                    "complete.manifest: file, rows, bytes and checksum are for format: csv and json"
                )
            return self
        if not any(columns[1:]):
            raise ValueError("complete.manifest: name at least one of the columns rows, bytes, checksum")
        if self.file is None and "{path}" not in self.path:
            raise ValueError(
                "complete.manifest: name the column file, since the manifest is for a whole folder"
            )
        return self


class Complete(Model):
    """How to know that a file in the inbox has arrived completely. Scheduled runs wait until it has."""

    marker: str | None = Field(
        None,
        min_length=1,
        description="A file that the supplier writes when the delivery is complete: a name such as _SUCCESS "
        'in the same folder, or with {path}, such as "{path}.done", one for each file.',
    )
    manifest: Manifest | None = Field(
        None,
        description="A file of the supplier with the number of records or bytes of each file, or its checksum.",
    )
    min_age: int | None = Field(
        None,
        ge=0,
        description="Seconds that a file must have been unchanged before a scheduled run reads it; if not "
        "given, IMPORTER_MIN_AGE.",
    )

    @model_validator(mode="after")
    def _stays_in_the_inbox(self) -> Complete:
        if self.marker and leads_out(self.marker):
            raise ValueError("complete.marker must stay in the inbox: no leading slash, no '..'")
        return self


class Trailer(Model):
    """What the last record says about the file. It is checked before any row is visible."""

    begins: str | None = Field(
        None,
        min_length=1,
        description="The first cell of the trailer, such as TRL; a file without it was cut off.",
    )
    rows: int | None = Field(
        None, ge=1, description="The number, from 1, of the cell that has the number of records."
    )
    rows_besides: int = Field(
        0,
        ge=0,
        description="How much larger that number is than the number of records: 1 if it counts the trailer, too.",
    )
    sums: Mapping[str, int] = Field(
        {},
        description="Field → the number, from 1, of the cell that has its sum; for integers and exact numbers.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Trailer:
        if self.begins is None and self.rows is None and not self.sums:
            raise ValueError("trailer: say begins, rows or sums")
        if any(position < 1 for position in self.sums.values()):
            raise ValueError("trailer.sums: cells count from 1")
        return self


class Scd2(Model):
    """How write_disposition scd2 keeps history."""

    absent: Literal["keep", "close"] = Field(
        "keep",
        description="A key that is missing in the deliveries of a later day. keep: its last version stays open, "
        "for deliveries of changes only. close: its last version ends on the first day without the key, for deliveries "
        "of all rows.",
    )


class RowsGate(Model):
    """The number of records of a delivery, compared with earlier deliveries."""

    band: tuple[float, ...] = Field(
        (0.5, 2.0),
        min_length=2,
        max_length=2,
        description="Smallest and largest number of records, as multiples of the usual number.",
    )
    over: int = Field(
        5,
        ge=1,
        description="The usual number is the median of this many earlier deliveries of the same tenant, by business "
        "date and path. Nothing is checked while there are fewer than three of them, or fewer than this.",
    )
    least: int | None = Field(
        None, ge=0, description="The smallest number of records that any delivery must have."
    )
    action: Action = Field("hold", description=_ACTION)

    @model_validator(mode="after")
    def _in_order(self) -> RowsGate:
        if not 0 <= self.band[0] <= self.band[1]:
            raise ValueError("band: the least number comes first, and neither is negative")
        return self


class RejectsGate(Model):
    """How many rejected records are suspicious; with more than reject_limit, the file is refused."""

    share: float | None = Field(None, ge=0, le=1, description="Largest share of the records, from 0 to 1.")
    count: int | None = Field(None, ge=0, description="Largest number of records.")
    action: Action = Field("hold", description=_ACTION)

    @model_validator(mode="after")
    def _says_something(self) -> RejectsGate:
        if self.share is None and self.count is None:
            raise ValueError("rejects: say a share or a count")
        return self

    def exceeded(self, rejected: int, read: int) -> str | None:
        """The reason why ``rejected`` of ``read`` records are suspicious; None if they are not."""
        if self.count is not None and rejected > self.count:
            return f"{rejected} rejected records are more than {self.count}"
        if self.share is not None and read and rejected / read > self.share:
            return (
                f"{rejected} of {read} records rejected ({rejected / read:.1%}) is more than {self.share:.1%}"
            )
        return None


class UniqueGate(Model):
    """Fields whose values together should not repeat within a file."""

    fields: Names = Field(
        min_length=1, description="The fields; a record without a value in one of them is not checked."
    )
    action: Action = Field("hold", description=_ACTION)


class ReferencesGate(Model):
    """How many records may refer to rows that do not exist (see schema.foreignKeys)."""

    share: float = Field(0.0, ge=0, le=1, description="Largest share of the records, for each foreign key.")
    count: int | None = Field(None, ge=0, description="Largest number of records; replaces the share.")
    action: Action = Field("warn", description=_ACTION)

    def too_many(self, orphans: int, records: int) -> bool:
        """Whether so many of the records refer to rows that do not exist that action is needed."""
        return orphans > (self.count if self.count is not None else self.share * records)


class Gate(Model):
    """Checks of a whole delivery, made before any of its rows is visible."""

    empty: Literal["load", "warn", "refuse", "hold"] | None = Field(
        None,
        description="A delivery without a good record. If not given: hold if it would empty the table (replace, "
        "and scd2 with absent: close), else load.",
    )
    rows: RowsGate | None = Field(
        None, description="The number of records, compared with earlier deliveries."
    )
    rejects: RejectsGate | None = Field(None, description="The number of rejected records.")
    unique: tuple[UniqueGate, ...] = Field((), description="Fields whose values should not repeat.")
    references: ReferencesGate | None = Field(None, description="References to rows that do not exist.")
