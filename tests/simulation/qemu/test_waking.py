"""A thread that waits goes on late, by little, and never early."""

import numpy as np

from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.qemu.waking import ThreadClock

_MS = 1_000_000


def test_a_thread_that_sleeps_goes_on_a_little_late() -> None:
    virtual = VirtualClock()
    clock = ThreadClock(virtual, np.random.default_rng(0))
    late_ns = []
    for _ in range(1000):
        start_ns = virtual.now_ns()
        clock.sleep_ns(100 * _MS)
        late_ns.append(clock.now_ns() - start_ns - 100 * _MS)
    assert min(late_ns) >= 0
    assert 0.3 * _MS < np.mean(late_ns) < 0.5 * _MS


def test_who_does_not_sleep_is_not_late() -> None:
    virtual = VirtualClock()
    ThreadClock(virtual, np.random.default_rng(0)).sleep_ns(0)
    assert virtual.now_ns() == 0
