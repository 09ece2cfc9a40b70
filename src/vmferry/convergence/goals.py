"""The goals of a migration, and which throttle meets them at the least cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmferry.convergence.lookahead import Begin, Courses


@dataclass(frozen=True, kw_only=True)
class Goals:
    """What is still allowed, seen from now; infinite is no bound."""

    work_weight: float
    """How many seconds of total time a second of each vCPU's work is worth."""
    patience: float
    patience_ns: float
    """A guest is not slowed if without a throttle it moves in at most patience x the shortest time + patience_ns."""
    reluctance: float = 1.0
    """A throttle that begins now has to be so many times cheaper than one that begins later: who waits knows more."""
    highest_percent: int = 99
    finish_in_ns: float = math.inf
    max_loss_ns: float = math.inf
    """How much time of each vCPU may be taken in all."""
    max_loss_share: float = 1.0
    """How much of the time since the migration began may be taken from each vCPU."""
    elapsed_ns: float = 0.0
    lost_ns: float = 0.0

    def kept_by(self, courses: Courses) -> NDArray[np.bool_]:
        """Return which courses keep the goals."""
        lost_ns = self.lost_ns + courses.lost_ns
        most_ns = np.minimum(self.max_loss_ns, self.max_loss_share * (self.elapsed_ns + courses.time_ns))
        with np.errstate(invalid="ignore"):
            kept: NDArray[np.bool_] = (courses.time_ns <= self.finish_in_ns) & (lost_ns <= most_ns)
        return kept & np.isfinite(courses.time_ns)


@dataclass(frozen=True)
class Plan:
    """A throttle, and what it is expected to come to."""

    percent: int
    begin: Begin
    time_ns: float
    """From now on."""
    lost_ns: float
    """Of each vCPU, from now on."""
    cost_ns: float
    """What is to be least: the time, and the weighed work if the goals are kept."""
    keeps_goals: bool

    @property
    def percent_now(self) -> int:
        """The throttle that it wants now."""
        return self.percent if self.begin is Begin.NOW else 0


def make_plan(each: Mapping[Begin, Courses], goals: Goals) -> Plan | None:
    """Return the cheapest course that keeps the goals, or the soonest one if none does; None if none ends.

    `each` are the courses of all throttles by their beginnings.
    """
    plans = [_cheapest(each[begin], goals, begin) for begin in sorted(each, reverse=True)]
    now = each[Begin.NOW]
    best = min(filter(None, plans), key=lambda plan: _rank(plan, goals), default=None)
    free_ns = float(now.time_ns[0])
    if best and goals.kept_by(now)[0] and free_ns <= goals.patience * best.time_ns + goals.patience_ns:
        return Plan(0, Begin.NOW, free_ns, 0.0, free_ns, keeps_goals=True)
    return best


def _rank(plan: Plan, goals: Goals) -> tuple[bool, float]:
    """Return by what plans are ordered: those that keep the goals first, then by their cost, and that of doubt."""
    return not plan.keeps_goals, plan.cost_ns * (goals.reluctance if plan.percent_now else 1.0)


def _cheapest(courses: Courses, goals: Goals, begin: Begin) -> Plan | None:
    ends = np.isfinite(courses.time_ns)
    ends[goals.highest_percent + 1 :] = False
    kept = goals.kept_by(courses) & ends
    chosen = np.flatnonzero(kept if kept.any() else ends)
    if not len(chosen):
        return None
    time_ns, lost_ns = courses.time_ns[chosen], courses.lost_ns[chosen]
    cost_ns = time_ns + goals.work_weight * lost_ns if kept.any() else time_ns
    best = int(np.argmin(cost_ns))
    return Plan(
        percent=int(chosen[best]),
        begin=begin,
        time_ns=float(time_ns[best]),
        lost_ns=float(lost_ns[best]),
        cost_ns=float(cost_ns[best]),
        keeps_goals=bool(kept.any()),
    )
