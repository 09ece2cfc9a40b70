"""Boots ELF images by their PVH entry (Xen `docs/misc/pvh.pandoc`; start info: `arch-x86/hvm/start_info.h`).

The image may come from anywhere: every offset and size in it is checked before it is used.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vmferry.errors import GuestError, UsageError
from vmferry.guests.kvm import abi
from vmferry.guests.kvm.vcpu import KvmVcpu

_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_NOTE_HEADER = struct.Struct("<III")
_ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01\x01"
_MACHINE_X86_64 = 62
_PT_LOAD, _PT_NOTE = 1, 4
_XEN_NOTE = b"Xen\x00"
_PHYS32_ENTRY = 18
_MAX_PROGRAM_HEADERS = 128

_START_INFO = struct.Struct("<IIIIQQQQII")
_START_INFO_MAGIC = 0x336EC578
_MEMORY_MAP_ENTRY = struct.Struct("<QQII")
_RAM = 1

_START_INFO_GPA = 0x6000
_MEMORY_MAP_GPA = 0x6100
_COMMAND_LINE_GPA = 0x7000
MAX_COMMAND_LINE_BYTES = 2048
_LOWEST_LOAD_GPA = 0x10_0000
"""Below 1 MiB lie the boot data and what the image itself wants to put there."""


@dataclass(frozen=True)
class _Segment:
    kind: int
    gpa: int
    data: memoryview
    """The bytes that the file has for it; the rest of its memory is zero."""
    memory_bytes: int


@dataclass(frozen=True)
class KernelImage:
    """An ELF image that can be booted: its segments and its 32-bit entry point."""

    entry: int
    segments: tuple[_Segment, ...]

    @classmethod
    def parse(cls, image: bytes) -> "KernelImage":
        """Return the image. Raises GuestError that says what is wrong with it."""
        segments = tuple(_segments(image))
        notes = [segment.data for segment in segments if segment.kind == _PT_NOTE]
        entries = [entry for data in notes for entry in _pvh_entries(data)]
        if not entries:
            raise GuestError("the kernel has no PVH entry note; build it with CONFIG_PVH or use the stress payload")
        return cls(entries[0], tuple(segment for segment in segments if segment.kind == _PT_LOAD))

    def load(self, ram: memoryview) -> None:
        """Copy the segments into guest RAM. Raises GuestError if they do not fit."""
        for segment in self.segments:
            end = segment.gpa + segment.memory_bytes
            if segment.gpa < _LOWEST_LOAD_GPA or end > len(ram) or len(segment.data) > segment.memory_bytes:
                raise GuestError(
                    f"the kernel wants memory from {segment.gpa:#x} to {end:#x}, "
                    f"usable is {_LOWEST_LOAD_GPA:#x} to {len(ram):#x}; give the guest more memory"
                )
            ram[segment.gpa : segment.gpa + len(segment.data)] = segment.data
            ram[segment.gpa + len(segment.data) : end] = bytes(segment.memory_bytes - len(segment.data))


def write_start_info(ram: memoryview, regions: Sequence[tuple[int, int]], command_line: str) -> None:
    """Put the boot data into low guest memory; `regions` are RAM as (gpa, size in bytes). Raises UsageError."""
    line = command_line.encode() + b"\0"
    if len(line) > MAX_COMMAND_LINE_BYTES:
        raise UsageError(
            f"the kernel's command line has {len(line) - 1} bytes, {MAX_COMMAND_LINE_BYTES - 1} are allowed"
        )
    ram[_COMMAND_LINE_GPA : _COMMAND_LINE_GPA + len(line)] = line
    for number, (gpa, size_bytes) in enumerate(regions):
        at = _MEMORY_MAP_GPA + number * _MEMORY_MAP_ENTRY.size
        _MEMORY_MAP_ENTRY.pack_into(ram, at, gpa, size_bytes, _RAM, 0)
    _START_INFO.pack_into(
        ram, _START_INFO_GPA, _START_INFO_MAGIC, 1, 0, 0, 0, _COMMAND_LINE_GPA, 0, _MEMORY_MAP_GPA, len(regions), 0
    )  # fmt: skip


def set_entry_state(vcpu: KvmVcpu, entry: int) -> None:
    """Put the boot vCPU into the state that PVH asks for: flat 32-bit protected mode, paging off."""
    sregs = abi.Sregs.from_buffer_copy(vcpu.get(abi.GET_SREGS))
    sregs.cs = _flat_segment(selector=8, kind=11)
    for name in ("ds", "es", "fs", "gs", "ss"):
        setattr(sregs, name, _flat_segment(selector=16, kind=3))
    sregs.tr = abi.Segment(limit=0x67, selector=24, type=11, present=1)
    sregs.cr0 = 1  # PE
    sregs.cr4 = sregs.efer = 0
    vcpu.set(abi.SET_SREGS, bytes(sregs))
    vcpu.set(abi.SET_REGS, bytes(abi.Regs(rip=entry, rbx=_START_INFO_GPA, rflags=2)))


def _flat_segment(selector: int, kind: int) -> abi.Segment:
    return abi.Segment(limit=0xFFFF_FFFF, selector=selector, type=kind, present=1, db=1, s=1, g=1)


def _segments(image: bytes) -> Iterator[_Segment]:
    """Yield what is to be loaded, and the notes."""
    if len(image) < _ELF_HEADER.size or not image.startswith(_ELF64_LITTLE_ENDIAN):
        raise GuestError("the kernel is not a 64-bit little-endian ELF file")
    header = _ELF_HEADER.unpack_from(image)
    machine, table, entry_bytes, count = header[2], header[5], header[9], header[10]
    if machine != _MACHINE_X86_64:
        raise GuestError(f"the kernel is for ELF machine {machine}, not for x86-64 ({_MACHINE_X86_64})")
    if entry_bytes != _PROGRAM_HEADER.size or not 0 < count <= _MAX_PROGRAM_HEADERS:
        raise GuestError(f"the kernel has {count} program headers of {entry_bytes} bytes, which is no valid ELF file")
    if table + count * entry_bytes > len(image):
        raise GuestError("the kernel's ELF file is cut off within its program headers")
    for number in range(count):
        kind, _, offset, _, gpa, file_bytes, memory_bytes, _ = _PROGRAM_HEADER.unpack_from(
            image, table + number * entry_bytes
        )
        if kind not in (_PT_LOAD, _PT_NOTE):
            continue
        if offset + file_bytes > len(image):
            raise GuestError("the kernel's ELF file is cut off within a segment")
        yield _Segment(kind, gpa, memoryview(image)[offset : offset + file_bytes], memory_bytes)


def _pvh_entries(notes: memoryview) -> Iterator[int]:
    """Yield the PVH entry points in a notes segment."""
    at = 0
    while at + _NOTE_HEADER.size <= len(notes):
        name_bytes, value_bytes, kind = _NOTE_HEADER.unpack_from(notes, at)
        name_at = at + _NOTE_HEADER.size
        value_at = name_at + (name_bytes + 3 & ~3)
        at = value_at + (value_bytes + 3 & ~3)
        value = notes[value_at : value_at + value_bytes]
        if kind == _PHYS32_ENTRY and notes[name_at : name_at + name_bytes] == _XEN_NOTE and len(value) >= 4:
            yield int.from_bytes(value[:4], "little")
