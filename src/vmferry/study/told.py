"""A forecast as a whole, as commands and pages tell it: every strategy, what would do, the verdict and the reason."""

from collections.abc import Callable
from dataclasses import dataclass

from vmferry.study.forecast import StrategyForecast, best_of, draws_of, forecast, verdict
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
        wanted = draws_of(self.survey)
        fewest = min((each.run_count for each in self.strategies if each.run_count and each.chance), default=wanted)
        if fewest >= wanted:
            return list(self.survey.unknown)
        hurried = f"what more runs would show: there was time for {fewest} of {wanted} by each strategy"
        return [*self.survey.unknown, hurried]

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
    strategies = tuple(forecast(survey, tell=tell, is_enough=is_enough))
    tell("what would do")
    price = prices(survey, is_enough)
    return Told(name, survey, strategies, price, verdict(strategies), reason(survey, price))


def label_of(strategy: str, survey: Survey) -> str:
    """Return a strategy's name for people."""
    own = "QEMU's own" if survey.qemu else OWN
    return own if strategy == OWN else _SHORT.get(strategy, strategy)
