"""What people may do about a migration that runs: have it steered, set its limits, cancel it.

Nothing of it is done here: the thread that follows the migration does it, by the means that it has anyway. What is
answered was observed; what was not yet observed within the time that a caller waits is told as that.
"""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from vmferry.agent.following import Followers
from vmferry.agent.live import Live
from vmferry.agent.rules import Mode, Rule
from vmferry.control.migration_order import plans
from vmferry.control.wishes import Wish
from vmferry.convergence.limits import MAX_DOWNTIME_MS, OnLimit
from vmferry.convergence.variants import find_variant
from vmferry.errors import UsageError
from vmferry.units import NS_PER_MS

WAIT_S = 10.0
"""How long a caller waits for what was asked for."""
_MAX_MS = 365 * 24 * 3600 * 1000


class NewLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits: those that are given hold from now on, null is no limit, and those that are left out stay."""

    finish_by_ms: Annotated[int, msgspec.Meta(ge=1, le=_MAX_MS)] | UnsetType | None = UNSET
    """How long the whole migration may take, from its beginning."""
    max_downtime_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_DOWNTIME_MS)] | UnsetType | None = UNSET
    max_guest_loss_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] | UnsetType | None = UNSET
    on_limit: OnLimit | UnsetType = UNSET

    def applied_to(self, rule: Rule) -> Rule:
        """Return a rule with these limits. Raises UsageError for what no migration can keep."""
        loss = self.max_guest_loss_percent
        given = {
            "finish_by": _ns(self.finish_by_ms),
            "max_downtime": _ns(self.max_downtime_ms),
            "max_guest_loss": f"{loss:g}%" if isinstance(loss, int | float) else loss,
            "on_limit": self.on_limit,
        }
        changed = msgspec.structs.replace(rule, **{name: value for name, value in given.items() if value is not UNSET})
        changed.limits.check()
        return changed


class SteerOrder(NewLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to steer; without a variant it is that of the rule that holds."""

    variant: Annotated[str, msgspec.Meta(max_length=100)] | None = None


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of an action."""

    is_so: bool
    """False if it was not seen yet within the time that a caller waits: it is still asked for."""
    text: str
    status: str
    """The migration's, as it was seen last."""


class NotDoneError(UsageError):
    """What was asked for is not done, as the state of the migration or its rule does not allow it."""


class UnknownError(UsageError):
    """There is no such migration, or no such VM."""


def find_live(followers: Followers, key: str) -> Live:
    """Return the migration of that key. Raises UnknownError if it does not run."""
    live = next((one for one in followers.live if one.key == key), None)
    if live is None:
        raise UnknownError("that migration does not run, or not any more")
    return live


class Actions:
    """What people may have done to the migrations of one agent."""

    def __init__(self, followers: Followers, wait_s: float = WAIT_S) -> None:
        self._followers = followers
        self._wait_s = wait_s

    def steer(self, key: str, order: SteerOrder, who: str) -> Observed:
        """Hand a migration over to a variant, with limits. Raises UsageError if it is not handed over."""
        live = self._find(key)
        rule = msgspec.structs.replace(order.applied_to(live.reins.rule), mode=Mode.STEER)
        if order.variant:
            variant = find_variant(order.variant)
            pace = rule.pace if plans(variant) else None
            rule = msgspec.structs.replace(rule, variant=variant.name, policy=None, set={}, pace=pace)
        wish = live.reins.hand_over(rule, who)
        return self._observed(live, wish, f"it is steered by {rule.chosen.name}")

    def set_limits(self, key: str, limits: NewLimits, who: str) -> Observed:
        """Have other limits kept. Raises UsageError if they are not."""
        live = self._find(key)
        if live.reins.rule.mode is not Mode.STEER:
            mode = live.reins.rule.mode
            raise NotDoneError(f"with mode '{mode}' nobody keeps limits; have it steered, and give them with that")
        rule = limits.applied_to(live.reins.rule)
        wish = live.reins.keep_limits(rule, who)
        return self._observed(live, wish, f"these are kept from now on: {', '.join(rule.orders())}")

    def cancel(self, key: str, who: str) -> Observed:
        """Cancel a migration; its guest stays here and runs. Raises UsageError if it is not cancelled."""
        live = self._find(key)
        wish = live.reins.cancel(who)
        live.reins.wait_for(lambda: wish.granted is False, self._wait_s)
        if wish.granted is False:
            raise NotDoneError(wish.why_not)
        status, close = live.recording.status, live.recording.close
        if close is None:
            return Observed(is_so=False, text="it was not seen yet that it is cancelled", status=status)
        if close.ended_ms is None:
            return Observed(is_so=False, text="it is followed no more, and nobody saw how it ended", status=status)
        if status != "cancelled":
            raise NotDoneError(f"it has ended as '{status}'")
        return Observed(is_so=True, text="it is cancelled; the guest stays here", status=status)

    def _observed(self, live: Live, wish: Wish, text: str) -> Observed:
        """Wait for what was asked for. Raises NotDoneError if that is refused."""
        live.reins.wait_for(lambda: wish.granted is not None, self._wait_s)
        if wish.granted is False:
            raise NotDoneError(wish.why_not)
        status = live.recording.status
        if wish.granted is None:
            return Observed(is_so=False, text=f"not seen yet: {text}", status=status)
        return Observed(is_so=True, text=text, status=status)

    def _find(self, key: str) -> Live:
        """Return a migration that runs. Raises UnknownError, and NotDoneError if its VM is to be left alone."""
        live = find_live(self._followers, key)
        held = self._followers.rule_for(live.recording.facts.vm)
        if held.rule.mode is Mode.IGNORE:
            raise NotDoneError(f"{held} says to ignore this VM, so nothing is done about it")
        return live


def _ns(value_ms: int | UnsetType | None) -> int | UnsetType | None:
    return value_ms * NS_PER_MS if isinstance(value_ms, int) else value_ms
