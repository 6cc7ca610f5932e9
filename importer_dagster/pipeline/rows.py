"""Rows of one delivery, from the reader to the table."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

QUEUE_BATCHES = 1  # batches between two stages; more only costs memory
T = TypeVar("T")


class _End:
    """What a stage's thread sends last: nothing, or the error that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


@contextmanager
def ahead(source: Iterator[T], name: str) -> Iterator[Iterator[T]]:
    """The items of ``source``, made in a thread up to QUEUE_BATCHES ahead; its errors come out here.

    When the block is left, the thread has ended, whether ``source`` has or not.
    """
    items: queue.Queue[T | _End] = queue.Queue(QUEUE_BATCHES)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, source, stop), name=name, daemon=True)
    thread.start()
    try:
        yield _drain(items)
    finally:
        stop.set()
        thread.join()


def _fill(items: queue.Queue[T | _End], source: Iterator[T], stop: threading.Event) -> None:
    try:
        for item in source:
            if not _put(items, item, stop):
                return
        _put(items, _End(None), stop)
    except BaseException as error:
        _put(items, _End(error), stop)


def _put(items: queue.Queue[T | _End], item: T | _End, stop: threading.Event) -> bool:
    """Put ``item`` when there is room; False if nobody wants it any more."""
    while not stop.is_set():
        try:
            items.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _drain(items: queue.Queue[T | _End]) -> Iterator[T]:
    while not isinstance(item := items.get(), _End):
        yield item
    if item.error is not None:
        raise item.error
