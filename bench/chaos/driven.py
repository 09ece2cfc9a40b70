"""The shipped driver against modelled QEMUs, in virtual time, under drawn faults: whatever happens, all is put back.

Its own faults are those of monitors, of other clients, of quotas and of the far side; the bytes of the connection are
the matter of `simulated.py` and `live.py`.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import msgspec

from bench.chaos.check import Outcome
from bench.chaos.driven_faults import (
    AMishap,
    AnyFault,
    BadDestination,
    DrivenSettings,
    FarMishap,
    Interrupted,
    LinkLost,
    LinkStill,
    Meddling,
    QuotaLost,
    draw_settings,
)
from bench.chaos.faults import generator
from vmferry.cli.progress import exit_code_of
from vmferry.client.qmp_client import Event
from vmferry.control.asking.result import Result
from vmferry.control.ending import MAYBE_TWO
from vmferry.convergence.limits import Limits
from vmferry.errors import CommandError, VmferryError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.scenario import parse_scenario
from vmferry.simulation.qemu.destination import LoadModel
from vmferry.simulation.qemu.lab import ModelledLab
from vmferry.simulation.qemu.monitor import Fault
from vmferry.study.driven import DrivenRun
from vmferry.units import NS_PER_MS, NS_PER_S

_AFTERMATH_NS = 700 * NS_PER_S
"""Longer than anybody goes on trying to put something back."""
_CHUNK = 50
BODY = "driven"
"""What these runs say of their kind of VM."""
_GRACE_MS = 300
_ENDED_BY = {"completed", "failed", "cancelled"}


class DrivenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One run; with `seed` and `number` it can be made again."""

    body: str = BODY
    seed: int
    number: int
    seconds: float
    """Of virtual time."""
    settings: DrivenSettings
    ended: str
    """A status, or the name of the error that the driver raised."""
    exit_code: int | None
    """None where it raised one."""
    has_fired: bool
    """True if one of its faults happened."""
    outcome: Outcome
    violations: list[str]

    @property
    def fault_name(self) -> str:
        """What broke, if it was one thing."""
        names = {msgspec.to_builtins(fault)["type"] for fault in self.settings.faults}
        return names.pop() if len(names) == 1 else "several"


def run_many(seed: int, numbers: Sequence[int], processes: int) -> Iterator[DrivenRecord]:
    """Yield the records of these runs, in order."""
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(partial(run_one, seed), numbers, chunksize=_CHUNK)


def run_one(seed: int, number: int) -> DrivenRecord:
    """Make the run of this number, which is always the same."""
    run = FaultyRun(draw_settings(generator(seed, number)), number)
    run.carry_out()
    violations = list(run.violations())
    return DrivenRecord(
        seed=seed,
        number=number,
        seconds=run.seconds,
        settings=run.settings,
        ended=run.ended,
        exit_code=run.exit_code,
        has_fired=run.has_fired,
        outcome=Outcome.BROKEN if violations else run.outcome,
        violations=violations,
    )


