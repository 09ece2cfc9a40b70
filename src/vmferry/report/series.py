"""The course of one migration over time, and the figures that follow from it. Times are seconds since it began."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vmferry.bounds import one_line
from vmferry.convergence.variants import label_of
from vmferry.migration.events import Ended, Started
from vmferry.migration.lost_work import LostWork

_NS_PER_S = 1_000_000_000
NO_AUTO_CONVERGE = "no auto-converge"
"""What stands for a variant's name where the guest is not slowed."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSeries:
    """One migration: its configuration, its figures, and its course."""

    label: str
    """Runs of the same label are repeats of each other."""
    started: Started
    ended: Ended
    """The figures; made up from what is there if the journal ends before the migration does."""
    total_s: float
    """How long the course is."""
    remaining_bytes: Series
    throttle_percent: Series
    """Steps: each value holds until the next."""
    bandwidth_bytes_per_s: Series
    """Of the bandwidth window that ends at each point."""
    dirty_bytes_per_s: Series
    """Of the period that ends at each point; the first point is the beginning of the first period."""
    iterations: Series
    """Steps: the number of each iteration where it begins."""
    background_syncs: Series
    """The number of the iteration at each background sync."""
    decisions: tuple[Decision, ...] | None
    """None if the VM decided by itself and told nobody."""
    downtime_s: tuple[float, float] | None
    """When the guest stood still; None if it did not, or nobody knows how long."""
    gaps: bool = False
    """True if part of the course is missing, so that what follows from the whole of it is not known."""
    lost: LostWork
    """What the throttle took."""
    known_work_lost_percent: float | None = None
    """Of the guest's work, by who counted it in the guest; None if nobody did."""
    measured_pages_per_s: tuple[Series, ...] = ()
    """For each vCPU, of the period that ends at each point; empty if nobody measured it."""

    @property
    def memory_bytes(self) -> int:
        """Size of the guest."""
        return self.started.page_count * self.started.page_size

    @property
    def sent_per_memory(self) -> float | None:
        """Bytes sent as a multiple of the guest's memory."""
        sent_bytes = self.ended.sent_bytes
        return sent_bytes / self.memory_bytes if sent_bytes is not None and self.memory_bytes else None

    @property
    def work_lost_percent(self) -> float | None:
        """What the guest was kept from doing, as a share of what it would have done; None if nobody knows.

        That is what was counted in the guest, or else what the throttle took.
        """
        if self.known_work_lost_percent is not None or self.gaps or self.ended.total_time_ns is None:
            return self.known_work_lost_percent
        return self.lost.percent_of(self.ended.total_time_ns)

    @property
    def work_lost_vcpu_s(self) -> float | None:
        """The same in seconds of a vCPU."""
        if self.work_lost_percent is None or self.ended.total_time_ns is None:
            return None
        return self.started.vcpu_count * self.work_lost_percent / 100 * self.ended.total_time_ns / _NS_PER_S

    @property
    def guest_speed_percent(self) -> Series:
        """What the throttle left of the guest's speed, and 0 while it stood still, as steps."""
        points = [(time, 100 - value) for time, value in self.throttle_percent.points() if time <= self._stop_s]
        if self.downtime_s is None:
            return Series.of(points)
        start_s, end_s = self.downtime_s
        return Series.of([*points, (start_s, 0), (end_s, 100)])

    @property
    def variant(self) -> str:
        """The name of the variant that the parameters make, or of their policy."""
        if not self.started.auto_converge:
            return NO_AUTO_CONVERGE
        return one_line(label_of(self.started.parameters, self.started.policy_digest))

    @property
    def _stop_s(self) -> float:
        return self.downtime_s[0] if self.downtime_s else self.total_s
