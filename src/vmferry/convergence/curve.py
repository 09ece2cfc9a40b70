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

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from vmferry.convergence.history import History
from vmferry.units import NS_PER_MS

SLICE_NS = 10 * NS_PER_MS
"""How long a throttled vCPU runs at a time, in QEMU (`CPU_THROTTLE_TIMESLICE_NS`) as in our VMs."""
POINTS_PER_OCTAVE = 6
"""So many of about the same CPU time are kept."""
_DEMANDS = (0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)
"""Shares of its CPU that a guest may want, the greatest first; the first that explains what is seen is taken."""
_HARDLY_SLOWED = 0.95
_OTHER_LENGTH = 1.5
_AS_MUCH = 0.9
"""The longest time in which at least this share of the most was found shows that the set has an end."""
_AGREEING, _MORE = 2, 1.1
"""So many points in a row, each in more work, have to find less than an older one for it to be forgotten."""
_ENOUGH_CPU_NS = 9 * NS_PER_MS
"""A slice of a throttled guest, or nearly."""
_LESS = 3.0
"""A guest that has kept up is taken to want this many times less than it was left."""
_MAX_FALL = 8.0
_TIMES = np.concatenate((np.geomspace(1e-3, 1.0, 40), np.geomspace(1.0, 1e5, 40)))
"""The curve is worked out at so many times the longest work that was seen."""
_EXPLAINED = 1.1
"""A point is explained if it is at most this many times what a curve through the others says."""


@dataclass(frozen=True)
class Written:
    """What was found between two looks at the dirty log, each page once."""

    duration_ns: int
    cpu_share: float
    """What the throttle left of the time, 0 to 1."""
    distinct_bytes: int
    vcpu_bytes: tuple[int, ...] | None = None
    """What each vCPU wrote of it; None if nobody knows."""

    @property
    def slowed(self) -> bool:
        """True if a throttle was in force that takes more than a guest notices, as the 1 % of a QEMU that stands by."""
        return self.cpu_share < _HARDLY_SLOWED

    @property
    def cpu_ns(self) -> float:
        """How long the guest was let run."""
        return self.duration_ns * self.cpu_share


