"""What to do about a delivery that is not as described: drift, and too many rejects.

What does not belong here: what a delivery should look like (``fields.py``,
``spec.py``), and doing it (``drift.py``, ``pipeline.py``).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from importer_dagster.fields import Model


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


class Scd2(Model):
    """How write_disposition scd2 keeps history."""

    absent: Literal["keep", "close"] = Field(
        "keep",
        description="A key that no delivery of a later day names: keep leaves its last version open (for "
        "partial deliveries), close ends it on the first day that was delivered without it (for full ones).",
    )


# Generous where nothing is declared: a small file with a few bad records loads
# its good ones, a large file that is mostly bad is a fault of the file.
DEFAULT_REJECT_LIMIT = RejectLimit(share=0.5, share_from=1000)
