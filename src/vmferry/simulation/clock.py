"""Virtual time: it passes when somebody sleeps, at once, and events happen on the way.

The order of events is total: time, then priority, then the order in which they were scheduled.
"""

import heapq
import itertools
from collections.abc import Callable


class VirtualClock:
    """Implements the `Clock` port, beginning at time 0."""

    def __init__(self) -> None:
        self._now_ns = 0
        self._events: list[tuple[int, int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def now_ns(self) -> int:
        """Return the virtual time."""
        return self._now_ns

    def sleep_ns(self, duration_ns: int) -> None:
        """Let `duration_ns` pass, and every event that is due in it happen at its time."""
        end_ns = self._now_ns + max(0, duration_ns)
        while self._events and self._events[0][0] <= end_ns:
            time_ns, _, _, callback = heapq.heappop(self._events)
            self._now_ns = max(self._now_ns, time_ns)
            callback()
        self._now_ns = max(self._now_ns, end_ns)

    def until_next_event_ns(self, longest_ns: int) -> int:
        """Return how long nothing happens from now on, `longest_ns` at most."""
        return min(longest_ns, max(0, self._events[0][0] - self._now_ns)) if self._events else longest_ns

    def schedule(self, time_ns: int, callback: Callable[[], None], priority: int = 0) -> None:
        """Call `callback` at `time_ns`; of events at the same time, the one with the lowest priority comes first."""
        heapq.heappush(self._events, (time_ns, priority, next(self._numbers), callback))
