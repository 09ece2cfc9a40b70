"""Keeps vCPUs from running for a share of the time (QEMU `system/cpu-throttle.c`).

At a throttle of p %, every vCPU sleeps 10 ms x p/(100-p) at the beginning of each period of
10 ms x 100/(100-p), all of them together.
"""

import threading
import time
from collections.abc import Sequence

from vmferry.guests.kvm.vcpu_thread import VcpuThread

TIME_SLICE_NS = 10_000_000
"""How long a vCPU runs in each period."""


class VcpuThrottle:
    """Throttles some vCPUs; not at all at first."""

    def __init__(self, vcpus: Sequence[VcpuThread]) -> None:
        self._vcpus = vcpus
        self._percent = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def set(self, percent: int) -> None:
        """Throttle by `percent` (0 to 99) from the next period on; 0 wakes the vCPUs at once."""
        assert 0 <= percent <= 99
        with self._changed:
            self._percent = percent
            self._changed.notify_all()
        if percent and self._thread is None:
            self._thread = threading.Thread(target=self._tick, name="throttle", daemon=True)
            self._thread.start()
        elif not percent and self._thread:
            self._thread.join()
            self._thread = None
            for vcpu in self._vcpus:
                vcpu.sleep(0)

    def _tick(self) -> None:
        next_ns = time.monotonic_ns()
        while percent := self._percent:
            sleep_ns = TIME_SLICE_NS * percent // (100 - percent)
            for vcpu in self._vcpus:
                vcpu.sleep(sleep_ns)
            next_ns += TIME_SLICE_NS + sleep_ns
            with self._changed:
                self._changed.wait_for(lambda: not self._percent, (next_ns - time.monotonic_ns()) / 1e9)
