"""Text batches into typed rows and failures: exact parsing, then Pandera.

What does not belong here: how a type is read (``validation/parse.py``), which constraints
exist (``validation/schemas.py``), uniqueness (``writer/publish.py``: it needs the whole file).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import pandera.errors
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc
from pandera.config import ValidationDepth, config_context

from importer_dagster.arrays import Positions
from importer_dagster.errors import SpecError
from importer_dagster.model import Failure
from importer_dagster.spec.fields import FieldSpec
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import checks, parse, schemas
from importer_dagster.validation.checks import Verdict
from importer_dagster.validation.faults import BadCells

_NO_COLUMNS = pd.DataFrame()


class Validator:
    """Judges the batches of one delivery.

    ``sources`` maps each field's name to the text column that feeds it, or None
    where the delivery lacks the (optional) column, which makes it NULL.
    """

    def __init__(
        self, spec: TableSpec, sources: Mapping[str, str | None], rescued: Collection[str] = ()
    ) -> None:
        self.spec, self.rescued = spec, rescued
        self.sources = dict(sources)
        self.schema = schemas.arrow_schema(spec)
        self.pandera = schemas.batch_schema(spec)
        self._is_one_check = schemas.judges_row_by_row(spec)
        self._missing = {f.name: _missing_tokens(spec, f) for f in spec.fields}

    def __call__(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Positions, list[Failure]]:
        """Judge one batch of text.

        Returns the typed columns of the good rows (named by ``field.column``),
        the positions of the good rows in the batch (int64), and the failures,
        which together name every failing cell of the other rows.
        """
        arrays: list[pa.Array] = []
        failures: list[Failure] = []
        unread: dict[str | None, Positions] = {}
        for field in self.spec.fields:
            typed, bad = self._parse(batch, field)
            arrays.append(typed)
            if bad is not None:
                unread[field.column] = bad.indexes
            if bad is not None and field.name not in self.rescued:
                failures += [Failure(field.column, "type", i, bad.values(i), w) for i, w in bad.groups]
        typed_batch = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        failures += self._constraints(batch, typed_batch, unread)
        return *_split(typed_batch, failures), failures

    def unread(self, name: str, cells: pa.Array, typed: pa.Array) -> pa.Array:
        """Of a rescued field: the texts that could not be read, NULL elsewhere."""
        missing = pc.is_in(cells, value_set=pa.array(self._missing[name], pa.string()))
        lost = pc.and_(pc.and_(typed.is_null(), cells.is_valid()), pc.invert(missing))
        return pc.if_else(lost, cells, pa.scalar(None, pa.string()))

    def _parse(self, batch: pa.RecordBatch, field: FieldSpec) -> tuple[pa.Array, BadCells | None]:
        source = self.sources.get(field.name)
        if source is None:
            return pa.nulls(len(batch), schemas.arrow_type(field)), None
        return parse.parse(batch.column(source), field, self._missing[field.name])

    def _constraints(
        self, batch: pa.RecordBatch, typed: pa.RecordBatch, unread: Mapping[str | None, Positions]
    ) -> list[Failure]:
        """What Pandera finds, every failing cell of it."""
        with checks.collecting(typed) as verdicts:
            errors = self._errors(typed)
        verdicts += [self._verdict(error, len(batch)) for error in errors]
        for verdict in verdicts:
            self._must_have_worked(verdict)
        failing = (self._failing(batch, verdict, unread) for verdict in verdicts)
        return [failure for failure in failing if len(failure.indexes)]

    def _errors(self, typed: pa.RecordBatch) -> Sequence[pandera.errors.SchemaError]:
        """What Pandera finds and no check of this package has collected."""
        if self._is_one_check:
            # all that validate would do here, which takes ten times as long, however few the rows
            self.pandera.checks[0](_NO_COLUMNS)
            return ()
        try:
            # the batch has its schema by construction; PANDERA_* in the environment may not switch checks off
            with config_context(validation_enabled=True, validation_depth=ValidationDepth.DATA_ONLY):
                self.pandera.validate(self._frame(typed), lazy=True, inplace=True)
        except pandera.errors.SchemaErrors as found:
            return list(found.schema_errors)
        return ()

    def _frame(self, typed: pa.RecordBatch) -> pd.DataFrame:
        """What checks of somebody else's may look at; the importer's own look at the batch."""
        needed = typed if self.spec.checks else typed.select(list(self.pandera.columns))
        frame: pd.DataFrame = needed.to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def _failing(
        self, batch: pa.RecordBatch, verdict: Verdict, unread: Mapping[str | None, Positions]
    ) -> Failure:
        """The failures of one check."""
        indexes = verdict.indexes
        if verdict.column in unread:  # its NULL only stands in for what could not be read
            known = np.ones(len(batch), np.bool_)
            known[unread[verdict.column]] = False
            indexes = indexes[known[indexes]]
        words = str(verdict.check.error or f"fails the check {verdict.check.name}")
        values = self._text(batch, verdict.column, indexes)
        return Failure(verdict.column, str(verdict.check.name), indexes, values, words)

    def _verdict(self, error: pandera.errors.SchemaError, length: int) -> Verdict:
        """What a check of somebody else's found, from Pandera's error."""
        check = error.check
        if not isinstance(check, pandera.Check):
            raise AssertionError(f"Pandera found a fault of the importer itself: {error}")
        column = getattr(error.schema, "name", None) if error.schema is not self.pandera else None
        if error.reason_code == pandera.errors.SchemaErrorReason.CHECK_ERROR:
            return Verdict(check, column, np.empty(0, np.int64), str(error.failure_cases))
        return Verdict(check, column, _failed_rows(error, length))

    def _must_have_worked(self, verdict: Verdict) -> None:
        if verdict.error is not None:
            raise SpecError(
                f"The check {verdict.check.name!r} of {self.spec.name} stopped with {verdict.error}. "
                "Mend the check, or take it out of the spec."
            )

    def _text(self, batch: pa.RecordBatch, column: str | None, indexes: Positions) -> pa.Array:
        """The cells as they stood in the file."""
        field = next((f for f in self.spec.fields if f.column == column), None)
        source = self.sources.get(field.name) if field else None
        if source is None:
            return pa.nulls(len(indexes), pa.string())
        return batch.column(source).take(pa.array(indexes))


def _missing_tokens(spec: TableSpec, field: FieldSpec) -> tuple[str, ...]:
    """Texts that mean 'no value' here.

    The reader has made NULL of the unquoted ones that all fields share. What is
    left of these was quoted: text in a text column, elsewhere it cannot mean
    anything but a missing value.
    """
    tokens = spec.missing_values(field)
    is_text = field.type == "string" and field.format != "uuid"
    return tuple(t for t in tokens if t and t not in spec.common_missing) if is_text else tokens


def _failed_rows(error: pandera.errors.SchemaError, length: int) -> Positions:
    """Positions (ascending) of the rows that fail; a check may also have judged only some rows, or all at once."""
    output = error.check_output
    if not isinstance(output, pd.Series):
        return np.arange(length, dtype=np.int64)
    failed = ~output.astype("boolean").fillna(True).to_numpy(dtype=np.bool_)
    return np.sort(output.index.to_numpy(dtype=np.int64)[failed])


def _split(typed: pa.RecordBatch, failures: list[Failure]) -> tuple[pa.RecordBatch, Positions]:
    """The good rows, and where they stood."""
    fine = np.ones(len(typed), np.bool_)
    for failure in failures:
        fine[failure.indexes] = False
    good = np.flatnonzero(fine)
    return (typed if len(good) == len(typed) else typed.take(pa.array(good))), good
