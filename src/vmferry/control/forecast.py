"""How far a migration is and how long it may take, with the pages that will have to be sent again.

Memory that is left to send shrinks by the bandwidth and grows by the dirty rate, until the rest fits the downtime. What
the monitor calls remaining is what the last sync has found; what was dirtied since then is added here. At best nothing
more is dirtied, at worst the guest goes on as it does; where that does not end, the migration does not converge.
"""

from dataclasses import dataclass

from vmferry.control.progress import Progress

_SMOOTHING = 0.2
"""The weight of the newest bandwidth, as QEMU's is that of the last 100 ms only."""


@dataclass(frozen=True)
class Outlook:
    """What there is to expect."""

    percent: int | None
    """Elapsed time as a share of all that is expected; 100 only at the end. None if there is no telling."""
    converges: bool | None
    """False if the guest dirties its memory as fast as it is sent, or faster; None before anybody knows."""
    least_s: float | None
    """Time still needed if the guest dirtied nothing more; None before anything was sent."""
    most_s: float | None
    """Time still needed if all goes on as it does; None if it would not end, or nobody knows yet."""


class Forecast:
    """Looks ahead in one migration."""

    def __init__(self, downtime_limit_ms: int) -> None:
        self._downtime_limit_s = downtime_limit_ms / 1000
        self._bytes_per_s = 0.0
        self._synced = (0, 0)
        """The newest dirty-sync-count, and the elapsed time when it was seen first."""

    def update(self, progress: Progress) -> Outlook:
        """Take another answer of `query-migrate` into account."""
        if progress.bandwidth_bytes_per_s:
            weight = _SMOOTHING if self._bytes_per_s else 1.0
            self._bytes_per_s += weight * (progress.bandwidth_bytes_per_s - self._bytes_per_s)
        elapsed_ms, sync_count = progress.elapsed_ms or 0, progress.dirty_sync_count or 0
        if sync_count != self._synced[0]:
            self._synced = (sync_count, elapsed_ms)
        if progress.status == "completed":
            return Outlook(100, converges=True, least_s=0.0, most_s=0.0)
        if not self._bytes_per_s or not progress.total_bytes:
            return Outlook(None, converges=None, least_s=None, most_s=None)
        least_s = self._excess_bytes(progress.remaining_bytes or 0) / self._bytes_per_s
        if sync_count < 2 and not progress.in_postcopy:
            # The first pass tells nothing of the dirty rate. As much again will be sent for what is dirtied meanwhile.
            expected_s = least_s + progress.total_bytes / self._bytes_per_s
            return Outlook(_percent(elapsed_ms, expected_s), converges=None, least_s=least_s, most_s=None)
        most_s = self._most_s(progress, (elapsed_ms - self._synced[1]) / 1000)
        if most_s is None:
            return Outlook(None, converges=False, least_s=least_s, most_s=None)
        return Outlook(_percent(elapsed_ms, most_s), converges=True, least_s=least_s, most_s=most_s)

    def _most_s(self, progress: Progress, since_sync_s: float) -> float | None:
        dirty_bytes_per_s = 0.0 if progress.in_postcopy else progress.dirty_bytes_per_s or 0.0
        shrinks_by = self._bytes_per_s - dirty_bytes_per_s
        if shrinks_by <= 0:
            return None
        left_bytes = (progress.remaining_bytes or 0) + dirty_bytes_per_s * since_sync_s
        return self._excess_bytes(min(left_bytes, progress.total_bytes or left_bytes)) / shrinks_by

    def _excess_bytes(self, left_bytes: float) -> float:
        """Return how much is left beyond what may be sent while the guest stands still."""
        return max(0.0, left_bytes - self._bytes_per_s * self._downtime_limit_s)


def _percent(elapsed_ms: int, left_s: float) -> int:
    elapsed_s = elapsed_ms / 1000
    return min(99, int(100 * elapsed_s / max(1e-3, elapsed_s + left_s)))
