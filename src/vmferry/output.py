"""Output that neither holds up nor fails whoever writes it: not on a slow or full disk, not into an unread pipe.

What is written waits in memory for a thread that gives it to the file. A file that refuses is tried again every
second, so nothing is torn. Beyond a bound, what comes is dropped until the file has taken all that waits; then it is
told how much is missing.
"""

import errno
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Self

MAX_WAITING_BYTES = 1 << 20

_RETRY_S = 1.0
_BUSY_RETRY_S = 0.05
"""How long to leave a descriptor alone that does not block and takes nothing: its reader is slow, or absent."""
_LINE_S = 0.1
"""A line that comes in pieces, as from a serial port, has this long to become whole."""
_CLOSE_S = 1.0
_NOT_SYNCED = (errno.EINVAL, errno.EROFS)
"""What fsync says of pipes, terminals and the like, which have nothing to keep."""


class Output:
    """Gives what is written to `file`, which is unbuffered and which it closes in the end; a context manager.

    Texts call it `name`. `tell` gets a line, in the output's thread, when the file begins to refuse and when something
    is missing; it may write to this very output.
    """

    def __init__(self, file: io.FileIO, name: str, tell: Callable[[str], object]) -> None:
        self._file = file
        self._name = name
        self._tell = tell
        self._changed = threading.Condition()
        self._waiting = bytearray()
        self._dropped_bytes = 0
        self._refusal_count = 0
        self._refuses = False
        self._sync_wanted = False
        self._hurried = False
        self._busy = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"output to {name}", daemon=True)
        self._thread.start()

    def write(self, piece: bytes, *, sync: bool = False) -> bool:
        """Have a piece written, and with `sync` put on the disk at once, without waiting; False if it was dropped."""
        with self._changed:
            if self._dropped_bytes or len(self._waiting) + len(piece) > MAX_WAITING_BYTES:
                self._dropped_bytes += len(piece)
                return False
            if not self._waiting or piece.endswith(b"\n"):
                self._changed.notify_all()
            self._waiting += piece
            self._sync_wanted = self._sync_wanted or sync
            return True

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was written is in the file, and on the disk if that was asked for.

        False if the file refuses, or time is up.
        """
        with self._changed:
            before = self._refusal_count
            self._hurried = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_idle() or self._refusal_count > before, timeout_s)
            return self._is_idle() and self._refusal_count == before

    def isatty(self) -> bool:
        """Tell whether the file is a terminal."""
        return self._file.isatty()

    def close(self) -> None:
        """Give the file a second to take what waits, and end. Harmless if that was done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _is_idle(self) -> bool:
        return not (self._busy or self._waiting or self._dropped_bytes or self._sync_wanted)

    # In the output's thread

    def _run(self) -> None:
        while (data := self._next()) is not None:
            if self._give(data) and self._sync_wanted:
                self._sync()
        with suppress(OSError):  # what a full disk says once more
            self._file.close()

    def _next(self) -> bytes | None:
        """Wait for something to do, and return what is to be written; None at the end."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_idle() or self._closing)
            self._changed.wait_for(self._is_due, _LINE_S)
            self._hurried = False
            if self._dropped_bytes and not self._waiting:
                self._tell_dropped()
            if self._closing and not self._waiting:
                return None
            self._busy = True
            data, self._waiting = bytes(self._waiting), bytearray()
            return data

    def _is_due(self) -> bool:
        return not self._waiting or self._waiting.endswith(b"\n") or self._hurried or self._closing

    def _tell_dropped(self) -> None:
        dropped_bytes, self._dropped_bytes = self._dropped_bytes, 0
        self._tell(f"{dropped_bytes} bytes are missing in {self._name}, which could not be written in time")

    def _give(self, data: bytes) -> bool:
        """Write it all, however long that takes; False if this is to end and the file refuses."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._file.fileno(), rest) :]
                self._refuses = False
            except OSError as error:
                self._note_refusal(error)
                if self._closing:
                    return False
        return True

    def _note_refusal(self, error: OSError) -> None:
        """Tell of the first refusal, and wait until it is time to try again."""
        busy = isinstance(error, BlockingIOError)
        if not self._refuses and not busy:
            self._refuses = True
            self._tell(f"cannot write {self._name}: {error.strerror}; that is tried again every second")
        with self._changed:
            self._refusal_count += not busy
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._hurried or self._closing, _BUSY_RETRY_S if busy else _RETRY_S)
            self._hurried = False

    def _sync(self) -> None:
        self._sync_wanted = False
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno not in _NOT_SYNCED:
                self._tell(f"cannot put {self._name} on the disk: {error.strerror}")
                self._refusal_count += 1


class TextOutput(io.TextIOBase):
    """A text stream, to stand for `sys.stderr`, that writes to an output."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, text: str) -> int:
        """Have a text written, and return at once."""
        self._output.write(text.encode(errors="backslashreplace"))
        return len(text)

    def isatty(self) -> bool:
        """Tell whether this leads to a terminal."""
        return self._output.isatty()


def open_unblocked(path: str, flags: int) -> int:
    """Open a file to be written to, without waiting for somebody to read it if it is a FIFO: an `opener`.

    Raises OSError that says so if nobody does.
    """
    try:
        return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, "nobody reads it; start its reader first") from error
        raise


@contextmanager
def unblocked_stderr(tell: Callable[[str], object]) -> Iterator[None]:
    """Let all that this process says on standard error go through an output, unless it goes elsewhere already."""
    if sys.stderr is not sys.__stderr__:
        yield
        return
    with Output(open_again(2), "standard error", tell) as output, redirect_stderr(TextOutput(output)):
        yield


def open_again(descriptor: int) -> io.FileIO:
    """Return what a descriptor that this process was started with leads to; nowhere if it was closed."""
    try:
        return io.FileIO(os.dup(descriptor), "w")
    except OSError:
        return io.FileIO(os.devnull, "w")
