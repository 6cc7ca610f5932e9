"""Statements that are a transaction each, on an open connection.

What does not belong here: opening connections (``warehouse.py``), and the statements themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.pq import TransactionStatus


@contextmanager
def autocommit(conn: psycopg.Connection) -> Iterator[None]:
    """Within the block each statement is a transaction of its own, which saves the round trips of BEGIN and COMMIT.

    No transaction may be open.
    """
    conn.autocommit = True
    try:
        yield
    finally:
        # any other status means that the connection is lost; then the error of the block tells
        if conn.info.transaction_status == TransactionStatus.IDLE:
            conn.autocommit = False
