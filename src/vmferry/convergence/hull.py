"""Concave curves through points that were seen, such as (work in ns, distinct bytes): their corners, and beyond them.

Corners are pairs of numbers, the first of which rises. The first corner is (0, 0).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_AS_MUCH, _LONGER = 0.9, 1.15
"""The longest time in which at least this share of the most was found shows that the set has an end, if it is so many
times as long as the one in which that was: of times that hardly differ either may be the one with more."""
_MAX_FALL = 8.0
_TIMES = np.concatenate((np.geomspace(1e-3, 1.0, 40), np.geomspace(1.0, 1e5, 40)))
"""A curve is worked out at so many times where its last corner is."""

Corner = tuple[float, float]


def concave_corners(points: Iterable[Corner]) -> list[Corner]:
    """Return the corners of the lowest curve above all points that begins at (0, 0), never falls and is concave.

    The points are sorted. It is their upper hull (Andrew's monotone chain).
    """
    corners = [(0.0, 0.0)]
    for point in points:
        if point[1] < corners[-1][1] or point[0] <= corners[-1][0]:
            if point[1] > corners[-1][1]:
                corners[-1] = point
            continue
        while len(corners) > 1 and _turns_up(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    return corners


def to_longest(points: Sequence[Corner]) -> list[Corner]:
    """Return the corners of the hull of sorted points, and where it ends flat, the longest work that was seen.

    A set that is written whole in a shorter time is found again in a longer one, as far as counts are exact. Where that
    found far less, the guest rested or had no processor, and nothing is known of how much it writes when it does not.
    """
    corners = concave_corners(points)
    (longest_ns, found_bytes), (last_ns, most_bytes) = points[-1], corners[-1]
    if longest_ns >= _LONGER * last_ns > 0 and found_bytes >= _AS_MUCH * most_bytes:
        corners.append((longest_ns, most_bytes))
    return corners


def close_together(corners_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 0, the corners, and stretches between and beyond them that grow by the same factor."""
    last_ns = corners_ns[-1]
    work_ns = np.sort(np.concatenate((corners_ns, np.maximum(1.0, last_ns * _TIMES))))
    return work_ns[np.diff(work_ns, prepend=-1.0) > 0]


def continued(hull: Sequence[Corner], work_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a hull's values; beyond its end the slope goes on to fall by the power by which it fell so far."""
    slopes = [((b[1] - a[1]) / (b[0] - a[0]), (a[0] + b[0]) / 2) for a, b in pairwise(hull)]
    fall = _fall(slopes[0], slopes[-1]) if len(slopes) > 1 else 0.0
    last_ns = hull[-1][0]
    last_bytes = slopes[-1][0] * (slopes[-1][1] / last_ns) ** fall * last_ns
    times = np.maximum(1.0, work_ns / last_ns)
    beyond = np.log(times) if fall == 1 else (times ** (1 - fall) - 1) / (1 - fall)
    known = np.interp(work_ns, [work for work, _ in hull], [size for _, size in hull])
    values: NDArray[np.float64] = known + last_bytes * beyond
    return values


def sweeps_of(corners: Sequence[Corner]) -> list[tuple[float, float]]:
    """Return the sweeps whose sum is a concave curve: of each how much it writes, and the time of one round.

    Every concave curve is such a sum: at each of its corners one sweep has finished its first round.
    """
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(corners)]
    falls = [before - after for before, after in pairwise([*slopes, 0.0])]
    return [(fall * time, time) for fall, (time, _) in zip(falls, corners[1:], strict=True)]


def _fall(before: tuple[float, float], last: tuple[float, float]) -> float:
    """Return the power by which the slope fell between two segments, each given as its slope and its middle."""
    (before_slope, before_ns), (last_slope, last_ns) = before, last
    if last_slope <= 0:
        return _MAX_FALL
    return min(_MAX_FALL, math.log(before_slope / last_slope) / math.log(last_ns / before_ns))


def _turns_up(a: Corner, b: Corner, c: Corner) -> bool:
    """True if the slope from b to c is at least that from a to b, so that b is no corner."""
    return (b[1] - a[1]) * (c[0] - b[0]) <= (c[1] - b[1]) * (b[0] - a[0])
