"""What others leave of a processor to each thread.

Where a host has more to run than it has processors, a thread that wants to run all the time gets a part of one only. A
throttle is to take its share of that part: a vCPU with a quarter of a processor does not notice a quota of a half.
"""

from collections.abc import Callable
from contextlib import suppress

from vmferry.client.processes import Scheduled, Thread
from vmferry.units import NS_PER_MS

_LONG_ENOUGH_NS = 500 * NS_PER_MS
"""In less time chance decides who waits for whom."""
_LEAST = 0.2
"""With less, slices come seldom: a QEMU without KVM waits for one of each vCPU at every dirty sync."""


class Crowding:
    """Looks at threads for as long as nothing slows them; what was found last holds while they are slowed."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._since: dict[Thread, tuple[int, int]] = {}
        """Of those that are looked at: when that began, and how long they had waited for a processor by then."""
        self._left: dict[Thread, float] = {}

    def let_run(self, thread: Thread) -> None:
        """Take note that nothing slows a thread from now on. Harmless if that was so."""
        with suppress(OSError, ValueError):
            self._since.setdefault(thread, (self._now_ns(), Scheduled.of(thread.id).waited_ns))

    def left_to(self, thread: Thread) -> float:
        """Return what part of a processor is left to a thread that is slowed from now on; 1 if that is not known."""
        if since := self._since.pop(thread, None):
            self._look(thread, *since)
        return self._left.get(thread, 1.0)

    def _look(self, thread: Thread, begin_ns: int, waited_before_ns: int) -> None:
        passed_ns = self._now_ns() - begin_ns
        if passed_ns < _LONG_ENOUGH_NS:
            return
        with suppress(OSError, ValueError):
            waited_ns = Scheduled.of(thread.id).waited_ns - waited_before_ns
            self._left[thread] = min(1.0, max(_LEAST, 1 - waited_ns / passed_ns))
