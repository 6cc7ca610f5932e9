"""Random tables in random dialects, written by Python's csv module, a random part of the records damaged.

What must hold: every record is loaded or rejected, the damaged ones are rejected with
their number, line and rule, and the others have exactly the values that were written.
"""

import csv
import datetime as dt
import io
import itertools
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from importer_dagster.spec.table import TableSpec
from importer_dagster_tests.helpers.inbox import Inbox, Query

NUMBERS = itertools.count()

DELIMITERS = st.sampled_from([",", ";", "\t", "|", "\x01", "~", "§", "¦"])
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-be", "cp1252", "gb18030", "shift_jis"])
KINDS: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number", "precision": 30, "scale": 6},
    "date": {"type": "date"},
    "datetime": {"type": "datetime"},
    "boolean": {"type": "boolean"},
}


@dataclass
class Written:
    """How the file is written down."""

    delimiter: str
    quote: str
    escape: str | None
    doubled: bool
    everything: bool  # all values are quoted
    end: str
    encoding: str
    trailing: str = ""  # a delimiter at the end of all records, or of the header, too
    blanks: bool = False  # behind delimiters

    def lines(self, rows: list[list[str]]) -> list[str]:
        out = io.StringIO()
        writer = csv.writer(
            out, delimiter=self.delimiter, quotechar=self.quote, escapechar=self.escape, doublequote=self.doubled,
            lineterminator=self.end, quoting=csv.QUOTE_ALL if self.everything else csv.QUOTE_MINIMAL)  # fmt: skip

        def written(cells: list[str]) -> str:
            out.seek(0)
            out.truncate()
            writer.writerow(cells)
            return out.getvalue().removesuffix(self.end)

        end = (self.delimiter if self.trailing else "") + self.end
        if self.blanks:
            return [f"{self.delimiter} ".join(written([cell]) for cell in row) + end for row in rows]
        return [written(row) + end for row in rows]

    def dialect(self) -> dict[str, Any]:
        return {"delimiter": self.delimiter, "quoteChar": self.quote, "escapeChar": self.escape,
                "doubleQuote": self.doubled, "totals": "keep", "skipInitialSpace": self.blanks}  # fmt: skip


@dataclass
class Table:
    """A file, its spec, and what must come of it."""

    content: bytes
    spec: TableSpec
    loaded: list[tuple[Any, ...]] = field(default_factory=list)  # (number, values)
    rejected: list[tuple[int, int, str]] = field(default_factory=list)  # (number, line, rule)


@st.composite
def dialects(draw: st.DrawFn, encoding: str) -> Written:
    delimiter = draw(DELIMITERS.filter(lambda d: _encodable(d, encoding)))
    quote = draw(
        st.sampled_from(['"', "'", "¦"]).filter(lambda q: q != delimiter and _encodable(q, encoding))
    )
    escape = draw(st.sampled_from([None, None, "\\"]))
    doubled = escape is None or draw(st.booleans())
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    trailing = draw(st.sampled_from(["", "", "records", "both"]))
    return Written(delimiter, quote, escape, doubled, draw(st.booleans()), end, encoding, trailing)


def _encodable(text: str, encoding: str) -> bool:
    try:
        return text.encode(encoding).decode(encoding) == text
    except UnicodeError:
        return False


def values(kind: str, encoding: str, plain: bool) -> st.SearchStrategy[Any]:
    """Values of a column, None among them."""
    chars = st.characters(
        codec=encoding.replace("-sig", ""), exclude_characters="\0¥‾", exclude_categories=["Cs"]
    )
    easy = st.text("abcdefgh XYZ0123456789.-", min_size=1, max_size=8)
    hard = st.text(st.sampled_from(",;\t|\"'¦§~\\\n\r #éA0") | chars, max_size=12)
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "text": easy if plain else (easy | hard.filter(lambda t: _encodable(t, encoding) and "\0" not in t)),
        "integer": st.integers(-(2**63), 2**63 - 1),
        "number": st.decimals(-(10**20), 10**20, places=6),
        "date": st.dates(),
        "datetime": st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31)),
        "boolean": st.booleans(),
    }
    return kinds[kind] if plain else st.none() | kinds[kind]


def text_of(value: Any) -> str:
    if value is None:
        return ""
    return (
        str(value).lower()
        if isinstance(value, bool)
        else format(value, "f")
        if isinstance(value, Decimal)
        else str(value)
    )


def comes_out(value: Any, kind: str, written: Written, width: int) -> Any:
    """A value as it must stand in the table: an empty one is NULL, but in quotes and text an empty text."""
    if text_of(value):
        return value
    # of a single column, the csv module quotes what is empty: it would be a blank line
    return "" if kind == "text" and (written.everything or width == 1) else None


@st.composite
def tables(draw: st.DrawFn) -> Table:
    encoding = draw(ENCODINGS)
    written = draw(dialects(encoding))
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=5))
    damage = draw(st.sampled_from(["none", "widths", "cells", "bytes", "nul", "quotes", "unclosed"]))
    # what an open quote swallows can only be foretold where no other quote comes behind it
    plain = damage == "unclosed"
    width = len(kinds)
    rows = draw(st.lists(st.tuples(*(values(k, encoding, plain) for k in kinds)), min_size=1, max_size=25))
    if (
        not written.everything
        and written.end != "\r\n"
        and any(c in text_of(v) for r in rows for v in r for c in "\r\n")
    ):
        written.everything = True  # this Python's csv module quotes only the line end it writes itself
    if plain:
        written.everything = False
    # with blanks behind delimiters, a value in quotes keeps its own blanks
    written.blanks = damage in ("none", "cells", "nul") and written.delimiter != " " and draw(st.booleans())
    written.everything |= written.blanks
    names = [f"c{i}" for i in range(width)]
    schema = {"fields": [{"name": n, **KINDS[k]} for n, k in zip(names, kinds, strict=True)]}
    spec = TableSpec.model_validate(
        {"name": f"p{next(NUMBERS)}", "schema": schema, "dialect": written.dialect(), "encoding": encoding}
    )
    lines = written.lines([[text_of(v) for v in r] for r in rows])
    return _assembled(draw, written, kinds, rows, lines, damage, Table(b"", spec))


