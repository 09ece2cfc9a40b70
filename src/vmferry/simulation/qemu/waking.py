"""How late a thread goes on that has waited: for its time or for another one, and then for a processor."""

import numpy as np

from vmferry.simulation.clock import VirtualClock

_MEAN_NS = 400_000
"""The median answer of a QEMU 7.2 or 10 on a unix socket takes 0.6 ms then, and one of a hundred more than 2 ms. A
driver that sleeps for 100 ms is 0.5 ms late, its own work included.
"""


def wake_ns(random: np.random.Generator) -> int:
    """Return how late a thread goes on, this time."""
    return round(random.exponential(_MEAN_NS))


class ThreadClock:
    """Implements the `Clock` port as a thread sees it that waits for its time."""

    def __init__(self, clock: VirtualClock, random: np.random.Generator) -> None:
        self._clock = clock
        self._random = random

    def now_ns(self) -> int:
        """Return the virtual time."""
        return self._clock.now_ns()

    def sleep_ns(self, duration_ns: int) -> None:
        """Let `duration_ns` pass, and what it is late."""
        self._clock.sleep_ns(duration_ns + wake_ns(self._random) if duration_ns > 0 else 0)
