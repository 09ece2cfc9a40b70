"""vCPU and VM state as a blob that a VM elsewhere can take over.

What a KVM structure holds is the kernel's business; only sizes are checked here, the kernel checks the rest.
The order matters, in saving as in restoring (Linux `arch/x86/kvm/x86.c`):

- KVM_GET_MP_STATE may deliver a pending INIT or SIPI, so it comes before what that changes;
- KVM_SET_REGS drops a pending exception, so the events, which hold it, come last;
- the local APIC comes after the control registers, which place it, and before the MSRs, because a TSC
  deadline is only taken by a timer that is in that mode;
- the interrupt controllers come after the local APICs, to which they pass on what is pending.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from vmferry.errors import HostError, PeerError
from vmferry.guests.kvm import abi
from vmferry.guests.kvm.serial import SERIAL_REGISTERS, Serial
from vmferry.guests.kvm.vcpu import KvmVcpu
from vmferry.guests.kvm.vm import IRQCHIP_COUNT, KvmVm

PREFIX = b"vmferry-kvm-2\n"
"""Kind and version of the blob."""

_CLOCK_FLAGS = slice(8, 12)
"""struct kvm_clock_data.flags, which GET_CLOCK sets and SET_CLOCK wants 0."""


def _as_large_as(request: int) -> Meta:
    size_bytes = abi.size_of(request)
    return Meta(min_length=size_bytes, max_length=size_bytes)


class _VcpuState(msgspec.Struct, forbid_unknown_fields=True):
    tsc_khz: Annotated[int, Meta(ge=1, lt=1 << 32)]
    mp_state: Annotated[bytes, _as_large_as(abi.GET_MP_STATE)]
    regs: Annotated[bytes, _as_large_as(abi.GET_REGS)]
    sregs: Annotated[bytes, _as_large_as(abi.GET_SREGS)]
    xcrs: Annotated[bytes, _as_large_as(abi.GET_XCRS)]
    xsave: Annotated[bytes, _as_large_as(abi.GET_XSAVE)]
    debugregs: Annotated[bytes, _as_large_as(abi.GET_DEBUGREGS)]
    lapic: Annotated[bytes, _as_large_as(abi.GET_LAPIC)]
    msrs: Annotated[dict[Annotated[int, Meta(ge=0, lt=1 << 32)], int], Meta(max_length=abi.MAX_MSRS)]
    vcpu_events: Annotated[bytes, _as_large_as(abi.GET_VCPU_EVENTS)]


class _VmState(msgspec.Struct, forbid_unknown_fields=True):
    vcpus: list[_VcpuState]
    irqchips: Annotated[
        list[Annotated[bytes, _as_large_as(abi.GET_IRQCHIP)]],
        Meta(min_length=IRQCHIP_COUNT, max_length=IRQCHIP_COUNT),
    ]
    pit: Annotated[bytes, _as_large_as(abi.GET_PIT2)]
    clock: Annotated[bytes, _as_large_as(abi.GET_CLOCK)]
    serial: Annotated[bytes, Meta(min_length=SERIAL_REGISTERS, max_length=SERIAL_REGISTERS)]


def save_state(vm: KvmVm, vcpus: Sequence[KvmVcpu], serial: Serial, msr_indices: list[int]) -> bytes:
    """Return the state of a stopped VM."""
    state = _VmState(
        vcpus=[_save_vcpu(vcpu, msr_indices) for vcpu in vcpus],
        irqchips=[vm.get_irqchip(number) for number in range(IRQCHIP_COUNT)],
        pit=vm.get(abi.GET_PIT2),
        clock=_save_clock(vm),
        serial=serial.registers,
    )
    return PREFIX + msgspec.msgpack.encode(state)


def load_state(vm: KvmVm, vcpus: Sequence[KvmVcpu], serial: Serial, blob: bytes) -> None:
    """Put a stopped VM into a state that `save_state` returned. Raises PeerError if it is not one."""
    state = _decode(blob)
    if len(state.vcpus) != len(vcpus):
        raise PeerError(f"the guest's state has {len(state.vcpus)} vCPUs, this side {len(vcpus)}")
    try:
        for vcpu, vcpu_state in zip(vcpus, state.vcpus, strict=True):
            _load_vcpu(vcpu, vcpu_state)
        for chip in state.irqchips:
            vm.set_irqchip(chip)
        vm.set(abi.SET_PIT2, state.pit)
        vm.set(abi.SET_CLOCK, state.clock)
    except HostError as error:
        raise PeerError(f"the guest's state is not accepted here: {error}") from error
    serial.registers = state.serial


def _decode(blob: bytes) -> _VmState:
    if not blob.startswith(PREFIX):
        raise PeerError(f"the guest's state is of another kind or version than {PREFIX.decode().strip()}")
    try:
        return msgspec.msgpack.decode(memoryview(blob)[len(PREFIX) :], type=_VmState)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PeerError(f"the guest's state is malformed: {error}") from error


def _save_clock(vm: KvmVm) -> bytes:
    clock = bytearray(vm.get(abi.GET_CLOCK))
    clock[_CLOCK_FLAGS] = bytes(4)
    return bytes(clock)


def _save_vcpu(vcpu: KvmVcpu, msr_indices: list[int]) -> _VcpuState:
    return _VcpuState(
        tsc_khz=vcpu.get_tsc_khz(),
        mp_state=vcpu.get(abi.GET_MP_STATE),
        regs=vcpu.get(abi.GET_REGS),
        sregs=vcpu.get(abi.GET_SREGS),
        xcrs=vcpu.get(abi.GET_XCRS),
        xsave=vcpu.get(abi.GET_XSAVE),
        debugregs=vcpu.get(abi.GET_DEBUGREGS),
        lapic=vcpu.get(abi.GET_LAPIC),
        msrs=vcpu.get_msrs(msr_indices),
        vcpu_events=vcpu.get(abi.GET_VCPU_EVENTS),
    )


def _load_vcpu(vcpu: KvmVcpu, state: _VcpuState) -> None:
    vcpu.set_tsc_khz(state.tsc_khz)
    vcpu.set(abi.SET_MP_STATE, state.mp_state)
    vcpu.set(abi.SET_REGS, state.regs)
    vcpu.set(abi.SET_SREGS, state.sregs)
    vcpu.set(abi.SET_XCRS, state.xcrs)
    vcpu.set(abi.SET_XSAVE, state.xsave)
    vcpu.set(abi.SET_DEBUGREGS, state.debugregs)
    vcpu.set(abi.SET_LAPIC, state.lapic)
    vcpu.set_msrs(state.msrs)
    vcpu.set(abi.SET_VCPU_EVENTS, state.vcpu_events)
