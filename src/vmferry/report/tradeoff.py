"""What several ways to migrate one guest cost, and which of them no other beats.

The costs are the total time, and the work that the guest could not do: what the throttle took, and the time for which
it was stopped. A way is *beaten* by another that takes no more time and costs no more work, and less of one of them.
Ways that did not move the guest every time are compared with none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vmferry.migration.outcome import Outcome
from vmferry.report.figures import Spread
from vmferry.units import MS_PER_S


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one way's completed runs came to; None is not known."""

    label: str
    run_count: int
    completed_count: int
    total_time_ms: Spread | None
    downtime_ms: Spread | None
    max_throttle_percent: Spread | None
    work_lost_percent: Spread | None
    """What the throttle took, or what was counted at the guest."""
    kept_vcpu_s: Spread | None
    """For how long the guest was kept from working, by throttle and stop, in seconds of a vCPU."""
    trouble: str
    """Why runs did not move the guest; empty if all did."""

    @property
    def is_comparable(self) -> bool:
        """True if the guest was moved every time, and both costs are known."""
        return not self.trouble and self.total_time_ms is not None and self.kept_vcpu_s is not None

    @property
    def pair(self) -> tuple[float, float]:
        """Both costs in the median, of one that is comparable."""
        assert self.total_time_ms is not None
        assert self.kept_vcpu_s is not None
        return self.total_time_ms.median, self.kept_vcpu_s.median


def costs_of(outcomes: Iterable[tuple[str, Outcome]]) -> list[Cost]:
    """Return the costs of each label, in the order of appearance; its outcomes are repeats of each other."""
    repeats: dict[str, list[Outcome]] = {}
    for label, outcome in outcomes:
        repeats.setdefault(label, []).append(outcome)
    return [_cost(label, runs) for label, runs in repeats.items()]


def unbeaten(costs: Iterable[Cost]) -> list[Cost]:
    """Return those that no other one beats, the fastest first."""
    comparable = [cost for cost in costs if cost.is_comparable]
    best = [cost for cost in comparable if not any(_beats(other.pair, cost.pair) for other in comparable)]
    return sorted(best, key=lambda cost: cost.pair)


def sentence(costs: Sequence[Cost]) -> str:
    """Return in words which ones no other beats; empty if there is nothing to compare."""
    if sum(cost.is_comparable for cost in costs) < 2:
        return ""
    names = [cost.label for cost in unbeaten(costs)]
    return f"No other is both faster and gentler than these: {', '.join(names)}."


def _cost(label: str, runs: Sequence[Outcome]) -> Cost:
    moved = [run for run in runs if run.completed]
    return Cost(
        label=label,
        run_count=len(runs),
        completed_count=len(moved),
        total_time_ms=Spread.of(run.total_time_ms for run in moved),
        downtime_ms=Spread.of(run.downtime_ms for run in moved),
        max_throttle_percent=Spread.of(run.max_throttle_percent for run in moved),
        work_lost_percent=Spread.of(run.work_lost_percent for run in moved),
        kept_vcpu_s=Spread.of(_kept_vcpu_s(run) for run in moved),
        trouble=_trouble(runs, len(moved)),
    )


def _trouble(runs: Sequence[Outcome], moved_count: int) -> str:
    stayed = [run for run in runs if not run.completed]
    if not stayed:
        return ""
    why = stayed[0].error or stayed[0].status
    return why if len(runs) == 1 else f"moved {moved_count} of {len(runs)} times: {why}"


def _kept_vcpu_s(run: Outcome) -> float | None:
    if run.work_lost_vcpu_s is None or run.downtime_ms is None or run.vcpu_count is None:
        return None
    return run.work_lost_vcpu_s + run.vcpu_count * run.downtime_ms / MS_PER_S


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]
