"""A VM's file descriptor: memory slots, dirty log, interrupt controllers, timer, clock."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from vmferry.guests.kvm import abi
from vmferry.guests.kvm.fd import KvmFd
from vmferry.guests.kvm.vcpu import KvmVcpu

IRQCHIP_COUNT = 3
"""Both PICs and the IOAPIC."""


class KvmVm(KvmFd):
    """One VM; one method for each ioctl, no policy."""

    def __init__(self, fd: int, vcpu_mmap_size: int) -> None:
        super().__init__(fd)
        self._vcpu_mmap_size = vcpu_mmap_size

    def enable_capability(self, capability: int, argument: int) -> None:
        """KVM_ENABLE_CAP."""
        enable = abi.EnableCap(cap=capability)
        enable.args[0] = argument
        self._ioctl(abi.ENABLE_CAP, enable)

    def set_user_memory_region(self, region: abi.UserspaceMemoryRegion) -> None:
        """KVM_SET_USER_MEMORY_REGION; the memory must stay mapped for as long as the VM lives."""
        self._ioctl(abi.SET_USER_MEMORY_REGION, region)

    def get_dirty_log(self, slot: int, words: NDArray[np.uint64]) -> None:
        """KVM_GET_DIRTY_LOG: overwrite `words` with one bit for each page of the slot."""
        # SAFETY: `words` covers the slot (the caller's invariant) and lives longer than the call;
        # only the kernel writes it meanwhile.
        self._ioctl(abi.GET_DIRTY_LOG, abi.GetDirtyLog(slot, 0, words.ctypes.data))

    def clear_dirty_log(self, slot: int, first_page: int, page_count: int, words: NDArray[np.uint64]) -> None:
        """KVM_CLEAR_DIRTY_LOG: forget the pages whose bits are set, and write-protect them again.

        The pages are numbered within the slot. Both numbers are multiples of 64, unless the slot ends there.
        """
        # SAFETY: `words` covers these pages and lives longer than the call; the kernel only reads.
        self._ioctl(abi.CLEAR_DIRTY_LOG, abi.ClearDirtyLog(slot, page_count, first_page, words.ctypes.data))

    def set_tss_address(self, gpa: int) -> None:
        """KVM_SET_TSS_ADDR: three pages that Intel processors need in guest memory's address space."""
        self._ioctl(abi.SET_TSS_ADDR, gpa)

    def set_identity_map_address(self, gpa: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR: one more such page."""
        self._ioctl(abi.SET_IDENTITY_MAP_ADDR, bytearray(gpa.to_bytes(8, "little")))

    def create_irqchip(self) -> None:
        """KVM_CREATE_IRQCHIP: both PICs, the IOAPIC, and a local APIC for each vCPU."""
        self._ioctl(abi.CREATE_IRQCHIP)

    def create_pit(self) -> None:
        """KVM_CREATE_PIT2, with the speaker port that gates channel 2."""
        self._ioctl(abi.CREATE_PIT2, abi.PitConfig(flags=abi.PIT_SPEAKER_DUMMY))

    def create_vcpu(self, number: int) -> KvmVcpu:
        """KVM_CREATE_VCPU."""
        return KvmVcpu(self._ioctl(abi.CREATE_VCPU, number), self._vcpu_mmap_size)

    def get_irqchip(self, number: int) -> bytes:
        """KVM_GET_IRQCHIP."""
        chip = bytearray(abi.size_of(abi.GET_IRQCHIP))
        chip[0] = number
        self._ioctl(abi.GET_IRQCHIP, chip)
        return bytes(chip)

    def set_irqchip(self, chip: bytes) -> None:
        """KVM_SET_IRQCHIP; the first byte is the chip's number."""
        self._ioctl(abi.SET_IRQCHIP, bytearray(chip))


def memory_address(buffer: memoryview) -> int:
    """Return where a writable buffer lies in this process."""
    # SAFETY: only the address is taken; whoever hands it on keeps the buffer alive.
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
