"""Carries out a migration as somebody ordered it, with the means there are: the VM's own, or ours from outside."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from vmferry.units import NS_PER_MS
from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.control.actuators import SlowedVm
from vmferry.control.arrival import arrival_of, ask_for_word
from vmferry.control.awaiting import await_migration
from vmferry.control.body import DriverBody, can
from vmferry.control.bottleneck import Bottleneck
from vmferry.control.course import Course, Crew
from vmferry.control.deciding import STALL_TIMEOUT, loaded, make_brain, obeyed, steer, survey
from vmferry.control.destination import Destination
from vmferry.control.driven_vm import DrivenVm
from vmferry.control.guest_memory import GuestMemory
from vmferry.control.hand_over import HandOver
from vmferry.control.held import HeldDestination
from vmferry.control.leftovers import Leftovers
from vmferry.control.limit_keeper import LimitKeeper, own_parameters
from vmferry.control.link import LinkKeeper
from vmferry.control.load_meter import LoadMeter
from vmferry.control.migration_order import Order, is_decided_outside, settled
from vmferry.control.own_iterations import OwnIterations
from vmferry.control.place import HERE, Place
from vmferry.control.ports import Ports
from vmferry.control.progress import Progress, ask
from vmferry.control.recorder import Recorder
from vmferry.control.result import Result
from vmferry.control.settings import Settings
from vmferry.control.survey import memory_bytes
from vmferry.control.transfer import prepare_transfer
from vmferry.control.verdicts import verdicts_on
from vmferry.control.vm_record import VmRecord, open_recorder, start_recording
from vmferry.convergence.actions import Tell
from vmferry.convergence.curve import Written
from vmferry.convergence.limit_watch import Spent
from vmferry.errors import UsageError
from vmferry.migration.journal import TeeJournal
from vmferry.migration.lost_work import LostWork
from vmferry.migration.ports import Clock
from vmferry.settings.parameters import PARAMETERS, MigrationParameters
from vmferry.transport.uri import parse_uri



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
    ports = Ports(monitor, clock, cancel, tell, warn or tell)
    driven = DrivenVm.ask(monitor)
    _check(monitor, driven, settled(driven, order))
    if order.uri is None:
        await_migration(monitor, clock, cancel, wait=order.wait)
    driven = DrivenVm.ask(monitor)  # again, as libvirt changes parameters when it begins a migration
    leftovers = Leftovers(monitor, ports.warn, place.put_back_later)
    with ExitStack() as stack:
        prepared = _prepare(ports, driven, order, watch, place, leftovers, stack)
        stack.callback(cancel.close)  # the first to be called, and then all is undone
        start_recording(prepared.crew.recorder, monitor, driven, obeyed(prepared.parameters), order.limits)
        if prepared.surveyed:
            size_bytes = memory_bytes(monitor)
            used_bytes = place.used_bytes(monitor, driven, size_bytes)
            memory = GuestMemory(size_bytes, used_bytes, place.scan_ns_per_zero_page)
            prepared.crew.body.look_before(prepared.surveyed, memory)
        course = Course(ports, order.uri, prepared.crew)
        result = course.run()
        prepared.crew.recorder.end(result)
        if course.used_destination and not result.completed and not _starts_destinations_anew(monitor, driven):
            tell("QEMU's destination serves one migration: start it anew before the next one")
        result = _judged(result, prepared, ports, driven, order)
    return replace(result, not_put_back=tuple(leftovers.commands))


@dataclass(frozen=True)
class _Prepared:
    """What was prepared for one migration."""

    crew: Crew
    settings: Settings
    lost: LostWork
    parameters: MigrationParameters | None
    """Those that our decisions obey; None if the VM decides."""
    surveyed: tuple[Written, ...]
    """What is known of how the guest writes, before it begins."""


def _prepare(
    ports: Ports,
    driven: DrivenVm,
    asked: Order,
    watch: Callable[[Progress], None],
    place: Place,
    leftovers: Leftovers,
    stack: ExitStack,
) -> _Prepared:
    """Change the VM as is ordered, and find who looks after the migration; `stack` undoes all that."""
    monitor, clock, order = ports.monitor, ports.clock, settled(driven, asked)
    lost = LostWork(clock.now_ns)
    journal = TeeJournal([order.journal, lost])
    recorder = open_recorder(monitor, driven, journal, clock.now_ns, attached=order.uri is None)
    destination, decides = _destination_to_hold(driven, order), is_decided_outside(driven, order)
    other = order.destination.monitor if order.destination else None
    guard = stack.enter_context(place.guard(monitor, ports.warn, other))
    settings = stack.enter_context(Settings(monitor, clock, driven, leftovers.leave, guard))

    def settings_of(other: Monitor, there: DrivenVm) -> Settings:
        left = Leftovers(other, ports.warn, place.put_back_later)
        return stack.enter_context(Settings(other, clock, there, left.leave_refused, guard))

    prepare_transfer(driven, order, settings, settings_of, ports.tell)
    link = _keep_link(monitor, driven, order, ports.tell)
    own_iterations = parameters = slowing = None
    surveyed: tuple[Written, ...] = ()
    if decides:
        parameters, slowing = steer(ports, SlowedVm(monitor, driven, guard, settings), place.means, order)
    if parameters:
        if slowing:
            stack.enter_context(slowing.guest)
        surveyed = survey(ports, driven, order, parameters, slowing)
    else:
        own_iterations = _set_own(driven, order, settings, ports.tell)
    if order.uri is not None:
        ask_for_word(driven, settings, order.uri)
    brain = make_brain(ports, order, parameters, can(settings, slowing), link.watch, lost, surveyed)
    rules = (parameters or MigrationParameters()).rules(order.limits)
    body = DriverBody(ports, brain, rules, settings, recorder, slowing)
    held = None
    if destination:
        held = stack.enter_context(HeldDestination(monitor, clock, destination, guard, ports.warn))
        destination.hold()
    hand_over = _bound_hand_over(monitor, clock, driven, order)
    load = _meter_load(ports, order, settings, recorder)
    keeper = LimitKeeper(driven, asked, settings, body, is_decided_by_us=parameters is not None)
    crew = Crew(body, link, recorder, watch, load, order.wishes, keeper.keep, own_iterations, hand_over, held)
    return _Prepared(crew, settings, lost, parameters, surveyed)


def _judged(result: Result, prepared: _Prepared, ports: Ports, driven: DrivenVm, order: Order) -> Result:
    """Add to how a migration ended whether the guest has arrived, and whether limits were kept."""
    body = prepared.crew.body
    spent = _spent(result, body, prepared.lost)
    return replace(
        result,
        arrival=arrival_of(result, driven, prepared.settings.capabilities, ports.monitor.manager, order.destination),
        verdicts=tuple(verdicts_on(result, body.limits, spent, body.downtime_remark())),
        bottleneck=prepared.crew.load.bottleneck(),
        dirty_sync_share=prepared.crew.load.sync_share(),
        throttle_by=body.means.throttle.name if body.means else None,
        throttle_reasons=tuple(body.means.reasons) if body.means else (),
    )


def _meter_load(ports: Ports, order: Order, settings: Settings, recorder: Recorder | VmRecord) -> LoadMeter:
    """Have it told, and recorded, what bounds the speed."""

    def tell(bottleneck: Bottleneck) -> None:
        ports.tell(f"bottleneck: {bottleneck}")
        recorder.acted(Tell(reason=f"bottleneck: {bottleneck}"))

    in_force = ports.monitor.execute("query-migrate-parameters") | settings.capabilities
    return LoadMeter(ports.monitor, order.uri, ports.clock, in_force, tell)


def _spent(result: Result, body: DriverBody, lost: LostWork) -> Spent:
    """Return what a migration that has ended has cost, by its record. The last look may have been long before that."""
    elapsed_ns = max(body.elapsed_ns, (result.last.elapsed_ms or 0) * NS_PER_MS)
    return Spent(
        elapsed_ns=elapsed_ns,
        possible_ns=lost.total_ns or elapsed_ns,
        taken_ns=lost.throttled_ns,
        vcpu_count=lost.vcpu_count,
        is_known=lost.is_known,
    )


def _check(monitor: Monitor, driven: DrivenVm, order: Order) -> None:
    """Raise UsageError for what cannot be, before anything is done."""
    if order.uri is not None and driven.converges_responsively:  # QEMU knows more kinds of addresses
        parse_uri(order.uri)
    if not is_decided_outside(driven, order) and (order.throttle_by or order.window_ms is not None):
        raise UsageError(
            "the way to slow the guest and the interval are those of a QEMU that is steered from outside, "
            "which needs a policy, or a variant that has background sync"
        )
    order.limits.check()
    if order.variant and is_decided_outside(driven, order):
        order.variant.named(loaded)
    if order.uri is not None:
        if (status := ask(monitor)).running:
            raise UsageError(f"the VM is migrating already ('{status.status}'); --attach steers that migration")
        if job := monitor.manager and monitor.manager.job():
            raise UsageError(f"the manager's job of the VM is '{job}' now; migrate when that is over")
        if order.destination:
            order.destination.require_waiting()


def _destination_to_hold(driven: DrivenVm, order: Order) -> Destination | None:
    """Our own VMs never run twice, nor does a destination that somebody else tells to go on."""
    if driven.converges_responsively or order.uri is None or order.destination is None:
        return None
    return None if order.destination.starts_paused() else order.destination


def _bound_hand_over(monitor: Monitor, clock: Clock, driven: DrivenVm, order: Order) -> HandOver | None:
    """Our own VMs bound it themselves, and who has begun a migration looks after it."""
    if driven.converges_responsively or order.uri is None:
        return None
    return HandOver(monitor, clock, order.uri, order.hand_over_timeout_ns, order.destination)


def _starts_destinations_anew(monitor: Monitor, driven: DrivenVm) -> bool:
    """Our own VMs wait on for the next guest, and libvirt starts a destination for each migration."""
    return driven.converges_responsively or (monitor.manager is not None and monitor.manager.migrates)


def _keep_link(monitor: Monitor, driven: DrivenVm, order: Order, tell: Callable[[str], None]) -> LinkKeeper:
    """What slows a guest leaves silence out of account, unless it is QEMU's own auto-converge."""
    heeds_silence = is_decided_outside(driven, order) or driven.converges_responsively
    return LinkKeeper(monitor, _stall_timeout_ns(driven, order), tell, slows_on_silence=not heeds_silence)


def _stall_timeout_ns(driven: DrivenVm, order: Order) -> int:
    """Our own VMs give up by themselves, and who has begun a migration decides when."""
    if driven.converges_responsively or (order.uri is None and STALL_TIMEOUT not in order.parameters):
        return 0
    timeout_ms = order.parameters.get(STALL_TIMEOUT, PARAMETERS[STALL_TIMEOUT].default)
    assert isinstance(timeout_ms, int)
    return timeout_ms * NS_PER_MS


def _set_own(driven: DrivenVm, order: Order, settings: Settings, tell: Callable[[str], None]) -> OwnIterations | None:
    """Let the VM converge by its own means, if it is to."""
    changed = own_parameters(driven, order)
    settings.set_wanted(changed)
    if not driven.converges_responsively:
        tell(
            f"{driven.name} is left to converge by itself; --variant planned steers it, "
            "by slowing it as much as it takes, when it pays most"
        )
    if order.uri is not None:
        settings.set_capability("auto-converge", order.auto_converge)
    highest = {**driven.parameters, **changed}.get("max-cpu-throttle")
    if settings.capabilities.get("auto-converge") and isinstance(highest, int):
        return OwnIterations(highest)
    return None
