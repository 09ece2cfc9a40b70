"""What one pass over memory leaves to be sent again, under each throttle.

A fluid model. The working set W is what the guest writes again and again; `p(w)` is the share of it that is written in
so much work w, by the guest's dirty curve. A pass sends R bytes. When it ends, there is to be sent again:

- N, what is known to be dirty again already,
- of the pages of W that did not wait in this pass, those that are written meanwhile: (W - R - N) p(w),
- of the R bytes, what is written after its sending where pages are armed late (`sync_ns` is 0), or else since the sync
  before its sending, as a sync arms the log of all pages again, also of those that wait. They are sent evenly over the
  pass: with many syncs in it, a byte has between none and all of the pass left to be written again, and half of the
  time between two syncs; with none in it, all of the pass.

It is never more than W.

A throttled vCPU sleeps, and then runs for a slice. A guest that is paced catches up in its slices, so no throttle takes
work from it for long; but a pass that ends before its first slice finds nothing written.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vmferry.convergence.curve import DirtyCurve
from vmferry.units import NS_PER_S

PERCENTS = np.arange(100.0)
_SURE_SLEEP = 0.9
"""The share of its sleep for which a vCPU that was slowed just now is sure not to run."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Where a migration is."""

    pending_bytes: float
    """To be sent in the running pass."""
    pending_ns: float
    """How long that takes; zero pages go faster than others."""
    again_bytes: float
    """Known to be dirty again for the next pass."""
    sync_ns: float
    """The time between two syncs that arm what waits: 0 if none do, infinite if there are none within passes."""
    bandwidth_bytes_per_s: float
    threshold_bytes: float
    """When no more remains, the guest moves."""
    throttle_percent: int = 0
    """In force."""
    slice_ns: float = 0.0
    """How long a throttled vCPU runs between two sleeps; 0 if it runs evenly slower."""
    worked_ns: float = 0.0
    """What the guest has got done since the running pass began."""
    wire_share: float = 1.0
    """What each of these bytes takes on the wire."""
    ahead_ns: float = 0.0
    """From outside: how long before its pass a throttle begins. It counts until the hand-over is over, too."""

    @property
    def ns_per_byte(self) -> float:
        """How long the link takes for a byte."""
        return NS_PER_S / self.bandwidth_bytes_per_s

    def with_bandwidth(self, times: float) -> "Situation":
        """Return the same with so many times the bandwidth."""
        return replace(
            self,
            pending_ns=self.pending_ns / times,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s * times,
            threshold_bytes=self.threshold_bytes * times,
        )


class Passes:
    """What a guest does in passes one after the other. Arrays are of throttles, 0 to 99 %, in their last dimension."""

    def __init__(self, curve: DirtyCurve, situation: Situation) -> None:
        self._curve = curve
        self._sync_ns = situation.sync_ns
        self._set_bytes = curve.working_set_bytes(situation.pending_ns)
        self._rate = np.minimum(1.0, (100.0 - PERCENTS) / 100.0 / curve.demand)
        self._slice_ns = situation.slice_ns
        self._sleep_ns = situation.slice_ns * PERCENTS / (100.0 - PERCENTS)
        self._in_force = situation.throttle_percent
        """Nobody knows when the next sleep begins of the throttle in force, if there is one."""
        self._done_ns: NDArray[np.float64] | float = 0.0
        """What it has got done since it was slowed."""

    def work_ns(self, slowed_ns: NDArray[np.float64], duration_ns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what it gets done in the next pass; by the end of it, it has been slowed for `slowed_ns`."""
        if not self._slice_ns:
            return duration_ns * self._rate
        before_ns, self._done_ns = self._done_ns, self._until(slowed_ns)
        work_ns: NDArray[np.float64] = self._done_ns - before_ns
        return work_ns

    def _until(self, time_ns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what it has got done since it was slowed: what it had wanted by the end of its last slice, at most as
        much as the slices hold."""
        cycle_ns = self._sleep_ns + self._slice_ns
        cycles = np.floor(time_ns / cycle_ns)
        begin_ns = cycles * cycle_ns
        awake_ns = time_ns - begin_ns - _SURE_SLEEP * self._sleep_ns
        wanted_ns = np.where(awake_ns > 0, time_ns, begin_ns)
        possible_ns = (cycles * self._slice_ns + awake_ns.clip(0.0, self._slice_ns)) / self._curve.demand
        done_ns: NDArray[np.float64] = np.minimum(wanted_ns, possible_ns)
        done_ns[..., self._in_force] = time_ns[..., self._in_force] * self._rate[self._in_force]
        return done_ns

    def left_bytes(
        self,
        pending_bytes: NDArray[np.float64],
        again_bytes: NDArray[np.float64] | float,
        duration_ns: NDArray[np.float64],
        work_ns: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return what is to be sent again when a pass ends in which it has done that work."""
        written_bytes = self._curve.distinct_bytes(work_ns)
        mean_bytes = self._mean_bytes(written_bytes, duration_ns, work_ns)
        elsewhere = np.maximum(0.0, self._set_bytes - pending_bytes - again_bytes)
        written = elsewhere * np.minimum(self._set_bytes, written_bytes)
        rewritten = np.minimum(self._set_bytes, pending_bytes) * np.minimum(self._set_bytes, mean_bytes)
        left_bytes: NDArray[np.float64] = again_bytes + (written + rewritten) / self._set_bytes
        return np.minimum(self._set_bytes, left_bytes)

    def _mean_bytes(
        self, written_bytes: NDArray[np.float64], duration_ns: NDArray[np.float64], work_ns: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return what is written after a page was last armed, in the mean of those that are sent in the pass.

        The first bytes of a pass may be written again in all of it, the last ones since the sync before only.
        """
        if self._sync_ns == np.inf:
            return written_bytes
        mean_bytes: NDArray[np.float64]
        if not self._sync_ns:
            mean_bytes = self._curve.areas(work_ns) / np.maximum(1.0, work_ns)
            return mean_bytes
        since_sync = np.minimum(1.0, self._sync_ns / 2 / np.maximum(1.0, duration_ns))
        since_sync = np.where(duration_ns <= self._sync_ns, 1.0, since_sync)
        area = self._curve.areas(work_ns) - self._curve.areas(since_sync * work_ns)
        mean_bytes = area / np.maximum(1.0, work_ns) + since_sync * written_bytes
        return mean_bytes
