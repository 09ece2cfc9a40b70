"""The table in which the variants of one scenario stand side by side."""

from collections.abc import Iterable
from itertools import groupby

from rich.console import Console
from rich.table import Table

from vmferry.bounds import clean_text
from vmferry.cli.tables import bold, compact_table
from vmferry.report.figures import count_text, middle, seconds_text
from vmferry.report.tradeoff import Cost, costs_of, unbeaten
from vmferry.simulation.run import SimulationResult

_CAPTION = (
    "Medians. down: ms. max: throttle in %. lost: guest work in %.\n"
    "kept: vCPU s in which throttle and stop kept the guest from work.\n"
    "*: no other is both faster and gentler."
)


def print_comparison(console: Console, results: Iterable[SimulationResult]) -> None:
    """Print one line for each variant, by scenario, and below them why guests were not moved."""
    for scenario, group in groupby(results, key=lambda result: result.scenario):
        costs = costs_of((result.variant, result) for result in group)
        console.print(_table(scenario, costs))
        for cost in costs:
            if cost.trouble:
                console.print(f"! {clean_text(cost.label)}: {clean_text(cost.trouble)}", soft_wrap=True)


def _table(scenario: str, costs: list[Cost]) -> Table:
    table = compact_table(bold(clean_text(scenario)), "variant", "total s", "down", "max", "lost", "kept", "")
    table.caption = _CAPTION
    best = unbeaten(costs)
    for cost in costs:
        table.add_row(
            clean_text(cost.label),
            seconds_text(middle(cost.total_time_ms)),
            count_text(middle(cost.downtime_ms)),
            count_text(middle(cost.max_throttle_percent)),
            count_text(middle(cost.work_lost_percent)),
            count_text(middle(cost.kept_vcpu_s)),
            "*" if cost in best else "",
        )
    return table
