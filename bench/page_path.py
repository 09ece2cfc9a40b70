"""Which pages are sent: armed early or late, and none that was never touched. `bench.migration` has the commands."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click

from bench.guest import busy_guest, written_pages
from bench.peers import RESPONSIVE, Load, Peer, moved, ours, rounds
from bench.samples import Samples
from vmferry.control.asking.result import require_completed
from vmferry.convergence.watcher import BackgroundSync
from vmferry.experiment.experiment import scaled_times
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.migration.early_pages import EarlyPages
from vmferry.migration.ram import RamState
from vmferry.perf.lab import Lab, VmProcess
from vmferry.settings.choices import Rearm
from vmferry.study.compare import compare
from vmferry.transport.stream import StreamChannel
from vmferry.units import MIB
from vmferry.wire.messages import Pages

PAGES_PER_MIB = 256
MODES = ("early", "late")
_REARM_DOWNTIME_MS = 100


def random_writer(share: float, rate_mib: int, stress_mib: int) -> Load:
    """Return a guest whose two vCPUs write that share of what the link carries, to pages picked by chance."""
    pace = round(share * rate_mib * PAGES_PER_MIB)
    return Load(stress_mib + 64, 2, stress_mib, f"pattern=uniform pace={pace}")


def measure_rearm(
    samples: Samples, runs: int, *, rate_mib: int, stress_mib: int, shares: Iterable[float], time_scale: int
) -> None:
    """Migrate random writers with pages armed early and late, with the throttle and without."""
    peers = [replace(ours(RESPONSIVE), name=mode) for mode in MODES]
    for share in shares:
        load = random_writer(share, rate_mib, stress_mib)
        for auto_converge in (False, True):
            settings = {
                "share": share, "auto_converge": auto_converge,
                "rate_mib_per_s": rate_mib, "stress_mib": stress_mib, "time_scale": time_scale,
            }  # fmt: skip
            for _, peer in rounds(peers, runs):
                for name, (value, unit) in rearmed(peer, load, rate_mib, auto_converge, time_scale).items():
                    samples.add(name, value, unit, rearm=peer.name, **settings)
            for name in ("sent", "work_lost"):
                tell_difference(samples, name, settings)


def rearmed(
    peer: Peer, load: Load, rate_mib: int, auto_converge: bool, time_scale: int
) -> dict[str, tuple[float, str]]:
    """Return the figures of one migration."""
    parameters = {
        "max-bandwidth": rate_mib * MIB,
        "downtime-limit": _REARM_DOWNTIME_MS // time_scale,
        "x-dirty-log-rearm": peer.name,
        **scaled_times(time_scale),
    }
    outcome = moved(peer, load, parameters, auto_converge=auto_converge)
    return {
        "sent": ((outcome.sent_bytes or 0) / MIB, "MiB"),
        "work_lost": (outcome.work_lost_vcpu_s or 0.0, "vCPU-s"),
        "total_time": ((outcome.total_time_ms or 0) / 1000, "s"),
    }


def tell_difference(samples: Samples, name: str, settings: Mapping[str, object]) -> None:
    early, late = (samples.values(name, rearm=mode, **settings) for mode in MODES)
    change = sum(late) / sum(early) - 1 if sum(early) else 0.0
    told = ", ".join(f"{key}={value}" for key, value in settings.items())
    click.echo(f"{name}, {told}: late / early {change:+.0%}, p = {compare(early, late).p:.3f}", err=True)


def measure_holes(
    samples: Samples, peers: list[Peer], runs: int, *, memory_mib: int, touched_mib: int, stress_mib: int
) -> None:
    """Migrate a guest that has touched little of its memory: paused, with a small one to compare, and busy."""
    for _, peer in rounds([peers[0]], runs):
        for size_mib in (memory_mib, touched_mib + 64):
            total_s, vms = moved_holes(peer, Load(size_mib, 2, touched_mib), stopped=True)
            samples.add("paused_total_time", total_s, "s", peer=peer.name, memory_mib=size_mib)
            for side, resident in vms.items():
                samples.add("paused_resident", resident, "MiB", peer=peer.name, memory_mib=size_mib, side=side)
    for _, peer in rounds(peers, runs):
        total_s, vms = moved_holes(peer, Load(memory_mib, 2, stress_mib), stopped=False)
        samples.add("busy_total_time", total_s, "s", peer=peer.name, memory_mib=memory_mib)
        for side, resident in vms.items():
            samples.add("busy_resident_beside", resident - stress_mib, "MiB", peer=peer.name, side=side)


def moved_holes(peer: Peer, load: Load, *, stopped: bool) -> tuple[float, dict[str, float]]:
    """Return the total time in seconds, and the resident memory of each process afterwards in MiB."""
    with Lab() as lab:
        source, destination, uri = peer.start_pair(lab, load)
        if stopped:
            source.monitor.execute("stop")
        result = require_completed(peer.migrate(source, uri, {"max-bandwidth": 0, "downtime-limit": 300}))
        resident = {vm.name: resident_mib(vm) for vm in (source, destination)}
    return (result.last.elapsed_ms or 0) / 1000, resident


def resident_mib(vm: VmProcess) -> float:
    status = Path(f"/proc/{vm.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def measure_sync(samples: Samples, runs: int, *, memory_mib: int, dirty_mib: int) -> None:
    """Sync and send a large guest, and tell what its dirty log takes of the sending thread's processor time."""
    with busy_guest(memory_mib, 2, dirty_mib) as guest, closing(Drain(guest)) as drain:
        guest.start_dirty_log()
        ram = RamState(guest, BackgroundSync.PRESERVE, EarlyPages.of(guest.layout.page_count, Rearm.LATE))
        guest.arm = arming = Stopwatch(guest.arm)  # type: ignore[assignment]
        watches = {"background_sync": Stopwatch(ram.background_sync), "iteration_sync": Stopwatch(ram.iteration_sync)}
        for _ in range(runs):
            for name, watch in watches.items():
                wait_for_writes(guest, dirty_mib)
                samples.add(name, watch() / 1e6, "ms", memory_mib=memory_mib, dirty_mib=dirty_mib)
            arming.total_ns = 0
            sending_ns = Stopwatch(drain.take_all)(ram)
            samples.add("arming_share", 100 * arming.total_ns / sending_ns, "%", memory_mib=memory_mib)


