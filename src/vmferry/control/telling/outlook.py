"""How far a migration is and what it may still come to: the look-ahead, over what its monitor tells to everybody.

The guest's dirty curve is learnt from the rate that the VM tells at each dirty sync. So who drives a migration and who
looks on are told the same. What is expected, the median, is that all goes on as it does: guest, throttle and link. The
slower a link, the longer it takes; so one migration of ten is over before the time that the look-ahead gives for the
speed that one link of ten exceeds, and nine of ten are over by the time for the speed that nine exceed. A time that is
over and did not bring the end was wrong: then the migration does not converge, until the throttle is another one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vmferry.control.asking.progress import Progress
from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.ledger import Ledger
from vmferry.convergence.lookahead import look_ahead
from vmferry.convergence.passes import Situation
from vmferry.convergence.written import Written
from vmferry.units import NS_PER_MS, NS_PER_S

_SMOOTHING = 0.2
"""The weight of the newest bandwidth, as QEMU's is that of the last 100 ms only."""
_FASTER, _SLOWER = 1.25, 0.8
"""Of ten links one goes on at more than so many times its bandwidth, and one at less."""
_LATER = 1.1
"""By so many times the end comes later than the look-ahead says. Found in virtual time."""
_AT_MOST = 3.0
"""So many times what is expected, where a slower link would never carry it."""
_PATIENCE_S = 1.0
_SEEN_FROM_THE_BEGINNING_MS = 2000
"""Whoever looks on from then on has seen it from the beginning, as QEMU slows no guest sooner."""


@dataclass(frozen=True)
class Outlook:
    """What there is to expect."""

    percent: int | None
    """Elapsed time as a share of all that is expected; 100 only at the end. None if there is no telling."""
    converges: bool | None
    """False if the guest dirties its memory as fast as it is sent, or faster; None before anybody knows."""
    least_s: float | None
    """Time still needed if the guest dirtied nothing more; None before anything was sent."""
    most_s: float | None
    """Time within which nine migrations of ten would be over; None if it would not end, or nobody knows yet."""
    downtime_s: float | None = None
    """How long the guest is expected to stand still; None where that is not known yet."""
    needed_percent: int | None = None
    """The least throttle by which it would converge, where it does not by the one in force and any does."""
    lost_s: float | None = 0.0
    """What throttles have taken from each vCPU so far, in the mean; None if nobody looked on from the beginning,
    or what vCPUs dirty was limited, which takes nobody knows what."""
    soon_s: float | None = None
    """Time within which one migration of ten would be over; None as with `most_s`."""
    median_s: float | None = None
    """Time within which half of them would be over, if all goes on as it does; None as with `most_s`."""


NOTHING_EXPECTED = Outlook(None, converges=None, least_s=None, most_s=None, lost_s=None)
"""What nobody has looked ahead in yet."""


