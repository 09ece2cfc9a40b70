"""What a migration would come to, before it begins: every strategy in virtual time, over what is not known exactly.

The guest is one that writes as its dirty curve says. Each strategy moves it several times, with another draw of what
was only measured: how much it writes, and how fast the link is. That gives chances and intervals, and not one figure.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from vmferry.convergence.curve import DirtyCurve, Written
from vmferry.convergence.lookahead import Situation, look_ahead
from vmferry.convergence.variants import PLANNED, VARIANTS
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.parts import GuestSpec, LinkSpec, LoadSpec, RunLimits
from vmferry.memory.layout import PAGE_SIZE_BYTES
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.simulation.run import Simulation, SimulationResult
from vmferry.simulation.trace import DirtyTrace

NO_THROTTLE = "no throttle"
STRATEGIES = (NO_THROTTLE, *VARIANTS, PLANNED.name)
DRAWS = 5
MAX_TIME_S = 1200
_NS_PER_S = 1_000_000_000
_CURVE_ERROR, _LINK_ERROR = 0.10, 0.05
"""Standard deviations of the draws, as shares: how far two measurements of a steady guest and of a link differ."""
_PASSES_WITHOUT_THROTTLE = 20


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is known of a guest and of the way that it is to go."""

    memory_bytes: int
    used_bytes: int
    """How much of its memory is not zero; all of it where nobody can tell."""
    vcpu_count: int
    written: tuple[Written, ...]
    bandwidth_bytes_per_s: int
    downtime_limit_ms: int
    unknown: tuple[str, ...] = ()
    """What could not be found out, in words."""

    def curve(self) -> DirtyCurve:
        """Return what the guest writes."""
        curve = DirtyCurve(self.memory_bytes)
        for written in self.written:
            curve.learn(written)
        return curve


class Interval(msgspec.Struct, frozen=True):
    """What four of five runs lie within, and the median."""

    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Interval | None":
        """Return the interval of those values that are known; None if none is."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        p10, p50, p90 = np.percentile(known, (10, 50, 90)).tolist()
        return cls(p10, p50, p90)


class StrategyForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What one strategy would come to; the figures are of the runs that completed."""

    strategy: str
    chance: float
    """The share of the runs that completed within MAX_TIME_S."""
    total_time_ms: Interval | None
    downtime_ms: Interval | None
    work_lost_vcpu_s: Interval | None
    sent_bytes: Interval | None


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """The single changes that would make the guest converge without being slowed; None: no such value does."""

    downtime_limit_ms: float | None
    bandwidth_bytes_per_s: float | None
    throttle_percent: int | None
    """The least throttle, held from the beginning, by which it converges as things are; 0 if it does by itself."""


def forecast(
    survey: Survey, strategies: Sequence[str] = STRATEGIES, draws: int = DRAWS, tell: Callable[[str], object] = print
) -> Iterator[StrategyForecast]:
    """Yield the forecast of each strategy; `tell` is told which one is worked out."""
    for strategy in strategies:
        tell(strategy)
        runs = [_run(survey, strategy, seed) for seed in range(draws)]
        yield _summary(strategy, runs)


def verdict(told: Sequence[StrategyForecast]) -> str:
    """Return whether the guest converges by the best of the strategies: `will`, `may` or `will not`."""
    best = max(each.chance for each in told)
    if best == 1:
        return "will"
    return "may" if best else "will not"


def prices(survey: Survey) -> Prices:
    """Return what a single change would have to be, by the look-ahead."""
    curve = survey.curve()
    courses = look_ahead(
        curve, _situation(survey, survey.bandwidth_bytes_per_s, survey.downtime_limit_ms), from_now=True
    )
    converging = np.flatnonzero(np.isfinite(courses.time_ns))
    left_ms = float(courses.left_bytes[0]) / survey.bandwidth_bytes_per_s * 1000
    return Prices(
        downtime_limit_ms=max(left_ms, survey.downtime_limit_ms if 0 in converging else 0.0),
        bandwidth_bytes_per_s=_least_bandwidth(survey, curve),
        throttle_percent=int(converging[0]) if len(converging) else None,
    )


