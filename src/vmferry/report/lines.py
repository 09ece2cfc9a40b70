"""What happens to one migration while it runs, for scripts: JSON objects whose key `event` says of what kind each is.

They follow from the same events that a journal has, so that what is told live and what is told afterwards is the same.
"""

from typing import Any

import msgspec

from vmferry.control.asking.progress import Progress
from vmferry.control.telling.outlook import Outlook
from vmferry.convergence.variants import NO_AUTO_CONVERGE, label_of
from vmferry.migration.events import (
    Acted,
    Decided,
    Event,
    Lost,
    RecordedBy,
    Shadowed,
    Started,
    StatusChanged,
    ThrottleSeen,
)
from vmferry.units import NS_PER_MS, whole_ms


class _Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    elapsed_ms: int | None
    """How long the migration had run; null where nobody knows."""


class StartedLine(_Line, tag="started", frozen=True, kw_only=True):
    """The migration began, or was found running."""

    memory_bytes: int
    vcpu_count: int
    auto_converge: bool
    variant: str
    """The variant that the parameters make, or their policy."""
    parameters: dict[str, Any]
    """The migration parameters by QMP name, as far as they matter to how it converges."""
    recorded_by: RecordedBy
    """The VM itself, the driver that decides from outside, or somebody who only looks on."""


class StatusLine(_Line, tag="status", frozen=True, kw_only=True):
    """It went from one state to another, by QEMU's names of them."""

    old_status: str
    status: str
    error: str
    """Why, if it failed."""


class ProgressLine(_Line, tag="progress", frozen=True, kw_only=True):
    """How far it is, once per second and in each new state. What the monitor does not tell is null."""

    status: str
    iteration_count: int | None
    dirty_sync_count: int | None
    remaining_bytes: int | None
    total_bytes: int | None
    sent_bytes: int | None
    bandwidth_bytes_per_s: float | None
    dirty_bytes_per_s: float | None
    throttle_percent: int | None
    vcpu_throttle_percents: list[int] | None
    """That of each vCPU, where they are throttled one by one."""
    done_percent: int | None
    """Elapsed time as a share of all that is expected; null if there is no telling."""
    converges: bool | None
    """False if the guest writes as fast as is sent, or faster; null before anybody knows."""
    least_left_ms: int | None
    """Time still needed if the guest wrote nothing more."""
    median_left_ms: int | None
    """Time within which it would be over as likely as not; null if it would not end, or nobody knows yet."""
    most_left_ms: int | None
    """Time within which nine of ten such migrations would be over; null likewise."""
    expected_downtime_ms: int | None
    needed_throttle_percent: int | None
    """The least throttle by which it would converge, where it does not by the one in force and any does."""
    throttled_ms: int | None
    """What throttles have taken from each vCPU so far; null if nobody knows it all."""
    deadline_left_ms: int | None
    """Time left until the deadline, below 0 once that is over; null if there is none."""

    @classmethod
    def of(cls, progress: Progress, outlook: Outlook, deadline_ms: int | None) -> "ProgressLine":
        """Return what there is to tell of one answer of the monitor; `deadline_ms` is since the migration began."""
        return cls(
            elapsed_ms=progress.elapsed_ms,
            status=progress.status,
            iteration_count=progress.iteration_count,
            dirty_sync_count=progress.dirty_sync_count,
            remaining_bytes=progress.remaining_bytes,
            total_bytes=progress.total_bytes,
            sent_bytes=progress.sent_bytes,
            bandwidth_bytes_per_s=progress.bandwidth_bytes_per_s,
            dirty_bytes_per_s=progress.dirty_bytes_per_s,
            throttle_percent=progress.throttle_percent,
            vcpu_throttle_percents=list(progress.vcpu_throttle_percents) if progress.vcpu_throttle_percents else None,
            done_percent=outlook.percent,
            converges=outlook.converges,
            least_left_ms=whole_ms(outlook.least_s),
            median_left_ms=whole_ms(outlook.median_s),
            most_left_ms=whole_ms(outlook.most_s),
            expected_downtime_ms=whole_ms(outlook.downtime_s),
            needed_throttle_percent=outlook.needed_percent,
            throttled_ms=whole_ms(outlook.lost_s),
            deadline_left_ms=None if deadline_ms is None else deadline_ms - (progress.elapsed_ms or 0),
        )