class Outlooks:
    """Looks ahead in one migration."""

    def __init__(self, downtime_limit_ms: int) -> None:
        self._downtime_limit_s = downtime_limit_ms / 1000
        self._bytes_per_s = 0.0
        self._curve: DirtyCurve | None = None
        self._slowed = Ledger()
        """By the throttle of all vCPUs, or the greatest, as the curve is that of the guest as a whole."""
        self._lost = Ledger()
        """By the throttle of each."""
        self._lost_is_known = True
        self._vcpu_count = 0
        """Of those that are slowed one by one."""
        self._saw_beginning: bool | None = None
        """None before the first look."""
        self._synced: _Sync | None = None
        """The newest dirty sync that was seen."""
        self._promise: tuple[int, float] | None = None
        """The throttle in force, and when it was to be over at the latest, when that was looked at first."""

    def update(self, progress: Progress) -> Outlook:
        """Take another answer of `query-migrate` into account, and return what there is to expect."""
        self.notice(progress)
        return self.outlook(progress)

    def outlook(self, progress: Progress) -> Outlook:
        """Return what there is to expect after the answer that was noticed last."""
        lost_s = self._lost.taken_ns / NS_PER_S if self._saw_beginning and self._lost_is_known else None
        return replace(self._outlook(progress), lost_s=lost_s)

    def _outlook(self, progress: Progress) -> Outlook:
        if progress.status == "completed":
            return Outlook(100, converges=True, least_s=0.0, most_s=0.0, soon_s=0.0, median_s=0.0)
        if not self._bytes_per_s or not progress.total_bytes:
            return NOTHING_EXPECTED
        elapsed_s = (progress.elapsed_ms or 0) / 1000
        least_s = self._excess_bytes(progress.remaining_bytes or 0) / self._bytes_per_s
        if progress.in_postcopy:
            return _converging(elapsed_s, least_s, least_s / _FASTER, least_s, least_s / _SLOWER)
        if self._curve is None:
            # The first pass tells nothing of the dirty rate. As much again will be sent for what is dirtied meanwhile.
            expected_s = least_s + progress.total_bytes / self._bytes_per_s
            return Outlook(_percent(elapsed_s, expected_s), converges=None, least_s=least_s, most_s=None)
        return self._by_look_ahead(progress, self._curve, elapsed_s, least_s)

    def _by_look_ahead(self, progress: Progress, curve: DirtyCurve, elapsed_s: float, least_s: float) -> Outlook:
        percent = min(99, progress.throttle_percent or 0)
        situation = self._situation(progress, curve)
        courses = look_ahead(curve, situation, from_now=True)
        median_s = _LATER * float(courses.time_ns[percent]) / NS_PER_S
        if math.isinf(median_s):
            moving = np.flatnonzero(np.isfinite(courses.time_ns[percent:]))
            needed = percent + int(moving[0]) if len(moving) else None
            return Outlook(None, converges=False, least_s=least_s, most_s=None, needed_percent=needed)
        soon_s, late_s = (
            _LATER * float(look_ahead(curve, changed, from_now=True).time_ns[percent]) / NS_PER_S
            for changed in (situation.with_bandwidth(_FASTER), situation.with_bandwidth(_SLOWER))
        )
        most_s = min(late_s, _AT_MOST * median_s)
        if self._is_broken(percent, elapsed_s, most_s):
            return Outlook(None, converges=False, least_s=least_s, most_s=None)
        told = _converging(elapsed_s, min(least_s, median_s), min(soon_s, median_s), median_s, most_s)
        return replace(told, downtime_s=float(courses.left_bytes[percent]) / self._bytes_per_s)

    def _is_broken(self, percent: int, elapsed_s: float, most_s: float) -> bool:
        """Note the first promise under each throttle, and tell whether its time is over."""
        if self._promise is None or self._promise[0] != percent:
            self._promise = percent, elapsed_s + most_s + _PATIENCE_S
        return elapsed_s > self._promise[1]

    def notice(self, progress: Progress) -> None:
        """Take another answer of `query-migrate` into account. That costs little, looking ahead does not."""
        if progress.memory_bytes_per_s:
            weight = _SMOOTHING if self._bytes_per_s else 1.0
            self._bytes_per_s += weight * (progress.memory_bytes_per_s - self._bytes_per_s)
        elapsed_ms = progress.elapsed_ms or 0
        if self._saw_beginning is None:
            self._saw_beginning = elapsed_ms <= _SEEN_FROM_THE_BEGINNING_MS
        now_ns = elapsed_ms * NS_PER_MS
        percent = 0 if progress.in_postcopy else progress.throttle_percent or 0
        self._slowed.set_throttle(now_ns, percent)
        self._lost.set_throttle(now_ns, percent, self._of_each_vcpu(progress) if percent else None)
        self._lost_is_known &= progress.throttle_takes_time
        count = progress.dirty_sync_count or 0
        if self._synced is None or count > self._synced.count:
            self._learn(progress, now_ns)
            self._synced = _Sync(count, now_ns, self._slowed.taken_ns, progress.remaining_bytes or 0)

    def _of_each_vcpu(self, progress: Progress) -> Sequence[int] | None:
        """Return the throttle of each vCPU, where they are told; not if their number has changed."""
        percents = progress.vcpu_throttle_percents
        if percents:
            self._vcpu_count = self._vcpu_count or len(percents)
        return percents if percents and len(percents) == self._vcpu_count else None

    def _learn(self, progress: Progress, now_ns: int) -> None:
        """Learn from the rate at a sync that ended a pass; of several syncs since the last poll, it was each one's."""
        before, count = self._synced, progress.dirty_sync_count or 0
        if count < 2 or not progress.total_bytes or progress.dirty_bytes_per_s is None:
            return
        if before is None or not before.count:  # a pass that nobody looked on took as long as any, as far as known
            before = _Sync(count - 1, now_ns - now_ns // (count - 1), self._slowed.taken_ns, 0)
        passed_ns, taken_ns = now_ns - before.now_ns, self._slowed.taken_ns - before.taken_ns
        if passed_ns <= 0:
            return
        self._curve = self._curve or DirtyCurve(progress.total_bytes)
        duration_ns = passed_ns // (count - before.count)
        share = 1 - min(1.0, taken_ns / passed_ns)
        written_bytes = round(progress.dirty_bytes_per_s * duration_ns / NS_PER_S)
        self._curve.learn(Written(max(1, duration_ns), share, written_bytes))

    def _situation(self, progress: Progress, curve: DirtyCurve) -> Situation:
        assert self._synced
        remaining_bytes = progress.remaining_bytes or 0
        sent_bytes = max(0, self._synced.remaining_bytes - remaining_bytes)
        worked_ns = (progress.elapsed_ms or 0) * NS_PER_MS - self._synced.now_ns
        worked_ns -= self._slowed.taken_ns - self._synced.taken_ns
        written_bytes = float(curve.distinct_bytes(np.array([max(0, worked_ns)], np.float64))[0])
        return Situation(
            pending_bytes=remaining_bytes,
            pending_ns=remaining_bytes / self._bytes_per_s * NS_PER_S,
            again_bytes=min(written_bytes, sent_bytes),
            sync_ns=math.inf,
            bandwidth_bytes_per_s=self._bytes_per_s,
            threshold_bytes=self._bytes_per_s * self._downtime_limit_s,
            throttle_percent=progress.throttle_percent or 0,
        )

    def _excess_bytes(self, left_bytes: float) -> float:
        """Return how much is left beyond what may be sent while the guest stands still."""
        return max(0.0, left_bytes - self._bytes_per_s * self._downtime_limit_s)


@dataclass(frozen=True)
class _Sync:
    """A dirty sync, as it was when a poll saw it first."""

    count: int
    now_ns: int
    taken_ns: int
    """What throttles had taken from each vCPU by then."""
    remaining_bytes: int


def _percent(elapsed_s: float, left_s: float) -> int:
    return min(99, int(100 * elapsed_s / max(1e-3, elapsed_s + left_s)))


def _converging(elapsed_s: float, least_s: float, soon_s: float, median_s: float, most_s: float) -> Outlook:
    percent = _percent(elapsed_s, median_s)
    return Outlook(percent, converges=True, least_s=least_s, most_s=most_s, soon_s=soon_s, median_s=median_s)
