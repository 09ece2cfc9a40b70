"""vCPU and VM state as a blob that a VM elsewhere can take over.

What a KVM structure holds is the kernel's business; only sizes are checked here, the kernel checks the rest.
The order of restoring matters: control registers before what depends on their mode, the local APIC after
the MSR that places it, the registers last.
"""

from collections.abc import Sequence

import msgspec

from vmferry.errors import HostError, PeerError
from vmferry.guests.kvm import abi
from vmferry.guests.kvm.vcpu import KvmVcpu
from vmferry.guests.kvm.vm import IRQCHIP_COUNT, KvmVm

VERSION = 1

VCPU_PARTS = {
    "sregs": (abi.GET_SREGS, abi.SET_SREGS),
    "xcrs": (abi.GET_XCRS, abi.SET_XCRS),
    "xsave": (abi.GET_XSAVE, abi.SET_XSAVE),
    "msrs": None,
    "lapic": (abi.GET_LAPIC, abi.SET_LAPIC),
    "mp_state": (abi.GET_MP_STATE, abi.SET_MP_STATE),
    "vcpu_events": (abi.GET_VCPU_EVENTS, abi.SET_VCPU_EVENTS),
    "debugregs": (abi.GET_DEBUGREGS, abi.SET_DEBUGREGS),
    "regs": (abi.GET_REGS, abi.SET_REGS),
}
"""In the order of restoring; the MSRs have a format of their own."""

_CLOCK_FLAGS = slice(8, 12)
"""struct kvm_clock_data.flags, which GET_CLOCK sets and SET_CLOCK wants 0."""


class _VcpuState(msgspec.Struct, forbid_unknown_fields=True):
    parts: dict[str, bytes]
    msrs: dict[int, int]


class _VmState(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    irqchips: list[bytes]
    pit: bytes
    clock: bytes
    vcpus: list[_VcpuState]


def save_state(vm: KvmVm, vcpus: Sequence[KvmVcpu], msr_indices: list[int]) -> bytes:
    """Return the state of a stopped VM."""
    clock = bytearray(vm.get(abi.GET_CLOCK))
    clock[_CLOCK_FLAGS] = bytes(4)
    state = _VmState(
        version=VERSION,
        irqchips=[vm.get_irqchip(number) for number in range(IRQCHIP_COUNT)],
        pit=vm.get(abi.GET_PIT2),
        clock=bytes(clock),
        vcpus=[_save_vcpu(vcpu, msr_indices) for vcpu in vcpus],
    )
    return msgspec.msgpack.encode(state)


def load_state(vm: KvmVm, vcpus: Sequence[KvmVcpu], blob: bytes) -> None:
    """Put a stopped VM into a state that `save_state` returned. Raises PeerError if it is not one."""
    try:
        state = msgspec.msgpack.decode(blob, type=_VmState)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PeerError(f"the guest's state is malformed: {error}") from error
    _check(state, len(vcpus))
    try:
        for chip in state.irqchips:
            vm.set_irqchip(chip)
        vm.set(abi.SET_PIT2, state.pit)
        vm.set(abi.SET_CLOCK, state.clock)
        for vcpu, vcpu_state in zip(vcpus, state.vcpus, strict=True):
            _load_vcpu(vcpu, vcpu_state)
    except HostError as error:
        raise PeerError(f"the guest's state is not accepted here: {error}") from error


def _save_vcpu(vcpu: KvmVcpu, msr_indices: list[int]) -> _VcpuState:
    parts = {name: vcpu.get(requests[0]) for name, requests in VCPU_PARTS.items() if requests}
    return _VcpuState(parts, vcpu.get_msrs(msr_indices))


def _load_vcpu(vcpu: KvmVcpu, state: _VcpuState) -> None:
    for name, requests in VCPU_PARTS.items():
        if requests:
            vcpu.set(requests[1], state.parts[name])
        else:
            vcpu.set_msrs(state.msrs)


def _check(state: _VmState, vcpu_count: int) -> None:
    if state.version != VERSION:
        raise PeerError(f"the guest's state has version {state.version}, this side knows {VERSION}")
    if len(state.vcpus) != vcpu_count:
        raise PeerError(f"the guest's state has {len(state.vcpus)} vCPUs, this side {vcpu_count}")
    structures = [(chip, abi.SET_IRQCHIP) for chip in state.irqchips]
    structures += [(state.pit, abi.SET_PIT2), (state.clock, abi.SET_CLOCK)]
    for vcpu in state.vcpus:
        if set(vcpu.parts) != {name for name, requests in VCPU_PARTS.items() if requests}:
            raise PeerError("the guest's state lacks a part of a vCPU, or has one too many")
        if len(vcpu.msrs) > abi.MAX_MSRS or not all(_fits(*msr) for msr in vcpu.msrs.items()):
            raise PeerError("the guest's state has MSRs that cannot be")
        structures += [(vcpu.parts[name], requests[1]) for name, requests in VCPU_PARTS.items() if requests]
    if len(state.irqchips) != IRQCHIP_COUNT or any(
        len(structure) != abi.size_of(request) for structure, request in structures
    ):
        raise PeerError("the guest's state has a part of the wrong size")


def _fits(index: int, data: int) -> bool:
    return 0 <= index < 2**32 and 0 <= data < 2**64
