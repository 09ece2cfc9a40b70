"""What a migration would come to, before it begins: every strategy in virtual time, over what is not known exactly.

The guest is one that writes as its dirty curve says. Each strategy moves it several times, with another draw of what
was only measured: how much it writes, how fast the link is, how fast its host reads zero pages. That gives chances and
intervals, and not one figure.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import msgspec
import numpy as np

from vmferry.migration.outcome import Outcome
from vmferry.study.draws import Draw, possible_draws
from vmferry.study.modelled_load import hurry_of
from vmferry.study.postcopy import postcopy
from vmferry.study.strategies import POSTCOPY, outcome_of, strategies_of
from vmferry.study.survey import Survey

_DRAWS, _DRAWS_IN_BURSTS = 5, 9
"""How often each strategy is carried out; it hangs on chance when a burst comes."""
_TRIED, _TRIED_IN_BURSTS = 2, 5
"""If none of so many runs ends, none will."""
_MODEL_ERROR = 0.10
"""How far the model itself is off, beside that: the standard deviation of live times, as a share."""
_UNSEEN, _UNSEEN_IN_BURSTS = 0.2, 0.5
"""How far what was not carried out may be off what was: the same, if next to none of the runs was made."""
_SET_UP_ERROR_MS = 100
"""How far beginning and ending differ, which are not modelled: the same, in ms."""
_FAST_WIRE = 0.1
"""The rest of a stopped guest goes as fast as the wire carries it, which nobody has measured: it may take so much of
what it takes at the bandwidth that the migration may use."""
_AS_FAST = 1.05
_AS_FAST_MS = 100
"""Times that differ by less than either are the same: a forecast is off by more."""
_MUCH_SLOWER, _FAR_SLOWER = 2.0, 4.0
"""A strategy that always takes so many times what another does is nobody's choice; one that takes so many times as long
for a steady guest need not be carried out twice to tell."""
_NEAR = 1.5
"""The hardest guest to move takes at most so many times what the easiest does, where only they decide on that."""
_P90 = NormalDist().inv_cdf(0.9)


class Interval(msgspec.Struct, frozen=True):
    """What four of five migrations lie within, and the median."""

    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Interval | None":
        """Return the interval of those values that are known; None if none is.

        Of few values it is the least and the greatest: another one is between those less often than one would think.
        """
        known = [value for value in values if value is not None]
        return cls(*np.percentile(known, (10, 50, 90), method="weibull").tolist()) if known else None

    def widened(self, error: float, more_error: float = 0.0) -> "Interval":
        """Return the interval of what a model told that is off by the share `error`, and by `more_error` beside that.

        They are standard deviations. Independent errors add up as their squares do.
        """
        wider = _P90 * math.hypot(error * self.p50, more_error)
        least = self.p50 - math.hypot(self.p50 - self.p10, wider)
        return Interval(max(0.0, least), self.p50, self.p50 + math.hypot(self.p90 - self.p50, wider))


class StrategyForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What one strategy would come to; the figures are of the runs that completed, None is what nobody knows."""

    strategy: str
    run_count: int | None = None
    """How often it was carried out in virtual time."""
    chance: float
    """The share of the runs that completed."""
    total_time_ms: Interval | None
    downtime_ms: Interval | None
    work_lost_vcpu_s: Interval | None
    sent_bytes: Interval | None


@dataclass(frozen=True)
class DrawnRun:
    """One migration in virtual time."""

    draw: Draw
    outcome: Outcome


def draws_of(survey: Survey) -> int:
    """Return how often each strategy is to be carried out."""
    return _DRAWS_IN_BURSTS if survey.bursts else _DRAWS


def forecast(
    survey: Survey, strategies: Sequence[str] | None = None, draws: int | None = None
) -> list[StrategyForecast]:
    """Return the forecast of each strategy, or of these, carried out with so many draws."""
    return summed_up(survey, carried_out(survey, strategies, draws), draws)


