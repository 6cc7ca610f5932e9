"""Patterns told byte by byte: the same answers as RE2's, and which patterns these are."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from importer_dagster.validation.patterns import bytewise

SETS = ["[0-9]", "[A-Za-z0-9_]", "[A-F0-9-]", "[-+ ]", r"\d", "x", r"\.", r"\$", "-", "[%-/]", "[z]"]
REPEATS = ["", "{1}", "{2}", "{3}"]
ANY = ["+", "*", "{0,2}", "{2,}", "{1,3}"]
TEXTS = "09AFGafgxz_-+ .$%/:@é\n"


def matches(text: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(text, rf"\A(?:{pattern})\z"), min_count=0).as_py()


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_the_answer_is_that_of_re2(data: st.DataObject) -> None:
    items = st.tuples(st.sampled_from(SETS), st.sampled_from(REPEATS)).map("".join)
    rows = st.lists(items, min_size=1, max_size=3).map("".join)
    single = st.tuples(st.sampled_from(SETS), st.sampled_from(ANY)).map("".join)
    bare = data.draw(rows | single)
    pattern = data.draw(st.sampled_from([bare, f"^{bare}", f"{bare}$", f"^{bare}$"]))
    compiled = bytewise(pattern)
    assert compiled is not None
    drawn = st.none() | st.from_regex(rf"\A(?:{bare})\Z") | st.text(TEXTS, max_size=6)
    text = pa.array(data.draw(st.lists(drawn, max_size=5)), pa.string())
    assert compiled.fits_all(text) == matches(text, pattern)


def test_one_wrong_byte_among_many_is_seen() -> None:
    compiled = bytewise("[0-9]{3}-[A-Z]{2}")
    assert compiled is not None
    cells = [f"{i % 1000:03}-AB" for i in range(20_000)]
    assert compiled.fits_all(pa.array(cells))
    for row in (0, 7_000, 19_999):
        assert not compiled.fits_all(pa.array([*cells[:row], "123-Ab", *cells[row + 1 :]]))


def test_bytes_that_null_slots_hide_do_not_stand_in_for_those_of_values() -> None:
    compiled = bytewise("[0-9][a-z]")
    assert compiled is not None
    hidden = pa.array(["1", "a1", "a"])  # together 1a1a
    valid = pa.array([False, True, False]).buffers()[1]
    assert not compiled.fits_all(pa.Array.from_buffers(pa.string(), 3, [valid, *hidden.buffers()[1:]]))


@pytest.mark.parametrize(
    "pattern",
    ["", "a|b", "(ab)", "[^a]", ".", "a?", "a+b", "[0-9]+[A-Z]", r"\w", r"\D", "[[:alpha:]]", "é", "[é]", "(?i)a", r"\\$",
     "a{2,3}b", "[0-9]+?", "x{300}"],
)  # fmt: skip
def test_what_is_left_to_re2(pattern: str) -> None:
    assert bytewise(pattern) is None
