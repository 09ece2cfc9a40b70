"""Carries out a migration as somebody ordered it, with the means there are: the VM's own, or ours from outside."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.control.actuators import Vm
from vmferry.control.arrival import arrival_of, ask_for_word
from vmferry.control.awaiting import await_migration
from vmferry.control.behind import Behind, own_variant
from vmferry.control.course import Course, Onlookers
from vmferry.control.destination import Destination
from vmferry.control.drive import Progress, Result, ask
from vmferry.control.hand_over import HandOver
from vmferry.control.held import HeldDestination
from vmferry.control.leftovers import Leftovers
from vmferry.control.limits import NO_LIMITS, Limits
from vmferry.control.link import LinkKeeper
from vmferry.control.means import Kinds, Means
from vmferry.control.place import HERE, Place
from vmferry.control.prospect import Prospect
from vmferry.control.recorder import Recorder
from vmferry.control.sensors import WINDOW_MS, DirtyRateSensor
from vmferry.control.settings import Settings
from vmferry.control.steer import STEERED, Evaluation, Steering
from vmferry.control.steered import Steered
from vmferry.control.vm_record import VmRecord, open_recorder
from vmferry.convergence.link import LinkWatch
from vmferry.convergence.policies.registry import find_policy, load_policy, registered_name
from vmferry.convergence.variants import BACKGROUND_SYNC, POLICY, POLICY_SETTINGS, Variant
from vmferry.errors import CommandError, UsageError
from vmferry.migration.events import RecordedBy
from vmferry.migration.journal import TeeJournal
from vmferry.migration.lost_work import LostWork
from vmferry.migration.ports import Clock, Journal
from vmferry.settings.parameters import PARAMETERS
from vmferry.transport.uri import parse_uri

_NS_PER_MS = 1_000_000
_STALL_TIMEOUT = "stall-timeout"

STEERING_PARAMETERS = frozenset(name for name in PARAMETERS if "throttle" in name or name.startswith("x-")) | {
    BACKGROUND_SYNC,
    POLICY,
    POLICY_SETTINGS,
    _STALL_TIMEOUT,
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
    hand_over_timeout_ns: int | None = None
    """How long the other side may hold the stopped guest of a QEMU; None is what the downtime limit suggests."""
    destination: Destination | None = None
    """The other side, if it can be asked."""
    journal: Journal = field(default_factory=lambda: TeeJournal([]))


def carry_out(
    monitor: Monitor,
    order: Order,
    watch: Callable[[Progress], None],
    tell: Callable[[str], None],
    warn: Callable[[str], None] | None = None,
    *,
    clock: Clock,
    cancel: CancelToken,
    place: Place = HERE,
) -> Result:
    """Migrate and return how it ended; `watch` sees every poll, `tell` gets lines for people.

    However it ends, what was changed on the VM is undone, and `warn` (else `tell`) gets a line for each thing that
    could not be. `cancel` cancels a migration that we started; where it had not begun, or we took it over,
    CancelledError is raised. Raises UsageError, HostError, MonitorError, MigrationError if nobody can follow it any
    more, and InterruptionError if a signal was to cancel it and it goes on.
    """
    _check(monitor, Behind.ask(monitor), order)
    if order.uri is None:
        await_migration(monitor, clock, cancel, wait=order.wait)
    behind = Behind.ask(monitor)  # again, as libvirt changes parameters when it begins a migration
    leftovers = Leftovers(monitor, warn or tell, place.put_back_later)
    with ExitStack() as stack:
        lost = LostWork(clock.now_ns)
        journal = TeeJournal([order.journal, lost])
        recorder = open_recorder(monitor, behind, journal, clock.now_ns, attached=order.uri is None)
        destination = _destination_to_hold(behind, order)
        steers = _is_steered(behind, order)
        other = destination.monitor if destination else None
        guard = stack.enter_context(place.guard(monitor, warn or tell, other)) if steers or destination else None
        settings = stack.enter_context(Settings(monitor, clock, behind, leftovers.leave))
        steered = prospect = None
        link = _keep_link(monitor, behind, order, tell)
        if guard and steers:
            vm = Vm(monitor, behind, guard, settings)
            steered = stack.enter_context(_steer(vm, place.means, clock, order, recorder, link.watch, lost, tell))
        else:
            prospect = _set_own(behind, order, settings, tell)
        if order.uri is not None:
            ask_for_word(behind, settings, order.uri)
        held = None
        if guard and destination:
            held = stack.enter_context(HeldDestination(monitor, clock, destination, guard, warn or tell))
            destination.hold()
        stack.callback(cancel.close)  # the first to be called, and then all is undone
        start_recording(recorder, monitor, steered.parameters if steered else {})
        hand_over = _bound_hand_over(monitor, clock, behind, order)
        onlookers = Onlookers(watch, tell, recorder, lost)
        course = Course(
            monitor,
            clock,
            cancel,
            order.uri,
            order.limits,
            settings,
            steered,
            prospect,
            hand_over,
            held,
            link,
            onlookers,
        )
        result = course.run()
        recorder.end(result)
        if course.used_destination and not result.completed and not _starts_destinations_anew(monitor, behind):
            tell("QEMU's destination serves one migration: start it anew before the next one")
        result = replace(
            result,
            arrival=arrival_of(result, behind, settings.capabilities, monitor.manager, order.destination),
            verdicts=tuple(course.keeper.verdicts(result)),
            throttle_by=steered.means.throttle.name if steered else None,
            throttle_reasons=tuple(steered.means.reasons) if steered else (),
        )
    return replace(result, not_put_back=tuple(leftovers.commands))


def _check(monitor: Monitor, behind: Behind, order: Order) -> None:
    """Raise UsageError for what cannot be, before anything is done."""
    if order.uri is not None and behind.converges_responsively:  # QEMU knows more kinds of addresses
        parse_uri(order.uri)
    if not _is_steered(behind, order) and (order.throttle_by or order.window_ms is not None):
        raise UsageError(
            "the way to slow the guest and the interval are those of a QEMU that is steered from outside, "
            "which needs a policy, or a variant that has background sync"
        )
    order.limits.check()
    if order.variant and _is_steered(behind, order):
        order.variant.named(_loaded)
    if order.uri is not None:
        if (status := ask(monitor)).running:
            raise UsageError(f"the VM is migrating already ('{status.status}'); --attach steers that migration")
        if job := monitor.manager and monitor.manager.job():
            raise UsageError(f"the manager's job of the VM is '{job}' now; migrate when that is over")
        if order.destination:
            order.destination.require_waiting()


def _is_steered(behind: Behind, order: Order) -> bool:
    """True if a variant is wanted that the VM does not have by itself."""
    wants_more = order.variant is not None and not order.variant.is_qemus
    return wants_more and order.auto_converge and not behind.converges_responsively


def _destination_to_hold(behind: Behind, order: Order) -> Destination | None:
    """Our own VMs never run twice, nor does a destination that somebody else tells to go on."""
    if behind.converges_responsively or order.uri is None or order.destination is None:
        return None
    return None if order.destination.starts_paused() else order.destination


def _bound_hand_over(monitor: Monitor, clock: Clock, behind: Behind, order: Order) -> HandOver | None:
    """Our own VMs bound it themselves, and who has begun a migration looks after it."""
    if behind.converges_responsively or order.uri is None:
        return None
    return HandOver(monitor, clock, order.uri, order.hand_over_timeout_ns, order.destination)


def _starts_destinations_anew(monitor: Monitor, behind: Behind) -> bool:
    """Our own VMs wait on for the next guest, and libvirt starts a destination for each migration."""
    return behind.converges_responsively or (monitor.manager is not None and monitor.manager.migrates)


def _keep_link(monitor: Monitor, behind: Behind, order: Order, tell: Callable[[str], None]) -> LinkKeeper:
    """What slows a guest leaves silence out of account, unless it is QEMU's own auto-converge."""
    heeds_silence = _is_steered(behind, order) or behind.converges_responsively
    return LinkKeeper(monitor, _stall_timeout_ns(behind, order), tell, slows_on_silence=not heeds_silence)