def carried_out(
    survey: Survey,
    strategies: Sequence[str] | None = None,
    draws: int | None = None,
    tell: Callable[[str], object] = lambda strategy: None,
    is_enough: Callable[[], bool] = lambda: False,
) -> dict[str, list[DrawnRun]]:
    """Carry each strategy out with so many draws, or fewer if those show enough; `tell` is told which it is.

    Each is carried out once; as soon as `is_enough` says so, no more often than that.
    """
    names = strategies_of(survey.qemu) if strategies is None else strategies
    possible = list(possible_draws(draws or draws_of(survey), hurry_of(survey)))
    runs: dict[str, list[DrawnRun]] = {name: [] for name in names}

    def is_open(name: str) -> bool:
        made = runs[name]
        return not made or (len(made) < len(possible) and not _is_known(survey, name, runs) and not is_enough())

    while any(map(is_open, names)):
        for name in filter(is_open, names):
            tell(name)
            draw = possible[len(runs[name])]
            runs[name].append(DrawnRun(draw, (postcopy if name == POSTCOPY else outcome_of)(survey, name, draw)))
    return runs


def summed_up(
    survey: Survey, runs: Mapping[str, Sequence[DrawnRun]], draws: int | None = None
) -> list[StrategyForecast]:
    """Return what the runs of each strategy say; intervals are the wider for those of so many draws that are missing
    and were needed."""
    unseen = _UNSEEN_IN_BURSTS if survey.bursts else _UNSEEN
    wanted = draws or draws_of(survey)
    shares = {name: 0.0 if _is_settled(survey, made) else 1 - len(made) / wanted for name, made in runs.items()}
    return [_summary(name, [run.outcome for run in made], unseen * shares[name]) for name, made in runs.items()]


def fewest_runs(survey: Survey, runs: Mapping[str, Sequence[DrawnRun]]) -> int | None:
    """Return how often a strategy was carried out that should have been more often; None if there is none."""
    wanted = draws_of(survey)
    counts = [len(made) for name, made in runs.items() if len(made) < wanted and not _is_known(survey, name, runs)]
    return min(counts, default=None)


def first_stuck(runs: Iterable[DrawnRun]) -> Draw | None:
    """Return the first guest that did not move; None if all did."""
    return next((run.draw for run in runs if not run.outcome.completed), None)


def verdict(told: Sequence[StrategyForecast]) -> str:
    """Return whether the guest converges by the best of the strategies: `will`, `may` or `will not`.

    Post-copy always ends, and is none of those that converge.
    """
    best = max(each.chance for each in told if each.strategy != POSTCOPY)
    if best == 1:
        return "will"
    return "may" if best else "will not"


def best_of(told: Sequence[StrategyForecast]) -> StrategyForecast | None:
    """Return the best strategy; None if none moves the guest by pre-copy.

    It is one of the surest, of these one of the fastest, and of those the one that takes least from the guest.
    """
    times = [(each, each.total_time_ms.p50) for each in told if each.total_time_ms and each.strategy != POSTCOPY]
    if not times:
        return None
    chance = max(each.chance for each, _ in times)
    surest = [(each, time_ms) for each, time_ms in times if each.chance == chance]
    fastest_ms = min(time_ms for _, time_ms in surest)
    fast = [each for each, time_ms in surest if time_ms <= max(_AS_FAST * fastest_ms, fastest_ms + _AS_FAST_MS)]
    return min(fast, key=lambda each: each.work_lost_vcpu_s.p50 if each.work_lost_vcpu_s else math.inf)


def _is_known(survey: Survey, strategy: str, runs: Mapping[str, Sequence[DrawnRun]]) -> bool:
    """Tell whether a strategy was carried out often enough, so far."""
    return _is_settled(survey, runs[strategy]) or _is_beaten(survey, strategy, runs)


