"""Which points of a dirty curve are remembered.

A few of each length, the newest; none that the newest contradict; and of throttled guests none that is too short.
"""

from collections import deque
from collections.abc import Iterator
from itertools import chain

from vmferry.convergence.written import Written
from vmferry.units import NS_PER_MS

POINTS_PER_OCTAVE = 6
"""So many of about the same CPU time are kept."""
_AGREEING, _MORE = 2, 1.1
"""So many points in a row, each in more work, have to find less than an older one for it to be forgotten."""
_ENOUGH_CPU_NS = 9 * NS_PER_MS
"""A slice of a throttled guest, or nearly."""


class Points:
    """The points that are remembered of one guest's dirty curve."""

    def __init__(self) -> None:
        self._octaves: dict[int, deque[Written]] = {}
        self._newest: deque[Written] = deque(maxlen=_AGREEING)
        self._short: list[Written] = []

    def __iter__(self) -> Iterator[Written]:
        return chain.from_iterable(self._octaves.values())

    def learn(self, written: Written) -> Written | None:
        """Remember what was found, and return the point that it makes; None if it is too short to be one.

        A throttled guest runs in slices, so a short time may hold none or two of them: short ones are put together.
        """
        point = self._with_short_ones(written)
        if point is None:
            return None
        self._newest.append(point)
        self._forget_contradicted()
        octave = int(point.cpu_ns).bit_length()
        self._octaves.setdefault(octave, deque(maxlen=POINTS_PER_OCTAVE)).append(point)
        return point

    def in_work(self, demand: float) -> Iterator[tuple[float, float]]:
        """Yield (work in ns, bytes) of a guest that wants that share of its CPU.

        Of throttled ones of about the same CPU time it is the mean: how much of a slice a throttled guest gets hangs on
        how busy its host is, so they scatter more.
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
