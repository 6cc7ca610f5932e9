"""Named Pandera checks that a spec can refer to by name.

A field's ``checks`` see one column, a type's ``checks`` see whole rows. A check
is a Python function that returns a :class:`pandera.Check`, registered under a
name::

    @named_check("even")
    def even() -> pandera.Check:
        return pandera.Check(lambda s: s % 2 == 0, name="even", error="is no even number")

``IMPORTER_CHECKS`` names further modules (comma-separated) that register their
own. A check gets Arrow-backed pandas and returns one boolean a row; missing
values are not judged.

What does not belong here: the constraints of the Table Schema standard
(``schema.py``).
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable
from functools import lru_cache

import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc

from importer_dagster.errors import SpecError

Factory = Callable[[], pandera.Check]
_registry: dict[str, Factory] = {}


def named_check(name: str) -> Callable[[Factory], Factory]:
    """Register a factory of a check under ``name``."""

    def register(factory: Factory) -> Factory:
        _registry[name] = factory
        return factory

    return register


@lru_cache(maxsize=1)
def _load_own_checks() -> None:
    for module in filter(None, os.environ.get("IMPORTER_CHECKS", "").split(",")):
        try:
            importlib.import_module(module.strip())
        except ImportError as error:
            raise SpecError(f"IMPORTER_CHECKS names the module {module.strip()!r}: {error}") from None


def get_check(name: str) -> pandera.Check:
    """The check called ``name``; raises SpecError with the nearest name."""
    _load_own_checks()
    if name not in _registry:
        near = difflib.get_close_matches(name, _registry, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(_registry))}"
        raise SpecError(f"no check is called {name!r}{hint}")
    return _registry[name]()


def check_names() -> list[str]:
    """All registered names, sorted."""
    _load_own_checks()
    return sorted(_registry)


def _matches(pattern: str) -> Callable[[pd.Series], pd.Series]:
    def check(series: pd.Series) -> pd.Series:
        return to_series(pc.match_substring_regex(to_arrow(series), pattern), series)

    return check


def to_arrow(series: pd.Series) -> pa.Array:
    """The Arrow array behind an Arrow-backed series, without a copy for a single chunk."""
    array = pa.array(series)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def to_series(mask: pa.Array, like: pd.Series) -> pd.Series:
    """A boolean mask as Pandera wants it; what is null is not judged."""
    return pd.Series(pc.fill_null(mask, True).to_numpy(zero_copy_only=False), index=like.index)


@named_check("email")
def email() -> pandera.Check:
    """One @, something on both sides, a dot behind it, no blanks."""
    return pandera.Check(
        _matches(r"^[^@\s]+@[^@\s]+\.[^@\s]+$"), name="email", error="is no e-mail address", ignore_na=False
    )


@named_check("iso_country")
def iso_country() -> pandera.Check:
    """Two capital letters, as ISO 3166-1 alpha-2 codes are written."""
    return pandera.Check(
        _matches("^[A-Z]{2}$"), name="iso_country", error="is no two-letter country code", ignore_na=False
    )


@named_check("iso_currency")
def iso_currency() -> pandera.Check:
    """Three capital letters, as ISO 4217 codes are written."""
    return pandera.Check(
        _matches("^[A-Z]{3}$"), name="iso_currency", error="is no three-letter currency code", ignore_na=False
    )


@named_check("no_outer_blanks")
def no_outer_blanks() -> pandera.Check:
    """No blank at the start or the end."""
    return pandera.Check(
        _matches(r"^(?:\S(?:.*\S)?)?$"),
        name="no_outer_blanks",
        error="starts or ends with a blank",
        ignore_na=False,
    )


@named_check("luhn")
def luhn() -> pandera.Check:
    """Digits whose last one is the Luhn check digit (ISO/IEC 7812-1), as on cards."""
    return pandera.Check(_luhn, name="luhn", error="has a wrong check digit", ignore_na=False)


def _luhn(series: pd.Series) -> pd.Series:
    text = to_arrow(series)
    digits = pc.match_substring_regex(text, "^[0-9]{2,19}$")
    padded = pc.utf8_lpad(pc.if_else(pc.fill_null(digits, False), text, "0"), 19, "0")
    total = pa.array([0] * len(text), pa.int64())
    for i in range(19):  # by column of digits, not by row
        digit = pc.cast(pc.utf8_slice_codeunits(padded, i, i + 1), pa.int64())
        if i % 2:  # every second digit from the right, the last one left as it is
            doubled = pc.multiply(digit, 2)
            digit = pc.if_else(pc.greater(doubled, 9), pc.subtract(doubled, 9), doubled)
        total = pc.add(total, digit)
    tens = pc.multiply(pc.divide(total, 10), 10)
    return to_series(pc.if_else(pc.is_null(text), True, pc.and_(digits, pc.equal(total, tens))), series)


def _ordered(first: str, second: str, name: str) -> pandera.Check:
    def check(frame: pd.DataFrame) -> pd.Series:
        if first not in frame or second not in frame:
            return pd.Series(True, index=frame.index)
        return to_series(pc.less_equal(to_arrow(frame[first]), to_arrow(frame[second])), frame[first])

    return pandera.Check(check, name=name, error=f"{second} lies before {first}", ignore_na=False)


@named_check("startdate_before_enddate")
def startdate_before_enddate() -> pandera.Check:
    """Over rows: ``startdate`` is not after ``enddate``."""
    return _ordered("startdate", "enddate", "startdate_before_enddate")
