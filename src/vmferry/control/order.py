"""Carries out a migration as somebody ordered it, with the means there are: the VM's own, or ours from outside."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from vmferry.control.actuators import Vm, choose_throttle, hold_auto_converge
from vmferry.control.awaiting import await_migration
from vmferry.control.behind import Behind, own_variant
from vmferry.control.drive import IN_POSTCOPY, Progress, Result, ask, cancel, follow, pause
from vmferry.control.guard import Guard
from vmferry.control.interrupts import ignore_interrupts
from vmferry.control.limits import NO_LIMITS, LimitKeeper, Limits
from vmferry.control.monitor import Monitor
from vmferry.control.phases import Phases
from vmferry.control.recorder import Recorder
from vmferry.control.sensors import WINDOW_MS, DirtyRateSensor
from vmferry.control.settings import Settings
from vmferry.control.steer import STEERED, Evaluation, Steering
from vmferry.control.steered import Steered
from vmferry.convergence.background_sync import BackgroundSync
from vmferry.convergence.policy import Variant
from vmferry.errors import CommandError, MigrationError, MonitorError, UsageError, VmferryError
from vmferry.migration.journal import TeeJournal
from vmferry.migration.parameters import PARAMETERS
from vmferry.migration.ports import Journal
from vmferry.transport.uri import parse_uri

STEERING_PARAMETERS = frozenset(name for name in PARAMETERS if "throttle" in name or name.startswith("x-")) | {
    "background-sync",
    "convergence-policy",
}
"""Parameters that our decisions obey, and not the VM, when it is driven from outside."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What somebody wants."""

    uri: str | None
    """Where to; None is to take over the migration that is running."""
    wait: bool = False
    """To take over: wait until one runs."""
    variant: Variant | None = None
    auto_converge: bool = True
    parameters: Mapping[str, object] = field(default_factory=dict)
    """By QMP name; those that are not given keep their values."""
    throttle_by: str | None = None
    """One of `actuators.MEANS`; None is the first that is possible."""
    window_ms: int | None = None
    """How long a measurement of the dirty rate lasts; None is WINDOW_MS."""
    limits: Limits = NO_LIMITS
    journal: Journal = field(default_factory=lambda: TeeJournal([]))


def carry_out(monitor: Monitor, order: Order, watch: Callable[[Progress], None], tell: Callable[[str], None]) -> Result:
    """Migrate and return how it ended; `watch` sees every poll, `tell` gets lines for people.

    However it ends, what was changed on the VM is undone. KeyboardInterrupt cancels a migration that we started, and is
    raised if we took it over. Raises UsageError, HostError, MonitorError, and MigrationError if it was interrupted and
    goes on.
    """
    _check(monitor, Behind.ask(monitor), order)
    if order.uri is None:
        await_migration(monitor, wait=order.wait)
    behind = Behind.ask(monitor)  # again, as libvirt changes parameters when it begins a migration
    with ExitStack() as stack:
        recorder = Recorder(order.journal, time.monotonic_ns)
        guard = stack.enter_context(Guard()) if _is_steered(behind, order) else None
        settings = stack.enter_context(Settings(monitor, behind))
        steered = None
        if guard:
            steered = stack.enter_context(_steer(Vm(monitor, behind, guard, settings), order, recorder, tell))
        else:
            _set_own(behind, order, settings)
        stack.callback(ignore_interrupts)  # the first to be called, and then all is undone
        start_recording(recorder, monitor, steered.parameters if steered else {})
        course = _Course(monitor, order, settings, steered, recorder, watch, tell)
        result = course.run()
        recorder.end(result)
        restarts_itself = behind.converges_responsively or (monitor.manager and monitor.manager.migrates)
        if course.used_destination and not result.completed and not restarts_itself:
            tell("QEMU's destination serves one migration: start it anew before the next one")
        return replace(
            result,
            verdicts=tuple(course.keeper.verdicts(result)),
            throttle_by=steered.choice.throttle.name if steered else None,
            throttle_reasons=steered.choice.reasons if steered else (),
        )


class _Course:
    """The time from the beginning of a migration to its end."""

    def __init__(
        self,
        monitor: Monitor,
        order: Order,
        settings: Settings,
        steered: Steered | None,
        recorder: Recorder,
        watch: Callable[[Progress], None],
        tell: Callable[[str], None],
    ) -> None:
        vcpu_count = len(monitor.execute("query-cpus-fast"))
        elapsed_ms = 0 if order.uri else ask(monitor).elapsed_ms
        self.keeper = LimitKeeper(order.limits, monitor, settings, vcpu_count, tell, elapsed_ms)
        self.used_destination = False
        """True once the destination has accepted the migration."""
        self._monitor = monitor
        self._uri = order.uri
        self._steered = steered
        self._recorder = recorder
        self._watch = watch
        self._tell = tell
        self._ours = False
        """True if it is for us to cancel."""
        self._phases = Phases(tell)

    def run(self) -> Result:
        """Begin the migration, or take the one that runs, and follow it."""
        try:
            return follow(
                self._monitor,
                self._observe,
                self._interrupted,
                self._steered.pause if self._steered else pause,
                self._begin,
            )
        except BaseException as error:
            nobody_to_ask = isinstance(error, MonitorError) and not isinstance(error, CommandError)
            if self._ours and not nobody_to_ask and not isinstance(error, MigrationError):
                self._call_off()
            raise

    def _begin(self) -> None:
        if self._uri is not None:
            self._ours = True  # also if an interruption comes before the answer
            try:
                self._monitor.execute("migrate", {"uri": self._uri})
            except CommandError:
                self._ours = False
                raise

    def _observe(self, progress: Progress) -> Progress:
        self.used_destination = self.used_destination or progress.status == "active"
        if self._steered and progress.in_postcopy:
            self._steered.stop()
        self._phases.observe(progress)
        seen = self._steered.complete(progress) if self._steered else progress
        self._recorder.poll(seen, stopped=any(event.name == "STOP" for event in self._monitor.take_events()))
        self._watch(seen)
        self.keeper.observe(0 if progress.in_postcopy else seen.throttle_percent)
        return self._steered.observe(progress) if self._steered else seen

    def _interrupted(self) -> bool:
        """Let the guest run before all else, and cancel. Raises MigrationError in post-copy."""
        self._monitor.hurry()
        if not self._ours:
            raise KeyboardInterrupt
        if self._steered:
            self._steered.stop()
        if not cancel(self._monitor):
            raise MigrationError(IN_POSTCOPY)
        return True

    def _call_off(self) -> None:
        """Cancel, after an error that leaves nobody to look after the migration, and wait until that is done."""
        with suppress(VmferryError):
            if self._interrupted():
                follow(self._monitor, lambda progress: progress, lambda: True, cancelled=True)


