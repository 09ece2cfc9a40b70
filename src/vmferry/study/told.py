"""A forecast as a whole, as commands and pages tell it: every strategy, what would do, the verdict and the reason."""

from collections.abc import Callable
from dataclasses import dataclass

from vmferry.study.forecast import (
    StrategyForecast,
    best_of,
    carried_out,
    draws_of,
    fewest_runs,
    first_stuck,
    summed_up,
    verdict,
)
from vmferry.study.forecast_record import ForecastRecord, WrittenInTime
from vmferry.study.prices import Prices, prices
from vmferry.study.reason import reason
from vmferry.study.strategies import NO_THROTTLE, OWN
from vmferry.study.survey import Survey

_SHORT = {NO_THROTTLE: "no throttle", "background-sync+responsive-throttle": "both"}


@dataclass(frozen=True)
class Told:
    """A forecast, worked out."""

    name: str
    """Of the VM, or of the journal that tells of it."""
    survey: Survey
    strategies: tuple[StrategyForecast, ...]
    prices: Prices
    verdict: str
    reason: str
    fewest_runs: int | None = None
    """How often a strategy was carried out for which there was no time to do so more often; None if there is none."""

    @property
    def sentence(self) -> str:
        """Whether the guest converges, and how best."""
        best = best_of(self.strategies)
        if best is None:
            return f"It {self.verdict} converge."
        by_what = "without a throttle" if best.strategy == NO_THROTTLE else f"by {label_of(best.strategy, self.survey)}"
        return f"It {self.verdict} converge, best {by_what}."

    @property
    def unknown(self) -> list[str]:
        """What could not be found out, in words."""
        if self.fewest_runs is None:
            return list(self.survey.unknown)
        tried = f"{self.fewest_runs} of {draws_of(self.survey)}"
        return [*self.survey.unknown, f"what more runs would show: there was time for {tried} by each strategy"]

    def record(self) -> ForecastRecord:
        """Return what is told to scripts."""
        survey = self.survey
        return ForecastRecord(
            vm=self.name,
            verdict=self.verdict,
            reason=self.reason,
            memory_bytes=survey.memory_bytes,
            used_bytes=survey.used_bytes,
            vcpu_count=survey.vcpu_count,
            written=[WrittenInTime.of(written) for written in survey.written],
            bandwidth_bytes_per_s=survey.bandwidth_bytes_per_s,
            times_smaller=survey.times_smaller if survey.shrinking else None,
            downtime_limit_ms=survey.downtime_limit_ms,
            qemu=survey.qemu,
            demand=survey.demand,
            paused=survey.paused,
            unknown=self.unknown,
            strategies=list(self.strategies),
            prices=self.prices,
        )


def work_out(
    name: str,
    survey: Survey,
    tell: Callable[[str], object] = lambda what: None,
    is_enough: Callable[[], bool] = lambda: False,
) -> Told:
    """Migrate a guest in virtual time by every strategy; `tell` is told what is worked out, and may raise.

    As soon as `is_enough` says so, what is done again to know it better is done no more.
    """
    runs = carried_out(survey, tell=tell, is_enough=is_enough)
    strategies = tuple(summed_up(survey, runs))
    tell("what would do")
    price = prices(survey, first_stuck(runs[NO_THROTTLE]), is_enough)
    (free,) = (each for each in strategies if each.strategy == NO_THROTTLE)
    because = reason(survey, price, free.chance)
    return Told(name, survey, strategies, price, verdict(strategies), because, fewest_runs(survey, runs))


def label_of(strategy: str, survey: Survey) -> str:
    """Return a strategy's name for people."""
    own = "QEMU's own" if survey.qemu else OWN
    return own if strategy == OWN else _SHORT.get(strategy, strategy)
