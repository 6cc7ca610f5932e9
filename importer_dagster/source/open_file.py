"""Opens files: a path or URL becomes an open file whose reads never wait longer than a time-out.

A local file that the inbox listed must still be in the inbox when it is open, since a link may have
been put in its place. Opening and reading run in a thread of their own, so that a
source that stalls is given up after ``IMPORTER_READ_TIMEOUT``. A small local file is
read into memory when it is opened.

What does not belong here: what is in the file (``source/unpack.py``), whether it is
complete (``source/completeness.py``).
"""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedReader, BytesIO
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO, TypeVar, cast

import fsspec

from importer_dagster.errors import ImporterError, RefusedError, SourceUnavailable
from importer_dagster.redaction import redact, redact_text
from importer_dagster.settings import read_timeout

T = TypeVar("T")

_READ_AT_ONCE = 1 << 20  # bytes; a local file up to this size is read when it is opened
# Files that are hashed at the same time; threads can do this, as hashing does not hold Python's lock.
_HASHED_AT_ONCE = 2
_IDLE_WORKERS = 2  # kept for the next files, since starting a thread takes as long as reading a small file


@contextmanager
def source_errors(url: str) -> Iterator[None]:
    """Turn errors of the file system into ours, without the secrets of the address that their messages may have."""
    address, url = url, redact(url)
    try:
        yield
    except ImporterError:
        raise
    except FileNotFoundError:
        raise RefusedError(f"{url} does not exist. Check the path.", rule="missing") from None
    except IsADirectoryError:
        raise RefusedError(f"{url} is a folder; name a file.", rule="missing") from None
    except PermissionError as error:
        raise RefusedError(
            f"{url} may not be read: {redact_text(error, address)}. Grant read access.", rule="unreadable"
        ) from None
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise RefusedError(
            f"{url} is a damaged or truncated archive: {error}. Ask the supplier to send it again.",
            rule="container",
        ) from None
    except (OSError, ValueError, ImportError) as error:
        raise SourceUnavailable(f"{url} could not be read: {redact_text(error, address)}") from error


class _TimedWorker:
    """Does one task after the other in a thread; the caller waits for the result for a limited time only.

    A worker that does not answer in time is given up, together with its task.
    """

    def __init__(self) -> None:
        self.given_up = False
        self.seconds = read_timeout()
        self._tasks: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        # a daemon thread, since a task that hangs must not keep the process from ending
        threading.Thread(target=self._work, name="source", daemon=True).start()

    def __call__(self, task: Callable[[], Any]) -> Any:
        self.start(task)
        return self.result()

    def start(self, task: Callable[[], Any]) -> None:
        """Start a task; one call of :meth:`result` must follow."""
        self._tasks.put(task)

    def result(self) -> Any:
        """Wait for the result of the task; raises what the task raises, SourceUnavailable if it takes too long."""
        try:
            answer, error = self._answers.get(timeout=self.seconds)
        except Empty:
            self.given_up = True
            raise SourceUnavailable(
                f"The source stalls: nothing came for {self.seconds} s (IMPORTER_READ_TIMEOUT). Nothing of the "
                "file is loaded; it is tried again. Check the connection to the inbox."
            ) from None
        if error is not None:
            raise error
        return answer

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._answers.put((task(), None))
            except BaseException as error:  # raised again by ``result``
                self._answers.put((None, error))

    def release(self, last: Callable[[], Any] | None = None) -> None:
        """Keep the worker for the next file, or end it.

        It does the task ``last`` before; this waits for it, unless the worker was given up.
        """
        if last is not None and self.given_up:
            self._tasks.put(last)
        elif last is not None:
            with suppress(SourceUnavailable):
                self(last)
        if self.given_up or len(_idle) >= _IDLE_WORKERS:
            self._tasks.put(None)
        else:
            _idle.append(self)


_idle: list[_TimedWorker] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # a fork has no copies of their threads


def _worker() -> _TimedWorker:
    """A worker for one file: an idle one, else a new one."""
    try:
        worker = _idle.pop()
    except IndexError:
        return _TimedWorker()
    worker.seconds = read_timeout()
    return worker


class SourceFile:
    """An open file of a source. ``size`` is its size in bytes when it was opened, None if it is not known."""

    def __init__(self, opener: Callable[[], Any]) -> None:
        self._worker: _TimedWorker | None = _worker()
        try:
            self._file, self.size = self._worker(lambda: _with_size(opener()))
        except BaseException:
            self._worker.release()
            raise
        if isinstance(self._file, BytesIO):  # all of it is in memory, so reading needs no time-out
            self._worker.release()
            self._worker = None
        self.closed = False

    @classmethod
    def holding(cls, data: bytes) -> SourceFile:
        """An open file whose bytes were read before (:func:`read_files`)."""
        file = cls.__new__(cls)
        file._worker, file._file, file.size, file.closed = None, BytesIO(data), len(data), False
        return file

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; raises SourceUnavailable if nothing comes in time."""
        return cast(bytes, self._do(lambda: self._file.read(size)))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position, like the method of a file."""
        return cast(int, self._do(lambda: self._file.seek(offset, whence)))

    def tell(self) -> int:
        """The position, like the method of a file."""
        return cast(int, self._do(self._file.tell))

    def seekable(self) -> bool:
        """Whether ``seek`` works, like the method of a file."""
        return bool(self._file.seekable())

    def close(self) -> None:
        """Close it, without waiting for a source that stalls."""
        if not self.closed:
            self.closed = True
            if self._worker is None:
                self._file.close()
            else:
                self._worker.release(self._file.close)

    def _do(self, task: Callable[[], Any]) -> Any:
        return task() if self._worker is None else self._worker(task)


