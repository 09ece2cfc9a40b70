"""Finds out how a guest writes before anything moves, and without throttling it: points of its dirty curve.

Windows of several lengths tell a small set that is rewritten fast from a flood (QEMU `migration/dirtyrate.c`). QEMU
before 8.2 measures whole seconds only, so of shorter times its curve is known from below.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.client.processes import PROC, Scheduled
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.sensors import DirtyRate, DirtyRateSensor
from vmferry.control.host.vcpu_threads import vcpu_threads
from vmferry.convergence.written import Written
from vmferry.errors import HostError, MonitorError
from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_MS, NS_PER_S, PAGE_SIZE_BYTES

WINDOWS_MS = (50, 100, 200, 400, 800, 1600)
WHOLE_SECONDS_MS = (1000, 2000, 3000)
SHORT_WINDOWS_MS, SHORT_WHOLE_SECONDS_MS = (50, 100, 200, 400), (1000,)
"""For who cannot wait: enough to begin with."""
_LOOK_NS, _NAP_NS = 10 * NS_PER_MS, 50 * NS_PER_MS
_GIVE_UP_NS = 5 * NS_PER_S
"""How much longer than its window a measurement is waited for."""
_KIB = 1024
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ (?P<may>\S+) \S+ \S+ (?P<inode>\d+)")
_HELD = ("RssAnon", "RssShmem", "HugetlbPages", "VmSwap")
"""Fields of a process' `status` (proc(5)) that count what it may hold of a guest: in memory of its own, shared, in huge
pages, and swapped out, which is read again to be sent."""
_FILES_OF_ITS_OWN_BYTES = 128 << 20
"""What a process may hold at the most of its program and libraries; if it holds more of files, that is a guest's."""
_QEMU_BYTES, _OURS_BYTES = 20 << 20, 32 << 20
"""What a process of each kind needs for itself: it holds that and 1 or 2 MiB beside an idle guest of one page."""


def written_at(rate: DirtyRate) -> Written:
    """Return what the guest has written in the window of a measurement."""
    window_s = rate.window_ns / NS_PER_S
    each = rate.each_bytes_per_s
    vcpu_bytes = tuple(round(bytes_per_s * window_s) for bytes_per_s in each) if each else None
    return Written(rate.window_ns, 1.0, round(rate.dirty_bytes_per_s * window_s), vcpu_bytes)


def measure_rates(
    monitor: Monitor,
    driven: DrivenVm,
    clock: Clock,
    cancel: CancelToken,
    windows_ms: Sequence[int] = WINDOWS_MS,
    whole_seconds_ms: Sequence[int] = WHOLE_SECONDS_MS,
) -> Iterator[DirtyRate]:
    """Yield the measurement of each window. Raises what `measure_rate` does."""
    for window_ms in windows_ms if measures_milliseconds(driven) else whole_seconds_ms:
        yield measure_rate(monitor, driven, clock, cancel, window_ms)


def measures_milliseconds(driven: DrivenVm) -> bool:
    """Tell whether windows need not be whole seconds."""
    return "calc-time-unit" in driven.schema.argument_types("calc-dirty-rate")


def measure_rate(monitor: Monitor, driven: DrivenVm, clock: Clock, cancel: CancelToken, window_ms: int) -> DirtyRate:
    """Return what a window of that length finds.

    Raises HostError if the VM cannot measure or somebody else does, MonitorError, and CancelledError.
    """
    sensor = DirtyRateSensor(monitor, driven, window_ms)
    if not sensor.start():
        raise HostError("somebody else is measuring the guest's dirty rate; try again when that is over")
    window_ns = window_ms * NS_PER_MS
    end_ns = clock.now_ns() + window_ns + _GIVE_UP_NS
    rest(clock, cancel, window_ns)  # to ask again and again would cost processor time, the VM's too
    while (rate := sensor.fetch()) is None:
        cancel.check()
        if clock.now_ns() > end_ns:
            raise HostError(f"a measurement of {window_ms} ms has not ended {_GIVE_UP_NS // NS_PER_S} s later")
        clock.sleep_ns(_LOOK_NS)
    return rate


def rest(clock: Clock, cancel: CancelToken, duration_ns: int) -> None:
    """Let so much time pass. Raises CancelledError."""
    end_ns = clock.now_ns() + duration_ns
    while (left_ns := end_ns - clock.now_ns()) > 0:
        cancel.check()
        clock.sleep_ns(min(left_ns, _NAP_NS))


class Busyness:
    """How busy a VM's vCPUs are from now on, and how long they wait for a processor of this host."""

    def __init__(self, monitor: Monitor, clock: Clock) -> None:
        self._monitor = monitor
        self._clock = clock
        self._start_ns, self._start = clock.now_ns(), _scheduled(monitor)

    def share(self) -> float | None:
        """Return the share of its CPU that the busiest has wanted, 0 to 1. None if they are not seen on this host."""
        passed_ns, now = self._clock.now_ns() - self._start_ns, _scheduled(self._monitor)
        if not (passed_ns and now) or now.keys() != self._start.keys():
            return None
        return min(1.0, max((now[thread].wanted_ns - self._start[thread].wanted_ns) / passed_ns for thread in now))

    def waited_ns(self) -> float | None:
        """Return for how long each has waited so far, in the mean; None if they are not seen on this host."""
        with suppress(OSError, ValueError):
            waits_ns = [Scheduled.of(thread).waited_ns for thread in self._start]
            return sum(waits_ns) / len(waits_ns) if waits_ns else None
        return None


def _scheduled(monitor: Monitor) -> dict[int, Scheduled]:
    """Return what each vCPU thread was given; none if nobody can tell."""
    try:
        return {thread.id: Scheduled.of(thread.id) for thread in vcpu_threads(monitor)}
    except (HostError, MonitorError, OSError, ValueError):
        return {}


def used_bytes(monitor: Monitor, driven: DrivenVm, size_bytes: int) -> int | None:
    """Return how much of its memory of that size a guest has touched: what the VM's process holds, less its own needs.

    None if the process is not seen on this host.
    """
    try:
        process = PROC / str(monitor.peer_pid)
        held_bytes = _held_bytes(process) - (0 if driven.kvm else _translated_bytes(process))
    except (HostError, MonitorError, OSError, ValueError):
        return None
    own_bytes = _OURS_BYTES if driven.converges_responsively else _QEMU_BYTES
    return min(size_bytes, max(PAGE_SIZE_BYTES, held_bytes - own_bytes))


def _held_bytes(process: Path) -> int:
    """Return what a process holds beside its program. Raises OSError and ValueError."""
    lines = (process / "status").read_text(errors="replace").splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)

    def field_bytes(name: str) -> int:
        return int(status.get(name, "0 kB").split()[0]) * _KIB

    return sum(map(field_bytes, _HELD)) + max(0, field_bytes("RssFile") - _FILES_OF_ITS_OWN_BYTES)


def _translated_bytes(process: Path) -> int:
    """Return what a QEMU without KVM holds of the code that it has made of a guest's: memory of no file that may be
    executed (proc(5), `smaps`). Raises OSError and ValueError."""
    held, of_code = 0, False
    for line in (process / "smaps").read_text(errors="replace").splitlines():
        if mapping := _MAPPING.match(line):
            of_code = "x" in mapping["may"] and mapping["inode"] == "0"
        elif of_code and line.startswith("Rss:"):
            held += int(line.split()[1]) * _KIB
    return held
