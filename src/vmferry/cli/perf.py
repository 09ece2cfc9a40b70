"""`vmferry perf`: measure migrations of real, busy guests, many of them, and compare them."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import click

from vmferry.cli import perf_compare, perf_report
from vmferry.cli.interrupts import signal_number_of
from vmferry.cli.perf_report import show_runs
from vmferry.cli.policy_options import policy_option, require_one_way, settings_of, settings_option
from vmferry.cli.tables import terminal
from vmferry.cli.types import DURATION_MS, RATE_WITH_UNIT, SIZE_WITH_UNIT
from vmferry.convergence.variants import ALL_VARIANTS
from vmferry.errors import InterruptionError, UsageError
from vmferry.perf.batch import missing_jobs, run_jobs
from vmferry.perf.measure import Job
from vmferry.perf.results import ResultSet
from vmferry.perf.scenarios import PerfScenario, find_scenarios, with_policy
from vmferry.simulation.own_variants import policy_variant

_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_REPEATS = click.IntRange(1, 1000)


@click.group("perf", short_help="Measure migrations of real guests, repeat, compare.")
def command() -> None:
    """Measure migrations of real, busy KVM guests.

    \b
    One scenario:      vmferry perf run --stress-mem 512M --bandwidth 60MiB/s --variant original --output results/
    Named scenarios:   vmferry perf batch 'seed-quick/*' --repeats 5 --output results/
    What came out:     vmferry perf report results/ --html results.html
    Two sets of runs:  vmferry perf compare before/ after/

    Each run boots a guest that rewrites its memory for ever, migrates it to another process of this machine, checks its
    memory there, and measures from outside how fast it ran before, meanwhile and after.
    """


@command.command("run")
@click.option("--cpus", type=click.IntRange(1, 255), default=2, show_default=True, help="Number of vCPUs.")
@click.option("--mem", type=SIZE_WITH_UNIT, default="1G", show_default=True, help="Guest memory.")
@click.option(
    "--stress-mem", type=SIZE_WITH_UNIT, default="512M", show_default=True, help="How much of it is rewritten for ever."
)
@click.option(
    "--bandwidth", type=RATE_WITH_UNIT, default="0", show_default=True, help="Link, such as 60MiB/s; 0 for no limit."
)
@click.option("--downtime", type=DURATION_MS, default="500ms", show_default=True, help="Downtime limit.")
@click.option("--variant", type=click.Choice(list(ALL_VARIANTS)), help="Auto-converge of this kind; off if left out.")
@click.option("--auto-converge", is_flag=True, help="The same as --variant original.")
@policy_option("In place of a variant: what decides how the guest is made to converge.")
@settings_option
@click.option(
    "--step", "--auto-converge-step", "step", type=click.IntRange(1, 99), default=10, show_default=True,
    help="Throttle increment in percent.",
)  # fmt: skip
@click.option(
    "--time-scale",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Divide all constants of time by this.",
)
@click.option(
    "--max-iters", type=click.IntRange(1), default=30, show_default=True, help="Cancel after this many iterations."
)
@click.option(
    "--max-time", type=click.IntRange(1), default=300, show_default=True, help="Cancel after this many seconds."
)
@click.option("--repeats", type=_REPEATS, default=1, show_default=True, help="How many runs to make.")
@click.option("--output", type=_DIRECTORY, required=True, help="Directory for results and journals.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each run.")
@click.pass_context
def run(
    context: click.Context,
    /,
    cpus: int,
    mem: int,
    stress_mem: int,
    bandwidth: int,
    downtime: int,
    variant: str | None,
    auto_converge: bool,
    policy: str | None,
    settings: tuple[str, ...],
    step: int,
    time_scale: int,
    max_iters: int,
    max_time: int,
    repeats: int,
    output: Path,
    as_json: bool,
) -> None:
    """Measure one scenario."""
    require_one_way(policy, variant, auto_converge)
    scenario = PerfScenario(
        vcpu_count=cpus,
        memory_bytes=mem,
        stress_bytes=stress_mem,
        bandwidth_bytes_per_s=bandwidth,
        downtime_limit_ms=downtime,
        variant=variant or ("original" if auto_converge else None),
        throttle_step_percent=step,
        time_scale=time_scale,
        max_iterations=max_iters,
        max_time_s=max_time,
    )
    context.exit(_measure_all(_by_policy([("run", scenario)], policy, settings), repeats, output, as_json))


def _by_policy(
    scenarios: list[tuple[str, PerfScenario]], policy: str | None, settings: Iterable[str]
) -> list[tuple[str, PerfScenario]]:
    """Return the scenarios, with the policy if there is one. Raises UsageError."""
    values = settings_of(policy, settings)
    return with_policy(scenarios, policy_variant(policy, values)) if policy else scenarios


@command.command("batch")
@click.argument("pattern", default="*")
@click.option("--list", "only_list", is_flag=True, help="Show the scenarios that fit and end.")
@policy_option("Measure the guests of these scenarios with this policy, in place of their variants.")
@settings_option
@click.option("--repeats", type=_REPEATS, default=5, show_default=True, help="Runs of each scenario.")
@click.option("--output", type=_DIRECTORY, help="Directory for results and journals.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each run.")
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
    is given. A run that fails is recorded and the batch goes on; the exit code is 1 then.
    """
    scenarios = _by_policy(find_scenarios(pattern), policy, settings)
    if only_list:
        for comparison, scenario in scenarios:
            click.echo(f"{comparison}/{scenario.label}")
        return
    if output is None:
        raise UsageError("say where to keep the results, such as --output results/")
    context.exit(_measure_all(scenarios, repeats, output, as_json))


def _measure_all(scenarios: list[tuple[str, PerfScenario]], repeats: int, output: Path, as_json: bool) -> int:
    """Measure what is missing, show all runs of these scenarios, and return the exit code."""
    for _, scenario in scenarios:
        scenario.check()
    results = ResultSet(output)
    jobs = missing_jobs(scenarios, repeats, results)
    log = partial(terminal(stderr=True, quiet=as_json).print, soft_wrap=True)
    log(f"{len(jobs)} runs to measure, {len(scenarios) * repeats - len(jobs)} are in {output} already")

    def tell(job: Job) -> None:
        log(f"{jobs.index(job) + 1}/{len(jobs)} {job.label}")

    try:
        run_jobs(jobs, results, tell)
    except KeyboardInterrupt as error:
        so_far = f"the {len(results.runs)} runs so far are in {output}"
        raise InterruptionError(f"interrupted; the same command goes on, {so_far}", signal_number_of(error)) from error
    wanted = {(comparison, scenario.label) for comparison, scenario in scenarios}
    runs = [run for run in results.runs if (run.job.comparison, run.job.scenario.label) in wanted]
    show_runs(runs, as_json)
    return 0 if all(run.status == "completed" for run in runs) else 1


command.add_command(perf_compare.command)
command.add_command(perf_report.command)
