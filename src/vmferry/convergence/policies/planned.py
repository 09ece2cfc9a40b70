"""Plans instead of reacting: learns the guest's dirty curve, looks ahead, and slows the guest as late and as little as
its goal allows.

At every look a throttle is chosen anew by what it would come to, so it falls again as soon as less will do. A guest
that converges by itself is never slowed, nor one that no throttle can help; the latter is said once, with what would
help.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from vmferry.convergence.actions import Action, Measure, Tell, Throttle
from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.lookahead import Courses, Situation, look_ahead
from vmferry.convergence.sensing import Body, Sensed, View
from vmferry.units import format_duration

_NS_PER_S = 1_000_000_000
_SOON = 1.5
"""A guest is not slowed if it moves without a throttle in at most this many times the shortest time."""
_SOON_NS = 10 * _NS_PER_S
_NS_PER_MS = 1_000_000
_KNOWN_SHARE = 0.05
"""The curve has to be known for this share of the rest of a pass before the guest is slowed."""
_RATES = 8
_IN_A_ROW = 2
"""How many looks in a row have to find that nothing helps before the guest is let run."""
_MAX_DOUBLINGS = 3


class PlannedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The goal, as one number: what the guest's work is worth."""

    work_weight: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 1.0
    """How many seconds of total time a second of each vCPU's work is worth: 0 is fast, 10 is gentle."""
    window_ms: Annotated[int, msgspec.Meta(ge=50, le=60_000)] = 250
    """How long the shortest measurement lasts; each is twice as long as the one before, up to eight times."""
    max_cpu_throttle: Annotated[int, msgspec.Meta(ge=1, le=99)] = 99


class Planned:
    """Chooses the throttle whose course costs least."""

    Settings: ClassVar[type] = PlannedSettings
    needs: ClassVar[Body] = Body.THROTTLE | Body.MEASURE

    def __init__(self) -> None:
        self._curve: DirtyCurve | None = None
        self._pass = _Pass()
        self._rates: deque[float] = deque(maxlen=_RATES)
        self._measured_ns = 0
        """When the dirty log was last looked at."""
        self._doublings = 0
        self._hopeless_count = 0
        self._told_hopeless = False

    def look(self, view: View, settings: PlannedSettings) -> Iterable[Action]:
        """Learn, plan anew if something was learnt or time has passed, and measure if that was long ago."""
        self._curve = self._curve or DirtyCurve(view.sensed.memory_bytes)
        self._learn(self._curve, view)
        if view.still_ns:
            return
        window_ns = settings.window_ms * _NS_PER_MS << self._doublings
        if view.elapsed_ns - self._measured_ns >= window_ns and not view.written:
            self._measured_ns = view.elapsed_ns
            yield Measure(reason="the plan needs to know what the guest writes", window_ns=window_ns)
        if view.written and self._curve.bends and self._bytes_per_s(view):
            yield from self._plan(self._curve, view, settings)

    def _learn(self, curve: DirtyCurve, view: View) -> None:
        self._pass.look(view, curve)
        if view.written:
            self._measured_ns = view.elapsed_ns
            self._doublings = min(self._doublings + 1, _MAX_DOUBLINGS)
            curve.learn(view.written)
        if view.period and view.period.sent_bytes >= self._pass.take_drained_bytes() / 2:
            self._rates.append(view.period.sent_bytes * _NS_PER_S / view.period.duration_ns)

    def _bytes_per_s(self, view: View) -> float:
        """Return what the link carries: the upper quartile of what it did with enough to do, or at first does now."""
        return float(np.percentile(self._rates, 75)) if self._rates else view.sensed.bandwidth_bytes_per_s

    def _plan(self, curve: DirtyCurve, view: View, settings: PlannedSettings) -> Iterator[Action]:
        sensed, bytes_per_s = view.sensed, self._bytes_per_s(view)
        situation = Situation(
            pending_bytes=sensed.remaining_bytes,
            pending_ns=self._pass.remaining_ns(sensed.remaining_bytes, bytes_per_s),
            again_bytes=self._again_bytes(curve, sensed),
            sync_ns=math.inf if sensed.again_bytes is None else settings.window_ms * _NS_PER_MS << self._doublings,
            bandwidth_bytes_per_s=bytes_per_s,
            threshold_bytes=bytes_per_s * sensed.downtime_limit_ns / _NS_PER_S,
        )
        longest_ns = settings.window_ms * _NS_PER_MS << _MAX_DOUBLINGS
        if curve.known_ns < min(longest_ns, _KNOWN_SHARE * situation.pending_ns):
            return  # in a long pass there is time to find out whether the guest's set is small
        now = look_ahead(curve, situation, from_now=True)
        later = look_ahead(curve, situation, from_now=False)
        highest = settings.max_cpu_throttle
        percent, course_ns, lost_ns, begins = _cheapest(now, later, settings.work_weight, highest)
        if not np.isfinite(course_ns):
            self._hopeless_count += 1
            if self._hopeless_count < _IN_A_ROW:
                return
            yield from self._hopeless(now, situation, highest)
            percent, reason = 0, "no throttle would help"
        elif begins == "later":
            reason = f"plan: {percent} % from the end of this pass on"
            percent = 0
        else:
            reason = f"plan: {percent} %"
        if np.isfinite(course_ns):
            self._hopeless_count = 0
            reason += f", moved in {_text(course_ns)}, {_text(lost_ns)} of each vCPU lost"
        if percent != view.throttle_percent:
            self._doublings = 0
            yield Throttle(percent=percent, reason=f"{reason}: {view.throttle_percent} -> {percent} %")
        elif view.period:
            yield Throttle(percent=percent, reason=f"{reason}: throttle stays {percent} %")

    def _again_bytes(self, curve: DirtyCurve, sensed: Sensed) -> float:
        """Return what was sent in this pass and is dirty again. Where nobody tells, it is half of what can be."""
        if sensed.again_bytes is not None:
            return sensed.again_bytes
        worked = float(curve.distinct_bytes(np.array([self._pass.worked_ns]))[0])
        return min(worked, self._pass.begun_bytes - sensed.remaining_bytes) / 2

    def _hopeless(self, courses: Courses, situation: Situation, highest: int) -> Iterator[Action]:
        if self._told_hopeless:
            return
        self._told_hopeless = True
        free_ns, slowed_ns = (
            courses.left_bytes[percent] / situation.bandwidth_bytes_per_s * _NS_PER_S for percent in (0, highest)
        )
        yield Tell(
            reason=f"no throttle up to {highest} % makes this converge: a downtime limit of {_text(free_ns)} would do "
            f"without one, and of {_text(slowed_ns)} with it"
        )


