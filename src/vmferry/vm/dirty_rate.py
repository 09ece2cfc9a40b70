"""Measures a VM's dirty rate beside everything else that goes on, one measurement at a time."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vmferry.errors import UsageError, VmferryError
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.migration.dirty_rate import (
    DEFAULT_SAMPLE_PAGES_PER_GIB,
    DirtyLogProbe,
    DirtyRateInfo,
    DirtyRateMode,
    DirtyRateRequest,
    DirtyRateStatus,
    PageSamplingProbe,
    Probe,
)
from vmferry.migration.ports import Clock
from vmferry.units import MIB, NS_PER_S


class DirtyRateMeter:
    """The measurements of one guest (implements the monitor's `MonitoredDirtyRate`).

    `log_in_use` tells whether a migration needs the dirty log; `log` is told when a measurement fails.
    """

    def __init__(
        self, guest: KvmGuest, clock: Clock, log_in_use: Callable[[], bool], log: Callable[[str], None]
    ) -> None:
        self.info = DirtyRateInfo()
        """The latest measurement."""
        self._guest = guest
        self._clock = clock
        self._log_in_use = log_in_use
        self._log = log
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self, request: DirtyRateRequest) -> None:
        """Begin to measure. Raises UsageError if that cannot be done now."""
        if request.mode is DirtyRateMode.DIRTY_BITMAP and self._log_in_use():
            raise UsageError(
                "the running migration uses the dirty log; see dirty-pages-rate of query-migrate, or use page-sampling"
            )
        if self.info.status is DirtyRateStatus.MEASURING:
            raise UsageError("the dirty rate is already being measured.")
        samples = request.sample_pages_per_gib or DEFAULT_SAMPLE_PAGES_PER_GIB
        self.info = DirtyRateInfo(
            status=DirtyRateStatus.MEASURING,
            mode=request.mode,
            period_ms=request.period_ms,
            sample_pages_per_gib=samples if request.mode is DirtyRateMode.PAGE_SAMPLING else 0,
            start_s=int(time.time()),
        )
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run, name="dirty-rate", daemon=True)
        self._thread.start()

    def free_dirty_log(self) -> None:
        """End a measurement that uses the dirty log, if there is one; it stays without a result."""
        if self.info.mode is DirtyRateMode.DIRTY_BITMAP:
            self.stop()

    def stop(self) -> None:
        """End the measurement, if there is one."""
        thread = self._thread  # the monitor may begin the next one as soon as this one has ended
        self._stopped.set()
        if thread:
            thread.join()

    def _run(self) -> None:
        rate = None
        try:
            rate = self._measure()
        except VmferryError as error:
            self._log(f"cannot measure the dirty rate: {error}")
        finally:
            status = DirtyRateStatus.UNSTARTED if rate is None else DirtyRateStatus.MEASURED
            self.info = replace(self.info, status=status, mib_per_s=rate)

    def _measure(self) -> int | None:
        """Return MiB per second, or None if the measurement was ended early."""
        probe = self._make_probe()
        try:
            start_ns = self._clock.now_ns()
            if self._stopped.wait(self.info.period_ms / 1000):
                return None
            dirtied_bytes = probe.dirtied_bytes()
            return dirtied_bytes * NS_PER_S // (self._clock.now_ns() - start_ns) // MIB
        finally:
            probe.close()

    def _make_probe(self) -> Probe:
        if self.info.mode is DirtyRateMode.DIRTY_BITMAP:
            return DirtyLogProbe(self._guest)
        return PageSamplingProbe(self._guest, self.info.sample_pages_per_gib, np.random.default_rng())
