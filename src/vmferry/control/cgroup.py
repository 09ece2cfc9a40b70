"""CPU quotas on single threads by Linux control groups, version 1 or 2 (kernel: admin-guide/cgroup-v1, -v2).

Each thread gets a group of its own below the one that it is in, so that whatever limits it already goes on to hold;
it goes there when it is first slowed. The least quota is 1 ms, so a throttle of 99 % needs a period of 100 ms. Others
are shorter, because a guest stands still for most of a period. Unlike QEMU's own throttle, a quota may stop a vCPU
while it holds QEMU's big lock; the monitor and the migration then wait for a period at most.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vmferry.control.guard import Guard
from vmferry.errors import HostError

PREFIX = "vmferry-"
"""Our groups are called `vmferry-THREAD`."""

MIN_QUOTA_US = 1_000
"""The kernel accepts no less."""
MIN_PERIOD_US = 10_000
"""In shorter ones the guest gets less than its share."""

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

    def quota_cpus(self, group: Path) -> float | None:
        """Return how many CPUs' time the quota of a group allows, None if it has none."""
        if self.version == 1:
            quota, period = (_content(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        else:
            quota, _, period = _content(group / "cpu.max").partition(" ")
        return None if quota in {"", "-1", "max"} else int(quota) / int(period)

    def set_quota(self, group: Path, quota_us: int, period_us: int) -> None:
        """Let a group run for `quota_us` of every `period_us`. Raises OSError."""
        if self.version == 2:
            (group / "cpu.max").write_text(f"{quota_us} {period_us}")
            return
        quota, period = (group / "cpu.cfs_quota_us", quota_us), (group / "cpu.cfs_period_us", period_us)
        # Never more in between than in the end, which a limited group above would refuse.
        for file, us in (period, quota) if period_us >= int(period[0].read_text()) else (quota, period):
            file.write_text(str(us))

    def remove_quota(self, group: Path) -> None:
        """Let a group run all the time again. Raises OSError."""
        file, text = ("cpu.max", "max") if self.version == 2 else ("cpu.cfs_quota_us", "-1")
        (group / file).write_text(text)


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
        homes = [group_of(thread_id, self._hierarchy) for thread_id in thread_ids]
        self._shares = dict(zip(thread_ids, (self._share(home, homes) for home in homes), strict=True))
        self._groups = {thread_id: self._make_group(thread_id) for thread_id in thread_ids}

    def __str__(self) -> str:
        return f"CPU quotas on its {len(self._groups)} vCPU threads (cgroup v{self._hierarchy.version})"

    def set(self, throttle_percent: int) -> None:
        """Take that share of the time away, 0 to 99; the threads run the rest. Raises HostError."""
        for thread_id, group in self._groups.items():
            part = self._shares[thread_id] * (100 - throttle_percent) / 100
            period_us = max(MIN_PERIOD_US, round(MIN_QUOTA_US / part))
            with _explained("cannot set the quota of", group):
                self._hierarchy.set_quota(group, max(MIN_QUOTA_US, round(period_us * part)), period_us)
                with suppress(ProcessLookupError):  # it has ended
                    (group / self._hierarchy.threads_file).write_text(str(thread_id))

    def release(self) -> None:
        """Let the threads run again, in the groups that they came from, and remove ours. Raises OSError.

        The quotas go first, because moving a thread may have to wait for the kernel.
        """
        for group in self._groups.values():
            with suppress(OSError):  # moving the thread does it as well
                self._hierarchy.remove_quota(group)
        for thread_id, group in self._groups.items():
            with suppress(ProcessLookupError):
                (group.parent / self._hierarchy.threads_file).write_text(str(thread_id))
            with suppress(OSError):  # threads that the vCPU thread has started meanwhile, which the guard moves
                group.rmdir()

    def _share(self, home: Path, homes: Sequence[Path]) -> float:
        """Return what part of a CPU a thread may use at most, by the quotas there are, which all below it share."""
        share = 1.0
        for group in [home, *(parent for parent in home.parents if parent.is_relative_to(self._hierarchy.mount))]:
            quota_cpus = self._hierarchy.quota_cpus(group)
            if quota_cpus is not None:
                share = min(share, quota_cpus / sum(other.is_relative_to(group) for other in homes))
        return share

    def _make_group(self, thread_id: int) -> Path:
        """Make a new group for a thread below its own."""
        home = group_of(thread_id, self._hierarchy)
        if home.name.startswith(PREFIX):
            raise HostError(f"its threads are in {home} already; end the driver that did it, or see docs/qemu.md")
        if not os.access(home / self._hierarchy.threads_file, os.W_OK):
            raise HostError(
                f"threads of {home} may not be moved; run as root, or as the user that the group is given to"
            )
        group = home / f"{PREFIX}{thread_id}"
        if group.exists():
            raise HostError(f"{group} exists already; end the driver that made it, or else rmdir it")
        with _explained("cannot make a control group in", home):
            if self._hierarchy.version == 2:
                self._delegate_cpu(home)
            self._guard.will_remove(group)
            group.mkdir()
            if self._hierarchy.version == 2:
                (group / "cgroup.type").write_text("threaded")
            self._guard.will_write(home / self._hierarchy.threads_file, str(thread_id))
        return group

    def _delegate_cpu(self, home: Path) -> None:
        """Let groups below have quotas; the kernel allows that for threads of one process only."""
        control = home / "cgroup.subtree_control"
        if "cpu" not in _content(home / "cgroup.controllers").split():
            raise HostError(f"{home} has no cpu controller; write +cpu to cgroup.subtree_control of the group above it")
        if "cpu" not in control.read_text().split():
            self._guard.will_take_cpu_back(home)
            control.write_text("+cpu")


def _content(file: Path) -> str:
    """Return what is in a file, nothing if it is not there: the topmost group has no quota."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


@contextmanager
def _explained(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"{what} {path}: {error.strerror}", error.errno) from error
