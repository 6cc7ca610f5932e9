"""A TCP proxy in front of PostgreSQL that lets through only so many bytes a second.

What does not belong here: what is imported through it (``flood.py``).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from psycopg.conninfo import conninfo_to_dict

_PIECE = 64 << 10


@contextmanager
def throttled(url: str, bytes_per_second: int) -> Iterator[str]:
    """A URL of the same database; what a client sends passes at ``bytes_per_second``, answers at full speed."""
    given = conninfo_to_dict(url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        threading.Thread(target=_accept, args=(listener, given, bytes_per_second), daemon=True).start()
        yield f"postgresql://{given['user']}@127.0.0.1:{port}/{given['dbname']}?sslmode=disable"
        # ends accept() in the thread; closing alone would not
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, given: dict[str, Any], rate: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            # a small buffer, so that the client notices the slow server at once
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
            server = _server(given)
            threading.Thread(target=_pump, args=(client, server, rate), daemon=True).start()
            threading.Thread(target=_pump, args=(server, client, None), daemon=True).start()


def _server(given: dict[str, Any]) -> socket.socket:
    host, port = given["host"], given.get("port") or 5432
    if not host.startswith("/"):
        return socket.create_connection((host, int(port)))
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{host}/.s.PGSQL.{port}")
    return server


def _pump(source: socket.socket, target: socket.socket, rate: int | None) -> None:
    with source, suppress(OSError):
        while piece := source.recv(_PIECE):
            target.sendall(piece)
            if rate:
                time.sleep(len(piece) / rate)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
