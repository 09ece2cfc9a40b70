"""Benchmarks of stock QEMU driven from outside, beside its own auto-converge: `python -m bench.qemu --help`."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from bench.peers import Load, Peer, cool_down, qemus
from bench.samples import Samples, recording
from vmferry.cancel import CancelToken
from vmferry.clock import MonotonicClock
from vmferry.control.asking.progress import Progress
from vmferry.control.host.cgroup import find_hierarchy, group_of
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.convergence.variants import find_variant
from vmferry.perf.lab import Lab, VmProcess
from vmferry.units import MIB

RESPONSIVE = "background-sync+responsive-throttle"
VARIANTS = {"driven": RESPONSIVE, "own": "original"}
"""By whom the decisions are made."""


@click.group()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--qemu10", help="Path of a QEMU 10, see bench/get-qemu10.sh.")
@click.option("--runs", default=5, show_default=True, help="Runs of each kind.")
@click.option("--memory", default=1024, show_default=True, help="Guest memory in MiB.")
@click.option("--cpus", default=1, show_default=True, help="vCPUs of the guest.")
@click.option("--stress", default=800, show_default=True, help="Memory rewritten for ever in MiB.")
@click.option("--downtime", default=500, show_default=True, help="Downtime limit in ms.")
@click.pass_context
def bench(
    context: click.Context,
    /,
    output: Path | None,
    qemu10: str | None,
    runs: int,
    memory: int,
    cpus: int,
    stress: int,
    downtime: int,
) -> None:
    """Drive QEMU's VMs from outside, and compare."""
    context.obj = (output, qemus(qemu10), runs, Load(memory, cpus, stress), downtime)


@bench.command()
@click.option("--rate", "rates", multiple=True, default=(200,), show_default=True, help="Link in MiB/s; repeatable.")
@click.option("--max-time", default=600, show_default=True, help="Give up after so many seconds, and count those.")
@click.option("--idle", is_flag=True, help="With a guest that is stopped.")
@click.pass_obj
def pairs(
    settings: tuple[Path | None, list[Peer], int, Load, int], /, rates: tuple[int, ...], max_time: int, idle: bool
) -> None:
    """Total time, guest work lost and the driver's cost: by us, and by QEMU's auto-converge."""
    output, peers, runs, load, downtime = settings
    order = random.Random(1)
    with recording(output) as samples:
        for _ in range(runs):
            for peer, rate in [(peer, rate) for peer in peers for rate in rates]:
                for by in order.sample(list(VARIANTS), 2):
                    parameters: dict[str, object] = {"max-bandwidth": rate * MIB, "downtime-limit": downtime}
                    what: dict[str, object] = {"peer": peer.name, "rate_mib_per_s": rate, "idle": idle}
                    what |= {"by": by, "cpus": load.vcpu_count}
                    measure(samples, peer, load, VARIANTS[by], parameters, max_time, what)
                    cool_down()
        for peer, rate in [(peer, rate) for peer in peers for rate in rates]:
            for name in ("total_time",) if idle else ("total_time", "work_lost"):
                driven, own = (
                    samples.median(name, by=by, peer=peer.name, rate_mib_per_s=rate) for by in ("driven", "own")
                )
                ratio = driven / own if own > 0 else float("nan")
                click.echo(f"{peer.name}, {rate} MiB/s: {name} driven / own = {ratio:.2f}", err=True)


def measure(
    samples: Samples,
    peer: Peer,
    load: Load,
    variant: str,
    parameters: dict[str, object],
    max_time: int,
    what: dict[str, object],
) -> None:
    """Move a warm guest by a variant, and record what that came to.

    `elapsed` has in it what was measured before the migration began; `work_lost` is by the guest's own counters.
    """
    with Lab() as lab:
        source, destination, uri = peer.start_pair(lab, load)
        full = source.pages_per_s(2)
        if what.get("idle"):
            source.monitor.execute("stop")
        order = Order(uri=uri, variant=find_variant(variant), parameters=parameters)
        written, start_s, start_cpu_s = source.progress().written_pages, time.monotonic(), time.process_time()
        cancel = CancelToken()
        watch = _until(max_time, cancel)
        ports = Ports(source.monitor, MonotonicClock(), cancel, lambda text: None, lambda text: None)
        result = carry_out(ports, order, watch)
        elapsed_s, cpu_s = time.monotonic() - start_s, time.process_time() - start_cpu_s
        done = (source.progress().written_pages - written) / full
        destination.check_memory()
    what = what | {"completed": result.completed}
    samples.add("total_time", (result.last.elapsed_ms or 0) / 1000 if result.completed else elapsed_s, "s", **what)
    samples.add("elapsed", elapsed_s, "s", **what)
    samples.add("max_throttle", result.max_throttle_percent or 0, "%", **what)
    samples.add("driver_cpu", 100 * cpu_s / elapsed_s, "% of a core", **what)
    if result.completed:
        samples.add("downtime", result.last.downtime_ms or 0, "ms", **what)
    if not what.get("idle"):
        samples.add("work_lost", (elapsed_s - done) * load.vcpu_count, "vCPU-s", **what)


def _until(max_time: int, cancel: CancelToken) -> Callable[[Progress], None]:
    """Return a watcher that cancels a migration that takes too long."""

    def watch(progress: Progress) -> None:
        if (progress.elapsed_ms or 0) > max_time * 1000 and progress.status == "active":
            cancel.set("it takes too long")

    return watch


@bench.command()
@click.option("--kills", default=100, show_default=True, help="How often to kill the driver.")
@click.option("--seconds", default=8.0, show_default=True, help="Longest time to let it work.")
@click.pass_obj
def kills(settings: tuple[Path | None, list[Peer], int, Load, int], /, kills: int, seconds: float) -> None:
    """Kill the driver at random moments of a migration that never ends; how long until the guest runs freely."""
    output, (peer, *_), _, load, _ = settings
    moments = random.Random(1)
    with recording(output) as samples, Lab() as lab:
        source, _, uri = peer.start_pair(lab, load)
        threads = [vcpu["thread-id"] for vcpu in source.monitor.execute("query-cpus-fast")]
        endless = {"max-bandwidth": load.stress_mib * MIB // 4, "downtime-limit": 1}
        source.monitor.execute("migrate-set-parameters", endless)
        source.monitor.execute("migrate", {"uri": uri})
        source.monitor.close()
        for _ in range(kills):
            with _driver(lab, source) as driver:
                time.sleep(moments.uniform(0, seconds))
                was_away = away(threads)
                driver.kill()
                start_s = time.monotonic()
                while away(threads):
                    if time.monotonic() - start_s > 60:
                        raise SystemExit("the threads are still slowed after 60 s")
                    time.sleep(0.001)
                samples.add("time_to_undo", 1000 * (time.monotonic() - start_s), "ms", throttled=was_away)
            assert source.process.poll() is None, "QEMU died"


def _driver(lab: Lab, source: VmProcess) -> subprocess.Popen[bytes]:
    words = ["migrate", "--qmp", f"unix:{lab.directory / source.name}.qmp", "--attach", "--variant", RESPONSIVE]
    command = [sys.executable, "-m", "vmferry", *words, "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def away(threads: list[int]) -> bool:
    """True if a vCPU thread, or a group made for one, is not as it was."""
    groups = [group_of(thread, find_hierarchy()) for thread in threads]
    return any(
        group.name.startswith("vmferry-") or (group / f"vmferry-{thread}").exists()
        for group, thread in zip(groups, threads, strict=True)
    )


if __name__ == "__main__":
    bench()
