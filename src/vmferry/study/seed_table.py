"""The patch series' table: what was measured there, what the simulation gives, and how far apart they are."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files

import msgspec

from vmferry.experiment.experiment import Experiment
from vmferry.experiment.scenario import seed_scenarios
from vmferry.migration.outcome import Outcome
from vmferry.simulation.run import simulate
from vmferry.study.executors import local_pool


@dataclass(frozen=True)
class Cell:
    """All runs of one load and variant, measured and simulated."""

    scenario: str
    variant: str
    measured: tuple[Outcome, ...]
    """The patch series tells total time, downtime, dirty syncs and the highest throttle."""
    simulated: tuple[Outcome, ...]

    @property
    def total_time_ratio(self) -> float:
        """Median of the simulated total times over that of the measured ones."""
        return self._ratio(lambda run: run.total_time_ms or 0)

    @property
    def dirty_sync_ratio(self) -> float:
        """Median of the simulated counts of dirty syncs over that of the measured ones."""
        return self._ratio(lambda run: run.dirty_sync_count or 0)

    def _ratio(self, figure: Callable[[Outcome], int]) -> float:
        return statistics.median(map(figure, self.simulated)) / statistics.median(map(figure, self.measured))


def measured_runs() -> dict[str, dict[str, tuple[Outcome, ...]]]:
    """Return the measured runs by scenario name and variant."""
    data = msgspec.json.decode((files("vmferry.experiment") / "scenarios" / "seed-results.json").read_bytes())
    return {
        f"seed-{load}MB": {variant: tuple(map(_measured, runs)) for variant, runs in variants.items()}
        for load, variants in data["runs"].items()
    }


def simulate_cells(
    scenarios: Iterable[Experiment], seeds: int, progress: Callable[[], None] = lambda: None
) -> list[Cell]:
    """Simulate every cell with that many seeds, on all processors; `progress` is called after every run."""
    measured = measured_runs()
    cells = [(scenario, variant) for scenario in scenarios for variant in scenario.variants]
    jobs = [(scenario, variant, seed) for scenario, variant in cells for seed in range(seeds)]
    runs = []
    with local_pool() as pool:
        for future in [pool.submit(_simulate, *job) for job in jobs]:
            runs.append(future.result())
            progress()
    return [
        Cell(
            scenario.name, variant, measured[scenario.name][variant], tuple(runs[number * seeds : (number + 1) * seeds])
        )
        for number, (scenario, variant) in enumerate(cells)
    ]


def seed_cells(seeds: int = 3, progress: Callable[[], None] = lambda: None) -> list[Cell]:
    """Simulate the nine cells of the patch series' table."""
    return simulate_cells(seed_scenarios(), seeds, progress)


def _measured(figures: tuple[int, int, int, int]) -> Outcome:
    """Make an outcome of a row of the patch series' table.

    What it calls "iteration" are dirty syncs: guestperf, which made it, takes that from `dirty-sync-count`.
    """
    total_time_ms, downtime_ms, dirty_sync_count, max_throttle_percent = figures
    return Outcome(
        status="completed",
        total_time_ms=total_time_ms,
        downtime_ms=downtime_ms,
        dirty_sync_count=dirty_sync_count,
        max_throttle_percent=max_throttle_percent,
    )


def _simulate(scenario: Experiment, variant: str, seed: int) -> Outcome:
    return Outcome.of(simulate(scenario, variant, seed).entries)
