"""The goals of a migration, and which throttle meets them at the least cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmferry.convergence.lookahead import Courses
from vmferry.convergence.unslowed import Begin
from vmferry.units import format_duration

_CLEARLY = 1.4
_BEGINS = {Begin.NOW: "", Begin.NEXT_PASS: " from the end of this pass on", Begin.AT_LAST: " in the end"}


@dataclass(frozen=True, kw_only=True)
class Goals:
    """What is still allowed, seen from now; infinite is no bound."""

    work_weight: float
    """How many seconds of total time a second of each vCPU's work is worth."""
    patience: float
    patience_ns: float
    """A guest is not slowed if without a throttle it moves in at most patience x the shortest time + patience_ns."""
    reluctance: float = 1.0
    """By how many times a throttle from now on has to be cheaper than one that begins later."""
    highest_percent: int = 99
    finish_in_ns: float = math.inf
    max_loss_ns: float = math.inf
    """How much time of each vCPU may be taken in all."""
    max_loss_share: float = 1.0
    """How much of the time since the migration began may be taken from each vCPU."""
    elapsed_ns: float = 0.0
    lost_ns: float = 0.0

    @property
    def _are_bounds(self) -> bool:
        """False if anything is allowed."""
        return min(self.finish_in_ns, self.max_loss_ns) < math.inf or self.max_loss_share < 1

    def through_ns(self, courses: Courses) -> NDArray[np.float64]:
        """Return when each course has ended if it begins as late as it has to.

        The guest is let run first for as long as it takes until what the course costs is no more than its share of all
        the time.
        """
        if self.max_loss_share >= 1:
            return courses.time_ns
        with np.errstate(invalid="ignore", divide="ignore"):  # where nothing is lost, or nothing may be
            needed_ns = (self.lost_ns + courses.lost_ns) / np.float64(self.max_loss_share) - self.elapsed_ns
        return np.where(courses.lost_ns > 0, np.fmax(courses.time_ns, needed_ns), courses.time_ns)

    def harms(self, courses: Courses) -> NDArray[np.float64]:
        """Return how many times what may be taken of each vCPU each course takes."""
        if self.max_loss_ns == math.inf:
            return np.zeros_like(courses.lost_ns)
        with np.errstate(invalid="ignore"):  # of those that never end
            taken = (self.lost_ns + courses.lost_ns) / max(1.0, self.max_loss_ns)
        return np.where(courses.lost_ns > 0, taken, 0.0)

    def overshoots(self, courses: Courses) -> NDArray[np.float64]:
        """Return how many times what is allowed each course takes, of what it takes most of; infinite if it never ends.

        Those up to 1 keep the goals.
        """
        if not self._are_bounds:
            return np.where(np.isfinite(courses.time_ns), 0.0, np.inf)
        through_ns = self.through_ns(courses)
        with np.errstate(invalid="ignore"):  # of those that never end, which are replaced
            late = through_ns / max(1.0, self.finish_in_ns)
        return np.where(np.isfinite(through_ns), np.maximum(late, self.harms(courses)), np.inf)

    def costs(self, courses: Courses) -> NDArray[np.float64]:
        """Return the time and the weighed work that each course takes, in ns; not a number if it never ends."""
        with np.errstate(invalid="ignore"):
            cost: NDArray[np.float64] = self.through_ns(courses) + self.work_weight * courses.lost_ns
        return cost

    def allows(self, percent: int, for_ns: float) -> bool:
        """Tell whether a throttle for a while takes no more than may be lost by then."""
        lost_ns = self.lost_ns + for_ns * percent / 100
        return lost_ns <= min(self.max_loss_ns, self.max_loss_share * (self.elapsed_ns + for_ns))

    def outclassed(self, courses: Courses, ended: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell which courses that go on need not be followed, as the plan will be one of those that have ended.

        `courses` are rows for several beginnings; those that go on take what they have come to, at the least. A guest
        that moves by itself, in the first column, is waited for if that takes not much longer than the shortest course.
        """
        keep = ended & (self.overshoots(courses) <= 1)
        keep[:, self.highest_percent + 1 :] = False
        time_ns = courses.time_ns[:, : self.highest_percent + 1]
        if keep[0, 0] and self.waits_for(time_ns[0, 0], time_ns[:, 1:].min(initial=math.inf)):
            return np.ones_like(ended)
        costs = self.costs(courses)
        most_cost = costs.min(initial=math.inf, where=keep) * max(self.reluctance, 1 / self.reluctance)
        outclassed: NDArray[np.bool_] = costs > most_cost
        outclassed[:, self.highest_percent + 1 :] = True
        return outclassed

    def waits_for(self, free_ns: float, best_ns: float) -> bool:
        """Tell whether a guest that moves by itself after that time is waited for, where another plan takes less."""
        longest_ns = self.patience * best_ns if best_ns else 0.0
        return free_ns <= longest_ns + self.patience_ns


@dataclass(frozen=True)
class Plan:
    """A throttle, and what it is expected to come to."""

    percent: int
    begin: Begin
    time_ns: float
    """From now on."""
    lost_ns: float
    """Of each vCPU, from now on."""
    cost: float
    """What is to be least: the time and the weighed work in ns, or where goals are not kept, by how much."""
    overshoot: float
    """How many times what is allowed it takes."""
    harms: bool = False
    """True if it takes more of the guest than may be lost, which is never done."""
    waits: bool = False
    """True if the guest has to run freely for a while before, so that it loses no more than its share."""
    still: bool = False
    """True if vCPUs are to sleep through, and not to run in short slices."""

    @property
    def keeps_goals(self) -> bool:
        """True if it is as it should be."""
        return self.overshoot <= 1

    @property
    def misses_goals(self) -> bool:
        """True if it is clear that it is not as it should be, by more than a look ahead errs."""
        return self.overshoot > _CLEARLY

    @property
    def percent_now(self) -> int:
        """The throttle that it wants now."""
        return self.percent if self.begin is Begin.NOW and not (self.harms or self.waits) else 0

    def as_text(self) -> str:
        """Return it in words."""
        lost = format_duration(self.lost_ns)
        if self.harms:
            return f"{self.percent} % would take {lost} of each vCPU, more than the guest may lose"
        begin = " later" if self.waits else _BEGINS[self.begin]
        what = f"plan: {self.percent} %{begin}{', in one sleep' if self.still else ''}"
        return f"{what}, moved in {format_duration(self.time_ns)}, {lost} of each vCPU lost"


def make_plan(each: Mapping[Begin, Courses], goals: Goals) -> Plan | None:
    """Return the cheapest course that keeps the goals, or else the one that misses them least; None if none ends.

    What a guest may lose is kept if any course does.

    `each` are the courses of all throttles by their beginnings.
    """
    plans = [_cheapest(each[begin], goals, begin) for begin in (Begin.NEXT_PASS, Begin.AT_LAST, Begin.NOW)]
    now = each[Begin.NOW]
    best = min(filter(None, plans), key=lambda plan: _rank(plan, goals), default=None)
    free_ns = float(now.time_ns[0])
    free_overshoot = float(goals.overshoots(now)[0])
    if best and free_overshoot <= 1 and goals.waits_for(free_ns, best.time_ns):
        return Plan(0, Begin.NOW, free_ns, 0.0, free_ns, free_overshoot)
    return best


def _rank(plan: Plan, goals: Goals) -> tuple[bool, bool, float]:
    """Return by what plans are ordered: those that keep the goals first, then by their cost, and that of doubt."""
    return plan.harms, not plan.keeps_goals, plan.cost * (goals.reluctance if plan.percent_now else 1.0)


def _cheapest(courses: Courses, goals: Goals, begin: Begin) -> Plan | None:
    overshoots = goals.overshoots(courses)
    overshoots[goals.highest_percent + 1 :] = np.inf
    if not np.isfinite(overshoots).any():
        return None
    harmless = goals.harms(courses) <= 1
    cost = np.where(overshoots <= 1, goals.costs(courses), np.inf)
    if not np.isfinite(cost).any():
        cost = overshoots
        if np.isfinite(overshoots[harmless]).any():
            cost = np.where(harmless, overshoots, np.inf)
    percent = int(np.argmin(cost))
    through_ns = float(goals.through_ns(courses)[percent])
    return Plan(
        percent=percent,
        begin=begin,
        time_ns=through_ns,
        lost_ns=float(courses.lost_ns[percent]),
        cost=float(cost[percent]),
        overshoot=float(overshoots[percent]),
        harms=not harmless[percent],
        waits=through_ns > courses.time_ns[percent],
    )
