"""Looks at migrations that nobody carries out, for tests of policies and of the brain."""

from dataclasses import replace
from typing import Any

from vmferry.convergence.actions import Action, SetDowntimeLimit
from vmferry.convergence.policies.policy import Policy
from vmferry.convergence.sensing import Found, Period, Sensed, View

S = 1_000_000_000

NOTHING = Sensed(
    now_ns=0,
    sent_bytes=0,
    memory_bytes=1 << 40,
    remaining_bytes=1 << 40,
    again_bytes=None,
    threshold_bytes=0,
    bandwidth_bytes_per_s=0.0,
    downtime_limit_ns=S // 2,
    iteration_count=2,
    dirty_sync_count=2,
)


def sensed(seconds: float, sent_bytes: int = 0, found: Found | None = None, remaining_bytes: int = 1 << 40) -> Sensed:
    now_ns = round(seconds * S)
    return replace(NOTHING, now_ns=now_ns, sent_bytes=sent_bytes, found=found, remaining_bytes=remaining_bytes)


def period_view(dirty_bytes: int | None, sent_bytes: int, throttle_percent: int = 0) -> View:
    """What a policy is shown at the end of a period of two seconds; None is a mere look."""
    period = None
    if dirty_bytes is not None:
        period = Period(
            duration_ns=2 * S, dirty_bytes=dirty_bytes, sent_bytes=sent_bytes, throttle_percent=throttle_percent
        )
    return View(
        sensed=NOTHING,
        period=period,
        written=None,
        elapsed_ns=10 * S,
        iteration_began=False,
        iteration_remaining_bytes=NOTHING.remaining_bytes,
        throttle_percent=throttle_percent,
        lost_ns=0,
        vcpu_count=2,
        still_ns=0,
    )


class Looks:
    """Shows a policy one look after another at the same migration."""

    def __init__(self, policy: Policy, settings: Any) -> None:
        self.policy = policy
        self.settings = settings
        self.now = period_view(None, 0)
        self._iteration_count = 0

    def at(self, seconds: float, *, period: Period | None = None, **sensed: Any) -> list[Action]:
        """Let so much time have passed since the beginning; what is not told of stays as it was."""
        now = replace(self.now.sensed, now_ns=round(seconds * S), **sensed)
        began = now.iteration_count != self._iteration_count
        self._iteration_count = now.iteration_count
        remaining_bytes = now.remaining_bytes if began else self.now.iteration_remaining_bytes
        self.now = replace(
            self.now,
            sensed=now,
            period=period,
            elapsed_ns=now.now_ns,
            iteration_began=began,
            iteration_remaining_bytes=remaining_bytes,
        )
        return list(self.policy.look(self.now, self.settings))

    def limit_at(self, seconds: float, **sensed: Any) -> int | None:
        """Return the downtime limit in ms that is set at that time, if one is."""
        limits = [action.limit_ns for action in self.at(seconds, **sensed) if isinstance(action, SetDowntimeLimit)]
        return limits[-1] // 1_000_000 if limits else None
