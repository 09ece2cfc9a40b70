"""Has what a driver did to a VM undone, whatever becomes of the driver: even if it is killed.

The driver tells another process, through a pipe, how to undo each step before it takes it. When the pipe ends, because
the driver closed it or is dead, that process undoes everything (`undo.py`). It shares the driver's connection to the
monitor, which QEMU therefore keeps open for it, so that no other client comes in between.
"""

import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from vmferry.control.own_group import OwnGroup
from vmferry.control.way_in import vm_process
from vmferry.errors import HostError

if TYPE_CHECKING:
    from vmferry.client.monitor import Monitor

_END_TIMEOUT_S = 10.0
_STDERR = 2


class Guard:
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
        self._tell_people = tell
        self._promise_count = 0
        descriptors = [one.descriptor for one in (monitor, destination) if one]
        self._process = _start([descriptor for descriptor in descriptors if descriptor is not None])
        assert self._process.stdin
        assert self._process.stdout
        self._pipe = self._process.stdin
        try:
            if self._process.stdout.readline() != b"ready\n":
                raise HostError("the process that undoes the throttle if this one dies did not start")
            if monitor:
                self._promise("vm", *_way_to(monitor))
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._pipe.close()
            self._process.stdout.close()
            raise

    def will_dissolve(self, group: OwnGroup) -> None:
        """Have a control group dissolved at the end."""
        self._promise("group", group.thread.id, group.thread.start_ticks, str(group.home), group.home_inode)

    def will_take_cpu_back(self, group: Path) -> None:
        """Have the cpu controller taken from the groups below `group` at the end, if there is none left (cgroup v2)."""
        self._promise("take-cpu-back", str(group), group.stat().st_ino)

    def will_send(self, command: str, arguments: Mapping[str, object]) -> int:
        """Have a QMP command sent to the monitor at the end. Returns the number of the promise."""
        return self._promise("send", command, arguments)

    def will_set_back(self, before: Mapping[str, object], ours: Mapping[str, object]) -> int:
        """Have migration parameters that still are as in `ours` set to `before`. Returns the number of the promise."""
        return self._promise("set-back", before, ours)

    def will_let_run(self, destination: "Monitor", ran: bool) -> int:
        """Have the guest let run at the destination once the source has completed, if it ran there before.

        Returns the number of the promise.
        """
        return self._promise("let-run", ran, *_way_to(destination))

    def kept(self, promise: int) -> None:
        """Take note that the driver has kept a promise itself, or that there is nothing to it any more."""
        with contextlib.suppress(HostError):  # a guard that is gone keeps none
            self._promise("kept", promise)

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _promise(self, *step: object) -> int:
        self._promise_count += 1
        try:
            self._pipe.write(json.dumps([self._promise_count, *step]).encode() + b"\n")
            self._pipe.flush()
        except BrokenPipeError as error:
            raise HostError("the process that undoes the throttle is gone; nothing more is changed") from error
        return self._promise_count


def _start(descriptors: list[int]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "vmferry.control.undo"],  # whatever lies in the working directory
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if _somebody_waits_for_the_end_of(_STDERR) else None,
            pass_fds=descriptors,
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(f"cannot start the process that undoes the throttle: {error.strerror}", error.errno) from error


def _way_to(monitor: "Monitor") -> tuple[str, int | None, int | None, int | None]:
    """Return address and connection of a monitor, its process on this host and when that started.

    The latter are None if they are not certain.
    """
    process = vm_process(monitor)
    return monitor.where, monitor.descriptor, *((process.id, process.start_ticks) if process else (None, None))


def _somebody_waits_for_the_end_of(descriptor: int) -> bool:
    """True for a pipe, whose reader would wait for the guard; and nothing can be written to one that is closed."""
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return True