def _stall_timeout_ns(behind: Behind, order: Order) -> int:
    """Our own VMs give up by themselves, and who has begun a migration decides when."""
    if behind.converges_responsively or (order.uri is None and _STALL_TIMEOUT not in order.parameters):
        return 0
    timeout_ms = order.parameters.get(_STALL_TIMEOUT, PARAMETERS[_STALL_TIMEOUT].default)
    assert isinstance(timeout_ms, int)
    return timeout_ms * _NS_PER_MS


def _set_own(behind: Behind, order: Order, settings: Settings, tell: Callable[[str], None]) -> Prospect | None:
    """Let the VM converge by its own means, if it is to."""
    variant = order.variant.named(registered_name) if order.variant and behind.converges_responsively else {}
    changed = order.limits.applied_to({**variant, **order.parameters}, behind.parameters)
    if not behind.converges_responsively:
        changed.pop(_STALL_TIMEOUT, None)
    _set_parameters(settings, changed)
    if not behind.converges_responsively:
        tell(
            f"{behind.name} is left to converge by itself; --variant background-sync+responsive-throttle steers it, "
            "by slowing it as soon and as much as measurements call for"
        )
    if order.uri is not None:
        settings.set_capability("auto-converge", order.auto_converge)
    highest = {**behind.parameters, **changed}.get("max-cpu-throttle")
    return Prospect(highest, tell) if settings.capabilities.get("auto-converge") and isinstance(highest, int) else None


