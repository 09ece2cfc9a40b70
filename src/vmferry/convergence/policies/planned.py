"""Plans instead of reacting: learns the guest's dirty curve, looks ahead, and slows the guest as late and as little as
its goals allow.

At every measurement a throttle is chosen anew by what it would come to, so it falls again as soon as less will do. A
guest that converges by itself is never slowed, nor one that no throttle can help. As soon as it is clear that a goal
cannot be met, it is said what would be needed, and done what `on_limit` says.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from vmferry.convergence.actions import Action, Measure, SetDowntimeLimit, Throttle
from vmferry.convergence.curve import DirtyCurve, curve_of
from vmferry.convergence.goals import Plan
from vmferry.convergence.policies.cadence import Cadence
from vmferry.convergence.policies.evidence import best_plan, is_known, probe, tried
from vmferry.convergence.policies.last_resort import HELD_NS, LastResort
from vmferry.convergence.policies.moment import Moment
from vmferry.convergence.policies.pass_watch import AHEAD_NS, PassWatch
from vmferry.convergence.policies.planned_settings import PlannedSettings
from vmferry.convergence.policies.promise import Promise
from vmferry.convergence.policies.shortfall import verdict, with_more_downtime
from vmferry.convergence.policies.stillness import Stillness, keeps_up, was_slowed
from vmferry.convergence.sensing import Body, View
from vmferry.convergence.unslowed import Begin
from vmferry.units import NS_PER_MS, NS_PER_S

_AHEAD_STILL_NS = 100 * NS_PER_MS
"""A throttle that takes all of the guest's work begins as late as it can."""
_SHORTEST_WAIT_NS, _LONGEST_WAIT_NS = 2 * NS_PER_S, 10 * NS_PER_S
"""For how long a guest stays slowed while the link stands still."""
_IN_A_ROW = 2
"""How many looks in a row have to find that nothing helps before the guest is let run."""
_HOPELESS, _OVERDUE = "no throttle would help", "it was to be moved long ago"
_NO_FIGURES: Mapping[str, float] = {}
MOVED_IN, LOST = "moved_in_s", "lost_s"
"""What a plan comes to from then on, by the names of a decision's figures: the time, and what each vCPU loses of it."""


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
        self._plans_failed = False
        """Whether one has not come true, with a throttle or without."""
        self._told = False

    def look(self, view: View, settings: PlannedSettings) -> Iterable[Action]:
        """Learn, measure if that was long ago, and plan anew if something was learnt."""
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
            yield from self._waiting(curve, view, settings)
            return
        if self._has_spent(view, settings):
            yield from self._let_go(view, "all that the guest may lose is taken")
            return
        if window_ns := self._cadence.due_ns(view, settings.window_ms * NS_PER_MS):
            yield Measure(reason="the plan needs to know what the guest writes", window_ns=window_ns)
        yield from self._steered(curve, view, settings)
        if not view.sensed.iteration_count:
            self._has_planned = False  # what was planned before it begins is planned anew then

    def _waiting(self, curve: DirtyCurve, view: View, settings: PlannedSettings) -> Iterator[Action]:
        """Let the guest run while the link stands still, once that has taken what it takes to send all of its set.

        Who waits slowed for a link that comes back soon loses less; for how long it will stand still nobody knows.
        """
        moment = self._moment(curve, view, settings) if view.throttle_percent else None
        if moment is None:
            return
        set_ns = curve.working_set_bytes(0.0) * moment.situation.ns_per_byte
        if view.still_ns >= min(_LONGEST_WAIT_NS, max(_SHORTEST_WAIT_NS, set_ns)):
            self._has_planned = False
            yield from self._throttle(view, None, "next to nothing is sent")

    def _steered(self, curve: DirtyCurve, view: View, settings: PlannedSettings) -> Iterator[Action]:
        """Go on with the last resort, or begin with it, or do as is planned."""
        if self._last_resort.holds:
            yield from self._held_on(curve, view, settings)
        elif self._why_last_resort and self._last_resort.may_begin(view) and _may_lose_more(view, settings):
            yield self._held(view, settings)
        elif (self._has_learnt(view) or self._plans_later) and (moment := self._moment(curve, view, settings)):
            if plan := self._due_plan(moment):
                yield from self._throttle(view, plan, "")
            elif self._has_learnt(view) and is_known(moment):
                yield from self._planned_anew(moment)

    def _has_learnt(self, view: View) -> bool:
        """Whether there is something to plan anew for."""
        return bool(view.written or view.period or not self._has_planned)

    @property
    def _plans_later(self) -> bool:
        """Whether the plan is for the next pass."""
        return self._has_planned and self._plan is not None and self._plan.begin is Begin.NEXT_PASS

    def _moment(self, curve: DirtyCurve, view: View, settings: PlannedSettings) -> Moment | None:
        """Return what plans are made of now; None as long as nobody knows how fast the link is."""
        window_ns = self._cadence.window_ns(view, settings.window_ms * NS_PER_MS)
        situation = self._pass.situation(view, curve, window_ns)
        if situation is None:
            return None
        goals = settings.goals(view, is_trying=self._is_trying)
        return Moment(view=view, settings=settings, curve=curve, situation=situation, goals=goals)

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
        self._last_resort.end(view)
        self._why_last_resort = ""
        self._promise.forget()
        yield from self._throttle(view, None, why)

    def _has_spent(self, view: View, settings: PlannedSettings) -> bool:
        """Tell whether the throttle in force, held until the next look, would take more than the guest may lose."""
        percent = view.throttle_percent
        return percent > 0 and settings.bounds_loss and not settings.goals(view).allows(percent, AHEAD_NS)

    def _due_plan(self, moment: Moment) -> Plan | None:
        """Return the plan for the next pass once that begins, or is so near that the throttle has to begin.

        It waits for another one as long as passes get much shorter by themselves. A body that knows what is dirty again
        makes a new plan at that moment.
        """
        view, sensed, plan = moment.view, moment.view.sensed, self._plan
        if plan is None or not self._plans_later or sensed.again_bytes is not None:
            return None
        held = None if plan.still else self._held_still(moment)
        plan = self._plan = held or plan
        left_bytes = max(0, sensed.remaining_bytes - sensed.threshold_bytes)
        left_ns = sensed.reading_ns + self._pass.remaining_ns(left_bytes, moment.situation.bandwidth_bytes_per_s)
        is_near = left_ns < (_AHEAD_STILL_NS if plan.still else AHEAD_NS)
        if not is_near and (held or not view.iteration_began):
            return None
        waits = not plan.still and (self._last_resort.rests(view) or self._pass.shrinks(moment))
        return None if waits else replace(plan, begin=Begin.NOW)

    def _planned_anew(self, moment: Moment) -> Iterator[Action]:
        """Choose a plan and do what it wants now; say so if plans fail again and again."""
        view, why_none = moment.view, _HOPELESS
        was_trying, self._is_trying, self._has_planned = self._is_trying, False, True
        plan, more_downtime = self._chosen(moment)
        if more_downtime:
            yield more_downtime
        if plan and (trial := tried(plan, moment)):
            plan, self._is_trying = trial, True
        if plan and plan.percent_now and self._last_resort.rests(view):
            plan, why_none = None, "it was slowed in vain before"
        self._why_last_resort = self._why_in_doubt(plan, moment)
        if self._why_last_resort == _OVERDUE:
            self._plans_failed = True
            plan, self._why_last_resort = self._after_failure(plan, moment)
        self._failing = 0 if plan and not plan.misses_goals else self._failing + 1
        if self._failing >= _IN_A_ROW:
            if not self._told:
                self._told = True
                yield verdict(moment.in_doubt if self._plans_failed else moment, plan)
            if self._why_last_resort and view.throttle_percent and self._last_resort.may_begin(view):
                return  # it begins at the next look; until then the throttle in force stays
        elif plan is None and not was_trying:
            return
        yield from self._throttle(view, plan, why_none)

    def _chosen(self, moment: Moment) -> tuple[Plan | None, SetDowntimeLimit | None]:
        """Return the best plan there is, and the higher downtime limit if it takes one."""
        held = self._held_still(moment) if self._plan and self._plan.still else None
        plan = held or best_plan(moment)
        more_downtime: SetDowntimeLimit | None = None
        if not (plan and plan.keeps_goals):
            plan, more_downtime = with_more_downtime(moment) or (plan, None)
        plan = plan or probe(moment) or self._held_still(moment)
        if plan and plan.percent and not plan.percent_now and not was_slowed(moment.curve):
            plan = self._held_still(moment) or plan
        return plan, more_downtime

    def _why_in_doubt(self, plan: Plan | None, moment: Moment) -> str:
        """Return why what is foretold is not to be believed; empty if it is, or the highest throttle takes nothing."""
        view, bytes_per_s = moment.view, moment.situation.bandwidth_bytes_per_s
        if plan is None:
            return _HOPELESS if self._failing + 1 >= _IN_A_ROW and not self._keeps_up(moment) else ""
        if plan.still or plan.waits or plan.harms or self._is_trying or self._is_moving(plan, moment):
            return ""
        self._promise.made(view, plan, bytes_per_s)
        return _OVERDUE if self._promise.is_overdue(view, bytes_per_s) else ""

    def _after_failure(self, plan: Plan | None, moment: Moment) -> tuple[Plan | None, str]:
        """Return what is planned where a plan has not come true, and why the last resort is to begin, if it is.

        One sleep is tried. Where no throttle takes any work there is nothing else; otherwise the plan stays until the
        last resort begins.
        """
        if held := self._held_still(moment):
            return held, ""
        return (None, "") if self._keeps_up(moment) else (plan, _OVERDUE)

    def _held_still(self, moment: Moment) -> Plan | None:
        return self._stillness.plan(moment, plans_failed=self._plans_failed)

    def _keeps_up(self, moment: Moment) -> bool:
        return keeps_up(moment.curve, moment.view.sensed.throttle_slice_ns, moment.goals.highest_percent)

    def _is_moving(self, plan: Plan, moment: Moment) -> bool:
        """Tell whether the guest runs and gets through by itself, however slowly."""
        return not plan.percent and self._pass.shrinks(moment)

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
        self, view: View, percent: int, reason: str, figures: Mapping[str, float] = _NO_FIGURES, *, still: bool = False
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


def _may_lose_more(view: View, settings: PlannedSettings) -> bool:
    return not settings.bounds_loss or settings.goals(view).allows(settings.highest_percent, HELD_NS)
