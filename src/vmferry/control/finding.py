"""Finds how fast a driven guest dirties memory.

At the end of an iteration QEMU tells its own `dirty-pages-rate`. Inside of one it is measured, which takes the place of
the background sync.
"""

from vmferry.control.asking.progress import Progress
from vmferry.control.asking.sensors import DirtyRate, DirtyRateSensor
from vmferry.convergence.sensing import RateMeasured, RateSeen

Finding = tuple[RateSeen | RateMeasured | None, DirtyRate | None]
"""What there is to decide on, and the measurement that has found it; each None if there is none."""


class RateFinder:
    """Finds the dirty rates of one migration; one that was decided on is not found again."""

    def __init__(self, sensor: DirtyRateSensor) -> None:
        self._sensor = sensor
        self._evaluated = (1, 0.0)
        """QEMU's dirty-sync-count and dirty rate at the last evaluation."""
        self._syncs_before = 0
        """QEMU's dirty-sync-count when the measurement under way began."""

    @property
    def measuring(self) -> bool:
        """True while a measurement of ours is under way."""
        return self._sensor.measuring

    def measure(self, window_ns: int | None, progress: Progress) -> None:
        """Begin a measurement of that length, or of the usual one. Raises CommandError if the VM cannot."""
        self._sensor.start(window_ns)
        self._syncs_before = progress.dirty_sync_count or 0

    def find(self, progress: Progress) -> Finding:
        """Return what the measurement that is over has found, or else QEMU's own rate, if that is new."""
        own_bytes_per_s = progress.dirty_bytes_per_s or 0.0
        is_new = self._is_new(progress)
        if self._sensor.measuring:
            rate = self._sensor.fetch()
            if rate is None:
                return None, None
            parts = 1 + max(0, (progress.dirty_sync_count or 0) - self._syncs_before)
            # A measurement sees a page once; several short iterations see it each time.
            bytes_per_s = max(rate.dirty_bytes_per_s, own_bytes_per_s if is_new else 0)
            return RateMeasured(bytes_per_s, rate.window_ns, parts, rate.each_bytes_per_s), rate
        if is_new:
            self._sensor.calibrate(own_bytes_per_s)
            return RateSeen(own_bytes_per_s), None
        return None, None

    def evaluated(self, progress: Progress) -> None:
        """Take note that what was found at that poll was decided on."""
        self._evaluated = (progress.dirty_sync_count or 0, progress.dirty_bytes_per_s or 0)

    def _is_new(self, progress: Progress) -> bool:
        """True if an iteration has ended since the last evaluation, and told QEMU a new dirty rate."""
        sync_count, bytes_per_s = self._evaluated
        return (progress.dirty_sync_count or 0) > sync_count and (progress.dirty_bytes_per_s or 0) != bytes_per_s
