"""Named Pandera checks that a spec can refer to.

A field's ``checks`` see one column, a type's ``checks`` see whole rows. In a
spec a check is written as its name, with arguments in brackets where it takes
any: ``email``, ``not_after(startdate, enddate)``. A check is a Python function
that returns a :class:`pandera.Check`, registered under its name::

    from importer_dagster import named_check

    @named_check("multiple_of")
    def multiple_of(step: str) -> pandera.Check:
        n = int(step)
        return pandera.Check(lambda s: s // n * n == s, error=f"is no multiple of {step}")

Arguments arrive as text. The check gets Arrow-backed pandas, which lacks some
operators, such as ``%`` (:func:`column_check` uses pyarrow.compute instead). It returns one
boolean per row; missing values are not checked. ``error`` stands after the value
in the reject's message. ``IMPORTER_CHECKS`` names further modules
(comma-separated) that register their own checks.

What does not belong here: the constraints of the Table Schema standard
(``validation/schemas.py``).
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.errors import SpecError
from importer_dagster.spec.fields import short_identifier

Factory = Callable[..., pandera.Check]
# Takes a column and returns one boolean per cell, or null for a cell that is not checked.
ColumnTest = Callable[[pa.Array], pa.Array]

_registry: dict[str, Factory] = {}


def named_check(name: str) -> Callable[[Factory], Factory]:
    """Register a factory of a check under ``name``."""

    def register(factory: Factory) -> Factory:
        _registry[name] = factory
        return factory

    return register


def get_check(text: str) -> pandera.Check:
    """The check that a spec writes as ``text``, which is also its name.

    Raises SpecError for an unknown name, suggesting the nearest one, and for
    arguments that the check does not take.
    """
    _load_own_checks()
    written = re.fullmatch(r"\s*([\w.-]+)\s*(?:\(([^()]*)\))?\s*", text)
    if written is None:
        raise SpecError(f"the check {text!r} is not written as a name or name(argument, argument)")
    name, arguments = written[1], written[2]
    if name not in _registry:
        near = difflib.get_close_matches(name, _registry, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(_registry))}"
        raise SpecError(f"no check is called {name!r}; {hint}")
    try:
        check = _registry[name](*(a.strip() for a in arguments.split(",")) if arguments else ())
    except (TypeError, ValueError) as error:
        raise SpecError(f"the check {text!r} cannot be made: {error}") from None
    check.name = text
    # the positions of all failures come from the check's output; Pandera's examples would only take time
    check.n_failure_cases = 1
    return check


def check_names() -> list[str]:
    """All registered names, sorted."""
    _load_own_checks()
    return sorted(_registry)


@lru_cache(maxsize=1)
def _load_own_checks() -> None:
    for module in filter(None, os.environ.get("IMPORTER_CHECKS", "").split(",")):
        try:
            importlib.import_module(module.strip())
        except ImportError as error:
            raise SpecError(f"IMPORTER_CHECKS names the module {module.strip()!r}: {error}") from None


# --- between Arrow and Pandera ---------------------------------------------------


@dataclass(frozen=True)
class CheckResult:
    """The rows of a batch that fail one check: ``indexes`` are their positions (int64, ascending).

    ``error`` is set if the check itself stopped with an exception.
    """

    check: pandera.Check
    column: str | None
    indexes: np.ndarray
    error: str | None = None


@dataclass(frozen=True)
class _BatchInCheck:
    """The batch that is being checked, and the failed checks so far."""

    batch: pa.RecordBatch
    failed: list[CheckResult]


_batch_in_check: ContextVar[_BatchInCheck | None] = ContextVar("batch_in_check", default=None)


@contextmanager
def collecting(batch: pa.RecordBatch) -> Iterator[list[CheckResult]]:
    """Inside, checks of this module add what fails to the list, and report success to Pandera.

    Pandera makes an error of each failing check and batch, which takes 6 ms. A file with
    a bad cell in a hundred would spend more time on errors than on checks.
    ``batch`` is what Pandera gets as a frame; its columns are checked as they are, without pandas.
    """
    failed: list[CheckResult] = []
    token = _batch_in_check.set(_BatchInCheck(batch, failed))
    try:
        yield failed
    finally:
        _batch_in_check.reset(token)


def _collect(failed: list[CheckResult], check: pandera.Check, column: str | None, mask: pa.Array) -> None:
    """Add a result if the mask (null: not checked) has any false."""
    # false_count takes a hundredth of the time of pc.all
    any_false = mask.false_count > 0 if isinstance(mask, pa.BooleanArray) else pc.all(mask).as_py() is False
    if any_false:
        passed = pc.fill_null(mask, True).to_numpy(zero_copy_only=False)
        failed.append(CheckResult(check, column, np.flatnonzero(~passed)))


def _as_check_output(check: pandera.Check, column: str | None, mask: pa.Array, like: pd.Series) -> pd.Series:
    """The mask (null: not checked) as the series that Pandera expects of a check.

    Inside of :func:`collecting` the failures go to its list, and the series is all true.
    """
    in_check = _batch_in_check.get()
    if in_check is not None:
        _collect(in_check.failed, check, column, mask)
        mask = pa.scalar(True)
    if pc.all(mask).as_py() is not False:
        return pd.Series(np.ones(len(like), np.bool_), index=like.index, copy=False)
    return pd.Series(pc.fill_null(mask, True).to_numpy(zero_copy_only=False), index=like.index, copy=False)


def to_arrow(series: pd.Series) -> pa.Array:
    """The Arrow array of an Arrow-backed series, without a copy for a single chunk."""
    array = pa.array(series)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def column_check(test: ColumnTest, *, name: str | None = None, error: str) -> pandera.Check:
    """A Pandera check of a column by a function of Arrow arrays."""

    def run(series: pd.Series) -> pd.Series:
        return _as_check_output(check, str(series.name), test(to_arrow(series)), series)

    check = pandera.Check(run, name=name, error=error, ignore_na=False, n_failure_cases=1)
    check.column_test = test  # for all_at_once; a subclass is no way, since Pandera has no backend for it
    return check


def column_test_of(check: pandera.Check) -> ColumnTest | None:
    """The function that :func:`column_check` made the check of; None for any other check."""
    return getattr(check, "column_test", None)


def all_at_once(checks: Sequence[tuple[str, pandera.Check, ColumnTest]]) -> pandera.Check:
    """One check that runs these checks of columns on the batch of :func:`collecting`; works only inside of it.

    Pandera takes 0.1 ms for a check and a column each, however few the rows, and a
    column of a frame is another 0.1 ms: as much as most checks of 3,000 cells.
    """

    def run(_: pd.DataFrame) -> bool:
        in_check = _batch_in_check.get()
        assert in_check is not None, "only works inside of collecting()"
        for column, check, test in checks:
            try:
                _collect(in_check.failed, check, column, test(in_check.batch.column(column)))
            except Exception as error:
                reason = f"{type(error).__name__}({error})"
                in_check.failed.append(CheckResult(check, column, np.empty(0, np.int64), reason))
        return True

    return pandera.Check(run, name="all_at_once", ignore_na=False)


# --- columns ------------------------------------------------------------------------


def _matches(pattern: str, error: str) -> pandera.Check:
    return column_check(lambda text: pc.match_substring_regex(text, rf"\A(?:{pattern})\z"), error=error)


@named_check("email")
def email() -> pandera.Check:
    """One @, something on both sides, a dot behind it, no blanks."""
    return _matches(r"[^@\s]+@[^@\s.]+(?:\.[^@\s.]+)+", "is no e-mail address")


@named_check("uri")
def uri() -> pandera.Check:
    """A scheme, a colon and something behind it, no blanks."""
    return _matches(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]+", "is no URI")


@named_check("base64")
def base64() -> pandera.Check:
    """The letters of base64 in groups of four, padded."""
    letter = "[A-Za-z0-9+/]"
    return _matches(f"(?:{letter}{{4}})*(?:{letter}{{2}}==|{letter}{{3}}=)?", "is no base64")


@named_check("iso_country")
def iso_country() -> pandera.Check:
    """A two-letter country code in force in ISO 3166-1, as the time zone database lists them."""
    table = files("tzdata").joinpath("zoneinfo/iso3166.tab").read_text(encoding="utf-8")
    codes = pa.array([line[:2] for line in table.splitlines() if line and not line.startswith("#")])
    return column_check(
        lambda text: pc.or_(pc.is_null(text), pc.is_in(text, value_set=codes)),
        error="is no ISO 3166-1 country code",
    )


@named_check("iso_currency")
def iso_currency() -> pandera.Check:
    """Three capital letters, as ISO 4217 codes are written; old and new ones alike."""
    return _matches("[A-Z]{3}", "is not written like an ISO 4217 currency code")


@named_check("no_outer_blanks")
def no_outer_blanks() -> pandera.Check:
    """No blank at the start or the end."""
    return column_check(
        lambda text: pc.equal(text, pc.utf8_trim_whitespace(text)), error="starts or ends with a blank"
    )


@named_check("not_blank")
def not_blank() -> pandera.Check:
    """Not empty, and not of blanks only."""
    return column_check(
        lambda text: pc.greater(pc.binary_length(pc.utf8_trim_whitespace(text)), 0), error="is blank"
    )


@named_check("luhn")
def luhn() -> pandera.Check:
    """Two to nineteen digits, the last one the check digit of ISO/IEC 7812-1, as on cards."""

    def passes(text: pa.Array) -> pa.Array:
        is_number = pc.match_substring_regex(text, r"\A[0-9]{2,19}\z")
        padded = pc.utf8_lpad(pc.if_else(pc.fill_null(is_number, False), text, "0"), 19, "0")
        matrix = np.frombuffer(pc.cast(padded, pa.binary(19)).buffers()[1], np.uint8)[: 19 * len(text)]
        digits = matrix.reshape(-1, 19).astype(np.int64) - 48
        digits[:, 1::2] *= 2  # every second digit from the right, without the check digit
        total = (digits // 10 + digits % 10).sum(axis=1)
        has_check_digit = pc.and_(pc.fill_null(is_number, False), pa.array(total % 10 == 0))
        return pc.or_(pc.is_null(text), has_check_digit)

    return column_check(passes, error="has a wrong check digit")


# --- rows ---------------------------------------------------------------------------


@named_check("not_after")
def not_after(first: str, second: str) -> pandera.Check:
    """Over rows: the field ``first`` is less than or equal to ``second``."""
    return _compare(first, second, pc.less_equal, f"{first} lies after {second}")


@named_check("before")
def before(first: str, second: str) -> pandera.Check:
    """Over rows: the field ``first`` is less than ``second``."""
    return _compare(first, second, pc.less, f"{first} does not lie before {second}")


@named_check("startdate_before_enddate")
def startdate_before_enddate() -> pandera.Check:
    """Over rows: ``startdate`` is not after ``enddate``."""
    return not_after("startdate", "enddate")


def _compare(
    first: str, second: str, compare: Callable[[pa.Array, pa.Array], pa.Array], error: str
) -> pandera.Check:
    def run(frame: pd.DataFrame) -> pd.Series:
        left, right = frame[short_identifier(first)], frame[short_identifier(second)]
        return _as_check_output(check, None, compare(to_arrow(left), to_arrow(right)), left)

    check = pandera.Check(run, error=error, ignore_na=False)
    return check
