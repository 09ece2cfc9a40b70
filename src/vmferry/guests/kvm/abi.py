"""KVM's numbers and structures (Linux `include/uapi/linux/kvm.h`, `arch/x86/include/uapi/asm/kvm.h`)."""

import ctypes
from typing import ClassVar

_TYPE = 0xAE
_WRITE, _READ = 1, 2


def _io(number: int) -> int:
    return _TYPE << 8 | number


def _ior(number: int, size: int) -> int:
    return _READ << 30 | size << 16 | _io(number)


def _iow(number: int, size: int) -> int:
    return _WRITE << 30 | size << 16 | _io(number)


def _iowr(number: int, size: int) -> int:
    return (_READ | _WRITE) << 30 | size << 16 | _io(number)


def size_of(request: int) -> int:
    """Return the size in bytes of the structure that an ioctl takes or gives."""
    return request >> 16 & 0x3FFF


class _Structure(ctypes.Structure):
    _fields_: ClassVar[list[tuple[str, type]]] = []


class UserspaceMemoryRegion(_Structure):
    """struct kvm_userspace_memory_region."""

    _fields_: ClassVar = [
        ("slot", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("guest_phys_addr", ctypes.c_uint64),
        ("memory_size", ctypes.c_uint64),
        ("userspace_addr", ctypes.c_uint64),
    ]


class GetDirtyLog(_Structure):
    """struct kvm_dirty_log."""

    _fields_: ClassVar = [
        ("slot", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("dirty_bitmap", ctypes.c_uint64),
    ]


class ClearDirtyLog(_Structure):
    """struct kvm_clear_dirty_log."""

    _fields_: ClassVar = [
        ("slot", ctypes.c_uint32),
        ("num_pages", ctypes.c_uint32),
        ("first_page", ctypes.c_uint64),
        ("dirty_bitmap", ctypes.c_uint64),
    ]


class EnableCap(_Structure):
    """struct kvm_enable_cap."""

    _fields_: ClassVar = [
        ("cap", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("args", ctypes.c_uint64 * 4),
        ("pad", ctypes.c_uint8 * 64),
    ]


class CpuidEntry(_Structure):
    """struct kvm_cpuid_entry2."""

    _fields_: ClassVar = [
        ("function", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("eax", ctypes.c_uint32),
        ("ebx", ctypes.c_uint32),
        ("ecx", ctypes.c_uint32),
        ("edx", ctypes.c_uint32),
        ("padding", ctypes.c_uint32 * 3),
    ]


MAX_CPUID_ENTRIES = 256


class Cpuid(_Structure):
    """struct kvm_cpuid2 with room for MAX_CPUID_ENTRIES."""

    _fields_: ClassVar = [
        ("nent", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("entries", CpuidEntry * MAX_CPUID_ENTRIES),
    ]


class Regs(_Structure):
    """struct kvm_regs."""

    _fields_: ClassVar = [
        (name, ctypes.c_uint64)
        for name in (
            "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp",
            "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags",
        )
    ]  # fmt: skip


class Segment(_Structure):
    """struct kvm_segment."""

    _fields_: ClassVar = [
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("selector", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("present", ctypes.c_uint8),
        ("dpl", ctypes.c_uint8),
        ("db", ctypes.c_uint8),
        ("s", ctypes.c_uint8),
        ("l", ctypes.c_uint8),
        ("g", ctypes.c_uint8),
        ("avl", ctypes.c_uint8),
        ("unusable", ctypes.c_uint8),
        ("padding", ctypes.c_uint8),
    ]


class DescriptorTable(_Structure):
    """struct kvm_dtable."""

    _fields_: ClassVar = [
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint16),
        ("padding", ctypes.c_uint16 * 3),
    ]


class Sregs(_Structure):
    """struct kvm_sregs."""

    _fields_: ClassVar = [
        *((name, Segment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        *((name, DescriptorTable) for name in ("gdt", "idt")),
        *((name, ctypes.c_uint64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", ctypes.c_uint64 * 4),
    ]


class Msr(_Structure):
    """struct kvm_msr_entry."""

    _fields_: ClassVar = [
        ("index", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("data", ctypes.c_uint64),
    ]


MAX_MSRS = 1024


class Msrs(_Structure):
    """struct kvm_msrs with room for MAX_MSRS."""

    _fields_: ClassVar = [
        ("nmsrs", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("entries", Msr * MAX_MSRS),
    ]


class MsrList(_Structure):
    """struct kvm_msr_list with room for MAX_MSRS."""

    _fields_: ClassVar = [("nmsrs", ctypes.c_uint32), ("indices", ctypes.c_uint32 * MAX_MSRS)]


class PitConfig(_Structure):
    """struct kvm_pit_config."""

    _fields_: ClassVar = [("flags", ctypes.c_uint32), ("pad", ctypes.c_uint32 * 15)]


API_VERSION = 12
MEM_LOG_DIRTY_PAGES = 1
PIT_SPEAKER_DUMMY = 1
DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1

# Capabilities

CAP_IRQCHIP = 0
CAP_USER_MEMORY = 3
CAP_PIT2 = 33
CAP_PIT_STATE2 = 35
CAP_ADJUST_CLOCK = 39
CAP_VCPU_EVENTS = 41
CAP_DEBUGREGS = 50
CAP_XSAVE = 55
CAP_XCRS = 56
CAP_GET_TSC_KHZ = 61
CAP_IMMEDIATE_EXIT = 136
CAP_MANUAL_DIRTY_LOG_PROTECT2 = 168

# System ioctls

GET_API_VERSION = _io(0x00)
CREATE_VM = _io(0x01)
GET_MSR_INDEX_LIST = _iowr(0x02, 4)
CHECK_EXTENSION = _io(0x03)
GET_VCPU_MMAP_SIZE = _io(0x04)
GET_SUPPORTED_CPUID = _iowr(0x05, 8)

# VM ioctls

CREATE_VCPU = _io(0x41)
GET_DIRTY_LOG = _iow(0x42, ctypes.sizeof(GetDirtyLog))
SET_USER_MEMORY_REGION = _iow(0x46, ctypes.sizeof(UserspaceMemoryRegion))
SET_TSS_ADDR = _io(0x47)
SET_IDENTITY_MAP_ADDR = _iow(0x48, 8)
CREATE_IRQCHIP = _io(0x60)
GET_IRQCHIP = _iowr(0x62, 520)
SET_IRQCHIP = _ior(0x63, 520)
CREATE_PIT2 = _iow(0x77, ctypes.sizeof(PitConfig))
SET_CLOCK = _iow(0x7B, 48)
GET_CLOCK = _ior(0x7C, 48)
GET_PIT2 = _ior(0x9F, 112)
SET_PIT2 = _iow(0xA0, 112)
ENABLE_CAP = _iow(0xA3, ctypes.sizeof(EnableCap))
CLEAR_DIRTY_LOG = _iowr(0xC0, ctypes.sizeof(ClearDirtyLog))

# vCPU ioctls

RUN = _io(0x80)
GET_REGS = _ior(0x81, ctypes.sizeof(Regs))
SET_REGS = _iow(0x82, ctypes.sizeof(Regs))
GET_SREGS = _ior(0x83, ctypes.sizeof(Sregs))
SET_SREGS = _iow(0x84, ctypes.sizeof(Sregs))
GET_MSRS = _iowr(0x88, 8)
SET_MSRS = _iow(0x89, 8)
GET_LAPIC = _ior(0x8E, 1024)
SET_LAPIC = _iow(0x8F, 1024)
SET_CPUID2 = _iow(0x90, 8)
GET_MP_STATE = _ior(0x98, 4)
SET_MP_STATE = _iow(0x99, 4)
GET_VCPU_EVENTS = _ior(0x9F, 64)
SET_VCPU_EVENTS = _iow(0xA0, 64)
GET_DEBUGREGS = _ior(0xA1, 128)
SET_DEBUGREGS = _iow(0xA2, 128)
SET_TSC_KHZ = _io(0xA2)
GET_TSC_KHZ = _io(0xA3)
GET_XSAVE = _ior(0xA4, 4096)
SET_XSAVE = _iow(0xA5, 4096)
GET_XCRS = _ior(0xA6, 392)
SET_XCRS = _iow(0xA7, 392)

# struct kvm_run

RUN_IMMEDIATE_EXIT = 1
RUN_EXIT_REASON = 8
RUN_EXIT_DATA = 32
EXIT_IO = 2
EXIT_MMIO = 6
EXIT_SHUTDOWN = 8
EXIT_FAIL_ENTRY = 9
EXIT_INTR = 10
EXIT_INTERNAL_ERROR = 17
IO_IN = 0


def name_of(request: int) -> str:
    """Return the kernel's name of an ioctl of this module."""
    return next(f"KVM_{name}" for name, value in globals().items() if name.isupper() and value == request)
