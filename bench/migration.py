"""Benchmarks of whole migrations, with stock QEMU in the same run: `python -m bench.migration --help`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from bench.delta import measure_delta
from bench.dripping import dripped_runs
from bench.memory_copy import copied_gb_per_s
from bench.page_path import measure_holes, measure_rearm, measure_sync
from bench.peers import RESPONSIVE, Load, Peer, cool_down, ours, qemus, rounds, warm_memory
from bench.samples import Samples, recording
from bench.tls import start_tls_pair
from vmferry.cancel import CancelToken
from vmferry.control.asking.result import require_completed
from vmferry.perf.comparisons import SEED_VARIANTS
from vmferry.perf.demo import demo_experiment, run_demo
from vmferry.perf.lab import Lab, VmProcess
from vmferry.simulation.run import simulate
from vmferry.units import MIB, PAGE_SIZE_BYTES


def ratios(samples: Samples, name: str, first: str, peers: list[Peer]) -> None:
    """Print how the median of `first` compares with those of the others."""
    for peer in peers:
        if peer.name != first:
            ratio = samples.median(name, peer=first) / samples.median(name, peer=peer.name)
            click.echo(f"{name}: {first} / {peer.name} = {ratio:.2f}", err=True)


@click.group()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--qemu10", help="Path of a QEMU 10, see bench/get-qemu10.sh.")
@click.option("--runs", default=3, show_default=True, help="Runs of each peer.")
@click.pass_context
def bench(context: click.Context, /, output: Path | None, qemu10: str | None, runs: int) -> None:
    """Measure migrations of real KVM guests."""
    context.obj = (output, qemu10, runs)


def benchmark(measure: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function that takes the samples, the path of QEMU 10, and the number of runs."""

    @click.pass_obj
    def run(settings: tuple[Path | None, str | None, int], /, **options: object) -> None:
        output, qemu10, runs = settings
        with recording(output) as samples:
            measure(samples, qemu10, runs, **options)

    run.__name__, run.__doc__ = measure.__name__, measure.__doc__
    return run


@bench.command()
@click.option("--memory", default=256, show_default=True, help="Guest memory in MiB.")
@click.option("--stress", default=128, show_default=True, help="Memory rewritten for ever in MiB.")
@benchmark
def demo(samples: Samples, qemu10: str | None, runs: int, *, memory: int, stress: int) -> None:
    """The demo's runs, and each of them simulated with the speed that its guest had."""
    experiment = demo_experiment(memory * MIB, stress * MIB)
    for _ in range(runs):
        for run in run_demo(experiment, lambda variant, progress: None, lambda variant, text: None):
            rate = round(run.pages_per_s_before * PAGE_SIZE_BYTES)
            simulated = simulate(experiment.with_settings({"load.write-rate": str(rate)}), run.variant)
            samples.add("total_time", (run.total_time_ms or 0) / 1000, "s", variant=run.variant, kind="live")
            samples.add("total_time", (simulated.total_time_ms or 0) / 1000, "s", variant=run.variant, kind="simulated")
    for variant in SEED_VARIANTS:
        live, first = (samples.median("total_time", kind="live", variant=name) for name in (variant, SEED_VARIANTS[0]))
        simulated_s = samples.median("total_time", kind="simulated", variant=variant)
        click.echo(f"{variant}: {live / first:.2f} of original, simulated {simulated_s / live - 1:+.1%}", err=True)


@bench.command()
@click.option("--memory", default=1024, show_default=True, help="Guest memory in MiB.")
@click.option("--stress", default=800, show_default=True, help="Memory rewritten for ever in MiB.")
@click.option("--rate", default=60, show_default=True, help="Link in MiB/s.")
@click.option("--downtime", default=500, show_default=True, help="Downtime limit in ms.")
@benchmark
def converge(
    samples: Samples, qemu10: str | None, runs: int, *, memory: int, stress: int, rate: int, downtime: int
) -> None:
    """Total time of a busy guest with real time constants: our variants and QEMU's auto-converge."""
    load = Load(memory, 2, stress)
    first = ours(RESPONSIVE)
    peers = [first, ours("background-sync"), *qemus(qemu10)]
    for _, peer in rounds(peers, runs):
        with Lab() as lab:
            source, destination, uri = peer.start_pair(lab, load)
            parameters = {"max-bandwidth": rate * MIB, "downtime-limit": downtime}
            result = require_completed(peer.migrate(source, uri, parameters))
            destination.check_memory()
        settings = {"peer": peer.name, "stress_mib": stress, "rate_mib_per_s": rate}
        samples.add("total_time", (result.last.elapsed_ms or 0) / 1000, "s", **settings)
        samples.add("downtime", result.last.downtime_ms or 0, "ms", **settings)
        samples.add("iterations", result.last.iteration_count or 0, "", **settings)
        samples.add("max_throttle", result.max_throttle_percent or 0, "%", **settings)
    ratios(samples, "total_time", first.name, peers)


