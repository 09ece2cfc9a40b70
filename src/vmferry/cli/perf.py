"""`vmferry perf`: measure migrations of real, busy guests, many of them, and compare them."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import click
from click.core import ParameterSource

from vmferry.cli import perf_compare, perf_report
from vmferry.cli.interrupts import signal_number_of
from vmferry.cli.json_option import json_option
from vmferry.cli.perf_report import show_runs
from vmferry.cli.policy_options import own_variants, policy_option, require_one_way, settings_option
from vmferry.cli.tables import beside, say
from vmferry.cli.types import DURATION_MS, RATE_WITH_UNIT, SIZE_WITH_UNIT
from vmferry.convergence.variants import ALL_VARIANTS
from vmferry.errors import InterruptionError, UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.scenario import load_scenario
from vmferry.perf.batch import missing_jobs, run_jobs
from vmferry.perf.comparisons import find_experiments, sweeping_guest, with_policy
from vmferry.perf.labels import label
from vmferry.perf.measure import Job
from vmferry.perf.measured_run import MeasuredRun
from vmferry.perf.real_guest import require_real
from vmferry.perf.results import ResultSet

_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_REPEATS = click.IntRange(1, 1000)


@click.group("perf", short_help="Measure migrations of real guests, repeat, compare.")
def command() -> None:
    """Measure migrations of real, busy KVM guests.

    \b
    One guest:        vmferry perf run --bandwidth 60MiB/s --output results/
    A scenario's:     vmferry perf run busy.toml --output results/
    Named scenarios:  vmferry perf batch 'seed-quick/*' --output results/
    What came out:    vmferry perf report results/ --html results.html
    Two sets of runs: vmferry perf compare before/ after/

    Each run boots a guest that rewrites its memory for ever, migrates it to another process of this machine, checks its
    memory there, and measures from outside how fast it ran before, meanwhile and after.
    """


@command.command("run")
@click.argument("scenario", required=False)
@click.option(
    "--cpus", "vcpu_count", type=click.IntRange(1, 255), default=2, show_default=True, help="Number of vCPUs."
)
@click.option("--mem", "memory_bytes", type=SIZE_WITH_UNIT, default="1G", show_default=True, help="Guest memory.")
@click.option(
    "--stress-mem",
    "stress_bytes",
    type=SIZE_WITH_UNIT,
    default="512M",
    show_default=True,
    help="How much of it is rewritten for ever.",
)
@click.option(
    "--bandwidth",
    "bandwidth_bytes_per_s",
    type=RATE_WITH_UNIT,
    default="0",
    show_default=True,
    help="Link, such as 60MiB/s; 0 for no limit.",
)
@click.option(
    "--downtime", "downtime_limit_ms", type=DURATION_MS, default="500ms", show_default=True, help="Downtime limit."
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME",
    help=f"Auto-converge of this kind, off if left out; repeatable: {', '.join(ALL_VARIANTS)}.",
)
@click.option("--auto-converge", is_flag=True, help="The same as --variant original.")
@policy_option("In place of a variant: what decides how the guest is made to converge.")
@settings_option
@click.option(
    "--step", "--auto-converge-step", "throttle_step_percent", type=click.IntRange(1, 99), default=10,
    show_default=True, help="Throttle increment in percent.",
)  # fmt: skip
@click.option(
    "--time-scale",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Divide all constants of time by this.",
)
@click.option(
    "--max-iters",
    "max_iterations",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Cancel after this many iterations.",
)
@click.option(
    "--max-time",
    "max_time_s",
    type=click.IntRange(1),
    default=300,
    show_default=True,
    help="Cancel after this many seconds.",
)
@click.option("--repeats", type=_REPEATS, default=1, show_default=True, help="How many runs to make.")
@click.option("--output", type=_DIRECTORY, required=True, help="Directory for results and journals.")
@json_option("Print one JSON object for each run.", MeasuredRun)
@click.pass_context
def run(
    context: click.Context,
    /,
    scenario: str | None,
    variants: tuple[str, ...],
    auto_converge: bool,
    policy: str | None,
    settings: tuple[str, ...],
    repeats: int,
    output: Path,
    as_json: bool,
    **guest: int,
) -> None:
    """Measure a guest that these options describe, or that of a SCENARIO's file.

    A file says all of the guest, its link and its limits; without --variant or --policy, its variants are measured. A
    real guest writes as fast as it can, whatever the file's write rate, and its migration is held to the link's rate.
    """
    require_one_way(policy, variants, auto_converge)
    if auto_converge:
        variants = ("original",)
    if scenario:
        _refuse_both(context, guest)
    experiment = load_scenario(scenario) if scenario else sweeping_guest(**guest)
    experiment = experiment.choosing(variants, own_variants(policy, settings))
    runs = [("run", experiment.only(variant)) for variant in experiment.variants]
    context.exit(_measure_all(runs, repeats, output, as_json))


def _refuse_both(context: click.Context, names: Iterable[str]) -> None:
    """Raise UsageError if one of these options was given beside a scenario."""
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"the scenario says what {parameter.opts[0]} says; leave one of them out")


@command.command("batch")
@click.argument("pattern", default="*")
@click.option("--list", "only_list", is_flag=True, help="Show the scenarios that fit and end.")
@policy_option("Measure the guests of these scenarios with this policy, in place of their variants.")
@settings_option
@click.option("--repeats", type=_REPEATS, default=5, show_default=True, help="Runs of each scenario.")
@click.option("--output", type=_DIRECTORY, help="Directory for results and journals.")
@json_option("Print one JSON object for each run.", MeasuredRun)
@click.pass_context
def batch(
    context: click.Context,
    /,
    pattern: str,
    only_list: bool,
    policy: str | None,
    settings: tuple[str, ...],
    repeats: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure all scenarios whose comparison/label fits the glob PATTERN.

    Runs that are in the output directory are not measured again, so an interrupted batch goes on when the same command
    is given. A run that fails is recorded and the batch goes on.
    """
    experiments = find_experiments(pattern)
    for own in own_variants(policy, settings):
        experiments = with_policy(experiments, own)
    if only_list:
        for comparison, experiment in experiments:
            click.echo(f"{comparison}/{label(experiment)}")
        return
    if output is None:
        raise UsageError("say where to keep the results, such as --output results/")
    context.exit(_measure_all(experiments, repeats, output, as_json))


def _measure_all(experiments: list[tuple[str, Experiment]], repeats: int, output: Path, as_json: bool) -> int:
    """Measure what is missing, show all runs of these experiments, and return the exit code."""
    for _, experiment in experiments:
        require_real(experiment)
    results = ResultSet(output)
    jobs = missing_jobs(experiments, repeats, results)
    log = partial(say, beside(quiet=as_json))
    log(f"{len(jobs)} runs to measure, {len(experiments) * repeats - len(jobs)} are in {output} already")

    def tell(job: Job) -> None:
        log(f"{jobs.index(job) + 1}/{len(jobs)} {job.label}")

    try:
        run_jobs(jobs, results, tell)
    except KeyboardInterrupt as error:
        so_far = f"the {len(results.runs)} runs so far are in {output}"
        raise InterruptionError(f"interrupted; the same command goes on, {so_far}", signal_number_of(error)) from error
    wanted = {(comparison, label(experiment)) for comparison, experiment in experiments}
    runs = [run for run in results.runs if (run.job.comparison, label(run.job.experiment)) in wanted]
    show_runs(runs, as_json)
    return 0 if all(run.status == "completed" for run in runs) else 1


command.add_command(perf_compare.command)
command.add_command(perf_report.command)
