"""What an operator allows a migration to cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from vmferry.errors import UsageError
from vmferry.units import MS_PER_S

MAX_DOWNTIME_MS = 2000 * MS_PER_S
"""The highest downtime limit, as in QEMU (`MAX_MIGRATE_DOWNTIME`)."""


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

    @property
    def bounds_loss(self) -> bool:
        """True if there is a bound to what the guest may lose."""
        return self.max_guest_loss_percent is not None or self.max_guest_loss_ns is not None

    def check(self) -> None:
        """Raise UsageError for what no migration can keep."""
        if self.deadline_ns is not None and self.deadline_ns <= 0:
            raise UsageError("to finish by 0 s leaves no time to migrate; give more, such as 10min")

    def applied_to(self, parameters: Mapping[str, object], current: Mapping[str, object]) -> dict[str, object]:
        """Return migration parameters that keep throttle and downtime within these limits.

        `current` are the values of those that are not among `parameters`.
        """
        bounds = {
            "max-cpu-throttle": self.max_throttle_percent,
            "cpu-throttle-initial": self.max_throttle_percent,
            "downtime-limit": self.max_downtime_ms,
        }
        changed = dict(parameters)
        for name, bound in bounds.items():
            value = parameters.get(name, current.get(name))
            if bound is not None and not (isinstance(value, int) and value <= bound):
                changed[name] = bound
        return changed


NO_LIMITS = Limits()
