"""Prepares a VM for its migration as somebody ordered it, and finds who looks after that.

What is changed here is put back when the context stack is left, in the opposite order, by whoever can still do it.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from vmferry.client.monitor import Monitor
from vmferry.control.arriving.arrival import ask_for_word
from vmferry.control.arriving.destination import Destination
from vmferry.control.arriving.hand_over import HandOver
from vmferry.control.arriving.held import HeldDestination
from vmferry.control.asking.bottleneck import Bottleneck
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.progress import Progress
from vmferry.control.body import DriverBody, Slowing, can
from vmferry.control.course import Crew
from vmferry.control.deciding import STALL_TIMEOUT, make_brain, steer, survey
from vmferry.control.limit_keeper import LimitKeeper, own_parameters
from vmferry.control.link import LinkKeeper
from vmferry.control.load_meter import LoadMeter
from vmferry.control.migration_order import Order, is_decided_outside, settled
from vmferry.control.place import Place
from vmferry.control.ports import Ports
from vmferry.control.recorder import Recorder
from vmferry.control.slowing.actuators import SlowedVm
from vmferry.control.telling.own_iterations import OwnIterations
from vmferry.control.transfer import prepare_transfer
from vmferry.control.undoing.leftovers import Leftovers
from vmferry.control.undoing.promises import Promises
from vmferry.control.undoing.settings import Settings
from vmferry.control.vm_record import VmRecord, open_recorder
from vmferry.convergence.actions import Tell
from vmferry.convergence.written import Written
from vmferry.migration.journal import TeeJournal
from vmferry.migration.lost_work import LostWork
from vmferry.settings.parameters import PARAMETERS, MigrationParameters
from vmferry.units import NS_PER_MS


@dataclass(frozen=True)
class Site:
    """Where a migration is prepared, and how what is changed there is put back."""

    ports: Ports
    driven: DrivenVm
    place: Place
    leftovers: Leftovers
    """What of the source is not put back."""
    stack: ExitStack
    """Undoes what was done."""

    def settings(self, guard: Promises) -> Settings:
        """Return the settings of the source."""
        settings = Settings(self.ports.monitor, self.ports.clock, self.driven, self.leftovers.leave, guard)
        return self.stack.enter_context(settings)

    def settings_there(self, guard: Promises) -> Callable[[Monitor, DrivenVm], Settings]:
        """Return what gives the settings of a destination."""

        def settings_of(monitor: Monitor, driven: DrivenVm) -> Settings:
            left = Leftovers(monitor, self.ports.warn, self.place.put_back_later)
            settings = Settings(monitor, self.ports.clock, driven, left.leave_refused, guard)
            return self.stack.enter_context(settings)

        return settings_of


@dataclass(frozen=True)
class Decider:
    """Who decides how the guest is slowed: we, by our parameters, or the VM by its own."""

    parameters: MigrationParameters | None = None
    """Those that our decisions obey; None if the VM decides."""
    slowing: Slowing | None = None
    surveyed: tuple[Written, ...] = ()
    """What is known of how the guest writes, before it begins or is taken over."""
    own_iterations: OwnIterations | None = None
    """Where the VM slows its guest itself."""


@dataclass(frozen=True)
class Prepared:
    """What was prepared for one migration."""

    crew: Crew
    settings: Settings
    lost: LostWork
    decider: Decider


def prepare(site: Site, asked: Order, watch: Callable[[Progress], None]) -> Prepared:
    """Change the VM as is ordered, and find who looks after the migration; `watch` is to see every poll."""
    ports, driven, stack, order = site.ports, site.driven, site.stack, settled(site.driven, asked)
    lost = LostWork(ports.clock.now_ns)
    journal = TeeJournal([order.journal, lost])
    recorder = open_recorder(ports.monitor, driven, journal, ports.clock.now_ns, attached=order.uri is None)
    destination = _destination_to_hold(driven, order)
    other = order.destination.monitor if order.destination else None
    guard = stack.enter_context(site.place.guard(ports.monitor, ports.warn, other))
    settings = site.settings(guard)
    prepare_transfer(driven, order, settings, site.settings_there(guard), ports.tell)
    link = _keep_link(site, order)
    decider = _decider(site, order, settings, guard)
    if order.uri is not None:
        ask_for_word(driven, settings, order.uri)
    parameters, able = decider.parameters, can(settings, decider.slowing)
    brain = make_brain(ports, parameters, able, link.watch, lost, decider.surveyed, runs_already=order.uri is None)
    rules = (parameters or MigrationParameters()).rules(order.limits)
    body = DriverBody(ports, brain, rules, settings, recorder, decider.slowing)
    held = None
    if destination:
        held = stack.enter_context(HeldDestination(ports.monitor, ports.clock, destination, guard, ports.warn))
        destination.hold()
    crew = Crew(
        body=body,
        link=link,
        recorder=recorder,
        watch=watch,
        load=_meter_load(ports, order, settings, recorder),
        wishes=order.wishes,
        keep=LimitKeeper(driven, asked, settings, body, is_decided_by_us=parameters is not None).keep,
        own_iterations=decider.own_iterations,
        hand_over=_bound_hand_over(site, order),
        held=held,
    )
    return Prepared(crew, settings, lost, decider)


def _decider(site: Site, order: Order, settings: Settings, guard: Promises) -> Decider:
    """Prepare to slow the guest from outside, or let the VM converge by its own means."""
    ports, driven = site.ports, site.driven
    if is_decided_outside(driven, order):
        vm = SlowedVm(ports.monitor, driven, guard, settings)
        parameters, slowing = steer(ports, vm, site.place.means, order)
        if slowing:
            site.stack.enter_context(slowing.guest)
        if parameters:
            return Decider(parameters, slowing, survey(ports, driven, order, parameters, slowing))
    return Decider(own_iterations=_set_own(site, order, settings))


def _set_own(site: Site, order: Order, settings: Settings) -> OwnIterations | None:
    """Let the VM converge by its own means, if it is to."""
    driven = site.driven
    changed = own_parameters(driven, order)
    settings.set_wanted(changed)
    if not driven.converges_responsively:
        better = "; --variant planned steers it, by slowing it as much as it takes, when it pays most"
        site.ports.tell(f"{driven.name} is left to converge by itself{'' if order.is_by_default else better}")
    if order.uri is not None:
        settings.set_capability("auto-converge", order.auto_converge)
    highest = {**driven.parameters, **changed}.get("max-cpu-throttle")
    if settings.capabilities.get("auto-converge") and isinstance(highest, int):
        return OwnIterations(highest)
    return None


def _keep_link(site: Site, order: Order) -> LinkKeeper:
    """What slows a guest leaves silence out of account, unless it is QEMU's own auto-converge."""
    heeds_silence = is_decided_outside(site.driven, order) or site.driven.converges_responsively
    timeout_ns = _stall_timeout_ns(site.driven, order)
    return LinkKeeper(site.ports.monitor, timeout_ns, site.ports.tell, slows_on_silence=not heeds_silence)