def _with_size(file: Any) -> tuple[Any, int | None]:
    """The file and its size, None if it is not known; a small local file is replaced by its bytes in memory."""
    size = getattr(file, "size", None)
    if isinstance(size, int):
        return file, size
    try:
        found = os.fstat(file.fileno())
    except (AttributeError, OSError, ValueError):  # no file of the operating system
        return file, None
    if not stat.S_ISREG(found.st_mode):
        return file, None
    if found.st_size <= _READ_AT_ONCE and isinstance(file, BufferedReader):
        data = file.read(found.st_size + 1)
        if len(data) <= found.st_size:
            file.close()
            return BytesIO(data), found.st_size
        file.seek(0)  # it has grown in the meantime
    return file, found.st_size


def open_url(url: str, inbox: str | None = None) -> SourceFile:
    """Open a path or URL for reading bytes; a local file must be in the folder ``inbox``, if that is given."""

    def opened() -> Any:
        if "://" not in url:
            return _open_local(url, inbox)
        try:
            return fsspec.open(url, "rb").open()
        except (OSError, ValueError, ImportError):
            raise
        except Exception as error:  # each file system's library has errors of its own
            raise OSError(str(error)) from error

    with source_errors(url):
        return SourceFile(opened)


def read_files(files: Sequence[tuple[str, str | None]]) -> list[bytes | None]:
    """The bytes of small local files, given as (path, inbox); None for a file that cannot be read.

    All are read in one task, since changing threads for each file takes longer than reading it.
    Raises SourceUnavailable if this takes too long.
    """
    worker = _worker()
    try:
        found = worker(lambda: [_read_with(lambda file: file.read(), *f) for f in files])
        return cast(list[bytes | None], found)
    finally:
        worker.release()


def hash_files(files: Sequence[tuple[str, str | None]]) -> list[tuple[str, int] | None]:
    """(sha256 as hex, size in bytes) of local files, given as (path, inbox); None for a file that cannot be read.

    Hashes some of them at the same time. Raises SourceUnavailable if this takes too long.
    """
    workers = [_worker() for _ in range(min(_HASHED_AT_ONCE, os.cpu_count() or 1, len(files)))]
    try:
        for number, worker in enumerate(workers):
            worker.start(partial(_digests, files[number :: len(workers)]))
        found: list[tuple[str, int] | None] = [None] * len(files)
        for number, worker in enumerate(workers):
            found[number :: len(workers)] = worker.result()
        return found
    except BaseException:
        for (
            worker
        ) in workers:  # results of some are still to come, and must not be taken for those of the next file
            worker.given_up = True
        raise
    finally:
        for worker in workers:
            worker.release()


def _digests(files: Sequence[tuple[str, str | None]]) -> list[tuple[str, int] | None]:
    """Hash and size of each file, read through one buffer: a new one for each file takes as long as hashing it."""
    buffer = memoryview(bytearray(_READ_AT_ONCE))

    def digest(file: BinaryIO) -> tuple[str, int]:
        sha, size = hashlib.sha256(), 0
        while read := cast(BufferedReader, file).readinto(buffer):
            sha.update(buffer[:read])
            size += read
        return sha.hexdigest(), size

    return [_read_with(digest, *file) for file in files]


def _read_with(look: Callable[[BinaryIO], T], path: str, inbox: str | None) -> T | None:
    """The result of ``look`` for an open file; None if the file cannot be opened or read."""
    try:
        with _open_local(path, inbox) as file:
            return look(file)
    except (OSError, ValueError, ImporterError):
        return None


def _open_local(path: str, inbox: str | None) -> BinaryIO:
    """Open a regular file; raises RefusedError for anything else, and for a path that leads out of the inbox."""
    # O_NONBLOCK: opening a pipe must not wait for its other end
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = None
    try:
        found = os.fstat(number)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(path)
        if not stat.S_ISREG(found.st_mode):
            raise RefusedError(f"{path} is a pipe or a device; name a regular file.", rule="missing")
        if inbox is not None:
            # checked when it is open: the path must lead into the inbox, and to the file that is open
            real = Path(os.path.realpath(path))
            if not real.is_relative_to(os.path.realpath(inbox)):
                raise RefusedError(
                    f"{path} leads out of the inbox by now, to {real}; it is not read. Put the file itself there.",
                    rule="outside",
                )
            now = real.lstat()
            if (now.st_dev, now.st_ino) != (found.st_dev, found.st_ino):
                raise SourceUnavailable(f"{path} was replaced while it was opened; it is tried again.")
        file = open(number, "rb")  # noqa: PTH123, SIM115 - the caller closes it
        return file
    finally:
        if file is None:
            os.close(number)
