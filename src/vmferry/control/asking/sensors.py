"""Measures from outside how fast a guest dirties its memory: QEMU's `calc-dirty-rate` as the background sync.

Each mode has its blind spot (QEMU `migration/dirtyrate.c`):

- `dirty-ring` and `dirty-bitmap` count the pages that were written, each once in a measurement, by the log that
  a migration uses too; QEMU refuses the first without a dirty ring and the second with one.
- `page-sampling` hashes some pages before and after, so it does not see a page that was written with what it
  had held, nor blocks below 128 MiB. It is used if the other two are refused, and then the migration's own
  figure, which it learns once per iteration, tells how much too low the samples are. QEMU takes 512 pages of a
  GiB, so of a small guest one page more or less would be 2 MiB: of such, more are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmferry.client.monitor import Monitor
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.guest_memory import memory_bytes
from vmferry.errors import CommandError, HostError, MonitorError, UsageError
from vmferry.units import GIB, MIB, NS_PER_MS

WINDOW_MS = 1000
"""How long a measurement lasts by default.

A shorter one makes a small set of hot pages look like a guest that does not converge: of what is written
again and again, a window sees each page once.
"""

MIN_WINDOW_MS, MAX_WINDOW_MS = 50, 60_000
"""The shortest and the longest window that QEMU accepts."""

MODES = ("dirty-ring", "dirty-bitmap", "page-sampling")
"""The modes, in order of preference."""

MODES_WITHOUT_KVM = ("page-sampling",)
"""QEMU 7.2 crashes if it is asked for one of the others without KVM, and QEMU 10 then measures 0."""

_EMULATING_KVM = Path("/sys/module/kvm_pvm")
"""A KVM that needs no hardware for it, and loses count of a ring that is full: its vCPU never runs again."""

_MAX_CORRECTION = 8.0
_SAMPLES = 16_384
"""How many pages are sampled in all, as far as QEMU takes so many: each is hashed twice."""
_LEAST_PER_GIB, _MOST_PER_GIB = 512, 16_384
"""QEMU's default, and its most."""


@dataclass(frozen=True)
class DirtyRate:
    """What a measurement found."""

    dirty_bytes_per_s: int
    vcpu_bytes_per_s: dict[int, int]
    """The rate of each vCPU; empty if the mode cannot tell."""
    window_ns: int = WINDOW_MS * NS_PER_MS
    """How long it lasted."""
    mode: str = MODES[0]

    @property
    def each_bytes_per_s(self) -> tuple[float, ...] | None:
        """The rates of all vCPUs in order; None if the mode cannot tell."""
        rates = self.vcpu_bytes_per_s
        if not rates or rates.keys() != set(range(len(rates))):
            return None
        return tuple(float(rates[number]) for number in range(len(rates)))