def _assembled(
    draw: st.DrawFn,
    written: Written,
    kinds: list[str],
    rows: list[tuple[Any, ...]],
    lines: list[str],
    damage: str,
    table: Table,
) -> Table:
    width, end = len(kinds), written.end
    text = written.lines([[f"c{i}" for i in range(width)]])[0]
    if written.trailing == "records":
        text = text.removesuffix(written.delimiter + end) + end
    content = text.encode(written.encoding)
    plain_encoding = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}.get(written.encoding, written.encoding)
    if written.encoding == "utf-16":
        content = b"\xff\xfe" + text.encode("utf-16-le")
    number, line = 0, 1 + _line_ends(text)
    for row, raw in zip(rows, lines, strict=True):
        number += 1
        bad = _damaged(draw, written, kinds, damage) if number > 1 and draw(st.integers(0, 3)) == 0 else None
        if bad is None:
            table.loaded.append(
                (number, *(comes_out(v, k, written, width) for v, k in zip(row, kinds, strict=True)))
            )
            content += raw.encode(plain_encoding)
            line += _line_ends(raw)
            continue
        rule, bytes_ = bad
        table.rejected.append((number, line, rule))
        content += bytes_.encode(plain_encoding) if isinstance(bytes_, str) else bytes_
        content += end.encode(plain_encoding)
        line += 1
    if draw(st.integers(0, 3)) == 0:  # the disk was full: a tail of NUL bytes
        number += 1
        table.rejected.append((number, line, "nul"))
        content += ("\0" * draw(st.integers(16, 400))).encode(plain_encoding)
    table.content = content
    # a trait of the file is one of most records
    assume(not written.trailing or len(table.loaded) > len(table.rejected))
    return table


def _line_ends(text: str) -> int:
    return text.count("\n") + text.count("\r") - text.count("\r\n")


SAMPLE = {
    "text": "ok",
    "integer": "1",
    "number": "1.5",
    "date": "2024-01-01",
    "datetime": "2024-01-01 00:00:00",
    "boolean": "true",
}
WRONG = {"integer": ["1.5", "x", "9223372036854775808", "0x1F"], "number": ["1e999", "1,5", "1.1234567", "$4"],
         "date": ["2024-02-30", "01/02/2024", "20240101"], "datetime": ["2024-01-01 24:00:00", "2024-13-01", "now"],
         "boolean": ["yes", "T", "2"]}  # fmt: skip


def _damaged(
    draw: st.DrawFn, written: Written, kinds: list[str], damage: str
) -> tuple[str, str | bytes] | None:
    """(rule, record without line end) of a record that is wrong in one way; None where it cannot be made."""
    cells = [SAMPLE[k] for k in kinds]
    at = draw(st.integers(0, len(kinds) - 1))
    quote, rule, more = written.quote, None, b""
    if damage == "widths" and len(kinds) > 1 and draw(st.booleans()):
        rule, cells = "fields.short", cells[:-1]
    elif damage == "widths":
        rule, cells = "fields.long", [*cells, "more"]
    elif damage == "cells" and kinds[at] in WRONG:
        rule, cells[at] = "type", quote + draw(st.sampled_from(WRONG[kinds[at]])) + quote
    elif damage == "nul":
        rule, cells[at] = "nul", cells[at] + "\0x"
    elif damage == "quotes":
        rule, cells[at] = "quote.damaged", draw(st.sampled_from([f"5{quote} pipe", f"{quote}x{quote} y"]))
    elif damage == "unclosed":
        rule, cells[at] = "quote.unclosed", quote + cells[at]
    elif damage == "bytes" and written.encoding in ("utf-8", "utf-8-sig"):
        rule, more = "encoding", b"\xff"
    record = written.delimiter.join([*cells, ""] if written.trailing else cells)
    return (rule, record.encode() + more if more else record) if rule else None


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables())
def test_every_record_is_loaded_exactly_or_rejected_for_what_it_is(
    inbox: Inbox, query: Query, table: Table
) -> None:
    many_bad = sum(rule == "encoding" for *_, rule in table.rejected)
    result = inbox.load(table.spec, table.content)
    if many_bad and result.status == "refused":
        assert "is not UTF-8" in (result.reason or "")
        return
    assert result.status == "loaded", result.reason
    assert (result.rows_read, result.rows_loaded, result.rows_rejected, result.rows_skipped) == (
        len(table.loaded) + len(table.rejected), len(table.loaded), len(table.rejected), 0)  # fmt: skip
    columns = ", ".join(f.column for f in table.spec.fields)
    assert query(f"SELECT _row, {columns} FROM {table.spec.name} ORDER BY _row") == table.loaded
    rejects = query(
        'SELECT "row", line, rule FROM importer.rejects WHERE load_id = %s ORDER BY "row"', result.load_id
    )
    assert rejects == table.rejected
