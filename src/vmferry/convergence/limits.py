"""What an operator allows a migration to cost."""

from dataclasses import dataclass
from enum import StrEnum


class OnLimit(StrEnum):
    """What to do when the deadline or the guest's loss is over its limit."""

    CANCEL = "cancel"
    """The guest stays, unthrottled."""
    SWITCHOVER = "switchover"
    """Allow more downtime, so that the guest moves now."""
    CONTINUE = "continue"
    """Only say so."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that operators set; None is no bound."""

    deadline_ns: int | None = None
    """How long the whole migration may take."""
    max_guest_loss_percent: float | None = None
    """How much of the work that it could have done since the migration began the guest may lose."""
    max_guest_loss_ns: int | None = None
    """How much vCPU time the guest may lose."""
    max_throttle_percent: int | None = None
    max_downtime_ms: int | None = None
    """Neither the downtime limit nor what `SWITCHOVER` allows exceeds it."""
    on_limit: OnLimit = OnLimit.CANCEL


NO_LIMITS = Limits()
