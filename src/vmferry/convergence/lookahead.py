"""Looks ahead in a migration: what would a throttle come to?

A fluid model, pass by pass. The working set W is what the guest writes again and again; `p(w)` is the share of it that
is written in so much work w, by the guest's dirty curve. A pass sends R bytes. When it ends, there is to be sent again:

- N, what is known to be dirty again already,
- of the pages of W that did not wait in this pass, those that are written meanwhile: (W - R - N) p(w),
- of the R bytes, what is written since the sync before its sending, as a sync arms the log of all pages again, also of
  those that wait. They are sent evenly over the pass: with many syncs in it, a byte has between none and all of the
  pass left to be written again, and half of the time between two syncs; with none in it, all of the pass.

It is never more than W. When what is left fits the downtime, the guest moves. All throttles are worked out at once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmferry.convergence.curve import DirtyCurve

PERCENTS = np.arange(100.0)
_NS_PER_S = 1_000_000_000
_MAX_PASSES = 60
_HORIZON_NS = 24 * 3600 * _NS_PER_S
_NODES = (np.arange(8.0) + 0.5) / 8
"""Where p is sampled for its mean over a pass."""


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
    """The time between two syncs; infinite if there are none within passes."""
    bandwidth_bytes_per_s: float
    threshold_bytes: float
    """When no more remains, the guest moves."""


@dataclass(frozen=True)
class Courses:
    """What each throttle, 0 to 99 %, would come to; times are infinite where it would not converge."""

    time_ns: NDArray[np.float64]
    lost_ns: NDArray[np.float64]
    """The time that each vCPU would lose."""
    left_bytes: NDArray[np.float64]
    """What remains when the guest moves, or where it would not converge, what remains at the least."""


def look_ahead(curve: DirtyCurve, situation: Situation, *, from_now: bool) -> Courses:
    """Work out the courses of all throttles, in force from now on, or from the end of the running pass on."""
    set_bytes = curve.working_set_bytes(situation.pending_ns)
    share = np.minimum(1.0, (100.0 - PERCENTS) / 100.0 / curve.demand)
    taken = PERCENTS / 100.0
    pending, again = np.full(100, situation.pending_bytes), np.full(100, situation.again_bytes)
    duration_ns = np.full(100, situation.pending_ns)
    time_ns, lost_ns = np.zeros(100), np.zeros(100)
    least_bytes = np.full(100, np.inf)
    done = np.zeros(100, dtype=bool)
    slowed = from_now
    for _ in range(_MAX_PASSES):
        time_ns += np.where(done, 0.0, duration_ns)
        lost_ns += np.where(done, 0.0, duration_ns * taken) if slowed else 0.0
        work_ns = duration_ns * (share if slowed else 1.0)
        after = np.minimum(1.0, _NODES[:, np.newaxis] + situation.sync_ns / 2 / np.maximum(1.0, duration_ns))
        left_bytes = _left_bytes(
            curve, set_bytes, pending, again, work_ns, np.where(duration_ns <= situation.sync_ns, 1.0, after)
        )
        shrinks = left_bytes < least_bytes * 0.999
        least_bytes = np.where(done, least_bytes, np.minimum(least_bytes, left_bytes))
        done |= left_bytes <= situation.threshold_bytes
        if not (~done & shrinks & (time_ns < _HORIZON_NS)).any():
            break
        pending, again, slowed = left_bytes, np.zeros(100), True
        duration_ns = left_bytes / situation.bandwidth_bytes_per_s * _NS_PER_S
    downtime_ns = least_bytes / situation.bandwidth_bytes_per_s * _NS_PER_S
    return Courses(np.where(done, time_ns + downtime_ns, np.inf), np.where(done, lost_ns, np.inf), least_bytes)


def _left_bytes(
    curve: DirtyCurve,
    set_bytes: float,
    pending: NDArray[np.float64],
    again: NDArray[np.float64],
    work_ns: NDArray[np.float64],
    after: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return what is to be sent again when a pass ends in which the guest has done that work.

    `after` are the parts of the pass, by row, in which bytes that are sent one after the other may be written again.
    """
    share = np.minimum(1.0, curve.distinct_bytes(work_ns) / set_bytes)
    mean_share = np.minimum(1.0, curve.distinct_bytes(after * work_ns) / set_bytes).mean(axis=0)
    elsewhere = np.maximum(0.0, set_bytes - pending - again)
    left_bytes: NDArray[np.float64] = again + elsewhere * share + np.minimum(pending, set_bytes) * mean_share
    return np.minimum(left_bytes, set_bytes)
