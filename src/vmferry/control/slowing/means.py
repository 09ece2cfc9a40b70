"""Which means slows the guest, and which one takes its place if it fails while it runs."""

from collections.abc import Callable, Mapping
from contextlib import suppress

from vmferry.control.slowing.actuators import (
    MEANS,
    Actuator,
    AutoConvergeThrottle,
    CgroupThrottle,
    HoldsStill,
    SlowedVm,
    SlowsEachVcpu,
    can_shape_auto_converge,
    hold_auto_converge,
)
from vmferry.control.slowing.dirty_limit import DirtyLimitThrottle
from vmferry.control.slowing.dirty_rates import DirtyRates
from vmferry.convergence.actions import Throttle
from vmferry.errors import CommandError, HostError, MonitorError

Kinds = Mapping[str, Callable[[SlowedVm], Actuator]]
"""Makes each of MEANS, or raises HostError."""

KINDS: Kinds = {
    "cgroup": CgroupThrottle,
    "dirty-limit": DirtyLimitThrottle,
    "auto-converge": AutoConvergeThrottle,
}


class Means:
    """The first means that is possible, or the one that is wanted; and then those that come after it.

    Raises HostError with every reason if there is none.
    """

    def __init__(self, vm: SlowedVm, wanted: str | None, tell: Callable[[str], object], kinds: Kinds = KINDS) -> None:
        """`tell` gets a line when another means takes over, and when one cannot do all that is asked of it."""
        self._vm = vm
        self._tell = tell
        self._kinds = kinds
        self._untried = [wanted] if wanted else list(MEANS)
        self.reasons: list[str] = []
        """Why the means that come before it are not used, or no longer."""
        self._asked = Throttle(percent=0, reason=""), DirtyRates()
        self.throttle = self._next()

    def hold_back_auto_converge(self, *, begins: bool, bounds_loss: bool) -> None:
        """Keep QEMU's own auto-converge from slowing the guest; at 1 % it stays at hand, as the last means.

        That 1 % is not taken where there is a bound to what the guest may lose. It can be switched on and off only
        before the migration begins, if that is for us to do.
        """
        if self.throttle.name == "auto-converge":
            return
        if begins:
            is_possible = "auto-converge" in self._untried and can_shape_auto_converge(self._vm.driven)
            at_hand = is_possible and not bounds_loss
            self._vm.settings.set_capability("auto-converge", at_hand)
        if self._vm.settings.capabilities.get("auto-converge"):
            held_at = hold_auto_converge(self._vm)
            why = "as the last means if others fail" if begins else "as it cannot be switched off while it migrates"
            self._tell(f"QEMU's own auto-converge is held at {held_at} {why}")

    @property
    def in_force_percent(self) -> int:
        """What is taken away now, as far as QEMU does not tell itself."""
        return self.throttle.in_force_percent

    @property
    def takes_time(self) -> bool:
        """False if what it takes of the guest's work is unknown."""
        return self.throttle.takes_time

    @property
    def slows_each_vcpu(self) -> bool:
        """True if vCPUs can be slowed one by one."""
        return isinstance(self.throttle, SlowsEachVcpu) and self.throttle.has_thread_of_each

    @property
    def delays_syncs(self) -> bool:
        """True if a dirty sync waits for each slowed vCPU: QEMU without KVM lets each end what it runs
        (`tcg_log_global_after_sync`)."""
        return not self._vm.driven.kvm

    def apply(self, throttle: Throttle, unthrottled: DirtyRates) -> None:
        """Slow the guest; the rates are those of `Actuator.apply`. Raises HostError if nothing is left that could.

        Another means that has to take over slows all vCPUs by the greatest throttle, where it cannot do it one by one,
        and evenly, where it cannot hold them still.
        """
        self._asked = throttle, unthrottled
        self._apply()

    def hold(self) -> None:
        """See to it that what was applied is still in force. Raises HostError if nothing is left that could."""
        try:
            self.throttle.hold()
        except (HostError, CommandError) as error:
            self._take_next(error)

    def release(self) -> None:
        """Stop slowing the guest. Raises MonitorError or OSError; then the guard does it."""
        self.throttle.release()

    def _apply(self) -> None:
        throttle, unthrottled = self._asked
        try:
            if throttle.vcpu_percents is not None and isinstance(self.throttle, SlowsEachVcpu):
                self.throttle.apply_each(throttle.vcpu_percents)
            elif throttle.still and isinstance(self.throttle, HoldsStill):
                self.throttle.hold_still()
            else:
                self.throttle.apply(throttle.percent, unthrottled)
        except (HostError, CommandError) as error:
            self._take_next(error)
        else:
            taken, asked = self.throttle.in_force_percent, throttle.percent
            if taken < asked and not self.throttle.told_by_qemu:
                self._tell(f"by {self.throttle.name} no more than {taken} % can be taken, not {asked} %")

    def _take_next(self, error: HostError | CommandError) -> None:
        """Let the next means do what was asked of the one that has failed."""
        told_before = len(self.reasons)
        self.reasons.append(f"no longer by {self.throttle.name}: {error}")
        with suppress(HostError, MonitorError, OSError):  # the guard does what cannot be done here
            self.throttle.release()
        self.throttle = self._next()
        self._tell(f"{'; '.join(self.reasons[told_before:])}; now by {self.throttle.description}")
        self._apply()

    def _next(self) -> Actuator:
        while self._untried:
            name = self._untried.pop(0)
            try:
                return self._kinds[name](self._vm)
            except HostError as error:
                self.reasons.append(f"not by {name}: {error}")
        raise HostError(f"the VM cannot be slowed: {'; '.join(self.reasons)}")