class Stopwatch:
    """Makes a call and returns how much processor time of this thread it took, whatever else the host did."""

    def __init__(self, call: Callable[..., object]) -> None:
        self.total_ns = 0
        self._call = call

    def __call__(self, *arguments: object) -> int:
        start_ns = time.thread_time_ns()
        self._call(*arguments)
        took_ns = time.thread_time_ns() - start_ns
        self.total_ns += took_ns
        return took_ns


class Drain:
    """A channel to nowhere: a process that reads what is sent."""

    def __init__(self, guest: KvmGuest) -> None:
        here, there = socket.socketpair()
        with there:
            self._reader = subprocess.Popen(["cat"], stdin=there.fileno(), stdout=subprocess.DEVNULL)
        self._guest = guest
        self._channel = StreamChannel(here, guest)

    def take_all(self, ram: RamState) -> None:
        """Send all that is to be sent, as a migration does."""
        while ram.remaining_pages:
            pages = ram.take(self._channel.max_batch_pages)
            data, zero = pages.split(self._guest.zero_pages(pages))
            self._channel.send(Pages(data, zero), lambda: None)

    def close(self) -> None:
        """End the process."""
        self._channel.close()
        self._reader.wait()


def wait_for_writes(guest: KvmGuest, dirty_mib: int) -> None:
    """Wait until the guest has gone over its memory once more."""
    enough_pages = written_pages(guest) + dirty_mib * PAGES_PER_MIB
    while written_pages(guest) < enough_pages:
        time.sleep(0.01)
