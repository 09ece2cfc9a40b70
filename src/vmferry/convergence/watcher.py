"""The watcher: is a background sync due?

An iteration over a huge guest lasts minutes, and without a background sync nothing is decided in
it. Two rules: the seed's, which asks once per second whether the last evaluation is too long ago,
and the one QEMU 9.2 merged, which ticks every five seconds.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from vmferry.units import NS_PER_S


class BackgroundSync(StrEnum):
    """What a background sync does with the pages it finds dirty.

    `preserve` keeps them for the next iteration (the seed), `merge` adds them to the running
    one (QEMU >= 9.2), `off` makes none.
    """

    OFF = "off"
    PRESERVE = "preserve"
    MERGE = "merge"


@dataclass(frozen=True)
class WatchTimes:
    """The constants of time, which a scaled-down experiment divides by its scale."""

    look_interval_ns: int = NS_PER_S
    sync_interval_ns: int = 5 * NS_PER_S


@dataclass(frozen=True)
class IterationView:
    """What the watcher looks at."""

    now_ns: int
    iteration_count: int
    dirty_sync_count: int
    last_evaluation_ns: int
    throttle_percent: int
    maximum_throttle_percent: int


class Watcher(Protocol):
    """Tells when a background sync is due; `due` is called often, at least once per look interval."""

    def due(self, view: IterationView) -> bool:
        """Return True if a background sync should be made now."""
        ...


class IdleWatcher:
    """For `BackgroundSync.OFF`: never due."""

    def due(self, view: IterationView) -> bool:
        """Return False."""
        return False


class PreserveWatcher:
    """The seed's rule: the same iteration as at the last look, and no evaluation for long."""

    def __init__(self, times: WatchTimes, start_ns: int) -> None:
        self._times = times
        self._next_look_ns = start_ns + times.look_interval_ns
        self._seen_iteration = 0

    def due(self, view: IterationView) -> bool:
        """Look, at most once per look interval."""
        if view.now_ns < self._next_look_ns:
            return False
        self._next_look_ns = view.now_ns + self._times.look_interval_ns
        same_iteration = view.iteration_count == self._seen_iteration
        self._seen_iteration = view.iteration_count
        return (
            same_iteration
            and view.iteration_count > 1
            and view.throttle_percent < view.maximum_throttle_percent
            and view.now_ns - view.last_evaluation_ns > self._times.sync_interval_ns
        )


class MergeWatcher:
    """QEMU 9.2's rule (`cpu_throttle_dirty_sync_timer_tick`): no sync of any kind since the last tick."""

    def __init__(self, times: WatchTimes, start_ns: int) -> None:
        self._times = times
        self._next_tick_ns = start_ns + times.sync_interval_ns
        self._seen_sync_count = 0

    def due(self, view: IterationView) -> bool:
        """Tick, at most once per sync interval."""
        if view.now_ns < self._next_tick_ns:
            return False
        self._next_tick_ns = view.now_ns + self._times.sync_interval_ns
        due = view.dirty_sync_count == self._seen_sync_count and view.dirty_sync_count > 1
        # The sync we ask for counts too, or else the next tick would always see a new one.
        self._seen_sync_count = view.dirty_sync_count + due
        return due


def make_watcher(mode: BackgroundSync, times: WatchTimes, start_ns: int) -> Watcher:
    """Return the watcher of a mode for a migration that starts at `start_ns`."""
    match mode:
        case BackgroundSync.OFF:
            return IdleWatcher()
        case BackgroundSync.PRESERVE:
            return PreserveWatcher(times, start_ns)
        case BackgroundSync.MERGE:
            return MergeWatcher(times, start_ns)
