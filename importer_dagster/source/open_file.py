"""From a path or URL to an open file: the very file that was listed, and no waiting for ever.

A local file that the inbox listed must still lie in the inbox when it is open: a
link may have been put in its place. Opening and reading run in a thread of their
own, so that a source that stalls is given up after ``IMPORTER_READ_TIMEOUT``. A
small local file is read as it is opened.

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

_READ_AT_ONCE = 1 << 20  # bytes of a local file that are read as it is opened
_BESIDE = 2  # files that are hashed at the same time; Python lets the threads go while it hashes
_IDLE_CLERKS = 2  # kept for the next file: to start a thread takes as long as to read a small one


@contextmanager
def source_errors(url: str) -> Iterator[None]:
    """Turn errors of the file system into ours. Their words may hold the whole address, with its secrets."""
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


class _Clerk:
    """Does one thing after the other in a thread; whoever asks waits for a time only.

    Once it has not answered in time it is given up, with whatever it was about.
    """

    def __init__(self) -> None:
        self.given_up = False
        self.seconds = read_timeout()
        self._tasks: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        # a daemon: one that hangs must not keep the process from ending
        threading.Thread(target=self._work, name="source", daemon=True).start()

    def __call__(self, task: Callable[[], Any]) -> Any:
        self.ask(task)
        return self.answer()

    def ask(self, task: Callable[[], Any]) -> None:
        """Have it begin; one :meth:`answer` is to follow."""
        self._tasks.put(task)

    def answer(self) -> Any:
        """Wait for what the task gives; raises what it raises, and SourceUnavailable if nothing comes in time."""
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
            except BaseException as error:  # handed over to who waits for it
                self._answers.put((None, error))

    def dismiss(self, last: Callable[[], Any] | None = None) -> None:
        """Let it go, after one more task, which nobody waits for if it is given up."""
        if last is not None and self.given_up:
            self._tasks.put(last)
        elif last is not None:
            with suppress(SourceUnavailable):
                self(last)
        if self.given_up or len(_idle) >= _IDLE_CLERKS:
            self._tasks.put(None)
        else:
            _idle.append(self)


_idle: list[_Clerk] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # their threads are the parent's


def _clerk() -> _Clerk:
    try:
        clerk = _idle.pop()
    except IndexError:
        return _Clerk()
    clerk.seconds = read_timeout()
    return clerk


class SourceFile:
    """An open file of a source. ``size`` is what it had when it was opened, None if nobody knows."""

    def __init__(self, opener: Callable[[], Any]) -> None:
        self._clerk: _Clerk | None = _clerk()
        try:
            self._file, self.size = self._clerk(lambda: _with_size(opener()))
        except BaseException:
            self._clerk.dismiss()
            raise
        if isinstance(self._file, BytesIO):  # it is in memory: nothing of it can stall any more
            self._clerk.dismiss()
            self._clerk = None
        self.closed = False

    @classmethod
    def holding(cls, data: bytes) -> SourceFile:
        """One whose bytes were read before (:func:`read_files`)."""
        file = cls.__new__(cls)
        file._clerk, file._file, file.size, file.closed = None, BytesIO(data), len(data), False
        return file

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; raises SourceUnavailable if nothing comes in time."""
        return cast(bytes, self._do(lambda: self._file.read(size)))

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file's."""
        return cast(int, self._do(lambda: self._file.seek(offset, whence)))

    def tell(self) -> int:
        """As a file's."""
        return cast(int, self._do(self._file.tell))

    def seekable(self) -> bool:
        """As a file's."""
        return bool(self._file.seekable())

    def close(self) -> None:
        """Close it, without waiting for what stalls."""
        if not self.closed:
            self.closed = True
            if self._clerk is None:
                self._file.close()
            else:
                self._clerk.dismiss(self._file.close)

    def _do(self, task: Callable[[], Any]) -> Any:
        return task() if self._clerk is None else self._clerk(task)


def _with_size(file: Any) -> tuple[Any, int | None]:
    size = getattr(file, "size", None)
    if isinstance(size, int):
        return file, size
    try:
        found = os.fstat(file.fileno())
    except (AttributeError, OSError, ValueError):  # no file of the operating system
        return file, None
    if not stat.S_ISREG(found.st_mode):
        return file, None
    return _in_memory(file, found.st_size), found.st_size


