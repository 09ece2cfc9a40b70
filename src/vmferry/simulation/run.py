"""Runs the engine on a scenario in virtual time: `simulate(scenario, variant, seed)` is the whole API."""

from collections.abc import Callable

import msgspec
import numpy as np

from vmferry.experiment.experiment import Experiment
from vmferry.memory.bitmap import Bitmap
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.events import Event, Synced
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import Entry, MemoryJournal, TeeJournal
from vmferry.migration.outcome import Outcome
from vmferry.migration.ports import Channel
from vmferry.migration.source import MigrationSource
from vmferry.migration.switchover import Owner
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.guest import SimulatedGuest
from vmferry.simulation.link import LinkModel, SimulatedChannel
from vmferry.simulation.models import host_of, link_of, workload_of
from vmferry.units import PAGE_SIZE_BYTES, format_duration
from vmferry.wire.format import NONCE_BYTES
from vmferry.wire.messages import Message

IsLost = Callable[[int, float], bool]
"""Says whether to give up, by how many bytes remain and how many were sent."""
_CREDENTIALS = Credentials(bytes(NONCE_BYTES))


def never_lost(remaining_bytes: int, sent_bytes: float) -> bool:
    """Give nothing up."""
    return False


class SimulatedRun(Outcome, frozen=True, kw_only=True):
    """The figures of one simulated migration, in virtual time."""

    scenario: str
    variant: str
    seed: int


class SimulationResult(SimulatedRun, frozen=True, kw_only=True):
    """What one simulated migration came to, with its record."""

    entries: list[Entry]
    """The journal; `repr` leaves it out."""

    def __repr__(self) -> str:
        facts = msgspec.structs.asdict(self) | {"entries": f"<{len(self.entries)}>"}
        return f"SimulationResult({', '.join(f'{name}={value!r}' for name, value in facts.items())})"

    def __str__(self) -> str:
        return f"{self.scenario}, {self.variant}, seed {self.seed}\n{super().__str__()}"


class Simulation:
    """One migration in virtual time, made of a scenario's parts; `run` carries it out.

    `capabilities` are those of the variant, unless others are given. `is_lost` is asked at each dirty sync. `on_write`
    and `before_delivery` let a test follow page contents.
    """

    def __init__(
        self,
        scenario: Experiment,
        variant: str,
        seed: int,
        *,
        link: LinkModel | None = None,
        capabilities: MigrationCapabilities | None = None,
        is_lost: IsLost = never_lost,
        on_write: Callable[[Bitmap], None] | None = None,
        before_delivery: Callable[[Message], None] = lambda message: None,
    ) -> None:
        self.scenario, self.variant, self.seed = scenario, variant, seed
        self._gives_up = is_lost
        self.clock = VirtualClock()
        self.journal = MemoryJournal()
        guest_random, link_random, host_random = np.random.default_rng(seed).spawn(3)
        page_count, vcpu_count = scenario.guest.page_count, scenario.guest.vcpu_count
        self.source_guest = SimulatedGuest(
            self.clock,
            page_count,
            vcpu_count,
            workload_of(scenario.guest, guest_random),
            host_of(scenario.guest, host_random),
            used_page_count=scenario.guest.used_bytes // PAGE_SIZE_BYTES,
            on_write=on_write,
        )
        self.destination_guest = SimulatedGuest(self.clock, page_count, vcpu_count, running=False)
        self.destination = MigrationDestination(self.destination_guest, self.clock, MemoryJournal(), _CREDENTIALS)
        self.channel = SimulatedChannel(
            self.clock, link or link_of(scenario.link), self.destination, link_random, before_delivery
        )
        self.parameters = scenario.migration_parameters(variant)
        self.source = MigrationSource(
            self.source_guest,
            self._open_channel,
            self.clock,
            TeeJournal([self.journal, _SyncLimit(scenario.limits.max_iterations, self._is_lost, self._cancel)]),
            lambda: self.parameters,
            capabilities or MigrationCapabilities(auto_converge=scenario.variant(variant).auto_converge),
            _CREDENTIALS,
        )
        max_time_ns = scenario.limits.max_time_ns
        self.clock.schedule(max_time_ns, lambda: self._cancel(f"not completed in {format_duration(max_time_ns)}"))

    def run(self) -> SimulationResult:
        """Migrate."""
        self.source.run()
        self.source_guest.catch_up()
        return self.result(self.journal.entries)

    def result(self, entries: list[Entry]) -> SimulationResult:
        """Return what the entries of its journal tell."""
        return SimulationResult.of(
            entries,
            scenario=self.scenario.name,
            variant=self.scenario.label(self.variant),
            seed=self.seed,
            entries=entries,
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

    def _is_lost(self, remaining_bytes: int) -> bool:
        return self._gives_up(remaining_bytes, self.channel.sent_bytes)

    def _cancel(self, reason: str) -> None:
        self.source.cancel(f"{reason}, the limit of the scenario")


class _SyncLimit:
    """A journal that calls the migration off when there are too many iterations, or it is lost."""

    def __init__(self, max_iterations: int, is_lost: Callable[[int], bool], cancel: Callable[[str], None]) -> None:
        self._max_iterations = max_iterations
        self._is_lost = is_lost
        self._cancel = cancel

    def record(self, time_ns: int, event: Event) -> None:
        """Look at each sync."""
        if not isinstance(event, Synced):
            return
        if event.iteration_count > self._max_iterations:
            self._cancel(f"not completed in {self._max_iterations} iterations")
        elif self._is_lost(event.remaining_pages * PAGE_SIZE_BYTES):
            self._cancel("what remains does not shrink")


def simulate(scenario: Experiment, variant: str, seed: int = 0) -> SimulationResult:
    """Migrate the scenario's guest with a variant of auto-converge. The same seed gives the same result."""
    return Simulation(scenario, variant, seed).run()
