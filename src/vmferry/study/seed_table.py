"""The patch series' table: what was measured there, what the simulation gives, and how far apart they are."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files

import msgspec

from vmferry.simulation.run import simulate
from vmferry.simulation.scenario import Scenario, seed_scenarios
from vmferry.study.executors import local_pool


@dataclass(frozen=True)
class Run:
    """The figures of a run that the table shows; the patch series does not tell the last three."""

    total_time_ms: int
    downtime_ms: int
    dirty_sync_count: int
    """The table's "iteration": guestperf, which made it, takes that from `dirty-sync-count`."""
    max_throttle_percent: int
    sent_per_memory: float | None = None
    work_lost_vcpu_s: float | None = None
    work_lost_percent: float | None = None


@dataclass(frozen=True)
class Cell:
    """All runs of one load and variant, measured and simulated."""

    scenario: str
    variant: str
    measured: tuple[Run, ...]
    simulated: tuple[Run, ...]

    @property
    def total_time_ratio(self) -> float:
        """Median of the simulated total times over that of the measured ones."""
        return self._ratio(lambda run: run.total_time_ms)

    @property
    def dirty_sync_ratio(self) -> float:
        """Median of the simulated counts of dirty syncs over that of the measured ones."""
        return self._ratio(lambda run: run.dirty_sync_count)

    def _ratio(self, figure: Callable[[Run], int]) -> float:
        return statistics.median(map(figure, self.simulated)) / statistics.median(map(figure, self.measured))


def measured_runs() -> dict[str, dict[str, tuple[Run, ...]]]:
    """Return the measured runs by scenario name and variant."""
    data = msgspec.json.decode((files("vmferry.simulation") / "scenarios" / "seed-results.json").read_bytes())
    return {
        f"seed-{load}MB": {variant: tuple(Run(*run) for run in runs) for variant, runs in variants.items()}
        for load, variants in data["runs"].items()
    }


def simulate_cells(
    scenarios: Iterable[Scenario], seeds: int, progress: Callable[[], None] = lambda: None
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


def _simulate(scenario: Scenario, variant: str, seed: int) -> Run:
    result = simulate(scenario, variant, seed)
    return Run(**{name: getattr(result, name) for name in Run.__annotations__})