def _in_memory(file: Any, size: int) -> Any:
    """The file's bytes where they are few; the file itself where they are many, or more by now."""
    if size > _READ_AT_ONCE or not isinstance(file, BufferedReader):
        return file
    data = file.read(size + 1)
    if len(data) > size:
        file.seek(0)
        return file
    file.close()
    return BytesIO(data)


def open_url(url: str, inbox: str | None = None) -> SourceFile:
    """Open a path or URL for reading bytes; a local one must lie in the folder ``inbox``, if that is given."""
    with source_errors(url):
        if "://" in url:
            return SourceFile(lambda: _open_remote(url))
        return SourceFile(lambda: _open_local(url, inbox))


def read_files(files: Sequence[tuple[str, str | None]]) -> list[bytes | None]:
    """The bytes of small local files, each (path, inbox); None for one that cannot be read as it should be.

    In one task of the thread, since to change threads for each takes longer than to read it.
    Raises SourceUnavailable if they do not come in time.
    """
    clerk = _clerk()
    try:
        found = clerk(lambda: [_look_at(lambda file: file.read(), *f) for f in files])
        return cast(list[bytes | None], found)
    finally:
        clerk.dismiss()


def hash_files(files: Sequence[tuple[str, str | None]]) -> list[tuple[str, int] | None]:
    """The same for (sha256 as hex, size in bytes) of each file, some of them at the same time."""
    clerks = [_clerk() for _ in range(min(_BESIDE, os.cpu_count() or 1, len(files)))]
    try:
        for number, clerk in enumerate(clerks):
            clerk.ask(partial(_digests, files[number :: len(clerks)]))
        found: list[tuple[str, int] | None] = [None] * len(files)
        for number, clerk in enumerate(clerks):
            found[number :: len(clerks)] = clerk.answer()
        return found
    except BaseException:
        for clerk in clerks:  # the answers of some are still to come: nobody else may get these
            clerk.given_up = True
        raise
    finally:
        for clerk in clerks:
            clerk.dismiss()


def _digests(files: Sequence[tuple[str, str | None]]) -> list[tuple[str, int] | None]:
    """All through one piece of memory: to get a new one for each file takes as long as to hash it."""
    buffer = memoryview(bytearray(_READ_AT_ONCE))

    def digest(file: BinaryIO) -> tuple[str, int]:
        sha, size = hashlib.sha256(), 0
        while read := cast(BufferedReader, file).readinto(buffer):
            sha.update(buffer[:read])
            size += read
        return sha.hexdigest(), size

    return [_look_at(digest, *file) for file in files]


def _look_at(look: Callable[[BinaryIO], T], path: str, inbox: str | None) -> T | None:
    try:
        with _open_local(path, inbox) as file:
            return look(file)
    except (OSError, ValueError, ImporterError):
        return None


def _open_remote(url: str) -> Any:
    try:
        return fsspec.open(url, "rb").open()
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:  # each file system's library has errors of its own
        raise OSError(str(error)) from error


def _open_local(path: str, inbox: str | None) -> BinaryIO:
    # without waiting for the other end, should it be a pipe
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = None
    try:
        found = os.fstat(number)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(path)
        if not stat.S_ISREG(found.st_mode):
            raise RefusedError(f"{path} is a pipe or a device; name a regular file.", rule="missing")
        if inbox is not None:
            _check_inside(path, inbox, found)
        file = open(number, "rb")  # noqa: PTH123, SIM115 - the caller closes it
        return file
    finally:
        if file is None:
            os.close(number)


def _check_inside(path: str, inbox: str, found: os.stat_result) -> None:
    """Looked at when it is open: what the path leads to now must be the open file, and in the inbox."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(inbox)):
        raise RefusedError(
            f"{path} leads out of the inbox by now, to {real}; it is not read. Put the file itself there.",
            rule="outside",
        )
    now = real.lstat()
    if (now.st_dev, now.st_ino) != (found.st_dev, found.st_ino):
        raise SourceUnavailable(f"{path} was replaced while it was opened; it is tried again.")