class DirtyCurve:
    """Learns from what a body finds; asked for distinct bytes by time of work. Sizes are of the whole guest."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self.history = History()
        """What it wrote lately, as long as it was not slowed."""
        self._octaves: dict[int, deque[Written]] = {}
        self._newest: deque[Written] = deque(maxlen=_AGREEING)
        self._short: list[Written] = []
        self._demand = 1.0
        self._hull_ns, self._hull_bytes = np.zeros(1), np.zeros(1)
        self._table_ns, self._table_bytes, self._table_areas = np.zeros(1), np.zeros(1), np.zeros(1)
        """The curve from 0 on, close together, and the areas below it."""

    @property
    def bends(self) -> bool:
        """False until windows of different lengths were seen; before, a working set cannot be told from a flood."""
        lengths = [point.duration_ns for point in self.points()]
        return bool(lengths) and max(lengths) >= _OTHER_LENGTH * min(lengths)

    @property
    def demand(self) -> float:
        """The share of its CPU that the guest wants; 1 for a guest that takes what it gets."""
        return self._demand

    @property
    def known_ns(self) -> int:
        """The longest work that was seen; beyond it the curve is a guess."""
        return int(self._hull_ns[-1])

    def learn(self, written: Written) -> None:
        """Take another point into account.

        A throttled guest runs in slices, so a short time may hold none or two of them: short ones are put together.
        """
        if written.duration_ns <= 0:
            return
        point = self._with_short_ones(written)
        if point is None:
            return
        if not point.slowed:
            self.history.learn(point.duration_ns, point.distinct_bytes)
        self._newest.append(point)
        self._forget_contradicted()
        octave = int(point.cpu_ns).bit_length()
        self._octaves.setdefault(octave, deque(maxlen=POINTS_PER_OCTAVE)).append(point)
        self._demand = self._explaining_demand()
        self._fit()

    def work_ns(self, duration_ns: float, cpu_share: float) -> float:
        """Return how much the guest gets done in a time in which it has that share of its CPU."""
        return duration_ns * min(1.0, cpu_share / self._demand)

    def distinct_bytes(self, work_ns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what it writes in this much work, counting each page once; at most all of its memory."""
        distinct_bytes: NDArray[np.float64] = np.interp(work_ns, self._table_ns, self._table_bytes)
        return distinct_bytes

    def areas(self, work_ns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the areas below the curve up to there, of which means over stretches of work are made."""
        areas: NDArray[np.float64] = np.interp(work_ns, self._table_ns, self._table_areas)
        return areas

    def sweeps(self) -> list[tuple[float, float]]:
        """Return sweeps that write together as the curve says: of each its size in bytes, and the work of one round."""
        return sweeps_of(list(zip(self._hull_ns.tolist(), self._hull_bytes.tolist(), strict=True)))

    def working_set_bytes(self, work_ns: float) -> float:
        """Return what it writes again and again, as far as this much work shows it."""
        longest = max(work_ns, float(self._hull_ns[-1]))
        return max(1.0, float(self.distinct_bytes(np.array([longest], np.float64))[0]))

    def _forget_contradicted(self) -> None:
        """Forget points of shorter work in which more was written than lately: then the guest has become quieter.

        What a paced guest does while it is slowed says nothing of what it does in so little work when it is not.
        """
        slowed = self._newest[-1].slowed
        if len(self._newest) < _AGREEING or any(point.slowed != slowed for point in self._newest):
            return
        most_bytes = _MORE * max(point.distinct_bytes for point in self._newest)
        work_ns = min(point.cpu_ns for point in self._newest)
        for octave in self._octaves.values():
            kept = [
                point
                for point in octave
                if point.slowed != slowed or point.cpu_ns > work_ns or point.distinct_bytes <= most_bytes
            ]
            octave.clear()
            octave.extend(kept)

    def _with_short_ones(self, written: Written) -> Written | None:
        """Return the mean of the short throttled points so far, once they are enough; any other point as it is."""
        if not written.slowed or written.cpu_ns >= _ENOUGH_CPU_NS:
            self._short.clear()
            return written
        self._short.append(written)
        if sum(point.cpu_ns for point in self._short) < _ENOUGH_CPU_NS:
            return None
        count, duration_ns = len(self._short), sum(point.duration_ns for point in self._short)
        share = sum(point.cpu_ns for point in self._short) / duration_ns
        mean = Written(duration_ns // count, share, sum(point.distinct_bytes for point in self._short) // count)
        self._short.clear()
        return mean

    def _fit(self) -> None:
        hull = _to_longest(sorted(self._in_work(self._demand)))
        hull = hull if len(hull) > 1 else [*hull, (1.0, 0.0)]
        self._hull_ns = np.array([work_ns for work_ns, _ in hull], np.float64)
        self._hull_bytes = np.array([size_bytes for _, size_bytes in hull], np.float64)
        self._table_ns = _close_together(self._hull_ns)
        continued = np.minimum(_continued(hull, self._table_ns), float(self._memory_bytes))
        self._table_bytes = self._bounded(continued, hull[-1])
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

    def points(self) -> Iterator[Written]:
        """Yield what is remembered."""
        return chain.from_iterable(self._octaves.values())

    def _in_work(self, demand: float) -> Iterator[tuple[float, float]]:
        """Yield points of (work, bytes): of throttled ones of about the same CPU time the mean.

        How much of a slice a throttled guest gets hangs on how busy its host is, so they scatter more.
        """
        for octave in self._octaves.values():
            slowed = []
            for point in octave:
                in_work = point.duration_ns * min(1.0, point.cpu_share / demand), float(point.distinct_bytes)
                if point.slowed:
                    slowed.append(in_work)
                else:
                    yield in_work
            if slowed:
                work_ns, size_bytes = (sum(values) / len(slowed) for values in zip(*slowed, strict=True))
                yield work_ns, size_bytes

    def _explaining_demand(self) -> float:
        """Return the greatest demand by which no throttled point is above what the other points say.

        A throttled point of a paced guest, taken for one of a saturating guest, has done the same in less work: the
        unthrottled points say less for so little work than was seen. A guest is taken for a saturating one if a slice
        more explains it. One that has kept up with every throttle wants less than it was left, how much less nobody
        knows. Where more was found than it ever wrote in so much time unthrottled, it did something else, which tells
        nothing of what it wants.
        """
        free = [(float(point.duration_ns), float(point.distinct_bytes)) for point in self.points() if not point.slowed]
        slowed = [point for point in self.points() if point.slowed]
        if not (free and slowed):
            return self._demand if slowed else 1.0
        durations_ns, distinct_bytes = zip(*concave_corners(sorted(free)), strict=True)
        most_bytes = np.interp([point.duration_ns for point in slowed], durations_ns, distinct_bytes)
        slowed = [p for p, most in zip(slowed, most_bytes, strict=True) if p.distinct_bytes <= _EXPLAINED * most]
        if not slowed:
            return self._demand
        found = np.array([point.distinct_bytes for point in slowed], np.float64)
        shares = np.array([point.cpu_share for point in slowed])
        lengths_ns = np.array([float(point.duration_ns) for point in slowed])

        def said_bytes(demand: float) -> NDArray[np.float64]:
            work_ns = lengths_ns * np.minimum(1.0, shares / demand)
            said: NDArray[np.float64] = np.interp(work_ns, durations_ns, distinct_bytes)
            return said

        slice_more = SLICE_NS / (lengths_ns * shares)
        if (found <= (_EXPLAINED + slice_more) * said_bytes(1.0)).all():
            return 1.0
        if (found * _EXPLAINED >= np.interp(lengths_ns, durations_ns, distinct_bytes)).all():
            return float(shares.min()) / _LESS
        for demand in _DEMANDS:
            if (found <= _EXPLAINED * said_bytes(demand)).all():
                return demand
        return _DEMANDS[-1]


def curve_of(points: Iterable[Written], memory_bytes: int) -> DirtyCurve:
    """Return the curve of a guest of that memory that has learnt these points in their order."""
    curve = DirtyCurve(memory_bytes)
    for point in points:
        curve.learn(point)
    return curve


def concave_corners(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
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


def _to_longest(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of the hull of sorted points, and where it ends flat, the longest work that was seen.

    A set that is written whole in a shorter time is found again in a longer one, as far as counts are exact. Where that
    found far less, the guest rested or had no processor, and nothing is known of how much it writes when it does not.
    """
    corners = concave_corners(points)
    (longest_ns, found_bytes), (last_ns, most_bytes) = points[-1], corners[-1]
    if longest_ns > last_ns > 0 and found_bytes >= _AS_MUCH * most_bytes:
        corners.append((longest_ns, most_bytes))
    return corners


def _close_together(corners_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 0, the corners, and stretches between and beyond them that grow by the same factor."""
    last_ns = corners_ns[-1]
    work_ns = np.sort(np.concatenate((corners_ns, np.maximum(1.0, last_ns * _TIMES))))
    return work_ns[np.diff(work_ns, prepend=-1.0) > 0]


def _continued(hull: list[tuple[float, float]], work_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a hull's values; beyond its end the slope goes on to fall by the power by which it fell so far."""
    slopes = [((b[1] - a[1]) / (b[0] - a[0]), (a[0] + b[0]) / 2) for a, b in pairwise(hull)]
    fall = _fall(slopes[0], slopes[-1]) if len(slopes) > 1 else 0.0
    last_ns = hull[-1][0]
    last_bytes = slopes[-1][0] * (slopes[-1][1] / last_ns) ** fall * last_ns
    times = np.maximum(1.0, work_ns / last_ns)
    beyond = np.log(times) if fall == 1 else (times ** (1 - fall) - 1) / (1 - fall)
    known = np.interp(work_ns, [work for work, _ in hull], [size for _, size in hull])
    continued: NDArray[np.float64] = known + last_bytes * beyond
    return continued


def sweeps_of(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
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


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """True if the slope from b to c is at least that from a to b, so that b is no corner."""
    return (b[1] - a[1]) * (c[0] - b[0]) <= (c[1] - b[1]) * (b[0] - a[0])