@bench.command()
@click.option("--memory", default=256, show_default=True, help="Guest memory in MiB.")
@click.option("--stress", default=100, show_default=True, help="Memory rewritten for ever in MiB.")
@click.option("--rate", default=60, show_default=True, help="Link in MiB/s.")
@benchmark
def downtime(samples: Samples, qemu10: str | None, runs: int, *, memory: int, stress: int, rate: int) -> None:
    """Downtime of a busy guest at a limit of 500 ms."""
    peer = ours(RESPONSIVE)
    for _, _ in rounds([peer], runs):
        with Lab() as lab:
            source, _, uri = peer.start_pair(lab, Load(memory, 2, stress))
            parameters = {"max-bandwidth": rate * MIB, "downtime-limit": 500}
            result = require_completed(peer.migrate(source, uri, parameters))
        samples.add("downtime", result.last.downtime_ms or 0, "ms", stress_mib=stress, rate_mib_per_s=rate)
        for part, part_ms in (result.last.downtime_parts_ms or {}).items():
            samples.add(f"downtime_{part}", part_ms, "ms", stress_mib=stress, rate_mib_per_s=rate)


@bench.command()
@click.option("--memory", default=1024, show_default=True, help="Guest memory in MiB, most of it written.")
@benchmark
def verify(samples: Samples, qemu10: str | None, runs: int, *, memory: int) -> None:
    """Downtime at a limit of 300 ms of a guest that is paused, without verification, with it, and by default."""
    peer = ours("original")
    modes = {"never": (False, False), "always": (True, False), "default": (False, True)}
    for _ in range(runs):
        for mode, (verify, auto_verify) in modes.items():
            with Lab() as lab:
                source, _, uri = peer.start_pair(lab, Load(memory, 2, memory - 64))
                source.monitor.execute("stop")
                parameters = {"max-bandwidth": 0, "verify": verify, "auto-verify": auto_verify}
                result = require_completed(peer.migrate(source, uri, parameters))
                verified = source.monitor.execute("query-migrate")["verified"]
            samples.add("downtime", result.last.downtime_ms or 0, "ms", mode=mode, memory_mib=memory)
            samples.add("verified", int(verified), "", mode=mode, memory_mib=memory)
            cool_down()


@bench.command()
@click.option("--count", default=100, show_default=True, help="Migrations in each run.")
@click.option("--timeout", default=1000, show_default=True, help="switchover-timeout in ms.")
@benchmark
def drip(samples: Samples, qemu10: str | None, runs: int, *, count: int, timeout: int) -> None:
    """How long a guest is stopped by a connection that drips from some byte before COMMIT on."""
    for run in dripped_runs(ours("original"), runs * count, timeout):
        samples.add("stopped", run.stopped_ns / 1e6, "ms", timeout_ms=timeout, frame=run.place.frame)
    stopped_ms = [sample.value for sample in samples.samples]
    held = sum(value > 0 for value in stopped_ms)
    in_time = sum(value <= 2 * timeout for value in stopped_ms)
    click.echo(
        f"stopped for at most twice the timeout: {in_time} of {len(stopped_ms)}, {held} of them were stopped at all; "
        f"longest {max(stopped_ms):.0f} ms",
        err=True,
    )


@bench.command()
@click.option("--memory", default=2048, show_default=True, help="Non-zero guest memory in MiB.")
@click.option("--channels", default="0,2,4", show_default=True, help="multifd-channels to measure; 0 for no multifd.")
@click.option("--prealloc", is_flag=True, help="All have their memory before anything moves.")
@benchmark
def throughput(samples: Samples, qemu10: str | None, runs: int, *, memory: int, channels: str, prealloc: bool) -> None:
    """Unlimited loopback, guest paused, over each number of channels."""
    first = ours("original")
    counts = [int(count) for count in channels.split(",")]
    peers = [first, *qemus(qemu10)]
    variants = [replace(peer, channels=count, prealloc=prealloc) for peer in peers for count in counts]
    for _, peer in rounds(variants, runs):
        with Lab() as lab:
            source, _, uri = peer.start_pair(lab, Load(memory + 64, 2, memory))
            source.monitor.execute("stop")
            warm_memory(memory + 64)
            result = require_completed(peer.migrate(source, uri, {"max-bandwidth": 0}, auto_converge=False))
        gb_per_s = (result.last.sent_bytes or 0) / (result.last.elapsed_ms or 1) / 1e6
        samples.add(
            "throughput", gb_per_s, "GB/s",
            peer=peer.name, channels=peer.channels, prealloc=prealloc, memory_mib=memory,
        )  # fmt: skip
        samples.add("memory_copy", copied_gb_per_s(present=prealloc), "GB/s", present=prealloc)
    best = {
        peer.name: max(samples.median("throughput", peer=peer.name, channels=count) for count in counts)
        for peer in peers
    }
    for name, gb_per_s in best.items():
        click.echo(f"throughput: best of {first.name} / best of {name} = {best[first.name] / gb_per_s:.2f}", err=True)
    share = best[first.name] / samples.median("memory_copy")
    click.echo(f"throughput: best of {first.name} / one thread that copies memory = {share:.2f}", err=True)


