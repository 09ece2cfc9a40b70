"""Where no throttle keeps the goals: a higher downtime limit if that may be, or else what is said, and done then."""

from dataclasses import replace

from vmferry.convergence.actions import Action, Cancel, SetDowntimeLimit, SwitchOver, Tell
from vmferry.convergence.goals import Plan, make_plan
from vmferry.convergence.limits import OnLimit
from vmferry.convergence.policies.moment import Moment
from vmferry.convergence.policies.planned_settings import PlannedSettings
from vmferry.convergence.remedies import remedies
from vmferry.units import NS_PER_MS, NS_PER_S, format_duration

_DOWNTIME_MARGIN = 1.3
"""The downtime limit is raised to so many times what the plan needs."""


def with_more_downtime(moment: Moment) -> tuple[Plan, SetDowntimeLimit] | None:
    """Return a plan that keeps the goals with a higher downtime limit, if that may be, and what raises it."""
    most_ns, limit_ns = moment.settings.max_downtime_ms * NS_PER_MS, moment.view.sensed.downtime_limit_ns
    if most_ns <= limit_ns:
        return None
    bytes_per_s = moment.situation.bandwidth_bytes_per_s
    each = moment.supposing(replace(moment.situation, threshold_bytes=bytes_per_s * most_ns / NS_PER_S)).courses()
    plan = make_plan(each, moment.goals)
    if plan is None or not plan.keeps_goals:
        return None
    left_bytes = each[plan.begin].left_bytes[plan.percent]
    needed_ns = round(left_bytes / bytes_per_s * NS_PER_S * _DOWNTIME_MARGIN)
    reason = f"{plan.as_text()} with this downtime limit"
    return plan, SetDowntimeLimit(limit_ns=min(most_ns, max(needed_ns, limit_ns)), reason=reason)


def verdict(moment: Moment, plan: Plan | None) -> Action:
    """Return what is done as no plan keeps the goals, not even the best one, and says what would do."""
    settings = moment.settings
    why = f"no throttle up to {settings.highest_percent} % makes this converge"
    if plan:
        why = f"it would take {format_duration(plan.time_ns)} and {format_duration(plan.lost_ns)} of each vCPU"
    would_do = ", ".join(remedies(moment.curve, moment.situation, moment.goals))
    return _on_limit(settings, f"{settings.named()} cannot be met: {why}; each of these would do: {would_do}")


def _on_limit(settings: PlannedSettings, reason: str) -> Action:
    """Return what is to be done if the goals cannot be met."""
    if not settings.has_goals or settings.on_limit is OnLimit.CONTINUE:
        return Tell(reason=reason)
    if settings.on_limit is OnLimit.CANCEL:
        return Cancel(reason=reason)
    if settings.max_downtime_ms:
        return SetDowntimeLimit(limit_ns=settings.max_downtime_ms * NS_PER_MS, reason=reason)
    return SwitchOver(reason=reason)