def _check(monitor: Monitor, behind: Behind, order: Order) -> None:
    """Raise UsageError for what cannot be, before anything is done."""
    if order.uri is not None and behind.converges_responsively:  # QEMU knows more kinds of addresses
        parse_uri(order.uri)
    if not _is_steered(behind, order) and (order.throttle_by or order.window_ms is not None):
        raise UsageError(
            "the way to slow the guest and the interval are those of a QEMU that is steered from outside, "
            "which needs a variant that has background sync"
        )
    if order.uri is not None:
        if (status := ask(monitor)).running:
            raise UsageError(f"the VM is migrating already ('{status.status}'); --attach steers that migration")
        if job := monitor.manager and monitor.manager.job():
            raise UsageError(f"the manager's job of the VM is '{job}' now; migrate when that is over")


def _is_steered(behind: Behind, order: Order) -> bool:
    """True if a variant is wanted that the VM does not have by itself."""
    wants_more = order.variant is not None and order.variant.background_sync is not BackgroundSync.OFF
    return wants_more and order.auto_converge and not behind.converges_responsively


def _set_own(behind: Behind, order: Order, settings: Settings) -> None:
    """Let the VM converge by its own means."""
    variant = order.variant.settings if order.variant and behind.converges_responsively else {}
    _set_parameters(settings, order.limits.applied_to({**variant, **order.parameters}, behind.parameters))
    if order.uri is not None:
        settings.set_capability("auto-converge", order.auto_converge)


def _set_parameters(settings: Settings, values: Mapping[str, object]) -> None:
    try:
        settings.set_parameters(values)
    except CommandError as error:
        raise UsageError(f"the VM refuses a parameter: {error}") from error


def start_recording(recorder: Recorder, monitor: Monitor, obeyed: Mapping[str, object]) -> dict[str, Any]:
    """Record the beginning, with the VM's parameters and those that we obey instead of it. Returns the former."""
    parameters = dict(monitor.execute("query-migrate-parameters"))
    capabilities = monitor.execute("query-migrate-capabilities")
    effective = {**own_variant(monitor.execute("query-version")).settings, **parameters, **obeyed}
    recorder.start(
        total_bytes=int(monitor.execute("query-memory-size-summary").get("base-memory", 0)),
        vcpu_count=len(monitor.execute("query-cpus-fast")),
        auto_converge=bool(obeyed) or {"capability": "auto-converge", "state": True} in capabilities,
        parameters={name: value for name, value in effective.items() if name in PARAMETERS},
    )
    return parameters


def _steer(vm: Vm, order: Order, recorder: Recorder, tell: Callable[[str], None]) -> Steered:
    """Prepare to make the decisions from outside, and say by which means."""
    assert order.variant
    current = vm.behind.parameters | {name: STEERED.as_qmp()[name] for name in STEERING_PARAMETERS}
    wanted = order.limits.applied_to(order.parameters, current)
    ours = {name: value for name, value in wanted.items() if name in STEERING_PARAMETERS}
    parameters = STEERED.changed({**order.variant.settings, **ours})
    _set_parameters(vm.settings, {name: value for name, value in wanted.items() if name not in ours})
    sensor = DirtyRateSensor(vm.monitor, vm.behind, WINDOW_MS if order.window_ms is None else order.window_ms)
    choice = choose_throttle(vm, order.throttle_by)
    if choice.throttle.name != "auto-converge":
        if order.uri is not None:
            vm.settings.set_capability("auto-converge", False)
        elif vm.behind.capabilities.get("auto-converge"):
            hold_auto_converge(vm)
            tell("QEMU's own auto-converge cannot be switched off while it migrates; it is held at 1 %")
    tell(f"{vm.behind.name} is driven from outside: {choice.throttle.description}")
    for reason in choice.reasons:
        tell(reason)

    def evaluated(evaluation: Evaluation) -> None:
        recorder.evaluated(evaluation)
        if evaluation.decision.throttle_percent != evaluation.sample.throttle_percent:
            source = f"measured by {sensor.mode}" if evaluation.kind == "background" else "end of iteration"
            tell(f"{evaluation.progress.elapsed_ms / 1000:.1f} s: {evaluation.decision.reason} ({source})")

    steering = Steering(sensor, choice.throttle, parameters, evaluated, time.monotonic_ns())
    obeyed = {name: value for name, value in parameters.as_qmp().items() if name in STEERING_PARAMETERS}
    return Steered(vm.monitor, steering, choice, obeyed, tell)
