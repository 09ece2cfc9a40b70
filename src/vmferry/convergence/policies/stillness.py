"""A guest that keeps up with every quota, or may do so, is held still for one pass; so is one of which plans failed.

Quotas leave a driven guest many short slices in each second. A service that wants less of its CPU than the highest
throttle leaves it does all of its work in them, and dirties as much as before. Held still, as QEMU's own throttle of
99 % does for a second at a time, it writes next to nothing while the last pass is sent. That needs no trial of what the
guest does in slices. Where a sync waits until each vCPU has run, it would hold up the migration as well.
"""

import numpy as np

from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.goals import Plan
from vmferry.convergence.lookahead import Courses
from vmferry.convergence.policies.moment import Moment
from vmferry.convergence.sensing import View
from vmferry.convergence.unslowed import Begin, at_next_pass
from vmferry.units import NS_PER_MS

PERCENT = 99
_LONGEST_NS = 1600 * NS_PER_MS
"""A guest is held still if the pass in which it is takes no longer."""
_PATIENCE_NS = 2 * _LONGEST_NS
"""It is let go if it has not moved by then."""
_REST = 5
"""After that it is not tried again for so many times as long, and for twice as many times after the next."""


class Stillness:
    """Whether the guest is held still, and until when."""

    def __init__(self) -> None:
        self._begun_ns: int | None = None
        self._rest_ns = _REST * _PATIENCE_NS
        self._rests_until_ns = 0

    @property
    def holds(self) -> bool:
        """True from the time on that it is held still until it is let go."""
        return self._begun_ns is not None

    def plan(self, moment: Moment, *, plans_failed: bool = False) -> Plan | None:
        """Return the plan of holding it still in the next pass, where that is of use and allowed.

        `plans_failed` if what was planned with quotas, or without a throttle, has not come true.
        """
        curve, situation, goals = moment.curve, moment.situation, moment.goals
        may_hold = goals.highest_percent >= PERCENT and goals.allows(PERCENT, _PATIENCE_NS)
        if not may_hold or moment.view.elapsed_ns < self._rests_until_ns:
            return None
        may_help = plans_failed or not was_slowed(curve) or keeps_up(curve, 0.0, goals.highest_percent)
        if situation.slice_ns or moment.view.sensed.syncs_wait or not may_help:
            return None
        next_ns = at_next_pass(curve, situation).pending_ns
        time_ns, lost_ns = situation.pending_ns + next_ns, next_ns * PERCENT / 100
        courses = Courses(np.array([time_ns]), np.array([lost_ns]), np.array([situation.threshold_bytes]))
        overshoot = float(goals.overshoots(courses)[0])
        if next_ns > _LONGEST_NS or overshoot > 1:
            return None
        return Plan(PERCENT, Begin.NEXT_PASS, time_ns, lost_ns, time_ns, overshoot, still=True)

    def begin(self, view: View) -> None:
        """Take notice that it is held still from now on."""
        self._begun_ns = view.elapsed_ns

    def has_failed(self, view: View) -> bool:
        """Tell whether it was held still for long enough, and let it go if so."""
        if self._begun_ns is None or view.elapsed_ns - self._begun_ns < _PATIENCE_NS:
            return False
        self._begun_ns = None
        self._rests_until_ns = view.elapsed_ns + self._rest_ns
        self._rest_ns *= 2
        return True


def keeps_up(curve: DirtyCurve, slice_ns: float, highest_percent: int) -> bool:
    """Tell whether the guest was seen to do all its work with every quota; where vCPUs sleep at once, it does not."""
    return was_slowed(curve) and not slice_ns and curve.demand < 1 - highest_percent / 100


def was_slowed(curve: DirtyCurve) -> bool:
    """Tell whether it was seen what the guest does while it is slowed."""
    return any(point.slowed for point in curve.points)
