"""Real time."""

import time

from vmferry.units import NS_PER_S


class MonotonicClock:
    """The machine's monotonic clock (implements the `Clock` port)."""

    def now_ns(self) -> int:
        """Return nanoseconds since an arbitrary moment; never goes back."""
        return time.monotonic_ns()

    def sleep_ns(self, duration_ns: int) -> None:
        """Let `duration_ns` pass."""
        time.sleep(duration_ns / NS_PER_S)
