"""Carries out a migration as somebody ordered it, with the means there are: the VM's own, or ours from outside."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from vmferry.client.monitor import Monitor
from vmferry.control.arriving.arrival import arrival_of
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.guest_memory import GuestMemory, memory_bytes
from vmferry.control.asking.progress import Progress, ask
from vmferry.control.asking.result import Result
from vmferry.control.asking.run_states import require_guest
from vmferry.control.awaiting import await_migration
from vmferry.control.body import DriverBody
from vmferry.control.course import Course
from vmferry.control.deciding import loaded, obeyed
from vmferry.control.migration_order import Order, is_decided_outside, settled
from vmferry.control.place import HERE, Place
from vmferry.control.ports import Ports
from vmferry.control.preparing import Prepared, Site, prepare
from vmferry.control.telling.verdicts import verdicts_on
from vmferry.control.transfer import require_credentials
from vmferry.control.undoing.leftovers import Leftovers
from vmferry.control.vm_record import start_recording
from vmferry.convergence.limit_watch import Spent
from vmferry.errors import UsageError
from vmferry.migration.lost_work import LostWork
from vmferry.transport.uri import parse_uri
from vmferry.units import NS_PER_MS


def carry_out(ports: Ports, order: Order, watch: Callable[[Progress], None], place: Place = HERE) -> Result:
    """Migrate and return how it ended; `watch` sees every poll.

    However it ends, what was changed on the VM is undone, and people are warned of what could not be. Setting
    `ports.cancel` cancels a migration that we started; where it had not begun, or we took it over, CancelledError is
    raised. Raises UsageError, HostError, MonitorError, MigrationError if nobody can follow it any more, and
    InterruptionError if a signal was to cancel it and it goes on.
    """
    monitor = ports.monitor
    driven = DrivenVm.ask(monitor)
    _check(monitor, driven, settled(driven, order))
    if order.uri is None:
        await_migration(monitor, ports.clock, ports.cancel, wait=order.wait)
    driven = DrivenVm.ask(monitor)  # again, as libvirt changes parameters when it begins a migration
    leftovers = Leftovers(monitor, ports.warn, place.put_back_later)
    with ExitStack() as stack:
        site = Site(ports, driven, place, leftovers, stack)
        prepared = prepare(site, order, watch)
        stack.callback(ports.cancel.close)  # the first to be called, and then all is undone
        result = _judged(_run(site, order, prepared), prepared, site, order)
    return replace(result, not_put_back=tuple(leftovers.commands))


def _run(site: Site, order: Order, prepared: Prepared) -> Result:
    """Let the brain look at what was surveyed, migrate, and record all of it."""
    ports, crew = site.ports, prepared.crew
    start_recording(crew.recorder, ports.monitor, site.driven, obeyed(prepared.decider.parameters), order.limits)
    surveyed = prepared.decider.surveyed
    if surveyed and order.uri is not None:
        size_bytes = memory_bytes(ports.monitor)
        used_bytes = site.place.used_bytes(ports.monitor, site.driven, size_bytes)
        crew.body.look_before(surveyed, GuestMemory(size_bytes, used_bytes, site.place.scan_ns_per_zero_page))
    course = Course(ports, order.uri, crew)
    result = course.run()
    crew.recorder.end(result)
    used = course.ending.used_destination and not result.completed
    if used and not _starts_destinations_anew(ports.monitor, site.driven):
        ports.tell("QEMU's destination serves one migration: start it anew before the next one")
    return result


def _judged(result: Result, prepared: Prepared, site: Site, order: Order) -> Result:
    """Add to how a migration ended whether the guest has arrived, and whether limits were kept."""
    body, load, manager = prepared.crew.body, prepared.crew.load, site.ports.monitor.manager
    spent = _spent(result, body, prepared.lost)
    return replace(
        result,
        arrival=arrival_of(result, site.driven, prepared.settings.capabilities, manager, order.destination),
        verdicts=tuple(verdicts_on(result, body.limits, spent, body.downtime_remark())),
        bottleneck=load.bottleneck(),
        dirty_sync_share=load.sync_share(),
        throttle_by=body.means.throttle.name if body.means else None,
        throttle_reasons=tuple(body.means.reasons) if body.means else (),
    )


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
        require_guest(monitor)
        if (status := ask(monitor)).running:
            raise UsageError(f"the VM is migrating already ('{status.status}'); --attach steers that migration")
        if job := monitor.manager and monitor.manager.job():
            raise UsageError(f"the manager's job of the VM is '{job}' now; migrate when that is over")
        if not driven.converges_responsively:
            require_credentials(monitor, order)
        if order.destination:
            order.destination.require_waiting()


def _starts_destinations_anew(monitor: Monitor, driven: DrivenVm) -> bool:
    """Our own VMs wait on for the next guest, and libvirt starts a destination for each migration."""
    return driven.converges_responsively or (monitor.manager is not None and monitor.manager.migrates)
