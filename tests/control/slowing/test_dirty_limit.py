"""QEMU's limit on what vCPUs dirty: whose it is, what is set, and that what was not set is not lifted."""

import pytest

from tests.support.fake_qemu import FakeQemu
from vmferry.clock import MonotonicClock
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.slowing.actuators import SlowedVm
from vmferry.control.slowing.dirty_limit import DirtyLimitThrottle
from vmferry.control.slowing.dirty_rates import DirtyRates
from vmferry.control.undoing.promises import Promises
from vmferry.control.undoing.settings import Settings
from vmferry.errors import CommandError, HostError

MIB = 1 << 20
SET, CANCEL = "set-vcpu-dirty-limit", "cancel-vcpu-dirty-limit"


class Written(Promises):
    """Promises that are only written down."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def _write(self, promise: str) -> None:
        self.lines.append(promise)


class Limited(FakeQemu):
    """A QEMU with a dirty ring, unless `fault` is what it says to a limit of a vCPU that does not exist."""

    fault = "incorrect cpu index specified"

    def execute(self, command: str, arguments: object = None) -> object:
        if command == SET and isinstance(arguments, dict) and "cpu-index" in arguments:
            raise CommandError(self.fault, "GenericError")
        return super().execute(command, arguments)  # type: ignore[arg-type]


def throttle_of(qemu: FakeQemu, guard: Written | None = None) -> DirtyLimitThrottle:
    driven, guard = DrivenVm.ask(qemu), guard or Written()
    return DirtyLimitThrottle(SlowedVm(qemu, driven, guard, Settings(qemu, MonotonicClock(), driven)))


def test_one_limit_is_set_for_all_and_promised_to_be_lifted_before() -> None:
    qemu, guard = Limited([]), Written()
    throttle = throttle_of(qemu, guard)
    assert (qemu.told, guard.lines) == ([], [])
    throttle.apply(90, DirtyRates(1000 * MIB))
    assert (qemu.told, len(guard.lines)) == ([(SET, {"dirty-rate": 100})], 1)
    throttle.apply(99, DirtyRates(10 * MIB))
    assert qemu.told[1:] == [(SET, {"dirty-rate": 1})]
    throttle.apply(0, DirtyRates(1000 * MIB))
    assert qemu.told[2:] == [(CANCEL, {})]
    assert throttle.in_force_percent == 0
    throttle.release()
    assert qemu.told[3:] == []


def test_without_a_dirty_ring_it_is_refused() -> None:
    qemu = Limited([])
    qemu.fault = "dirty page limit feature requires KVM with accelerator property 'dirty-ring-size' set'"
    with pytest.raises(HostError, match="the VM cannot limit its dirty rate: dirty page limit feature requires KVM"):
        throttle_of(qemu)


def test_limits_of_others_are_left_alone() -> None:
    limited, by_itself = Limited([]), Limited([])
    limited.instead["query-vcpu-dirty-limit"] = [{"cpu-index": 0, "limit-rate": 9, "current-rate": 9}]
    by_itself.capabilities["dirty-limit"] = True
    for qemu, why in ((limited, "somebody limits its vCPUs already"), (by_itself, "by its capability dirty-limit")):
        with pytest.raises(HostError, match=why):
            throttle_of(qemu)
        assert qemu.told == []
