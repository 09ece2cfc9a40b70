"""CPU quotas on single threads.

Each thread gets a group of its own below the one that it is in, so that whatever limits it already goes on to hold. The
least quota is 1 ms, so a throttle of 99 % needs a period of 100 ms, or a longer one where a group above has a quota.
Others are shorter, because a guest stands still for most of a period. Unlike QEMU's own throttle, a quota may stop a
vCPU while it holds QEMU's big lock; the monitor and the migration then wait for a period at most.

A throttle takes its share of what a thread gets without one, on a host that is short of processors too (`crowding`).

Who manages the VM may move its threads meanwhile, real-time scheduling knows no quotas, and the kernel may refuse: so
each quota is read back, and where the threads are is looked at again every time.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vmferry.client.processes import Thread
from vmferry.clock import MonotonicClock
from vmferry.control.host.cgroup import Hierarchy, find_hierarchy, group_of
from vmferry.control.host.own_group import PREFIX, OwnGroup
from vmferry.control.slowing.crowding import Crowding
from vmferry.control.undoing.promises import Promises
from vmferry.errors import HostError

MIN_QUOTA_US = 1_000
"""The shortest quota that the kernel accepts."""
MIN_PERIOD_US, MAX_PERIOD_US = 10_000, 1_000_000
"""In a shorter period the guest gets less than its share, and the kernel accepts no longer one."""

_FAIR = (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE)
"""The policies of threads that quotas slow (sched(7))."""
_REAL_TIME = "thread {} is a real-time one, which quotas do not slow"
_TRIAL_PERCENT = 1
_TRIES = 5
"""How often to try again if a thread is moved away just while it is slowed."""


class _MovedError(HostError):
    """A thread is not where it has just been put."""


class CpuQuota:
    """Lets threads run only part of the time. The guard puts everything back.

    Raises HostError if that is not possible or not permitted.
    """

    def __init__(self, threads: Sequence[Thread], guard: Promises, hierarchy: Hierarchy | None = None) -> None:
        """Make the groups, and slow the threads by 1 % for a moment to see that it works."""
        self._hierarchy = hierarchy or find_hierarchy()
        self._guard = guard
        self._groups: dict[Thread, OwnGroup] = {}
        self._quotas_us: dict[Thread, tuple[int, int]] = {}
        """The quotas in force: how long each thread may run in each period, and how long that is."""
        self._crowding = Crowding(MonotonicClock().now_ns)
        try:
            self.set(threads, _TRIAL_PERCENT)
            with _explained("cannot send the threads back from groups below", self._hierarchy.mount):
                self._let_run()
        except HostError:
            with suppress(OSError):
                self.release()  # now, since another means may be in use until the guard is closed
            raise

    def __str__(self) -> str:
        count = len(self._groups)
        return f"CPU quotas on its {count} vCPU thread{'' if count == 1 else 's'} (cgroup v{self._hierarchy.version})"

    def set(self, threads: Sequence[Thread], throttle_percent: float) -> float:
        """Take that share of the time away, 0 to 99.9; these threads run the rest, and others are let go.

        Returns the share that was really taken: less than wished, where the quota would be shorter than the kernel's
        shortest in its longest period. Raises HostError.
        """
        return self.set_each(threads, [throttle_percent] * len(threads))

    def set_each(self, threads: Sequence[Thread], throttle_percents: Sequence[float]) -> float:
        """Do the same with a share for each thread. Returns the greatest that was really taken."""
        for _ in range(_TRIES - 1):
            with suppress(_MovedError):
                return self._set(threads, throttle_percents)
        return self._set(threads, throttle_percents)

    def _set(self, threads: Sequence[Thread], throttle_percents: Sequence[float]) -> float:
        for thread in set(self._groups) - set(threads):
            self._let_go(thread)
        for thread in threads:
            self._settle(thread)
        shares = {thread: self._share(thread) for thread in threads}
        taken = []
        for thread, percent in zip(threads, throttle_percents, strict=True):
            share = self._share_slowed(thread, shares[thread], percent)
            quota_us, period_us = self._quotas_us[thread] = _quota_us(share * (100 - percent) / 100)
            self._slow(thread)
            taken.append(100 * (1 - quota_us / period_us / share))
        return max(taken)

    def _share_slowed(self, thread: Thread, share: float, percent: float) -> float:
        """Return of what part of a CPU a throttle takes its percent; the thread may use `share` of one."""
        if percent:
            return min(share, self._crowding.left_to(thread))
        self._crowding.let_run(thread)
        return share

    def holds(self) -> bool:
        """True if the threads, and the quotas on them, are as they were set."""
        return all(self._fault(thread) is None for thread in self._quotas_us)

    def release(self) -> None:
        """Let the threads run again, each in the group above, and remove ours. Raises OSError."""
        self._let_run()
        for group in self._groups.values():
            group.dissolve(self._hierarchy)  # or else the guard does, a little later

    def _let_run(self) -> None:
        """Let threads run again. Their quotas go first, as moving a thread may have to wait for the kernel."""
        self._quotas_us.clear()
        for group in self._groups.values():
            group.let_run(self._hierarchy)
        for thread, group in self._groups.items():
            group.send_home(self._hierarchy)
            self._crowding.let_run(thread)

    def _let_go(self, thread: Thread) -> None:
        self._quotas_us.pop(thread, None)
        group = self._groups.pop(thread)
        group.let_run(self._hierarchy)
        group.dissolve(self._hierarchy)

    def _settle(self, thread: Thread) -> None:
        """See to it that there is a group for a thread below the one that it belongs to now."""
        if not _is_fair(thread):
            raise HostError(_REAL_TIME.format(thread.id))
        own = self._groups.get(thread)
        now = group_of(thread.id, self._hierarchy)
        home = now.parent if own and now == own.find(self._hierarchy) else now
        if own and own.home == home and own.find(self._hierarchy):
            return
        if own:
            self._let_go(thread)
        self._groups[thread] = self._make_group(home, thread)

    def _slow(self, thread: Thread) -> None:
        group = self._groups[thread].path
        quota_us, period_us = self._quotas_us[thread]
        with _explained("cannot set the quota of", group):
            self._hierarchy.set_quota(group, quota_us, period_us)
        with _explained(f"cannot move thread {thread.id} to", group), suppress(ProcessLookupError):
            if thread.alive:
                (group / self._hierarchy.threads_file).write_text(str(thread.id))
        if error := self._fault(thread):
            raise error

    def _fault(self, thread: Thread) -> HostError | None:
        """Return why a thread is not slowed as it should be; None if it is, or has ended."""
        group = self._groups[thread].path
        try:
            fair = _is_fair(thread)
            now = group_of(thread.id, self._hierarchy)
        except HostError:
            return None
        if not fair:
            return HostError(_REAL_TIME.format(thread.id))
        if now != group:
            return _MovedError(f"thread {thread.id} is in {now}, not in {group}")
        if self._hierarchy.quota_us(group) != self._quotas_us[thread]:
            return HostError(f"the quota of {group} was changed")
        return None

    def _share(self, thread: Thread) -> float:
        """Return what part of a CPU a thread may use at most, by the quotas there are, which all below it share."""
        home = self._groups[thread].home
        homes = [group.home for group in self._groups.values()]
        share = 1.0
        for group in [home, *(parent for parent in home.parents if parent.is_relative_to(self._hierarchy.mount))]:
            quota = self._hierarchy.quota_us(group)
            if quota is not None:
                share = min(share, quota[0] / quota[1] / sum(other.is_relative_to(group) for other in homes))
        return share

    def _make_group(self, home: Path, thread: Thread) -> OwnGroup:
        """Make a new group for a thread below its own."""
        if home.name.startswith(PREFIX):
            raise HostError(f"its threads are in {home} already; end the driver that did it, or see docs/qemu.md")
        if not os.access(home / self._hierarchy.threads_file, os.W_OK):
            raise HostError(
                f"threads of {home} may not be moved; run as root, or as the user that the group is given to"
            )
        with _explained("cannot make a control group in", home):
            own = OwnGroup.below(home, thread)
            if own.path.exists():
                raise HostError(f"{own.path} exists already; end the driver that made it, or else rmdir it")
            if self._hierarchy.version == 2:
                self._delegate_cpu(home)
            self._guard.will_dissolve(own)
            own.path.mkdir()
            if self._hierarchy.version == 2:
                (own.path / "cgroup.type").write_text("threaded")
        return own

    def _delegate_cpu(self, home: Path) -> None:
        """Let groups below have quotas; the kernel allows that for threads of one process only."""
        control = home / "cgroup.subtree_control"
        if "cpu" not in (home / "cgroup.controllers").read_text().split():
            raise HostError(f"{home} has no cpu controller; write +cpu to cgroup.subtree_control of the group above it")
        if "cpu" not in control.read_text().split():
            self._guard.will_take_cpu_back(home)
            control.write_text("+cpu")


def _is_fair(thread: Thread) -> bool:
    """Tell whether quotas slow a thread. Raises HostError if it has ended."""
    with suppress(ProcessLookupError):
        policy = os.sched_getscheduler(thread.id)
        if thread.alive:
            return policy in _FAIR
    raise HostError(f"thread {thread.id} of the VM has ended")


def _quota_us(part: float) -> tuple[int, int]:
    """Return a quota and a period that let a thread run for `part` of the time, or for the least that there is."""
    period_us = min(MAX_PERIOD_US, max(MIN_PERIOD_US, round(MIN_QUOTA_US / part)))
    return max(MIN_QUOTA_US, round(period_us * part)), period_us


@contextmanager
def _explained(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"{what} {path}: {error.strerror}", error.errno) from error
