"""What a recorded guest wrote, worked out from the dirty syncs of its migration.

Every interval between two syncs is a sample: so much CPU time, so many pages written in it at least once. If the
guest's ways do not change, all samples lie on one curve. It is concave, as a page that is dirty already does not
count again, and every concave curve is a sum of sweeps: some pages, each round over them taking some CPU time. The
curve is the lowest concave one above the means of samples of about equal CPU time: a throttled guest runs in slices, so
that a single short sample may see none or two. Where samples lie off the curve, the guest used another share of its
pages then; the shares follow one another in CPU time, and once they are through, their later half repeats.

`simulation/trace_pattern.py` writes so again.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import msgspec

from vmferry.convergence.hull import concave_corners, sweeps_of
from vmferry.convergence.written import SLICE_NS
from vmferry.errors import UsageError
from vmferry.experiment.dirty_samples import DirtySample, dirty_samples, why_no_samples
from vmferry.migration.events import BandwidthWindow, RecordedBy, Started, Synced
from vmferry.migration.journal import Entry
from vmferry.units import NS_PER_MS, NS_PER_S, PAGE_SIZE_BYTES

_MAX_PAGES = 1 << 32
_MIN_SAMPLE_NS = 20 * NS_PER_MS
"""A sample that took less time is no point of the curve; it is as long as its syncs."""
_MAX_STEPS = 200
_MIN_STEP_NS = 10 * NS_PER_MS
_QUOTA_SLICE_NS = NS_PER_MS
"""How long a throttled guest runs at a time where who drives from outside gives it a quota of the CPU."""
_MIN_SLICES = 5
"""Throttled samples of fewer slices are one group: how many were in each is chance."""
_GROUPS_PER_OCTAVE = 2
_SHARES = 50
"""Shares are rounded to 2 %."""
_SATURATED = 0.9


class DirtyTrace(msgspec.Struct, frozen=True):
    """How a recorded guest wrote: its sweeps, each as (pages, CPU time of a round in ns), all at the same time.

    `steps` are CPU times in ns and which share of each sweep's pages the guest used in them.
    """

    used_pages: int
    """Pages that are not zero, those included that were never written."""
    sweeps: tuple[tuple[int, int], ...]
    steps: tuple[tuple[int, float], ...]
    shortest_ns: int
    """CPU time of the shortest sample; of shorter times nothing is known."""
    scattered: bool = False
    """True if pages are not written in ascending order."""

    @property
    def written_pages(self) -> int:
        """The working set: all pages that are ever written."""
        return sum(pages for pages, _ in self.sweeps)

    @property
    def recorded_ns(self) -> int:
        """CPU time that was recorded; what the guest does after that is not known."""
        return sum(cpu_ns for cpu_ns, _ in self.steps)

    @property
    def pages_per_s(self) -> float:
        """How fast the guest writes pages in its shortest sample, not throttled."""
        return self.curve(self.shortest_ns) * NS_PER_S / self.shortest_ns

    @property
    def rate_is_lower_bound(self) -> bool:
        """True if even the shortest sample found about all of the working set dirty."""
        return self.curve(self.shortest_ns) > _SATURATED * self.written_pages > 0

    def curve(self, cpu_ns: int) -> float:
        """Return how many pages are written in this much CPU time when all are used."""
        return _curve(self.sweeps, cpu_ns)


def _curve(sweeps: Iterable[tuple[int, int]], cpu_ns: int) -> float:
    return sum(pages * min(1.0, cpu_ns / round_ns) for pages, round_ns in sweeps)


def read_trace(entries: Sequence[Entry], where: str) -> DirtyTrace:
    """Return how the guest of one migration, whose first entry is `started`, wrote.

    Raises UsageError that begins with `where` if the entries cannot be or tell too little.
    """
    started = entries[0].event
    assert isinstance(started, Started)
    if started.page_size != PAGE_SIZE_BYTES or not 1 <= started.page_count <= _MAX_PAGES:
        raise UsageError(
            f"{where}: a guest of {started.page_count} pages of {started.page_size} bytes, not of {PAGE_SIZE_BYTES}"
        )
    samples = list(dirty_samples(entries, started.page_count, where))
    if all(sample.within for sample in samples):
        raise UsageError(f"{where}: {why_no_samples(entries)}; there is nothing to replay")
    long = [sample for sample in samples if sample.wall_ns >= _MIN_SAMPLE_NS]
    points = _means(long if any(sample.pages for sample in long) else samples, _MIN_SLICES * slice_ns(started))
    corners = concave_corners(points)
    most_pages = max(sample.pages for sample in samples)
    fullest = most_pages / corners[-1][1] if most_pages else 1.0
    sweeps = _sweeps([(round(cpu_ns), round(pages * fullest)) for cpu_ns, pages in corners])
    return DirtyTrace(
        used_pages=max(_used_pages(entries, started), sum(pages for pages, _ in sweeps)),
        sweeps=sweeps,
        steps=_steps([sample for sample in samples if not sample.within], sweeps),
        shortest_ns=min(cpu_ns for cpu_ns, _ in points),
    )


def slice_ns(started: Started) -> int:
    """Return how long the recorded guest ran at a time when it was throttled."""
    return _QUOTA_SLICE_NS if started.recorded_by is RecordedBy.DRIVER else SLICE_NS


def _means(samples: Iterable[DirtySample], min_throttled_ns: int) -> list[tuple[int, int]]:
    """Return the mean CPU time and pages of samples of about equal CPU time, rising.

    A guest that seldom writes is not one that never does: where there was a page, the mean is at least one.
    """
    groups: dict[int, list[DirtySample]] = {}
    for sample in samples:
        throttled = sample.cpu_ns < sample.wall_ns
        length_ns = max(sample.cpu_ns, min_throttled_ns) if throttled else sample.cpu_ns
        groups.setdefault(round(_GROUPS_PER_OCTAVE * math.log2(length_ns)), []).append(sample)
    return sorted(
        (
            sum(sample.cpu_ns for sample in group) // len(group),
            max(sum(sample.pages for sample in group) // len(group), any(sample.pages for sample in group)),
        )
        for group in groups.values()
    )


def _sweeps(corners: Sequence[tuple[float, float]]) -> tuple[tuple[int, int], ...]:
    """Return the sweeps of a curve in whole pages, as many together as it has in the end."""
    sweeps = sweeps_of(corners)
    ends = [round(end) for end in accumulate((pages for pages, _ in sweeps), initial=0.0)]
    areas = [end - start for start, end in pairwise(ends)]
    return tuple((pages, round(cpu_ns)) for pages, (_, cpu_ns) in zip(areas, sweeps, strict=True) if pages)


def _steps(samples: Sequence[DirtySample], sweeps: Sequence[tuple[int, int]]) -> tuple[tuple[int, float], ...]:
    """Return CPU times and shares of samples, short ones and such of equal shares put together."""
    shortest_ns = max(sum(sample.cpu_ns for sample in samples) // _MAX_STEPS, _MIN_STEP_NS)
    steps: list[tuple[int, float]] = []
    cpu_ns, found, expected = 0, 0, 0.0
    for number, sample in enumerate(samples, 1):
        cpu_ns += sample.cpu_ns
        found += sample.pages
        expected += _curve(sweeps, sample.cpu_ns)
        if cpu_ns >= shortest_ns or number == len(samples):
            share = min(1.0, round(_SHARES * found / expected) / _SHARES) if expected else 0.0
            if steps and steps[-1][1] == share:
                cpu_ns += steps.pop()[0]
            steps.append((max(cpu_ns, _MIN_STEP_NS), share))
            cpu_ns, found, expected = 0, 0, 0.0
    return tuple(steps)


def _used_pages(entries: Sequence[Entry], started: Started) -> int:
    """Return how many pages the first pass did not find zero. Old journals tell only how much it sent."""
    sent_bytes = 0
    for entry in entries:
        if isinstance(entry.event, BandwidthWindow):
            sent_bytes += entry.event.sent_bytes + entry.event.saved_bytes
        elif isinstance(entry.event, Synced) and entry.event.iteration_count > 1:
            zero_pages = entry.event.zero_pages
            used = sent_bytes // started.page_size if zero_pages is None else started.page_count - zero_pages
            return min(max(used, 0), started.page_count)
    return started.page_count
