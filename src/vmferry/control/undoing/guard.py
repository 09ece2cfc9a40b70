"""Has what a driver did to a VM undone, whatever becomes of the driver: even if it is killed.

The driver tells another process, through a pipe, how to undo each step before it takes it. When the pipe ends, because
the driver closed it or is dead, that process undoes everything (`undo.py`). It shares the driver's connection to the
monitor, which QEMU therefore keeps open for it, so that no other client comes in between.
"""

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from vmferry.control.undoing.promises import Promises
from vmferry.errors import HostError

if TYPE_CHECKING:
    from vmferry.client.monitor import Monitor

_END_TIMEOUT_S = 10.0
_STDERR = 2


class Guard(Promises):
    """A running guard process; a context manager that has everything undone at its end.

    Raises HostError if it does not start.
    """

    def __init__(
        self,
        monitor: "Monitor | None" = None,
        tell: Callable[[str], object] = lambda text: None,
        destination: "Monitor | None" = None,
    ) -> None:
        """The monitors carry out what is promised; nobody may use them any more once the guard is closed.

        `tell` gets a line if the guard goes on trying after that.
        """
        super().__init__()
        self._tell_people = tell
        descriptors = [one.descriptor for one in (monitor, destination) if one]
        self._process = _start([descriptor for descriptor in descriptors if descriptor is not None])
        assert self._process.stdin
        assert self._process.stdout
        self._pipe = self._process.stdin
        try:
            if self._process.stdout.readline() != b"ready\n":
                raise HostError("the process that undoes the throttle if this one dies did not start")
            for one in filter(None, (monitor, destination)):
                self.will_reach(one)
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._pipe.close()
            self._process.stdout.close()
            raise

    def close(self) -> None:
        """Have everything undone and wait until it is, for some time. Harmless if it is."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._tell_people(f"process {self._process.pid} goes on undoing what was done to the VM")
        assert self._process.stdout
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, promise: str) -> None:
        try:
            self._pipe.write(promise.encode() + b"\n")
            self._pipe.flush()
        except BrokenPipeError as error:
            raise HostError("the process that undoes the throttle is gone; nothing more is changed") from error


def _start(descriptors: list[int]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "vmferry.control.undoing.undo"],  # whatever lies in the working directory
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if _somebody_waits_for_the_end_of(_STDERR) else None,
            pass_fds=descriptors,
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(f"cannot start the process that undoes the throttle: {error.strerror}", error.errno) from error


def _somebody_waits_for_the_end_of(descriptor: int) -> bool:
    """True for a pipe, whose reader would wait for the guard; and nothing can be written to one that is closed."""
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return True
