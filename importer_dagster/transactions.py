"""What an open session can do for whoever uses it: statements that are a transaction each.

What does not belong here: opening sessions (``warehouse.py``), and what is said in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.pq import TransactionStatus


@contextmanager
def single(conn: psycopg.Connection) -> Iterator[None]:
    """Within the block each statement is a transaction of its own.

    That saves the round trips of BEGIN and COMMIT. No transaction may be open.
    """
    conn.autocommit = True
    try:
        yield
    finally:
        if conn.info.transaction_status == TransactionStatus.IDLE:  # else it is lost, and the error says so
            conn.autocommit = False
