"""What would let a guest move that does not converge, or not within its goals: each single change that would do."""

from bisect import bisect_left
from collections.abc import Callable, Iterator

import numpy as np

from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.goals import Goals
from vmferry.convergence.lookahead import Courses, look_ahead
from vmferry.convergence.passes import Situation
from vmferry.units import NS_PER_S, format_duration, format_rate

_FACTOR, _STEPS = 1.25, 24
"""Bandwidths are tried in steps of this factor, up to two hundred times what there is."""


def remedies(curve: DirtyCurve, situation: Situation, goals: Goals) -> Iterator[str]:
    """Yield in words what would do, each by itself."""
    courses = look_ahead(curve, situation, from_now=True)
    highest = goals.highest_percent
    free_ns, slowed_ns = (courses.left_bytes[p] / situation.bandwidth_bytes_per_s * NS_PER_S for p in (0, highest))
    if not np.isfinite(courses.time_ns[0]):
        yield f"a downtime limit of {format_duration(free_ns)} without a throttle"
    if not np.isfinite(courses.time_ns[highest]) and slowed_ns < 0.9 * free_ns:
        yield f"a downtime limit of {format_duration(slowed_ns)} with one of {highest} %"
    above = np.flatnonzero(goals.overshoots(courses)[highest + 1 :] <= 1)
    if len(above):
        yield f"a throttle of {highest + 1 + int(above[0])} %"
    if bandwidth := _least_bandwidth(
        curve, situation, lambda courses: bool((goals.overshoots(courses)[: highest + 1] <= 1).any())
    ):
        yield f"a bandwidth of {format_rate(bandwidth * situation.wire_share)}"
    yield "post-copy"


def _least_bandwidth(curve: DirtyCurve, situation: Situation, is_enough: Callable[[Courses], bool]) -> float | None:
    """Return the least bandwidth that is tried and is enough; None if none is."""

    def is_enough_at(step: int) -> bool:
        return is_enough(look_ahead(curve, situation.with_bandwidth(_FACTOR**step), from_now=True))

    step = 1 + bisect_left(range(1, _STEPS + 1), True, key=is_enough_at)
    return situation.bandwidth_bytes_per_s * _FACTOR**step if step <= _STEPS else None