def _is_settled(survey: Survey, runs: Sequence[DrawnRun]) -> bool:
    """Tell whether more runs would show nothing new.

    So it is if neither what was measured moves nor what is easiest; or if what is easiest moves about as fast as what
    was measured, or faster, and what is hardest as slowly, or more so: then the others lie between. A guest in bursts
    may be in another of them when it begins.
    """
    tried = _TRIED_IN_BURSTS if survey.bursts else _TRIED
    moved = [run.outcome.completed for run in runs]
    if not any(moved):
        return len(runs) >= tried
    return not survey.bursts and len(runs) > tried and all(moved) and _are_in_order(runs)


def _is_beaten(survey: Survey, strategy: str, runs: Mapping[str, Sequence[DrawnRun]]) -> bool:
    """Tell whether it need not be known better, as each run took much longer than any by some other strategy."""
    others = [_times_ms(other) for name, other in runs.items() if name != POSTCOPY]
    longest_by_best_ms = min((max(times_ms) for times_ms in others if times_ms), default=math.inf)
    slower = min(_times_ms(runs[strategy]), default=0) / max(1, longest_by_best_ms)
    if survey.bursts:
        return slower > _MUCH_SLOWER and len(runs[strategy]) > _TRIED_IN_BURSTS
    return slower > _FAR_SLOWER or (slower > _MUCH_SLOWER and len(runs[strategy]) > _TRIED)


def _times_ms(runs: Sequence[DrawnRun]) -> list[int]:
    """Return how long each run took; nothing if one did not move."""
    return [run.outcome.total_time_ms or 0 for run in runs] if all(run.outcome.completed for run in runs) else []


def _are_in_order(runs: Sequence[DrawnRun]) -> bool:
    measured_ms, easiest_ms, hardest_ms, *_ = (run.outcome.total_time_ms or 0 for run in runs)
    rises = easiest_ms <= _AS_FAST * measured_ms and measured_ms <= _AS_FAST * hardest_ms
    return rises and hardest_ms <= _NEAR * easiest_ms


def _summary(strategy: str, outcomes: Sequence[Outcome], unseen: float) -> StrategyForecast:
    """Return what all runs say; what those would that were not made is `unseen`, a standard deviation."""
    error = math.hypot(_MODEL_ERROR, unseen)
    done = [outcome for outcome in outcomes if outcome.completed]
    return StrategyForecast(
        strategy=strategy,
        run_count=len(outcomes),
        chance=statistics.mean(outcome.completed for outcome in outcomes),
        total_time_ms=_total_time_ms(done, error),
        downtime_ms=_downtime_ms(done),
        work_lost_vcpu_s=_widened((outcome.work_lost_vcpu_s for outcome in done), error),
        sent_bytes=_widened((outcome.sent_bytes for outcome in done), error),
    )


def _widened(values: Iterable[float | None], error: float) -> Interval | None:
    told = Interval.of(values)
    return told and told.widened(error)


def _total_time_ms(done: Sequence[Outcome], error: float) -> Interval | None:
    """Return what lies between a wire that is much faster than what the migration may use, and one that is not.

    Post-copy, whose downtime nobody knows, does all of it while the guest runs.
    """
    times = [(outcome.total_time_ms, outcome.downtime_ms or 0) for outcome in done if outcome.total_time_ms is not None]
    slow = Interval.of(time_ms for time_ms, _ in times)
    fast = Interval.of(time_ms - (1 - _FAST_WIRE) * downtime_ms for time_ms, downtime_ms in times)
    if slow is None or fast is None:
        return None
    between = Interval(fast.p10, (fast.p50 + slow.p50) / 2, slow.p90)
    return between.widened(error, _SET_UP_ERROR_MS)


def _downtime_ms(done: Sequence[Outcome]) -> Interval | None:
    """Return what lies between those two wires for the time in which the guest is stopped."""
    slow = Interval.of(outcome.downtime_ms for outcome in done)
    return slow and Interval(_FAST_WIRE * slow.p10, (_FAST_WIRE + 1) / 2 * slow.p50, slow.p90)
