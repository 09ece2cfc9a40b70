"""Looks ahead in a migration: what would a throttle come to?

A fluid model, pass by pass. The working set W is what the guest writes again and again; `p(w)` is the share of it that
is written in so much work w, by the guest's dirty curve. A pass sends R bytes. When it ends, there is to be sent again:

- N, what is known to be dirty again already,
- of the pages of W that did not wait in this pass, those that are written meanwhile: (W - R - N) p(w),
- of the R bytes, what is written after its sending where pages are armed late (`sync_ns` is 0), or else since the sync
  before its sending, as a sync arms the log of all pages again, also of those that wait. They are sent evenly over the
  pass: with many syncs in it, a byte has between none and all of the pass left to be written again, and half of the
  time between two syncs; with none in it, all of the pass.

It is never more than W. When what is left fits the downtime, the guest moves. All throttles are worked out at once.

A throttled vCPU sleeps, and then runs for a slice. A guest that is paced catches up in its slices, so no throttle takes
work from it for long; but a pass that ends before its first slice finds nothing written.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from vmferry.convergence.curve import DirtyCurve

PERCENTS = np.arange(100.0)
_NS_PER_S = 1_000_000_000
_MAX_PASSES = 40
_HEADWAY = 0.98
"""What is left has to shrink to this share from pass to pass, or else it never fits."""
_LATE_HEADWAY = 0.9
"""A throttle that is to begin at last does if it shrinks to no less without one."""
_HORIZON_NS = 24 * 3600 * _NS_PER_S
_STARTS = 16
_IDLE_PASSES = 8
"""A guest that did not come nearer to the end for so many passes, from all of its times together, never rests."""
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
    wire_share: float = 1.0
    """What each of these bytes takes on the wire."""

    def with_bandwidth(self, times: float) -> "Situation":
        """Return the same with so many times the bandwidth."""
        return replace(
            self,
            pending_ns=self.pending_ns / times,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s * times,
            threshold_bytes=self.threshold_bytes * times,
        )


@dataclass(frozen=True)
class Courses:
    """What each throttle, 0 to 99 %, would come to; times are infinite where it would not converge."""

    time_ns: NDArray[np.float64]
    lost_ns: NDArray[np.float64]
    """The time that each vCPU would lose."""
    left_bytes: NDArray[np.float64]
    """What remains when the guest moves, or where it would not converge, what remains at the least."""


class Begin(IntEnum):
    """When a throttle begins."""

    NOW = 0
    NEXT_PASS = 1
    AT_LAST = 2
    """With the pass after which less does not get left without it."""


IsSettled = Callable[[Courses, NDArray[np.bool_]], bool]
"""Is given courses, a row for each beginning, with what they have come to so far, and a flag for each that has ended.
Tells whether the others may be given up."""


def look_ahead(curve: DirtyCurve, situation: Situation, *, from_now: bool) -> Courses:
    """Work out the courses of all throttles, in force from now on, or from the end of the running pass on."""
    begin = Begin.NOW if from_now else Begin.NEXT_PASS
    return _follow(curve, situation, [begin])[begin]


def look_ahead_each(
    curve: DirtyCurve, situation: Situation, is_settled: IsSettled | None = None
) -> dict[Begin, Courses]:
    """Work out the courses of all throttles, for each beginning; those that go on when all is settled are given up."""
    return _follow(curve, situation, list(Begin), is_settled)


def _follow(
    curve: DirtyCurve, situation: Situation, begins: Sequence[Begin], is_settled: IsSettled | None = None
) -> dict[Begin, Courses]:
    """Go through the passes of all courses at the same time, until each has ended or makes no headway."""
    guest = _Guest(curve, situation)
    begin, shape = np.array(begins)[:, np.newaxis], (len(begins), len(PERCENTS))
    pending, again = np.full(shape, situation.pending_bytes), np.full(shape, situation.again_bytes)
    duration_ns = np.full(shape, situation.pending_ns)
    time_ns, slowed_ns = np.zeros(shape), np.zeros(shape)
    least_bytes = np.full(shape, np.inf)
    ended = np.zeros(shape, dtype=bool)
    slowed = ended | (begin == Begin.NOW)
    for _ in range(_MAX_PASSES):
        running_ns = np.where(ended, 0.0, duration_ns)
        time_ns = time_ns + running_ns
        slowed_ns = slowed_ns + np.where(slowed, running_ns, 0.0)
        work_ns = np.where(slowed, guest.work_ns(slowed_ns, duration_ns), duration_ns)
        left_bytes = guest.left_bytes(pending, again, duration_ns, work_ns)
        shrinks = left_bytes < least_bytes * _HEADWAY
        late = left_bytes > least_bytes * _LATE_HEADWAY
        least_bytes = np.where(ended, least_bytes, np.minimum(least_bytes, left_bytes))
        ended = ended | (left_bytes <= situation.threshold_bytes)
        if not (~ended & (shrinks | ~slowed) & (time_ns < _HORIZON_NS)).any():
            break
        if is_settled and is_settled(_come_to(situation, time_ns, slowed_ns, least_bytes), ended):
            break
        pending, again = left_bytes, np.zeros(shape)
        slowed = slowed | (begin == Begin.NEXT_PASS) | ((begin == Begin.AT_LAST) & late)
        duration_ns = left_bytes / situation.bandwidth_bytes_per_s * _NS_PER_S
    courses = _come_to(situation, time_ns, slowed_ns, least_bytes)
    time_ns, lost_ns = np.where(ended, (courses.time_ns, courses.lost_ns), np.inf)
    in_calm_ns = _in_a_calm_ns(curve, situation)
    sooner = time_ns[:, 0] > in_calm_ns
    time_ns[sooner, 0], lost_ns[sooner, 0] = in_calm_ns, 0.0
    return {begin: Courses(*rows) for begin, *rows in zip(begins, time_ns, lost_ns, least_bytes, strict=True)}


def _come_to(
    situation: Situation,
    time_ns: NDArray[np.float64],
    slowed_ns: NDArray[np.float64],
    least_bytes: NDArray[np.float64],
) -> Courses:
    """Return what courses come to that end after this time, in which they were slowed for a part."""
    downtime_ns = least_bytes / situation.bandwidth_bytes_per_s * _NS_PER_S
    return Courses(time_ns + downtime_ns, slowed_ns * PERCENTS / 100.0, least_bytes)


def _in_a_calm_ns(curve: DirtyCurve, situation: Situation) -> float:
    """Return how long it takes without a throttle if the guest does again what it did lately; infinite if too long.

    It is followed from many of those times on, and three of four courses are to end by then.
    """
    if not curve.history.observed_ns or _never_rests(curve, situation):
        return float(np.inf)
    written_bytes = curve.history.again(curve.distinct_bytes)
    start_ns = np.arange(_STARTS) * curve.history.observed_ns / _STARTS
    now_ns = start_ns.copy()
    left_bytes = np.full(_STARTS, situation.again_bytes)
    duration_ns = np.full(_STARTS, situation.pending_ns)
    ended = np.zeros(_STARTS, dtype=bool)
    least_bytes, idle_passes = math.inf, 0
    for _ in range(_MAX_PASSES):
        left_bytes = left_bytes + written_bytes(now_ns, now_ns + duration_ns)
        now_ns += np.where(ended, 0.0, duration_ns)
        ended |= left_bytes <= situation.threshold_bytes
        if np.count_nonzero(ended) >= _STARTS * 3 // 4:
            return float(np.sort((now_ns - start_ns)[ended])[_STARTS * 3 // 4 - 1])
        to_go_bytes = float(left_bytes[~ended].sum())
        idle_passes = 0 if to_go_bytes < least_bytes * _HEADWAY else idle_passes + 1
        if idle_passes == _IDLE_PASSES:
            break
        least_bytes = min(least_bytes, to_go_bytes)
        duration_ns, left_bytes = left_bytes / situation.bandwidth_bytes_per_s * _NS_PER_S, np.zeros(_STARTS)
    return float(np.inf)


def _never_rests(curve: DirtyCurve, situation: Situation) -> bool:
    """Tell whether the guest, doing again what it did lately, writes more than fits the downtime in any time in which
    as much is sent: then every pass takes longer than that, and there is more to send again after it."""
    threshold_bytes = situation.threshold_bytes
    threshold_ns = threshold_bytes / situation.bandwidth_bytes_per_s * _NS_PER_S
    if situation.pending_ns < threshold_ns:
        return False
    distinct_bytes = float(curve.distinct_bytes(np.array([threshold_ns]))[0])
    return min(distinct_bytes, curve.history.least_bytes(threshold_ns)) > threshold_bytes


class _Guest:
    """What a guest does under each of the throttles, in passes one after the other."""

    def __init__(self, curve: DirtyCurve, situation: Situation) -> None:
        self._curve = curve
        self._sync_ns = situation.sync_ns
        self._set_bytes = curve.working_set_bytes(situation.pending_ns)
        self._rate = np.minimum(1.0, (100.0 - PERCENTS) / 100.0 / curve.demand)
        self._slice_ns = situation.slice_ns
        sleep_ns = situation.slice_ns * PERCENTS / (100.0 - PERCENTS)
        self._cycle_ns = np.where(situation.throttle_percent == PERCENTS, 0.0, sleep_ns + situation.slice_ns)
        """Of sleep and slice; 0 where nobody knows when the next sleep begins."""
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
        cycle_ns = np.maximum(1.0, self._cycle_ns)
        cycles = np.floor(time_ns / cycle_ns)
        awake_ns = np.maximum(0.0, time_ns - cycles * cycle_ns - _SURE_SLEEP * (cycle_ns - self._slice_ns))
        wanted_ns = np.where(awake_ns > 0, time_ns, cycles * cycle_ns)
        possible_ns = (cycles * self._slice_ns + np.minimum(awake_ns, self._slice_ns)) / self._curve.demand
        return np.where(self._cycle_ns > 0, np.minimum(wanted_ns, possible_ns), time_ns * self._rate)

    def left_bytes(
        self,
        pending: NDArray[np.float64],
        again: NDArray[np.float64],
        duration_ns: NDArray[np.float64],
        work_ns: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return what is to be sent again when a pass ends in which it has done that work."""
        written_bytes = self._curve.distinct_bytes(work_ns)
        mean_bytes = self._mean_bytes(written_bytes, duration_ns, work_ns)
        share, mean_share = (np.minimum(1.0, size / self._set_bytes) for size in (written_bytes, mean_bytes))
        elsewhere = np.maximum(0.0, self._set_bytes - pending - again)
        left_bytes: NDArray[np.float64] = again + elsewhere * share + np.minimum(pending, self._set_bytes) * mean_share
        return np.minimum(left_bytes, self._set_bytes)

    def _mean_bytes(
        self, written_bytes: NDArray[np.float64], duration_ns: NDArray[np.float64], work_ns: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return what is written after a page was last armed, in the mean of those that are sent in the pass.

        The first bytes of a pass may be written again in all of it, the last ones since the sync before only.
        """
        if not self._sync_ns:
            return self._curve.areas(work_ns) / np.maximum(1.0, work_ns)
        since_sync = np.minimum(1.0, self._sync_ns / 2 / np.maximum(1.0, duration_ns))
        since_sync = np.where(duration_ns <= self._sync_ns, 1.0, since_sync)
        area = self._curve.areas(work_ns) - self._curve.areas(since_sync * work_ns)
        mean_bytes: NDArray[np.float64] = area / np.maximum(1.0, work_ns) + since_sync * written_bytes
        return mean_bytes
