"""Which variant steers somebody else's migration best: `python -m bench.steering --help`.

Somebody begins a migration with QEMU's auto-converge switched off, as most orchestrators do, and half a second later
the driver takes it over, as the agent does. `modelled` is in virtual time, `live` moves real QEMUs.
"""

import random
import time
from contextlib import suppress
from pathlib import Path

import click

from bench.peers import Load, cool_down, qemus
from bench.planned import CASES, Case
from bench.samples import recording
from vmferry.cancel import CancelToken
from vmferry.clock import MonotonicClock
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.convergence.variants import find_variant
from vmferry.errors import CancelledError
from vmferry.experiment.scenario import parse_scenario
from vmferry.migration.journal import MemoryJournal
from vmferry.migration.outcome import Outcome
from vmferry.perf.lab import Lab
from vmferry.simulation.qemu.lab import URI, ModelledLab
from vmferry.simulation.qemu.releases import RELEASES, find_release
from vmferry.study.modelled_place import ModelledPlace
from vmferry.units import MIB, NS_PER_MS, NS_PER_S

VARIANTS = ("background-sync+responsive-throttle", "planned")
_NOTICED_NS = 500 * NS_PER_MS
_SWEEP = 'pattern = "sweep"\nmemory = "{}"\nwrite-rate = "{}"'
GUESTS = (
    *CASES,
    Case("moves by itself", _SWEEP.format("200M", "20MB/s"), 100, 300),
    Case("rewrites 300 MiB, 400 MiB/s", _SWEEP.format("300M", "1GB/s"), 400, 300, 2),
    Case("random over 800 MiB, slowly", 'pattern = "uniform"\nmemory = "800M"\nwrite-rate = "60MB/s"', 40, 300),
)


@click.group()
def bench() -> None:
    """Take over migrations that somebody else has begun."""


@bench.command()
@click.option("--seeds", default=1, show_default=True, help="Runs of each kind.")
def modelled(seeds: int) -> None:
    """Guests in modelled QEMUs, for up to 120 s each."""
    click.echo("| guest | QEMU | variant | total time | work lost, vCPU-s | downtime |")
    click.echo("|---|---|---|---|---|---|")
    for case in GUESTS:
        for release in RELEASES:
            for variant in VARIANTS:
                for seed in range(seeds):
                    outcome = steered(case, release, variant, seed)
                    time_s = (outcome.total_time_ms or 0) / 1000
                    took = f"{time_s:.1f} s" if outcome.completed else f"not in {time_s:.0f} s"
                    lost = f"{outcome.work_lost_vcpu_s:.1f}" if outcome.work_lost_vcpu_s is not None else ""
                    downtime = f"{outcome.downtime_ms} ms" if outcome.completed else ""
                    click.echo(f"| {case.name} | {release} | `{variant}` | {took} | {lost} | {downtime} |")


def _ignore(what: object) -> None:
    """Neither look nor listen."""


def steered(case: Case, release: str, variant: str, seed: int = 0) -> Outcome:
    """Return what comes of a migration of a modelled guest that is taken over; it is let go when its time is over."""
    experiment = parse_scenario(case.scenario(release).encode(), case.name)
    lab, cancel, journal = ModelledLab(experiment, find_release(release), seed), CancelToken(), MemoryJournal()
    other = lab.connect()
    other.execute("migrate-set-parameters", {"max-bandwidth": 0, **experiment.common_settings})
    other.execute("migrate", {"uri": URI})
    lab.clock.sleep_ns(_NOTICED_NS)
    lab.clock.schedule(experiment.limits.max_time_ns, lambda: cancel.set("it takes too long"))
    order = Order(uri=None, variant=find_variant(variant), journal=journal)
    monitor, place = lab.connect(while_waiting=cancel.check), ModelledPlace(lab).driver_place
    with suppress(CancelledError):
        carry_out(Ports(monitor, lab.clock, cancel, _ignore, _ignore), order, _ignore, place)
    return Outcome.of(journal.entries)


@bench.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--runs", default=3, show_default=True, help="Runs of each kind.")
@click.option("--memory", default=512, show_default=True, help="Guest memory in MiB.")
@click.option("--stress", default=300, show_default=True, help="Memory rewritten for ever in MiB.")
@click.option("--rate", default=100, show_default=True, help="Link in MiB/s.")
def live(output: Path | None, runs: int, memory: int, stress: int, rate: int) -> None:
    """A guest of the installed QEMU that rewrites its memory for ever."""
    peer, load, order = qemus(None)[0], Load(memory, 1, stress), random.Random(1)
    with recording(output) as samples:
        for _ in range(runs):
            for variant in order.sample(VARIANTS, len(VARIANTS)):
                what: dict[str, object] = {"by": variant, "rate_mib_per_s": rate, "stress_mib": stress}
                with Lab() as lab:
                    source, destination, uri = peer.start_pair(lab, load)
                    source.monitor.execute("migrate-set-parameters", {"max-bandwidth": rate * MIB})
                    source.monitor.execute("migrate", {"uri": uri})
                    time.sleep(_NOTICED_NS / NS_PER_S)
                    journal, clock, cancel = MemoryJournal(), MonotonicClock(), CancelToken()
                    taken = Order(uri=None, variant=find_variant(variant), journal=journal)
                    result = carry_out(Ports(source.monitor, clock, cancel, _ignore, _ignore), taken, _ignore)
                    assert result.completed
                    destination.check_memory()
                outcome = Outcome.of(journal.entries)
                samples.add("total_time", (outcome.total_time_ms or 0) / 1000, "s", **what)
                if outcome.work_lost_vcpu_s is not None:
                    samples.add("work_lost", outcome.work_lost_vcpu_s, "vCPU-s", **what)
                samples.add("downtime", outcome.downtime_ms or 0, "ms", **what)
                cool_down()


if __name__ == "__main__":
    bench()
