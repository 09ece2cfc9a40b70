"""Makes a scenario of a recorded migration: its guest, its link and its parameters, to be changed and simulated."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from vmferry.convergence.policies.registry import BUILT_IN, find_policy
from vmferry.convergence.variants import DEFAULT_POLICY, POLICY, POLICY_SETTINGS, VARIANT_PARAMETERS
from vmferry.errors import UsageError
from vmferry.experiment.dirty_trace import DirtyTrace, read_trace, slice_ns
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.parts import MAX_BATCH_BYTES, GuestSpec, LinkSpec, LoadSpec
from vmferry.experiment.quantities import MAX_BYTES_PER_S
from vmferry.migration.events import (
    Decided,
    Ended,
    RecordedBy,
    Started,
    ThrottleSeen,
)
from vmferry.migration.journal import Entry
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.simulation.run import Simulation, SimulationResult
from vmferry.study.recorded import MAX_TIME_NS, Recorded
from vmferry.units import PAGE_SIZE_BYTES

_Settings = dict[str, int | bool | str]
_LIMIT = "max-bandwidth"


@dataclass(frozen=True)
class Replay:
    """A recorded migration, ready to be simulated."""

    scenario: Experiment
    trace: DirtyTrace
    """The trace of how its guest writes."""
    link_rate_is_lower_bound: bool
    """True if the link was never used to the full: `max-bandwidth` was in force or next to nothing was sent."""
    own_settings: dict[str, int | bool | str]
    """The recorded values of the parameters that make up a variant."""
    auto_converge: bool
    """Whether it was on when the migration was recorded."""
    times_smaller: float
    """How many times smaller pages were on the wire than in memory. In the replay they go as they are, over a link that
    is as many times faster, so what it sends is counted as it is in memory."""
    throttle: tuple[tuple[int, int], ...] | None
    """From which time in ns the guest was slowed by how many percent. None if what has decided can decide again: the
    VM itself, by a policy that is here."""

    def as_recorded(self) -> SimulationResult:
        """Simulate it with all the settings that it was recorded with; `read_replay` was given no others.

        Where it was seen from outside, the guest is slowed when it was seen to be slowed: the rates by which others
        decide are not those that the engine would decide by. So it is where the policy is not here.
        """
        if self.throttle is None:
            return self._simulation(auto_converge=self.auto_converge).run()
        return self.slowed_by(self.throttle)

    def slowed_by(self, throttle: Iterable[tuple[int, int]]) -> SimulationResult:
        """Simulate it so, and with this throttle: from which time in ns the guest is slowed by how many percent."""
        simulation = self._simulation(auto_converge=False)
        for time_ns, percent in throttle:
            simulation.clock.schedule(time_ns, partial(_slow, simulation, percent))
        result = simulation.run()
        events = [entry.event for entry in result.entries]
        highest = max((event.throttle_percent for event in events if isinstance(event, ThrottleSeen)), default=0)
        ended = msgspec.structs.replace(events[-1], max_throttle_percent=highest)
        return simulation.result([*result.entries[:-1], Entry(result.entries[-1].time_ns, ended)])

    def _simulation(self, *, auto_converge: bool) -> Simulation:
        scenario = msgspec.structs.replace(self.scenario, parameters=self.scenario.parameters | self.own_settings)
        return Simulation(scenario, "original", 0, capabilities=MigrationCapabilities(auto_converge=auto_converge))


def _slow(simulation: Simulation, percent: int) -> None:
    simulation.source_guest.set_throttle(percent)
    simulation.journal.record(simulation.clock.now_ns(), ThrottleSeen(throttle_percent=percent))


def read_replay(
    entries: Sequence[Entry], where: str, parameters: Mapping[str, object], link: Mapping[str, str]
) -> Replay:
    """Return the replay of one migration, whose first entry is `started`.

    `parameters` and `link` replace what is recorded, by QMP names and by the keys of a scenario's link, whose
    values are texts. Raises UsageError that begins with `where`.
    """
    started = entries[0].event
    assert isinstance(started, Started)
    trace = read_trace(entries, where)
    recorded = Recorded(entries)
    try:
        scenario = _scenario(where, started, trace, recorded)
        changed = msgspec.convert(recorded.settings() | dict(parameters), _Settings)
        scenario = msgspec.structs.replace(scenario, parameters=changed)
        scenario = scenario.with_settings({f"link.{key}": text for key, text in link.items()})
        told = _policy_is_here(started)
        own = VARIANT_PARAMETERS if told else VARIANT_PARAMETERS - {POLICY, POLICY_SETTINGS}
        variant = {name: value for name, value in started.parameters.items() if name in own}
        decides = told and started.recorded_by is RecordedBy.VM
        return Replay(
            scenario=_in_memory(scenario, recorded.times_smaller),
            trace=trace,
            link_rate_is_lower_bound=recorded.link_rate()[1] and "rate" not in link,
            own_settings=msgspec.convert(variant, _Settings),
            auto_converge=started.auto_converge,
            times_smaller=recorded.times_smaller,
            throttle=None if decides else tuple(throttle_of(entries)),
        )
    except (UsageError, msgspec.ValidationError) as error:
        raise UsageError(f"{where}: {error}") from error


def _scenario(where: str, started: Started, trace: DirtyTrace, recorded: Recorded) -> Experiment:
    """Return what was recorded as a scenario, without its parameters."""
    rate, _ = recorded.link_rate()
    return Experiment(
        name=where,
        guest=GuestSpec(
            memory_bytes=started.page_count * PAGE_SIZE_BYTES,
            vcpu_count=started.vcpu_count,
            loads=(LoadSpec(pattern="trace", trace=trace),),
            zero_scan_bytes_per_s=recorded.zero_scan_rate(started.page_count - trace.used_pages),
            sync_ns_per_page=recorded.sync_ns() / started.page_count,
            throttle_slice_ns=slice_ns(started),
        ),
        link=LinkSpec(rate_bytes_per_s=max(1, min(round(rate), MAX_BYTES_PER_S)), **recorded.link()),
        limits=recorded.limits(),
    )


def _in_memory(scenario: Experiment, times_smaller: float) -> Experiment:
    """Return a scenario of pages that go as they are, as fast as those went that were so many times smaller."""
    if times_smaller == 1:
        return scenario
    link, limit = scenario.link, scenario.parameters.get(_LIMIT, 0)
    faster = msgspec.structs.replace(
        link,
        rate_bytes_per_s=min(round(link.rate_bytes_per_s * times_smaller), MAX_BYTES_PER_S),
        batch_bytes=min(round(link.batch_bytes * times_smaller), MAX_BATCH_BYTES),
    )
    scaled = {_LIMIT: min(round(int(limit) * times_smaller), MAX_BYTES_PER_S)} if limit else {}
    return msgspec.structs.replace(scenario, link=faster, parameters={**scenario.parameters, **scaled})


def _policy_is_here(started: Started) -> bool:
    """Tell whether the policy that has decided can decide again: it comes along, or is the same one here."""
    name = str(started.parameters.get(POLICY, DEFAULT_POLICY))
    try:
        return name in BUILT_IN or find_policy(name).digest == started.policy_digest
    except UsageError:
        return False


def began_ns(entries: Sequence[Entry]) -> int:
    """Return when the migration began, in the time of its VM."""
    total_ns = entries[-1].event.total_time_ns if isinstance(entries[-1].event, Ended) else None
    return max(entries[0].time_ns, entries[-1].time_ns - (total_ns or MAX_TIME_NS))


def throttle_of(entries: Sequence[Entry]) -> Iterator[tuple[int, int]]:
    """Yield since when the guest was slowed by how many percent, in the time of its VM.

    That none is in force any more is left out: only at the end is the guest let run.
    """
    start_ns = began_ns(entries)
    for entry in entries:
        match entry.event:
            case Decided(effective_percent=percent) | ThrottleSeen(throttle_percent=percent) if percent:
                yield max(0, entry.time_ns - start_ns), percent
