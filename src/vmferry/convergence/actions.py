"""What the brain tells a body to do. Each action has its reason, which people read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vmferry.convergence.sensing import Body, Period


@dataclass(frozen=True, kw_only=True)
class Throttle:
    """Keep every vCPU from running `percent` (0 to 99) of the time from now on; 0 lets them run."""

    percent: int
    reason: str
    vcpu_percents: tuple[int, ...] | None = None
    """The throttle of each vCPU, in order, in a body that can do that; `percent` is the greatest of them."""
    still: bool = False
    """True if vCPUs are to sleep for as long as the body can at a time, so that they catch up in no short slices."""
    asked_percent: int | None = None
    """The throttle of all vCPUs that a policy asked for, where the brain has spread it; it has the same effect."""
    period: Period | None = None
    """The period that it was decided on; the brain fills this in."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The policy's own numbers, by name, for whoever reads the record."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Find out now what the guest has dirtied: by a background sync, or whatever the body has in its place."""

    reason: str
    window_ns: int | None = None
    """How long to look, where the body looks ahead from now on. A sync looks back, and None is the body's choice."""


@dataclass(frozen=True, kw_only=True)
class SetDowntimeLimit:
    """Allow this downtime when the guest moves."""

    limit_ns: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class SwitchOver:
    """Move the guest at the next chance, however much remains."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class StartPostcopy:
    """Let the guest run at the destination and fetch what remains from here."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """Give the migration up; the guest stays and runs at full speed."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Tell:
    """Do nothing, but have people told the reason."""

    reason: str


Action = Throttle | Measure | SetDowntimeLimit | SwitchOver | StartPostcopy | Cancel | Tell


def of_each_vcpu(vcpu_percents: Sequence[int], reason: str) -> Throttle:
    """Return the action that slows each vCPU by its own throttle."""
    return Throttle(percent=max(vcpu_percents), vcpu_percents=tuple(vcpu_percents), reason=reason)


NEEDS: dict[type, Body] = {
    Throttle: Body.THROTTLE,
    Measure: Body.MEASURE,
    SetDowntimeLimit: Body.DOWNTIME_LIMIT,
    SwitchOver: Body.SWITCH_OVER,
    StartPostcopy: Body.POSTCOPY,
    Cancel: Body(0),
    Tell: Body(0),
}
"""What a body has to be able to do for each kind of action."""
