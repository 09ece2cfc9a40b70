"""Measured migrations beside simulated ones, cell by cell: how far apart are they?"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from importlib.resources import as_file, files
from typing import Self

import msgspec

from vmferry.errors import UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.quantities import telling
from vmferry.migration.outcome import Outcome
from vmferry.report.figures import Spread, distance_text, error_text, median, middle
from vmferry.study.executors import local_pool
from vmferry.study.measured_table import TableLine, read_measured
from vmferry.study.sweep import Case, CaseResult, run_case

_SEED_TABLE = "seed-measured.csv"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """All runs of one scenario, setting and variant, measured and simulated."""

    scenario: str
    settings: dict[str, str]
    """The keys of the scenario that the table sets, and their values."""
    variant: str
    measured: list[Outcome]
    """What the table tells; what it does not is null."""
    simulated: list[Outcome]
    total_time_ratio: float | None
    """Median of the simulated total times over that of the measured ones; null where either has none."""
    dirty_sync_ratio: float | None
    """The same of the counts of dirty syncs."""
    within_measured: bool | None
    """Whether the median of the simulated total times lies between the least and the greatest measured one; null where
    there are not several."""

    @classmethod
    def of(
        cls,
        *,
        scenario: Experiment,
        settings: dict[str, str],
        variant: str,
        measured: list[Outcome],
        simulated: list[Outcome],
    ) -> Self:
        """Return the cell with what is told of it. Of total times, those of completed migrations count."""
        measured_ms, simulated_ms = (_total_times(runs) for runs in (measured, simulated))
        syncs = [median(run.dirty_sync_count for run in runs) for runs in (simulated, measured)]
        within = None
        if simulated_ms and measured_ms and measured_ms.count > 1:
            within = measured_ms.low <= simulated_ms.median <= measured_ms.high
        return cls(
            scenario=scenario.name,
            settings=settings,
            variant=variant,
            measured=measured,
            simulated=simulated,
            total_time_ratio=_ratio(middle(simulated_ms), middle(measured_ms)),
            dirty_sync_ratio=_ratio(*syncs),
            within_measured=within,
        )


class _Planned(msgspec.Struct, frozen=True):
    """A cell that is to be simulated."""

    scenario: Experiment
    settings: dict[str, str]
    variant: str
    measured: list[Outcome]


def simulate_beside(
    scenarios: Sequence[Experiment],
    runs: Iterable[TableLine],
    seeds: int | None = None,
    tell: Callable[[int, int], object] = lambda done, count: None,
) -> list[Cell]:
    """Simulate what was measured, on all processors; `tell` is told after each run how many are done, of how many.

    Without `seeds` each is simulated as often as its scenario says. Raises UsageError if the runs are of no such
    scenario, setting or variant.
    """
    planned = _planned(scenarios, runs)
    cases = [
        [Case(cell.scenario, cell.settings, cell.variant, seed) for seed in range(seeds or cell.scenario.seeds)]
        for cell in planned
    ]
    count = sum(map(len, cases))
    simulated: list[list[Outcome]] = []
    with local_pool() as pool:
        futures = [[pool.submit(run_case, case) for case in of_cell] for of_cell in cases]
        for of_cell in futures:
            simulated.append([])
            for future in of_cell:
                simulated[-1].append(_outcome(future))
                tell(sum(map(len, simulated)), count)
    return [
        Cell.of(**msgspec.structs.asdict(cell), simulated=outcomes)
        for cell, outcomes in zip(planned, simulated, strict=True)
    ]


def seed_table() -> list[TableLine]:
    """Return the patch series' table.

    What it calls "iteration" are dirty syncs: guestperf, which made it, takes that from `dirty-sync-count`.
    """
    with as_file(files("vmferry.experiment") / "scenarios" / _SEED_TABLE) as path:
        return read_measured(path).lines


def errors_by_variant(cells: Iterable[Cell]) -> list[str]:
    """Return the same of each variant, if there are several."""
    by_variant: dict[str, list[Cell]] = {}
    for cell in cells:
        by_variant.setdefault(cell.variant, []).append(cell)
    told = [(variant, errors_text(of_variant)) for variant, of_variant in by_variant.items()]
    return [f"{variant}: {text}" for variant, text in told if text and len(by_variant) > 1]


def errors_text(cells: Iterable[Cell]) -> str:
    """Return in a sentence how far simulated total times are from the measured ones; empty if nothing can be said."""
    compared = [(ratio, cell) for cell in cells if (ratio := cell.total_time_ratio)]
    if not compared:
        return ""
    ratios = sorted(ratio for ratio, _ in compared)
    usual = math.exp(statistics.fmean(abs(math.log(ratio)) for ratio in ratios))
    repeated = [cell.within_measured for _, cell in compared if cell.within_measured is not None]
    within = f"; in {sum(repeated)} of {len(repeated)} cells within what was measured" if repeated else ""
    least, most, usual_error = map(error_text, (ratios[0], ratios[-1], statistics.median(ratios)))
    return f"Total time: {least} to {most}, median {usual_error}, {distance_text(usual)} off on average{within}."


def _planned(scenarios: Sequence[Experiment], runs: Iterable[TableLine]) -> list[_Planned]:
    cells: dict[tuple[str, tuple[tuple[str, str], ...], str], _Planned] = {}
    for run in runs:
        with telling(f"line {run.number} of the measured table"):
            scenario = _scenario_of(run, scenarios)
            key = scenario.name, run.settings, run.variant
            if key not in cells:
                changed = scenario.choosing([run.variant]).with_settings(dict(run.settings))
                cells[key] = _Planned(changed, dict(run.settings), changed.variants[0], [])
            cells[key].measured.append(run.outcome)
    return list(cells.values())


def _scenario_of(run: TableLine, scenarios: Sequence[Experiment]) -> Experiment:
    only = scenarios[0] if not run.scenario and len(scenarios) == 1 else None
    found = next((scenario for scenario in scenarios if scenario.name == run.scenario), only)
    if found is None:
        names = ", ".join(scenario.name for scenario in scenarios)
        raise UsageError(f"it is of the scenario '{run.scenario}'; given are: {names}")
    return found.driven_by(run.driven) if run.driven else found


def _outcome(future: Future[CaseResult]) -> Outcome:
    case = future.result()
    return case.result or Outcome(status="error", error=case.error)


def _total_times(runs: Iterable[Outcome]) -> Spread | None:
    return Spread.of(run.total_time_ms for run in runs if run.completed)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
