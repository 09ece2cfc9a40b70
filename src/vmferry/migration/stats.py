"""The counters of a migration, its bandwidth windows and its downtime.

Formulas are QEMU's (`migration.c`: `migration_update_counters`), with bytes and nanoseconds inside.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_MS, NS_PER_S
from vmferry.wire.messages import Pages

WINDOW_NS = 100 * NS_PER_MS
"""A bandwidth window lasts at least this long; the rate limit is per window, too."""


@dataclass(frozen=True)
class Window:
    """A finished bandwidth window."""

    duration_ns: int
    sent_bytes: int


class BandwidthMeter:
    """Measures bandwidth over windows and tells how much of a window's rate limit is left."""

    def __init__(self, now_ns: int, sent_bytes: int) -> None:
        self.bytes_per_s = 0.0
        self._start_ns = now_ns
        self._start_bytes = sent_bytes

    def update(self, now_ns: int, sent_bytes: int) -> Window | None:
        """Close the window if it has lasted long enough and start the next; return the closed one."""
        duration_ns = now_ns - self._start_ns
        if duration_ns < WINDOW_NS:
            return None
        window = Window(duration_ns, sent_bytes - self._start_bytes)
        self.bytes_per_s = window.sent_bytes * NS_PER_S / duration_ns
        self._start_ns, self._start_bytes = now_ns, sent_bytes
        return window

    def left_bytes(self, sent_bytes: int, limit_bytes_per_s: int) -> int:
        """Return what may still be sent in this window; 0 or less means wait. The limit is not 0."""
        return max(1, limit_bytes_per_s * WINDOW_NS // NS_PER_S) - (sent_bytes - self._start_bytes)

    def window_end_ns(self) -> int:
        """Return when the running window may be closed."""
        return self._start_ns + WINDOW_NS


class Downtime:
    """How long the guest stood still, and what for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start_ns = clock.now_ns()
        self._end_ns: int | None = None
        self.parts_ns: dict[str, int] = {}

    @property
    def total_ns(self) -> int:
        """Time since the guest was stopped, up to the end or to now."""
        return (self._end_ns or self._clock.now_ns()) - self._start_ns

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure one part of the downtime; it ends with the last part."""
        start_ns = self._clock.now_ns()
        try:
            yield
        finally:
            self._end_ns = self._clock.now_ns()
            self.parts_ns[name] = self._end_ns - start_ns


@dataclass
class Counters:
    """What a migration has done so far."""

    zero_pages: int = 0
    normal_pages: int = 0
    delta_pages: int = 0
    """Pages of which only what changed was sent."""
    dirty_sync_count: int = 0
    iteration_count: int = 0
    dirty_pages_rate: int = 0
    """Pages per second at the last accepted evaluation."""
    sync_ns: int = 0
    """How long dirty syncs have taken."""
    dirty_bytes_last_sync: int = 0
    """Bytes that were to be sent right after the last sync."""
    max_throttle_percent: int = 0
    precopy_bytes: int = 0
    """How many bytes were sent while the guest ran."""
    pages_per_s: int = 0
    _window_pages: int = field(default=0, repr=False)

    @property
    def pages(self) -> int:
        """Pages sent, zero ones included."""
        return self.zero_pages + self.normal_pages + self.delta_pages

    def count(self, message: Pages) -> None:
        """Take note that a message was sent."""
        self.zero_pages += message.zero.page_count
        if message.is_delta:
            self.delta_pages += message.data.page_count
        else:
            self.normal_pages += message.data.page_count

    def close_window(self, window: Window) -> None:
        """Derive the page rate of a finished bandwidth window."""
        self.pages_per_s = (self.pages - self._window_pages) * NS_PER_S // window.duration_ns
        self._window_pages = self.pages