class DecisionLine(_Line, tag="decision", frozen=True, kw_only=True):
    """The throttle was decided on, and why."""

    old_throttle_percent: int
    throttle_percent: int
    """That of all vCPUs, or the greatest."""
    vcpu_throttle_percents: list[int] | None
    """That of each vCPU, where they are throttled one by one."""
    reason: str
    period_ms: int | None
    """How long the period was that was evaluated. This and the two figures after it are null if none has ended."""
    dirty_bytes: int | None
    sent_bytes: int | None
    figures: dict[str, float]
    """The policy's own numbers."""


class ActionLine(_Line, tag="action", frozen=True, kw_only=True):
    """Something else was decided on, and why."""

    what: str
    """The kind of action, such as `SetDowntimeLimit` or `SwitchOver`."""
    reason: str
    downtime_limit_ms: int | None
    """The limit that was set; null for other actions."""


class ShadowLine(_Line, tag="shadow", frozen=True, kw_only=True):
    """A policy that only looks on would do this now; nothing of it is done."""

    variant: str
    what: str
    """The kind of action, such as `Throttle`."""
    reason: str
    throttle_percent: int | None
    """By how much it would slow the guest from now on; null for other actions."""
    downtime_limit_ms: int | None
    figures: dict[str, float]
    """The policy's own numbers."""


class ThrottleLine(_Line, tag="throttle", frozen=True, kw_only=True):
    """Another throttle is in force than before, and who set it has not told why."""

    throttle_percent: int


class GapLine(_Line, tag="gap", frozen=True, kw_only=True):
    """Some of what happened before is not told here."""

    count: int | None
    """How many events are missing; null if nobody knows."""


class MessageLine(_Line, tag="message", frozen=True, kw_only=True):
    """Something that people should know."""

    message: str


class LeftLine(_Line, tag="left", frozen=True, kw_only=True):
    """The last line, if the command ends before the migration does, or cannot follow it."""

    message: str
    """Why, and what is true now."""
    exit_code: int


LINES = (
    StartedLine,
    StatusLine,
    ProgressLine,
    DecisionLine,
    ActionLine,
    ShadowLine,
    ThrottleLine,
    GapLine,
    MessageLine,
    LeftLine,
)
"""All kinds but one: that of the last line, where the migration was followed to its end (`ended_line`)."""


def line_of(event: Event, elapsed_ms: int | None) -> msgspec.Struct | None:
    """Return the line that tells of an event; None for those of which other lines tell enough."""
    match event:
        case Started():
            return _started(event, elapsed_ms)
        case StatusChanged():
            return StatusLine(elapsed_ms=elapsed_ms, old_status=event.old, status=event.new, error=event.reason)
        case Decided():
            return _decision(event, elapsed_ms)
        case Acted():
            limit_ms = _whole_ms(event.downtime_limit_ns)
            return ActionLine(elapsed_ms=elapsed_ms, what=event.what, reason=event.reason, downtime_limit_ms=limit_ms)
        case Shadowed():
            return _shadow(event, elapsed_ms)
        case ThrottleSeen():
            return ThrottleLine(elapsed_ms=elapsed_ms, throttle_percent=event.throttle_percent)
        case Lost():
            return GapLine(elapsed_ms=elapsed_ms, count=event.count)
        case _:
            return None


def _started(event: Started, elapsed_ms: int | None) -> StartedLine:
    label = label_of(event.parameters, event.policy_digest) if event.auto_converge else NO_AUTO_CONVERGE.name
    return StartedLine(
        elapsed_ms=elapsed_ms,
        memory_bytes=event.page_count * event.page_size,
        vcpu_count=event.vcpu_count,
        auto_converge=event.auto_converge,
        variant=label,
        parameters=event.parameters,
        recorded_by=event.recorded_by,
    )


def _decision(event: Decided, elapsed_ms: int | None) -> DecisionLine:
    return DecisionLine(
        elapsed_ms=elapsed_ms,
        old_throttle_percent=event.old_throttle_percent,
        throttle_percent=event.throttle_percent,
        vcpu_throttle_percents=event.vcpu_throttle_percents,
        reason=event.reason,
        period_ms=_whole_ms(event.period_ns),
        dirty_bytes=event.dirty_bytes,
        sent_bytes=event.sent_bytes,
        figures=event.figures,
    )


def _shadow(event: Shadowed, elapsed_ms: int | None) -> ShadowLine:
    return ShadowLine(
        elapsed_ms=elapsed_ms,
        variant=event.variant,
        what=event.what,
        reason=event.reason,
        throttle_percent=event.throttle_percent,
        downtime_limit_ms=_whole_ms(event.downtime_limit_ns),
        figures=event.figures,
    )


def _whole_ms(time_ns: int | None) -> int | None:
    return None if time_ns is None else time_ns // NS_PER_MS
