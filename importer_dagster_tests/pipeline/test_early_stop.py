"""A file is refused as soon as its ``reject_limit`` is certain to be exceeded, and not before.

What does not belong here: the limits themselves (``spec/policy.py``).
"""

import gzip

import pytest

from importer_dagster.reader.decoding import LINES
from importer_dagster_tests.helpers.inbox import Inbox, make_spec

FIELDS = [{"name": "a", "type": "integer"}, {"name": "b", "type": "integer"}]
BAD, GOOD = "x,1\n", "1,1\n"
MOST = LINES + (64 << 10)  # records of a batch


def test_a_count_stops_the_file_at_the_end_of_the_batch(inbox: Inbox) -> None:
    spec = make_spec(fields=FIELDS, reject_limit={"count": 100})
    result = inbox.load(spec, "a,b\n" + "x\n1,1\n" * 600_000)
    assert result.status == "refused"
    assert "more than the limit of 100" in (result.reason or "")
    assert result.rows_read <= MOST


def test_a_share_stops_the_file_once_its_rest_cannot_make_up_for_it(inbox: Inbox) -> None:
    spec = make_spec(fields=FIELDS, reject_limit={"share": 0.1})
    result = inbox.load(spec, "a,b\n" + "x\n1,1\n" * 600_000)
    assert result.status == "refused"
    assert "reject_limit.share" in (result.reason or "")
    # at most 3 records of 2 bytes could follow for each pair of 6 bytes
    assert 1_200_000 / 5 < result.rows_read < 1_200_000 * 0.7


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_whose_rest_makes_up_for_its_beginning_is_loaded(inbox: Inbox, packed: bool) -> None:
    spec = make_spec(fields=FIELDS, reject_limit={"share": 0.5})
    content = ("a,b\n" + BAD * 290_000 + GOOD * 300_000).encode()
    result = inbox.load(spec, gzip.compress(content) if packed else content)
    assert (result.status, result.rows_rejected, result.rows_loaded) == ("loaded", 290_000, 300_000)


def test_of_an_archive_the_rest_is_not_known_so_it_is_read_to_its_end(inbox: Inbox) -> None:
    spec = make_spec(fields=FIELDS, reject_limit={"share": 0.1})
    result = inbox.load(spec, gzip.compress(("a,b\n" + BAD * 300_000 + GOOD * 300_000).encode()))
    assert (result.status, result.rows_read) == ("refused", 600_000)
