"""Batches of text into typed rows and failures: each field is parsed exactly, then its constraints are checked.

What does not belong here: how a type is read (``validation/parse.py``), which constraints
exist (``validation/schemas.py``), uniqueness (``writer/publish.py``: it needs the whole file).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

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
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import checks, parse, schemas
from importer_dagster.validation.checks import CheckResult
from importer_dagster.validation.local_times import Clock

_NO_COLUMNS = pd.DataFrame()


class Validator:
    """Validates the batches of one delivery.

    ``sources`` maps each field's name to the text column that feeds it, or to None
    where the delivery lacks the (optional) column, which makes it NULL. Of the fields in
    ``rescued``, values that cannot be read become NULL without a failure (see :meth:`unread`).
    """

    def __init__(
        self, spec: TableSpec, sources: Mapping[str, str | None], rescued: Collection[str] = ()
    ) -> None:
        self.spec, self.rescued = spec, rescued
        self.sources = dict(sources)
        self._source_of: dict[str | None, str | None] = {
            f.column: self.sources.get(f.name) for f in spec.fields
        }
        self.schema = schemas.arrow_schema(spec)
        self.pandera = schemas.batch_schema(spec)
        self._only_own_checks = schemas.has_only_cell_checks(spec)
        self._missing: dict[str, tuple[str, ...]] = {}
        for field in spec.fields:
            tokens = spec.missing_values(field)
            # The reader has made NULL of the unquoted tokens that all fields share. Those that are left were
            # quoted: they are text in a text column, and a missing value in any other.
            if field.type == "string" and field.format != "uuid":
                tokens = tuple(t for t in tokens if t and t not in spec.common_missing)
            self._missing[field.name] = tokens
        self._clocks = {
            f.name: Clock(f, is_unique=f.constraints.unique or spec.primary_key == (f.column,))
            for f in spec.fields
            if f.timezone is not None
        }

    def __call__(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Positions, list[Failure]]:
        """Validate one batch of text.

        Returns the typed columns of the good rows (named by ``field.column``),
        the positions of the good rows in the batch (int64), and the failures,
        which together name every failing cell of the other rows.
        """
        arrays: list[pa.Array] = []
        failures: list[Failure] = []
        unread: dict[str | None, Positions] = {}
        for clock in self._clocks.values():
            clock.at.clear()
        for field in self.spec.fields:
            source = self.sources.get(field.name)
            if source is None:
                arrays.append(pa.nulls(len(batch), schemas.arrow_type(field)))
                continue
            own = self._clocks.get(field.name)
            column, bad = parse.parse(batch.column(source), field, self._missing[field.name], own)
            arrays.append(column)
            if bad is not None:
                unread[field.column] = bad.indexes
                if field.name not in self.rescued:
                    failures += [Failure(field.column, "type", i, bad.values(i), w) for i, w in bad.groups]
        typed = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        failures += self._constraint_failures(batch, typed, unread)

        is_good = np.ones(len(typed), np.bool_)
        for failure in failures:
            is_good[failure.indexes] = False
        good = np.flatnonzero(is_good)
        return (typed if len(good) == len(typed) else typed.take(pa.array(good))), good, failures

    def sources_of(self, columns: Iterable[str]) -> list[str]:
        """The text columns that feed some of the table's columns."""
        return [source for c in columns if (source := self._source_of[c]) is not None]

    @property
    def warnings(self) -> list[str]:
        """What the load of the file should say about records that were read so far."""
        return [w for clock in self._clocks.values() if (w := clock.warning)]

    @property
    def doubtful(self) -> list[Positions]:
        """Positions in the batch that was read last of records with local times that came twice."""
        return [found for clock in self._clocks.values() for found in clock.at]

    def unread(self, name: str, cells: pa.Array, typed: pa.Array) -> pa.Array:
        """Of a rescued field: the texts that could not be read, NULL elsewhere."""
        missing = pc.is_in(cells, value_set=pa.array(self._missing[name], pa.string()))
        lost = pc.and_(pc.and_(typed.is_null(), cells.is_valid()), pc.invert(missing))
        return pc.if_else(lost, cells, pa.scalar(None, pa.string()))

    def _constraint_failures(
        self, batch: pa.RecordBatch, typed: pa.RecordBatch, unread: Mapping[str | None, Positions]
    ) -> list[Failure]:
        """Every cell that breaks a constraint, except those in ``unread``, which are NULL only because of that."""
        with checks.collecting(typed) as results:
            errors = self._errors(typed)
        results += [self._result_of(error, len(batch)) for error in errors]
        for result in results:
            if result.error is not None:
                raise SpecError(
                    f"The check {result.check.name!r} of {self.spec.name} stopped with {result.error}. "
                    "Mend the check, or take it out of the spec."
                )
        failures = []
        for result in results:
            name, column, indexes = str(result.check.name), result.column, result.indexes
            if column in unread:
                was_read = np.ones(len(batch), np.bool_)
                was_read[unread[column]] = False
                indexes = indexes[was_read[indexes]]
            if len(indexes):
                source = self._source_of.get(column)  # None for a check over rows
                values = pa.nulls(len(indexes), pa.string())
                if source is not None:
                    values = batch.column(source).take(pa.array(indexes))
                words = str(result.check.error or f"fails the check {name}")
                failures.append(Failure(column, name, indexes, values, words))
        return failures

    def _errors(self, typed: pa.RecordBatch) -> Sequence[pandera.errors.SchemaError]:
        """Run all checks; returns the errors of those that do not report to :func:`validation.checks.collecting`."""
        if self._only_own_checks:
            # all that Pandera's validate would do here, in a tenth of its time for a small batch
            self.pandera.checks[0](_NO_COLUMNS)
            return ()
        needed = typed if self.spec.checks else typed.select(list(self.pandera.columns))
        frame: pd.DataFrame = needed.to_pandas(types_mapper=pd.ArrowDtype)
        try:
            # the batch has its schema by construction; PANDERA_* in the environment may not switch checks off
            with config_context(validation_enabled=True, validation_depth=ValidationDepth.DATA_ONLY):
                self.pandera.validate(frame, lazy=True, inplace=True)
        except pandera.errors.SchemaErrors as found:
            return list(found.schema_errors)
        return ()

    def _result_of(self, error: pandera.errors.SchemaError, length: int) -> CheckResult:
        """What a check of a user's own module found, from Pandera's error about a batch of ``length`` rows."""
        check = error.check
        if not isinstance(check, pandera.Check):
            raise AssertionError(f"Pandera found a fault of the importer itself: {error}")
        column = getattr(error.schema, "name", None) if error.schema is not self.pandera else None
        if error.reason_code == pandera.errors.SchemaErrorReason.CHECK_ERROR:
            return CheckResult(check, column, np.empty(0, np.int64), str(error.failure_cases))
        output = error.check_output
        if not isinstance(output, pd.Series):  # the check gave one answer for all rows
            return CheckResult(check, column, np.arange(length, dtype=np.int64))
        failed = ~output.astype("boolean").fillna(True).to_numpy(dtype=np.bool_)
        # the check may have looked at some of the rows only, so their positions come from the index
        return CheckResult(check, column, np.sort(output.index.to_numpy(dtype=np.int64)[failed]))
