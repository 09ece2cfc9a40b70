"""What a convergence policy sees and what it answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SyncSample:
    """One accepted period between two dirty syncs (QEMU `migration_trigger_throttle`)."""

    period_ns: int
    dirty_bytes: int
    """Pages found newly dirty in the period, times the page size."""
    sent_bytes: int
    """All bytes put on the wire in the period."""
    throttle_percent: int
    """The throttle in force during the period; 0 is none."""


@dataclass(frozen=True)
class ThrottleSettings:
    """The migration parameters a policy obeys; they may change while a migration runs."""

    trigger_threshold_percent: int = 50
    initial_percent: int = 20
    increment_percent: int = 10
    maximum_percent: int = 99
    tailslow: bool = False
    responsive: bool = False
    """`cpu-responsive-throttle`: use the dirty-ratio criterion too."""


@dataclass(frozen=True)
class Decision:
    """The throttle to apply from now on, and why."""

    throttle_percent: int
    reason: str
    dirty_rate_high: bool = False
    dirty_ratio_high: bool = False
    dirty_ratio_percent: int = 0
    """100 x dirty / sent of this period; 0 if nothing was sent."""
    previous_dirty_ratio_percent: int = 0
