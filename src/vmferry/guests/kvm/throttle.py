"""Keeps vCPUs from running for a share of the time (QEMU `system/cpu-throttle.c`).

At a throttle of p %, a vCPU sleeps 10 ms x p/(100-p) at the beginning of each period of 10 ms x 100/(100-p). Those with
the same throttle sleep at the same time.
"""

import threading
import time
from collections.abc import Sequence

from vmferry.convergence.written import SLICE_NS
from vmferry.guests.kvm.vcpu_thread import VcpuThread
from vmferry.units import NS_PER_S


class VcpuThrottle:
    """Throttles some vCPUs, each as much as is said; not at all at first."""

    def __init__(self, vcpus: Sequence[VcpuThread]) -> None:
        self._vcpus = vcpus
        self._percents = (0,) * len(vcpus)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def set(self, percents: Sequence[int]) -> None:
        """Throttle each vCPU by its percent (0 to 99) from now on; 0 wakes it at once."""
        assert len(percents) == len(self._vcpus)
        assert all(0 <= percent <= 99 for percent in percents)
        with self._changed:
            self._percents = tuple(percents)
            self._changed.notify_all()
        if any(percents) and self._thread is None:
            self._thread = threading.Thread(target=self._tick, name="throttle", daemon=True)
            self._thread.start()
        elif not any(percents) and self._thread:
            self._thread.join()
            self._thread = None
            for vcpu in self._vcpus:
                vcpu.sleep(0)

    def _tick(self) -> None:
        while any(percents := self._percents):
            self._keep(percents)

    def _keep(self, percents: Sequence[int]) -> None:
        """Send the vCPUs to sleep, period after period, until the throttles are changed."""
        next_ns = {number: time.monotonic_ns() for number, percent in enumerate(percents) if percent}
        for number, vcpu in enumerate(self._vcpus):
            if number not in next_ns:
                vcpu.sleep(0)
        while self._percents == percents:
            for number, end_ns in next_ns.items():
                if end_ns <= time.monotonic_ns():
                    sleep_ns = SLICE_NS * percents[number] // (100 - percents[number])
                    self._vcpus[number].sleep(sleep_ns)
                    next_ns[number] += SLICE_NS + sleep_ns
            with self._changed:
                wait_ns = min(next_ns.values()) - time.monotonic_ns()
                self._changed.wait_for(lambda: self._percents != percents, wait_ns / NS_PER_S)
