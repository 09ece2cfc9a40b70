"""The parts of an experiment. A key of a scenario's file is the name of its field, without the unit."""

from typing import Literal

import msgspec

from vmferry.errors import UsageError
from vmferry.experiment.dirty_trace import DirtyTrace
from vmferry.experiment.quantities import (
    NS_PER_HOUR,
    Bytes,
    BytesPerS,
    Nanoseconds,
    check_duration,
    check_rate,
    check_size,
    require,
)
from vmferry.units import NS_PER_MS, NS_PER_S, PAGE_SIZE_BYTES, exact_size, format_size

MODELLED_QEMUS = ("qemu-7.2", "qemu-10")
"""The releases that a guest can run in; `simulation/qemu/releases.py` tells what each does."""
MAX_MEMORY_BYTES = 16 << 40
MAX_BATCH_BYTES = 1 << 30
DEFAULT_BATCH_BYTES = 4 << 20
DEFAULT_BATCH_NS = 10 * NS_PER_MS
_MAX_VCPUS = 4096
_MAX_ITERATIONS = 10**9
_MAX_ZIPF_EXPONENT = 10.0
_MAX_ROUNDS = 10**6
_WITH_WORKING_SET = ("hot-spot", "moving")
_MIN_EVERY_NS = 10 * NS_PER_MS
_MAX_PAUSE_NS = NS_PER_HOUR
"""How long one thing may take: a message, a dirty sync, what was before."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A table of a scenario's file."""


class LoadSpec(_Part, frozen=True):
    """What the vCPUs write: together this much memory, at this rate when not throttled, or what a journal tells."""

    pattern: Literal["sweep", "uniform", "hot-cold", "hot-spot", "moving", "read", "idle", "trace"]
    memory_bytes: Bytes = msgspec.field(default=0, name="memory")
    write_bytes_per_s: BytesPerS = msgspec.field(default=0, name="write-rate")
    at_bytes: Bytes = msgspec.field(default=0, name="at")
    """Where in the guest's memory its own begins."""
    vcpus: tuple[int, ...] = ()
    """The numbers of the vCPUs that it is for; empty for all."""
    pace_bytes_per_s: BytesPerS = msgspec.field(default=0, name="pace")
    """How much work comes, whether the guest keeps up or not; 0: it writes as fast as it can."""
    every_ns: Nanoseconds = msgspec.field(default=0, name="every")
    """Of a pace: how often the work comes, all at once; 0: evenly."""
    zipf_exponent: float = 1.0
    working_set_bytes: Bytes = msgspec.field(default=0, name="working-set")
    """For `hot-spot`: the part that is hot. For `moving`: the part that is walked, until the next one is."""
    hot_share: float = 0.75
    """For `hot-spot`: what of the writes goes to the hot part."""
    rounds: int = 1
    """For `moving`: how often a part is walked before it is the next one's turn."""
    fill: float = 0.0
    """What of each page no compression makes smaller; pages of modelled guests have no content."""
    whole_pages: bool = False
    """Each write changes all of a page, not a word of it; to modelled guests that is all one."""
    duration_ns: Nanoseconds = msgspec.field(default=NS_PER_S, name="duration")
    """How long it lasts, in CPU time, where there are several loads in turn."""
    journal: str = ""
    """For `trace`: the journal of a real migration, looked for beside the scenario's file."""
    trace: DirtyTrace | None = None
    """What that journal tells; a scenario's file leaves it out."""

    @property
    def used_bytes(self) -> int:
        """How much memory it takes."""
        return self.trace.used_pages * PAGE_SIZE_BYTES if self.trace else self.memory_bytes

    @property
    def first_page(self) -> int:
        """The number of its first page in the guest's memory."""
        return self.at_bytes // PAGE_SIZE_BYTES

    @property
    def page_count(self) -> int:
        """How many pages it has."""
        return self.memory_bytes // PAGE_SIZE_BYTES

    def check(self, where: str, guest_bytes: int, vcpu_count: int) -> None:
        """Raise UsageError that names what cannot be, in a guest of that memory and number of vCPUs."""
        if (self.pattern == "trace") != bool(self.trace):
            raise UsageError(f"{where}.pattern: a trace is what a journal tells; give both in a scenario's file")
        if self.trace and self != LoadSpec(
            pattern="trace", duration_ns=self.duration_ns, journal=self.journal, trace=self.trace
        ):
            raise UsageError(f"{where}: a trace writes as its journal tells; only duration can be set")
        check_size(f"{where}.memory", self.memory_bytes)
        check_size(f"{where}.at", self.at_bytes)
        if self.at_bytes + self.used_bytes > guest_bytes:
            used = format_size(self.used_bytes) if self.trace else exact_size(self.used_bytes)
            at = f", at {exact_size(self.at_bytes)}" if self.at_bytes else ""
            raise UsageError(f"{where}.memory is {used}{at}, the guest has {exact_size(guest_bytes)}")
        check_rate(f"{where}.write-rate", self.write_bytes_per_s)
        check_duration(f"{where}.duration", self.duration_ns, NS_PER_MS)
        require(f"{where}.zipf-exponent", self.zipf_exponent, 0.0, _MAX_ZIPF_EXPONENT)
        require(f"{where}.hot-share", self.hot_share, 0.0, 1.0)
        require(f"{where}.rounds", self.rounds, 1, _MAX_ROUNDS)
        require(f"{where}.fill", self.fill, 0.0, 1.0)
        self._check_vcpus(where, vcpu_count)
        self._check_pace(where)
        self._check_working_set(where)

    def _check_vcpus(self, where: str, vcpu_count: int) -> None:
        for vcpu in self.vcpus:
            require(f"a number of {where}.vcpus", vcpu, 0, vcpu_count - 1)
        if len(set(self.vcpus)) != len(self.vcpus):
            raise UsageError(f"{where}.vcpus names a vCPU twice; name each once")

    def _check_pace(self, where: str) -> None:
        check_rate(f"{where}.pace", self.pace_bytes_per_s)
        if self.pace_bytes_per_s and not self.write_bytes_per_s:
            raise UsageError(f"{where}.pace needs write-rate: how fast the guest works off what it has to do")
        if self.every_ns:
            check_duration(f"{where}.every", self.every_ns, _MIN_EVERY_NS)
            if not self.pace_bytes_per_s:
                raise UsageError(f"{where}.every needs pace: how much work comes, per second")

    def _check_working_set(self, where: str) -> None:
        if self.pattern in _WITH_WORKING_SET:
            require(f"{where}.working-set", self.working_set_bytes, PAGE_SIZE_BYTES, self.memory_bytes)
        elif self.working_set_bytes:
            raise UsageError(f"{where}.working-set: '{self.pattern}' has none; {' and '.join(_WITH_WORKING_SET)} have")


