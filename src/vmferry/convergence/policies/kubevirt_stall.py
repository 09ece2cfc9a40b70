"""KubeVirt's stall detector: has a migration stopped to come closer to its end, and is this a good moment to end it?

Iterations are compared by what there is to be sent when they begin. That goes up and down, so only what is older than a
window counts, and a good moment is one with about as little as the best has had. If none comes for a window, the least
of what was seen since the stall will do, then the next least, and each wait is shorter.

Source: KubeVirt's enhancement proposal 248, "Defining Stall" and "Iterative Switch-over Relaxation".
"""

import heapq
from collections import deque

from vmferry.convergence.policies.kubevirt_settings import KubeVirtSettings
from vmferry.convergence.sensing import View
from vmferry.units import NS_PER_MS, NS_PER_S

_SAMPLE_INTERVAL_NS = 400 * NS_PER_MS
"""How often KubeVirt asks."""


class StallDetector:
    """Shown the beginning of every iteration."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, int]] = deque()
        """The iterations within the window: when each began, and how much there was to send then."""
        self._oldest_bytes: int | None = None
        """The least that there was to send in the iterations before the window."""
        self._relaxation: Relaxation | None = None
        """What is waited for since the migration has stalled; None before."""

    def good_moment(self, view: View, settings: KubeVirtSettings) -> bool:
        """Return True if the migration has stalled, and this iteration begins with about as little as it gets."""
        now_ns, remaining_bytes = view.elapsed_ns, view.iteration_remaining_bytes
        if self._relaxation:
            return self._relaxation.good_moment(now_ns, remaining_bytes, settings)
        window_ns = settings.stall_progress_timeout_s * NS_PER_S
        self._recent.append((now_ns, remaining_bytes))
        while self._recent and self._recent[0][0] <= now_ns - window_ns:
            _, old_bytes = self._recent.popleft()
            self._oldest_bytes = old_bytes if self._oldest_bytes is None else min(self._oldest_bytes, old_bytes)
        if self._oldest_bytes is None or not _stalled(remaining_bytes, self._oldest_bytes, settings):
            return False
        best_bytes = min([self._oldest_bytes, *(recent_bytes for _, recent_bytes in self._recent)])
        self._relaxation = Relaxation(best_bytes, now_ns, window_ns)
        return near(remaining_bytes, best_bytes, settings)


class Relaxation:
    """What is waited for after a stall, and how long."""

    def __init__(self, best_bytes: int, now_ns: int, patience_ns: float) -> None:
        self.best_bytes = best_bytes
        self._patience_ns = patience_ns
        self._deadline_ns = now_ns + patience_ns
        self._seen_bytes: list[int] = []
        """A heap of what iterations since the stall had to send."""

    def good_moment(self, now_ns: int, remaining_bytes: int, settings: KubeVirtSettings) -> bool:
        """Return True if there is about as little to be sent as is waited for, which may be more from now on."""
        heapq.heappush(self._seen_bytes, remaining_bytes)
        if now_ns >= self._deadline_ns and not near(remaining_bytes, self.best_bytes, settings):
            self.best_bytes = heapq.heappop(self._seen_bytes)
            self._patience_ns *= settings.patience_window_decay_factor
            self._deadline_ns = now_ns + self._patience_ns
        return near(remaining_bytes, self.best_bytes, settings)


class SmoothBandwidth:
    """An exponentially weighted average of the bandwidths that are measured."""

    def __init__(self) -> None:
        self._bytes_per_s: float | None = None
        self._next_ns = 0

    def look(self, view: View, alpha: float) -> None:
        """Take a sample, at most one per 400 ms."""
        sample = view.sensed.bandwidth_bytes_per_s
        if sample <= 0 or view.elapsed_ns < self._next_ns:
            return
        self._next_ns = view.elapsed_ns + _SAMPLE_INTERVAL_NS
        old = sample if self._bytes_per_s is None else self._bytes_per_s
        self._bytes_per_s = alpha * sample + (1 - alpha) * old

    def time_ns(self, size_bytes: int) -> int | None:
        """Return how long it takes to send this much; None while no bandwidth is known."""
        return round(size_bytes * NS_PER_S / self._bytes_per_s) if self._bytes_per_s else None


def near(remaining_bytes: int, best_bytes: int, settings: KubeVirtSettings) -> bool:
    """Tell whether that is within the margin of the best, or less."""
    return remaining_bytes * 100 <= best_bytes * (100 + settings.stall_margin_percent)


def _stalled(remaining_bytes: int, oldest_bytes: int, settings: KubeVirtSettings) -> bool:
    return remaining_bytes * 100 >= oldest_bytes * (100 - settings.stall_margin_percent)
