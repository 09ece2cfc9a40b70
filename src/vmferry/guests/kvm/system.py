"""/dev/kvm: what this host can do, and the making of VMs."""

import os

from vmferry.errors import HostError
from vmferry.guests.kvm import abi
from vmferry.guests.kvm.fd import KvmFd
from vmferry.guests.kvm.vm import KvmVm

DEVICE = "/dev/kvm"

REQUIRED = {
    abi.CAP_IRQCHIP: "KVM_CAP_IRQCHIP",
    abi.CAP_USER_MEMORY: "KVM_CAP_USER_MEMORY",
    abi.CAP_PIT2: "KVM_CAP_PIT2",
    abi.CAP_PIT_STATE2: "KVM_CAP_PIT_STATE2",
    abi.CAP_ADJUST_CLOCK: "KVM_CAP_ADJUST_CLOCK",
    abi.CAP_VCPU_EVENTS: "KVM_CAP_VCPU_EVENTS",
    abi.CAP_DEBUGREGS: "KVM_CAP_DEBUGREGS",
    abi.CAP_XSAVE: "KVM_CAP_XSAVE",
    abi.CAP_XCRS: "KVM_CAP_XCRS",
    abi.CAP_GET_TSC_KHZ: "KVM_CAP_GET_TSC_KHZ",
    abi.CAP_IMMEDIATE_EXIT: "KVM_CAP_IMMEDIATE_EXIT",
}


class KvmSystem(KvmFd):
    """An open /dev/kvm. Raises HostError that says what to do if it cannot be used."""

    def __init__(self, device: str = DEVICE) -> None:
        super().__init__(_open(device))
        try:
            self._check()
        except HostError:
            self.close()
            raise

    def _check(self) -> None:
        version = self._ioctl(abi.GET_API_VERSION)
        if version != abi.API_VERSION:
            raise HostError(f"KVM has API version {version}, but {abi.API_VERSION} is needed; update the kernel")
        missing = [name for capability, name in REQUIRED.items() if not self.check_extension(capability)]
        if missing:
            raise HostError(f"this kernel's KVM lacks {', '.join(missing)}; use Linux 4.13 or later")

    def check_extension(self, capability: int) -> int:
        """Return what KVM says of a capability: 0 if it is absent (KVM_CHECK_EXTENSION)."""
        return self._ioctl(abi.CHECK_EXTENSION, capability)

    def create_vm(self) -> KvmVm:
        """Return a new VM (KVM_CREATE_VM)."""
        return KvmVm(self._ioctl(abi.CREATE_VM), self.vcpu_mmap_size())

    def vcpu_mmap_size(self) -> int:
        """Return the size in bytes of a vCPU's struct kvm_run (KVM_GET_VCPU_MMAP_SIZE)."""
        return self._ioctl(abi.GET_VCPU_MMAP_SIZE)

    def supported_cpuid(self) -> abi.Cpuid:
        """Return all CPUID entries that KVM can give a guest (KVM_GET_SUPPORTED_CPUID)."""
        cpuid = abi.Cpuid(nent=abi.MAX_CPUID_ENTRIES)
        self._ioctl(abi.GET_SUPPORTED_CPUID, cpuid)
        return cpuid

    def msr_indices(self) -> list[int]:
        """Return the MSRs that make up a vCPU's state (KVM_GET_MSR_INDEX_LIST)."""
        msrs = abi.MsrList(nmsrs=abi.MAX_MSRS)
        self._ioctl(abi.GET_MSR_INDEX_LIST, msrs)
        return list(msrs.indices[: msrs.nmsrs])


def _open(device: str) -> int:
    try:
        return os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise HostError(
            f"{device} does not exist: load the kvm_intel or kvm_amd module, or enable virtualization",
            error.errno,
        ) from error
    except PermissionError as error:
        raise HostError(f"{device} is not permitted: add this user to the group 'kvm'", error.errno) from error
    except OSError as error:
        raise HostError(f"{device} cannot be opened: {error.strerror}", error.errno) from error
