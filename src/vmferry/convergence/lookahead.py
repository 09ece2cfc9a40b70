"""Looks ahead in a migration: what would a throttle come to?

Each throttle is followed pass by pass (`passes.py`) until what is left fits the downtime and the guest moves. It may
begin now, or later; until then the guest does what it does without one, which is followed first (`unslowed.py`). All
throttles are worked out at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.passes import PERCENTS, Passes, Situation
from vmferry.convergence.unslowed import HEADWAY, HORIZON_NS, MAX_PASSES, Begin, Pass, follow, in_a_calm_ns

_SHARES = PERCENTS / 100.0


@dataclass(frozen=True)
class Courses:
    """What each throttle, 0 to 99 %, would come to; times are infinite where it would not converge."""

    time_ns: NDArray[np.float64]
    lost_ns: NDArray[np.float64]
    """The time that each vCPU would lose."""
    left_bytes: NDArray[np.float64]
    """What remains when the guest moves, or where it would not converge, what remains at the least."""


Outclassed = Callable[[Courses, NDArray[np.bool_]], NDArray[np.bool_]]
"""Is given courses, a row for each beginning, with what they come to at the least, and a flag for each that has ended.
Tells which of the others may be given up."""


def look_ahead(curve: DirtyCurve, situation: Situation, *, from_now: bool) -> Courses:
    """Work out the courses of all throttles, in force from now on, or from the end of the running pass on."""
    begin = Begin.NOW if from_now else Begin.NEXT_PASS
    return _look_ahead(curve, situation, [begin])[begin]


def look_ahead_each(
    curve: DirtyCurve, situation: Situation, outclassed: Outclassed | None = None
) -> dict[Begin, Courses]:
    """Work out the courses of all throttles, for each beginning; those that are outclassed are given up."""
    return _look_ahead(curve, situation, list(Begin), outclassed)


def _look_ahead(
    curve: DirtyCurve, situation: Situation, begins: Sequence[Begin], outclassed: Outclassed | None = None
) -> dict[Begin, Courses]:
    passes = Passes(curve, situation)
    free = follow(passes, situation)
    free_ns = min(free.time_ns, in_a_calm_ns(curve, situation))
    courses = _follow_slowed(passes, situation, [free.start(begin) for begin in begins], free_ns, outclassed)
    courses.left_bytes[:, 0] = free.left_bytes
    rows = zip(courses.time_ns, courses.lost_ns, courses.left_bytes, strict=True)
    return {begin: Courses(*row) for begin, row in zip(begins, rows, strict=True)}


def _follow_slowed(
    passes: Passes, situation: Situation, starts: Sequence[Pass], free_ns: float, outclassed: Outclassed | None
) -> Courses:
    """Go through the passes of all courses at the same time, a row for each start, until none makes headway."""
    fields = np.array([(start.begin_ns, start.pending_bytes, start.again_bytes, start.duration_ns) for start in starts])
    begin_ns, pending_bytes, again_bytes, duration_ns = fields.T[..., np.newaxis]
    shape = len(starts), len(PERCENTS)
    time_ns, slowed_ns, least_bytes = begin_ns + np.zeros(shape), np.zeros(shape), np.full(shape, np.inf)
    ended, going = np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)
    time_ns[:, 0], ended[:, 0], going[:, 0] = free_ns, math.isfinite(free_ns), False
    for _ in range(MAX_PASSES):
        np.add(time_ns, duration_ns, out=time_ns, where=going)
        np.add(slowed_ns, duration_ns, out=slowed_ns, where=going)
        if outclassed and ended.any():
            going &= ~outclassed(Courses(time_ns, slowed_ns * _SHARES, least_bytes), ended)
            if not going.any():
                break
        work_ns = passes.work_ns(slowed_ns, duration_ns)
        left_bytes = passes.left_bytes(pending_bytes, again_bytes, duration_ns, work_ns)
        shrinks = left_bytes < least_bytes * HEADWAY
        np.minimum(least_bytes, left_bytes, out=least_bytes, where=going)
        pending_bytes, again_bytes, duration_ns = left_bytes, 0.0, left_bytes * situation.ns_per_byte
        moves = going & (left_bytes <= situation.threshold_bytes)
        np.add(time_ns, duration_ns, out=time_ns, where=moves)
        if situation.ahead_ns:
            np.add(slowed_ns, duration_ns + situation.ahead_ns, out=slowed_ns, where=moves)
        ended |= moves
        going ^= moves
        if not (going & shrinks & (time_ns < HORIZON_NS)).any():
            break
    time_ns[~ended] = np.inf
    return Courses(time_ns, np.where(ended, slowed_ns * _SHARES, np.inf), least_bytes)
