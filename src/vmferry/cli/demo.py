"""`vmferry demo`: see a busy VM migrate live, and the patch series' table with this machine's figures."""

from collections.abc import Sequence

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.policy_options import own_variants, policy_option, settings_option
from vmferry.cli.simulate import print_results
from vmferry.cli.tables import bold, compact_table, terminal
from vmferry.control.asking.progress import Progress
from vmferry.errors import HostError
from vmferry.experiment.experiment import Experiment
from vmferry.guests.kvm.system import KvmSystem
from vmferry.perf.demo import DemoRun, demo_experiment, run_demo, simulate_demo
from vmferry.report.figures import count_text, median, percent_text, ratio_text, seconds_text
from vmferry.settings.parameters import MigrationParameters
from vmferry.simulation.run import SimulatedRun
from vmferry.units import format_rate, format_size, told


@click.command("demo", short_help="See a busy VM migrate live, in three variants.")
@click.option(
    "--repeats",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Live runs of each variant.",
)
@policy_option("Add a migration by this policy, to compare it with the variants.")
@settings_option
@click.option("--simulated", is_flag=True, help="Migrate a modelled guest in virtual time instead, once.")
@json_option("Print one JSON object for each run instead of the tables.", DemoRun, SimulatedRun)
def command(repeats: int, policy: str | None, settings: tuple[str, ...], simulated: bool, as_json: bool) -> None:
    """Migrate a real, busy KVM VM between two processes, once for each variant of auto-converge.

    Takes about a minute and a half. Where KVM cannot be used, says so and simulates.
    """
    experiment = demo_experiment()
    experiment = experiment.choosing(experiment.variants, own_variants(policy, settings))
    reason = "as asked" if simulated else _why_not_kvm()
    if reason:
        _show_simulated(experiment, reason, as_json)
    else:
        _show_live(experiment, repeats, as_json)


def _why_not_kvm() -> str | None:
    try:
        KvmSystem().close()
    except HostError as error:
        return str(error)
    return None


def _show_simulated(experiment: Experiment, reason: str, as_json: bool) -> None:
    results = simulate_demo(experiment)
    if as_json:
        for result in results:
            print_record(result, SimulatedRun)
        return
    console = terminal()
    console.print(bold("Simulated"), f", not a live migration: {reason}.\n{_scale(experiment)}", sep="")
    print_results(console, results)


def _show_live(experiment: Experiment, repeats: int, as_json: bool) -> None:
    screen = _Screen(terminal(quiet=as_json))
    screen.console.print(bold("Live migration of a KVM guest"), f": {_scale(experiment)}", sep="")
    runs = []
    with screen.live:
        for _ in range(repeats):
            for run in run_demo(experiment, screen.watch, screen.tell):
                runs.append(run)
                screen.finish(run)
                if as_json:
                    print_record(run)
    screen.console.print(_seed_table(experiment.variants, runs))
    screen.console.print(_verdict(experiment.variants, runs))


class _Screen:
    """The running migration on one line, alive in a terminal; above it the proof of those that are over."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, auto_refresh=False, transient=True)

    def tell(self, variant: str, text: str) -> None:
        """Show what goes on besides migrating."""
        self._show(variant, text)

    def watch(self, variant: str, progress: Progress) -> None:
        """Show how far a migration is."""
        self._show(
            variant,
            f"{seconds_text(progress.elapsed_ms)} s",
            f"iteration {count_text(progress.iteration_count)}",
            f"remaining {told(progress.remaining_bytes, format_size)}",
            f"throttle {percent_text(progress.throttle_percent)}",
            ProgressBar(total=100, completed=progress.throttle_percent or 0, width=20),
        )

    def finish(self, run: DemoRun) -> None:
        """Leave the proof of a finished run on the screen."""
        self.console.print(
            _lines(
                run.variant,
                f"{seconds_text(run.total_time_ms)} s",
                f"arrived intact: {run.checked_pages} pages checked, speed {run.speed_ratio:.0%} of before",
            )
        )

    def _show(self, variant: str, *cells: str | ProgressBar) -> None:
        self.live.update(_lines(variant, *cells), refresh=True)


def _lines(variant: str, *cells: str | ProgressBar) -> Group:
    figures = Table.grid(padding=(0, 2))
    figures.add_row("", *cells)
    return Group(bold(variant), figures)


def _scale(experiment: Experiment) -> str:
    guest, scale = experiment.guest, experiment.time_scale
    parameters = MigrationParameters().changed(experiment.common_settings)
    default_ms = MigrationParameters().x_background_sync_interval
    return (
        f"{guest.vcpu_count} vCPUs rewrite {format_size(guest.loads[0].memory_bytes)} for ever, "
        f"link {format_rate(parameters.max_bandwidth)}, downtime limit {parameters.downtime_limit} ms.\n"
        f"All constants of time are scaled 1:{scale}: "
        f"a background sync after {parameters.x_background_sync_interval} ms, not {default_ms}."
    )


def _seed_table(variants: Sequence[str], runs: list[DemoRun]) -> Table:
    title = "\nThe patch series' table, on this machine"
    table = compact_table(title, "variant", "total ms", "down ms", "passes", "max", "sent", "lost")
    table.caption = "max: throttle in %. sent: x memory size. lost: guest work in %."
    for name in variants:
        for run in runs:
            if run.variant == name:
                table.add_row(
                    name,
                    count_text(run.total_time_ms),
                    count_text(run.downtime_ms),
                    count_text(run.iteration_count),
                    count_text(run.max_throttle_percent),
                    ratio_text(run.sent_per_memory),
                    count_text(run.work_lost_percent),
                )
    return table


def _verdict(variants: Sequence[str], runs: list[DemoRun]) -> str:
    medians = {name: median(run.total_time_ms for run in runs if run.variant == name) for name in variants}
    first, *others = variants
    ratios = (f"  {name} {(medians[name] or 0) / (medians[first] or 1):.2f}" for name in others)
    return f"\nTotal time as a share of {first}'s:\n" + "\n".join(ratios)