class _Pass:
    """The running pass over memory: how fast it goes, and what the guest has done since it began."""

    def __init__(self) -> None:
        self.worked_ns = 0.0
        self._number = 0
        self._last_ns = self._begun_ns = 0
        self._last_bytes = self._drained_bytes = 0
        self.begun_bytes = 0

    def look(self, view: View, curve: DirtyCurve) -> None:
        sensed = view.sensed
        if sensed.iteration_count != self._number:
            self._number, self.worked_ns = sensed.iteration_count, 0.0
            self._begun_ns, self.begun_bytes = view.elapsed_ns, sensed.remaining_bytes
        else:
            share = 1 - view.throttle_percent / 100
            self.worked_ns += curve.work_ns(view.elapsed_ns - self._last_ns, share)
            self._drained_bytes += self._last_bytes - sensed.remaining_bytes
        self._last_ns, self._last_bytes = view.elapsed_ns, sensed.remaining_bytes

    def take_drained_bytes(self) -> int:
        """Return what has left the pass since this was asked last; where it is much more than was sent, it was zero."""
        drained_bytes, self._drained_bytes = self._drained_bytes, 0
        return drained_bytes

    def remaining_ns(self, remaining_bytes: int, bytes_per_s: float) -> float:
        """Return how long the rest of the pass takes if it goes on as it did; zero pages go faster than the link."""
        passed_ns, passed_bytes = self._last_ns - self._begun_ns, self.begun_bytes - remaining_bytes
        drained = passed_bytes * _NS_PER_S / passed_ns if passed_ns > 0 and passed_bytes > 0 else 0.0
        return remaining_bytes / max(drained, bytes_per_s) * _NS_PER_S


def _cheapest(now: Courses, later: Courses, weight: float, highest: int) -> tuple[int, float, float, str]:
    """Return the throttle, its course's time and loss, and when it begins; 0 where the guest converges by itself."""
    best: tuple[float, int, float, float, str] | None = None
    for begins, courses in (("later", later), ("now", now)):
        weighed_ns = weight * courses.lost_ns if weight else 0.0  # what never ends loses without end
        cost = (courses.time_ns + weighed_ns)[: highest + 1]
        percent = int(np.argmin(np.where(np.isfinite(cost), cost, np.inf)))
        found = (
            float(cost[percent]),
            percent,
            float(courses.time_ns[percent]),
            float(courses.lost_ns[percent]),
            begins,
        )
        best = found if best is None or found[0] < best[0] else best
    assert best
    _, percent, time_ns, lost_ns, begins = best
    if now.time_ns[0] <= _SOON * time_ns + _SOON_NS:
        return 0, float(now.time_ns[0]), 0.0, "now"
    return percent, time_ns, lost_ns, begins


def _text(duration_ns: float) -> str:
    return format_duration(round(duration_ns))
