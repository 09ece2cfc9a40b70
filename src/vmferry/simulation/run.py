"""Runs the engine on a scenario in virtual time: `simulate(scenario, variant, seed)` is the whole API."""

from collections.abc import Callable

import msgspec
import numpy as np

from vmferry.bounds import Natural, Number
from vmferry.errors import PolicyError
from vmferry.memory.bitmap import Bitmap
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.events import Ended, Event, Synced
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import Entry, MemoryJournal, TeeJournal
from vmferry.migration.ports import Channel
from vmferry.migration.source import MigrationSource
from vmferry.migration.switchover import Owner
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.guest import SimulatedGuest
from vmferry.simulation.link import LinkModel, SimulatedChannel
from vmferry.simulation.scenario import Scenario
from vmferry.units import format_duration, format_size, parse_duration_ns
from vmferry.wire.format import NONCE_BYTES
from vmferry.wire.messages import Message

_NS_PER_MS = 1_000_000
_AUTO_CONVERGE = MigrationCapabilities(auto_converge=True)
_CREDENTIALS = Credentials(bytes(NONCE_BYTES))


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one simulated migration came to. Times are milliseconds of virtual time."""

    scenario: str
    variant: str
    seed: int
    status: str
    error: str
    policy_broken: bool = False
    """True if it failed because its policy did."""
    total_time_ms: Natural
    downtime_ms: Natural
    iteration_count: Natural
    dirty_sync_count: Natural
    max_throttle_percent: Natural
    sent_bytes: Natural
    memory_bytes: Natural
    sent_per_memory: Number = 0.0
    """Bytes sent as a multiple of the guest's memory."""
    work_lost_vcpu_s: Number
    """Integral of the throttle over time and vCPUs: what the guest was kept from doing."""
    work_lost_percent: Number
    """The same as a share of what it would have done."""
    entries: list[Entry]
    """The journal; `repr` leaves it out."""

    def __repr__(self) -> str:
        facts = msgspec.structs.asdict(self) | {"entries": f"<{len(self.entries)}>"}
        return f"SimulationResult({', '.join(f'{name}={value!r}' for name, value in facts.items())})"

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.scenario}, {self.variant}, seed {self.seed}: {self.status} {self.error}".rstrip(),
                f"total time      {format_duration(self.total_time_ms * _NS_PER_MS)}",
                f"downtime        {format_duration(self.downtime_ms * _NS_PER_MS)}",
                f"iterations      {self.iteration_count}, dirty syncs {self.dirty_sync_count}",
                f"throttle        up to {self.max_throttle_percent} %",
                f"guest work lost {self.work_lost_percent:.1f} %, {self.work_lost_vcpu_s:.1f} vCPU s",
                f"sent            {format_size(self.sent_bytes)}, {self.sent_per_memory:.2f} x the guest's memory",
            ]
        )


class Simulation:
    """One migration in virtual time, made of a scenario's parts; `run` carries it out.

    `on_write` and `before_delivery` let a test follow page contents.
    """

    def __init__(
        self,
        scenario: Scenario,
        variant: str,
        seed: int,
        *,
        link: LinkModel | None = None,
        capabilities: MigrationCapabilities = _AUTO_CONVERGE,
        on_write: Callable[[Bitmap], None] | None = None,
        before_delivery: Callable[[Message], None] = lambda message: None,
    ) -> None:
        self.scenario, self.variant, self.seed = scenario, variant, seed
        self.clock = VirtualClock()
        self.journal = MemoryJournal()
        guest_random, link_random = np.random.default_rng(seed).spawn(2)
        page_count, vcpu_count = scenario.page_count(), scenario.guest.vcpus
        self.source_guest = SimulatedGuest(
            self.clock,
            page_count,
            vcpu_count,
            scenario.pattern(guest_random),
            scenario.costs(),
            used_page_count=scenario.used_page_count(),
            throttle_slice_ns=parse_duration_ns(scenario.guest.throttle_slice),
            on_write=on_write,
        )
        self.destination_guest = SimulatedGuest(self.clock, page_count, vcpu_count, running=False)
        self.destination = MigrationDestination(self.destination_guest, self.clock, MemoryJournal(), _CREDENTIALS)
        self.channel = SimulatedChannel(
            self.clock, link or scenario.link_model(), self.destination, link_random, before_delivery
        )
        self.parameters = scenario.migration_parameters(variant)
        self.source = MigrationSource(
            self.source_guest,
            self._open_channel,
            self.clock,
            TeeJournal([self.journal, _IterationLimit(scenario.limits.max_iterations, self._cancel)]),
            lambda: self.parameters,
            capabilities,
            _CREDENTIALS,
        )
        self.clock.schedule(parse_duration_ns(scenario.limits.max_time), self._cancel)

    def run(self) -> SimulationResult:
        """Migrate."""
        status = self.source.run()
        self.source_guest.catch_up()
        total_ns = self.clock.now_ns()
        sent_bytes, memory_bytes = self.channel.sent_bytes, self.source_guest.layout.size_bytes
        vcpu_count, lost_ns = self.scenario.guest.vcpus, self.source_guest.lost_ns
        ended = self.journal.entries[-1].event
        assert isinstance(ended, Ended)
        return SimulationResult(
            scenario=self.scenario.name,
            variant=self.variant,
            seed=self.seed,
            status=status.value,
            error=self.source.error or "",
            policy_broken=isinstance(self.source.cause, PolicyError),
            total_time_ms=total_ns // _NS_PER_MS,
            downtime_ms=(ended.downtime_ns or 0) // _NS_PER_MS,
            iteration_count=ended.iteration_count or 0,
            dirty_sync_count=ended.dirty_sync_count or 0,
            max_throttle_percent=ended.max_throttle_percent or 0,
            sent_bytes=sent_bytes,
            memory_bytes=memory_bytes,
            sent_per_memory=sent_bytes / memory_bytes if memory_bytes else 0.0,
            work_lost_vcpu_s=vcpu_count * lost_ns / 1e9,
            work_lost_percent=100 * lost_ns / total_ns if total_ns else 0.0,
            entries=self.journal.entries,
        )

    @property
    def running_guests(self) -> int:
        """How many copies of the guest run; never more than one."""
        return self.source_guest.running + self.destination_guest.running

    @property
    def owner(self) -> Owner:
        """Who may run the guest."""
        return self.source.owner

    def _open_channel(self, while_blocked: Callable[[], None]) -> Channel:
        return self.channel

    def _cancel(self) -> None:
        self.source.cancel()


class _IterationLimit:
    """A journal that calls the migration off when there are too many iterations."""

    def __init__(self, max_iterations: int, cancel: Callable[[], None]) -> None:
        self._max_iterations = max_iterations
        self._cancel = cancel

    def record(self, time_ns: int, event: Event) -> None:
        """Look at the iteration count."""
        if isinstance(event, Synced) and event.iteration_count > self._max_iterations:
            self._cancel()


def simulate(scenario: Scenario, variant: str, seed: int = 0) -> SimulationResult:
    """Migrate the scenario's guest with a variant of auto-converge. The same seed gives the same result."""
    return Simulation(scenario, variant, seed).run()
