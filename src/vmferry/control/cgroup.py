"""CPU quotas on single threads by Linux control groups, version 1 or 2 (kernel: admin-guide/cgroup-v1, -v2).

Each thread gets a group of its own below the one that it is in, so that whatever limits it already goes on to hold.
The period is 100 ms and the least quota 1 ms, so a throttle of 99 % is possible. Unlike QEMU's own throttle, a quota
may stop a vCPU while it holds QEMU's big lock; the monitor and the migration then wait for a period at most.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmferry.control.guard import Guard
from vmferry.errors import HostError

PERIOD_US = 100_000
_PROC = Path("/proc")


@dataclass(frozen=True)
class Hierarchy:
    """The cgroup file system that has the cpu controller: where it is mounted, and which group that shows."""

    version: int
    mount: Path
    root: str

    @property
    def threads_file(self) -> str:
        """Writing a thread's id to this file of a group moves it there."""
        return "tasks" if self.version == 1 else "cgroup.threads"

    @property
    def no_quota(self) -> tuple[str, str]:
        """The file of a group with its quota, and what to write for none."""
        return ("cpu.cfs_quota_us", "-1") if self.version == 1 else ("cpu.max", f"max {PERIOD_US}")

    def quota(self, percent: int) -> tuple[str, str]:
        """The file, and what to write for a thread that is to run `percent` of the time."""
        quota_us = PERIOD_US * percent // 100
        return ("cpu.cfs_quota_us", f"{quota_us}") if self.version == 1 else ("cpu.max", f"{quota_us} {PERIOD_US}")


def find_hierarchy(proc: Path = _PROC) -> Hierarchy:
    """Return the hierarchy with the cpu controller. Raises HostError if there is none."""
    found = None
    for line in (proc / "self" / "mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        root, mount = place.split()[3:5]
        file_system, _, options = kind.split(maxsplit=2)
        if file_system == "cgroup" and "cpu" in options.split(","):
            return Hierarchy(1, Path(mount), root)
        if file_system == "cgroup2" and "cpu" in (Path(mount) / "cgroup.controllers").read_text().split():
            found = Hierarchy(2, Path(mount), root)
    if not found:
        raise HostError("no control group of this machine has the cpu controller")
    return found


def group_of(thread_id: int, hierarchy: Hierarchy, proc: Path = _PROC) -> Path:
    """Return the directory of the group that a thread is in. Raises HostError if it cannot be seen."""
    try:
        lines = (proc / str(thread_id) / "cgroup").read_text().splitlines()
    except OSError as error:
        raise HostError(f"thread {thread_id} of the VM is not on this machine: {error.strerror}") from error
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" if hierarchy.version == 2 else "cpu" in controllers.split(","):
            return hierarchy.mount / path.removeprefix(hierarchy.root).lstrip("/")
    raise HostError(f"thread {thread_id} is in no control group with the cpu controller")


class CpuQuota:
    """Lets threads run only part of the time. The guard puts everything back.

    Raises HostError if that is not possible or not permitted; then nothing stays changed once the guard is closed.
    """

    def __init__(self, thread_ids: Sequence[int], guard: Guard, hierarchy: Hierarchy | None = None) -> None:
        self._hierarchy = hierarchy or find_hierarchy()
        self._guard = guard
        self._groups = [self._isolate(thread_id) for thread_id in thread_ids]

    def __str__(self) -> str:
        return f"CPU quotas on its {len(self._groups)} vCPU threads (cgroup v{self._hierarchy.version})"

    def set(self, throttle_percent: int) -> None:
        """Take that share of the time away, 0 to 99; the threads run the rest. Raises HostError."""
        file, text = self._hierarchy.quota(100 - throttle_percent) if throttle_percent else self._hierarchy.no_quota
        for group in self._groups:
            with _explained("cannot set the quota of", group):
                (group / file).write_text(text)

    def _isolate(self, thread_id: int) -> Path:
        """Put a thread into a new group of its own."""
        home = group_of(thread_id, self._hierarchy)
        group = home / f"vmferry-{thread_id}"
        with _explained("cannot make a control group in", home):
            if self._hierarchy.version == 2:
                self._delegate_cpu(home)
            self._guard.will_remove(group)
            group.mkdir(exist_ok=True)
            if self._hierarchy.version == 2:
                (group / "cgroup.type").write_text("threaded")
            self._guard.will_write(home / self._hierarchy.threads_file, str(thread_id))
            (group / self._hierarchy.threads_file).write_text(str(thread_id))
            file, text = self._hierarchy.no_quota
            self._guard.will_write(group / file, text)
        return group

    def _delegate_cpu(self, home: Path) -> None:
        """Let groups below have quotas; the kernel allows that for threads of one process only."""
        control = home / "cgroup.subtree_control"
        if "cpu" not in control.read_text().split():
            self._guard.will_write(control, "-cpu")
            control.write_text("+cpu")


@contextmanager
def _explained(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"{what} {path}: {error.strerror}", error.errno) from error
