"""Carries out a migration as somebody ordered it, with the means there are: the VM's own, or ours from outside."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from vmferry.control.actuators import Throttle, Vm, choose_throttle
from vmferry.control.behind import Behind
from vmferry.control.drive import IN_POSTCOPY, POLL_INTERVAL_S, Progress, Result, ask, cancel, follow, pause
from vmferry.control.guard import Guard
from vmferry.control.limits import NO_LIMITS, LimitKeeper, Limits
from vmferry.control.monitor import Monitor
from vmferry.control.recorder import Recorder
from vmferry.control.sensors import WINDOW_MS, DirtyRateSensor
from vmferry.control.settings import Settings
from vmferry.control.steer import STEERED, Evaluation, Steering
from vmferry.convergence.background_sync import BackgroundSync
from vmferry.convergence.policy import Variant
from vmferry.errors import CommandError, HostError, MonitorError, UsageError
from vmferry.migration.journal import TeeJournal
from vmferry.migration.parameters import PARAMETERS
from vmferry.migration.ports import Journal

_STOP_POLL_S = 0.005
"""How often to look whether the guest is being stopped; the downtime may be that much longer."""

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
    variant: Variant | None = None
    auto_converge: bool = True
    parameters: Mapping[str, object] = field(default_factory=dict)
    """By QMP name; those that are not given keep their values."""
    throttle_by: str | None = None
    """One of `actuators.MEANS`; None is the first that is possible."""
    window_ms: int = WINDOW_MS
    """How long a measurement of the dirty rate lasts."""
    limits: Limits = NO_LIMITS
    journal: Journal = field(default_factory=lambda: TeeJournal([]))


def carry_out(monitor: Monitor, order: Order, watch: Callable[[Progress], None], tell: Callable[[str], None]) -> Result:
    """Migrate and return how it ended; `watch` sees every poll, `tell` gets lines for people.

    However it ends, what was changed on the VM is undone. KeyboardInterrupt cancels a migration that we started, and
    lets go of one that we took over. Raises UsageError, HostError, MonitorError.
    """
    behind = Behind.ask(monitor)
    _require_state(monitor, order)
    with ExitStack() as stack:
        recorder = Recorder(order.journal, time.monotonic_ns)
        steered = None
        if _is_steered(behind, order):
            guard = stack.enter_context(Guard())
            vm = Vm(monitor, behind, guard, stack.enter_context(Settings(monitor, behind)))
            steered = stack.enter_context(_steer(vm, order, recorder, tell))
        else:
            _set_own(behind, order, stack.enter_context(Settings(monitor, behind)))
        start_recording(recorder, monitor, steered.parameters if steered else {})
        keeper = LimitKeeper(order.limits, monitor, len(monitor.execute("query-cpus-fast")), tell)
        if order.uri is not None:
            monitor.execute("migrate", {"uri": order.uri})

        def observe(progress: Progress) -> Progress:
            seen = steered.complete(progress) if steered else progress
            recorder.poll(seen, stopped=any(event.name == "STOP" for event in monitor.take_events()))
            watch(seen)
            keeper.observe(seen.throttle_percent)
            return steered.observe(progress) if steered else seen

        def interrupted() -> None:
            if not cancel(monitor):
                tell(IN_POSTCOPY)

        result = follow(
            monitor, observe, interrupted if order.uri is not None else None, steered.pause if steered else pause
        )
        recorder.end(result)
        if not result.completed and not behind.converges_responsively:
            tell("QEMU's destination serves one migration: start it anew before the next one")
        return replace(result, verdicts=tuple(keeper.verdicts(result)))


def _require_state(monitor: Monitor, order: Order) -> None:
    status = ask(monitor)
    if order.uri is None and not status.running:
        raise UsageError("no migration is running that could be steered; give the URI to begin one")
    if order.uri is not None and status.running:
        raise UsageError(f"the VM is migrating already ('{status.status}'); --attach steers that migration")


def _is_steered(behind: Behind, order: Order) -> bool:
    """True if a variant is wanted that the VM does not have by itself."""
    wants_more = order.variant is not None and order.variant.background_sync is not BackgroundSync.OFF
    return wants_more and order.auto_converge and not behind.converges_responsively


def _set_own(behind: Behind, order: Order, settings: Settings) -> None:
    """Let the VM converge by its own means."""
    variant = order.variant.settings if order.variant and behind.converges_responsively else {}
    settings.set_parameters(order.limits.applied_to({**variant, **order.parameters}, behind.parameters))
    if order.uri is not None:
        settings.set_capability("auto-converge", order.auto_converge)


def start_recording(recorder: Recorder, monitor: Monitor, obeyed: Mapping[str, object]) -> dict[str, Any]:
    """Record the beginning, with the VM's parameters and those that we obey instead of it. Returns the former."""
    parameters = dict(monitor.execute("query-migrate-parameters"))
    capabilities = monitor.execute("query-migrate-capabilities")
    recorder.start(
        total_bytes=int(monitor.execute("query-memory-size-summary").get("base-memory", 0)),
        vcpu_count=len(monitor.execute("query-cpus-fast")),
        auto_converge=bool(obeyed) or {"capability": "auto-converge", "state": True} in capabilities,
        parameters={name: value for name, value in {**parameters, **obeyed}.items() if name in PARAMETERS},
    )
    return parameters


