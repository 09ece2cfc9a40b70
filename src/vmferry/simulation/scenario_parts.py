"""The parts of a scenario as its file has them, where sizes, rates and times are written as people write them."""

import stat
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from vmferry.errors import UsageError
from vmferry.memory.layout import PAGE_SIZE_BYTES
from vmferry.migration.journal import read_migration
from vmferry.simulation.link import LinkModel
from vmferry.simulation.patterns import HotCold, Pattern, Sweep, Together, Uniform
from vmferry.simulation.trace import DirtyTrace, Trace, read_trace
from vmferry.simulation.values import NS_PER_HOUR, check_duration, check_rate, checked_size, require
from vmferry.units import format_size, parse_duration_ns, parse_rate, parse_size

MAX_MEMORY_BYTES = 16 << 40
MAX_BATCH_BYTES = 1 << 30
_MAX_VCPUS = 4096
_MAX_ITERATIONS = 10**9
_MAX_ZIPF_EXPONENT = 10.0
_NS_PER_MS = 1_000_000
_MAX_PAUSE_NS = NS_PER_HOUR
"""Of what is waited for at once: a message, a dirty sync."""


class _Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A table of a scenario's file."""


class LoadScenario(_Model, frozen=True):
    """What the vCPUs write: together `memory` in size, at `write-rate` when not throttled, or what a journal tells."""

    pattern: Literal["sweep", "uniform", "hot-cold", "idle", "trace"]
    memory: str = "0"
    write_rate: str = "0"
    zipf_exponent: float = 1.0
    duration: str = "1s"
    """How long it lasts, in CPU time, where there are several loads in turn."""
    journal: str = ""
    """For `trace`: the journal of a real migration, looked for beside the scenario's file."""
    trace: DirtyTrace | None = None
    """What that journal tells; a scenario's file leaves it out."""

    def make(self, first_page: int, vcpu_count: int, random: np.random.Generator) -> Pattern:
        """Return the pattern of all vCPUs, each of which writes its share."""
        if self.trace:
            return Trace(self.trace)
        page_count = parse_size(self.memory) // PAGE_SIZE_BYTES
        pages_per_s = parse_rate(self.write_rate) / PAGE_SIZE_BYTES
        makers: dict[str, Callable[[int, int, float], Pattern]] = {
            "idle": lambda first, count, rate: Sweep(first, count, 0.0),
            "sweep": lambda first, count, rate: Sweep(first, count, rate),
            "uniform": lambda first, count, rate: Uniform(first, count, rate, random),
            "hot-cold": lambda first, count, rate: HotCold(first, count, rate, self.zipf_exponent, random),
        }
        make = makers[self.pattern]
        bounds = [page_count * number // vcpu_count for number in range(vcpu_count + 1)]
        return Together(
            [
                make(first_page + start, end - start, pages_per_s * (end - start) / page_count)
                for start, end in pairwise(bounds)
                if end > start
            ]
        )

    def with_trace(self, directory: Path) -> "LoadScenario":
        """Return the load with what its journal tells. Raises UsageError."""
        if self.trace or (self.pattern == "trace") != bool(self.journal):
            raise UsageError("pattern = 'trace' needs journal = 'FILE', and only that")
        if not self.journal:
            return self
        if not self.journal.isprintable():
            raise UsageError("the name of a load's journal has characters that cannot be printed")
        path = directory / self.journal
        require_file(path, "journal")
        return msgspec.structs.replace(self, trace=read_trace(read_migration(path).entries, str(path)))

    def used_bytes(self) -> int:
        """Return how much memory it takes."""
        return self.trace.used_pages * PAGE_SIZE_BYTES if self.trace else parse_size(self.memory)

    def check(self, where: str, guest_memory: str) -> None:
        """Raise UsageError that names what cannot be, in a guest of that memory."""
        if (self.pattern == "trace") != bool(self.trace):
            raise UsageError(f"{where}.pattern: a trace is what a journal tells; give both in a scenario's file")
        if self.trace and self != LoadScenario(
            pattern="trace", duration=self.duration, journal=self.journal, trace=self.trace
        ):
            raise UsageError(f"{where}: a trace writes as its journal tells; only duration can be set")
        checked_size(f"{where}.memory", self.memory)
        if self.used_bytes() > parse_size(guest_memory):
            memory = format_size(self.used_bytes()) if self.trace else self.memory
            raise UsageError(f"{where}.memory is {memory}, the guest has {guest_memory}")
        check_rate(f"{where}.write-rate", self.write_rate)
        check_duration(f"{where}.duration", self.duration, _NS_PER_MS)
        require(f"{where}.zipf-exponent", self.zipf_exponent, 0.0, _MAX_ZIPF_EXPONENT)


class GuestScenario(_Model, frozen=True):
    """The guest. With several loads, they take turns."""

    memory: str
    vcpus: int
    loads: tuple[LoadScenario, ...]
    used_memory: str = "0"
    """How much of it, from the beginning on, is not zero, also where no load writes; memory of loads always is."""
    zero_scan_rate: str = "0"
    """How fast a page is found to be zero; 0 for at once."""
    sync_ns_per_page: float = 0.0
    throttle_slice: str = "0ms"
    """How long a throttled guest runs at a time; QEMU and vmferry have 10 ms. 0: it runs evenly slower."""

    def check(self) -> None:
        """Raise UsageError that names what cannot be."""
        require("guest.vcpus", self.vcpus, 1, _MAX_VCPUS)
        memory_bytes = checked_size("guest.memory", self.memory)
        if memory_bytes > MAX_MEMORY_BYTES:
            raise UsageError(f"guest.memory is {self.memory}, at most {format_size(MAX_MEMORY_BYTES)} are allowed")
        if checked_size("guest.used-memory", self.used_memory) > memory_bytes:
            raise UsageError(f"guest.used-memory is {self.used_memory}, the guest has {self.memory}")
        check_rate("guest.zero-scan-rate", self.zero_scan_rate)
        if parse_duration_ns(self.throttle_slice):
            check_duration("guest.throttle-slice", self.throttle_slice, _NS_PER_MS)
        most_ns = _MAX_PAUSE_NS / max(1, memory_bytes // PAGE_SIZE_BYTES)
        require("guest.sync-ns-per-page", self.sync_ns_per_page, 0.0, most_ns)
        if not self.loads:
            raise UsageError("guest.loads is empty; give at least one load, such as pattern = 'idle'")
        for number, load in enumerate(self.loads):
            load.check(f"guest.loads[{number}]", self.memory)


class LinkScenario(_Model, frozen=True):
    """The link. `rate-changes` are pairs of a time and a rate."""

    rate: str
    share: float = 1.0
    """What of the rate is there for the migration."""
    latency: str = "0ms"
    jitter: float = 0.0
    jitter_interval: str = "1s"
    batch: str = "4M"
    """How much is sent before it is looked whether the rest fits the downtime."""
    rate_changes: tuple[tuple[str, str], ...] = ()
    lost_at: str | None = None

    def model(self) -> LinkModel:
        """Return the link."""
        return LinkModel(
            bytes_per_s=int(parse_rate(self.rate) * self.share),
            latency_ns=parse_duration_ns(self.latency),
            jitter=self.jitter,
            jitter_interval_ns=parse_duration_ns(self.jitter_interval),
            rate_changes=tuple(
                (parse_duration_ns(time), int(parse_rate(rate) * self.share)) for time, rate in self.rate_changes
            ),
            batch_pages=parse_size(self.batch) // PAGE_SIZE_BYTES,
            loss_time_ns=parse_duration_ns(self.lost_at) if self.lost_at is not None else None,
        )

    def check(self) -> None:
        """Raise UsageError that names what cannot be."""
        check_rate("link.rate", self.rate, 1)
        if not 0 < self.share <= 1:
            raise UsageError(f"link.share is {self.share}, above 0 up to 1 is allowed")
        if not 0 <= self.jitter < 1:
            raise UsageError(f"link.jitter is {self.jitter}, 0 up to but not 1 is allowed")
        check_duration("link.latency", self.latency, most_ns=_MAX_PAUSE_NS)
        check_duration("link.jitter-interval", self.jitter_interval, _NS_PER_MS)
        for time, rate in self.rate_changes:
            check_duration("a time of link.rate-changes", time)
            check_rate("a rate of link.rate-changes", rate)
        require("link.batch", checked_size("link.batch", self.batch), PAGE_SIZE_BYTES, MAX_BATCH_BYTES)
        if self.lost_at is not None:
            check_duration("link.lost-at", self.lost_at)
        if self.model().bytes_per_s < 1:
            raise UsageError(f"link.share is {self.share}, that of {self.rate} is less than 1 byte per second")


class Limits(_Model, frozen=True):
    """When to give up, as guestperf does."""

    max_iterations: int = 200
    max_time: str = "1200s"

    def check(self) -> None:
        """Raise UsageError that names what cannot be."""
        require("limits.max-iterations", self.max_iterations, 1, _MAX_ITERATIONS)
        check_duration("limits.max-time", self.max_time, _NS_PER_MS)


def require_file(path: Path, what: str) -> None:
    """Raise UsageError for what is not there, and for a device or a pipe, which may never end."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from error
    if not regular:
        raise UsageError(f"cannot read the {what} {path}: not a regular file")
