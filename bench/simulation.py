"""What simulating costs in processor time, by the guest's size: `python -m bench.simulation --help`."""

import time
from pathlib import Path

import click

from bench.samples import Samples, recording
from vmferry.convergence.watcher import BackgroundSync
from vmferry.experiment.scenario import parse_scenario
from vmferry.migration.early_pages import EarlyPages
from vmferry.migration.ram import RamState
from vmferry.settings.choices import Rearm
from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.guest import SimulatedGuest
from vmferry.simulation.patterns import SweepPattern
from vmferry.simulation.run import Simulation
from vmferry.simulation.workload import Workload
from vmferry.units import NS_PER_S

PAGES_PER_GIB = 1 << 18
SYNCS = 5

FULL_AND_QUIET = """
name = "full"
[guest]
memory = "{gib}G"
vcpus = 1
[[guest.loads]]
pattern = "sweep"
memory = "{gib}G"
[link]
rate = "100Gbit/s"
"""


def page_send_ns(gib: int) -> float:
    """Migrate a guest that has used all its memory and is quiet now: processor time by pages sent."""
    simulation = Simulation(parse_scenario(FULL_AND_QUIET.format(gib=gib).encode(), "full"), "original", 0)
    start_ns = time.process_time_ns()
    result = simulation.run()
    elapsed_ns = time.process_time_ns() - start_ns
    assert result.status == "completed", result.error
    return elapsed_ns / (gib * PAGES_PER_GIB)


def sync_ms(gib: int) -> float:
    """Sync a guest that dirties a hundredth of its memory in between, in the mode that keeps what it finds apart."""
    page_count = gib * PAGES_PER_GIB
    clock = VirtualClock()
    workload = Workload.together(SweepPattern(0, page_count, page_count / 100))
    guest = SimulatedGuest(clock, page_count, 1, workload)
    guest.start_dirty_log()
    ram = RamState(guest, BackgroundSync.PRESERVE, EarlyPages.of(page_count, Rearm.LATE))
    elapsed_ns = 0
    for _ in range(SYNCS):
        clock.sleep_ns(NS_PER_S)
        start_ns = time.process_time_ns()
        ram.background_sync()
        elapsed_ns += time.process_time_ns() - start_ns
    return elapsed_ns / SYNCS / 1e6


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--runs", default=5, show_default=True, help="Runs of each size.")
@click.option("--gib", "sizes", multiple=True, type=int, default=(1, 10, 100, 1000), show_default=True)
def main(output: Path | None, runs: int, sizes: tuple[int, ...]) -> None:
    """Measure processor time per simulated page and per dirty sync."""
    with recording(output) as samples:
        for _ in range(runs):
            for gib in sizes:
                measure(samples, gib)


def measure(samples: Samples, gib: int) -> None:
    samples.add("simulated_page_send", page_send_ns(gib), "ns", gib=gib)
    samples.add("simulated_sync", sync_ms(gib), "ms", gib=gib)


if __name__ == "__main__":
    main()
