"""The policy `planned` beside the patch series' variants, on its guests in virtual time: `python -m bench.planned`."""

import click

from vmferry.simulation.run import simulate
from vmferry.simulation.scenario import load_scenario

GUESTS = {"seed-3000": "3000M", "seed-5000": "5000M"}
VARIANTS = ("original", "background-sync+responsive-throttle", "planned")


@click.command()
def bench() -> None:
    """Print a table: each guest with as much memory as it uses, and with the scan of all of its memory."""
    click.echo("| guest | variant | total time | / original | work lost, vCPU-s | downtime |")
    click.echo("|---|---|---|---|---|---|")
    for name, used in GUESTS.items():
        for scan in (False, True):
            settings = {} if scan else {"guest.memory": used, "guest.zero-scan-rate": "0"}
            scenario = load_scenario(name).with_settings(settings)
            label = f"{name}, scan of all memory" if scan else name
            results = {variant: simulate(scenario, variant) for variant in VARIANTS}
            for variant, result in results.items():
                total_ms, original_ms = result.total_time_ms or 0, results["original"].total_time_ms or 1
                click.echo(
                    f"| {label} | `{variant}` | {total_ms / 1000:.1f} s | {total_ms / original_ms:.2f} "
                    f"| {result.work_lost_vcpu_s:.0f} | {result.downtime_ms} ms |"
                )


if __name__ == "__main__":
    bench()
