"""A vCPU's file descriptor: running it, its registers, and the memory it shares with the kernel."""

import ctypes
import errno
import mmap
import os
import struct
from dataclasses import dataclass

from vmferry.errors import HostError
from vmferry.guests.kvm import abi
from vmferry.guests.kvm.fd import KvmFd, libc_ioctl

_IO_EXIT = struct.Struct("<BBHIQ")
_MMIO_EXIT = struct.Struct("<Q8xI?")
_MMIO_DATA_OFFSET = 8


@dataclass(frozen=True)
class IoExit:
    """The guest reads or writes `count` times `size` bytes at a port; `data` is written back for reads."""

    is_read: bool
    size: int
    port: int
    count: int
    data: memoryview


@dataclass(frozen=True)
class MmioExit:
    """The guest reads or writes `data` at an address without memory; it is written back for reads."""

    is_read: bool
    gpa: int
    data: memoryview


class KvmVcpu(KvmFd):
    """One vCPU; one method for each ioctl, no policy."""

    def __init__(self, fd: int, mmap_size: int) -> None:
        super().__init__(fd)
        # SAFETY: struct kvm_run and the I/O page behind it, `mmap_size` bytes as the kernel said; written by the
        # kernel during KVM_RUN and by this process, which sets immediate_exit from any thread.
        self._run = mmap.mmap(fd, mmap_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._view = memoryview(self._run)

    def close(self) -> None:
        """Unmap the shared memory and close the descriptor."""
        if self.fd >= 0:
            self._view.release()
            self._run.close()
        super().close()

    def set_immediate_exit(self, value: bool) -> None:
        """Make KVM_RUN return at once with EINTR, from the next call on, or not any more."""
        self._run[abi.RUN_IMMEDIATE_EXIT] = value

    def run(self) -> int | None:
        """KVM_RUN. Return the exit reason, or None if a signal or immediate_exit ended it. Raises HostError."""
        # SAFETY: no argument; ctypes releases the GIL for the call.
        if libc_ioctl(self.fd, abi.RUN, None) == 0:
            return int.from_bytes(self._run[abi.RUN_EXIT_REASON : abi.RUN_EXIT_REASON + 4], "little")
        error = ctypes.get_errno()
        if error in (errno.EINTR, errno.EAGAIN):
            return None
        raise HostError(f"KVM cannot run a vCPU: {os.strerror(error)}", error)

    def io_exit(self) -> IoExit:
        """Return what an EXIT_IO is about."""
        direction, size, port, count, offset = _IO_EXIT.unpack_from(self._run, abi.RUN_EXIT_DATA)
        data = self._view[offset : offset + size * count]
        return IoExit(direction == abi.IO_IN, size, port, count, data)

    def mmio_exit(self) -> MmioExit:
        """Return what an EXIT_MMIO is about."""
        gpa, size, is_write = _MMIO_EXIT.unpack_from(self._run, abi.RUN_EXIT_DATA)
        offset = abi.RUN_EXIT_DATA + _MMIO_DATA_OFFSET
        return MmioExit(not is_write, gpa, self._view[offset : offset + size])

    def exit_data(self) -> bytes:
        """Return the first words of what the kernel says about an exit."""
        return self._run[abi.RUN_EXIT_DATA : abi.RUN_EXIT_DATA + 32]

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ."""
        return self._ioctl(abi.GET_TSC_KHZ)

    def set_tsc_khz(self, frequency_khz: int) -> None:
        """KVM_SET_TSC_KHZ; without scaling in hardware, only (nearly) the host's own frequency will do."""
        self._ioctl(abi.SET_TSC_KHZ, frequency_khz)

    def set_cpuid(self, cpuid: abi.Cpuid) -> None:
        """KVM_SET_CPUID2."""
        self._ioctl(abi.SET_CPUID2, cpuid)

    def get_msrs(self, indices: list[int]) -> dict[int, int]:
        """KVM_GET_MSRS; MSRs that this vCPU does not have are left out."""
        values: dict[int, int] = {}
        while indices:
            msrs = abi.Msrs(nmsrs=len(indices))
            for entry, index in zip(msrs.entries, indices, strict=False):
                entry.index = index
            done = self._ioctl(abi.GET_MSRS, msrs)
            values |= {entry.index: entry.data for entry in msrs.entries[:done]}
            indices = indices[done + 1 :]  # the one it stopped at cannot be read
        return values

    def set_msrs(self, values: dict[int, int]) -> None:
        """KVM_SET_MSRS. Raises HostError that names the MSR that KVM does not take."""
        msrs = abi.Msrs(nmsrs=len(values))
        for entry, (index, data) in zip(msrs.entries, values.items(), strict=False):
            entry.index, entry.data = index, data
        done = self._ioctl(abi.SET_MSRS, msrs)
        if done < len(values):
            raise HostError(f"KVM does not take the value of MSR {list(values)[done]:#x}")
