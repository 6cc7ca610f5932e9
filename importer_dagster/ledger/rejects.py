"""Rejected records in the ledger: written by an import, read by people.

Nothing is committed here: the caller decides what belongs to one transaction.

What does not belong here: what is wrong with a record
(``validation/rejects.py``), and its columns (``reject_schema.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from importer_dagster.model import Reason

if TYPE_CHECKING:
    import pyarrow as pa


_RECORDS_AT_ONCE = 2_000  # encoded for COPY


def write(conn: psycopg.Connection, load_id: int, records: pa.Table, reasons: Mapping[int, Reason]) -> None:
    """COPY rejected records (``reject_schema.RECORD_SCHEMA``) into the ledger, and insert their new reasons."""
    # imported late: commands and sensors that only read the ledger need neither
    import pgpq
    import pyarrow as pa

    if not len(records):
        return
    conn.cursor().executemany(
        "INSERT INTO importer.reject_reasons (load_id, reason, column_name, rule, words, quotes) "
        "VALUES (%s, %s, %s, %s, %s, %s)",
        [(load_id, number, *reason) for number, reason in reasons.items()],
    )
    table = records.add_column(0, "load_id", pa.repeat(pa.scalar(load_id, pa.int64()), len(records)))
    encoder = pgpq.ArrowToPostgresBinaryEncoder(table.schema)
    statement = (
        "COPY importer.reject_records (load_id, row, line, reasons, values, details, raw) "
        "FROM STDIN (FORMAT BINARY)"
    )
    with conn.cursor().copy(statement) as copy:
        copy.write(encoder.write_header())
        for batch in table.to_batches(max_chunksize=_RECORDS_AT_ONCE):
            copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())


def read(
    conn: psycopg.Connection,
    *,
    load_id: int | None = None,
    type_name: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Rejects of one load, or of all loads of a type, in order; each as a mapping."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            -- the first records suffice: each has at least one rejected cell
            WITH found AS MATERIALIZED (
                SELECT DISTINCT r.load_id, r.row FROM importer.reject_records r JOIN importer.loads l USING (load_id)
                WHERE (%(load_id)s::bigint IS NULL OR r.load_id = %(load_id)s)
                  AND (%(type)s::text IS NULL OR l.type = %(type)s)
                ORDER BY r.load_id, r.row LIMIT %(limit)s
            )
            SELECT r.load_id, l.type, l.tenant, l.business_date, l.path,
                   r.row, r.line, r.column_name, r.value, r.rule, r.message, r.raw
            FROM found JOIN importer.rejects r USING (load_id, row) JOIN importer.loads l USING (load_id)
            WHERE (%(load_id)s::bigint IS NULL OR r.load_id = %(load_id)s)
            ORDER BY r.load_id, r.row, r.column_name LIMIT %(limit)s
            """,
            {"load_id": load_id, "type": type_name, "limit": limit},
        )
        .fetchall()
    )
