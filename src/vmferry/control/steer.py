"""Makes stock QEMU converge: our policies decide, a quota on the vCPU threads slows the guest.

While QEMU migrates, its dirty rate is measured from outside again and again, whatever the iteration does: that is the
background sync. Each measurement is a sample for a policy of `convergence/`, as a sync is in our own engine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from vmferry.control.drive import Progress, Result, with_figures
from vmferry.control.limits import LimitKeeper, cancel
from vmferry.control.qmp_client import QmpClient
from vmferry.control.recorder import Recorder
from vmferry.control.sensors import DirtyRate, DirtyRateSensor
from vmferry.convergence.policy import Policy
from vmferry.convergence.sample import SyncSample, ThrottleSettings

POLL_INTERVAL_S = 0.05


class Actuator(Protocol):
    """Slows the guest."""

    def set(self, throttle_percent: int) -> None:
        """Take that share of the vCPUs' time away. Raises HostError."""
        ...


@dataclass
class Steering:
    """How to steer: the policy with its settings, the means, the limits and the journal."""

    policy: Policy
    settings: ThrottleSettings
    sensor: DirtyRateSensor
    actuator: Actuator
    recorder: Recorder
    keeper: LimitKeeper


def steer(monitor: QmpClient, steering: Steering, watch: Callable[[Progress], None]) -> Result:
    """Steer a migration that has begun until it ends; `watch` is called with every poll.

    KeyboardInterrupt, from the user or from `watch`, cancels; what is in post-copy is left alone. The throttle is still
    on when this returns: the guard takes it off.
    """
    return _Course(monitor, steering, watch).run()


class _Course:
    """One migration under way."""

    def __init__(self, monitor: QmpClient, steering: Steering, watch: Callable[[Progress], None]) -> None:
        self._monitor = monitor
        self._steering = steering
        self._watch = watch
        self._throttle_percent = 0
        self._max_throttle_percent = 0
        self._sample_start_ns = 0
        self._sample_start_bytes = 0

    def run(self) -> Result:
        while True:
            try:
                answer = self._monitor.execute("query-migrate")
                progress = replace(Progress.from_qmp(answer), throttle_percent=self._throttle_percent)
                self._steering.recorder.poll(progress)
                if progress.ended:
                    return self._end(progress)
                self._watch(progress)
                self._steering.keeper.observe(self._throttle_percent)
                self._measure(progress)
                time.sleep(POLL_INTERVAL_S)
            except KeyboardInterrupt:
                cancel(self._monitor)

    def _measure(self, progress: Progress) -> None:
        """Keep measuring from the second iteration on; the first copies everything anyway."""
        if progress.status != "active" or progress.dirty_sync_count < 2:
            return
        rate = self._steering.sensor.poll()
        if rate:
            self._decide(rate, progress)
        elif not self._sample_start_ns:
            self._begin_sample(progress)

    def _decide(self, rate: DirtyRate, progress: Progress) -> None:
        period_ns = time.monotonic_ns() - self._sample_start_ns
        sample = SyncSample(
            period_ns=period_ns,
            dirty_bytes=rate.bytes_per_s * period_ns // 1_000_000_000,
            sent_bytes=progress.sent_bytes - self._sample_start_bytes,
            throttle_percent=self._throttle_percent,
        )
        decision = self._steering.policy.decide(sample, self._steering.settings)
        self._steering.recorder.decided(sample, decision)
        self._throttle(decision.throttle_percent)
        self._begin_sample(progress)

    def _begin_sample(self, progress: Progress) -> None:
        self._sample_start_ns = time.monotonic_ns()
        self._sample_start_bytes = progress.sent_bytes

    def _throttle(self, percent: int) -> None:
        if percent != self._throttle_percent:
            self._steering.actuator.set(percent)
            self._throttle_percent = percent
            self._max_throttle_percent = max(self._max_throttle_percent, percent)

    def _end(self, progress: Progress) -> Result:
        progress = with_figures(self._monitor, progress)
        self._steering.recorder.end(progress, self._max_throttle_percent)
        return Result(progress, self._max_throttle_percent)
