"""What a migration would come to, before it begins: every strategy in virtual time, over what is not known exactly.

The guest is one that writes as its dirty curve says. Each strategy moves it several times, with another draw of what
was only measured: how much it writes, how fast the link is, how fast its host reads zero pages. That gives chances and
intervals, and not one figure.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import NormalDist

import msgspec
import numpy as np

from vmferry.migration.outcome import Outcome
from vmferry.study.postcopy import postcopy
from vmferry.study.strategies import POSTCOPY, Draw, outcome_of, strategies_of
from vmferry.study.survey import Survey

DRAWS = 5
_CURVE_ERROR, _LINK_ERROR, _SCAN_ERROR = 0.10, 0.05, 1.0
"""Standard deviations of the draws, as shares: how far two measurements of a steady guest and of a link differ, and how
far the logarithms of hosts differ."""
_MODEL_ERROR = 0.10
"""How far the model itself is off, beside that: the standard deviation of live times, as a share."""
_SET_UP_ERROR_MS = 100
"""How far beginning and ending differ, which are not modelled: the same, in ms."""
_FAST_WIRE = 0.1
"""The rest of a stopped guest goes as fast as the wire carries it, which nobody has measured: it may take so much of
what it takes at the bandwidth that the migration may use."""
_P90 = NormalDist().inv_cdf(0.9)


class Interval(msgspec.Struct, frozen=True):
    """What four of five migrations lie within, and the median."""

    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Interval | None":
        """Return the interval of those values that are known; None if none is."""
        known = [value for value in values if value is not None]
        return cls(*np.percentile(known, (10, 50, 90)).tolist()) if known else None

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
    chance: float
    """The share of the runs that completed."""
    total_time_ms: Interval | None
    downtime_ms: Interval | None
    work_lost_vcpu_s: Interval | None
    sent_bytes: Interval | None


def forecast(
    survey: Survey,
    strategies: Sequence[str] | None = None,
    draws: int = DRAWS,
    tell: Callable[[str], object] = lambda strategy: None,
) -> Iterator[StrategyForecast]:
    """Yield the forecast of each strategy; `tell` is told which one is worked out."""
    possible = list(_draws(draws))
    for strategy in strategies_of(survey.qemu) if strategies is None else strategies:
        tell(strategy)
        yield _summary(strategy, list(_outcomes(survey, strategy, possible)))


def verdict(told: Sequence[StrategyForecast]) -> str:
    """Return whether the guest converges by the best of the strategies: `will`, `may` or `will not`.

    Post-copy always ends, and is none of those that converge.
    """
    best = max(each.chance for each in told if each.strategy != POSTCOPY)
    if best == 1:
        return "will"
    return "may" if best else "will not"


def best_of(told: Sequence[StrategyForecast]) -> StrategyForecast | None:
    """Return the strategy that is surest, and of equal ones the fastest; None if none moves the guest by pre-copy."""
    moving = [each for each in told if each.total_time_ms and each.strategy != POSTCOPY]
    if not moving:
        return None
    return min(moving, key=lambda each: (-each.chance, each.total_time_ms.p50 if each.total_time_ms else math.inf))


def _outcomes(survey: Survey, strategy: str, draws: Sequence[Draw]) -> Iterator[Outcome]:
    """Yield how each draw ends; where neither what was measured nor what is easiest moves, the others would not."""
    run = postcopy if strategy == POSTCOPY else outcome_of
    measured, *others = draws
    first = run(survey, strategy, measured)
    yield first
    for number, draw in enumerate(sorted(others, key=lambda draw: draw.written / draw.link)):
        outcome = run(survey, strategy, draw)
        yield outcome
        if number == 0 and not (first.completed or outcome.completed):
            return


def _draws(count: int) -> Iterator[Draw]:
    """Yield guests and links as measured, and then others: quantiles of the errors, each in an order of its own."""
    yield Draw()
    if count < 2:
        return
    normal = NormalDist()
    quantiles = [normal.inv_cdf((number + 0.5) / (count - 1)) for number in range(count - 1)]
    random = np.random.default_rng(1)
    for number, (written, link, scan, haste) in enumerate(
        zip(*(random.permutation(quantiles) for _ in range(4)), strict=True), 1
    ):
        yield Draw(
            number=number,
            written=max(0.1, 1 + _CURVE_ERROR * written),
            link=max(0.1, 1 + _LINK_ERROR * link),
            scan=math.exp(_SCAN_ERROR * scan),
            haste=normal.cdf(haste),
        )


def _summary(strategy: str, outcomes: Sequence[Outcome]) -> StrategyForecast:
    done = [outcome for outcome in outcomes if outcome.completed]
    return StrategyForecast(
        strategy=strategy,
        chance=statistics.mean(outcome.completed for outcome in outcomes),
        total_time_ms=_total_time_ms(done),
        downtime_ms=_downtime_ms(done),
        work_lost_vcpu_s=_off_as_the_model(outcome.work_lost_vcpu_s for outcome in done),
        sent_bytes=_off_as_the_model(outcome.sent_bytes for outcome in done),
    )


def _off_as_the_model(values: Iterable[float | None]) -> Interval | None:
    told = Interval.of(values)
    return told and told.widened(_MODEL_ERROR)


def _total_time_ms(done: Sequence[Outcome]) -> Interval | None:
    """Return what lies between a wire that is much faster than what the migration may use, and one that is not.

    Post-copy, whose downtime nobody knows, does all of it while the guest runs.
    """
    times = [(outcome.total_time_ms, outcome.downtime_ms or 0) for outcome in done if outcome.total_time_ms is not None]
    slow = Interval.of(time_ms for time_ms, _ in times)
    fast = Interval.of(time_ms - (1 - _FAST_WIRE) * downtime_ms for time_ms, downtime_ms in times)
    if slow is None or fast is None:
        return None
    between = Interval(fast.p10, (fast.p50 + slow.p50) / 2, slow.p90)
    return between.widened(_MODEL_ERROR, _SET_UP_ERROR_MS)


def _downtime_ms(done: Sequence[Outcome]) -> Interval | None:
    """Return what lies between those two wires for the time in which the guest is stopped."""
    slow = Interval.of(outcome.downtime_ms for outcome in done)
    return slow and Interval(_FAST_WIRE * slow.p10, (_FAST_WIRE + 1) / 2 * slow.p50, slow.p90)
