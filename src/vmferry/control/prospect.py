"""Says early that a migration does not converge, although the guest is slowed as much as is allowed."""

from collections.abc import Callable

from vmferry.control.progress import Progress
from vmferry.units import format_size

_HOPELESS_PERCENT = 95
"""There is no getting ahead if this share of what is sent is dirtied again meanwhile."""
_IN_A_ROW = 2


class Prospect:
    """Looks at one evaluation after the other, and tells once."""

    def __init__(self, highest_percent: int, tell: Callable[[str], None]) -> None:
        """`highest_percent` is the highest throttle that is allowed; 0 is none."""
        self._highest_percent = highest_percent
        self._tell = tell
        self._hopeless = 0
        self._syncs = 0
        self._period_start = (0, 0)
        """The elapsed time in ms and the bytes sent at the newest dirty sync."""

    def evaluated(self, throttle_percent: int, dirty_bytes: int, sent_bytes: int) -> None:
        """Judge a period in which that throttle was in force."""
        hopeless = throttle_percent >= self._highest_percent and 0 < sent_bytes * _HOPELESS_PERCENT <= 100 * dirty_bytes
        self._hopeless = self._hopeless + 1 if hopeless else 0
        if self._hopeless == _IN_A_ROW:
            dirty = f"dirty {format_size(dirty_bytes)} of {format_size(sent_bytes)} sent"
            self._tell(f"{throttle_percent} % does not converge: {dirty}; it is the highest throttle allowed")
            self._highest_percent = 101  # once

    def observe(self, progress: Progress) -> None:
        """Judge the iteration that has ended, if one has, of a VM that slows its guest itself."""
        syncs = progress.dirty_sync_count or 0
        if syncs > self._syncs:
            elapsed_ms, sent_bytes = progress.elapsed_ms or 0, progress.sent_bytes or 0
            start_ms, start_bytes = self._period_start
            dirty_bytes = round((progress.dirty_bytes_per_s or 0) * (elapsed_ms - start_ms) / 1000)
            if self._syncs > 1:  # before, there was nothing to be dirtied again
                self.evaluated(progress.throttle_percent or 0, dirty_bytes, sent_bytes - start_bytes)
            self._syncs, self._period_start = syncs, (elapsed_ms, sent_bytes)
