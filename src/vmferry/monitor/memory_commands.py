"""The commands that show guest memory (QEMU `qapi/machine.json`)."""

from msgspec import UNSET, UnsetType

from vmferry.monitor.qapi import QapiStruct
from vmferry.monitor.vm_port import MonitoredVm


class Pmemsave(QapiStruct, frozen=True):
    """`size` bytes from guest physical address `val`."""

    val: int
    size: int
    filename: str


class MemoryInfo(QapiStruct, frozen=True):
    """How much memory the guest has, in bytes."""

    base_memory: int
    plugged_memory: int | UnsetType = UNSET


def pmemsave(vm: MonitoredVm, arguments: Pmemsave) -> None:
    """Write a piece of guest physical memory to a file; consistent only if the guest is stopped."""
    vm.save_memory(arguments.val, arguments.size, arguments.filename)


def query_memory_size_summary(vm: MonitoredVm) -> MemoryInfo:
    """Return how much memory the guest has."""
    return MemoryInfo(base_memory=vm.memory_bytes)