class GuestSpec(_Part, frozen=True):
    """The guest. Several loads of one vCPU take turns; those of different ones go on at the same time."""

    memory_bytes: Bytes = msgspec.field(name="memory")
    vcpu_count: int = msgspec.field(name="vcpus")
    loads: tuple[LoadSpec, ...]
    used_bytes: Bytes = msgspec.field(default=0, name="used-memory")
    """How much of it, from the beginning on, is not zero, also where no load writes; memory of loads always is."""
    zero_scan_bytes_per_s: BytesPerS = msgspec.field(default=0, name="zero-scan-rate")
    """How fast a page is found to be zero; 0 if memory that nothing uses was never touched, and is passed over."""
    sync_ns_per_page: float = 0.0
    """How long a dirty sync takes, for each page of the guest's memory."""
    populate_bytes_per_s: BytesPerS = msgspec.field(default=0, name="populate-rate")
    """How fast a driven QEMU's destination takes pages for which it has no memory yet; 0 for as fast as any."""
    throttle_slice_ns: Nanoseconds = msgspec.field(default=0, name="throttle-slice")
    """How long a throttled guest runs at a time; QEMU and vmferry have 10 ms. 0: it runs evenly slower."""
    stolen: float = 0.0
    """The share of the time in which a busy host has no processor for its vCPUs."""
    stolen_for_ns: Nanoseconds = msgspec.field(default=50 * NS_PER_MS, name="stolen-for")
    """How long at a time, in the mean."""
    dirty_ring: bool = False
    """Its body knows which vCPU has written what."""
    ran_for_ns: Nanoseconds = msgspec.field(default=0, name="ran-for")
    """How long it has run when the migration begins, at most; drawn for each seed. 0: its loads begin with it."""

    @property
    def page_count(self) -> int:
        """Its size."""
        return self.memory_bytes // PAGE_SIZE_BYTES

    def check(self) -> None:
        """Raise UsageError that names what cannot be."""
        require("guest.vcpus", self.vcpu_count, 1, _MAX_VCPUS)
        check_size("guest.memory", self.memory_bytes)
        memory = exact_size(self.memory_bytes)
        if self.memory_bytes > MAX_MEMORY_BYTES:
            raise UsageError(f"guest.memory is {memory}, at most {format_size(MAX_MEMORY_BYTES)} are allowed")
        check_size("guest.used-memory", self.used_bytes)
        if self.used_bytes > self.memory_bytes:
            raise UsageError(f"guest.used-memory is {exact_size(self.used_bytes)}, the guest has {memory}")
        check_rate("guest.zero-scan-rate", self.zero_scan_bytes_per_s)
        check_rate("guest.populate-rate", self.populate_bytes_per_s)
        if self.throttle_slice_ns:
            check_duration("guest.throttle-slice", self.throttle_slice_ns, NS_PER_MS)
        if not 0 <= self.stolen < 1:
            raise UsageError(f"guest.stolen is {self.stolen}, 0 up to but not 1 is allowed")
        check_duration("guest.stolen-for", self.stolen_for_ns, NS_PER_MS)
        check_duration("guest.ran-for", self.ran_for_ns, most_ns=_MAX_PAUSE_NS)
        require("guest.sync-ns-per-page", self.sync_ns_per_page, 0.0, _MAX_PAUSE_NS / max(1, self.page_count))
        if not self.loads:
            raise UsageError("guest.loads is empty; give at least one load, such as pattern = 'idle'")
        for number, load in enumerate(self.loads):
            load.check(f"guest.loads[{number}]", self.memory_bytes, self.vcpu_count)
        if any(load.trace for load in self.loads) and any(load.vcpus for load in self.loads):
            raise UsageError("guest.loads: a trace is of all vCPUs; leave vcpus out of the other loads, too")


