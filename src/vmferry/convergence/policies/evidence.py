"""Whether enough was seen of a guest to plan by, and what is done where it was not."""

from dataclasses import replace

import numpy as np

from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.goals import Plan
from vmferry.convergence.policies.moment import Moment
from vmferry.convergence.policies.stillness import was_slowed
from vmferry.convergence.unslowed import Begin
from vmferry.units import NS_PER_MS, NS_PER_S

_KNOWN_SHARE, _KNOWN_SHARE_OF_SLOW = 0.1, 0.3
"""A guest is looked at for this share of the rest of a pass before it is slowed, and a slow writer for longer: its set
may have an end."""
_SLOW = 0.85
"""A slow writer writes at most this share of what is sent, so passes get shorter even if its set has no end."""
_FLOOD_NS = 500 * NS_PER_MS
"""In less time a small set that is rewritten is no flood yet."""
_FLOOD_IN_PARTS_NS = 1500 * NS_PER_MS
"""Where passes are so short that no longer part was ever looked at, in so much time all together."""
_SURE_SHARE = 0.5
"""In a time shorter than it was ever looked at, a guest that runs freely may write more than is known. So a throttle is
let go then only if what remains without one fits this share of the downtime."""
_LAST_NS = NS_PER_S
"""How long before its end a throttle is not eased any more from outside, where looks come late."""
_TRIED_PERCENT, _TRY_SHARE = 95, 0.2
"""A throttle that is to come later is tried for a moment, as how a guest writes in slices is a guess before; the
highest one, where that shows at once what it does."""
_TRY_NS, _WORTH = NS_PER_S, 4
"""It takes so long at the most, and is made if the plan takes so many times as much from the guest: a plan that takes
less shows soon enough by itself whether it is right."""
_DOUBT, _DOUBT_SLOWED = 3.0, 1.3
"""A throttle is tried if it would do with so many times the bandwidth: before the highest was tried once, and after."""


def is_known(moment: Moment) -> bool:
    """Tell whether a small set that is rewritten can be told from a flood, and was looked for long enough.

    A guest that writes more than is sent, in all the time that was seen, is a flood as far as this goes.
    """
    curve, situation, known_ns = moment.curve, moment.situation, moment.curve.known_ns
    sent_bytes = situation.bandwidth_bytes_per_s * known_ns / NS_PER_S
    written_bytes = float(curve.distinct_bytes(np.array([float(known_ns)]))[0])
    share = _KNOWN_SHARE_OF_SLOW if written_bytes <= _SLOW * sent_bytes else _KNOWN_SHARE
    if not situation.throttle_percent and curve.history.observed_ns < share * situation.pending_ns:
        return False
    is_long = known_ns >= _FLOOD_NS or curve.history.observed_ns >= _FLOOD_IN_PARTS_NS
    return curve.bends or (is_long and written_bytes > sent_bytes)


def best_plan(moment: Moment) -> Plan | None:
    """Return the best plan, of which one that lets a slowed guest go has to be sure.

    Seen from outside, it stays slowed if it is to move before that could be seen to go wrong.
    """
    plan, situation = moment.plan(), moment.situation
    if plan and moment.is_from_outside and plan.percent_now < situation.throttle_percent and plan.time_ns < _LAST_NS:
        lost_ns = plan.time_ns * situation.throttle_percent / 100
        return replace(plan, percent=situation.throttle_percent, begin=Begin.NOW, lost_ns=lost_ns)
    lets_go = plan is not None and not plan.percent and situation.throttle_percent > 0
    if not (lets_go and _is_short(moment.curve, situation.pending_ns)):
        return plan
    doubtful = replace(situation, threshold_bytes=_SURE_SHARE * situation.threshold_bytes)
    return moment.supposing(doubtful).plan() or plan


def probe(moment: Moment) -> Plan | None:
    """Return a plan to try, where so little is missing that what is known may be wrong; None where nothing helps.

    How a guest writes in slices is a guess until it was slowed once.
    """
    least_share = 1.5 * (1 - moment.goals.highest_percent / 100)
    times = _DOUBT_SLOWED if any(point.cpu_share <= least_share for point in moment.curve.points) else _DOUBT
    plan = moment.supposing(moment.situation.with_bandwidth(times)).plan()
    return plan if plan and plan.keeps_goals and plan.percent_now else None


def tried(plan: Plan, moment: Moment) -> Plan | None:
    """Return a plan that is to come later as one that is tried now, if that is wanted and allowed."""
    goals = moment.goals
    if not plan.percent or plan.percent_now or plan.harms or not moment.view.sensed.iteration_count:
        return None
    if plan.lost_ns < _WORTH * _TRY_NS:
        return None
    percent = min(_TRIED_PERCENT, goals.highest_percent) if moment.situation.slice_ns else goals.highest_percent
    if not _is_to_be_tried(moment) or not goals.allows(percent, _TRY_NS):
        return None
    return replace(plan, percent=percent, begin=Begin.NOW, waits=False)


def _is_short(curve: DirtyCurve, duration_ns: float) -> bool:
    """Tell whether the guest was never looked at for so little time while it ran freely."""
    return duration_ns < min((point.duration_ns for point in curve.points if not point.slowed), default=0)


def _is_to_be_tried(moment: Moment) -> bool:
    """Tell whether the guest was never slowed, and is known well enough as it is."""
    known_enough = moment.curve.known_ns >= min(NS_PER_S, _TRY_SHARE * moment.situation.pending_ns)
    return known_enough and not was_slowed(moment.curve)
