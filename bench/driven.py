"""Driven QEMUs, simulated and live, side by side: `python -m bench.driven --help`.

The model is told three things of this machine: how fast the payload writes while its writes are logged, how fast a
unix socket between two QEMUs is, and the guest's size. All else is QEMU's and the driver's own doing.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from bench.peers import Load, Peer, cool_down, qemus, warm_memory
from bench.samples import Samples, recording
from vmferry.cancel import CancelToken
from vmferry.control.drive import require_completed
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.convergence.variants import find_variant
from vmferry.experiment.experiment import Experiment
from vmferry.perf.lab import Lab, VmProcess
from vmferry.simulation.scenario import parse_scenario
from vmferry.study.driven import simulate_driven
from vmferry.vm.clock import MonotonicClock

MIB = 1 << 20
VARIANT = "background-sync+responsive-throttle"
SIMULATED = {"qemu-installed": "qemu-7.2", "qemu-10": "qemu-10"}
"""By which release a peer is modelled."""
SOCKET_MIB_PER_S = 1000
_CALIBRATION = Load(1024, 1, 800)
_WINDOW_S = 0.1
"""Shorter than the payload takes for one round, in which every page is logged."""


@dataclass(frozen=True)
class Guest:
    """A guest and the link that it is given."""

    name: str
    load: Load
    mib_per_s: int
    idle: bool = False

    def parameters(self, downtime_ms: int) -> dict[str, object]:
        """Return the migration parameters."""
        return {"max-bandwidth": self.mib_per_s * MIB, "downtime-limit": downtime_ms}

    def scenario(self, release: str, pages_per_s: float, downtime_ms: int) -> Experiment:
        """Return the same guest as a scenario."""
        pattern = "idle" if self.idle else "sweep"
        text = f"""
            name = "{self.name}"
            driven = "{release}"
            [guest]
            memory = "{self.load.memory_mib}M"
            vcpus = {self.load.vcpu_count}
            [[guest.loads]]
            pattern = "{pattern}"
            memory = "{self.load.stress_mib}M"
            write-rate = "{pages_per_s * 4096:.0f}B/s"
            [link]
            rate = "{SOCKET_MIB_PER_S}MiB/s"
            [parameters]
            max-bandwidth = {self.mib_per_s * MIB}
            downtime-limit = {downtime_ms}
        """
        return parse_scenario(text.encode(), self.name)


GUESTS = (
    Guest("idle", Load(512, 1, 256), 100, idle=True),
    Guest("small set", Load(512, 1, 64), 50),
    Guest("large set", Load(1024, 1, 800), 200),
    Guest("large set, fast link", Load(1024, 1, 800), 400),
    Guest("medium set, slow link", Load(512, 1, 300), 100),
)


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--qemu10", help="Path of a QEMU 10, see bench/get-qemu10.sh.")
@click.option("--runs", default=3, show_default=True, help="Live runs of each guest.")
@click.option("--downtime", default=500, show_default=True, help="Downtime limit in ms.")
@click.option("--guest", "names", multiple=True, type=click.Choice([guest.name for guest in GUESTS]), help="Only this.")
def bench(output: Path | None, qemu10: str | None, runs: int, downtime: int, names: tuple[str, ...]) -> None:
    """Total time of driven migrations: of real QEMUs, and of modelled ones in virtual time."""
    guests = [guest for guest in GUESTS if not names or guest.name in names]
    with recording(output) as samples:
        for peer in qemus(qemu10):
            pages_per_s = _logged_pages_per_s(samples, peer)
            for guest in guests:
                for _ in range(runs):
                    _measure(samples, peer, guest, downtime)
                    cool_down()
                scenario = guest.scenario(SIMULATED[peer.name], pages_per_s, downtime)
                result = simulate_driven(scenario, VARIANT)
                _add(samples, peer, guest, "simulated", result.total_time_ms, result.downtime_ms)
        click.echo(table(samples, guests), err=True)


def _logged_pages_per_s(samples: Samples, peer: Peer) -> float:
    """Measure how fast the payload writes pages that are logged, once each, as it does when a throttle is on."""
    with Lab() as lab:
        source, _, _ = peer.start_pair(lab, _CALIBRATION)
        rates = [_first_writes(source) for _ in range(10)]
    for rate in rates:
        samples.add("logged_write_rate", rate, "pages/s", peer=peer.name, load=_load())
    return max(rates)  # whatever else the machine does can only make it slower


def _first_writes(source: VmProcess) -> float:
    source.monitor.execute("calc-dirty-rate", {"calc-time": 1, "mode": "dirty-bitmap"})
    rate = source.pages_per_s(_WINDOW_S)
    while source.monitor.execute("query-dirty-rate")["status"] == "measuring":
        time.sleep(_WINDOW_S)
    return rate


def _measure(samples: Samples, peer: Peer, guest: Guest, downtime_ms: int) -> None:
    warm_memory(2 * guest.load.memory_mib)
    with Lab() as lab:
        source, destination, uri = peer.start_pair(lab, guest.load)
        if guest.idle:
            source.monitor.execute("stop")
        order = Order(uri=uri, variant=find_variant(VARIANT), parameters=guest.parameters(downtime_ms))
        clock, cancel = MonotonicClock(), CancelToken()
        watch = tell = lambda told: None
        result = require_completed(carry_out(source.monitor, order, watch, tell, clock=clock, cancel=cancel))
        destination.check_memory()
    _add(samples, peer, guest, "live", result.last.elapsed_ms, result.last.downtime_ms)


def _add(samples: Samples, peer: Peer, guest: Guest, how: str, total_ms: int | None, downtime_ms: int | None) -> None:
    what: dict[str, object] = {"peer": peer.name, "guest": guest.name, "how": how, "load": _load()}
    assert total_ms is not None
    samples.add("total_time", total_ms / 1000, "s", **what)
    if downtime_ms is not None:
        samples.add("downtime", downtime_ms, "ms", **what)


def _load() -> float:
    """Return how much else this machine does: processes that want to run, over the last minute."""
    return round(os.getloadavg()[0], 1)


def table(samples: Samples, guests: Sequence[Guest]) -> str:
    """Return the medians as Markdown."""
    lines = ["| guest | QEMU | live | simulated | difference |", "|---|---|---|---|---|"]
    for guest in guests:
        for peer in dict.fromkeys(str(sample.parameters["peer"]) for sample in samples.samples):
            live, simulated = (
                samples.median("total_time", peer=peer, guest=guest.name, how=how) for how in ("live", "simulated")
            )
            facts = f"{guest.name} | {SIMULATED[peer].removeprefix('qemu-')} | {live:.1f} s | {simulated:.1f} s"
            lines.append(f"| {facts} | {simulated / live - 1:+.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    bench()