@bench.command()
@click.option("--stress", default=64, show_default=True, help="Filled memory in MiB; filling takes 10 s for each 16.")
@click.option("--rate", default=60, show_default=True, help="Link in MiB/s.")
@click.option("--channels", default=0, show_default=True, help="multifd-channels; 0 for no multifd.")
@benchmark
def compress(samples: Samples, qemu10: str | None, runs: int, *, stress: int, rate: int, channels: int) -> None:
    """Total time of a paused guest whose pages shrink to a third, or not at all: plain, zstd and auto."""
    peer = replace(ours("original"), channels=channels)
    contents = {"ratio 3": 33, "incompressible": 100}
    for _ in range(runs):
        for content, percent in contents.items():
            for how in ("none", "zstd", "auto"):
                with Lab() as lab:
                    source, _, uri = peer.start_pair(lab, Load(stress + 64, 2, stress, f"fill={percent}"))
                    source.monitor.execute("stop")
                    parameters = {"max-bandwidth": rate * MIB, "downtime-limit": 20, "multifd-compression": how}
                    result = require_completed(peer.migrate(source, uri, parameters, auto_converge=False))
                samples.add(
                    "total_time", (result.last.elapsed_ms or 0) / 1000, "s",
                    content=content, compression=how, stress_mib=stress, rate_mib_per_s=rate, channels=channels,
                )  # fmt: skip
                cool_down()
    for content in contents:
        plain, *others = (
            samples.median("total_time", content=content, compression=how) for how in ("none", "zstd", "auto")
        )
        for how, seconds in zip(("zstd", "auto"), others, strict=True):
            click.echo(f"total time, {content}: {how} / plain = {seconds / plain:.2f}", err=True)


@bench.command()
@click.option("--memory", default=2048, show_default=True, help="Non-zero guest memory in MiB.")
@click.option("--channels", default=0, show_default=True, help="multifd-channels of all; 0 for no multifd.")
@click.option("--prealloc", is_flag=True, help="All have their memory before anything moves.")
@benchmark
def tls(samples: Samples, qemu10: str | None, runs: int, *, memory: int, channels: int, prealloc: bool) -> None:
    """Unlimited loopback with TLS 1.3 and certificates on both sides, guest paused."""
    first = ours("original")
    peers = [first, *qemus(qemu10)]
    for _, peer in rounds(peers, runs):
        with Lab() as lab:
            source, _, uri = start_tls_pair(
                peer, lab, Load(memory + 64, 2, memory), channels=channels, prealloc=prealloc
            )
            source.monitor.execute("stop")
            warm_memory(memory + 64)
            result = require_completed(peer.migrate(source, uri, {"max-bandwidth": 0}, auto_converge=False))
        gb_per_s = (result.last.sent_bytes or 0) / (result.last.elapsed_ms or 1) / 1e6
        settings = {"memory_mib": memory, "channels": channels, "prealloc": prealloc}
        samples.add("tls_throughput", gb_per_s, "GB/s", peer=peer.name, **settings)
    ratios(samples, "tls_throughput", first.name, peers)


@bench.command()
@benchmark
def logging(samples: Samples, qemu10: str | None, runs: int) -> None:
    """Guest speed while dirty logging is on but nothing is throttled, as a share of its speed before."""
    peers = [ours("original"), *qemus(qemu10)]
    for _, peer in rounds(peers, runs):
        with Lab() as lab:
            source, _, uri = peer.start_pair(lab, Load(512, 2, 256))
            before = source.pages_per_s(3)
            set_rate = {"max-bandwidth": 20 * MIB}
            speeds: list[float] = []
            cancel = CancelToken()

            def measure(
                progress: object,
                source: VmProcess = source,
                speeds: list[float] = speeds,
                cancel: CancelToken = cancel,
            ) -> None:
                if len(speeds) < 5:
                    speeds.append(source.pages_per_s(2))
                else:
                    cancel.set("enough was measured")

            peer.migrate(source, uri, set_rate, auto_converge=False, watch=measure, cancel=cancel)
        share = sum(speeds[1:]) / len(speeds[1:]) / before
        samples.add("speed_while_logging", share, "of full speed", peer=peer.name)


