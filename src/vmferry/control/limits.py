"""What a migration may cost, and what to do when it costs more."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from vmferry.control.drive import cancel
from vmferry.control.qmp_client import QmpClient
from vmferry.units import format_duration

_NS_PER_S = 1_000_000_000
_MS_MAX = 2_000_000
"""The longest downtime limit that there is."""


class OnLimit(StrEnum):
    """What to do when a limit is hit."""

    CANCEL = "cancel"
    """The guest stays, unthrottled."""
    SWITCHOVER = "switchover"
    """Allow more downtime, so that the guest moves now."""
    CONTINUE = "continue"
    """Only say so."""


@dataclass(frozen=True)
class Limits:
    """Bounds that operators set; None is no bound."""

    deadline_ns: int | None = None
    guest_loss_percent: float | None = None
    """Of the work that the guest could have done since the migration began."""
    on_limit: OnLimit = OnLimit.CANCEL
    max_downtime_ms: int = _MS_MAX
    """What downtime to allow for `SWITCHOVER`."""

    def exceeded(self, elapsed_ns: int, throttled_ns: int) -> str | None:
        """Return which limit is hit, if any. `throttled_ns` is the integral of the throttle over time."""
        if self.deadline_ns is not None and elapsed_ns > self.deadline_ns:
            return f"the deadline of {format_duration(self.deadline_ns)} has passed"
        # In its first second a share of the work done says nothing.
        if self.guest_loss_percent is not None and elapsed_ns > _NS_PER_S:
            loss_percent = 100 * throttled_ns / elapsed_ns
            if loss_percent > self.guest_loss_percent:
                return f"the guest has lost {loss_percent:.0f} % of its work, more than {self.guest_loss_percent:g} %"
        return None


NO_LIMITS = Limits()


class LimitKeeper:
    """Watches one migration and acts, once, when a limit is hit; `tell` is told."""

    def __init__(self, limits: Limits, monitor: QmpClient, tell: Callable[[str], None]) -> None:
        self._limits = limits
        self._monitor = monitor
        self._tell = tell
        self._start_ns = self._last_ns = time.monotonic_ns()
        self._throttled_ns = 0
        self._hit = False

    def observe(self, throttle_percent: int) -> None:
        """Account for the time since the last call, in which that throttle was in force."""
        now_ns = time.monotonic_ns()
        self._throttled_ns += (now_ns - self._last_ns) * throttle_percent // 100
        self._last_ns = now_ns
        reason = self._limits.exceeded(now_ns - self._start_ns, self._throttled_ns)
        if reason and not self._hit:
            self._hit = True
            self._act(reason)

    def _act(self, reason: str) -> None:
        self._tell(f"{reason}: {self._limits.on_limit}")
        if self._limits.on_limit is OnLimit.CANCEL:
            cancel(self._monitor)
        elif self._limits.on_limit is OnLimit.SWITCHOVER:
            self._monitor.execute("migrate-set-parameters", {"downtime-limit": self._limits.max_downtime_ms})