def _steer(vm: Vm, order: Order, recorder: Recorder, tell: Callable[[str], None]) -> "_Steered":
    """Prepare to make the decisions from outside, and say by which means."""
    assert order.variant
    current = vm.behind.parameters | {name: STEERED.as_qmp()[name] for name in STEERING_PARAMETERS}
    wanted = order.limits.applied_to(order.parameters, current)
    ours = {name: value for name, value in wanted.items() if name in STEERING_PARAMETERS}
    parameters = STEERED.changed({**order.variant.settings, **ours})
    vm.settings.set_parameters({name: value for name, value in wanted.items() if name not in ours})
    sensor = DirtyRateSensor(vm.monitor, vm.behind, order.window_ms)
    choice = choose_throttle(vm, order.throttle_by)
    if choice.throttle.name != "auto-converge" and order.uri is not None:
        vm.settings.set_capability("auto-converge", False)
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
    return _Steered(vm.monitor, steering, choice.throttle, obeyed, tell)


class _Steered:
    """Steers as long as it can, and then lets the migration go on. A context manager that ends the throttle."""

    def __init__(
        self,
        monitor: Monitor,
        steering: Steering,
        throttle: Throttle,
        parameters: dict[str, object],
        tell: Callable[[str], None],
    ) -> None:
        self.parameters = parameters
        """Those that our decisions obey."""
        self._monitor = monitor
        self._steering = steering
        self._throttle = throttle
        self._tell = tell
        self._over = False
        """True once nothing is steered any more."""

    def complete(self, progress: Progress) -> Progress:
        """Add the throttle that is in force and the newest dirty rate, of which QEMU knows nothing."""
        ours = 0 if self._over or self._throttle.told_by_qemu else self._steering.throttle_percent
        return replace(
            progress,
            throttle_percent=max(progress.throttle_percent, ours),
            dirty_bytes_per_s=self._steering.dirty_bytes_per_s or progress.dirty_bytes_per_s,
        )

    def observe(self, progress: Progress) -> Progress:
        """Steer, and return the progress with the throttle that is in force from now on."""
        if not self._over:
            try:
                self._steering.observe(progress, time.monotonic_ns())
            except (HostError, CommandError) as error:
                self.stop()
                self._tell(f"the migration goes on without being steered: {error}")
        return self.complete(progress)

    def pause(self) -> None:
        """Wait until the next poll, and let the guest run as soon as QEMU wants to stop it for the switchover.

        QEMU waits for each vCPU to notice that it is to stop, and one that is out of quota notices nothing.
        """
        end_s = time.monotonic() + POLL_INTERVAL_S
        while (left_s := end_s - time.monotonic()) > 0:
            if self._over or not self._steering.throttle_percent or not self._throttle.delays_stop:
                time.sleep(left_s)
            elif self._monitor.execute("query-status")["status"] == "finish-migrate":
                self.stop()
            else:
                time.sleep(min(left_s, _STOP_POLL_S))

    def stop(self) -> None:
        """End the throttle, and steer no more."""
        self._over = True
        with suppress(HostError, MonitorError, OSError):  # the guard does what cannot be done here
            self._throttle.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
