"""The content of a database, in a form that two imports of the same files share; and what must not be left behind.

What does not belong here: importing and killing (``work.py``, ``crash.py``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

State = dict[str, list[str]]

_ANY_TABLE = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname IN ('public', 'importer_superseded', 'importer_repeats', 'importer_held')
ORDER BY 1, 2
"""
# columns that differ between two imports of the same files
_OF_THE_RUN = ("load_id", "run_id", "started_at", "finished_at", "stamp")


def state(conn: psycopg.Connection) -> State:
    """Every row of every table and of the ledger; load ids are replaced by path and sha256 of the file.

    Failed and refused loads are left out: they change no table.
    """
    found: State = {}
    if conn.execute("SELECT to_regclass('importer.loads')").fetchone() == (None,):
        return found
    loads = {
        row[0]: row[1]
        for row in conn.execute("SELECT load_id, to_jsonb(l) FROM importer.loads l WHERE status = 'loaded'")
    }
    names = {i: f"{row['path']} {row['sha256']}" for i, row in loads.items()}
    found["importer.loads"] = _sorted([_named(row, names) for row in loads.values()])
    for schema, table in conn.execute(_ANY_TABLE.encode()).fetchall():
        found[f"{schema}.{table}"] = _rows(conn, schema, table, names)
    for table in ("rejects", "drift"):
        found[f"importer.{table}"] = [
            line for line in _rows(conn, "importer", table, names) if '"_load": null' not in line
        ]
    return {name: rows for name, rows in found.items() if rows}


def _rows(conn: psycopg.Connection, schema: str, table: str, names: dict[int, str]) -> list[str]:
    query = sql.SQL("SELECT to_jsonb(t) FROM {} t").format(sql.Identifier(schema, table))
    rows = (row for (row,) in conn.execute(query))
    if schema == "importer_repeats":
        rows = (record for row in rows for record in _records(row))
    return _sorted([_named(row, names) for row in rows])


def _records(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The records of one row of repeats. Which records share a row depends on the batches."""
    first = block.pop("_block")
    for i, offset in enumerate(block["_row"]):
        record = {name: value[i] if isinstance(value, list) else value for name, value in block.items()}
        yield {**record, "_row": first + offset}


def _named(row: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    load = row.get("_load_id", row.get("load_id"))
    named = {k: v for k, v in row.items() if k not in _OF_THE_RUN}
    for column in ("_load_id", "_same_as", "superseded_by"):
        if column in named:
            named[column] = names.get(named[column])
    return {**named, "_load": names.get(load) if load is not None else None}


def _sorted(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows)


def differences(expected: State, found: State) -> list[str]:
    """What only one of them has, as lines; at most a few."""
    lines: list[str] = []
    for name in sorted({*expected, *found}):
        want, have = expected.get(name, []), found.get(name, [])
        if want != have:
            lines.append(f"{name}: {len(have)} rows instead of {len(want)}")
            lines += [f"  missing {line[:500]}" for line in _less(want, have)[:2]]
            lines += [f"  too much {line[:500]}" for line in _less(have, want)[:2]]
    return lines


def _less(one: list[str], other: list[str]) -> list[str]:
    """The lines of ``one`` that ``other`` lacks, each as often as it lacks it."""
    return list((Counter(one) - Counter(other)).elements())


_SESSIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> 'harness'
"""
_LOCKS = """
SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND a.datname = current_database() AND a.application_name <> 'harness'
"""
_REMAINS = {
    "temporary tables": "SELECT count(*) FROM pg_class WHERE relpersistence = 't'",
    "stages outside of a transaction": "SELECT count(*) FROM pg_class WHERE relname ~ '^importer_(stage|duplicates|keys)'",
    "invalid indexes": "SELECT count(*) FROM pg_index WHERE NOT indisvalid",
    "prepared transactions": "SELECT count(*) FROM pg_prepared_xacts",
}


def slots_held(conn: psycopg.Connection) -> int:
    """The number of advisory locks (slots of the cap, locks of types) that importing sessions hold."""
    return _count(conn, _LOCKS)


def remains(conn: psycopg.Connection) -> list[str]:
    """What a crash left behind and must not have."""
    queries = {"sessions": _SESSIONS, "advisory locks": _LOCKS, **_REMAINS}
    if conn.execute("SELECT to_regclass('importer.loads')").fetchone() != (None,):
        queries["loads said to be loading"] = "SELECT count(*) FROM importer.loads WHERE status = 'loading'"
    return [f"{n} {what}" for what, query in queries.items() if (n := _count(conn, query))]


def _count(conn: psycopg.Connection, query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row
    return int(row[0])