def _least_bandwidth(survey: Survey, curve: DirtyCurve) -> float | None:
    """Bisect for the least bandwidth at which it converges by itself, up to a thousand times what there is."""
    low, high = 0.0, survey.bandwidth_bytes_per_s * 1000.0
    if not _converges(survey, curve, high):
        return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _converges(survey, curve, middle) else (middle, high)
    return high


def _converges(survey: Survey, curve: DirtyCurve, bytes_per_s: float) -> bool:
    courses = look_ahead(curve, _situation(survey, bytes_per_s, survey.downtime_limit_ms), from_now=True)
    return bool(np.isfinite(courses.time_ns[0]))


def _situation(survey: Survey, bytes_per_s: float, downtime_limit_ms: float) -> Situation:
    return Situation(
        pending_bytes=survey.used_bytes,
        pending_ns=survey.used_bytes / bytes_per_s * _NS_PER_S,
        again_bytes=0,
        sync_ns=math.inf,
        bandwidth_bytes_per_s=bytes_per_s,
        threshold_bytes=bytes_per_s * downtime_limit_ms / 1000,
    )


def _run(survey: Survey, strategy: str, seed: int) -> SimulationResult:
    random = np.random.default_rng(seed)
    written, link = (max(0.1, random.normal(1.0, error)) for error in (_CURVE_ERROR, _LINK_ERROR))
    if seed == 0:
        written = link = 1.0
    scenario = _scenario(survey, written, link)
    variant = "original" if strategy == NO_THROTTLE else strategy
    capabilities = MigrationCapabilities(auto_converge=strategy != NO_THROTTLE)
    if strategy == NO_THROTTLE:  # nothing changes from pass to pass, so more of them show nothing
        limits = msgspec.structs.replace(scenario.limits, max_iterations=_PASSES_WITHOUT_THROTTLE)
        scenario = msgspec.structs.replace(scenario, limits=limits)
    return Simulation(scenario, variant, seed, capabilities=capabilities).run()


def _scenario(survey: Survey, written: float, link: float) -> Experiment:
    """Return the migration to simulate; the guest writes `written` times as many pages, and the link is `link` times as
    fast, as was measured."""
    used_pages = survey.used_bytes // PAGE_SIZE_BYTES
    sweeps, left = [], used_pages
    for size_bytes, round_ns in survey.curve().sweeps():
        pages = min(left, round(written * size_bytes / PAGE_SIZE_BYTES))
        if pages and round_ns >= 1:
            sweeps.append((pages, round(round_ns)))
            left -= pages
    trace = DirtyTrace(
        used_pages=used_pages, sweeps=tuple(sweeps), steps=((_NS_PER_S, 1.0),), shortest_ns=_shortest_ns(survey)
    )
    return Experiment(
        name="forecast",
        guest=GuestSpec(
            memory_bytes=survey.memory_bytes,
            vcpu_count=survey.vcpu_count,
            loads=(LoadSpec(pattern="trace", trace=trace),),
            throttle_slice_ns=_NS_PER_S // 100,
        ),
        link=LinkSpec(
            rate_bytes_per_s=round(survey.bandwidth_bytes_per_s * link), jitter=0.05, jitter_interval_ns=_NS_PER_S // 10
        ),
        parameters={"downtime-limit": survey.downtime_limit_ms},
        limits=RunLimits(max_iterations=10_000, max_time_ns=MAX_TIME_S * _NS_PER_S),
    )


def _shortest_ns(survey: Survey) -> int:
    return min(point.duration_ns for point in survey.written)


def _summary(strategy: str, runs: Sequence[SimulationResult]) -> StrategyForecast:
    done = [run for run in runs if run.status == "completed"]
    return StrategyForecast(
        strategy=strategy,
        chance=statistics.mean(run in done for run in runs),
        total_time_ms=Interval.of(run.total_time_ms for run in done),
        downtime_ms=Interval.of(run.downtime_ms for run in done),
        work_lost_vcpu_s=Interval.of(run.work_lost_vcpu_s for run in done),
        sent_bytes=Interval.of(run.sent_bytes for run in done),
    )
