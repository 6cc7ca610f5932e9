"""A delivery's bytes into batches of text columns, damaged records put aside.

The bytes are taken in blocks; each is cut at the end of a record and handed to
Arrow's CSV parser, so that a batch still has the bytes it was made of and a
reject can be traced to its line and raw text.

What is a record: blank lines and comment lines are not; damaged, short and long
records are, and count. Record numbers start at 1 behind the header.

What does not belong here: opening and unpacking (``container.py``), the grammar
(``records.py``), what a header means (``drift.py``), what a value means
(``parse.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from importer_dagster.container import TextSource, Unpacked, fingerprint_url
from importer_dagster.errors import RefusedError
from importer_dagster.model import REJECT_SCHEMA, Delivery, Locate, TextBatch
from importer_dagster.records import (
    MAX_RECORD,
    Damage,
    Grammar,
    Scan,
    count_lines,
    cut,
    line_ends,
    record_ends,
    regular,
    scan,
)
from importer_dagster.spec import TableSpec

BLOCK = 8 << 20
MAX_COLUMNS = 1_590  # PostgreSQL's 1,600 less the columns that trace a row
BAD_ENCODING_SHARE = 0.05  # of a block's records; above it the file is in another encoding
_RAW_SHOWN = 65_536  # characters of a raw record that a reject keeps


def fingerprint(delivery: Delivery) -> tuple[str, int]:
    """(sha256 as hex, size in bytes) of a delivery as it is stored."""
    return fingerprint_url(delivery.url)


def open_delivery(delivery: Delivery, spec: TableSpec, *, block_size: int = BLOCK) -> Reader:
    """Open a delivery and read its header; a context manager.

    Raises RefusedError for a file that cannot be this type's CSV at all,
    SourceUnavailable where trying again may help.
    """
    unpacked = Unpacked(delivery.url)
    try:
        return Reader(unpacked, spec, block_size)
    except BaseException:
        unpacked.close()
        raise


class Reader:
    """One delivery being read. ``header`` is known at once; ``batches`` runs once.

    ``sha256`` and ``size`` are of the file as stored, complete after the last batch.
    """

    def __init__(self, unpacked: Unpacked, spec: TableSpec, block_size: int) -> None:
        self._unpacked, self._spec, self._block_size = unpacked, spec, block_size
        self._source = TextSource(unpacked, spec.encoding)
        self._grammar = Grammar(spec.dialect)
        self._line = 1  # physical line at which what is not yet used up starts
        self._record = 1  # number of the next record
        self._buffer = b""
        self._ended = False
        self.warnings: list[str] = []
        self._header_line = b""
        self.header = self._read_header()
        self._width = len(self.header)  # fields of a record
        self._optional_last = False  # records may lack, or have, an empty last field
        self._judge_trailing_delimiter()
        self._selected: tuple[int, ...] = tuple(range(len(self.header)))
        self._first = True

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._unpacked.close()

    @property
    def sha256(self) -> str:
        """Hash of the stored file."""
        return self._unpacked.sha256

    @property
    def size(self) -> int:
        """Size of the stored file in bytes."""
        return self._unpacked.bytes

    def select(self, positions: Sequence[int]) -> None:
        """Deliver only these columns of the header, named by their position as text."""
        self._selected = tuple(positions)

    # --- the header ---

    def _read_header(self) -> tuple[str, ...]:
        dialect = self._spec.dialect
        if not dialect.header:
            self._skip_preamble(max(dialect.headerRows, default=0) if dialect.headerRows else 0)
            return tuple(f.names[0] for f in self._spec.fields)
        if dialect.headerRows:
            return self._header_from_lines(dialect.headerRows)
        while True:
            body = self._next_line_as_record()
            if body is None:
                raise RefusedError("The file is empty: it holds no line but blank ones.", rule="empty")
            if body and not (self._grammar.comment and body.startswith(self._grammar.comment)):
                self._header_line = body
                return self._names(self._grammar.fields(body))

    def _skip_preamble(self, lines: int) -> None:
        while self._line <= lines:
            if self._next_line() is None:
                return

    def _header_from_lines(self, rows: Sequence[int]) -> tuple[str, ...]:
        """A header on declared lines; several are joined with a blank, as the Table Dialect standard says."""
        parts: list[list[str]] = []
        for row in sorted(rows):
            self._skip_preamble(row - 1)
            body = self._next_line_as_record()
            if body is None:
                raise RefusedError(
                    f"The file ends before line {row}, where the header should be.", rule="empty"
                )
            self._header_line = body
            parts.append([self._text(v) for v, _ in self._grammar.fields(body)])
        width = max(map(len, parts))
        joined = [" ".join(p[i].strip() for p in parts if i < len(p) and p[i].strip()) for i in range(width)]
        return self._names([(name.encode(), False) for name in joined])

    def _next_line_as_record(self) -> bytes | None:
        """The next record as bytes without its line end; b"" for a blank line, None at the end."""
        while True:
            found = self._grammar.record.match(self._buffer)
            whole = found is not None and (self._ended or found.end() < len(self._buffer))
            if whole or self._ended or len(self._buffer) > MAX_RECORD:
                break
            self._fill()
        if not self._buffer:
            return None
        if found is None:
            raise RefusedError(
                f"The header in line {self._line} has a quote where none may stand. "
                "Check quoteChar and delimiter of the dialect.",
                rule="header.damaged",
                line=self._line,
            )
        body = found.group("body")
        self._use(found.end())
        return body

    def _next_line(self) -> bytes | None:
        """The next physical line, whatever it holds; None at the end."""
        while not self._ended and len(line_ends(np.frombuffer(self._buffer, np.uint8))) < 2:
            self._fill()
        if not self._buffer:
            return None
        ends = line_ends(np.frombuffer(self._buffer, np.uint8))
        end = int(ends[0]) + 1 if len(ends) else len(self._buffer)
        line = self._buffer[:end]
        self._use(end)
        return line

    def _fill(self) -> None:
        data = self._source.read(self._block_size)
        if data:
            self._buffer += data
        else:
            self._ended = True
            self._buffer = _without_dos_end(self._buffer)

    def _use(self, length: int) -> None:
        """Drop the first bytes of the buffer, counting the lines in them."""
        self._line += count_lines(self._buffer[:length])
        self._buffer = self._buffer[length:]

    def _text(self, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise RefusedError(
                f"The header is not UTF-8: byte {value[error.start]:#04x} in line {self._line}. "
                f"{_suggest_encoding(value)}",
                rule="encoding",
                line=self._line,
            ) from None

    def _names(self, fields: Sequence[tuple[bytes, bool]]) -> tuple[str, ...]:
        names = [self._text(value) for value, _ in fields]
        names = [
            name.strip() if not quoted else name for name, (_, quoted) in zip(names, fields, strict=True)
        ]
        if not any(names):
            raise RefusedError("The header holds no name at all.", rule="empty", line=self._line)
        if len(names) > MAX_COLUMNS:
            raise RefusedError(
                f"The header has {len(names)} columns; a PostgreSQL table can have 1,600, trace columns "
                f"included. Split the file, or ask for fewer columns.",
                rule="header.wide",
                line=self._line - 1,
            )
        self._check_delimiter(names)
        self._check_names(names)
        return tuple(names)

    def _check_delimiter(self, names: Sequence[str]) -> None:
        if len(names) > 1 or len(self._spec.fields) < 2:
            return
        words = {";": "semicolon", "\t": "tab", "|": "vertical bar", ",": "comma"}
        for mark, word in words.items():
            if mark in names[0] and mark != self._spec.dialect.delimiter:
                raise RefusedError(
                    f"The header is one single name, {names[0][:80]!r}: it looks like {word}-separated, but the "
                    f"spec's delimiter is {self._spec.dialect.delimiter!r}. Declare the delimiter in the dialect.",
                    rule="delimiter",
                    line=self._line - 1,
                )

    def _check_names(self, names: Sequence[str]) -> None:
        for i, name in enumerate(names):
            if name and name in names[:i]:
                raise RefusedError(
                    f"The header has the name {name!r} twice, as columns {names.index(name) + 1} and {i + 1}. "
                    "Ask the supplier for distinct names.",
                    rule="header.duplicate",
                    line=self._line - 1,
                    column=name,
                )
        known = {alias for f in self._spec.fields for alias in f.names}
        if "" in names[:-1] and "" not in known and names.index("") < len(names) - 1:
            raise RefusedError(
                f"Column {names.index('') + 1} of the header has no name. Ask the supplier for one, or declare "
                "header: false and name the fields by position.",
                rule="header.empty",
                line=self._line - 1,
            )

    def _judge_trailing_delimiter(self) -> None:
        """An empty last name, or an empty last field beyond the header, is a delimiter too many."""
        named_last = self.header[-1] != ""
        if not named_last:
            self.header = self.header[:-1]
            self.warnings.append("the header ends with an empty name; it is taken as absent")
        first = self._peek_record()
        n = len(self.header)
        if first is not None and len(first) == n + 1 and first[-1][0] == b"":
            self._width, self._optional_last = n + 1, True
        else:
            self._width, self._optional_last = n, not named_last

    def _peek_record(self) -> list[tuple[bytes, bool]] | None:
        """The fields of the first record, left in place; None if there is none or it is damaged."""
        if not self._buffer and not self._ended:
            self._fill()
        at = 0
        while at < len(self._buffer):
            found = self._grammar.record.match(self._buffer, at)
            if found is None:
                return None
            body = found.group("body")
            if body and not (self._grammar.comment and body.startswith(self._grammar.comment)):
                return self._grammar.fields(body)
            at = max(found.end(), at + 1)
        return None

    # --- the records ---

    def batches(self) -> Iterator[TextBatch]:
        """The records, in order; each is in ``columns`` of just one batch, or among its rejects."""
        blocks = (self._batch(block) for block in self._blocks())
        yield from _hold_back(blocks, self._spec.dialect.footerRows)
        self._unpacked.finish()

    def _blocks(self) -> Iterator[_Block]:
        while True:
            if not self._ended:
                self._fill()
            block = self._next_block()
            if block is not None:
                yield block
            elif self._ended:
                return

    def _next_block(self) -> _Block | None:
        """Take whole records off the buffer; None if more bytes are needed or none are left."""
        if not self._buffer:
            return None
        if not self._grammar.always_scan:
            quote = self._grammar.quote[0] if self._grammar.quote else None
            length = cut(self._buffer, quote, self._ended)
            if length:
                data = np.frombuffer(self._buffer, np.uint8, length)
                if (
                    regular(data, self._grammar.delimiter[0], quote)
                    and self._buffer.find(b"\0", 0, length) < 0
                ):
                    return self._regular_block(length, quote)
            elif not self._ended and len(self._buffer) <= MAX_RECORD:
                return None
        return self._scanned_block()

    def _regular_block(self, length: int, quote: int | None) -> _Block:
        data = self._buffer if length == len(self._buffer) else self._buffer[:length]
        block = _Block(data, self._line, self._record, quote)
        self._line += count_lines(data)
        self._buffer = self._buffer[length:]
        return _without_comments(block, self._grammar.comment) if self._grammar.comment else block

    def _scanned_block(self) -> _Block | None:
        found = scan(self._buffer, self._grammar, at_end=self._ended, expected=self._width)
        if not found.used:
            return None
        block = _Block(self._buffer[: found.used], self._line, self._record, None, scan=found)
        self._use(found.used)
        return block

    def _batch(self, block: _Block) -> TextBatch:
        if block.scan is not None:
            block.judge_bytes(self._grammar)
        try:
            table, invalid = self._parse(block)
        except pa.ArrowInvalid:
            return self._batch(self._rescanned(block))
        if block.scan is None and any("\n" in text or "\r" in text for _, _, text in invalid):
            # a record of several lines with the wrong number of fields: quotes are to blame
            return self._batch(self._rescanned(block))
        batch = self._assemble(block, table, invalid)
        self._record += block.count
        return batch

    def _rescanned(self, block: _Block) -> _Block:
        if block.scan is not None:
            raise RefusedError(
                f"The lines from {block.line} on cannot be read as CSV. Check the dialect.", rule="damaged"
            )
        found = scan(block.data, self._grammar, at_end=True, expected=self._width)
        return _Block(block.data, block.line, block.first_record, None, scan=found)

    def _parse(self, block: _Block) -> tuple[pa.Table, list[tuple[int, int, str]]]:
        """Arrow's table of a block, and the records of another width: (position, fields, text)."""
        invalid: list[tuple[int, int, str]] = []

        def on_invalid(row: Any) -> str:
            invalid.append((row.number - 1, row.actual_columns, row.text))
            return "skip"

        names = [str(i) for i in range(self._width)]
        data = block.for_arrow(self._grammar)
        if not data.strip(b"\r\n"):
            return pa.table({str(i): pa.array([], pa.string()) for i in self._selected}), invalid
        plain = self._grammar.always_scan
        quote = '"' if plain else (self._spec.dialect.quoteChar or False)
        nulls = list(self._spec.common_missing)
        table = pacsv.read_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            parse_options=pacsv.ParseOptions(
                delimiter="," if plain else self._spec.dialect.delimiter,
                quote_char=quote,
                double_quote=bool(quote),
                newlines_in_values=bool(quote),
                invalid_row_handler=on_invalid,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                include_columns=[str(i) for i in self._selected],
                null_values=nulls,
                strings_can_be_null=bool(nulls),
                quoted_strings_can_be_null=False,
            ),
        )
        return table, invalid

    def _assemble(self, block: _Block, table: pa.Table, invalid: list[tuple[int, int, str]]) -> TextBatch:
        parsed = len(table) + len(invalid)
        block.settle(parsed)
        self._refuse_systematic(len(table), invalid, block)
        keep = np.ones(parsed, dtype=bool)
        keep[[position for position, _, _ in invalid]] = False
        columns = _single_batch(table, self._selected)
        positions = np.flatnonzero(keep)
        rejects = [block.damage_rows()]
        repaired, wrong = self._repair(invalid)
        rejects.append(self._width_rejects(block, wrong))
        if repaired:
            columns, positions = self._insert(columns, positions, repaired)
        columns, positions, repeated = self._take_header_repeats(columns, positions)
        rejects.append(self._header_rejects(block, repeated))
        locate = _locator(block, positions)
        rows = pa.array(block.numbers[positions] if len(positions) else np.zeros(0, np.int64), pa.int64())
        table_of_rejects = pa.concat_tables(rejects).sort_by("row")
        return TextBatch(columns, rows, table_of_rejects, locate)

    def _refuse_systematic(self, good: int, invalid: list[tuple[int, int, str]], block: _Block) -> None:
        """A file of which every record has the same wrong width is no heap of bad records."""
        if not self._first:
            return
        self._first = False
        widths = {n for _, n, _ in invalid}
        if good or len(invalid) < 2 or len(widths) > 1 or block.damaged or self._repair(invalid)[0]:
            return
        raise RefusedError(
            f"Every record has {widths.pop()} fields, but {len(self.header)} are expected. Check the "
            "delimiter, or ask the supplier whether the layout changed.",
            rule="fields.systematic",
            line=block.line,
        )

    def _repair(
        self, invalid: list[tuple[int, int, str]]
    ) -> tuple[list[tuple[int, str]], list[tuple[int, int, str]]]:
        """Records that differ by an empty last field only, and the truly wrong ones."""
        if not self._optional_last:
            return [], invalid
        n = len(self.header)
        fine, wrong = [], []
        for position, count, text in invalid:
            fields = self._arrow_grammar.fields(text.encode("utf-8", "surrogatepass"))
            if count == n or (count == n + 1 and fields[-1][0] == b""):
                fine.append((position, text))
            else:
                wrong.append((position, count, text))
        return fine, wrong

    @property
    def _arrow_grammar(self) -> Grammar:
        """The grammar of what Arrow was given."""
        if not self._grammar.always_scan:
            return self._grammar
        plain = {"delimiter": ",", "quoteChar": '"', "doubleQuote": True, "escapeChar": None}
        return Grammar(self._spec.dialect.model_copy(update={**plain, "skipInitialSpace": False}))

    def _insert(
        self, columns: pa.RecordBatch, positions: np.ndarray, repaired: list[tuple[int, str]]
    ) -> tuple[pa.RecordBatch, np.ndarray]:
        """Put repaired records back at their places."""
        nulls = set(self._spec.common_missing)
        parsed = [self._arrow_grammar.fields(text.encode()) for _, text in repaired]
        extra = []
        for i in self._selected:
            cells = [f[i] if i < len(f) else (b"", False) for f in parsed]
            texts = [None if not quoted and v.decode() in nulls else v.decode() for v, quoted in cells]
            extra.append(pa.array(texts, pa.string()))
        everything = np.concatenate([positions, [p for p, _ in repaired]]).astype(np.int64)
        order = np.argsort(everything, kind="stable")
        arrays = [
            pa.concat_arrays([column, more]).take(pa.array(order))
            for column, more in zip(columns.columns, extra, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, names=columns.schema.names), everything[order]

    def _take_header_repeats(
        self, columns: pa.RecordBatch, positions: np.ndarray
    ) -> tuple[pa.RecordBatch, np.ndarray, np.ndarray]:
        """Records that are the header once more, taken out."""
        if not self._spec.dialect.header or not len(positions) or not self._selected:
            return columns, positions, positions[:0]
        same = np.ones(len(positions), dtype=bool)
        for i, column in zip(self._selected, columns.columns, strict=True):
            name = self.header[i] if i < len(self.header) else None
            same &= pc.fill_null(pc.equal(column, name), False).to_numpy(zero_copy_only=False)
            if not same.any():
                return columns, positions, positions[:0]
        return columns.filter(pa.array(~same)), positions[~same], positions[same]

    # --- rejects ---

    def _width_rejects(self, block: _Block, wrong: list[tuple[int, int, str]]) -> pa.Table:
        if not wrong:
            return REJECT_SCHEMA.empty_table()
        expected = len(self.header)
        rules = ["fields.short" if n < expected else "fields.long" for _, n, _ in wrong]
        messages = [f"expected {expected} fields, got {n}" for _, n, _ in wrong]
        return _reject_table(block, np.array([p for p, _, _ in wrong]), rules, messages)

    def _header_rejects(self, block: _Block, positions: np.ndarray) -> pa.Table:
        n = len(positions)
        if not n:
            return REJECT_SCHEMA.empty_table()
        return _reject_table(block, positions, ["header.repeated"] * n, ["the header stands here again"] * n)


class _Block:
    """Whole records as bytes, and where each of them is.

    A *position* counts the records that Arrow is given, from 0; a *number* is
    the record's number in the file.
    """

    def __init__(
        self, data: bytes, line: int, first_record: int, quote: int | None, scan: Scan | None = None
    ) -> None:
        self.data, self.line, self.first_record, self._quote = data, line, first_record, quote
        self.scan = scan
        self.damaged: list[Damage] = list(scan.damaged) if scan else []
        self.numbers: np.ndarray = np.zeros(0, np.int64)
        self.count = 0
        self._spans: tuple[np.ndarray, np.ndarray] | None = None

    def judge_bytes(self, grammar: Grammar) -> None:
        """Move records with NUL or invalid bytes, and comments, from the sound ones to the damaged."""
        assert self.scan
        sound, order, bad = [], [], 0
        damage = {d.start: d for d in self.damaged}
        starts = sorted([*self.scan.sound, *((d.start, d.end) for d in self.damaged)])
        for start, end in starts:
            if start in damage:
                order.append(False)
                continue
            record = self.data[start:end]
            if grammar.comment and record.startswith(grammar.comment):
                continue
            fault = _byte_fault(record, start)
            if fault is None:
                sound.append((start, end))
                order.append(True)
                continue
            bad += fault[0] == "encoding"
            damage[start] = Damage(start, end, *fault)
            order.append(False)
        if bad > BAD_ENCODING_SHARE * len(order) and bad > _valid_non_ascii(self.data, sound):
            self._refuse_encoding(damage)
        self.damaged = [damage[k] for k in sorted(damage)]
        self.scan.sound, self.scan.order = sound, order

    def _refuse_encoding(self, damage: dict[int, Damage]) -> None:
        first = next(d for _, d in sorted(damage.items()) if d.rule == "encoding")
        line = self.line + count_lines(self.data[: first.start])
        raise RefusedError(
            f"The file is not UTF-8: in line {line}, {first.message}. "
            f"{_suggest_encoding(self.data[first.start : first.end])}",
            rule="encoding",
            line=line,
        )

    def for_arrow(self, grammar: Grammar) -> bytes:
        """The bytes that Arrow is to parse."""
        if self.scan is None:
            return self.data
        records = (self.data[a:b] for a, b in self.scan.sound)
        if grammar.always_scan:
            records = (grammar.write(grammar.fields(r)) for r in records)
        return b"\n".join([*records, b""])

    def settle(self, parsed: int) -> None:
        """Number the records, now that it is known how many Arrow found."""
        if self.scan is None:
            self.numbers = np.arange(self.first_record, self.first_record + parsed, dtype=np.int64)
            self.count = parsed
            return
        order = np.array(self.scan.order, dtype=bool)
        everything = np.arange(self.first_record, self.first_record + len(order), dtype=np.int64)
        self.numbers, self.count = everything[order], len(order)

    def spans(self) -> tuple[np.ndarray, np.ndarray]:
        """Start and end (without line end) of every record that Arrow was given."""
        if self._spans is None:
            self._spans = self._find_spans()
        return self._spans

    def _find_spans(self) -> tuple[np.ndarray, np.ndarray]:
        if self.scan is not None:
            pairs = np.array(self.scan.sound, dtype=np.int64).reshape(-1, 2)
            return pairs[:, 0], pairs[:, 1]
        data = np.frombuffer(self.data, np.uint8)
        ends = record_ends(data, self._quote)
        if not len(ends) or ends[-1] != len(data) - 1:
            ends = np.append(ends, len(data))
        starts = np.concatenate([[0], ends[:-1] + 1])
        crlf = (ends > starts) & (ends < len(data)) & (data[np.minimum(ends, len(data)) - 1] == 13)
        lf = data[np.minimum(ends, len(data) - 1)] == 10
        stops = ends - (crlf & lf)
        filled = stops > starts  # blank lines are no records
        return starts[filled], stops[filled]

    def lines_at(self, offsets: np.ndarray) -> np.ndarray:
        """Physical line numbers of byte offsets."""
        ends = line_ends(np.frombuffer(self.data, np.uint8))
        return self.line + np.searchsorted(ends, offsets)

    def raw(self, start: int, end: int) -> str:
        """The text of a record."""
        return self.data[start:end].decode("utf-8", "replace").replace("\0", "\ufffd")[:_RAW_SHOWN]

    def damage_rows(self) -> pa.Table:
        """The damaged records as rejects."""
        if self.scan is None or not self.damaged:
            return REJECT_SCHEMA.empty_table()
        everything = np.arange(self.first_record, self.first_record + len(self.scan.order))
        numbers = everything[~np.array(self.scan.order, dtype=bool)]
        lines = self.lines_at(np.array([d.start for d in self.damaged]))
        n = len(self.damaged)
        return pa.table(
            [
                pa.array(numbers, pa.int64()),
                pa.array(lines, pa.int64()),
                pa.nulls(n, pa.string()),
                pa.nulls(n, pa.string()),
                pa.array([d.rule for d in self.damaged], pa.string()),
                pa.array([d.message for d in self.damaged], pa.string()),
                pa.array([self.raw(d.start, d.end) for d in self.damaged], pa.string()),
            ],
            schema=REJECT_SCHEMA,
        )


def _reject_table(block: _Block, positions: np.ndarray, rules: list[str], messages: list[str]) -> pa.Table:
    lines, raws = _locator(block, np.arange(len(block.numbers)))(positions)
    n = len(positions)
    return pa.table(
        [
            pa.array(block.numbers[positions], pa.int64()),
            lines,
            pa.nulls(n, pa.string()),
            pa.nulls(n, pa.string()),
            pa.array(rules, pa.string()),
            pa.array(messages, pa.string()),
            raws,
        ],
        schema=REJECT_SCHEMA,
    )


def _locator(block: _Block, positions: np.ndarray) -> Locate:
    def locate(indexes: np.ndarray) -> tuple[pa.Array, pa.Array]:
        starts, ends = block.spans()
        at = positions[indexes]
        raws = [block.raw(int(a), int(b)) for a, b in zip(starts[at], ends[at], strict=True)]
        return pa.array(block.lines_at(starts[at]), pa.int64()), pa.array(raws, pa.string())

    return locate


def _single_batch(table: pa.Table, selected: Sequence[int]) -> pa.RecordBatch:
    arrays = [
        c.chunk(0)
        if c.num_chunks == 1
        else pa.concat_arrays(c.chunks)
        if c.num_chunks
        else pa.array([], pa.string())
        for c in table.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, names=[str(i) for i in selected])


def _without_comments(block: _Block, comment: bytes) -> _Block:
    """Comment lines made blank, so that lines keep their numbers."""
    if comment not in block.data:
        return block
    data = bytearray(block.data)
    starts, ends = block.spans()
    for a, b in zip(starts.tolist(), ends.tolist(), strict=True):
        if data.startswith(comment, a):
            # inside one line only: a quoted value may hold what looks like a comment
            data[a:b] = b"\n" * (b - a) if b"\n" not in data[a:b] else data[a:b]
    cleaned = _Block(bytes(data), block.line, block.first_record, block._quote)
    cleaned.lines_at = block.lines_at  # type: ignore[method-assign]
    return cleaned


def _byte_fault(record: bytes, offset: int) -> tuple[str, str] | None:
    if b"\0" in record:
        return "nul", "the record holds a NUL byte, which PostgreSQL cannot store"
    try:
        record.decode()
    except UnicodeDecodeError as error:
        place = error.start
        return "encoding", f"byte {record[place]:#04x} at position {place + 1} of the record is not UTF-8"
    return None


def _valid_non_ascii(data: bytes, spans: Sequence[tuple[int, int]]) -> int:
    return sum(not data[a:b].isascii() for a, b in spans)


def _suggest_encoding(sample: bytes) -> str:
    for name in ("cp1252", "latin-1"):
        try:
            shown = sample.decode(name)[:60]
        except UnicodeDecodeError:
            continue
        return f"Declare the right encoding in the spec; as {name} it reads {shown!r}."
    return "Declare the right encoding in the spec."


def _without_dos_end(data: bytes) -> bytes:
    """Without the Ctrl-Z that DOS programs write at the end."""
    return data.rstrip(b"\x1a") if data.endswith(b"\x1a") else data


def _hold_back(batches: Iterator[TextBatch], footers: int) -> Iterator[TextBatch]:
    """All batches, the last ``footers`` records taken off and counted as skipped."""
    if not footers:
        yield from batches
        return
    held: deque[TextBatch] = deque()
    for batch in batches:
        held.append(batch)
        while sum(_size(b) for b in list(held)[1:]) >= footers:
            yield held.popleft()
    last = max((_last_number(b) for b in held), default=0)
    for batch in held:
        yield _only_until(batch, last - footers)


def _size(batch: TextBatch) -> int:
    return len(batch.rows) + len(batch.rejects["row"].unique())


def _last_number(batch: TextBatch) -> int:
    numbers = [pc.max(batch.rows).as_py(), pc.max(batch.rejects["row"]).as_py()]
    return max((n for n in numbers if n is not None), default=0)


def _only_until(batch: TextBatch, number: int) -> TextBatch:
    kept = pc.sum(pc.less_equal(batch.rows, number)).as_py() or 0
    rejects = batch.rejects.filter(pc.less_equal(batch.rejects["row"], number))
    shorter = replace(
        batch, columns=batch.columns.slice(0, kept), rows=batch.rows.slice(0, kept), rejects=rejects
    )
    return replace(shorter, skipped=_size(batch) - _size(shorter))
