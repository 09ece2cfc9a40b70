"""Tells early that a migration does not converge, although the guest is slowed as much as is allowed."""

from vmferry.convergence.sensing import Period
from vmferry.units import format_size

_HOPELESS_PERCENT = 95
"""There is no getting ahead if this share of what is sent is dirtied again meanwhile."""
_IN_A_ROW = 2


class Prospect:
    """Looks at one period after the other, and tells once."""

    def __init__(self) -> None:
        self._hopeless = 0
        self._is_told = False

    def judge(self, period: Period, highest_percent: int) -> str | None:
        """Return that it is hopeless, if it is and was not told yet, where that is the highest throttle allowed."""
        slowed_most = period.throttle_percent >= highest_percent
        hopeless = slowed_most and 0 < period.sent_bytes * _HOPELESS_PERCENT <= 100 * period.dirty_bytes
        self._hopeless = self._hopeless + 1 if hopeless else 0
        if self._hopeless < _IN_A_ROW or self._is_told:
            return None
        self._is_told = True
        dirty = f"dirty {format_size(period.dirty_bytes)} of {format_size(period.sent_bytes)} sent"
        return f"{period.throttle_percent} % does not converge: {dirty}; it is the highest throttle allowed"
