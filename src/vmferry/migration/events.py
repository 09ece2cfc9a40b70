"""What a journal records. Each event is one line of JSON, tagged with its kind.

Times are nanoseconds of the migration's clock, sizes are bytes, pages are counts.
"""

from dataclasses import asdict
from enum import StrEnum
from typing import Self

import msgspec

from vmferry.bounds import Natural, Number
from vmferry.convergence.actions import Throttle
from vmferry.convergence.limits import Limits, OnLimit
from vmferry.migration.status import MigrationStatus

UNBOUNDED_BYTES = 1 << 62
"""The threshold where the guest is to be moved whatever is left."""


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", rename="kebab"):
    pass


class RecordedBy(StrEnum):
    """Who wrote a journal, which is how much there is in it."""

    VM = "vm"
    """The VM that migrated: everything, as it happened."""
    DRIVER = "driver"
    """The driver that decided from outside: its decisions, and what the VM's monitor told ten times per second."""
    OBSERVER = "observer"
    """Somebody who only looked on: what the monitor told. Why the VM throttled, if it did, is not known."""


class Started(_Event, tag="started", frozen=True):
    """A migration was accepted, or was found running."""

    page_size: int
    page_count: int
    vcpu_count: int
    auto_converge: bool
    parameters: dict[str, object]
    recorded_by: RecordedBy = RecordedBy.VM
    policy_digest: str | None = None
    figures: dict[str, float] = {}
    """The policy's own numbers, such as what it expects of that."""
    """A digest of the source of the policy that decides. None in old journals, and where nobody told it."""

    @property
    def decisions_known(self) -> bool:
        """True if what was decided on the throttle, if anything was, is in the journal."""
        return self.recorded_by is not RecordedBy.OBSERVER or not self.auto_converge


class Ordered(_Event, tag="order", frozen=True):
    """Whose migration it is, and the bounds that the operator has set; None is not known, or no bound.

    It is told from outside: the VM that migrates does not know what is wanted of it.
    """

    vm_name: str | None = None
    deadline_ns: Natural | None = None
    max_guest_loss_percent: Number | None = None
    max_guest_loss_ns: Natural | None = None
    max_throttle_percent: Natural | None = None
    max_downtime_ms: Natural | None = None
    on_limit: OnLimit = OnLimit.CANCEL

    @classmethod
    def of(cls, vm_name: str | None, limits: Limits) -> Self:
        """Return the event that tells of a VM's name and an operator's limits."""
        return cls(vm_name=vm_name, **asdict(limits))

    def limits(self) -> Limits:
        """Return the limits."""
        bounds = msgspec.structs.asdict(self)
        del bounds["vm_name"]
        return Limits(**bounds)


class StatusChanged(_Event, tag="status", frozen=True):
    """The migration went from one state to another; `reason` is set for failures."""

    old: MigrationStatus
    new: MigrationStatus
    reason: str = ""


class BandwidthWindow(_Event, tag="window", frozen=True):
    """A bandwidth window of at least 100 ms ended."""

    duration_ns: int
    sent_bytes: int
    remaining_bytes: int
    throttle_percent: int
    threshold_bytes: int
    saved_bytes: int = 0
    """By how much the pages that were sent are larger in memory. 0 in old journals."""


class LinkStalled(_Event, tag="link-stalled", frozen=True):
    """The link has stood still for a while, which does not count for decisions; or if it is `over`, it moves again."""

    duration_ns: int
    over: bool


class CompressionChosen(_Event, tag="compression", frozen=True):
    """It was measured whether compressing pays, with another result than before, or for the first time."""

    on: bool
    plain_bytes_per_s: int | None
    """How fast guest memory moved without it; None if that was not measured, as pages hardly shrink."""
    compressed_bytes_per_s: int | None
    ratio: float | None
    """How many times smaller compressed pages were so far."""


class Synced(_Event, tag="sync", frozen=True):
    """A dirty sync was made: an iteration's, a background one, or the last one of the stopped guest."""

    kind: str
    dirty_sync_count: int
    iteration_count: int
    newly_dirty_pages: int | None
    """How many of the dirty pages did not wait to be sent anyway; None if nobody told."""
    remaining_pages: int
    duration_ns: int | None
    """How long the sync took; None if it was seen from outside."""
    dirty_pages: int | None = None
    """How many pages were written since the sync before. None in old journals, if seen from outside, and where too few
    of those that waited to be sent were looked at to tell."""
    dirty_pages_error: int | None = None
    """The standard error of `dirty_pages`; 0 if every page was counted, None where it is not known."""
    zero_pages: int | None = None
    """How many pages were found to be zero so far, most of them unused memory. None in old journals."""
    waiting_pages: int | None = None
    """How many pages waited to be sent. Only told from outside, where it may be off by what is sent in 0.1 s."""


class Measured(_Event, tag="measured", frozen=True):
    """The dirty rate was measured from outside: that many pages were written in a window that has just ended."""

    window_ns: int
    dirty_pages: int
    """How many pages were written. A page counts once between two syncs, however often it was written."""
    sync_count: int
    """How many syncs of the migration fell into the window. After each of them QEMU counts a page anew."""
    mode: str
    """QEMU's `calc-dirty-rate` mode; what `page-sampling` tells is an estimate."""


