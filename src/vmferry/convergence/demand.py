"""Which share of its CPU a guest wants, by what it writes slowed and unslowed.

A throttled point of a paced guest, taken for one of a saturating guest, has done the same in less work: the unthrottled
points say less for so little work than was seen.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vmferry.convergence.hull import concave_corners, continued
from vmferry.convergence.written import SLICE_NS, Written

_Floats = NDArray[np.float64]
_DEMANDS = np.array([0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01])
"""Shares of its CPU that a guest may want, the greatest first; the first that explains what is seen is taken."""
_EXPLAINED = 1.1
"""A point is explained if it is at most this many times what a curve through the others says."""
_LESS = 3.0
"""A guest that has kept up is taken to want this many times less than it was left."""


def explaining_demand(points: Iterable[Written], before: float) -> float:
    """Return the greatest demand by which no throttled point is above what the others say; `before` where none tells.

    A guest is taken for a saturating one, which wants 1, if a slice more explains it. One that has kept up with every
    throttle wants less than it was left, how much less nobody knows. Where more was found than it ever wrote in so much
    time unthrottled, it did something else, which tells nothing of what it wants.
    """
    points = list(points)
    free = [(float(point.duration_ns), float(point.distinct_bytes)) for point in points if not point.slowed]
    slowed = [point for point in points if point.slowed]
    if not (free and slowed):
        return before if slowed else 1.0
    corners = concave_corners(sorted(free))
    figures = [(float(point.distinct_bytes), point.cpu_share, float(point.duration_ns)) for point in slowed]
    found, shares, lengths_ns = np.array(figures).T
    most_bytes = continued(corners, lengths_ns)
    tells = found <= _EXPLAINED * most_bytes
    if not tells.any():
        return before
    found, shares, lengths_ns, most_bytes = (each[tells] for each in (found, shares, lengths_ns, most_bytes))

    def explaining(demands: _Floats, more: _Floats | float = 0.0) -> _Floats:
        """Return those that explain all points."""
        work_ns = lengths_ns * np.minimum(1.0, shares / demands[:, np.newaxis])
        said_bytes = continued(corners, work_ns)
        those: _Floats = demands[(found <= (_EXPLAINED + more) * said_bytes).all(axis=1)]
        return those

    if len(explaining(np.ones(1), more=SLICE_NS / (lengths_ns * shares))):
        return 1.0
    if (found * _EXPLAINED >= most_bytes).all():
        return float(shares.min()) / _LESS
    return float([*explaining(_DEMANDS), _DEMANDS[-1]][0])