class LinkSpec(_Part, frozen=True):
    """The link. `rate-changes` are pairs of a time and a rate."""

    rate_bytes_per_s: BytesPerS = msgspec.field(name="rate")
    share: float = 1.0
    """What of the rate is there for the migration."""
    latency_ns: Nanoseconds = msgspec.field(default=0, name="latency")
    """One way."""
    jitter: float = 0.0
    """The standard deviation of the rate, as a share of it."""
    jitter_interval_ns: Nanoseconds = msgspec.field(default=NS_PER_S, name="jitter-interval")
    """How often another rate is drawn."""
    batch_bytes: Bytes = msgspec.field(default=0, name="batch")
    """How much is sent before it is looked whether the rest fits the downtime; 0 for DEFAULT_BATCH_BYTES, or as much as
    the link carries in DEFAULT_BATCH_NS if that is more."""
    rate_changes: tuple[tuple[Nanoseconds, BytesPerS], ...] = ()
    lost_at_ns: Nanoseconds | None = msgspec.field(default=None, name="lost-at")
    """When every connection over it breaks; None if none does."""

    def shared(self, bytes_per_s: int) -> int:
        """Return what of a rate is there for the migration."""
        return int(bytes_per_s * self.share)

    @property
    def batch_page_count(self) -> int:
        """How many pages one message has at most."""
        in_time = self.shared(self.rate_bytes_per_s) * DEFAULT_BATCH_NS // NS_PER_S
        size_bytes = self.batch_bytes or min(MAX_BATCH_BYTES, max(DEFAULT_BATCH_BYTES, in_time))
        return size_bytes // PAGE_SIZE_BYTES

    def check(self) -> None:
        """Raise UsageError that names what cannot be."""
        check_rate("link.rate", self.rate_bytes_per_s, 1)
        if not 0 < self.share <= 1:
            raise UsageError(f"link.share is {self.share}, above 0 up to 1 is allowed")
        if not 0 <= self.jitter < 1:
            raise UsageError(f"link.jitter is {self.jitter}, 0 up to but not 1 is allowed")
        check_duration("link.latency", self.latency_ns, most_ns=_MAX_PAUSE_NS)
        check_duration("link.jitter-interval", self.jitter_interval_ns, NS_PER_MS)
        for time_ns, bytes_per_s in self.rate_changes:
            check_duration("a time of link.rate-changes", time_ns)
            check_rate("a rate of link.rate-changes", bytes_per_s)
        check_size("link.batch", self.batch_bytes)
        if self.batch_bytes:
            require("link.batch", self.batch_bytes, PAGE_SIZE_BYTES, MAX_BATCH_BYTES)
        if self.lost_at_ns is not None:
            check_duration("link.lost-at", self.lost_at_ns)
        if self.shared(self.rate_bytes_per_s) < 1:
            rate = exact_size(self.rate_bytes_per_s)
            raise UsageError(f"link.share is {self.share}, that of {rate} is less than 1 byte per second")


class RunLimits(_Part, frozen=True):
    """When to give up, as guestperf does."""

    max_iterations: int = 200
    max_time_ns: Nanoseconds = msgspec.field(default=1200 * NS_PER_S, name="max-time")

    def check(self) -> None:
        """Raise UsageError that names what cannot be."""
        require("limits.max-iterations", self.max_iterations, 1, _MAX_ITERATIONS)
        check_duration("limits.max-time", self.max_time_ns, NS_PER_MS)
