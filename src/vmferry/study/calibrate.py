"""Finds the four numbers of the patch series' machines that nobody wrote down: `python -m vmferry.study.calibrate`.

Starting from a guess, one number after the other is moved by a step, kept if the nine cells' median total times and
counts of dirty syncs come closer to the measured ones, until nothing helps. Counts that differ between the measured
runs of a cell by more than a factor of two are left out: there, chance decides. The loss is the mean of
|log(simulated / measured)|, which an outlier cannot dominate; every number is the same for all cells.
"""

import math
import statistics
from itertools import product

import click

from vmferry.experiment.scenario import seed_scenarios
from vmferry.study.beside import seed_table, simulate_beside

STEPS: dict[str, tuple[str, float, float]] = {
    "link.share": ("{:.3f}", 1.0, 1.02),
    "link.jitter": ("{:.2f}", 0.3, 1.2),
    "guest.zero-scan-rate": ("{:.0f}MiB/s", 1030, 1.05),
    "load.write-rate": ("{:.1f}GB/s", 9.0, 1.08),
}
"""For each number: how it is written, where the search begins, and the factor of a step.

The search begins where a fluid model, worked out by hand, comes closest: the first pass takes 100 s for 100 GiB, and
16 vCPUs write 9 GB/s.
"""


def loss_of(values: dict[str, float], seeds: int) -> float:
    """Return how far the simulated medians are from the measured ones."""
    settings = {key: STEPS[key][0].format(value) for key, value in values.items()}
    scenarios = [scenario.with_settings(settings) for scenario in seed_scenarios()]
    cells = simulate_beside(scenarios, seed_table(), seeds)
    counts = [cell for cell in cells if _is_repeatable([run.dirty_sync_count or 0 for run in cell.measured])]
    ratios = [*(cell.total_time_ratio for cell in cells), *(cell.dirty_sync_ratio for cell in counts)]
    return statistics.fmean(abs(math.log(ratio)) for ratio in ratios if ratio)


def _is_repeatable(counts: list[int]) -> bool:
    return max(counts) <= 2 * min(counts)


@click.command()
@click.option("--seeds", default=5, show_default=True, help="Simulated runs of each cell.")
@click.option("--rounds", default=3, show_default=True, help="At most so many rounds over the four numbers.")
def main(seeds: int, rounds: int) -> None:
    """Calibrate the patch series' scenarios and print the numbers found."""
    values = {key: start for key, (_, start, _) in STEPS.items()}
    best = loss_of(values, seeds)
    for _ in range(rounds):
        before = best
        for key, up in product(STEPS, (True, False)):
            factor = STEPS[key][2]
            trial = values | {key: values[key] * factor if up else values[key] / factor}
            trial["link.share"] = min(trial["link.share"], 1.0)
            loss = loss_of(trial, seeds)
            click.echo(f"{loss:.4f}  " + "  ".join(f"{k}={STEPS[k][0].format(v)}" for k, v in trial.items()))
            if loss < best:
                best, values = loss, trial
        if best == before:
            break
    click.echo(f"best: {best:.4f}  " + "  ".join(f"{k}={STEPS[k][0].format(v)}" for k, v in values.items()))


if __name__ == "__main__":
    main()
