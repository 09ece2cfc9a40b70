"""One moment of a migration, as the policy `planned` sees it: all that a plan is made of."""

from dataclasses import dataclass, replace

from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.goals import Goals, Plan, make_plan
from vmferry.convergence.lookahead import Courses, look_ahead_each
from vmferry.convergence.passes import Situation
from vmferry.convergence.policies.planned_settings import PlannedSettings
from vmferry.convergence.sensing import View
from vmferry.convergence.unslowed import Begin

_DOUBTED = 0.8
"""So many times the bandwidth is reckoned with where what was foretold has not come true."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What the guest does, where its migration is, and what is still allowed."""

    view: View
    settings: PlannedSettings
    curve: DirtyCurve
    situation: Situation
    goals: Goals

    @property
    def is_from_outside(self) -> bool:
        """Whether nobody tells what is dirty again, as of a driven QEMU."""
        return self.view.sensed.again_bytes is None

    @property
    def in_doubt(self) -> "Moment":
        """The same on a link that is a little slower: what would do there does, even if what is foretold is not so."""
        return self.supposing(self.situation.with_bandwidth(_DOUBTED))

    def supposing(self, situation: Situation) -> "Moment":
        """Return the same with another situation."""
        return replace(self, situation=situation)

    def courses(self) -> dict[Begin, Courses]:
        """Return what each throttle would come to, by when it begins."""
        return look_ahead_each(self.curve, self.situation, self.goals.outclassed)

    def plan(self) -> Plan | None:
        """Return the cheapest plan that keeps the goals, or else the one that misses them least; None if none ends."""
        return make_plan(self.courses(), self.goals)