class ThrottleSeen(_Event, tag="throttle", frozen=True):
    """Another throttle was in force than before, though no decision in this journal says so."""

    throttle_percent: int


class Lost(_Event, tag="lost", frozen=True):
    """This journal lacks some events up to now: how many, or None if nobody knows."""

    count: int | None


class SwitchoverBegan(_Event, tag="switchover", frozen=True):
    """The rest fits the downtime: the guest is about to be stopped."""

    remaining_bytes: int
    threshold_bytes: int
    verify: bool | None = None
    """Whether a digest of all memory is going to be compared; None in old journals."""
    verify_estimate_ns: int | None = None
    """How long that would take; None where it was not worked out."""


class SwitchoverFailed(_Event, tag="switchover-failed", frozen=True):
    """The guest stays here, as it was before: running, or paused."""

    stopped_ns: int
    """How long it was stopped for nothing."""


class Decided(_Event, tag="decision", frozen=True):
    """The throttle was decided on, at the end of a period that was evaluated or in between."""

    period_ns: int | None
    """How long the period was. This and the two figures after it are None if no period has ended."""
    dirty_bytes: int | None
    sent_bytes: int | None
    """What was sent, pages counted as large as they are in memory."""
    old_throttle_percent: int
    throttle_percent: int
    """That of all vCPUs, or the greatest."""
    reason: str
    figures: dict[str, float] = {}
    """The policy's own numbers."""
    vcpu_throttle_percents: list[int] | None = None
    """The throttle of each vCPU, where they are throttled one by one."""
    vcpu_dirty_bytes: list[int] | None = None
    """What each vCPU dirtied in the period, pages that waited included; None where nobody knows."""

    asked_percent: int | None = None
    """The throttle of all vCPUs alike that a policy asked for, where it was spread over them by what each dirties."""
    takes_time: bool = True
    """False if no time is taken, but what vCPUs dirty is limited; what that costs the guest nobody knows."""

    @property
    def mean_throttle_percent(self) -> float:
        """The throttle of a vCPU in the mean of all."""
        percents = self.vcpu_throttle_percents
        return sum(percents) / len(percents) if percents else self.throttle_percent

    @property
    def effective_percent(self) -> int:
        """The throttle of all vCPUs that slows what the guest dirties as much."""
        return round(self.mean_throttle_percent) if self.asked_percent is None else self.asked_percent

    @classmethod
    def of(cls, throttle: Throttle, old_percent: int, *, takes_time: bool = True) -> Self:
        """Return the event that tells of a decision that took the place of `old_percent`."""
        period = throttle.period
        return cls(
            period_ns=period.duration_ns if period else None,
            dirty_bytes=period.dirty_bytes if period else None,
            sent_bytes=period.sent_bytes if period else None,
            old_throttle_percent=old_percent,
            throttle_percent=throttle.percent,
            reason=throttle.reason,
            figures=dict(throttle.figures),
            vcpu_throttle_percents=_listed(throttle.vcpu_percents),
            asked_percent=throttle.asked_percent,
            takes_time=takes_time,
            vcpu_dirty_bytes=_listed(period.vcpu_dirty_bytes) if period else None,
        )


class Acted(_Event, tag="action", frozen=True):
    """Something else was decided on than a throttle: `what` is the kind of action."""

    what: str
    reason: str
    downtime_limit_ns: int | None = None
    """The limit that was set; None for other actions."""


class Shadowed(_Event, tag="shadow", frozen=True):
    """A policy that only looked on would have done this now, and nothing of it was done; `what` is as in `Acted`."""

    variant: str
    what: str
    reason: str
    throttle_percent: int | None = None
    """By how much it would slow the guest from now on; None for other actions."""
    downtime_limit_ns: int | None = None
    figures: dict[str, float] = {}
    """The policy's own numbers, such as what it expects of that."""


class Ended(_Event, tag="ended", frozen=True):
    """The migration is over. These are the figures of its whole course; None is what nobody has seen."""

    status: MigrationStatus
    total_time_ns: int | None
    downtime_ns: int | None
    downtime_parts_ns: dict[str, int]
    sent_bytes: int | None
    iteration_count: int | None
    dirty_sync_count: int | None
    max_throttle_percent: int | None
    error: str = ""
    verified: bool | None = None
    """Whether a digest of all memory was the same on both sides; None where it is not known."""
    policy_broken: bool = False
    """True if it was given up because its policy is broken."""


Event = (
    Started
    | Ordered
    | StatusChanged
    | BandwidthWindow
    | LinkStalled
    | CompressionChosen
    | Synced
    | Measured
    | Decided
    | Acted
    | Shadowed
    | ThrottleSeen
    | SwitchoverBegan
    | SwitchoverFailed
    | Lost
    | Ended
)


def _listed(numbers: tuple[int, ...] | None) -> list[int] | None:
    return None if numbers is None else list(numbers)
