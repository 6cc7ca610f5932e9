"""What to do about a delivery that is not as described: drift, and too many rejects.

What does not belong here: what a delivery should look like (``spec/fields.py``,
``spec/table.py``), and doing it (``validation/drift.py``, ``pipeline/delivery.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from importer_dagster.spec.fields import Model, Names


class SchemaContract(Model):
    """What to do when a header differs from the spec, per kind of difference (dlt's words)."""

    added: Literal["evolve", "freeze", "discard", "rescue"] = Field(
        "rescue",
        description="A column the spec does not know: evolve adds it to the table, freeze refuses the "
        "file, discard leaves it out, rescue keeps it in the JSON column _extra.",
    )
    removed: Literal["evolve", "freeze"] = Field(
        "evolve",
        description="A column that is missing: evolve loads NULL for an optional one and refuses the "
        "file for a required one, freeze always refuses.",
    )
    renamed: Literal["evolve", "freeze"] = Field(
        "evolve",
        description="A column under another name that is known to be its own (case, spacing, another "
        "version): evolve maps it, freeze refuses. A declared alias is no reason to refuse.",
    )
    reordered: Literal["evolve", "freeze"] = Field(
        "evolve", description="The same columns in another order: evolve maps by name, freeze refuses."
    )
    retyped: Literal["reject", "freeze", "rescue"] = Field(
        "reject",
        description="A column of which nine in ten values (and at least 20) are of another type: reject "
        "treats them as bad records, freeze refuses the file, rescue keeps the text of what cannot be read "
        "in _extra and loads NULL, unless the column is required.",
    )


class RejectLimit(Model):
    """How many rejected records a file may have before it is refused whole."""

    share: float | None = Field(None, ge=0, le=1, description="Greatest share of the records, from 0 to 1.")
    count: int | None = Field(None, ge=0, description="Greatest number of records.")
    share_from: int = Field(0, ge=0, description="The share is judged only from this many rejects on.")

    def exceeded(self, rejected: int, read: int) -> str | None:
        """Say why ``rejected`` of ``read`` records are too many, or return None."""
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


def leads_out(pattern: str) -> bool:
    r"""Whether a path may lead out of the folder that it is relative to, here or on Windows.

    >>> [leads_out(p) for p in ("/etc", "a/../b", "..\\b", "C:/b", "C:\\b")]
    [True, True, True, True, True]
    >>> [leads_out(p) for p in ("a/b..csv", "{date:%H:%M}/b", "a:b/c")]
    [False, False, False]
    """
    return bool(re.match(r"[/\\]|[A-Za-z]:(?:[/\\]|$)", pattern)) or ".." in re.split(r"[/\\]", pattern)


class Manifest(Model):
    """What the supplier says about each file in another file; it is waited for, and checked."""

    path: str = Field(
        min_length=1,
        description="The manifest: a name such as SHA256SUMS in the same folder, or with {path}, such as "
        '"{path}.md5", one for each file.',
    )
    file_format: Literal["sums", "csv", "json"] = Field(
        "sums",
        alias="format",
        description="sums: lines of a checksum and a name, as sha256sum and md5sum write them, or one checksum "
        "alone. csv: a CSV in UTF-8 with a header and a row for each file. json: an object for each file, in a "
        "list, or in a list that is a value of one object.",
    )
    delimiter: str = Field(",", min_length=1, max_length=1, description="Of a CSV: between two values.")
    file: str | None = Field(
        None,
        description="The column of a CSV, or the key in JSON, that has the file's name, with or without folders.",
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
    """When a file in the inbox is all there; until then a scheduled run leaves it alone."""

    marker: str | None = Field(
        None,
        min_length=1,
        description="A file that the supplier writes when the delivery is complete: a name such as _SUCCESS "
        'in the same folder, or with {path}, such as "{path}.done", one for each file.',
    )
    manifest: Manifest | None = Field(
        None,
        description="A file in which the supplier says how many records or bytes a file has, or its checksum.",
    )
    min_age: int | None = Field(
        None,
        ge=0,
        description="Seconds that a file must have been unchanged before a scheduled run reads it; "
        "IMPORTER_MIN_AGE if not given.",
    )

    @model_validator(mode="after")
    def _stays_in_the_inbox(self) -> Complete:
        if self.marker and leads_out(self.marker):
            raise ValueError("complete.marker must stay in the inbox: no leading slash, no '..'")
        return self


class Trailer(Model):
    """What the last record says about the file; it is checked before anything is in force."""

    begins: str | None = Field(
        None,
        min_length=1,
        description="What its first cell is, such as TRL; without it the file was cut off.",
    )
    rows: int | None = Field(
        None, ge=1, description="Which of its cells, from 1, says how many records the file has."
    )
    rows_besides: int = Field(
        0,
        ge=0,
        description="How much more than the records that number counts, such as 1 for the trailer itself.",
    )
    sums: Mapping[str, int] = Field(
        {}, description="Field → the cell, from 1, that has its sum; for integers and exact numbers."
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
        description="A key that no delivery of a later day names: keep leaves its last version open (for "
        "partial deliveries), close ends it on the first day that was delivered without it (for full ones).",
    )


Action = Literal["warn", "refuse", "hold"]
_ACTION = (
    "warn loads it and says so, refuse refuses the file, hold puts its rows aside until a person decides."
)


class RowsGate(Model):
    """How many records a delivery has, against those before it."""

    band: tuple[float, ...] = Field(
        (0.5, 2.0),
        min_length=2,
        max_length=2,
        description="Least and greatest number of records, in times of the usual number.",
    )
    over: int = Field(
        5,
        ge=1,
        description="The usual number is the median of so many deliveries in force before it by business "
        "date and path, of the same tenant; with fewer than three (or than this) nothing is judged.",
    )
    least: int | None = Field(None, ge=0, description="Fewest records it must have, whatever is usual.")
    action: Action = Field("hold", description=_ACTION)

    @model_validator(mode="after")
    def _in_order(self) -> RowsGate:
        if not 0 <= self.band[0] <= self.band[1]:
            raise ValueError("band: the least number comes first, and neither is negative")
        return self


class RejectsGate(Model):
    """How many rejected records are suspicious; reject_limit says how many are too many."""

    share: float | None = Field(None, ge=0, le=1, description="Greatest share of the records, from 0 to 1.")
    count: int | None = Field(None, ge=0, description="Greatest number of records.")
    action: Action = Field("hold", description=_ACTION)

    @model_validator(mode="after")
    def _says_something(self) -> RejectsGate:
        if self.share is None and self.count is None:
            raise ValueError("rejects: say a share or a count")
        return self

    def exceeded(self, rejected: int, read: int) -> str | None:
        """Say why ``rejected`` of ``read`` records are suspicious, or return None."""
        if self.count is not None and rejected > self.count:
            return f"{rejected} rejected records are more than {self.count}"
        if self.share is not None and read and rejected / read > self.share:
            return (
                f"{rejected} of {read} records rejected ({rejected / read:.1%}) is more than {self.share:.1%}"
            )
        return None


class UniqueGate(Model):
    """Fields that together should not repeat within a file."""

    fields: Names = Field(
        min_length=1, description="The fields; a record that lacks one of them is not judged."
    )
    action: Action = Field("hold", description=_ACTION)


class ReferencesGate(Model):
    """How many records may refer to rows that are not there (schema.foreignKeys)."""

    share: float = Field(0.0, ge=0, le=1, description="Greatest share of the records, for each foreign key.")
    count: int | None = Field(None, ge=0, description="Greatest number of records instead of a share.")
    action: Action = Field("warn", description=_ACTION)

    def too_many(self, orphans: int, records: int) -> bool:
        """Whether so many of the records may not lead nowhere."""
        return orphans > (self.count if self.count is not None else self.share * records)


class Gate(Model):
    """What a readable delivery must satisfy to be believed; judged before anything of it is in force."""

    empty: Literal["load", "warn", "refuse", "hold"] | None = Field(
        None,
        description="A delivery without a single good record. Where nothing is declared, hold if it would "
        "empty the table (replace, and scd2 where absence closes), else load.",
    )
    rows: RowsGate | None = Field(None, description="The number of records, against earlier deliveries.")
    rejects: RejectsGate | None = Field(None, description="Rejected records.")
    unique: tuple[UniqueGate, ...] = Field((), description="Fields that should not repeat.")
    references: ReferencesGate | None = Field(None, description="References to rows that are not there.")


# Generous where nothing is declared: a small file with a few bad records loads
# its good ones, a large file that is mostly bad is a fault of the file.
DEFAULT_REJECT_LIMIT = RejectLimit(share=0.5, share_from=1000)
