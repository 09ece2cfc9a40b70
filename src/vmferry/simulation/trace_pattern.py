"""The pattern of a guest that was recorded or measured: it writes as a `DirtyTrace` says (`experiment/dirty_trace.py`).

Invariant: looked at after the same CPU times as that guest, the pattern has written as many pages, on average.

A sweep in ascending order, as of a recorded guest, may run after the migration, which sends in that order, too, and
rewrite all that was just sent; or ahead of it, and cost nothing; and that for many rounds. Where nobody knows in which
order a guest writes, sweeps go through pieces of their pages in one that is about even wherever one looks.
"""

from collections.abc import Sequence

from vmferry.experiment.dirty_trace import DirtyTrace
from vmferry.memory.bitmap import Bitmap
from vmferry.simulation.patterns import mark_walk

_PIECES, _STRIDE = 64, 39
"""How many pieces the pages of a sweep have, and how far one is from the next: by about the golden section of all, so
that as many as one likes are spread evenly (Knuth, The Art of Computer Programming, volume 3, section 6.4)."""


class TracePattern:
    """The pattern of a recorded guest, all vCPUs together."""

    def __init__(self, trace: DirtyTrace) -> None:
        self._trace = trace
        self._rounds = [0.0] * len(trace.sweeps)
        self._step = 0
        self._left_ns = trace.steps[0][0]
        self._repeat_from = _later_half(trace.steps)
        self._repeated_ns = sum(step_ns for step_ns, _ in trace.steps[self._repeat_from :])

    def write(self, cpu_ns: int, bitmap: Bitmap) -> None:
        """Let the recorded steps write that `cpu_ns` reaches into.

        So long a time that steps would repeat more than once is spread over them: it costs no more to work out.
        """
        rounds = cpu_ns // self._repeated_ns
        if rounds > 1:
            for step_ns, share in self._trace.steps[self._repeat_from :]:
                self._sweep(rounds * step_ns, share, bitmap)
            cpu_ns %= self._repeated_ns
        while cpu_ns > 0:
            part_ns = min(cpu_ns, self._left_ns)
            self._sweep(part_ns, self._trace.steps[self._step][1], bitmap)
            cpu_ns -= part_ns
            self._left_ns -= part_ns
            if not self._left_ns:
                self._step = self._step + 1 if self._step + 1 < len(self._trace.steps) else self._repeat_from
                self._left_ns = self._trace.steps[self._step][0]

    def areas(self) -> list[tuple[int, int]]:
        """Return all used pages; those that are written come first."""
        return [(0, self._trace.used_pages)]

    def _sweep(self, cpu_ns: int, share: float, bitmap: Bitmap) -> None:
        first_page = 0
        for number, (pages, round_ns) in enumerate(self._trace.sweeps):
            start = self._rounds[number]
            end = start + cpu_ns / round_ns
            self._rounds[number] = end % 1
            used = round(pages * share)
            if self._trace.scattered:
                _mark_pieces(bitmap, first_page, used, start * _PIECES, end * _PIECES)
            else:
                mark_walk(bitmap, first_page, used, int(start * used), int(end * used))
            first_page += pages


def _mark_pieces(bitmap: Bitmap, first_page: int, page_count: int, start: float, end: float) -> None:
    """Mark what a sweep over an area comes by, from `start` on up to `end`, both as a number of pieces."""
    if end - start >= _PIECES:
        bitmap.set_range(first_page, page_count)
        return
    while start < end:
        piece = int(start)
        stop, ahead = min(end, piece + 1), piece * _STRIDE % _PIECES - piece
        low, high = (int((at + ahead) * page_count / _PIECES) for at in (start, stop))
        bitmap.set_range(first_page + low, high - low)
        start = stop


def _later_half(steps: Sequence[tuple[int, float]]) -> int:
    """Return the number of the step in which half of the CPU time has passed."""
    half_ns, passed_ns = sum(cpu_ns for cpu_ns, _ in steps) / 2, 0
    for number, (cpu_ns, _) in enumerate(steps):
        passed_ns += cpu_ns
        if passed_ns > half_ns:
            return number
    return len(steps) - 1
