"""A process that undoes what a driver did to a VM, whatever becomes of the driver: even if it is killed.

The driver tells, through a pipe, how to undo each step before it takes it. When the pipe ends, because the driver
closed it or is dead, everything is undone, the last step first, and the process ends. It is in a session of its own
and deaf to the terminal's signals, so what hits the driver does not hit it: `python -m vmferry.control.guard`.
"""

import contextlib
import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vmferry.errors import HostError, MonitorError, VmferryError

_END_TIMEOUT_S = 10.0
_CONNECT_TRIES = 50
_REMOVE_TRIES = 500


class Guard:
    """A running guard process; a context manager that has everything undone at its end.

    Raises HostError if it does not start.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "vmferry.control.guard"],  # whatever lies in the working directory
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._pipe = self._process.stdin
        try:
            if self._process.stdout.readline() != b"ready\n":
                raise HostError("the process that undoes the throttle if this one dies did not start")
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._pipe.close()
            self._process.stdout.close()
            raise

    def will_write(self, path: Path, text: str) -> None:
        """Have `text` written to a file at the end."""
        self._tell("write", str(path), text)

    def will_remove(self, directory: Path) -> None:
        """Have an empty directory removed at the end."""
        self._tell("rmdir", str(directory))

    def will_take_cpu_back(self, group: Path) -> None:
        """Have the cpu controller taken from the groups below `group` at the end, if there is none left (cgroup v2)."""
        self._tell("take-cpu-back", str(group))

    def will_send(self, address: str, command: str, arguments: dict[str, object]) -> None:
        """Have a QMP command sent to the monitor at `address` at the end, unless the driver says `sent` after this."""
        self._tell("send", address, command, arguments)

    def sent(self) -> None:
        """Take note that the driver has sent the commands promised so far itself, or needs them no more."""
        self._tell("sent")

    def close(self) -> None:
        """Have everything undone and wait until it is. Harmless if it is."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a monitor that hangs; the guard goes on trying
            self._process.wait(_END_TIMEOUT_S)
        assert self._process.stdout
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, *step: object) -> None:
        try:
            self._pipe.write(json.dumps(step).encode() + b"\n")
            self._pipe.flush()
        except BrokenPipeError as error:
            raise HostError("the process that undoes the throttle is gone; nothing more is changed") from error


def undo(steps: list[list[Any]]) -> None:
    """Carry the steps out, the last first. What cannot be undone, such as for a thread that has ended, is left."""
    sent = False
    for step in reversed(steps):
        with contextlib.suppress(OSError, VmferryError):
            match step:
                case ["write", path, text]:
                    Path(path).write_text(text)
                case ["rmdir", path]:
                    _remove(Path(path))
                case ["take-cpu-back", path] if not any(entry.is_dir() for entry in Path(path).iterdir()):
                    (Path(path) / "cgroup.subtree_control").write_text("-cpu")
                case ["sent"]:
                    sent = True
                case ["send", address, command, arguments] if not sent:
                    _send(address, command, arguments)


def _remove(group: Path) -> None:
    """Remove a control group; threads that a vCPU thread has started meanwhile go where it has gone.

    Those of a QEMU that was killed are in it, and cannot be moved, until its memory is gone.
    """
    for _ in range(_REMOVE_TRIES):
        with contextlib.suppress(ProcessLookupError):
            _move_threads(group)
        try:
            group.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            time.sleep(0.02)
        else:
            break


def _move_threads(group: Path) -> None:
    for name in ("tasks", "cgroup.threads"):
        if (group / name).exists():
            for thread_id in (group / name).read_text().split():
                (group.parent / name).write_text(thread_id)


def _send(address: str, command: str, arguments: dict[str, object]) -> None:
    """Send a command. QEMU serves one client at a time, and the driver's connection may live for a moment more."""
    # Most guards never need it, and starting one must not take long.
    from vmferry.control.monitor import open_monitor

    for _ in range(_CONNECT_TRIES):
        with contextlib.suppress(MonitorError):
            with open_monitor(address, timeout_s=1.0) as monitor:
                monitor.execute(command, arguments)
            return
        time.sleep(0.1)


def main() -> None:
    """Collect steps until the pipe ends, then undo them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print("ready", flush=True)
    steps = []
    for line in sys.stdin:
        with contextlib.suppress(json.JSONDecodeError):  # torn off by the driver's death; that step was not taken
            steps.append(json.loads(line))
    undo(steps)


if __name__ == "__main__":
    main()
