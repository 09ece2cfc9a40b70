"""`vmferry simulate`: migrate modelled guests of any size in virtual time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from vmferry.bounds import clean_text
from vmferry.cli.cells_table import print_cells
from vmferry.cli.comparison_table import print_comparison
from vmferry.cli.files import check_file, check_picture
from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.pictures import write_picture
from vmferry.cli.policy_options import policy_option, settings_option
from vmferry.cli.tables import bold, compact_table, terminal, warn
from vmferry.cli.variant_options import choose, driven_option, variants_option
from vmferry.errors import UsageError
from vmferry.experiment.experiment import ALL, Experiment
from vmferry.experiment.scenario import load_scenarios, seed_scenarios
from vmferry.migration.journal import FileJournal
from vmferry.report.figures import count_text, ratio_text, seconds_text
from vmferry.report.journal_runs import run_series
from vmferry.simulation.run import SimulatedRun, SimulationResult
from vmferry.study.beside import Cell, seed_table, simulate_beside
from vmferry.study.measured_table import MeasuredTable, TableLine, read_measured
from vmferry.study.simulate import simulate

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("simulate", short_help="Migrate modelled guests of any size in virtual time.")
@click.argument("files", nargs=-1, type=_FILE, metavar="[SCENARIO]...")
@click.option(
    "--seed-table", is_flag=True, help="Simulate the patch series' 27 runs and show them beside the measured."
)
@click.option(
    "--measured",
    type=_FILE,
    metavar="TABLE.csv",
    help="Simulate the runs in this table, or its --variant, and show them beside the measured figures.",
)
@variants_option
@driven_option
@policy_option("Only this policy, with the background sync of the scenario's parameters; repeatable.", repeatable=True)
@settings_option
@click.option("--seeds", type=click.IntRange(1, 10_000), help="Runs of each variant, instead of the scenario's number.")
@json_option("Print one JSON object for each run, or of a table for each cell.", SimulatedRun, Cell)
@click.option("--picture", type=_FILE, callback=check_picture, help="Draw the runs: FILE.svg, or FILE.html to explore.")
@click.option(
    "--journal",
    type=_FILE,
    callback=check_file,
    help="Record one run in this file, continued if it is there; needs one scenario, variant and seed.",
)
@click.pass_context
def command(
    context: click.Context,
    /,
    files: tuple[Path, ...],
    seed_table: bool,
    measured: Path | None,
    variants: tuple[str, ...],
    driven: str | None,
    policies: tuple[str, ...],
    settings: tuple[str, ...],
    seeds: int | None,
    as_json: bool,
    picture: Path | None,
    journal: Path | None,
) -> None:
    """Run the migration engine on modelled guests and links, under a virtual clock.

    A SCENARIO is a TOML file that describes a guest, a link, parameters and limits; docs/simulation.md tells how.
    seed-0150, seed-3000 and seed-5000, those of the seed table, come along. The same scenario and seed give the same
    result every time.
    """
    if seed_table == bool(files):
        raise UsageError("give either scenario files or --seed-table")
    if picture and len(files) != 1:
        raise UsageError("--picture shows the runs of one scenario; give one scenario file")
    if seed_table and measured:
        raise UsageError("--seed-table is a table of its own; give scenario files with --measured")
    if (seed_table or measured) and (driven or policies or settings or journal or picture):
        raise UsageError(
            "--seed-table and --measured simulate what is in the table; leave out --policy, --set, --driven, "
            "--journal and --picture"
        )
    if seed_table or measured:
        _show_cells(load_scenarios(files), _table(measured, variants), seeds, as_json)
        return
    runs = list(_runs(choose(load_scenarios(files), variants, policies, settings, driven), seeds))
    if journal and len(runs) != 1:
        raise UsageError(f"--journal records one run, but there are {len(runs)}; add --variant and --seeds 1")
    results = [simulate(*run) for run in _shown(runs)]
    if journal:
        _record(journal, results[0])
    if picture:
        _draw(picture, results, tradeoff=ALL in variants)
    if as_json:
        for result in results:
            print_record(result, SimulatedRun)
    elif ALL in variants:
        print_comparison(terminal(), results)
    else:
        print_results(terminal(), results)
    context.exit(1 if any(result.policy_broken for result in results) else 0)


def _shown(runs: list[tuple[Experiment, str, int]]) -> Iterable[tuple[Experiment, str, int]]:
    """Yield the runs, and show on a terminal how many are done."""
    console = terminal(stderr=True)
    return track(runs, "simulating", console=console, transient=True, disable=not console.is_terminal)


def _runs(scenarios: list[Experiment], seeds: int | None) -> Iterator[tuple[Experiment, str, int]]:
    for scenario in scenarios:
        for variant in scenario.variants:
            for seed in range(seeds or scenario.seeds):
                yield scenario, variant, seed


def _record(journal: Path, result: SimulationResult) -> None:
    with FileJournal(journal) as record:
        for entry in result.entries:
            record.record(entry.time_ns, entry.event)


def _draw(picture: Path, results: Sequence[SimulationResult], *, tradeoff: bool) -> None:
    title = f"Simulated migrations: {clean_text(results[0].scenario)}"
    series = [replace(run_series(result.entries, result.variant), name=f"seed {result.seed}") for result in results]
    write_picture(picture, title, series, tradeoff=tradeoff)


def print_results(console: Console, results: list[SimulationResult]) -> None:
    """Print one line for each simulated run, by scenario, and below them why runs failed."""
    console.print(_result_table(results))
    for result in results:
        if result.error:
            run = f"{result.scenario} {result.variant} seed {result.seed}"
            console.print(f"! {clean_text(run)}: {clean_text(result.error)}", soft_wrap=True)


def _result_table(results: list[SimulationResult]) -> Table:
    table = compact_table("", "variant", "total s", "down", "passes", "max", "sent", "lost")
    table.caption = "down: ms. max: throttle in %. sent: x memory size. lost: guest work in %."
    for scenario, group in groupby(results, key=lambda result: result.scenario):
        table.add_row(bold(clean_text(scenario)))
        for result in group:
            table.add_row(
                clean_text(result.variant),
                seconds_text(result.total_time_ms) if result.completed else result.status,
                count_text(result.downtime_ms),
                count_text(result.iteration_count),
                count_text(result.max_throttle_percent),
                ratio_text(result.sent_per_memory),
                count_text(result.work_lost_percent),
            )
    return table


def _table(measured: Path | None, variants: Sequence[str]) -> list[TableLine]:
    """Return the runs of a table that are to be simulated: of these variants, or all."""
    table = read_measured(measured) if measured else MeasuredTable(seed_table())
    if table.unused:
        warn(f"columns that tell nothing known are left aside: {clean_text(', '.join(table.unused))}")
    return table.of(variants)


def _show_cells(scenarios: list[Experiment], runs: list[TableLine], seeds: int | None, as_json: bool) -> None:
    console = terminal(stderr=True)
    with Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as bar:
        task = bar.add_task("simulating", total=None)

        def tell(done: int, count: int) -> None:
            bar.update(task, completed=done, total=count)

        cells = simulate_beside(scenarios or list(seed_scenarios()), runs, seeds, tell)
    if as_json:
        for cell in cells:
            print_record(cell)
    else:
        print_cells(terminal(), cells)
