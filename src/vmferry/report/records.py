"""What is told to scripts of recorded migrations; the names of the figures are those of `Outcome`, as everywhere."""

from typing import Any

import msgspec

from vmferry.migration.events import RecordedBy
from vmferry.migration.outcome import Outcome
from vmferry.report.series import Decision, RunSeries
from vmferry.report.summary import limits_text
from vmferry.units import MS_PER_S


class RecordedDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided on the throttle, and why."""

    elapsed_ms: int
    """How long the migration had been recorded by then."""
    iteration_count: int
    background_sync: bool
    """True if a background sync was evaluated, false if it was the sync that began the iteration."""
    old_throttle_percent: int
    throttle_percent: int
    reason: str


class RecordedShadow(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy that only looked on would have done."""

    elapsed_ms: int
    variant: str
    reason: str


class RecordedDeed(msgspec.Struct, frozen=True, kw_only=True):
    """What else was done or happened, and why."""

    elapsed_ms: int
    what: str
    reason: str


class RecordedRun(Outcome, frozen=True, kw_only=True):
    """One recorded migration: its figures, its configuration, and what was decided."""

    label: str
    """What it is compared by: the names of VM and variant, as far as they are known, and what else differs."""
    name: str
    """Tells it from others in one file; empty if it needs no name."""
    source: str
    """Where it was read from."""
    vm_name: str | None
    allowed: str | None
    """The operator's limits in words; null if nobody told."""
    variant: str
    """The variant that the parameters make, or their policy."""
    auto_converge: bool
    parameters: dict[str, Any]
    """The migration parameters by QMP name, as far as they matter to how it converges."""
    policy_digest: str | None
    """A digest of the source of the policy that decided."""
    recorded_by: RecordedBy
    """The VM itself, the driver that decided from outside, or somebody who only looked on."""
    decisions: list[RecordedDecision] | None
    """Null if the VM decided by itself and told nobody."""
    deeds: list[RecordedDeed]
    """In the order of time, with how it ended."""
    shadows: list[RecordedShadow]


def recorded_run(run: RunSeries) -> RecordedRun:
    """Return all that is told of a run."""
    started = run.started
    return RecordedRun(
        **msgspec.structs.asdict(run.outcome),
        label=run.label,
        name=run.name,
        source=run.source,
        vm_name=run.vm_name,
        allowed=None if run.limits is None else limits_text(run),
        variant=run.variant,
        auto_converge=started.auto_converge,
        parameters=started.parameters,
        policy_digest=started.policy_digest,
        recorded_by=started.recorded_by,
        decisions=None if run.decisions is None else [_told(decision) for decision in run.decisions],
        deeds=[RecordedDeed(elapsed_ms=_ms(deed.time_s), what=deed.what, reason=deed.reason) for deed in run.deeds],
        shadows=[
            RecordedShadow(elapsed_ms=_ms(shadow.time_s), variant=shadow.variant, reason=shadow.reason)
            for shadow in run.shadows
        ],
    )


def _told(decision: Decision) -> RecordedDecision:
    return RecordedDecision(
        elapsed_ms=_ms(decision.time_s),
        iteration_count=decision.iteration_count,
        background_sync=decision.background_sync,
        old_throttle_percent=decision.old_throttle_percent,
        throttle_percent=decision.throttle_percent,
        reason=decision.reason,
    )


def _ms(time_s: float) -> int:
    return round(time_s * MS_PER_S)
