"""How far a migration is and how long it may take, with the pages that will have to be sent again.

Memory that is left to send shrinks by the bandwidth and grows by the dirty rate, until the rest fits the downtime. At
best nothing more is dirtied, at worst the guest goes on as it does; where that does not end, there is no upper bound.
"""

from dataclasses import dataclass

from vmferry.control.drive import Progress

_SMOOTHING = 0.2
"""Weight of the newest bandwidth: QEMU's is that of the last 100 ms."""


@dataclass(frozen=True)
class Outlook:
    """What there is to expect."""

    percent: int
    """Of the way; never less than before, and 100 only at the end."""
    least_s: float | None
    """Time still needed if the guest dirtied nothing more; None before anything was sent."""
    most_s: float | None
    """Time still needed if all goes on as it does; None if it would not end, or nobody knows yet."""


class Forecast:
    """Looks ahead in one migration."""

    def __init__(self, downtime_limit_ms: int) -> None:
        self._downtime_limit_s = downtime_limit_ms / 1000
        self._bytes_per_s = 0.0
        self._percent = 0

    def update(self, progress: Progress) -> Outlook:
        """Take another answer of `query-migrate` into account."""
        if progress.bandwidth_bytes_per_s > 0:
            weight = _SMOOTHING if self._bytes_per_s else 1.0
            self._bytes_per_s += weight * (progress.bandwidth_bytes_per_s - self._bytes_per_s)
        least_s, most_s = self._least_s(progress), self._most_s(progress)
        if progress.status == "completed":
            self._percent = 100
        elif (left_s := self._expected_s(progress, least_s, most_s)) is not None:
            elapsed_s = progress.elapsed_ms / 1000
            self._percent = max(self._percent, min(99, int(100 * elapsed_s / max(1e-3, elapsed_s + left_s))))
        return Outlook(self._percent, least_s, most_s)

    def _expected_s(self, progress: Progress, least_s: float | None, most_s: float | None) -> float | None:
        """Return what to count as still ahead; None if there is no telling, so that progress stands still."""
        if least_s is not None and most_s is not None:
            return (least_s + most_s) / 2
        if least_s is not None and progress.dirty_sync_count < 2:
            # As much again will be sent for what is dirtied meanwhile.
            return least_s + progress.total_bytes / self._bytes_per_s
        return None

    def _least_s(self, progress: Progress) -> float | None:
        if not self._bytes_per_s or not progress.total_bytes:
            return None
        return self._excess_bytes(progress) / self._bytes_per_s

    def _most_s(self, progress: Progress) -> float | None:
        """The first iteration tells nothing of the dirty rate."""
        shrinks_by = self._bytes_per_s - progress.dirty_bytes_per_s
        if progress.dirty_sync_count < 2 or shrinks_by <= 0:
            return None
        return self._excess_bytes(progress) / shrinks_by

    def _excess_bytes(self, progress: Progress) -> float:
        """What is left beyond what may be sent while the guest stands still."""
        return max(0.0, progress.remaining_bytes - self._bytes_per_s * self._downtime_limit_s)
