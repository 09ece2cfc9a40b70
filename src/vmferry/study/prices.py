"""The price list of a migration: the single changes that would make a guest converge without being slowed.

What has to change is looked for with the first guest that did not move in the runs without a throttle. The look-ahead
says where to begin; then a migration in virtual time has to agree, else more is tried.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from vmferry.convergence.limits import MAX_DOWNTIME_MS
from vmferry.convergence.lookahead import Courses, look_ahead
from vmferry.convergence.passes import Situation
from vmferry.study.draws import Draw
from vmferry.study.strategies import NO_THROTTLE, outcome_of, outcome_throttled
from vmferry.study.survey import Survey
from vmferry.units import NS_PER_S

_STARTS = (0.0, 0.33, 0.67)
_MUCH_MORE, _MORE = 2.0, 1.1
"""How many times more is tried next, and how close to the least value what is found has to be."""
_MOST_BANDWIDTH = 1000.0
"""As many times the bandwidth that there is are looked at."""


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """The single changes that would make the guest converge without being slowed; None: no such value does."""

    downtime_limit_ms: float | None
    bandwidth_bytes_per_s: float | None
    throttle_percent: int | None
    """The least throttle, held from the beginning, by which it converges as things are; 0 if all runs did without."""
    least: bool = True
    """False if there was no time to look for less: these do, but something less may do, too."""


@dataclass
class _Patience:
    """How long less is looked for where something does."""

    is_enough: Callable[[], bool]
    ended: bool = False
    """True if it did while there was something to look for."""

    def lasts(self) -> bool:
        self.ended = self.ended or self.is_enough()
        return not self.ended


def prices(survey: Survey, stuck: Draw | None, is_enough: Callable[[], bool] = lambda: False) -> Prices:
    """Return what a single change would have to be for the guest `stuck`, which does not move; None if there is none.

    As soon as `is_enough` says so, what does is no longer compared with what is a little less.
    """
    if stuck is None:
        return Prices(
            downtime_limit_ms=survey.downtime_limit_ms,
            bandwidth_bytes_per_s=survey.bandwidth_bytes_per_s,
            throttle_percent=0,
        )
    courses, patience = _courses(survey), _Patience(is_enough)
    converging = np.flatnonzero(np.isfinite(courses.time_ns[1:])) + 1
    return Prices(
        downtime_limit_ms=_least_downtime_ms(survey, stuck, courses, patience),
        bandwidth_bytes_per_s=_least_bandwidth(survey, stuck, patience),
        throttle_percent=_least_throttle(survey, stuck, int(converging[0]), patience) if len(converging) else None,
        least=not patience.ended,
    )


def _moves(survey: Survey, draw: Draw) -> bool:
    """Tell whether it moves by itself; a guest in bursts, wherever in them it is when it begins."""
    starts = _STARTS if survey.bursts else (draw.start,)
    return all(outcome_of(survey, NO_THROTTLE, replace(draw, start=start)).completed for start in starts)


def _courses(survey: Survey) -> Courses:
    bytes_per_s = survey.memory_bytes_per_s
    situation = Situation(
        pending_bytes=survey.used_bytes,
        pending_ns=survey.used_bytes / bytes_per_s * NS_PER_S,
        again_bytes=0,
        sync_ns=math.inf,
        bandwidth_bytes_per_s=bytes_per_s,
        threshold_bytes=bytes_per_s * survey.downtime_limit_ms / 1000,
    )
    return look_ahead(survey.curve(), situation, from_now=True)


def _least_downtime_ms(survey: Survey, stuck: Draw, courses: Courses, patience: _Patience) -> float | None:
    left_ms = float(courses.left_bytes[0]) / survey.memory_bytes_per_s * 1000
    found = _least(
        max(left_ms, survey.downtime_limit_ms),
        MAX_DOWNTIME_MS,
        lambda limit_ms: _moves(replace(survey, downtime_limit_ms=round(limit_ms)), stuck),
        patience,
    )
    return None if found is None else float(round(found))


def _least_bandwidth(survey: Survey, stuck: Draw, patience: _Patience) -> float | None:
    """Bisect by the look-ahead, and begin there."""
    low = float(survey.bandwidth_bytes_per_s)
    most = high = min(low * _MOST_BANDWIDTH, survey.most_useful_bytes_per_s)
    if most <= low:
        return None

    def faster(bytes_per_s: float) -> Survey:
        return replace(survey, bandwidth_bytes_per_s=round(bytes_per_s))

    for _ in range(20):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if np.isfinite(_courses(faster(middle)).time_ns[0]) else (middle, high)
    return _least(high, most, lambda bytes_per_s: _moves(faster(bytes_per_s), stuck), patience)


def _least_throttle(survey: Survey, stuck: Draw, percent: int, patience: _Patience) -> int | None:
    failing, found = percent - 1, 99
    if not outcome_throttled(survey, found, stuck).completed:
        return None
    while found - failing > 1 and patience.lasts():
        middle = (failing + found) // 2
        failing, found = (failing, middle) if outcome_throttled(survey, middle, stuck).completed else (middle, found)
    return found


def _least(value: float, most: float, moves: Callable[[float], bool], patience: _Patience) -> float | None:
    """Return about the least value, from this one on, for which the guest moves in virtual time too."""
    failing = value
    while not moves(value):
        if value >= most:
            return None
        failing, value = value, min(most, value * _MUCH_MORE)
    while value > failing * _MORE and patience.lasts():
        middle = math.sqrt(failing * value)
        failing, value = (failing, middle) if moves(middle) else (middle, value)
    return value
