"""The course of one migration over time. Times are seconds since it began."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vmferry.bounds import one_line
from vmferry.convergence.limits import Limits
from vmferry.convergence.variants import NO_AUTO_CONVERGE, label_of
from vmferry.migration.events import Started
from vmferry.report.runs import Run

_MAX_LABEL_CHARACTERS = 200


class Shape(Enum):
    """What lies between two points of a series."""

    LINE = "line"
    STEPS = "steps"
    """A value holds until the next point."""
    PERIODS = "periods"
    """A value holds since the point before."""


@dataclass(frozen=True)
class Quartiles:
    """What the values of a series come to in a part of its time: their quartiles."""

    start_s: float
    end_s: float
    low: float
    median: float
    high: float


@dataclass(frozen=True, eq=False)
class Series:
    """Values over time; the times never fall."""

    seconds: NDArray[np.float64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> "Series":
        """Return the series of these points."""
        array = np.array(list(points), dtype=np.float64).reshape(-1, 2)
        return cls(np.maximum.accumulate(array[:, 0]), array[:, 1])

    def __len__(self) -> int:
        return len(self.seconds)

    def points(self) -> Iterator[tuple[float, float]]:
        """Yield time and value."""
        yield from zip(self.seconds.tolist(), self.values.tolist(), strict=True)

    def thinned(self, max_points: int) -> "Series":
        """Return at most that many of the points, at least 4: the ends, and extremes of equal shares of the rest."""
        if len(self) <= max_points:
            return self
        kept = {0, len(self) - 1}
        edges = np.linspace(0, len(self), max(1, (max_points - 2) // 2) + 1).astype(int)
        for first, last in pairwise(edges.tolist()):
            share = self.values[first:last]
            kept |= {first + int(share.argmin()), first + int(share.argmax())}
        chosen = sorted(kept)
        return Series(self.seconds[chosen], self.values[chosen])

    def periods(self, count: int) -> list[Quartiles]:
        """Return what the values come to in that many equal parts of the time; parts without a value are left out."""
        if not len(self):
            return []
        edges = np.linspace(0, max(float(self.seconds[-1]), 1e-9), count + 1)
        places = np.searchsorted(self.seconds, edges[1:], side="right")
        found = []
        for number, (first, last) in enumerate(pairwise([0, *places.tolist()])):
            if last > first:
                low, middle, high = np.quantile(self.values[first:last], [0.25, 0.5, 0.75]).tolist()
                found.append(Quartiles(float(edges[number]), float(edges[number + 1]), low, middle, high))
        return found

    def medians(self, count: int) -> "Series":
        """Return the median of each of that many equal parts of the time, as a series of periods."""
        periods = self.periods(count)
        first = [(period.start_s, period.median) for period in periods[:1]]
        return Series.of([*first, *((period.end_s, period.median) for period in periods)])


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided at an evaluation, and why."""

    time_s: float
    iteration_count: int
    background_sync: bool
    """True if a background sync was evaluated, False if it was the sync that began the iteration."""
    old_throttle_percent: int
    throttle_percent: int
    reason: str


@dataclass(frozen=True)
class Deed:
    """What else than a throttle was decided on, or happened, and why."""

    time_s: float
    what: str
    reason: str


@dataclass(frozen=True)
class ShadowDecision:
    """What somebody who only looked on would have done, and why."""

    time_s: float
    variant: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSeries(Run):
    """A migration whose course is known: its configuration, and its course, which `repr` leaves out."""

    started: Started
    total_s: float
    """How long the course is."""
    vm_name: str | None = None
    """What the VM is called; None if nobody told."""
    limits: Limits | None = None
    """What the operator allowed; None if nobody told."""
    remaining_bytes: Series = field(repr=False)
    throttle_percent: Series = field(repr=False)
    """The throttle, as steps: each value holds until the next. Where vCPUs differ, the greatest."""
    mean_throttle_percent: Series = field(repr=False)
    """The throttle of a vCPU in the mean of all."""
    bandwidth_bytes_per_s: Series = field(repr=False)
    """At each point the bandwidth of the window that ends there."""
    guest_dirties_bytes_per_s: Series = field(repr=False)
    """At each point what the guest wrote in the period that ends there, a page once, per second; empty if unknown."""
    newly_dirty_bytes_per_s: Series = field(repr=False)
    """Likewise what was newly dirty at syncs: without pages that waited to be sent anyway."""
    iterations: Series = field(repr=False)
    """The number of each iteration, as steps from where it begins."""
    background_syncs: Series = field(repr=False)
    """The number of the iteration at each background sync."""
    decisions: tuple[Decision, ...] | None = field(repr=False)
    """None if the VM decided by itself and told nobody."""
    deeds: tuple[Deed, ...] = field(default=(), repr=False)
    switchover_s: float | None = None
    """When the guest was about to be stopped to be moved; None if it was not, or nobody can tell."""
    downtime_s: tuple[float, float] | None
    """When the guest stood still; None if it did not, or nobody knows how long."""
    shadows: tuple[ShadowDecision, ...] = field(default=(), repr=False)
    gaps: bool = False
    """True if part of the course is missing, so that what follows from the whole of it is not known."""
    written_pages_per_s: Series = field(repr=False)
    """How fast all vCPUs wrote in the period that ends at each point; empty if nobody measured."""

    @property
    def guest_speed_percent(self) -> Series:
        """What the throttle left of the guest's speed, and 0 while it stood still, as steps."""
        points = [(time, 100 - value) for time, value in self.mean_throttle_percent.points() if time <= self._stop_s]
        if self.downtime_s is None:
            return Series.of(points)
        start_s, end_s = self.downtime_s
        return Series.of([*points, (start_s, 0), (end_s, 100)])

    @property
    def variant(self) -> str:
        """The name of the variant that the parameters make, or of their policy."""
        if not self.started.auto_converge:
            return NO_AUTO_CONVERGE.name
        return one_line(label_of(self.started.parameters, self.started.policy_digest)[:_MAX_LABEL_CHARACTERS])

    @property
    def guest_is_watched(self) -> bool:
        """True if what the guest dirties is known for most of the time."""
        series = self.guest_dirties_bytes_per_s
        return len(series) > 0 and float(series.seconds[-1]) >= self.total_s / 2

    def changes(self) -> list[Decision]:
        """Return the decisions that changed the throttle."""
        return [each for each in self.decisions or () if each.throttle_percent != each.old_throttle_percent]

    @property
    def _stop_s(self) -> float:
        return self.downtime_s[0] if self.downtime_s else self.total_s