@bench.command()
@benchmark
def memory(samples: Samples, qemu10: str | None, runs: int) -> None:
    """Memory of a VM process beside guest RAM, after a migration of 1 GiB."""
    peer = ours(RESPONSIVE)
    for _, _ in rounds([peer], runs):
        with Lab() as lab:
            source, destination, uri = peer.start_pair(lab, Load(1024, 2, 800))
            source.monitor.execute("stop")
            require_completed(peer.migrate(source, uri, {"max-bandwidth": 0}))
            for vm in (source, destination):
                samples.add("process_memory", _own_memory_mib(vm.process.pid, 1024 * MIB), "MiB", side=vm.name)


@bench.command()
@click.option("--rate", default=60, show_default=True, help="Link in MiB/s.")
@click.option("--stress", default=100, show_default=True, help="Memory written to at random in MiB.")
@click.option("--share", "shares", multiple=True, default=(0.6, 0.9), show_default=True, help="Of the link's rate.")
@click.option("--time-scale", default=4, show_default=True, help="Divides the downtime limit and constants of time.")
@benchmark
def rearm(
    samples: Samples, qemu10: str | None, runs: int,
    *, rate: int, stress: int, shares: tuple[float, ...], time_scale: int,
) -> None:  # fmt: skip
    """Bytes sent and work lost of random writers: pages armed just before they are sent, or early, at every sync.

    Whether a page is written between a sync and its own sending hangs on how long passes are beside the time from one
    write of a page to the next, and what is decided on them, on how long they are beside the constants of time. So a
    guest of a quarter of 400 MiB, with all of these times divided by four, is asked the same: both pass as often over
    their memory, page for page the same happens, in a quarter of the time.
    """
    measure_rearm(samples, runs, rate_mib=rate, stress_mib=stress, shares=shares, time_scale=time_scale)


@bench.command()
@click.option("--rate", default=60, show_default=True, help="Link in MiB/s.")
@click.option("--stress", default=64, show_default=True, help="Memory rewritten for ever in MiB.")
@click.option("--share", default=2.0, show_default=True, help="What the guest writes, in pages, to the link's rate.")
@benchmark
def delta(samples: Samples, qemu10: str | None, runs: int, *, rate: int, stress: int, share: float) -> None:
    """Bytes, time, work lost and downtime of busy guests: whole pages, or only what changed of them (xbzrle)."""
    measure_delta(samples, runs, rate_mib=rate, stress_mib=stress, share=share)


@bench.command()
@click.option("--memory", default=100 << 10, show_default=True, help="Guest memory in MiB, most of it never touched.")
@click.option("--touched", default=1024, show_default=True, help="What the paused guest has touched in MiB.")
@click.option("--stress", default=500, show_default=True, help="Memory rewritten for ever in MiB.")
@benchmark
def holes(samples: Samples, qemu10: str | None, runs: int, *, memory: int, touched: int, stress: int) -> None:
    """Total time and resident memory of a guest that has touched little: paused, and busy."""
    peers = [ours("original"), *qemus(qemu10)]
    measure_holes(samples, peers, runs, memory_mib=memory, touched_mib=touched, stress_mib=stress)
    ratios(samples, "busy_total_time", peers[0].name, peers)


@bench.command()
@click.option("--memory", default=100 << 10, show_default=True, help="Guest memory in MiB, most of it never touched.")
@click.option("--dirty", default=1 << 10, show_default=True, help="Memory rewritten for ever in MiB.")
@benchmark
def sync(samples: Samples, qemu10: str | None, runs: int, *, memory: int, dirty: int) -> None:
    """Processor time of dirty syncs of a large guest, and the share of sending that arming takes."""
    measure_sync(samples, runs, memory_mib=memory, dirty_mib=dirty)


def _own_memory_mib(pid: int, guest_bytes: int) -> float:
    """Resident memory of all mappings but the guest's RAM, which may be part of a larger mapping."""
    total_kib = guest_kib = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            start, _, end = first.partition("-")
            is_guest = int(end, 16) - int(start, 16) >= guest_bytes
        elif first == "Rss:":
            total_kib += int(rest[0])
            guest_kib += int(rest[0]) * is_guest
    return (total_kib - guest_kib) / 1024


if __name__ == "__main__":
    bench()
