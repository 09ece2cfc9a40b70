"""Plans instead of reacting: learns the guest's dirty curve, looks ahead, and slows the guest as late and as little as
its goals allow.

At every measurement a throttle is chosen anew by what it would come to, so it falls again as soon as less will do. A
guest that converges by itself is never slowed, nor one that no throttle can help. As soon as it is clear that a goal
cannot be met, it is said what would be needed, and done what `on_limit` says.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from vmferry.units import NS_PER_MS, NS_PER_S
from vmferry.convergence.actions import Action, Cancel, Measure, SetDowntimeLimit, SwitchOver, Tell, Throttle
from vmferry.convergence.curve import DirtyCurve, curve_of
from vmferry.convergence.goals import Goals, Plan, make_plan, time_text
from vmferry.convergence.limits import OnLimit
from vmferry.convergence.lookahead import look_ahead_each
from vmferry.convergence.passes import Situation
from vmferry.convergence.policies.cadence import Cadence
from vmferry.convergence.policies.evidence import is_known, is_short, probe, tried
from vmferry.convergence.policies.last_resort import HELD_NS, LastResort
from vmferry.convergence.policies.pass_watch import PassWatch
from vmferry.convergence.policies.planned_settings import PlannedSettings
from vmferry.convergence.policies.promise import Promise
from vmferry.convergence.policies.stillness import Stillness, keeps_up, was_slowed
from vmferry.convergence.remedies import remedies
from vmferry.convergence.sensing import Body, View
from vmferry.convergence.unslowed import Begin, at_next_pass

_AHEAD_NS, _AHEAD_STILL_NS = 250 * NS_PER_MS, 100 * NS_PER_MS
"""A body from outside looks ten times per second; a throttle that is to hold from the next pass on begins so early. One
that takes all of the guest's work begins as late as it can."""
_IN_A_ROW = 2
"""How many looks in a row have to find that nothing helps before the guest is let run."""
_HOPELESS = "no throttle would help"
NO_FIGURES: Mapping[str, float] = {}
MOVED_IN, LOST = "moved_in_s", "lost_s"
"""What a plan comes to from then on, by the names of a decision's figures: the time, and what each vCPU loses of it."""
_DOWNTIME_MARGIN = 1.3
_SURE_SHARE = 0.5
"""In a time shorter than it was ever looked at, a guest that runs freely may write more than is known. So a throttle is
let go then only if what remains without one fits this share of the downtime."""