def _stall_timeout_ns(driven: DrivenVm, order: Order) -> int:
    """Our own VMs give up by themselves, and who has begun a migration decides when."""
    if driven.converges_responsively or (order.uri is None and STALL_TIMEOUT not in order.parameters):
        return 0
    timeout_ms = order.parameters.get(STALL_TIMEOUT, PARAMETERS[STALL_TIMEOUT].default)
    assert isinstance(timeout_ms, int)
    return timeout_ms * NS_PER_MS


def _meter_load(ports: Ports, order: Order, settings: Settings, recorder: Recorder | VmRecord) -> LoadMeter:
    """Have it told, and recorded, what bounds the speed."""

    def tell(bottleneck: Bottleneck) -> None:
        ports.tell(f"bottleneck: {bottleneck}")
        recorder.acted(Tell(reason=f"bottleneck: {bottleneck}"))

    in_force = ports.monitor.execute("query-migrate-parameters") | settings.capabilities
    return LoadMeter(ports.monitor, order.uri, ports.clock, in_force, tell)


def _destination_to_hold(driven: DrivenVm, order: Order) -> Destination | None:
    """Our own VMs never run twice, nor does a destination that somebody else tells to go on."""
    if driven.converges_responsively or order.uri is None or order.destination is None:
        return None
    return None if order.destination.starts_paused() else order.destination


def _bound_hand_over(site: Site, order: Order) -> HandOver | None:
    """Our own VMs bound it themselves, and who has begun a migration looks after it."""
    if site.driven.converges_responsively or order.uri is None:
        return None
    return HandOver(site.ports.monitor, site.ports.clock, order.uri, order.hand_over_timeout_ns, order.destination)
