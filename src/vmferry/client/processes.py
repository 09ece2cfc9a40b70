"""What this host's /proc tells of processes and their threads (proc(5))."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_LOOK_NS = 50_000_000
_AFTER_NAME = 3
"""Number of the first field of `stat` behind the name, which may hold anything."""
_START = 22
_ENDED = "ZX"
"""The states of a process that has ended: a zombie, and dead."""


@dataclass(frozen=True)
class Thread:
    """A thread; its number alone may be another's by now."""

    id: int
    start_ticks: int
    """When it started, in clock ticks since the host did."""

    @classmethod
    def of(cls, thread_id: int) -> "Thread | None":
        """Return the thread that has this number now, None if there is none that still runs."""
        try:
            fields = (PROC / str(thread_id) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in _ENDED else cls(thread_id, int(fields[_START - _AFTER_NAME]))

    @property
    def alive(self) -> bool:
        """True if the number is still this thread's."""
        return Thread.of(self.id) == self

    def ends_within(self, duration_ns: int, sleep_ns: Callable[[int], object]) -> bool:
        """Wait for its end, which takes a process with much memory a while, and tell whether it came."""
        left_ns = duration_ns
        while self.alive and left_ns > 0:
            sleep_ns(_LOOK_NS)
            left_ns -= _LOOK_NS
        return not self.alive


@dataclass(frozen=True)
class Scheduled:
    """What the scheduler has given a thread since it began."""

    ran_ns: int
    waited_ns: int
    """For how long it was ready to run, and no processor was free."""

    @classmethod
    def of(cls, thread_id: int) -> "Scheduled":
        """Return that of a thread (`schedstat`). Raises OSError or ValueError if it cannot be read."""
        ran_ns, waited_ns, _ = (PROC / str(thread_id) / "schedstat").read_text().split()
        return cls(int(ran_ns), int(waited_ns))

    @property
    def wanted_ns(self) -> int:
        """For how long it would have run with a processor of its own."""
        return self.ran_ns + self.waited_ns


def status_field(task: Path, field: str) -> str:
    """Return a field of a task's `status`, nothing if the task has ended."""
    try:
        lines = (task / "status").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:")), "")
