"""What a body senses of a migration, and what a policy is shown of it.

Times are nanoseconds of the body's clock, sizes are bytes, and both are of the whole migration unless they say so.
"""

from dataclasses import dataclass, field
from enum import Flag, auto

from vmferry.convergence.limits import NO_LIMITS, Limits
from vmferry.convergence.written import Written


class Body(Flag):
    """What a body can do when it is told to."""

    THROTTLE = auto()
    PER_VCPU = auto()
    """It can throttle each vCPU by its own."""
    MEASURE = auto()
    DOWNTIME_LIMIT = auto()
    SWITCH_OVER = auto()
    POSTCOPY = auto()


@dataclass(frozen=True)
class SyncSeen:
    """A dirty sync was made."""

    newly_dirty_bytes: int
    """What was written since the sync before and did not wait to be sent anyway."""
    dirty_bytes: int | None = None
    """What was written since then, whether it waited or not; None if the body cannot tell."""
    vcpu_dirty_bytes: tuple[int, ...] | None = None
    """What each vCPU wrote of it; None if the body cannot tell."""


@dataclass(frozen=True)
class RateSeen:
    """The VM itself has told, at the end of an iteration, how fast its guest dirtied memory."""

    dirty_bytes_per_s: float


@dataclass(frozen=True)
class RateMeasured:
    """The measurement that was asked for by `Measure` is over."""

    dirty_bytes_per_s: float
    window_ns: int | None = None
    """How long it lasted, if that is not the time from the asking to the telling."""
    parts: int = 1
    """In how many parts, in each of which a page counts once: a migration that syncs meanwhile begins a new one."""
    vcpu_dirty_bytes_per_s: tuple[float, ...] | None = None
    """The rate of each vCPU; None if the VM does not tell."""


Found = SyncSeen | RateSeen | RateMeasured


@dataclass(frozen=True, kw_only=True)
class Sensed:
    """One look at a migration."""

    now_ns: int
    sent_bytes: int
    """What was sent. A body that can tell counts pages as large as they are in memory, whatever was on the wire."""
    memory_bytes: int
    """The size of the guest."""
    remaining_bytes: int
    """What is known to be left to send; without memory that nobody has touched where the body knows of it."""
    again_bytes: int | None
    """What was sent in the running pass and is known to be dirty again; None if the body cannot tell."""
    threshold_bytes: int
    """What can be sent within the downtime limit. When no more than this is left, the guest moves."""
    bandwidth_bytes_per_s: float
    """The bandwidth that was measured last, of what `sent_bytes` counts; 0 before the first measurement."""
    downtime_limit_ns: int
    iteration_count: int
    dirty_sync_count: int
    max_bandwidth_bytes_per_s: int = 0
    """The rate limit; 0 is none."""
    reading_ns: int = 0
    """How long it may take to read that memory, and find it zero, as far as it is still to be read."""
    wire_share: float = 1.0
    """What each of the bytes that `sent_bytes` counts took on the wire lately; 1 where pages go as they are."""
    throttle_slice_ns: int = 0
    """How long a throttled vCPU runs between two sleeps, the first of which comes first; 0 if it runs evenly slower."""
    found: Found | None = None
    """What the body has just found out; None at a mere look, which only tells that time has passed."""
    measuring: bool = False
    """True while a measurement that was asked for goes on."""
    rearms_late: bool = False
    """True if a page that waits is logged anew only just before it is sent, so that what is written before that does
    not make it dirty again."""
    syncs_wait: bool = False
    """True if a dirty sync waits until every vCPU has run, however long a throttle lets it sleep."""
    vcpu_throttle_percents: tuple[int, ...] | None = None
    """The throttle in force of each vCPU; None if the body cannot throttle them one by one."""


@dataclass(frozen=True, kw_only=True)
class Period:
    """A time over which it is known what the guest dirtied and what was sent (QEMU `migration_trigger_throttle`)."""

    duration_ns: int
    dirty_bytes: int
    """How much became dirty in the period. Pages that waited to be sent anyway do not count."""
    sent_bytes: int
    """How much was sent in the period, as `Sensed` counts it."""
    throttle_percent: int
    """The throttle during the period; 0 is none."""
    vcpu_throttle_percents: tuple[int, ...] | None = None
    """That of each vCPU at its end; None if the body cannot throttle them one by one."""
    vcpu_dirty_bytes: tuple[int, ...] | None = None
    """What each vCPU dirtied in the period, pages that waited included; None if the body cannot tell."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What a policy sees at a look."""

    sensed: Sensed
    period: Period | None
    """The period that has just ended; None at a mere look."""
    written: Written | None
    """What has just been found to be written since the last time one looked; None at a mere look."""
    elapsed_ns: int
    """The time since the migration began."""
    iteration_began: bool
    """True at the first look at each iteration."""
    iteration_remaining_bytes: int
    """How much there was to send when the iteration began: what was left, and what the guest had dirtied."""
    throttle_percent: int
    """The throttle now; 0 is none."""
    lost_ns: int
    """How much time throttles have taken from each vCPU so far."""
    vcpu_count: int
    still_ns: int
    """How long the link has stood still; 0 if it carries something."""
    surveyed: tuple[Written, ...] = ()
    """What was found before it was looked on, mostly before it began; the same in all looks."""
    limits: Limits = field(default=NO_LIMITS)
    """What the operator allows; a limit that is None does not exist."""
