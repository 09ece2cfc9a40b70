"""What a body senses of a migration, and what a policy is shown of it.

Times are nanoseconds of the body's clock, sizes are bytes, and both are of the whole migration unless they say so.
"""

from dataclasses import dataclass, field
from enum import Flag, auto

from vmferry.convergence.curve import Written
from vmferry.convergence.limits import NO_LIMITS, Limits


class Body(Flag):
    """What a body can do when it is told to."""

    THROTTLE = auto()
    MEASURE = auto()
    DOWNTIME_LIMIT = auto()
    SWITCH_OVER = auto()
    POSTCOPY = auto()


@dataclass(frozen=True)
class Synced:
    """A dirty sync was made."""

    newly_dirty_bytes: int
    """Written since the sync before, and not waiting to be sent anyway."""
    dirty_bytes: int | None = None
    """All that was written since then; None where the body cannot tell."""


@dataclass(frozen=True)
class RateSeen:
    """The VM itself has told, at the end of an iteration, how fast its guest dirtied memory."""

    dirty_bytes_per_s: float


@dataclass(frozen=True)
class RateMeasured:
    """The measurement that was asked for by `Measure` is over."""

    dirty_bytes_per_s: float


Found = Synced | RateSeen | RateMeasured


@dataclass(frozen=True, kw_only=True)
class Sensed:
    """One look at a migration."""

    now_ns: int
    sent_bytes: int
    memory_bytes: int
    """The size of the guest."""
    remaining_bytes: int
    """Known to be still to be sent."""
    again_bytes: int | None
    """Of what was sent in the running pass, so much is known to be dirty again; None where the body cannot tell."""
    threshold_bytes: int
    """What can be sent within the downtime limit; when no more remains, the guest moves."""
    bandwidth_bytes_per_s: float
    """As it was measured last; 0 if it was not yet."""
    downtime_limit_ns: int
    iteration_count: int
    dirty_sync_count: int
    found: Found | None = None
    """None is a mere look: time has passed."""


@dataclass(frozen=True, kw_only=True)
class Period:
    """A time over which it is known what the guest dirtied and what was sent (QEMU `migration_trigger_throttle`)."""

    duration_ns: int
    dirty_bytes: int
    """Newly dirty in the period: pages that waited to be sent anyway do not count."""
    sent_bytes: int
    """Put on the wire in the period."""
    throttle_percent: int
    """In force during the period; 0 is none."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What a policy sees at a look."""

    sensed: Sensed
    period: Period | None
    """The period that has just ended; None at a mere look."""
    written: Written | None
    """What was just found to be written since the dirty log was last looked at; None at a mere look."""
    elapsed_ns: int
    """Since the migration began."""
    iteration_began: bool
    """True at the first look that is shown of an iteration."""
    iteration_remaining_bytes: int
    """What there was to be sent when the iteration began: the rest before it, and what the guest had dirtied."""
    throttle_percent: int
    """In force now; 0 is none."""
    lost_ns: int
    """What throttles have taken so far, of each vCPU."""
    vcpu_count: int
    still_ns: int
    """For how long the link has stood still; 0 if it does not."""
    limits: Limits = field(default=NO_LIMITS)
    """What the operator allows; None in it is no limit."""
