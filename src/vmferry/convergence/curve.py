"""The dirty curve of a guest: how many distinct bytes it writes in a given time of work.

A page that is written again and again is dirty once, so the curve bends: within a short time nearly every write dirties
another page, in a long time no more than the working set. It is concave, as every page counts once from its first write
on: the chance that a write comes to a page for the first time only falls. So what is learnt, points of (work, distinct
bytes), is joined by their upper concave hull. The hull errs on the side of more dirty pages; that is bounded by how
often a point is seen again, and old points are forgotten.

*Work* is the time for which the guest did what it wanted to. A saturating guest wants all of its CPU, so work is CPU
time. A paced guest, a service with so many requests per second, wants only the share `demand` of it: a throttle that
leaves it that much takes nothing (`work_ns`).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vmferry.convergence.demand import explaining_demand
from vmferry.convergence.history import History
from vmferry.convergence.hull import close_together, continued, to_longest
from vmferry.convergence.points import Points
from vmferry.convergence.written import Written

_OTHER_LENGTH = 1.5


class DirtyCurve:
    """Learns from what a body finds; asked for distinct bytes by time of work. Sizes are of the whole guest."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self.points = Points()
        """What is remembered."""
        self.history = History()
        """What it wrote lately, as long as it was not slowed."""
        self.demand = 1.0
        """The share of its CPU that the guest wants; 1 for a guest that takes what it gets."""
        self._known_ns = 0.0
        self._table_ns, self._table_bytes, self._table_areas = np.zeros(1), np.zeros(1), np.zeros(1)
        """The curve from 0 on, close together, and the areas below it."""

    @property
    def bends(self) -> bool:
        """False until windows of different lengths were seen; before, a working set cannot be told from a flood."""
        lengths = [point.duration_ns for point in self.points]
        return bool(lengths) and max(lengths) >= _OTHER_LENGTH * min(lengths)

    @property
    def known_ns(self) -> int:
        """The longest work that was seen; beyond it the curve is a guess."""
        return int(self._known_ns)

    def learn(self, written: Written) -> None:
        """Take what was found into account."""
        point = self.points.learn(written) if written.duration_ns > 0 else None
        if point is None:
            return
        if not point.slowed:
            self.history.learn(point.duration_ns, point.distinct_bytes)
        self.demand = explaining_demand(self.points, self.demand)
        self._fit()

    def work_ns(self, duration_ns: float, cpu_share: float) -> float:
        """Return how much the guest gets done in a time in which it has that share of its CPU."""
        return duration_ns * min(1.0, cpu_share / self.demand)

    def distinct_bytes(self, work_ns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what it writes in this much work, counting each page once; at most all of its memory."""
        distinct_bytes: NDArray[np.float64] = np.interp(work_ns, self._table_ns, self._table_bytes)
        return distinct_bytes

    def areas(self, work_ns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the areas below the curve up to there, of which means over stretches of work are made."""
        areas: NDArray[np.float64] = np.interp(work_ns, self._table_ns, self._table_areas)
        return areas

    def working_set_bytes(self, work_ns: float) -> float:
        """Return what it writes again and again, as far as this much work shows it."""
        longest = max(work_ns, self._known_ns)
        return max(1.0, float(self.distinct_bytes(np.array([longest], np.float64))[0]))

    def _fit(self) -> None:
        hull = to_longest(sorted(self.points.in_work(self.demand)))
        hull = hull if len(hull) > 1 else [*hull, (1.0, 0.0)]
        self._known_ns = hull[-1][0]
        self._table_ns = close_together(np.array([work_ns for work_ns, _ in hull], np.float64))
        table_bytes = np.minimum(continued(hull, self._table_ns), float(self._memory_bytes))
        self._table_bytes = self._bounded(table_bytes, hull[-1])
        steps = np.diff(self._table_ns) * (self._table_bytes[1:] + self._table_bytes[:-1]) / 2
        self._table_areas = np.concatenate(([0.0], np.cumsum(steps)))

    def _bounded(self, table_bytes: NDArray[np.float64], last: tuple[float, float]) -> NDArray[np.float64]:
        """Return the curve with what lies beyond the last corner at most as high as ever so much was written in a row.

        A guest that writes in bursts has done less in a long time than its bursts let expect.
        """
        beyond = self._table_ns > last[0]
        if self.history.observed_ns <= last[0]:
            return table_bytes
        most_bytes = np.maximum(last[1], self.history.most_bytes(self._table_ns[beyond]))
        bounded = table_bytes.copy()
        bounded[beyond] = np.minimum(bounded[beyond], most_bytes)
        return bounded


def curve_of(points: Iterable[Written], memory_bytes: int) -> DirtyCurve:
    """Return the curve of a guest of that memory that has learnt these points in their order."""
    curve = DirtyCurve(memory_bytes)
    for point in points:
        curve.learn(point)
    return curve
