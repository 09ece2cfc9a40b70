"""The means of slowing a guest from outside.

Every means promises the guard how to undo what it does before it does it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vmferry.client.monitor import Monitor
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.host.vcpu_threads import vcpu_threads
from vmferry.control.slowing.cpu_quota import CpuQuota
from vmferry.control.slowing.dirty_rates import DirtyRates
from vmferry.control.undoing.promises import Promises
from vmferry.control.undoing.settings import Settings
from vmferry.errors import CommandError, HostError

MEANS = ("cgroup", "dirty-limit", "auto-converge")
"""The means, in order of preference."""

_STILL_PERCENT = 99.9
"""What the shortest quota takes in the longest period."""


@dataclass(frozen=True)
class SlowedVm:
    """A VM that is to be slowed, and those who see to it that it is left as it was found."""

    monitor: Monitor
    driven: DrivenVm
    guard: Promises
    settings: Settings


class Slower(Protocol):
    """Slows a guest down."""

    def apply(self, percent: int, unthrottled: DirtyRates) -> None:
        """Keep every vCPU from running `percent` (0..99) of the time, or the guest from dirtying that much.

        `unthrottled` is how fast it dirtied memory when nothing slowed it. Raises HostError or MonitorError.
        """
        ...


class Actuator(Slower, Protocol):
    """A means of slowing a guest."""

    name: str
    """One of MEANS."""
    description: str
    """What it does, for people."""
    takes_time: bool
    """False if it takes no time of vCPUs but limits what they dirty; what that costs the guest nobody knows."""
    told_by_qemu: bool
    """True if `query-migrate` tells the throttle in force."""
    delays_stop: bool
    """True if a guest that is slowed takes long to stop, and `release` makes it stop at once."""

    in_force_percent: int
    """How much it takes away now, as far as it is for us to tell."""

    def hold(self) -> None:
        """See to it that what was applied is still in force. Raises HostError or MonitorError."""
        ...

    def release(self) -> None:
        """Stop slowing the guest. Raises MonitorError or OSError; then the guard does it."""
        ...


@runtime_checkable
class SlowsEachVcpu(Protocol):
    """A means that can slow each vCPU by its own throttle, too."""

    has_thread_of_each: bool
    """False where vCPUs share a thread, so that it cannot."""

    def apply_each(self, percents: Sequence[int]) -> None:
        """Keep each vCPU, in the order of their numbers, from running its percent (0..99) of the time."""
        ...


@runtime_checkable
class HoldsStill(Protocol):
    """A means that can let vCPUs sleep for about a second at a time, too."""

    def hold_still(self) -> None:
        """Let no vCPU run for more than a moment in each second, until another throttle is applied."""
        ...


class CgroupThrottle:
    """Gives every vCPU thread a CPU quota. The cgroups are made at once, the threads enter when they are slowed."""

    name = "cgroup"
    takes_time = True
    told_by_qemu = False
    delays_stop = True

    def __init__(self, vm: SlowedVm) -> None:
        """Make the cgroups, and try them. Raises HostError if it is not possible or not permitted."""
        self._monitor = vm.monitor
        threads = vcpu_threads(vm.monitor)
        self._quota = CpuQuota(threads, vm.guard)
        self.has_thread_of_each = len(threads) == len(vm.monitor.execute("query-cpus-fast"))
        self._percents: tuple[float, ...] = ()
        self.in_force_percent = 0
        self.description = str(self._quota)

    def apply(self, percent: int, unthrottled: DirtyRates) -> None:
        """Set the quotas of the vCPU threads that there are now, wherever they are now."""
        self._apply((percent,))

    def apply_each(self, percents: Sequence[int]) -> None:
        """Do the same with a quota for each; where vCPUs came or went meanwhile, all get the least."""
        self._apply(tuple(percents))

    def hold_still(self) -> None:
        """Set the shortest quotas in the longest period: for this moment more than 99 % is taken."""
        self._apply((_STILL_PERCENT,))

    def _apply(self, percents: tuple[float, ...]) -> None:
        """Apply the throttle of each vCPU, or that of all."""
        self._percents = percents
        self.in_force_percent = 0
        threads = vcpu_threads(self._monitor)
        each = percents if len(percents) == len(threads) else (max(percents),) * len(threads)
        self.in_force_percent = min(99, round(self._quota.set_each(threads, each)))

    def hold(self) -> None:
        """Set the quotas again if somebody has moved the threads or changed the quotas."""
        if any(self._percents) and not self._quota.holds():
            self._apply(self._percents)

    def release(self) -> None:
        """Let the threads run in the cgroups where they belong."""
        self._percents = ()
        self.in_force_percent = 0
        self._quota.release()


class AutoConvergeThrottle:
    """Shapes QEMU's own auto-converge so that its next step goes where we want; when that is, QEMU decides.

    It steps when two of its syncs in a row found too much dirtied. It looks at most once per second, and within an
    iteration only since QEMU 9.2.
    """

    name = "auto-converge"
    takes_time = True
    told_by_qemu = True
    delays_stop = False
    in_force_percent = 0
    description = "QEMU's own auto-converge, told how far to go; it obeys at its own dirty syncs only"

    def __init__(self, vm: SlowedVm) -> None:
        """Hold auto-converge down until it is wanted. Raises HostError if the VM has none."""
        if not can_shape_auto_converge(vm.driven):
            raise HostError(f"{vm.driven.name} has no auto-converge that can be shaped")
        try:
            vm.settings.set_capability("auto-converge", True)
        except CommandError as error:
            raise HostError(f"auto-converge cannot be switched on: {error}") from error
        self._vm = vm
        self._set(1)

    def apply(self, percent: int, unthrottled: DirtyRates) -> None:
        """Make the first step, or the next one, go straight to `percent`."""
        self._set(percent)

    def hold(self) -> None:
        """Leave it to QEMU."""

    def release(self) -> None:
        """Give the ladder back its own steps. A step that was made lasts until the migration ends."""
        self._vm.settings.give_back(_LADDER)

    def _set(self, percent: int) -> None:
        self._vm.settings.set_parameters(_shape(self._vm, percent), until_gone=True)


_MAXIMUM, _INITIAL, _INCREMENT, _TAILSLOW = _LADDER = (
    "max-cpu-throttle",  # put back first, as QEMU takes no initial one above it
    "cpu-throttle-initial",
    "cpu-throttle-increment",
    "cpu-throttle-tailslow",
)
_DEFAULT_INITIAL = 20


def _shape(vm: SlowedVm, percent: int) -> dict[str, object]:
    """Return the parameters by which QEMU's next step goes to `percent`, and not beyond.

    At the end libvirt puts back what was before, all at once, and QEMU refuses it all if `cpu-throttle-initial` would
    be above `max-cpu-throttle`. Where that may be, the maximum stays, and the throttle creeps on by 1 % per step.
    """
    creeps = _libvirt_migrates(vm) and percent < _DEFAULT_INITIAL
    maximum = vm.driven.parameters[_MAXIMUM] if creeps else percent
    return {_MAXIMUM: maximum, _INITIAL: percent, _INCREMENT: 1 if creeps else 99, _TAILSLOW: False}


def _libvirt_migrates(vm: SlowedVm) -> bool:
    return vm.monitor.manager is not None and vm.monitor.manager.migrates


def can_shape_auto_converge(driven: DrivenVm) -> bool:
    """True if the VM has auto-converge, and can be told how far it goes."""
    return "auto-converge" in driven.capabilities and driven.parameters.keys() >= set(_LADDER)


def hold_auto_converge(vm: SlowedVm) -> str:
    """Keep the auto-converge of a VM, where it is switched on, from slowing the guest. Returns how far it goes."""
    vm.settings.set_parameters(_shape(vm, 1), until_gone=True)
    return "1 %, and 1 % more per step," if _libvirt_migrates(vm) else "1 %,"
