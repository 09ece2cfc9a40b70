"""Judges the iterations of a VM that slows its guest itself, as the brain judges its periods."""

from vmferry.control.asking.progress import Progress
from vmferry.convergence.prospect import Prospect
from vmferry.convergence.sensing import Period
from vmferry.units import NS_PER_MS


class OwnIterations:
    """Looks at the VM's progress, and tells once that its highest throttle does not help."""

    def __init__(self, highest_percent: int) -> None:
        """`highest_percent` is the highest throttle that the VM uses."""
        self._highest_percent = highest_percent
        self._prospect = Prospect()
        self._syncs = 0
        self._start = (0, 0)
        """The elapsed time in ms and the bytes sent at the newest dirty sync."""

    def observe(self, progress: Progress) -> str | None:
        """Return what there is to tell of the iteration that has ended, if one has."""
        syncs, before = progress.dirty_sync_count or 0, self._syncs
        if syncs <= before:
            return None
        elapsed_ms, sent_bytes = progress.elapsed_ms or 0, progress.sent_bytes or 0
        (start_ms, start_bytes), self._start, self._syncs = self._start, (elapsed_ms, sent_bytes), syncs
        if before <= 1:  # there was nothing yet to be dirtied again
            return None
        period = Period(
            duration_ns=(elapsed_ms - start_ms) * NS_PER_MS,
            dirty_bytes=round((progress.dirty_bytes_per_s or 0) * (elapsed_ms - start_ms) / 1000),
            sent_bytes=sent_bytes - start_bytes,
            throttle_percent=progress.throttle_percent or 0,
        )
        return self._prospect.judge(period, self._highest_percent)
