"""Pieces of guest memory in files: for their owner's eyes only, and whole or not there.

A name may come from any client of the monitor, so nothing is opened that could keep the writer waiting or lead it
elsewhere: no FIFO, no device, no symbolic link.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from vmferry.errors import UsageError

MAX_AT_ONCE = 4

_CHUNK_BYTES = 16 << 20
_MODE = 0o600
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NO_FILE = (errno.ELOOP, errno.ENXIO)
"""The errors by which open refuses a symbolic link, and a FIFO that nobody reads."""


class MemoryFiles:
    """Writes files in the threads that ask for them; `check_stop` is called now and then and raises to end that."""

    def __init__(self, check_stop: Callable[[], None]) -> None:
        self._check_stop = check_stop
        self._free = threading.BoundedSemaphore(MAX_AT_ONCE)

    def write(self, memory: memoryview, path: str) -> None:
        """Write memory to a new file, or to a regular one in place of its content. Raises UsageError."""
        if not self._free.acquire(blocking=False):
            raise UsageError(f"{MAX_AT_ONCE} pieces of memory are being written already; wait until one is")
        try:
            self._write(memory, path)
        except OSError as error:
            raise UsageError(f"cannot write {path!r}: {error.strerror}") from error
        finally:
            self._free.release()

    def end(self, timeout_s: float) -> None:
        """Give those that are being written this long, each, to be given up."""
        for _ in range(MAX_AT_ONCE):
            self._free.acquire(timeout=timeout_s)

    def _write(self, memory: memoryview, path: str) -> None:
        with open(_open_regular(path), "wb") as file:
            os.fchmod(file.fileno(), _MODE)
            with _removed_on_failure(path):
                file.truncate()
                for start in range(0, len(memory), _CHUNK_BYTES):
                    self._check_stop()
                    file.write(memory[start : start + _CHUNK_BYTES])
                file.flush()


def _open_regular(path: str) -> int:
    """Return a descriptor of a regular file, which is made if there is none. Raises UsageError or OSError."""
    try:
        descriptor = os.open(path, _FLAGS, _MODE)
    except ValueError as error:
        raise UsageError(f"{path!r} is no name of a file") from error
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def _not_regular(path: str) -> UsageError:
    return UsageError(f"{path!r} is there and is no regular file; choose another name")


@contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
