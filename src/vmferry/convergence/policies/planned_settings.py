"""The goals that people give the policy `planned`, as its settings."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from vmferry.convergence.goals import Goals
from vmferry.convergence.limits import MAX_DOWNTIME_MS, Limits, OnLimit
from vmferry.convergence.sensing import View
from vmferry.units import NS_PER_MS, NS_PER_S

_MAX_MS = 365 * 24 * 3600 * 1000
_SHARE = 0.85
"""A plan is to need at most this share of the time that is left, and when it begins, of what may be lost."""
_SAVING = 1000.0
"""What work is worth where a deadline says how long it may take: as little as possible is taken."""
_RELUCTANCE, _STEADINESS = 1.25, 0.8
"""How many times cheaper a throttle has to be that begins now, as who waits knows more; and less, one in force."""
Pace = Literal["gentle", "balanced", "fast"]
_PACES: dict[Pace, tuple[float, float, float]] = {
    "gentle": (10.0, math.inf, 0.0),
    "balanced": (1.0, 1.5, 10.0 * NS_PER_S),
    "fast": (0.0, 1.2, 2.0 * NS_PER_S),
}
"""By pace: what work is worth, and how long a guest that moves by itself is waited for (`Goals`). The seconds are
for one that is not slowed yet: who lets go shortly before the end has taken all that work in vain."""


class PlannedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The goals. A deadline and what the guest may lose are bounds; within them, the pace weighs time and work."""

    pace: Annotated[
        Pace,
        msgspec.Meta(description="time and the guest's work weighed: `gentle` slows no guest that moves by itself"),
    ] = "balanced"
    finish_by_ms: Annotated[
        int, msgspec.Meta(ge=0, le=_MAX_MS, description="how long the migration may take; 0 for any time")
    ] = 0
    max_guest_loss_percent: Annotated[
        float, msgspec.Meta(ge=0, le=100, description="how much of its work the guest may lose")
    ] = 100.0
    max_guest_loss_ms: Annotated[
        int, msgspec.Meta(ge=0, le=_MAX_MS, description="how much vCPU time the guest may lose; 0 for any")
    ] = 0
    max_downtime_ms: Annotated[
        int,
        msgspec.Meta(ge=0, le=MAX_DOWNTIME_MS, description="how far the downtime limit may be raised; 0 for not"),
    ] = 0
    on_limit: Annotated[
        OnLimit, msgspec.Meta(description="what to do as soon as it is clear that a goal cannot be met")
    ] = OnLimit.CONTINUE
    window_ms: Annotated[int, msgspec.Meta(ge=50, le=60_000, description="how long the shortest measurement lasts")] = (
        50
    )
    max_cpu_throttle: Annotated[int, msgspec.Meta(ge=1, le=99)] = 99

    @property
    def has_goals(self) -> bool:
        """True if something is asked for that may turn out to be impossible."""
        return bool(self.finish_by_ms or self.max_downtime_ms) or self.bounds_loss

    @property
    def highest_percent(self) -> int:
        """The highest throttle that may ever be: none where the guest may lose nothing."""
        return self.max_cpu_throttle if self.max_guest_loss_percent else 0

    @property
    def bounds_loss(self) -> bool:
        """True if there is a bound to what the guest may lose."""
        return bool(self.max_guest_loss_ms) or self._bounds_share

    @property
    def _bounds_share(self) -> bool:
        return self.max_guest_loss_percent < 100

    def goals(self, view: View, *, is_trying: bool = False) -> Goals:
        """Return what is still allowed; `is_trying` if a throttle is in force only to see what it does."""
        work_weight, patience, patience_ns = _PACES[self.pace]
        left_ns = self.finish_by_ms * NS_PER_MS - view.elapsed_ns if self.finish_by_ms else math.inf
        if self.finish_by_ms and self.pace != "fast":
            work_weight = _SAVING
        per_vcpu_ns = self.max_guest_loss_ms * NS_PER_MS / max(1, view.vcpu_count)
        is_slowed = view.throttle_percent > 0 and not is_trying
        loss_share = 1.0 if is_slowed else _SHARE
        return Goals(
            work_weight=work_weight,
            patience=patience,
            patience_ns=0.0 if is_slowed else patience_ns,
            reluctance=_STEADINESS if is_slowed else _RELUCTANCE,
            highest_percent=self.highest_percent,
            finish_in_ns=left_ns * _SHARE if left_ns > 0 else 0.0,
            max_loss_ns=per_vcpu_ns * loss_share if self.max_guest_loss_ms else math.inf,
            max_loss_share=self.max_guest_loss_percent / 100 * (loss_share if self._bounds_share else 1.0),
            elapsed_ns=view.elapsed_ns,
            lost_ns=view.lost_ns,
        )

    def named(self) -> str:
        """Return the goals in words."""
        return ", ".join(self._named()) or "downtime-limit"

    def _named(self) -> Iterator[str]:
        if self.finish_by_ms:
            yield f"finish-by {self.finish_by_ms / 1000:g} s"
        if self._bounds_share:
            yield f"max-guest-loss {self.max_guest_loss_percent:g} %"
        if self.max_guest_loss_ms:
            yield f"max-guest-loss {self.max_guest_loss_ms / 1000:g} s"
        if self.max_downtime_ms:
            yield f"max-downtime {self.max_downtime_ms} ms"


def goal_settings(limits: Limits, pace: Pace | None) -> dict[str, object]:
    """Return the settings by which the policy plans for an operator's limits, without those that are not given."""
    given: dict[str, object | None] = {
        "pace": pace,
        "finish_by_ms": limits.deadline_ns and limits.deadline_ns // NS_PER_MS,
        "max_guest_loss_percent": limits.max_guest_loss_percent,
        "max_guest_loss_ms": limits.max_guest_loss_ns and limits.max_guest_loss_ns // NS_PER_MS,
        "max_downtime_ms": limits.max_downtime_ms,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    return {**settings, "on_limit": limits.on_limit.value} if settings.keys() - {"pace"} else settings
