"""Is a limit over that time brings nearer, the deadline or the guest's loss, and what is to be done then?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vmferry.convergence.actions import Cancel, SwitchOver, Tell
from vmferry.convergence.limits import Limits, OnLimit
from vmferry.units import NS_PER_S, format_duration

_ACTIONS: dict[OnLimit, type[Cancel | SwitchOver | Tell]] = {
    OnLimit.CANCEL: Cancel,
    OnLimit.SWITCHOVER: SwitchOver,
    OnLimit.CONTINUE: Tell,
}


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a migration has cost so far."""

    elapsed_ns: int
    possible_ns: int
    """The time in which the guest could have worked."""
    taken_ns: int
    """What throttles took of it, of each vCPU."""
    vcpu_count: int
    is_known: bool
    """False if that is not all, or not certain."""


@dataclass(frozen=True)
class Verdict:
    """Whether one limit was kept; None is not known."""

    limit: str
    kept: bool | None
    text: str
    """What there was, and what was allowed."""
    obeyed: bool = True
    """True if what was to be done then was done: it was kept, or the guest was moved because it was not."""

    @classmethod
    def of(cls, limit: str, value: float, bound: float, text: Callable[[float], str]) -> "Verdict":
        """Judge a figure that must not be above its bound."""
        kept = value <= bound
        return cls(limit, kept, f"{text(value)} of {text(bound)}", obeyed=kept)


def judge(limits: Limits, spent: Spent) -> Iterator[Verdict]:
    """Yield a verdict on each limit that time brings nearer."""
    if limits.deadline_ns is not None:
        yield Verdict.of("finish-by", spent.elapsed_ns, limits.deadline_ns, format_duration)
    if limits.max_guest_loss_percent is not None:
        percent = 100 * spent.taken_ns / spent.possible_ns if spent.possible_ns else 0.0
        yield _loss(spent, percent, limits.max_guest_loss_percent, lambda part: f"{part:.3g} %")
    if limits.max_guest_loss_ns is not None:
        vcpu_ns = spent.taken_ns * spent.vcpu_count
        yield _loss(spent, vcpu_ns, limits.max_guest_loss_ns, lambda ns: f"{format_duration(ns)} of vCPUs")


def _loss(spent: Spent, value: float, bound: float, text: Callable[[float], str]) -> Verdict:
    """Where not all is known that throttles took, it is not known that the limit was kept."""
    verdict = Verdict.of("max guest loss", value, bound, text)
    if spent.is_known or not verdict.kept:
        return verdict
    return replace(verdict, kept=None, text=f"{verdict.text}, as far as it is known")


class LimitWatch:
    """Watches one migration."""

    def __init__(self) -> None:
        self._hit: Limits | None = None
        """The limits of which one was over."""

    def look(self, limits: Limits, spent: Spent) -> Cancel | SwitchOver | Tell | None:
        """Return what to do once one of these limits is over, and that once only."""
        if self._hit == limits:
            return None
        # In its first second a share of the work done says nothing.
        telling = limits if spent.elapsed_ns >= NS_PER_S else replace(limits, max_guest_loss_percent=None)
        broken = next((verdict for verdict in judge(telling, spent) if verdict.kept is False), None)
        if broken is None:
            return None
        self._hit = limits
        return _ACTIONS[limits.on_limit](reason=f"{broken.limit}: {broken.text}: {limits.on_limit}")
