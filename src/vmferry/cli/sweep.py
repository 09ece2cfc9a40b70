"""`vmferry sweep`: simulate a grid of scenarios, variants and seeds on all processors or a cluster."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path

import click
from rich.progress import MofNCompleteColumn, Progress
from rich.text import Text

from vmferry.bounds import clean_text
from vmferry.cli.files import check_file, check_picture, write_whole
from vmferry.cli.interrupts import signal_number_of
from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.pictures import write_costs
from vmferry.cli.policy_options import policy_option
from vmferry.cli.tables import beside, compact_table, say, terminal
from vmferry.cli.variant_options import choose, driven_option, variants_option
from vmferry.convergence.variants import ALL_VARIANTS
from vmferry.errors import InterruptionError, UsageError
from vmferry.experiment.scenario import load_scenarios
from vmferry.migration.outcome import Outcome
from vmferry.report.figures import count_text, median, ratio_text, seconds_text
from vmferry.report.runs import Run
from vmferry.study.executors import cluster, local_pool
from vmferry.study.sweep import CaseResult, Sweep, SweptRun, make_cases

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("sweep", short_help="Simulate a grid of scenarios, variants and seeds.")
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="SCENARIO...")
@click.option("--output", type=_FILE, required=True, help="File for the results, one JSON object per line.")
@click.option("--csv", "table", type=_FILE, callback=check_file, help="Write the results as a table, too.")
@click.option("--picture", type=_FILE, callback=check_picture, help="Plot cost against time: FILE.svg or FILE.html.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE,...", help="Try each value; repeatable.")
@variants_option
@driven_option
@policy_option("Only this policy, with the background sync of the scenario's parameters; repeatable.", repeatable=True)
@click.option("--seeds", type=click.IntRange(1, 10_000), help="Runs of each, instead of the scenario's number.")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Processes; as many as processors if left out.")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Use the cluster of this dask scheduler instead.")
@json_option("Print one JSON object for each run instead of the table.", SweptRun)
@click.pass_context
def command(
    context: click.Context,
    /,
    files: tuple[Path, ...],
    output: Path,
    table: Path | None,
    picture: Path | None,
    settings: tuple[str, ...],
    variants: tuple[str, ...],
    driven: str | None,
    policies: tuple[str, ...],
    seeds: int | None,
    jobs: int | None,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Simulate every SCENARIO with every variant and seed, and with every combination of the values given by --set.

    \b
    vmferry sweep db.toml --set link.rate=1Gbit/s,10Gbit/s --output db.jsonl
    vmferry sweep db.toml --policy mine.py:Mine --set policy.gain=1,2,3 \\
        --output mine.jsonl

    Each result is in the output file as soon as it is there. After an interruption the same command goes on with what
    is missing. A case that cannot be simulated is recorded and the others go on.
    """
    if jobs and scheduler:
        raise UsageError("--jobs is for this machine and --scheduler for a cluster; give one of them")
    scenarios = choose(load_scenarios(files), variants, policies, (), driven)
    cases = make_cases(scenarios, _grid(settings), seeds=seeds)
    sweep = Sweep(cases, output)
    log = beside(quiet=as_json)
    there = len(sweep.cases) - len(sweep.missing)
    say(log, f"{len(sweep.missing)} cases to simulate, {there} are in {output} already")
    try:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=log, transient=True) as bar:
            task = bar.add_task("simulating", total=len(sweep.missing))
            executor = partial(cluster, scheduler) if scheduler else partial(local_pool, jobs)
            sweep.run(executor, lambda: bar.advance(task))
    except KeyboardInterrupt as error:
        so_far = f"{len(sweep.results)} results so far are in {output}"
        raise InterruptionError(f"interrupted; the same command goes on, {so_far}", signal_number_of(error)) from error
    results = sweep.results
    if table:
        write_whole(table, results.to_csv())
    if picture:
        write_costs(picture, "What variants cost", _runs(results))
    _show(results, as_json)
    context.exit(0 if all(result.result for result in results) else 1)


def _grid(settings: Iterable[str]) -> dict[str, list[str]]:
    """Return the values to try by key."""
    grid: dict[str, list[str]] = {}
    for setting in settings:
        key, _, values = setting.partition("=")
        if not values or key in grid:
            raise UsageError(f"--set {setting}: write KEY=VALUE,VALUE,... and each key once")
        grid[key] = values.split(",")
    return grid


def _show(results: Iterable[CaseResult], as_json: bool) -> None:
    if as_json:
        for result in results:
            print_record(result.told)
        return
    console = terminal()
    for (scenario, settings), cases in groupby(_in_order(results), key=lambda case: case.group[:2]):
        table = compact_table("", "medians", "ok", "total s", "down", "passes", "max", "sent", "lost")
        table.title = Text.assemble((clean_text(scenario), "bold"), f" {clean_text(settings)}" if settings else "")
        for variant, repeats in groupby(cases, key=lambda case: case.variant):
            table.add_row(clean_text(variant), *_medians(list(repeats)))
        console.print(table)
    console.print("ok: completed, of all. down: ms. max: throttle in %. sent: x memory size. lost: guest work in %.")
    for result in results:
        if result.error:
            run = f"{' '.join(result.group)} seed {result.seed}"
            console.print(f"! {clean_text(run)}: {clean_text(result.error)}", soft_wrap=True)


def _runs(results: Iterable[CaseResult]) -> dict[str, list[Run]]:
    """Return the runs of each scenario and setting."""
    return {
        clean_text(f"{scenario} {settings}".rstrip()): [_run(case) for case in cases]
        for (scenario, settings), cases in groupby(_in_order(results), key=lambda case: case.group[:2])
    }


def _run(case: CaseResult) -> Run:
    outcome = case.result or Outcome(status="error", error=case.error)
    return Run(label=clean_text(case.variant), name=f"seed {case.seed}", outcome=outcome)


def _in_order(results: Iterable[CaseResult]) -> list[CaseResult]:
    """Return them by scenario, settings, variant and seed: first the variants that come along, in their order."""
    results = list(results)
    variants = list(dict.fromkeys([*ALL_VARIANTS, *sorted(case.variant for case in results)]))
    return sorted(results, key=lambda case: (case.scenario, case.group[1], variants.index(case.variant), case.seed))


def _medians(cases: list[CaseResult]) -> list[str]:
    """Return the cells of one line; only completed migrations count."""
    completed = [case.result for case in cases if case.result and case.result.completed]

    def of(figure: Callable[[Outcome], float | None]) -> float | None:
        return median(map(figure, completed))

    return [
        f"{len(completed)}/{len(cases)}",
        seconds_text(of(lambda outcome: outcome.total_time_ms)),
        count_text(of(lambda outcome: outcome.downtime_ms)),
        count_text(of(lambda outcome: outcome.iteration_count)),
        count_text(of(lambda outcome: outcome.max_throttle_percent)),
        ratio_text(of(lambda outcome: outcome.sent_per_memory)),
        count_text(of(lambda outcome: outcome.work_lost_percent)),
    ]
