"""The file that is measured: one type of 17 mixed columns, and files of any size of it.

Files are made block by block with Arrow, so that ten million rows take seconds:
what does not identify a row is made once and repeated, keys are always new.

What does not belong here: measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from importer_dagster.spec.table import TableSpec

TYPE = "bench"
_BLOCK = 250_000  # rows made at once
_STAMP = "%Y-%m-%d %H:%M:%S.%f"

# (field, a text that its type or constraints refuse); the first two are the keys
FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"name": "order_id", "type": "integer", "constraints": {"required": True, "minimum": 1}}, "12x"),
    ({"name": "code", "constraints": {"required": True, "pattern": "[0-9]{8}"}}, "1234-678"),
    ({"name": "customer_id", "type": "integer", "constraints": {"minimum": 1}}, "0"),
    ({"name": "branch", "constraints": {"pattern": "0[0-9]{2}"}}, "17"),
    ({"name": "quantity", "type": "integer", "constraints": {"minimum": 0, "maximum": 100}}, "101"),
    (
        {
            "name": "unit_price",
            "type": "number",
            "precision": 10,
            "scale": 2,
            "constraints": {"required": True, "minimum": 0},
        },
        "9.999",
    ),
    (
        {"name": "tax_rate", "type": "number", "precision": 7, "scale": 4, "constraints": {"maximum": 1}},
        "n/a",
    ),
    ({"name": "amount", "type": "number", "precision": 14, "scale": 2}, "1;5"),
    ({"name": "weight", "type": "number", "format": "double", "constraints": {"minimum": 0}}, "heavy"),
    ({"name": "order_date", "type": "date", "constraints": {"required": True}}, "2024-02-31"),
    ({"name": "due_date", "type": "date"}, "31.12.2024"),
    (
        {"name": "created_at", "type": "datetime", "format": _STAMP, "constraints": {"required": True}},
        "yesterday",
    ),
    ({"name": "shipped_at", "type": "datetime", "format": _STAMP}, "2024-01-01 25:00:00.000"),
    ({"name": "is_paid", "type": "boolean", "constraints": {"required": True}}, "maybe"),
    ({"name": "row_id", "format": "uuid", "constraints": {"required": True}}, "no-uuid"),
    ({"name": "status", "constraints": {"enum": ["new", "open", "sent", "paid", "closed"]}}, "lost"),
    ({"name": "note", "constraints": {"maxLength": 20}}, '"far too long, by a few characters"'),
]
HEADER = ",".join(f["name"] for f, _ in FIELDS) + "\n"
_BAD = [bad for _, bad in FIELDS]
_NOTES = ['"red, left"', '"blue, ""B"""', "plain", '"a, b, and c"', ""]


def make_spec(name: str = TYPE, **more: Any) -> TableSpec:
    """The type that is measured: 17 columns, 18 constraints, never refused for its rejects."""
    return TableSpec.model_validate(spec_dict(name, **more))


def spec_dict(name: str = TYPE, **more: Any) -> dict[str, Any]:
    """A spec of the benchmark's columns, as a YAML file has it."""
    schema = {"fields": [f for f, _ in FIELDS], **({"primaryKey": more.pop("key")} if "key" in more else {})}
    return {"name": name, "schema": schema, "reject_limit": {"share": 1.0}, **more}


def write_specs(folder: Path, names: Sequence[str]) -> None:
    """A YAML file of each type; append, replace and merge take turns."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        disposition = ("append", "replace", "merge")[number % 3]
        spec = spec_dict(name, key=["order_id"], write_disposition=disposition)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


def write_file(
    path: Path, rows: int, *, bad_share: float = 0.0, changed: float = 0.0, first: int = 1, seed: int = 1
) -> int:
    """Write a file of ``rows`` rows; returns its size in bytes.

    ``bad_share`` of all cells are bad. ``changed`` of the rows have another
    customer than the file of the same seed without it. ``first`` is the lowest key.
    """
    size = min(rows, _BLOCK)
    columns = mixed_columns(np.random.default_rng(seed), size)
    if changed:
        columns[0] = _changed(columns[0], changed)
    rng = np.random.default_rng(seed + 1)
    if not bad_share:  # what follows the keys is the same in every block
        columns = [pc.binary_join_element_wise(*columns, ",")]

    def cells(start: int, n: int) -> list[pa.Array]:
        made = [*keys(first + start, n), *(c.slice(0, n) for c in columns)]
        if bad_share:
            made = [_spoilt(c, bad, bad_share, rng) for c, bad in zip(made, _BAD, strict=True)]
        return made

    return write_blocks(path, HEADER, rows, size, cells)


def write_blocks(
    path: Path, header: str, rows: int, block: int, cells: Callable[[int, int], Sequence[pa.Array]]
) -> int:
    """Write ``rows`` rows, ``block`` at a time; returns the size in bytes.

    ``cells`` makes the columns of a number of rows from a row on (from 0), as text
    that is quoted where it has to be; a column may hold several joined by commas.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header.encode())
        for start in range(0, rows, block):
            file.write(_lines(cells(start, min(block, rows - start))))
    return path.stat().st_size


