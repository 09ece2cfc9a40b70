"""The course of a migration so far in few points, from which a page draws its picture."""

import msgspec

from vmferry.control.asking.progress import Progress
from vmferry.control.telling.outlook import Outlook
from vmferry.units import whole_ms

MAX_POINTS = 400


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One moment; what nobody knows is None."""

    elapsed_ms: int
    remaining_bytes: int | None
    bandwidth_bytes_per_s: float | None
    dirty_bytes_per_s: float | None
    throttle_percent: int | None
    least_left_ms: int | None
    most_left_ms: int | None


class Sketch:
    """Keeps at most `MAX_POINTS`, at equal distances of time: where there are more, every second one is dropped."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        """Replaced as a whole, never changed."""
        self._distance_ms = 1

    def add(self, progress: Progress, outlook: Outlook) -> None:
        """Add a moment, if it is far enough from the last one."""
        elapsed_ms = progress.elapsed_ms
        if elapsed_ms is None or (self.points and elapsed_ms - self.points[-1].elapsed_ms < self._distance_ms):
            return
        points = [*self.points, _point(elapsed_ms, progress, outlook)]
        if len(points) > MAX_POINTS:
            points = points[::2]
            self._distance_ms = max(1, (points[-1].elapsed_ms - points[0].elapsed_ms) // (len(points) - 1))
        self.points = points


def _point(elapsed_ms: int, progress: Progress, outlook: Outlook) -> Point:
    return Point(
        elapsed_ms=elapsed_ms,
        remaining_bytes=progress.remaining_bytes,
        bandwidth_bytes_per_s=progress.bandwidth_bytes_per_s,
        dirty_bytes_per_s=progress.dirty_bytes_per_s,
        throttle_percent=progress.throttle_percent,
        least_left_ms=whole_ms(outlook.least_s),
        most_left_ms=whole_ms(outlook.most_s),
    )
