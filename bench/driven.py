"""Driven QEMUs, simulated and live, side by side: `python -m bench.driven --help`.

The model is told four things of this machine: how fast the payload writes while its writes are logged, how fast a
destination takes memory that it does not have yet, how fast a unix socket between two QEMUs is, and the guest's size.
All else is QEMU's and the driver's own doing.

Some guests take one of two courses by chance: whether ten or eleven bursts fall into a measurement decides on the next
throttle. So means are compared, of several live runs and of several seeds. Runs during which other processes have used
the machine are measured again.
"""

import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from bench.peers import Load, Peer, cool_down, qemus, warm_memory
from bench.qemu import VARIANTS
from bench.samples import Sample, Samples, recording
from vmferry.cancel import CancelToken
from vmferry.client.processes import Scheduled
from vmferry.clock import MonotonicClock
from vmferry.control.asking.result import require_completed
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.convergence.variants import find_variant
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.scenario import parse_scenario
from vmferry.perf.lab import Lab, VmProcess
from vmferry.study.driven import simulate_driven
from vmferry.units import MIB, NS_PER_S, PAGE_SIZE_BYTES, parse_rate

VARIANT = VARIANTS["driven"]
SIMULATED = {"qemu-installed": "qemu-7.2", "qemu-10": "qemu-10"}
"""By which release a peer is modelled."""
SOCKET_MIB_PER_S = 1000
_CALIBRATION = Load(1024, 1, 800)
_TRIES = 5
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

    def scenario(
        self, release: str, pages_per_s: float, downtime_ms: int, populate_bytes_per_s: float = 0
    ) -> Experiment:
        """Return the same guest as a scenario."""
        pattern = "idle" if self.idle else "sweep"
        text = f"""
            name = "{self.name}"
            driven = "{release}"
            [guest]
            memory = "{self.load.memory_mib}M"
            vcpus = {self.load.vcpu_count}
            populate-rate = "{populate_bytes_per_s:.0f}B/s"
            [[guest.loads]]
            pattern = "{pattern}"
            memory = "{self.load.stress_mib}M"
            write-rate = "{pages_per_s * PAGE_SIZE_BYTES:.0f}B/s"
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


@click.group()
@click.option("--downtime", default=500, show_default=True, help="Downtime limit in ms.")
@click.pass_context
def bench(context: click.Context, /, downtime: int) -> None:
    """Total time of driven migrations: of real QEMUs, and of modelled ones in virtual time."""
    context.obj = downtime


@bench.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--qemu10", help="Path of a QEMU 10, see bench/get-qemu10.sh.")
@click.option("--runs", default=3, show_default=True, help="Live runs of each guest.")
@click.option("--seeds", default=10, show_default=True, help="Simulated runs of each guest.")
@click.option("--others", default=0.15, show_default=True, help="Processors that others may use in runs that count.")
@click.option("--looks", default=5, show_default=True, help="How often to measure what the model is told.")
@click.option("--guest", "names", multiple=True, type=click.Choice([guest.name for guest in GUESTS]), help="Only this.")
@click.pass_obj
def live(
    downtime: int,
    /,
    output: Path | None,
    qemu10: str | None,
    runs: int,
    seeds: int,
    others: float,
    looks: int,
    names: tuple[str, ...],
) -> None:
    """Measure both now. The machine should do nothing else."""
    guests = [guest for guest in GUESTS if not names or guest.name in names]
    rows = []
    with recording(output) as samples:
        for peer in qemus(qemu10):
            pages_per_s = _logged_pages_per_s(samples, peer, looks)
            populate_bytes_per_s = _populate_bytes_per_s(samples, peer, looks)
            for guest in guests:
                for _ in range(runs):
                    _measure_undisturbed(samples, peer, guest, downtime, others)
                scenario = guest.scenario(SIMULATED[peer.name], pages_per_s, downtime, populate_bytes_per_s)
                what = {"peer": peer.name, "guest": guest.name}
                for seed in range(seeds):
                    samples.add("total_time", _simulated_s(scenario, VARIANT, seed), "s", **what, how="simulated")
                live_s, simulated_s = (
                    statistics.mean(samples.values("total_time", **what, how=how)) for how in ("live", "simulated")
                )
                rows.append(Row(guest.name, peer.name, "driven", live_s, simulated_s))
    click.echo(table(rows), err=True)


@bench.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--memory", default=1024, show_default=True, help="Guest memory in MiB, as it was then.")
@click.option("--stress", default=800, show_default=True, help="Memory rewritten for ever in MiB, as it was then.")
@click.option("--write-rate", default="1.95GB/s", show_default=True, help="How fast, logged and not throttled.")
@click.option("--seeds", default=5, show_default=True, help="Simulated runs of each kind.")
@click.pass_obj
def recorded(downtime: int, /, file: Path, memory: int, stress: int, write_rate: str, seeds: int) -> None:
    """Simulate what `bench.qemu pairs` has measured, by its raw samples in FILE, and compare the means."""
    groups: dict[tuple[str, bool, int, str], list[float]] = {}
    for line in file.read_bytes().splitlines():
        sample = msgspec.json.decode(line, type=Sample)
        if sample.name == "total_time":
            peer, idle, rate, by = (sample.parameters[name] for name in ("peer", "idle", "rate_mib_per_s", "by"))
            groups.setdefault((str(peer), bool(idle), int(str(rate)), str(by)), []).append(sample.value)
    rows = []
    for (peer, idle, rate, by), values in sorted(groups.items(), reverse=True):
        guest = Guest(f"{'idle' if idle else 'busy'}, {rate} MiB/s", Load(memory, 1, stress), rate, idle)
        scenario = guest.scenario(SIMULATED[peer], parse_rate(write_rate) / PAGE_SIZE_BYTES, downtime)
        simulated_s = statistics.mean(_simulated_s(scenario, VARIANTS[by], seed) for seed in range(seeds))
        rows.append(Row(guest.name, peer, by, statistics.mean(values), simulated_s))
    click.echo(table(rows))


@dataclass(frozen=True)
class Row:
    """One guest on one QEMU: total times, live and simulated."""

    guest: str
    peer: str
    by: str
    live_s: float
    simulated_s: float


def _logged_pages_per_s(samples: Samples, peer: Peer, looks: int) -> float:
    """Measure how fast the payload writes pages that are logged, once each, as it does when a throttle is on.

    Per second of its processor time, which other processes change little.
    """
    with Lab() as lab:
        source, _, _ = peer.start_pair(lab, _CALIBRATION)
        for _ in range(looks):
            samples.add("logged_write_rate", _first_writes(source), "pages/s", peer=peer.name)
    return samples.median("logged_write_rate", peer=peer.name)


def _first_writes(source: VmProcess) -> float:
    [vcpu] = source.monitor.execute("query-cpus-fast")
    source.monitor.execute("calc-dirty-rate", {"calc-time": 1, "mode": "dirty-bitmap"})
    start, start_s = source.progress().written_pages, _thread_cpu_s(source, vcpu["thread-id"])
    time.sleep(_WINDOW_S)
    end, end_s = source.progress().written_pages, _thread_cpu_s(source, vcpu["thread-id"])
    while source.monitor.execute("query-dirty-rate")["status"] != "measured":
        time.sleep(_WINDOW_S)
    return (end - start) / (end_s - start_s)


def _populate_bytes_per_s(samples: Samples, peer: Peer, looks: int) -> float:
    """Measure how fast a destination takes pages that it has no memory for, as it does in every first pass.

    Per second of the processor time of the thread that receives them.
    """
    for _ in range(looks):
        warm_memory(2 * _CALIBRATION.memory_mib)
        with Lab() as lab:
            source, destination, uri = peer.start_pair(lab, _CALIBRATION)
            source.monitor.execute("stop")
            start_s = _thread_cpu_s(destination, destination.process.pid)
            result = require_completed(peer.migrate(source, uri, {"max-bandwidth": 0}, auto_converge=False))
            cpu_s = _thread_cpu_s(destination, destination.process.pid) - start_s
            samples.add("populate_rate", (result.last.sent_bytes or 0) / cpu_s, "B/s", peer=peer.name)
    return samples.median("populate_rate", peer=peer.name)


def _thread_cpu_s(vm: VmProcess, thread_id: int) -> float:
    return Scheduled.of(thread_id).ran_ns / NS_PER_S


def _measure_undisturbed(samples: Samples, peer: Peer, guest: Guest, downtime_ms: int, most_others: float) -> None:
    """Measure one run that counts."""
    for _ in range(_TRIES):
        how = _measure(samples, peer, guest, downtime_ms, most_others)
        cool_down()
        if how == "live":
            return
    raise click.ClickException(f"other processes keep this machine busy; '{guest.name}' was not measured")


def _measure(samples: Samples, peer: Peer, guest: Guest, downtime_ms: int, most_others: float) -> str:
    """Measure one run, and return how it was: live, or disturbed by other processes."""
    warm_memory(2 * guest.load.memory_mib)
    with Lab() as lab:
        source, destination, uri = peer.start_pair(lab, guest.load)
        if guest.idle:
            source.monitor.execute("stop")
        order = Order(uri=uri, variant=find_variant(VARIANT), parameters=guest.parameters(downtime_ms))
        clock, cancel = MonotonicClock(), CancelToken()
        watch = tell = lambda told: None
        others = OtherProcesses([os.getpid(), source.process.pid, destination.process.pid])
        result = require_completed(carry_out(Ports(source.monitor, clock, cancel, tell, tell), order, watch))
        used = others.processors()
        destination.check_memory()
    how = "live" if used <= most_others else "disturbed"
    what: dict[str, object] = {"peer": peer.name, "guest": guest.name, "how": how, "others": round(used, 2)}
    samples.add("total_time", (result.last.elapsed_ms or 0) / 1000, "s", **what)
    return how


class OtherProcesses:
    """How much of the machine processes use that are not ours, from now on."""

    def __init__(self, ours: list[int]) -> None:
        self._ours = ours
        self._start_s, self._start_cpu_s = time.monotonic(), self._cpu_s()

    def processors(self) -> float:
        """Return how many processors they have kept busy, on average."""
        return (self._cpu_s() - self._start_cpu_s) / (time.monotonic() - self._start_s)

    def _cpu_s(self) -> float:
        user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, _words("/proc/stat")[1:])
        ours = (sum(map(int, _words(f"/proc/{pid}/stat")[13:15])) for pid in self._ours)
        return (user + nice + system + irq + softirq + steal - sum(ours)) / os.sysconf("SC_CLK_TCK")


def _words(path: str) -> list[str]:
    return Path(path).read_text().partition("\n")[0].split()


def _simulated_s(experiment: Experiment, variant: str, seed: int = 0) -> float:
    result = simulate_driven(experiment, variant, seed)
    assert result.total_time_ms is not None
    return result.total_time_ms / 1000


def table(rows: Iterable[Row]) -> str:
    """Return rows as Markdown."""
    lines = ["| guest | QEMU | by | live | simulated | difference |", "|---|---|---|---|---|---|"]
    for row in rows:
        release = SIMULATED[row.peer].removeprefix("qemu-")
        times = f"{row.live_s:.1f} s | {row.simulated_s:.1f} s | {row.simulated_s / row.live_s - 1:+.0%}"
        lines.append(f"| {row.guest} | {release} | {row.by} | {times} |")
    return "\n".join(lines)


if __name__ == "__main__":
    bench()
