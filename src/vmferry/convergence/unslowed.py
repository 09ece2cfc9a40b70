"""What becomes of a guest that nothing slows, pass by pass, and where throttles that come later begin."""

import math
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.passes import Passes, Situation
from vmferry.units import NS_PER_S

MAX_PASSES = 40
HEADWAY = 0.98
"""What is left has to shrink to this share from pass to pass, or else it never fits."""
HORIZON_NS = 24 * 3600 * NS_PER_S
_LATE_HEADWAY = 0.9
"""A throttle that is to begin at last does if it shrinks to no less without one."""
_IN_A_ROW = 2
"""It does not shrink any more after so many passes in which it did not."""
_STARTS = 16
_IDLE_PASSES = 8
"""A guest that did not come nearer to the end for so many passes, from all of its times together, never rests."""


class Begin(IntEnum):
    """When a throttle begins."""

    NOW = 0
    NEXT_PASS = 1
    AT_LAST = 2
    """With the pass after which less does not get left without it."""


@dataclass(frozen=True)
class Pass:
    """A pass that begins: at what time, what is to be sent in it, what is known to be sent again after it."""

    begin_ns: float
    pending_bytes: float
    again_bytes: float
    duration_ns: float


@dataclass(frozen=True)
class Unslowed:
    """The course without a throttle."""

    time_ns: float
    """Infinite if it does not converge."""
    left_bytes: float
    """What remains when the guest moves, or else what remains at the least."""
    begins: dict[Begin, Pass]
    """The passes with which throttles begin, as far as it comes to that."""

    def start(self, begin: Begin) -> Pass:
        """Return the pass with which a throttle begins; one in which nothing is left to do if that comes too late."""
        return self.begins.get(begin, Pass(self.time_ns, 0.0, 0.0, 0.0))


def follow(passes: Passes, situation: Situation) -> Unslowed:
    """Go through the passes until the guest moves, or makes no headway."""
    now = Pass(0.0, situation.pending_bytes, situation.again_bytes, situation.pending_ns)
    begins, least_bytes, idle = {Begin.NOW: now}, math.inf, 0
    for _ in range(MAX_PASSES):
        end_ns, left_bytes = now.begin_ns + now.duration_ns, _left_bytes(passes, now)
        is_late = left_bytes > least_bytes * _LATE_HEADWAY
        idle = idle + 1 if left_bytes >= least_bytes * HEADWAY else 0
        least_bytes = min(least_bytes, left_bytes)
        if left_bytes <= situation.threshold_bytes:
            return Unslowed(end_ns + left_bytes * situation.ns_per_byte, left_bytes, begins)
        now = Pass(end_ns, left_bytes, 0.0, left_bytes * situation.ns_per_byte)
        begins.setdefault(Begin.NEXT_PASS, now)
        if is_late:
            begins.setdefault(Begin.AT_LAST, now)
        if idle == _IN_A_ROW or end_ns > HORIZON_NS:
            break
    return Unslowed(math.inf, least_bytes, begins)


def at_next_pass(curve: DirtyCurve, situation: Situation) -> Situation:
    """Return where the migration will be when the running pass is over, if nothing slows the guest until then."""
    before_bytes, after_bytes = curve.distinct_bytes(situation.worked_ns + np.array([0.0, situation.pending_ns]))
    left_bytes = situation.again_bytes + float(after_bytes - before_bytes)
    pending_ns = left_bytes * situation.ns_per_byte
    return replace(situation, pending_bytes=left_bytes, pending_ns=pending_ns, again_bytes=0.0, worked_ns=0.0)


def _left_bytes(passes: Passes, now: Pass) -> float:
    duration_ns = np.array([now.duration_ns])
    return float(passes.left_bytes(np.array([now.pending_bytes]), now.again_bytes, duration_ns, duration_ns)[0])


def in_a_calm_ns(curve: DirtyCurve, situation: Situation) -> float:
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
    for _ in range(MAX_PASSES):
        left_bytes = left_bytes + written_bytes(now_ns, now_ns + duration_ns)
        now_ns += np.where(ended, 0.0, duration_ns)
        ended |= left_bytes <= situation.threshold_bytes
        if np.count_nonzero(ended) >= _STARTS * 3 // 4:
            return float(np.sort((now_ns - start_ns)[ended])[_STARTS * 3 // 4 - 1])
        to_go_bytes = float(left_bytes[~ended].sum())
        idle_passes = 0 if to_go_bytes < least_bytes * HEADWAY else idle_passes + 1
        if idle_passes == _IDLE_PASSES:
            break
        least_bytes = min(least_bytes, to_go_bytes)
        duration_ns, left_bytes = left_bytes * situation.ns_per_byte, np.zeros(_STARTS)
    return float(np.inf)


def _never_rests(curve: DirtyCurve, situation: Situation) -> bool:
    """Tell whether the guest, doing again what it did lately, writes more than fits the downtime in any time in which
    as much is sent: then every pass takes longer than that, and there is more to send again after it."""
    threshold_bytes = situation.threshold_bytes
    threshold_ns = threshold_bytes * situation.ns_per_byte
    if situation.pending_ns < threshold_ns:
        return False
    distinct_bytes = float(curve.distinct_bytes(np.array([threshold_ns]))[0])
    return min(distinct_bytes, curve.history.least_bytes(threshold_ns)) > threshold_bytes