class Planned:
    """Chooses the throttle whose course keeps the goals and costs least."""

    Settings: ClassVar[type] = PlannedSettings
    needs: ClassVar[Body] = Body.THROTTLE | Body.MEASURE | Body.DOWNTIME_LIMIT | Body.SWITCH_OVER
    plans: ClassVar[bool] = True

    def __init__(self) -> None:
        self._curve: DirtyCurve | None = None
        self._pass = PassWatch()
        self._cadence = Cadence()
        self._promise = Promise()
        self._last_resort = LastResort()
        self._stillness = Stillness()
        self._plan: Plan | None = None
        """The plan that was made last."""
        self._has_planned = self._is_trying = False
        self._failing = 0
        """How many plans in a row have failed."""
        self._why_last_resort = ""
        """Why no plan is believed any more; empty as long as one is."""
        self._told = False

    def look(self, view: View, settings: PlannedSettings) -> Iterable[Action]:
        """Learn, plan anew if something was learnt, and measure if that was long ago."""
        curve = self._curve = self._curve or curve_of(view.surveyed, view.sensed.memory_bytes)
        self._pass.look(view, curve)
        self._last_resort.look(view)
        if self._stillness.holds:
            if self._stillness.has_failed(view):
                yield from self._throttle(view, None, "held still in vain")
            return
        if view.written:
            curve.learn(self._cadence.found(view, view.written))
        if view.still_ns:
            return
        if self._has_spent(view, settings):
            yield from self._let_go(view, "all that the guest may lose is taken")
            return
        if window_ns := self._cadence.due_ns(view, settings.window_ms * NS_PER_MS):
            yield Measure(reason="the plan needs to know what the guest writes", window_ns=window_ns)
        if self._last_resort.holds:
            yield from self._held_on(curve, view, settings)
        elif self._why_last_resort and self._last_resort.may_begin(view) and _may_lose_more(view, settings):
            yield self._held(view, settings)
        elif plan := self._due_plan(curve, view, settings):
            yield from self._throttle(view, plan, "")
        elif view.written or view.period or not self._has_planned:
            yield from self._made_plan(curve, view, settings)
        if not view.sensed.iteration_count:
            self._has_planned = False  # what was planned before it begins is planned anew then

    def _held(self, view: View, settings: PlannedSettings) -> Throttle:
        """Hold the highest throttle from now on."""
        self._last_resort.begin(view, is_foretold=self._why_last_resort != _HOPELESS)
        self._is_trying = False
        return self._set(view, settings.highest_percent, f"{self._why_last_resort}: as a last resort")

    def _held_on(self, curve: DirtyCurve, view: View, settings: PlannedSettings) -> Iterator[Action]:
        """Hold it on as long as it may help."""
        percent = settings.highest_percent
        if self._last_resort.is_in_vain(view) or keeps_up(curve, view.sensed.throttle_slice_ns, percent):
            yield from self._let_go(view, f"slowed by {percent} % in vain")
        elif view.period:
            yield self._set(view, percent, "as a last resort")

    def _let_go(self, view: View, why: str) -> Iterator[Action]:
        """Let the guest run, and begin anew."""
        if self._last_resort.holds:
            self._last_resort.end(view)
        self._why_last_resort = ""
        self._promise.forget()
        yield from self._throttle(view, None, why)

    def _has_spent(self, view: View, settings: PlannedSettings) -> bool:
        """Tell whether the throttle in force, held until the next look, would take more than the guest may lose."""
        percent = view.throttle_percent
        return percent > 0 and settings.bounds_loss and not settings.goals(view).allows(percent, _AHEAD_NS)

    def _due_plan(self, curve: DirtyCurve, view: View, settings: PlannedSettings) -> Plan | None:
        """Return the plan for the next pass once that begins, or is so near that the throttle has to begin.

        It waits for another one as long as passes get much shorter by themselves. A body that knows what is dirty again
        makes a new plan at that moment.
        """
        sensed, plan, situation = view.sensed, self._plan, self._situation(curve, view, settings)
        is_for_later = self._has_planned and plan is not None and plan.begin is Begin.NEXT_PASS
        if plan is None or situation is None or not is_for_later or sensed.again_bytes is not None:
            return None
        held = None if plan.still else self._stillness.plan(view, curve, situation, settings.goals(view))
        plan = self._plan = held or plan
        left_bytes = max(0, sensed.remaining_bytes - sensed.threshold_bytes)
        ahead_ns = _AHEAD_STILL_NS if plan.still else _AHEAD_NS
        left_ns = sensed.reading_ns + self._pass.remaining_ns(left_bytes, situation.bandwidth_bytes_per_s)
        if not (left_ns < ahead_ns or (view.iteration_began and not held)):
            return None
        waits = not plan.still and (self._last_resort.rests(view) or self._shrink(curve, view, situation))
        return None if waits else replace(plan, begin=Begin.NOW)

    def _shrink(self, curve: DirtyCurve, view: View, situation: Situation) -> bool:
        """Tell whether passes get shorter by themselves from the one on that begins now, or soon."""
        following = at_next_pass(curve, situation)
        if not view.iteration_began:
            situation, following = following, at_next_pass(curve, following)
        return self._pass.shrink(situation, following, has_begun=view.iteration_began)

    def _made_plan(self, curve: DirtyCurve, view: View, settings: PlannedSettings) -> Iterator[Action]:
        situation = self._situation(curve, view, settings)
        if situation is None or not is_known(curve, situation):
            return
        self._has_planned = True
        goals = settings.goals(view, is_trying=self._is_trying)
        held = self._stillness.plan(view, curve, situation, goals) if self._plan and self._plan.still else None
        plan = held or make_plan(look_ahead_each(curve, situation, goals.outclassed), goals)
        if plan and not plan.percent and view.throttle_percent and is_short(curve, situation.pending_ns):
            doubtful = replace(situation, threshold_bytes=_SURE_SHARE * situation.threshold_bytes)
            plan = make_plan(look_ahead_each(curve, doubtful, goals.outclassed), goals) or plan
        if not (plan and plan.keeps_goals):
            raised = self._raised(curve, view, settings, situation, goals)
            if raised:
                plan, action = raised
                yield action
            elif plan is None:
                plan = probe(curve, situation, goals) or self._stillness.plan(view, curve, situation, goals)
        why = _HOPELESS
        was_trying, self._is_trying = self._is_trying, False
        if plan and plan.percent and not plan.percent_now and not was_slowed(curve):
            plan = self._stillness.plan(view, curve, situation, goals) or plan
        if plan and (trial := tried(plan, curve, view, situation, goals)):
            plan, self._is_trying = trial, True
        if plan and plan.percent_now and self._last_resort.rests(view):
            plan, why = None, "it was slowed in vain before"
        self._failing = 0 if plan and not plan.misses_goals else self._failing + 1
        self._why_last_resort = self._why_in_doubt(view, curve, plan, situation.bandwidth_bytes_per_s, goals)
        if self._failing >= _IN_A_ROW:
            yield from self._told_once(curve, situation, goals, plan, settings)
            if self._why_last_resort and view.throttle_percent and self._last_resort.may_begin(view):
                return  # it begins at the next look; until then the throttle in force stays
        elif plan is None and not was_trying:
            return
        yield from self._throttle(view, plan, why)

    def _why_in_doubt(self, view: View, curve: DirtyCurve, plan: Plan | None, bytes_per_s: float, goals: Goals) -> str:
        """Return why what is foretold is not to be believed; empty if it is, or the highest throttle takes nothing."""
        if keeps_up(curve, view.sensed.throttle_slice_ns, goals.highest_percent):
            return ""
        if plan is None:
            return _HOPELESS if self._failing >= _IN_A_ROW else ""
        if plan.waits or plan.harms or self._is_trying:
            return ""
        self._promise.made(view, plan, bytes_per_s)
        return "it was to be moved long ago" if self._promise.is_overdue(view, bytes_per_s) else ""

    def _situation(self, curve: DirtyCurve, view: View, settings: PlannedSettings) -> Situation | None:
        """Return where the migration is; None as long as nobody knows how fast the link is."""
        sensed, bytes_per_s = view.sensed, self._pass.bytes_per_s(view.sensed)
        if not bytes_per_s:
            return None
        return Situation(
            pending_bytes=sensed.remaining_bytes,
            pending_ns=sensed.reading_ns + self._pass.remaining_ns(sensed.remaining_bytes, bytes_per_s),
            again_bytes=self._pass.again_bytes(sensed, curve),
            sync_ns=self._sync_ns(view, settings),
            bandwidth_bytes_per_s=bytes_per_s,
            threshold_bytes=bytes_per_s * sensed.downtime_limit_ns / NS_PER_S,
            throttle_percent=view.throttle_percent,
            slice_ns=sensed.throttle_slice_ns,
            worked_ns=self._pass.worked_ns,
            wire_share=sensed.wire_share,
        )

    def _sync_ns(self, view: View, settings: PlannedSettings) -> float:
        """Return from how long before its sending on a write makes a page dirty again, at the most."""
        if view.sensed.rearms_late:
            return 0.0
        if view.sensed.again_bytes is None:
            return math.inf if self._pass.is_armed_at_once else 0.0
        return self._cadence.window_ns(view, settings.window_ms * NS_PER_MS)

    def _throttle(self, view: View, plan: Plan | None, why_none: str) -> Iterator[Action]:
        """Set the throttle of the plan; without one there is none."""
        self._plan = plan
        percent, reason = (plan.percent_now, plan.as_text()) if plan else (0, why_none)
        still = plan is not None and plan.still and plan.percent_now > 0
        if still:
            self._stillness.begin(view)
        if still or view.period or percent != view.throttle_percent:
            yield self._set(view, percent, reason, self._figures(plan), still=still)

    def _set(
        self, view: View, percent: int, reason: str, figures: Mapping[str, float] = NO_FIGURES, *, still: bool = False
    ) -> Throttle:
        """Return the throttle from now on, and why."""
        change = f"throttle stays {percent} %"
        if still or percent != view.throttle_percent:
            self._cadence.throttled()
            change = f"{view.throttle_percent} -> {percent} %"
        return Throttle(percent=percent, reason=f"{reason}: {change}", still=still, figures=figures)

    def _figures(self, plan: Plan | None) -> dict[str, float]:
        """Return what is expected; of a throttle that is only tried, nothing is."""
        if plan is None or self._is_trying:
            return {}
        return {MOVED_IN: plan.time_ns / NS_PER_S, LOST: plan.lost_ns / NS_PER_S}

    def _raised(
        self, curve: DirtyCurve, view: View, settings: PlannedSettings, situation: Situation, goals: Goals
    ) -> tuple[Plan, Action] | None:
        """Return a plan that keeps the goals with a higher downtime limit, if that may be, and what raises it."""
        most_ns = settings.max_downtime_ms * NS_PER_MS
        if most_ns <= view.sensed.downtime_limit_ns:
            return None
        threshold_bytes = situation.bandwidth_bytes_per_s * most_ns / NS_PER_S
        each = look_ahead_each(curve, replace(situation, threshold_bytes=threshold_bytes), goals.outclassed)
        plan = make_plan(each, goals)
        if plan is None or not plan.keeps_goals:
            return None
        left_bytes = each[plan.begin].left_bytes[plan.percent]
        limit_ns = left_bytes / situation.bandwidth_bytes_per_s * NS_PER_S * _DOWNTIME_MARGIN
        limit_ns = min(most_ns, max(round(limit_ns), view.sensed.downtime_limit_ns))
        return plan, SetDowntimeLimit(limit_ns=limit_ns, reason=f"{plan.as_text()} with this downtime limit")

    def _told_once(
        self, curve: DirtyCurve, situation: Situation, goals: Goals, plan: Plan | None, settings: PlannedSettings
    ) -> Iterator[Action]:
        """Say what cannot be met and what would do, and do what is to be done then."""
        if self._told:
            return
        self._told = True
        why = (
            f"it would take {time_text(plan.time_ns)} and {time_text(plan.lost_ns)} of each vCPU"
            if plan
            else (f"no throttle up to {goals.highest_percent} % makes this converge")
        )
        what = f"{settings.named()} cannot be met: {why}; each of these would do: "
        reason = what + ", ".join(remedies(curve, situation, goals))
        yield _on_limit(settings, reason)


def _on_limit(settings: PlannedSettings, reason: str) -> Action:
    """Return what is to be done if the goals cannot be met."""
    if not settings.has_goals or settings.on_limit is OnLimit.CONTINUE:
        return Tell(reason=reason)
    if settings.on_limit is OnLimit.CANCEL:
        return Cancel(reason=reason)
    if settings.max_downtime_ms:
        return SetDowntimeLimit(limit_ns=settings.max_downtime_ms * NS_PER_MS, reason=reason)
    return SwitchOver(reason=reason)


def _may_lose_more(view: View, settings: PlannedSettings) -> bool:
    return not settings.bounds_loss or settings.goals(view).allows(settings.highest_percent, HELD_NS)
