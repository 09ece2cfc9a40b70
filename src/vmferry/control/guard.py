"""A process that undoes what a driver did to a VM, whatever becomes of the driver: even if it is killed.

The driver tells, through a pipe, how to undo each step before it takes it. When the pipe ends, because the driver
closed it or is dead, everything is undone, the last step first, and the process ends. It is in a session of its own
and deaf to the terminal's signals, so what hits the driver does not hit it: `python -m vmferry.control.guard`.
"""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from vmferry.errors import HostError

_END_TIMEOUT_S = 10.0


class Guard:
    """A running guard process; a context manager that has everything undone at its end.

    Raises HostError if it does not start.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vmferry.control.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._pipe = self._process.stdin
        if self._process.stdout.readline() != b"ready\n":
            raise HostError("the process that undoes the throttle if this one dies did not start")

    def will_write(self, path: Path, text: str) -> None:
        """Have `text` written to a file at the end."""
        self._tell("write", str(path), text)

    def will_remove(self, directory: Path) -> None:
        """Have an empty directory removed at the end."""
        self._tell("rmdir", str(directory))

    def close(self) -> None:
        """Have everything undone and wait until it is. Harmless if it is."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()
        self._process.wait(_END_TIMEOUT_S)
        assert self._process.stdout
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, *step: str) -> None:
        try:
            self._pipe.write(json.dumps(step).encode() + b"\n")
            self._pipe.flush()
        except BrokenPipeError as error:
            raise HostError("the process that undoes the throttle is gone; nothing more is changed") from error


def undo(steps: list[list[str]]) -> None:
    """Carry the steps out, the last first. What cannot be undone, such as for a thread that has ended, is left."""
    for kind, path, *text in reversed(steps):
        with contextlib.suppress(OSError):
            if kind == "write":
                Path(path).write_text(text[0])
            else:
                Path(path).rmdir()


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
