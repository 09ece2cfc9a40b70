"""What a guest that nothing slowed has written lately, stretch by stretch.

A guest that works in bursts, garbage collection or a checkpoint every few seconds, writes much in a short time and
hardly more in a long one, and comes to rest between. The dirty curve knows the worst of its times only. Here they are
in order, so that a course can be followed as if they came again, from any of them on.
"""

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from vmferry.units import NS_PER_S

_Floats = NDArray[np.float64]
Again = Callable[[_Floats, _Floats], _Floats]
"""Tells how much is written between two times."""
_SPAN_NS = 60 * NS_PER_S
_MAX_STRETCHES = 400


class History:
    """Learns stretches that follow each other; a page counts once in each of them."""

    def __init__(self) -> None:
        self._stretches: deque[tuple[int, int]] = deque(maxlen=_MAX_STRETCHES)
        """How long each was, and how many bytes were written."""
        self.observed_ns = 0
        """How long it reaches back."""
        self._ends_ns, self._sums = np.zeros(1), np.zeros(1)

    def learn(self, duration_ns: int, distinct_bytes: int) -> None:
        """Take the next stretch into account, and forget what is long ago."""
        self._stretches.append((duration_ns, distinct_bytes))
        while len(self._stretches) > 1 and sum(length for length, _ in self._stretches) > _SPAN_NS:
            self._stretches.popleft()
        stretches = np.array([(0, 0), *self._stretches], np.float64)  # a VM may tell numbers beyond 64 bits
        self._ends_ns, self._sums = np.cumsum(stretches, axis=0).T
        self.observed_ns = int(self._ends_ns[-1])

    def most_bytes(self, duration_ns: _Floats) -> _Floats:
        """Return the most that was written in a row in so much time, a page counting once in each stretch."""
        ends_ns = self._ends_ns[:-1, np.newaxis] + duration_ns[np.newaxis, :]
        (written,) = self._between(ends_ns - duration_ns, ends_ns, self._sums)
        most: _Floats = written.max(axis=0)
        return most

    def least_bytes(self, duration_ns: float) -> float:
        """Return the least that is written in so much time, from whatever moment on, if all comes again."""
        begins = self._ends_ns[:-1]
        start_ns = np.concatenate((begins, begins - duration_ns))  # it is least where it begins or ends with a stretch
        (written,) = self._between(start_ns, start_ns + duration_ns, self._sums)
        return float(written.min())

    def again(self, most_bytes: Callable[[_Floats], _Floats]) -> "Again":
        """Return what it writes if all comes again; `most_bytes` is the dirty curve, which knows the busiest times."""
        lengths, sizes = np.diff(self._ends_ns), np.diff(self._sums)
        busy_ns = lengths * np.minimum(1.0, sizes / np.maximum(1.0, most_bytes(lengths)))
        busy_sums = np.concatenate(([0.0], np.cumsum(busy_ns)))

        def written(start_ns: _Floats, end_ns: _Floats) -> _Floats:
            most = most_bytes(end_ns - start_ns)
            busy_ns, in_all = self._between(start_ns, end_ns, busy_sums, self._sums)
            return np.minimum(most, np.maximum(busy_ns / np.maximum(1, end_ns - start_ns) * most, in_all))

        return written

    def _between(self, start_ns: _Floats, end_ns: _Floats, *sums: _Floats) -> Iterator[_Floats]:
        """Yield how much each of the sums grows between two times, if all comes again and again in the same order."""
        time_ns = np.array((start_ns, end_ns))
        rounds = np.floor(time_ns / self._ends_ns[-1])
        rest_ns = time_ns - rounds * self._ends_ns[-1]
        for known in sums:
            start, end = rounds * known[-1] + np.interp(rest_ns, self._ends_ns, known)
            yield end - start
