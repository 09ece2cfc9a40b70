"""Benchmark of one KVM guest by itself, without a migration: `python -m bench.guest --help`."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from bench.samples import Samples, recording
from vmferry.errors import GuestError
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.guests.payload import STRESS_ELF
from vmferry.guests.payload.invariants import PROGRESS_BYTES, PROGRESS_GPA, check_memory, read_progress
from vmferry.memory.bitmap import Bitmap
from vmferry.units import MIB


def written_pages(guest: KvmGuest) -> int:
    """Return how many pages the payload has written; 0 before it has started."""
    try:
        return read_progress(guest.physical_memory(PROGRESS_GPA, PROGRESS_BYTES)).written_pages
    except GuestError:
        return 0


def pages_per_s(guest: KvmGuest, duration_s: float) -> float:
    """Measure the running guest's speed."""
    start_s, start = time.monotonic(), written_pages(guest)
    time.sleep(duration_s)
    return (written_pages(guest) - start) / (time.monotonic() - start_s)


def milliseconds(action: Callable[[], object]) -> float:
    """Return how long `action` takes."""
    start_ns = time.monotonic_ns()
    action()
    return (time.monotonic_ns() - start_ns) / 1e6


@contextmanager
def busy_guest(memory_mib: int, vcpu_count: int, stress_mib: int) -> Iterator[KvmGuest]:
    """A running guest that has written all of its pages at least once."""
    with closing(KvmGuest(memory_mib * MIB, vcpu_count)) as guest:
        guest.boot(STRESS_ELF.read_bytes(), f"ramsize={stress_mib} cpus={vcpu_count}")
        guest.resume()
        while written_pages(guest) < stress_mib * 256:
            time.sleep(0.01)
        yield guest


def measure_throttle(samples: Samples, guest: KvmGuest, duration_s: float) -> None:
    """Speed, and what is left of it at several percentages."""
    full = pages_per_s(guest, duration_s)
    samples.add("speed", full, "pages/s")
    for percent in (20, 50, 90, 99):
        guest.set_throttle(percent)
        samples.add("work_left", 100 * pages_per_s(guest, duration_s) / full, "%", throttle_percent=percent)
    samples.add("pause_at_99_percent", milliseconds(guest.pause), "ms")
    guest.set_throttle(0)
    guest.resume()


def measure_dirty_log(samples: Samples, guest: KvmGuest, duration_s: float) -> None:
    """What starting the log and collecting it cost."""
    log = Bitmap(guest.layout.page_count)
    samples.add("start_dirty_log", milliseconds(guest.start_dirty_log), "ms")
    for _ in range(5):
        time.sleep(duration_s / 5)
        samples.add("collect_dirty", milliseconds(lambda: guest.collect_dirty(log)), "ms")
        samples.add("arm", milliseconds(lambda: guest.arm(log.runs())), "ms")
    guest.stop_dirty_log()


def measure_stopped(samples: Samples, guest: KvmGuest) -> None:
    """What is done while the guest is stopped."""
    for _ in range(100):
        samples.add("pause", milliseconds(guest.pause), "ms")
        guest.resume()
        time.sleep(0.002)
    guest.pause()
    samples.add("memory_digest", milliseconds(guest.memory_digest), "ms")
    samples.add("check_memory", milliseconds(lambda: check_memory(guest.view(0, guest.layout.page_count))), "ms")
    samples.add("save_state", milliseconds(guest.save_state), "ms")
    with closing(KvmGuest(guest.layout.size_bytes, guest.layout.vcpu_count)) as other:
        state = guest.save_state()
        samples.add("load_state", milliseconds(lambda: other.load_state(state)), "ms")
        samples.add("state", len(state), "bytes")


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--memory", default=1024, show_default=True, help="Guest memory in MiB.")
@click.option("--cpus", default=2, show_default=True, help="Number of vCPUs.")
@click.option("--stress", default=800, show_default=True, help="Memory rewritten for ever in MiB.")
@click.option("--duration", default=4.0, show_default=True, help="Seconds for each measurement of speed.")
def bench(output: Path | None, memory: int, cpus: int, stress: int, duration: float) -> None:
    """Measure a KVM guest: its speed, its throttle, its dirty log, stopping it, its state."""
    with recording(output) as samples, busy_guest(memory, cpus, stress) as guest:
        measure_throttle(samples, guest, duration)
        measure_dirty_log(samples, guest, duration)
        measure_stopped(samples, guest)


if __name__ == "__main__":
    bench()