class FaultyRun:
    """One driven migration with faults, and what is to be seen of it."""

    def __init__(self, settings: DrivenSettings, seed: int) -> None:
        self.settings = settings
        faults = settings.faults
        bad = next((fault for fault in faults if isinstance(fault, BadDestination)), None)
        self._run = DrivenRun(
            _scenario(settings),
            settings.variant,
            seed,
            faults=[
                Fault(fault.mishap, fault.number, fault.command, fault.duration_ms * NS_PER_MS)
                for fault in faults
                if isinstance(fault, AMishap)
            ],
            lost_quotas=[fault.number for fault in faults if isinstance(fault, QuotaLost)],
            load_model=LoadModel(bad.load_ms * NS_PER_MS, bad.refusal) if bad else LoadModel(),
            holds_destination=settings.holds_destination,
            destination_faults=[
                Fault(fault.mishap, fault.number, duration_ns=fault.duration_ms * NS_PER_MS)
                for fault in faults
                if isinstance(fault, FarMishap)
            ],
            limits=Limits(
                deadline_ns=None if settings.deadline_ms is None else settings.deadline_ms * NS_PER_MS,
                max_downtime_ms=settings.max_downtime_ms,
                on_limit=settings.on_limit,
            ),
        )
        self._lab = self._run.lab
        self._host = self._lab.host
        self._before = self._set()
        self._theirs: dict[str, object] = {}
        """What other clients have set."""
        self._others_stopped = self._others_ran = self._fired = False
        self._witness = Witness(self._lab)
        self.result: Result | None = None
        self.error: Exception | None = None
        self.seconds = 0.0
        for fault in faults:
            self._schedule(fault)

    def carry_out(self) -> None:
        """Migrate, and wait until nobody tries anything any more."""
        try:
            self.result = self._run.run()
        except Exception as error:
            self.error = error
        self.seconds = round(self._lab.clock.now_ns() / NS_PER_S, 3)
        self._run.place.wait_for_the_rest()
        self._lab.clock.sleep_ns(_AFTERMATH_NS)

    @property
    def ended(self) -> str:
        """How the driver has ended."""
        return self.result.last.status if self.result else type(self.error).__name__

    @property
    def exit_code(self) -> int | None:
        """With which exit code; an error has one of the command line's."""
        return int(exit_code_of(self.result)) if self.result else None

    @property
    def has_fired(self) -> bool:
        """True if one of the faults happened before the driver had ended."""
        return bool(self._fired or self._run.monitor.mishaps or self._run.there.mishaps) or self._met_at_the_far_side

    @property
    def _met_at_the_far_side(self) -> bool:
        """True if the migration came so far that it met what is wrong with the destination, or with quotas."""
        kinds = {type(fault) for fault in self.settings.faults}
        no_quota = QuotaLost in kinds and any("no longer by cgroup" in line for line in self._run.told)
        return no_quota or (BadDestination in kinds and self._lab.destination.was_given_a_guest)

    @property
    def outcome(self) -> Outcome:
        """Where the guest is."""
        if self._witness.two_ran:
            return Outcome.WINDOW
        if self._lab.destination.runs_guest:
            return Outcome.MOVED
        return Outcome.STAYED if self._host.runs_guest else Outcome.PAUSED

    def violations(self) -> Iterator[str]:
        """Yield what should not be."""
        if self.error and not isinstance(self.error, VmferryError):
            yield f"a defect: {self.error!r}"
        yield from self._left_behind()
        yield from self._two_or_none()
        if self.result:
            yield from self._untrue(self.result)

    def _left_behind(self) -> Iterator[str]:
        """What was changed on the VM is as it was, or named, or somebody else's."""
        if self._host.throttle_by("quota"):
            yield f"a quota that takes {self._host.throttle_by('quota')} %"
        told = "\n".join([*self._run.told, *self._run.place.told])
        for name, value in self._set().items():
            if value not in (self._before[name], self._theirs.get(name, self._before[name])) and name not in told:
                yield f"{name} is {value}, was {self._before[name]}, and nobody was told"
        if self._has_ended and self._lab.guest.logging:
            yield "the dirty log is on"

    def _two_or_none(self) -> Iterator[str]:
        """Never two, but where the destination's monitor was not given, and then it is said; none only by others."""
        error = (self.result.last.error if self.result else str(self.error)) or ""
        if (
            self._witness.two_ran
            and not self._others_ran
            and (self.settings.holds_destination or MAYBE_TWO not in error)
        ):
            yield f"two running copies, and the driver said: {error or self.ended}"
        if self._lab.running_guests == 0 and self._has_ended and not self._others_stopped and not self._is_told_held():
            yield f"no running copy: here {self._host.run_state}, there {self._lab.destination.run_state}"

    def _is_told_held(self) -> bool:
        told = "\n".join(self._run.told)
        return "keeps it paused" in told or "cont there" in told or "look whether it runs there" in told

    def _untrue(self, result: Result) -> Iterator[str]:
        migration = self._lab.source.migration
        status = migration.status.value if migration else "none"
        if result.last.status in _ENDED_BY and status not in (result.last.status, "none"):
            yield f"it says {result.last.status}, but QEMU {status}"
        if self._others_ran:
            return
        if self.exit_code == 0 and not (self._host.run_state == "postmigrate" and self._lab.destination.is_there):
            yield f"exit code 0, but the source is {self._host.run_state}"
        if self.exit_code == 0 and not self._lab.destination.runs_guest and not self._others_stopped:
            yield f"exit code 0, but the destination is {self._lab.destination.run_state}"
        broken = [verdict for verdict in result.verdicts if not verdict.obeyed]
        if self.exit_code not in (0, 4) or (self.exit_code == 4) != bool(broken):
            yield from self._untrue_of_completed(result)
        yield from self._untrue_of_limits(result)

    def _untrue_of_completed(self, result: Result) -> Iterator[str]:
        if result.completed and result.arrival and result.arrival.state == "verified":
            yield f"exit code {self.exit_code} of a migration that is verified to be complete"

    def _untrue_of_limits(self, result: Result) -> Iterator[str]:
        """What the verdicts say of time and downtime is what there was."""
        kept = {verdict.limit: verdict.kept for verdict in result.verdicts}
        downtime_ms, allowed_ms = result.last.downtime_ms or 0, self.settings.max_downtime_ms
        is_long = result.completed and allowed_ms is not None and downtime_ms > allowed_ms
        if is_long and kept.get("max downtime") is not False:
            yield f"{downtime_ms} ms of {allowed_ms} ms of downtime: {kept}"
        elapsed_ms, deadline_ms = result.last.elapsed_ms, self.settings.deadline_ms
        is_late = deadline_ms is not None and (elapsed_ms or 0) > deadline_ms + _GRACE_MS
        if is_late and kept.get("finish-by") is not False:
            yield f"{elapsed_ms} ms of {deadline_ms} ms: {kept}"

    @property
    def _has_ended(self) -> bool:
        migration = self._lab.source.migration
        return migration is None or not migration.status.is_running

    def _set(self) -> dict[str, object]:
        return {**self._host.settings.parameters, **self._host.settings.capabilities}

    def _schedule(self, fault: AnyFault) -> None:
        match fault:
            case Meddling():
                self._at(fault.at_ms, partial(self._meddle, fault.command, fault.arguments))
            case LinkLost():
                self._at(fault.at_ms, self._lab.lose_link)
            case LinkStill():
                self._at(fault.at_ms, partial(self._lab.host.pace.set_rate, 0))
                self._at(fault.at_ms + fault.duration_ms, partial(self._lab.host.pace.set_rate, _LINK_BYTES_PER_S))
            case Interrupted():
                self._at(fault.at_ms, partial(self._run.cancel.set, "interrupted", signal.SIGINT))

    def _at(self, at_ms: int, action: Callable[[], object]) -> None:
        def act() -> None:
            self._fired |= self.result is None and self.error is None
            action()

        self._lab.clock.schedule(at_ms * NS_PER_MS, act)

    def _meddle(self, command: str, arguments: dict[str, Any]) -> None:
        try:
            self._lab.source.execute(command, arguments)
        except CommandError:
            return
        self._others_stopped |= command == "stop"
        self._others_ran |= command == "cont" and bool(self._lab.source.migration)
        if command == "migrate-set-parameters":
            self._theirs |= arguments


class Witness(list[Event]):
    """Hears every event of both sides, and looks how many copies of the guest run."""

    def __init__(self, lab: ModelledLab) -> None:
        super().__init__()
        self.two_ran = False
        self._lab = lab
        lab.host.board.listeners.append(self)
        lab.destination.board.listeners.append(self)

    def append(self, event: Event) -> None:
        """Look, and keep no event."""
        self.two_ran |= self._lab.running_guests > 1


_LINK_BYTES_PER_S = 20 << 20
_SCENARIO = """
name = "faulty"
driven = "{release}"
[guest]
memory = "64M"
vcpus = 2
used-memory = "32M"
[[guest.loads]]
pattern = "{pattern}"
memory = "{load_mib}M"
write-rate = "200MB/s"
[link]
rate = "20MiB/s"
latency = "1ms"
[parameters]
downtime-limit = 100
[limits]
max-time = "60s"
"""


def _scenario(settings: DrivenSettings) -> Experiment:
    pattern = "sweep" if settings.load_mib else "idle"
    text = _SCENARIO.format(release=settings.release, pattern=pattern, load_mib=settings.load_mib)
    return parse_scenario(text.encode(), "faulty")
