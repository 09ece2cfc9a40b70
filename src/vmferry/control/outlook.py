"""How far a migration is and what it may still come to: the look-ahead, over what its monitor tells to everybody.

The guest's dirty curve is learnt from the rate that the VM tells at each dirty sync. So who drives a migration and who
looks on are told the same. At best nothing more is dirtied; what is expected is that the guest goes on as it does,
under the throttle that is in force; and at worst the link is slower. A time that is over and did not bring the end was
wrong: then the migration does not converge, until the throttle is another one.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from vmferry.control.progress import Progress
from vmferry.convergence.curve import DirtyCurve, Written
from vmferry.convergence.ledger import Ledger
from vmferry.convergence.lookahead import Situation, look_ahead

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000
_SMOOTHING = 0.2
"""The weight of the newest bandwidth, as QEMU's is that of the last 100 ms only."""
_SLOWER = 0.8
"""Of the bandwidth, at worst. Whether the range holds is tested in virtual time."""
_AT_MOST = 3.0
"""So many times what is expected, where a slower link would never carry it."""
_PATIENCE_S = 1.0


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
    """Time still needed at worst; None if it would not end, or nobody knows yet."""
    downtime_s: float | None = None
    """How long the guest is expected to stand still; None where that is not known yet."""
    needed_percent: int | None = None
    """The least throttle by which it would converge, where it does not by the one in force and any does."""
    lost_s: float = 0.0
    """What throttles have taken from each vCPU so far, as far as somebody looked on."""


class Outlooks:
    """Looks ahead in one migration."""

    def __init__(self, downtime_limit_ms: int) -> None:
        self._downtime_limit_s = downtime_limit_ms / 1000
        self._bytes_per_s = 0.0
        self._curve: DirtyCurve | None = None
        self._lost = Ledger()
        self._synced: _Sync | None = None
        """The newest dirty sync that was seen."""
        self._promise: tuple[int, float] | None = None
        """The throttle in force, and when it was to be over at the latest, when that was looked at first."""

    def update(self, progress: Progress) -> Outlook:
        """Take another answer of `query-migrate` into account."""
        self._notice(progress)
        lost_s = self._lost.taken_ns / _NS_PER_S
        if progress.status == "completed":
            return Outlook(100, converges=True, least_s=0.0, most_s=0.0, lost_s=lost_s)
        if not self._bytes_per_s or not progress.total_bytes:
            return Outlook(None, converges=None, least_s=None, most_s=None, lost_s=lost_s)
        return replace(self._outlook(progress), lost_s=lost_s)

    def _outlook(self, progress: Progress) -> Outlook:
        elapsed_s = (progress.elapsed_ms or 0) / 1000
        least_s = self._excess_bytes(progress.remaining_bytes or 0) / self._bytes_per_s
        if progress.in_postcopy:
            return Outlook(_percent(elapsed_s, least_s), converges=True, least_s=least_s, most_s=least_s)
        if self._curve is None:
            # The first pass tells nothing of the dirty rate. As much again will be sent for what is dirtied meanwhile.
            expected_s = least_s + (progress.total_bytes or 0) / self._bytes_per_s
            return Outlook(_percent(elapsed_s, expected_s), converges=None, least_s=least_s, most_s=None)
        situation = self._situation(progress, self._curve)
        courses = look_ahead(self._curve, situation, from_now=True)
        percent = min(99, progress.throttle_percent or 0)
        expected_s = float(courses.time_ns[percent]) / _NS_PER_S
        if math.isinf(expected_s):
            moving = np.flatnonzero(np.isfinite(courses.time_ns[percent:]))
            needed = percent + int(moving[0]) if len(moving) else None
            return Outlook(None, converges=False, least_s=least_s, most_s=None, needed_percent=needed)
        slower = replace(situation, bandwidth_bytes_per_s=situation.bandwidth_bytes_per_s * _SLOWER)
        worst_s = float(look_ahead(self._curve, slower, from_now=True).time_ns[percent]) / _NS_PER_S / _SLOWER
        most_s = min(worst_s, _AT_MOST * expected_s)
        if self._is_broken(percent, elapsed_s, most_s):
            return Outlook(None, converges=False, least_s=least_s, most_s=None)
        return Outlook(
            _percent(elapsed_s, expected_s),
            converges=True,
            least_s=min(least_s, expected_s),
            most_s=most_s,
            downtime_s=float(courses.left_bytes[percent]) / self._bytes_per_s,
        )

    def _is_broken(self, percent: int, elapsed_s: float, most_s: float) -> bool:
        """Note the first promise under each throttle, and tell whether its time is over."""
        if self._promise is None or self._promise[0] != percent:
            self._promise = percent, elapsed_s + most_s + _PATIENCE_S
        return elapsed_s > self._promise[1]

    def _notice(self, progress: Progress) -> None:
        if progress.bandwidth_bytes_per_s:
            weight = _SMOOTHING if self._bytes_per_s else 1.0
            self._bytes_per_s += weight * (progress.bandwidth_bytes_per_s - self._bytes_per_s)
        now_ns = (progress.elapsed_ms or 0) * _NS_PER_MS
        self._lost.set_throttle(now_ns, 0 if progress.in_postcopy else progress.throttle_percent or 0)
        count = progress.dirty_sync_count or 0
        if self._synced is None or count > self._synced.count:
            self._learn(progress, now_ns)
            self._synced = _Sync(count, now_ns, self._lost.taken_ns, progress.remaining_bytes or 0)

    def _learn(self, progress: Progress, now_ns: int) -> None:
        """Learn from the rate at a sync that ended a pass; of several syncs since the last poll, it was each one's."""
        before, count = self._synced, progress.dirty_sync_count or 0
        if count < 2 or not progress.total_bytes or progress.dirty_bytes_per_s is None:
            return
        if before is None or not before.count:  # a pass that nobody looked on took as long as any, as far as known
            before = _Sync(count - 1, now_ns - now_ns // (count - 1), self._lost.taken_ns, 0)
        passed_ns, taken_ns = now_ns - before.now_ns, self._lost.taken_ns - before.taken_ns
        if passed_ns <= 0:
            return
        self._curve = self._curve or DirtyCurve(progress.total_bytes)
        duration_ns = passed_ns // (count - before.count)
        share = 1 - min(1.0, taken_ns / passed_ns)
        written_bytes = round(progress.dirty_bytes_per_s * duration_ns / _NS_PER_S)
        self._curve.learn(Written(max(1, duration_ns), share, written_bytes))

    def _situation(self, progress: Progress, curve: DirtyCurve) -> Situation:
        assert self._synced
        remaining_bytes = progress.remaining_bytes or 0
        sent_bytes = max(0, self._synced.remaining_bytes - remaining_bytes)
        worked_ns = (progress.elapsed_ms or 0) * _NS_PER_MS - self._synced.now_ns
        worked_ns -= self._lost.taken_ns - self._synced.taken_ns
        written_bytes = float(curve.distinct_bytes(np.array([max(0, worked_ns)], np.float64))[0])
        return Situation(
            pending_bytes=remaining_bytes,
            pending_ns=remaining_bytes / self._bytes_per_s * _NS_PER_S,
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