def _set_parameters(settings: Settings, values: Mapping[str, object]) -> None:
    try:
        settings.set_parameters(values)
    except CommandError as error:
        raise UsageError(f"the VM refuses a parameter: {error}") from error


def start_recording(recorder: Recorder | VmRecord, monitor: Monitor, obeyed: Mapping[str, object]) -> dict[str, Any]:
    """Record the beginning, with the VM's parameters and those that we obey instead of it. Returns the former."""
    parameters = dict(monitor.execute("query-migrate-parameters"))
    capabilities = monitor.execute("query-migrate-capabilities")
    memory = monitor.execute("query-memory-size-summary")
    effective = {**own_variant(monitor.execute("query-version")).settings, **parameters, **obeyed}
    recorder.start(
        total_bytes=memory["base-memory"] + memory.get("plugged-memory", 0),
        vcpu_count=len(monitor.execute("query-cpus-fast")),
        auto_converge=bool(obeyed) or {"capability": "auto-converge", "state": True} in capabilities,
        parameters={name: value for name, value in effective.items() if name in PARAMETERS},
        recorded_by=RecordedBy.DRIVER if obeyed else RecordedBy.OBSERVER,
        policy_digest=find_policy(str(obeyed[POLICY])).digest if obeyed else None,
    )
    return parameters


def _loaded(policy: str) -> str:
    return load_policy(policy).reference


def _steer(
    vm: Vm,
    kinds: Kinds,
    clock: Clock,
    order: Order,
    recorder: Recorder | VmRecord,
    link: LinkWatch,
    lost: LostWork,
    tell: Callable[[str], None],
) -> Steered:
    """Prepare to make the decisions from outside, and say by which means."""
    assert order.variant
    current = vm.behind.parameters | {name: STEERED.as_qmp()[name] for name in STEERING_PARAMETERS}
    wanted = order.limits.applied_to(order.parameters, current)
    ours = {name: value for name, value in wanted.items() if name in STEERING_PARAMETERS}
    parameters = STEERED.changed({**order.variant.named(_loaded), **ours})
    _set_parameters(vm.settings, {name: value for name, value in wanted.items() if name not in ours})
    sensor = DirtyRateSensor(vm.monitor, vm.behind, WINDOW_MS if order.window_ms is None else order.window_ms)
    means = Means(vm, order.throttle_by, tell, kinds)
    tell(f"{vm.behind.name} is driven from outside: {means.throttle.description}")
    for reason in means.reasons:
        tell(reason)
    means.hold_back_auto_converge(begins=order.uri is not None)

    prospect = Prospect(parameters.max_cpu_throttle, tell)

    def evaluated(evaluation: Evaluation) -> None:
        recorder.evaluated(evaluation)
        throttle = evaluation.throttle
        if period := throttle.period:
            prospect.evaluated(period.throttle_percent, period.dirty_bytes, period.sent_bytes)
        if throttle.percent != evaluation.old_percent:
            source = f"measured by {sensor.mode}" if evaluation.kind == "background" else "end of iteration"
            tell(f"{(evaluation.progress.elapsed_ms or 0) / 1000:.1f} s: {throttle.reason} ({source})")

    steering = Steering(sensor, means, link, lost, parameters, evaluated, clock.now_ns())
    obeyed = {name: value for name, value in parameters.as_qmp().items() if name in STEERING_PARAMETERS}
    return Steered(vm.monitor, clock, steering, means, obeyed, tell)
