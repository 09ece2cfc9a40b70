"""QEMU's own limit on what each vCPU dirties, as a means of slowing a guest (`softmmu/dirtylimit.c`).

It slows writers and no readers, but it is nobody's share of a processor: what it takes of a guest's work is unknown.
"""

from contextlib import suppress

from vmferry.control.slowing.actuators import SlowedVm
from vmferry.control.slowing.dirty_rates import DirtyRates
from vmferry.errors import CommandError, HostError, VmLeftError
from vmferry.units import MIB

_NO_VCPU, _NO_SUCH_VCPU = -1, "incorrect cpu index"


class DirtyLimitThrottle:
    """Limits how fast each vCPU may dirty memory, by QEMU's `set-vcpu-dirty-limit`; vCPUs that only read run on.

    A limited vCPU sleeps whenever its dirty ring is full. The limits are anybody's: QEMU does not tell who has set
    them, so those of others are left alone.
    """

    name = "dirty-limit"
    takes_time = False
    told_by_qemu = False
    delays_stop = False

    def __init__(self, vm: SlowedVm) -> None:
        """Find out whether the VM can, without limiting anything. Raises HostError if not."""
        if not vm.driven.schema.has_command("set-vcpu-dirty-limit"):
            raise HostError(f"{vm.driven.name} has no set-vcpu-dirty-limit; QEMU 7.1 and later have")
        self._vm = vm
        self._vcpu_count = len(vm.monitor.execute("query-cpus-fast"))
        if not self._vcpu_count:
            raise HostError("the VM has no vCPUs")
        self._require_ring()
        self._require_free()
        self._promise: int | None = None
        self.in_force_percent = 0
        self.description = f"dirty-rate limit of {self._vcpu_count} vCPUs by set-vcpu-dirty-limit"

    def _require_ring(self) -> None:
        """Limit a vCPU that does not exist: QEMU looks for its dirty ring first."""
        try:
            self._vm.monitor.execute("set-vcpu-dirty-limit", {"dirty-rate": 1, "cpu-index": _NO_VCPU})
        except CommandError as error:
            if _NO_SUCH_VCPU not in str(error):
                raise HostError(f"the VM cannot limit its dirty rate: {error}") from error

    def _require_free(self) -> None:
        """QEMU 8.1 and later lets nobody change a limit while it migrates with a capability of that name."""
        if self._vm.settings.capabilities.get("dirty-limit"):
            raise HostError("the VM limits its vCPUs itself, by its capability dirty-limit")
        if self._vm.monitor.execute("query-vcpu-dirty-limit"):
            raise HostError("somebody limits its vCPUs already, until cancel-vcpu-dirty-limit")

    def apply(self, percent: int, unthrottled: DirtyRates) -> None:
        """Set one limit for all vCPUs, that of `unthrottled.ceiling`, but 1 MB/s at least; 0 % is none."""
        if not percent:
            self.release()
            return
        if self._promise is None:
            self._promise = self._vm.guard.will_send("cancel-vcpu-dirty-limit", {})
        limit_mib_per_s = int(unthrottled.ceiling(self._vcpu_count, percent) / MIB)
        self._vm.monitor.execute("set-vcpu-dirty-limit", {"dirty-rate": max(1, limit_mib_per_s)})
        self.in_force_percent = percent

    def hold(self) -> None:
        """Leave it to QEMU."""

    def release(self) -> None:
        """Remove the limits, if any were set. QEMU answers up to a second later."""
        self.in_force_percent = 0
        if self._promise is None:
            return
        with suppress(VmLeftError):
            self._vm.monitor.execute("cancel-vcpu-dirty-limit")
        self._vm.guard.kept(self._promise)
        self._promise = None