class DirtyRateSensor:
    """Starts measurements and fetches what they found. One at a time, as QEMU allows."""

    def __init__(self, monitor: Monitor, driven: DrivenVm, window_ms: int = WINDOW_MS) -> None:
        """Find the modes there are. QEMU before 8.2 measures whole seconds.

        Raises HostError if the VM cannot measure, and UsageError if not for that long.
        """
        self._monitor = monitor
        types = driven.schema.argument_types("calc-dirty-rate")
        if not types:
            raise HostError(f"{driven.name} cannot measure its dirty rate; QEMU 5.2 and later can")
        words = driven.schema.words(types.get("mode", ""))
        self._modes = [mode for mode in _usable(monitor, driven) if mode in words]
        """The modes that were not refused; none if there is no choice, and pages are sampled."""
        if not MIN_WINDOW_MS <= window_ms <= MAX_WINDOW_MS:
            raise UsageError(f"a measurement lasts {MIN_WINDOW_MS} ms to {MAX_WINDOW_MS // 1000} s, not {window_ms} ms")
        self._counts_ms = "calc-time-unit" in types
        self._chooses_samples = "sample-pages" in types
        self._own_window_ms = window_ms
        self._window_ms = window_ms
        """The window of the latest measurement."""
        self._measuring = False
        self._correction = 1.0
        self._last_bytes_per_s = 0

    @property
    def mode(self) -> str:
        """The mode in use; until the first measurement, the one that will be tried first."""
        return self._modes[0] if self._modes else "page-sampling"

    @property
    def measuring(self) -> bool:
        """True while a measurement of ours is under way."""
        return self._measuring

    def start(self, window_ns: int | None = None) -> bool:
        """Start a measurement of that length, as far as the VM can, or of the usual one.

        Returns False if somebody else's is under way. Raises CommandError if no mode works.
        """
        wanted_ms = self._own_window_ms if window_ns is None else window_ns // NS_PER_MS
        time = self._time(min(max(wanted_ms, MIN_WINDOW_MS), MAX_WINDOW_MS))
        while True:
            try:
                self._monitor.execute("calc-dirty-rate", time | self._how())
            except CommandError:
                if self._status() == "measuring":
                    return False
                if len(self._modes) <= 1:
                    raise
                del self._modes[0]
            else:
                self._measuring = True
                return True

    def fetch(self) -> DirtyRate | None:
        """Return what the measurement found, None while it lasts."""
        answer = self._monitor.execute("query-dirty-rate")
        if answer["status"] != "measured":  # QEMU says `unstarted` until the thread that measures runs
            return None
        self._measuring = False
        self._last_bytes_per_s = answer.get("dirty-rate", 0) * MIB
        vcpus = answer.get("vcpu-dirty-rate", [])
        return DirtyRate(
            round(self._last_bytes_per_s * self._correction),
            {vcpu["id"]: vcpu["dirty-rate"] * MIB for vcpu in vcpus},
            self._window_ms * NS_PER_MS,
            self.mode,
        )

    def calibrate(self, dirty_bytes_per_s: float) -> None:
        """Learn from what the migration itself has found how much too low the samples of pages are."""
        if self.mode == "page-sampling" and self._last_bytes_per_s:
            ratio = dirty_bytes_per_s / self._last_bytes_per_s
            self._correction = min(max(1.0, ratio), _MAX_CORRECTION)

    def _how(self) -> dict[str, object]:
        """Return the mode in use, and how many pages it is to sample, as the VM is told so."""
        mode: dict[str, object] = {"mode": self._modes[0]} if self._modes else {}
        if self.mode != "page-sampling" or not self._chooses_samples:
            return mode
        return {**mode, "sample-pages": _samples_per_gib(memory_bytes(self._monitor))}

    def _time(self, window_ms: int) -> dict[str, object]:
        """Note how long the next measurement lasts, and return how the VM is told so."""
        if self._counts_ms:
            self._window_ms = window_ms
            return {"calc-time": window_ms, "calc-time-unit": "millisecond"}
        seconds = max(1, round(window_ms / 1000))
        self._window_ms = seconds * 1000
        return {"calc-time": seconds}

    def _status(self) -> str:
        return str(self._monitor.execute("query-dirty-rate")["status"])


def _usable(monitor: Monitor, driven: DrivenVm) -> Sequence[str]:
    """Return the modes that do a guest no harm, as far as its host is seen."""
    if not driven.kvm:
        return MODES_WITHOUT_KVM
    return MODES[1:] if _EMULATING_KVM.exists() and _is_here(monitor) else MODES


def _samples_per_gib(size_bytes: int) -> int:
    """Return how many pages of a GiB are sampled in a guest of that size."""
    return min(max(_SAMPLES * GIB // max(1, size_bytes), _LEAST_PER_GIB), _MOST_PER_GIB)


def _is_here(monitor: Monitor) -> bool:
    try:
        return monitor.peer_pid > 0
    except (HostError, MonitorError):
        return False
