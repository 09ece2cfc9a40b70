"""What it takes to decide from outside: parameters that our decisions obey, means to slow the guest, and a brain."""

from collections.abc import Sequence

from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.progress import NOTHING_SEEN, ask
from vmferry.control.asking.sensors import WINDOW_MS, DirtyRateSensor
from vmferry.control.asking.survey import SHORT_WHOLE_SECONDS_MS, SHORT_WINDOWS_MS, measure_rates, written_at
from vmferry.control.body import Slowing, sense
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.control.slowing.actuators import SlowedVm
from vmferry.control.slowing.means import Kinds, Means
from vmferry.control.slowing.slowed import SlowedGuest
from vmferry.convergence.brain import Convergence
from vmferry.convergence.link import LinkWatch
from vmferry.convergence.policies.registry import find_policy, load_policy
from vmferry.convergence.sensing import Body
from vmferry.convergence.variants import BACKGROUND_SYNC, POLICY, POLICY_SETTINGS
from vmferry.convergence.watcher import BackgroundSync, make_watcher
from vmferry.convergence.written import Written
from vmferry.errors import CommandError, HostError, UsageError
from vmferry.migration.lost_work import LostWork
from vmferry.settings.parameters import PARAMETERS, MigrationParameters
from vmferry.units import NS_PER_MS

STALL_TIMEOUT = "stall-timeout"

DEFAULTS = MigrationParameters(
    cpu_throttle_initial=50,
    cpu_throttle_increment=40,
    x_watch_interval=100,
    x_background_sync_interval=100,
)
"""The parameters of driving from outside where they differ from QEMU's, chosen by measurement (docs/qemu.md)."""

OBEYED = frozenset(name for name in PARAMETERS if "throttle" in name or name.startswith("x-")) | {
    BACKGROUND_SYNC,
    POLICY,
    POLICY_SETTINGS,
    STALL_TIMEOUT,
}
"""Parameters that our decisions obey, and not the VM, when it is driven from outside."""


def loaded(policy: str) -> str:
    """Return the reference of a policy that a user names. Raises UsageError if it cannot be had."""
    return load_policy(policy).reference


def steer(ports: Ports, vm: SlowedVm, kinds: Kinds, order: Order) -> tuple[MigrationParameters | None, Slowing | None]:
    """Return the parameters that our decisions obey, and what slows the guest, if anything.

    A variant that nobody has named steers nothing if that is not possible. Raises HostError if a named one cannot, or
    not by the means that was named.
    """
    parameters = decide_from_outside(vm, order)
    try:
        return parameters, slow_from_outside(ports, vm, kinds, order, parameters)
    except HostError as error:
        if not order.is_by_default or order.throttle_by:
            raise
        ports.tell(f"it cannot be steered: {error}")
        return None, None


def decide_from_outside(vm: SlowedVm, order: Order) -> MigrationParameters:
    """Return the parameters that our decisions obey, once those are set that are for the VM."""
    parameters, wanted = divided(vm.driven, order)
    vm.settings.set_wanted(wanted)
    return parameters


def divided(driven: DrivenVm, order: Order) -> tuple[MigrationParameters, dict[str, object]]:
    """Return the parameters that our decisions obey, and those that are for the VM."""
    assert order.variant
    current = driven.parameters | {name: DEFAULTS.as_qmp()[name] for name in OBEYED}
    wanted = order.limits.applied_to(order.parameters, current)
    ours = {name: value for name, value in wanted.items() if name in OBEYED}
    parameters = DEFAULTS.changed({**order.variant.named(loaded), **ours})
    return parameters, {name: value for name, value in wanted.items() if name not in ours}


def slow_from_outside(
    ports: Ports, vm: SlowedVm, kinds: Kinds, order: Order, parameters: MigrationParameters
) -> Slowing | None:
    """Prepare to slow the guest, and say by which means; None if the policy does not."""
    begins = order.uri is not None
    policy = find_policy(parameters.convergence_policy)
    if not policy.needs & (Body.THROTTLE | Body.MEASURE):
        if order.throttle_by or order.window_ms is not None:
            raise UsageError(f"policy '{policy.name}' slows no guest; leave out how to slow it and the interval")
        if begins:
            vm.settings.set_capability("auto-converge", False)
        ports.tell(f"{vm.driven.name} is driven from outside, without slowing its guest")
        return None
    sensor = DirtyRateSensor(vm.monitor, vm.driven, WINDOW_MS if order.window_ms is None else order.window_ms)
    means = Means(vm, order.throttle_by, ports.tell, kinds)
    ports.tell(f"{vm.driven.name} is driven from outside: {means.throttle.description}")
    for reason in means.reasons:
        ports.tell(reason)
    means.hold_back_auto_converge(begins=begins, bounds_loss=order.limits.bounds_loss)
    guest = SlowedGuest(vm.monitor, ports.clock, means)
    return Slowing(sensor, guest)


def survey(
    ports: Ports, driven: DrivenVm, order: Order, parameters: MigrationParameters, slowing: Slowing | None
) -> tuple[Written, ...]:
    """Return how the guest writes, measured before anything moves or learnt before, if the policy wants to know."""
    if slowing is None or not find_policy(parameters.convergence_policy).plans:
        return ()
    if order.uri is None:
        return order.learnt
    try:
        windows_ms = SHORT_WINDOWS_MS, SHORT_WHOLE_SECONDS_MS
        rates = measure_rates(ports.monitor, driven, ports.clock, ports.cancel, *windows_ms)
        return tuple(map(written_at, rates))
    except (HostError, CommandError) as error:
        ports.tell(f"nothing is known of how the guest writes before it migrates: {error}")
        return ()


def make_brain(
    ports: Ports,
    parameters: MigrationParameters | None,
    body: Body,
    link: LinkWatch,
    lost: LostWork,
    surveyed: Sequence[Written] = (),
    *,
    runs_already: bool,
) -> Convergence:
    """Return the brain of the driver; without parameters that it obeys it has no policy, and keeps the limits.

    `runs_already` if the migration has begun; then the brain counts its time from its beginning on.
    """
    now_ns = ports.clock.now_ns()
    progress = ask(ports.monitor) if runs_already else NOTHING_SEEN
    start = sense(progress, ports.monitor.execute("query-migrate-parameters"), now_ns)
    elapsed_ns = (progress.elapsed_ms or 0) * NS_PER_MS
    kind = find_policy(parameters.convergence_policy) if parameters else None
    measures = parameters is not None and bool(body & Body.MEASURE)
    mode = parameters.background_sync if parameters and measures else BackgroundSync.OFF
    times = (parameters or MigrationParameters()).watch_times()
    writers = parameters is not None and parameters.cpu_throttle_writers
    watcher = make_watcher(mode, times, now_ns)
    return Convergence(kind, body, watcher, link, lost, start, elapsed_ns, surveyed, throttle_writers=writers)


def obeyed(parameters: MigrationParameters | None) -> dict[str, object]:
    """Return what is obeyed instead of the VM's own parameters, by QMP name."""
    qmp = parameters.as_qmp() if parameters else {}
    return {name: value for name, value in qmp.items() if name in OBEYED}
