"""`vmferry perf compare`: two sets of results, scenario by scenario."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import click
import msgspec

from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.tables import bold, compact_table, terminal
from vmferry.errors import UsageError
from vmferry.perf.labels import label
from vmferry.perf.measure import PerfRun
from vmferry.perf.results import read_runs
from vmferry.study.compare import Comparison, compare, runs_needed

_DIRECTORY = click.Path(file_okay=False, path_type=Path)
FIGURES = {
    "total time ms": "total_time_ms",
    "downtime ms": "downtime_ms",
    "work lost %": "work_lost_percent",
    "sent bytes": "sent_bytes",
    "iterations": "iteration_count",
}
"""What `compare` compares, by the name that people read."""


class ComparedFigure(msgspec.Struct, frozen=True, kw_only=True):
    """How one figure of a scenario stands in the second set to that in the first."""

    scenario: str
    figure: str
    """The name of the figure, as it is in the runs, such as `total_time_ms`."""
    first_median: float
    second_median: float
    ratio: float | None
    """Second median over the first; null if that is 0."""
    p: float
    """The probability of such a difference if there were none."""
    p_min: float
    """The least p that so many runs can show."""
    cliffs_delta: float
    """-1: every second value is below every first; 0: no tendency; 1: above."""
    verdict: str
    runs: list[int]
    """How many completed runs there are in either set."""
    flagged_runs: list[int]
    """How many of them were not as they should have been."""


@click.command("compare")
@click.argument("first", type=_DIRECTORY)
@click.argument("second", type=_DIRECTORY)
@json_option("Print one JSON object for each figure.", ComparedFigure)
def command(first: Path, second: Path, as_json: bool) -> None:
    """Compare two sets of results, scenario by scenario: medians, significance and how sure it is.

    Only completed runs count. p is the probability of such a difference if there were none (permutation test); delta is
    Cliff's: -1 when every value of SECOND is below every one of FIRST, 1 when above.
    """
    sets = _completed(first), _completed(second)
    rows = list(_compare_sets(*sets))
    if not rows:
        raise UsageError(f"{first} and {second} have no scenario in common with completed runs in both")
    if as_json:
        for scenario, figure, outcome in rows:
            told = ComparedFigure(
                **asdict(outcome),
                scenario=scenario,
                figure=FIGURES[figure],
                ratio=outcome.ratio if math.isfinite(outcome.ratio) else None,
                verdict=outcome.verdict,
                runs=[len(runs[scenario]) for runs in sets],
                flagged_runs=[_flagged_count(runs[scenario]) for runs in sets],
            )
            print_record(told)
        return
    console = terminal()
    for scenario, group in groupby(rows, key=lambda row: row[0]):
        table = compact_table(bold(scenario), "figure", "first", "second", "ratio", "p", "delta", "second is")
        for _, figure, outcome in group:
            table.add_row(figure, *_comparison_cells(outcome))
        console.print(table)
        console.print(f"runs: {' and '.join(_count_text(runs[scenario]) for runs in sets)}")
    if any(outcome.too_few for *_, outcome in rows):
        console.print(f"Too few runs to tell every difference; {runs_needed()} of each are enough.")


def _completed(directory: Path) -> dict[str, list[PerfRun]]:
    runs: dict[str, list[PerfRun]] = {}
    for run in read_runs(directory):
        if run.status == "completed":
            runs.setdefault(f"{run.job.comparison}/{label(run.job.experiment)}", []).append(run)
    return runs


def _flagged_count(runs: Sequence[PerfRun]) -> int:
    return sum(bool(run.flags) for run in runs)


def _count_text(runs: Sequence[PerfRun]) -> str:
    flagged = _flagged_count(runs)
    return f"{len(runs)}" + (f" ({flagged} of {len(runs)} flagged)" if flagged else "")


def _compare_sets(
    first: dict[str, list[PerfRun]], second: dict[str, list[PerfRun]]
) -> Iterator[tuple[str, str, Comparison]]:
    for scenario in first:
        for figure, attribute in FIGURES.items() if scenario in second else ():
            known = (
                [float(value) for run in runs[scenario] if (value := getattr(run, attribute)) is not None]
                for runs in (first, second)
            )
            if all(values := list(known)):
                yield scenario, figure, compare(*values)


def _comparison_cells(outcome: Comparison) -> tuple[str, ...]:
    return (
        f"{outcome.first_median:.4g}",
        f"{outcome.second_median:.4g}",
        f"{outcome.ratio:.2f}",
        f"{outcome.p:.2f}",
        f"{outcome.cliffs_delta:+.2f}",
        outcome.verdict,
    )
