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
_CURVE_ERROR, _LINK_ERROR, _SCAN_ERROR = 0.10, 0.05, 0.4
"""Standard deviations of the draws, as shares: how far two measurements of a steady guest and of a link differ, and how
far hosts differ."""
_MODEL_ERROR = 0.10
"""How far the model itself is off, beside that: the standard deviation of live times, as a share."""
_SET_UP_MS, _SET_UP_ERROR_MS = 250, 250
"""What connecting and beginning take, which is not modelled, and how far that differs: live runs, on a busy host."""
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
    def of(
        cls, values: Iterable[float | None], error: float = 0.0, more: float = 0.0, more_error: float = 0.0
    ) -> "Interval | None":
        """Return the interval of those values that are known, and of what comes to each of them; None if none is.

        `error` is by which share the model is off, `more_error` how far `more` is. Independent errors add up as their
        squares do.
        """
        known = [value for value in values if value is not None]
        if not known:
            return None
        p10, p50, p90 = (np.percentile(known, (10, 50, 90)) + more).tolist()
        wider = _P90 * math.hypot(error * p50, more_error)
        return cls(max(0.0, p50 - math.hypot(p50 - p10, wider)), p50, p50 + math.hypot(p90 - p50, wider))


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
    for number, (written, link, scan) in enumerate(
        zip(*(random.permutation(quantiles) for _ in range(3)), strict=True), 1
    ):
        yield Draw(
            number=number,
            written=max(0.1, 1 + _CURVE_ERROR * written),
            link=max(0.1, 1 + _LINK_ERROR * link),
            scan=math.exp(_SCAN_ERROR * scan),
        )


def _summary(strategy: str, outcomes: Sequence[Outcome]) -> StrategyForecast:
    done = [outcome for outcome in outcomes if outcome.completed]
    return StrategyForecast(
        strategy=strategy,
        chance=statistics.mean(outcome.completed for outcome in outcomes),
        total_time_ms=Interval.of(
            (outcome.total_time_ms for outcome in done), _MODEL_ERROR, _SET_UP_MS, _SET_UP_ERROR_MS
        ),
        downtime_ms=_downtime_ms(done),
        work_lost_vcpu_s=Interval.of((outcome.work_lost_vcpu_s for outcome in done), _MODEL_ERROR),
        sent_bytes=Interval.of((outcome.sent_bytes for outcome in done), _MODEL_ERROR),
    )


def _downtime_ms(done: Sequence[Outcome]) -> Interval | None:
    """Return what lies between a wire that is much faster than what the migration may use, and one that is not."""
    slow = Interval.of(outcome.downtime_ms for outcome in done)
    return slow and Interval(_FAST_WIRE * slow.p10, (_FAST_WIRE + 1) / 2 * slow.p50, slow.p90)
