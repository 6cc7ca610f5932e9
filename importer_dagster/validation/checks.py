"""Named Pandera checks that a spec can refer to.

A field's ``checks`` see one column, a type's ``checks`` see whole rows. In a
spec a check is written as its name, with arguments in brackets where it takes
any: ``email``, ``not_after(startdate, enddate)``. A check is a Python function
that returns a :class:`pandera.Check`, registered under its name::

    @named_check("multiple_of")
    def multiple_of(step: str) -> pandera.Check:
        n = int(step)
        return pandera.Check(lambda s: s // n * n == s, error=f"is no multiple of {step}")

Arguments arrive as text. The check gets Arrow-backed pandas (which lacks some
operators, such as ``%``; :func:`column_check` judges by pyarrow.compute instead)
and answers with one boolean a row; missing values are not judged. ``error`` is put behind the
value in the reject's message. ``IMPORTER_CHECKS`` names further modules
(comma-separated) that register their own.

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
Judge = Callable[[pa.Array], pa.Array]

_registry: dict[str, Factory] = {}


def named_check(name: str) -> Callable[[Factory], Factory]:
    """Register a factory of a check under ``name``."""

    def register(factory: Factory) -> Factory:
        _registry[name] = factory
        return factory

    return register


def get_check(text: str) -> pandera.Check:
    """The check written as ``text`` in a spec, named so too.

    Raises SpecError for an unknown name, with the nearest one, and for
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
    # the positions of all failures come from the check's output; examples would only cost time
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


def to_arrow(series: pd.Series) -> pa.Array:
    """The Arrow array behind an Arrow-backed series, without a copy for a single chunk."""
    array = pa.array(series)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


@dataclass(frozen=True)
class Verdict:
    """What one check found wrong: ``indexes`` are the positions (int64, ascending) of the rows that fail.

    ``error`` says why the check could not be made, if so.
    """

    check: pandera.Check
    column: str | None
    indexes: np.ndarray
    error: str | None = None


@dataclass(frozen=True)
class _Judging:
    """A batch that is being judged, and what was found wrong with it so far."""

    batch: pa.RecordBatch
    found: list[Verdict]


_judging: ContextVar[_Judging | None] = ContextVar("judging", default=None)


@contextmanager
def collecting(batch: pa.RecordBatch) -> Iterator[list[Verdict]]:
    """Inside, checks of this module hand over what fails, and tell Pandera that all is well.

    Pandera makes an error of each failing check and batch, which takes it 6 ms,
    so that a file with a bad cell in a hundred would spend more on errors than on checks.
    ``batch`` is what Pandera is given as a frame: its columns can be judged without the way by pandas.
    """
    found: list[Verdict] = []
    token = _judging.set(_Judging(batch, found))
    try:
        yield found
    finally:
        _judging.reset(token)


def _answer(check: pandera.Check, column: str | None, mask: pa.Array, like: pd.Series) -> pd.Series:
    """A boolean mask as Pandera wants it, or a verdict where they are collected; what is null is not judged."""
    judging = _judging.get()
    if judging is not None:
        _collect(judging.found, check, column, mask)
        mask = pa.scalar(True)
    if pc.all(mask).as_py() is not False:
        return pd.Series(np.ones(len(like), np.bool_), index=like.index, copy=False)
    return pd.Series(pc.fill_null(mask, True).to_numpy(zero_copy_only=False), index=like.index, copy=False)


def _collect(found: list[Verdict], check: pandera.Check, column: str | None, mask: pa.Array) -> None:
    if _has_false(mask):
        fine = pc.fill_null(mask, True).to_numpy(zero_copy_only=False)
        found.append(Verdict(check, column, np.flatnonzero(~fine)))


def _has_false(mask: pa.Array) -> bool:
    if isinstance(mask, pa.BooleanArray):
        return bool(mask.false_count)  # a hundredth of the time of a function of Arrow's
    return pc.all(mask).as_py() is False


def column_check(judge: Judge, *, name: str | None = None, error: str) -> pandera.Check:
    """A check by ``judge``, which takes a column and gives a boolean array; null is not judged."""

    def judged(series: pd.Series) -> pd.Series:
        return _answer(check, str(series.name), judge(to_arrow(series)), series)

    check = pandera.Check(judged, name=name, error=error, ignore_na=False, n_failure_cases=1)
    check.judge = judge  # for all_at_once; Pandera finds no backend for a subclass
    return check


def judge_of(check: pandera.Check) -> Judge | None:
    """What :func:`column_check` made the check of; None for any other check."""
    return getattr(check, "judge", None)


def all_at_once(checks: Sequence[tuple[str, pandera.Check, Judge]]) -> pandera.Check:
    """One check that makes these checks of columns, inside of :func:`collecting` only, on the batch given there.

    Pandera takes 0.1 ms for a check and a column each, however few the rows, and a
    column of a frame is another 0.1 ms: as much as most checks of 3,000 cells.
    """

    def judged(_: pd.DataFrame) -> bool:
        judging = _judging.get()
        assert judging is not None, "nobody collects what fails"
        for column, check, judge in checks:
            try:
                _collect(judging.found, check, column, judge(judging.batch.column(column)))
            except Exception as error:
                judging.found.append(
                    Verdict(check, column, np.empty(0, np.int64), f"{type(error).__name__}({error})")
                )
        return True

    return pandera.Check(judged, name="all_at_once", ignore_na=False)


def _matches(pattern: str, error: str) -> pandera.Check:
    return column_check(lambda text: pc.match_substring_regex(text, rf"\A(?:{pattern})\z"), error=error)


def _one_of(words: pa.Array, error: str) -> pandera.Check:
    def judge(text: pa.Array) -> pa.Array:
        return pc.or_(pc.is_null(text), pc.is_in(text, value_set=words))

    return column_check(judge, error=error)


# --- columns ------------------------------------------------------------------------


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
    codes = [line[:2] for line in table.splitlines() if line and not line.startswith("#")]
    return _one_of(pa.array(codes), "is no ISO 3166-1 country code")


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
    return column_check(_luhn, error="has a wrong check digit")


def _luhn(text: pa.Array) -> pa.Array:
    digits = pc.match_substring_regex(text, r"\A[0-9]{2,19}\z")
    padded = pc.utf8_lpad(pc.if_else(pc.fill_null(digits, False), text, "0"), 19, "0")
    matrix = np.frombuffer(pc.cast(padded, pa.binary(19)).buffers()[1], np.uint8)[: 19 * len(text)]
    values = matrix.reshape(-1, 19).astype(np.int64) - 48
    values[:, 1::2] *= 2  # every second digit, the check digit at the right end left as it is
    total = (values // 10 + values % 10).sum(axis=1)
    return pc.or_(pc.is_null(text), pc.and_(pc.fill_null(digits, False), pa.array(total % 10 == 0)))


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
    def judged(frame: pd.DataFrame) -> pd.Series:
        left, right = frame[short_identifier(first)], frame[short_identifier(second)]
        return _answer(check, None, compare(to_arrow(left), to_arrow(right)), left)

    check = pandera.Check(judged, error=error, ignore_na=False)
    return check