def keys(first: int, n: int) -> Iterator[pa.Array]:
    """The two columns that identify a row, of ``n`` rows from the key ``first`` on."""
    numbers = np.arange(first, first + n, dtype=np.int64)
    yield pa.array(numbers).cast(pa.string())
    yield pc.utf8_lpad(pa.array(numbers * 7 % 100_000_000).cast(pa.string()), 8, "0")


def _lines(cells: Sequence[pa.Array]) -> memoryview:
    """The cells as CSV: the data buffer of an Arrow string array that has a record in each element."""
    ended = pc.binary_join_element_wise(cells[-1], "\n", "")
    lines = pc.binary_join_element_wise(*cells[:-1], ended, ",")
    return memoryview(lines.buffers()[2])[: int(np.frombuffer(lines.buffers()[1], np.int32)[len(lines)])]


def mixed_columns(rng: np.random.Generator, n: int) -> list[pa.Array]:
    """All columns of the type but the keys, as text; empty where there is no value."""
    day = np.datetime64("2023-01-01") + rng.integers(0, 700, n)
    file_version = day.astype("datetime64[ms]") + rng.integers(0, 86_400_000, n)
    return [
        pa.array(rng.integers(1, 90_000, n)).cast(pa.string()),
        pc.binary_join_element_wise("0", _digits(rng.integers(0, 100, n), 2), ""),
        _holes(pa.array(rng.integers(0, 100, n)).cast(pa.string()), rng, 0.05),
        _decimal(rng.integers(0, 1_000_000, n), "0.01"),
        _decimal(rng.integers(0, 10_000, n), "0.0001"),
        _holes(_decimal(rng.integers(-9_999_999, 9_999_999, n), "0.01"), rng, 0.02),
        pa.array(np.round(rng.random(n) * 100, 3)).cast(pa.string()),
        pa.array(day).cast(pa.string()),
        _holes(pa.array(day + rng.integers(1, 60, n)).cast(pa.string()), rng, 0.5),
        pc.strftime(pa.array(file_version), "%Y-%m-%d %H:%M:%S"),
        _holes(pc.strftime(pa.array(file_version + 86_400_000), "%Y-%m-%d %H:%M:%S"), rng, 0.6),
        pa.array(["false", "true"]).take(pa.array(rng.integers(0, 2, n))),
        _uuids(rng, n),
        pa.array(["new", "open", "sent", "paid", "closed"]).take(pa.array(rng.integers(0, 5, n))),
        pa.array(_NOTES).take(pa.array(rng.integers(0, len(_NOTES), n))),
    ]


def _digits(values: np.ndarray, width: int) -> pa.Array:
    return pc.utf8_lpad(pa.array(values).cast(pa.string()), width, "0")


def _decimal(values: np.ndarray, unit: str) -> pa.Array:
    scale = len(unit) - 2
    one = pa.scalar(unit).cast(pa.decimal128(scale + 1, scale))
    return pc.multiply(pa.array(values).cast(pa.decimal128(19, 0)), one).cast(pa.string())


def _holes(values: pa.Array, rng: np.random.Generator, share: float) -> pa.Array:
    return pc.if_else(pa.array(rng.random(len(values)) < share), "", values)


def _uuids(rng: np.random.Generator, n: int) -> pa.Array:
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[rng.integers(0, 16, (n, 36), dtype=np.uint8)]
    digits[:, [8, 13, 18, 23]] = ord("-")
    offsets = np.arange(0, (n + 1) * 36, 36, dtype=np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes()))


def _spoilt(cells: pa.Array, bad: str, share: float, rng: np.random.Generator) -> pa.Array:
    return pc.if_else(pa.array(rng.random(len(cells)) < share), bad, cells)


def _changed(cells: pa.Array, share: float) -> pa.Array:
    every = max(1, round(1 / share))
    chosen = np.arange(len(cells)) % every == 0
    return pc.if_else(pa.array(chosen), "99999", cells)
